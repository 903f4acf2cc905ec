"""Synthetic traffic as official WOMD ``Scenario`` protos in TFRecord files.

Everything is a function of the seed: the same seed gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.data.agents import STEPS, WARM_UP, Agent, crossers, drivers, parked_cars, signals, strollers
from gail_cli.data.checks import fault
from gail_cli.data.geometry import Array, resample, rigid, unit, wrap
from gail_cli.data.roads import Control, RoadMap
from gail_cli.data.templates import junction, on_ramp, winding_road
from gail_cli.data.traffic import Mask
from gail_cli.pipeline.readers.protos import map_pb2, scenario_pb2
from gail_cli.pipeline.readers.tfrecord import write_records
from gail_cli.sim.scenario import DT, AgentType, LightState

CURRENT = 10
"""Index of the current step."""
TEMPLATES: dict[str, Callable[[np.random.Generator], RoadMap]] = {
    "road": winding_road,
    "stop-signs": partial(junction, control=Control.STOP_SIGNS),
    "signals": partial(junction, control=Control.SIGNALS),
    "ramp": on_ramp,
}
"""Kinds of scene, by name."""
_ATTEMPTS = 60
_GRID = 2.0**-14
"""Positions are multiples of this (0.06 mm), so that the last bit of a sine, which differs between processors, is
not in the files."""


@dataclass(frozen=True, eq=False)
class _Scene:
    road: RoadMap
    agents: list[Agent]
    visible: Mask
    """[A, STEPS]."""
    moving: Mask
    """[A] vehicles in traffic that are there at the start and cover some ground."""
    lights: NDArray[np.int8] | None
    """[STEPS, R] per route."""


def generate_scenario(seed: int, kind: str | None = None) -> scenario_pb2.Scenario:
    """A scene of plausible traffic.

    Args:
        seed: of all that is drawn.
        kind: of :data:`TEMPLATES`; drawn when None.

    Raises:
        RuntimeError: when no attempt gave traffic without a fault.
        ValueError: for a negative seed.
    """
    drawn = list(TEMPLATES)[np.random.default_rng(seed).integers(len(TEMPLATES))]
    template = TEMPLATES[kind or drawn]
    reasons = set()
    for attempt in range(_ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        scene = _draw(template(rng), rng)
        reason = _objection(scene)
        if reason is None:
            return _write(scene, f"{int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]):016x}", rng)
        reasons.add(reason)
    raise RuntimeError(
        f"seed {seed}: no scene without a fault in {_ATTEMPTS} attempts ({', '.join(sorted(reasons))}); "
        "use another seed, and report this one"
    )


def write_scenarios(
    folder: str | Path, scenes: int, seed: int = 0, scenes_per_file: int = 4, kind: str | None = None
) -> list[Path]:
    """Write scenes to ``synthetic-00000-of-0000N.tfrecord`` and so on; returns the paths.

    Scene i depends only on (seed, i) and the kind (see :func:`generate_scenario`), whatever the number of scenes.

    Raises:
        ValueError: when there is nothing to write.
        OSError: when the folder cannot be written.
    """
    if scenes < 1 or scenes_per_file < 1:
        raise ValueError(f"cannot write {scenes} scenes, {scenes_per_file} per file: both must be at least 1")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = -(-scenes // scenes_per_file)
    paths = []
    for file in range(files):
        path = folder / f"synthetic-{file:05d}-of-{files:05d}.tfrecord"
        indices = range(file * scenes_per_file, min(scenes, (file + 1) * scenes_per_file))
        protos = (generate_scenario(scene_seed(seed, i), kind) for i in indices)
        write_records(str(path), (proto.SerializeToString(deterministic=True) for proto in protos))
        paths.append(path)
    return paths


def scene_seed(seed: int, index: int) -> int:
    """Seed of one scene of a set."""
    return int(np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0])


def _draw(road: RoadMap, rng: np.random.Generator) -> _Scene:
    """Let traffic run on a map; the result may have faults."""
    walkers, closed = crossers(road, rng)
    lights = signals(road, rng) if road.control is Control.SIGNALS else None
    if lights is not None:
        closed |= lights != LightState.GO
    agents = drivers(road, closed, rng) + walkers + parked_cars(road, rng) + strollers(road, rng)
    agents = [agents[i] for i in rng.permutation(len(agents)) if agents[i].present[: CURRENT + 1].all()]
    visible = np.array([agent.present & _seen(rng) for agent in agents])
    far = np.array([agent.speed[agent.present].sum() * DT > 3.0 for agent in agents])
    moving = far & visible[:, 0] & np.array([agent.type == AgentType.VEHICLE for agent in agents])
    return _Scene(road, agents, visible, moving, None if lights is None else lights[WARM_UP:])


def _seen(rng: np.random.Generator) -> Mask:
    """When the recording car sees an agent: mostly always; some appear late, leave early, or are lost in between."""
    seen = np.ones(STEPS, dtype=bool)
    kind = rng.random()
    if kind < 0.12:
        seen[: rng.integers(3, 60)] = False
    elif kind < 0.22:
        seen[rng.integers(45, STEPS - 5) :] = False
    elif kind < 0.32:
        start = rng.integers(12, 75)
        seen[start : start + rng.integers(2, 9)] = False
    return seen


def _objection(scene: _Scene) -> str | None:
    """Why a scene is not good enough, None when it is."""
    if not 4 <= scene.moving.sum() <= 12:
        return "not 4 to 12 moving vehicles"
    if not (scene.moving & scene.visible.all(1)).any():
        return "no vehicle that can be the recording car"
    return fault(scene.agents, [resample(edge, 1.0) for edge in scene.road.edges + scene.road.medians])


def _write(scene: _Scene, scenario_id: str, rng: np.random.Generator) -> scenario_pb2.Scenario:
    """The scene as a proto, somewhere in the world."""
    rotation, translation = float(rng.uniform(-np.pi, np.pi)), rng.uniform(2e3, 1e4, 2) * rng.choice([-1, 1], 2)

    def world(points: Array) -> Array:
        return np.round(rigid(points, rotation, translation) / _GRID) * _GRID

    scenario = scenario_pb2.Scenario(scenario_id=scenario_id, current_time_index=CURRENT)
    scenario.timestamps_seconds.extend(step / 10 for step in range(STEPS))
    ids = rng.choice(np.arange(1, 4000), len(scene.agents), replace=False)
    for agent, track_id, visible in zip(scene.agents, ids, scene.visible, strict=True):
        track = scenario.tracks.add(id=int(track_id), object_type=int(agent.type))
        _add_states(track, agent, visible, world(agent.position), agent.heading + rotation)
    _add_roles(scenario, scene, rng)
    _add_map(scenario, scene.road, world)
    _add_lights(scenario, scene, world)
    return scenario


def _add_states(track: Any, agent: Agent, visible: Mask, position: Array, heading: Array) -> None:
    length, width, height = agent.size
    heading, velocity = wrap(heading), agent.speed[:, None] * unit(heading)
    for valid, (x, y), angle, (vx, vy) in zip(visible, position, heading, velocity, strict=True):
        if not valid:
            track.states.add(valid=False)
            continue
        track.states.add(
            center_x=x, center_y=y, length=length, width=width, height=height, heading=angle,
            velocity_x=vx, velocity_y=vy, valid=True,
        )  # fmt: skip


def _add_roles(scenario: scenario_pb2.Scenario, scene: _Scene, rng: np.random.Generator) -> None:
    """Choose the recording car, the tracks to predict (movers first), and perhaps a pair of interest."""
    sdc = int(rng.choice(np.flatnonzero(scene.moving & scene.visible.all(1))))
    scenario.sdc_track_index = sdc
    there = scene.visible[:, CURRENT] & (np.arange(len(scene.agents)) != sdc)
    movers, others = np.flatnonzero(there & scene.moving), np.flatnonzero(there & ~scene.moving)
    chosen = np.concatenate([rng.permutation(movers)[: rng.integers(2, 7)], rng.permutation(others)[:2]])
    for index in chosen:
        agent = scene.agents[index]
        hard = np.ptp(agent.heading) > 0.5 or np.ptp(agent.speed) > 6.0
        scenario.tracks_to_predict.add(track_index=int(index), difficulty=2 if hard else 1)
    if rng.random() < 0.5:
        scenario.objects_of_interest.extend(scenario.tracks[index].id for index in chosen[:2])


def _add_points(target: Any, points: Array) -> None:
    for x, y in points:
        target.add(x=x, y=y)


def _add_map(scenario: scenario_pb2.Scenario, road: RoadMap, world: Callable[[Array], Array]) -> None:
    """Lanes keep their ids; all other features are numbered after them."""
    for number, lane in road.lanes.items():
        center = scenario.map_features.add(id=number).lane
        center.speed_limit_mph = lane.limit_mph
        center.type = map_pb2.LaneCenter.TYPE_FREEWAY if lane.freeway else map_pb2.LaneCenter.TYPE_SURFACE_STREET
        center.interpolating = lane.connector
        center.entry_lanes.extend(lane.entries)
        center.exit_lanes.extend(lane.exits)
        _add_points(center.polyline, world(resample(lane.points, 1.0 if lane.connector else 2.0)))

    def feature() -> Any:
        return scenario.map_features.add(id=len(scenario.map_features) + 1)

    for name, points in road.lines:
        line = feature().road_line
        line.type = map_pb2.RoadLine.RoadLineType.Value(f"TYPE_{name}")
        _add_points(line.polyline, world(resample(points, 2.0)))
    edge_type = map_pb2.RoadEdge.RoadEdgeType.Value
    for kind, edges in (("BOUNDARY", road.edges), ("MEDIAN", road.medians)):
        for points in edges:
            edge = feature().road_edge
            edge.type = edge_type(f"TYPE_ROAD_EDGE_{kind}")
            _add_points(edge.polyline, world(resample(points, 1.0)))
    for outline in road.crosswalks:
        _add_points(feature().crosswalk.polygon, world(outline))
    for position, lanes in road.stop_signs:
        sign = feature().stop_sign
        sign.lane.extend(lanes)
        sign.position.x, sign.position.y = world(position)


def _add_lights(scenario: scenario_pb2.Scenario, scene: _Scene, world: Callable[[Array], Array]) -> None:
    """One entry per step, empty without signals, as in WOMD."""
    stops: Sequence[Array] = [world(route.path.position(np.array(route.stop))) for route in scene.road.routes]
    for step in range(STEPS):
        states = scenario.dynamic_map_states.add().lane_states
        if scene.lights is None:
            continue
        for route, light, (x, y) in zip(scene.road.routes, scene.lights[step], stops, strict=True):
            states.add(lane=route.lanes[1], state=int(light), stop_point=map_pb2.MapPoint(x=x, y=y))
