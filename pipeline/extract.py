"""``extract-demos``: scenes in, a demo store out, as a Dask graph.

The graph has two layers: tasks that read a few scenes and find their expert actions, and one task a part that writes
what they return. One task writes a whole part and commits it, so no two writers ever share a chunk. With one worker
the same tasks run one after the other in this process.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import store
from pipeline.cluster import ExtractionError, dask_client
from pipeline.expert import replay_experts
from pipeline.files import folder_bytes, json_digest
from pipeline.sources import SceneRef, list_scenes, read_scenes, resolve
from pipeline.store import Record
from sim.actions import ActionSpace
from sim.env import SimConfig
from sim.scenario import Scenario
from sim.scene import DEFAULT_STEPS, SIMPLIFY_AREA, Compat, scene_from_scenario
from sim.worlds import Selection

_PACKAGES = ("gail-cli", "zarr", "numpy", "warp-lang", "waymo-open-dataset-tf-2-12-0")
"""Whose versions decide a store's bytes."""
SCENES_PER_TASK = 8
SCENES_PER_WORKER = 16
"""A further worker process pays from about this many scenes on."""


@dataclass(frozen=True)
class ExtractConfig:
    """What decides a store's content."""

    space: ActionSpace
    steps: int = DEFAULT_STEPS
    """States a scene: longer logs are cut, shorter ones end early."""
    simplify: float = SIMPLIFY_AREA
    """m^2, see :func:`sim.scene.scene_from_scenario`."""
    compat: Compat = None
    """``gpudrive`` places everything to the last bit where GPUDrive has it, likewise."""
    scenes_per_part: int = 64
    selection: Selection = field(default_factory=Selection)
    """Which agents become demos."""


@dataclass
class Outcome:
    """What became of some scenes."""

    records: list[Record] = field(default_factory=list)
    dropped: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "reason"}``: left out by rule, nothing wrong with the file."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "reason"}``: could not be read."""
    mended: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "mend"}``."""


def build(refs: Sequence[SceneRef], config: ExtractConfig) -> Outcome:
    """Read scenes and find their expert actions; what cannot be used is told, never raised."""
    outcome = Outcome()
    scenes = []
    for ref, scenario in read_scenes(refs):
        if isinstance(scenario, Exception):
            outcome.failed.append({"source": str(ref), "reason": str(scenario)})
            continue
        outcome.mended += [{"source": str(ref), "mend": mend} for mend in _mends(scenario, config)]
        try:
            scenes.append((ref, scene_from_scenario(scenario, config.steps, config.simplify, config.compat)))
        except ValueError as error:
            outcome.dropped.append({"source": str(ref), "reason": str(error)})
    demos = replay_experts([scene for _, scene in scenes], config.space, config.selection) if scenes else []
    for (ref, scene), found in zip(scenes, demos, strict=True):
        if found.num_demos:
            outcome.records.append(Record(scene, found))
        else:
            reason = "no agent is there for a policy to control (moving vehicle, valid at the first step)"
            outcome.dropped.append({"source": str(ref), "reason": reason})
    return outcome


def _mends(scenario: Scenario, config: ExtractConfig) -> Iterator[str]:
    yield from scenario.mends
    if scenario.num_steps > config.steps:
        yield f"{scenario.num_steps} steps cut to the first {config.steps}"
    if scenario.num_steps < config.steps:
        yield f"only {scenario.num_steps} of {config.steps} steps; the rest is marked invalid"


def write(path: str, name: str, config: ExtractConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Write and commit one part; its manifest entry."""
    records = [record for outcome in outcomes for record in outcome.records]
    entry = store.write_part(path, name, records, config.space, config.steps)
    for kind in ("dropped", "failed", "mended"):
        entry[kind] = [item for outcome in outcomes for item in getattr(outcome, kind)]
    entry["replay"] = _replay_sums(records)
    store.commit_part(path, entry)
    return entry


def _replay_sums(records: Sequence[Record]) -> dict[str, float]:
    """Sums over demos, whose quotients by the number of demos are the report's means."""
    sums = dict.fromkeys(("ade_m", "fde_m", "heading_error_rad", "goal_rate", "transitions"), 0.0)
    radius = SimConfig().goal_radius
    for scene, demos in ((r.scene, r.demos) for r in records):
        present = demos.mark != 0
        last = present.shape[1] - 1 - present[:, ::-1].argmax(axis=1)
        end = demos.state[np.arange(demos.num_demos), last, :2]
        sums["goal_rate"] += float((np.linalg.norm(end - scene.goal[demos.agent], axis=1) < radius).sum())
        sums["transitions"] += float(present.sum() - demos.num_demos)
        for name, total in zip(("ade_m", "fde_m", "heading_error_rad"), demos.error.sum(axis=0), strict=True):
            sums[name] += float(total)
    return sums


