"""The manager: it chooses latent codes, which the policy then drives by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.networks.encoder import Seen, make_encoder, mlp
from gail_cli.gail.networks.policy import Chooser, Policy


class Manager(Chooser):
    """A distribution over codes by what it looks at: a chooser with one action, the code, and no code to go by.

    Args:
        seen: what it looks at: observations, or features that the policy's eyes make of them.
        config: of the run: how many codes, how often, sizes.
    """

    codes = 0

    def __init__(self, seen: Seen, config: TrainConfig) -> None:
        super().__init__()
        assert config.latent.every is not None
        self.every = config.latent.every
        """Steps from one choice to the next."""
        self.through_eyes = isinstance(seen, int)
        """Whether it looks through the policy's eyes."""
        h = config.policy.hidden
        self.encoder = make_encoder(seen, config.policy)
        self.body = mlp([h] * config.policy.layers)
        self.head = nn.Linear(h, config.latent.codes)
        nn.init.orthogonal_(self.head.weight, 0.01)
        nn.init.zeros_(self.head.bias)

    def distributions(self, seen: Tensor) -> list[Categorical] | list[Normal]:
        """One distribution over codes, [B]."""
        return [Categorical(logits=self.head(self.body(self.encoder(seen))), validate_args=False)]

    def choose(self, seen: Tensor, deterministic: bool = False) -> Tensor:
        """Codes [B]: drawn, or the likeliest."""
        return self.act(seen, deterministic)[0].squeeze(1)

    @torch.no_grad()
    def choose_for(self, policy: Policy, observations: Tensor, deterministic: bool) -> Tensor:
        """Codes [B] by observations [B, D] of agents that a policy drives."""
        return self.choose(policy.encoder(observations) if self.through_eyes else observations, deterministic)


def make_manager(config: TrainConfig, policy: Policy) -> Manager | None:
    """A fresh manager for a policy, on the CPU; None where codes are not chosen (``latent.every``)."""
    if config.latent.every is None:
        return None
    return Manager(policy.encoder.features if config.shares_eyes else config.observation, config)
