"""Rewards from a discriminator's logit ``f``, where sigmoid(f) is the probability of "expert".

Small pure functions; none subtracts a mean, which would change a reward's sign and with it what episodes are worth.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from sim.kernels import Event


def logit(f: Tensor) -> Tensor:
    """ln D - ln(1 - D) = f (Fu et al. 2018, AIRL without the log-policy; Orsini et al. 2021). Of both signs."""
    return f


def gail(f: Tensor) -> Tensor:
    """-ln(1 - D) = softplus(f) (Ho & Ermon 2016). Always positive: pays for staying alive."""
    return functional.softplus(f)


def airl(f: Tensor) -> Tensor:
    """ln D = -softplus(-f). Always negative: pays for ending the episode."""
    return -functional.softplus(-f)


def bounded(f: Tensor) -> Tensor:
    """D - 1/2, in (-1/2, 1/2)."""
    return torch.sigmoid(f) - 0.5


FORMS: dict[str, Callable[[Tensor], Tensor]] = {"logit": logit, "gail": gail, "airl": airl, "bounded": bounded}


def event_reward(events: Tensor, was_at_goal: Tensor, goal: float, collision: float, off_road: float) -> Tensor:
    """Reward [N] of a step's events [N, 4]: the first arrival at the goal, contact with agents, with a road edge."""
    arrived = events[:, Event.GOAL] & ~was_at_goal
    contact = events[:, Event.VEHICLE] | events[:, Event.NON_VEHICLE]
    return goal * arrived.float() + collision * contact.float() + off_road * events[:, Event.OFF_ROAD].float()
