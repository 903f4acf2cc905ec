"""All that learns in a run, with its optimisers, as one thing to save and load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gail.config import TrainConfig
from gail.discriminator import Discriminator, Samples
from gail.policy import Critic, Policy
from sim.actions import ActionSpace


@dataclass
class Networks:
    """All that learns, with its optimisers."""

    policy: Policy
    critic: Critic
    discriminator: Discriminator
    policy_optimiser: torch.optim.Optimizer = field(init=False)
    critic_optimiser: torch.optim.Optimizer = field(init=False)
    discriminator_optimiser: torch.optim.Optimizer = field(init=False)
    cloning_optimiser: torch.optim.Optimizer = field(init=False)

    @classmethod
    def create(cls, config: TrainConfig, space: ActionSpace, device: torch.device) -> Networks:
        """Fresh networks on a device."""
        observation = config.observation
        nets = cls(
            Policy(observation, space, config.policy).to(device),
            Critic(observation, config.policy).to(device),
            Discriminator(observation, space, config.discriminator).to(device),
        )
        nets.policy_optimiser = torch.optim.AdamW(nets.policy.parameters())
        nets.critic_optimiser = torch.optim.AdamW(nets.critic.parameters())
        nets.discriminator_optimiser = torch.optim.AdamW(nets.discriminator.parameters(), betas=(0.5, 0.999))
        nets.set_rates(config)
        nets.cloning_optimiser = torch.optim.Adam(nets.policy.parameters(), lr=config.bc.learning_rate)
        return nets

    def set_rates(self, config: TrainConfig) -> None:
        """Learning rates and weight decay of a configuration, also over those that a checkpoint brought."""
        ppo, disc = config.ppo, config.discriminator
        for optimiser, rate, decay in (
            (self.policy_optimiser, ppo.learning_rate, ppo.weight_decay),
            (self.critic_optimiser, ppo.critic_learning_rate, ppo.weight_decay),
            (self.discriminator_optimiser, disc.learning_rate, disc.weight_decay),
        ):
            for group in optimiser.param_groups:
                group.update(lr=rate, weight_decay=decay)

    def fit_normalisers(self, expert: Samples) -> None:
        """Fit all input statistics on expert samples, for good."""
        self.policy.fit_normaliser(expert.observation, expert.action)
        self.discriminator.fit_normaliser(expert.observation, expert.action)
        self.critic.encoder.fit_normaliser(expert.observation)

    def _named(self) -> dict[str, Any]:
        return dict(vars(self))

    def state_dict(self) -> dict[str, Any]:
        """Weights, normalisers and optimiser states."""
        return {name: item.state_dict() for name, item in self._named().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, item in self._named().items():
            item.load_state_dict(state[name])
