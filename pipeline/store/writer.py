"""A demo store, written: parts one by one, each whole or absent, then the index.

A part is written by one task and only then entered in the manifest, so a killed run leaves whole parts or nothing
that counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.logs import groups, known_by
from gail_cli.pipeline.records import Record, Split
from gail_cli.pipeline.store.arrays import encode
from gail_cli.pipeline.store.files import json_bytes
from gail_cli.pipeline.store.index import index_columns, read_fingerprints, store_totals
from gail_cli.pipeline.store.schema import FORMAT, RAGGED, SCHEMA, VERSION, StoreError, lay_out
from gail_cli.pipeline.store.storage import Storage
from gail_cli.pipeline.store.store import manifest, read_root, sealed
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scenario import DT

Assign = Callable[[Sequence[str], NDArray[np.int64]], NDArray[np.uint8]]
"""The splits [S] of scenes, by their ids and by the first scene [S] of each one's log."""


def all_train(ids: Sequence[str], _: NDArray[np.int64]) -> NDArray[np.uint8]:
    """No scene is held out."""
    return np.full(len(ids), Split.TRAIN, np.uint8)


def store_attributes(space: ActionSpace, steps: int, **more: Any) -> dict[str, Any]:
    """Root attributes that every store has, with the meaning of every array."""
    return {
        "action_space": space.to_json(),
        "dt_s": DT,
        "steps": steps,
        "arrays": {c.path: {"row": c.kind, "what": c.what} for c in SCHEMA},
        **more,
    }


def create_store(storage: Storage, attributes: Mapping[str, Any]) -> None:
    """Begin a store, or one that was begun before with the same attributes, which keeps its parts.

    Raises:
        StoreError: when it cannot be written.
    """
    try:
        _write_root(storage, {"format": FORMAT, "version": list(VERSION), "complete": False, **attributes})
        for group in ("parts", "index"):
            storage.write(f"{group}/zarr.json", _group({}))
    except Exception as error:  # file systems have errors of their own
        what = f"cannot be written ({getattr(error, 'strerror', None) or error})"
        raise StoreError(f"store {storage.url}", what, "choose another place") from error


def write_part(
    storage: Storage, name: str, records: Sequence[Record], space: ActionSpace, steps: int
) -> dict[str, Any]:
    """Write one part; its counts and digest, for :func:`commit_part`."""
    arrays = lay_out(records, space, steps)
    files = encode(arrays)
    storage.write_tree(f"parts/{name}", files)
    scenes = {
        "id": [r.scene.id for r in records],
        "demos": [int(r.moving.sum()) for r in records],
        "transitions": [r.transitions for r in records],
    }
    totals = {f"{kind}s": int(arrays[f"scenes/{kind}_start"][-1]) for kind in RAGGED}
    return {"part": name, "digest": files_digest(files), "scenes": scenes, **totals}


def commit_part(storage: Storage, entry: Mapping[str, Any]) -> None:
    """Enter a written part in the manifest; from here on it counts."""
    storage.write(f"manifest/{entry['part']}.json", json_bytes(sealed(entry)))


def finish_store(storage: Storage, attributes: Mapping[str, Any], assign: Assign = all_train) -> None:
    """Write the index over all committed parts and mark the store complete.

    Args:
        storage: where it lies.
        attributes: of the root, beside those that it has.
        assign: decides on the splits, now that all scenes are known.
    """
    entries = manifest(storage)
    ids = [scene for e in entries for scene in e["scenes"]["id"]]
    found = read_fingerprints(storage, {e["part"]: len(e["scenes"]["id"]) for e in entries}, VERSION[0])
    group = groups(known_by(ids, found))
    split = assign(ids, group)
    index = encode(index_columns(entries, group, split))
    storage.write_tree("index", index)
    totals = store_totals(entries)
    storage.sweep()
    before = read_root(storage)
    ours = {"parts": len(entries), "totals": totals, "index": files_digest(index), "complete": True}
    _write_root(storage, {**before, **attributes, **ours})


def clear_store(storage: Storage) -> None:
    """Remove a store so that, wherever this is cut short, what is left is known as an unfinished store."""
    if "zarr.json" not in storage.names(""):
        return
    _write_root(storage, {"format": FORMAT, "version": list(VERSION), "complete": False})
    for folder in ("index", "manifest", "parts"):
        storage.remove(folder)
    storage.sweep()
    storage.remove("zarr.json")
    storage.drop()


def files_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256 over names and contents of files."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{len(files[name])}\0".encode() + files[name])
    return digest.hexdigest()


def _write_root(storage: Storage, attributes: Mapping[str, Any]) -> None:
    ours = {key: value for key, value in attributes.items() if key != "check"}
    storage.write("zarr.json", _group(sealed(ours)))


def _group(attributes: Mapping[str, Any]) -> bytes:
    return json_bytes({"zarr_format": 3, "node_type": "group", "attributes": attributes})
