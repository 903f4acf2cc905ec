"""Three kinds of road with random geometry: a winding two-way road, a four-way junction, a motorway on-ramp."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gail_cli.data.geometry import SPACING, Array, Path, arc_length, blend, integrate, join, offset, unit
from gail_cli.data.roads import Control, RoadMap, Route, nearest

STOP_LINE = 1.2
"""Metres between a crosswalk and the stop line before it."""
SETBACK = 4.0
"""Metres between the curves of a junction and the far side of its crosswalks."""
CYCLING = 8.0
"""Speed limit of a bicycle strip, m/s."""


def curvature_bumps(length: float, bumps: list[tuple[float, float, float]]) -> Array:
    """Curvature at every ``SPACING`` metres: smooth bumps (peak in 1/m, start in m, extent in m) on a straight road."""
    s = np.arange(round(length / SPACING) + 1) * SPACING
    curvature = np.zeros_like(s)
    for peak, start, extent in bumps:
        phase = np.clip((s - start) / extent, 0.0, 1.0)
        curvature += peak * np.sin(np.pi * phase) ** 2
    return curvature


@dataclass(frozen=True)
class _Profile:
    """Cross-section of one direction of a two-way road, in m."""

    lanes: int
    width: float
    shoulder: float
    parking: bool

    @staticmethod
    def draw(rng: np.random.Generator, lanes: int, narrow: tuple[float, float], parking: float) -> _Profile:
        """A random profile: the shoulder takes parked cars with probability ``parking``, or else is narrow."""
        parks = bool(rng.random() < parking)
        shoulder = rng.uniform(2.4, 2.8) if parks else rng.uniform(*narrow)
        return _Profile(lanes, float(rng.uniform(3.3, 3.8)), float(shoulder), parks)

    @property
    def half(self) -> float:
        """From the middle of the road to its edge."""
        return self.lanes * self.width + self.shoulder


def _add_roadside(road: RoadMap, side: Array, profile: _Profile) -> None:
    """Sidewalk and perhaps parking strip to the right of a road's middle line."""
    road.sidewalks.append(Path.through(offset(side, -profile.half - 1.6)))
    if profile.parking:
        road.kerbs.append(Path.through(offset(side, -profile.half + 1.35)))


def winding_road(rng: np.random.Generator) -> RoadMap:
    """A two-way road with one or two bends; parked cars or a bicycle strip beside it, sometimes a crosswalk."""
    road, length = RoadMap(), 270.0
    bends = [
        (float(rng.choice([-1, 1]) * rng.uniform(0.008, 0.028)), start, float(rng.uniform(70, 110)))
        for start in rng.uniform((10, 130), (70, 160))
    ]
    middle = integrate(curvature_bumps(length, bends))
    profile = _Profile.draw(rng, lanes=int(rng.integers(1, 3)), narrow=(1.6, 2.2), parking=0.5)
    limit = float(rng.choice([25, 30, 35, 40]))
    at = float(rng.uniform(110, 160))
    if rng.random() < 0.6:
        road.add_crosswalk(Path.through(middle), at, profile.half)
    _add_direction(road, middle, at, profile, limit)
    _add_direction(road, middle[::-1], length - at, profile, limit)
    road.lines.append((str(rng.choice(["SOLID_DOUBLE_YELLOW", "BROKEN_SINGLE_YELLOW"])), middle))
    return road


