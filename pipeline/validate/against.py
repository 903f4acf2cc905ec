"""Two stores beside each other: scenes of one log in both, which no split may have, and scenes of one place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.logs import common, known_by, mixed
from gail_cli.pipeline.store.schema import starts_path
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Problem
from gail_cli.sim.scenario import RoadType

_CELL = 1.0
"""Maps are compared by the squares, of this side in m, through which edges, lines and lanes lead. Map features cannot
be: in WOMD neither their ids nor their points are the same in all logs of a place."""
_CELLS = 64
"""Squares that a place is known by: those with the smallest hashes."""
_SAME_PLACE = 8
"""Of these, so many in common make one place: an eighth of both maps. Of 185 real scenes, two pairs of other logs see
the same roads by more (40 % of the smaller map) and pairs by chance by at most half as much."""
_NAMED = 3
"""Scenes that are named one by one."""
_ROADS = (RoadType.ROAD_EDGE, RoadType.ROAD_LINE, RoadType.LANE)


@dataclass(frozen=True)
class Shared:
    """The scenes of a store that have to do with some of another one."""

    scenes: NDArray[np.int64]
    """Their indices, in rising order."""
    others: NDArray[np.int64]
    """For each one of these in the other store."""
    unknown: int
    """Scenes of both that cannot be compared."""

    def named(self, store: DemoStore, other: DemoStore) -> str:
        """The first few, by their ids."""
        ours, theirs = store.scene_ids(), other.scene_ids()
        pairs = list(zip(self.scenes.tolist(), self.others.tolist(), strict=True))
        named = ", ".join(f"{ours[a]} with {theirs[b]}" for a, b in pairs[:_NAMED])
        return named + (f", and {len(pairs) - _NAMED} more" if len(pairs) > _NAMED else "")


def shared_logs(store: DemoStore, other: DemoStore) -> Shared:
    """The scenes of a store whose logs another one has scenes of, too.

    Raises:
        StoreError: when one is damaged.
    """
    ours, theirs = store.fingerprints, other.fingerprints
    rows, others = common(known_by(store.scene_ids(), ours), known_by(other.scene_ids(), theirs))
    group, logs = store.index.group, np.unique(store.index.group[rows], return_index=True)
    scenes = np.flatnonzero(np.isin(group, logs[0]))  # also windows that overlap none there themselves
    place = np.searchsorted(logs[0], group[scenes])
    direct = dict(zip(rows.tolist(), others.tolist(), strict=True))
    linked = others[logs[1]][place]
    found = np.array([direct.get(k, other_k) for k, other_k in zip(scenes.tolist(), linked.tolist(), strict=True)])
    unknown = int((~ours.any(axis=1)).sum() + (~theirs.any(axis=1)).sum())
    return Shared(scenes, found.astype(np.int64), unknown)


def notes(stores: Sequence[DemoStore]) -> list[str]:
    """What there is to say of stores that one run learns from, in a sentence for each two that have logs in common.

    Raises:
        StoreError: when one is damaged.
    """
    lines = []
    for store, other in ((b, a) for a, b in combinations(stores, 2)):
        logs = shared_logs(store, other)
        if not len(logs.scenes):
            continue
        line = f"{len(logs.scenes)} scene(s) of {store.path} are of logs that {other.path} has, too"
        if not (store.splits_known and other.splits_known):
            lines.append(line)
            continue
        apart = int((store.index.split[logs.scenes] != other.index.split[logs.others]).sum())
        held = f", {apart} of them in another split: what is held out is not unseen" if apart else ""
        lines.append(line + held)
    return lines


def seen(store: DemoStore, scenes: Sequence[int], learned: DemoStore, split: str) -> str | None:
    """What there is to say when scenes on which a policy is judged are of logs that it learned from; None if not.

    Args:
        store: of the scenes.
        scenes: their indices.
        learned: a store that the policy learned from.
        split: from whose scenes it learned, or "all".

    Raises:
        StoreError: when one is damaged.
    """
    logs = shared_logs(store, learned)
    group = learned.index.group
    known = np.unique(group[learned.scenes_of(split)])
    there = logs.scenes[np.isin(group[logs.others], known) & np.isin(logs.scenes, scenes)]
    if not len(there):
        return None
    return f"{len(there)} of {len(scenes)} scenes are of logs that the policy learned from ({learned.path})"


def shared_places(store: DemoStore, other: DemoStore) -> Shared:
    """The scenes of a store that see the same roads as some of another one.

    Raises:
        StoreError: when one is damaged.
    """
    ours, theirs = place_samples(store), place_samples(other)
    unknown = int((~ours.any(axis=1)).sum() + (~theirs.any(axis=1)).sum())
    return Shared(*common(ours, theirs, _SAME_PLACE), unknown)


def place_samples(store: DemoStore) -> NDArray[np.uint64]:
    """[S, _CELLS] a sample of the squares that each scene's roads lead through, zeros where there are none."""
    found = [np.zeros((0, _CELLS), np.uint64)]
    for part in range(len(store.parts)):
        if len(store.part_scenes(part)):
            arrays = store.columns(part, "scenes/origin", "roads/segment", "roads/type")
            segments = np.split(arrays["roads/segment"], arrays[starts_path("segment")][1:-1])
            types = np.split(arrays["roads/type"], arrays[starts_path("segment")][1:-1])
            scenes = zip(segments, types, arrays["scenes/origin"], strict=True)
            found.append(np.stack([_sample(s[np.isin(t, _ROADS)], origin) for s, t, origin in scenes]))
    return np.concatenate(found)


