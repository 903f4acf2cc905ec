"""Files that are whole or absent: written aside, synced, renamed; and digests by which to know them again."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any


def write_json(file: Path, data: dict[str, Any]) -> None:
    """Write or replace a JSON file in one go, durably."""
    temporary = aside(file)
    with temporary.open("w") as out:
        json.dump(data, out, indent=1, sort_keys=True)
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


def folder_digest(folder: Path) -> str:
    """SHA-256 over names and contents of all files below a folder."""
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        data = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def folder_bytes(folder: str | Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in Path(folder).rglob("*") if p.is_file())


def json_digest(data: Any) -> str:
    """SHA-256 of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
