"""The closed-loop search: at each step the action that keeps the simulated agent nearest to its log from there on.

``classic`` and ``bicycle`` hold an action for some steps ahead, since acceleration shows in position only later; every
grid action is tried, and continuous ones are refined from the best of a coarse grid. ``delta_local`` has an exact
inverse, and of a ``state`` the next one is the action.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.pipeline.experts.logs import gears
from gail_cli.pipeline.experts.search_kernels import MAX_LOOKAHEAD, Task, drive
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.launch import launch, wp

_COARSE = (7, 13)
"""Candidates of a continuous space, per component."""
_REFINEMENTS = 6
"""Levenberg-Marquardt steps from the best candidate to the best action without a grid; more find nothing better."""


@dataclass(frozen=True)
class Search:
    """What the search weighs. The defaults were measured on real scenes (``benchmarks/experts.py``)."""

    lookahead: int = 3
    """Steps over which a candidate is held and its errors are summed, 1 to :data:`MAX_LOOKAHEAD`. One is greedy and
    swings between hard braking and hard throttle; more drive more smoothly and cut corners."""
    heading_weight: float = 0.5
    """m^2 of position error that a heading error of 1 rad^2 counts as."""
    tail: float = 0.5
    """Lengths of the vehicle from its middle back to the point that is kept on the log's while it drives backwards
    (``classic``; forwards it is the middle). Who keeps its middle on a line by steering backwards turns across it, by
    ever more: that is stable only from the rear axle backwards, which lies half a length back."""
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
    task = Task()
    task.steps, task.dynamics, task.discrete = steps, int(space.dynamics), int(space.discrete)
    task.refinements, task.lookahead = _REFINEMENTS, search.lookahead
    task.heading_scale, task.speed_scale = search.heading_weight**0.5, search.speed_weight**0.5
    bounds = [np.clip(b, -1e30, 1e30) for b in space.bounds[:3]] + [np.zeros(2)] * (3 - min(3, space.components))
    task.low, task.high = (wp.vec3(*side) for side in np.transpose(bounds))
    task.reverse = space.reverse
    task.tail = search.tail if space.dynamics == Dynamics.CLASSIC else 0.0
    task.reverse_scale = search.reverse_weight**0.5
    task.steering_weight = search.steering_weight / float(np.abs(bounds[1]).max()) ** 2

    step = np.arange(steps)
    there = (step >= first[:, None]) & (step <= last[:, None])

    def array(values: NDArray[np.generic], dtype: type) -> Any:
        return wp.array(np.ascontiguousarray(values, dtype), device="cpu")

    task.target = array(target.reshape(-1, 5), np.float32)
    task.gear = array((gears(target, there) if space.reverse else np.ones((agents, steps))).ravel(), np.float32)
    task.first, task.last, task.length = array(first, np.int32), array(last, np.int32), array(length, np.float32)
    grids = [np.array(values, np.float32) for values in space.grid or ()]
    if not grids and space.dynamics in (Dynamics.CLASSIC, Dynamics.BICYCLE):
        grids = [np.linspace(*b, n, dtype=np.float32) for b, n in zip(space.bounds, _COARSE, strict=True)]
    grids += [np.zeros(0, np.float32)] * (3 - len(grids))
    task.grid_a, task.grid_b, task.grid_c = (array(g, np.float32) for g in grids)
    state, action = np.zeros((2, agents * steps, 5), np.float32)
    quantisation = np.zeros(agents, np.float32)
    outputs = [wp.array(x, device="cpu", copy=False) for x in (state, action, quantisation)]
    launch(drive, agents, [task, *outputs], torch.device("cpu"))
    values = action.reshape(agents, steps, 5)[..., : space.components]
    return Found(state.reshape(agents, steps, 5), values, quantisation)
