"""What is paid for events of rollouts: contacts, leaving the road, and the goal."""

from __future__ import annotations

import torch
from torch import Tensor

from gail_cli.gail.config.schema import EventsConfig
from gail_cli.sim.kernels import Event


def event_reward(happened: Tensor, fault: Tensor, alive: Tensor, config: EventsConfig) -> Tensor:
    """[H, N] rewards for the events of a rollout.

    A contact, and being off the road, cost ``onset`` in the first step, ``again`` in the first step of each later
    time, and ``each_step`` in every step; those of a contact times the agent's fault, or ``config.fault`` if that is
    more. Running a red light costs ``red_light`` each time. Who has been at its goal gets ``goal`` in its last step.

    Args:
        happened: [H, N, E] bool, columns as in :class:`~sim.kernels.Event`.
        fault: [H, N] the agent's share in its contacts, 0 to 1, see :class:`~sim.env.Step`.
        alive: [H, N] bool, whether the agent acted in the step.
        config: the prices.
    """
    happened = happened & alive[..., None]
    contact = happened[..., Event.VEHICLE] | happened[..., Event.NON_VEHICLE]
    weight = fault.clamp(min=config.fault)
    reward = weight * _paid(contact, config) + _paid(happened[..., Event.OFF_ROAD], config)
    steps = torch.arange(1, len(alive) + 1, device=alive.device)[:, None]
    last = alive & (steps == (steps * alive).amax(dim=0))
    reward = reward + config.red_light * happened[..., Event.RED_LIGHT]
    return reward + config.goal * (last & happened[..., Event.GOAL].any(dim=0))


def _paid(during: Tensor, config: EventsConfig) -> Tensor:
    """[H, N] of something that goes on in some steps [H, N] bool."""
    before = torch.cat([torch.zeros_like(during[:1]), during[:-1]])
    onset = during & ~before
    first = onset & (onset.cumsum(dim=0) == 1)
    return config.onset * first + config.again * (onset & ~first) + config.each_step * during
