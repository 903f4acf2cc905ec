"""The discriminator's side of a training: what it learns from, when, and what it pays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.learning.rewards import absorbing_return
from gail_cli.gail.learning.rollout import Rollout
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.kernels import Event


def latest(old: Transitions | None, new: Transitions, size: int) -> Transitions:
    """The newest ``size`` rows of both; of what either lacks, nothing."""
    if old is None or len(new.action) >= size:
        return new.take(torch.arange(max(0, len(new.action) - size), len(new.action), device=new.action.device))
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
    """Learns to tell the policy from experts, and rewards it for what it cannot tell.

    Args:
        config: of the run.
        space: the actions.
        device: where the network is.
        experts: gives as many expert samples as asked for, with next observations if asked for them.
        log_prob: of actions [B, K] after observations [B, D] under the present policy.
        generator: of what is drawn.
    """

    def __init__(
        self,
        config: TrainConfig,
        space: ActionSpace,
        device: torch.device,
        experts: Callable[[int, bool], Transitions],
        log_prob: Callable[[Tensor, Tensor], Tensor],
        generator: torch.Generator,
    ) -> None:
        self.config = config.discriminator
        self.provider = GAILRewardProvider(config, space, config.observation, self._demos, device)
        self.absorbing_share = 0.0
        """Of the experts' steps up to the horizon, those after they left."""
        self._experts, self._log_prob, self._generator = experts, log_prob, generator
        self._gamma = config.ppo.gamma
        self._buffer: Transitions | None = None

    def fit_normaliser(self, expert: Transitions) -> None:
        """Fit the input statistics on expert samples, for good."""
        self.provider.network.fit_normaliser(expert)

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
        fresh = self._own(rollout)
        size = config.policy_buffer_size or len(fresh.action)
        self._buffer = latest(self._buffer, fresh, size) if config.policy_buffer_size else fresh
        told = {} if held_out is None else self._held_out(held_out, fresh)
        waits = number % config.update_every != 0 or len(self._buffer.action) < config.min_policy_data
        sums: dict[str, float] = {}
        steps = config.updates if config.epochs is None else config.epochs * -(-len(fresh.action) // config.batch_size)
        taken, first = 0, None
        share = _absorbing_share(rollout) if config.absorbing else 0.0
        for _ in range(0 if waits or not self._gate_open(told) else steps):
            rows = torch.randint(len(self._buffer.action), (config.batch_size,), generator=self._generator)
            batch = self._buffer.take(rows.to(self._buffer.action.device))
            if config.policy_buffer_size:  # what it holds may be of an earlier policy
                batch = self._with_log_prob(batch)
            if config.absorbing:
                batch = with_absorbing(batch, share, self._generator)
            stats = self.provider.update(batch)
            first = first or stats
            if not stats.pop("updates"):
                break
            taken += 1
            for name, value in stats.items():
                sums[name] = sums.get(name, 0.0) + value
        means = {name: total / taken for name, total in sums.items()} if taken else dict(first or {})
        if first is not None:
            means |= {name: first[name] for name in ("expert_accuracy", "policy_accuracy")}
        return {f"discriminator/{name}": value for name, value in (means | told).items()} | {
            "discriminator/updates": float(taken)
        }

    @torch.no_grad()
    def reward(self, rollout: Rollout) -> tuple[Tensor, dict[str, float]]:
        """[H, N] what a rollout is paid; with ``absorbing``, an end is paid for all the steps that were left."""
        samples = self._own(rollout)
        paid = self.provider.evaluate(samples)
        reward = torch.zeros_like(rollout.environment_reward)
        reward[rollout.alive] = paid
        if self.config.absorbing:
            row = samples.take(torch.zeros(1, dtype=torch.int64, device=paid.device))
            away = self.provider.evaluate(replace(row, absorbing=torch.ones_like(row.action[:, 0], dtype=torch.bool)))
            reward += absorbing_return(away, rollout.absorbing_steps, self._gamma)
        return reward, {"reward/gail": paid.mean().item(), **_by_event(reward, rollout)}

    def estimates(self, rollout: Rollout) -> Tensor:
        """[B] what the discriminator makes of the transitions of a rollout."""
        return self.provider.estimate(self._own(rollout))

    def state_dict(self) -> dict[str, Any]:
        """Provider and buffer."""
        buffer = self._buffer if self.config.policy_buffer_size else None
        rows = {} if buffer is None else {name: x for name, x in vars(buffer).items() if x is not None}
        return {"provider": self.provider.state_dict(), "buffer": rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        self.provider.load_state_dict(state["provider"])
        self._buffer = Transitions(**state["buffer"]) if state["buffer"] else None

    def _own(self, rollout: Rollout) -> Transitions:
        return rollout.samples(self.config.needs_next_state)

    def _demos(self, count: int) -> Transitions:
        expert = self._with_log_prob(self._experts(count, self.config.needs_next_state))
        if self.config.absorbing:
            expert = with_absorbing(expert, self.absorbing_share, self._generator)
        return expert

    def _with_log_prob(self, samples: Transitions) -> Transitions:
        """The samples with what the present policy makes of their actions, if the network asks for it."""
        if not self.config.needs_log_prob:
            return samples
        return replace(samples, log_prob=self._log_prob(samples.observation, samples.action))

    def _held_out(self, expert: Transitions, policy: Transitions) -> dict[str, float]:
        """Accuracies on demos of scenes never learned from, and on a rollout not yet learned from."""
        expert = self._with_log_prob(expert)
        doubt = 0.5 if self.config.compat else 0.0
        right, wrong = ((self.provider.estimate(x) > doubt).float().mean().item() for x in (expert, policy))
        return {"held_out_expert_accuracy": right, "held_out_accuracy": (right + 1 - wrong) / 2}

    def _gate_open(self, told: dict[str, float]) -> bool:
        return self.config.compat is not None or told.get("held_out_accuracy", 0.0) <= self.config.max_accuracy


def _absorbing_share(rollout: Rollout) -> float:
    """Of the policy's steps up to the horizon, those after it left."""
    away = int(rollout.absorbing_steps.sum())
    return away / (away + rollout.num_steps)


def _by_event(reward: Tensor, rollout: Rollout) -> dict[str, float]:
    """Mean reward a step of agents to whom each kind of thing happened, where it happened to somebody."""
    steps = rollout.alive.sum(dim=0).clamp(min=1)
    mean = reward.sum(dim=0) / steps
    hit = rollout.events[:, Event.VEHICLE] | rollout.events[:, Event.NON_VEHICLE]
    off = rollout.events[:, Event.OFF_ROAD]
    groups = {"of_goal": rollout.events[:, Event.GOAL], "of_collision": hit, "of_off_road": off}
    return {f"reward/{name}": mean[who].mean().item() for name, who in groups.items() if who.any()}