def _add_direction(road: RoadMap, middle: Array, at: float, profile: _Profile, limit: float) -> None:
    """The lanes to the right of a middle line and what is beside them; lanes are cut (at a crosswalk) at ``at`` m."""
    crossings = tuple(range(len(road.crosswalks)))
    line = Path.through(middle).position(np.array(at - 1.5 - STOP_LINE))
    cut = round(at / SPACING)

    def add_route(lanes: tuple[int, ...], path: Path, limits: Array) -> None:
        stop = nearest(path, line) if crossings else np.inf
        bicycle, stream = not lanes, len(road.routes)
        road.routes.append(Route(lanes, path, limits, stream, stop, crosswalks=crossings, bicycle=bicycle))

    for k in range(profile.lanes):
        points = offset(middle, -(k + 0.5) * profile.width)
        first = road.add_lane(points[: cut + 1], limit)
        lanes = (first, road.add_lane(points[cut:], limit, after=(first,)))
        path = road.path(lanes)
        add_route(lanes, path, road.limit(lanes, path))
        if k:
            road.lines.append(("BROKEN_SINGLE_WHITE", offset(middle, -k * profile.width)))
    if not profile.parking:
        strip = Path.through(offset(middle, -profile.half + profile.shoulder / 2))
        add_route((), strip, np.full(len(strip.s), CYCLING))
    road.lines.append(("SOLID_SINGLE_WHITE", offset(middle, -profile.half + profile.shoulder)))
    road.edges.append(offset(middle, -profile.half))
    _add_roadside(road, middle, profile)


@dataclass(frozen=True)
class _Arm:
    """Ids of the lanes of a junction's arm, and index of its crosswalk."""

    inbound: int
    outbound: int
    crosswalk: int


def junction(rng: np.random.Generator, control: Control) -> RoadMap:
    """Four arms with one lane each way, all turns allowed, under stop signs or signals."""
    road = RoadMap(control=control)
    profile = _Profile.draw(rng, lanes=1, narrow=(0.8, 1.6), parking=0.4)
    limit, box = float(rng.choice([25, 30, 35])), float(rng.uniform(9, 13)) + profile.shoulder
    directions = np.arange(4) * np.pi / 2 + rng.uniform(-0.12, 0.12, 4)
    arms = []
    for direction, bend in zip(directions, rng.uniform(-0.012, 0.012, 4), strict=True):
        curve = integrate(curvature_bumps(105.0, [(float(bend), 35.0, 60.0)]), float(direction))
        arms.append(_add_arm(road, curve + box * unit(float(direction)), profile, limit))
    for i in range(4):
        turns = [_add_turn(road, arms[i], arms[(i + turn) % 4], stream=i, left=turn == 3) for turn in (1, 2, 3)]
        right = turns[0]
        kerb = -profile.width / 2 - profile.shoulder
        road.edges.append(offset(right.path.points, kerb))
        if control is Control.STOP_SIGNS:
            behind_kerb = offset(right.path.points, kerb - 0.7)
            sign = behind_kerb[np.searchsorted(right.path.s, right.stop)]
            road.stop_signs.append((sign, tuple(turn.lanes[1] for turn in turns)))
    if control is Control.SIGNALS:
        for arm in arms:
            _begin_turns_at_line(road, arm)
    return road


def _add_arm(road: RoadMap, middle: Array, profile: _Profile, limit: float) -> _Arm:
    """Lanes, crosswalk and roadsides of an arm whose middle line leads outwards."""
    inbound = road.add_lane(offset(middle, profile.width / 2)[::-1], limit)
    outbound = road.add_lane(offset(middle, -profile.width / 2), limit)
    crosswalk = road.add_crosswalk(Path.through(middle), SETBACK - 1.5, profile.half)
    road.lines.append(("SOLID_DOUBLE_YELLOW", middle[round((SETBACK + STOP_LINE) / SPACING) :]))
    outer = middle[30:]
    for side in (outer, outer[::-1]):
        _add_roadside(road, side, profile)
    return _Arm(inbound, outbound, crosswalk)


