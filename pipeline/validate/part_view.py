"""One part of a demo store as the checks see it, and what a check finds in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from gail_cli.pipeline.records import VRU_SPACE
from gail_cli.pipeline.store.arrays import open_files
from gail_cli.pipeline.store.schema import RAGGED, SCHEMA, Kind, missing, spec_of, starts_path
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace

FARTHEST = 3000.0
"""Distance from the scene's middle beyond which a position is no place but a sentinel (GPUDrive: -10000, -11000), m."""
SLACK = 1e-5
"""Rounding allowed in headings and in limits of actions."""
AGAIN = "extract the store again with --overwrite"
CHANGED = f"restore the part from a copy, or {AGAIN}"
_COLUMNS = {column.path: column for column in SCHEMA}


class Finding(NamedTuple):
    """What a check found: in which array (may be empty), what, and what to do."""

    array: str
    what: str
    fix: str = AGAIN


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a store, its arrays read when they are first asked for."""

    store: DemoStore
    name: str
    entry: dict[str, Any]
    sampled: Sequence[int]
    """Places of the scenes to replay."""

    @cached_property
    def files(self) -> dict[str, bytes]:
        """Its files, by name."""
        return self.store.storage.tree(f"parts/{self.name}")

    def rows(self, kind: Kind) -> int:
        """Number of rows of a kind, by the manifest."""
        return len(self.scene_ids) if kind == "scene" else int(self.entry[f"{kind}s"])

    @property
    def scene_ids(self) -> list[str]:
        """Ids of its scenes, by the manifest."""
        return list(self.entry["scenes"]["id"])

    @cached_property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that can be read; see ``unreadable`` for the others."""
        return {path: x for path, x in self._read.items() if isinstance(x, np.ndarray)}

    @cached_property
    def unreadable(self) -> dict[str, str]:
        """Why the other arrays cannot be read."""
        return {path: x for path, x in self._read.items() if isinstance(x, str)}

    @cached_property
    def _read(self) -> dict[str, NDArray[Any] | str]:
        try:
            group = open_files(self.files)
        except Exception as error:  # zarr and its codecs raise many kinds
            return {"zarr.json": str(error)}
        store, paths = self.store, [*(c.path for c in SCHEMA if self.store.has(c)), *map(starts_path, RAGGED)]
        absent = {
            c.path: missing(c, self.rows(c.kind), spec_of(c, store.own_space, store.steps))
            for c in SCHEMA
            if not store.has(c)
        }
        return {path: _read_or_reason(group, path, self.files) for path in paths} | absent

    def starts(self, kind: Kind) -> NDArray[np.int64]:
        """Offsets of a ragged kind."""
        return self.arrays[starts_path(kind)]

    def scene_of(self, kind: Kind) -> NDArray[np.int64]:
        """Place of the scene of each row."""
        if kind == "scene":
            return np.arange(self.rows(kind))
        return np.repeat(np.arange(self.rows("scene")), np.diff(self.starts(kind)))

    def driven(self, group: DemoGroup) -> NDArray[np.int64]:
        """Agent rows of the demos."""
        rows: NDArray[np.int64] = self.starts("agent")[self.scene_of(group.kind)] + self.arrays[f"{group.path}/agent"]
        return rows

    @property
    def groups(self) -> tuple[DemoGroup, DemoGroup]:
        """The demos that it holds."""
        return DemoGroup("demo", "demos", self.store.own_space), DemoGroup("vru", "vru", VRU_SPACE)


class DemoGroup(NamedTuple):
    """Demos of one kind of agents: what its rows are, where its arrays lie, and its actions."""

    kind: Kind
    path: str
    space: ActionSpace


def _read_or_reason(group: zarr.Group, path: str, files: Mapping[str, bytes]) -> NDArray[Any] | str:
    """An array, or why it cannot be read."""
    try:
        array = group[path]
        assert isinstance(array, zarr.Array)
        if array.size and not any(name.startswith(f"{path}/c/") for name in files):  # Zarr would take it for zeros
            return "its file is missing"
        return np.asarray(array[...])
    except Exception as error:  # zarr and its codecs raise many kinds
        return str(error) or type(error).__name__


def in_rows(part: Part, path: str, bad: NDArray[np.bool_], what: str, fix: str = AGAIN) -> Iterator[Finding]:
    """A finding where any of ``bad`` [rows, ...] is true."""
    rows = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    if len(rows):
        scene = part.scene_ids[part.scene_of(_COLUMNS[path].kind)[rows[0]]]
        yield Finding(path, f"{what} in {len(rows)} of {len(bad)} rows, first in row {rows[0]}, scene {scene!r}", fix)


def check_places(part: Part, path: str, states: NDArray[Any]) -> Iterator[Finding]:
    """States [..., 5] that lie nowhere, or whose headings are none."""
    far = np.abs(states[..., :2]) > FARTHEST
    yield from in_rows(part, path, far, f"a position is more than {FARTHEST:g} m from the scene's middle")
    yield from in_rows(part, path, turned(states[..., 2]), "a heading is not within +-pi")


def turned(heading: NDArray[Any]) -> NDArray[np.bool_]:
    """Which headings are not within +-pi."""
    return np.asarray(np.abs(heading) > np.pi + SLACK)
