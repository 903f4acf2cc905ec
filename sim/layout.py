"""Layouts of an observation, as data: which fields an agent sees, in which order, at which scale.

An observation is ``ego | partners | road segments``, each a block of fixed size; absent entities are zero rows (road
rows: one-hot of type "none"). Two layouts exist:

* ``gpudrive``: GPUDrive's fields and scales (``gpudrive/env/env_torch.py``), 2,984 floats with 63 partners and 200
  segments, where the "collided" field is always part of the ego.
* ``entity``: the same world in fields that networks like: O(1) scales, headings as cosine and sine, relative
  velocities, the segment's nearest point, and the time that is left. The agent's own speed is negative while it drives
  backwards.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

from gail_cli.sim.config import SETTINGS

if TYPE_CHECKING:
    import torch

ROAD_TYPES = 7

_GPUDRIVE_EGO = ("speed/100", "0.7*length/30", "0.7*width/15", "goal x/1000", "goal y/1000", "collided")
_GPUDRIVE_PARTNER = ("speed/100", "x/1000", "y/1000", "relative heading/2pi", "0.7*length/30", "0.7*width/15")
_GPUDRIVE_ROAD = ("x/1000", "y/1000", "half-length/100", "half-width/100", "half-height/100", "relative heading/2pi")
_ENTITY_EGO = ("speed/20", "length/10", "width/5", "goal x/50", "goal y/50", "goal distance/50",
               "mean speed to the goal/20, at most 2", "time left/9 s")  # fmt: skip
_ENTITY_PARTNER = ("length/10", "width/5", "x/radius", "y/radius", "cos heading", "sin heading",
                   "relative vx/20", "relative vy/20")  # fmt: skip
_ENTITY_ROAD = ("nearest x/radius", "nearest y/radius", "cos heading", "sin heading", "ahead/radius", "behind/radius")
_ROAD_ONE_HOT = ("none", "road edge", "road line", "lane", "crosswalk", "speed bump", "stop sign")


@dataclass(frozen=True, config=SETTINGS)
class ObservationConfig:
    """Layout of an observation."""

    layout: Literal["entity", "gpudrive"] = "entity"
    """Which fields there are, at which scales: ``entity``, this project's, or ``gpudrive``, GPUDrive's own."""
    partners: PositiveInt = 16
    """Nearest other agents seen (GPUDrive: 63)."""
    road_segments: PositiveInt = 64
    """Road segments seen (GPUDrive: 200)."""
    radius: PositiveFloat = 50.0
    """How far an agent sees, m."""
    road_order: Literal["nearest", "nearest_midpoint", "first"] = "nearest"
    """``nearest`` by the nearest point of the segment, sorted; ``nearest_midpoint`` by its midpoint (GPUDrive's
    ``k_nearest_roadpoints``, which leaves them unsorted); ``first``: the first segments in map order by their midpoint
    (GPUDrive's default, ``linear``), which often are not the nearest."""

    @classmethod
    def gpudrive(cls, road_order: Literal["nearest_midpoint", "first"] = "first") -> ObservationConfig:
        """GPUDrive's observation of 2,984 floats; ``nearest_midpoint`` is its ``k_nearest_roadpoints``."""
        return cls("gpudrive", partners=63, road_segments=200, road_order=road_order)

    @property
    def ego_fields(self) -> tuple[str, ...]:
        """Names of the ego block's fields, with their scales."""
        return _GPUDRIVE_EGO if self.layout == "gpudrive" else _ENTITY_EGO

    @property
    def partner_fields(self) -> tuple[str, ...]:
        """Names of the fields of one partner."""
        return _GPUDRIVE_PARTNER if self.layout == "gpudrive" else _ENTITY_PARTNER

    @property
    def road_fields(self) -> tuple[str, ...]:
        """Names of the fields of one road segment."""
        return (*(_GPUDRIVE_ROAD if self.layout == "gpudrive" else _ENTITY_ROAD), *_ROAD_ONE_HOT)

    @property
    def size(self) -> int:
        """D, floats in an observation."""
        partners = self.partners * len(self.partner_fields)
        return len(self.ego_fields) + partners + self.road_segments * len(self.road_fields)

    def split(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Views of observations [..., D]: ego [..., E], partners [..., P, F], roads [..., R, G]."""
        p, r = self.partners * len(self.partner_fields), self.road_segments * len(self.road_fields)
        ego, partners, roads = observation.split([len(self.ego_fields), p, r], dim=-1)
        return (
            ego,
            partners.unflatten(-1, (self.partners, len(self.partner_fields))),
            roads.unflatten(-1, (self.road_segments, len(self.road_fields))),
        )

    def present(self, partners: torch.Tensor, roads: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which partners [..., P] and which segments [..., R] are really there (bool)."""
        return partners[..., self.partner_fields.index(self._length_field)] > 0, roads[..., -ROAD_TYPES] == 0

    @property
    def _length_field(self) -> str:
        return "0.7*length/30" if self.layout == "gpudrive" else "length/10"

    @property
    def hidden_from_discriminator(self) -> tuple[int, ...]:
        """Columns that would tell expert from policy by bookkeeping, not by driving: the collided flag."""
        return tuple(i for i, name in enumerate(self.ego_fields) if name == "collided")
