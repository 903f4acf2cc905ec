"""A demo store whose extraction still runs, read as far as it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import Agents, DemoStore, Index, index_columns, manifest, read_root, store_totals


class GrowingStore(DemoStore):
    """A store, finished or not, whose scenes are those of the parts committed so far.

    Scenes that join come after those known before, whatever the number of their part, so that indices stay what they
    are. Opened anew, the same scenes may have other indices.
    """

    def refresh(self) -> int:
        """Look for parts that were committed since; returns how many scenes joined. Costs one listing of a folder.

        Raises:
            StoreError: when the store was replaced by another one.
        """
        before = len(self)
        if found := manifest(self.storage, known=frozenset(self.parts)):
            if read_root(self.storage).get("plan") != self.attributes.get("plan"):
                raise StoreError(f"store {self.path}", "another one took its place", "begin a new run")
            self._add(found)
        return len(self) - before

    def part_scenes(self, part: int) -> range:
        """Indices of the scenes of a part."""
        return self._scenes[part]

    def _take_stock(self) -> None:
        self.index: Index = Index(**index_columns([]))
        self.totals = store_totals([])
        self.parts = []
        self._scenes: dict[int, range] = {}
        self._length = 0
        self._add(manifest(self.storage))

    def _add(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Add parts; what was known before stays valid for readers in another thread."""
        end = self._length
        for entry in found:
            begin, end = end, end + len(entry["scenes"]["id"])
            self._scenes[int(entry["part"])] = range(begin, end)
        columns = index_columns(found)
        self.index = Index(**{name: np.concatenate([getattr(self.index, name), x]) for name, x in columns.items()})
        self.totals = {name: self.totals[name] + n for name, n in store_totals(found).items()}
        self.parts = self.parts + [entry["part"] for entry in found]
        self._length = end


def open_store(path: str | Path, agents: Agents = "vehicles", grows: bool = False) -> DemoStore:
    """A store open for reading.

    Args:
        path: folder, ``.zip`` file or fsspec URL.
        agents: whose demos records have, see :class:`~pipeline.store.store.DemoStore`.
        grows: whether its extraction may be running yet.

    Raises:
        StoreError: when there is no store, or it is unfinished and ``grows`` is not set.
    """
    return GrowingStore(path, agents) if grows else DemoStore(path, agents)
