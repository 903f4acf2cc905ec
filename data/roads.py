"""What a road map consists of, for the traffic on it and for the log: lanes, routes along them, edges, signs."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import numpy as np

from gail_cli.data.geometry import Array, Path, arc_length, join, offset, resample

MPH = 0.44704
"""Metres per second in a mile per hour."""
CLEARANCE = 3.0
"""Two routes conflict where their centre lines come closer than this, in m."""


class Control(Enum):
    """Who may enter a junction."""

    NONE = "none"
    STOP_SIGNS = "stop signs"
    SIGNALS = "signals"


@dataclass(eq=False)
class Lane:
    """Centre line in driving direction; ``connector`` lanes lie within a junction and exist for turning only."""

    points: Array
    limit_mph: float
    freeway: bool = False
    connector: bool = False
    entries: list[int] = field(default_factory=list)
    exits: list[int] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Route:
    """A way through the map.

    Routes of one ``stream`` start in the same place and keep their vehicles in one queue. ``stop`` is where a front
    bumper halts when the way is not free, ``merge`` where the route joins another one, ``exit`` where its last lane
    starts (all m along the path, infinite where there is none). ``yields`` marks a left turn across oncoming traffic.
    """

    lanes: tuple[int, ...]
    path: Path
    limit: Array
    stream: int
    stop: float = np.inf
    merge: float = np.inf
    exit: float = np.inf
    crosswalks: tuple[int, ...] = ()
    yields: bool = False
    bicycle: bool = False


@dataclass(eq=False)
class RoadMap:
    """A map under construction, and then in use. Feature ids are given out in the order of building."""

    control: Control = Control.NONE
    lanes: dict[int, Lane] = field(default_factory=dict)
    routes: list[Route] = field(default_factory=list)
    edges: list[Array] = field(default_factory=list)
    """Boundaries of the drivable area, which is to their left."""
    medians: list[Array] = field(default_factory=list)
    """The same between carriageways."""
    lines: list[tuple[str, Array]] = field(default_factory=list)
    """Painted lines with the name of their ``RoadLineType`` (without ``TYPE_``)."""
    crosswalks: list[Array] = field(default_factory=list)
    """Outlines [4, 2]; pedestrians walk from the middle of the first side to the middle of the third."""
    stop_signs: list[tuple[Array, tuple[int, ...]]] = field(default_factory=list)
    """Position, and the lanes that the sign governs."""
    kerbs: list[Path] = field(default_factory=list)
    """Where the centres of parked cars lie."""
    sidewalks: list[Path] = field(default_factory=list)

    def add_lane(
        self,
        points: Array,
        limit_mph: float,
        after: tuple[int, ...] = (),
        freeway: bool = False,
        connector: bool = False,
    ) -> int:
        """Add a lane that continues the lanes ``after``; returns its id."""
        lane = len(self.lanes) + 1
        self.lanes[lane] = Lane(resample(points, 0.5), limit_mph, freeway, connector, entries=list(after))
        for previous in after:
            self.lanes[previous].exits.append(lane)
        return lane

    def link(self, lane: int, following: int) -> None:
        """Let a lane continue in one that exists already."""
        self.lanes[lane].exits.append(following)
        self.lanes[following].entries.append(lane)

    def path(self, lanes: tuple[int, ...]) -> Path:
        """The path along lanes that follow each other."""
        return Path.through(join(*(self.lanes[lane].points for lane in lanes)))

    def limit(self, lanes: tuple[int, ...], path: Path) -> Array:
        """Speed limit in m/s at each point of the path along these lanes."""
        ends = np.cumsum([arc_length(self.lanes[lane].points)[-1] for lane in lanes])
        limits = np.array([self.lanes[lane].limit_mph for lane in lanes]) * MPH
        return limits[np.minimum(np.searchsorted(ends, path.s), len(lanes) - 1)]

    def add_crosswalk(self, middle: Path, at: float, half_width: float) -> int:
        """Add a crosswalk, 3 m wide, across a road whose middle line is given; returns its index."""
        along = middle.position(np.array([at - 1.5, at, at + 1.5]))
        left, right = offset(along, half_width), offset(along, -half_width)
        self.crosswalks.append(np.stack([left[0], left[-1], right[-1], right[0]]))
        return len(self.crosswalks) - 1


def nearest(path: Path, point: Array) -> float:
    """Distance along the path of its point nearest to a given one."""
    return float(path.s[np.hypot(*(path.points - point).T).argmin()])


def conflicts(routes: list[Route]) -> Array:
    """Where route j is out of the way of route i: [i, j] in m along j, NaN for routes that never meet.

    Only routes with a stop line that start in different places count; the others sort themselves out by following.
    Two routes into the same lane are out of each other's way once in that lane, where one follows the other.
    """
    clear = np.full((len(routes), len(routes)), np.nan)
    for i, mine in enumerate(routes):
        for j, other in enumerate(routes):
            if mine.stream == other.stream or not np.isfinite([mine.exit, other.exit]).all():
                continue
            inner = slice(int(mine.stop), int(mine.exit) + 6)
            outer = slice(int(other.stop), int(other.exit) + 6)
            a, b = (route.path.points[::2][part] for route, part in ((mine, inner), (other, outer)))
            close = (np.hypot(*(a[:, None] - b).transpose(2, 0, 1)) < CLEARANCE).any(0)
            if close.any():
                last = other.path.s[::2][outer][np.flatnonzero(close)[-1]]
                clear[i, j] = min(last, other.exit) if mine.lanes[-1] == other.lanes[-1] else last
    return clear
