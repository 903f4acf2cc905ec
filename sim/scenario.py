"""The one in-memory form of a logged traffic scene; every reader returns it.

SI units and radians. Positions stay in the log's own world frame in float64 (Waymo's coordinates reach tens of
kilometres, where float32 resolves only millimetres); :mod:`sim.scene` moves them to a local float32 frame.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.errors import UserError

DT = 0.1
"""Seconds between two logged steps, in WOMD and in GPUDrive."""


class AgentType(IntEnum):
    """What a track is; values of ``Track.ObjectType`` in Waymo's ``scenario.proto``."""

    UNSET = 0
    VEHICLE = 1
    PEDESTRIAN = 2
    CYCLIST = 3
    OTHER = 4


class RoadType(IntEnum):
    """What a road feature is; 0 to 6 are GPUDrive's entity types, in the order of its one-hot."""

    NONE = 0
    ROAD_EDGE = 1
    ROAD_LINE = 2
    LANE = 3
    CROSSWALK = 4
    SPEED_BUMP = 5
    STOP_SIGN = 6
    DRIVEWAY = 7


class LightState(IntEnum):
    """State of a signalled lane; values of ``TrafficSignalLaneState.State`` in Waymo's ``map.proto``."""

    ABSENT = -1
    UNKNOWN = 0
    ARROW_STOP = 1
    ARROW_CAUTION = 2
    ARROW_GO = 3
    STOP = 4
    CAUTION = 5
    GO = 6
    FLASHING_STOP = 7
    FLASHING_CAUTION = 8


@dataclass(frozen=True, eq=False)
class Tracks:
    """Logged agents. A agents, T steps; entries of invalid steps are zero."""

    id: NDArray[np.int64]
    """[A] the log's own object ids."""
    type: NDArray[np.int8]
    """[A] :class:`AgentType`."""
    size: NDArray[np.float32]
    """[A, 3] length, width, height in m, taken at the last valid step (GPUDrive's rule)."""
    position: NDArray[np.float64]
    """[A, T, 3] box centre in m, world frame."""
    heading: NDArray[np.float32]
    """[A, T] rad, within [-pi, pi]."""
    velocity: NDArray[np.float32]
    """[A, T, 2] m/s, world frame."""
    valid: NDArray[np.bool_]
    """[A, T]."""
    mark_as_expert: NDArray[np.bool_]
    """[A] GPUDrive's converter flag: it must follow its log, which touches something."""


@dataclass(frozen=True, eq=False)
class Road:
    """One map feature as a polyline (a single point for a stop sign, the outline for a crosswalk or speed bump)."""

    id: int
    type: RoadType
    map_type: int
    """GPUDrive's ``map_element_id``: 0-3 lane, 5-13 road line, 14-16 road edge, 17 stop sign, 18 crosswalk,
    19 speed bump, 20 driveway, -1 unknown."""
    points: NDArray[np.float64]
    """[P, 3] m, world frame."""


@dataclass(frozen=True, eq=False)
class TrafficLights:
    """Signalled lanes. L lanes, T steps."""

    lane: NDArray[np.int64]
    """[L] id of the lane's map feature."""
    state: NDArray[np.int8]
    """[L, T] :class:`LightState`; ``ABSENT`` where the log has no entry."""
    stop_point: NDArray[np.float64]
    """[L, 3] m, world frame."""

    @staticmethod
    def none(steps: int) -> TrafficLights:
        """No signalled lane at all."""
        return TrafficLights(np.zeros(0, np.int64), np.zeros((0, steps), np.int8), np.zeros((0, 3)))


