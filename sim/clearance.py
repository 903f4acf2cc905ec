"""Distances of agents from each other and from the edge of the road, with boxes of true size: for evaluation.

Nothing in a simulation depends on what is measured here.
"""

# Warp reads annotations at run time, so this module must not postpone them.
import torch

from gail_cli.sim.geometry import Box, corner_of, in_frame, separation
from gail_cli.sim.heights import STRETCH, height_at, nearer_edge, signed_distance
from gail_cli.sim.kernels import box_at, edge_distance
from gail_cli.sim.launch import launch, to_warp, wp
from gail_cli.sim.roads import ROAD_EDGE, RoadGrid, cell_at
from gail_cli.sim.worlds import WorldArrays, Worlds

MAX_TTC = 5.0
"""Times to collision beyond are taken as this, s (Montali et al. 2023)."""
_MAX_TTC = wp.constant(wp.float32(MAX_TTC))
_SAME_WAY = wp.constant(wp.float32(0.2588))
"""Cosine of 75 degrees: an agent that is followed heads no further away than this."""
_VEHICLE = wp.constant(1)
_REACH = 15.0
"""Edges within this are looked up in a grid, m; only where there is none, all are searched."""
_CERTAIN = wp.constant(wp.float32(0.98 * _REACH * _REACH * 0.98))
_FAR = wp.constant(wp.float32(1.0e30))


@wp.func
def _from_corners(a: Box, b: Box) -> float:
    """Distance of a box to the nearest corner of another."""
    nearest = float(_FAR)
    for k in range(4):
        p = corner_of(b, k)
        d = in_frame(a.c, a.s, p[0] - a.x, p[1] - a.y)
        ahead = wp.max(wp.abs(d[0]) - a.length, 0.0)
        left = wp.max(wp.abs(d[1]) - a.width, 0.0)
        nearest = wp.min(nearest, wp.sqrt(ahead * ahead + left * left))
    return nearest


@wp.func
def _edge_distance(w: WorldArrays, edges: RoadGrid, map: int, p: wp.vec3) -> float:
    """The same as :func:`~sim.kernels.edge_distance`, by a grid wherever that has an edge near enough."""
    best = wp.vec3(_FAR, _FAR, -1.0)
    cell = cell_at(edges, map, p[0], p[1])
    if cell >= 0:
        for k in range(edges.start[cell], edges.start[cell + 1]):
            id = edges.item[k]
            if w.segment_type[id] == ROAD_EDGE:
                best = nearer_edge(best, w, id, p, STRETCH)
    if best[0] > _CERTAIN:
        return edge_distance(w, map, p, STRETCH)
    return signed_distance(best)


@wp.kernel(enable_backward=False)
def _measure(
    first: int,
    part: int,
    w: WorldArrays,
    edges: RoadGrid,
    agents: wp.array(dtype=wp.int32),
    steps: int,
    state: wp.array2d(dtype=wp.float32),
    speed: wp.array(dtype=wp.float32),
    present: wp.array(dtype=wp.bool),
    out: wp.array2d(dtype=wp.float32),
):
    """Row n * T + t of ``out`` for controlled agent n at step t, from rows i * T + t of all agents."""
    item = first + wp.tid()
    n = item / steps
    t = item % steps
    i = agents[n]
    row = i * steps + t
    for k in range(3):
        out[item, k] = wp.nan
    if present[row]:
        me = box_at(w, state, row, i, 1.0)
        nearest = float(wp.inf)
        headway = float(wp.inf)
        leader = int(-1)
        world = w.world[i]
        for j in range(w.agent_start[world], w.agent_start[world + 1]):
            there = j * steps + t
            if j != i and present[there]:
                dx = state[there, 0] - me.x
                dy = state[there, 1] - me.y
                if wp.sqrt(dx * dx + dy * dy) - w.radius[i] - w.radius[j] < wp.max(nearest, headway):
                    other = box_at(w, state, there, j, 1.0)
                    apart = separation(me, other)
                    if apart > 0.0 and apart < nearest:
                        apart = wp.min(_from_corners(me, other), _from_corners(other, me))
                    nearest = wp.min(nearest, apart)
                    c = me.c * other.c + me.s * other.s
                    s = wp.abs(me.c * other.s - me.s * other.c)
                    d = in_frame(me.c, me.s, dx, dy)
                    gap = d[0] - me.length - other.length * wp.abs(c) - other.width * s
                    aside = wp.abs(d[1]) - me.width - other.length * s - other.width * wp.abs(c)
                    if c > _SAME_WAY and aside < 0.0 and gap >= 0.0 and gap < headway:
                        headway = gap
                        leader = there
        out[item, 0] = nearest
        if w.type[i] == _VEHICLE:
            ttc = float(_MAX_TTC)
            if leader >= 0:
                closing = speed[row] - speed[leader]
                ttc = wp.where(closing > 0.0, wp.min(headway / closing, _MAX_TTC), _MAX_TTC)
                ttc = wp.where(wp.isnan(closing), closing, ttc)
            out[item, 1] = wp.where(wp.isnan(speed[row]), speed[row], ttc)
            map = w.map[world]
            edge = float(-_FAR)
            ground = height_at(w, i, me.x, me.y) - w.lift[i]
            for k in range(4):
                p = corner_of(me, k)
                edge = wp.max(edge, _edge_distance(w, edges, map, wp.vec3(p[0], p[1], ground)))
            out[item, 2] = edge


def clearances(
    worlds: Worlds, track: torch.Tensor, present: torch.Tensor, speed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Distances and times to collision of the N controlled agents at each of T steps.

    Args:
        worlds: where the agents are.
        track: [M, T, 5] x, y, heading, vx, vy of all agents.
        present: [M, T] bool, who is in its world when.
        speed: [M, T] m/s of all agents, NaN where unknown.

    Returns:
        Three tensors [N, T], NaN where an agent is not present: the signed distance of its box to the nearest other
        one (m; negative: how deep they overlap; infinite: there is none); of vehicles the time until it would touch the
        one that it follows if both kept their speed (s, at most 5; 5 when there is none; NaN where a speed is), and
        the largest signed distance of its corners to the nearest road edge (m; positive: beyond it). Whom an agent
        follows: the nearest in the way of its box as it heads, who heads less than 75 degrees elsewhere.
    """
    n, steps = len(worlds.controlled), track.shape[1]
    out = torch.empty(n * steps, 3, device=worlds.device)
    inputs = [
        worlds.arrays(),
        worlds.grid(_REACH, solid=True),
        to_warp(worlds.controlled.to(torch.int32)),
        steps,
        to_warp(track.reshape(-1, 5).contiguous()),
        to_warp(speed.flatten().contiguous()),
        to_warp(present.flatten().contiguous()),
        to_warp(out),
    ]
    launch(_measure, n * steps, inputs, worlds.device)
    nearest, ttc, edge = out.view(n, steps, 3).unbind(dim=-1)
    return nearest, ttc, edge
