"""Layouts of an observation, as data: which fields an agent sees, in which order, at which scale.

An observation is ``ego | partners | road segments | traffic lights``, each a block of fixed size; absent entities are
zero rows (road rows: one-hot of type "none"). Two layouts exist:

* ``gpudrive``: GPUDrive's fields and scales (``gpudrive/env/env_torch.py``), 2,984 floats with 63 partners and 200
  segments, where the "collided" field is always part of the ego; no lights.
* ``entity``: the same world in fields that networks like: O(1) scales, headings as cosine and sine, relative
  velocities, the segment's nearest point, the time that is left, and what the lights show. The agent's own speed is
  negative while it drives backwards.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator
from pydantic.dataclasses import dataclass

from gail_cli.sim.config import SETTINGS
from gail_cli.sim.fields import (
    DANGER,
    HISTORY_EGO,
    HISTORY_PARTNER,
    LEADER,
    MOST_HISTORY,
    NEAR_EGO,
    NEAR_PARTNER,
    NEAR_ROAD,
    NO_HEADWAY,
    RAYS,
    ROUTE,
)

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
_ENTITY_LIGHT = ("stop point x/radius", "stop point y/radius", "cos lane heading", "sin lane heading")
_LIGHT_ONE_HOT = ("stop", "caution", "go", "unknown")
_ROAD_ONE_HOT = ("none", "road edge", "road line", "lane", "crosswalk", "speed bump", "stop sign")


LIGHTS = 4
"""Traffic lights seen by default."""


class Blocks(NamedTuple):
    """The parts of observations."""

    ego: torch.Tensor
    """[..., E]."""
    partners: torch.Tensor
    """[..., P, F]."""
    roads: torch.Tensor
    """[..., R, G]."""
    lights: torch.Tensor
    """[..., L, H]."""


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
    road_order: Literal["nearest", "ahead", "nearest_midpoint", "first"] = "nearest"
    """``nearest`` by the nearest point of the segment, sorted; ``ahead``: the same, but distance ahead in the direction
    of travel counts a third, and behind twice; ``nearest_midpoint`` by its midpoint (GPUDrive's
    ``k_nearest_roadpoints``, which leaves them unsorted); ``first``: the first segments in map order by their midpoint
    (GPUDrive's default, ``linear``), which often are not the nearest."""
    lights: NonNegativeInt = LIGHTS
    """Traffic lights seen, the nearest first: those ahead, of lanes that go the agent's way (within 60 degrees), before
    all others. 0: none, as always with ``layout: gpudrive``, and in runs of earlier versions."""

    goal: Literal["point", "none"] = "point"
    """``point``: an agent sees where its log ends, and how fast it must be to get there. That tells much of what it
    will do, and where to turn; ``none``: all that follows from the goal is zero. In earlier versions true and false."""
    time_left: bool = True
    """Whether an agent sees how long its episode lasts, and what follows from it; without, these fields are zero."""
    near: bool | None = None
    """Whether there are fields in which geometry is shown again, on a scale that resolves decimetres; null: with layout
    ``entity``, as only that can have them."""
    rays: bool | None = None
    """Whether the ego sees the nearest road edge and the nearest other box in 32 directions; null: with layout
    ``entity``."""
    danger: bool | None = None
    """Whether the ego sees how close it will come to others and to road edges in the next seconds if it goes straight
    on, or on an arc to its goal, and who leads there; null: with layout ``entity``."""
    route: bool | None = None
    """Whether the ego sees the way to its goal along the lanes of the map, from where its episode begins; null: with
    layout ``entity``, as only that can have it. Where no goal is seen, there is no way to it either."""
    history: Annotated[int, Field(ge=0, le=MOST_HISTORY)] = 0
    """Steps of 0.1 s of which the ego sees how it accelerated and turned; of partners it sees the same of the last
    step. Steps before an episode's start are zero. 0: no history, as always with ``layout: gpudrive``."""

    @field_validator("goal", mode="before")
    @classmethod
    def _earlier(cls, goal: Any) -> Any:
        """What was true and false before."""
        return {True: "point", False: "none"}[goal] if isinstance(goal, bool) else goal

    def __post_init__(self) -> None:
        """Leave out the lights where the layout has none, and have what the layout has if nothing else is asked for.

        Raises:
            ValueError: when something is asked for that the layout does not have, or the goal shall not be seen there.
        """
        for name in ("near", "rays", "danger"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, self.layout == "entity")
        if self.route is None or self.goal == "none":
            object.__setattr__(self, "route", self.layout == "entity" and self.goal == "point")
        if self.layout == "gpudrive":
            if self.goal == "none":
                raise ValueError("observation: goal is none, but layout gpudrive always has it; leave it out")
            if self.near:
                raise ValueError("observation: near is true, but layout gpudrive has no near fields; leave it out")
            if self.route:
                raise ValueError("observation: route is true, but layout gpudrive has no route; leave it out")
            if self.history:
                raise ValueError(f"observation: history is {self.history}, but layout gpudrive has none; leave it out")
            if self.lights not in (0, LIGHTS):
                raise ValueError(f"observation: lights is {self.lights}, but layout gpudrive has none; leave it out")
            object.__setattr__(self, "lights", 0)

    @classmethod
    def gpudrive(cls, road_order: Literal["nearest_midpoint", "first"] = "first") -> ObservationConfig:
        """GPUDrive's observation of 2,984 floats; ``nearest_midpoint`` is its ``k_nearest_roadpoints``."""
        return cls("gpudrive", partners=63, road_segments=200, road_order=road_order)

    @property
    def ego_fields(self) -> tuple[str, ...]:
        """Names of the ego block's fields, with their scales."""
        own = _GPUDRIVE_EGO if self.layout == "gpudrive" else _ENTITY_EGO + NEAR_EGO * bool(self.near)
        looks = RAYS * bool(self.rays) + DANGER * bool(self.danger) + ROUTE * bool(self.route)
        return own + looks + HISTORY_EGO[: 2 * self.history]

    @property
    def looks(self) -> bool:
        """Whether the ego block shows what is around, in rays or danger numbers."""
        return bool(self.rays or self.danger)

    @property
    def first_ray(self) -> int:
        """Column of the first ray; -1 without."""
        return self.ego_fields.index(RAYS[0]) if self.rays else -1

    @property
    def first_danger(self) -> int:
        """Column of the first danger number; -1 without."""
        return self.ego_fields.index(DANGER[0]) if self.danger else -1

    @property
    def first_route(self) -> int:
        """Column of the first field of the route; -1 without."""
        return self.ego_fields.index(ROUTE[0]) if self.route else -1

    def nothing(self, boxes: bool, edges: bool) -> dict[int, float]:
        """Columns of the ego's fields that show other boxes, or roads, with their values when none is in sight.

        They are an observation's columns, too, since the ego block is the first.
        """
        far = math.asinh(self.radius / 0.5) / 3
        none = {
            "collided": 0.0,
            "route": 0.0,
            "separation/4": 1.0,
            "deg": far,
            "1/(1 + d/m)": 1 / (1 + self.radius),
            **dict(zip(LEADER, (far, 0.0, 0.0, NO_HEADWAY), strict=True)),
        }
        wanted = ("box", "leader", "collided") * boxes + ("edge", "route") * edges
        return {
            column: next(value for key, value in reversed(none.items()) if key in name)
            for column, name in enumerate(self.ego_fields)
            if name.startswith(wanted)
        }

    @property
    def partner_fields(self) -> tuple[str, ...]:
        """Names of the fields of one partner."""
        if self.layout == "gpudrive":
            return _GPUDRIVE_PARTNER
        return _ENTITY_PARTNER + NEAR_PARTNER * bool(self.near) + HISTORY_PARTNER * bool(self.history)

    @property
    def road_fields(self) -> tuple[str, ...]:
        """Names of the fields of one road segment."""
        shape = _GPUDRIVE_ROAD if self.layout == "gpudrive" else _ENTITY_ROAD + NEAR_ROAD * bool(self.near)
        return (*shape, *_ROAD_ONE_HOT)

    @property
    def light_fields(self) -> tuple[str, ...]:
        """Names of the fields of one traffic light."""
        return () if self.layout == "gpudrive" else (*_ENTITY_LIGHT, *_LIGHT_ONE_HOT)

    @property
    def entities(self) -> tuple[tuple[str, int, tuple[str, ...]], ...]:
        """Name, number and fields of the entities of each block of an observation, in order."""
        blocks = (
            ("ego", 1, self.ego_fields),
            ("partner", self.partners, self.partner_fields),
            ("road segment", self.road_segments, self.road_fields),
            ("traffic light", self.lights, self.light_fields),
        )
        return blocks if self.lights else blocks[:3]

    @property
    def size(self) -> int:
        """D, floats in an observation."""
        return sum(count * len(fields) for _, count, fields in self.entities)

    def split(self, observation: torch.Tensor) -> Blocks:
        """Views of observations [..., D]."""
        shapes = [(count, len(fields)) for _, count, fields in self.entities]
        ego, *blocks = observation.split([count * fields for count, fields in shapes], dim=-1)
        found = [block.unflatten(-1, shape) for block, shape in zip(blocks, shapes[1:], strict=True)]
        if not self.lights:
            found.append(observation.new_zeros(*observation.shape[:-1], 0, len(self.light_fields)))
        return Blocks(ego, *found)

    def present(
        self, partners: torch.Tensor, roads: torch.Tensor, lights: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Which partners [..., P], segments [..., R] and lights [..., L] are really there (bool)."""
        return (
            partners[..., self.partner_fields.index(self._length_field)] > 0,
            roads[..., -ROAD_TYPES] == 0,
            lights[..., len(_ENTITY_LIGHT) :].sum(dim=-1) > 0,
        )

    @property
    def _length_field(self) -> str:
        return "0.7*length/30" if self.layout == "gpudrive" else "length/10"

    @property
    def hidden_from_discriminator(self) -> tuple[int, ...]:
        """Columns that would tell expert from policy by bookkeeping, not by driving: the collided flag."""
        return tuple(i for i, name in enumerate(self.ego_fields) if name == "collided")
