"""Networks: the entity encoder that policy, critic and discriminator share in kind, and the policy itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional

from gail_cli.gail.config.schema import NetworkConfig, PolicyConfig
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

_MIN_STD = 1e-2
_CLAMP = 5.0


def mlp(sizes: Sequence[int], dropout: float = 0.0, norm: bool = True) -> nn.Sequential:
    """Linear, LayerNorm (unless ``norm`` is false), ReLU and dropout, for each size after the first."""
    layers: list[nn.Module] = []
    for n_in, n_out in pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), *([nn.LayerNorm(n_out)] if norm else []), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)


def one_hot(actions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Indices [B, K] into grids of these sizes as [B, sum of sizes] int64, one-hot each."""
    return torch.cat([functional.one_hot(actions[:, k].long(), n) for k, n in enumerate(sizes)], dim=1)


class Normaliser(nn.Module):
    """Standardises features by statistics that are fitted once, on expert data, and then never drift.

    Statistics that keep following their input are a known way for GAIL to fail: rewards change meaning while the
    policy is trained on them. They are buffers, so they travel with the checkpoint.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("std", torch.ones(features))

    def fit(self, x: Tensor) -> None:
        """Take mean and standard deviation of rows [B, F]; features that (almost) never change are left as they are."""
        if len(x) > 1:
            std = x.std(dim=0)
            constant = std < _MIN_STD * x.abs().mean(dim=0).clamp(min=1e-4)
            self.mean.copy_(x.mean(dim=0))
            self.std.copy_(torch.where(constant, torch.ones_like(std), std))

    def forward(self, x: Tensor) -> Tensor:
        """Standardised features, clamped to +-5."""
        return ((x - self.mean) / self.std).clamp(-_CLAMP, _CLAMP)


class EntityEncoder(nn.Module):
    """Ego, partners, road segments and lights to one vector: each entity through a small network, then a maximum.

    Args:
        observation: the layout of the input.
        config: sizes.
        dropout: after each hidden layer, in training mode.
        norm: LayerNorm behind the pooling.
        partners: whether partners are looked at, or only ego and road.
    """

    def __init__(
        self,
        observation: ObservationConfig,
        config: NetworkConfig,
        dropout: float = 0.0,
        norm: bool = True,
        partners: bool = True,
    ) -> None:
        super().__init__()
        self.observation = observation
        h = config.entity_hidden
        widths = [len(fields) for _, _, fields in observation.entities]
        self.normalisers = nn.ModuleList(Normaliser(n) for n in widths)
        # No LayerNorm over single entities: it would cost most of the time, above all in the gradient penalty.
        self.ego = mlp([widths[0], h, h], dropout, norm=False)
        self.partners = mlp([widths[1], h, h], dropout, norm=False) if partners else None
        self.roads = mlp([widths[2], h, h], dropout, norm=False)
        self.lights = mlp([widths[3], h, h], dropout, norm=False) if observation.lights else None
        networks = [self.ego, self.partners, self.roads, self.lights]
        self.trunk = mlp([h * sum(x is not None for x in networks), config.hidden], dropout, norm)
        self.size = config.hidden

    def fit_normaliser(self, observations: Tensor) -> None:
        """Fit the input statistics on expert observations [B, D], over entities that are present."""
        ego, *blocks = self.observation.split(observations)
        there = [block[here] for block, here in zip(blocks, self.observation.present(*blocks), strict=True)]
        for normaliser, x in zip(self.normalisers, (ego, *there), strict=False):  # no layout without lights has theirs
            assert isinstance(normaliser, Normaliser)
            normaliser.fit(x)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, D] to [B, size]."""
        ego, *blocks = self.observation.split(observations)
        n_ego, *normalisers = self.normalisers
        parts = [self.ego(n_ego(ego))]
        networks, present = (self.partners, self.roads, self.lights), self.observation.present(*blocks)
        for network, normaliser, block, here in zip(networks, normalisers, blocks, present, strict=False):
            if network is not None:
                parts.append(_pooled(network, normaliser(block[here]), here))
        return self.trunk(torch.cat(parts, dim=-1))  # type: ignore[no-any-return]


def _pooled(network: nn.Module, entities: Tensor, present: Tensor) -> Tensor:
    """[B, H] maximum of a network's outputs (none below zero) over each row's entities; zero where there is none.

    Args:
        network: from [E, F] to [E, H].
        entities: [E, F] those that are there, of all rows one after the other; the network sees no others, which with
            masking are most.
        present: [B, n] where they were, E times true.
    """
    found: Tensor = network(entities)
    row = present.nonzero()[:, :1].expand_as(found)
    return found.new_zeros(len(present), found.shape[1]).scatter_reduce(0, row, found, "amax")