def _sample(segment: NDArray[np.float32], origin: NDArray[np.float64]) -> NDArray[np.uint64]:
    """[_CELLS] of a scene's segments [n, 5], which are walked along in steps of half a square."""
    x, y, half, _, heading = segment.astype(np.float64).T
    steps = np.maximum(1, np.ceil(4 * half / _CELL)).astype(np.int64)
    row = np.repeat(np.arange(len(segment)), steps)
    step = np.arange(len(row)) - np.repeat(np.cumsum(steps) - steps, steps)
    along = half[row] * (2 * (step + 0.5) / steps[row] - 1)
    points = np.stack([x[row] + along * np.cos(heading[row]), y[row] + along * np.sin(heading[row])], axis=-1)
    cells = np.floor((points + origin) / _CELL).astype(np.int64).view(np.uint64)
    hashes = np.unique(mixed(mixed(cells[:, 0]) + cells[:, 1]))[:_CELLS]
    return np.pad(hashes, (0, _CELLS - len(hashes)))


def compare(path: str, others: Sequence[str]) -> tuple[list[Problem], list[Problem]]:
    """What a store has in common with others that it is to be kept apart from.

    Args:
        path: the store.
        others: the other ones.

    Returns:
        Problems: scenes of one log. Warnings: scenes of one place, and scenes that cannot be compared.

    Raises:
        StoreError: when one cannot be read.
    """
    store, problems, warnings = DemoStore(path), [], []
    for other in map(DemoStore, others):
        where = f"store {store.path}"
        logs, places = shared_logs(store, other), shared_places(store, other)
        if len(logs.scenes):
            what = f"{len(logs.scenes)} scene(s) are of logs that {other.path} has, too: {logs.named(store, other)}"
            problems.append(Problem(where, what, "merge the two and split the whole with --fractions"))
        if logs.unknown:
            what = f"of {logs.unknown} scene(s) here and in {other.path} it is not known what log they are of"
            warnings.append(Problem(where, what, "extract them again to tell"))
        alone = ~np.isin(places.scenes, logs.scenes)
        places = Shared(places.scenes[alone], places.others[alone], places.unknown)
        if len(places.scenes):
            what = f"{len(places.scenes)} scene(s) lie where {other.path} has scenes, too"
            fix = "this is no fault, but drivers may know these roads"
            warnings.append(Problem(where, f"{what}: {places.named(store, other)}", fix))
    return problems, warnings
