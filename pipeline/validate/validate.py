"""``validate``: is a demo store sound, and does it fit a training run?

One small function per check. Checks of the whole store come first, then those of each part; one part is in memory at a
time. A check is left out only where one that it builds on has found something.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gail_cli.pipeline.logs import groups, known_by
from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.index import divided
from gail_cli.pipeline.store.schema import FORMER, RAGGED, SCHEMA, VERSION, StoreError, encode_id
from gail_cli.pipeline.store.store import Agents, DemoStore, manifest
from gail_cli.pipeline.store.writer import files_digest
from gail_cli.pipeline.validate.part_checks import check_part
from gail_cli.pipeline.validate.part_view import Finding, Part
from gail_cli.sim.actions import GRIDS, Dynamics
from gail_cli.sim.env import WITHOUT_REVERSE
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import DT


class Problem(UserError):
    """One thing that is wrong with a store, found and listed rather than raised; equal if all fields are.

    ``vars(problem)`` are its fields, for JSON.
    """

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Problem) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


@dataclass(frozen=True)
class Expectation:
    """What a training run asks of a store; None asks nothing."""

    dynamics: str | None = None
    actions: str | None = None
    grid: str | None = None
    split: str = "all"
    """Scenes that there must be some of: train, validation, test or all."""
    agents: Agents = "vehicles"
    """The agents whose demos are wanted."""
    gpudrive: bool = False
    """Vehicles as GPUDrive's rules have them (``sim.compat``), without reverse."""
    learnable: bool = False
    """Actions that a policy can choose: relative ones, unlike the absolute states of the ``state`` model."""


