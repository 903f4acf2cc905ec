"""``merge`` and ``split``: stores out of stores, scene by scene, without reading the sources again."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.extract.extract import refuse_inside
from gail_cli.pipeline.extract.report import LISTS, kept, logs_of, make_report, replay_sums
from gail_cli.pipeline.logs import splits
from gail_cli.pipeline.records import Record, Split
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.files import aside, json_digest, sync
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.storage import LocalFolder, Storage, StorageError
from gail_cli.pipeline.store.store import DemoStore, manifest, open_storage, part_name
from gail_cli.pipeline.store.writer import Assign

ProgressCallback = Callable[[int, int], None]


def merge(
    stores: Sequence[str],
    path: str,
    fractions: tuple[float, float, float] | None = None,
    *,
    progress: ProgressCallback = lambda done, total: None,
) -> dict[str, Any]:
    """One store of the scenes of several, in their order; of one store, a copy.

    Args:
        stores: that agree in action space and steps.
        path: of the new store: a folder, a URL, or a ``.zip`` file for sharing.
        fractions: shares by which scenes are assigned to splits anew, those of one log together; None keeps the
            splits that they have, and the report tells of logs that are then in more than one.
        progress: called with scenes done and scenes in all.

    Returns:
        The report, ready for JSON.

    Raises:
        StoreError, ExtractionError: when a store cannot be read, or the new one cannot be made.
    """
    opened = [DemoStore(store) for store in stores]
    first = opened[0]
    for store in opened[1:]:
        for name, words in (("action_space", "action space"), ("steps", "number of steps")):
            if store.attributes[name] != first.attributes[name]:
                what = f"its {words} is not that of {first.path}"
                raise ExtractionError(f"store {store.path}", what, "extract both with the same options")
    chosen = [(store, range(len(store))) for store in opened]
    settings = _common([s.attributes["settings"] for s in opened])
    if fractions is None:
        return _copy(chosen, path, _as_it_was(chosen), settings, progress)
    return _copy(chosen, path, partial(splits, fractions=fractions), settings | {"split": fractions}, progress)


def split(
    path: str,
    folder: str,
    fractions: tuple[float, float, float] | None = None,
    *,
    progress: ProgressCallback = lambda done, total: None,
) -> dict[str, dict[str, Any]]:
    """A store of each split, ``train``, ``validation`` and ``test``, below a folder or URL.

    Args:
        path: the store.
        folder: where the new ones are put; a split without scenes gets none.
        fractions: shares by which scenes are assigned anew, those of one log together; None keeps the splits that the
            store has.
        progress: called with scenes done and scenes in all.

    Returns:
        The reports by the names of the splits.

    Raises:
        StoreError, ExtractionError: when a store cannot be read, or the new one cannot be made.
    """
    store = DemoStore(path)
    sides = store.index.split
    if fractions is not None:
        sides = splits(store.scene_ids(), store.index.group, fractions)
    chosen = {which: np.flatnonzero(sides == which).tolist() for which in Split}
    targets = {which: f"{folder.rstrip('/')}/{which.name.lower()}" for which in Split if chosen[which]}
    for target in targets.values():
        _check_free(open_storage(target))
    settings = store.attributes["settings"] | ({} if fractions is None else {"split": fractions})
    reports, done = {}, 0
    for which, target in targets.items():

        def report_progress(now: int, _: int, before: int = done) -> None:
            progress(before + now, len(store))

        def assigned(ids: Sequence[str], _: NDArray[np.int64], which: Split = which) -> NDArray[np.uint8]:
            return np.full(len(ids), which, np.uint8)

        reports[which.name.lower()] = _copy([(store, chosen[which])], target, assigned, settings, report_progress)
        done += len(chosen[which])
    return reports


def _as_it_was(chosen: Sequence[tuple[DemoStore, Sequence[int]]]) -> Assign:
    """Scenes keep their splits."""
    sides = np.concatenate([store.index.split[scenes] for store, scenes in chosen])
    return lambda ids, group: sides


def _copy(
    chosen: Sequence[tuple[DemoStore, Sequence[int]]],
    path: str,
    assign: Assign,
    settings: Mapping[str, Any],
    progress: ProgressCallback,
) -> dict[str, Any]:
    """A new store of some scenes."""
    target = open_storage(path)
    try:
        _check_free(target)
        if target.durable:
            with target.lock():
                return _write(chosen, target, assign, settings, progress)
    except StorageError as error:
        raise ExtractionError(f"store {path}", error.what, error.fix) from error
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise ExtractionError(f"store {path}", what, "make room there") from error
    if "://" in path:
        what = "zip files are written only to local folders"
        raise ExtractionError(f"store {path}", what, "copy it there afterwards")
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=Path(path).absolute().parent, prefix=".merge-") as folder:
        report = _write(chosen, LocalFolder(Path(folder, "store")), assign, settings, progress)
        _pack(Path(folder, "store"), Path(path))
    return report | {"store": path, "bytes": Path(path).stat().st_size}


def _check_free(target: Storage) -> None:
    if isinstance(target, LocalFolder):
        refuse_inside(target)
    free = not Path(target.url).exists() if not target.durable else not target.names("")
    if not free:
        raise ExtractionError(f"store {target.url}", "something is there already", "choose another place")


def _write(
    chosen: Sequence[tuple[DemoStore, Sequence[int]]],
    target: Storage,
    assign: Assign,
    settings: Mapping[str, Any],
    progress: ProgressCallback,
) -> dict[str, Any]:
    first, total = chosen[0][0], sum(len(scenes) for _, scenes in chosen)
    origin = [[store.attributes["plan"], len(scenes)] for store, scenes in chosen]
    software = _common([store.attributes["software"] for store, _ in chosen])
    attributes = writer.store_attributes(first.own_space, first.steps, settings=settings, software=software)
    attributes |= {"made_from": origin, "plan": json_digest([attributes, origin])}
    writer.create_store(target, attributes)
    lists = _kept_lists(chosen)
    scenes, done = _scenes(chosen), 0
    progress(0, total)
    for number in range(-(-total // settings["scenes_per_part"])):
        batch = list(islice(scenes, settings["scenes_per_part"]))
        records = [record for record, _ in batch]
        entry = writer.write_part(target, part_name(number), records, first.own_space, first.steps)
        entry["scenes"]["source"] = [source for _, source in batch]
        entry |= lists if number == 0 else {kind: [] for kind in LISTS}
        writer.commit_part(target, entry | {"replay": replay_sums(records)})
        done += len(batch)
        progress(done, total)
    report = make_report(target, total)
    writer.finish_store(target, kept(report), assign)
    return report | {"bytes": target.size(), "logs": logs_of(DemoStore(target.url))}


def _common(many: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Settings of several stores in one: those that differ become "mixed", the size of parts is that of the first."""
    first = many[0]
    common = {key: value if all(one.get(key) == value for one in many) else "mixed" for key, value in first.items()}
    return common | {key: first[key] for key in ("scenes_per_part",) if key in first}


