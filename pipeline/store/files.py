"""Files that are whole or absent: written aside, synced, renamed; and digests by which to know them again."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any


def write_file(file: Path, data: bytes) -> None:
    """Write or replace a file in one go, durably."""
    temporary = aside(file)
    with temporary.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    temporary.rename(file)
    sync(file.parent)


def aside(path: Path) -> Path:
    """A new temporary name beside a file or folder; :func:`sweep` knows it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}")


def sync_tree(folder: Path) -> None:
    """Bring a folder and all below it to the disk."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in a folder."""
    for stray in folder.glob(".*." + "[0-9a-f]" * 8):
        if stray.is_dir():
            shutil.rmtree(stray, ignore_errors=True)
        else:
            stray.unlink(missing_ok=True)


def json_bytes(data: Any) -> bytes:
    """JSON as files hold it: always the same bytes for the same data."""
    return json.dumps(data, indent=1, sort_keys=True).encode()


def json_digest(data: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
