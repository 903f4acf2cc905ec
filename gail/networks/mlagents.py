"""ML-Agents' GAIL discriminator, number for number: ``discriminator.compat: mlagents``.

Written from its behaviour, which differs from :mod:`gail.networks.discriminator` in what its users may want to
reproduce, and in what is an oversight: the gradient penalty bears on the probability and only on the first
observation, every number is interpolated by itself, the end of an episode can be seen, and the gradient sees a beta
that the logged loss does not.
Its observation is a list of tensors; here they are the ego, partner, road and light blocks of the layout, so the first
one is the ego block. They are taken as they are, GPUDrive's collided flag and absent entities included.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gail_cli.gail.config.schema import DiscriminatorConfig, GAILSettings
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.base import Discriminator, Loss, Scored, Stats
from gail_cli.gail.networks.encoder import one_hot
from gail_cli.gail.networks.losses import added, estimate_stats, next_beta, penalty_term
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

EPSILON = 1e-7
GRADIENT_PENALTY = 10.0
Z_SIZE = 128
MUTUAL_INFORMATION = 0.5
"""I_c, of expert and policy together."""
ALPHA = 5e-4
INITIAL_BETA = 0.0
_CLAMP = 5.0


def reward(estimate: Tensor) -> Tensor:
    """-ln(1 - D (1 - epsilon)) of probabilities, in [0, 16.1] (15.94 in float32)."""
    return -torch.log(1 - estimate * (1 - EPSILON))


def adversarial_loss(expert: Tensor, policy: Tensor) -> Tensor:
    """-mean(ln(D_expert + epsilon) + ln(1 - D_policy + epsilon)) of probabilities [B]: twice a cross-entropy."""
    return -(torch.log(expert + EPSILON) + torch.log(1 - policy + EPSILON)).mean()


def kl_loss(expert_mu: Tensor, policy_mu: Tensor, sigma: Tensor) -> Tensor:
    """KL of experts' codes plus KL of policy's, from N(0, 1), the mean over [B, Z]; sigma [Z]."""
    variance = sigma.square()
    each = 0.5 * expert_mu.square() + 0.5 * policy_mu.square() + variance - variance.log() - 1
    return each.sum(dim=1).mean()


def gradient_magnitude(estimate: Tensor, first: Tensor) -> Tensor:
    """mean (|d D / d first| - 1)^2 of probabilities [B] by the first observation [B, E]; |g| = sqrt(g.g + epsilon)."""
    (gradient,) = torch.autograd.grad(estimate.sum(), [first], create_graph=True)
    return ((gradient.square().sum(dim=1) + EPSILON).sqrt() - 1).square().mean()


def cross_entropy_term() -> Loss:
    """:func:`adversarial_loss` of probabilities."""

    def term(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        loss = adversarial_loss(expert.estimate, policy.estimate)
        return loss, {"loss": loss} | estimate_stats(network, policy, expert)

    return term


def bottleneck_term(target: float) -> Loss:
    """VAIL's beta (KL - I_c) with the value that the present beta gives it, and the gradient that the next one does.

    ML-Agents replaces beta between computing the loss and going back through it. Here beta itself changes after the
    step, in :meth:`Discriminator.update_beta`.
    """

    def term(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        kl = network.information(policy, expert)
        excess, upcoming = kl - target, network.next_beta(kl.detach())
        return upcoming * excess + (network.beta - upcoming) * excess.detach(), {"kl": kl}

    return term


def discriminator_loss(settings: GAILSettings) -> Loss:
    """The terms of ML-Agents: its cross-entropy, its bottleneck if there is one, and its gradient penalty."""
    bottleneck = [bottleneck_term(MUTUAL_INFORMATION)] if settings.use_vail else []
    return added(cross_entropy_term(), *bottleneck, penalty_term(GRADIENT_PENALTY))


class Normaliser(nn.Module):
    """Standardises by statistics that follow what it is shown; it begins with a count of 1, mean 0 and M2 1."""

    count: Tensor
    mean: Tensor
    m2: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.tensor(1.0))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("m2", torch.ones(features))

    @torch.no_grad()
    def update(self, x: Tensor) -> None:
        """Count rows [B, F] in (Welford's way, with a batch for a row)."""
        self.count += len(x)
        from_old = x - self.mean
        self.mean += from_old.sum(dim=0) / self.count
        self.m2 += (from_old * (x - self.mean)).sum(dim=0)

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features, clamped to +-5."""
        return ((x - self.mean) / (self.m2 / self.count).sqrt()).clamp(-_CLAMP, _CLAMP)


class DiscriminatorNetwork(Discriminator):
    """ML-Agents' network, whose estimates are probabilities, whose gate is never shut, and whose reward is not scaled.

    Args:
        observation: the layout of the input.
        space: the actions.
        settings: ML-Agents' settings. A memory is ignored, with a warning.
    """

    boundary = 0.5
    gated = False
    scales_reward = False

    def __init__(self, observation: ObservationConfig, space: ActionSpace, settings: GAILSettings) -> None:
        super().__init__()
        network = settings.network_settings
        if network.memory is not None:
            warnings.warn(
                "discriminator.mlagents.network_settings.memory is ignored: the GAIL discriminator supports no memory; "
                "leave it out",
                stacklevel=2,
            )
        self.settings, self.space = settings, space
        self.loss = discriminator_loss(settings)
        self.first = len(observation.ego_fields)
        size = observation.size
        self.normaliser = Normaliser(size) if network.normalize else None
        if settings.use_actions:
            size += (sum(space.sizes) if space.discrete else space.components) + 1
        widths = [size] + [network.hidden_units] * network.num_layers
        layers = [_linear(n_in, n_out, _kaiming) for n_in, n_out in pairwise(widths)]
        self.encoder = nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())))
        self.z_mu = self.z_sigma = None
        if settings.use_vail:
            self.z_sigma = nn.Parameter(torch.ones(Z_SIZE))
            self.z_mu = _linear(network.hidden_units, Z_SIZE, _kaiming, 0.1)
        self.register_buffer("beta", torch.tensor(INITIAL_BETA))
        last = Z_SIZE if settings.use_vail else network.hidden_units
        self.estimator = nn.Sequential(_linear(last, 1, nn.init.xavier_uniform_, 0.2), nn.Sigmoid())

    def fit_normaliser(self, expert: Transitions) -> None:
        """Nothing: see :meth:`observe_experts`."""

    def observe_experts(self, expert: Transitions) -> None:
        """Let the statistics, if there are any, follow the experts' minibatch."""
        if self.normaliser is not None:
            self.normaliser.update(expert.observation)

    def make_optimiser(self) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(self.parameters())

    def rates(self, config: DiscriminatorConfig) -> dict[str, Any]:
        """The learning rate."""
        return {"lr": config.mlagents.learning_rate}

    def reward(self, estimate: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        """[B] :func:`reward` of probabilities [B] times ``strength``, whatever the form."""
        return self.settings.strength * reward(estimate)

    def action_inputs(self, batch: Transitions) -> Tensor:
        """[B, A + 1] actions, one-hot if they are of a grid, and whether the transition was the last.

        Raises:
            ValueError: when the samples do not say who is done.
        """
        if batch.done is None:
            raise ValueError("discriminator.mlagents.use_actions sees who is done; give samples that tell it")
        kind = batch.observation.dtype
        actions = one_hot(batch.action, self.space.sizes) if self.space.discrete else batch.action
        return torch.cat([actions.to(kind), batch.done[:, None].to(kind)], dim=1)

    def estimates(self, observation: Tensor, actions: Tensor | None, noise: bool) -> tuple[Tensor, Tensor | None]:
        """Probabilities [B] of "expert" and the codes' means [B, Z], from [B, D] and perhaps :meth:`action_inputs`."""
        x = observation if self.normaliser is None else self.normaliser(observation)
        hidden, mu = self.encoder(x if actions is None else torch.cat([x, actions], dim=1)), None
        if self.z_mu is not None and self.z_sigma is not None:
            mu = self.z_mu(hidden)
            hidden = mu + self.z_sigma * torch.randn_like(mu) if noise else mu
        return self.estimator(hidden).squeeze(1), mu

    def _scored(self, batch: Transitions, noise: bool) -> Scored:
        actions = self.action_inputs(batch) if self.settings.use_actions else None
        return Scored(batch, *self.estimates(batch.observation, actions, noise))

    def compute_estimate(self, batch: Transitions, use_vail_noise: bool = False) -> Tensor:
        """[B] probabilities of "expert"."""
        return self._scored(batch, use_vail_noise).estimate

    def score(self, policy_batch: Transitions, expert_batch: Transitions) -> tuple[Scored, Scored]:
        """Both sides with their probabilities, the policy's first: that is the order in which noise is drawn."""
        return self._scored(policy_batch, noise=True), self._scored(expert_batch, noise=True)

    def information(self, policy: Scored, expert: Scored) -> Tensor:
        """:func:`kl_loss`."""
        assert policy.mu is not None
        assert expert.mu is not None
        assert self.z_sigma is not None
        return kl_loss(expert.mu, policy.mu, self.z_sigma)

    def compute_gradient_magnitude(self, policy_batch: Transitions, expert_batch: Transitions) -> Tensor:
        """:func:`gradient_magnitude` at points whose every number lies anywhere between that of policy and expert."""
        mixed = _between(policy_batch.observation, expert_batch.observation)
        first = mixed[:, : self.first].requires_grad_()
        observation, actions = torch.cat([first, mixed[:, self.first :]], dim=1), None
        if self.settings.use_actions:
            actions = _between(self.action_inputs(policy_batch), self.action_inputs(expert_batch))
        return gradient_magnitude(self.estimates(observation, actions, noise=True)[0], first)

    def next_beta(self, kl: Tensor) -> Tensor:
        """[] by ML-Agents' constants."""
        return next_beta(self.beta, kl, MUTUAL_INFORMATION, ALPHA)


def _between(policy: Tensor, expert: Tensor) -> Tensor:
    """Policy where a random number is 1, expert where it is 0, each element by itself."""
    weight = torch.rand_like(policy)
    return weight * policy + (1 - weight) * expert


def _kaiming(weight: Tensor) -> Tensor:
    return nn.init.kaiming_normal_(weight, nonlinearity="linear")


def _linear(n_in: int, n_out: int, kernel: Callable[[Tensor], Tensor], gain: float = 1.0) -> nn.Linear:
    """A layer with a kernel drawn by ``kernel``, times a gain, and no bias at first."""
    layer = nn.Linear(n_in, n_out)
    kernel(layer.weight)
    layer.weight.data.mul_(gain)
    nn.init.zeros_(layer.bias)
    return layer
