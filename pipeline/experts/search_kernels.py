"""The kernel of the search for expert actions: one thread drives one agent along its log.

:mod:`pipeline.experts.search` starts it and says what it weighs.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from typing import Any

import numpy as np

from gail_cli.sim.actions import BICYCLE_MAX_ACCEL
from gail_cli.sim.dynamics import (
    BICYCLE,
    CLASSIC,
    DELTA_LOCAL,
    Action,
    State,
    advance,
    delta_local_inverse,
    speed_of,
    wrap,
)
from gail_cli.sim.geometry import in_frame
from gail_cli.sim.launch import wp
from gail_cli.sim.scenario import DT

MAX_LOOKAHEAD = 8

_Targets: Any = wp.types.matrix(shape=(MAX_LOOKAHEAD, 5), dtype=wp.float32)
_DT = wp.constant(wp.float32(DT))
_TURN = wp.constant(wp.float32(2 * np.pi))
_MAX_ACCEL = wp.constant(wp.float32(BICYCLE_MAX_ACCEL))
_MAX_CURVATURE = wp.constant(wp.float32(3.0))


@wp.struct
class Task:
    """What is common to B agents over T steps."""

    steps: int
    dynamics: int
    reverse: bool
    discrete: int
    refinements: int
    lookahead: int
    heading_scale: float
    tail: float
    speed_scale: float
    reverse_scale: float
    steering_weight: float
    target: wp.array2d(dtype=wp.float32)
    gear: wp.array(dtype=wp.float32)
    first: wp.array(dtype=wp.int32)
    last: wp.array(dtype=wp.int32)
    length: wp.array(dtype=wp.float32)
    grid_a: wp.array(dtype=wp.float32)
    grid_b: wp.array(dtype=wp.float32)
    grid_c: wp.array(dtype=wp.float32)
    low: wp.vec3
    high: wp.vec3


@wp.struct
class _Window:
    """The next targets of one agent in its own frame: x, y (of its tail while the log drives backwards), heading, speed
    in the log's gear, that gear."""

    ahead: int
    target: _Targets
    start: wp.vec4
    length: float
    tail: float


@wp.func
def _row(table: wp.array2d(dtype=wp.float32), i: int) -> State:
    return State(table[i, 0], table[i, 1], table[i, 2], table[i, 3], table[i, 4])


@wp.func
def _window(task: Task, i: int, step: int, s: State) -> _Window:
    window = _Window()
    window.ahead = wp.min(task.lookahead, task.last[i] - step)
    window.length = task.length[i]
    window.tail = task.tail * window.length
    c = wp.cos(s[2])
    si = wp.sin(s[2])
    speed = speed_of(c, si, s[3], s[4], task.reverse)
    window.start = wp.vec4(0.0, 0.0, 0.0, speed)
    if task.dynamics == BICYCLE:  # its first step follows the velocity, which need not point where the agent does
        velocity = in_frame(c, si, s[3], s[4])
        window.start = wp.vec4((velocity[0] - speed) * _DT, velocity[1] * _DT, 0.0, speed)
    for k in range(window.ahead):
        row = i * task.steps + step + 1 + k
        t = _row(task.target, row)
        p = in_frame(c, si, t[0] - s[0], t[1] - s[1])
        window.target[k, 0] = p[0]
        window.target[k, 1] = p[1]
        window.target[k, 2] = wrap(t[2] - s[2])
        gear = task.gear[row]
        window.target[k, 3] = gear * speed_of(wp.cos(t[2]), wp.sin(t[2]), t[3], t[4], task.reverse)
        window.target[k, 4] = gear
        if gear < 0.0:
            window.target[k, 0] -= window.tail * wp.cos(window.target[k, 2])
            window.target[k, 1] -= window.tail * wp.sin(window.target[k, 2])
    return window


@wp.func
def _arc(dynamics: int, u: wp.vec2, length: float) -> wp.vec3:
    """Acceleration, slip angle and curvature: what stays as it is while an action is held."""
    if dynamics == CLASSIC:
        tan_steering = wp.tan(u[1])
        slip = wp.atan(0.5 * tan_steering)
        return wp.vec3(u[0], slip, wp.cos(slip) * tan_steering / length)
    return wp.vec3(wp.clamp(u[0], -_MAX_ACCEL, _MAX_ACCEL), 0.0, wp.clamp(u[1], -_MAX_CURVATURE, _MAX_CURVATURE))


@wp.func
def _held(dynamics: int, reverse: bool, p: wp.vec4, arc: wp.vec3) -> wp.vec4:
    """x, y, heading, signed speed one step later: :func:`sim.dynamics.advance` for both models, with a third of its
    trigonometry."""
    course = p[2] + arc[1]
    return _moved(dynamics, reverse, p, arc, wp.cos(course), wp.sin(course))


