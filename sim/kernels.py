"""The two kernels that make a step: every agent moves, then every agent is tested for what it touches.

Order and rules are GPUDrive's (src/sim.cpp); where GPUDrive surprises, a switch of :class:`~sim.env.SimConfig` chooses
between its behaviour and the corrected one.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from enum import IntEnum
from typing import Any

from sim.dynamics import Action, State, advance
from sim.launch import wp
from sim.worlds import WorldArrays


class Event(IntEnum):
    """Columns of the event flags."""

    OFF_ROAD = 0
    VEHICLE = 1
    NON_VEHICLE = 2
    GOAL = 3


class Then(IntEnum):
    """What follows a collision or the goal."""

    IGNORE = 0
    STOP = 1
    REMOVE = 2


IGNORE = wp.constant(int(Then.IGNORE))
STOP = wp.constant(int(Then.STOP))
REMOVE = wp.constant(int(Then.REMOVE))
OFF_ROAD = wp.constant(int(Event.OFF_ROAD))
VEHICLE = wp.constant(int(Event.VEHICLE))
NON_VEHICLE = wp.constant(int(Event.NON_VEHICLE))
GOAL = wp.constant(int(Event.GOAL))
_VEHICLE_TYPE = wp.constant(1)
_STOP_SIGN = wp.constant(6)
REMOVED_POSITION = -11000.0
"""Where GPUDrive puts removed agents, m."""
_REMOVED = wp.constant(wp.float32(REMOVED_POSITION))


@wp.struct
class Rules:
    """The switches of :class:`~sim.env.SimConfig` as a kernel sees them."""

    dynamics: int
    on_collision: int
    on_goal: int
    goal_radius: float
    box_scale: float
    replay_lag: wp.bool
    end_with_log: wp.bool
    teleport: wp.bool


@wp.struct
class AgentArrays:
    """What changes in a step; M agents, W worlds."""

    state: wp.array2d(dtype=wp.float32)
    present: wp.array(dtype=wp.bool)
    collided: wp.array(dtype=wp.bool)
    done: wp.array(dtype=wp.bool)
    events: wp.array2d(dtype=wp.bool)
    step: wp.array(dtype=wp.int32)


@wp.func
def _set_state(a: AgentArrays, i: int, s: State):
    for k in range(5):
        a.state[i, k] = s[k]


@wp.func
def _follow_log(w: WorldArrays, a: AgentArrays, rules: Rules, i: int, step: int):
    index = wp.where(rules.replay_lag, step - 1, step)
    index = wp.min(index, w.steps - 1)
    row = i * w.steps + index
    a.present[i] = w.valid[row]
    if w.valid[row]:
        _set_state(a, i, State(w.log[row, 0], w.log[row, 1], w.log[row, 2], w.log[row, 3], w.log[row, 4]))


@wp.func
def _remove(a: AgentArrays, i: int):
    a.present[i] = False
    _set_state(a, i, State(_REMOVED, _REMOVED, a.state[i, 2], 0.0, 0.0))


@wp.kernel(enable_backward=False)
def move(first: int, w: WorldArrays, a: AgentArrays, rules: Rules, action: wp.array2d(dtype=wp.float32)):
    """Move agent ``i`` to the step that its world's counter already shows."""
    i = first + wp.tid()
    step = a.step[w.world[i]]
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
            a.state[i, 3] = 0.0
            a.state[i, 4] = 0.0
    elif a.done[i] and (rules.teleport or (not hit and rules.on_goal == REMOVE)):
        _remove(a, i)
    elif a.done[i]:
        a.state[i, 3] = 0.0
        a.state[i, 4] = 0.0
    elif w.controlled[i]:
        s = State(a.state[i, 0], a.state[i, 1], a.state[i, 2], a.state[i, 3], a.state[i, 4])
        u = Action()
        for k in range(action.shape[1]):
            u[k] = action[i, k]
        _set_state(a, i, advance(rules.dynamics, s, u, w.size[i, 0]))
    else:
        _follow_log(w, a, rules, i, step)


