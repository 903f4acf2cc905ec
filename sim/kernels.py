"""The kernels that make a step: every agent moves, then every agent is tested for what it touches.

Order and rules are GPUDrive's (src/sim.cpp); where GPUDrive surprises, a switch of :class:`~sim.config.SimConfig`
chooses between its behaviour and the corrected one.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from enum import IntEnum

from gail_cli.sim.dynamics import Action, State, advance
from gail_cli.sim.geometry import Box, corner_of, overlap
from gail_cli.sim.heights import STRETCH, height_at, meets, meets_segment, nearer_edge, signed_distance
from gail_cli.sim.launch import wp
from gail_cli.sim.lights import runs_red_light
from gail_cli.sim.roads import ROAD_EDGE, STOP_SIGN, RoadGrid, cell_at
from gail_cli.sim.scenario import DT
from gail_cli.sim.worlds import REMOVED_POSITION, WorldArrays


class Event(IntEnum):
    """Columns of the event flags."""

    OFF_ROAD = 0
    VEHICLE = 1
    NON_VEHICLE = 2
    GOAL = 3
    RED_LIGHT = 4


class EventResponse(IntEnum):
    """What follows a collision or the goal."""

    IGNORE = 0
    STOP = 1
    REMOVE = 2


IGNORE = wp.constant(int(EventResponse.IGNORE))
STOP = wp.constant(int(EventResponse.STOP))
REMOVE = wp.constant(int(EventResponse.REMOVE))
OFF_ROAD = wp.constant(int(Event.OFF_ROAD))
VEHICLE = wp.constant(int(Event.VEHICLE))
NON_VEHICLE = wp.constant(int(Event.NON_VEHICLE))
GOAL = wp.constant(int(Event.GOAL))
RED_LIGHT = wp.constant(int(Event.RED_LIGHT))
_EVENTS = wp.constant(len(Event))
_VEHICLE_TYPE = wp.constant(1)
_CYCLIST_TYPE = wp.constant(3)
_REMOVED = wp.constant(wp.float32(REMOVED_POSITION))
_DT = wp.constant(wp.float32(DT))


@wp.struct
class Rules:
    """The switches of :class:`~sim.config.SimConfig` as a kernel sees them."""

    dynamics: int
    reverse: wp.bool
    on_collision: int
    on_goal: int
    goal_radius: float
    box_scale: float
    outside: wp.bool
    heights: wp.bool
    replay_lag: wp.bool
    end_with_log: wp.bool
    teleport: wp.bool
    weighted: wp.bool
    collision_weight: float
    goal_weight: float
    off_road_weight: float
    red_light_weight: float


@wp.struct
class AgentArrays:
    """What changes in a step; M agents, of which N are controlled, in W worlds."""

    state: wp.array2d(dtype=wp.float32)
    present: wp.array(dtype=wp.bool)
    collided: wp.array(dtype=wp.bool)
    done: wp.array(dtype=wp.bool)
    events: wp.array2d(dtype=wp.bool)
    arrived: wp.array(dtype=wp.bool)
    """[M] has been at its goal in this episode."""
    step: wp.array(dtype=wp.int32)
    now: wp.array(dtype=wp.int32)
    """[N] the same of the controlled agents."""
    reward: wp.array(dtype=wp.float32)
    fault: wp.array(dtype=wp.float32)
    """[M] share in the contacts of the step."""
    end: wp.array(dtype=wp.int32)
    """[N] step at which the episode is cut off."""
    alive: wp.array(dtype=wp.bool)
    terminated: wp.array(dtype=wp.bool)
    truncated: wp.array(dtype=wp.bool)
    time_left: wp.array(dtype=wp.float32)


@wp.func
def _set_state(a: AgentArrays, i: int, s: State):
    for k in range(5):
        a.state[i, k] = s[k]


@wp.func
def _logged(w: WorldArrays, row: int) -> State:
    return State(w.log[row, 0], w.log[row, 1], w.log[row, 2], w.log[row, 3], w.log[row, 4])


@wp.func
def _follow_log(w: WorldArrays, a: AgentArrays, rules: Rules, i: int, step: int):
    index = wp.where(rules.replay_lag, step - 1, step)
    index = wp.min(index, w.steps - 1)
    row = i * w.steps + index
    a.present[i] = w.valid[row]
    if w.valid[row]:
        _set_state(a, i, _logged(w, row))


@wp.func
def _remove(a: AgentArrays, i: int):
    a.present[i] = False
    _set_state(a, i, State(_REMOVED, _REMOVED, a.state[i, 2], 0.0, 0.0))


@wp.func
def _halt(a: AgentArrays, i: int):
    a.state[i, 3] = 0.0
    a.state[i, 4] = 0.0


@wp.kernel(enable_backward=False)
def restart(first: int, part: int, w: WorldArrays, a: AgentArrays, rules: Rules, which: wp.array(dtype=wp.bool)):
    """Put agent ``i`` of the worlds ``which`` [W] back to the start of its log."""
    i = first + wp.tid()
    if which[w.world[i]]:
        row = i * w.steps
        a.step[i] = 0
        a.present[i] = w.valid[row]
        a.collided[i] = False
        a.done[i] = False
        a.arrived[i] = False
        for k in range(_EVENTS):
            a.events[i, k] = False
        _set_state(a, i, _logged(w, row))
        if w.parked[i]:
            _halt(a, i)
        n = w.slot[i]
        if n >= 0:
            a.alive[n] = a.end[n] > 0


@wp.kernel(enable_backward=False)
def move(first: int, part: int, w: WorldArrays, a: AgentArrays, rules: Rules, action: wp.array2d(dtype=wp.float32)):
    """Move agent ``i`` by one step; action [N, K] of the controlled ones."""
    i = first + wp.tid()
    step = a.step[i] + 1
    a.step[i] = step
    a.events[i, RED_LIGHT] = False
    before = wp.vec2(a.state[i, 0], a.state[i, 1])
    was_there = a.present[i]
    n = w.slot[i]
    if rules.on_collision == IGNORE:
        a.collided[i] = False
        for k in range(3):
            a.events[i, k] = False
    if not rules.teleport:
        a.events[i, GOAL] = False
    hit = a.collided[i]
    if hit:
        a.done[i] = True
    if rules.end_with_log and step > w.last_valid[i]:
        _remove(a, i)
    elif hit and rules.on_collision == REMOVE:
        _remove(a, i)
    elif w.parked[i]:
        if hit:
            _halt(a, i)
    elif a.done[i] and (rules.teleport or (not hit and rules.on_goal == REMOVE)):
        _remove(a, i)
    elif a.done[i]:
        _halt(a, i)
    elif n >= 0:
        s = State(a.state[i, 0], a.state[i, 1], a.state[i, 2], a.state[i, 3], a.state[i, 4])
        u = Action()
        for k in range(action.shape[1]):
            u[k] = action[n, k]
        _set_state(a, i, advance(rules.dynamics, rules.reverse, s, u, w.size[i, 0]))
    else:
        _follow_log(w, a, rules, i, step)
    map = w.map[w.world[i]]
    obeys = w.type[i] == _VEHICLE_TYPE and was_there and a.present[i] and not rules.teleport
    if obeys and w.lights.start[map + 1] > w.lights.start[map]:
        after = wp.vec2(a.state[i, 0], a.state[i, 1])
        a.events[i, RED_LIGHT] = runs_red_light(w.lights, w.segment, map, step, before, after)


@wp.func
def box_at(w: WorldArrays, state: wp.array2d(dtype=wp.float32), row: int, i: int, scale: float) -> Box:
    """The box of agent ``i``, its sides times ``scale``, where this row of states [R, 5] has it."""
    box = Box()
    box.x = state[row, 0]
    box.y = state[row, 1]
    box.c = wp.cos(state[row, 2])
    box.s = wp.sin(state[row, 2])
    box.length = 0.5 * scale * w.size[i, 0]
    box.width = 0.5 * scale * w.size[i, 1]
    return box


@wp.func
def _tangible(w: WorldArrays, a: AgentArrays, rules: Rules, i: int) -> bool:
    """Whether agent ``i`` can be touched; in GPUDrive, who is not controlled can not while its log is invalid."""
    logged = w.valid[i * w.steps + wp.clamp(a.step[i] - 1, 0, w.steps - 1)]
    return a.present[i] and (logged or w.slot[i] >= 0 or not rules.teleport)


@wp.func
def _share(a: AgentArrays, i: int, j: int, dx: float, dy: float) -> float:
    """The speed of agent ``i`` towards ``j``, which is (dx, dy) away, in the speed at which both come nearer."""
    far = wp.max(wp.sqrt(dx * dx + dy * dy), 1.0e-6)
    mine = wp.max((a.state[i, 3] * dx + a.state[i, 4] * dy) / far, 0.0)
    theirs = wp.max(-(a.state[j, 3] * dx + a.state[j, 4] * dy) / far, 0.0)
    return wp.where(mine + theirs > 1.0e-3, mine / (mine + theirs + 1.0e-9), 0.5)


@wp.func
def _touch_agents(w: WorldArrays, a: AgentArrays, rules: Rules, i: int, me: Box):
    """Flags of agent ``i`` for the agents that its box touches."""
    world = w.world[i]
    scale = rules.box_scale
    for j in range(w.agent_start[world], w.agent_start[world + 1]):
        if j != i and _tangible(w, a, rules, j) and not (w.parked[i] and w.parked[j]):
            dx = a.state[j, 0] - me.x
            dy = a.state[j, 1] - me.y
            reach = scale * (w.radius[i] + w.radius[j]) + 1.0e-3
            if dx * dx + dy * dy <= reach * reach:
                if overlap(me, box_at(w, a.state, j, j, scale)) and (
                    not rules.heights or meets(w, i, me, j, wp.vec2(a.state[j, 0], a.state[j, 1]))
                ):
                    a.events[i, wp.where(w.type[j] == _VEHICLE_TYPE, VEHICLE, NON_VEHICLE)] = True
                    a.collided[i] = True
                    a.fault[i] = wp.max(a.fault[i], _share(a, i, j, dx, dy))


@wp.func
def _touches_road(w: WorldArrays, solid: RoadGrid, rules: Rules, i: int, me: Box) -> bool:
    """Whether the box of agent ``i`` touches a road edge (vehicles) or a stop sign.

    In GPUDrive, agents that are neither vehicle nor pedestrian nor cyclist touch every segment.
    """
    touches = bool(False)
    edges = w.type[i] == _VEHICLE_TYPE
    all = rules.teleport and (w.type[i] < _VEHICLE_TYPE or w.type[i] > _CYCLIST_TYPE)
    map = w.map[w.world[i]]
    cell = cell_at(solid, map, me.x, me.y)
    if cell >= 0:
        for k in range(solid.start[cell], solid.start[cell + 1]):
            if not touches:
                id = solid.item[k]
                kind = w.segment_type[id]
                if all or kind == STOP_SIGN or (edges and kind == ROAD_EDGE):
                    s = w.segment[id]
                    other = Box()
                    other.x = s[0]
                    other.y = s[1]
                    other.c = s[5]
                    other.s = s[6]
                    other.length = s[2]
                    other.width = s[3]
                    touches = overlap(me, other) and (not rules.heights or meets_segment(w, i, me, id))
    return touches


@wp.func
def edge_distance(w: WorldArrays, map: int, p: wp.vec3, stretch: float) -> float:
    """Signed distance (m) of a point to the nearest road edge, positive on its right, where there is no road.

    Waymo's definition (waymo-open-dataset, wdl_limited/sim_agents_metrics/map_metric_features.py): heights count
    ``stretch`` times, there three, when the nearest edge is chosen, and then no more.
    """
    best = wp.vec3(1.0e30, 1.0e30, -1.0)
    for k in range(w.map_start[map], w.map_start[map + 1]):
        if w.segment_type[k] == ROAD_EDGE:
            best = nearer_edge(best, w, k, p, stretch)
    return signed_distance(best)


@wp.func
def _leaves_road(w: WorldArrays, rules: Rules, i: int, me: Box) -> bool:
    """Whether a corner of the box lies beyond the nearest road edge."""
    map = w.map[w.world[i]]
    leaves = bool(False)
    stretch = wp.where(rules.heights, STRETCH, 0.0)
    ground = height_at(w, i, me.x, me.y) - w.lift[i]
    for corner in range(4):
        if not leaves:
            p = corner_of(me, corner)
            leaves = edge_distance(w, map, wp.vec3(p[0], p[1], ground), stretch) > 0.0
    return leaves


@wp.func
def _reward(a: AgentArrays, rules: Rules, i: int, at_goal: bool) -> float:
    # Who stays in the world at its goal is paid for arriving, not for waiting there.
    again = a.arrived[i] and not rules.teleport
    if rules.weighted:
        hits = wp.where(a.events[i, VEHICLE], 1.0, 0.0) + wp.where(a.events[i, NON_VEHICLE], 1.0, 0.0)
        goal = wp.where(a.events[i, GOAL] and not again, 1.0, 0.0)
        off = wp.where(a.events[i, OFF_ROAD], 1.0, 0.0)
        red = wp.where(a.events[i, RED_LIGHT], 1.0, 0.0)
        paid = rules.collision_weight * hits + rules.goal_weight * goal + rules.off_road_weight * off
        return paid + rules.red_light_weight * red
    return wp.where(at_goal and not again, 1.0, 0.0)


@wp.kernel(enable_backward=False)
def touch(
    first: int,
    part: int,
    w: WorldArrays,
    a: AgentArrays,
    rules: Rules,
    solid: RoadGrid,
    which: wp.array(dtype=wp.bool),
):
    """Set the flags of agent ``i`` of the worlds ``which`` [W] by what it touches now, and its reward."""
    i = first + wp.tid()
    if not which[w.world[i]]:
        return
    a.fault[i] = 0.0
    if _tangible(w, a, rules, i):
        me = box_at(w, a.state, i, i, rules.box_scale)
        _touch_agents(w, a, rules, i, me)
        if not w.parked[i]:
            off = bool(False)
            if not rules.outside:
                off = _touches_road(w, solid, rules, i, me)
            elif w.type[i] == _VEHICLE_TYPE:
                off = _leaves_road(w, rules, i, me)
            if off:
                a.events[i, OFF_ROAD] = True
                a.collided[i] = True
    dx = a.state[i, 0] - w.goal[i, 0]
    dy = a.state[i, 1] - w.goal[i, 1]
    at_goal = a.present[i] and dx * dx + dy * dy < rules.goal_radius * rules.goal_radius
    # As in GPUDrive, an agent that starts at its goal reaches it in the first step, not by being there.
    n = w.slot[i]
    if at_goal and a.step[i] > 0:
        a.events[i, GOAL] = True
        if rules.on_goal != IGNORE and (n >= 0 or rules.teleport):
            a.done[i] = True
    a.reward[i] = _reward(a, rules, i, at_goal)
    a.arrived[i] = a.arrived[i] or a.events[i, GOAL]


@wp.kernel(enable_backward=False)
def conclude(first: int, part: int, w: WorldArrays, a: AgentArrays, rules: Rules, agents: wp.array(dtype=wp.int32)):
    """Set whether the episode of controlled agent ``n`` ended in this step, by termination or by truncation."""
    n = first + wp.tid()
    i = agents[n]
    # GPUDrive learns of a collision only a step later
    ended = a.done[i] or (a.collided[i] and rules.on_collision != IGNORE and not rules.teleport)
    alive = a.alive[n]
    a.now[n] = a.step[i]
    started = a.step[i] > 0
    a.terminated[n] = started and alive and ended
    a.truncated[n] = started and alive and not ended and a.step[i] >= a.end[n]
    a.alive[n] = alive and not a.terminated[n] and not a.truncated[n]
    a.time_left[n] = float(wp.max(a.end[n] - a.step[i], 0)) * _DT
