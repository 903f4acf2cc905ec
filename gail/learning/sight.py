"""What policy, critic and discriminator look at in rollouts: observations, or what the policy's eyes make of them.

While the eyes stay as cloning left them, nobody needs observations any more: rollouts and demos are turned into
features once, and the actor behind the eyes, the critic and the discriminator learn from those, at a fraction of the
cost. When the eyes begin to learn (``ppo.train_encoder``), rollouts keep observations, which the whole policy learns
from, while critic and discriminator go on with the features that the eyes make of them at that time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.rollout import Rollout
from gail_cli.gail.networks.actor_critic import Networks
from gail_cli.gail.networks.masking import masked
from gail_cli.gail.networks.policy import Chooser

_CHUNK = 4096
"""Observations that eyes look at in one go."""


class Sight:
    """Who looks at what, and when.

    Args:
        config: of the run.
        networks: policy and critic.
    """

    def __init__(self, config: TrainConfig, networks: Networks) -> None:
        self._config, self._networks = config, networks
        self.width = config.observation.size
        """D of observations."""
        self.learns = True
        """Whether the policy's eyes learn now, as in cloning, so that observations are kept, not features."""

    @property
    def shares(self) -> bool:
        """Whether critic and discriminator look through the policy's eyes."""
        return self._config.shares_eyes

    def begin(self, timesteps: int) -> None:
        """Before a rollout: see whether the eyes learn from now on."""
        begin = self._config.eyes_learn_from
        self.learns = begin is not None and timesteps >= begin

    @property
    def actor(self) -> Chooser:
        """Who drives by, and learns from, what rollouts hold."""
        policy = self._networks.policy
        return policy if self.learns else policy.actor

    @property
    def critic(self) -> nn.Module:
        """Who values what rollouts hold."""
        critic = self._networks.critic
        return _Through(self, critic) if self._both else critic

    def show(self, observation: Tensor) -> Tensor:
        """What a rollout holds of observations [B, D]: [B, D] with entities hidden if ``masking.rollouts`` says so, or
        [B, F] features of the same."""
        masking = self._config.masking
        seen = masked(observation, self._config.observation, masking) if masking.rollouts else observation
        return seen if self.learns else self._features(seen)

    def demos(self, samples: Transitions) -> Transitions:
        """Demos as rollouts hold what is seen."""
        return _looked_at(samples, self.show)

    def judged(self, seen: Tensor) -> Tensor:
        """What critic, discriminator and posterior look at, of what rollouts hold [..., X]."""
        if not self._both:
            return seen
        features = self._features(seen.flatten(0, -2))
        return features.view(*seen.shape[:-1], -1)

    def judged_rollout(self, rollout: Rollout) -> Rollout:
        """A rollout as they look at it."""
        if not self._both:
            return rollout
        seen, last = self.judged(rollout.observation), self.judged(rollout.last_observation)
        return replace(rollout, observation=seen, last_observation=last)

    def judged_demos(self, samples: Transitions) -> Transitions:
        """Demos, as :meth:`demos` gives them, as they look at them."""
        return _looked_at(samples, self.judged)

    @property
    def _both(self) -> bool:
        """Whether rollouts hold observations, but critic and discriminator look at features."""
        return self.learns and self.shares

    @torch.no_grad()
    def _features(self, observation: Tensor) -> Tensor:
        """[B, F] of observations [B, D]."""
        return torch.cat([self._networks.policy.encoder(part) for part in observation.split(_CHUNK)])


def _looked_at(samples: Transitions, look: Callable[[Tensor], Tensor]) -> Transitions:
    """Samples with what is made of their observations, and of the next ones where they have some."""
    following = samples.next_observation
    return replace(
        samples,
        observation=look(samples.observation),
        next_observation=None if following is None else look(following),
    )


class _Through(nn.Module):
    """A critic of features, for observations with codes [B, D + C]."""

    def __init__(self, sight: Sight, critic: nn.Module) -> None:
        super().__init__()
        self.critic, self._sight = critic, sight

    def forward(self, seen: Tensor) -> Tensor:
        """[B]."""
        size = self._sight.width
        return self.critic(torch.cat([self._sight.judged(seen[:, :size]), seen[:, size:]], dim=1))  # type: ignore[no-any-return]
