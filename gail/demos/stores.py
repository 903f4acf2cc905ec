"""Several demo stores as one source of demos and of worlds, and stores that still grow.

How a training uses it::

    stores = Stores.open(paths, weights, config.data.agents, config.data.grows)
    rules = DemoRules.from_config(config.data, config.worlds, config.sim, config.observation, config.augment)
    sampler = stores.sampler(rules, config.seed, drawn)  # sample, drawn, state_dict, absorbing_share, close
    held_out = stores.held_out(rules, config.seed)  # likewise for another split, small; None where that has no scene
    stream = stores.worlds(rules, config.worlds.num_worlds, config.seed, start)  # next, num_worlds, close
    joined = stores.refresh()  # between rollouts: scenes that joined the demos and the worlds, 0 if none
"""

from __future__ import annotations

import weakref
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from gail_cli.gail.demos.interleave import Interleave, WeightsError
from gail_cli.gail.demos.rules import AgentRows, DemoRules
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.demos.worlds import FirstAgents, WorldStream
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.store.growing import GrowingStore, open_store
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import Agents, DemoStore
from gail_cli.sim.actions import ActionSpace

HELD_OUT_SCENES = 64
"""Most scenes held at a time of those that a run is only measured against."""


class Stores:
    """Demo stores with actions of one kind.

    Args:
        stores: at least one.
        weights: of the stores: in these proportions rows of every batch, and worlds of every rollout, are theirs. All
            the same when None.

    Raises:
        StoreError: when there is none, or their actions or lengths differ.
        WeightsError: for weights that make no sense; it names their key in a configuration.
    """

    def __init__(self, stores: Sequence[DemoStore], weights: Sequence[float] | None = None) -> None:
        if not stores:
            raise StoreError("", "no store", "name at least one")
        weights = [1.0] * len(stores) if weights is None else list(weights)
        self.stores, self.weights = tuple(stores), tuple(weights)
        self._interleave = _interleave(weights, len(stores))
        _check_alike(stores)
        self._first: dict[tuple[Hashable, ...], list[FirstAgents]] = {}
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
        """The space of the demos' actions."""
        return self.stores[0].space

    @property
    def steps(self) -> int:
        """States per scene."""
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
        self, rules: DemoRules, seed: int = 0, drawn: int = 0, device: torch.device | str = "cpu"
    ) -> DemoSampler | MixedSampler:
        """Batches of the demos that a run learns from; of a single store its own sampler.

        Args:
            rules: which demos, and how they are shown; all stores share ``data.pool_scenes`` by their weights.
            seed: of everything random.
            drawn: rows drawn already.
            device: where batches are made.

        Raises:
            NoAgentsError: when there is nothing to draw from.
        """
        samplers = [
            DemoSampler(store, own, own_seed, rows, device, allowed=allowed)
            for store, own, own_seed, rows, allowed in zip(
                self.stores,
                self._rules_per_store(rules),
                store_seeds(seed, len(self.stores)),
                self._interleave.counts(drawn).tolist(),
                self._allowed(rules, seed),
                strict=True,
            )
        ]
        sampler = samplers[0] if len(samplers) == 1 else MixedSampler(samplers, self._interleave, seed, drawn)
        self._readers.add(sampler)
        return sampler

    def held_out(
        self,
        rules: DemoRules,
        seed: int = 0,
        drawn: int = 0,
        device: torch.device | str = "cpu",
        split: Literal["train", "validation", "test", "all"] = "validation",
    ) -> DemoSampler | MixedSampler | None:
        """Batches of another split's demos, all as they were recorded, out of few scenes at a time.

        Returns:
            None where a store has no scene in the split, or it is not known yet which.
        """
        if not all(store.splits_known and len(store.scenes_of(split)) for store in self.stores):
            return None
        return self.sampler(rules.held_out(split, HELD_OUT_SCENES), seed, drawn, device)

    def worlds(
        self,
        rules: DemoRules,
        num_worlds: int | None = None,
        seed: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
        matched: bool = False,
    ) -> WorldStream:
        """Batches of the worlds that a run drives in, ``matched`` with their demos; see
        :class:`~gail.demos.worlds.WorldStream`.

        Raises:
            NoAgentsError: when no scene is in the split, or no agent may be controlled.
        """
        allowed = self._allowed(rules, seed)
        stream = WorldStream(self.stores, rules, num_worlds, seed, start, device, self.weights, allowed, matched)
        self._readers.add(stream)
        return stream

    def refresh(self) -> int:
        """Let scenes that running extractions have finished join all samplers and streams made here.

        Where there are none this lists one folder per store, and does nothing with stores that do not grow. A run that
        is resumed knows from its start all scenes that are there by then. When each of them joined is not replayed, so
        its batches are not those of an unbroken run.

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

    def _allowed(self, rules: DemoRules, seed: int) -> Sequence[AgentRows | None]:
        """For each store the agents that a run is limited to, found once; None where it is not."""
        if rules.max_agents is None:
            return [None] * len(self.stores)
        key = rules.sim.selection, rules.data.split, rules.data.max_scenes, rules.max_agents, seed
        if key not in self._first:
            counts = self._interleave.counts(rules.max_agents).tolist()
            if 0 in counts:
                what = f"worlds.max_single_agent_envs is {rules.max_agents}, which leaves a store without one"
                raise NoAgentsError("", what, "raise it")
            pairs = zip(self.stores, counts, strict=True)
            self._first[key] = [FirstAgents(store, rules, seed, count) for store, count in pairs]
        return [first.rows for first in self._first[key]]

    def _rules_per_store(self, rules: DemoRules) -> list[DemoRules]:
        """The rules for each store, with its share of the pool."""
        weight, scenes = np.array(self.weights) / sum(self.weights), rules.data.pool_scenes
        sizes = [max(1, round(scenes * share)) for share in weight]
        return [replace(rules, data=replace(rules.data, pool_scenes=size)) for size in sizes]


def store_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the samplers of some stores: different ones, so that stores of one size are not drawn from alike; the
    seed itself where there is a single store."""
    if count == 1:
        return [seed]
    return [int(np.random.SeedSequence([seed, k]).generate_state(1)[0]) for k in range(count)]


