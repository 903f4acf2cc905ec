"""Demos laid out on a device as the simulator would show them: the trajectories of all agents under a run's rules.

Sampler, evaluation, figures and export all get the experts from here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.pipeline.records import ABSENT, Record
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.errors import UserError
from gail_cli.sim.history import motions
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer, Trajectories
from gail_cli.sim.scenario import DT
from gail_cli.sim.worlds import SelectedAgents, Worlds, make_worlds, select_agents


class NoAgentsError(UserError):
    """There is no agent to control."""


def demo_agents(record: Record, selection: Selection) -> SelectedAgents:
    """The agents of a scene that exist by the rule, with those controlled that have a demo and pass the rule too."""
    chosen = select_agents(record.scene, selection)
    has_demo = np.zeros(record.scene.num_agents, np.bool_)
    has_demo[record.demos.agent] = True
    return SelectedAgents(chosen.row, chosen.controlled & has_demo[chosen.row], chosen.parked)


def demo_worlds(records: Sequence[Record], selection: Selection, device: torch.device | str) -> Worlds:
    """Worlds of the records' scenes whose controlled agents all have demos.

    Raises:
        NoAgentsError: when no agent of the scenes has a demo and passes the rule.
    """
    selected = [demo_agents(record, selection) for record in records]
    if not any(chosen.controlled.any() for chosen in selected):
        raise _no_agents()
    return make_worlds([r.scene for r in records], device, selected=selected)


def single_agent_worlds(
    pairs: Sequence[tuple[Record, NDArray[np.integer]]], selection: Selection, device: torch.device | str
) -> Worlds:
    """One world for each of some agents (rows of their scene's agents), in which all others follow their logs.

    Worlds of one record share its map. Agents without a demo, and those that the rule does not control, are left out.

    Raises:
        NoAgentsError: when that leaves no agent.
    """
    scenes, selected = [], []
    for record, agents in pairs:
        chosen = demo_agents(record, selection)
        for row in chosen.row[chosen.controlled & np.isin(chosen.row, agents)]:
            scenes.append(record.scene)
            selected.append(SelectedAgents(chosen.row, chosen.row == row, chosen.parked))
    if not scenes:
        raise _no_agents()
    return make_worlds(scenes, device, selected=selected)


def _no_agents() -> NoAgentsError:
    return NoAgentsError("", "no agent of these scenes has a demo and may be controlled", "check sim.selection")


def demo_rows(records: Sequence[Record], worlds: Worlds) -> list[tuple[int, int]]:
    """(world, row of the record's demos) of each of the N controlled agents, in the simulator's order."""
    places = [{int(agent): row for row, agent in enumerate(r.demos.agent)} for r in records]
    return [(world, places[world][agent]) for world, agent in worlds.controlled_agents()]


@dataclass(frozen=True, eq=False)
class Experts:
    """Demos on a device, ready to be drawn: M agents over T steps in W worlds, X transitions."""

    worlds: Worlds
    own: Trajectories
    """All agents while the experts drive: controlled ones replayed, parked ones at rest, others logged (one step late
    where the simulator replays them so)."""
    others: Trajectories
    """All agents as others observe them: ``own`` itself; in single-agent worlds, all of them logged."""
    action: Tensor
    """[N, T, K] of the controlled agents."""
    end: Tensor
    """[N] step at which the simulator would truncate each agent's episode."""
    arrived: Tensor
    """[N] whether each stops acting at its goal; none does where ``sim.on_goal`` is ``ignore``."""
    transitions: Tensor
    """[X, 2] (controlled agent 0 .. N-1, step) of every action taken."""

    @property
    def track(self) -> Tensor:
        """[M, T, 5] states of :attr:`own`."""
        return self.own.state

    @property
    def present(self) -> Tensor:
        """[M, T] whether each agent is in its world, likewise."""
        return self.own.present


def make_experts(
    records: Sequence[Record], sim: SimConfig, device: torch.device | str = "cpu", single_agent: bool = False
) -> Experts:
    """Lay the demos of some scenes out on a device, all agents as the simulator would show them under its rules.

    The consequences of a collision (``sim.on_collision``) are not applied to experts, who hardly ever touch anything.
    With ``sim.end_with_log`` false, experts are seen by others as long as their demos go on; a policy's agents stay.

    Args:
        records: the scenes.
        sim: which agents are controlled, and the rules.
        device: where.
        single_agent: each expert drives in a world of its own, as in :func:`single_agent_worlds`.

    Raises:
        NoAgentsError: when no agent of the scenes has a demo and passes the rule.
    """
    return experts_in(demo_worlds(records, sim.selection, device), records, sim, single_agent)


def experts_in(worlds: Worlds, records: Sequence[Record], sim: SimConfig, single_agent: bool = False) -> Experts:
    """Lay the demos of the controlled agents of some worlds out where the worlds are, see :func:`make_experts`.

    Args:
        worlds: in which all controlled agents have demos.
        records: one for each world, whose scene it is.
        sim: the rules.
        single_agent: each of the agents drives as if it were alone in a world of its own.
    """
    device = worlds.device
    rows, drivers = demo_rows(records, worlds), worlds.controlled

    def gather(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(records[w].demos, name)[d] for w, d in rows])).to(device)

    mark = gather("mark") != ABSENT
    steps = torch.arange(worlds.num_steps, device=device)
    horizon = sim.horizon or worlds.num_steps - 1
    last = torch.where(mark, steps, 0).amax(dim=1).clamp(max=horizon)
    end = last if sim.end_with_log else torch.full_like(last, horizon)
    logged = _followers(worlds, sim)
    replayed = Trajectories(logged.state.clone(), logged.present.clone())
    replayed.state[drivers] = gather("state")
    replayed.present[drivers] = mark
    driven = worlds.tensors["slot"] >= 0
    arrived = _arrived(replayed, worlds, sim)[drivers]
    own = _after_arrivals(replayed, worlds, sim, driven)
    others = _after_arrivals(logged, worlds, sim, torch.zeros_like(driven)) if single_agent else own
    acts = mark & (steps < last[:, None]) & ~arrived
    return Experts(worlds, own, others, gather("action"), end, arrived.any(dim=1), acts.nonzero())


