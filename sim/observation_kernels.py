"""The kernel of observations: what one agent sees, written into its row of floats.

:class:`~sim.observation.Observer` starts it; the layouts are in :mod:`sim.layout`.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from enum import IntEnum

from gail_cli.sim.dynamics import speed_of
from gail_cli.sim.geometry import in_frame
from gail_cli.sim.history import History, write_own_history, write_partner_history
from gail_cli.sim.launch import wp
from gail_cli.sim.lights import kind_of_state, state_at
from gail_cli.sim.near import write_near_ego, write_near_partner, write_near_road
from gail_cli.sim.roads import STOP_SIGN, RoadGrid, Segment, along_segment, cell_at
from gail_cli.sim.route_fields import Routes, write_route
from gail_cli.sim.scenario import DT, LightState
from gail_cli.sim.sight import EgoFrame, Sight, States, look_around
from gail_cli.sim.worlds import REMOVED_POSITION, WorldArrays


class RoadOrder(IntEnum):
    """The choices of :attr:`~sim.layout.ObservationConfig.road_order`."""

    FIRST = 0
    NEAREST = 1
    NEAREST_MIDPOINT = 2
    AHEAD = 3


_FIRST = wp.constant(int(RoadOrder.FIRST))
_MIDPOINT = wp.constant(int(RoadOrder.NEAREST_MIDPOINT))
_AHEAD = wp.constant(int(RoadOrder.AHEAD))
_THIRD = wp.constant(wp.float32(0.33333333))
_TWICE = wp.constant(wp.float32(2.0))
_REMOVED = wp.constant(wp.float32(REMOVED_POSITION))
_SAME_WAY = wp.constant(wp.float32(0.5))
"""Cosine of 60 degrees: a lane that goes an agent's way heads no further away than this."""
_ABSENT = wp.constant(int(LightState.ABSENT))
_TURNS_PER_RADIAN = wp.constant(wp.float32(0.15915494309189535))


@wp.struct
class Layout:
    """:class:`~sim.layout.ObservationConfig` as a kernel sees it."""

    gpudrive: wp.bool
    goal: wp.bool
    time_left: wp.bool
    near: wp.bool
    history: int
    sight: Sight
    route: int
    """Column of the first field of the route; -1: none."""
    partners: int
    roads: int
    radius: float
    order: int
    ego_fields: int
    partner_fields: int
    road_fields: int
    first_road: int
    lights: int
    light_fields: int
    first_light: int
    scratch_per_part: wp.bool
    """On a CPU the agents of a part observe one by one and share scratch memory; on CUDA each has its own."""


@wp.struct
class SourceArrays:
    """What observations of some worlds are made from."""

    worlds: WorldArrays
    grid: RoadGrid
    edges: RoadGrid
    routes: Routes
    states: States
    rows_per_step: int
    """Rows of states from one step to the next."""
    seen: int
    """Rows from an agent's own state to the one that others observe: 0 except in single-agent worlds."""
    history: History


# Written in C++, like the stores below: on plain pointers it takes half the time.
@wp.func_native("""
    if (n == 0) return 0;
    float* d = distance.data;
    int* id = index.data;
    int* start = id + 2 * n;  // here the buckets' bounds are kept
    const float scale = (float)n / most;
    for (int b = 0; b <= n; ++b) start[b] = 0;
    for (int k = 0; k < n; ++k) {
        const int b = (int)(d[k] * scale);
        ++start[(b < n - 1 ? b : n - 1) + 1];
    }
    int full = 0;  // buckets that the limit nearest lie in
    while (full < n && start[full] < limit) {
        ++full;
        start[full] += start[full - 1];
    }
    const int kept = start[full];
    for (int k = 0; k < n; ++k) {
        int b = (int)(d[k] * scale);
        b = b < n - 1 ? b : n - 1;
        if (b < full) {
            const int to = n + start[b]++;
            d[to] = d[k];
            id[to] = id[k];
        }
    }
    for (int k = n + 1; k < n + kept; ++k) {
        const float dk = d[k];
        const int ik = id[k];
        int j = k;
        for (; j > n && d[j - 1] > dk; --j) {
            d[j] = d[j - 1];
            id[j] = id[j - 1];
        }
        d[j] = dk;
        id[j] = ik;
    }
    return n;
""")
def _rank(  # type: ignore[empty-body]
    distance: wp.array(dtype=wp.float32), index: wp.array(dtype=wp.int32), n: int, limit: int, most: float
) -> int:
    """Sort the ``limit`` nearest of entries 0 .. n-1 by squared distances up to ``most``; the place (n) of the first.

    A bucket sort in which equal ones stay in order: n buckets, rings of equal area that so hold about one entry each.
    """
    ...


