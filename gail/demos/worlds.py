"""Worlds for the simulator from stores, read lazily in a random order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.demos.interleave import Interleave
from gail_cli.gail.demos.matched import WorldBatch, matched_experts
from gail_cli.gail.demos.prefetch import Prefetch, order
from gail_cli.gail.demos.rules import AgentRows, DemoRules
from gail_cli.gail.demos.sampler import chosen_scenes
from gail_cli.gail.demos.shown import Shown, Variant, controlled_agents, lone_rows, shown, worlds_of
from gail_cli.pipeline.experts.augment import replayed, varied
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.experts.starts import led_back, off_log
from gail_cli.pipeline.records import Record
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import warm

DEFAULT_WORLDS = 32
"""Worlds per batch where nothing else is asked for."""
_READ_SCENES = 32
"""Scenes read at a time when agents are searched for."""


@dataclass(frozen=True)
class WorldSlice:
    """Some of a scene's worlds: of ``parts`` equal parts of them, those from ``first`` up to ``last - 1``."""

    scene: int
    first: int
    last: int
    parts: int


@dataclass(frozen=True, eq=False)
class WorldOrder:
    """The scenes of one store, in an endless random order.

    A scene has as many turns as it has worlds, one after the other. Where every agent has a world of its own, that is
    the number of its demos of moving vehicles: the index holds it, so that no scene has to be read, and it is exact for
    the default selection of agents. With another selection a turn is less or more than one agent, on average.
    """

    scenes: NDArray[np.int64]
    """[n] indices in the store."""
    turns: NDArray[np.int64]
    """[n] turns of each scene per epoch."""

    @classmethod
    def of(cls, store: DemoStore, rules: DemoRules, allowed: AgentRows | None = None) -> WorldOrder:
        """The order of the scenes of the rules' split.

        Args:
            store: where the scenes are.
            rules: which scenes, and whether every agent has a world of its own.
            allowed: only scenes of these agents, each with as many turns as it has of them; None: all scenes.

        Raises:
            NoAgentsError: when there is no scene.
        """
        scenes = chosen_scenes(store, rules.data.split, rules.data.max_scenes)
        if allowed is not None:
            scenes = scenes[np.isin(scenes, list(allowed))]
            return cls(scenes, np.array([len(allowed[k]) for k in scenes.tolist()], np.int64))
        turns = np.maximum(1, store.index.demos[scenes]) if rules.single_agent else np.ones(len(scenes))
        return cls(scenes, turns.astype(np.int64))

    @property
    def length(self) -> int:
        """Turns per epoch."""
        return int(self.turns.sum())

    def take(self, seed: int, first: int, last: int) -> list[WorldSlice]:
        """The worlds of the turns ``first`` .. ``last - 1``."""
        found: list[WorldSlice] = []
        while first < last:
            epoch, place = divmod(first, self.length)
            shuffled = order(len(self.scenes), seed, epoch)
            turns = self.turns[shuffled]
            ends = np.cumsum(turns)
            at = int(np.searchsorted(ends, place, side="right"))
            while first < last and at < len(shuffled):
                parts = int(turns[at])
                begin = place - int(ends[at]) + parts
                end = min(parts, begin + last - first)
                found.append(WorldSlice(int(self.scenes[shuffled[at]]), begin, end, parts))
                first, place, at = first + end - begin, place + end - begin, at + 1
        return found