def _followers(worlds: Worlds, sim: SimConfig) -> Trajectories:
    """All agents as the simulator shows those that follow their logs."""
    steps = torch.arange(worlds.num_steps, device=worlds.device)
    state, present = worlds.log.clone(), worlds.valid.clone()
    parked, last_valid = worlds.tensors["parked"], worlds.tensors["last_valid"]
    if sim.replay_lag:
        state, present = _a_step_late(state), _a_step_late(present)
        present &= (steps <= last_valid[:, None]) | (not sim.end_with_log)
    state[parked] = worlds.log[parked, :1]  # the simulator keeps them there, whatever their log's jitter
    state[parked, :, 3:] = 0.0
    present[parked] = steps <= last_valid[parked, None] if sim.end_with_log else True
    return Trajectories(state, present)


def _after_arrivals(trajectories: Trajectories, worlds: Worlds, sim: SimConfig, driven: Tensor) -> Trajectories:
    """The trajectories with what the simulator does to agents at their goals; ``driven`` [M]: those controlled."""
    if sim.on_goal == "ignore":
        return trajectories
    arrived = _arrived(trajectories, worlds, sim)
    leaves = ~worlds.tensors["parked"] if sim.teleport else driven
    after = _a_step_late(arrived) & leaves[:, None]
    if sim.on_goal == "remove" or sim.teleport:
        return Trajectories(trajectories.state, trajectories.present & ~after)
    at_rest = _at_rest(trajectories.state, arrived)
    return Trajectories(torch.where(after[..., None], at_rest[:, None], trajectories.state), trajectories.present)


def _a_step_late(values: Tensor) -> Tensor:
    """[M, T, ...] at each step what was one step before; at the first what is."""
    return torch.cat([values[:, :1], values[:, :-1]], dim=1)


def _at_rest(track: Tensor, arrived: Tensor) -> Tensor:
    """[M, 5] where each agent of [M, T] first arrived, at rest there."""
    held = track[torch.arange(len(track), device=track.device), arrived.int().argmax(dim=1)]
    held[:, 3:] = 0.0
    return held


def _arrived(trajectories: Trajectories, worlds: Worlds, sim: SimConfig) -> Tensor:
    """[M, T] whether each agent has been at its goal, which counts from the first step on, not at the start, and
    never where ``sim.on_goal`` is ``ignore``."""
    if sim.on_goal == "ignore":
        return torch.zeros_like(trajectories.present)
    offset = trajectories.state[..., :2] - worlds.tensors["goal"][:, None]
    near = trajectories.present & (offset.square().sum(dim=-1) < sim.goal_radius * sim.goal_radius)
    near[:, 0] = False
    return near.cumsum(dim=1) > 0


class ExpertObserver:
    """Makes the observations of demos."""

    def __init__(self, experts: Experts, observation: ObservationConfig) -> None:
        self.experts = experts
        self._observer = Observer(experts.worlds, observation)
        layers = [experts.own] if experts.others is experts.own else [experts.own, experts.others]
        self._state = torch.cat([layer.state for layer in layers])
        self._present = torch.cat([layer.present for layer in layers])
        self._motion = motions(self._state, self._present) if observation.history else None

    def observe(self, agent: Tensor, step: Tensor) -> Tensor:
        """[B, D] what controlled agents [B] (0 .. N-1) see at these steps [B]."""
        e = self.experts
        return self._observer.observe(
            self._state,
            self._present,
            agents=e.worlds.controlled[agent].to(torch.int32),
            time_left=(e.end[agent] - step) * DT,
            step=step.to(torch.int32),
            seen=0 if e.others is e.own else e.worlds.num_agents,
            motion=self._motion,
        )
