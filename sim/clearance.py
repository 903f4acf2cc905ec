"""Distances of agents from each other, with boxes of true size: for evaluation.

Nothing in a simulation depends on what is measured here.
"""

# Warp reads annotations at run time, so this module must not postpone them.
import torch

from gail_cli.sim.geometry import Box, corner_of, in_frame, separation
from gail_cli.sim.heights import same_level
from gail_cli.sim.kernels import box_at
from gail_cli.sim.launch import launch, to_warp, wp
from gail_cli.sim.worlds import WorldArrays, Worlds

MAX_TTC = 5.0
"""Times to collision beyond are taken as this, s (Montali et al. 2023)."""
ROUNDING = 0.7
"""Corners of boxes are rounded with this times half the shorter side (the challenge's scorer)."""
_MAX_TTC = wp.constant(wp.float32(MAX_TTC))
_ROUNDING = wp.constant(wp.float32(ROUNDING))
_SAME_WAY = wp.constant(wp.float32(1.3089969))
"""75 degrees: an agent that is followed heads no further away than this, rad."""
_SAME_LANE = wp.constant(wp.float32(0.17453293))
"""10 degrees: nor than this where less than :data:`_AT_THE_EDGE` of it is in the way, rad."""
_AT_THE_EDGE = wp.constant(wp.float32(0.5))
_PI = wp.constant(wp.float32(3.14159265))
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
def _radius(box: Box) -> float:
    """Of a box's rounded corners."""
    return _ROUNDING * wp.min(box.length, box.width)


@wp.func
def _core(box: Box) -> Box:
    """The box whose points are nearer to those of the rounded box than its radius: what rounding starts from."""
    r = _radius(box)
    core = Box()
    core.x = box.x
    core.y = box.y
    core.c = box.c
    core.s = box.s
    core.length = box.length - r
    core.width = box.width - r
    return core


@wp.func
def rounded_separation(a: Box, b: Box) -> float:
    """Signed distance of two boxes with rounded corners, m; negative: how deep they overlap."""
    inner_a = _core(a)
    inner_b = _core(b)
    apart = separation(inner_a, inner_b)
    if apart > 0.0:
        apart = wp.min(_from_corners(inner_a, inner_b), _from_corners(inner_b, inner_a))
    return apart - _radius(a) - _radius(b)


@wp.kernel(enable_backward=False)
def _measure(
    first: int,
    part: int,
    w: WorldArrays,
    agents: wp.array(dtype=wp.int32),
    steps: int,
    levels: wp.bool,
    wrapped: wp.bool,
    state: wp.array2d(dtype=wp.float32),
    z: wp.array(dtype=wp.float32),
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
    for k in range(2):
        out[item, k] = wp.nan
    if present[row]:
        me = box_at(w, state, row, i, 1.0)
        nearest = float(wp.inf)
        headway = float(wp.inf)
        leader = int(-1)
        world = w.world[i]
        for j in range(w.agent_start[world], w.agent_start[world + 1]):
            there = j * steps + t
            if j != i and present[there] and (not levels or same_level(w, i, z[row], j, z[there])):
                dx = state[there, 0] - me.x
                dy = state[there, 1] - me.y
                if wp.sqrt(dx * dx + dy * dy) - w.radius[i] - w.radius[j] < wp.max(nearest, headway):
                    other = box_at(w, state, there, j, 1.0)
                    nearest = wp.min(nearest, rounded_separation(me, other))
                    c = wp.abs(me.c * other.c + me.s * other.s)
                    s = wp.abs(me.c * other.s - me.s * other.c)
                    turned = wp.abs(state[there, 2] - state[row, 2])
                    if wrapped:
                        turned = turned - 2.0 * _PI * wp.floor(turned / (2.0 * _PI))
                        turned = wp.min(turned, 2.0 * _PI - turned)
                    d = in_frame(me.c, me.s, dx, dy)
                    gap = d[0] - me.length - other.length * c - other.width * s
                    aside = wp.abs(d[1]) - me.width - other.length * s - other.width * c
                    behind = turned <= _SAME_WAY and (aside < -_AT_THE_EDGE or turned <= _SAME_LANE)
                    if behind and aside < 0.0 and gap > 0.0 and gap < headway:
                        headway = gap
                        leader = there
        out[item, 0] = nearest
        ttc = float(_MAX_TTC)
        if leader >= 0:
            closing = speed[row] - speed[leader]
            if closing > 0.0:  # which no undefined speed is
                ttc = wp.min(headway / closing, _MAX_TTC)
        out[item, 1] = ttc


def clearances(
    worlds: Worlds,
    track: torch.Tensor,
    z: torch.Tensor,
    present: torch.Tensor,
    speed: torch.Tensor,
    theirs: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Distances and times to collision of the N controlled agents at each of T steps.

    Boxes have rounded corners for the distance, and sharp ones for the time. Whom an agent follows: the nearest whose
    rearmost corner lies ahead of its front and which is in the way of its box as it heads, if it heads at most 75
    degrees elsewhere; or 10, where at most 0.5 m of it are in the way (waymo-open-dataset 1.6.7).

    Args:
        worlds: where the agents are.
        track: [M, T, 5] x, y, heading, vx, vy of all agents.
        z: [M, T] m, heights of their centres.
        present: [M, T] bool, who is in its world when.
        speed: [M, T] m/s of all agents, NaN where unknown.
        theirs: as the challenge's scorer, for which all are on one level, and headings of 3 and -3 rad are 6 apart;
            otherwise boxes meet only where their heights do, and the smaller difference counts.

    Returns:
        Two tensors [N, T], NaN where an agent is not present: the signed distance of its box to the nearest other
        one (m; negative: how deep they overlap; infinite: there is none), and the time until it would touch the
        one that it follows if both kept their speed (s, at most 5; 5 too when there is none or a speed is unknown).
    """
    n, steps = len(worlds.controlled), track.shape[1]
    out = torch.empty(n * steps, 2, device=worlds.device)
    inputs = [
        worlds.arrays(),
        to_warp(worlds.controlled.to(torch.int32)),
        steps,
        not theirs,
        not theirs,
        to_warp(track.reshape(-1, 5).contiguous()),
        to_warp(z.flatten().contiguous()),
        to_warp(speed.flatten().contiguous()),
        to_warp(present.flatten().contiguous()),
        to_warp(out),
    ]
    launch(_measure, n * steps, inputs, worlds.device)
    nearest, ttc = out.view(n, steps, 2).unbind(dim=-1)
    return nearest, ttc
