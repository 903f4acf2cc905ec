"""Which scenes were cut from one log: a sample of what each holds, groups of scenes by it, and their splits.

Training files of WOMD are overlapping windows of each 20 s log under different ids, so that a split by id puts the same
seconds of the same road on both sides. Windows that overlap hold the same positions, to the last bit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import SAMPLES, split_of
from gail_cli.sim.scenario import Scenario

SHARED = 2
"""Scenes that have so many hashes in common are of one log. Two cars of different logs at one place are at exactly the
same position (WOMD: float32, 0.1 to 1 mm) now and then, and hashes of 40 bits, the smallest of 30 each, are equal by
chance in some 28,000 of the 1e11 pairs of 487,000 scenes; that this comes twice in one pair is expected 0.003 times."""
_SLOW = 0.5
"""Slower than this, an agent may have one position for many steps, which would be one hash for all of them, m/s."""
_DISTANCE = 16
"""Of the scenes that have a hash, each is compared with so many; others are linked by those between."""
_BUCKETS = 16
"""Hashes are sorted in so many portions, which bounds memory."""


# --- what a scene holds --------------------------------------------------------------------------------------------


def fingerprint(scenario: Scenario) -> NDArray[np.uint64]:
    """A sample of a log: [SAMPLES] distinct hashes in rising order, then zeros.

    Of every step it has the smallest hash of a position (x, y, to the last bit) of an agent that moves, so that two
    windows of one log share a hash for each step that they have in common. Agents below 0.5 m/s count where nothing is
    faster, those that stand exactly still never do. Of more steps than ``SAMPLES`` the smallest hashes are taken.
    """
    tracks = scenario.tracks
    place = np.ascontiguousarray(tracks.position[..., :2]) + 0.0  # no -0
    hashes = mixed(mixed(place[..., 0].view(np.uint64)) + place[..., 1].view(np.uint64))
    hashes = np.maximum(hashes >> np.uint64(24), np.uint64(1))  # five bytes of each are kept
    square = np.einsum("...i,...i", tracks.velocity, tracks.velocity)
    none = np.uint64(1 << 40)
    fast, slow = (
        np.where(tracks.valid & moves, hashes, none).min(axis=0, initial=none)
        for moves in (square >= _SLOW**2, square > 0)
    )
    steps = np.where(fast < none, fast, slow)
    found = np.unique(steps[steps < none])[:SAMPLES]
    return np.pad(found, (0, SAMPLES - len(found)))


def known_by(ids: Sequence[str], fingerprints: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """[S, K + SHARED] what scenes are known by: their fingerprints [S, K], and hashes of their ids, so that two scenes
    of one id are of one log even where positions cannot tell: in stores of format 2, and in scenes that were exported
    and read again, whose positions are no longer those of the log to the last bit."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) for name in ids]
    seeds: NDArray[np.uint64] = np.add.outer(np.array(words, np.uint64), np.arange(SHARED, dtype=np.uint64))
    return np.concatenate([fingerprints, np.maximum(mixed(seeds) >> np.uint64(24), np.uint64(1))], axis=1)


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014): every bit of the word changes every bit of the hash."""
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = words ^ (words >> np.uint64(31))
    return mixed


# --- scenes of one log ---------------------------------------------------------------------------------------------


def groups(fingerprints: NDArray[np.uint64]) -> NDArray[np.int64]:
    """The logs that scenes are of: [S] the number of the first scene of each scene's log.

    Scenes of one log are those that share :data:`SHARED` hashes, and those linked by others of the same log.

    Args:
        fingerprints: [S, K] of :func:`known_by`, of all scenes.
    """
    return _components(len(fingerprints), *_pairs(fingerprints))


def common(
    ours: NDArray[np.uint64], theirs: NDArray[np.uint64], shared: int = SHARED
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The scenes of one set that have so many hashes in common with one of another set.

    Args:
        ours: [S, K] hashes of scenes, zeros for none.
        theirs: [R, L] likewise.
        shared: how many make a pair.

    Returns:
        Rows of ``ours`` in rising order, and the first such row of ``theirs`` for each (of those that have a hash in
        common with very many others, one of the first).
    """
    mine, hashes = (x.reshape(-1) for x in (ours, theirs))
    found = _Tally()
    for bucket in range(_BUCKETS):
        order = _in_bucket(hashes, bucket)
        known, there = hashes[order], order // max(theirs.shape[1], 1)
        own = _in_bucket(mine, bucket)
        first, last = (np.searchsorted(known, mine[own], side=side) for side in ("left", "right"))
        scene = own // max(ours.shape[1], 1) * len(theirs)
        each = [(first + k < last) for k in range(_DISTANCE)]
        found.add([scene[has] + there[first[has] + k] for k, has in enumerate(each)])
    pairs = found.at_least(shared)
    rows, place = np.unique(pairs // max(len(theirs), 1), return_index=True)
    return rows, pairs[place] % max(len(theirs), 1)


class _Tally:
    """How often each number of many has come."""

    def __init__(self) -> None:
        self._numbers, self._counts = np.zeros(0, np.int64), np.zeros(0, np.int64)

    def add(self, numbers: Sequence[NDArray[np.int64]]) -> None:
        """Count some more."""
        found, n = np.unique(np.concatenate([self._numbers[:0], *numbers]), return_counts=True)
        self._numbers, place = np.unique(np.concatenate([self._numbers, found]), return_inverse=True)
        counts = np.bincount(place, np.concatenate([self._counts, n]), len(self._numbers))
        self._counts = counts.astype(np.int64)

    def at_least(self, times: int) -> NDArray[np.int64]:
        """The numbers that came so often, in rising order."""
        return self._numbers[self._counts >= times]


def _in_bucket(hashes: NDArray[np.uint64], bucket: int) -> NDArray[np.int64]:
    """Where the hashes [n] of a bucket are, in their order, equal ones as they come; zeros are in none."""
    chosen = np.flatnonzero((hashes % np.uint64(_BUCKETS) == bucket) & (hashes > 0))
    return chosen[np.argsort(hashes[chosen], kind="stable")]


def _pairs(fingerprints: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of scenes that share :data:`SHARED` hashes, not all of those that a long row of others links."""
    scenes, samples = fingerprints.shape
    hashes, found = fingerprints.reshape(-1), _Tally()
    for bucket in range(_BUCKETS):
        order = _in_bucket(hashes, bucket)
        found.add([*_neighbours(hashes[order], order // samples, scenes)])
    linked = found.at_least(SHARED)
    return linked // scenes, linked % scenes


def _neighbours(hashes: NDArray[np.uint64], scene: NDArray[np.int64], scenes: int) -> Iterator[NDArray[np.int64]]:
    """Pairs a * scenes + b of scenes a < b that have a hash in common, given in rising order of hash and scene."""
    begin = np.arange(len(hashes))
    for distance in range(1, _DISTANCE + 1):
        begin = begin[begin + distance < len(hashes)]
        begin = begin[hashes[begin] == hashes[begin + distance]]
        if not len(begin):
            return
        yield scene[begin] * scenes + scene[begin + distance]


def _components(scenes: int, a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """[scenes] the lowest number of each connected component, from its edges (a, b)."""
    lowest = np.arange(scenes)
    while True:
        ends = np.minimum(lowest[a], lowest[b])
        before = lowest.copy()
        for side in (a, b):
            np.minimum.at(lowest, side, ends)
            np.minimum.at(lowest, before[side], ends)
        lowest = lowest[lowest]
        if np.array_equal(lowest, before):
            return lowest


# --- splits --------------------------------------------------------------------------------------------------------


def splits(ids: Sequence[str], group: NDArray[np.int64], fractions: Sequence[float]) -> NDArray[np.uint8]:
    """[S] the split of each scene: that of the first id, in the order of the alphabet, among the scenes of its log.

    So it depends neither on the order of the scenes nor on what other logs there are.

    Args:
        ids: of all scenes.
        group: [S] of :func:`groups`.
        fractions: of train, validation and test, whose sum is 1.
    """
    order = sorted(range(len(ids)), key=ids.__getitem__)
    rank = np.full(len(ids), len(ids))
    np.minimum.at(rank, group[order], np.arange(len(ids)))
    heads = np.array([split_of(ids[order[k]], fractions) if k < len(ids) else 0 for k in rank], np.uint8)
    return heads[group]
