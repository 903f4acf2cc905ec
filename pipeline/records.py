"""A scene with its demonstrations: what store, training and export exchange."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scene import Role, Scene

ABSENT, LOGGED, BRIDGED = 0, 1, 2
"""Marks of a demo's steps: outside the demo; in the log; in a gap of the log, bridged by interpolation."""

QUALITY = ("ade_m", "fde_m", "heading_error_rad", "goal", "saturated", "zero", "quantisation_m")
"""Measures of how well a demo replays its log, one number each:

mean distance from the log; distance at the end; mean heading error, all over logged steps; 1 if it ends within the
goal radius, else 0; share of actions with a component at either end of its range; share of actions with every
component zero, or the grid's value nearest to it (:data:`ZERO` for continuous actions); and what the grid costs: mean
distance between where the chosen action leads and where the best one of the same range without a grid would, at the
end of the look-ahead (``delta_local``: after one step).
"""

SAMPLES = 96
"""Hashes of a fingerprint: one per step of a window of WOMD (91), the smallest ones of a longer log."""

VRU_SPACE = ActionSpace.create("delta_local", "continuous")
"""Action space of pedestrians and cyclists, who drive no car: exact displacements."""


@dataclass(frozen=True, eq=False)
class Demos:
    """Expert demonstrations of one scene: D agents over the scene's T steps, K action components."""

    agent: NDArray[np.int64]
    """[D] rows of the scene's agents."""
    mark: NDArray[np.uint8]
    """[D, T] :data:`ABSENT`, :data:`LOGGED` or :data:`BRIDGED`; a demo is one unbroken span."""
    state: NDArray[np.float32]
    """[D, T, 5] replayed x, y, heading, vx, vy; zero where absent."""
    action: NDArray[np.int16] | NDArray[np.float32]
    """[D, T, K] the action taken at each step: grid indices, or values; zero at the last step and where absent."""
    quality: NDArray[np.float32]
    """[D, 7] columns as in :data:`QUALITY`."""

    @property
    def num_demos(self) -> int:
        """D."""
        return len(self.agent)

    def only(self, keep: NDArray[np.bool_]) -> Demos:
        """The demos marked in ``keep`` [D]."""
        return Demos(*(getattr(self, each.name)[keep] for each in fields(self)))


class Split(IntEnum):
    """The use of a scene."""

    TRAIN = 0
    VALIDATION = 1
    TEST = 2


def split_of(scene_id: str, fractions: Sequence[float]) -> Split:
    """The split that an id stands for: always the same one, whatever else is in the store.

    Args:
        scene_id: the first id among the scenes of a log, see :func:`pipeline.logs.splits`.
        fractions: of train, validation and test, whose sum is 1.
    """
    place = int.from_bytes(hashlib.sha256(scene_id.encode()).digest()[:8]) / 2**64
    train, validation, _ = fractions
    return Split.TRAIN if place < train else Split.VALIDATION if place < train + validation else Split.TEST


@dataclass(frozen=True, eq=False)
class Record:
    """One scene of a store."""

    scene: Scene
    demos: Demos
    """Demos of vehicles."""
    vru: Demos | None = None
    """Demos of pedestrians and cyclists (vulnerable road users), in :data:`VRU_SPACE`; None: none."""
    split: int = Split.TRAIN
    """Known of a finished store alone, whose index has it."""
    fingerprint: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(SAMPLES, np.uint64))
    """[SAMPLES] a sample of the log, by which scenes of one log are known (:mod:`pipeline.logs`); zeros: none."""

    @property
    def moving(self) -> NDArray[np.bool_]:
        """[D] which demos are of vehicles that a policy controls by default: not parked, not bound to their log."""
        free = ~self.scene.parked & (self.scene.agent_role & Role.MARK_AS_EXPERT == 0)
        moving: NDArray[np.bool_] = free[self.demos.agent]
        return moving

    @property
    def transitions(self) -> int:
        """Actions that moving vehicles take."""
        present = self.demos.mark[self.moving] != ABSENT
        return int(present.sum() - len(present))
