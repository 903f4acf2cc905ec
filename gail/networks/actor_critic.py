"""Policy and critic with their optimisers, as one thing to save and load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from gail_cli.gail.config.schema import BCConfig, PolicyConfig, PPOConfig
from gail_cli.gail.networks.policy import Critic, Policy
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig


@dataclass
class Networks:
    """Policy and critic, with their optimisers."""

    policy: Policy
    critic: Critic
    policy_optimiser: torch.optim.Optimizer = field(init=False)
    critic_optimiser: torch.optim.Optimizer = field(init=False)
    cloning_optimiser: torch.optim.Optimizer = field(init=False)

    @classmethod
    def create(
        cls,
        observation: ObservationConfig,
        space: ActionSpace,
        config: PolicyConfig,
        codes: int,
        device: torch.device,
        shared: bool = False,
    ) -> Networks:
        """Fresh networks on a device; their rates are yet to be set.

        Args:
            observation: the layout of the input.
            space: the actions.
            config: sizes of both.
            codes: latent codes; 0 for none.
            device: where they are.
            shared: the critic looks through the policy's eyes, instead of its own, as others do, so that these see no
                flag that would tell policies from experts.
        """
        policy = Policy(observation, space, config, codes, flags=not shared)
        seen = policy.encoder.features if shared else observation
        nets = cls(policy.to(device), Critic(seen, config, codes).to(device))
        nets.policy_optimiser = torch.optim.AdamW(nets.policy.parameters())
        nets.critic_optimiser = torch.optim.AdamW(nets.critic.parameters())
        nets.cloning_optimiser = torch.optim.AdamW(nets.policy.parameters())
        return nets

    def set_rates(self, ppo: PPOConfig, bc: BCConfig) -> None:
        """Learning rates at the start, and weight decay, also over those that a checkpoint brought."""
        for optimiser, rate, decay in (
            (self.policy_optimiser, ppo.learning_rate, ppo.weight_decay),
            (self.critic_optimiser, ppo.critic_learning_rate, ppo.critic_weight_decay),
        ):
            for group in optimiser.param_groups:
                group.update(lr=rate, weight_decay=decay)
        for group in self.cloning_optimiser.param_groups:  # whose rate depends on the step
            group.update(weight_decay=bc.weight_decay)

    def anneal(self, ppo: PPOConfig, done: float) -> None:
        """The policy's learning rate where this share of a run is done."""
        left = 1 - (1 - ppo.final_learning_rate) * min(max(done, 0.0), 1.0)
        for group in self.policy_optimiser.param_groups:
            group.update(lr=ppo.learning_rate * left)

    def state_dict(self) -> dict[str, Any]:
        """Weights, normalisers and optimiser states."""
        return {name: item.state_dict() for name, item in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, item in vars(self).items():
            item.load_state_dict(state[name])
