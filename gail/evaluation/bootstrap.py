"""How sure a mean over scenes is: percentile intervals from resampled scenes (Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
_LEVEL = (2.5, 97.5)
"""Percentiles: the bounds of a 95 % interval."""
_AT_ONCE = 10**7
"""Draws held in memory together."""


def resampled_sums(values: Floats, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """Sums [R, C] of values [S, C] over S scenes drawn with replacement, R times.

    The draws depend on S, ``resamples`` and ``seed`` alone, so sums of several calls are paired.
    """
    rng = np.random.default_rng(seed)
    scenes = len(values)
    rows = max(1, _AT_ONCE // scenes)
    chunks = [min(rows, resamples - done) for done in range(0, resamples, rows)]
    return np.concatenate([rng.multinomial(scenes, np.full(scenes, 1 / scenes), n) @ values for n in chunks])


def interval(estimates: Floats) -> list[float] | None:
    """[low, high] of estimates [R], one a resample; None where they are no numbers."""
    estimates = estimates[np.isfinite(estimates)]
    return np.percentile(estimates, _LEVEL).tolist() if len(estimates) else None
