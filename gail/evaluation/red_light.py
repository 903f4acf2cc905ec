"""Who runs a red light, from tracks: the rule of the challenge's scorer (waymo-open-dataset 1.6.7).

A vehicle does where it passes the stop point of the lane it is in, while that lane's light says stop. What it passes is
the place of the stop point along the lane's segment that is nearest to it; it is behind that place at one step and
beyond at the next.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.lights import SURFACE_STREET
from gail_cli.sim.scenario import LightState, RoadType
from gail_cli.sim.scene import Scene

STOP_STATES = (LightState.STOP, LightState.ARROW_STOP)
"""A flashing stop is no red light."""


@dataclass(frozen=True, eq=False)
class Lanes:
    """S segments of lane centres, in m, those of one lane one after the other."""

    start: NDArray[np.float64]
    """[S, 2]."""
    end: NDArray[np.float64]
    """[S, 2]."""
    id: NDArray[np.int64]
    """[S] of the lane."""
    mirrored: bool = False
    """Whether distances are those of the challenge's scorer, which adds the offset along a segment where it should be
    taken away. In lanes with a point every half a metre that matters little; in simplified ones it does."""


@dataclass(frozen=True, eq=False)
class Signals:
    """L lights over T steps."""

    lane: NDArray[np.int64]
    """[L] id of the lane."""
    stops: NDArray[np.bool_]
    """[L, T] it says stop."""
    stop_point: NDArray[np.float64]
    """[L, T, 2] m."""

    def until(self, step: int) -> Signals:
        """The first steps of them."""
        return Signals(self.lane, self.stops[:, :step], self.stop_point[:, :step])


def lanes_of(scene: Scene, padding: NDArray[np.float64] | None = None) -> Lanes:
    """The lane centres of a scene.

    Args:
        scene: with its map.
        padding: [2] where the challenge's scorer puts the points with which it fills up shorter lanes (the origin of
            the file's coordinates), so that a segment leads there from their ends; distances are mirrored then.
    """
    rows = (scene.segment_type == RoadType.LANE) & (scene.segment_map_type == SURFACE_STREET)
    x, y, half, _, heading = scene.segment[rows].astype(np.float64).T
    ahead = half[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    middle, lane = np.stack([x, y], axis=1), scene.segment_road[rows]
    start, end = middle - ahead, middle + ahead
    if padding is None or not len(lane):
        return Lanes(start, end, lane, padding is not None)
    last = np.flatnonzero(np.append(lane[1:] != lane[:-1], True))
    length = np.diff(last, prepend=-1)
    short = last[length < length.max()]
    place = short + 1
    start = np.insert(start, place, end[short], axis=0)
    end = np.insert(end, place, padding, axis=0)
    return Lanes(start, end, np.insert(lane, place, lane[short]), True)


def signals_of(scene: Scene) -> Signals:
    """The lights of a scene; a light keeps its stop point while it is not seen."""
    stops = np.isin(scene.light_state, STOP_STATES)
    points = np.repeat(scene.light_stop_point.astype(np.float64)[:, None], stops.shape[1], axis=1)
    return Signals(scene.light_lane, stops, points)


def runs_red_light(xy: NDArray[np.floating], lanes: Lanes, signals: Signals) -> NDArray[np.bool_]:
    """[N, T] whether each of N vehicles runs a red light at a step: never at the first one.

    Args:
        xy: [N, T, 2] m, their centres.
        lanes: where they are.
        signals: for the same T steps.
    """
    found = np.zeros(xy.shape[:2], np.bool_)
    for lane, stops, points in zip(signals.lane, signals.stops, signals.stop_point, strict=True):
        rows = np.flatnonzero(lanes.id == lane)
        if not len(rows) or not stops.any():
            continue
        places, which = np.unique(points, axis=0, return_inverse=True)
        segment = rows[_nearest(places, lanes, rows)][which.reshape(-1)]
        start, ahead = lanes.start[segment], lanes.end[segment] - lanes.start[segment]
        stop = ((points - start) * ahead).sum(axis=-1)
        place = ((xy - start) * ahead).sum(axis=-1)
        crossed = (place[:, :-1] < stop[:-1]) & (place[:, 1:] > stop[1:]) & stops[1:] & ~found[:, 1:]
        agent, step = np.nonzero(crossed)
        if len(agent):
            within = lanes.id[_nearest(xy[agent, step + 1].astype(np.float64), lanes, np.arange(len(lanes.id)))]
            found[agent, step + 1] |= within == lane
    return found


def _nearest(points: NDArray[np.float64], lanes: Lanes, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[P] which of some segments is nearest to each point; of equal ones the first."""
    start, ahead = lanes.start[rows], lanes.end[rows] - lanes.start[rows]
    square = (ahead**2).sum(axis=-1)
    nearest = np.zeros(len(points), np.int64)
    sign = 1.0 if lanes.mirrored else -1.0
    for k, point in enumerate(points):
        offset = point - start
        share = np.clip((offset * ahead).sum(axis=-1) / np.where(square > 0, square, 1.0), 0.0, 1.0)
        nearest[k] = ((offset + sign * share[:, None] * ahead) ** 2).sum(axis=-1).argmin()
    return nearest
