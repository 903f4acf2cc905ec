"""A finished demo store, read: worlds and experts in one Zarr v3 group.

Layout (described in ``docs/store-format.md``)::

    STORE/zarr.json            root attributes: format, version, action space, steps, settings, totals
    STORE/parts/00000/         a group of some scenes; ragged arrays one after the other, with offset arrays
    STORE/manifest/00000.json  says that the part is whole: its digest, its counts, what was dropped and repaired
    STORE/index/               one row per scene: its id, its part, its place there, its split (written last)

Every chunk carries a CRC-32C, every manifest entry and the root a digest, and all are checked when they are read.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import VRU_SPACE, Record, Split
from gail_cli.pipeline.store.arrays import ArraySpec, DamagedError, Shard, shard_name
from gail_cli.pipeline.store.files import json_bytes, json_digest
from gail_cli.pipeline.store.schema import (
    FORMAT,
    ID_BYTES,
    RAGGED,
    READABLE,
    SCHEMA,
    STARTS,
    Column,
    Kind,
    StoreError,
    decode_id,
    encode_id,
    missing,
    record_at,
    spec_of,
    starts_path,
)
from gail_cli.pipeline.store.storage import LocalFolder, Storage, StorageError, storage_at
from gail_cli.sim.actions import ActionSpace

INDEX: dict[str, ArraySpec] = {
    "id": ArraySpec(np.dtype(np.uint8), (ID_BYTES,)),
    "part": ArraySpec(np.dtype(np.int32), ()),
    "place": ArraySpec(np.dtype(np.int32), ()),
    "split": ArraySpec(np.dtype(np.uint8), ()),
    "demos": ArraySpec(np.dtype(np.int32), ()),
    "transitions": ArraySpec(np.dtype(np.int32), ()),
}
"""Arrays of the group ``index``, one row per scene."""
Agents = Literal["vehicles", "vru"]
_PARTS_KNOWN = 256
"""Parts whose offsets are kept in memory, some 40 kB each."""
_AGAIN = "extract the store again"


def part_name(number: int) -> str:
    """Folder of a part."""
    return f"{number:05d}"


def sealed(data: Mapping[str, Any]) -> dict[str, Any]:
    """JSON data with a digest of itself under ``check``."""
    return {**data, "check": json_digest(data)}


def unsealed(data: Any) -> dict[str, Any]:
    """The data of :func:`sealed` without its digest.

    Raises:
        DamagedError: when it is not what was sealed.
    """
    try:
        ours = dict(data)
        check = ours.pop("check")
    except (ValueError, TypeError, KeyError) as error:
        raise DamagedError("it has no digest of itself") from error
    if check != json_digest(ours):
        raise DamagedError("the digest of itself is wrong")
    return ours


def open_storage(path: str | Path) -> Storage:
    """The files of a store.

    Raises:
        StoreError: when the URL cannot be used.
    """
    try:
        return storage_at(path)
    except StorageError as error:
        raise StoreError(f"store {path}", error.what, error.fix) from error


def check_ours(storage: Storage) -> dict[str, Any]:
    """Root attributes, of whatever version and however damaged.

    Raises:
        StoreError: when no store of ours is there.
    """
    where = f"store {storage.url}"
    try:
        (text,) = storage.read(["zarr.json"])
    except FileNotFoundError:
        hint = "make one with `gail-cli extract-demos SOURCES... --store PATH`"
        raise StoreError(where, "there is no demo store here", hint) from None
    except Exception as error:  # file systems have errors of their own
        raise StoreError(where, f"cannot be reached ({error})", "check its name and your access to it") from error
    try:
        attributes = json.loads(text).get("attributes", {})
        found = attributes.get("format")
    except (ValueError, AttributeError) as error:
        raise StoreError(where, f"zarr.json cannot be read ({error})", f"remove the store and {_AGAIN}") from error
    if found != FORMAT:
        raise StoreError(where, f"this Zarr group is not a {FORMAT}", "check the path")
    return cast(dict[str, Any], attributes)


def read_root(storage: Storage) -> dict[str, Any]:
    """Root attributes.

    Raises:
        StoreError: when no store of ours is there, or one of a version that is not read, or damaged.
    """
    where, attributes = f"store {storage.url}", check_ours(storage)
    version = attributes.get("version")
    if not (isinstance(version, list) and len(version) == 2 and all(isinstance(n, int) for n in version)):
        raise StoreError(where, f"zarr.json is damaged (version {version!r})", _AGAIN)
    if version[0] not in READABLE:
        newer = version[0] > max(READABLE)
        age, hint = ("newer", "upgrade gail-cli") if newer else ("older", f"{_AGAIN} (--overwrite)")
        raise StoreError(where, f"format {version[0]}.{version[1]} is {age} than this program's", hint)
    try:
        return unsealed(attributes)
    except DamagedError as error:
        raise StoreError(where, f"zarr.json is damaged ({error})", _AGAIN) from error


def manifest(storage: Storage, known: Container[str] = ()) -> list[dict[str, Any]]:
    """Entries of the committed parts, in order, except those already known by name.

    Raises:
        StoreError: when an entry is damaged.
    """
    parts = [name.removesuffix(".json") for name in storage.names("manifest") if name.endswith(".json")]
    names = [f"manifest/{part}.json" for part in parts if part not in known]
    entries = []
    for name, text in zip(names, storage.read(names), strict=True):
        try:
            data = json.loads(text)
            if json_bytes(data) != text:
                raise DamagedError("not as it was written")
            entries.append(unsealed(data))
        except ValueError as error:
            raise StoreError(f"store {storage.url}, {name}", f"the entry is damaged ({error})", _AGAIN) from error
    return entries


def index_columns(entries: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of the index of a store that consists of these parts, given by their manifest entries."""
    counts = [len(e["scenes"]["id"]) for e in entries]
    columns: dict[str, Any] = {name: [x for e in entries for x in e["scenes"].get(name, ())] for name in INDEX}
    columns["id"] = [encode_id(text) for text in columns["id"]] or np.zeros((0, ID_BYTES))
    columns["part"] = np.repeat([int(e["part"]) for e in entries], counts)
    columns["place"] = np.concatenate([np.zeros(0), *map(np.arange, counts)])
    return {name: np.asarray(columns[name]).astype(form.dtype) for name, form in INDEX.items()}