@wp.func
def _overlap(
    ax: float, ay: float, ah: float, al: float, aw: float, bx: float, by: float, bh: float, bl: float, bw: float
) -> bool:
    """Whether two oriented boxes (centre, heading, half-length, half-width) touch; separating axis test."""
    dx = bx - ax
    dy = by - ay
    reach = wp.sqrt(al * al + aw * aw) + wp.sqrt(bl * bl + bw * bw)
    if dx * dx + dy * dy > reach * reach:
        return False
    ca = wp.cos(ah)
    sa = wp.sin(ah)
    cb = wp.cos(bh)
    sb = wp.sin(bh)
    c = wp.abs(ca * cb + sa * sb)
    s = wp.abs(ca * sb - sa * cb)
    return (
        wp.abs(dx * ca + dy * sa) <= al + bl * c + bw * s
        and wp.abs(dy * ca - dx * sa) <= aw + bl * s + bw * c
        and wp.abs(dx * cb + dy * sb) <= bl + al * c + aw * s
        and wp.abs(dy * cb - dx * sb) <= bw + al * s + aw * c
    )


@wp.func
def _touches_agent(w: WorldArrays, a: AgentArrays, scale: float, i: int, j: int) -> bool:
    half = 0.5 * scale
    return _overlap(
        a.state[i, 0], a.state[i, 1], a.state[i, 2], half * w.size[i, 0], half * w.size[i, 1],
        a.state[j, 0], a.state[j, 1], a.state[j, 2], half * w.size[j, 0], half * w.size[j, 1],
    )  # fmt: skip


@wp.func
def _touches_road(w: WorldArrays, a: AgentArrays, scale: float, i: int) -> bool:
    """Whether agent ``i`` touches a road edge (vehicles) or a stop sign."""
    half = 0.5 * scale
    world = w.world[i]
    for k in range(w.solid_start[world], w.solid_start[world + 1]):
        s = w.solid[k]
        if w.type[i] == _VEHICLE_TYPE or w.segment_type[s] == _STOP_SIGN:
            touches = _overlap(
                a.state[i, 0], a.state[i, 1], a.state[i, 2], half * w.size[i, 0], half * w.size[i, 1],
                w.segment[s, 0], w.segment[s, 1], w.segment[s, 4], w.segment[s, 2], w.segment[s, 3],
            )  # fmt: skip
            if touches:
                return True
    return False


@wp.kernel(enable_backward=False)
def touch(first: int, w: WorldArrays, a: AgentArrays, rules: Rules, hits: wp.array2d(dtype=wp.bool)):
    """What agent ``i`` touches now, into ``hits``; the flags of the step before stay readable for its neighbours."""
    i = first + wp.tid()
    for k in range(4):
        hits[i, k] = False
    if a.present[i]:
        world = w.world[i]
        for j in range(w.agent_start[world], w.agent_start[world + 1]):
            if j != i and a.present[j] and not (w.parked[i] and w.parked[j]):
                column = wp.where(w.type[j] == _VEHICLE_TYPE, VEHICLE, NON_VEHICLE)
                if not hits[i, column]:
                    hits[i, column] = _touches_agent(w, a, rules.box_scale, i, j)
        if not w.parked[i]:
            hits[i, OFF_ROAD] = _touches_road(w, a, rules.box_scale, i)
    dx = a.state[i, 0] - w.goal[i, 0]
    dy = a.state[i, 1] - w.goal[i, 1]
    # As in GPUDrive, an agent that starts at its goal reaches it in the first step, not by being there.
    moved = a.step[w.world[i]] > 0
    hits[i, GOAL] = moved and a.present[i] and dx * dx + dy * dy < rules.goal_radius * rules.goal_radius


@wp.kernel(enable_backward=False)
def settle(first: int, w: WorldArrays, a: AgentArrays, rules: Rules, hits: wp.array2d(dtype=wp.bool)):
    """Turn what agent ``i`` touches into its flags."""
    i = first + wp.tid()
    for k in range(4):
        if hits[i, k]:
            a.events[i, k] = True
            if k != GOAL:
                a.collided[i] = True
    if hits[i, GOAL] and rules.on_goal != IGNORE and (w.controlled[i] or rules.teleport):
        a.done[i] = True


def struct(kind: Any, **values: Any) -> Any:
    """A Warp struct filled by name."""
    result = kind()
    for name, value in values.items():
        setattr(result, name, value)
    return result
