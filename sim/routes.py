"""Routes: how one gets from a place to a goal along the lanes of a map. Neither logs nor other agents count.

Lanes are cut into pieces of a few metres, the nodes of a graph: a piece leads to the one that begins where it ends and,
at a price, to the one beside that. Starts and goals are nodes, too, joined to the pieces near them at prices that grow
with the distance and, at a start, with the turn to the lane's direction. The route is the cheapest path (Dijkstra
1959), in metres.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra
from scipy.spatial import cKDTree

from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Scene

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPACING = 2.0
"""Most metres between two points of a route."""
CHANGE = 30.0
"""Metres that a change of lanes takes."""

_PIECE = 5.0
"""Most metres of a piece of a lane."""
_GAP = 1.0
"""Metres within which a lane ends and the next begins."""
_ONWARD = 0.5
"""Cosine of the turn between such lanes, at least."""
_BESIDE = (1.5, 5.0)
"""Metres between the middles of lanes side by side."""
_PARALLEL = 0.95
"""Cosine of the angle between them, at least."""
_NEAR = 8.0
"""Metres from a start or a goal to the lanes that count."""
_CHANGE_PRICE = 3.0
"""A metre aside to another lane costs as much as so many along."""
_AWAY_PRICE = 5.0
"""The same of a metre between a lane and a start or a goal."""
_TURN_PRICE = 20.0
"""A start at right angles to a lane costs as much as so many metres."""
_MOST_DETOUR = (2.0, 20.0)
"""A route is at most so many times as long as the straight line, and so many metres more."""
_BIKE_LANE = 3
"""``map_element_id`` of lanes that no car drives on."""
_LEAST = 1e-3
"""Metres that count as none."""
_STEP = 1.0
"""Metres between places at which a route is found before its points are spread evenly."""


@dataclass(frozen=True, eq=False)
class Route:
    """The way to a goal."""

    points: Floats
    """[P, 4] x, y, and cosine and sine of the direction there, at even distances; the last is the goal. P >= 2."""
    spacing: float
    """Metres from one point to the next."""
    lane: bool
    """Whether it follows lanes; otherwise it is the straight line."""


@dataclass(frozen=True, eq=False)
class _Pieces:
    """L pieces of lanes."""

    begin: Floats
    """[L, 2]."""
    ahead: Floats
    """[L, 2] unit vectors."""
    length: Floats
    """[L] m."""

    @property
    def end(self) -> Floats:
        """[L, 2]."""
        return self.begin + self.length[:, None] * self.ahead

    @property
    def left(self) -> Floats:
        """[L, 2] unit vectors to the left."""
        return np.stack([-self.ahead[:, 1], self.ahead[:, 0]], axis=1)

    def beside(self, piece: Ints, place: Floats) -> Floats:
        """[n] metres to the left of pieces [n] of places [n, 2]."""
        beside: Floats = np.vecdot(place - self.begin[piece], self.left[piece])
        return beside

    def along(self, piece: Ints, place: Floats) -> Floats:
        """[n] metres from the begin of pieces [n] to their points nearest to places [n, 2]."""
        way: Floats = np.vecdot(place - self.begin[piece], self.ahead[piece])
        return way.clip(0, self.length[piece])

    def at(self, piece: Ints, along: Floats) -> Floats:
        """[n, 2] places at metres [n] along pieces [n]."""
        return self.begin[piece] + along[:, None] * self.ahead[piece]


class LaneGraph:
    """The lanes of a map as a graph.

    Args:
        scene: whose map.
    """

    def __init__(self, scene: Scene) -> None:
        lane = (scene.segment_type == RoadType.LANE) & (scene.segment_map_type != _BIKE_LANE)
        lane &= scene.segment[:, 2] > 0
        self._pieces, goes_on = _pieces(scene.segment[lane].astype(np.float64), scene.segment_road[lane])
        self._edges = _edges(self._pieces, goes_on)
        self._tree = cKDTree(self._pieces.begin + 0.5 * self._pieces.length[:, None] * self._pieces.ahead)

    def routes(self, start: Floats, goal: Floats) -> list[Route]:
        """Routes of n agents.

        Args:
            start: [n, 3] x, y, heading.
            goal: [n, 2].
        """
        pieces, count, n = self._pieces, len(self._pieces.length), len(start)
        if not count:
            return [_straight(*pair) for pair in zip(start, goal, strict=True)]
        who, leaves, off = self._near(start[:, :2])
        turn = np.vecdot(pieces.ahead[leaves], np.stack([np.cos(start[who, 2]), np.sin(start[who, 2])], axis=1))
        whose, arrives, away = self._near(goal)
        rows = np.concatenate([self._edges[0], count + who, arrives])
        columns = np.concatenate([self._edges[1], leaves, count + n + whose])
        prices = [self._edges[2], _AWAY_PRICE * off + _TURN_PRICE * (1 - turn), _AWAY_PRICE * away]
        # a lane's own length counts from where one comes onto it, and to where one leaves it
        prices[1] += _LEAST - pieces.along(leaves, start[who, :2]) + _PIECE
        prices[2] += _LEAST + pieces.along(arrives, goal[whose])
        size = count + 2 * n
        graph = csr_array((np.concatenate(prices), (rows, columns)), shape=(size, size))
        price, before = dijkstra(graph, indices=count + np.arange(n), return_predecessors=True)
        return [
            self._route(before[k], count + n + k, start[k], goal[k])
            if np.isfinite(price[k, count + n + k])
            else _straight(start[k], goal[k])
            for k in range(n)
        ]

    def _near(self, place: Floats) -> tuple[Ints, Ints, Floats]:
        """Pairs of places [n, 2] and pieces near them, and the metres between."""
        near = self._tree.query_ball_point(place, _NEAR + _PIECE / 2)
        who = np.repeat(np.arange(len(place)), [len(some) for some in near])
        piece = np.concatenate([np.array(some, np.int64) for some in near])
        away = np.linalg.norm(self._pieces.at(piece, self._pieces.along(piece, place[who])) - place[who], axis=1)
        chosen = away <= _NEAR
        return who[chosen], piece[chosen], away[chosen]

    def _route(self, before: NDArray[np.int32], end: int, start: Floats, goal: Floats) -> Route:
        """The route whose nodes are found backwards from its end."""
        path = [int(before[end])]
        while before[path[-1]] < len(self._pieces.length):
            path.append(int(before[path[-1]]))
        route = _smoothed(self._pieces, np.array(path[::-1]), start[:2], goal)
        straight = float(np.linalg.norm(goal - start[:2]))
        times, more = _MOST_DETOUR
        if route is None or route.spacing * (len(route.points) - 1) > times * straight + more:
            return _straight(start, goal)
        return route


def _pieces(segment: Floats, road: Ints) -> tuple[_Pieces, NDArray[np.bool_]]:
    """Lane segments [S, 5] of map features [S] in pieces, and of each piece whether the next one is its lane's, too."""
    ahead = np.stack([np.cos(segment[:, 4]), np.sin(segment[:, 4])], axis=1)
    begin, end = (segment[:, :2] + sign * segment[:, 2:3] * ahead for sign in (-1, 1))
    joined = np.append((road[1:] == road[:-1]) & (np.linalg.norm(begin[1:] - end[:-1], axis=1) < _GAP), False)
    parts = np.ceil(2 * segment[:, 2] / _PIECE - 1e-6).astype(np.int64).clip(min=1)
    of = np.repeat(np.arange(len(segment)), parts)
    number = np.arange(len(of)) - np.repeat(np.cumsum(parts) - parts, parts)
    length = (2 * segment[:, 2] / parts)[of]
    goes_on = np.zeros(len(of), np.bool_)
    goes_on[:-1] = (of[1:] == of[:-1]) | joined[of[:-1]]
    return _Pieces(begin[of] + (number * length)[:, None] * ahead[of], ahead[of], length), goes_on


