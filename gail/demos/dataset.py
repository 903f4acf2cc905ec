"""Expert samples as a torch data set, for training loops that have one of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.sampler import DemoSampler, SceneWeights
from gail_cli.pipeline.store.store import DemoStore


class DemoDataset(IterableDataset[dict[str, Tensor]]):
    """Endless batches of expert samples, as dictionaries by the names of :class:`~gail.demos.transitions.Transitions`.

    For ``DataLoader(dataset, batch_size=None, num_workers=W)``: every rank and every worker draws from its own share of
    the scenes; together they draw from all. A loader hands out the batches of its workers in turn, so the number of
    batches taken from it, ``dataset.start + taken``, is its position: a data set with that as ``start``, and a loader
    with as many workers, go on with the same batches. Workers make batches on the CPU.

    Args:
        store: where the demos are.
        rules: which demos, how they are shown, and how many scenes each worker holds.
        batch_size: B.
        seed: of everything random.
        start: batches that this rank has taken already.
        next_state, history: see :meth:`~gail.demos.sampler.DemoSampler.sample`.
        rank: (rank, ranks); None: those of ``torch.distributed``, or of the environment (``RANK``, ``WORLD_SIZE``).
        scene_weights: see :class:`~gail.demos.sampler.DemoSampler`.
    """

    def __init__(
        self,
        store: DemoStore,
        rules: DemoRules,
        batch_size: int,
        seed: int = 0,
        start: int = 0,
        next_state: bool = False,
        history: int = 0,
        rank: tuple[int, int] | None = None,
        scene_weights: SceneWeights | None = None,
    ) -> None:
        super().__init__()
        self.store, self.rules = store, rules
        self.batch_size, self.next_state, self.history = batch_size, next_state, history
        self.seed, self.start, self.scene_weights = seed, start, scene_weights
        self.rank = current_rank() if rank is None else rank

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = get_worker_info()
        place, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        # a loader asks its first worker first: that one goes on with the share whose turn it is
        share = (place + self.start) % workers
        done = (self.start - share + workers - 1) // workers
        rank, ranks = self.rank
        sampler = DemoSampler(
            self.store,
            self.rules,
            self.seed,
            drawn=done * self.batch_size,
            shard=(rank * workers + share, ranks * workers),
            scene_weights=self.scene_weights,
        )
        try:
            while True:
                samples = sampler.sample(self.batch_size, self.next_state, self.history)
                values = ((f.name, getattr(samples, f.name)) for f in fields(samples))
                yield {name: value for name, value in values if value is not None}
        finally:
            sampler.close()


def current_rank() -> tuple[int, int]:
    """(rank, ranks) of this process, from ``torch.distributed`` or the variables that ``torchrun`` sets."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