def validate_store(
    path: str | Path,
    expectation: Expectation | None = None,
    *,
    sample: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """All problems of a store; none when it is sound.

    Args:
        path: the store's folder.
        expectation: what a training run asks of it.
        sample: number of scenes whose demos are replayed through the simulator.
        seed: chooses those scenes.
        progress: called with parts done and parts in all.
    """
    where = f"store {path}"
    try:
        store = DemoStore(path)
        entries = {entry["part"]: entry for entry in manifest(store.storage)}
    except StoreError as error:
        return [Problem(error.where, error.what, error.fix)]
    found = [finding for check in _STORE_CHECKS for finding in check(store, entries)]
    expectation = expectation or Expectation()
    problems = fit(DemoStore(path, expectation.agents), expectation)
    problems += [Problem(f"{where}, {f.array}" if f.array else where, f.what, f.fix) for f in found]
    sampled = _sample(store, entries, sample, seed)
    for done, name in enumerate(store.parts):
        progress(done, len(store.parts))
        if name in entries:
            part = Part(store, name, entries[name], sampled.get(name, []))
            place = f"{where}, part {name}"
            problems += [Problem(f"{place}, {f.array}" if f.array else place, f.what, f.fix) for f in check_part(part)]
    progress(len(store.parts), len(store.parts))
    return problems


def _sample(store: DemoStore, entries: dict[str, Any], sample: int, seed: int) -> dict[str, list[int]]:
    """Places of the scenes to replay, by part."""
    places = [(name, k) for name in store.parts if name in entries for k in range(len(entries[name]["scenes"]["id"]))]
    chosen = np.random.default_rng(seed).choice(len(places), min(sample, len(places)), replace=False)
    result: dict[str, list[int]] = {}
    for name, k in (places[i] for i in sorted(chosen)):
        result.setdefault(name, []).append(k)
    return result


# --- the store as a whole ------------------------------------------------------------------------------------------


def _groups(store: DemoStore, _: dict[str, Any]) -> Iterator[Finding]:
    """Other readers of Zarr need these groups, which this program does not read."""
    for name in ("zarr.json", "parts/zarr.json"):
        try:
            data = json.loads(store.storage.read([name])[0])
            whole = (data["zarr_format"], data["node_type"]) == (3, "group")
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            yield Finding(name, "does not say that a Zarr group is here")


def _attributes(store: DemoStore, _: dict[str, Any]) -> Iterator[Finding]:
    if store.attributes.get("dt_s") != DT:
        yield Finding("", f"its steps are {store.attributes.get('dt_s')} s apart, the simulator's {DT} s")
    read = {column.path for column in SCHEMA if store.has(column)}
    if {*store.attributes.get("arrays", ())} != read | FORMER.get(store.version, set()):
        yield Finding("", "the arrays described in its attributes are not those of the format")


def _parts(store: DemoStore, entries: dict[str, Any]) -> Iterator[Finding]:
    for name in sorted({*store.parts} ^ {*entries}):
        has, lacks = ("attributes", "manifest") if name in store.parts else ("manifest", "attributes")
        yield Finding(f"part {name}", f"is listed in the {has} but not in the {lacks}")
    folders = {name for name in store.storage.names("parts") if name != "zarr.json"}
    for name in sorted(folders - {*store.parts}):
        yield Finding(f"part {name}", "is not part of the store, but is in its folder", "remove the folder")


def _totals(store: DemoStore, entries: dict[str, Any]) -> Iterator[Finding]:
    counted = {"scenes": sum(len(e["scenes"]["id"]) for e in entries.values())}
    counted |= {f"{kind}s": sum(e[f"{kind}s"] for e in entries.values()) for kind in RAGGED}
    for name, n in counted.items():
        if store.totals.get(name) != n:
            yield Finding("", f"its attributes count {store.totals.get(name)} {name}, its parts {n}")


def _index(store: DemoStore, entries: dict[str, Any]) -> Iterator[Finding]:
    try:
        index = store.index
    except StoreError as error:
        yield Finding("index", error.what)
        return
    if files_digest(store.storage.tree("index")) != store.attributes["index"]:
        yield Finding("index", "its files are not those that were written (the digest differs)")
    parts = [(k, entries[name]["scenes"]) for k, name in enumerate(store.parts) if name in entries]
    expected = {
        "part": [k for k, scenes in parts for _ in scenes["id"]],
        "place": [place for _, scenes in parts for place in range(len(scenes["id"]))],
        **{name: [x for _, scenes in parts for x in scenes[name]] for name in ("demos", "transitions")},
    }
    if store.version == 2:  # later ones have splits in the index alone
        expected["split"] = [x for _, scenes in parts for x in scenes["split"]]
    for name, values in expected.items():
        if getattr(index, name).tolist() != values:
            yield Finding(f"index/{name}", "its values are not those of the scenes in the parts")
    if [row.tobytes() for row in index.id] != [encode_id(i).tobytes() for _, scenes in parts for i in scenes["id"]]:
        yield Finding("index/id", "its ids are not those of the scenes in the parts")


def _logs(store: DemoStore, _: dict[str, Any]) -> Iterator[Finding]:
    """Logs are those of the fingerprints, and none is on two sides; damage is told by the checks of parts."""
    try:
        index, fingerprints = store.index, store.fingerprints
    except StoreError:
        return
    logs = groups(known_by(store.scene_ids(), fingerprints))
    if store.version == VERSION[0] and not np.array_equal(index.group, logs):
        yield Finding("index/group", "its logs are not those of the fingerprints in the parts")
    if not np.isin(index.split, [*Split]).all():
        yield Finding("index/split", f"a code is not within {min(Split)} to {max(Split)}")
    if len(logs := divided(index)):
        first = store.scene_ids()[logs[0]]
        what = f"{len(logs)} log(s) have scenes in more than one split, first that of scene {first!r}"
        yield Finding("index/split", what, "assign them anew with `gail-cli split` or `merge`, and --fractions")


_STORE_CHECKS = (_groups, _attributes, _parts, _totals, _index, _logs)


def fit(store: DemoStore, wanted: Expectation) -> list[Problem]:
    """What keeps a training run from using the store."""
    return [Problem(f"store {store.path}", f.what, f.fix) for f in _misfits(store, wanted)]


def _misfits(store: DemoStore, wanted: Expectation) -> Iterator[Finding]:
    has = store.space.to_json()
    for name in ("dynamics", "actions"):
        value = getattr(wanted, name)
        if value is not None and value != has[name]:
            fix = f"set {has[name]} in the run's configuration, or extract with --{name} {value}"
            yield Finding("", f"{name} {has[name]}, but the run wants {value}", fix)
    if wanted.gpudrive and store.space.reverse:
        yield Finding("", "its vehicles know reverse, but GPUDrive's rules do not", WITHOUT_REVERSE)
    other = store.space.discrete and GRIDS.get((store.space.dynamics, wanted.grid or "")) != store.space.grid
    if wanted.grid is not None and other and wanted.actions != "continuous":
        name = f" ({store.space.grid_name})" if store.space.grid_name else ""
        fix = f"set the store's grid{name} in the run's configuration, or extract with --grid {wanted.grid}"
        yield Finding("", f"its action grid is not the grid {wanted.grid!r} that the run wants", fix)
    scenes = len(store) if wanted.split == "all" else len(store.scenes_of(wanted.split))
    which = "" if wanted.split == "all" else f" in the split {wanted.split}"
    if not scenes:
        yield Finding("", f"0 scene(s){which}, but the run wants some", "set data.split, or extract more scenes")
    if wanted.agents == "vru" and not store.totals["vrus"]:
        what = "no demos of pedestrians and cyclists, but the run wants to learn from them (data.agents)"
        yield Finding("", what, "extract with --agents all")
    if wanted.learnable and store.space.dynamics == Dynamics.STATE:
        what = "its actions are absolute states (dynamics state), which no policy can choose"
        yield Finding("", what, "extract with --dynamics classic, bicycle or delta_local")
