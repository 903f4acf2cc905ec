"""Several demo stores as one source of demos and of worlds, and stores that still grow.

How a training uses it::

    stores = Stores.open(paths, weights, config.data.agents, config.data.grows)
    sampler = stores.sampler(config, device, drawn)  # sample, drawn, state, absorbing_share, close
    held_out = stores.held_out(config, device)  # the same of another split, small; None where that has no scene
    stream = stores.worlds(config, device, start)  # next, num_worlds, close
    joined = stores.refresh()  # between rollouts: scenes that joined the demos and the worlds, 0 if none
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gail_cli.gail.config.schema import DataConfig, TrainConfig
from gail_cli.gail.demos.interleave import Interleave, WeightsError
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.demos.worlds import AgentRows, FirstAgents, WorldStream
from gail_cli.pipeline.experts.augment import Augmentation
from gail_cli.pipeline.store.growing import GrowingStore, open_store
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import Agents, DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.worlds import Selection

HELD_OUT_SCENES = 64
"""Held ready of scenes that are only looked at."""


class Stores:
    """Demo stores with actions of one kind.

    Args:
        stores: at least one.
        weights: of the stores: in these proportions rows of every batch, and worlds of every rollout, are theirs. Alike
            when None.

    Raises:
        StoreError: when their actions or lengths differ.
        WeightsError: for weights that make no sense.
    """

    def __init__(self, stores: Sequence[DemoStore], weights: Sequence[float] | None = None) -> None:
        if not stores:
            raise ValueError("no store; name at least one")
        weights = [1.0] * len(stores) if weights is None else list(weights)
        if len(weights) != len(stores):
            raise WeightsError("", f"{len(weights)} weight(s) for {len(stores)} store(s)", "give one a store")
        self.stores, self.weights = tuple(stores), tuple(weights)
        self._deck = Interleave(weights)
        _check_alike(stores)
        self._first: dict[tuple[Selection, str, int, int, int | None], list[FirstAgents]] = {}
        self._readers: weakref.WeakSet[DemoSampler | MixedSampler | WorldStream] = weakref.WeakSet()

    @classmethod
    def open(
        cls,
        paths: Sequence[str | Path],
        weights: Sequence[float] | None = None,
        agents: Agents = "vehicles",
        grows: bool = False,
    ) -> Stores:
        """Open stores.

        Args:
            paths: folders, ``.zip`` files or fsspec URLs.
            weights: see the class.
            agents: whose demos, see :class:`~pipeline.store.store.DemoStore`.
            grows: whether extractions of them may be running yet.

        Raises:
            StoreError: when one cannot be read, is unfinished and must not be, or does not go with the others.
            WeightsError: for weights that make no sense.
        """
        return cls([open_store(path, agents, grows) for path in paths], weights)

    @property
    def space(self) -> ActionSpace:
        """Of the demos' actions."""
        return self.stores[0].space

    @property
    def steps(self) -> int:
        """States of a scene."""
        return self.stores[0].steps

    @property
    def locations(self) -> list[str]:
        """Where they lie, whatever the working directory."""
        return [store.location for store in self.stores]

    @property
    def location(self) -> str:
        """The same in one line, with the weights if there are several."""
        if len(self.stores) == 1:
            return self.locations[0]
        return ", ".join(f"{at} (weight {w:g})" for at, w in zip(self.locations, self.weights, strict=True))

    def __len__(self) -> int:
        """Scenes in all."""
        return sum(map(len, self.stores))

    def sampler(
        self, config: TrainConfig, device: torch.device | str = "cpu", drawn: int = 0
    ) -> DemoSampler | MixedSampler:
        """Batches of the demos that a run learns from, going on after so many rows; one store's own sampler if there
        is one.

        Raises:
            NoAgentsError: when there is nothing to draw from.
        """
        return self._sampler(config, config.data, device, drawn, self._agents(config), config.augment)

    def held_out(
        self, config: TrainConfig, device: torch.device | str = "cpu", split: str = "validation", drawn: int = 0
    ) -> DemoSampler | MixedSampler | None:
        """Batches of another split's demos, out of few scenes at a time; None where a store has no scene in it."""
        if not all(len(store.scenes_of(split)) for store in self.stores):
            return None
        few = min(HELD_OUT_SCENES, config.data.pool_scenes)
        data = replace(config.data, split=split, pool_scenes=few, max_scenes=None)  # type: ignore[arg-type]
        return self._sampler(config, data, device, drawn, None, None)

    def worlds(self, config: TrainConfig, device: torch.device | str = "cpu", start: int = 0) -> WorldStream:
        """Batches of a run's worlds, from the one of number ``start`` on.

        Raises:
            NoAgentsError: when no scene is in the split.
        """
        stream = WorldStream(
            self.stores,
            config.sim,
            config.observation,
            config.worlds.num_worlds,
            device,
            config.seed,
            start,
            config.data.split,
            self.weights,
            alone=config.worlds.mode == "single_agent",
            only=self._agents(config),
            augment=config.augment,
            max_scenes=config.data.max_scenes,
        )
        self._readers.add(stream)
        return stream

    def refresh(self) -> int:
        """Let scenes that running extractions have finished since join all samplers and streams made here.

        Where there are none this costs a look into a folder a store, and nothing with stores that do not grow. A run
        that is resumed knows the scenes that are there then, all from its start: what was known when is not replayed,
        so its batches are not those of an unbroken run.

        Returns:
            How many scenes joined.

        Raises:
            StoreError: when a store was replaced, or cannot be read any more.
        """
        joined = sum(store.refresh() for store in self.stores if isinstance(store, GrowingStore))
        if joined:
            for first in chain(*self._first.values()):
                first.extend()
            for reader in list(self._readers):
                reader.extend()
        return joined

    def _agents(self, config: TrainConfig) -> list[AgentRows] | None:
        """Of each store the agents that a run is limited to, if it is; found once."""
        most = config.worlds.max_single_agent_envs
        if most is None:
            return None
        data = config.data
        key = config.sim.selection, data.split, config.seed, most, data.max_scenes
        if key not in self._first:
            shares = self._deck.counts(most).tolist()
            if 0 in shares:
                raise StoreError(f"worlds.max_single_agent_envs is {most}, which leaves a store without one; raise it")
            pairs = zip(self.stores, shares, strict=True)
            self._first[key] = [FirstAgents(store, *key[:3], share, data.max_scenes) for store, share in pairs]
        return [first.rows for first in self._first[key]]

    def _sampler(
        self,
        config: TrainConfig,
        data: DataConfig,
        device: torch.device | str,
        drawn: int,
        only: Sequence[AgentRows] | None,
        augment: Augmentation | None,
    ) -> DemoSampler | MixedSampler:
        alone = config.worlds.mode == "single_agent"
        several = len(self.stores) > 1
        weight = np.array(self.weights) / sum(self.weights)
        rows = self._deck.counts(drawn).tolist()
        samplers = [
            DemoSampler(
                store,
                config.observation,
                config.sim,
                device,
                replace(data, pool_scenes=max(1, round(data.pool_scenes * weight[k]))),
                # orders of their own, so that stores of one size do not draw alike
                int(np.random.SeedSequence([config.seed, k]).generate_state(1)[0]) if several else config.seed,
                rows[k],
                alone=alone,
                only=None if only is None else only[k],
                augment=augment,
            )
            for k, store in enumerate(self.stores)
        ]
        sampler = MixedSampler(samplers, self._deck, config.seed, drawn) if several else samplers[0]
        self._readers.add(sampler)
        return sampler


