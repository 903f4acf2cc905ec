"""The reward of imitation: a discriminator that learns from demos and from what the policy does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gail_cli.gail.config.schema import DiscriminatorConfig, RewardConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning import rewards
from gail_cli.gail.networks.base import Discriminator

_CHUNK = 8192
"""Transitions that are estimated at once."""


class GAILRewardProvider:
    """Rewards looking like an expert (in the shape of ML-Agents' class of that name).

    Args:
        network: what tells experts from the policy, on its device.
        config: how it learns.
        reward: the form of the reward, for networks that have a choice.
        demos: gives as many expert samples as asked for, with all that the network looks at.
    """

    name = "GAIL"

    def __init__(
        self,
        network: Discriminator,
        config: DiscriminatorConfig,
        reward: RewardConfig,
        demos: Callable[[int], Transitions],
    ) -> None:
        self.network, self._demos = network, demos
        self.optimiser = network.make_optimiser()
        self.set_rates(config, reward)

    def set_rates(self, config: DiscriminatorConfig, reward: RewardConfig) -> None:
        """Take over what may change in a run that goes on: reward, gate, learning rate and the like."""
        self._reward, self._max_accuracy = reward, config.max_accuracy
        for group in self.optimiser.param_groups:
            group.update(self.network.rates(config))

    @torch.no_grad()
    def estimate(self, batch: Transitions) -> Tensor:
        """[B] the network's estimates of samples, without dropout and noise: logits, or probabilities of ML-Agents."""
        self.network.eval()
        rows = torch.arange(len(batch), device=batch.action.device)
        return torch.cat([self.network.compute_estimate(batch.take(part)) for part in rows.split(_CHUNK)])

    def evaluate(self, batch: Transitions) -> Tensor:
        """[B] rewards of samples."""
        return self.network.reward(self.estimate(batch), self._in_form)

    def update(self, batch: Transitions) -> dict[str, float]:
        """One gradient step on these samples against as many demos, unless the network is too good at it already.

        Returns:
            The statistics of ``compute_loss``, "beta" after the step where there is a bottleneck, and "updates": 1, or
            0 if the accuracy gate was shut.
        """
        self.network.train()
        expert = self._demos(len(batch))
        self.network.observe_experts(expert)
        loss, stats = self.network.compute_loss(batch, expert)
        metrics = dict(zip(stats, torch.stack(list(stats.values())).tolist(), strict=True))
        learns = self._may_learn((metrics["expert_accuracy"] + metrics["policy_accuracy"]) / 2)
        if learns:
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            if "kl" in stats:
                self.network.update_beta(stats["kl"])
        if "kl" in stats:
            metrics["beta"] = self.network.beta.item()
        return metrics | {"updates": float(learns)}

    def _may_learn(self, accuracy: float) -> bool:
        return not self.network.gated or accuracy <= self._max_accuracy

    def _in_form(self, logit: Tensor) -> Tensor:
        return rewards.FORMS[self._reward.form](logit.clamp(-self._reward.clip, self._reward.clip))

    def get_modules(self) -> dict[str, nn.Module]:
        """The networks by name."""
        return {f"Module:{self.name}": self.network}

    def state_dict(self) -> dict[str, Any]:
        """Network, with its normaliser and its beta, and optimiser."""
        return {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; then :meth:`set_rates`, as the rates come with it."""
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
