"""Submissions with which benchmarks.wosac_parity looks for differences: logs driven again, faster, slower, with noise.

So that things happen: cars run red lights that their logs obey, leave the road, touch each other; and all of it in logs
with gaps. Scenes of files without protocol buffers become such messages first.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from gail_cli.gail.evaluation.challenge import ROLLOUTS, START, STEPS
from gail_cli.pipeline.readers.protos import scenario_pb2
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.sim.scenario import DT, AgentType, LightState, Road, RoadType, Scenario

_LANE_TYPES = range(4)


def message_of(scenario: Scenario) -> Any:
    """A ``Scenario`` message of a scene: what its own file would be, as far as the scorer reads it."""
    message = scenario_pb2.Scenario(
        scenario_id=scenario.id,
        timestamps_seconds=scenario.timestamps.tolist(),
        current_time_index=START,
        sdc_track_index=scenario.sdc_index,
    )
    tracks = scenario.tracks
    for k in range(scenario.num_agents):
        track = message.tracks.add(id=int(tracks.id[k]), object_type=int(tracks.type[k]))
        length, width, height = tracks.size[k].tolist()
        for t in range(scenario.num_steps):
            state = track.states.add(valid=bool(tracks.valid[k, t]))
            if state.valid:
                state.center_x, state.center_y, state.center_z = tracks.position[k, t].tolist()
                state.heading = float(tracks.heading[k, t])
                state.velocity_x, state.velocity_y = tracks.velocity[k, t].tolist()
                state.length, state.width, state.height = length, width, height
    for index in scenario.tracks_to_predict.tolist():
        message.tracks_to_predict.add(track_index=index)
    for road in scenario.roads:
        _add_road(message, road)
    lights = scenario.lights
    for t in range(scenario.num_steps):
        moment = message.dynamic_map_states.add()
        for lane, state, point in zip(lights.lane.tolist(), lights.state[:, t], lights.stop_point, strict=True):
            if state != LightState.ABSENT:
                light = moment.lane_states.add(lane=lane, state=int(state))
                light.stop_point.x, light.stop_point.y, light.stop_point.z = point.tolist()
    return message


def _add_road(message: Any, road: Road) -> None:
    feature = message.map_features.add(id=road.id)
    if road.type == RoadType.ROAD_EDGE:
        line = feature.road_edge.polyline
    elif road.type == RoadType.LANE:
        feature.lane.type = road.map_type if road.map_type in _LANE_TYPES else 0
        line = feature.lane.polyline
    else:
        del message.map_features[-1]
        return
    for x, y, z in road.points.tolist():
        line.add(x=x, y=y, z=z)


def restless(scenario: Scenario, seed: int, drives: int = ROLLOUTS) -> Any:
    """``ScenarioRollouts`` of a scene: each object goes on along its log, at 0.5 to 1.6 times its pace in each drive,
    and beside it by up to a lane's width; where its log ends it keeps its velocity."""
    rng = np.random.default_rng((seed, sum(scenario.id.encode())))
    tracks = scenario.tracks
    result = schema.ScenarioRollouts(scenario_id=scenario.id)
    rows = np.flatnonzero(tracks.valid[:, START])
    paths = [_path(scenario, int(k)) for k in rows]
    t = np.arange(1, STEPS + 1)
    for _ in range(drives):
        joint = result.joint_scenes.add()
        for k, path in zip(rows.tolist(), paths, strict=True):
            at = np.clip(t * rng.uniform(0.5, 1.6), 0, len(path) - 1)
            x, y, z, heading = (np.interp(at, np.arange(len(path)), path[:, c]) for c in range(4))
            aside = rng.normal(0, 1.2) * t / STEPS
            heading = heading + rng.normal(0, 0.02, STEPS)
            joint.simulated_trajectories.add(
                object_id=int(tracks.id[k]),
                center_x=(x - aside * np.sin(heading)).tolist(),
                center_y=(y + aside * np.cos(heading)).tolist(),
                center_z=z.tolist(),
                heading=heading.tolist(),
            )
    return result


def _path(scenario: Scenario, k: int) -> np.ndarray:
    """[160, 4] x, y, z, heading from step 10 on, gaps filled, and beyond the log's end."""
    tracks = scenario.tracks
    steps = START + np.flatnonzero(tracks.valid[k, START:])
    states = np.concatenate([tracks.position[k], np.unwrap(tracks.heading[k])[:, None]], axis=1)[steps]
    future = np.arange(START, START + 2 * STEPS)
    path = np.stack([np.interp(future, steps, states[:, c]) for c in range(4)], axis=1)
    beyond = np.clip(future - steps[-1], 0, None)[:, None] * DT
    path[:, :2] += beyond * tracks.velocity[k, steps[-1]]
    return path


def with_roles(scenario: Scenario) -> Scenario:
    """The scene with somebody to score: where its file names nobody, the vehicle that goes farthest is the recording
    car, and the next five vehicles and three others are to be predicted."""
    if scenario.sdc_index >= 0:
        return scenario
    tracks = scenario.tracks
    ways = np.linalg.norm(np.diff(tracks.position[..., :2], axis=1), axis=-1)
    way = (ways * (tracks.valid[:, 1:] & tracks.valid[:, :-1])).sum(axis=1)
    order = [k for k in np.argsort(-way, kind="stable") if tracks.valid[k, START]]
    vehicles = [k for k in order if tracks.type[k] == AgentType.VEHICLE]
    others = [k for k in order if tracks.type[k] != AgentType.VEHICLE]
    chosen = np.array([*vehicles[1:6], *others[:3]], np.int64)
    return replace(
        scenario, sdc_index=int(vehicles[0]), tracks_to_predict=chosen, difficulty=np.zeros(len(chosen), np.int64)
    )
