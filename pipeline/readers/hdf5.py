"""Demonstrations in HDF5 as scenes: trajectories of agents, without a map.

Read are this project's own export, and files laid out as robomimic's (``data/demo_0``, ...) or Minari's
(``episode_0``, ...) that hold absolute states every 0.1 s. Demonstrations with one value of the attribute ``scene`` are
agents of one scene; every other one is a scene by itself. ``docs/export.md`` describes what a file must and may hold.

Actions in the file are not taken over: they belong to the file's own action space, and in a store the expert's actions
are those of the policy's own action space.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.readers.gpudrive_json import headings_in_degrees
from gail_cli.pipeline.readers.tfrecord import open_binary
from gail_cli.sim.scenario import DT, AgentType, Scenario, SceneError, Tracks, TrafficLights, repaired

HDF5_START = b"\x89HDF\r\n\x1a\n"
"""First bytes of an HDF5 file."""
DEFAULT_SIZE = (4.5, 2.0, 1.5)
"""Length, width, height in m of agents of unknown size: a car."""
MAX_STATES = 10_000
"""Most states of one demonstration; more is taken as a fault of the file."""
STATES = ("states", "infos/states")
"""Where the states of a demonstration may lie; the first that is there is read."""

_GROUP = re.compile(r"(demo|episode)_(\d+)")
_FIELDS = ("x", "y", "heading", "vx", "vy")
_ALIASES = {"yaw": "heading"}
_TYPES = {kind.name.lower(): kind for kind in AgentType}

Repairs = Counter[str]
"""Sentence → how often it holds."""


def list_demos(path: str) -> list[tuple[str, ...]]:
    """The scenes of a file: of each, the names of the groups that hold its agents, in the order of their numbers.

    Raises:
        SceneError: when the file is damaged, or holds no demonstrations.
        OSError: when the file cannot be opened.
    """
    scenes: dict[Any, list[str]] = {}
    with _opened(path) as file:
        for name in _group_names(file, path):
            attributes = file[name].attrs
            scene = (
                (_text(attributes["scene"]), _text(attributes.get("scene_index", "")))
                if "scene" in attributes
                else name
            )
            scenes.setdefault(scene, []).append(name)
    return [tuple(groups) for groups in scenes.values()]


def read(path: str, groups: Sequence[str]) -> Scenario:
    """The scene whose agents these groups of a file hold.

    Absent attributes and what stands in for them: ``agent_size`` a car of :data:`DEFAULT_SIZE`; ``agent_type`` vehicle;
    ``agent_id`` the place in the scene; ``origin`` 0; ``first_step`` 0; ``scene`` the names of file and group. What is
    not in the file but matters is recorded in ``repairs``.

    Raises:
        SceneError: when the file is damaged, or a demonstration holds no states that can be read.
        OSError: when the file cannot be opened.
    """
    repairs: Repairs = Counter()
    with _opened(path) as file:
        _check_rate(file, "/", path)
        demos = [_demo(file, name, f"{path}, {name}", repairs) for name in groups]
        first = file[groups[0]].attrs
        stem = PurePosixPath(path).name
        scene_id = _text(first["scene"]) if "scene" in first else f"{stem}/{PurePosixPath(groups[0]).name}"
    repairs["the scene is made of demonstrations: it has no map and no other agents"] += 1
    tracks = _tracks(demos, repairs)
    steps = tracks.valid.shape[1]
    return repaired(Scenario(
        id=scene_id,
        tracks=tracks,
        roads=(),
        lights=TrafficLights.none(steps),
        timestamps=np.arange(steps, dtype=np.float64) * DT,
        current_index=0,
        name=stem,
        repairs=tuple(text if count == 1 else f"{text} ({count} times)" for text, count in repairs.items()),
    ))  # fmt: skip


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    """The file; what h5py raises for damage becomes a :class:`~sim.scenario.SceneError`."""
    with open_binary(path) as raw:
        try:
            with h5py.File(raw, "r") as file:
                yield file
        except SceneError:
            raise
        except Exception as error:  # h5py raises OSError, KeyError, RuntimeError, ... for what it finds damaged
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SceneError(path, f"no HDF5 file, or damaged ({reason})", "fetch the file again") from error


def _group_names(file: Any, path: str) -> list[str]:
    """Names of the demonstrations' groups, in the order of their numbers."""
    data = file.get("data")
    prefix, parent = ("data/", data) if isinstance(data, h5py.Group) else ("", file)
    found = sorted((int(match[2]), match[0]) for match in map(_GROUP.fullmatch, parent) if match)
    names = [prefix + name for _, name in found if isinstance(parent.get(name), h5py.Group)]
    if not names:
        raise SceneError(path, "holds no demonstrations", "they are groups data/demo_0, ... or episode_0, ...")
    return names


