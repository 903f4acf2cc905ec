"""Rollouts: one episode of every world under the present policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.policy import Chooser
from gail_cli.sim.env import Backend
from gail_cli.sim.kernels import Event


@dataclass(frozen=True)
class Rollout:
    """One episode of N agents over H steps; agents that are not alive at a step count for nothing there."""

    observation: Tensor
    """[H, N, X] before each step: observations, or features (:mod:`gail.learning.sight`)."""
    last_observation: Tensor
    """[N, X] after the last step."""
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
    environment_reward: Tensor
    """[H, N] the environment's own, zero where the agent did not act."""
    end: Tensor
    """[N] step at which the environment cuts each agent off."""
    happened: Tensor
    """[H, N, E] bool: what happened to each agent in a step in which it acted, columns as in
    :class:`~sim.kernels.Event`."""
    fault: Tensor
    """[H, N] its share in its contacts then, see :class:`~sim.env.Step`."""
    code: Tensor | None = None
    """[N] latent code of each agent, of policies that have some; [H, N] in each step, where a manager chooses them."""
    last_code: Tensor | None = None
    """[N] that after the last step, where a manager chooses them."""

    @property
    def num_steps(self) -> int:
        """Steps of agents that acted."""
        return int(self.alive.sum())

    @property
    def events(self) -> Tensor:
        """[N, E] bool: what ever happened to each agent while it acted."""
        return self.happened.any(dim=0)

    def seen(self, policy: Chooser, where: Tensor) -> Tensor:
        """What the policy (and its critic) looks at in the steps marked in ``where`` [H, N], one per row."""
        code = None if self.code is None else self.code.expand_as(where)[where]
        return policy.with_code(self.observation[where], code)

    def last_seen(self, policy: Chooser) -> Tensor:
        """What it looks at after the last step, one agent per row."""
        return policy.with_code(self.last_observation, self.code if self.last_code is None else self.last_code)

    def samples(self, next_state: bool = False) -> Transitions:
        """The B transitions of agents that acted, step by step, as a discriminator may see them.

        Args:
            next_state: with what each agent saw a step later.
        """
        following = None
        if next_state:
            following = torch.cat([self.observation[1:], self.last_observation[None]])[self.alive]
        ended = self.terminated | self.truncated
        return Transitions(
            self.observation[self.alive],
            self.action[self.alive],
            next_observation=following,
            done=ended[self.alive],
            log_prob=self.log_prob[self.alive],
        )

    @property
    def absorbing_steps(self) -> Tensor:
        """[H, N] steps that an agent which terminated here would have had left; zero elsewhere."""
        step = torch.arange(1, len(self.alive) + 1, device=self.end.device)[:, None]
        return torch.where(self.terminated, (self.end - step).clamp(min=0), 0)


Manage = Callable[[Tensor, int], Tensor]
"""Codes [N] by what rollouts hold [N, X] and the step (:mod:`gail.learning.manager`)."""


@torch.no_grad()
def collect(
    env: Backend,
    actor: Chooser,
    show: Callable[[Tensor], Tensor],
    code: Tensor | Manage | None = None,
) -> tuple[Rollout, dict[str, float]]:
    """Drive one episode of every world; the rollout, and how it went as metrics.

    Args:
        env: the worlds.
        actor: who drives.
        show: from observations [N, D] to what it looks at [N, X], which the rollout holds.
        code: [N] the latent code of each agent, or who chooses them, of an actor that has some.
    """
    actor.eval()
    first, alive = show(env.reset()), env.alive()
    seen = first.new_empty(env.horizon + 1, *first.shape)
    seen[0] = first
    steps: list[dict[str, Tensor]] = []
    for k in range(env.horizon):
        present = code(seen[k], k) if callable(code) else code
        action, log_prob = actor.act(actor.with_code(seen[k], present))
        step = env.step(action)
        steps.append(
            {
                "action": action,
                "log_prob": log_prob,
                "alive": alive,
                "terminated": step.terminated,
                "truncated": step.truncated,
                "environment_reward": step.reward * alive,
                "happened": step.events & alive[:, None],
                "fault": step.fault,
                **({"code": present} if callable(code) and present is not None else {}),
            }
        )
        alive = step.alive
        seen[k + 1] = show(step.observation)
    stacked = {name: torch.stack([s[name] for s in steps]) for name in steps[0]}
    codes = {"code": code} if not callable(code) else {"last_code": code(seen[-1], env.horizon)}
    rollout = Rollout(observation=seen[:-1], last_observation=seen[-1], end=_ends(env), **codes, **stacked)
    length = rollout.alive.sum(dim=0).float().mean().item()
    return rollout, {"rollout/length": length, **_shares(env, rollout.events)}


def _shares(env: Backend, ever: Tensor) -> dict[str, float]:
    """Shares of the agents that events [N, 5] happened to: off the road of those whose map has road edges, and left out
    where there are none."""
    touched = ever[:, Event.VEHICLE] | ever[:, Event.NON_VEHICLE]
    groups = {"rollout/goal": ever[:, Event.GOAL], "rollout/collision": touched}
    found = {name: float(who.float().mean()) for name, who in groups.items()}
    edged = env.worlds.edged[env.worlds.tensors["world"][env.worlds.controlled].long()]
    if edged.any():
        found["rollout/off_road"] = ever[edged, Event.OFF_ROAD].float().mean().item()
    return found


def _ends(env: Backend) -> Tensor:
    """[N] step at which the environment cuts each agent off."""
    end = torch.full((env.num_agents,), env.horizon, device=env.worlds.device)
    if env.config.end_with_log:
        end = torch.minimum(end, env.worlds.tensors["last_valid"][env.worlds.controlled])
    return end
