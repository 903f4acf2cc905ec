"""A scene as simulator and store hold it: a local float32 frame, GPUDrive's agent order, the map as segments.

Warp, which takes a second to import, is only needed where a scene is made of a log (:mod:`sim.polylines`).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.scenario import DT, RoadType, Scenario, SceneError

DEFAULT_STEPS = 91
"""Steps of a WOMD training or validation window (9.1 s), and of a GPUDrive episode."""

SIMPLIFY_AREA = 0.1
"""GPUDrive's ``polyline_reduction_threshold``, m^2."""

MAX_EXTENT = 1500.0
"""How far from the middle of its scene an agent can be, m; positions beyond are faults of the file."""

MAX_SPEED = 200.0
"""What no road user reaches, m/s."""

MAX_SIZE = 100.0
"""Length and width that no road user has, m."""

_FARTHEST = 1e7
"""Beyond this float32 does not resolve metres any more, m."""

PARKED_DISTANCE = 0.2
"""An agent whose goal is nearer than this to its start is parked (GPUDrive), m."""

HALF_WIDTH = 0.1
"""GPUDrive's half-width of a segment, m."""

HEIGHT_STEP = 1 / 64
"""Heights of a simplified scene are multiples of this, which compress well, m."""

_SIMPLIFIED = (RoadType.ROAD_EDGE, RoadType.ROAD_LINE, RoadType.LANE)
_BOXES = (RoadType.CROSSWALK, RoadType.SPEED_BUMP)
_MIN_SEGMENTS_TO_SIMPLIFY = 10
_STOP_SIGN_HALF_SIZE = 0.2


class Role(IntFlag):
    """What the log says of an agent, and what follows from its motion."""

    SDC = 1
    TRACK_TO_PREDICT = 2
    OBJECT_OF_INTEREST = 4
    MARK_AS_EXPERT = 8
    PARKED = 16
    """There at the first step, with a goal nearer than :data:`PARKED_DISTANCE`."""
    LATE = 32
    """Not there at the first step."""


@dataclass(frozen=True, eq=False)
class Scene:
    """A agents over T steps and S segments, in m, rad, m/s, relative to ``origin`` and ``origin_z``."""

    id: str
    origin: NDArray[np.float64]
    """[2] what was subtracted from every x and y of the log: the mean of the valid positions, or GPUDrive's own."""
    origin_z: float
    """What was subtracted from every z of the log: the mean of the valid positions; NaN where heights are not known,
    as in stores of format 2, and all of them are 0."""
    agent_id: NDArray[np.int64]
    """[A] the log's object ids, in GPUDrive's order: SDC, tracks to predict, objects of interest, the rest."""
    agent_type: NDArray[np.int8]
    """[A] :class:`~sim.scenario.AgentType`."""
    agent_role: NDArray[np.uint8]
    """[A] :class:`Role` flags."""
    agent_size: NDArray[np.float32]
    """[A, 3] length, width, height."""
    log: NDArray[np.float32]
    """[A, T, 5] x, y, heading, vx, vy; zero where not valid."""
    log_z: NDArray[np.float32]
    """[A, T] height of the middle of each box; zero where not valid."""
    valid: NDArray[np.bool_]
    """[A, T]."""
    segment: NDArray[np.float32]
    """[S, 5] midpoint x, y, half-length, half-width, heading."""
    segment_z: NDArray[np.float32]
    """[S, 2] heights of both ends, against and along its heading."""
    segment_type: NDArray[np.int8]
    """[S] :class:`~sim.scenario.RoadType`, 1 to 6."""
    segment_map_type: NDArray[np.int8]
    """[S] GPUDrive's ``map_element_id``."""
    segment_road: NDArray[np.int64]
    """[S] id of the map feature that the segment comes from."""
    light_lane: NDArray[np.int64]
    """[L] ids of the signalled lanes."""
    light_state: NDArray[np.int8]
    """[L, T] :class:`~sim.scenario.LightState`."""
    light_stop_point: NDArray[np.float32]
    """[L, 2] x, y."""
    timestamp: NDArray[np.float64]
    """[T] s."""

    @property
    def num_agents(self) -> int:
        """A."""
        return len(self.agent_id)

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.valid.shape[1])

    @cached_property
    def goal(self) -> NDArray[np.float32]:
        """[A, 2] where each agent's log ends (last valid position); zero for an agent that is never valid."""
        goal: NDArray[np.float32] = self.log[np.arange(self.num_agents), self.last_valid, :2]
        return goal

    @cached_property
    def last_valid(self) -> NDArray[np.int64]:
        """[A] last valid step of each agent, 0 when there is none."""
        steps = np.where(self.valid, np.arange(self.num_steps), 0).max(axis=1, initial=0)
        return np.asarray(steps, np.int64)

    @cached_property
    def parked(self) -> NDArray[np.bool_]:
        """[A] whether an agent stays where it is at the first step."""
        distance = np.linalg.norm(self.goal - self.log[:, 0, :2], axis=1)
        return np.asarray(self.valid[:, 0] & (distance < PARKED_DISTANCE))


