"""The demo store: worlds and experts in one Zarr v3 group.

Layout (``docs/store-format.md`` tells it in full)::

    STORE/zarr.json            root attributes: format, version, action space, steps, settings, totals
    STORE/parts/00000/         a group of some scenes; ragged arrays one after the other, with offset arrays
    STORE/manifest/00000.json  says that the part is whole: its digest, its counts, what was dropped and mended
    STORE/index/               one row a scene: its id, its part, its place there (written last)

A part is written under a temporary name by one task, synced, renamed, and only then entered in the manifest, so a
killed run leaves whole parts or nothing. Every chunk carries a CRC-32C.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec

from pipeline.expert import Demos
from pipeline.files import aside, folder_digest, sweep, sync, sync_tree, write_json
from sim.actions import ActionSpace
from sim.scenario import DT
from sim.scene import Scene

FORMAT = "gail-cli demo store"
VERSION = (1, 0)
"""(major, minor): readers refuse a newer major version."""

ID_BYTES = 64
_ZSTD_LEVEL = 3

Kind = Literal["scene", "agent", "segment", "light", "demo"]


@dataclass(frozen=True)
class Column:
    """One array of a part."""

    path: str
    """Where it lies in the part."""
    kind: Kind
    """What one row is; ragged kinds have offsets in ``scenes/<kind>_start``."""
    dtype: str
    tail: tuple[str | int, ...]
    """Dimensions after the first: sizes, or "steps" and "components"."""
    field: str
    """The attribute of :class:`Record` that it holds."""
    what: str


SCHEMA: tuple[Column, ...] = (
    Column("scenes/id", "scene", "uint8", (ID_BYTES,), "scene.id", "scenario id, UTF-8, zero-padded"),
    Column("scenes/origin", "scene", "float64", (2,), "scene.origin", "x, y (m) subtracted from the log"),
    Column("scenes/timestamp", "scene", "float64", ("steps",), "scene.timestamp", "s"),
    Column("agents/id", "agent", "int64", (), "scene.agent_id", "object id in the log"),
    Column("agents/type", "agent", "int8", (), "scene.agent_type", "1 vehicle, 2 pedestrian, 3 cyclist, 4 other"),
    Column("agents/role", "agent", "uint8", (), "scene.agent_role",
           "bits: 1 recording car, 2 track to predict, 4 object of interest, 8 must follow its log"),
    Column("agents/size", "agent", "float32", (3,), "scene.agent_size", "length, width, height (m)"),
    Column("tracks/log", "agent", "float32", ("steps", 5), "scene.log", "x, y (m), heading (rad), vx, vy (m/s)"),
    Column("tracks/valid", "agent", "bool", ("steps",), "scene.valid", "whether the log has a state there"),
    Column("roads/segment", "segment", "float32", (5,), "scene.segment",
           "midpoint x, y, half-length, half-width (m), heading (rad)"),
    Column("roads/type", "segment", "int8", (), "scene.segment_type",
           "1 road edge, 2 road line, 3 lane, 4 crosswalk, 5 speed bump, 6 stop sign"),
    Column("roads/map_type", "segment", "int8", (), "scene.segment_map_type", "GPUDrive's map_element_id"),
    Column("roads/feature", "segment", "int64", (), "scene.segment_road", "id of the map feature"),
    Column("lights/lane", "light", "int64", (), "scene.light_lane", "id of the signalled lane"),
    Column("lights/state", "light", "int8", ("steps",), "scene.light_state", "Waymo's lane state, -1 absent"),
    Column("lights/stop_point", "light", "float32", (2,), "scene.light_stop_point", "x, y (m)"),
    Column("demos/agent", "demo", "int64", (), "demos.agent", "row among the scene's agents"),
    Column("demos/mark", "demo", "uint8", ("steps",), "demos.mark", "0 absent, 1 logged, 2 bridged gap"),
    Column("demos/state", "demo", "float32", ("steps", 5), "demos.state", "replayed x, y, heading, vx, vy"),
    Column("demos/action", "demo", "action", ("steps", "components"), "demos.action",
           "action taken at each step: grid indices, or values"),
    Column("demos/error", "demo", "float32", (3,), "demos.error",
           "mean and final distance from the log (m), mean heading error (rad)"),
)  # fmt: skip
RAGGED: tuple[Kind, ...] = ("agent", "segment", "light", "demo")


def starts_path(kind: Kind) -> str:
    """The array of a part that holds the offsets of a ragged kind: rows of scene k are [start[k], start[k + 1])."""
    return f"scenes/{kind}_start"


PATHS: tuple[str, ...] = (*(column.path for column in SCHEMA), *map(starts_path, RAGGED))
"""All arrays of a part."""


class StoreError(ValueError):
    """A store that cannot be used, in one sentence: what, where, what to do."""


@dataclass(frozen=True, eq=False)
class Record:
    """One scene of a store."""

    scene: Scene
    demos: Demos


def expected_dtype(column: Column, space: ActionSpace) -> np.dtype[Any]:
    """Data type of a column's array; that of actions depends on the action space."""
    if column.dtype == "action":
        return np.dtype(np.int16 if space.discrete else np.float32)
    return np.dtype(column.dtype)


