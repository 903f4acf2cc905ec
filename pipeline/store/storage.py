"""Where the files of a store lie: in a local folder, a bucket (``s3://``, ``gs://``, any fsspec URL) or a zip file.

Names are relative to the store, with forward slashes. A file that is written is whole or absent: locally it is written
aside, synced and renamed; a bucket has that property by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import fsspec
from filelock import FileLock, Timeout

from gail_cli.pipeline.store.files import aside, sweep, sync, sync_tree, write_file
from gail_cli.sim.errors import UserError

LOCK = ".lock"
"""File by which a writer keeps others out."""
HEARTBEAT = 20.0
"""A writer to a bucket renews its lock this often, s."""
DEAD = 120.0
"""A writer to a bucket that has not done so for this long is dead, s."""

_ATTEMPTS = 5
"""Attempts to put a folder in its place."""

Span = tuple[str, int, int]
"""Bytes of a file: its name, the first byte, and the one after the last."""


class StorageError(UserError):
    """Files that cannot be reached, written or locked; ``where`` is empty, since the caller knows what the store is
    called."""


class Storage(Protocol):
    """The files of one store."""

    url: str
    """Folder or URL, as messages name it."""
    location: str
    """Folder or URL, as other processes find it, whatever their working directory."""
    durable: bool
    """Whether it can be written."""

    def read(self, names: Sequence[str]) -> list[bytes]:
        """Contents of files.

        Raises:
            FileNotFoundError: when one is missing.
        """

    def read_spans(self, spans: Sequence[Span]) -> list[bytes]:
        """Byte ranges of files, one request each; shorter where a file ends.

        Raises:
            FileNotFoundError: when a file is missing.
        """

    def tree(self, folder: str) -> dict[str, bytes]:
        """All files below a folder, by their names relative to it; none when it does not exist."""

    def names(self, folder: str) -> list[str]:
        """Sorted names of what lies directly in a folder, without left-overs of killed writers."""

    def size(self) -> int:
        """Bytes of all files."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a file."""

    def write_tree(self, folder: str, files: Mapping[str, bytes]) -> None:
        """Write or replace a folder; locally it is whole or absent, too."""

    def remove(self, name: str) -> None:
        """Remove a file or a folder, if it is there."""

    def drop(self) -> None:
        """Remove the store's own folder, if it is empty."""

    def sweep(self) -> None:
        """Remove what killed writers left."""

    def aside(self) -> Storage:
        """Where this store waits while another one takes its place."""

    def move(self, to: Storage) -> None:
        """Move everything to :meth:`aside`, or from there."""

    def lock(self) -> Any:
        """A context in which no other process writes to the store.

        Raises:
            StorageError: when another one does.
        """


def storage_at(path: str | Path) -> Storage:
    """The files behind a folder, a ``.zip`` file, or an fsspec URL of either.

    Raises:
        StorageError: when the URL's file system is not known or not installed.
    """
    text = str(path).removeprefix("file://")
    if not text:
        raise StorageError("", "it has no name", "name a folder or a URL")
    if "://" not in text and (not text.endswith(".zip") or Path(text).is_dir()):
        return LocalFolder(Path(text))
    return Remote(text)