Compat = Literal["gpudrive"] | None


def scene_from_scenario(
    scenario: Scenario, steps: int = DEFAULT_STEPS, simplify: float = SIMPLIFY_AREA, compat: Compat = None
) -> Scene:
    """Prepare a scenario for the simulator.

    Args:
        scenario: the logged scene.
        steps: T of the result; a longer log is cut, a shorter one ends with invalid steps.
        simplify: triangle area (m^2) below which a polyline point is left out, and heights become multiples of
            :data:`HEIGHT_STEP`; 0 keeps all points, and heights as they are.
        compat: ``gpudrive`` places everything where GPUDrive has it, to the last bit: coordinates are rounded to
            float32 before GPUDrive's float32 mean of agents and roads is subtracted. That costs up to 1e-3 m where
            the log's coordinates are large, but tips the same close calls.

    Raises:
        SceneError: when no track is valid at any kept step, or a number is none that a scene can hold.
    """
    tracks = scenario.tracks
    kept = min(steps, scenario.num_steps)
    order = _gpudrive_order(scenario)
    valid = np.zeros((scenario.num_agents, steps), np.bool_)
    valid[:, :kept] = tracks.valid[order, :kept]
    if not valid.any():
        raise SceneError(f"scene {scenario.id!r}", f"no track is valid in its first {steps} steps", "leave it out")
    positions = tracks.position[order, :kept, :2]
    there = positions[valid[:, :kept]]
    farthest = np.abs(there - np.median(there, axis=0)).max()
    if farthest > MAX_EXTENT:
        what = f"a valid position is {farthest:.3g} m from the others, more than {MAX_EXTENT:g} m"
        raise SceneError(f"scene {scenario.id!r}", what, "mend the file or leave it out")
    origin = there.mean(axis=0) if compat is None else _gpudrive_mean(scenario)
    frame = _Frame(origin, np.float64 if compat is None else np.float32)
    log = np.zeros((scenario.num_agents, steps, 5), np.float32)
    log[:, :kept, :2] = frame.local(positions)
    log[:, :kept, 2] = tracks.heading[order, :kept]
    log[:, :kept, 3:] = tracks.velocity[order, :kept]
    log[~valid] = 0.0
    z = tracks.position[order, :kept, 2]
    levels = _Heights(float(z[valid[:, :kept]].mean()), HEIGHT_STEP if simplify > 0 else 0.0)
    log_z = np.zeros(valid.shape, np.float32)
    log_z[:, :kept] = levels.local(z)
    log_z[~valid] = 0.0
    lights = scenario.lights
    light_state = np.full((len(lights.lane), steps), -1, np.int8)
    light_state[:, :kept] = lights.state[:, :kept]
    timestamp = scenario.timestamps[0] + np.arange(steps) * DT
    timestamp[:kept] = scenario.timestamps[:kept]
    scene = Scene(
        id=scenario.id,
        origin=origin,
        origin_z=levels.origin,
        agent_id=tracks.id[order],
        agent_type=tracks.type[order],
        agent_role=_roles(scenario)[order],
        agent_size=tracks.size[order],
        log=log,
        log_z=log_z,
        valid=valid,
        **_segments(scenario, frame, levels, simplify),
        light_lane=lights.lane,
        light_state=light_state,
        light_stop_point=frame.local(lights.stop_point[:, :2]),
        timestamp=timestamp,
    )
    check_scene(scene)
    scene.agent_role[scene.parked] |= np.uint8(Role.PARKED)
    scene.agent_role[~valid[:, 0]] |= np.uint8(Role.LATE)
    return scene