def expected_tail(column: Column, space: ActionSpace, steps: int) -> tuple[int, ...]:
    """Sizes of a column's dimensions after the first."""
    named = {"steps": steps, "components": space.components}
    return tuple(named[n] if isinstance(n, str) else n for n in column.tail)


# --- writing -------------------------------------------------------------------------------------------------------


def create_store(path: str | Path, attributes: dict[str, Any]) -> None:
    """Begin a store, or one that was begun before with the same attributes, which keeps its parts.

    Raises:
        StoreError: when the folder cannot be written.
    """
    root = Path(path)
    try:
        root.mkdir(parents=True, exist_ok=True)
        _write_root(root, {"format": FORMAT, "version": list(VERSION), "complete": False, **attributes})
        (root / "manifest").mkdir(exist_ok=True)
        for group in ("parts", "index"):
            zarr.open_group(root / group, mode="a", zarr_format=3)
    except OSError as error:
        raise StoreError(f"store {path}: cannot be written ({error.strerror}); choose another place") from error


def write_part(
    path: str | Path, name: str, records: Sequence[Record], space: ActionSpace, steps: int
) -> dict[str, Any]:
    """Write one part and put it in its place; its counts and digest, for :func:`commit_part`."""
    final = Path(path) / "parts" / name
    temporary = aside(final)
    group = zarr.open_group(temporary, mode="w", zarr_format=3)
    counts: dict[str, list[int]] = {kind: [] for kind in RAGGED}
    for column in SCHEMA:
        rows = [_rows(column, record) for record in records]
        if column.kind != "scene":
            counts[column.kind] = [len(x) for x in rows]
        tail, dtype = expected_tail(column, space, steps), expected_dtype(column, space)
        _write_array(group, column.path, np.concatenate([*rows, np.zeros((0, *tail), dtype)]).astype(dtype))
    for kind in RAGGED:
        _write_array(group, starts_path(kind), np.cumsum([0, *counts[kind]], dtype=np.int64))
    sync_tree(temporary)
    totals = {f"{kind}s": sum(counts[kind]) for kind in RAGGED}
    entry = {"part": name, "digest": folder_digest(temporary), "scenes": [r.scene.id for r in records], **totals}
    if final.exists():
        shutil.rmtree(final)
    temporary.rename(final)
    sync(final.parent)
    return entry


def local(path: str | Path) -> Path:
    """The path, if it is one.

    Raises:
        StoreError: for a URL.
    """
    if "://" in str(path):
        raise StoreError(f"store {path}: stores lie in local folders, not behind URLs; name a folder")
    return Path(path)


def commit_part(path: str | Path, entry: dict[str, Any]) -> None:
    """Enter a written part in the manifest; from here on it counts."""
    write_json(Path(path) / "manifest" / f"{entry['part']}.json", entry)


