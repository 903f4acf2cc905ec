"""Closed-loop evaluation: a policy beside three anchors, in the same worlds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gail.backends import check_backend, make_backend, renew
from gail.config import TrainConfig
from gail.metrics import AgentMetrics, agent_metrics, concatenate, means
from gail.policy import Policy
from gail.report import scene_figure
from gail.run import RunError
from pipeline.replay import Experts, make_experts
from pipeline.schema import Record
from pipeline.store import DemoStore
from sim.actions import ActionSpace
from sim.contacts import Contacts
from sim.dynamics import Dynamics
from sim.env import Backend
from sim.scenario import DT

SCENES_AT_ONCE = 32

Driver = Callable[[Backend, Tensor, int], Tensor]
"""Chooses actions [N, K] from the environment, the observations [N, D] and the step."""


@dataclass(frozen=True, eq=False)
class Drive:
    """One episode as it was driven by N agents over T states."""

    track: Tensor
    """[N, T, 5] x, y, heading, vx, vy."""
    driven: Tensor
    """[N, T] bool: the agent was in its world."""
    events: Tensor
    """[N, 4] bool: what ever happened to it."""
    full_events: Tensor
    """[N, 4] bool: the same with boxes of true size, and off-road by signed distance."""


@torch.no_grad()
def drive(env: Backend, driver: Driver) -> Drive:
    """Let a driver drive one episode of every world."""
    observation = env.reset()
    alive = env.alive()
    track, driven = [env.states()], [torch.ones_like(alive)]
    events = torch.zeros(env.num_agents, 4, dtype=torch.bool, device=observation.device)
    full_events, contacts = events.clone(), Contacts(env.worlds)
    for k in range(env.horizon):
        step = env.step(driver(env, observation, k))
        events |= step.events & alive[:, None]
        full_events |= contacts.events(*env.everyone()) & alive[:, None]
        track.append(env.states())
        driven.append(alive)
        observation, alive = step.observation, step.alive
    return Drive(torch.stack(track, dim=1), torch.stack(driven, dim=1), events, full_events)


def policy_driver(policy: Policy, deterministic: bool) -> Driver:
    """The policy's most likely action, or one drawn from it."""
    return lambda env, observation, step: policy.act(observation, deterministic)[0]


def expert_driver(experts: Experts) -> Driver:
    """The recorded expert actions."""
    last = experts.action.shape[1] - 1
    return lambda env, observation, step: experts.action[:, min(step, last)]


def constant_velocity_driver() -> Driver:
    """Straight on at the present speed, as nearly as the action space allows."""

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        values = torch.zeros(env.num_agents, env.action_space.components, device=observation.device)
        if env.action_space.dynamics == Dynamics.DELTA_LOCAL:
            values[:, 0] = env.states()[:, 3:].norm(dim=1) * DT
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


def score(result: Drive, experts: Experts) -> AgentMetrics:
    """Metrics of one episode against the log of the same worlds."""
    rows = experts.worlds.controlled
    steps = min(result.track.shape[1], experts.worlds.num_steps)  # an episode may be shorter or longer than the log
    log, valid = experts.worlds.log[rows, :steps], experts.worlds.valid[rows, :steps]
    compared = valid & result.driven[:, :steps]
    return agent_metrics(result.track[:, :steps, :2], log[..., :2], compared, result.events, result.full_events)


def make_env(
    records: Sequence[Record], config: TrainConfig, space: ActionSpace, device: torch.device
) -> tuple[Backend, Experts]:
    """Worlds of some scenes, with their experts."""
    experts = make_experts(records, config.sim, device)
    return make_backend(config, experts.worlds, space), experts


def drivers(policy: Policy, experts: Experts, deterministic: bool, generator: torch.Generator) -> dict[str, Driver]:
    """The policy and its anchors, by the names of the report."""
    return {
        "policy": policy_driver(policy, deterministic),
        "expert replayed": expert_driver(experts),
        "constant velocity": constant_velocity_driver(),
        "random": random_driver(generator),
    }


def evaluate(
    policy: Policy,
    config: TrainConfig,
    store: DemoStore,
    *,
    scenes: Sequence[int] | None = None,
    box_scale: float | None = None,
    deterministic: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Drive the policy and the anchors through scenes of a store.

    Args:
        policy: what is evaluated.
        config: of its run: rules and observation.
        store: worlds and experts.
        scenes: indices; all when None.
        box_scale: of collision boxes; that of the run when None.
        deterministic: the most likely action instead of a drawn one.
        seed: of the random anchor and of drawn actions.
        progress: called with scenes done and scenes in all.

    Returns:
        ``{"agents", "scenes", "box_scale", "results": {driver: {metric: mean}}}``, ready for JSON.

    Raises:
        RunError: when the store's action space is not the policy's, the box scale is no size or not GPUDrive's where
            its rules hold, or GPUDrive is to drive and cannot hold a scene.
        ImportError: in one sentence, when it is to drive and is not installed.
    """
    if policy.space != store.space:
        raise RunError(f"store {store.path}: its actions are not those of the run; extract with the same settings")
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    try:
        config = replace(config, sim=replace(config.sim, box_scale=box_scale or config.sim.box_scale))
    except ValueError as error:
        raise RunError(str(error)) from error
    device = next(policy.parameters()).device
    chosen = list(range(len(store)) if scenes is None else scenes)
    check_backend(config, store, chosen)
    env: Backend | None = None
    parts: dict[str, list[AgentMetrics]] = {}
    for first in range(0, len(chosen), SCENES_AT_ONCE):
        batch = chosen[first : first + SCENES_AT_ONCE]
        experts = make_experts(list(store.read(batch)), config.sim, device)
        env = renew(env, config, experts.worlds, store.space)
        for name, driver in drivers(policy, experts, deterministic, generator).items():
            parts.setdefault(name, []).append(score(drive(env, driver), experts))
        progress(first + len(batch), len(chosen))
    joined = {name: concatenate(items) for name, items in parts.items()}
    return {
        "scenes": len(chosen),
        "agents": len(joined["policy"].goal),
        "backend": config.backend,
        "box_scale": config.sim.box_scale,
        "goal_radius_m": config.sim.goal_radius,
        "deterministic": deterministic,
        "results": {name: means(metrics) for name, metrics in joined.items()},
    }


def draw_scene(policy: Policy, config: TrainConfig, store: DemoStore, scene: int) -> Figure:
    """One scene from above: as logged, as the experts replay it, as the policy drives it."""
    records = list(store.read([scene]))
    env, experts = make_env(records, config, store.space, next(policy.parameters()).device)
    rows = experts.worlds.controlled
    tracks = {"logged": (experts.worlds.log[rows], experts.worlds.valid[rows])}
    driven = drivers(policy, experts, deterministic=True, generator=torch.Generator())
    for name in ("expert replayed", "policy"):
        result = drive(env, driven[name])
        tracks[name] = (result.track, result.driven)
    agents = np.array([agent for _, agent in experts.worlds.controlled_agents()])
    return scene_figure(
        records[0].scene, agents, {name: (t.cpu().numpy(), h.cpu().numpy()) for name, (t, h) in tracks.items()}
    )
