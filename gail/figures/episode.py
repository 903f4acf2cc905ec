"""One scene as it was driven, and what happened in it; nothing here draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.config.rules import explained
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.drivers import (
    Driver,
    constant_velocity_driver,
    drive,
    expert_driver,
    policy_driver,
    random_driver,
)
from gail_cli.gail.figures.shapes import placed
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.expert import replay_experts
from gail_cli.pipeline.experts.replay import Experts, make_experts
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Backend, Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import PARKED_DISTANCE, Scene

TITLES = {
    "expert": "Expert replayed",
    "log": "Log",
    "constant-velocity": "Constant velocity",
    "random": "Random actions",
    "policy": "Policy",
}
"""Who drives: names on the command line, and in pictures."""


@dataclass(frozen=True, eq=False)
class Episode:
    """One scene as it was driven: M agents, N of them controlled, over T states."""

    scene: Scene
    title: str
    """Who drove."""
    state: NDArray[np.float32]
    """[M, T, 5] x, y, heading, vx, vy; without meaning where an agent is not present."""
    present: NDArray[np.bool_]
    """[M, T]."""
    row: NDArray[np.int64]
    """[M] row of each in the scene's agents."""
    controlled: NDArray[np.int64]
    """[N] which of the agents 0 .. M-1."""
    events: NDArray[np.bool_]
    """[N, T, 5] what happens to controlled agents that act, columns as in :class:`~gail_cli.sim.kernels.Event`."""
    goal_radius: float
    """m."""
    box_scale: float
    """Factor on length and width by which collisions were tested."""

    @property
    def steps(self) -> int:
        """T."""
        return int(self.present.shape[1])

    @property
    def edged(self) -> bool:
        """Whether its map has road edges; who is off the road on another nobody knows."""
        return bool((self.scene.segment_type == RoadType.ROAD_EDGE).any())

    @cached_property
    def size(self) -> NDArray[np.float32]:
        """[M, 3] length, width, height, m."""
        return self.scene.agent_size[self.row]

    @cached_property
    def goal(self) -> NDArray[np.float32]:
        """[N, 2] of the controlled agents."""
        return self.scene.goal[self.row[self.controlled]]

    @cached_property
    def parked(self) -> NDArray[np.bool_]:
        """[M] agents that follow their log and stay where they are."""
        places = [state[there, :2] for state, there in zip(self.state, self.present, strict=True)]
        still = [bool((np.abs(place - place[:1]) < PARKED_DISTANCE).all()) for place in places]
        return np.array(still, np.bool_) & ~np.isin(np.arange(len(still)), self.controlled)


# --- driving -------------------------------------------------------------------------------------------------------


def with_rules(config: TrainConfig, box_scale: float | None, everyone: bool) -> TrainConfig:
    """The configuration with collision boxes of another scale, and with agents of every kind in the world.

    Raises:
        RunError: when the scale is no size, or the rules have another.
    """
    sim = config.sim
    selection = replace(sim.selection, init_mode="all_objects") if everyone else sim.selection
    scale = sim.box_scale if box_scale is None else box_scale
    try:
        return replace(config, sim=replace(sim, selection=selection, box_scale=scale))
    except ValueError as error:
        raise RunError("", explained(error, SimConfig)) from error


def drive_scene(
    record: Record,
    config: TrainConfig,
    space: ActionSpace,
    who: str,
    *,
    policy: Policy | None = None,
    deterministic: bool = True,
    seed: int = 0,
) -> Episode:
    """Drive one scene in the embedded simulator.

    Embedded even when the configuration says ``backend: gpudrive``, but then by GPUDrive's rules, which come with it.

    Args:
        record: the scene and its demos.
        config: rules and observation.
        space: of the demos, and of the policy.
        who: one of :data:`TITLES`.
        policy: who drives if that is ``policy``.
        deterministic: the policy's most likely action instead of a drawn one.
        seed: of random actions and of the policy's drawn ones.

    Raises:
        RunError: when the action space is not the policy's, or has no actions of that kind.
    """
    if policy is not None and policy.space != space:
        raise RunError("", "the store's actions are not those of the run", "extract with the same settings")
    if space.dynamics == Dynamics.STATE and who in ("constant-velocity", "random"):
        raise RunError(who, "the store's actions are states, none of which is meant by that", "choose expert or log")
    if who == "log":
        record, space = _logged(record)
    device = torch.device("cpu") if policy is None else next(policy.parameters()).device
    experts = make_experts([record], config.sim, device)
    env = Env(experts.worlds, space, config.sim, config.observation)
    torch.manual_seed(seed)
    return _drive_episode(env, _driver(who, experts, policy, deterministic, seed), TITLES[who])


def _driver(who: str, experts: Experts, policy: Policy | None, deterministic: bool, seed: int) -> Driver:
    if who == "policy":
        assert policy is not None
        return policy_driver(policy, deterministic)
    if who == "constant-velocity":
        return constant_velocity_driver()
    if who == "random":
        return random_driver(torch.Generator().manual_seed(seed))
    return expert_driver(experts)


