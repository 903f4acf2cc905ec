"""Expert actions, found in closed loop: which actions of the policy's own space keep the simulated agent on its log?

Logged motion is no exact solution of any dynamics model on any grid, so actions inferred only from the log drift off
it (GPUDrive's own bring 12 to 52 % of the experts to their goals). Here each action is chosen from where the simulated
agent *is*, with the simulator's own motion functions; the states so reached, not the logged ones, are the expert's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.experts.logs import bridged, marks_of
from gail_cli.pipeline.experts.search import Search, follow
from gail_cli.pipeline.records import ABSENT, LOGGED, Demos
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.scene import Scene

ZERO = 1e-3
"""Below this a continuous component (m/s^2, rad, 1/m, m) counts as zero."""

_VRU_TYPES = (AgentType.PEDESTRIAN, AgentType.CYCLIST)


def demo_rows_of(scene: Scene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of the agents that get a demo: vehicles (and types unknown), and vulnerable road users.

    These are there at the first step and move on from it: valid at step 0 and at one more step at least. Parked ones
    and those marked as experts are among them; which are controlled is chosen at training time.
    """
    there = scene.valid[:, 0] & (scene.valid.sum(axis=1) >= 2)
    vru = np.isin(scene.agent_type, _VRU_TYPES)
    return np.flatnonzero(there & ~vru), np.flatnonzero(there & vru)


def replay_experts(
    scenes: Sequence[Scene], space: ActionSpace, rows: Sequence[NDArray[np.int64]], search: Search | None = None
) -> list[Demos]:
    """Demonstrations of some agents of each scene.

    Args:
        scenes: scenes with one common number of steps.
        space: the policy's action space; the actions found are exactly ones that it can take.
        rows: of each scene, the agents (see :func:`demo_rows_of`), each valid at one step at least.
        search: what the search weighs; the defaults when None.
    """
    if not scenes:
        return []
    marks = [marks_of(scene, r) for scene, r in zip(scenes, rows, strict=True)]
    targets = [bridged(scene, r, m) for scene, r, m in zip(scenes, rows, marks, strict=True)]
    lengths = [scene.agent_size[r, 0] for scene, r in zip(scenes, rows, strict=True)]
    mark, target = np.concatenate(marks), np.concatenate(targets)
    present = mark != ABSENT
    first = present.argmax(axis=1)
    found = follow(space, target, first, _last(present), np.concatenate(lengths), search or Search())
    action = encode(space, found.action)
    action[~has_action(mark)] = 0
    measured = replay_quality(space, target, mark, found.state, action)
    quality = np.column_stack([measured, found.quantisation]).astype(np.float32)
    ends = np.cumsum([len(r) for r in rows])[:-1]
    parts = zip(rows, *(np.split(x, ends) for x in (mark, found.state, action, quality)), strict=True)
    return [Demos(*part) for part in parts]


def replay_quality(
    space: ActionSpace,
    log: NDArray[np.float32],
    mark: NDArray[np.uint8],
    state: NDArray[np.float32],
    action: NDArray[np.int16] | NDArray[np.float32],
) -> NDArray[np.float64]:
    """[D, 6] all of :data:`QUALITY` but the last, which only the search knows, from arrays as they are stored.

    Args:
        space: of the actions.
        log: [D, T, 5] the agents' logs; read at logged steps only.
        mark: [D, T], with at least one logged step per demo.
        state: [D, T, 5].
        action: [D, T, K].
    """
    logged, acts = mark == LOGGED, has_action(mark)
    off = np.where(logged[..., None], state[..., :3].astype(np.float64) - log[..., :3], 0.0)
    distance = np.hypot(off[..., 0], off[..., 1])
    turn = np.abs(np.arctan2(np.sin(off[..., 2]), np.cos(off[..., 2])))
    final = distance[np.arange(len(mark)), _last(logged)]
    saturated, zero = _at_ends(space, action), _at_zero(space, action)
    ade, heading_error = (x.sum(axis=1) / logged.sum(axis=1) for x in (distance, turn))
    at_goal = final < SimConfig().goal_radius  # an agent's goal is where its log ends
    at_ends, at_zero = ((x & acts).sum(axis=1) / np.maximum(acts.sum(axis=1), 1) for x in (saturated, zero))
    return np.stack([ade, final, heading_error, at_goal, at_ends, at_zero], axis=1)


def _at_ends(space: ActionSpace, action: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.bool_]:
    """[D, T] whether any component is the lowest or highest of its range."""
    low, high = np.zeros(space.components), np.array(space.sizes) - 1.0
    if space.grid is None:
        low, high = np.array(space.bounds, np.float32).T
    return np.asarray(((action <= low) | (action >= high)).any(axis=-1))


def _at_zero(space: ActionSpace, action: NDArray[np.int16] | NDArray[np.float32]) -> NDArray[np.bool_]:
    """[D, T] whether all components are zero, or the grid's nearest to it (of two as near, either)."""
    if space.grid is None:
        return np.asarray((np.abs(action) < ZERO).all(axis=-1))
    nearest = [np.abs(values) <= np.abs(values).min() + 1e-6 for values in map(np.array, space.grid)]
    return np.asarray(np.all([is_zero[action[..., k]] for k, is_zero in enumerate(nearest)], axis=0))


def encode(space: ActionSpace, values: NDArray[np.float32]) -> NDArray[np.int16] | NDArray[np.float32]:
    """Actions [D, T, K] as stored: grid indices of values that are exactly on the grid, or the values themselves."""
    if space.grid is None:
        return values
    columns = [
        np.abs(values[..., k, None] - np.array(grid, np.float32)).argmin(axis=-1) for k, grid in enumerate(space.grid)
    ]
    return np.stack(columns, axis=-1).astype(np.int16)


def has_action(mark: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[D, T] steps from which a demo goes on to a next one."""
    has = np.zeros(mark.shape, np.bool_)
    has[:, :-1] = (mark[:, :-1] != ABSENT) & (mark[:, 1:] != ABSENT)
    return has


def _last(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[D] last step at which flags [D, T] are set."""
    return np.asarray(flags.shape[1] - 1 - flags[:, ::-1].argmax(axis=1), np.int64)