def _kept_lists(chosen: Sequence[tuple[DemoStore, Sequence[int]]]) -> dict[str, list[Any]]:
    """What was left out and repaired in the sources of whole stores; where scenes are chosen, only in theirs."""
    lists: dict[str, list[Any]] = {kind: [] for kind in LISTS}
    for store, scenes in chosen:
        entries = _entries(store)
        sources = _sources(entries)
        wanted = {sources[scene] for scene in scenes}
        for kind in LISTS:
            items = [item for entry in entries for item in entry[kind]]
            whole = len(wanted) == len(sources)
            lists[kind] += [item for item in items if whole or item["source"] in wanted]
    return lists


def _scenes(chosen: Sequence[tuple[DemoStore, Sequence[int]]]) -> Iterator[tuple[Record, str]]:
    """Scenes, with the source of each."""
    for store, scenes in chosen:
        sources = _sources(_entries(store))
        for scene, record in zip(scenes, store.read(scenes), strict=True):
            yield record, sources[scene]


def _entries(store: DemoStore) -> list[dict[str, Any]]:
    """The manifest entries of a store's parts.

    Raises:
        StoreError: when there are not as many as parts.
    """
    entries = manifest(store.storage)
    if [entry["part"] for entry in entries] != list(store.parts):
        what = f"its manifest lists {len(entries)} part(s), its attributes {len(store.parts)}"
        raise StoreError(f"store {store.path}", what, "restore it from a copy, or extract it again with --overwrite")
    return entries


def _sources(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The source of each scene of a store."""
    return [source for entry in entries for source in entry["scenes"]["source"]]


def _pack(folder: Path, file: Path) -> None:
    """A folder as a zip file of uncompressed entries, whose chunks can so be read one by one."""
    temporary = aside(file)
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            name = path.relative_to(folder).as_posix()
            with archive.open(zipfile.ZipInfo(name), "w") as out, path.open("rb") as source:
                shutil.copyfileobj(source, out)
    sync(temporary)
    temporary.rename(file)
