"""From scores of single scenes to means, intervals, and differences between drivers."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.gail.evaluation.bootstrap import RESAMPLES, interval, resampled_sums

POLICY, LOG = "policy", "log"
DISTRIBUTIONS: dict[str, tuple[float, float, int]] = {
    "linear_speed": (0.0, 40.0, 100),
    "linear_acceleration": (-10.0, 10.0, 101),
    "angular_speed": (-1.5, 1.5, 101),
    "distance_to_nearest_object": (-5.0, 45.0, 100),
}
"""Features whose distribution is compared with the log's: lowest and highest value, and equal bins between. What lies
around no change has a bin of its own, so that rounding does not tip it from one into the next."""


@dataclass(frozen=True, eq=False)
class SceneScores:
    """What S scenes contribute to each metric of each driver; all that means and intervals are made of."""

    scenes: list[str]
    """[S] ids."""
    sums: dict[str, dict[str, NDArray[np.float64]]]
    """By driver and metric, [S, 2]: the sum over what is averaged (agents, or the scene itself), and how many it is."""
    histograms: dict[str, dict[str, NDArray[np.float64]]]
    """By driver (and :data:`LOG`) and feature, [S, B]: steps by :data:`DISTRIBUTIONS`."""

    def to_json(self) -> dict[str, Any]:
        """A description that :meth:`from_json` turns back into equal scores."""
        tables = {name: getattr(self, name) for name in ("sums", "histograms")}
        lists = {
            name: {driver: {key: x.tolist() for key, x in columns.items()} for driver, columns in table.items()}
            for name, table in tables.items()
        }
        return {"scenes": self.scenes, **lists}

    def without(self, drivers: Container[str]) -> SceneScores:
        """The scores of all others."""
        sums, histograms = (
            {name: columns for name, columns in table.items() if name not in drivers}
            for table in (self.sums, self.histograms)
        )
        return SceneScores(self.scenes, sums, histograms)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> SceneScores:
        """The scores that :meth:`to_json` described."""
        sums, histograms = (
            {d: {key: np.asarray(x, np.float64) for key, x in columns.items()} for d, columns in data[name].items()}
            for name in ("sums", "histograms")
        )
        return cls(list(data["scenes"]), sums, histograms)


def concatenated(parts: Sequence[SceneScores]) -> SceneScores:
    """Scores of all scenes of several parts, or of several evaluations (the folds of a cross-validation, say)."""

    def together(name: str) -> dict[str, dict[str, NDArray[np.float64]]]:
        tables: list[dict[str, dict[str, NDArray[np.float64]]]] = [getattr(part, name) for part in parts]
        drivers = [driver for driver in tables[0] if all(driver in table for table in tables)]
        return {d: {k: np.concatenate([table[d][k] for table in tables]) for k in tables[0][d]} for d in drivers}

    return SceneScores([scene for part in parts for scene in part.scenes], together("sums"), together("histograms"))


def sums_of_agents(values: NDArray[Any], scene: NDArray[np.int64], scenes: int) -> NDArray[np.float64]:
    """[S, 2] of one value per agent [N]; NaN does not count.

    Args:
        values: [N].
        scene: [N] of each agent, 0 .. S-1.
        scenes: S.
    """
    there = ~np.isnan(values.astype(np.float64))
    sums = np.bincount(scene, np.where(there, values, 0.0), scenes)
    return np.stack([sums, np.bincount(scene, there, scenes)], axis=1)


def sums_of_scenes(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """[S, 2] of one value per scene [S]; NaN does not count."""
    there = ~np.isnan(values)
    return np.stack([np.where(there, values, 0.0), there], axis=1)


def wasserstein(p: NDArray[np.float64], q: NDArray[np.float64], width: float) -> NDArray[np.float64]:
    """Wasserstein-1 distance [...] between histograms [..., B] of equal bins: the area between their CDFs."""
    with np.errstate(invalid="ignore", divide="ignore"):
        ours, theirs = (np.cumsum(x, axis=-1) / x.sum(axis=-1, keepdims=True) for x in (p, q))
    return np.asarray(np.abs(ours - theirs).sum(axis=-1) * width)


def summarise(scores: SceneScores, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Means over all agents (or scenes) with 95 % intervals, and differences between the policy and each anchor.

    Scenes are resampled, not agents: agents of one scene share its traffic, and are not independent samples.

    Args:
        scores: what each scene contributes.
        resamples: number of resamples of the scenes.
        seed: for drawing them.

    Returns:
        ``results`` {driver: {metric: mean}}, ``intervals`` {driver: {metric: [low, high]}}, and ``differences``
        {anchor: {metric: {"mean", "interval"}}}, policy minus anchor in the same resamples; None where a metric is not
        defined in any scene, or, for intervals, in fewer than two.
    """
    drivers = list(scores.sums)
    flat = np.concatenate(
        [
            *(x for columns in scores.sums.values() for x in columns.values()),
            *(x for columns in scores.histograms.values() for x in columns.values()),
        ],
        axis=1,
    )
    means = _estimates(scores, flat.sum(axis=0, keepdims=True))
    spread = _estimates(scores, resampled_sums(flat, resamples, seed))
    there = _defined(scores)
    results = {d: {name: _number(x) for name, x in means[d].items()} for d in drivers}
    intervals = {d: {name: _sure(x, there[d][name]) for name, x in spread[d].items()} for d in drivers}
    differences = {
        anchor: {
            name: {
                "mean": _number(means[POLICY][name] - means[anchor][name]),
                "interval": _sure(
                    spread[POLICY][name] - spread[anchor][name], there[POLICY][name] & there[anchor][name]
                ),
            }
            for name in means[anchor]
        }
        for anchor in drivers
        if anchor != POLICY and POLICY in drivers
    }
    return {"results": results, "intervals": intervals, "differences": differences}


