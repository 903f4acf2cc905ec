"""Signed distances of boxes to the edge of the road, at the right level where roads cross above each other.

For evaluation; nothing in a simulation depends on what is measured here. The rules are those of the challenge's scorer
(waymo-open-dataset 1.6.7): of the four lower corners of a box the one farthest off the road counts; its nearest edge is
found in space, where heights count three times, and its distance is measured in the plane.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.sim.geometry import corner_of
from gail_cli.sim.heights import STRETCH, offset
from gail_cli.sim.kernels import box_at
from gail_cli.sim.launch import launch, to_warp, wp
from gail_cli.sim.roads import ROAD_EDGE, RoadGrid, Segment, cell_at
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import WorldArrays, Worlds, distinct_maps

CLOSED = 1.0
"""A polyline whose ends are nearer than this is closed, m."""
_REACH = 15.0
"""Edges within this are looked up in a grid, m; only where there is none, all are searched."""
_CERTAIN = wp.constant(wp.float32(0.98 * _REACH * _REACH * 0.98))
_FAR = wp.constant(wp.float32(1.0e30))
_JOINED = 0.01
"""Segments of one feature follow each other when one ends this near to where the next starts, m."""


@wp.func
def _right(s: Segment, p: wp.vec3) -> float:
    """1 where a point lies to the right of a segment's line, -1 to the left; 0 for a segment without a length."""
    side = wp.sign((p[0] - s[0]) * s[6] - (p[1] - s[1]) * s[5])
    return wp.where(s[2] > 0.0, side, 0.0)


@wp.func
def _bend(s: Segment, then: Segment) -> float:
    """Above 0 where the second of two segments turns left."""
    return wp.where(s[2] > 0.0 and then[2] > 0.0, s[5] * then[6] - s[6] * then[5], 0.0)


@wp.func
def _at_corner(s: Segment, then: Segment, p: wp.vec3) -> float:
    """On which side of two joined segments a point lies whose nearest point is their joint.

    Where they turn left, what is right of one is right of both; else only what is right of the two.
    """
    a = _right(s, p)
    b = _right(then, p)
    return wp.where(_bend(s, then) > 0.0, wp.max(a, b), wp.min(a, b))


@wp.func
def _side(w: WorldArrays, links: wp.array2d(dtype=wp.int32), k: int, p: wp.vec3) -> float:
    """On which side of segment k and those joined to it a point lies that is nearest to k: 1 is right."""
    s = w.segment[k]
    reach = (p[0] - s[0]) * s[5] + (p[1] - s[1]) * s[6]
    side = _right(s, p)
    if s[2] > 0.0 and reach < -s[2] and links[k, 0] >= 0:
        side = _at_corner(w.segment[links[k, 0]], s, p)
    elif s[2] > 0.0 and reach > s[2] and links[k, 1] >= 0:
        side = _at_corner(s, w.segment[links[k, 1]], p)
    return side


@wp.func
def _nearer(best: wp.vec3, k: int, d: wp.vec2) -> wp.vec3:
    """The nearer of two in space, as squared distances in space and plane, and number; of equal ones the first."""
    result = best
    if d[1] < best[0] - 1.0e-5 * d[1] - 1.0e-7:
        result = wp.vec3(d[1], d[0], float(k))
    return result


@wp.func
def _edge_distance(
    w: WorldArrays,
    links: wp.array2d(dtype=wp.int32),
    edges: RoadGrid,
    map: int,
    p: wp.vec3,
) -> float:
    best = wp.vec3(_FAR, _FAR, -1.0)
    start = w.map_start[map]
    cell = cell_at(edges, map, p[0], p[1])
    if cell >= 0:
        for k in range(edges.start[cell], edges.start[cell + 1]):
            id = edges.item[k]
            if w.segment_type[id] == ROAD_EDGE:
                best = _nearer(best, id - start, offset(w, id, p, STRETCH))
    if best[0] > _CERTAIN:
        best = wp.vec3(_FAR, _FAR, -1.0)
        for id in range(start, w.map_start[map + 1]):
            if w.segment_type[id] == ROAD_EDGE:
                best = _nearer(best, id - start, offset(w, id, p, STRETCH))
    distance = float(wp.nan)
    if best[2] >= 0.0:
        distance = wp.sqrt(best[1]) * _side(w, links, start + int(best[2]), p)
    return distance


