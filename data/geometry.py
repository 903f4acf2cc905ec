"""Plane geometry of the generator: smooth curves, their offsets, and exact tests between oriented boxes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SPACING = 0.5
"""Metres between two points of a curve while a map is being built."""


def unit(heading: Array | float) -> Array:
    """Direction vector(s) of heading(s)."""
    return np.stack([np.cos(heading), np.sin(heading)], axis=-1)


def wrap(angle: Array) -> Array:
    """The same angles in [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def rigid(points: Array, rotation: float, translation: Array) -> Array:
    """Points rotated about the origin, then moved."""
    cos, sin = np.cos(rotation), np.sin(rotation)
    turned: Array = points @ np.array([[cos, sin], [-sin, cos]])
    return turned + translation


def arc_length(points: Array) -> Array:
    """Distance along a polyline at each of its points, from 0."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    return np.concatenate([[0.0], np.cumsum(steps)])


def tangent(points: Array) -> Array:
    """Continuous (unwrapped) heading at each point of a curve."""
    derivative = np.gradient(points, arc_length(points), axis=0, edge_order=2)
    return np.unwrap(np.arctan2(derivative[:, 1], derivative[:, 0]))


def resample(points: Array, spacing: float) -> Array:
    """The curve at (nearly) even spacing, both ends kept."""
    s = arc_length(points)
    targets = np.linspace(0.0, s[-1], max(2, round(s[-1] / spacing) + 1))
    return np.stack([np.interp(targets, s, column) for column in points.T], axis=-1)


def offset(points: Array, distance: Array | float) -> Array:
    """The curve moved sideways, positive to its left."""
    normal = unit(tangent(points) + np.pi / 2)
    moved: Array = points + normal * np.broadcast_to(distance, len(points))[:, None]
    return moved


def integrate(curvature: Array, heading: float = 0.0) -> Array:
    """Curve from the origin with the given curvature at every ``SPACING`` metres (trapezoidal rule)."""
    middle = (curvature[1:] + curvature[:-1]) / 2
    headings = heading + SPACING * np.concatenate([[0.0], np.cumsum(middle)])
    steps = SPACING * unit((headings[1:] + headings[:-1]) / 2)
    return np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])


def blend(start: Array, end: Array) -> Array:
    """Smooth connection from the end of one curve to the start of another.

    A quintic Bezier curve whose first three and last three control points are each on a line, so that direction and
    (zero) curvature are continuous at both joints.
    """
    p, q = start[-1], end[0]
    reach = 0.28 * float(np.hypot(*(q - p)))
    t, u = unit(tangent(start)[-1]), unit(tangent(end)[0])
    control = np.stack([p, p + reach * t, p + 2 * reach * t, q - 2 * reach * u, q - reach * u, q])
    x = np.linspace(0.0, 1.0, 200)[:, None]
    weights = np.array([1, 5, 10, 10, 5, 1]) * x ** np.arange(6) * (1 - x) ** np.arange(5, -1, -1)
    return resample(weights @ control, SPACING)


def join(*curves: Array) -> Array:
    """Curves that meet end to end as one, without the doubled points."""
    return np.concatenate([curves[0], *(curve[1:] for curve in curves[1:])])


@dataclass(frozen=True, eq=False)
class Path:
    """A curve that can be driven: position, heading and curvature as functions of the distance along it."""

    points: Array
    s: Array
    heading: Array
    curvature: Array

    @staticmethod
    def through(points: Array) -> Path:
        """The path along a polyline."""
        points = resample(points, SPACING)
        s, heading = arc_length(points), tangent(points)
        return Path(points, s, heading, np.gradient(heading, s))

    @property
    def length(self) -> float:
        """Metres from end to end."""
        return float(self.s[-1])

    def position(self, s: Array) -> Array:
        """Point(s) at a distance along the path."""
        return np.stack([np.interp(s, self.s, column) for column in self.points.T], axis=-1)

    def direction(self, s: Array) -> Array:
        """Unwrapped heading(s) at a distance along the path."""
        return np.interp(s, self.s, self.heading)


def corners(position: Array, heading: Array, size: Array) -> Array:
    """Corners [..., 4, 2] of boxes, counter-clockwise from the front left; size is [..., 2] length and width."""
    along = unit(heading) * size[..., :1] / 2
    across = unit(heading + np.pi / 2) * size[..., 1:2] / 2
    return position[..., None, :] + np.stack([along + across, across - along, -along - across, along - across], axis=-2)


def boxes_overlap(a: Array, b: Array) -> NDArray[np.bool_]:
    """Whether boxes given as corners [..., 4, 2] overlap (separating axis theorem)."""
    separated = np.zeros(a.shape[:-2], dtype=bool)
    for box in (a, b):
        for axis in (box[..., 0, :] - box[..., 1, :], box[..., 1, :] - box[..., 2, :]):
            on_a, on_b = (np.einsum("...ki,...i->...k", each, axis) for each in (a, b))
            separated |= (on_a.max(-1) < on_b.min(-1)) | (on_b.max(-1) < on_a.min(-1))
    return ~separated


def box_crosses_segment(position: Array, heading: Array, size: Array, start: Array, end: Array) -> NDArray[np.bool_]:
    """Whether a segment touches a box, elementwise (slab clipping in the frame of the box)."""
    first, last = np.zeros(len(position)), np.ones(len(position))
    for angle, extent in ((heading, size[:, 0] / 2), (heading + np.pi / 2, size[:, 1] / 2)):
        axis = unit(angle)
        origin = ((start - position) * axis).sum(-1)
        step = ((end - start) * axis).sum(-1)
        step = np.where(np.abs(step) < 1e-12, 1e-12, step)
        near, far = (-extent - origin) / step, (extent - origin) / step
        first = np.maximum(first, np.minimum(near, far))
        last = np.minimum(last, np.maximum(near, far))
    return first <= last