def finish_store(path: str | Path, attributes: dict[str, Any]) -> None:
    """Write the index over all committed parts and mark the store complete."""
    root = Path(path)
    entries = manifest(root)
    ids = [scene for e in entries for scene in e["scenes"]]
    encoded = np.stack([encode_id(text) for text in ids]) if ids else np.zeros((0, ID_BYTES), np.uint8)
    counts = [len(e["scenes"]) for e in entries]
    index = zarr.open_group(root / "index", mode="w", zarr_format=3)
    _write_array(index, "id", encoded)
    _write_array(index, "part", np.repeat(np.arange(len(entries), dtype=np.int32), counts))
    _write_array(
        index, "place", np.concatenate([np.arange(n, dtype=np.int32) for n in counts] or [np.zeros(0, np.int32)])
    )
    totals = {"scenes": len(ids), **{f"{k}s": sum(e[f"{k}s"] for e in entries) for k in RAGGED}}
    parts = [e["part"] for e in entries]
    sync_tree(root / "index")
    for folder in (root, root / "parts", root / "manifest"):
        sweep(folder)
    _write_root(root, {**read_root(root), **attributes, "parts": parts, "totals": totals, "complete": True})


def clear_store(path: str | Path) -> None:
    """Remove a store so that, wherever this is cut short, what is left is known as an unfinished store."""
    root = Path(path)
    if not (root / "zarr.json").exists():
        return
    _write_root(root, {"format": FORMAT, "version": list(VERSION), "complete": False})
    for folder in ("index", "manifest", "parts"):
        shutil.rmtree(root / folder, ignore_errors=True)
    sweep(root)
    (root / "zarr.json").unlink()
    with suppress(OSError):
        root.rmdir()


def manifest(path: str | Path) -> list[dict[str, Any]]:
    """Entries of the committed parts, in order.

    Raises:
        StoreError: when an entry is damaged.
    """
    entries = []
    for file in sorted((Path(path) / "manifest").glob("*.json")):
        try:
            entry = json.loads(file.read_bytes())
            if missing := {"part", "digest", "scenes", *(f"{kind}s" for kind in RAGGED)} - entry.keys():
                raise ValueError(f"without {', '.join(sorted(missing))}")
            entries.append(entry)
        except (ValueError, AttributeError) as error:
            raise StoreError(f"{file}: the manifest entry is damaged; extract the store again") from error
    return entries


def _rows(column: Column, record: Record) -> NDArray[Any]:
    """What one scene contributes to a column."""
    value = attrgetter(column.field)(record)
    if column.kind != "scene":
        return cast(NDArray[Any], value)
    return cast(NDArray[Any], encode_id(value) if isinstance(value, str) else value)[None]


