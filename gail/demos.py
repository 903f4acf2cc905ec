"""From the store to batches: expert samples for training, and worlds for the simulator, read lazily.

A demo is (scene, agent, step); its observation is made here, when it is drawn, by the simulator's own kernel from the
replayed states. The order of everything is a pure function of the seed, so a position is one number.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail.background import Prefetch
from gail.discriminator import Samples
from pipeline.replay import ExpertObserver, NobodyError, demo_worlds, make_experts
from pipeline.store import DemoStore
from sim.env import SimConfig, warm
from sim.layout import ObservationConfig
from sim.worlds import Worlds

DEFAULT_WORLDS = 32


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


def permuted(length: int, seed: int, number: int) -> int:
    """Item ``number`` of an endless sequence that goes through 0 .. length-1 in a new random order each epoch."""
    epoch, place = divmod(number, length)
    return int(_order(length, seed, epoch)[place])


def _samples(source: ExpertObserver, pick: Tensor) -> Samples:
    """Observation and action of the transitions with the given numbers [B]."""
    agent, step = source.experts.transitions[pick].unbind(dim=1)
    return Samples(source.observe(agent, step), source.experts.action[agent, step])


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
            _samples(source, torch.from_numpy(pick[a:b] - start).to(self._device))
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
