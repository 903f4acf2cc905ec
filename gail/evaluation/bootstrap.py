"""Uncertainty of a mean over scenes: percentile intervals from resampled scenes (Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_LEVEL = (2.5, 97.5)
"""Percentiles that bound a 95 % interval."""
_CHUNK = 10**7
"""Draws held in memory together."""


def resampled_sums(values: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = 0) -> NDArray[np.float64]:
    """Sums [R, C] of values [S, C] over S scenes drawn with replacement, R times.

    The draws depend on S, ``resamples`` and ``seed`` only, so sums of several calls are paired.
    """
    rng = np.random.default_rng(seed)
    scenes = len(values)
    rows = max(1, _CHUNK // scenes)
    chunks = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate([rng.multinomial(scenes, np.full(scenes, 1 / scenes), n) @ values for n in chunks])


def interval(estimates: NDArray[np.float64]) -> list[float] | None:
    """[low, high] of estimates [R], one per resample; None when none is finite."""
    estimates = estimates[np.isfinite(estimates)]
    return np.percentile(estimates, _LEVEL).tolist() if len(estimates) else None
