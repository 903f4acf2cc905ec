"""The closed-loop search: at each step the action that keeps the simulated agent nearest to its log from there on.

``classic`` and ``bicycle`` hold an action for some steps ahead, since acceleration shows in position only later; every
grid action is tried, and continuous ones are refined from the best of a coarse grid. ``delta_local`` has an exact
inverse, and of a ``state`` the next one is the action.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.sim.actions import BICYCLE_MAX_ACCEL, ActionSpace, Dynamics
from gail_cli.sim.dynamics import (
    BICYCLE,
    CLASSIC,
    DELTA_LOCAL,
    Action,
    State,
    advance,
    delta_local_inverse,
    wrap,
)
from gail_cli.sim.geometry import in_frame
from gail_cli.sim.launch import launch, wp
from gail_cli.sim.scenario import DT

MAX_LOOKAHEAD = 8
_COARSE = (7, 13)
"""Candidates of a continuous space, per component."""
_REFINEMENTS = 6
"""Levenberg-Marquardt steps from the best candidate to the best action without a grid; more find nothing better."""

_Targets: Any = wp.types.matrix(shape=(MAX_LOOKAHEAD, 4), dtype=wp.float32)
_DT = wp.constant(wp.float32(DT))
_TURN = wp.constant(wp.float32(2 * np.pi))
_MAX_ACCEL = wp.constant(wp.float32(BICYCLE_MAX_ACCEL))
_MAX_CURVATURE = wp.constant(wp.float32(3.0))


@dataclass(frozen=True)
class Search:
    """What the search weighs. The defaults were measured on real scenes (``benchmarks/experts.py``)."""

    lookahead: int = 3
    """Steps over which a candidate is held and its errors are summed, 1 to :data:`MAX_LOOKAHEAD`. One is greedy and
    swings between hard braking and hard throttle; more drive more smoothly and cut corners."""
    heading_weight: float = 0.5
    """m^2 of position error that a heading error of 1 rad^2 counts as."""
    speed_weight: float = 0.001
    """m^2 of position error that a speed error of 1 (m/s)^2 counts as."""
    reverse_weight: float = 10.0
    """m^2 of position error that braking beyond standstill, to a speed of -1 m/s, counts as (by the square). In the
    models speed is a length, so such a brake moves an agent back and then on at the same speed: free of charge it
    would be used in every step to follow the log's noise at standstill."""
    steering_weight: float = 0.003
    """m^2 of position error that full steering counts as (by the square): where steering moves nothing, as at
    standstill, or as another angle does, as beyond 90 degrees, the smallest is chosen."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: for a look-ahead that the search does not have.
        """
        if not 1 <= self.lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"search: lookahead is {self.lookahead}; use 1 to {MAX_LOOKAHEAD} steps")


class Found(NamedTuple):
    """What B agents did over T steps; zero outside their spans."""

    state: NDArray[np.float32]
    """[B, T, 5]."""
    action: NDArray[np.float32]
    """[B, T, K] values."""
    quantisation: NDArray[np.float32]
    """[B] m, see :data:`pipeline.experts.expert.QUALITY`."""


@wp.struct
class _Task:
    """What is common to B agents over T steps."""

    steps: int
    dynamics: int
    discrete: int
    refinements: int
    lookahead: int
    heading_scale: float
    speed_scale: float
    reverse_scale: float
    steering_weight: float
    target: wp.array2d(dtype=wp.float32)
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
    """The next targets of one agent in its own frame: x, y, heading, speed."""

    ahead: int
    target: _Targets
    start: wp.vec4
    length: float


@wp.func
def _row(table: wp.array2d(dtype=wp.float32), i: int) -> State:
    return State(table[i, 0], table[i, 1], table[i, 2], table[i, 3], table[i, 4])


