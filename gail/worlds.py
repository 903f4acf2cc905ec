"""Worlds for the simulator from a store, read lazily in a random order."""

from __future__ import annotations

from contextlib import suppress

import torch

from gail.background import Prefetch, permuted
from gail.demos import chosen_scenes
from pipeline.replay import NobodyError, demo_worlds
from pipeline.store import DemoStore
from sim.env import SimConfig, warm
from sim.layout import ObservationConfig
from sim.worlds import Worlds

DEFAULT_WORLDS = 32


class WorldStream:
    """Batches of a store's scenes as worlds, in an endless random order, the next one loaded while one is in use.

    Args:
        store: where the scenes are.
        sim: which agents are controlled, and how large their boxes are.
        observation: how far agents see; all that an environment looks up in a map is made ahead.
        num_worlds: scenes a batch, no more than there are; None: 32, or as many as there are.
        device: where the worlds live.
        seed: of the order.
        start: number of the first batch.
        split: which scenes.

    Raises:
        NobodyError: when no scene is in the split.
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
        split: str = "all",
    ) -> None:
        self._store, self._sim, self._observation = store, sim, observation
        self._device, self._seed = torch.device(device), seed
        self._scenes = chosen_scenes(store, split)
        self.num_worlds = min(num_worlds or DEFAULT_WORLDS, len(self._scenes))
        self._prefetch = Prefetch(self._load, start)

    def next(self) -> Worlds:
        """The next batch."""
        return self._prefetch.next()

    def close(self) -> None:
        """Stop loading ahead."""
        self._prefetch.close()

    def scenes(self, number: int) -> list[int]:
        """Indices of the scenes of batch ``number``."""
        length, first = len(self._scenes), number * self.num_worlds
        return [int(self._scenes[permuted(length, self._seed, first + k)]) for k in range(self.num_worlds)]

    def _load(self, number: int) -> Worlds:
        """Batch ``number``, or the first after it in which somebody may be controlled."""
        for ahead in range(1 + len(self._scenes) // self.num_worlds):
            chosen = sorted(self.scenes(number + ahead))  # scenes of one part share one read
            with suppress(NobodyError):
                worlds = demo_worlds(list(self._store.read(chosen)), self._sim.selection, self._device)
                return warm(worlds, self._sim, self._observation)
        raise NobodyError(f"store {self._store.path}: nobody in it may be controlled; check sim.selection")