def store_totals(entries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows of each kind there are in some parts, given by their manifest entries."""
    scenes = sum(len(e["scenes"]["id"]) for e in entries)
    return {"scenes": scenes, **{f"{kind}s": sum(e[f"{kind}s"] for e in entries) for kind in RAGGED}}


@dataclass(frozen=True, eq=False)
class Index:
    """One row per scene."""

    id: NDArray[np.uint8]
    """[S, 64] UTF-8, zero-padded."""
    part: NDArray[np.int32]
    place: NDArray[np.int32]
    split: NDArray[np.uint8]
    """:class:`~pipeline.records.Split`."""
    demos: NDArray[np.int32]
    """Demos of moving vehicles."""
    transitions: NDArray[np.int32]
    """Actions in these."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Where the rows of a part's scenes are."""

    starts: dict[Kind, NDArray[np.int64]]
    shards: dict[str, Shard]

    def rows(self, kind: Kind, first: int, last: int) -> tuple[int, int]:
        """Rows of the scenes [first, last)."""
        if kind == "scene":
            return first, last
        return int(self.starts[kind][first]), int(self.starts[kind][last])


class DemoStore:
    """A finished store, open for reading; opening reads one small file.

    Args:
        path: folder, ``.zip`` file or fsspec URL.
        agents: whose demos records have as ``demos``: those of vehicles, in the store's action space, or those of
            pedestrians and cyclists, in :data:`VRU_SPACE`.

    Raises:
        StoreError: when there is no store, it is unfinished, or of a version that is not read.
    """

    def __init__(self, path: str | Path, agents: Agents = "vehicles") -> None:
        self.storage = open_storage(path)
        self.path = Path(self.storage.url) if isinstance(self.storage, LocalFolder) else self.storage.url
        self.agents = agents
        self.attributes = read_root(self.storage)
        try:
            self._take_stock()
            self._own = ActionSpace.from_json(self.attributes["action_space"])
            self.steps: int = self.attributes["steps"]
            self.version = int(self.attributes["version"][0])
        except StoreError:
            raise
        except StorageError as error:
            raise StoreError(f"store {path}", error.what, error.fix) from error
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(f"store {path}", f"zarr.json is damaged ({error!r})", _AGAIN) from error
        self._part = lru_cache(maxsize=_PARTS_KNOWN)(self._find_part)

    def _take_stock(self) -> None:
        """Find out what there is."""
        if not self.attributes["complete"]:
            raise StoreError(f"store {self.path}", "its extraction did not finish", "run the same command again")
        self.totals: dict[str, int] = self.attributes["totals"]
        self.parts = [part_name(k) for k in range(self.attributes["parts"])]
        self._length = int(self.totals["scenes"])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.agents)

    def __len__(self) -> int:
        return self._length

    @property
    def location(self) -> str:
        """Where it lies, whatever the working directory."""
        return self.storage.location

    @property
    def space(self) -> ActionSpace:
        """The action space of records' ``demos``."""
        return VRU_SPACE if self.agents == "vru" else self._own

    @property
    def own_space(self) -> ActionSpace:
        """The action space of vehicles, with which the store was made."""
        return self._own

    @cached_property
    def index(self) -> Index:
        """Read when it is first asked for.

        Raises:
            StoreError: when it is damaged or missing.
        """
        try:
            names = [f"index/{shard_name(name, form)}" for name, form in INDEX.items()] if len(self) else []
            files = dict(zip(INDEX, self.storage.read(names), strict=False))
            return Index(**{name: _all_rows(form, len(self), files.get(name, b"")) for name, form in INDEX.items()})
        except Exception as error:
            raise StoreError(f"store {self.path}", f"the index is damaged ({_reason(error)})", _AGAIN) from error

    @cached_property
    def _part_bounds(self) -> NDArray[np.int64]:
        """Part p has the scenes [bounds[p], bounds[p + 1])."""
        return np.searchsorted(self.index.part, np.arange(len(self.parts) + 1))

    def scene_ids(self) -> list[str]:
        """Ids of all scenes, in order."""
        return [decode_id(row) for row in self.index.id]

    def scenes_of(self, split: str) -> NDArray[np.int64]:
        """Indices of the scenes of a split, by its name in small letters; of all scenes for "all"."""
        if split == "all":
            return np.arange(len(self))
        return np.flatnonzero(self.index.split == Split[split.upper()])

    def part_scenes(self, part: int) -> range:
        """Indices of the scenes of a part."""
        return range(*map(int, self._part_bounds[part : part + 2]))

    def read(self, scenes: Sequence[int] | None = None) -> Iterator[Record]:
        """Scenes by their index (all when None).

        A run of scenes that follow each other in a part is read at once, with one request per array.

        Raises:
            StoreError: when a chunk is damaged or missing.
        """
        for part, first, last in self._runs(range(len(self)) if scenes is None else scenes):
            yield from self._read_run(part, first, last)

    def find(self, scene_id: str) -> int:
        """Index of the scene with this id.

        Raises:
            StoreError: naming a few ids that exist.
        """
        ids = self.scene_ids()
        if scene_id not in ids:
            known = ", ".join([*ids[:3], *(["..."] if len(ids) > 3 else [])])
            raise StoreError(f"store {self.path}", f"there is no scene {scene_id!r}", f"it has {known}")
        return ids.index(scene_id)

    def _runs(self, scenes: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """(part, first place, last place + 1) of scenes that follow each other."""
        begin = 0
        while begin < len(scenes):
            part, place = int(self.index.part[scenes[begin]]), int(self.index.place[scenes[begin]])
            end = begin + 1
            while end < len(scenes) and scenes[end] == scenes[end - 1] + 1 and self.index.part[scenes[end]] == part:
                end += 1
            yield part, place, place + end - begin
            begin = end

    def has(self, column: Column) -> bool:
        """Whether the store's version has this array."""
        return column.since <= self.version

    def _columns(self) -> Iterator[tuple[Column, ArraySpec]]:
        for column in SCHEMA:
            yield column, spec_of(column, self._own, self.steps)

    def _find_part(self, number: int) -> _Part:
        folder, scenes = f"parts/{part_name(number)}", len(self.part_scenes(number))
        heads = self.storage.read([f"{folder}/{shard_name(starts_path(kind), STARTS)}" for kind in RAGGED])
        starts = {kind: _all_rows(STARTS, scenes + 1, data) for kind, data in zip(RAGGED, heads, strict=True)}
        part = _Part(starts, {})
        rows = {column.path: part.rows(column.kind, 0, scenes)[1] for column, _ in self._columns()}
        forms = {column.path: form for column, form in self._columns() if rows[column.path] and self.has(column)}
        spans = [(f"{folder}/{shard_name(path, form)}", 0, form.head(rows[path])) for path, form in forms.items()]
        for (path, form), head in zip(forms.items(), self.storage.read_spans(spans), strict=True):
            part.shards[path] = Shard.parse(form, rows[path], head)
        return part

    def _read_run(self, number: int, first: int, last: int) -> list[Record]:
        try:
            arrays = self._read_arrays(number, first, last)
        except Exception as error:  # file systems have errors of their own
            where = f"store {self.path}, part {part_name(number)}"
            raise StoreError(where, f"damaged ({_reason(error)})", _AGAIN) from error
        records = [record_at(arrays, k) for k in range(last - first)]
        if self.agents == "vru":
            return [Record(r.scene, cast(Any, r.vru), None, r.split) for r in records]
        return records

    def _read_arrays(self, number: int, first: int, last: int) -> dict[str, NDArray[Any]]:
        """All arrays of the scenes [first, last) of a part, with offsets from the first on."""
        part = self._part(number)
        arrays: dict[str, NDArray[Any]] = {}
        wanted: list[tuple[str, int, int]] = []
        for column, form in self._columns():
            a, b = part.rows(column.kind, first, last)
            arrays[column.path] = missing(column, 0 if self.has(column) else b - a, form)
            if b > a and self.has(column):
                wanted.append((column.path, a, b))
        folder = f"parts/{part_name(number)}"
        shards = [part.shards[path] for path, _, _ in wanted]
        spans = [s.span(a, b) for s, (_, a, b) in zip(shards, wanted, strict=True)]
        names = [f"{folder}/{shard_name(path, s.form)}" for s, (path, _, _) in zip(shards, wanted, strict=True)]
        found = self.storage.read_spans([(name, *span) for name, span in zip(names, spans, strict=True)])
        for shard, (path, a, b), data in zip(shards, wanted, found, strict=True):
            arrays[path] = shard.rows_of(data, a, b)
        for kind in RAGGED:
            arrays[starts_path(kind)] = part.starts[kind][first : last + 1] - part.starts[kind][first]
        return arrays


def _all_rows(form: ArraySpec, rows: int, data: bytes) -> NDArray[Any]:
    """All of an array from its file."""
    if rows == 0:
        return np.zeros((0, *form.tail), form.dtype)
    shard = Shard.parse(form, rows, data[: form.head(rows)])
    begin, end = shard.span(0, rows)
    return shard.rows_of(data[begin:end], 0, rows)


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return f"a file is missing: {str(error.filename or error).rsplit('/parts/', 1)[-1]}"
    return str(error) or type(error).__name__