@wp.func
def _moved(dynamics: int, reverse: bool, p: wp.vec4, arc: wp.vec3, c: float, s: float) -> wp.vec4:
    """:func:`_held` in the direction of this cosine and sine."""
    speed = p[3]
    if not reverse:
        speed = wp.abs(speed)
    along = p[3]
    if dynamics == CLASSIC:
        along = speed
    half = 0.5 * arc[0] * _DT
    way = (along + half) * _DT
    return wp.vec4(p[0] + way * c, p[1] + way * s, p[2] + arc[2] * (speed + half) * _DT, speed + arc[0] * _DT)


@wp.func
def _next_gear(window: _Window, k: int) -> float:
    """The log's gear in the step after the ``k``-th."""
    return window.target[wp.min(k + 1, window.ahead - 1), 4]


@wp.func
def _eased(reverse: bool, gear: float, p: wp.vec4, arc: wp.vec3) -> wp.vec3:
    """The held acceleration, except that braking ends at standstill; held on, it would push the agent the other way."""
    accel = wp.max(arc[0], -wp.abs(p[3]) / _DT)
    if reverse:
        accel = gear * wp.max(gear * arc[0], wp.min(-gear * p[3] / _DT, 0.0))
    return wp.vec3(accel, arc[1], arc[2])


@wp.func
def _error(task: Task, window: _Window, k: int, p: wp.vec4) -> wp.vec4:
    """Errors against the ``k``-th next target, each in metres."""
    turn = p[2] - window.target[k, 2]
    turn -= _TURN * wp.floor(turn / _TURN + 0.5)
    speed = window.target[k, 4] * p[3]
    wrong = task.reverse_scale * wp.min(speed, 0.0)
    if not task.reverse:
        speed = wp.abs(speed)
    x = p[0]
    y = p[1]
    if window.target[k, 4] < 0.0:
        x -= window.tail * wp.cos(p[2])
        y -= window.tail * wp.sin(p[2])
    return wp.vec4(
        x - window.target[k, 0],
        y - window.target[k, 1],
        task.heading_scale * turn,
        task.speed_scale * (speed - window.target[k, 3]) + wrong,
    )


@wp.func
def _cost(task: Task, window: _Window, u: wp.vec2, arc: wp.vec3, bound: float) -> float:
    """Squared errors summed while ``u`` is held; the sum is broken off where it is no less than ``bound``."""
    return _cost_of(task, window, u, arc, wp.cos(arc[1]), wp.sin(arc[1]), bound)


@wp.func
def _cost_of(task: Task, window: _Window, u: wp.vec2, arc: wp.vec3, c: float, s: float, bound: float) -> float:
    """:func:`_cost` given cosine and sine of the slip angle, in whose direction the first step leads."""
    p = _moved(task.dynamics, task.reverse, window.start, arc, c, s)
    arc = _eased(task.reverse, _next_gear(window, 0), p, arc)
    e = _error(task, window, 0, p)
    cost = task.steering_weight * u[1] * u[1] + wp.dot(e, e)
    for k in range(1, window.ahead):
        if cost < bound:
            p = _held(task.dynamics, task.reverse, p, arc)
            arc = _eased(task.reverse, _next_gear(window, k), p, arc)
            e = _error(task, window, k, p)
            cost += wp.dot(e, e)
    return cost


@wp.func
def _cheapest(task: Task, window: _Window, previous: wp.vec2) -> wp.vec2:
    """The best of the grid and of the previous action, which comes first since a low bound saves work."""
    best = previous
    bound = _cost(task, window, best, _arc(task.dynamics, best, window.length), wp.inf)
    x = window.start[0] - window.target[0, 0]
    y = window.start[1] - window.target[0, 1]
    for b in range(task.grid_b.shape[0]):
        steering = task.grid_b[b]
        arc = _arc(task.dynamics, wp.vec2(0.0, steering), window.length)
        c = wp.cos(arc[1])
        s = wp.sin(arc[1])
        aside = s * x - c * y  # of the next target, whatever the acceleration is; less a margin for rounding
        if window.target[0, 4] < 0.0 or task.steering_weight * steering * steering + 0.999 * aside * aside < bound:
            for a in range(task.grid_a.shape[0]):
                u = wp.vec2(task.grid_a[a], steering)
                arc[0] = task.grid_a[a]
                if task.dynamics == BICYCLE:
                    arc[0] = wp.clamp(arc[0], -_MAX_ACCEL, _MAX_ACCEL)
                cost = _cost_of(task, window, u, arc, c, s, bound)
                if cost < bound:
                    bound = cost
                    best = u
    return best