class MixedSampler:
    """Batches with rows of several samplers in regular turns, in proportion to weights; otherwise as
    :class:`~gail.demos.sampler.DemoSampler`. Scenes are numbered through the stores, one after the other.

    Args:
        samplers: of the stores, each having drawn its share of ``drawn``.
        deck: whose turn it is.
        seed: of the run.
        drawn: rows drawn already.
    """

    def __init__(self, samplers: Sequence[DemoSampler], deck: Interleave, seed: int, drawn: int) -> None:
        self.samplers, self.drawn = tuple(samplers), drawn
        self._deck, self._seed = deck, seed

    @property
    def state(self) -> tuple[int, int]:
        """(seed, rows drawn), from which a sampler of the same stores and settings goes on with the same batches."""
        return self._seed, self.drawn

    @property
    def absorbing_share(self) -> float:
        """See :attr:`DemoSampler.absorbing_share`; of steps drawn in these proportions."""
        odds = [1 / (1 - sampler.absorbing_share) - 1 for sampler in self.samplers]
        idle = float(np.average(odds, weights=self._deck.quota))
        return idle / (1 + idle)

    def sample(self, batch_size: int, next_state: bool = False, history: int = 0) -> Transitions:
        """See :meth:`DemoSampler.sample`."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be positive")
        turns = self._deck.turns(self.drawn, self.drawn + batch_size)
        self.drawn += batch_size
        parts: list[tuple[Tensor, Transitions]] = []
        offset = 0
        for k, sampler in enumerate(self.samplers):
            rows = np.flatnonzero(turns == k)
            if len(rows):
                part = sampler.sample(len(rows), next_state, history)
                assert part.transition is not None
                part.transition[:, 0] += offset
                parts.append((torch.from_numpy(rows).to(part.action.device), part))
            offset += len(sampler.store)
        return _joined(parts, batch_size)

    def extend(self) -> None:
        """See :meth:`DemoSampler.extend`."""
        for sampler in self.samplers:
            sampler.extend()

    def close(self) -> None:
        """Stop reading ahead."""
        for sampler in self.samplers:
            sampler.close()


def _joined(parts: Sequence[tuple[Tensor, Transitions]], size: int) -> Transitions:
    """One batch of parts that go to these rows of it."""
    values: dict[str, Tensor] = {}
    for rows, part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if value is not None:
                whole = values.setdefault(field.name, value.new_empty(size, *value.shape[1:]))
                whole.index_copy_(0, rows, value)
    return Transitions(**values)


def _check_alike(stores: Sequence[DemoStore]) -> None:
    """Whether one policy can learn from all.

    Raises:
        StoreError: naming the first store that differs from the first, and in what.
    """
    first = stores[0]
    for store in stores[1:]:
        for what, ours, theirs in (
            ("actions", first.space.to_json(), store.space.to_json()),
            ("steps", first.steps, store.steps),
        ):
            if ours != theirs:
                raise StoreError(
                    f"store {store.path}: its {what} are not those of {first.path}; extract both with the same settings"
                )
