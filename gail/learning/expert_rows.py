"""Demos as policy, critic and discriminator look at them, while a run learns from a rollout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.sight import Sight

ROWS = 8192
"""Most demos that are looked at per rollout, and then used several times."""


class ExpertRows:
    """Batches of demos: of the rollout's own worlds, or drawn from the pool.

    Args:
        draw: so many demos out of the pool, with next observations if asked for them.
        sight: who looks at what.
        generator: of what is drawn from rows at hand.
        next_state: whether the discriminator looks at the next observation, too.
    """

    def __init__(
        self, draw: Callable[[int, bool], Transitions], sight: Sight, generator: torch.Generator, next_state: bool
    ) -> None:
        self._draw, self._sight, self._generator, self.next_state = draw, sight, generator, next_state
        self._shown: Transitions | None = None
        self._judged: Transitions | None = None

    def renew(self, matched: Transitions | None) -> None:
        """Before a rollout is learned from.

        Args:
            matched: the demos of its worlds, which all batches are drawn from; None: they are drawn from the pool.
        """
        rows = matched
        if rows is None and self._sight.shares:  # eyes look once at rows that are used several times
            rows = self._draw(ROWS, self.next_state)
        self._shown = None if rows is None else self._sight.demos(rows)
        self._judged = None if self._shown is None else self._sight.judged_demos(self._shown)

    def shown(self, count: int) -> Transitions:
        """A batch as rollouts hold what is seen: to clone."""
        if self._shown is None:
            return self._sight.demos(self._draw(count, False))
        return self._drawn(replace(self._shown, next_observation=None), count)

    def judged(self, count: int, next_state: bool = False) -> Transitions:
        """A batch as the discriminator looks at it."""
        if self._judged is None:
            return self._sight.judged_demos(self._sight.demos(self._draw(count, next_state)))
        return self._drawn(self._judged, count)

    def _drawn(self, rows: Transitions, count: int) -> Transitions:
        pick = torch.randint(len(rows), (count,), generator=self._generator)
        return rows.take(pick.to(rows.action.device))
