"""The checks of one part of a demo store: one small function a check, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import zarr
from numpy.typing import NDArray

from pipeline.expert import ABSENT, BRIDGED, LOGGED
from pipeline.files import folder_digest
from pipeline.store import (
    PATHS,
    RAGGED,
    SCHEMA,
    DemoStore,
    Kind,
    encode_id,
    expected_dtype,
    expected_tail,
    read_array,
    record_at,
    starts_path,
)
from sim.env import Env
from sim.layout import ObservationConfig
from sim.scenario import AgentType, LightState, RoadType
from sim.scene import MAX_SIZE, MAX_SPEED, Role
from sim.worlds import SelectedAgents, make_worlds

TOLERANCE = 1e-3
"""Largest difference (m, rad, m/s) between stored and recomputed states; on the machine that made them it is 0."""
FARTHEST = 3000.0
"""Distance from the scene's middle beyond which a position is no place but a sentinel (GPUDrive: -10000, -11000), m."""
_SLACK = 1e-5
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

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.store.path / "parts" / self.name

    def rows(self, kind: Kind) -> int:
        """How many rows of a kind the manifest promises."""
        return len(self.entry["scenes"]) if kind == "scene" else int(self.entry[f"{kind}s"])

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
            group = zarr.open_group(self.path, mode="r", zarr_format=3)
        except Exception as error:  # zarr and its codecs raise many kinds
            return {"zarr.json": str(error)}
        return {path: _read_or_reason(group, path) for path in PATHS}

    def starts(self, kind: Kind) -> NDArray[np.int64]:
        """Offsets of a ragged kind."""
        return self.arrays[starts_path(kind)]

    def scene_of(self, kind: Kind) -> NDArray[np.int64]:
        """Place of the scene of each row."""
        if kind == "scene":
            return np.arange(self.rows(kind))
        return np.repeat(np.arange(self.rows("scene")), np.diff(self.starts(kind)))

    @cached_property
    def driven(self) -> NDArray[np.int64]:
        """Agent rows of the demos."""
        rows: NDArray[np.int64] = self.starts("agent")[self.scene_of("demo")] + self.arrays["demos/agent"]
        return rows

    @cached_property
    def has_action(self) -> NDArray[np.bool_]:
        """[D, T] steps from which a demo goes on to a next one."""
        present = self.arrays["demos/mark"] != ABSENT
        goes_on: NDArray[np.bool_] = present & np.pad(present[:, 1:], ((0, 0), (0, 1)))
        return goes_on


def _read_or_reason(group: zarr.Group, path: str) -> NDArray[Any] | str:
    """An array, or why it cannot be read."""
    try:
        return read_array(group, path)
    except Exception as error:  # zarr and its codecs raise many kinds
        return str(error) or type(error).__name__


def _in_rows(part: Part, path: str, bad: NDArray[np.bool_], what: str, fix: str = AGAIN) -> Iterator[Finding]:
    """A finding where any of ``bad`` [rows, ...] is true."""
    rows = np.flatnonzero(bad.any(axis=tuple(range(1, bad.ndim))))
    if len(rows):
        scene = part.entry["scenes"][part.scene_of(_COLUMNS[path].kind)[rows[0]]]
        yield Finding(path, f"{what} in {len(rows)} of {len(bad)} rows, first in row {rows[0]}, scene {scene!r}", fix)


def _folder(part: Part) -> Iterator[Finding]:
    if not (part.path / "zarr.json").is_file():
        yield Finding("", "its folder is missing or holds no Zarr group", CHANGED)


def _digest(part: Part) -> Iterator[Finding]:
    if folder_digest(part.path) != part.entry["digest"]:
        yield Finding("", "its files are not those that were written (the digest differs)", CHANGED)


def _arrays(part: Part) -> Iterator[Finding]:
    for path, reason in part.unreadable.items():
        yield Finding(path, f"cannot be read ({reason})", CHANGED)
    expected = {
        c.path: ((part.rows(c.kind), *expected_tail(c, part.store.space, part.store.steps)),
                 expected_dtype(c, part.store.space)) for c in SCHEMA
    }  # fmt: skip
    expected |= {starts_path(kind): ((part.rows("scene") + 1,), np.dtype(np.int64)) for kind in RAGGED}
    for path, array in part.arrays.items():
        shape, dtype = expected[path]
        if array.shape != shape:
            yield Finding(path, f"has shape {array.shape} instead of {shape}")
        if array.dtype != dtype:
            yield Finding(path, f"has data type {array.dtype} instead of {dtype}")


