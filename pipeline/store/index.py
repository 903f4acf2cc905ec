"""The index of a store: one row per scene, with what is known only of all scenes together, their logs and splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import SAMPLES
from gail_cli.pipeline.store.arrays import ArraySpec, all_rows, shard_name
from gail_cli.pipeline.store.schema import ID_BYTES, RAGGED, encode_id
from gail_cli.pipeline.store.storage import Storage

INDEX: dict[str, ArraySpec] = {
    "id": ArraySpec(np.dtype(np.uint8), (ID_BYTES,)),
    "part": ArraySpec(np.dtype(np.int32), ()),
    "place": ArraySpec(np.dtype(np.int32), ()),
    "group": ArraySpec(np.dtype(np.int64), ()),
    "split": ArraySpec(np.dtype(np.uint8), ()),
    "demos": ArraySpec(np.dtype(np.int32), ()),
    "transitions": ArraySpec(np.dtype(np.int32), ()),
}
"""Arrays of the group ``index``, one row per scene."""
_LOGS_SINCE = 3
"""The major version of the format that knows of logs first."""
_FINGERPRINTS = ArraySpec(np.dtype(np.uint64), (SAMPLES,))
_AT_ONCE = 64
"""Files that are read at once, 0.2 MB each."""


@dataclass(frozen=True, eq=False)
class Index:
    """One row per scene."""

    id: NDArray[np.uint8]
    """[S, 64] UTF-8, zero-padded."""
    part: NDArray[np.int32]
    place: NDArray[np.int32]
    group: NDArray[np.int64]
    """The first scene of the same log, see :mod:`pipeline.logs`; the scene itself where that is not known."""
    split: NDArray[np.uint8]
    """:class:`~pipeline.records.Split`."""
    demos: NDArray[np.int32]
    """Demos of moving vehicles."""
    transitions: NDArray[np.int32]
    """Actions in these."""


def divided(index: Index) -> NDArray[np.int64]:
    """The logs, by their first scenes, that have scenes in more than one split."""
    logs, sides = np.unique(np.unique(np.stack([index.group, index.split]), axis=1)[0], return_counts=True)
    found: NDArray[np.int64] = logs[sides > 1]
    return found


def index_columns(
    entries: Sequence[Mapping[str, Any]],
    group: NDArray[np.int64] | None = None,
    split: NDArray[np.uint8] | None = None,
) -> dict[str, NDArray[Any]]:
    """The arrays of the index of a store.

    Args:
        entries: of its parts, in the manifest.
        group: [S] the first scene of each scene's log; None: each has a log of its own.
        split: [S] of each scene; None: all are in train.
    """
    counts = [len(e["scenes"]["id"]) for e in entries]
    scenes = sum(counts)
    columns: dict[str, Any] = {
        name: [x for e in entries for x in e["scenes"][name]] for name in ("demos", "transitions")
    }
    columns["id"] = [encode_id(text) for e in entries for text in e["scenes"]["id"]] or np.zeros((0, ID_BYTES))
    columns["part"] = np.repeat([int(e["part"]) for e in entries], counts)
    columns["place"] = np.concatenate([np.zeros(0), *map(np.arange, counts)])
    columns["group"] = np.arange(scenes) if group is None else group
    columns["split"] = np.zeros(scenes) if split is None else split
    return {name: np.asarray(columns[name]).astype(form.dtype) for name, form in INDEX.items()}


def read_index(storage: Storage, scenes: int, version: int) -> Index:
    """The index of a store of so many scenes and this major version.

    Raises:
        DamagedError, OSError: when it cannot be read.
    """
    names = [name for name in INDEX if name != "group" or version >= _LOGS_SINCE]
    found = storage.read([f"index/{shard_name(name, INDEX[name])}" for name in names] if scenes else [])
    files = dict(zip(names, found, strict=False))
    columns = {name: all_rows(INDEX[name], scenes, files.get(name, b"")) for name in names}
    return Index(**{"group": np.arange(scenes), **columns})


def read_fingerprints(storage: Storage, parts: Mapping[str, int], version: int) -> NDArray[np.uint64]:
    """[S, SAMPLES] the fingerprints of all scenes of a store, zeros where it knows none.

    Args:
        storage: where it lies.
        parts: its parts, with their numbers of scenes.
        version: its major version.

    Raises:
        DamagedError, OSError: when a part cannot be read.
    """
    found = np.zeros((sum(parts.values()), SAMPLES), np.uint64)
    if version < _LOGS_SINCE:
        return found
    there = [(part, n) for part, n in parts.items() if n]
    file, row = shard_name("scenes/fingerprint", _FINGERPRINTS), 0
    for first in range(0, len(there), _AT_ONCE):
        batch = there[first : first + _AT_ONCE]
        for data, (_, n) in zip(storage.read([f"parts/{part}/{file}" for part, _ in batch]), batch, strict=True):
            found[row : row + n] = all_rows(_FINGERPRINTS, n, data)
            row += n
    return found


def store_totals(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows of each kind there are in some parts, given by their manifest entries."""
    scenes = sum(len(e["scenes"]["id"]) for e in entries)
    return {"scenes": scenes, **{f"{kind}s": sum(e[f"{kind}s"] for e in entries) for kind in RAGGED}}
