"""Rules of the simulation as data, and what all settings have in common; imports neither torch nor Warp.

Settings are pydantic dataclasses: a value that a field cannot have is refused when one is made, with a ``ValueError``,
and the docstrings of the fields can be read at run time (see :mod:`gail.config.document`).
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

SETTINGS = ConfigDict(extra="forbid", allow_inf_nan=False)
"""Common to all dataclasses of settings: no other fields, and its numbers are finite."""

Probability = Annotated[float, Field(ge=0, le=1)]
ProperFraction = Annotated[float, Field(ge=0, lt=1)]
Discount = Annotated[float, Field(gt=0, le=1)]

InitMode = Literal["all_non_trivial", "all_valid", "all_objects", "womd_tracks_to_predict"]
Behaviour = Literal["ignore", "stop", "remove"]
OffRoad = Literal["touch", "outside"]
RewardType = Literal["sparse_on_goal_achieved", "weighted_combination"]

GPUDRIVE_AGENTS = 64
"""That exist in one of GPUDrive's worlds, at most."""
_GPUDRIVE = {
    "on_goal": "remove", "box_scale": 0.7, "off_road": "touch", "replay_lag": True, "end_with_log": False,
    "teleport": True, "heights": False, "horizon": 91,
}  # fmt: skip
"""The switches that have no choice in GPUDrive."""


@dataclass(frozen=True, config=SETTINGS)
class Selection:
    """Which agents of a scene exist in the simulator, and which of them a policy controls (GPUDrive's init modes)."""

    init_mode: InitMode = "all_non_trivial"
    """``all_non_trivial``: moving agents valid at step 0 are controlled; ``all_valid``: parked ones too;
    ``all_objects``: as ``all_valid``, and agents of every type exist, also those that appear later;
    ``womd_tracks_to_predict``: exactly Waymo's tracks to predict are controlled, of whatever type, parked or not
    (GPUDrive means this but controls every object)."""
    remove_non_vehicles: bool = True
    """Leave out pedestrians and cyclists; ``all_objects`` keeps them whatever stands here, as in GPUDrive."""
    max_agents: NonNegativeInt | None = None
    """Most agents per world, in agent order (GPUDrive: 64); null: all."""
    max_controlled: NonNegativeInt | None = None
    """Most controlled agents per world, in agent order; null: all."""


@dataclass(frozen=True, config=SETTINGS)
class SimConfig:
    """Rules of the simulation. The defaults are the corrected ones that training uses."""

    compat: Literal["gpudrive"] | None = None
    """``gpudrive``: the rules are GPUDrive's as they are, quirks included; every switch below that has no choice there
    takes its value in place of the default, and another value is refused. ``selection``, ``on_collision``,
    ``goal_radius`` and the rewards are settings in GPUDrive too and stay free. See docs/simulator.md."""
    selection: Selection = field(default_factory=Selection)
    """Which agents exist, and which of them a policy controls."""
    on_collision: Behaviour = "ignore"
    """After a collision an agent drives on (and collides again), stops where it is, or leaves the world."""
    on_goal: Behaviour = "ignore"
    """At its goal an agent drives on, stops, or leaves the world. ``ignore`` gives every episode the same length, so a
    reward per step cannot pay for arriving late (facts on termination bias: Kostrikov et al. 2018)."""
    goal_radius: PositiveFloat = 2.0
    """Distance from its goal at which an agent has arrived, m."""
    box_scale: PositiveFloat = 0.7
    """Factor on length and width in collisions; 0.7 is GPUDrive's, 1 the true size."""
    off_road: OffRoad = "touch"
    """A vehicle is off the road while it touches a segment of a road edge or a stop sign (GPUDrive), or while a corner
    of its box lies beyond the nearest road edge (signed distance, as Waymo's metrics have it)."""
    heights: bool = True
    """Agents meet only where the heights of their boxes do, and road edges of another level, more than 2.4 m above or
    below the ground that an agent drives on, are no edges to it: bridges do not collide. An agent is as high as its
    log was where it came nearest. GPUDrive knows no heights."""
    replay_lag: bool = False
    """Agents that follow their log are one step behind, as in GPUDrive."""
    end_with_log: bool = True
    """An agent leaves, by truncation, where its log ends, so that policy and expert visit the same span. With
    ``false``, a policy's agents stay, but what an expert batch shows of other experts ends with their demos: a
    discriminator can see that."""
    teleport: bool = False
    """GPUDrive's handling of agents that are done: moved away in the next step even by ``stop``, replayed ones too,
    and their flags stay."""
    horizon: PositiveInt | None = None
    """Steps of an episode; null: as many as the log has (states minus one)."""
    reward: RewardType = "sparse_on_goal_achieved"
    """Reward of the environment itself, which ``algorithm: ppo`` learns from: 1 for arriving at the goal, or the
    weighted sum of the event flags, of which the goal's counts once (GPUDrive's rules pay every step at the goal)."""
    collision_weight: float = -0.5
    """In ``weighted_combination``: reward per step for every type of agent that is hit; negative punishes."""
    goal_achieved_weight: float = 1.0
    """In ``weighted_combination``: reward for arriving at the goal."""
    off_road_weight: float = -0.5
    """In ``weighted_combination``: reward per step off the road; negative punishes."""

    def __post_init__(self) -> None:
        """Take GPUDrive's switches.

        Raises:
            ValueError: for a rule that GPUDrive does not have.
        """
        if self.compat:
            self._follow_gpudrive()

    def _follow_gpudrive(self) -> None:
        for one in fields(self):
            if one.name in _GPUDRIVE:
                given, theirs = getattr(self, one.name), _GPUDRIVE[one.name]
                if given not in (one.default, theirs):
                    raise ValueError(
                        f"simulator: {one.name} is {given!r}, but with compat=gpudrive it is {theirs!r}; leave it out"
                    )
                object.__setattr__(self, one.name, theirs)

    @classmethod
    def gpudrive(cls, on_collision: Behaviour = "remove", selection: Selection | None = None) -> SimConfig:
        """GPUDrive's rules with its own defaults: agents that collide are removed, 64 agents per world."""
        return cls(
            compat="gpudrive", selection=selection or Selection(max_agents=GPUDRIVE_AGENTS), on_collision=on_collision
        )
