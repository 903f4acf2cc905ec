"""Demos laid out as the simulator would show them: who is where, when, while the experts drive by a run's rules.

Sampler, evaluation, pictures and export all see experts through this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.expert import ABSENT
from pipeline.schema import Record
from sim.env import SimConfig
from sim.layout import ObservationConfig
from sim.observation import Observer
from sim.scenario import DT
from sim.worlds import SelectedAgents, Selection, Worlds, make_worlds, select_agents


class NobodyError(ValueError):
    """There is no agent to control, in one sentence."""


def demo_agents(record: Record, selection: Selection) -> SelectedAgents:
    """The agents of a scene that exist by the rule, with those controlled that have a demo and pass the rule too."""
    chosen = select_agents(record.scene, selection)
    has_demo = np.zeros(record.scene.num_agents, np.bool_)
    has_demo[record.demos.agent] = True
    return SelectedAgents(chosen.row, chosen.controlled & has_demo[chosen.row], chosen.parked)


def demo_worlds(records: Sequence[Record], selection: Selection, device: torch.device | str) -> Worlds:
    """Worlds of the records' scenes whose controlled agents all have demos.

    Raises:
        NobodyError: when no agent of the scenes has a demo and passes the rule.
    """
    selected = [demo_agents(record, selection) for record in records]
    if not any(chosen.controlled.any() for chosen in selected):
        raise NobodyError("no agent of these scenes has a demo and may be controlled; check sim.selection")
    return make_worlds([r.scene for r in records], device, selected=selected)


def demo_rows(records: Sequence[Record], worlds: Worlds) -> list[tuple[int, int]]:
    """(world, row of the record's demos) of each of the N controlled agents, in the simulator's order."""
    places = [{int(agent): row for row, agent in enumerate(r.demos.agent)} for r in records]
    return [(world, places[world][agent]) for world, agent in worlds.controlled_agents()]


@dataclass(frozen=True, eq=False)
class Experts:
    """Demos on a device, ready to be drawn: M agents over T steps in W worlds, X transitions."""

    worlds: Worlds
    track: Tensor
    """[M, T, 5] what everyone does when the experts drive: controlled ones replayed, parked at rest, others logged (a
    step late where the simulator has them so)."""
    present: Tensor
    """[M, T] who is in the world when."""
    action: Tensor
    """[N, T, K] of the controlled agents."""
    end: Tensor
    """[N] step at which the simulator would cut each agent off."""
    transitions: Tensor
    """[X, 2] (controlled agent 0 .. N-1, step) of every action taken."""

    @property
    def num_transitions(self) -> int:
        """X."""
        return len(self.transitions)


def make_experts(records: Sequence[Record], sim: SimConfig, device: torch.device | str = "cpu") -> Experts:
    """Lay the demos of some scenes out on a device, everyone as the simulator would show them under its rules.

    What follows a collision (``sim.on_collision``) is not done to experts, who hardly ever touch anything. With
    ``sim.end_with_log`` false, experts are seen by others as long as their demos go on; a policy's agents stay.
    """
    worlds = demo_worlds(records, sim.selection, device)
    rows = demo_rows(records, worlds)

    def gather(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(records[w].demos, name)[d] for w, d in rows])).to(device)

    mark = gather("mark") != ABSENT
    steps = torch.arange(worlds.num_steps, device=device)
    horizon = sim.horizon or worlds.num_steps - 1
    last = torch.where(mark, steps, 0).amax(dim=1).clamp(max=horizon)
    end = last if sim.end_with_log else torch.full_like(last, horizon)
    track, present = worlds.log.clone(), worlds.valid.clone()
    parked, last_valid = worlds.tensors["parked"], worlds.tensors["last_valid"]
    if sim.replay_lag:
        track, present = _a_step_late(track), _a_step_late(present)
        present &= (steps <= last_valid[:, None]) | (not sim.end_with_log)
    track[parked] = worlds.log[parked, :1]  # the simulator keeps them there, whatever their log's jitter
    track[parked, :, 3:] = 0.0
    present[parked] = steps <= last_valid[parked, None] if sim.end_with_log else True
    track[worlds.controlled] = gather("state")
    present[worlds.controlled] = mark
    acts = mark & (steps < last[:, None])
    if sim.on_goal != "ignore":
        arrived = _arrived(track, present, worlds.tensors["goal"], sim.goal_radius)
        acts &= ~arrived[worlds.controlled]
        leaves = ~parked if sim.teleport else worlds.tensors["slot"] >= 0
        after = _a_step_late(arrived) & leaves[:, None]
        if sim.on_goal == "remove" or sim.teleport:
            present &= ~after
        else:
            track = torch.where(after[..., None], _at_rest(track, arrived)[:, None], track)
    return Experts(worlds, track, present, gather("action"), end, acts.nonzero())


def _a_step_late(values: Tensor) -> Tensor:
    """[M, T, ...] at each step what was one step before; at the first what is."""
    return torch.cat([values[:, :1], values[:, :-1]], dim=1)


def _at_rest(track: Tensor, arrived: Tensor) -> Tensor:
    """[M, 5] where each agent of [M, T] first arrived, at rest there."""
    held = track[torch.arange(len(track), device=track.device), arrived.int().argmax(dim=1)]
    held[:, 3:] = 0.0
    return held


def _arrived(track: Tensor, present: Tensor, goal: Tensor, radius: float) -> Tensor:
    """[M, T] whether each agent has been at its goal [M, 2], which counts from the first step on, not at the start."""
    near = present & ((track[..., :2] - goal[:, None]).square().sum(dim=-1) < radius * radius)
    near[:, 0] = False
    return near.cumsum(dim=1) > 0


class ExpertObserver:
    """Makes the observations of demos."""

    def __init__(self, experts: Experts, observation: ObservationConfig) -> None:
        self.experts = experts
        self._observer = Observer(experts.worlds, observation)

    def observe(self, agent: Tensor, step: Tensor) -> Tensor:
        """[B, D] what controlled agents [B] (0 .. N-1) see at these steps [B]."""
        e = self.experts
        return self._observer.observe(
            e.track,
            e.present,
            agents=e.worlds.controlled[agent].to(torch.int32),
            time_left=(e.end[agent] - step) * DT,
            step=step.to(torch.int32),
        )
