"""The discriminator's side of a training: what it learns from, when, and the reward that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from gail_cli.gail.config.schema import DiscriminatorConfig, RewardConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.ppo import discounted_returns
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.learning.rewards import absorbing_return
from gail_cli.gail.learning.rollout import Rollout
from gail_cli.gail.networks.base import Discriminator
from gail_cli.sim.kernels import Event


@dataclass
class RewardScale:
    """Running root mean square of discounted returns, which rewards are divided by. The mean is left in."""

    square: float = 1.0
    count: float = 0.0

    def __call__(self, reward: Tensor, alive: Tensor, gamma: float) -> Tensor:
        """Scaled rewards [H, N], after counting these in."""
        returns = discounted_returns(reward * alive, gamma)[alive].double()
        self.count += len(returns)
        self.square += (returns.square().mean().item() - self.square) * len(returns) / max(self.count, 1)
        return reward / float(max(self.square, 1e-8) ** 0.5)


def latest(old: Transitions | None, new: Transitions, size: int) -> Transitions:
    """The newest ``size`` rows of both, with the fields that both have."""
    if old is None or len(new) >= size:
        return new.take(torch.arange(max(0, len(new) - size), len(new), device=new.action.device))
    both = {name: (getattr(old, name), x) for name, x in vars(new).items()}
    joined: dict[str, Tensor] = {
        name: torch.cat([a, b])[-size:] for name, (a, b) in both.items() if a is not None and b is not None
    }
    return Transitions(**joined)


def with_absorbing(samples: Transitions, share: float, generator: torch.Generator) -> Transitions:
    """The samples with each row turned into the absorbing state with this probability (Kostrikov et al. 2018)."""
    rows = torch.rand(len(samples.action), generator=generator) < share
    return replace(samples, absorbing=rows.to(samples.action.device))


class Adversary:
    """Learns to tell the policy from experts, and rewards the policy where it cannot.

    Args:
        network: the discriminator, on its device.
        config: how it learns.
        reward: the form of its reward.
        gamma: the discount that the policy is trained with.
        experts: gives as many expert samples as asked for, with next observations if asked for them.
        log_prob: of actions [B, K] after observations [B, D] under the present policy.
        generator: of what is drawn.
    """

    def __init__(
        self,
        network: Discriminator,
        config: DiscriminatorConfig,
        reward: RewardConfig,
        gamma: float,
        experts: Callable[[int, bool], Transitions],
        log_prob: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        self.network, self.config = network, config
        self.provider = GAILRewardProvider(network, config, reward, self._demos)
        self.absorbing_share = 0.0
        """The experts' steps after they left, as a share of all up to the horizon."""
        self._experts, self._log_prob, self._generator = experts, log_prob, generator
        self._gamma = gamma
        self._buffer: Transitions | None = None

    def fit_normaliser(self, expert: Transitions) -> None:
        """Fit the input statistics on expert samples, for good."""
        self.network.fit_normaliser(expert)

    def learn(self, rollout: Rollout, number: int, held_out: Transitions | None) -> dict[str, float]:
        """Update the discriminator on a rollout.

        Args:
            rollout: what the policy did.
            number: of the rollout, from 0.
            held_out: demos of scenes that it never learns from, with which the accuracy gate is asked.

        Returns:
            Means over the updates; the accuracies are those before the first, on a rollout not yet learned from.
        """
        config = self.config
        fresh = self._transitions(rollout)
        size = config.policy_buffer_size or len(fresh)
        self._buffer = latest(self._buffer, fresh, size) if config.policy_buffer_size else fresh
        held_out_metrics = {} if held_out is None else self._held_out_accuracy(held_out, fresh)
        waits = number % config.update_every != 0 or len(self._buffer) < config.min_policy_data
        steps = config.updates if config.epochs is None else config.epochs * -(-len(fresh) // config.batch_size)
        share = _absorbing_share(rollout) if config.absorbing else 0.0
        sums: dict[str, float] = {}
        first: dict[str, float] = {}
        taken = 0
        for _ in range(0 if waits or not self._gate_open(held_out_metrics) else steps):
            stats = self.provider.update(self._policy_batch(self._buffer, share))
            first = first or stats
            if not stats.pop("updates"):
                break
            taken += 1
            for name, value in stats.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: total / taken for name, total in sums.items()} if taken else dict(first)
        if first:
            means |= {name: first[name] for name in ("expert_accuracy", "policy_accuracy")}
        return {f"discriminator/{name}": value for name, value in (means | held_out_metrics).items()} | {
            "discriminator/updates": float(taken)
        }

    @torch.no_grad()
    def reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """[H, N] rewards of a rollout; with ``absorbing``, an end gets those of all the steps that were left."""
        samples = self._transitions(rollout)
        each = self.provider.evaluate(samples)
        reward = torch.zeros_like(rollout.environment_reward)
        reward[rollout.alive] = each
        if self.config.absorbing:
            row = samples.take(torch.zeros(1, dtype=torch.int64, device=each.device))
            away = self.provider.evaluate(replace(row, absorbing=torch.ones_like(row.action[:, 0], dtype=torch.bool)))
            reward += absorbing_return(away, rollout.absorbing_steps, self._gamma)
        return reward, {"reward/gail": each.mean().item(), **_by_event(reward, rollout)}

    def estimates(self, rollout: Rollout) -> Tensor:
        """[B] the discriminator's estimates of the transitions of a rollout."""
        return self.provider.estimate(self._transitions(rollout))

    def state_dict(self) -> dict[str, Any]:
        """Provider and buffer."""
        buffer = self._buffer if self.config.policy_buffer_size else None
        rows = {} if buffer is None else {name: x for name, x in vars(buffer).items() if x is not None}
        return {"provider": self.provider.state_dict(), "buffer": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.provider.load_state_dict(state["provider"])
        self._buffer = Transitions(**state["buffer"]) if state["buffer"] else None

    def _transitions(self, rollout: Rollout) -> Transitions:
        return rollout.samples(self.network.needs_next_state)

    def _policy_batch(self, buffer: Transitions, absorbing_share: float) -> Transitions:
        """Samples of the policy for an update, drawn from these."""
        rows = torch.randint(len(buffer), (self.config.batch_size,), generator=self._generator)
        batch = buffer.take(rows.to(buffer.action.device))
        if self.config.policy_buffer_size:  # what it holds may be of an earlier policy
            batch = self._with_log_prob(batch)
        return with_absorbing(batch, absorbing_share, self._generator) if self.config.absorbing else batch

    def _demos(self, count: int) -> Transitions:
        expert = self._with_log_prob(self._experts(count, self.network.needs_next_state))
        return with_absorbing(expert, self.absorbing_share, self._generator) if self.config.absorbing else expert

    def _with_log_prob(self, samples: Transitions) -> Transitions:
        """The samples with the log-probability of their actions under the present policy, if the network needs it."""
        if not self.network.needs_log_prob:
            return samples
        return replace(samples, log_prob=self._log_prob(samples.observation, samples.action))

    def _held_out_accuracy(self, expert: Transitions, policy: Transitions) -> dict[str, float]:
        """Accuracies on demos of scenes never learned from, and on a rollout not yet learned from."""
        expert = self._with_log_prob(expert)
        right, wrong = (
            (self.provider.estimate(x) > self.network.boundary).float().mean().item() for x in (expert, policy)
        )
        return {"held_out_expert_accuracy": right, "held_out_accuracy": (right + 1 - wrong) / 2}

    def _gate_open(self, held_out: dict[str, float]) -> bool:
        return not self.network.gated or held_out.get("held_out_accuracy", 0.0) <= self.config.max_accuracy


def _absorbing_share(rollout: Rollout) -> float:
    """The policy's steps after it left, as a share of all up to the horizon."""
    away = int(rollout.absorbing_steps.sum())
    return away / (away + rollout.num_steps)


def _by_event(reward: Tensor, rollout: Rollout) -> dict[str, float]:
    """Mean reward per step of the agents to whom each kind of event happened, where it happened to somebody."""
    steps = rollout.alive.sum(dim=0).clamp(min=1)
    mean = reward.sum(dim=0) / steps
    hit = rollout.events[:, Event.VEHICLE] | rollout.events[:, Event.NON_VEHICLE]
    off = rollout.events[:, Event.OFF_ROAD]
    groups = {"of_goal": rollout.events[:, Event.GOAL], "of_collision": hit, "of_off_road": off}
    return {f"reward/{name}": mean[who].mean().item() for name, who in groups.items() if who.any()}