@dataclass(frozen=True, eq=False)
class Scenario:
    """A logged scene: A agents over T steps, the map, the lights, and Waymo's own roles."""

    id: str
    tracks: Tracks
    roads: tuple[Road, ...]
    lights: TrafficLights
    timestamps: NDArray[np.float64]
    """[T] s."""
    current_index: int = 10
    """Step that splits history from future (WOMD: 10)."""
    sdc_index: int = -1
    """Track of the recording car, -1 when unknown."""
    tracks_to_predict: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[K] indices into the tracks."""
    difficulty: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[K] difficulty 0-2 of each track to predict."""
    objects_of_interest: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Object ids (not indices)."""
    name: str = ""
    """File name that GPUDrive knows the scene by; may be empty."""
    repairs: tuple[str, ...] = ()
    """What the reader had to repair, one sentence each."""

    @property
    def num_agents(self) -> int:
        """A."""
        return len(self.tracks.id)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.timestamps)

    def __post_init__(self) -> None:
        """Check that the arrays fit each other.

        Raises:
            ValueError: naming the first array whose shape does not fit.
        """
        a, t = self.num_agents, self.num_steps
        tracks, lights = self.tracks, self.lights
        expected: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
            "tracks.type": (tracks.type, (a,)),
            "tracks.size": (tracks.size, (a, 3)),
            "tracks.position": (tracks.position, (a, t, 3)),
            "tracks.heading": (tracks.heading, (a, t)),
            "tracks.velocity": (tracks.velocity, (a, t, 2)),
            "tracks.valid": (tracks.valid, (a, t)),
            "tracks.mark_as_expert": (tracks.mark_as_expert, (a,)),
            "lights.state": (lights.state, (len(lights.lane), t)),
            "lights.stop_point": (lights.stop_point, (len(lights.lane), 3)),
            "difficulty": (self.difficulty, self.tracks_to_predict.shape),
        }
        for name, (array, shape) in expected.items():
            if array.shape != shape:
                raise ValueError(f"scene {self.id!r}: {name} has shape {array.shape}, expected {shape}")
        indices = [self.sdc_index, *self.tracks_to_predict.tolist()]
        if any(not -1 <= i < a for i in indices):
            raise ValueError(f"scene {self.id!r}: a role names track {max(indices)}, but there are {a} tracks")


class SceneError(UserError):
    """A logged scene, or a file of scenes, that cannot be used."""


def repaired(scenario: Scenario) -> Scenario:
    """The scene in the form that every reader returns, with what was done to it added to ``repairs``.

    Headings are wrapped (in Waymo's files they are not: 7.8 rad occurs). Steps that hold a number which is not finite
    become invalid, and entries of invalid steps zero. Tracks without a
    valid step or without a positive length and width are left out, and ``sdc_index`` and ``tracks_to_predict`` follow.
    So are map points that are not finite, and map features without points.

    Raises:
        SceneError: when no track is left.
    """
    tracks, repairs = scenario.tracks, list(scenario.repairs)
    finite = np.isfinite(np.concatenate([tracks.position, tracks.heading[..., None], tracks.velocity], -1)).all(-1)
    valid = tracks.valid & finite
    if broken := int((tracks.valid & ~finite).sum()):
        repairs.append(f"{broken} valid step(s) hold a number that is not finite and are taken as invalid")
    sized = np.isfinite(tracks.size).all(1) & (tracks.size[:, :2] > 0).all(1)
    keep = valid.any(1) & sized
    if not keep.any():
        raise SceneError("", f"scene {scenario.id!r} has no track with a valid step and a size", "leave it out")
    if not keep.all():
        ids = ", ".join(map(str, tracks.id[~keep].tolist()))
        repairs.append(f"{int((~keep).sum())} track(s) without a valid step or a size are left out: id {ids}")

    place = np.where(keep, np.cumsum(keep) - 1, -1)
    goes_on = keep[scenario.tracks_to_predict]
    return replace(
        scenario,
        tracks=Tracks(
            id=tracks.id[keep],
            type=tracks.type[keep],
            size=tracks.size[keep],
            position=np.where(valid[..., None], tracks.position, 0)[keep],
            heading=_wrapped(np.where(valid, tracks.heading, np.float32(0))[keep]),
            velocity=np.where(valid[..., None], tracks.velocity, np.float32(0))[keep],
            valid=valid[keep],
            mark_as_expert=tracks.mark_as_expert[keep],
        ),
        roads=_finite_roads(scenario.roads, repairs),
        sdc_index=int(place[scenario.sdc_index]) if scenario.sdc_index >= 0 else -1,
        tracks_to_predict=place[scenario.tracks_to_predict[goes_on]],
        difficulty=scenario.difficulty[goes_on],
        repairs=tuple(repairs),
    )


def wrap_angles(angle: NDArray[np.floating]) -> NDArray[np.float64]:
    """Angles in rad brought into [-pi, pi)."""
    return (np.asarray(angle, np.float64) + np.pi) % (2 * np.pi) - np.pi


def _wrapped(heading: NDArray[np.float32]) -> NDArray[np.float32]:
    """Headings within [-pi, pi]; those that already are keep their exact value."""
    return np.where(np.abs(heading) <= np.float32(np.pi), heading, wrap_angles(heading).astype(np.float32))


def _finite_roads(roads: tuple[Road, ...], repairs: list[str]) -> tuple[Road, ...]:
    finite = [np.isfinite(road.points).all(-1) for road in roads]
    if broken := sum(int((~rows).sum()) for rows in finite):
        repairs.append(f"{broken} map point(s) hold a number that is not finite and are left out")
    roads = tuple(
        road if rows.all() else replace(road, points=road.points[rows])
        for road, rows in zip(roads, finite, strict=True)
    )
    if empty := [str(road.id) for road in roads if not len(road.points)]:
        repairs.append(f"{len(empty)} map feature(s) without points are left out: id {', '.join(empty)}")
    return tuple(road for road in roads if len(road.points))