def _add_turn(road: RoadMap, source: _Arm, target: _Arm, stream: int, left: bool) -> Route:
    """Connect two arms by a lane, and add the route that uses it."""
    start, end = road.lanes[source.inbound], road.lanes[target.outbound]
    connector = road.add_lane(blend(start.points, end.points), start.limit_mph, (source.inbound,), connector=True)
    road.link(connector, target.outbound)
    lanes = (source.inbound, connector, target.outbound)
    path = road.path(lanes)
    route = Route(
        lanes,
        path,
        road.limit(lanes, path),
        stream,
        stop=nearest(path, start.points[-1]) - SETBACK - STOP_LINE,
        exit=nearest(path, end.points[0]),
        crosswalks=(source.crosswalk, target.crosswalk),
        yields=left,
    )
    road.routes.append(route)
    return route


def _begin_turns_at_line(road: RoadMap, arm: _Arm) -> None:
    """Let the lanes that a light controls begin where one stops, as they do in WOMD; routes stay as they are."""
    lane, turns = road.lanes[arm.inbound], [route for route in road.routes if route.lanes[0] == arm.inbound]
    line, s = min(route.stop for route in turns), arc_length(lane.points)
    cut = turns[0].path.position(np.array([line]))
    before, behind = lane.points[s < line - 0.1], lane.points[s > line + 0.1]
    for route in turns:
        turn = road.lanes[route.lanes[1]]
        turn.points = join(np.concatenate([cut, behind]), turn.points)
    lane.points = np.concatenate([before, cut])


def on_ramp(rng: np.random.Generator) -> RoadMap:
    """One carriageway of a motorway, one or two lanes, which a ramp joins from the right."""
    road, length = RoadMap(), 390.0
    bend = (float(rng.uniform(-0.004, 0.004)), float(rng.uniform(0, 100)), float(rng.uniform(150, 250)))
    left = integrate(curvature_bumps(length, [bend]))  # left border of the leftmost lane
    lanes, width = int(rng.integers(1, 3)), float(rng.uniform(3.5, 3.8))
    limit, ramp_limit = float(rng.choice([45, 50, 55])), float(rng.choice([30, 35, 40]))
    shoulder = float(rng.uniform(1.0, 2.5))
    s = np.arange(len(left)) * SPACING
    start, end = float(rng.uniform(40, 70)), float(rng.uniform(190, 230))
    x = np.clip((s - start) / (end - start), 0.0, 1.0)
    aside = float(rng.uniform(12, 18)) * (1 - x**3 * (10 - 15 * x + 6 * x**2))
    right = (lanes - 0.5) * width
    joint = round(end / SPACING)
    ramp_points = offset(left, -right - aside)
    faster = round((start + 50.0) / SPACING)
    ramp = road.add_lane(ramp_points[: faster + 1], ramp_limit, freeway=True)
    feeder = road.add_lane(ramp_points[faster : joint + 1], limit, after=(ramp,), freeway=True)
    for k in range(lanes):
        points = offset(left, -(k + 0.5) * width)
        first = road.add_lane(points[: joint + 1], limit, freeway=True)
        joins = k == lanes - 1
        second = road.add_lane(points[joint:], limit, after=(first, feeder) if joins else (first,), freeway=True)
        for way in ((first, second), (ramp, feeder, second)) if joins else ((first, second),):
            path = road.path(way)
            merge = nearest(path, points[joint]) if joins else np.inf
            road.routes.append(Route(way, path, road.limit(way, path), k, merge=merge))
        if k:
            road.lines.append(("BROKEN_SINGLE_WHITE", offset(left, -k * width)))
    gore = int(np.flatnonzero(aside < width + 2.0)[0])
    beside = offset(left, -right - width / 2 - 1.0)[:gore]
    ramp_left = offset(ramp_points, width / 2 + 1.0)[:gore]
    road.edges.append(np.concatenate([beside, ramp_left[::-1]]))
    road.edges.append(offset(ramp_points, -width / 2 - shoulder))
    road.medians.append(offset(left, 1.0)[::-1])
    road.lines.append(("SOLID_SINGLE_YELLOW", left))
    road.lines.append(("SOLID_SINGLE_WHITE", offset(ramp_points, -width / 2)))
    return road
