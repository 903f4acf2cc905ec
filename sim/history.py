"""A short history, for kernels: what an agent did in its last steps, and what others did in the last one.

What one did in a step of 0.1 s is told by two numbers, made from the states before and after it by :func:`_motion`,
in rollouts as in demos: how the velocity along the own heading changed, m/s^2, and how the heading did, rad/s, both
scaled and limited.

Nothing is known of the time before an episode, even where a log was cut there (pieces of scenes, submissions): a
:class:`~sim.scene.Scene` holds no earlier states, and who begins off its log never drove them. Such steps are zero, and
so are those before or after which an agent was not there.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from collections.abc import Sequence
from typing import Any

import torch

from gail_cli.sim.dynamics import wrap
from gail_cli.sim.launch import Stage, launch, struct, to_warp, wp
from gail_cli.sim.scenario import DT

_DT = wp.constant(wp.float32(DT))
_MOST = wp.constant(wp.float32(2.0))
"""Of both numbers as they are shown: 10 m/s^2, which hardly any car brakes harder than, and 1 rad/s."""
_ACCELERATION = wp.constant(wp.float32(0.2))
_YAW_RATE = wp.constant(wp.float32(2.0))


@wp.struct
class History:
    """What some agents did in some steps: in row ``step % steps * agents + agent`` what led to the state at a step."""

    motion: wp.array(dtype=wp.vec2)
    steps: int
    agents: int
    seen: int
    """Others see agent m as agent m + ``seen``: 0 except in single-agent worlds."""


@wp.func
def _pose(state: wp.array2d(dtype=wp.float32), row: int) -> wp.vec2:
    """Velocity along the own heading, and heading."""
    return wp.vec2(wp.cos(state[row, 2]) * state[row, 3] + wp.sin(state[row, 2]) * state[row, 4], state[row, 2])


@wp.func
def _motion(before: wp.vec2, after: wp.vec2) -> wp.vec2:
    """What is shown of a step between two poses."""
    acceleration = _ACCELERATION * (after[0] - before[0]) / _DT
    yaw_rate = _YAW_RATE * wrap(after[1] - before[1]) / _DT
    return wp.vec2(wp.clamp(acceleration, -_MOST, _MOST), wp.clamp(yaw_rate, -_MOST, _MOST))


@wp.kernel(enable_backward=False)
def _along_tracks(
    first: int,
    part: int,
    state: wp.array2d(dtype=wp.float32),
    present: wp.array(dtype=wp.bool),
    h: History,
):
    """The motion of agent ``i`` in all steps of its track."""
    i = first + wp.tid()
    row = i * h.steps
    before = _pose(state, row)
    h.motion[i] = wp.vec2(0.0, 0.0)
    for step in range(1, h.steps):
        after = _pose(state, row + step)
        known = present[row + step - 1] and present[row + step]
        h.motion[step * h.agents + i] = wp.where(known, _motion(before, after), wp.vec2(0.0, 0.0))
        before = after


@wp.kernel(enable_backward=False)
def _remember(
    first: int,
    part: int,
    world: wp.array(dtype=wp.int32),
    which: wp.array(dtype=wp.bool),
    step: wp.array(dtype=wp.int32),
    state: wp.array2d(dtype=wp.float32),
    present: wp.array(dtype=wp.bool),
    pose: wp.array(dtype=wp.vec2),
    was_present: wp.array(dtype=wp.bool),
    h: History,
):
    """Note what agent ``i`` of the worlds ``which`` [W] did in the step that it just made."""
    i = first + wp.tid()
    if which[world[i]]:
        after = _pose(state, i)
        known = was_present[i] and present[i]
        h.motion[step[i] % h.steps * h.agents + i] = wp.where(known, _motion(pose[i], after), wp.vec2(0.0, 0.0))
        pose[i] = after
        was_present[i] = present[i]


@wp.func
def write_own_history(h: History, count: int, agent: int, step: int, out: wp.array(dtype=wp.float32), col: int):
    """What an agent did in its last ``count`` steps, the last one first."""
    for k in range(count):
        motion = wp.vec2(0.0, 0.0)
        if step > k:
            motion = h.motion[(step - k) % h.steps * h.agents + agent]
        out[col + 2 * k] = motion[0]
        out[col + 2 * k + 1] = motion[1]


@wp.func
def write_partner_history(h: History, other: int, step: int, out: wp.array(dtype=wp.float32), col: int):
    """What another agent did in the last step."""
    write_own_history(h, 1, h.seen + other, step, out, col)


def history_of(motion: torch.Tensor, seen: int = 0) -> Any:
    """The :class:`History` that motions [S, M, 2] of M agents are; those of earlier steps may be overwritten."""
    steps, agents = motion.shape[:2]
    return struct(History, motion=to_warp(motion.view(-1, 2), wp.vec2), steps=steps, agents=agents, seen=seen)


def motions(state: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """[T, M, 2] what each agent did in the step that led to each state of its track.

    Args:
        state: [M, T, 5].
        present: [M, T] bool.
    """
    agents, steps = present.shape
    found = torch.empty(steps, agents, 2, device=state.device)
    inputs = [to_warp(state.reshape(-1, 5)), to_warp(present.reshape(-1)), history_of(found)]
    launch(_along_tracks, agents, inputs, state.device)
    return found


class Recorder:
    """Keeps what the M agents of a simulation did in their last steps.

    Args:
        world: [M] int32 of each agent.
        step: [M] int32 how many steps each has made.
        state, present: [M, 5] and [M] as they are now.
        steps: how many are kept; 0: none.
    """

    def __init__(
        self, world: torch.Tensor, step: torch.Tensor, state: torch.Tensor, present: torch.Tensor, steps: int
    ) -> None:
        device, agents = state.device, len(state)
        self.motion = torch.zeros(steps, agents, 2, device=device)
        """[S, M, 2], that of step k in row k % S."""
        self._where, self._now = to_warp(world), [to_warp(x) for x in (step, state, present)]
        self._before = [
            to_warp(torch.zeros(agents, 2, device=device), wp.vec2),
            to_warp(torch.zeros(agents, dtype=torch.bool, device=device)),
        ]

    def stages(self, bounds: Sequence[int], which: torch.Tensor) -> list[Stage]:
        """What a program does after the agents of the worlds ``which`` [W] bool moved or restarted; nothing if no steps
        are kept.

        Args:
            bounds: of the parts, over M.
            which: as it will be then.
        """
        if not len(self.motion):
            return []
        inputs = [self._where, to_warp(which), *self._now, *self._before, history_of(self.motion)]
        return [Stage(_remember, bounds, inputs)]