@wp.func
def _newton(task: Task, window: _Window, u: wp.vec2, damping: float) -> wp.vec2:
    """One Levenberg-Marquardt step from ``u`` in the sum of squared errors, with derivatives by differences."""
    da = wp.where(u[0] > 0.0, -0.1, 0.1)  # inwards
    db = wp.where(u[1] > 0.0, -0.002, 0.002)
    arc = _arc(task.dynamics, u, window.length)
    arc_a = _arc(task.dynamics, u + wp.vec2(da, 0.0), window.length)
    arc_b = _arc(task.dynamics, u + wp.vec2(0.0, db), window.length)
    p = window.start
    pa = window.start
    pb = window.start
    haa = float(0.0)
    hab = float(0.0)
    hbb = task.steering_weight
    ga = float(0.0)
    gb = task.steering_weight * u[1]
    for k in range(window.ahead):
        p = _held(task.dynamics, task.reverse, p, arc)
        pa = _held(task.dynamics, task.reverse, pa, arc_a)
        pb = _held(task.dynamics, task.reverse, pb, arc_b)
        arc = _eased(task.reverse, _next_gear(window, k), p, arc)
        arc_a = _eased(task.reverse, _next_gear(window, k), pa, arc_a)
        arc_b = _eased(task.reverse, _next_gear(window, k), pb, arc_b)
        e = _error(task, window, k, p)
        ja = (_error(task, window, k, pa) - e) / da
        jb = (_error(task, window, k, pb) - e) / db
        haa += wp.dot(ja, ja)
        hab += wp.dot(ja, jb)
        hbb += wp.dot(jb, jb)
        ga += wp.dot(ja, e)
        gb += wp.dot(jb, e)
    haa = haa * (1.0 + damping) + 1e-12
    hbb = hbb * (1.0 + damping) + 1e-12
    det = haa * hbb - hab * hab
    return wp.vec2(
        wp.clamp(u[0] - (hbb * ga - hab * gb) / det, task.low[0], task.high[0]),
        wp.clamp(u[1] - (haa * gb - hab * ga) / det, task.low[1], task.high[1]),
    )


@wp.func
def _refined(task: Task, window: _Window, u: wp.vec2) -> wp.vec2:
    """The best action without a grid, in the same range."""
    best = u
    bound = _cost(task, window, best, _arc(task.dynamics, best, window.length), wp.inf)
    damping = float(1e-3)
    for _ in range(task.refinements):
        trial = _newton(task, window, best, damping)
        cost = _cost(task, window, trial, _arc(task.dynamics, trial, window.length), bound)
        if cost < bound:
            bound = cost
            best = trial
            damping = 0.1 * damping
        else:
            damping = 30.0 * damping
    return best


@wp.func
def _apart(task: Task, window: _Window, u: wp.vec2, v: wp.vec2) -> float:
    """Distance between where two actions lead when held, m."""
    p = window.start
    q = window.start
    arc_u = _arc(task.dynamics, u, window.length)
    arc_v = _arc(task.dynamics, v, window.length)
    for k in range(window.ahead):
        p = _held(task.dynamics, task.reverse, p, arc_u)
        q = _held(task.dynamics, task.reverse, q, arc_v)
        arc_u = _eased(task.reverse, _next_gear(window, k), p, arc_u)
        arc_v = _eased(task.reverse, _next_gear(window, k), q, arc_v)
    return wp.length(wp.vec2(p[0] - q[0], p[1] - q[1]))


@wp.func
def _nearest(grid: wp.array(dtype=wp.float32), value: float) -> float:
    best = grid[0]
    for k in range(grid.shape[0]):
        if wp.abs(grid[k] - value) < wp.abs(best - value):
            best = grid[k]
    return best


@wp.kernel(enable_backward=False)
def drive(
    first_agent: int,
    part: int,
    task: Task,
    state: wp.array2d(dtype=wp.float32),
    action: wp.array2d(dtype=wp.float32),
    quantisation: wp.array(dtype=wp.float32),
):
    """Drive agent ``i`` along its target from its first to its last step."""
    i = first_agent + wp.tid()
    s = _row(task.target, i * task.steps + task.first[i])
    u = Action()
    if task.dynamics == CLASSIC or task.dynamics == BICYCLE:
        u = Action(_nearest(task.grid_a, 0.0), _nearest(task.grid_b, 0.0), 0.0, 0.0, 0.0)
    lost = float(0.0)
    for step in range(task.first[i], task.last[i] + 1):
        for k in range(5):
            state[i * task.steps + step, k] = s[k]
        if step < task.last[i]:
            goal = _row(task.target, i * task.steps + step + 1)
            if task.dynamics == CLASSIC or task.dynamics == BICYCLE:
                window = _window(task, i, step, s)
                chosen = _cheapest(task, window, wp.vec2(u[0], u[1]))
                free = _refined(task, window, chosen)
                if task.discrete == 0:
                    chosen = free
                lost += _apart(task, window, chosen, free)
                u = Action(chosen[0], chosen[1], 0.0, 0.0, 0.0)
            elif task.dynamics == DELTA_LOCAL:
                u = delta_local_inverse(s, goal)
                for k in range(3):
                    u[k] = wp.clamp(u[k], task.low[k], task.high[k])
                if task.discrete == 1:
                    exact = u
                    u = Action(
                        _nearest(task.grid_a, u[0]), _nearest(task.grid_b, u[1]), _nearest(task.grid_c, u[2]), 0.0, 0.0
                    )
                    lost += wp.length(wp.vec2(u[0] - exact[0], u[1] - exact[1]))
            else:
                u = goal  # the state model: an action is the next state
            for k in range(5):
                action[i * task.steps + step, k] = u[k]
            s = advance(task.dynamics, task.reverse, s, u, task.length[i])
    quantisation[i] = lost / float(wp.max(1, task.last[i] - task.first[i]))