@wp.func
def _fraction_of_turn(angle: float) -> float:
    """A difference of headings (rad) as a fraction of a turn, in [-0.5, 0.5]."""
    turns = angle * _TURNS_PER_RADIAN
    return turns - wp.floor(turns + 0.5)


@wp.func
def _speed(v: States, row: int) -> float:
    return wp.sqrt(v.state[row, 3] * v.state[row, 3] + v.state[row, 4] * v.state[row, 4])


@wp.func
def _write_ego(
    w: WorldArrays,
    v: States,
    layout: Layout,
    ego: EgoFrame,
    agent: int,
    row: int,
    time_left: float,
    out: wp.array(dtype=wp.float32),
):
    dx = w.goal[agent, 0] - ego.x
    dy = w.goal[agent, 1] - ego.y
    goal = in_frame(ego.c, ego.s, dx, dy)
    if layout.gpudrive:
        out[0] = _speed(v, row) / 100.0
        out[1] = 0.7 * w.size[agent, 0] / 30.0
        out[2] = 0.7 * w.size[agent, 1] / 15.0
        out[3] = goal[0] / 1000.0
        out[4] = goal[1] / 1000.0
        out[5] = wp.where(v.collided[agent], 1.0, 0.0)
    else:
        distance = wp.sqrt(dx * dx + dy * dy)
        out[0] = speed_of(ego.c, ego.s, v.state[row, 3], v.state[row, 4], True) / 20.0
        out[1] = w.size[agent, 0] / 10.0
        out[2] = w.size[agent, 1] / 5.0
        out[3] = goal[0] / 50.0
        out[4] = goal[1] / 50.0
        out[5] = distance / 50.0
        out[6] = wp.min(distance / wp.max(time_left, DT) / 20.0, 2.0)
        out[7] = time_left / 9.0
        if not layout.goal:
            _store_zeros(out, 3, 7)
        if not layout.time_left:
            _store_zeros(out, 6, 8)
        if layout.near:
            speed = speed_of(ego.c, ego.s, v.state[row, 3], v.state[row, 4], True)
            write_near_ego(goal, speed, time_left, layout.goal, layout.time_left, out, 8)


@wp.func
def _write_partner(
    w: WorldArrays,
    v: States,
    layout: Layout,
    ego: EgoFrame,
    agent: int,
    me: int,
    other: int,
    row: int,
    out: wp.array(dtype=wp.float32),
    col: int,
):
    p = in_frame(ego.c, ego.s, v.state[row, 0] - ego.x, v.state[row, 1] - ego.y)
    turn = v.state[row, 2] - ego.heading
    if layout.gpudrive:
        out[col] = _speed(v, row) / 100.0
        out[col + 1] = p[0] / 1000.0
        out[col + 2] = p[1] / 1000.0
        out[col + 3] = _fraction_of_turn(turn)
        out[col + 4] = 0.7 * w.size[other, 0] / 30.0
        out[col + 5] = 0.7 * w.size[other, 1] / 15.0
    else:
        velocity = in_frame(ego.c, ego.s, v.state[row, 3] - v.state[me, 3], v.state[row, 4] - v.state[me, 4])
        out[col] = w.size[other, 0] / 10.0
        out[col + 1] = w.size[other, 1] / 5.0
        out[col + 2] = p[0] / layout.radius
        out[col + 3] = p[1] / layout.radius
        out[col + 4] = wp.cos(turn)
        out[col + 5] = wp.sin(turn)
        out[col + 6] = velocity[0] / 20.0
        out[col + 7] = velocity[1] / 20.0
        if layout.near:
            half = wp.vec2(0.5 * w.size[other, 0], 0.5 * w.size[other, 1])
            own = wp.vec2(0.5 * w.size[agent, 0], 0.5 * w.size[agent, 1])
            write_near_partner(p, velocity, wp.cos(turn), wp.sin(turn), half, own, out, col + 8)