def _demo(file: Any, name: str, where: str, repairs: Repairs) -> dict[str, Any]:
    """One agent: its states [T, 5] in the world's frame (float64), and what its attributes say."""
    group = file[name]
    _check_rate(file, name, where)
    origin = _numbers(group.attrs.get("origin", (0.0, 0.0)), where, "'origin'")
    first = _numbers(group.attrs.get("first_step", 0), where, "'first_step'")
    if origin.shape != (2,):
        raise SceneError(where, "'origin' is not two numbers x, y", "mend the file")
    if first.shape or not 0 <= first < MAX_STATES or first != int(first):
        raise SceneError(where, f"'first_step' is not a whole number from 0 to {MAX_STATES - 1}", "mend the file")
    state = _states(group, where, repairs)
    state[:, :2] += origin
    if "actions" in group:
        repairs["actions in the file are not taken over: the expert's are found anew"] += 1
    return {
        "state": state,
        "first": int(first),
        "id": _agent_id(group.attrs),
        "type": _agent_type(group.attrs, repairs),
        "size": _agent_size(group.attrs, where, repairs),
    }


def _states(group: Any, where: str, repairs: Repairs) -> NDArray[np.float64]:
    """[T, 5] x, y, heading, vx, vy as the file has them; with ``next_states``, the last of those is the last here."""
    place = next((key for key in STATES if isinstance(group.get(key), h5py.Dataset)), None)
    if place is None:
        what = "there is no dataset 'states' of absolute x, y, heading, vx, vy"
        raise SceneError(where, what, "add it, or leave it out")
    dataset = group[place]
    table = _table(dataset, where, f"'{place}'")
    following = group.get("next_states")
    if isinstance(following, h5py.Dataset) and following.shape == dataset.shape:
        table = np.concatenate([table, _table(following, where, "'next_states'")[-1:]])
    columns = _columns(dataset, table.shape[1], where, f"'{place}'")
    state = np.zeros((len(table), 5))
    for k, field in enumerate(_FIELDS):
        if field in columns:
            state[:, k] = table[:, columns[field]]
    if "vx" not in columns:
        state[:, 3:] = np.gradient(state[:, :2], DT, axis=0)
        repairs["velocities are absent and found by central differences"] += 1
    return state


def _table(dataset: Any, where: str, name: str) -> NDArray[np.float64]:
    """All rows of a dataset of numbers [T, F], called ``name`` in errors."""
    if dataset.ndim != 2 or dataset.dtype.kind not in "fiu" or not 3 <= dataset.shape[1] <= 1000:
        what = f"{name} is {dataset.dtype} of shape {dataset.shape}, not numbers [T, at least 3]"
        raise SceneError(where, what, "mend the file")
    if not 2 <= dataset.shape[0] <= MAX_STATES:
        what = f"{name} holds {dataset.shape[0]} state(s), not 2 to {MAX_STATES}"
        raise SceneError(where, what, "mend it or leave it out")
    table = np.asarray(dataset[()], np.float64)
    finite = np.isfinite(table).all(axis=1)
    if not finite.all():
        what = f"{name}: row {finite.argmin()} holds a number that is not finite"
        raise SceneError(where, what, "mend it or leave it out")
    return table


def _columns(dataset: Any, width: int, where: str, name: str) -> dict[str, int]:
    """Which column holds which field."""
    if "fields" in dataset.attrs:
        fields = _field_names(dataset.attrs["fields"])
    else:
        fields = list(_FIELDS[: 3 if width == 3 else 5])
    columns = {_ALIASES.get(field, field): k for k, field in reversed(list(enumerate(fields)))}
    missing = [field for field in _FIELDS[:3] if field not in columns]
    if missing or ("vx" in columns) != ("vy" in columns) or max(columns.values()) >= width:
        what = f"{name} has {width} columns with the fields {', '.join(fields)}"
        fix = "needed are x, y, heading, and vx with vy or neither; name the columns in its attribute 'fields'"
        raise SceneError(where, what, fix)
    return columns


