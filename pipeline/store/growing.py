"""A demo store whose extraction still runs, read as far as it has come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.index import Index, index_columns, read_index, store_totals
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import Agents, DemoStore, manifest, read_root


class GrowingStore(DemoStore):
    """A store, finished or not, whose scenes are those of the parts committed so far.

    Scenes that join come after those known before, whatever the number of their part, so that indices stay what they
    are. Opened anew, the same scenes may have other indices.

    Which scenes are of one log is known only when there are no more to come. So while the extraction runs each scene
    counts as a log of its own, and there are splits only if all scenes are in the same one.
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

    @property
    def splits_known(self) -> bool:
        """See :class:`DemoStore`."""
        return self.attributes.get("complete") is True or len(self._sides) < 2

    @property
    def _sides(self) -> list[int]:
        """The splits that scenes may be in."""
        shares = self.attributes.get("settings", {}).get("split", [1])
        return [side for side, share in enumerate(shares) if share != 0]

    def _take_stock(self) -> None:
        self.index: Index = Index(**index_columns([]))
        self.totals = store_totals([])
        self.parts = []
        self._scenes: dict[int, range] = {}
        self._length = 0
        self._add(manifest(self.storage))
        if self.attributes.get("complete"):
            self.index = read_index(self.storage, len(self), self.version)

    def _add(self, found: Sequence[Mapping[str, Any]]) -> None:
        """Add parts; what was known before stays valid for readers in another thread."""
        first = end = self._length
        for entry in found:
            begin, end = end, end + len(entry["scenes"]["id"])
            self._scenes[int(entry["part"])] = range(begin, end)
        side = self._sides[0] if self.splits_known else Split.TRAIN
        columns = index_columns(found, np.arange(first, end), np.full(end - first, side, np.uint8))
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
