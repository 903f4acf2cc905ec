"""Demos for other tools: observations and actions, written in other programs' formats.

``docs/export.md`` describes the formats. Scenes are streamed, a few at a time in memory; what is written lies under a
name that begins with a dot until it is whole, so that an export is whole or absent.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gail_cli.pipeline.export.rows import SPLITS, SceneDemos, describe_export, scene_demos
from gail_cli.pipeline.export.writers import ExportError, GpudriveWriter, Hdf5Writer, MinariWriter, Writer, ZarrWriter
from gail_cli.pipeline.store.files import aside, sync, sync_tree
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import SceneError


@dataclass(frozen=True)
class Format:
    """One of the formats that can be exported to."""

    writer: type[Writer]
    folder: bool
    """Whether it is a folder, not a file."""


FORMATS: dict[str, Format] = {
    "hdf5": Format(Hdf5Writer, folder=False),
    "zarr-rows": Format(ZarrWriter, folder=True),
    "gpudrive-json": Format(GpudriveWriter, folder=True),
    "minari": Format(MinariWriter, folder=True),
}


def export(
    store: DemoStore,
    out: str | Path,
    format: str,
    observation: ObservationConfig | None = None,
    sim: SimConfig | None = None,
    split: str = "all",
    *,
    limit: int | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the demos of a store in another format.

    Args:
        store: where they come from.
        out: file or folder to make.
        format: one of :data:`FORMATS`.
        observation: layout of the observations.
        sim: rules, which say which agents are controlled, which are seen when, and where an episode ends.
        split: ``train``, ``validation``, ``test`` or ``all``.
        limit: write no more scenes than this.
        overwrite: replace an export of the same format that is there.
        progress: called with scenes done and scenes in all.

    Returns:
        What was written, and which scenes were left out and why, ready for JSON.

    Raises:
        ExportError, StoreError: when the store cannot be read, or the export not be made.
    """
    begun = time.perf_counter()
    observation, sim = observation or ObservationConfig(), sim or SimConfig()
    if format not in FORMATS:
        raise ExportError("", f"format {format!r} is unknown", f"use one of {', '.join(FORMATS)}")
    scenes = _scenes(store, split)[:limit]
    counts = {"scenes": 0, "demos": 0, "transitions": 0}
    left_out = []
    with _write_errors(out), _target(store, out, FORMATS[format], overwrite) as temporary:
        writer = FORMATS[format].writer(
            temporary, Path(out).name, store.space, describe_export(store, observation, sim)
        )
        try:
            records = zip(scenes, store.read(scenes), strict=True)
            for done, demos in enumerate(scene_demos(records, store.space, observation, sim), start=1):
                if reason := _added(writer, demos):
                    left_out.append({"scene": demos.scene.id, "reason": reason})
                else:
                    counts["scenes"] += 1
                    counts["demos"] += len(demos.episodes)
                    counts["transitions"] += sum(episode.num_actions for episode in demos.episodes)
                progress(done, len(scenes))
            if not counts["scenes"]:
                reason = left_out[0]["reason"] if left_out else f"the split {split} has no scene"
                raise ExportError(f"store {store.path}", f"nothing to export: {reason}")
        finally:
            writer.close()
    seconds = time.perf_counter() - begun
    return {
        "out": str(out),
        "format": format,
        "split": split,
        **counts,
        "left_out": left_out,
        "bytes": _size(Path(out)),
        "seconds": seconds,
        "rows_per_s": counts["transitions"] / seconds,
    }


@contextmanager
def _write_errors(out: str | Path) -> Iterator[None]:
    """Turn what keeps a file from being written into an :class:`ExportError`."""
    try:
        yield
    except OSError as error:  # also h5py's own, of many lines
        what = f"cannot be written ({error.strerror or ' '.join(str(error).split())})"
        raise ExportError(f"export {out}", what, "make room, or choose another place") from error


def export_summary(report: dict[str, Any]) -> str:
    """The report of :func:`export` in one line, and one line for each reason to leave scenes out."""
    rows, size = report["transitions"], report["bytes"]
    lines = [
        f"{report['out']}: {report['scenes']} scene(s), {report['demos']} demo(s), {rows:,} rows, "
        f"{size / 1e6:.1f} MB, {report['seconds']:.1f} s"
    ]
    reasons = [item["reason"] for item in report["left_out"]]
    lines += [f"{reasons.count(reason)} scene(s) left out: {reason}" for reason in dict.fromkeys(reasons)]
    return "\n".join(lines)


def _added(writer: Writer, demos: SceneDemos) -> str:
    """Write one scene; returns why not, where that cannot be done, else an empty text."""
    if not demos.episodes:
        return "no agent has a demo and may be controlled"
    try:
        writer.add(demos)
    except SceneError as error:
        return str(error)
    return ""


def _scenes(store: DemoStore, split: str) -> Sequence[int]:
    """Indices of the scenes of a split."""
    if split not in ("all", *SPLITS):
        raise ExportError("", f"split {split!r} is unknown", f"use one of all, {', '.join(SPLITS)}")
    scenes: list[int] = store.scenes_of(split).tolist()
    return scenes


@contextmanager
def _target(store: DemoStore, out: str | Path, format: Format, overwrite: bool) -> Iterator[Path]:
    """A place beside ``out`` that takes its name once the body has ended well, and is removed where it has not.

    Raises:
        ExportError: when ``out`` cannot be made, or holds anything that must not be replaced.
    """
    if "://" in str(out):
        raise ExportError(f"export {out}", "only local paths can be written", "export to a folder and copy it")
    path = Path(out).absolute()
    _refuse(path, store, format, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(path)
    try:
        yield temporary
        if format.folder:
            sync_tree(temporary)
        else:
            sync(temporary)
        _replace(temporary, path)
    finally:
        _remove(temporary)


def _refuse(path: Path, store: DemoStore, format: Format, overwrite: bool) -> None:
    if isinstance(store.path, Path) and path.resolve().is_relative_to(store.path.resolve()):
        raise ExportError(f"export {path}", "this place belongs to the store itself", "choose another one")
    if not path.exists() or (format.folder and path.is_dir() and not any(path.iterdir())):
        return
    if path.is_dir() != format.folder or not format.writer.made(path):
        kind = "folder" if path.is_dir() else "file"
        raise ExportError(f"export {path}", f"a {kind} that is not such an export is there", "choose another place")
    if not overwrite:
        raise ExportError(f"export {path}", "it exists already", "add --overwrite to replace it")


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


def _replace(temporary: Path, path: Path) -> None:
    old = aside(path)
    if path.is_dir():
        path.rename(old)
    temporary.rename(path)
    sync(path.parent)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