@wp.kernel(enable_backward=False)
def _measure(
    first: int,
    part: int,
    w: WorldArrays,
    links: wp.array2d(dtype=wp.int32),
    edges: RoadGrid,
    agents: wp.array(dtype=wp.int32),
    steps: int,
    state: wp.array2d(dtype=wp.float32),
    bottom: wp.array(dtype=wp.float32),
    present: wp.array(dtype=wp.bool),
    out: wp.array(dtype=wp.float32),
):
    """Row n * T + t of ``out`` for controlled agent n at step t, from rows i * T + t of all agents."""
    item = first + wp.tid()
    i = agents[item / steps]
    row = i * steps + item % steps
    farthest = float(wp.nan)
    if present[row]:
        me = box_at(w, state, row, i, 1.0)
        for k in range(4):
            corner = corner_of(me, k)
            d = _edge_distance(w, links, edges, w.map[w.world[i]], wp.vec3(corner[0], corner[1], bottom[row]))
            if k == 0 or d > farthest:
                farthest = d
    out[item] = farthest


def edge_links(scene: Scene, longest_only: bool = False) -> NDArray[np.int32]:
    """[S, 2] the segments before and after each one in its road edge, -1 where there is none.

    The first and the last one of a closed edge follow each other too.

    Args:
        scene: with its map.
        longest_only: close only edges with as many points as the longest one, as the challenge's scorer does, which
            fills all others up with points that do not count.
    """
    x, y, half, _, heading = scene.segment.astype(np.float64).T
    ahead = half[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    start, end = (np.stack([x, y], axis=1) + sign * ahead for sign in (-1, 1))
    edge = scene.segment_type == RoadType.ROAD_EDGE
    follows = edge[1:] & edge[:-1] & (scene.segment_road[1:] == scene.segment_road[:-1])
    follows &= np.hypot(*(start[1:] - end[:-1]).T) < _JOINED
    number = np.arange(len(edge), dtype=np.int32)
    links = np.full((len(edge), 2), -1, np.int32)
    links[1:, 0][follows] = number[:-1][follows]
    links[:-1, 1][follows] = number[1:][follows]
    first, last = np.flatnonzero(edge & (links[:, 0] < 0)), np.flatnonzero(edge & (links[:, 1] < 0))
    gap = np.concatenate([start[first] - end[last], np.diff(_ends(scene, first, last))], axis=1)
    closed = (gap**2).sum(axis=1) < CLOSED**2
    if longest_only and len(first):
        closed &= last - first == (last - first).max()
    links[first[closed], 0], links[last[closed], 1] = last[closed], first[closed]
    return links


def _ends(scene: Scene, first: NDArray[np.int64], last: NDArray[np.int64]) -> NDArray[np.float64]:
    """[E, 2] heights of both ends of polylines."""
    return np.stack([scene.segment_z[first, 0], scene.segment_z[last, 1]], axis=1).astype(np.float64)


_LINKS: dict[bool, WeakKeyDictionary[Worlds, torch.Tensor]] = {kind: WeakKeyDictionary() for kind in (False, True)}


def _links(worlds: Worlds, longest_only: bool) -> torch.Tensor:
    """:func:`edge_links` of all maps, by numbers in all maps together; made once for some worlds."""
    kept = _LINKS[longest_only]
    if worlds not in kept:
        starts = worlds.tensors["map_start"].tolist()
        tables = [edge_links(scene, longest_only) for scene in distinct_maps(worlds.scenes)]
        moved = [np.where(table >= 0, table + start, -1) for table, start in zip(tables, starts, strict=False)]
        kept[worlds] = torch.from_numpy(np.concatenate(moved).astype(np.int32)).to(worlds.device)
    return kept[worlds]


def edge_distances(
    worlds: Worlds, track: torch.Tensor, z: torch.Tensor, present: torch.Tensor, longest_only: bool = False
) -> torch.Tensor:
    """How far the N controlled agents are off the road at each of T steps.

    Args:
        worlds: where the agents are.
        track: [M, T, 5] x, y, heading, vx, vy of all agents.
        z: [M, T] m, heights of their centres.
        present: [M, T] bool, who is in its world when.
        longest_only: see :func:`edge_links`.

    Returns:
        [N, T] m, the largest signed distance of a corner to the nearest edge (positive: beyond it); NaN where the
        agent is not present or its map has no road edge.
    """
    n, steps = len(worlds.controlled), track.shape[1]
    out = torch.empty(n * steps, device=worlds.device)
    bottom = z - worlds.tensors["lift"][:, None]
    inputs = [
        worlds.arrays(),
        to_warp(_links(worlds, longest_only)),
        worlds.grid(_REACH, solid=True),
        to_warp(worlds.controlled.to(torch.int32)),
        steps,
        to_warp(track.reshape(-1, 5).contiguous()),
        to_warp(bottom.flatten().contiguous()),
        to_warp(present.flatten().contiguous()),
        to_warp(out),
    ]
    launch(_measure, n * steps, inputs, worlds.device)
    return out.view(n, steps)
