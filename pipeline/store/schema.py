"""What a demo store holds: the arrays of a part, and a scene as they hold it (described in docs/store-format.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import QUALITY, VRU_SPACE, Demos, Record
from gail_cli.pipeline.store.arrays import ArraySpec
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.errors import UserError
from gail_cli.sim.scene import Scene

FORMAT = "gail-cli demo store"
VERSION = (3, 0)
"""(major, minor) of stores that are written."""
READABLE = (2, 3)
"""Major versions that are read; what a store of an earlier one lacks is absent, see :attr:`Column.absent`."""
ID_BYTES = 64

Kind = Literal["scene", "agent", "segment", "light", "demo", "vru"]
RAGGED: tuple[Kind, ...] = ("agent", "segment", "light", "demo", "vru")


class StoreError(UserError):
    """A store that cannot be used."""


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
    since: int = 2
    """The major version of the format that has it first."""
    absent: float = 0
    """What a store of an earlier version has in its place."""


def _demo_columns(group: str, kind: Kind, field: str, action: str, components: str | int) -> tuple[Column, ...]:
    return (
        Column(f"{group}/agent", kind, "int64", (), f"{field}.agent", "row among the scene's agents"),
        Column(f"{group}/mark", kind, "uint8", ("steps",), f"{field}.mark", "0 absent, 1 logged, 2 bridged gap"),
        Column(f"{group}/state", kind, "float32", ("steps", 5), f"{field}.state", "replayed x, y, heading, vx, vy"),
        Column(f"{group}/action", kind, action, ("steps", components), f"{field}.action",
               "action taken at each step: grid indices, or values"),
        Column(f"{group}/quality", kind, "float32", (len(QUALITY),), f"{field}.quality", ", ".join(QUALITY)),
    )  # fmt: skip


SCHEMA: tuple[Column, ...] = (
    Column("scenes/id", "scene", "uint8", (ID_BYTES,), "scene.id", "scenario id, UTF-8, zero-padded"),
    Column("scenes/split", "scene", "uint8", (), "split", "0 train, 1 validation, 2 test"),
    Column("scenes/origin", "scene", "float64", (2,), "scene.origin", "x, y (m) subtracted from the log"),
    Column("scenes/origin_z", "scene", "float64", (), "scene.origin_z",
           "z (m) subtracted from the log; NaN: heights are not known", since=3, absent=np.nan),
    Column("scenes/timestamp", "scene", "float64", ("steps",), "scene.timestamp", "s"),
    Column("agents/id", "agent", "int64", (), "scene.agent_id", "object id in the log"),
    Column("agents/type", "agent", "int8", (), "scene.agent_type", "1 vehicle, 2 pedestrian, 3 cyclist, 4 other"),
    Column("agents/role", "agent", "uint8", (), "scene.agent_role",
           "bits: 1 recording car, 2 track to predict, 4 object of interest, 8 must follow its log, 16 parked, "
           "32 not there at the first step"),
    Column("agents/size", "agent", "float32", (3,), "scene.agent_size", "length, width, height (m)"),
    Column("tracks/log", "agent", "float32", ("steps", 5), "scene.log", "x, y (m), heading (rad), vx, vy (m/s)"),
    Column("tracks/z", "agent", "float32", ("steps",), "scene.log_z", "height (m) of the box's middle", since=3),
    Column("tracks/valid", "agent", "bool", ("steps",), "scene.valid", "whether the log has a state there"),
    Column("roads/segment", "segment", "float32", (5,), "scene.segment",
           "midpoint x, y, half-length, half-width (m), heading (rad)"),
    Column("roads/z", "segment", "float32", (2,), "scene.segment_z",
           "height (m) of both ends, against and along the heading", since=3),
    Column("roads/type", "segment", "int8", (), "scene.segment_type",
           "1 road edge, 2 road line, 3 lane, 4 crosswalk, 5 speed bump, 6 stop sign"),
    Column("roads/map_type", "segment", "int8", (), "scene.segment_map_type", "GPUDrive's map_element_id"),
    Column("roads/feature", "segment", "int64", (), "scene.segment_road", "id of the map feature"),
    Column("lights/lane", "light", "int64", (), "scene.light_lane", "id of the signalled lane"),
    Column("lights/state", "light", "int8", ("steps",), "scene.light_state", "Waymo's lane state, -1 absent"),
    Column("lights/stop_point", "light", "float32", (2,), "scene.light_stop_point", "x, y (m)"),
    *_demo_columns("demos", "demo", "demos", "action", "components"),
    *_demo_columns("vru", "vru", "vru", "float32", VRU_SPACE.components),
)  # fmt: skip


def starts_path(kind: Kind) -> str:
    """The array of a part that holds the offsets of a ragged kind: rows of scene k are [start[k], start[k + 1])."""
    return f"scenes/{kind}_start"


PATHS: tuple[str, ...] = (*(column.path for column in SCHEMA), *map(starts_path, RAGGED))
"""All arrays of a part in the version that is written."""
STARTS = ArraySpec(np.dtype(np.int64), ())
"""The arrays of offsets."""


def spec_of(column: Column, space: ActionSpace, steps: int) -> ArraySpec:
    """What a column's array is like in a store of this action space and number of steps."""
    named = {"steps": steps, "components": space.components}
    tail = tuple(named[n] if isinstance(n, str) else n for n in column.tail)
    if column.dtype == "action":
        return ArraySpec(np.dtype(np.int16 if space.discrete else np.float32), tail)
    return ArraySpec(np.dtype(column.dtype), tail)


