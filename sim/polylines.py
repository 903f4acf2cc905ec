"""What GPUDrive does with the points of a log, as Warp kernels: their running mean, and polylines of fewer points."""

# Warp reads annotations at run time, so this module must not postpone them.
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.launch import wp


@wp.kernel(enable_backward=False)
def _running_mean(points: wp.array2d(dtype=wp.float32), mean: wp.array(dtype=wp.float32)):
    axis = wp.tid()
    m = float(0.0)
    for k in range(points.shape[0]):
        m += (points[k, axis] - m) / float(k + 1)
    mean[axis] = m


def running_mean(points: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean [2] of points [P, 2] as GPUDrive adds it up, in float32 and one after the other."""
    mean = wp.zeros(2, dtype=wp.float32, device="cpu")
    wp.launch(_running_mean, dim=2, inputs=[wp.array(points, device="cpu"), mean], device="cpu")
    return np.array(mean.numpy())


@wp.kernel(enable_backward=False)
def _simplify(points: wp.array(dtype=wp.vec2), starts: wp.array(dtype=int), area: float, keep: wp.array(dtype=int)):
    """Visvalingam-like sweeps of GPUDrive (src/json_serialization.hpp) over one polyline a thread."""
    p = wp.tid()
    first = starts[p]
    last = starts[p + 1] - 1
    changed = int(1)
    while changed == 1:
        changed = int(0)
        k = int(first)
        while k < last:
            k1 = int(k + 1)
            while k1 < last and keep[k1] == 0:
                k1 += 1
            if k1 >= last:
                break
            k2 = int(k1 + 1)
            while k2 < last and keep[k2] == 0:
                k2 += 1
            a = points[k]
            b = points[k1]
            c = points[k2]
            twice = wp.abs((b[0] - a[0]) * (c[1] - a[1]) - (c[0] - a[0]) * (b[1] - a[1]))
            if 0.5 * twice < area:
                keep[k1] = 0
                changed = int(1)
                k = k2
            else:
                k = k1


def kept_points(polylines: list[NDArray[np.float32]], area: float) -> list[NDArray[np.bool_]]:
    """Which points [P] of each polyline [P, 2] stay: the others bend it by a triangle smaller than ``area``, m^2."""
    starts = np.concatenate([[0], np.cumsum([len(p) for p in polylines])]).astype(np.int32)
    keep = wp.array(np.ones(starts[-1], np.int32), device="cpu")
    points = wp.array(np.concatenate(polylines), dtype=wp.vec2, device="cpu")
    inputs = [points, wp.array(starts, device="cpu"), area, keep]
    wp.launch(_simplify, dim=len(polylines), inputs=inputs, device="cpu")
    kept = keep.numpy().astype(np.bool_)
    return [kept[a:b] for a, b in pairwise(starts)]
