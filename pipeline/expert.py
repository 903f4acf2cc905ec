"""Expert actions, found in closed loop: which actions of the policy's own space keep the simulated agent on its log?

Logged motion is no exact solution of any dynamics model on any grid, so actions inferred from the log alone drift off
it (GPUDrive's own bring 12 to 52 % of the experts to their goals). Here each action is chosen from where the simulated
agent *is*, with the simulator's own motion functions; the states so reached, not the logged ones, are the expert's.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.actions import ActionSpace
from sim.dynamics import BICYCLE, CLASSIC, DELTA_LOCAL, Action, Dynamics, State, advance, delta_local_inverse, wrap
from sim.launch import wp
from sim.scene import Scene
from sim.worlds import Selection, select_agents

HEADING_WEIGHT = 2.0
"""m^2 of position error that a heading error of 1 rad^2 counts as."""
SPEED_WEIGHT = 0.005
"""m^2 of position error that a speed error of 1 (m/s)^2 counts as; it keeps the throttle from chattering."""
LOOKAHEAD = 3
"""Steps over which a candidate action is held and its errors are summed."""
ZOOM_ROUNDS = 7
"""Refinements of a continuous action around the best candidate so far, each by :data:`ZOOM`."""
ZOOM = 0.35
_CANDIDATES = (13, 25)
_ZOOM_CANDIDATES = 5

ABSENT, LOGGED, BRIDGED = 0, 1, 2
"""Marks of a demo's steps: outside the demo; in the log; in a gap of the log, bridged by interpolation."""


@dataclass(frozen=True, eq=False)
class Demos:
    """Expert demonstrations of one scene: D agents over the scene's T steps, K action components."""

    agent: NDArray[np.int64]
    """[D] rows of the scene's agents."""
    mark: NDArray[np.uint8]
    """[D, T] :data:`ABSENT`, :data:`LOGGED` or :data:`BRIDGED`; a demo is one unbroken span."""
    state: NDArray[np.float32]
    """[D, T, 5] replayed x, y, heading, vx, vy; zero where absent."""
    action: NDArray[np.int16] | NDArray[np.float32]
    """[D, T, K] the action taken at each step: grid indices, or values; zero at the last step and where absent."""
    error: NDArray[np.float32]
    """[D, 3] mean and final distance from the log in m, and mean heading error in rad, over logged steps."""

    @property
    def num_demos(self) -> int:
        """D."""
        return len(self.agent)


@wp.struct
class _Task:
    """What the search knows; B agents over T steps."""

    steps: int
    dynamics: int
    rounds: int
    lookahead: int
    heading_weight: float
    speed_weight: float
    target: wp.array2d(dtype=wp.float32)
    first: wp.array(dtype=wp.int32)
    last: wp.array(dtype=wp.int32)
    length: wp.array(dtype=wp.float32)
    grid_a: wp.array(dtype=wp.float32)
    grid_b: wp.array(dtype=wp.float32)
    low: wp.vec2
    high: wp.vec2


@wp.func
def _row(table: wp.array2d(dtype=wp.float32), i: int) -> State:
    return State(table[i, 0], table[i, 1], table[i, 2], table[i, 3], table[i, 4])


@wp.func
def _cost(task: _Task, i: int, step: int, start: State, u: Action) -> float:
    """Errors summed over the next steps if ``u`` is held from ``start``."""
    s = start
    cost = float(0.0)
    for ahead in range(1, task.lookahead + 1):
        if step + ahead <= task.last[i]:
            s = advance(task.dynamics, s, u, task.length[i])
            t = _row(task.target, i * task.steps + step + ahead)
            dx = s[0] - t[0]
            dy = s[1] - t[1]
            turn = wrap(s[2] - t[2])
            dv = wp.sqrt(s[3] * s[3] + s[4] * s[4]) - wp.sqrt(t[3] * t[3] + t[4] * t[4])
            cost += dx * dx + dy * dy + task.heading_weight * turn * turn + task.speed_weight * dv * dv
    return cost