def encode_id(text: str) -> NDArray[np.uint8]:
    """A scenario id as ``scenes/id`` holds it."""
    return np.frombuffer(text.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0"), np.uint8)


def decode_id(row: NDArray[np.uint8]) -> str:
    """The inverse of :func:`encode_id`."""
    return bytes(row).rstrip(b"\0").decode(errors="replace")


def _write_array(group: zarr.Group, path: str, data: NDArray[Any]) -> None:
    group.create_array(
        path,
        shape=data.shape,
        chunks=tuple(max(1, n) for n in data.shape),
        dtype=data.dtype,
        compressors=[ZstdCodec(level=_ZSTD_LEVEL), Crc32cCodec()],
        config={"write_empty_chunks": True},  # so that a chunk that is not there was lost
    )[...] = data


def _write_root(root: Path, attributes: dict[str, Any]) -> None:
    write_json(root / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": attributes})


def read_root(root: Path) -> dict[str, Any]:
    """Root attributes.

    Raises:
        StoreError: when the folder holds no store of ours.
    """
    try:
        attributes = json.loads((root / "zarr.json").read_bytes()).get("attributes", {})
        ours = attributes.get("format") == FORMAT
    except FileNotFoundError:
        hint = "make one with `gail-cli extract-demos SOURCES... --store PATH`"
        raise StoreError(f"store {root}: there is no demo store here; {hint}") from None
    except (ValueError, AttributeError, OSError) as error:
        raise StoreError(f"store {root}: zarr.json cannot be read ({error}); extract the store again") from error
    if not ours:
        raise StoreError(f"store {root}: this Zarr group is not a {FORMAT}; check the path")
    return cast(dict[str, Any], attributes)


# --- reading -------------------------------------------------------------------------------------------------------


class DemoStore:
    """A finished store, open for reading; opening reads the root attributes alone.

    Args:
        path: the store's folder.

    Raises:
        StoreError: when there is no store, it is unfinished, or a newer version wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = local(path)
        self.attributes = read_root(self.path)
        try:
            major, minor = map(int, self.attributes["version"])
            if major > VERSION[0]:
                raise StoreError(f"store {path}: format {major}.{minor} is newer than this program's; upgrade gail-cli")
            if not self.attributes["complete"]:
                raise StoreError(f"store {path}: its extraction did not finish; run the same command again")
            self.space = ActionSpace.from_json(self.attributes["action_space"])
            self.steps: int = self.attributes["steps"]
            self.totals: dict[str, int] = self.attributes["totals"]
            self.parts: list[str] = self.attributes["parts"]
            self._length = int(self.totals["scenes"])
        except StoreError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise StoreError(f"store {path}: zarr.json is damaged ({error!r}); extract the store again") from error

    def __len__(self) -> int:
        return self._length

    def scene_ids(self) -> list[str]:
        """Ids of all scenes, in order."""
        return [decode_id(row) for row in self._index("id")]

    def places(self) -> list[tuple[str, int]]:
        """(part, place in it) of all scenes, in order."""
        return [(self.parts[p], int(k)) for p, k in zip(self._index("part"), self._index("place"), strict=True)]

    def read_part(self, name: str) -> list[Record]:
        """All scenes of one part.

        Raises:
            StoreError: when a chunk is damaged or missing.
        """
        try:
            group = zarr.open_group(self.path / "parts" / name, mode="r", zarr_format=3)
            arrays = {path: read_array(group, path) for path in PATHS}
        except Exception as error:  # zarr and its codecs raise many kinds
            reason = str(error) or type(error).__name__
            raise StoreError(f"store {self.path}, part {name}: damaged ({reason}); extract the store again") from error
        return [record_at(arrays, k) for k in range(len(arrays["scenes/id"]))]

    def read(self, scenes: Sequence[int] | None = None) -> Iterator[Record]:
        """Scenes by their index (all when None), part by part; scenes of one part share one read."""
        places = self.places()
        loaded: tuple[str, list[Record]] = ("", [])
        for scene in range(len(self)) if scenes is None else scenes:
            part, place = places[scene]
            if part != loaded[0]:
                loaded = (part, self.read_part(part))
            yield loaded[1][place]

    def find(self, scene_id: str) -> int:
        """Index of the scene with this id.

        Raises:
            StoreError: naming a few ids that exist.
        """
        ids = self.scene_ids()
        if scene_id not in ids:
            known = ", ".join(ids[:3])
            raise StoreError(f"store {self.path}: there is no scene {scene_id!r}; it has {known}, ...")
        return ids.index(scene_id)

    def _index(self, name: str) -> NDArray[Any]:
        try:
            return read_array(zarr.open_group(self.path / "index", mode="r", zarr_format=3), name)
        except Exception as error:
            raise StoreError(f"store {self.path}: the index is damaged ({error}); extract the store again") from error


def read_array(group: zarr.Group, path: str) -> NDArray[Any]:
    """All of an array.

    Raises:
        FileNotFoundError: when a chunk is missing, which Zarr by itself would take for zeros.
    """
    array = group[path]
    assert isinstance(array, zarr.Array)
    if array.nchunks_initialized != array.nchunks:
        raise FileNotFoundError(f"a chunk of {path} is missing")
    return np.asarray(array[...])


def record_at(arrays: dict[str, NDArray[Any]], k: int) -> Record:
    """Scene ``k`` of a part's arrays (views)."""
    fields: dict[str, dict[str, Any]] = {"scene": {}, "demos": {}}
    for column in SCHEMA:
        owner, name = column.field.split(".")
        rows = k if column.kind == "scene" else slice(*arrays[starts_path(column.kind)][k : k + 2])
        fields[owner][name] = arrays[column.path][rows]
    fields["scene"]["id"] = decode_id(fields["scene"]["id"])
    return Record(Scene(**fields["scene"]), Demos(**fields["demos"]))


def store_attributes(space: ActionSpace, steps: int, **more: Any) -> dict[str, Any]:
    """Root attributes that every store has, with the meaning of every array."""
    return {
        "action_space": space.to_json(),
        "dt_s": DT,
        "steps": steps,
        "arrays": {c.path: {"row": c.kind, "what": c.what} for c in SCHEMA},
        **more,
    }
