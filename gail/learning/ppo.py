"""Proximal policy optimisation: the losses as small pure functions, and one update over a rollout."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchrl.objectives.value.functional import generalized_advantage_estimate

from gail_cli.gail.config.schema import PPOConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.rollout import Rollout
from gail_cli.gail.networks.policy import Chooser


def advantages(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, done: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantages and value targets (Schulman et al. 2016), each [H, N] as all arguments are.

    ``done`` cuts the trace, ``terminated`` the bootstrap: where only ``done`` holds, ``next_value`` is still counted.
    """

    def by_agent(x: Tensor) -> Tensor:
        return x.T.unsqueeze(-1)

    args = [by_agent(x) for x in (value, next_value, reward, done, terminated)]
    advantage, target = generalized_advantage_estimate(gamma, gae_lambda, *args)
    return advantage.squeeze(-1).T, target.squeeze(-1).T


def discounted_returns(reward: Tensor, gamma: float) -> Tensor:
    """[H, N] sum of the rewards from each step on, discounted."""
    returns = torch.zeros_like(reward)
    total = torch.zeros_like(reward[0])
    for step in range(len(reward) - 1, -1, -1):
        total = reward[step] + gamma * total
        returns[step] = total
    return returns


def clipped_loss(log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """-min(r A, clip(r, 1 - c, 1 + c) A), the mean over [B] (Schulman et al. 2017, eq. 7)."""
    ratio = (log_prob - old_log_prob).exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


@dataclass
class AdvantageScale:
    """Centres advantages and divides them by their standard deviation, but never by less than the run's typical one.

    Plain standardisation blows the advantages of an uninformative reward up to full size, so that a policy which the
    discriminator can no longer tell from the expert is driven away from it by noise.
    """

    variance: float = 0.0
    """Mean over the rollouts so far."""
    count: int = 0

    def __call__(self, advantage: Tensor) -> Tensor:
        """Scaled advantages [B], after counting these in."""
        now = advantage.var().item()
        self.count += 1
        self.variance += (now - self.variance) / self.count
        return (advantage - advantage.mean()) / math.sqrt(max(now, self.variance) + 1e-16)


def minibatches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """A random partition of 0 .. n-1 into batches of about ``size``."""
    order = torch.randperm(n, generator=generator)
    yield from order.tensor_split(max(1, round(n / size)))


@torch.no_grad()
def values(critic: nn.Module, observations: Tensor, chunk: int = 8192) -> Tensor:
    """Values [B] of observations [B, D], in chunks."""
    return torch.cat([critic(part) for part in observations.split(chunk)])


def update(
    policy: Chooser,
    critic: nn.Module,
    optimisers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
    rollout: Rollout,
    reward: Tensor,
    config: PPOConfig,
    expert: Callable[[int], Transitions] | None,
    scale: AdvantageScale,
    generator: torch.Generator,
    train_policy: bool = True,
) -> dict[str, float]:
    """Improve policy and critic on one rollout.

    Args:
        policy: who drove; changed in place unless ``train_policy`` is false.
        critic: changed in place.
        optimisers: of policy and critic.
        rollout: what the policy did.
        reward: [H, N].
        config: the settings.
        expert: gives a batch of so many demos, for the auxiliary cloning loss; None switches that off.
        scale: of advantages, over the run.
        generator: of the minibatches.
        train_policy: whether the policy learns, or only the critic.

    Returns:
        Means of the losses and of what shows the update's health.
    """
    policy.eval()
    alive = rollout.alive
    flat = rollout.seen(policy, alive)
    value = torch.zeros_like(reward)
    value[alive] = values(critic, flat)
    last = policy.with_code(rollout.last_observation, rollout.code)
    next_value = torch.cat([value[1:], values(critic, last)[None]])
    next_value = _value_at_truncation(policy, critic, rollout, next_value)
    ended = rollout.terminated | rollout.truncated
    no_future = rollout.terminated if config.bootstrap_truncation else ended
    advantage, target = advantages(reward, value, next_value, no_future, ended, config.gamma, config.gae_lambda)
    action, old = rollout.action[alive], rollout.log_prob[alive]
    advantage, target = scale(advantage[alive]), target[alive]
    sums: dict[str, list[float]] = {}
    for _ in range(config.update_epochs):
        for index in minibatches(len(flat), config.minibatch_size, generator):
            pick = index.to(flat.device)
            losses = {"critic_loss": (critic(flat[pick]) - target[pick]).square().mean()}
            _step(optimisers[1], critic, losses["critic_loss"], config.max_grad_norm)
            if train_policy:
                losses |= _policy_losses(policy, flat[pick], action[pick], old[pick], advantage[pick], config)
                train_policy = config.target_kl is None or losses["approx_kl"].item() <= config.target_kl
            if train_policy:
                loss = losses["policy_loss"] - config.entropy_coef * losses["entropy"]
                if expert is not None and config.bc_coef > 0:
                    policy.train()
                    losses["bc_loss"] = cloning_loss(policy, expert(config.bc_batch_size))
                    policy.eval()
                    loss = loss + config.bc_coef * losses["bc_loss"]
                _step(optimisers[0], policy, loss, config.max_grad_norm)
            for name, item in losses.items():
                sums.setdefault(name, []).append(item.item())
    means = {name: sum(items) / len(items) for name, items in sums.items()}
    variance = target.var()
    unexplained = (target - value[alive]).var()
    return means | {"explained_variance": (1 - unexplained / (variance + 1e-8)).item()}


def cloning_loss(policy: Chooser, batch: Transitions) -> Tensor:
    """-log pi(a | s) of expert samples, the mean."""
    return -policy.evaluate(batch.observation, batch.action)[0].mean()


def _value_at_truncation(policy: Chooser, critic: nn.Module, rollout: Rollout, next_value: Tensor) -> Tensor:
    """``next_value`` with the entries filled in of agents cut off before the last step, who are not alive after it."""
    early = torch.zeros_like(rollout.truncated)
    early[1:] = rollout.truncated[:-1]
    if early.any():
        next_value[:-1][early[1:]] = values(critic, rollout.seen(policy, early))
    return next_value


def _policy_losses(
    policy: Chooser, observation: Tensor, action: Tensor, old: Tensor, advantage: Tensor, config: PPOConfig
) -> dict[str, Tensor]:
    log_prob, entropy = policy.evaluate(observation, action)
    with torch.no_grad():
        ratio = (log_prob - old).exp()
        clipped = ((ratio - 1).abs() > config.clip_coef).float().mean()
        kl = (ratio - 1 - (log_prob - old)).mean()
    return {
        "policy_loss": clipped_loss(log_prob, old, advantage, config.clip_coef),
        "entropy": entropy.mean(),
        "clip_fraction": clipped,
        "approx_kl": kl,
    }


def _step(optimiser: torch.optim.Optimizer, module: nn.Module, loss: Tensor, max_norm: float) -> None:
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    optimiser.step()
