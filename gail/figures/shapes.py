"""Shapes that maps and agents are drawn with, as arrays of corners; nothing here draws."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


def disc(points: int) -> NDArray[np.float64]:
    """[P, 2] on a circle of radius 1."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


BOX = np.array([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, 0.5]])
"""[4, 2] of length and width 1."""


def placed(shape: NDArray[np.floating], state: NDArray[np.float32], size: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N, P, 2] a shape [P, 2] of length and width 1 at states [N, 5] (or x, y, heading) with sizes [N, 2 or 3]."""
    c, s = np.cos(state[:, 2, None]), np.sin(state[:, 2, None])
    along, across = shape[:, 0] * size[:, :1], shape[:, 1] * size[:, 1:2]
    turned = np.stack([c * along - s * across, s * along + c * across], axis=-1)
    return np.asarray(state[:, None, :2] + turned, np.float32)


def polylines(segment: NDArray[np.float32], road: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Lines [P, 2] through segments [S, 5] that follow each other on one road [S]."""
    reach = segment[:, 2:3] * np.stack([np.cos(segment[:, 4]), np.sin(segment[:, 4])], axis=1)
    start, end = segment[:, :2] - reach, segment[:, :2] + reach
    apart = np.abs(start[1:] - end[:-1]).max(axis=1, initial=0.0) > 0.05
    cuts = np.flatnonzero(apart | (road[1:] != road[:-1])) + 1
    bounds = pairwise(sorted({0, *cuts.tolist(), len(segment)}))
    return [np.concatenate([start[a:b], end[b - 1 : b]]) for a, b in bounds]


def stripes(segment: NDArray[np.float32], period: float, slant: float) -> NDArray[np.float32]:
    """[K, 4, 2] bars across boxes [S, 5].

    Args:
        segment: the boxes.
        period: m from bar to bar, twice a bar's width; stretched so that a whole number fits.
        slant: how far a bar leans, in periods.
    """
    low, high = -0.25 - slant / 2, 0.25 - slant / 2
    bar = np.array([[low, -0.5], [high, -0.5], [high + slant, 0.5], [low + slant, 0.5]])
    bars = [np.zeros((0, 4, 2), np.float32)]
    for box in segment:
        count = max(int(2 * box[2] / period), 1)
        middles = (np.arange(count) + 0.5) / count - 0.5
        shape = (bar * [1 / count, 1] + middles[:, None, None] * [1, 0]).reshape(-1, 2)
        bars.append(placed(shape, box[None, [0, 1, 4]], 2 * box[None, 2:4]).reshape(-1, 4, 2))
    return np.concatenate(bars)
