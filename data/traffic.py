"""Drivers: car following by the intelligent driver model, right of way, and speeds that suit the bends.

The intelligent driver model is M. Treiber, A. Hennecke, D. Helbing, "Congested traffic states in empirical observations
and microscopic simulations", Physical Review E 62, 1805 (2000), https://arxiv.org/abs/cond-mat/0002177.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gail_cli.data.geometry import Array, Path, unit
from gail_cli.data.roads import Control, RoadMap, Route, conflicts
from gail_cli.sim.scenario import DT

Mask = NDArray[np.bool_]
MAX_BRAKE = 3.8
"""Hardest braking, m/s²."""
MAX_JERK = 8.0
"""Fastest change of acceleration, m/s³."""
_LOOK_AHEAD = np.arange(0, 2 * 75, 2)
"""Path points that are searched for a leader: every metre or so, 75 m ahead."""
_STAND = 2.0
"""Gap between standing vehicles, m."""
_GAP_AT_LINE = 1.5
"""Metres by which that gap is shorter at a stop line."""


@dataclass(frozen=True, eq=False)
class Fleet:
    """The drivers of a scene; every array is [A]."""

    route: NDArray[np.int64]
    s: Array
    """Start of the box centre along the route, m."""
    speed: Array
    """At the start, m/s."""
    length: Array
    width: Array
    pace: Array
    """Wish for speed, as a factor of the limit."""
    headway: Array
    """Time gap to the vehicle ahead, s."""
    accel: Array
    """Largest acceleration, m/s²."""
    brake: Array
    """Comfortable braking, m/s²."""
    lateral: Array
    """Accepted lateral acceleration, m/s²."""
    dwell: Array
    """Time at a stop sign, s."""
    sway: Array
    """[A, 2] period in s and phase of the slow swing of the speed wish."""
    lull: Array
    """Time at which the driver goes slowly for some seconds, s; infinite for most."""


def idm(
    speed: Array, wish: Array, gap: Array, closing: Array, fleet: Fleet, headway: Array | float | None = None
) -> Array:
    """Acceleration of the intelligent driver model: free road and interaction with what is ahead.

    Two things are added. Who is faster than wished brakes by the comfortable deceleration (times the model's own
    factor, at most 1) rather than by the acceleration of a perhaps weak engine; and nobody brakes harder than
    ``MAX_BRAKE``.
    """
    short = 1 - (speed / np.maximum(wish, 0.1)) ** 4
    free = np.where(short > 0, fleet.accel * short, fleet.brake * np.maximum(short, -1.0))
    time_gap = fleet.headway if headway is None else headway
    desired = _STAND + np.maximum(0.0, speed * time_gap + speed * closing / (2 * np.sqrt(fleet.accel * fleet.brake)))
    interaction = fleet.accel * (desired / np.maximum(gap, 0.1)) ** 2
    return np.asarray(np.maximum(free - interaction, -MAX_BRAKE))


def speed_profile(route: Route, pace: float, lateral: float, brake: float) -> Array:
    """Highest speed at each point of the path that suits the limit, the bend, and the bends to come."""
    bend = np.sqrt(lateral / np.maximum(np.abs(route.path.curvature), 1e-6))
    allowed = np.minimum(route.limit * pace, bend) ** 2 + 2 * brake * route.path.s
    return np.sqrt(np.minimum.accumulate(allowed[::-1])[::-1] - 2 * brake * route.path.s)


class RightOfWay:
    """Decides who waits at a stop line.

    A driver close to the line whose way is free commits to it and is never stopped again; whoever conflicts with a
    committed driver waits until that one is out of the way.
    """

    def __init__(self, road: RoadMap, fleet: Fleet):
        routes = [road.routes[r] for r in fleet.route]
        self._fleet = fleet
        self._signs = road.control is Control.STOP_SIGNS
        self._stop = np.array([route.stop for route in routes])
        self._stream = np.array([route.stream for route in routes])
        self._yields = np.array([route.yields for route in routes])
        self._clear = conflicts(road.routes)[np.ix_(fleet.route, fleet.route)]
        self._waited = np.zeros(len(routes))
        self._committed = self._distance(fleet.s) < 0

    def _distance(self, s: Array) -> Array:
        return self._stop - s - self._fleet.length / 2

    def distance_to_line(self, s: Array, speed: Array, closed: Mask, present: Mask) -> Array:
        """Metres to the stop line for those who must wait at it, infinite for the others. ``closed`` is per agent."""
        distance = self._distance(s)
        self._waited += DT * ((speed < 0.5) & (distance < 4.0))
        arrival = distance / np.maximum(speed, 3.0)
        rear = s - self._fleet.length / 2
        blocked = np.zeros(len(s), dtype=bool)
        for i in np.lexsort((distance, -self._waited)):
            if self._committed[i] or not np.isfinite(distance[i]) or not present[i]:
                continue
            waiting = present & ~self._committed
            rivals = present & ~np.isnan(self._clear[i])
            blocked[i] = closed[i] or (rivals & self._committed & ~(rear > self._clear[i])).any()
            if self._signs:
                blocked[i] |= self._waited[i] < self._fleet.dwell[i]
            elif self._yields[i]:
                blocked[i] |= (rivals & waiting & ~self._yields & ~closed & (arrival < 5.0)).any()
            behind = (waiting & (self._stream == self._stream[i]) & (distance < distance[i])).any()
            near = distance[i] < speed[i] ** 2 / (2 * self._fleet.brake[i]) + 4.0
            self._committed[i] = near and not behind and not blocked[i]
        return np.where(blocked, np.maximum(distance, 0.05), np.inf)


class _Paths:
    """The paths of all drivers as one padded table, for looking ahead without a loop."""

    def __init__(self, paths: list[Path]):
        longest = max(len(path.s) for path in paths) + int(_LOOK_AHEAD[-1]) + 2
        self.points = np.full((len(paths), longest, 2), 1e6)
        self.heading = np.zeros((len(paths), longest))
        for table, headings, path in zip(self.points, self.heading, paths, strict=True):
            table[: len(path.s)], headings[: len(path.s)] = path.points, path.heading
        self.paths = paths
        self.spacing = np.array([path.s[1] for path in paths])  # about SPACING

    def place(self, s: Array) -> tuple[Array, Array]:
        """Positions [A, 2] and headings [A]."""
        positions = np.array([path.position(at) for path, at in zip(self.paths, s, strict=True)])
        return positions, np.array([path.direction(at) for path, at in zip(self.paths, s, strict=True)])

    def leaders(self, s: Array, speed: Array, fleet: Fleet, present: Mask) -> tuple[Array, Array]:
        """Gap to, and closing speed on, the nearest vehicle in each driver's way (infinite gap for none)."""
        count = len(s)
        position, heading = self.place(s)
        along = np.array([-0.5, 0.0, 0.5])[:, None, None] * (fleet.length[:, None] * unit(heading))
        marks = np.where(present[:, None], position + along, -1e6)  # [3, A, 2] rear, middle, front of the others
        index = (s / self.spacing).astype(int)[:, None] + _LOOK_AHEAD
        rows = np.arange(count)[:, None]
        ahead, ahead_heading = self.points[rows, index], self.heading[rows, index]
        between = marks[None, :, :, None] - ahead[:, None, None]  # [A, 3, A, W, 2]
        corridor = (fleet.width[:, None] + fleet.width) / 2 + 0.25
        hit = (between**2).sum(-1) < corridor[:, None, :, None] ** 2
        hit &= ~np.eye(count, dtype=bool)[:, None, :, None]
        first = hit.argmax(-1)
        chosen = np.take_along_axis(between, first[..., None, None], axis=3)[..., 0, :]
        facing = np.take_along_axis(ahead_heading[:, None, None], first[..., None], axis=3)[..., 0]
        reached = (index[:, :1, None] + _LOOK_AHEAD[first]) * self.spacing[:, None, None]
        reach = reached + (chosen * unit(facing)).sum(-1)
        gap = np.where(hit.any(-1), reach - (s + fleet.length / 2)[:, None, None], np.inf).min(1)
        speeds = speed * np.maximum(np.cos(heading - facing[:, 1]), 0.0)
        leader = gap.argmin(1)
        own = np.arange(count)
        return gap[own, leader], speed - speeds[own, leader]


