"""Turns given to several sources in proportion to weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.errors import UserError

_ROUND = 1 << 16
"""Turns after which every source has had its share exactly; weights are kept to this precision."""


class WeightsError(UserError):
    """Weights of sources that make no sense."""


class Interleave:
    """An endless sequence of sources 0 .. S-1, in which each comes at regular intervals.

    So any run of turns holds about its share of each, up to a turn or two, more evenly than draws would.

    Args:
        weights: [S] of the sources, positive.

    Raises:
        WeightsError: for weights that are not.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        share = np.asarray(weights, np.float64)
        if not len(share) or not (np.isfinite(share) & (share > 0)).all():
            raise WeightsError("weights", f"{list(weights)}: they must be positive finite numbers, one per store")
        exact = share / share.sum() * (_ROUND - len(share))
        self.quota = 1 + np.floor(exact).astype(np.int64)  # one for each, however small its weight
        """[S] turns of each in a round."""
        self.quota[np.argsort(np.floor(exact) - exact, kind="stable")[: _ROUND - self.quota.sum()]] += 1
        time = np.concatenate([(np.arange(n) + 0.5) / n for n in self.quota])
        self._round = np.repeat(np.arange(len(share)), self.quota)[np.argsort(time, kind="stable")]

    def turns(self, first: int, last: int) -> NDArray[np.int64]:
        """Sources of the turns ``first`` .. ``last - 1``."""
        return self._round[np.arange(first, last) % _ROUND]

    def counts(self, turns: int) -> NDArray[np.int64]:
        """[S] how many of the first so many turns are each source's."""
        rounds, rest = divmod(turns, _ROUND)
        counts: NDArray[np.int64] = rounds * self.quota + np.bincount(self._round[:rest], minlength=len(self.quota))
        return counts