def _logged(record: Record) -> tuple[Record, ActionSpace]:
    """The record with demos that are the log itself (gaps bridged), and the space of their actions: the next states."""
    space = ActionSpace.create("state", "continuous")
    (demos,) = replay_experts([record.scene], space, [record.demos.agent])
    return replace(record, demos=demos), space


def _drive_episode(env: Env, driver: Driver, title: str) -> Episode:
    """Let a driver drive the only world of an environment, and record what everyone did."""
    recorded: list[list[NDArray[Any]]] = []

    def record() -> None:
        recorded.append([tensor.cpu().numpy().copy() for tensor in (*env.everyone(), env.events(), env.alive())])

    def recording(env: Backend, observation: torch.Tensor, step: int) -> torch.Tensor:
        record()
        return driver(env, observation, step)

    drive(env, recording)
    record()
    state, present, events, acts = (np.stack(column, axis=1) for column in zip(*recorded, strict=True))
    events[:, 1:] &= acts[:, :-1, None]
    events[:, 0] = False
    (scene,), (chosen,) = env.worlds.scenes, env.worlds.selected
    rules = env.config.goal_radius, env.config.box_scale
    return Episode(scene, title, state, present, chosen.row, np.flatnonzero(chosen.controlled), events, *rules)


# --- what happened -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpisodeEvent:
    """Something that happened to a controlled agent."""

    kind: str
    """One of :data:`EVENT_KINDS`."""
    agent: int
    """0 .. N-1."""
    step: int
    place: tuple[float, float]
    """x, y: the goal, the middle of what two boxes share, or the agent's own middle (off-road)."""


EVENT_KINDS: dict[str, tuple[Event, ...]] = {
    "goal": (Event.GOAL,),
    "collision": (Event.VEHICLE, Event.NON_VEHICLE),
    "off-road": (Event.OFF_ROAD,),
}
_SAME_PLACE = 4.0
"""What begins nearer than this to an earlier event of the same agent and kind is not listed again, m."""


def list_events(episode: Episode) -> list[EpisodeEvent]:
    """What happened, by time: each beginning of a contact, and each goal once; nothing off the road on a map without
    road edges."""
    found: list[EpisodeEvent] = []
    for kind, columns in EVENT_KINDS.items():
        if kind == "off-road" and not episode.edged:
            continue
        now = np.asarray(episode.events[:, :, columns].any(axis=2), np.bool_)
        begins = now & np.diff(now, axis=1, prepend=False)
        for agent, step in np.argwhere(begins).tolist():
            event = EpisodeEvent(kind, agent, step, _event_place(episode, kind, agent, step))
            earlier = [e.place for e in found if (e.kind, e.agent) == (kind, agent)]
            if all(np.hypot(x - event.place[0], y - event.place[1]) > _SAME_PLACE for x, y in earlier):
                found.append(event)
    return sorted(found, key=lambda event: event.step)


def event_counts(events: Sequence[EpisodeEvent]) -> dict[str, int]:
    """To how many agents each kind of event happened."""
    return {kind: len({event.agent for event in events if event.kind == kind}) for kind in EVENT_KINDS}


def known_counts(episode: Episode, events: Sequence[EpisodeEvent]) -> dict[str, int | None]:
    """As :func:`event_counts`; None for what nobody knows, as who is off the road where a map has no edges."""
    return {kind: n if kind != "off-road" or episode.edged else None for kind, n in event_counts(events).items()}


def count_text(kind: str, count: int | None, agents: int) -> str:
    """How many of the controlled agents an event of this kind happened to, in words; None: it is not known."""
    if count is None:
        return f"{kind} -"
    if kind == "goal":
        return f"{count} of {agents} at the goal"
    return f"{count} {kind}{'s' if kind == 'collision' and count != 1 else ''}"


def _event_place(episode: Episode, kind: str, agent: int, step: int) -> tuple[float, float]:
    row = int(episode.controlled[agent])
    if kind == "goal":
        x, y = episode.goal[agent]
    else:
        x, y = contact(episode, row, step) if kind == "collision" else episode.state[row, step, :2]
    return float(x), float(y)


def contact(episode: Episode, row: int, step: int) -> NDArray[np.float32]:
    """[2] the middle of what an agent's box shares with the one it overlaps most; its own middle if there is none."""
    others = np.flatnonzero(episode.present[:, step] & (np.arange(len(episode.row)) != row))
    size = episode.size * np.float32(episode.box_scale)
    line = np.linspace(-0.5, 0.5, 41)
    points = placed(np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2), episode.state[[row], step], size[[row]])
    offset = points - episode.state[others, step, None, :2]
    c, s = np.cos(episode.state[others, step, 2, None]), np.sin(episode.state[others, step, 2, None])
    along, across = c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0]
    shared = (np.abs(along) <= size[others, :1] / 2) & (np.abs(across) <= size[others, 1:2] / 2)
    if not shared.any():
        return episode.state[row, step, :2]
    return np.asarray(points[0, shared[shared.sum(axis=1).argmax()]].mean(axis=0), np.float32)