def _offsets(part: Part) -> Iterator[Finding]:
    for kind in RAGGED:
        starts = part.starts(kind)
        if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != part.rows(kind):
            yield Finding(starts_path(kind), f"does not rise from 0 to the number of rows, {part.rows(kind)}")


def _ids(part: Part) -> Iterator[Finding]:
    expected = [encode_id(text) for text in part.entry["scenes"]]
    bad = np.array([(a != b).any() for a, b in zip(part.arrays["scenes/id"], expected, strict=True)], np.bool_)
    yield from _in_rows(part, "scenes/id", bad, "the id is not the manifest's")


def _finite(part: Part) -> Iterator[Finding]:
    for path, array in part.arrays.items():
        if array.dtype.kind == "f":
            yield from _in_rows(part, path, ~np.isfinite(array), "a number is not finite")


_CODES: dict[str, tuple[int, int]] = {
    "agents/type": (min(AgentType), max(AgentType)),
    "agents/role": (0, sum(Role)),
    "roads/type": (RoadType.ROAD_EDGE, RoadType.STOP_SIGN),
    "lights/state": (min(LightState), max(LightState)),
    "demos/mark": (ABSENT, BRIDGED),
}


def _codes(part: Part) -> Iterator[Finding]:
    for path, (low, high) in _CODES.items():
        array = part.arrays[path]
        yield from _in_rows(part, path, (array < low) | (array > high), f"a code is not within {low} to {high}")


def _driven(part: Part) -> Iterator[Finding]:
    agent, scene = part.arrays["demos/agent"], part.scene_of("demo")
    outside = (agent < 0) | (agent >= np.diff(part.starts("agent"))[scene])
    yield from _in_rows(part, "demos/agent", outside, "the agent is none of its scene")
    order = np.zeros(len(agent), np.bool_)
    order[1:] = (np.diff(agent) <= 0) & (np.diff(scene) == 0)
    yield from _in_rows(part, "demos/agent", order, "the agent is one before, or out of order,")


def _sizes(part: Part) -> Iterator[Finding]:
    size = part.arrays["agents/size"]
    bad = (size[:, :2] <= 0).any(axis=1) | (size > MAX_SIZE).any(axis=1) | (size[:, 2] < 0)
    yield from _in_rows(part, "agents/size", bad, f"a length or width is not between 0 and {MAX_SIZE:g} m")


def _log(part: Part) -> Iterator[Finding]:
    log, valid = part.arrays["tracks/log"], part.arrays["tracks/valid"]
    yield from _in_rows(part, "tracks/log", (log != 0).any(axis=-1) & ~valid, "a state is not zero where not valid")
    yield from _places(part, "tracks/log", log)
    fast = np.hypot(log[..., 3], log[..., 4]) > MAX_SPEED
    yield from _in_rows(part, "tracks/log", fast, f"an agent is faster than {MAX_SPEED:g} m/s")


def _states(part: Part) -> Iterator[Finding]:
    state, absent = part.arrays["demos/state"], part.arrays["demos/mark"] == ABSENT
    yield from _in_rows(part, "demos/state", (state != 0).any(axis=-1) & absent, "a state is not zero where absent")
    yield from _places(part, "demos/state", state)


def _places(part: Part, path: str, states: NDArray[Any]) -> Iterator[Finding]:
    far = np.abs(states[..., :2]) > FARTHEST
    yield from _in_rows(part, path, far, f"a position is more than {FARTHEST:g} m from the scene's middle")
    yield from _in_rows(part, path, _turned(states[..., 2]), "a heading is not within +-pi")


def _turned(heading: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.abs(heading) > np.pi + _SLACK)


def _segments(part: Part) -> Iterator[Finding]:
    path = "roads/segment"
    segment = part.arrays[path]
    yield from _in_rows(part, path, segment[:, 2:4] < 0, "a half-length or half-width is negative")
    yield from _in_rows(part, path, _turned(segment[:, 4]), "a heading is not within +-pi")


def _marks(part: Part) -> Iterator[Finding]:
    mark, valid = part.arrays["demos/mark"], part.arrays["tracks/valid"][part.driven]
    present = mark != ABSENT
    last = present.shape[1] - 1 - present[:, ::-1].argmax(axis=1)
    ends = np.stack([mark[:, 0], mark[np.arange(len(mark)), last]])
    for bad, what in (
        ((mark == LOGGED) & ~valid, "a step is marked logged where the log is not valid"),
        ((mark == BRIDGED) & valid, "a step is marked bridged where the log is valid"),
        ((mark == ABSENT) & valid, "a step is marked absent where the log is valid"),
        (present[:, 1:] & ~present[:, :-1], "the demo is not one unbroken span from step 0"),
        ((ends != LOGGED).any(axis=0), "the demo does not begin and end at a logged step"),
    ):
        yield from _in_rows(part, "demos/mark", bad, what)