@dataclass(frozen=True)
class Plan:
    """All scenes of an extraction, in parts."""

    parts: tuple[tuple[SceneRef, ...], ...]
    failed: tuple[dict[str, str], ...]
    """Files, or rests of files, that cannot be read at all."""

    @property
    def scenes(self) -> int:
        """Number of scenes to read."""
        return sum(map(len, self.parts))


def make_plan(sources: Sequence[str], scenes_per_part: int, limit: int | None = None) -> Plan:
    """List the scenes of all sources, and cut them into parts.

    Raises:
        SourceError: when a source does not exist or holds no scene file.
        ExtractionError: when not one scene can be read.
    """
    refs: list[SceneRef] = []
    failed = []
    for path in resolve(sources):
        found, problems = list_scenes(path)
        refs += found
        failed += [{"source": path, "reason": str(problem)} for problem in problems]
        if limit is not None and len(refs) >= limit:
            break
    refs = refs[:limit]
    if not refs:
        raise ExtractionError("; ".join(item["reason"] for item in failed) or "the sources hold no scene")
    parts = tuple(tuple(refs[i : i + scenes_per_part]) for i in range(0, len(refs), scenes_per_part))
    return Plan(parts, tuple(failed))


def extract(
    sources: Sequence[str],
    path: str,
    config: ExtractConfig,
    *,
    workers: int | None = None,
    scheduler: str | None = None,
    overwrite: bool = False,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Make a demo store.

    An unfinished store of the same sources and settings is gone on with.

    Args:
        sources: files, folders, globs, URLs.
        path: the store's folder.
        config: what decides the content.
        workers: processes; None chooses by cores and scenes.
        scheduler: address of a running ``distributed`` scheduler, instead of workers of our own.
        overwrite: replace a store that is there already.
        limit: read no more scenes than this.
        progress: called with scenes done and scenes in all.

    Returns:
        The report, ready for JSON.

    Raises:
        SourceError, ExtractionError, StoreError: each one sentence.
    """
    begun = time.perf_counter()
    store.local(path)
    plan = make_plan(sources, config.scenes_per_part, limit)
    _prepare(path, plan, config, overwrite)
    try:
        done = _make_parts(path, plan, config, workers, scheduler, progress)
        report = _report(path, plan, done, time.perf_counter() - begun)
        if not report["scenes"]["written"]:
            store.clear_store(path)
            reasons = [item["reason"] for item in (*report["failed"], *report["dropped"])]
            raise ExtractionError(f"none of the {plan.scenes} scene(s) can be used: {reasons[0]}")
    except BaseException:
        _give_back(path)
        raise
    store.finish_store(path, {"report": {k: report[k] for k in ("scenes", "demos", "transitions", "replay")}})
    store.clear_store(_aside(path))
    report["bytes"] = folder_bytes(path)
    report["bytes_per_scene"] = report["bytes"] / report["scenes"]["written"]
    return report


def _make_parts(
    path: str,
    plan: Plan,
    config: ExtractConfig,
    workers: int | None,
    scheduler: str | None,
    progress: Callable[[int, int], None],
) -> int:
    """Make the parts that are not there yet; how many scenes that was."""
    committed = {entry["part"] for entry in store.manifest(path)}
    names = [f"{k:05d}" for k in range(len(plan.parts))]
    todo = [(name, refs) for name, refs in zip(names, plan.parts, strict=True) if name not in committed]
    scenes = sum(len(refs) for _, refs in todo)
    done = 0
    progress(plan.scenes - scenes, plan.scenes)
    with dask_client(workers or _default_workers(scenes), scheduler) as client:
        for count in _run_on(client, path, todo, config) if client else _run_here(path, todo, config):
            done += count
            progress(plan.scenes - scenes + done, plan.scenes)
    return done


def _default_workers(scenes: int) -> int:
    return max(1, min(os.cpu_count() or 1, scenes // SCENES_PER_WORKER))


def _prepare(path: str, plan: Plan, config: ExtractConfig, overwrite: bool) -> None:
    """Make sure that a store of this very plan lies at ``path``, unfinished."""
    settings = {
        "simplify_m2": config.simplify,
        "compat": config.compat,
        "scenes_per_part": config.scenes_per_part,
        "selection": asdict(config.selection),
    }
    software = {name: version(name) for name in _PACKAGES}
    attributes = store.store_attributes(config.space, config.steps, settings=settings, software=software)
    sources = [str(ref) for part in plan.parts for ref in part]
    attributes["plan"] = json_digest([attributes, sources])
    if _is_store(Path(path)):
        found = store.read_root(Path(path))
        if overwrite:
            if _aside(path).exists():  # an earlier replacement did not finish; what it was to replace is kept
                store.clear_store(path)
            else:
                Path(path).rename(_aside(path))
        elif found.get("complete") or found.get("plan") != attributes["plan"]:
            state = "exists already" if found.get("complete") else "was begun with other sources, settings or software"
            raise ExtractionError(f"store {path}: it {state}; add --overwrite to replace it")
    store.create_store(path, attributes)


def _aside(path: str) -> Path:
    """Where a store waits that is being replaced."""
    return Path(path).with_name(f".{Path(path).name}.replaced")


def _give_back(path: str) -> None:
    """Put a store back that was to be replaced, if not one scene of the new one is done."""
    if _aside(path).exists() and not any(entry["scenes"] for entry in store.manifest(path)):
        store.clear_store(path)
        _aside(path).rename(path)


def _is_store(root: Path) -> bool:
    """Whether there is a store, whole or not; False for a place where one can be made.

    Raises:
        ExtractionError: when something else is there, which is never touched.
    """
    if root.is_file():
        raise ExtractionError(f"store {root}: a file is there; choose another place")
    if not root.is_dir() or not any(root.iterdir()):
        return False
    if not (root / "zarr.json").exists():
        raise ExtractionError(f"store {root}: the folder holds other things than a demo store; choose another place")
    return True


_Todo = Sequence[tuple[str, Sequence[SceneRef]]]
"""Names and scenes of the parts to make."""


def _run_here(path: str, todo: _Todo, config: ExtractConfig) -> Iterator[int]:
    """Make the parts in this process; yields the number of scenes of each task as it is done."""
    for name, refs in todo:
        outcomes = []
        for task in _tasks(refs):
            outcomes.append(build(task, config))
            yield len(task)
        write(path, name, config, outcomes)


def _run_on(client: Any, path: str, todo: _Todo, config: ExtractConfig) -> Iterator[int]:
    """Make the parts on a Dask cluster; yields the number of scenes of each task as it is done."""
    from distributed import KilledWorker, as_completed

    sizes: dict[str, int] = {}

    def submit(name: str, refs: Sequence[SceneRef]) -> list[Any]:
        built = [client.submit(build, task, config, pure=False) for task in _tasks(refs)]
        sizes.update({future.key: len(task) for future, task in zip(built, _tasks(refs), strict=True)})
        return [*built, client.submit(write, path, name, config, built, pure=False)]

    # A bounded number of parts in flight keeps memory and the graph small at any number of scenes.
    waiting = iter(todo)
    futures = as_completed([])
    for part in islice(waiting, 2 * max(1, sum(client.nthreads().values()))):
        futures.update(submit(*part))
    for future in futures:
        try:
            future.result()
        except KilledWorker as error:
            raise ExtractionError("a worker died, perhaps for want of memory; run the command again with fewer "
                                  "--workers, and it goes on") from error  # fmt: skip
        if future.key in sizes:
            yield sizes.pop(future.key)
        else:
            for part in islice(waiting, 1):
                futures.update(submit(*part))


def _tasks(refs: Sequence[SceneRef]) -> list[Sequence[SceneRef]]:
    return [refs[i : i + SCENES_PER_TASK] for i in range(0, len(refs), SCENES_PER_TASK)]


def _report(path: str, plan: Plan, built: int, seconds: float) -> dict[str, Any]:
    entries = store.manifest(path)
    lists = {kind: [item for e in entries for item in e[kind]] for kind in ("dropped", "failed", "mended")}
    lists["failed"] = [*plan.failed, *lists["failed"]]
    ids = [scene for e in entries for scene in e["scenes"]]
    demos = sum(e["demos"] for e in entries)
    sums = {name: sum(e["replay"][name] for e in entries) for name in entries[0]["replay"]}
    transitions = sums.pop("transitions")
    return {
        "store": str(path),
        "scenes": {"read": plan.scenes, "written": len(ids), "dropped": len(lists["dropped"])},
        "demos": demos,
        "transitions": int(transitions),
        "replay": {name: total / max(demos, 1) for name, total in sums.items()},
        "duplicate_ids": sorted(scene for scene, n in Counter(ids).items() if n > 1),
        **lists,
        "seconds": seconds,
        "scenes_per_s": built / seconds,
    }


def summary(report: dict[str, Any]) -> str:
    """The report of :func:`extract` in a few lines."""
    scenes, replay = report["scenes"], report["replay"]
    lines = [
        f"{report['store']}: {scenes['written']} of {scenes['read']} scenes, {report['demos']} demos, "
        f"{report['transitions']:,} transitions, {report['bytes_per_scene'] / 1e3:.1f} kB a scene",
        f"expert replay: {replay['goal_rate']:.1%} reach their goal, {replay['ade_m']:.2f} m from the log on average, "
        f"{replay['fde_m']:.2f} m at the end",
        f"{report['seconds']:.1f} s, {report['scenes_per_s']:.1f} scenes/s",
    ]
    reasons = Counter(item["reason"] for item in report["dropped"])
    lines += [f"{n} scene(s) left out: {reason}" for reason, n in reasons.most_common()]
    if mended := len({item["source"] for item in report["mended"]}):
        lines.append(f"{mended} scene(s) mended; --report FILE tells what was done to each")
    if report["duplicate_ids"]:
        lines.append(
            f"{len(report['duplicate_ids'])} scenario id(s) occur more than once: {report['duplicate_ids'][0]}"
        )
    return "\n".join(lines)