class WorldStream:
    """Batches of worlds from stores, in an endless random order, the next one loaded while one is in use.

    Where every agent has a world of its own (``single_agent``), the worlds of a scene follow each other and share its
    map. Where scenes are varied, a scene is shown in another variant each time.

    Args:
        stores: where the scenes are: one, or several whose shares of the worlds are in proportion to ``weights``.
        rules: which scenes, how they are shown, and which agents are controlled. All that an environment needs to know
            of a map is made ahead.
        num_worlds: worlds per batch, among which one may be several times when there are fewer; None: 32, or as many as
            there are if they are not varied.
        seed: of the order.
        start: number of the first batch.
        device: where the worlds live.
        weights: of the stores; all the same when None.
        allowed: with ``single_agent``, for each store the agents that there are worlds of; None: all.
            ``rules.max_agents`` has no effect here.
        matched: with the demos of these worlds. Demos that no car could follow in a variant are left out of both.

    Raises:
        NoAgentsError: when no scene is in the split.
    """

    def __init__(
        self,
        stores: DemoStore | Sequence[DemoStore],
        rules: DemoRules | None = None,
        num_worlds: int | None = None,
        seed: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
        weights: Sequence[float] | None = None,
        allowed: Sequence[AgentRows | None] | None = None,
        matched: bool = False,
    ) -> None:
        self._stores = [stores] if isinstance(stores, DemoStore) else list(stores)
        self._rules, self._seed, self._device = rules or DemoRules(), seed, torch.device(device)
        self._num_worlds, self._matched = num_worlds, matched
        self._augment = self._rules.augment if self._rules.world_augment is None else self._rules.world_augment
        self._allowed = allowed or [None] * len(self._stores)
        self._interleave = Interleave(weights or [1.0] * len(self._stores))
        self.extend()
        self._prefetch = Prefetch(self._load, start)

    def extend(self) -> None:
        """Make worlds also of scenes that joined a :class:`~pipeline.store.growing.GrowingStore`, from the next but one
        batch on. Which scenes are in which batch depends on when this is called."""
        pairs = zip(self._stores, self._allowed, strict=True)
        self._orders = [WorldOrder.of(store, self._rules, allowed) for store, allowed in pairs]

    @property
    def num_worlds(self) -> int:
        """Worlds per batch."""
        if self._num_worlds or self._augment.varies:
            return self._num_worlds or DEFAULT_WORLDS
        return min(DEFAULT_WORLDS, self._epoch)

    def next(self) -> WorldBatch:
        """The next batch."""
        return self._prefetch.next()

    def close(self) -> None:
        """Stop loading ahead."""
        self._prefetch.close()

    def slices(self, number: int) -> list[list[WorldSlice]]:
        """For each store, the worlds that batch ``number`` consists of."""
        orders, size = self._orders, self.num_worlds
        begin, end = (self._interleave.counts(n * size).tolist() for n in (number, number + 1))
        return [one.take(self._seed, *turns) for one, *turns in zip(orders, begin, end, strict=True)]

    @property
    def _epoch(self) -> int:
        """Worlds of all stores."""
        return sum(one.length for one in self._orders)

    def _load(self, number: int) -> WorldBatch:
        """Batch ``number``, or the first after it in which an agent may be controlled."""
        rules = self._rules
        for ahead in range(1 + self._epoch // self.num_worlds):
            several = self._shown(number, self.slices(number + ahead))
            if any(one.agents.controlled.any() for one in several):
                worlds, logged = worlds_of(several, self._device)
                records = [one.record for one in several]
                experts = matched_experts(logged, records, rules.sim, rules.data) if self._matched else None
                if experts is not None:
                    warm(experts.worlds, rules.sim, rules.observation)
                return WorldBatch(warm(worlds, rules.sim, rules.observation), experts)
        raise _no_agents(", ".join(str(store.path) for store in self._stores))

    def _shown(self, number: int, slices: Sequence[Sequence[WorldSlice]]) -> list[Shown]:
        """Some slices of each store's scenes as the worlds of batch ``number`` show them."""
        rules, selection = self._rules, self._rules.sim.selection
        rng = np.random.default_rng([self._seed, number, len(self._stores)])
        found = [each for k, some in enumerate(slices) for each in self._read(k, some, number)]
        pairs: list[tuple[Variant, int | None]]
        if rules.single_agent:
            pairs = [(one, row) for one, part, allowed in found for row in self._drivers(one.record, part, allowed)]
        else:
            variants = [variant for variant, _, _ in found]
            agents = [controlled_agents(variant.record, selection) for variant in variants]
            pairs = list(zip(variants, lone_rows(agents, rules.single_agent_share, rng), strict=True))
        return [shown(variant, selection, row, rules.retime, rng) for variant, row in pairs]

    def _read(
        self, k: int, slices: Sequence[WorldSlice], number: int
    ) -> list[tuple[Variant, WorldSlice, AgentRows | None]]:
        """The scenes of some slices of the k-th store, as they are varied in batch ``number``."""
        slices = sorted(slices, key=lambda one: one.scene)  # scenes of one part are read together
        scenes = sorted({one.scene for one in slices})
        read = dict(zip(scenes, self._stores[k].read(scenes), strict=True))
        records = [read[one.scene] for one in slices]
        variants = self._varied(k, records, np.random.default_rng([self._seed, number, k]))
        return [(variant, one, self._allowed[k]) for variant, one in zip(variants, slices, strict=True)]

    def _varied(self, k: int, records: Sequence[Record], rng: np.random.Generator) -> list[Variant]:
        """Variants of some scenes of the k-th store, whose demos' actions lead along them where experts are wanted."""
        augment, space = self._augment, self._stores[k].space
        if not augment.varies:
            return [Variant(record, record.scene.log[:, 0]) for record in records]
        chosen, begins = [], []
        for record in records:
            variant = varied(record, space, augment, rng)
            start, begin = off_log(variant, augment.perturb, rng), variant.scene.log[:, 0].copy()
            begin[variant.demos.agent[variant.moving]] = start
            if self._matched and augment.recover:
                variant = led_back(variant, start, rng.random(len(start)) < augment.recover)
            chosen.append(variant)
            begins.append(begin)
        if self._matched and augment.searches:
            chosen = replayed(chosen, space)
        return [Variant(*pair) for pair in zip(chosen, begins, strict=True)]

    def _drivers(self, record: Record, part: WorldSlice, allowed: AgentRows | None) -> list[int]:
        """Rows of the agents whose worlds a slice of a scene is."""
        agents = controlled_agents(record, self._rules.sim.selection)
        if allowed is not None:
            agents = agents[np.isin(agents, allowed[part.scene])]
        first, last = (len(agents) * k // part.parts for k in (part.first, part.last))
        return [int(row) for row in agents[first:last]]


class FirstAgents:
    """The first agents that may be controlled, in a random order of a store's scenes.

    Args:
        store: where the scenes are.
        rules: which scenes, and who may be controlled.
        seed: of the order.
        count: how many agents; all if there are fewer.

    Raises:
        NoAgentsError: when there is none.
    """

    def __init__(self, store: DemoStore, rules: DemoRules, seed: int, count: int) -> None:
        self._store, self._rules, self._seed, self._missing = store, rules, seed, count
        self._known_scenes = 0
        self.rows: dict[int, NDArray[np.int64]] = {}
        """Rows of a scene's agents, by the scene's index: :data:`~gail.demos.rules.AgentRows`."""
        self.extend()
        if not self.rows:
            raise _no_agents(str(store.path))

    def extend(self) -> None:
        """Go on through scenes that joined the store since, if there were too few agents."""
        data = self._rules.data
        scenes = chosen_scenes(self._store, data.split, data.max_scenes)
        scenes, self._known_scenes = scenes[scenes >= self._known_scenes], len(self._store)
        scenes = scenes[order(len(scenes), self._seed, 0)]
        for first in range(0, len(scenes), _READ_SCENES):
            if self._missing <= 0:
                return
            chunk = scenes[first : first + _READ_SCENES].tolist()
            records = dict(zip(sorted(chunk), self._store.read(sorted(chunk)), strict=True))
            for scene in chunk:
                agents = controlled_agents(records[scene], self._rules.sim.selection)[: max(0, self._missing)]
                self._missing -= len(agents)
                if len(agents):
                    self.rows[scene] = agents


def _no_agents(path: str) -> NoAgentsError:
    return NoAgentsError(f"store {path}", "nobody in it may be controlled", "check sim.selection")