def _actions(part: Part) -> Iterator[Finding]:
    action, space = part.arrays["demos/action"], part.store.space
    if space.discrete:
        low, high = np.zeros(space.components), np.array(space.sizes) - 1
        what = f"an index is outside the action grid of {' x '.join(map(str, space.sizes))}"
    else:
        low, high = np.array(space.bounds).T
        low, high = low - _SLACK, high + _SLACK
        what = "an action is outside the bounds"
    yield from _in_rows(part, "demos/action", (action < low) | (action > high), what)
    idle = (action != 0).any(axis=-1) & ~part.has_action
    yield from _in_rows(part, "demos/action", idle, "an action is not zero where the demo does not go on")


def _errors(part: Part) -> Iterator[Finding]:
    """Compare the stored distances between replay and log with those of the stored states."""
    state = part.arrays["demos/state"].astype(np.float64)
    log = part.arrays["tracks/log"][part.driven]
    logged = part.arrays["demos/mark"] == LOGGED
    distance = np.hypot(*np.moveaxis(state[..., :2] - log[..., :2], -1, 0))
    turn = np.abs((state[..., 2] - log[..., 2] + np.pi) % (2 * np.pi) - np.pi)
    last = logged.shape[1] - 1 - logged[:, ::-1].argmax(axis=1)
    final = distance[np.arange(len(distance)), last]
    means = [np.where(logged, x, 0).sum(axis=1) / logged.sum(axis=1) for x in (distance, turn)]
    bad = np.abs(np.stack([means[0], final, means[1]], axis=1) - part.arrays["demos/error"]) > TOLERANCE
    yield from _in_rows(part, "demos/error", bad, "the replay error is not that of the stored states")


def _replay(part: Part) -> Iterator[Finding]:
    """Drive the sampled scenes' demos through the simulator."""
    if not part.sampled:
        return
    records = [record_at(part.arrays, k) for k in part.sampled]
    yes = [np.ones(r.demos.num_demos, np.bool_) for r in records]
    selected = [SelectedAgents(r.demos.agent, y, ~y) for r, y in zip(records, yes, strict=True)]
    worlds = make_worlds([r.scene for r in records], selected=selected)
    env = Env(worlds, part.store.space, observation=ObservationConfig(partners=1, road_segments=1, radius=1.0))
    mark, state, action = (np.concatenate([getattr(r.demos, n) for r in records]) for n in ("mark", "state", "action"))
    bad = np.zeros(len(mark), np.bool_)
    for step in range(mark.shape[1]):
        if step:
            env.step(torch.from_numpy(action[:, step - 1]))
        error = np.abs(env.states().numpy() - state[:, step])
        error[:, 2] = np.minimum(error[:, 2], np.abs(2 * np.pi - error[:, 2]))
        bad |= (error > TOLERANCE).any(axis=1) & (mark[:, step] != ABSENT)
    rows = np.zeros(part.rows("demo"), np.bool_)
    rows[np.flatnonzero(np.isin(part.scene_of("demo"), part.sampled))[bad]] = True
    yield from _in_rows(part, "demos/state", rows, "the stored actions do not lead to the stored states")


class _Check(NamedTuple):
    find: Callable[[Part], Iterator[Finding]]
    needs: tuple[Callable[[Part], Iterator[Finding]], ...] = ()
    """Checks that must have found nothing."""


_PART_CHECKS = (
    _Check(_folder),
    _Check(_digest, (_folder,)),
    _Check(_arrays, (_folder,)),
    _Check(_offsets, (_arrays,)),
    _Check(_ids, (_offsets,)),
    _Check(_finite, (_offsets,)),
    _Check(_codes, (_offsets,)),
    _Check(_segments, (_offsets,)),
    _Check(_log, (_offsets,)),
    _Check(_driven, (_offsets,)),
    _Check(_sizes, (_offsets,)),
    _Check(_marks, (_driven, _codes)),
    _Check(_states, (_marks,)),
    _Check(_actions, (_marks,)),
    _Check(_errors, (_marks, _finite)),
    _Check(_replay, (_marks, _finite, _actions, _sizes, _segments, _log)),
)


def check_part(part: Part) -> Iterator[Finding]:
    """Run the checks in order; one that was left out counts as failed for those that build on it."""
    failed: set[Any] = set()
    for check in _PART_CHECKS:
        findings = [] if failed & {*check.needs} else list(check.find(part))
        if findings or failed & {*check.needs}:
            failed.add(check.find)
        yield from findings
