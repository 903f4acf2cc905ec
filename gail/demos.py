"""From the store to batches: expert samples for training, and worlds for the simulator, read lazily.

A demo is (scene, agent, step); its observation is made here, when it is drawn, by the simulator's own kernel from the
replayed states. The order of everything is a pure function of the seed, so a position is one number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail.background import Prefetch
from gail.config import ConfigError
from gail.discriminator import Samples
from pipeline.expert import ABSENT
from pipeline.store import DemoStore, Record
from sim.env import SimConfig, warm
from sim.layout import ObservationConfig
from sim.observation import Observer
from sim.scenario import DT
from sim.worlds import SelectedAgents, Selection, Worlds, make_worlds, select_agents

DEFAULT_WORLDS = 32


class NobodyError(ConfigError):
    """There is no agent to control."""


def demo_agents(record: Record, selection: Selection) -> SelectedAgents:
    """The agents of a scene that exist by the rule, with those controlled that have a demo and pass the rule too."""
    chosen = select_agents(record.scene, selection)
    return SelectedAgents(chosen.row, chosen.controlled & np.isin(chosen.row, record.demos.agent), chosen.parked)


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

    What follows a collision (``sim.on_collision``) is not done to experts, who hardly ever touch anything.
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
        if sim.on_goal == "remove":
            leaves = ~parked if sim.teleport else worlds.tensors["slot"] >= 0
            present &= ~(_a_step_late(arrived) & leaves[:, None])
    return Experts(worlds, track, present, gather("action"), end, acts.nonzero())


def _a_step_late(values: Tensor) -> Tensor:
    """[M, T, ...] at each step what was one step before; at the first what is."""
    return torch.cat([values[:, :1], values[:, :-1]], dim=1)


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

    def samples(self, pick: Tensor) -> Samples:
        """Observation and action of the transitions with the given numbers [B]."""
        e = self.experts
        demo, step = e.transitions[pick].unbind(dim=1)
        observation = self._observer.observe(
            e.track,
            e.present,
            agents=e.worlds.controlled[demo].to(torch.int32),
            time_left=(e.end[demo] - step) * DT,
            step=step.to(torch.int32),
        )
        return Samples(observation, e.action[demo, step])


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


def permuted(length: int, seed: int, number: int) -> int:
    """Item ``number`` of an endless sequence that goes through 0 .. length-1 in a new random order each epoch."""
    epoch, place = divmod(number, length)
    return int(_order(length, seed, epoch)[place])


class DemoSampler:
    """Endless batches of expert samples from a store of any size, in bounded memory.

    A pool holds some parts of the store; every batch is drawn uniformly from all transitions in the pool; after each
    ``batches_per_part`` batches the oldest part makes room for the next, which a thread has read meanwhile. When the
    whole store fits, nothing is replaced and draws are uniform over the store.

    Args:
        store: where the demos are.
        observation: the layout of observations.
        sim: which agents count, and the horizon.
        device: where batches are made.
        seed: of the order of parts and of the draws.
        pool_parts: parts held at once.
        batches_per_part: draws before a part is replaced.
        drawn: batches drawn already (:attr:`drawn` of an earlier sampler), to go on exactly there.
    """

    def __init__(
        self,
        store: DemoStore,
        observation: ObservationConfig,
        sim: SimConfig,
        device: torch.device | str = "cpu",
        seed: int = 0,
        pool_parts: int = 8,
        batches_per_part: int = 64,
        drawn: int = 0,
    ) -> None:
        self.store = store
        self.drawn = drawn
        self._observation, self._sim, self._device, self._seed = observation, sim, torch.device(device), seed
        parts = len(store.parts)
        self._rotates = pool_parts < parts
        self._every = batches_per_part
        self._replaced = drawn // batches_per_part if self._rotates else 0
        held = pool_parts if self._rotates else parts
        self._pool = deque((self._load(self._replaced + k) for k in range(held)), maxlen=held)
        self._prefetch = Prefetch(self._load, self._replaced + held) if self._rotates else None

    def sample(self, batch_size: int) -> Samples:
        """A batch: observations [B, D] and actions [B, K] on the device.

        Raises:
            NobodyError: when no agent in the pool may be controlled.
        """
        if self._prefetch is not None and self.drawn // self._every > self._replaced:
            self._pool.append(self._prefetch.next())
            self._replaced += 1
        pool = [source for source in self._pool if source is not None]
        if not pool:
            raise NobodyError(
                f"store {self.store.path}: no agent of the {len(self._pool)} part(s) held has a demo and may be "
                "controlled; check sim.selection, or raise data.pool_parts"
            )
        sizes = np.array([source.experts.num_transitions for source in pool])
        rng = np.random.default_rng([self._seed, self.drawn])
        self.drawn += 1
        pick = np.sort(rng.integers(sizes.sum(), size=batch_size))
        starts = np.concatenate([[0], np.cumsum(sizes)])
        bounds = pairwise(np.searchsorted(pick, starts))
        parts = [
            source.samples(torch.from_numpy(pick[a:b] - start).to(self._device))
            for source, (a, b), start in zip(pool, bounds, starts[:-1], strict=True)
            if b > a
        ]
        return Samples(torch.cat([s.observation for s in parts]), torch.cat([s.action for s in parts]))

    def close(self) -> None:
        """Stop reading ahead."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _load(self, number: int) -> ExpertObserver | None:
        """The part of this number; None when nobody in it may be controlled."""
        part = self.store.parts[permuted(len(self.store.parts), self._seed, number)]
        try:
            return ExpertObserver(make_experts(self.store.read_part(part), self._sim, self._device), self._observation)
        except NobodyError:
            return None


class WorldStream:
    """Batches of a store's scenes as worlds, in an endless random order, the next one loaded while one is in use.

    Args:
        store: where the scenes are.
        sim: which agents are controlled, and how large their boxes are.
        observation: how far agents see; all that an environment looks up in a map is made ahead.
        num_worlds: scenes a batch, no more than the store has; None: 32, or as many as there are.
        device: where the worlds live.
        seed: of the order.
        start: number of the first batch.
    """

    def __init__(
        self,
        store: DemoStore,
        sim: SimConfig,
        observation: ObservationConfig,
        num_worlds: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        start: int = 0,
    ) -> None:
        self._store, self._sim, self._observation = store, sim, observation
        self._device, self._seed = torch.device(device), seed
        self.num_worlds = min(num_worlds or DEFAULT_WORLDS, len(store))
        self._prefetch = Prefetch(self._load, start)

    def next(self) -> Worlds:
        """The next batch."""
        return self._prefetch.next()

    def close(self) -> None:
        """Stop loading ahead."""
        self._prefetch.close()

    def scenes(self, number: int) -> list[int]:
        """Indices of the scenes of batch ``number``."""
        first = number * self.num_worlds
        return [permuted(len(self._store), self._seed, first + k) for k in range(self.num_worlds)]

    def _load(self, number: int) -> Worlds:
        """Batch ``number``, or the first after it in which somebody may be controlled."""
        for ahead in range(1 + len(self._store) // self.num_worlds):
            chosen = sorted(self.scenes(number + ahead))  # scenes of one part share one read
            with suppress(NobodyError):
                worlds = demo_worlds(list(self._store.read(chosen)), self._sim.selection, self._device)
                return warm(worlds, self._sim, self._observation)
        raise NobodyError(f"store {self._store.path}: nobody in it may be controlled; check sim.selection")
