"""``extract-demos``: scenes in, a demo store out, as a Dask graph.

The graph has two layers: tasks that read a few scenes and find their expert actions, and one task a part that writes
what they return. One task writes a whole part and commits it, so no two writers ever share a chunk.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import dask
import numpy as np

from pipeline import store
from pipeline.expert import replay_experts
from pipeline.sources import SceneRef, list_scenes, read_scenes, resolve
from pipeline.store import Record
from sim.actions import ActionSpace
from sim.env import SimConfig
from sim.scenario import Scenario
from sim.scene import DEFAULT_STEPS, SIMPLIFY_AREA, scene_from_scenario
from sim.worlds import Selection

SCENES_PER_TASK = 8
SCENES_PER_WORKER = 16
"""A further worker process pays from about this many scenes on."""


class ExtractionError(ValueError):
    """An extraction that cannot start or has nothing to write, in one sentence."""


@dataclass(frozen=True)
class ExtractConfig:
    """What decides a store's content."""

    space: ActionSpace
    steps: int = DEFAULT_STEPS
    """States a scene: longer logs are cut, shorter ones end early."""
    simplify: float = SIMPLIFY_AREA
    """m^2, see :func:`sim.scene.scene_from_scenario`."""
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
            scenes.append((ref, scene_from_scenario(scenario, config.steps, config.simplify)))
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
    plan = make_plan(sources, config.scenes_per_part, limit)
    _prepare(path, plan, config, overwrite)
    committed = {entry["part"] for entry in store.manifest(path)}
    names = [f"{k:05d}" for k in range(len(plan.parts))]
    todo = [(name, refs) for name, refs in zip(names, plan.parts, strict=True) if name not in committed]
    resumed = plan.scenes - sum(len(refs) for _, refs in todo)
    done = resumed
    progress(done, plan.scenes)
    for part in _run(path, todo, config, workers or _default_workers(plan.scenes - resumed), scheduler):
        done += part
        progress(done, plan.scenes)
    report = _report(path, plan, config, done - resumed, time.perf_counter() - begun)
    if not report["scenes"]["written"]:
        shutil.rmtree(path)
        reasons = [item["reason"] for item in (*report["failed"], *report["dropped"])]
        raise ExtractionError(f"none of the {plan.scenes} scene(s) can be used: {reasons[0]}")
    store.finish_store(path, {"report": {k: report[k] for k in ("scenes", "demos", "transitions", "replay")}})
    report["bytes"] = store.store_bytes(path)
    report["bytes_per_scene"] = report["bytes"] / report["scenes"]["written"]
    return report


def _default_workers(scenes: int) -> int:
    return max(1, min(os.cpu_count() or 1, scenes // SCENES_PER_WORKER))


def _prepare(path: str, plan: Plan, config: ExtractConfig, overwrite: bool) -> None:
    """Make sure that a store of this very plan lies at ``path``, unfinished."""
    settings = {
        "steps": config.steps,
        "simplify_m2": config.simplify,
        "scenes_per_part": config.scenes_per_part,
        "selection": asdict(config.selection),
        "action_space": config.space.to_json(),
        "sources": [str(ref) for part in plan.parts for ref in part],
    }
    digest = store.json_digest(settings)
    root = Path(path)
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        attributes = store.read_root(root)  # refuses to touch what is no store
        if not overwrite and not attributes["complete"] and attributes["plan"] == digest:
            return
        if not overwrite and attributes["complete"]:
            raise ExtractionError(f"store {path}: it exists already; add --overwrite to replace it")
        if not overwrite:
            raise ExtractionError(
                f"store {path}: it was begun with other sources or settings; add --overwrite to begin anew"
            )
        shutil.rmtree(root)
    packages = ("gail-cli", "zarr", "numpy", "warp-lang", "waymo-open-dataset-tf-2-12-0")
    attributes = store.store_attributes(
        config.space,
        config.steps,
        plan=digest,
        settings={k: settings[k] for k in ("simplify_m2", "scenes_per_part", "selection")},
        software={name: version(name) for name in packages},
    )
    store.create_store(path, attributes)


def _run(
    path: str,
    todo: Sequence[tuple[str, Sequence[SceneRef]]],
    config: ExtractConfig,
    workers: int,
    scheduler: str | None,
) -> Iterator[int]:
    """Compute the parts; yields the number of scenes of each as it is committed."""
    build_task, write_task = dask.delayed(build, pure=False), dask.delayed(write, pure=False)

    def graph(name: str, refs: Sequence[SceneRef]) -> Any:
        tasks = [refs[i : i + SCENES_PER_TASK] for i in range(0, len(refs), SCENES_PER_TASK)]
        return write_task(path, name, config, [build_task(task, config) for task in tasks])

    if workers == 1 and scheduler is None:
        for name, refs in todo:
            graph(name, refs).compute(scheduler="synchronous")
            yield len(refs)
        return
    from distributed import as_completed

    with _client(workers, scheduler) as client:
        # A bounded number of parts in flight keeps memory and the graph small at any number of scenes.
        waiting = list(todo)
        width = 2 * max(workers, sum(client.nthreads().values()))

        def submit() -> Any:
            name, refs = waiting.pop(0)
            future = client.compute(graph(name, refs))
            sizes[future.key] = len(refs)
            return future

        sizes: dict[str, int] = {}
        futures = as_completed([submit() for _ in range(min(width, len(waiting)))])
        for future in futures:
            future.result()
            yield sizes.pop(future.key)
            if waiting:
                futures.add(submit())


@contextmanager
def _client(workers: int, scheduler: str | None) -> Iterator[Any]:
    """A client of the given scheduler, or of one with ``workers`` processes of one thread each."""
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout="10s")
        except (OSError, ValueError, TimeoutError) as error:
            raise ExtractionError(
                f"scheduler {scheduler}: cannot be reached ({error}); start it or check it"
            ) from error
        with client:
            yield client
        return
    with (
        dask.config.set({"distributed.worker.daemon": True, "logging.distributed": "error"}),
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def _report(path: str, plan: Plan, config: ExtractConfig, built: int, seconds: float) -> dict[str, Any]:
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
        "duplicate_ids": sorted({i for i in ids if ids.count(i) > 1}) if len(set(ids)) < len(ids) else [],
        **lists,
        "seconds": seconds,
        "scenes_per_s": built / seconds,
    }