class Policy(nn.Module):
    """A distribution over actions: a categorical per grid component, or a Gaussian per continuous one.

    Args:
        observation: the layout of the input.
        space: the actions.
        config: sizes.
        codes: latent codes, see :mod:`gail.learning.latent`; inputs then end with the code, one-hot.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(
        self, observation: ObservationConfig, space: ActionSpace, config: PolicyConfig, codes: int = 0
    ) -> None:
        super().__init__()
        self.space, self.codes, self._seen = space, codes, observation.size
        self.encoder = EntityEncoder(observation, config)
        outputs = sum(space.sizes) if space.discrete else space.components
        self.body = mlp([config.hidden + codes] + [config.hidden] * (config.layers - 1), config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden if config.layers > 1 else config.hidden + codes, outputs)
        nn.init.orthogonal_(self.head.weight, 0.01)
        nn.init.zeros_(self.head.bias)
        self.log_std = nn.Parameter(torch.full((space.components,), -1.0))
        self.register_buffer("action_mean", torch.zeros(space.components))
        self.register_buffer("action_std", torch.ones(space.components))

    def fit_normaliser(self, observations: Tensor, actions: Tensor) -> None:
        """Fit input statistics, and the scale of continuous actions, on expert data [B, D], [B, K]."""
        self.encoder.fit_normaliser(observations)
        if not self.space.discrete:
            self.action_mean.copy_(actions.float().mean(dim=0))
            self.action_std.copy_(actions.float().std(dim=0).clamp(min=1e-3))

    def distributions(self, observations: Tensor) -> list[Categorical] | list[Normal]:
        """One distribution per action component, each over [B]."""
        seen, code = observations[:, : self._seen], observations[:, self._seen :]
        out = self.head(self.body(torch.cat([self.dropout(self.encoder(seen)), code], dim=1)))
        if self.space.discrete:
            return [Categorical(logits=x, validate_args=False) for x in out.split(self.space.sizes, dim=-1)]
        mean = self.action_mean + self.action_std * out
        std = self.action_std * self.log_std.exp()
        return [Normal(mean[:, k], std[k], validate_args=False) for k in range(self.space.components)]

    def with_code(self, observations: Tensor, code: Tensor | None) -> Tensor:
        """What the policy looks at, from observations [B, D] and latent codes [B], which it must have or not have.

        Raises:
            ValueError: for codes where there are none, or none where there are.
        """
        if (code is None) != (self.codes == 0):
            raise ValueError(f"the policy has {self.codes} latent codes; give one a row, or none if it has none")
        if code is None:
            return observations
        return torch.cat([observations, functional.one_hot(code, self.codes).to(observations.dtype)], dim=1)

    def act(self, observations: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions [B, K] (sampled, or the most likely) and their log-probability [B]."""
        each = self.distributions(observations)
        picked = [d.mode if deterministic else d.sample() for d in each]
        return torch.stack(picked, dim=1), _log_prob(each, picked)

    def evaluate(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [B] and entropy [B] of actions [B, K]."""
        each = self.distributions(observations)
        entropy = torch.stack([d.entropy() for d in each]).sum(dim=0)
        return _log_prob(each, list(actions.unbind(dim=1))), entropy


def _log_prob(distributions: Sequence[Categorical | Normal], actions: Sequence[Tensor]) -> Tensor:
    return torch.stack([d.log_prob(a) for d, a in zip(distributions, actions, strict=True)]).sum(dim=0)


class Critic(nn.Module):
    """The value of what a :class:`Policy` looks at."""

    def __init__(self, observation: ObservationConfig, config: NetworkConfig, codes: int = 0) -> None:
        super().__init__()
        self._seen = observation.size
        self.encoder = EntityEncoder(observation, config)
        body = mlp([config.hidden + codes] + [config.hidden] * (config.layers - 1))
        self.head = nn.Sequential(body, nn.Linear(config.hidden if config.layers > 1 else config.hidden + codes, 1))

    def forward(self, observations: Tensor) -> Tensor:
        """[B, D] to [B]."""
        seen, code = observations[:, : self._seen], observations[:, self._seen :]
        return self.head(torch.cat([self.encoder(seen), code], dim=1)).squeeze(-1)  # type: ignore[no-any-return]