def _edges(pieces: _Pieces, goes_on: NDArray[np.bool_]) -> tuple[Ints, Ints, Floats]:
    """From which piece one can go to which, and what it costs: the piece's length, and the change of lanes.

    One comes to another lane only where one of the two begins or ends, which may be beside the middle of the other, and
    not where they cross.
    """
    ahead, end = pieces.ahead, pieces.end
    reach = float(np.hypot(_BESIDE[1], _PIECE / 2))
    pairs = cKDTree(end).sparse_distance_matrix(cKDTree(pieces.begin), reach, output_type="ndarray")
    here, there = pairs["i"], pairs["j"]
    gap = pieces.begin[there] - end[here]
    along, aside = np.vecdot(gap, ahead[here]), np.abs(np.vecdot(gap, pieces.left[here]))
    turn = np.vecdot(ahead[here], ahead[there])
    back, off = -np.vecdot(gap, ahead[there]), np.abs(np.vecdot(gap, pieces.left[there]))
    first, last = ~np.roll(goes_on, 1)[there], ~goes_on[here]
    forks = first & (aside < _GAP) & (along <= 0) & (along >= -pieces.length[here])
    merges = last & (off < _GAP) & (back >= 0) & (back <= pieces.length[there])
    follows = (((first | last) & (pairs["v"] < _GAP)) | forks | merges) & (turn > _ONWARD)
    changes = (aside > _BESIDE[0]) & (aside < _BESIDE[1]) & (np.abs(along) <= _PIECE / 2) & (turn > _PARALLEL)
    inside = np.flatnonzero(goes_on)
    rows = np.concatenate([inside, here[follows], here[changes]])
    columns = np.concatenate([inside + 1, there[follows], there[changes]])
    more = np.concatenate([np.zeros(len(inside)), pairs["v"][follows], _CHANGE_PRICE * aside[changes]])
    return rows, columns, pieces.length[rows] + more