# Written in C++, since plain stores to consecutive floats take half the time of Warp's strided ones, and most of an
# observation is road rows. A row is six numbers, room for the near fields, and the
# one-hot of the type.
@wp.func_native("""
    float* p = out.data + col;
    p[0] = x; p[1] = y; p[2] = a; p[3] = b; p[4] = c; p[5] = d;
    for (int k = 0; k < 7; ++k) p[first + k] = 0.0f;
    p[first + kind] = 1.0f;
""")
def _store_road(
    out: wp.array(dtype=wp.float32), col: int, first: int,
    x: float, y: float, a: float, b: float, c: float, d: float, kind: int,
): ...  # fmt: skip


@wp.func_native("for (float* p = out.data + first; p < out.data + last; ++p) *p = 0.0f;")
def _store_zeros(out: wp.array(dtype=wp.float32), first: int, last: int): ...


@wp.func
def _write_road(
    layout: Layout, ego: EgoFrame, own: wp.vec2, s: Segment, kind: int, out: wp.array(dtype=wp.float32), col: int
):
    first = layout.road_fields - 7  # of the type
    along = float(0.0)
    if not layout.gpudrive:
        along = along_segment(s, ego.x, ego.y)
    p = in_frame(ego.c, ego.s, s[0] + along * s[5] - ego.x, s[1] + along * s[6] - ego.y)
    if layout.gpudrive:
        half_height = wp.where(kind == STOP_SIGN, 1.0, 0.1)
        turn = _fraction_of_turn(s[4] - ego.heading)
        _store_road(
            out, col, first, p[0] * 0.001, p[1] * 0.001, s[2] * 0.01, s[3] * 0.01, half_height * 0.01, turn, kind
        )
    else:
        k = 1.0 / layout.radius
        ahead = in_frame(ego.c, ego.s, s[5], s[6])
        _store_road(
            out, col, first, p[0] * k, p[1] * k, ahead[0], ahead[1], (s[2] - along) * k, (s[2] + along) * k, kind
        )
        if layout.near:
            write_near_road(out, col + 6, p[0], p[1], own[0], own[1])


@wp.func
def _write_partners(
    w: WorldArrays,
    v: States,
    history: History,
    layout: Layout,
    ego: EgoFrame,
    agent: int,
    step: int,
    base: int,
    seen_base: int,
    distance: wp.array(dtype=wp.float32),
    index: wp.array(dtype=wp.int32),
    out: wp.array(dtype=wp.float32),
):
    """The partners' block: in agent order (GPUDrive), or the nearest first."""
    world = w.world[agent]
    me = base + agent * v.stride
    reach = layout.radius * layout.radius
    n = int(0)
    for other in range(w.agent_start[world], w.agent_start[world + 1]):
        row = seen_base + other * v.stride
        seen = v.present[row]
        if layout.gpudrive and not v.present[me]:
            seen = v.state[row, 0] == _REMOVED  # GPUDrive's removed agents see each other where they all are
        if other != agent and seen:
            dx = v.state[row, 0] - ego.x
            dy = v.state[row, 1] - ego.y
            d = dx * dx + dy * dy
            if d <= reach:
                distance[n] = d
                index[n] = other
                n += 1
    begin = int(0)
    if not layout.gpudrive:
        begin = _rank(distance, index, n, layout.partners, reach)
    n = wp.min(n, layout.partners)
    for k in range(n):
        other = index[begin + k]
        col = layout.ego_fields + k * layout.partner_fields
        _write_partner(w, v, layout, ego, agent, me, other, seen_base + other * v.stride, out, col)
        if layout.history > 0:
            write_partner_history(history, other, step, out, col + layout.partner_fields - 2)
    _store_zeros(out, layout.ego_fields + n * layout.partner_fields, layout.first_road)


@wp.func
def _along_the_way(ego: EgoFrame, speed: float, dx: float, dy: float) -> float:
    """A squared distance in which what lies ahead, as one drives, counts a third, and what lies behind twice."""
    p = in_frame(ego.c, ego.s, dx, dy)
    ahead = wp.where(speed < 0.0, -p[0], p[0])
    ahead *= wp.where(ahead > 0.0, _THIRD, _TWICE)
    return ahead * ahead + p[1] * p[1]