def check_scene(scene: Scene) -> None:
    """Whether a scene holds numbers that can be simulated.

    Raises:
        SceneError: naming the first that can not.
    """
    log, size, segment = scene.log[scene.valid], scene.agent_size[:, :2], scene.segment
    speed = np.hypot(log[:, 3].astype(np.float64), log[:, 4])
    problems = {
        "a valid step holds a number that is not finite": not np.isfinite(log).all(),
        "an agent's size is not finite": not np.isfinite(scene.agent_size).all(),
        f"an agent's length or width is not between 0 and {MAX_SIZE:g} m": not ((size > 0) & (size <= MAX_SIZE)).all(),
        f"an agent is faster than {MAX_SPEED:g} m/s": (speed > MAX_SPEED).any(),
        "a road segment holds a number that is not finite": not np.isfinite(segment).all(),
        "a height is not finite": not (np.isfinite(scene.log_z).all() and np.isfinite(scene.segment_z).all()),
        "a road segment's half-length or half-width is negative": (segment[:, 2:4] < 0).any(),
        f"a position is more than {_FARTHEST:g} m away": (np.abs(log[:, :2]) > _FARTHEST).any()
        or (np.abs(segment[:, :4]) > _FARTHEST).any(),
    }
    for what, holds in problems.items():
        if holds:
            raise SceneError(f"scene {scene.id!r}", what, "mend the file or leave the scene out")