def _smoothed(pieces: _Pieces, path: Ints, start: Floats, goal: Floats) -> Route | None:
    """The route over some pieces; None if it has no length.

    Who starts beside the middle of a lane and stops on the same side of it stays beside it all the way, as far as the
    nearer of both is. From one piece to the next there may be a gap: to the lane beside, or to the goal from where it
    is left. It is spread over :data:`CHANGE` by a cubic that is flat at both ends.
    """
    enter, leave = np.zeros(len(path)), pieces.length[path]
    enter[0], leave[-1] = pieces.along(path[:1], start[None])[0], pieces.along(path[-1:], goal[None])[0]
    ends = np.cumsum((leave - enter).clip(min=0))
    total = ends[-1]
    if total < _LEAST:
        return None
    begins = np.concatenate([[0.0], ends[:-1]])
    way = np.linspace(0, total, int(np.ceil(total / _STEP)) + 1)
    k = np.searchsorted(ends[:-1], way, side="right")
    beside = pieces.beside(path[[0, -1]], np.stack([start, goal]))
    kept = np.sign(beside[0]) * np.abs(beside).min() if beside[0] * beside[1] > 0 else 0.0
    shift = kept * pieces.left[path]
    arrive = pieces.at(path, leave) + shift
    gap = np.concatenate([pieces.at(path[1:], enter[1:]) + shift[1:], goal[None]]) - arrive
    first = (ends - CHANGE / 2).clip(0, max(total - CHANGE, 0.0))[:, None]
    share = ((way - first) / min(CHANGE, total)).clip(0, 1)
    # from piece to piece the gap is jumped where they meet, instead of which it is taken step by step
    jumped = (way >= ends[:, None]) & (np.arange(len(path)) < len(path) - 1)[:, None]
    moved = share * share * (3 - 2 * share) - jumped
    place = pieces.at(path[k], (enter - begins)[k] + way) + shift[k] + moved.T @ gap
    return _spread(place, lane=True)


def _straight(start: Floats, goal: Floats) -> Route:
    """The straight line; as long as nothing in the direction of the start where this is the goal."""
    return _spread(np.stack([start[:2], goal]), lane=False, heading=start[2])


def _spread(place: Floats, lane: bool, heading: float = 0.0) -> Route:
    """The route along a polyline [n, 2], which points to ``heading`` if it has no length."""
    step = np.linalg.norm(np.diff(place, axis=0), axis=1)
    way = np.concatenate([[0.0], np.cumsum(step)])
    count = max(2, int(np.ceil(way[-1] / SPACING)) + 1)
    even = np.linspace(0, way[-1], count)
    points = np.stack([np.interp(even, way, place[:, axis]) for axis in (0, 1)], axis=1)
    ahead = np.gradient(points, axis=0)
    size = np.linalg.norm(ahead, axis=1, keepdims=True)
    ahead = np.where(size > 1e-9, ahead / size.clip(min=1e-9), [np.cos(heading), np.sin(heading)])
    return Route(np.concatenate([points, ahead], axis=1), float(way[-1]) / (count - 1), lane)
