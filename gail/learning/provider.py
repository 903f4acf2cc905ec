"""The reward of imitation: a discriminator that learns from demos and from what the policy does, and pays for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning import rewards
from gail_cli.gail.networks import mlagents
from gail_cli.gail.networks.discriminator import DiscriminatorNetwork
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

_CHUNK = 8192
"""Transitions that are judged at once."""


class GAILRewardProvider:
    """Pays for looking like an expert (in the shape of ML-Agents' class of that name).

    Args:
        config: of the run; ``discriminator.compat`` decides whose network and whose arithmetic.
        space: the actions.
        observation: the layout of observations.
        demos: gives as many expert samples as asked for, with all that the network looks at.
        device: where the network is.
    """

    name = "GAIL"

    def __init__(
        self,
        config: TrainConfig,
        space: ActionSpace,
        observation: ObservationConfig,
        demos: Callable[[int], Transitions],
        device: torch.device | str = "cpu",
    ) -> None:
        settings = config.discriminator
        self._demos = demos
        self.network: DiscriminatorNetwork | mlagents.DiscriminatorNetwork
        self.optimiser: torch.optim.Optimizer
        if settings.compat == "mlagents":
            self.network = mlagents.DiscriminatorNetwork(observation, space, settings.mlagents).to(device)
            self.optimiser = torch.optim.Adam(self.network.parameters())
        else:
            self.network = DiscriminatorNetwork(observation, space, settings, config.ppo.gamma).to(device)
            self.optimiser = torch.optim.AdamW(self.network.parameters())
        self.set_rates(config)

    def set_rates(self, config: TrainConfig) -> None:
        """Take over what may change in a run that goes on: reward, gate, learning rate and the like."""
        self._reward, self._max_accuracy = config.reward, config.discriminator.max_accuracy
        settings = config.discriminator
        for group in self.optimiser.param_groups:
            if settings.compat == "mlagents":
                group.update(lr=settings.mlagents.learning_rate)
            else:
                betas = (settings.momentum, 0.999)
                group.update(lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=betas)

    @torch.no_grad()
    def estimate(self, batch: Transitions) -> Tensor:
        """What the network makes of samples, without dropout and noise: logits [B], or under compat probabilities."""
        self.network.eval()
        rows = torch.arange(len(batch.action), device=batch.action.device)
        return torch.cat([self.network.compute_estimate(batch.take(part)) for part in rows.split(_CHUNK)])

    def evaluate(self, batch: Transitions) -> Tensor:
        """[B] rewards of samples."""
        estimate = self.estimate(batch)
        if isinstance(self.network, mlagents.DiscriminatorNetwork):
            return self.network.settings.strength * mlagents.reward(estimate)
        return rewards.FORMS[self._reward.form](estimate.clamp(-self._reward.clip, self._reward.clip))

    def update(self, batch: Transitions) -> dict[str, float]:
        """One gradient step on these samples against as many demos, unless the network is too good at it already.

        Returns:
            The statistics of ``compute_loss``, "beta" after the step where there is a bottleneck, and "updates": 1, or
            0 if the accuracy gate was shut.
        """
        self.network.train()
        expert = self._demos(len(batch.action))
        if isinstance(self.network, mlagents.DiscriminatorNetwork):
            self.network.update_normaliser(expert)
        loss, stats = self.network.compute_loss(batch, expert)
        told = dict(zip(stats, torch.stack(list(stats.values())).tolist(), strict=True))
        open_gate = self._learns((told["expert_accuracy"] + told["policy_accuracy"]) / 2)
        if open_gate:
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
            if "kl" in stats:
                self.network.update_beta(stats["kl"])
        if "kl" in stats:
            told["beta"] = self.network.beta.item()
        return told | {"updates": float(open_gate)}

    def _learns(self, accuracy: float) -> bool:
        return isinstance(self.network, mlagents.DiscriminatorNetwork) or accuracy <= self._max_accuracy

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
