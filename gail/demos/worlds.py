"""Worlds for the simulator from stores, read lazily in a random order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.demos.interleave import Interleave
from gail_cli.gail.demos.prefetch import Prefetch, order
from gail_cli.gail.demos.sampler import chosen_scenes
from gail_cli.pipeline.experts.augment import Augmentation, perturbed, varied
from gail_cli.pipeline.experts.replay import NoAgentsError, demo_agents, demo_worlds, single_agent_worlds
from gail_cli.pipeline.records import Record
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import SimConfig, warm
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import Selection, Worlds

DEFAULT_WORLDS = 32
_READ_TOGETHER = 32
"""Scenes, when agents are looked for."""

AgentRows = Mapping[int, NDArray[np.integer]]
"""Rows of a scene's agents, by the scene's index in its store."""


@dataclass(frozen=True)
class WorldSlice:
    """Some of a scene's worlds: those from ``first`` up to ``last`` of ``of`` equal parts of them."""

    scene: int
    first: int
    last: int
    of: int


@dataclass(frozen=True, eq=False)
class WorldOrder:
    """The scenes of one store, in an endless random order.

    A scene has as many turns as it has worlds, one after the other; where every agent has a world of its own, that is
    the number of its demos of moving vehicles, which the index tells without a look at the scene, and which is right
    for default rules; by other rules a turn is of less or more than one agent, on average.
    """

    scenes: NDArray[np.int64]
    turns: NDArray[np.int64]

    @classmethod
    def of(cls, store: DemoStore, split: str, alone: bool, only: AgentRows | None, most: int | None) -> WorldOrder:
        """Of the scenes of a split; see :class:`WorldStream`.

        Raises:
            NoAgentsError: when there is none.
        """
        scenes = chosen_scenes(store, split, most)
        if only is not None:
            scenes = scenes[np.isin(scenes, list(only))]
            return cls(scenes, np.array([len(only[k]) for k in scenes.tolist()], np.int64))
        turns = np.maximum(1, store.index.demos[scenes]) if alone else np.ones(len(scenes))
        return cls(scenes, turns.astype(np.int64))

    @property
    def length(self) -> int:
        """Turns an epoch."""
        return int(self.turns.sum())

    def take(self, seed: int, first: int, last: int) -> list[WorldSlice]:
        """Whose turns ``first`` .. ``last - 1`` are."""
        found: list[WorldSlice] = []
        while first < last:
            epoch, place = divmod(first, self.length)
            shuffled = order(len(self.scenes), seed, epoch)
            turns = self.turns[shuffled]
            ends = np.cumsum(turns)
            at = int(np.searchsorted(ends, place, side="right"))
            while first < last and at < len(shuffled):
                of = int(turns[at])
                begin = place - int(ends[at]) + of
                end = min(of, begin + last - first)
                found.append(WorldSlice(int(self.scenes[shuffled[at]]), begin, end, of))
                first, place, at = first + end - begin, place + end - begin, at + 1
        return found