@wp.func
def _window(task: _Task, i: int, step: int, s: State) -> _Window:
    window = _Window()
    window.ahead = wp.min(task.lookahead, task.last[i] - step)
    window.length = task.length[i]
    c = wp.cos(s[2])
    si = wp.sin(s[2])
    speed = wp.sqrt(s[3] * s[3] + s[4] * s[4])
    window.start = wp.vec4(0.0, 0.0, 0.0, speed)
    if task.dynamics == BICYCLE:  # its first step follows the velocity, which need not point where the agent does
        velocity = in_frame(c, si, s[3], s[4])
        window.start = wp.vec4((velocity[0] - speed) * _DT, velocity[1] * _DT, 0.0, speed)
    for k in range(window.ahead):
        t = _row(task.target, i * task.steps + step + 1 + k)
        p = in_frame(c, si, t[0] - s[0], t[1] - s[1])
        window.target[k, 0] = p[0]
        window.target[k, 1] = p[1]
        window.target[k, 2] = wrap(t[2] - s[2])
        window.target[k, 3] = wp.sqrt(t[3] * t[3] + t[4] * t[4])
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
def _held(dynamics: int, p: wp.vec4, arc: wp.vec3) -> wp.vec4:
    """x, y, heading, signed speed one step later: :func:`sim.dynamics.advance` for both models, with a third of its
    trigonometry."""
    speed = wp.abs(p[3])
    along = p[3]
    if dynamics == CLASSIC:  # knows no reverse
        along = speed
    half = 0.5 * arc[0] * _DT
    way = (along + half) * _DT
    course = p[2] + arc[1]
    return wp.vec4(
        p[0] + way * wp.cos(course),
        p[1] + way * wp.sin(course),
        p[2] + arc[2] * (speed + half) * _DT,
        speed + arc[0] * _DT,
    )


@wp.func
def _eased(p: wp.vec4, arc: wp.vec3) -> wp.vec3:
    """The held acceleration, except that braking ends at standstill; held on, it would push the agent backwards."""
    return wp.vec3(wp.max(arc[0], -wp.abs(p[3]) / _DT), arc[1], arc[2])


@wp.func
def _error(task: _Task, window: _Window, k: int, p: wp.vec4) -> wp.vec4:
    """Errors against the ``k``-th next target, each in metres."""
    turn = p[2] - window.target[k, 2]
    turn -= _TURN * wp.floor(turn / _TURN + 0.5)
    return wp.vec4(
        p[0] - window.target[k, 0],
        p[1] - window.target[k, 1],
        task.heading_scale * turn,
        task.speed_scale * (wp.abs(p[3]) - window.target[k, 3]) + task.reverse_scale * wp.min(p[3], 0.0),
    )


@wp.func
def _cost(task: _Task, window: _Window, u: wp.vec2, arc: wp.vec3, bound: float) -> float:
    """Squared errors summed while ``u`` is held; the sum is broken off where it is no less than ``bound``."""
    p = window.start
    cost = task.steering_weight * u[1] * u[1]
    for k in range(window.ahead):
        if cost < bound:
            p = _held(task.dynamics, p, arc)
            arc = _eased(p, arc)
            e = _error(task, window, k, p)
            cost += wp.dot(e, e)
    return cost


@wp.func
def _cheapest(task: _Task, window: _Window, previous: wp.vec2) -> wp.vec2:
    """The best of the grid and of the previous action, which comes first since a low bound saves work."""
    best = previous
    bound = _cost(task, window, best, _arc(task.dynamics, best, window.length), wp.inf)
    for b in range(task.grid_b.shape[0]):
        arc = _arc(task.dynamics, wp.vec2(0.0, task.grid_b[b]), window.length)
        for a in range(task.grid_a.shape[0]):
            u = wp.vec2(task.grid_a[a], task.grid_b[b])
            arc[0] = task.grid_a[a]
            if task.dynamics == BICYCLE:
                arc[0] = wp.clamp(arc[0], -_MAX_ACCEL, _MAX_ACCEL)
            cost = _cost(task, window, u, arc, bound)
            if cost < bound:
                bound = cost
                best = u
    return best


