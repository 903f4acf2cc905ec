"""Eyes: observations to vectors, for policy, critic, discriminator and the posterior of latent codes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from gail_cli.gail.config.schema import NetworkConfig
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


class Eyes(nn.Module):
    """What an observation shows as one vector: each entity through a small network, then a maximum over each kind.

    Where the ego's fields tell how near everything is, or where its way leads (``rays``, ``danger``, ``route``), they
    are also passed on as they are, so that no layer has to let them through.

    Args:
        observation: the layout of the input.
        config: sizes.
        dropout: after each hidden layer, in training mode.
        partners: whether partners are looked at, or only ego, roads and lights.
        flags: whether they see what no expert shows (:attr:`ObservationConfig.hidden_from_discriminator`).
    """

    def __init__(
        self,
        observation: ObservationConfig,
        config: NetworkConfig,
        dropout: float = 0.0,
        partners: bool = True,
        flags: bool = True,
    ) -> None:
        super().__init__()
        self.observation = observation
        self._hidden = [] if flags else list(observation.hidden_from_discriminator)
        h = config.entity_hidden
        widths = [len(fields) for _, _, fields in observation.entities]
        self.normalisers = nn.ModuleList(Normaliser(n) for n in widths)
        # No LayerNorm over single entities: it would cost most of the time, above all in the gradient penalty.
        self.ego = mlp([widths[0], h, h], dropout, norm=False)
        self.partners = mlp([widths[1], h, h], dropout, norm=False) if partners else None
        self.roads = mlp([widths[2], h, h], dropout, norm=False)
        self.lights = mlp([widths[3], h, h], dropout, norm=False) if observation.lights else None
        networks = [self.ego, self.partners, self.roads, self.lights]
        self._passes_on = bool(observation.looks or observation.route)
        self.features = h * sum(x is not None for x in networks) + self._passes_on * widths[0]

    def fit_normaliser(self, observations: Tensor) -> None:
        """Fit the input statistics on expert observations [B, D], over entities that are present."""
        ego, *blocks = self.observation.split(observations)
        there = [block[here] for block, here in zip(blocks, self.observation.present(*blocks), strict=True)]
        for normaliser, x in zip(self.normalisers, (ego, *there), strict=False):  # no layout without lights has theirs
            assert isinstance(normaliser, Normaliser)
            normaliser.fit(x)

    def see(self, observations: Tensor) -> Tensor:
        """[B, D] to [B, features]."""
        ego, *blocks = self.observation.split(observations)
        n_ego, *normalisers = self.normalisers
        if self._hidden:
            ego = ego.clone()
            ego[..., self._hidden] = 0.0
        own = n_ego(ego)
        parts = [self.ego(own)]
        networks, present = (self.partners, self.roads, self.lights), self.observation.present(*blocks)
        for network, normaliser, block, here in zip(networks, normalisers, blocks, present, strict=False):
            if network is not None:
                parts.append(_pooled(network, normaliser(block[here]), here))
        return torch.cat([*parts, own] if self._passes_on else parts, dim=-1)

    def forward(self, observations: Tensor) -> Tensor:
        """:meth:`see`."""
        return self.see(observations)


class EntityEncoder(Eyes):
    """Eyes of one's own, and a layer behind them.

    Args:
        observation, config, dropout, partners: see :class:`Eyes`.
        norm: LayerNorm in the layer behind.
    """

    def __init__(
        self,
        observation: ObservationConfig,
        config: NetworkConfig,
        dropout: float = 0.0,
        norm: bool = True,
        partners: bool = True,
    ) -> None:
        super().__init__(observation, config, dropout, partners)
        self.trunk = mlp([self.features, config.hidden], dropout, norm)

    def forward(self, observations: Tensor) -> Tensor:
        """[B, D] to [B, hidden]."""
        return self.trunk(self.see(observations))  # type: ignore[no-any-return]


class FeatureEncoder(nn.Module):
    """A layer behind eyes that somebody else has looked with already.

    Args:
        features: F that the eyes give.
        config: sizes.
        dropout, norm: see :class:`EntityEncoder`.
    """

    def __init__(self, features: int, config: NetworkConfig, dropout: float = 0.0, norm: bool = True) -> None:
        super().__init__()
        self.normaliser = Normaliser(features)
        self.trunk = mlp([features, config.hidden], dropout, norm)

    def fit_normaliser(self, features: Tensor) -> None:
        """Fit the input statistics on features [B, F] of expert observations."""
        self.normaliser.fit(features)

    def forward(self, features: Tensor) -> Tensor:
        """[B, F] to [B, hidden]."""
        return self.trunk(self.normaliser(features))  # type: ignore[no-any-return]


Seen = ObservationConfig | int
"""What a network looks at: observations of this layout, or so many features that other eyes have made of them."""


def make_encoder(
    seen: Seen, config: NetworkConfig, dropout: float = 0.0, norm: bool = True, partners: bool = True
) -> EntityEncoder | FeatureEncoder:
    """The encoder for what a network looks at."""
    if isinstance(seen, int):
        return FeatureEncoder(seen, config, dropout, norm)
    return EntityEncoder(seen, config, dropout, norm, partners)


def width(seen: Seen) -> int:
    """Floats of one row of what a network looks at."""
    return seen if isinstance(seen, int) else seen.size


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
