"""Folds of a store's scenes by log, as stores: scenes of one log are never on two sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore, part_name


def folds_by_log(group: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """[S] the fold of each scene: as even as logs allow, the same for all scenes of a log.

    Logs go, those with most scenes first and then in the order of the store, into the fold that has fewest scenes.

    Args:
        group: [S] the log of each scene, as :func:`gail_cli.pipeline.logs.groups` numbers them.
        folds: how many.
    """
    logs, first, scenes = np.unique(group, return_index=True, return_counts=True)
    filled = np.zeros(folds, np.int64)
    fold_of = np.zeros(len(logs), np.int64)
    for k in np.lexsort((first, -scenes)):
        fold_of[k] = filled.argmin()
        filled[fold_of[k]] += scenes[k]
    return np.asarray(fold_of[np.searchsorted(logs, group)])


def write_folds(store: DemoStore, folder: Path, folds: int, chosen: Sequence[int] | None = None) -> dict[int, Path]:
    """A store for each fold, whose own scenes are of the split "test" and the rest of "train"; with one fold, all are
    of both. What is there already is not made again.

    Args:
        store: all scenes.
        folder: where the stores are put.
        folds: how many there are.
        chosen: those that are made; all when None.
    """
    fold_of = folds_by_log(store.index.group, folds)
    paths = {fold: folder / f"fold{fold}of{folds}" for fold in (range(folds) if chosen is None else chosen)}
    for fold, path in paths.items():
        if path.exists() and DemoStore(path).attributes.get("complete"):
            continue
        storage, attributes = LocalFolder(path), writer.store_attributes(store.own_space, store.steps)
        sides = np.where((fold_of == fold) & (folds > 1), Split.TEST, Split.TRAIN).astype(np.uint8)
        records = list(store.read())
        writer.create_store(storage, attributes)
        writer.commit_part(storage, writer.write_part(storage, part_name(0), records, store.own_space, store.steps))
        writer.finish_store(storage, attributes, lambda ids, group, sides=sides: sides)
    return paths