@wp.func
def _search(task: _Task, i: int, step: int, s: State) -> Action:
    """The grid's best action, then (continuous actions) the best of ever finer grids around it."""
    best = Action()
    best_cost = float(wp.inf)
    for a in range(task.grid_a.shape[0]):
        for b in range(task.grid_b.shape[0]):
            u = Action(task.grid_a[a], task.grid_b[b], 0.0, 0.0, 0.0)
            cost = _cost(task, i, step, s, u)
            if cost < best_cost:
                best_cost = cost
                best = u
    span = wp.vec2(
        (task.high[0] - task.low[0]) / float(task.grid_a.shape[0]),
        (task.high[1] - task.low[1]) / float(task.grid_b.shape[0]),
    )
    for _ in range(task.rounds):
        centre = best
        for a in range(_ZOOM_CANDIDATES):
            for b in range(_ZOOM_CANDIDATES):
                fa = 2.0 * float(a) / float(_ZOOM_CANDIDATES - 1) - 1.0
                fb = 2.0 * float(b) / float(_ZOOM_CANDIDATES - 1) - 1.0
                u = Action(
                    wp.clamp(centre[0] + fa * span[0], task.low[0], task.high[0]),
                    wp.clamp(centre[1] + fb * span[1], task.low[1], task.high[1]),
                    0.0,
                    0.0,
                    0.0,
                )
                cost = _cost(task, i, step, s, u)
                if cost < best_cost:
                    best_cost = cost
                    best = u
        span = span * ZOOM
    return best


@wp.func
def _nearest(grid: wp.array(dtype=wp.float32), value: float) -> float:
    best = grid[0]
    for k in range(grid.shape[0]):
        if wp.abs(grid[k] - value) < wp.abs(best - value):
            best = grid[k]
    return best


@wp.kernel(enable_backward=False)
def _replay(
    task: _Task,
    grid_c: wp.array(dtype=wp.float32),
    state: wp.array2d(dtype=wp.float32),
    action: wp.array2d(dtype=wp.float32),
):
    """Drive agent ``i`` along its target from its first to its last step."""
    i = wp.tid()
    s = _row(task.target, i * task.steps + task.first[i])
    for step in range(task.first[i], task.last[i] + 1):
        for k in range(5):
            state[i * task.steps + step, k] = s[k]
        if step < task.last[i]:
            u = _row(task.target, i * task.steps + step + 1)  # the state model: an action is the next state
            if task.dynamics == CLASSIC or task.dynamics == BICYCLE:
                u = _search(task, i, step, s)
            elif task.dynamics == DELTA_LOCAL:
                u = delta_local_inverse(s, u)
                if grid_c.shape[0] > 0:
                    u = Action(
                        _nearest(task.grid_a, u[0]), _nearest(task.grid_b, u[1]), _nearest(grid_c, u[2]), 0.0, 0.0
                    )
                else:
                    u = Action(wp.clamp(u[0], -6.0, 6.0), wp.clamp(u[1], -6.0, 6.0), u[2], 0.0, 0.0)
            for k in range(5):
                action[i * task.steps + step, k] = u[k]
            s = advance(task.dynamics, s, u, task.length[i])


def replay_experts(scenes: Sequence[Scene], space: ActionSpace, selection: Selection | None = None) -> list[Demos]:
    """Demonstrations of every agent that a policy may control.

    Args:
        scenes: scenes with one common number of steps.
        space: the policy's action space; the actions found are exactly ones that it can take.
        selection: which agents are controlled; GPUDrive's default rule when None.
    """
    rows = []
    for scene in scenes:
        chosen = select_agents(scene, selection or Selection())
        rows.append(chosen.row[chosen.controlled])
    marks = [_marks(scene, r) for scene, r in zip(scenes, rows, strict=True)]
    targets = [_bridged(scene, r, m) for scene, r, m in zip(scenes, rows, marks, strict=True)]
    lengths = [scene.agent_size[r, 0] for scene, r in zip(scenes, rows, strict=True)]
    mark, target = np.concatenate(marks), np.concatenate(targets)
    state, values = _solve(space, target, mark, np.concatenate(lengths))
    action = encode(space, values)
    action[~_has_action(mark)] = 0
    error = _errors(state, target, mark)
    ends = np.cumsum([len(r) for r in rows])[:-1]
    parts = zip(rows, *(np.split(x, ends) for x in (mark, state, action, error)), strict=True)
    return [Demos(*part) for part in parts]


def encode(space: ActionSpace, values: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.float32]:
    """Actions [D, T, K] as stored: grid indices of values that are exactly on the grid, or the values themselves."""
    if space.grid is None:
        return values
    columns = [
        np.abs(values[..., k, None] - np.array(grid, np.float32)).argmin(axis=-1) for k, grid in enumerate(space.grid)
    ]
    return np.stack(columns, axis=-1).astype(np.int16)


