"""Heights in kernels: how high an agent is, and what is on its level.

A simulated agent has no height of its own: it is as high as its log was where it came nearest, so that height follows
from the place alone, for experts, policies and logs alike.
"""

# Warp reads annotations at run time, so this module must not postpone them.
import torch

from gail_cli.sim.geometry import Box
from gail_cli.sim.launch import launch, to_warp, wp
from gail_cli.sim.roads import Segment, along_segment
from gail_cli.sim.worlds import WorldArrays, Worlds

LEVEL = wp.constant(wp.float32(2.4))
"""What is farther above or below the ground than this is on another level, m: half of the 4.9 m (16 feet) of clearance
that bridges over main roads have (AASHTO, A Policy on Geometric Design of Highways and Streets)."""
_LEAST_HEIGHT = wp.constant(wp.float32(1.0))
"""Boxes are taken to be this high at least, m, also where the log does not tell."""
STRETCH = wp.constant(wp.float32(3.0))
"""How many times heights count when the nearest road edge is chosen (Waymo's metrics)."""


# Written in C++, since on plain pointers it takes a third of the time, and observations ask it of everybody in sight.
@wp.func_native("""
    const float* p = log.data + 5 * first;
    const bool* there = valid.data;
    float nearest = 1.0e30f, found = 0.0f;
    for (int row = first; row < last; ++row, p += 5) {
        const float dx = p[0] - x, dy = p[1] - y;
        const float d = dx * dx + dy * dy;
        if (d < nearest && there[row]) {
            nearest = d;
            found = z.data[row];
        }
    }
    return found;
""")
def _nearest_height(  # type: ignore[empty-body]
    log: wp.array2d(dtype=wp.float32), z: wp.array(dtype=wp.float32), valid: wp.array(dtype=wp.bool),
    first: int, last: int, x: float, y: float,
) -> float:  # fmt: skip
    """Of rows first .. last-1 of a log the height where it is nearest to a place."""
    ...


@wp.func
def height_at(w: WorldArrays, i: int, x: float, y: float) -> float:
    """Height (m) of the middle of agent ``i`` at a place: that of its log where it was nearest."""
    return _nearest_height(w.log, w.log_z, w.valid, i * w.steps, (i + 1) * w.steps, x, y)


@wp.func
def meets(w: WorldArrays, i: int, me: Box, j: int, there: wp.vec2) -> bool:
    """Whether the boxes of two agents are at the same height: ``i`` where ``me`` is, ``j`` ``there``."""
    return same_level(w, i, height_at(w, i, me.x, me.y), j, height_at(w, j, there[0], there[1]))


@wp.func
def same_level(w: WorldArrays, i: int, z: float, j: int, other_z: float) -> bool:
    """Whether the boxes of two agents overlap in height, with their middles at these heights."""
    return wp.abs(z - other_z) <= least_apart(w, i, j)


@wp.func
def least_apart(w: WorldArrays, i: int, j: int) -> float:
    """How far apart the middles of two agents' boxes are, one above the other, m."""
    return 0.5 * (wp.max(w.size[i, 2], _LEAST_HEIGHT) + wp.max(w.size[j, 2], _LEAST_HEIGHT))


@wp.func
def meets_segment(w: WorldArrays, i: int, me: Box, k: int) -> bool:
    """Whether segment ``k`` is on the level that agent ``i`` drives on where ``me`` is."""
    ground = height_at(w, i, me.x, me.y) - w.lift[i]
    z = height_of(w.segment[k], w.segment_z[k, 0], w.segment_z[k, 1], along_segment(w.segment[k], me.x, me.y))
    return wp.abs(z - ground) <= LEVEL


@wp.func
def height_of(s: Segment, begin: float, end: float, along: float) -> float:
    """Height of a segment at an arc length from its midpoint, from those of its ends."""
    return 0.5 * (begin + end) + (end - begin) * wp.where(s[2] > 0.0, 0.5 * along / s[2], 0.0)


@wp.func
def offset(w: WorldArrays, k: int, p: wp.vec3, stretch: float) -> wp.vec2:
    """Squared distance of a point to segment ``k`` in the plane, and in space with heights times ``stretch``."""
    s = w.segment[k]
    along = along_segment(s, p[0], p[1])
    dx = p[0] - s[0] - along * s[5]
    dy = p[1] - s[1] - along * s[6]
    dz = stretch * (p[2] - height_of(s, w.segment_z[k, 0], w.segment_z[k, 1], along))
    flat = dx * dx + dy * dy
    return wp.vec2(flat, flat + dz * dz)


@wp.func
def nearer_edge(best: wp.vec3, w: WorldArrays, k: int, p: wp.vec3, stretch: float) -> wp.vec3:
    """The nearer of the best edge so far and segment ``k``: squared distance from a point with heights ``stretch``
    times as large, without heights, and how far the point lies to the right of the edge's line.

    Where two segments meet in the nearest point, the one decides from whose line the point is farther away.
    """
    s = w.segment[k]
    square = offset(w, k, p, stretch)
    flat = square[0]
    d = square[1]
    right = (p[0] - s[0]) * s[6] - (p[1] - s[1]) * s[5]
    slack = 1.0e-4 * d + 1.0e-6
    result = best
    if d < best[0] - slack or (d < best[0] + slack and wp.abs(right) > wp.abs(best[2])):
        result = wp.vec3(wp.min(d, best[0]), wp.min(flat, wp.where(d < best[0] - slack, flat, best[1])), right)
    return result


@wp.func
def signed_distance(best: wp.vec3) -> float:
    """Of what :func:`nearer_edge` found, m; positive on the right."""
    return wp.where(best[2] > 0.0, wp.sqrt(best[1]), -wp.sqrt(best[1]))


@wp.kernel(enable_backward=False)
def _heights(
    first: int,
    part: int,
    w: WorldArrays,
    steps: int,
    track: wp.array2d(dtype=wp.float32),
    z: wp.array(dtype=wp.float32),
):
    row = first + wp.tid()
    z[row] = height_at(w, row / steps, track[row, 0], track[row, 1])


def heights(worlds: Worlds, track: torch.Tensor) -> torch.Tensor:
    """Heights [M, T] of the middles of all agents' boxes along their tracks [M, T, 5], above each scene's ``origin_z``,
    m; 0 where heights are not known."""
    z = torch.empty(track.shape[:2], device=worlds.device)
    inputs = [worlds.arrays(), track.shape[1], to_warp(track.reshape(-1, 5).contiguous()), to_warp(z.view(-1))]
    launch(_heights, z.numel(), inputs, worlds.device)
    return z