class LocalFolder:
    """A folder of this machine."""

    durable = True

    def __init__(self, root: Path) -> None:
        self.url = str(root)
        self.root = root.resolve()
        self.location = str(self.root)

    def read(self, names: Sequence[str]) -> list[bytes]:
        """See :class:`Storage`."""
        return [(self.root / name).read_bytes() for name in names]

    def read_spans(self, spans: Sequence[Span]) -> list[bytes]:
        """See :class:`Storage`."""
        return [self._span(*span) for span in spans]

    def _span(self, name: str, first: int, last: int) -> bytes:
        descriptor = os.open(self.root / name, os.O_RDONLY)
        try:
            return os.pread(descriptor, last - first, first)
        finally:
            os.close(descriptor)

    def tree(self, folder: str) -> dict[str, bytes]:
        """See :class:`Storage`."""
        root = self.root / folder
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}

    def names(self, folder: str) -> list[str]:
        """See :class:`Storage`."""
        root = self.root / folder
        return sorted(p.name for p in root.iterdir() if not p.name.startswith(".")) if root.is_dir() else []

    def size(self) -> int:
        """See :class:`Storage`."""
        return sum(p.stat().st_size for p in self.root.rglob("*") if p.is_file())

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Storage`."""
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_file(file, data)

    def write_tree(self, folder: str, files: Mapping[str, bytes]) -> None:
        """See :class:`Storage`."""
        final = self.root / folder
        temporary = aside(final)
        for name, data in files.items():
            file = temporary / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        sync_tree(temporary)
        for attempt in range(_ATTEMPTS):
            with suppress(FileNotFoundError):
                shutil.rmtree(final.rename(aside(final)))
            try:
                temporary.rename(final)
                break
            except OSError:  # a worker thought dead has just written the same
                if attempt == _ATTEMPTS - 1:
                    raise
        sync(final.parent)

    def remove(self, name: str) -> None:
        """See :class:`Storage`."""
        path = self.root / name
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)

    def drop(self) -> None:
        """See :class:`Storage`."""
        with suppress(OSError):
            self.root.rmdir()

    def sweep(self) -> None:
        """See :class:`Storage`."""
        for folder in (self.root, *(p for p in self.root.iterdir() if p.is_dir())):
            sweep(folder)

    def aside(self) -> LocalFolder:
        """See :class:`Storage`."""
        return LocalFolder(self.root.with_name(f".{self.root.name}.replaced"))

    def move(self, to: Storage) -> None:
        """See :class:`Storage`."""
        self.root.rename(to.location)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See :class:`Storage`; the system frees the lock of a process that ends, however it ends."""
        file = self.root.parent / f".{self.root.name}{LOCK}"  # beside it, as it may be moved aside itself
        held = FileLock(file, timeout=0)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            held.acquire()
        except Timeout:
            raise StorageError("", "another process is writing to it", "wait for it, or choose another place") from None
        except OSError as error:
            raise StorageError("", f"cannot be written ({error.strerror})", "choose another place") from error
        try:
            yield
        finally:
            file.unlink(missing_ok=True)
            held.release()


class Remote:
    """A bucket, or a zip file, which is only read."""

    def __init__(self, url: str) -> None:
        self.url = self.location = url
        self.durable = not url.endswith(".zip")
        self._open: tuple[int, Any, str] | None = None
        if self.durable:
            _ = self._fs  # so that a URL of an unknown kind is reported at once

    @property
    def _fs(self) -> Any:
        """The file system; made anew after a fork, which its threads do not survive."""
        if self._open is None or self._open[0] != os.getpid():
            try:
                if self.durable:
                    fs, root = fsspec.url_to_fs(self.url, use_listings_cache=False)
                else:
                    fs, root = fsspec.url_to_fs(f"zip://::{self.url}")
            except (ImportError, ValueError) as error:
                raise StorageError("", f"its file system cannot be used ({error})", "check the URL") from error
            self._open = os.getpid(), fs, root.rstrip("/")
        return self._open[1]

    def _path(self, name: str) -> str:
        _ = self._fs
        assert self._open is not None
        return "/".join(part for part in (self._open[2], name) if part)

    def read(self, names: Sequence[str]) -> list[bytes]:
        """See :class:`Storage`; all at once where the file system can."""
        return self._ranges(names, [None] * len(names), [None] * len(names))

    def read_spans(self, spans: Sequence[Span]) -> list[bytes]:
        """See :class:`Storage`; all at once where the file system can."""
        return self._ranges([s[0] for s in spans], [s[1] for s in spans], [s[2] for s in spans])

    def _ranges(self, names: Sequence[str], first: Sequence[Any], last: Sequence[Any]) -> list[bytes]:
        if not names:
            return []
        paths = [self._path(name) for name in names]
        with _reached(missing=True):
            return [_whole(x) for x in self._fs.cat_ranges(paths, list(first), list(last), on_error="return")]

    def tree(self, folder: str) -> dict[str, bytes]:
        """See :class:`Storage`."""
        names = self._below(folder)
        return dict(zip(names, self.read([f"{folder}/{name}" for name in names]), strict=True))

    def names(self, folder: str) -> list[str]:
        """See :class:`Storage`."""
        try:
            with _reached(missing=True):
                paths = self._fs.ls(self._path(folder), detail=False)
        except FileNotFoundError:
            return []
        names = {str(path).rstrip("/").rsplit("/", 1)[-1] for path in paths}
        return sorted(name for name in names if name and not name.startswith("."))

    def size(self) -> int:
        """See :class:`Storage`."""
        with _reached():
            return sum(info["size"] for info in self._fs.find(self._path(""), detail=True).values())

    def write(self, name: str, data: bytes) -> None:
        """See :class:`Storage`."""
        with _reached():
            self._fs.pipe_file(self._path(name), data)

    def write_tree(self, folder: str, files: Mapping[str, bytes]) -> None:
        """See :class:`Storage`."""
        with _reached():
            self._fs.pipe({f"{self._path(folder)}/{name}": data for name, data in files.items()})

    def remove(self, name: str) -> None:
        """See :class:`Storage`."""
        with suppress(FileNotFoundError), _reached(missing=True):
            self._fs.rm(self._path(name), recursive=True)

    def drop(self) -> None:
        """See :class:`Storage`; a bucket has no empty folders."""

    def sweep(self) -> None:
        """See :class:`Storage`; a bucket has no half-written files."""

    def aside(self) -> Remote:
        """See :class:`Storage`."""
        return Remote(f"{self.url.rstrip('/')}.replaced")

    def move(self, to: Storage) -> None:
        """See :class:`Storage`: file by file, the root last, so that what was cut short can be gone on with."""
        below = [f"{folder}/{name}" for folder in ("parts", "manifest", "index") for name in self._below(folder)]
        for name in (*below, "zarr.json"):
            with _reached():
                self._fs.mv(self._path(name), f"{to.location.split('://', 1)[-1]}/{name}")

    def _below(self, folder: str) -> list[str]:
        root = f"{self._path(folder)}/"
        with _reached():
            return sorted(str(path).removeprefix(root) for path in self._fs.find(root.rstrip("/")))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """See :class:`Storage`: a small file with a sign of life, since a bucket frees nothing by itself.

        Two writers that begin within the same fraction of a second may both get it; what they write is the same.
        """
        if not self.durable:
            hint = "extract to a folder, then pack it with `gail-cli merge FOLDER --store FILE.zip`"
            raise StorageError("", "a zip file cannot grow part by part", hint)
        age = float("inf")
        with suppress(FileNotFoundError, json.JSONDecodeError, KeyError):
            age = time.time() - json.loads(self.read([LOCK])[0])["time"]
        if age < DEAD:
            what = f"another process is writing to it (last sign of life {age:.0f} s ago)"
            raise StorageError("", what, f"wait for it, or {DEAD:.0f} s if it was killed")
        done = threading.Event()

        def sign() -> None:
            self.write(LOCK, json.dumps({"time": time.time()}).encode())

        def keep() -> None:
            while not done.wait(HEARTBEAT):
                with suppress(StorageError):  # the next one may succeed
                    sign()

        sign()
        thread = threading.Thread(target=keep, name="store lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            self.remove(LOCK)


@contextmanager
def _reached(missing: bool = False) -> Iterator[None]:
    """Turn errors of a file system into :class:`StorageError`; with ``missing``, not that a file is absent."""
    try:
        yield
    except FileNotFoundError as error:
        if missing:
            raise
        raise StorageError("", f"cannot be reached ({error})", "check its name") from error
    except StorageError:
        raise
    except Exception as error:  # file systems have errors of their own
        what = " ".join(str(error).split()) or type(error).__name__
        raise StorageError("", f"cannot be reached ({what})", "check its name and your access to it") from error


def _whole(found: Any) -> bytes:
    if isinstance(found, BaseException):
        raise found
    return bytes(found)