def merging(s: Array, speed: Array, fleet: Fleet, merge: Array, present: Mask) -> tuple[Array, Array]:
    """Gap and closing speed to the one ahead in the zip: whoever is next nearer to the point where routes join."""
    joins = np.isfinite(merge)
    left = np.where(joins, merge, 0.0) - s
    gap = left[:, None] - left - (fleet.length[:, None] + fleet.length) / 2
    ahead = joins[:, None] & joins & (left[:, None] > left) & present
    gap = np.where(ahead, np.maximum(gap, 0.5), np.inf)
    leader = gap.argmin(1)
    return gap.min(1), speed - speed[leader]


def drive(road: RoadMap, fleet: Fleet, closed: Mask) -> tuple[Array, Array, Mask]:
    """Let the traffic flow.

    Args:
        road: the map.
        fleet: the drivers.
        closed: [T, R] whether each route's stop line is closed (red light, pedestrian) at each step.

    Returns:
        Distance along the route, speed, and presence (not yet at the end of the map), each [T, A].
    """
    routes = [road.routes[r] for r in fleet.route]
    paths, right_of_way = _Paths([route.path for route in routes]), RightOfWay(road, fleet)
    drivers = zip(routes, fleet.pace, fleet.lateral, fleet.brake, strict=True)
    profiles = [speed_profile(route, pace, lateral, 0.7 * brake) for route, pace, lateral, brake in drivers]
    merge = np.array([route.merge for route in routes])
    ends = np.array([route.path.length for route in routes]) - fleet.length / 2 - 0.5
    s, speed, accel = fleet.s.copy(), fleet.speed.copy(), np.zeros(len(routes))
    log_s, log_speed, log_present = (np.zeros((len(closed), len(routes)), dtype) for dtype in (float, float, bool))
    for k, now_closed in enumerate(closed[:, fleet.route]):
        present = s < ends
        log_s[k], log_speed[k], log_present[k] = s, speed, present
        wish = np.array([np.interp(at, r.path.s, profile) for at, r, profile in zip(s, routes, profiles, strict=True)])
        wish *= _mood(k * DT, fleet)
        line = right_of_way.distance_to_line(s, speed, now_closed, present) + _GAP_AT_LINE
        ahead = [
            idm(speed, wish, *paths.leaders(s, speed, fleet, present), fleet),
            idm(speed, wish, line, speed, fleet, headway=0.4),
        ]
        ahead.append(idm(speed, wish, *merging(s, speed, fleet, merge, present), fleet))
        accel += np.clip(np.min(ahead, axis=0) - accel, -MAX_JERK * DT, MAX_JERK * DT)
        following = np.where(present, np.maximum(speed + accel * DT, 0.0), speed)
        accel = np.where((following == 0) & (accel < 0), 0.0, accel)
        s = np.where(present, s + (speed + following) / 2 * DT, s)
        speed = following
    return log_s, log_speed, log_present


def _mood(time: float, fleet: Fleet) -> Array:
    """Factor on the speed wish: a slow swing for all, and a lull for some."""
    swing = 1 + 0.05 * np.sin(2 * np.pi * time / fleet.sway[:, 0] + fleet.sway[:, 1])
    return np.asarray(swing * (1 - 0.7 * np.exp(-(((time - fleet.lull) / 1.6) ** 2))))
