"""The policy: eyes and an actor behind them; and the critic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.nn import functional

from gail_cli.gail.config.schema import NetworkConfig, PolicyConfig
from gail_cli.gail.networks.encoder import Eyes, Seen, make_encoder, mlp, width
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

if TYPE_CHECKING:
    from gail_cli.gail.networks.manager import Manager


class Chooser(nn.Module):
    """Chooses actions by what it looks at: what :class:`Policy` and the part of it behind its eyes have in common."""

    codes: int
    """Latent codes, see :mod:`gail.learning.latent`; inputs then end with the code, one-hot."""

    def distributions(self, seen: Tensor) -> list[Categorical] | list[Normal]:
        """One distribution per action component, each over [B]."""
        raise NotImplementedError

    def with_code(self, seen: Tensor, code: Tensor | None) -> Tensor:
        """What it looks at, from observations or features [B, X] and latent codes [B], which it must have or not have.

        Raises:
            ValueError: for codes where there are none, or none where there are.
        """
        if (code is None) != (self.codes == 0):
            raise ValueError(f"the policy has {self.codes} latent codes; give one a row, or none if it has none")
        if code is None:
            return seen
        return torch.cat([seen, functional.one_hot(code, self.codes).to(seen.dtype)], dim=1)

    def act(self, seen: Tensor, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions [B, K] (sampled, or the most likely) and their log-probability [B]."""
        each = self.distributions(seen)
        picked = [d.mode if deterministic else d.sample() for d in each]
        return torch.stack(picked, dim=1), _log_prob(each, picked)

    def evaluate(self, seen: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probability [B] and entropy [B] of actions [B, K]."""
        each = self.distributions(seen)
        entropy = torch.stack([d.entropy() for d in each]).sum(dim=0)
        return _log_prob(each, list(actions.unbind(dim=1))), entropy

    @torch.no_grad()
    def log_prob_by_code(self, seen: Tensor, actions: Tensor) -> Tensor:
        """Log-probability [B, C] of actions [B, K] by each code, after observations or features [B, X]."""
        every = [torch.full((len(seen),), code, device=seen.device) for code in range(self.codes)]
        return torch.stack([self.evaluate(self.with_code(seen, code), actions)[0] for code in every], dim=1)


class Actor(Chooser):
    """A distribution over actions by features: a categorical per grid component, or a Gaussian per continuous one.

    Args:
        features: F that the eyes give.
        space: the actions.
        config: sizes.
        codes: latent codes.
    """

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, features: int, space: ActionSpace, config: PolicyConfig, codes: int = 0) -> None:
        super().__init__()
        self.space, self.codes, self._features = space, codes, features
        outputs = sum(space.sizes) if space.discrete else space.components
        self.trunk = mlp([features, config.hidden])
        self.body = mlp([config.hidden + codes] + [config.hidden] * (config.layers - 1), config.dropout)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(config.hidden if config.layers > 1 else config.hidden + codes, outputs)
        nn.init.orthogonal_(self.head.weight, 0.01)
        nn.init.zeros_(self.head.bias)
        self.log_std = nn.Parameter(torch.full((space.components,), -1.0))
        self.register_buffer("action_mean", torch.zeros(space.components))
        self.register_buffer("action_std", torch.ones(space.components))

    def fit_normaliser(self, actions: Tensor) -> None:
        """Fit the scale of continuous actions on expert data [B, K]."""
        if not self.space.discrete:
            self.action_mean.copy_(actions.float().mean(dim=0))
            self.action_std.copy_(actions.float().std(dim=0).clamp(min=1e-3))

    def distributions(self, seen: Tensor) -> list[Categorical] | list[Normal]:
        """One distribution per action component, each over [B], by features and codes [B, F + C]."""
        features, code = seen[:, : self._features], seen[:, self._features :]
        out = self.head(self.body(torch.cat([self.dropout(self.trunk(features)), code], dim=1)))
        if self.space.discrete:
            return [Categorical(logits=x, validate_args=False) for x in out.split(self.space.sizes, dim=-1)]
        mean = self.action_mean + self.action_std * out
        std = self.action_std * self.log_std.exp()
        return [Normal(mean[:, k], std[k], validate_args=False) for k in range(self.space.components)]


class Policy(Chooser):
    """Eyes, and an :class:`Actor` behind them: a distribution over actions by observations.

    Args:
        observation: the layout of the input.
        space: the actions.
        config: sizes.
        codes: latent codes.
        flags: see :class:`~gail.networks.encoder.Eyes`.
    """

    def __init__(
        self,
        observation: ObservationConfig,
        space: ActionSpace,
        config: PolicyConfig,
        codes: int = 0,
        flags: bool = True,
    ) -> None:
        super().__init__()
        self.space, self.codes, self._seen = space, codes, observation.size
        self.encoder = Eyes(observation, config, flags=flags)
        self.actor = Actor(self.encoder.features, space, config, codes)
        self.register_load_state_dict_pre_hook(_rename)
        self.manager: Manager | None = None
        """Who chooses its codes where it is loaded to drive, of runs that have one (``latent.every``)."""

    def fit_normaliser(self, observations: Tensor, actions: Tensor) -> None:
        """Fit input statistics, and the scale of continuous actions, on expert data [B, D], [B, K]."""
        self.encoder.fit_normaliser(observations)
        self.actor.fit_normaliser(actions)

    def distributions(self, seen: Tensor) -> list[Categorical] | list[Normal]:
        """One distribution per action component, each over [B], by observations and codes [B, D + C]."""
        features = self.encoder(seen[:, : self._seen])
        return self.actor.distributions(torch.cat([features, seen[:, self._seen :]], dim=1))

    @torch.no_grad()
    def log_prob_by_code(self, seen: Tensor, actions: Tensor) -> Tensor:
        """[B, C] by observations [B, D]: its eyes look once for all codes."""
        return self.actor.log_prob_by_code(self.encoder(seen), actions)


def _rename(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Give the weights of a policy saved before eyes and actor were told apart their present names."""
    of_actor = ("encoder.trunk.", "body.", "head.", "log_std", "action_mean", "action_std")
    for name in [name for name in state if name.removeprefix(prefix).startswith(of_actor)]:
        state[f"{prefix}actor.{name.removeprefix(prefix).removeprefix('encoder.')}"] = state.pop(name)


def _log_prob(distributions: Sequence[Categorical | Normal], actions: Sequence[Tensor]) -> Tensor:
    return torch.stack([d.log_prob(a) for d, a in zip(distributions, actions, strict=True)]).sum(dim=0)


class Critic(nn.Module):
    """The value of what a policy, or an :class:`Actor`, looks at.

    Args:
        seen: what that is.
        config: sizes.
        codes: latent codes.
    """

    def __init__(self, seen: Seen, config: NetworkConfig, codes: int = 0) -> None:
        super().__init__()
        self._seen = width(seen)
        self.encoder = make_encoder(seen, config)
        body = mlp([config.hidden + codes] + [config.hidden] * (config.layers - 1))
        self.head = nn.Sequential(body, nn.Linear(config.hidden if config.layers > 1 else config.hidden + codes, 1))

    def forward(self, observations: Tensor) -> Tensor:
        """[B, X] to [B]."""
        seen, code = observations[:, : self._seen], observations[:, self._seen :]
        return self.head(torch.cat([self.encoder(seen), code], dim=1)).squeeze(-1)  # type: ignore[no-any-return]
