"""From what a user names (files, folders, globs, URLs) to scenes, one at a time, whatever each file's format."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import fsspec
from fsspec.implementations.local import LocalFileSystem

from gail_cli.pipeline.readers import gpudrive_json, womd
from gail_cli.pipeline.readers import hdf5 as demos_hdf5
from gail_cli.pipeline.readers.tfrecord import (
    GZIP_ERRORS,
    index_records,
    open_binary,
    read_records_at,
)
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import Scenario, SceneError

KNOWN_ENDINGS = ".tfrecord, .tfrecord-00000-of-01000, .json, each also with .gz, or .hdf5, .h5"
"""What a file in a folder or glob must end in to be taken."""

_TFRECORD = re.compile(r"(^|[./\\])tfrecords?(-\d+-of-\d+)?(\.gz)?$")
_JSON = re.compile(r"\.json(\.gz)?$")
_HDF5 = re.compile(r"\.(hdf5|h5)$")
_JSON_START = re.compile(rb'(\xef\xbb\xbf)?\s*\{\s*["}]')


class SourceError(UserError):
    """What the user named does not exist, cannot be reached or holds no scenes."""


@dataclass(frozen=True, order=True)
class SceneRef:
    """Where one scene lies; small and picklable, so that a plan of a whole data set can be sent to workers."""

    path: str
    record: int | None = None
    """Number of the record in a TFRecord file; None in other formats."""
    offset: int = 0
    """Byte at which the record starts."""
    groups: tuple[str, ...] = ()
    """Groups of an HDF5 file that hold the scene's agents; none in other formats."""

    def __str__(self) -> str:
        if self.groups:
            more = f" and {len(self.groups) - 1} more" if len(self.groups) > 1 else ""
            return f"{self.path}, {self.groups[0]}{more}"
        return self.path if self.record is None else f"{self.path}, record {self.record}"


def resolve(sources: Sequence[str]) -> list[str]:
    """The scene files behind files, folders (not their sub-folders), globs (``**`` goes deeper) and fsspec URLs.

    Sorted and without duplicates; local paths become absolute. From folders and globs only files with
    :data:`KNOWN_ENDINGS` are taken; a file that is named itself is taken whatever its ending.

    Raises:
        SourceError: when a source does not exist, cannot be reached or holds no scene file.
    """
    return sorted({path for source in sources for path in _files(source)})


def _files(source: str) -> list[str]:
    try:
        fs, path = fsspec.url_to_fs(source)
        names = [path] if fs.isfile(path) else _listed(fs, path)
    except Exception as error:  # file systems have errors of their own beside OSError
        what, fix = f"{source} cannot be reached ({error})", "check its name and your access to it"
        raise SourceError("", what, fix) from error
    if names is None:
        raise SourceError("", f"{source} does not exist", "name a file, a folder, a glob or an fsspec URL")
    if not names:
        raise SourceError("", f"{source} holds no scene file", f"scene files end in {KNOWN_ENDINGS}")
    return names if isinstance(fs, LocalFileSystem) else [str(fs.unstrip_protocol(name)) for name in names]


def _listed(fs: Any, path: str) -> list[str] | None:
    """Files with known endings in a folder or behind a glob; None where the path is neither."""
    if fs.isdir(path):
        entries = fs.ls(path, detail=True)
    elif any(sign in path for sign in "*?["):
        entries = fs.glob(path, detail=True).values()
    else:
        return None
    known = [item for item in entries if any(ending.search(item["name"]) for ending in (_TFRECORD, _JSON, _HDF5))]
    return [item["name"] for item in known if item["type"] == "file" or fs.isfile(item["name"])]


def list_scenes(path: str) -> tuple[list[SceneRef], list[SceneError]]:
    """Plan one file: its scenes, and one error if the file, or its rest from some point on, cannot be read.

    Reads the framing of a TFRecord file, attributes of the groups of an HDF5 file, and nothing of a JSON file with a
    known ending.
    """
    try:
        kind = _kind(path)
        if kind == "json":
            return [SceneRef(path)], []
        if kind == "hdf5":
            return [SceneRef(path, groups=groups) for groups in demos_hdf5.list_demos(path)], []
        offsets, damage = index_records(path)
    except (OSError, *GZIP_ERRORS) as error:
        return [], [SceneError("", f"{path} cannot be read ({error})", "check the file and your access to it")]
    except SceneError as error:
        return [], [error]
    refs = [SceneRef(path, record, offset) for record, offset in enumerate(offsets)]
    if damage is None:
        return refs, []
    rest = f" (the {len(refs)} record(s) before it can be read)" if refs else ""
    return refs, [SceneError(damage.where, damage.what, damage.fix + rest)]


def read_scenes(refs: Sequence[SceneRef]) -> Iterator[tuple[SceneRef, Scenario | SceneError]]:
    """Read the scenes one after the other; consecutive ones of a file in one pass.

    A scene that cannot be read is yielded as a :class:`~sim.scenario.SceneError` that tells why, and the others
    go on.
    """
    for path, group in groupby(refs, key=lambda ref: ref.path):
        batch = list(group)
        if batch[0].groups:
            yield from ((ref, _attempt(ref, lambda ref: demos_hdf5.read(ref.path, ref.groups), ref)) for ref in batch)
        elif batch[0].record is None:
            yield from ((ref, _attempt(ref, gpudrive_json.read, path)) for ref in batch)
        else:
            records = _records(path, [ref.offset for ref in batch])
            yield from ((ref, _attempt(ref, _parse, data)) for ref, data in zip(batch, records, strict=True))


def _records(path: str, offsets: list[int]) -> Iterator[bytes | Exception]:
    """As many items as offsets, even where the file cannot be opened."""
    done = 0
    try:
        for data in read_records_at(path, offsets):
            yield data
            done += 1
    except Exception as error:  # file systems have errors of their own beside OSError
        yield from (error for _ in offsets[done:])


def _parse(data: bytes | Exception) -> Scenario:
    if isinstance(data, Exception):
        raise data
    return womd.parse(data)


def _attempt(ref: SceneRef, make: Callable[[Any], Scenario], argument: Any) -> Scenario | SceneError:
    try:
        return make(argument)
    except UserError as error:
        parts = (error.where,) if ref.path in str(error) else (str(ref), error.where)
        return SceneError(": ".join(filter(None, parts)), error.what, error.fix)
    except Exception as error:  # an error of any kind costs one scene, not the run
        return SceneError(str(ref), f"cannot be read ({type(error).__name__}: {error})")


def _kind(path: str) -> Literal["tfrecord", "json", "hdf5"]:
    """The format, by the ending, or by the first bytes where the ending is not known."""
    endings: dict[Literal["tfrecord", "json", "hdf5"], re.Pattern[str]]
    endings = {"tfrecord": _TFRECORD, "json": _JSON, "hdf5": _HDF5}
    for kind, ending in endings.items():
        if ending.search(path):
            return kind
    with open_binary(path) as file:
        start = file.read(64)
    if start.startswith(demos_hdf5.HDF5_START):
        return "hdf5"
    return "json" if _JSON_START.match(start) else "tfrecord"