def missing(column: Column, rows: int, form: ArraySpec) -> NDArray[Any]:
    """What stands for so many rows of a column that a store of an earlier version does not have."""
    return np.full((rows, *form.tail), column.absent, form.dtype)


def lay_out(records: Sequence[Record], space: ActionSpace, steps: int) -> dict[str, NDArray[Any]]:
    """The arrays of a part that holds these scenes."""
    arrays: dict[str, NDArray[Any]] = {}
    counts: dict[str, list[int]] = {kind: [] for kind in RAGGED}
    for column in SCHEMA:
        form = spec_of(column, space, steps)
        none = np.zeros((0, *form.tail), form.dtype)
        rows = [_rows(column, record, none) for record in records]
        if column.kind != "scene":
            counts[column.kind] = [len(x) for x in rows]
        arrays[column.path] = np.concatenate([*rows, none]).astype(form.dtype)
    return arrays | {starts_path(kind): np.cumsum([0, *counts[kind]], dtype=np.int64) for kind in RAGGED}


def _rows(column: Column, record: Record, none: NDArray[Any]) -> NDArray[Any]:
    """What one scene contributes to a column."""
    if column.kind == "vru" and record.vru is None:
        return none
    value = attrgetter(column.field)(record)
    if column.kind == "scene":
        value = np.asarray(encode_id(value) if isinstance(value, str) else value)[None]
    rows: NDArray[Any] = value
    return rows


def record_at(arrays: Mapping[str, NDArray[Any]], k: int) -> Record:
    """Scene ``k`` of a part's arrays (views)."""
    fields: dict[str, dict[str, Any]] = {"scene": {}, "demos": {}, "vru": {}, "": {}}
    for column in SCHEMA:
        owner, _, name = column.field.rpartition(".")
        rows = k if column.kind == "scene" else slice(*arrays[starts_path(column.kind)][k : k + 2])
        fields[owner][name] = arrays[column.path][rows]
    fields["scene"]["id"] = decode_id(fields["scene"]["id"])
    return Record(Scene(**fields["scene"]), Demos(**fields["demos"]), Demos(**fields["vru"]), int(fields[""]["split"]))


def encode_id(text: str) -> NDArray[np.uint8]:
    """A scenario id as ``scenes/id`` holds it."""
    return np.frombuffer(text.encode()[:ID_BYTES].ljust(ID_BYTES, b"\0"), np.uint8)


def decode_id(row: NDArray[np.uint8]) -> str:
    """The inverse of :func:`encode_id`."""
    return bytes(row).rstrip(b"\0").decode(errors="replace")
