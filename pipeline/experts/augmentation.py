"""How scenes are varied, as data; :mod:`pipeline.experts.augment` does it, and imports far more."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat, PositiveInt
from pydantic.dataclasses import dataclass

from gail_cli.sim.config import SETTINGS, Probability


@dataclass(frozen=True, config=SETTINGS)
class Augmentation:
    """How scenes are varied while a run learns."""

    variants: PositiveInt = 64
    """Variants of each scene that expert batches are drawn from; 1 leaves all scenes as they are, and
    rollouts begin on the log."""
    whole: Probability = 0.05
    """Chance that a variant is the whole of its scene's time."""
    shortest: PositiveInt = 20
    """Steps (0.1 s) of the shortest piece."""
    mirror: Probability = 0.5
    """Chance that a variant is mirrored."""
    stretch: Annotated[float, Field(ge=1, le=3)] = 1.5
    """A variant that is not the whole of its scene's time is stretched along a random direction, and across it, by
    factors between this and one over it; 1 leaves it as it is. Demos are found anew in stretched scenes, which takes
    some 10 ms per variant of a scene, and those that no car could follow are left out. Beyond 3 no road is one that
    anybody would drive on."""
    perturb: NonNegativeFloat = 1.0
    """How far from its log an agent begins a rollout: 1 is 0.3 m aside, 0.5 m ahead or behind, 0.03 rad, 15 % of its
    speed, each a standard deviation. Experts are on their logs (but for ``recover``), so a policy learns to come
    back to where they are. Where nothing is varied (``variants`` 1, or ``whole`` 1 and ``mirror`` 0), rollouts begin on
    the log, and nobody recovers."""
    recover: Probability = 0.0
    """Share of the demos of moving vehicles that begin off their logs too, as ``perturb`` says, and are led back to
    their paths over 8 m, but not before 2.5 s; their actions are found anew, as in stretched variants."""

    @property
    def varies(self) -> bool:
        """Whether anything is varied at all."""
        return self.variants > 1 and (self.whole < 1 or self.mirror > 0)

    @property
    def searches(self) -> bool:
        """Whether actions of demos are found anew in variants."""
        return self.varies and (self.stretch > 1 or self.recover > 0)
