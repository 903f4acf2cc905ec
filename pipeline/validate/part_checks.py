"""The checks of one part of a demo store: one small function per check, and the order in which they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.schema import RAGGED, SCHEMA, STARTS, encode_id, spec_of, starts_path
from gail_cli.pipeline.store.writer import files_digest
from gail_cli.pipeline.validate import demo_checks
from gail_cli.pipeline.validate.part_view import CHANGED, DemoGroup, Finding, Part, check_places, in_rows, turned
from gail_cli.sim.scenario import AgentType, LightState, RoadType
from gail_cli.sim.scene import MAX_SIZE, MAX_SPEED, Role


def _folder(part: Part) -> Iterator[Finding]:
    if "zarr.json" not in part.files:
        yield Finding("", "its folder is missing or holds no Zarr group", CHANGED)


def _digest(part: Part) -> Iterator[Finding]:
    if files_digest(part.files) != part.entry["digest"]:
        yield Finding("", "its files are not those that were written (the digest differs)", CHANGED)


def _arrays(part: Part) -> Iterator[Finding]:
    for path, reason in part.unreadable.items():
        yield Finding(path, f"cannot be read ({reason})", CHANGED)
    forms = {c.path: (part.rows(c.kind), spec_of(c, part.store.own_space, part.store.steps)) for c in SCHEMA}
    forms |= {starts_path(kind): (part.rows("scene") + 1, STARTS) for kind in RAGGED}
    for path, array in part.arrays.items():
        rows, form = forms[path]
        if array.shape != (rows, *form.tail):
            yield Finding(path, f"has shape {array.shape} instead of {(rows, *form.tail)}")
        if array.dtype != form.dtype:
            yield Finding(path, f"has data type {array.dtype} instead of {form.dtype}")


def _offsets(part: Part) -> Iterator[Finding]:
    for kind in RAGGED:
        starts = part.starts(kind)
        if starts[0] != 0 or (np.diff(starts) < 0).any() or starts[-1] != part.rows(kind):
            yield Finding(starts_path(kind), f"does not rise from 0 to the number of rows, {part.rows(kind)}")


def _ids(part: Part) -> Iterator[Finding]:
    expected = [encode_id(text) for text in part.scene_ids]
    bad = np.array([(a != b).any() for a, b in zip(part.arrays["scenes/id"], expected, strict=True)], np.bool_)
    yield from in_rows(part, "scenes/id", bad, "the id is not the manifest's")


def _finite(part: Part) -> Iterator[Finding]:
    for path, array in part.arrays.items():
        if array.dtype.kind == "f" and path != "scenes/origin_z":  # NaN there: heights are not known
            yield from in_rows(part, path, ~np.isfinite(array), "a number is not finite")


_CODES: dict[str, tuple[int, int]] = {
    "agents/type": (min(AgentType), max(AgentType)),
    "agents/role": (0, sum(Role)),
    "roads/type": (RoadType.ROAD_EDGE, RoadType.STOP_SIGN),
    "lights/state": (min(LightState), max(LightState)),
    "scenes/split": (min(Split), max(Split)),
}


def _codes(part: Part) -> Iterator[Finding]:
    for path, (low, high) in _CODES.items():
        array = part.arrays[path]
        yield from in_rows(part, path, (array < low) | (array > high), f"a code is not within {low} to {high}")


def _sizes(part: Part) -> Iterator[Finding]:
    size = part.arrays["agents/size"]
    bad = (size[:, :2] <= 0).any(axis=1) | (size > MAX_SIZE).any(axis=1) | (size[:, 2] < 0)
    yield from in_rows(part, "agents/size", bad, f"a length or width is not between 0 and {MAX_SIZE:g} m")


def _log(part: Part) -> Iterator[Finding]:
    log, z, valid = part.arrays["tracks/log"], part.arrays["tracks/z"], part.arrays["tracks/valid"]
    yield from in_rows(part, "tracks/log", (log != 0).any(axis=-1) & ~valid, "a state is not zero where not valid")
    yield from in_rows(part, "tracks/z", (z != 0) & ~valid, "a height is not zero where not valid")
    yield from check_places(part, "tracks/log", log)
    fast = np.hypot(log[..., 3], log[..., 4]) > MAX_SPEED
    yield from in_rows(part, "tracks/log", fast, f"an agent is faster than {MAX_SPEED:g} m/s")


def _segments(part: Part) -> Iterator[Finding]:
    path = "roads/segment"
    segment = part.arrays[path]
    yield from in_rows(part, path, segment[:, 2:4] < 0, "a half-length or half-width is negative")
    yield from in_rows(part, path, turned(segment[:, 4]), "a heading is not within +-pi")


_Find = Callable[[Part], Iterator[Finding]]


def _of_demos(find: Callable[[Part, DemoGroup], Iterator[Finding]]) -> _Find:
    """A check of one group of demos as one of all groups."""

    def found(part: Part) -> Iterator[Finding]:
        for group in part.groups:
            yield from find(part, group)

    return found


_driven, _marks, _states = (_of_demos(f) for f in (demo_checks.driven, demo_checks.marks, demo_checks.states))
_actions, _qualities, _replay = (_of_demos(f) for f in (demo_checks.actions, demo_checks.qualities, demo_checks.replay))


class _Check(NamedTuple):
    find: _Find
    needs: tuple[_Find, ...] = ()
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
    _Check(_marks, (_driven,)),
    _Check(_states, (_marks,)),
    _Check(_actions, (_marks,)),
    _Check(_qualities, (_marks, _finite, _actions)),
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