class MixedSampler:
    """Batches with rows of several samplers in regular turns, in proportion to weights; otherwise as
    :class:`~gail.demos.sampler.DemoSampler`. Scenes are numbered through the stores, one after the other.

    Args:
        samplers: those of the stores, with seeds of :func:`store_seeds`, each having drawn its share of ``drawn``.
        interleave: which store each row is from.
        seed: that the seeds of the samplers are made of.
        drawn: rows drawn already.
    """

    def __init__(self, samplers: Sequence[DemoSampler], interleave: Interleave, seed: int = 0, drawn: int = 0) -> None:
        self.samplers, self.drawn = tuple(samplers), drawn
        self._interleave, self._seed = interleave, seed

    def state_dict(self) -> dict[str, Any]:
        """``seed`` and ``drawn``, the rows drawn so far; for :meth:`load_state_dict`."""
        return {"seed": self._seed, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the sampler of this state was, see :meth:`DemoSampler.load_state_dict`."""
        self._seed, self.drawn = int(state["seed"]), int(state["drawn"])
        seeds, counts = store_seeds(self._seed, len(self.samplers)), self._interleave.counts(self.drawn).tolist()
        for sampler, seed, drawn in zip(self.samplers, seeds, counts, strict=True):
            sampler.load_state_dict({"seed": seed, "drawn": drawn})

    @property
    def absorbing_share(self) -> float:
        """See :attr:`DemoSampler.absorbing_share`, for steps drawn in these proportions."""
        odds = [1 / (1 - sampler.absorbing_share) - 1 for sampler in self.samplers]
        idle = float(np.average(odds, weights=self._interleave.quota))
        return idle / (1 + idle)

    def sample(self, batch_size: int, next_state: bool = False, history: int = 0) -> Transitions:
        """See :meth:`DemoSampler.sample`."""
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be positive")
        turns = self._interleave.turns(self.drawn, self.drawn + batch_size)
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
    """A batch of B = ``size`` rows, made of parts that go to these rows of it."""
    values: dict[str, Tensor] = {}
    for rows, part in parts:
        for field in fields(part):
            value = getattr(part, field.name)
            if value is not None:
                whole = values.setdefault(field.name, value.new_empty(size, *value.shape[1:]))
                whole.index_copy_(0, rows, value)
    return Transitions(**values)


def _interleave(weights: Sequence[float], stores: int) -> Interleave:
    """Turns of some stores.

    Raises:
        WeightsError: for weights that make no sense.
    """
    where = "data.store_weights"
    if len(weights) != stores:
        raise WeightsError(where, f"{len(weights)} weight(s) for {stores} store(s)", "give one per store")
    try:
        return Interleave(weights)
    except WeightsError as error:
        raise WeightsError(where, error.what, error.fix) from None


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
                    f"store {store.path}",
                    f"its {what} are not those of {first.path}",
                    "extract both with the same settings",
                )