def _marks(scene: Scene, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[D, T] marks: logged where valid, bridged between two valid steps, absent elsewhere."""
    valid = scene.valid[rows]
    begun = np.maximum.accumulate(valid, axis=1)
    goes_on = np.maximum.accumulate(valid[:, ::-1], axis=1)[:, ::-1]
    return np.where(valid, LOGGED, np.where(begun & goes_on, BRIDGED, ABSENT)).astype(np.uint8)


def _has_action(mark: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[D, T] steps from which a demo goes on to a next one."""
    has = np.zeros(mark.shape, np.bool_)
    has[:, :-1] = (mark[:, :-1] != ABSENT) & (mark[:, 1:] != ABSENT)
    return has


def _bridged(scene: Scene, rows: NDArray[np.int64], mark: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[D, T, 5] logged states with gaps interpolated (headings along the shorter turn)."""
    log = scene.log[rows].copy()
    steps = np.arange(scene.num_steps)
    for d in np.flatnonzero((mark == BRIDGED).any(axis=1)):
        known = np.flatnonzero(mark[d] == LOGGED)
        gap = np.flatnonzero(mark[d] == BRIDGED)
        for k in (0, 1, 3, 4):
            log[d, gap, k] = np.interp(gap, known, log[d, known, k])
        heading = np.interp(steps, known, np.unwrap(log[d, known, 2]))
        log[d, gap, 2] = np.arctan2(np.sin(heading[gap]), np.cos(heading[gap]))
    return log


def _solve(
    space: ActionSpace, target: NDArray[np.float32], mark: NDArray[np.uint8], length: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Run the kernel: states [D, T, 5] and action values [D, T, K]."""
    demos, steps = mark.shape
    task = _Task()
    task.steps, task.dynamics, task.lookahead = steps, int(space.dynamics), LOOKAHEAD
    task.heading_weight, task.speed_weight = HEADING_WEIGHT, SPEED_WEIGHT
    task.rounds = 0 if space.discrete else ZOOM_ROUNDS
    present = mark != ABSENT

    def array(values: NDArray[np.generic], dtype: type) -> object:
        return wp.array(np.ascontiguousarray(values, dtype), device="cpu")

    task.target = array(target.reshape(-1, 5), np.float32)
    task.first = array(present.argmax(axis=1), np.int32)
    task.last = array(steps - 1 - present[:, ::-1].argmax(axis=1), np.int32)
    task.length = array(length, np.float32)
    grids = [np.array(values, np.float32) for values in space.grid or ()]
    if space.dynamics in (Dynamics.CLASSIC, Dynamics.BICYCLE):
        (low_a, high_a), (low_b, high_b) = space.bounds
        task.low, task.high = wp.vec2(low_a, low_b), wp.vec2(high_a, high_b)
        if not grids:
            grids = [np.linspace(*b, n, dtype=np.float32) for b, n in zip(space.bounds, _CANDIDATES, strict=True)]
    grids += [np.zeros(0, np.float32)] * (3 - len(grids))
    task.grid_a, task.grid_b, grid_c = (array(g, np.float32) for g in grids)
    state = np.zeros((demos * steps, 5), np.float32)
    action = np.zeros((demos * steps, 5), np.float32)
    outputs = [wp.array(x, device="cpu", copy=False) for x in (state, action)]
    wp.launch(_replay, dim=demos, inputs=[task, grid_c, *outputs], device="cpu")
    return state.reshape(demos, steps, 5), action.reshape(demos, steps, 5)[..., : space.components]


def _errors(state: NDArray[np.float32], target: NDArray[np.float32], mark: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[D, 3] mean distance, final distance, mean heading error between replay and log, over logged steps."""
    logged = mark == LOGGED
    counts = logged.sum(axis=1)
    distance = np.linalg.norm(state[..., :2] - target[..., :2], axis=-1)
    turn = state[..., 2] - target[..., 2]
    turn = np.abs(np.arctan2(np.sin(turn), np.cos(turn)))
    last = mark.shape[1] - 1 - logged[:, ::-1].argmax(axis=1)
    final = distance[np.arange(len(last)), last]
    mean = [(x * logged).sum(axis=1) / counts for x in (distance, turn)]
    return np.stack([mean[0], final, mean[1]], axis=1).astype(np.float32)
