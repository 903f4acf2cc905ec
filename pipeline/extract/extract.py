"""``extract-demos``: scenes in, a demo store out, as a Dask graph.

The graph has two layers: tasks that read a few scenes and find their expert actions, and one task per part that writes
what they return. One task writes a whole part and commits it, so no two writers ever share a chunk. With one worker
the same tasks run one after the other in this process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from itertools import islice
from typing import Any

from gail_cli.pipeline.extract.build import ExtractConfig, Outcome, build
from gail_cli.pipeline.extract.cluster import ExtractionError, dask_client
from gail_cli.pipeline.extract.report import LISTS, kept, logs_of, make_report, replay_sums, worst_demos
from gail_cli.pipeline.logs import splits
from gail_cli.pipeline.readers.sources import SceneRef, list_scenes, resolve
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.files import json_digest
from gail_cli.pipeline.store.storage import LocalFolder, Storage, StorageError
from gail_cli.pipeline.store.store import DemoStore, check_ours, manifest, open_storage, part_name, read_root

_PACKAGES = ("gail-cli", "zarr", "numcodecs", "numpy", "warp-lang", "waymo-open-dataset-tf-2-12-0")
"""Packages whose versions determine a store's bytes."""
PLANNERS = 32
"""Files that are listed at once."""
SCENES_PER_TASK = 8
SCENES_PER_WORKER = 16
"""A further worker process pays from about this many scenes on."""


def write(path: str, name: str, config: ExtractConfig, outcomes: Sequence[Outcome]) -> int:
    """Write and commit one part; returns its number of scenes."""
    storage = open_storage(path)
    records = [record for outcome in outcomes for record in outcome.records]
    entry = writer.write_part(storage, name, records, config.space, config.steps)
    entry["scenes"]["source"] = [source for outcome in outcomes for source in outcome.sources]
    for kind in LISTS:
        entry[kind] = [item for outcome in outcomes for item in getattr(outcome, kind)]
    entry["replay"] = replay_sums(records)
    entry["worst_demos"] = worst_demos(demo for outcome in outcomes for demo in outcome.worst_demos)
    writer.commit_part(storage, entry)
    return len(records)


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