class WorldStream:
    """Batches of worlds from stores, in an endless random order, the next one loaded while one is in use.

    Args:
        store: where the scenes are; or several, whose shares of the worlds are in proportion to ``weights``.
        sim: which agents are controlled, and how large their boxes are.
        observation: how far agents see; all that an environment looks up in a map is made ahead.
        num_worlds: worlds a batch, among which one may be several times when there are fewer; None: 32, or as many as
            there are if they are not varied.
        device: where the worlds live.
        seed: of the order.
        start: number of the first batch.
        split: which scenes.
        weights: of the stores; alike when None.
        alone: every controlled agent has a world of its own, in which everyone else follows the log; those of a scene
            follow each other and share its map. Otherwise a world is a scene.
        only: with ``alone``, of each store the agents that there are worlds of; None: all.
        augment: show a variant of each scene (see :mod:`pipeline.experts.augment`), another one each time.
        max_scenes: of each store no more than so many, the first ones.

    Raises:
        NoAgentsError: when no scene is in the split.
    """

    def __init__(
        self,
        store: DemoStore | Sequence[DemoStore],
        sim: SimConfig,
        observation: ObservationConfig,
        num_worlds: int | None = None,
        device: torch.device | str = "cpu",
        seed: int = 0,
        start: int = 0,
        split: str = "all",
        weights: Sequence[float] | None = None,
        alone: bool = False,
        only: Sequence[AgentRows | None] | None = None,
        augment: Augmentation | None = None,
        max_scenes: int | None = None,
    ) -> None:
        self._max_scenes = max_scenes
        self._augment = augment if augment is not None and augment.varies else None
        self._stores = [store] if isinstance(store, DemoStore) else list(store)
        self._sim, self._observation, self._device, self._seed = sim, observation, torch.device(device), seed
        self._split, self._alone, self._only = split, alone, only or [None] * len(self._stores)
        self._asked = num_worlds
        self._deck = Interleave(weights or [1.0] * len(self._stores))
        self.extend()
        self._prefetch = Prefetch(self._load, start)

    def extend(self) -> None:
        """Let scenes that joined a :class:`~pipeline.store.growing.GrowingStore` join the worlds, from the next but one
        batch on; which ones are in which batch depends on when this is called."""
        pairs = zip(self._stores, self._only, strict=True)
        self._lines = [
            WorldOrder.of(store, self._split, self._alone, agents, self._max_scenes) for store, agents in pairs
        ]

    @property
    def num_worlds(self) -> int:
        """Worlds a batch."""
        if self._asked or self._augment:
            return self._asked or DEFAULT_WORLDS
        return min(DEFAULT_WORLDS, sum(line.length for line in self._lines))

    def next(self) -> Worlds:
        """The next batch."""
        return self._prefetch.next()

    def close(self) -> None:
        """Stop loading ahead."""
        self._prefetch.close()

    def shares(self, number: int) -> list[list[WorldSlice]]:
        """What batch ``number`` is made of, of each store."""
        lines, size = self._lines, self.num_worlds
        begin, end = self._deck.counts(number * size).tolist(), self._deck.counts((number + 1) * size).tolist()
        return [line.take(self._seed, *turns) for line, *turns in zip(lines, begin, end, strict=True)]

    def _load(self, number: int) -> Worlds:
        """Batch ``number``, or the first after it in which somebody may be controlled."""
        for ahead in range(1 + sum(line.length for line in self._lines) // self.num_worlds):
            pairs = [
                pair for k, shares in enumerate(self.shares(number + ahead)) for pair in self._read(k, shares, number)
            ]
            with suppress(NoAgentsError):
                if self._alone:
                    worlds = single_agent_worlds(
                        [self._agents(*pair) for pair in pairs], self._sim.selection, self._device
                    )
                else:
                    worlds = demo_worlds([record for record, _, _ in pairs], self._sim.selection, self._device)
                return warm(worlds, self._sim, self._observation)
        paths = ", ".join(str(store.path) for store in self._stores)
        raise NoAgentsError(f"store {paths}: nobody in it may be controlled; check sim.selection")

    def _read(
        self, k: int, shares: Sequence[WorldSlice], number: int
    ) -> list[tuple[Record, WorldSlice, AgentRows | None]]:
        """The scenes of some shares of the k-th store, as they are shown in batch ``number``."""
        store = self._stores[k]
        shares = sorted(shares, key=lambda share: share.scene)  # scenes of one part share one read
        records = list(store.read([share.scene for share in shares]))
        if self._augment is not None:
            rng = np.random.default_rng([self._seed, number, k])
            size = self._augment.perturb
            records = [perturbed(varied(r, store.space, self._augment, rng), size, rng) for r in records]
        return [(record, share, self._only[k]) for record, share in zip(records, shares, strict=True)]

    def _agents(self, record: Record, share: WorldSlice, only: AgentRows | None) -> tuple[Record, NDArray[np.int64]]:
        """The agents whose worlds a share of a scene is."""
        agents = controlled_agents(record, self._sim.selection)
        if only is not None:
            agents = agents[np.isin(agents, only[share.scene])]
        first, last = (len(agents) * k // share.of for k in (share.first, share.last))
        return record, agents[first:last]


def controlled_agents(record: Record, selection: Selection) -> NDArray[np.int64]:
    """Rows of a scene's agents that have demos and that the rule controls."""
    chosen = demo_agents(record, selection)
    return chosen.row[chosen.controlled]


class FirstAgents:
    """The first agents that may be controlled, going through a store's scenes in an order of the seed.

    Args:
        store: where the scenes are.
        selection: who may be controlled.
        split: which scenes.
        seed: of the order.
        most: how many agents; all if there are fewer.
        max_scenes: out of how many scenes, the first ones; None for all.

    Raises:
        NoAgentsError: when there is none.
    """

    def __init__(
        self, store: DemoStore, selection: Selection, split: str, seed: int, most: int, max_scenes: int | None = None
    ) -> None:
        self._store, self._selection, self._split, self._seed, self._left = store, selection, split, seed, most
        self._max_scenes = max_scenes
        self._known = 0
        self.rows: dict[int, NDArray[np.int64]] = {}
        """Rows of a scene's agents, by the scene's index."""
        self.extend()
        if not self.rows:
            raise NoAgentsError(f"store {store.path}: nobody in it may be controlled; check sim.selection")

    def extend(self) -> None:
        """Go on through scenes that joined the store since, if there were too few agents."""
        scenes = chosen_scenes(self._store, self._split, self._max_scenes)
        scenes, self._known = scenes[scenes >= self._known], len(self._store)
        scenes = scenes[order(len(scenes), self._seed, 0)]
        for first in range(0, len(scenes), _READ_TOGETHER):
            if self._left <= 0:
                return
            chunk = scenes[first : first + _READ_TOGETHER].tolist()
            records = dict(zip(sorted(chunk), self._store.read(sorted(chunk)), strict=True))
            for scene in chunk:
                agents = controlled_agents(records[scene], self._selection)[: max(0, self._left)]
                self._left -= len(agents)
                if len(agents):
                    self.rows[scene] = agents
