"""Who drives, and driving itself: a policy and its anchors, through one episode of some worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.blind import BLIND
from gail_cli.gail.evaluation.summary import POLICY
from gail_cli.gail.learning.backends import make_backend
from gail_cli.gail.networks.masking import hidden
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import Experts, make_experts
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.env import Backend
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import DT

CLONED_DRIVER = "behaviour cloning"
"""Name of the driver that is the policy as it was after behaviour cloning."""

Driver = Callable[[Backend, Tensor, int], Tensor]
"""Chooses actions [N, K] given the environment, the observations [N, D] and the step."""


@dataclass(frozen=True, eq=False)
class Drive:
    """One episode as it was driven by N agents over T states."""

    track: Tensor
    """[N, T, 5] x, y, heading, vx, vy."""
    driven: Tensor
    """[N, T] bool: the agent was in its world."""
    events: Tensor
    """[N, 5] bool: what happened to it at any step, columns as in :class:`~gail_cli.sim.kernels.Event`."""
    everyone: Tensor
    """[M, T, 5] x, y, heading, vx, vy of all agents."""
    present: Tensor
    """[M, T] bool: which of all agents were in their world."""


@torch.no_grad()
def drive(env: Backend, driver: Driver) -> Drive:
    """Let a driver drive one episode of every world."""
    observation = env.reset()
    alive = env.alive()
    driven = [torch.ones_like(alive)]
    everyone = [tuple(x.clone() for x in env.everyone())]
    events = torch.zeros(env.num_agents, len(Event), dtype=torch.bool, device=observation.device)
    for k in range(env.horizon):
        step = env.step(driver(env, observation, k))
        events |= step.events & alive[:, None]
        everyone.append(tuple(x.clone() for x in env.everyone()))
        driven.append(alive)
        observation, alive = step.observation, step.alive
    state, present = (torch.stack(column, dim=1) for column in zip(*everyone, strict=True))
    return Drive(state[env.worlds.controlled], torch.stack(driven, dim=1), events, state, present)


def policy_driver(policy: Policy, deterministic: bool) -> Driver:
    """The policy's most likely action, or one drawn from it.

    Where the policy has latent codes, one is drawn for each agent at the start of a drive, and kept.
    """
    code: Tensor | None = None

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        nonlocal code
        if policy.codes and step == 0:
            code = torch.randint(policy.codes, (len(observation),), device=observation.device)
        return policy.act(policy.with_code(observation, code), deterministic)[0]

    return act


def expert_driver(experts: Experts) -> Driver:
    """The recorded expert actions."""
    last = experts.action.shape[1] - 1
    return lambda env, observation, step: experts.action[:, min(step, last)]


def constant_velocity_driver() -> Driver:
    """Straight on at the present speed, as nearly as the action space allows."""

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        values = torch.zeros(env.num_agents, env.action_space.components, device=observation.device)
        if env.action_space.dynamics == Dynamics.DELTA_LOCAL:
            heading, velocity = env.states()[:, 2], env.states()[:, 3:]
            ahead = (velocity * torch.stack([heading.cos(), heading.sin()], dim=1)).sum(dim=1)
            values[:, 0] = velocity.norm(dim=1).copysign(ahead) * DT  # who drives backwards goes on so
        return env.action_space.encode(values)

    return act


def random_driver(generator: torch.Generator) -> Driver:
    """Uniform over the grid, or within the bounds."""

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        space = env.action_space
        draws = torch.rand(env.num_agents, space.components, generator=generator).to(observation.device)
        if space.discrete:
            return (draws * torch.tensor(space.sizes, device=draws.device)).long()
        low, high = torch.tensor(space.bounds, device=draws.device).unbind(dim=1)
        return low + draws * (high - low)

    return act


def make_env(
    records: Sequence[Record], config: TrainConfig, space: ActionSpace, device: torch.device
) -> tuple[Backend, Experts]:
    """The simulator of a run in the worlds of some scenes, and their experts."""
    experts = make_experts(records, config.sim, device)
    return make_backend(config.backend, config.sim, config.observation, experts.worlds, space), experts


def blinded(driver: Driver, layout: ObservationConfig, partners: bool, roads: bool) -> Driver:
    """A driver from whom other agents, or roads, or both are hidden."""
    return lambda env, observation, step: driver(env, hidden(observation, layout, partners, roads), step)


def drivers(
    policy: Policy,
    experts: Experts | None,
    deterministic: bool,
    generator: torch.Generator,
    cloned: Policy | None = None,
) -> dict[str, Driver]:
    """The policy and its anchors, by the names of the report; experts only where there are some."""
    clone = {} if cloned is None else {CLONED_DRIVER: policy_driver(cloned, deterministic)}
    replayed = {} if experts is None else {"expert replayed": expert_driver(experts)}
    return {
        POLICY: policy_driver(policy, deterministic),
        **clone,
        **replayed,
        "constant velocity": constant_velocity_driver(),
        "random": random_driver(generator),
    }


@dataclass(frozen=True, eq=False)
class Lineup:
    """Who drives in an evaluation, and how often."""

    policy: Policy
    cloned: Policy | None
    anchors: bool
    """Whether the anchors drive too."""
    deterministic: bool
    """Whether policies take their most likely actions in the drive that most metrics are of."""
    rollouts: int
    """Drives with drawn actions."""
    generator: torch.Generator
    """Of the random anchor."""

    def drives(
        self, env: Backend, seed: int, experts: Experts | None = None, blind: bool = False
    ) -> dict[str, tuple[Drive, list[Drive]]]:
        """By driver, the drive that most metrics are of, and those with drawn actions.

        The former is the first of the latter where actions are drawn anyhow, and stands for them where none are.

        Args:
            env: where they drive.
            seed: of each driver's draws, so that they do not depend on those of others.
            experts: of these worlds; None where there are none.
            blind: whether the policy also drives without other agents, or roads, in sight.
        """
        mains = drivers(self.policy, experts, self.deterministic, self.generator, self.cloned)
        drawn = {POLICY: policy_driver(self.policy, False), "random": mains["random"]}
        if self.cloned is not None:
            drawn[CLONED_DRIVER] = policy_driver(self.cloned, False)
        if not self.anchors:
            mains = {POLICY: mains[POLICY]}
        for name, sight in BLIND.items() if blind else ():
            layout = self.policy.encoder.observation
            for table in (mains, drawn):
                table[name] = blinded(policy_driver(self.policy, table is mains and self.deterministic), layout, *sight)
        found = {}
        for name, main in mains.items():
            torch.manual_seed(seed)
            once = name != "random" and (self.deterministic or name not in drawn)
            first = [drive(env, main)] if once else []
            several = [drive(env, drawn[name]) for _ in range(self.rollouts)] if name in drawn else []
            found[name] = (first or several)[0], several or first
        return found