def make_plan(
    sources: Sequence[str],
    scenes_per_part: int,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Plan:
    """List the scenes of all sources, and cut them into parts.

    Args:
        sources: files, folders, globs, URLs.
        scenes_per_part: at most.
        limit: list no more scenes than this.
        progress: called with files done and files in all, if they are many.

    Raises:
        SourceError: when a source does not exist or holds no scene file.
        ExtractionError: when not one scene can be read.
    """
    refs: list[SceneRef] = []
    failed = []
    paths = resolve(sources)
    with ThreadPoolExecutor(PLANNERS) as threads:  # over a network, most of the time is spent waiting
        for first in range(0, len(paths), PLANNERS):
            batch = paths[first : first + PLANNERS]
            for path, (found, problems) in zip(batch, threads.map(list_scenes, batch), strict=True):
                if limit is None or len(refs) < limit:
                    refs += found
                    failed += [{"source": path, "reason": str(problem)} for problem in problems]
            if len(paths) > PLANNERS:
                progress(first + len(batch), len(paths))
            if limit is not None and len(refs) >= limit:
                break
    refs = refs[:limit]
    if not refs:
        raise ExtractionError("", "; ".join(item["reason"] for item in failed) or "the sources hold no scene")
    parts = tuple(tuple(refs[i : i + scenes_per_part]) for i in range(0, len(refs), scenes_per_part))
    return Plan(parts, tuple(failed))


@dataclass(frozen=True)
class ExtractOptions:
    """Settings of how an extraction runs; nothing here changes what is written."""

    workers: int | None = None
    """Processes; None chooses by cores and scenes."""
    scheduler: str | None = None
    """Address of a running ``distributed`` scheduler, instead of workers of our own."""
    overwrite: bool = False
    """Replace a store that is there already."""
    resume: bool | None = None
    """None goes on with an unfinished store of the same plan and refuses any other; True takes a finished one of the
    same plan as done; False refuses whatever is there."""
    fail_fast: bool = False
    """Stop at the first scene that cannot be read."""


def extract(
    sources: Sequence[str],
    path: str,
    config: ExtractConfig,
    options: ExtractOptions | None = None,
    *,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    planning: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Make a demo store.

    Args:
        sources: files, folders, globs, URLs.
        path: the store's folder or URL.
        config: the settings that determine the content.
        options: settings that do not change the content.
        limit: read no more scenes than this.
        progress: called with scenes done and scenes in all.
        planning: called before with files listed and files in all.

    Returns:
        The report, ready for JSON.

    Raises:
        SourceError, ExtractionError, StoreError: when the store cannot be made.
    """
    options = options or ExtractOptions()
    storage = open_storage(path)
    try:
        with storage.lock():
            begun = time.perf_counter()
            plan = make_plan(sources, config.scenes_per_part, limit, planning)
            return _extract(plan, storage, config, options, progress, begun)
    except StorageError as error:
        raise ExtractionError(f"store {path}", error.what, error.fix) from error
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise ExtractionError(f"store {path}", what, "mend that, and the same command goes on") from error


def _extract(
    plan: Plan,
    storage: Storage,
    config: ExtractConfig,
    options: ExtractOptions,
    progress: Callable[[int, int], None],
    begun: float,
) -> dict[str, Any]:
    if options.fail_fast and plan.failed:
        raise ExtractionError("", f"stopped at the first failure (--fail-fast): {plan.failed[0]['reason']}")
    if _prepare(storage, plan, config, options):
        report = make_report(storage, plan.scenes, plan.failed, 0, time.perf_counter() - begun)
        return report | {"logs": logs_of(DemoStore(storage.url))}
    try:
        done = _make_parts(storage, plan, config, options, progress)
        if len(manifest(storage)) < len(plan.parts):
            hint = "name a folder that all of them see under this path, or a bucket"
            raise ExtractionError(f"store {storage.url}", "what the workers wrote is not there", hint)
        report = make_report(storage, plan.scenes, plan.failed, done, time.perf_counter() - begun)
        if not report["scenes"]["written"]:
            writer.clear_store(storage)
            reasons = [item["reason"] for item in (*report["failed"], *report["dropped"])]
            raise ExtractionError("", f"none of the {plan.scenes} scene(s) can be used: {reasons[0]}")
    except BaseException:
        _give_back(storage)
        raise
    writer.finish_store(storage, kept(report), partial(splits, fractions=config.split))
    writer.clear_store(storage.aside())
    report["logs"] = logs_of(DemoStore(storage.url))
    report["bytes"] = storage.size()
    report["bytes_per_scene"] = report["bytes"] / report["scenes"]["written"]
    return report


def _make_parts(
    storage: Storage,
    plan: Plan,
    config: ExtractConfig,
    options: ExtractOptions,
    progress: Callable[[int, int], None],
) -> int:
    """Make the parts that are not there yet; returns the number of their scenes."""
    committed = {entry["part"] for entry in manifest(storage)}
    named = [(part_name(k), refs) for k, refs in enumerate(plan.parts)]
    todo = [(name, refs) for name, refs in named if name not in committed]
    scenes = sum(len(refs) for _, refs in todo)
    done = 0
    progress(plan.scenes - scenes, plan.scenes)
    if not todo:
        return 0
    with dask_client(options.workers or _default_workers(scenes), options.scheduler) as client:
        job = _Job(storage.location, todo, config, options.fail_fast)
        for count in _run_on(client, job) if client else _run_here(job):
            done += count
            progress(plan.scenes - scenes + done, plan.scenes)
    return done


def _default_workers(scenes: int) -> int:
    return max(1, min(os.cpu_count() or 1, scenes // SCENES_PER_WORKER))


# --- what is there already -----------------------------------------------------------------------------------------


def _prepare(storage: Storage, plan: Plan, config: ExtractConfig, options: ExtractOptions) -> bool:
    """Make sure that an unfinished store of this plan is there; True when a finished one is there and accepted."""
    settings = {key: value for key, value in asdict(config).items() if key not in ("space", "steps")}
    software = {name: version(name) for name in _PACKAGES}
    attributes = writer.store_attributes(config.space, config.steps, settings=settings, software=software)
    attributes["plan"] = json_digest([attributes, [str(ref) for part in plan.parts for ref in part]])
    if _is_store(storage):
        if options.overwrite:
            _put_aside(storage)
        else:
            found = read_root(storage)
            same = found.get("plan") == attributes["plan"]
            if found.get("complete") and same and options.resume:
                return True
            if found.get("complete") or not same or options.resume is False:
                state = "exists already" if found.get("complete") or same else "was begun"
                state += "" if same else " with other sources, settings or software"
                raise ExtractionError(f"store {storage.url}", f"it {state}", "add --overwrite to replace it")
    writer.create_store(storage, attributes)
    return False


def _is_store(storage: Storage) -> bool:
    """Whether there is a store, whole or not; False for a place where one can be made.

    Raises:
        ExtractionError: when something else is there, which is never touched.
    """
    where = f"store {storage.url}"
    if isinstance(storage, LocalFolder):
        if storage.root.is_file():
            raise ExtractionError(where, "a file is there", "choose another place")
        refuse_inside(storage)
    names = storage.names("")
    if names and "zarr.json" not in names:
        raise ExtractionError(where, "the folder holds other things than a demo store", "choose another place")
    return bool(names)


def refuse_inside(storage: LocalFolder) -> None:
    """Refuse a place within another store.

    Raises:
        ExtractionError: naming it.
    """
    for parent in storage.root.parents:
        if (parent / "zarr.json").is_file():
            raise ExtractionError(f"store {storage.url}", f"it would lie inside {parent}", "choose another place")


def _put_aside(storage: Storage) -> None:
    """Make place for another store; the finished one is kept until that is done.

    Raises:
        StoreError: when what is there is no store of ours.
    """
    check_ours(storage)
    aside = storage.aside()
    if "zarr.json" in aside.names(""):  # an earlier replacement did not finish; what it was to replace is kept
        writer.clear_store(storage)
    else:
        storage.move(aside)


def _give_back(storage: Storage) -> None:
    """Leave nothing if not one scene is done, and put a store back that was to be replaced."""
    if any(entry["scenes"]["id"] for entry in manifest(storage)):
        return
    writer.clear_store(storage)
    aside = storage.aside()
    if "zarr.json" in aside.names(""):
        aside.move(storage)


# --- running -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """The parts to make."""

    path: str
    parts: Sequence[tuple[str, Sequence[SceneRef]]]
    """Names and scenes."""
    config: ExtractConfig
    fail_fast: bool


def _run_here(job: _Job) -> Iterator[int]:
    """Make the parts in this process; yields the number of scenes of each task as it is done."""
    for name, refs in job.parts:
        outcomes = []
        for task in _tasks(refs):
            outcomes.append(build(task, job.config, job.fail_fast))
            yield len(task)
        write(job.path, name, job.config, outcomes)


def _run_on(client: Any, job: _Job) -> Iterator[int]:
    """Make the parts on a Dask cluster; yields the number of scenes of each task as it is done."""
    from distributed import KilledWorker, as_completed

    sizes: dict[str, int] = {}

    def submit(name: str, refs: Sequence[SceneRef]) -> list[Any]:
        tasks = _tasks(refs)
        built = [client.submit(build, task, job.config, job.fail_fast, pure=False) for task in tasks]
        sizes.update({future.key: len(task) for future, task in zip(built, tasks, strict=True)})
        return [*built, client.submit(write, job.path, name, job.config, built, pure=False)]

    # A bounded number of parts in flight keeps memory and the graph small at any number of scenes.
    waiting = iter(job.parts)
    futures = as_completed([])
    for part in islice(waiting, 1 + sum(client.nthreads().values())):
        futures.update(submit(*part))
    for future in futures:
        if future.status != "finished":
            try:
                future.result()
            except KilledWorker as error:
                what = "a worker died again and again, perhaps for want of memory"
                fix = "run the command again with fewer --workers, and it goes on"
                raise ExtractionError("", what, fix) from error
        if future.key in sizes:  # what it built stays on the cluster
            yield sizes.pop(future.key)
        else:
            for part in islice(waiting, 1):
                futures.update(submit(*part))


def _tasks(refs: Sequence[SceneRef]) -> list[Sequence[SceneRef]]:
    return [refs[i : i + SCENES_PER_TASK] for i in range(0, len(refs), SCENES_PER_TASK)]
