"""Scenes for the tests of simulator and expert: hand-made ones, random ones, and the real ones of ``../shared``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.sim.scenario import AgentType, Road, RoadType, Scenario, Tracks, TrafficLights
from gail_cli.sim.scene import Role, Scene, scene_from_scenario

# Warp compiles kernels at their first use, which no single example should be blamed for.
settings.register_profile("warp", deadline=None)
settings.load_profile("warp")

SHARED = Path(__file__).parents[2] / "shared"
STEPS = 11


@dataclass
class Agent:
    """A row of a scene; valid everywhere unless told otherwise."""

    log: np.ndarray
    type: AgentType = AgentType.VEHICLE
    size: tuple[float, float, float] = (4.0, 2.0, 1.5)
    role: int = 0
    valid: np.ndarray | None = None
    z: np.ndarray | None = None


def car(x=0.0, y=0.0, heading=0.0, speed=0.0, steps=STEPS, **rest):
    """An agent that drives straight on; it is parked at speed 0."""
    t, direction = np.arange(steps) * 0.1, np.array([np.cos(heading), np.sin(heading)])
    log = np.zeros((steps, 5))
    log[:, :2] = [x, y] + speed * t[:, None] * direction
    log[:, 2] = heading
    log[:, 3:] = speed * direction
    return Agent(log, **rest)


def valid_only(*steps, of=STEPS):
    return np.isin(np.arange(of), steps)


def scene(*agents, segments=(), segment_z=0.0, name="scene"):
    """A scene in its own frame; a segment is (road type, x, y, half-length, half-width, heading), and ``segment_z`` the
    height of all of them, of each, or [S, 2] of both ends of each."""
    steps = len(agents[0].log)
    valid = np.array([np.ones(steps, bool) if a.valid is None else a.valid for a in agents])
    return Scene(
        id=name,
        origin=np.zeros(2),
        origin_z=0.0,
        agent_id=np.arange(len(agents)),
        agent_type=np.array([a.type for a in agents], np.int8),
        agent_role=np.array([a.role for a in agents], np.uint8),
        agent_size=np.array([a.size for a in agents], np.float32),
        log=(np.array([a.log for a in agents]) * valid[..., None]).astype(np.float32),
        log_z=np.array([np.zeros(steps) if a.z is None else a.z for a in agents], np.float32) * valid,
        valid=valid,
        segment=np.array([s[1:] for s in segments], np.float32).reshape(-1, 5),
        segment_z=np.array(np.broadcast_to(np.transpose(segment_z), (2, len(segments))).T, np.float32),
        segment_type=np.array([s[0] for s in segments], np.int8),
        segment_map_type=np.zeros(len(segments), np.int8),
        segment_road=np.arange(len(segments)),
        light_lane=np.zeros(0, np.int64),
        light_state=np.zeros((0, steps), np.int8),
        light_stop_point=np.zeros((0, 2), np.float32),
        timestamp=np.arange(steps) * 0.1,
    )


def random_scene(seed, agents=10, segments=60, extent=80.0, steps=STEPS):
    """Agents of all types on straight tracks, some late, some that end early, some on their log; roads of all types."""
    rng = np.random.default_rng(seed)
    types = [AgentType.VEHICLE, AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.CYCLIST, AgentType.OTHER]
    rows = []
    for i in range(agents):
        valid = np.ones(steps, bool)
        if i % 5 == 3:
            valid[: rng.integers(1, steps)] = False
        if i % 5 == 4:
            valid[rng.integers(1, steps) :] = False
        rows.append(
            car(
                *rng.uniform(-extent / 2, extent / 2, 2),
                heading=rng.uniform(-np.pi, np.pi),
                speed=rng.uniform(3, 20),
                steps=steps,
                type=types[i % len(types)],
                size=tuple(rng.uniform([3, 1.5, 1], [6, 2.5, 3])),
                role=Role.MARK_AS_EXPERT if i % 5 == 2 else 0,
                valid=valid,
            )
        )
    roads = [
        (rng.integers(1, 7), *rng.uniform(-extent, extent, 2), rng.uniform(0, 8), 0.1, rng.uniform(-np.pi, np.pi))
        for _ in range(segments)
    ]
    return scene(*rows, segments=roads, name=f"random {seed}")


def moved(original, angle, shift):
    """The scene after a rigid motion: turned by ``angle`` about the origin, then shifted."""
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    log, segment = original.log.astype(np.float64), original.segment.astype(np.float64)
    log[..., :2] = log[..., :2] @ turn + shift
    log[..., 2] = wrapped(log[..., 2] + angle)
    log[..., 3:] = log[..., 3:] @ turn
    log[~original.valid] = 0.0
    segment[:, :2] = segment[:, :2] @ turn + shift
    segment[:, 4] = wrapped(segment[:, 4] + angle)
    return replace(original, log=log.astype(np.float32), segment=segment.astype(np.float32))


def wrapped(angle):
    return np.arctan2(np.sin(angle), np.cos(angle))


def scenario(position, roads=(), valid=None, **fields):
    """A logged scene of 4 x 2 x 1.5 m vehicles at positions [A, T, 2], with ids 100, 101, ..."""
    position = np.asarray(position, np.float64)
    count, steps = position.shape[:2]
    tracks = {
        "id": 100 + np.arange(count),
        "type": np.full(count, AgentType.VEHICLE, np.int8),
        "size": np.tile(np.float32([4, 2, 1.5]), (count, 1)),
        "position": np.concatenate([position, np.zeros((count, steps, 1))], axis=-1),
        "heading": np.zeros((count, steps), np.float32),
        "velocity": np.zeros((count, steps, 2), np.float32),
        "valid": np.ones((count, steps), bool) if valid is None else np.asarray(valid),
        "mark_as_expert": np.zeros(count, bool),
    }
    tracks.update({name: fields.pop(name) for name in list(fields) if name in tracks})
    return Scenario(
        id="hand-made",
        tracks=Tracks(**tracks),
        roads=tuple(roads),
        lights=fields.pop("lights", TrafficLights.none(steps)),
        timestamps=fields.pop("timestamps", np.arange(steps) * 0.1),
        **fields,
    )


def road(kind, points, number=0):
    points = np.asarray(points, np.float64).reshape(-1, 2)
    return Road(number, RoadType(kind), -1, np.concatenate([points, np.zeros((len(points), 1))], axis=1))


def scenes_equal(a, b):
    """Whether two scenes hold the same bits."""
    return all(np.array_equal(getattr(a, f.name), getattr(b, f.name)) for f in fields(Scene))


def shared(*names):
    """A file or folder of ``../shared``; the test is skipped where it is absent."""
    path = SHARED.joinpath(*names)
    if not path.exists():
        pytest.skip(f"{path} is absent: real Waymo data is not part of the project")
    return path


@cache
def real_scenario(name):
    return gpudrive_json.read(str(shared("womd", "scenes", name)))


@cache
def real_scenes():
    names = sorted(path.name for path in shared("womd", "scenes").glob("*.json.gz"))
    return tuple(scene_from_scenario(real_scenario(name)) for name in names)
