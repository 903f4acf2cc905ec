"""What every discriminator answers for itself, so that its users need not know which one it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gail_cli.gail.config.schema import DiscriminatorConfig
from gail_cli.gail.demos.transitions import Transitions

Stats = dict[str, Tensor]


@dataclass(frozen=True)
class Scored:
    """A batch, and what a discriminator makes of it in an update."""

    batch: Transitions
    estimate: Tensor
    """[B]."""
    mu: Tensor | None = None
    """[B, Z] means of the codes, of networks that have a bottleneck."""


Loss = Callable[["Discriminator", Scored, Scored], tuple[Tensor, Stats]]
"""A loss, or a term of one: from a network, the policy's samples and the experts' to a scalar and its statistics."""


class Discriminator(nn.Module, ABC):
    """Tells expert from policy: an estimate per transition, the loss that it is trained with, and the reward that
    follows from it."""

    boundary: float
    """The estimate that is no claim for either side; experts lie above it."""
    gated: bool
    """Whether it stops to learn while it is more accurate than ``discriminator.max_accuracy``."""
    scales_reward: bool
    """Whether its reward is divided by the running size of its returns."""
    needs_next_state: bool = False
    """Whether its samples must hold the next observation."""
    needs_log_prob: bool = False
    """Whether its samples must hold the log-probability of their actions under the present policy."""
    beta: Tensor
    """[] the price of information, of networks that have a bottleneck."""
    loss: Loss
    """What it is trained with, composed from its settings."""

    @abstractmethod
    def compute_estimate(self, batch: Transitions, use_vail_noise: bool = False) -> Tensor:
        """[B] estimates of samples; with noise in the codes if there is a bottleneck, and if asked for."""

    def forward(self, batch: Transitions) -> Tensor:
        """:meth:`compute_estimate` without noise."""
        return self.compute_estimate(batch)

    @abstractmethod
    def score(self, policy_batch: Transitions, expert_batch: Transitions) -> tuple[Scored, Scored]:
        """Both sides of an update with their estimates, with noise: what the terms of the loss share."""

    def compute_loss(self, policy_batch: Transitions, expert_batch: Transitions) -> tuple[Tensor, Stats]:
        """The loss of one update and its statistics, detached.

        It changes nothing: the price of information is changed by :meth:`update_beta`, after the step.

        Returns:
            The scalar to go back through; and "loss", the cross-entropy in it, "expert_accuracy", "policy_accuracy",
            "expert_estimate", "policy_estimate", and where they have a part in it "kl" and "gradient_penalty".
        """
        loss, stats = self.loss(self, *self.score(policy_batch, expert_batch))
        return loss, {name: value.detach() for name, value in stats.items()}

    @abstractmethod
    def information(self, policy: Scored, expert: Scored) -> Tensor:
        """[] nats that the codes of both sides hold: their KL divergence from N(0, 1)."""

    @abstractmethod
    def compute_gradient_magnitude(self, policy_batch: Transitions, expert_batch: Transitions) -> Tensor:
        """[] the gradient penalty, without its weight, between as many samples of policy and expert."""

    @abstractmethod
    def next_beta(self, kl: Tensor) -> Tensor:
        """[] the price of information after an update in which so much passed."""

    @torch.no_grad()
    def update_beta(self, kl: Tensor) -> None:
        """After a step: raise the price of information if more than the target passed, and lower it otherwise."""
        self.beta.copy_(self.next_beta(kl))

    @abstractmethod
    def reward(self, estimate: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        """[B] rewards of estimates [B].

        Args:
            estimate: of the policy's transitions.
            form: from logits to rewards, as ``reward.form`` asks; of networks whose reward has a choice of forms.
        """

    @abstractmethod
    def make_optimiser(self) -> torch.optim.Optimizer:
        """The kind that it is trained with, over all its parameters; :meth:`rates` are not set yet."""

    @abstractmethod
    def rates(self, config: DiscriminatorConfig) -> dict[str, Any]:
        """Options of the optimiser's parameter groups, which may change in a run that goes on."""

    @abstractmethod
    def fit_normaliser(self, expert: Transitions) -> None:
        """Before the first update: fit the input statistics on expert samples, if they are fitted once."""

    @abstractmethod
    def observe_experts(self, expert: Transitions) -> None:
        """Before each update: let the input statistics follow the experts' samples, if they do so."""