def _field_names(value: Any) -> list[str]:
    """The names in a list, in JSON, or in a text with commas; units after a name ("x (m)") are left out."""
    if isinstance(value, (str, bytes)):
        text = _text(value)
        try:
            items = json.loads(text)
        except ValueError:
            items = text.split(",")
    else:
        items = np.asarray(value).reshape(-1).tolist()
    names = [_text(item) for item in items] if isinstance(items, list) else []
    return [name.split("(")[0].strip().lower() for name in names]


def _tracks(demos: list[dict[str, Any]], repairs: Repairs) -> Tracks:
    count, steps = len(demos), max(demo["first"] + len(demo["state"]) for demo in demos)
    state, valid = np.zeros((count, steps, 5)), np.zeros((count, steps), np.bool_)
    for k, demo in enumerate(demos):
        span = slice(demo["first"], demo["first"] + len(demo["state"]))
        state[k, span], valid[k, span] = demo["state"], True
    ids = [demo["id"] for demo in demos]
    if None in ids or len(set(ids)) < count:
        if any(number is not None for number in ids):
            repairs["'agent_id' is absent or occurs twice and places in the scene stand for it"] += 1
        ids = list(range(count))
    with np.errstate(over="ignore"):  # to infinity, which `repaired` takes as invalid
        heading, velocity = state[..., 2], state[..., 3:].astype(np.float32)
        if headings_in_degrees(heading, velocity, valid):
            heading = np.deg2rad(heading)
            repairs["headings are in degrees and were turned into radians"] += 1
        size = np.array([demo["size"] for demo in demos]).astype(np.float32)
        return Tracks(
            id=np.array(ids, np.int64),
            type=np.array([demo["type"] for demo in demos], np.int8),
            size=size,
            position=np.concatenate([state[..., :2], np.zeros((count, steps, 1))], axis=-1),
            heading=heading.astype(np.float32),
            velocity=velocity,
            valid=valid,
            mark_as_expert=np.zeros(count, np.bool_),
        )


# --- attributes ----------------------------------------------------------------------------------------------------


def _check_rate(file: Any, name: str, where: str) -> None:
    """Whether states are 0.1 s apart, as far as the file says."""
    for group in (file[name], file[name].parent):
        given = _numbers(group.attrs.get("dt_s", DT), where, "'dt_s'")
        if given.shape:
            raise SceneError(where, "'dt_s' is not one number", "mend the file")
        if abs(given - DT) > 1e-6:
            raise SceneError(where, f"states are {given:g} s apart by 'dt_s'", f"resample them to {DT} s")


def _agent_id(attributes: Any) -> int | None:
    value = attributes.get("agent_id")
    if isinstance(value, (int, np.integer)) and -(2**63) <= value < 2**63:
        return int(value)
    return None


def _agent_type(attributes: Any, repairs: Repairs) -> AgentType:
    value = attributes.get("agent_type")
    if value is None:
        repairs["'agent_type' is absent and taken as vehicle"] += 1
        return AgentType.VEHICLE
    text = _text(value).lower()
    kind = _TYPES.get(text) or next((kind for kind in AgentType if text == str(int(kind))), None)
    if kind is None:
        repairs[f"an agent is of the unknown type {text[:40]!r} and taken as other"] += 1
        return AgentType.OTHER
    return kind


def _agent_size(attributes: Any, where: str, repairs: Repairs) -> NDArray[np.float64]:
    if "agent_size" not in attributes:
        repairs["'agent_size' is absent and taken as {} x {} x {} m".format(*DEFAULT_SIZE)] += 1
        return np.array(DEFAULT_SIZE)
    size = _numbers(attributes["agent_size"], where, "'agent_size'")
    if size.shape not in ((2,), (3,)) or (size <= 0).any():
        raise SceneError(where, "'agent_size' is not length, width and height in m", "mend the file")
    return np.append(size, DEFAULT_SIZE[len(size) :])


def _numbers(value: Any, where: str, name: str) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(where, f"{name} does not hold plain numbers", "mend the file") from error
    if not np.isfinite(numbers).all():
        raise SceneError(where, f"{name} holds a number that is not finite", "mend the file")
    return numbers


def _text(value: Any) -> str:
    """Text of an attribute, on one line."""
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return " ".join(str(value).split())