@dataclass(frozen=True)
class _Frame:
    """A local frame: its origin in the log's world, and the precision in which that is subtracted."""

    origin: NDArray[np.float64]
    precision: type[np.floating]

    def local(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Points [..., 2] of the log in this frame."""
        return (points.astype(self.precision) - self.origin.astype(self.precision)).astype(np.float32)


@dataclass(frozen=True)
class _Heights:
    """Heights above an origin, in multiples of a step (0: as they are), m."""

    origin: float
    step: float

    def local(self, z: NDArray[np.float64]) -> NDArray[np.float32]:
        """Heights of the log above the origin."""
        above = z - self.origin
        return (np.round(above / self.step) * self.step if self.step else above).astype(np.float32)


def _gpudrive_mean(scenario: Scenario) -> NDArray[np.float64]:
    """GPUDrive's origin (src/json_serialization.hpp): a float32 running mean over all valid positions, then all road
    points, in the order of the file. Rounding moves it by centimetres from the exact mean."""
    tracks = scenario.tracks
    valid = tracks.valid[:, :DEFAULT_STEPS]  # GPUDrive reads no further
    agents = tracks.position[:, :DEFAULT_STEPS][valid][:, :2]
    points = [agents, *(road.points[:, :2] for road in scenario.roads)]
    from gail_cli.sim.polylines import running_mean

    return running_mean(np.concatenate(points).astype(np.float32)).astype(np.float64)


def _roles(scenario: Scenario) -> NDArray[np.uint8]:
    roles = np.where(scenario.tracks.mark_as_expert, Role.MARK_AS_EXPERT, 0).astype(np.uint8)
    if scenario.sdc_index >= 0:
        roles[scenario.sdc_index] |= np.uint8(Role.SDC)
    roles[scenario.tracks_to_predict] |= np.uint8(Role.TRACK_TO_PREDICT)
    roles[np.isin(scenario.tracks.id, scenario.objects_of_interest)] |= np.uint8(Role.OBJECT_OF_INTEREST)
    return roles


def _gpudrive_order(scenario: Scenario) -> NDArray[np.int64]:
    """Indices of the tracks: SDC, tracks to predict, objects of interest, the rest; each group in the log's order."""
    first = [scenario.sdc_index] if scenario.sdc_index >= 0 else []
    interest = np.flatnonzero(np.isin(scenario.tracks.id, scenario.objects_of_interest))
    predict = np.sort(scenario.tracks_to_predict)
    ranked = [*first, *predict.tolist(), *interest.tolist(), *range(scenario.num_agents)]
    return np.array(list(dict.fromkeys(ranked)), np.int64)


def _segments(scenario: Scenario, frame: _Frame, levels: _Heights, simplify: float) -> dict[str, Any]:
    """The five segment arrays of a scene, in the order of the map features."""
    roads = [r for r in scenario.roads if RoadType.NONE < r.type < RoadType.DRIVEWAY and np.isfinite(r.points).all()]
    points = [r.points for r in roads]
    long = [i for i, r in enumerate(roads) if r.type in _SIMPLIFIED and len(points[i]) > _MIN_SEGMENTS_TO_SIMPLIFY]
    if long and simplify > 0:
        from gail_cli.sim.polylines import kept_points

        # GPUDrive decides in float32 on the log's own coordinates, whose rounding tips close calls.
        flat = [points[i][:, :2].astype(np.float32) for i in long]
        for i, kept in zip(long, kept_points(flat, simplify), strict=True):
            points[i] = points[i][kept]
    tables = [_feature_segments(r.type, p[:, :2], frame) for r, p in zip(roads, points, strict=True)]
    ends = [_segment_ends(p[:, 2], len(t)) for p, t in zip(points, tables, strict=True)]
    counts = [len(t) for t in tables]
    return {
        "segment": np.concatenate([*tables, np.zeros((0, 5), np.float32)]),
        "segment_z": levels.local(np.concatenate([*ends, np.zeros((0, 2))])),
        "segment_type": np.repeat(np.array([r.type for r in roads], np.int8), counts),
        "segment_map_type": np.repeat(np.array([r.map_type for r in roads], np.int8), counts),
        "segment_road": np.repeat(np.array([r.id for r in roads], np.int64), counts),
    }


def _segment_ends(z: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """[count, 2] heights of both ends of a feature's segments from those of its points; a box is level."""
    if count == len(z) - 1:
        return np.stack([z[:-1], z[1:]], axis=1)
    return np.full((count, 2), z[:4].mean())


def _feature_segments(road_type: RoadType, logged: NDArray[np.float64], frame: _Frame) -> NDArray[np.float32]:
    """[n, 5] segments of one map feature, given by its points in the log; none when it has too few."""
    points = frame.local(logged)
    if road_type == RoadType.STOP_SIGN and len(points):
        half = _STOP_SIGN_HALF_SIZE
        return np.array([[*points[0], half, half, 0.0]], np.float32)
    if road_type in _BOXES:
        return _box(logged[:4], frame) if len(points) >= 4 else np.zeros((0, 5), np.float32)
    middle, reach = (points[1:] + points[:-1]) / 2, (points[1:] - points[:-1]) / 2
    length = np.hypot(reach[:, 0], reach[:, 1])
    heading = np.arctan2(reach[:, 1], reach[:, 0])
    table = np.stack([middle[:, 0], middle[:, 1], length, np.full_like(length, HALF_WIDTH), heading], axis=1)
    return table.astype(np.float32)


def _box(logged: NDArray[np.float64], frame: _Frame) -> NDArray[np.float32]:
    """[1, 5] one box around four corners: the longest side gives length and heading, the shortest the width.

    As in GPUDrive the middle is found before the frame's origin is subtracted; and of the two opposite sides the longer
    one is chosen by the rounded coordinates of the log, which decides which way the heading points.
    """
    sides, lengths = _sides(frame.local(logged))
    longest = sides[_sides(logged.astype(np.float32))[1].argmax()]
    x, y = frame.local(logged.astype(frame.precision).mean(axis=0))
    return np.array([[x, y, lengths.max() / 2, lengths.min() / 2, np.arctan2(longest[1], longest[0])]], np.float32)


def _sides(corners: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sides [4, 2] of a quadrilateral, and their lengths [4]."""
    sides = np.roll(corners, -1, axis=0) - corners
    return sides, np.hypot(sides[:, 0], sides[:, 1])