@wp.func
def _write_roads(
    w: WorldArrays,
    g: RoadGrid,
    layout: Layout,
    ego: EgoFrame,
    map: int,
    own: wp.vec2,
    speed: float,
    distance: wp.array(dtype=wp.float32),
    index: wp.array(dtype=wp.int32),
    out: wp.array(dtype=wp.float32),
):
    """The roads' block, of an agent with these half sides that goes at this signed speed."""
    most = wp.where(layout.order == _AHEAD, _TWICE * _TWICE, 1.0)
    reach = layout.radius * layout.radius
    n = int(0)
    cell = cell_at(g, map, ego.x, ego.y)
    if cell >= 0:
        for k in range(g.start[cell], g.start[cell + 1]):
            id = g.item[k]
            s = w.segment[id]
            along = float(0.0)
            if layout.order != _FIRST and layout.order != _MIDPOINT:
                along = along_segment(s, ego.x, ego.y)
            dx = s[0] + along * s[5] - ego.x
            dy = s[1] + along * s[6] - ego.y
            d = dx * dx + dy * dy
            if d <= reach:
                if layout.order == _AHEAD:
                    d = _along_the_way(ego, speed, dx, dy)
                if layout.order != _FIRST:
                    distance[n] = d
                    index[n] = id
                    n += 1
                elif n == layout.roads:
                    break
                else:
                    col = layout.first_road + n * layout.road_fields
                    _write_road(layout, ego, own, s, w.segment_type[id], out, col)
                    n += 1
    if layout.order != _FIRST:
        begin = _rank(distance, index, n, layout.roads, most * reach)
        n = wp.min(n, layout.roads)
        for k in range(n):
            id = index[begin + k]
            col = layout.first_road + k * layout.road_fields
            _write_road(layout, ego, own, w.segment[id], w.segment_type[id], out, col)
    _store_zeros(out, layout.first_road + n * layout.road_fields, layout.first_road + layout.roads * layout.road_fields)
    for k in range(n, layout.roads):
        out[layout.first_road + (k + 1) * layout.road_fields - 7] = 1.0  # type none


@wp.func
def _write_lights(
    w: WorldArrays,
    layout: Layout,
    ego: EgoFrame,
    map: int,
    step: int,
    distance: wp.array(dtype=wp.float32),
    index: wp.array(dtype=wp.int32),
    out: wp.array(dtype=wp.float32),
):
    """The lights' block: who must obey which is not known, so those ahead for the agent's way come first."""
    first = w.lights.start[map]
    last = w.lights.start[map + 1]
    n = int(0)
    begin = int(0)
    if last > first:
        reach = layout.radius * layout.radius
        for k in range(first, last):
            if state_at(w.lights, k, step) != _ABSENT:
                dx = w.lights.place[k, 0] - ego.x
                dy = w.lights.place[k, 1] - ego.y
                d = dx * dx + dy * dy
                if d <= reach:
                    c = w.lights.place[k, 2]
                    s = w.lights.place[k, 3]
                    same_way = c * ego.c + s * ego.s > _SAME_WAY or (c == 0.0 and s == 0.0)
                    ahead = dx * ego.c + dy * ego.s >= 0.0
                    distance[n] = wp.where(same_way and ahead, d, d + reach)
                    index[n] = k
                    n += 1
        begin = _rank(distance, index, n, layout.lights, 2.0 * reach)
        n = wp.min(n, layout.lights)
        for j in range(n):
            k = index[begin + j]
            col = layout.first_light + j * layout.light_fields
            p = in_frame(ego.c, ego.s, w.lights.place[k, 0] - ego.x, w.lights.place[k, 1] - ego.y)
            lane = in_frame(ego.c, ego.s, w.lights.place[k, 2], w.lights.place[k, 3])
            _store_zeros(out, col, col + layout.light_fields)
            out[col] = p[0] / layout.radius
            out[col + 1] = p[1] / layout.radius
            out[col + 2] = lane[0]
            out[col + 3] = lane[1]
            out[col + 4 + kind_of_state(state_at(w.lights, k, step))] = 1.0
    _store_zeros(out, layout.first_light + n * layout.light_fields, out.shape[0])


