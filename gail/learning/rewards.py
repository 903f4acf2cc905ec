"""Rewards from a discriminator's logit ``f``, where sigmoid(f) is the probability of "expert".

Small pure functions; none subtracts a mean, which would change a reward's sign and with it what episodes are worth.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


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


def dail(f: Tensor) -> Tensor:
    """sigmoid(f) (1 + tanh f) / 2, in (0, 1): found by search (DAIL, 2510.00922)."""
    return 0.5 * torch.sigmoid(f) * (1 + torch.tanh(f))


FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "logit": logit,
    "gail": gail,
    "airl": airl,
    "bounded": bounded,
    "dail": dail,
}


def absorbing_return(reward: Tensor, remaining: Tensor, gamma: float) -> Tensor:
    """What an agent still gets that ends early and then stays in the absorbing state (Kostrikov et al. 2018, DAC).

    Args:
        reward: of one step in the absorbing state.
        remaining: how many steps are left of the horizon, 0 or more; broadcast with ``reward``.
        gamma: discount a step, in (0, 1].

    Returns:
        sum over k = 1 .. remaining of gamma^k reward, to be added to the reward of the last step.
    """
    steps = remaining.to(torch.float64)
    total = steps if gamma == 1 else -gamma * torch.expm1(steps * math.log(gamma)) / (1 - gamma)
    return (reward * total).to(reward.dtype)
