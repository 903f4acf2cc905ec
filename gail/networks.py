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
        ppo, disc = config.ppo, config.discriminator
        nets.policy_optimiser = torch.optim.AdamW(
            nets.policy.parameters(), lr=ppo.learning_rate, weight_decay=ppo.weight_decay
        )
        nets.critic_optimiser = torch.optim.AdamW(
            nets.critic.parameters(), lr=ppo.critic_learning_rate, weight_decay=ppo.weight_decay
        )
        nets.discriminator_optimiser = torch.optim.AdamW(
            nets.discriminator.parameters(), lr=disc.learning_rate, betas=(0.5, 0.999), weight_decay=disc.weight_decay
        )
        nets.cloning_optimiser = torch.optim.Adam(nets.policy.parameters(), lr=config.bc.learning_rate)
        return nets

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