@wp.func
def _observe_agent(
    w: WorldArrays,
    g: RoadGrid,
    edges: RoadGrid,
    routes: Routes,
    v: States,
    history: History,
    layout: Layout,
    agent: int,
    step: int,
    base: int,
    seen_base: int,
    time_left: float,
    distance: wp.array(dtype=wp.float32),
    index: wp.array(dtype=wp.int32),
    out: wp.array(dtype=wp.float32),
):
    """The observation of one agent at a step, itself at ``base`` and others at ``seen_base``, with its part's scratch
    memory."""
    me = base + agent * v.stride
    ego = EgoFrame()
    ego.x = v.state[me, 0]
    ego.y = v.state[me, 1]
    ego.heading = v.state[me, 2]
    ego.c = wp.cos(ego.heading)
    ego.s = wp.sin(ego.heading)
    _write_ego(w, v, layout, ego, agent, me, time_left, out)
    _write_partners(w, v, history, layout, ego, agent, step, base, seen_base, distance, index, out)
    map = w.map[w.world[agent]]
    speed = speed_of(ego.c, ego.s, v.state[me, 3], v.state[me, 4], True)
    own = wp.vec2(0.5 * w.size[agent, 0], 0.5 * w.size[agent, 1])
    _write_roads(w, g, layout, ego, map, own, speed, distance, index, out)
    if layout.lights > 0:
        _write_lights(w, layout, ego, map, step, distance, index, out)
    look_around(w, edges, v, layout.sight, ego, agent, me, seen_base, speed, distance, out)
    if layout.route >= 0:
        write_route(routes, agent, ego.x, ego.y, ego.c, ego.s, out, layout.route)
    if layout.history > 0:
        write_own_history(history, layout.history, agent, step, out, layout.ego_fields - 2 * layout.history)


@wp.kernel(enable_backward=False)
def observe(
    first: int,
    part: int,
    w: WorldArrays,
    g: RoadGrid,
    edges: RoadGrid,
    routes: Routes,
    v: States,
    seen: int,
    history: History,
    layout: Layout,
    agents: wp.array(dtype=wp.int32),
    step: wp.array(dtype=wp.int32),
    rows_per_step: int,
    time_left: wp.array(dtype=wp.float32),
    which: wp.array(dtype=wp.bool),
    distance: wp.array2d(dtype=wp.float32),
    index: wp.array2d(dtype=wp.int32),
    out: wp.array2d(dtype=wp.float32),
):
    """Write what agent ``agents[q]`` sees at ``step[q]`` into row ``q`` of ``out`` [Q, D], if its world is one of
    ``which`` [W].

    Others are seen ``seen`` rows of states further on.
    """
    q = first + wp.tid()
    if which[w.world[agents[q]]]:
        h = wp.where(layout.scratch_per_part, part, q)
        base = step[q] * rows_per_step
        _observe_agent(
            w, g, edges, routes, v, history, layout, agents[q], step[q], base, base + seen, time_left[q], distance[h],
            index[h], out[q],
        )  # fmt: skip


@wp.kernel(enable_backward=False)
def observe_pool(
    first: int,
    part: int,
    sources: wp.array(dtype=SourceArrays),
    layout: Layout,
    query: wp.array2d(dtype=wp.int32),
    time_left: wp.array(dtype=wp.float32),
    distance: wp.array2d(dtype=wp.float32),
    index: wp.array2d(dtype=wp.int32),
    out: wp.array2d(dtype=wp.float32),
):
    """Write what agents of several sources see: a query [Q, 4] is (source, agent, step, row of ``out``).

    Rows of a step below zero become zeros.
    """
    q = first + wp.tid()
    row = out[query[q, 3]]
    if query[q, 2] < 0:
        _store_zeros(row, 0, row.shape[0])
    else:
        h = wp.where(layout.scratch_per_part, part, q)
        k = query[q, 0]
        base = query[q, 2] * sources[k].rows_per_step
        _observe_agent(
            sources[k].worlds, sources[k].grid, sources[k].edges, sources[k].routes, sources[k].states,
            sources[k].history, layout,
            query[q, 1], query[q, 2], base, base + sources[k].seen, time_left[q], distance[h], index[h], row,
        )  # fmt: skip
