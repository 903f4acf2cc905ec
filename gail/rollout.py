"""Rollouts: one episode of every world under the present policy."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gail import rewards
from gail.config import RewardConfig
from gail.policy import Policy
from sim.env import Backend
from sim.kernels import Event


@dataclass(frozen=True)
class Rollout:
    """One episode of N agents over H steps; agents that are not alive at a step count for nothing there."""

    observation: Tensor
    """[H, N, D] before each step."""
    last_observation: Tensor
    """[N, D] after the last step."""
    action: Tensor
    """[H, N, K]."""
    log_prob: Tensor
    """[H, N]."""
    alive: Tensor
    """[H, N] bool: the agent acted in this step."""
    terminated: Tensor
    """[H, N] bool."""
    truncated: Tensor
    """[H, N] bool."""
    event_reward: Tensor
    """[H, N] reward of the world's events."""

    @property
    def num_steps(self) -> int:
        """Steps of agents that acted."""
        return int(self.alive.sum())


@torch.no_grad()
def collect(env: Backend, policy: Policy, reward: RewardConfig) -> tuple[Rollout, dict[str, float]]:
    """Drive one episode of every world; the rollout, and how it went as metrics."""
    policy.eval()
    observation, alive = env.reset().clone(), env.alive()
    ever = torch.zeros(env.num_agents, 4, dtype=torch.bool, device=observation.device)
    steps: list[dict[str, Tensor]] = []
    for _ in range(env.horizon):
        action, log_prob = policy.act(observation)
        step = env.step(action)
        gained = rewards.event_reward(step.events, ever[:, Event.GOAL], reward.goal, reward.collision, reward.off_road)
        ever |= step.events & alive[:, None]
        steps.append(
            {
                "observation": observation,
                "action": action,
                "log_prob": log_prob,
                "alive": alive,
                "terminated": step.terminated,
                "truncated": step.truncated,
                "event_reward": gained * alive,
            }
        )
        observation, alive = step.observation.clone(), step.alive
    stacked = {name: torch.stack([s[name] for s in steps]) for name in steps[0]}
    rollout = Rollout(last_observation=observation, **stacked)
    shares = ever.float().mean(dim=0).tolist()
    return rollout, {
        "rollout/length": rollout.alive.sum(dim=0).float().mean().item(),
        "rollout/goal": shares[Event.GOAL],
        "rollout/collision": shares[Event.VEHICLE],
        "rollout/off_road": shares[Event.OFF_ROAD],
    }
