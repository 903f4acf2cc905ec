"""The discriminator: a logit per (observation, action), its losses as small pure functions, and its update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from gail.config import DiscriminatorConfig
from gail.policy import EntityEncoder, mlp
from sim.actions import ActionSpace
from sim.layout import ObservationConfig


def adversarial_loss(expert: Tensor, policy: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of logits, expert = 1, policy = 0 (Ho & Ermon 2016), averaged over both.

    Args:
        expert: [B] logits of expert samples.
        policy: [B] logits of policy samples.
        smoothing: labels become 1 - s and s.
    """
    real = functional.binary_cross_entropy_with_logits(expert, torch.full_like(expert, 1 - smoothing))
    fake = functional.binary_cross_entropy_with_logits(policy, torch.full_like(policy, smoothing))
    return (real + fake) / 2


def gradient_penalty(logits: Tensor, inputs: list[Tensor]) -> Tensor:
    """mean (|d logit / d inputs| - 1)^2, the norm over all inputs of a sample together (Gulrajani et al. 2017, eq. 3).

    Args:
        logits: [B], computed from the inputs with gradients.
        inputs: tensors [B, ...] that require gradients.
    """
    grads = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    squared = sum((g.flatten(1).square().sum(dim=1) for g in grads), torch.zeros_like(logits))
    return ((squared + 1e-12).sqrt() - 1).square().mean()


@dataclass(frozen=True)
class Accuracy:
    """Shares of samples told right."""

    expert: float
    policy: float

    @property
    def balanced(self) -> float:
        """Mean of both."""
        return (self.expert + self.policy) / 2


def accuracy(expert: Tensor, policy: Tensor) -> Accuracy:
    """From logits [B] of expert and of policy samples."""
    return Accuracy((expert > 0).float().mean().item(), (policy <= 0).float().mean().item())


class Discriminator(nn.Module):
    """Tells expert from policy. It never sees who is done, the collided flag, or any other bookkeeping.

    Args:
        observation: the layout of the input.
        space: the actions.
        config: sizes and inputs.
    """

    visible: Tensor
    action_mean: Tensor
    action_std: Tensor

    def __init__(self, observation: ObservationConfig, space: ActionSpace, config: DiscriminatorConfig) -> None:
        super().__init__()
        self.space = space
        self.config = config
        self.encoder = EntityEncoder(observation, config.network, config.dropout)
        visible = torch.ones(observation.size)
        visible[list(observation.hidden_from_discriminator)] = 0.0
        self.register_buffer("visible", visible)
        self.register_buffer("action_mean", torch.zeros(space.components))
        self.register_buffer("action_std", torch.ones(space.components))
        actions = 0
        if config.inputs == "state_action":
            actions = sum(space.sizes) if space.discrete else space.components
        h = config.network.hidden
        self.head = nn.Sequential(mlp([h + actions, h], config.dropout), nn.Linear(h, 1))

    def fit_normaliser(self, observations: Tensor, actions: Tensor) -> None:
        """Fit the input statistics on expert data [B, D], [B, K]."""
        self.encoder.fit_normaliser(observations * self.visible)
        if not self.space.discrete:
            self.action_mean.copy_(actions.float().mean(dim=0))
            self.action_std.copy_(actions.float().std(dim=0).clamp(min=1e-3))

    def flatten_actions(self, actions: Tensor) -> Tensor:
        """Actions [B, K] as network input: one-hot a grid component, standardised values, or nothing at all."""
        if self.config.inputs == "state":
            return actions.new_zeros((len(actions), 0), dtype=torch.float32)
        if not self.space.discrete:
            return (actions - self.action_mean) / self.action_std
        columns = [functional.one_hot(actions[:, k].long(), n) for k, n in enumerate(self.space.sizes)]
        return torch.cat(columns, dim=1).float()

    def logits(self, observations: Tensor, flat_actions: Tensor) -> Tensor:
        """[B] from observations [B, D] and flattened actions."""
        hidden = self.encoder(observations * self.visible)
        return self.head(torch.cat([hidden, flat_actions], dim=1)).squeeze(-1)  # type: ignore[no-any-return]

    def forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """[B] logits of observations [B, D] and actions [B, K]."""
        return self.logits(observations, self.flatten_actions(actions))


@dataclass(frozen=True)
class Samples:
    """Transitions of experts or of a policy: observations and actions, and what else was asked for."""

    observation: Tensor
    """[B, D]."""
    action: Tensor
    """[B, K]."""
    next_observation: Tensor | None = None
    """[B, D] what the same agent sees a step later."""
    history: Tensor | None = None
    """[B, H, D] what it saw in the H steps before, in order of time; zeros before its demo began."""
    history_mask: Tensor | None = None
    """[B, H] bool: whether the demo had begun."""
    transition: Tensor | None = None
    """[B, 3] int64, of demos: index of the scene in the store, row of the scene's agents, step."""


def discriminator_loss(model: Discriminator, expert: Samples, policy: Samples) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of one update and its parts (detached), with the logits of both sides under "expert" and "policy"."""
    config = model.config
    flat = [model.flatten_actions(s.action) for s in (expert, policy)]
    observations = torch.cat([expert.observation, policy.observation])
    real, fake = model.logits(observations, torch.cat(flat)).split([len(expert.action), len(policy.action)])
    loss = adversarial_loss(real, fake, config.label_smoothing)
    parts = {"loss": loss.detach(), "expert": real.detach(), "policy": fake.detach()}
    if config.gradient_penalty > 0:
        weight = torch.rand(len(real), 1, device=real.device)
        mixed = [
            torch.lerp(p, e, weight).requires_grad_()
            for e, p in ((expert.observation, policy.observation), (flat[0], flat[1]))
        ]
        inputs = mixed if mixed[1].shape[1] else mixed[:1]
        penalty = gradient_penalty(model.logits(*mixed), inputs)
        loss = loss + config.gradient_penalty * penalty
        parts["gradient_penalty"] = penalty.detach()
    return loss, parts