def _sure(estimates: NDArray[np.float64], there: NDArray[np.bool_]) -> list[float] | None:
    """The interval of estimates [R]; None unless at least two of the scenes [S] are there: one alone has no spread."""
    return interval(estimates) if there.sum() > 1 else None


def _defined(scores: SceneScores) -> dict[str, dict[str, NDArray[np.bool_]]]:
    """By driver and metric, [S] the scenes in which it is defined."""
    found: dict[str, dict[str, NDArray[np.bool_]]] = {
        driver: {name: x[:, 1] > 0 for name, x in columns.items()} for driver, columns in scores.sums.items()
    }
    log = {name: x.any(axis=1) for name, x in scores.histograms.get(LOG, {}).items()}
    for driver in found.keys() & scores.histograms.keys():
        tables = scores.histograms[driver]
        for name in DISTRIBUTIONS:
            found[driver][f"distance_{name}"] = np.asarray(tables[name].any(axis=1) & log[name], np.bool_)
    return found


def _number(x: NDArray[np.float64]) -> float | None:
    return float(x[0]) if np.isfinite(x[0]) else None


def _estimates(scores: SceneScores, flat: NDArray[np.float64]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Each metric [R] of each driver from R rows of sums, in the order of :func:`summarise`."""
    found: dict[str, dict[str, NDArray[np.float64]]] = {driver: {} for driver in scores.sums}
    place = 0
    for driver, columns in scores.sums.items():
        for name in columns:
            with np.errstate(invalid="ignore", divide="ignore"):
                found[driver][name] = flat[:, place] / flat[:, place + 1]
            place += 2
    histograms: dict[str, dict[str, NDArray[np.float64]]] = {}
    for driver, columns in scores.histograms.items():
        histograms[driver] = {}
        for name, table in columns.items():
            histograms[driver][name] = flat[:, place : place + table.shape[1]]
            place += table.shape[1]
    for driver in found.keys() & histograms.keys():
        for name, (low, high, bins) in DISTRIBUTIONS.items():
            width = (high - low) / bins
            found[driver][f"distance_{name}"] = wasserstein(histograms[driver][name], histograms[LOG][name], width)
    return found
