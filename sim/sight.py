"""What an agent's rays and danger numbers meet: the road edges and the boxes around it that are on its level.

On its level is what a collision or an edge needs (:mod:`sim.heights`), and a little more for what is farther away,
since roads are no plane.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from gail_cli.sim.danger import approach_box, approach_edge, near_limit, start_danger, write_danger
from gail_cli.sim.geometry import Box, in_frame
from gail_cli.sim.heights import LEVEL, height_at, height_of, least_apart
from gail_cli.sim.launch import wp
from gail_cli.sim.near import curvature_to
from gail_cli.sim.rays import cast, cast_box, start_rays, write_rays
from gail_cli.sim.roads import ROAD_EDGE, RoadGrid, along_segment, cell_at
from gail_cli.sim.worlds import WorldArrays

GRADE = wp.constant(wp.float32(0.06))
"""A road rises by so much for each metre: the steepest grade of main roads (AASHTO, A Policy on Geometric Design of
Highways and Streets)."""
_JOINT = wp.constant(wp.float32(0.01))
"""Edges are so much longer at both ends for rays, which else could slip through between two of them, m."""
_FIRST_BOX = wp.constant(64)
"""Rays of boxes follow those of edges, each in two scales."""


@wp.struct
class Sight:
    """Which of these fields there are, and how far an agent sees."""

    radius: float
    goal: wp.bool
    rays: int
    """Column of the first ray; -1: none."""
    danger: int
    """Column of the first danger number; -1: none."""


@wp.struct
class States:
    """Absolute states of agents, addressed as ``row = base + agent * stride``; also tracks, with the step in base."""

    state: wp.array2d(dtype=wp.float32)
    present: wp.array(dtype=wp.bool)
    collided: wp.array(dtype=wp.bool)
    z: wp.array(dtype=wp.float32)
    """Heights of the middles of their boxes, m; empty: those of the logs, see :func:`sim.heights.height_at`."""
    stride: int


@wp.struct
class EgoFrame:
    """The frame in which an agent observes: its position and heading."""

    x: float
    y: float
    heading: float
    c: float
    s: float


@wp.func
def _height(w: WorldArrays, v: States, agent: int, row: int) -> float:
    z = 0.0
    if v.z.shape[0] > 0:
        z = v.z[row]
    else:
        z = height_at(w, agent, v.state[row, 0], v.state[row, 1])
    return z


@wp.func
def _see_edges(
    w: WorldArrays,
    edges: RoadGrid,
    sight: Sight,
    ego: EgoFrame,
    map: int,
    own: wp.vec3,
    ground: float,
    poses: wp.array(dtype=wp.float32),
    out: wp.array(dtype=wp.float32),
):
    limit = near_limit(wp.length(wp.vec2(own[0], own[1])))
    cell = cell_at(edges, map, ego.x, ego.y)
    if cell >= 0:
        for k in range(edges.start[cell], edges.start[cell + 1]):
            id = edges.item[k]
            if w.segment_type[id] == ROAD_EDGE:
                s = w.segment[id]
                along = along_segment(s, ego.x, ego.y)
                dx = s[0] + along * s[5] - ego.x
                dy = s[1] + along * s[6] - ego.y
                square = dx * dx + dy * dy
                if square <= sight.radius * sight.radius:
                    distance = wp.sqrt(square)
                    z = height_of(s, w.segment_z[id, 0], w.segment_z[id, 1], along)
                    if wp.abs(z - ground) <= LEVEL + GRADE * distance:
                        m = in_frame(ego.c, ego.s, s[0] - ego.x, s[1] - ego.y)
                        u = in_frame(ego.c, ego.s, s[5], s[6])
                        if sight.rays >= 0:
                            cast(out, sight.rays, m[0], m[1], u[0], u[1], s[2] + _JOINT, wp.max(distance - _JOINT, 0.0))
                        if sight.danger >= 0:
                            approach_edge(poses, own[0], own[1], limit, m[0], m[1], u[0], u[1], s[2], out, sight.danger)


@wp.func
def _see_boxes(
    w: WorldArrays,
    v: States,
    sight: Sight,
    ego: EgoFrame,
    agent: int,
    own: wp.vec3,
    curvature: float,
    z: float,
    seen_base: int,
    poses: wp.array(dtype=wp.float32),
    out: wp.array(dtype=wp.float32),
):
    world = w.world[agent]
    for other in range(w.agent_start[world], w.agent_start[world + 1]):
        row = seen_base + other * v.stride
        if other != agent and v.present[row]:
            p = in_frame(ego.c, ego.s, v.state[row, 0] - ego.x, v.state[row, 1] - ego.y)
            square = wp.dot(p, p)
            if square <= sight.radius * sight.radius:
                apart = wp.abs(_height(w, v, other, row) - z)
                if apart <= least_apart(w, agent, other) + GRADE * wp.sqrt(square):
                    turn = v.state[row, 2] - ego.heading
                    box = Box()
                    box.x = p[0]
                    box.y = p[1]
                    box.c = wp.cos(turn)
                    box.s = wp.sin(turn)
                    box.length = 0.5 * w.size[other, 0]
                    box.width = 0.5 * w.size[other, 1]
                    if sight.rays >= 0:
                        cast_box(out, sight.rays + _FIRST_BOX, box)
                    if sight.danger >= 0:
                        velocity = in_frame(ego.c, ego.s, v.state[row, 3], v.state[row, 4])
                        approach_box(poses, own, curvature, box, velocity, out, sight.danger)


@wp.func
def look_around(
    w: WorldArrays,
    edges: RoadGrid,
    v: States,
    sight: Sight,
    ego: EgoFrame,
    agent: int,
    row: int,
    seen_base: int,
    speed: float,
    scratch: wp.array(dtype=wp.float32),
    out: wp.array(dtype=wp.float32),
):
    """Write rays and danger numbers of an agent, itself in ``row`` and others from ``seen_base`` on.

    Args:
        w, edges, v: the world, its edges, and where everybody is.
        sight: what to write where.
        ego, agent, row, seen_base: who looks from where at whom.
        speed: its own, signed, m/s.
        scratch: memory for 84 floats.
        out: the observation.
    """
    if sight.rays >= 0 or sight.danger >= 0:
        own = wp.vec3(0.5 * w.size[agent, 0], 0.5 * w.size[agent, 1], speed)
        curvature = 0.0
        if sight.goal:
            goal = in_frame(ego.c, ego.s, w.goal[agent, 0] - ego.x, w.goal[agent, 1] - ego.y)
            curvature = curvature_to(goal[0], goal[1])
        if sight.rays >= 0:
            start_rays(out, sight.rays)
        if sight.danger >= 0:
            start_danger(own, curvature, scratch, out, sight.danger)
        z = _height(w, v, agent, row)
        _see_edges(w, edges, sight, ego, w.map[w.world[agent]], own, z - w.lift[agent], scratch, out)
        _see_boxes(w, v, sight, ego, agent, own, curvature, z, seen_base, scratch, out)
        if sight.rays >= 0:
            write_rays(out, sight.rays, own[0], own[1], sight.radius)
        if sight.danger >= 0:
            write_danger(out, sight.danger, speed, sight.radius)