@wp.func
def _newton(task: _Task, window: _Window, u: wp.vec2, damping: float) -> wp.vec2:
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
        p = _held(task.dynamics, p, arc)
        pa = _held(task.dynamics, pa, arc_a)
        pb = _held(task.dynamics, pb, arc_b)
        arc = _eased(p, arc)
        arc_a = _eased(pa, arc_a)
        arc_b = _eased(pb, arc_b)
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
def _refined(task: _Task, window: _Window, u: wp.vec2) -> wp.vec2:
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
def _apart(task: _Task, window: _Window, u: wp.vec2, v: wp.vec2) -> float:
    """Distance between where two actions lead when held, m."""
    p = window.start
    q = window.start
    arc_u = _arc(task.dynamics, u, window.length)
    arc_v = _arc(task.dynamics, v, window.length)
    for _ in range(window.ahead):
        p = _held(task.dynamics, p, arc_u)
        q = _held(task.dynamics, q, arc_v)
        arc_u = _eased(p, arc_u)
        arc_v = _eased(q, arc_v)
    return wp.length(wp.vec2(p[0] - q[0], p[1] - q[1]))


@wp.func
def _nearest(grid: wp.array(dtype=wp.float32), value: float) -> float:
    best = grid[0]
    for k in range(grid.shape[0]):
        if wp.abs(grid[k] - value) < wp.abs(best - value):
            best = grid[k]
    return best


@wp.kernel(enable_backward=False)
def _follow(
    first_agent: int,
    part: int,
    task: _Task,
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
            s = advance(task.dynamics, s, u, task.length[i])
    quantisation[i] = lost / float(wp.max(1, task.last[i] - task.first[i]))


def follow(
    space: ActionSpace,
    target: NDArray[np.float32],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
    length: NDArray[np.float32],
    search: Search,
) -> Found:
    """Drive B agents, each on its own, along their targets.

    Args:
        space: the actions to choose from.
        target: [B, T, 5] where each agent should be, complete between its first and last step.
        first: [B] step at which it starts, exactly on its target.
        last: [B] step at which it ends.
        length: [B] of its box, m.
        search: what counts.
    """
    agents, steps = target.shape[:2]
    task = _Task()
    task.steps, task.dynamics, task.discrete = steps, int(space.dynamics), int(space.discrete)
    task.refinements, task.lookahead = _REFINEMENTS, search.lookahead
    task.heading_scale, task.speed_scale = search.heading_weight**0.5, search.speed_weight**0.5
    bounds = [np.clip(b, -1e30, 1e30) for b in space.bounds[:3]] + [np.zeros(2)] * (3 - min(3, space.components))
    task.low, task.high = (wp.vec3(*side) for side in np.transpose(bounds))
    task.reverse_scale = search.reverse_weight**0.5
    task.steering_weight = search.steering_weight / float(np.abs(bounds[1]).max()) ** 2

    def array(values: NDArray[np.generic], dtype: type) -> Any:
        return wp.array(np.ascontiguousarray(values, dtype), device="cpu")

    task.target = array(target.reshape(-1, 5), np.float32)
    task.first, task.last, task.length = array(first, np.int32), array(last, np.int32), array(length, np.float32)
    grids = [np.array(values, np.float32) for values in space.grid or ()]
    if not grids and space.dynamics in (Dynamics.CLASSIC, Dynamics.BICYCLE):
        grids = [np.linspace(*b, n, dtype=np.float32) for b, n in zip(space.bounds, _COARSE, strict=True)]
    grids += [np.zeros(0, np.float32)] * (3 - len(grids))
    task.grid_a, task.grid_b, task.grid_c = (array(g, np.float32) for g in grids)
    state, action = np.zeros((2, agents * steps, 5), np.float32)
    quantisation = np.zeros(agents, np.float32)
    outputs = [wp.array(x, device="cpu", copy=False) for x in (state, action, quantisation)]
    launch(_follow, agents, [task, *outputs], torch.device("cpu"))
    values = action.reshape(agents, steps, 5)[..., : space.components]
    return Found(state.reshape(agents, steps, 5), values, quantisation)
