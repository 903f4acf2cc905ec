"""Synthetic traffic: the checks here are written anew, from the protos alone."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from gail_cli.data import SAMPLE
from gail_cli.data.generator import generate_scenario, scene_seed, write_scenarios
from gail_cli.pipeline.readers.protos import map_pb2, scenario_pb2
from gail_cli.pipeline.readers.tfrecord import read_records

DT = 0.1


def parse(path):
    return [scenario_pb2.Scenario.FromString(record) for record in read_records(str(path))]


@pytest.fixture(scope="module")
def scenes():
    return [scene for path in sorted(SAMPLE.glob("*.tfrecord")) for scene in parse(path)]


def points(polyline):
    return np.array([[point.x, point.y] for point in polyline])


def column(track, *names):
    return np.array([[getattr(state, name) for name in names] for state in track.states])


def valid(track):
    return np.array([state.valid for state in track.states])


def speeds(track):
    return np.hypot(*column(track, "velocity_x", "velocity_y").T)


def angle_change(a, b):
    return np.arctan2(np.sin(b - a), np.cos(b - a))


def features(scene, kind):
    return [getattr(f, kind) for f in scene.map_features if f.WhichOneof("feature_data") == kind]


def box(state):
    along = np.array([np.cos(state.heading), np.sin(state.heading)]) * state.length / 2
    across = np.array([-np.sin(state.heading), np.cos(state.heading)]) * state.width / 2
    centre = np.array([state.center_x, state.center_y])
    return np.array(
        [centre + along + across, centre + along - across, centre - along - across, centre - along + across]
    )


def separated(a, b):
    """Whether a line between two convex polygons exists, among the directions of their sides."""
    sides = np.concatenate([np.roll(a, 1, 0) - a, np.roll(b, 1, 0) - b])
    normals = np.stack([-sides[:, 1], sides[:, 0]])
    on_a, on_b = a @ normals, b @ normals
    return bool(((on_a.max(0) < on_b.min(0)) | (on_b.max(0) < on_a.min(0))).any())


def cross(a, b):
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def segments_meet(p, q, a, b):
    """Whether segments p-q and a-b properly cross, by the signs of four triangles."""
    return (cross(q - p, a - p) * cross(q - p, b - p) < 0) & (cross(b - a, p - a) * cross(b - a, q - a) < 0)


def side_of_nearest(here, start, end):
    """Positive where the nearest segment has the point on its left; 0 where that is one of its ends (no clear side)."""
    along = ((here - start) * (end - start)).sum(-1) / ((end - start) ** 2).sum(-1)
    nearest = np.hypot(*(start + np.clip(along, 0, 1)[:, None] * (end - start) - here).T).argmin()
    return cross(end[nearest] - start[nearest], here - start[nearest]) if 0 < along[nearest] < 1 else 0


def template(scene):
    if scene.dynamic_map_states[0].lane_states:
        return "signals"
    if features(scene, "stop_sign"):
        return "stop signs"
    return "ramp" if features(scene, "lane")[0].type == map_pb2.LaneCenter.TYPE_FREEWAY else "winding"


def moving_vehicles(scene):
    for track in scene.tracks:
        there = valid(track)
        if track.object_type == scenario_pb2.Track.TYPE_VEHICLE and there[0] and speeds(track).sum() * DT > 3.0:
            yield track


def test_a_scene_is_a_function_of_its_seed():
    first, again, other = (generate_scenario(seed).SerializeToString(deterministic=True) for seed in (7, 7, 8))
    assert first == again
    assert first != other


def test_the_sample_is_what_the_generator_writes(tmp_path):
    written = write_scenarios(tmp_path, scenes=16, seed=0)
    committed = sorted(SAMPLE.glob("*.tfrecord"))
    assert [path.name for path in written] == [path.name for path in committed]
    for new, old in zip(written, committed, strict=True):
        assert hashlib.sha256(new.read_bytes()).digest() == hashlib.sha256(old.read_bytes()).digest(), new.name


def test_a_scene_does_not_depend_on_the_number_of_scenes(tmp_path, scenes):
    (path,) = write_scenarios(tmp_path, scenes=1, seed=0, scenes_per_file=9)
    assert path.name == "synthetic-00000-of-00001.tfrecord"
    assert parse(path) == scenes[:1]
    assert scene_seed(0, 0) != scene_seed(0, 1) != scene_seed(1, 0)


@pytest.mark.parametrize(("scenes", "per_file"), [(0, 4), (4, 0), (-1, 4)])
def test_nothing_to_write_is_refused(tmp_path, scenes, per_file):
    with pytest.raises(ValueError, match="at least 1"):
        write_scenarios(tmp_path / "new", scenes, scenes_per_file=per_file)
    assert not (tmp_path / "new").exists()


def test_the_sample_is_small_and_shows_every_template(scenes):
    assert sum(path.stat().st_size for path in SAMPLE.iterdir()) < 2e6
    assert len(scenes) == len({scene.scenario_id for scene in scenes}) == 16
    assert {template(scene) for scene in scenes} == {"signals", "stop signs", "ramp", "winding"}
    types = {track.object_type for scene in scenes for track in scene.tracks}
    assert types == {
        scenario_pb2.Track.TYPE_VEHICLE,
        scenario_pb2.Track.TYPE_PEDESTRIAN,
        scenario_pb2.Track.TYPE_CYCLIST,
    }


def test_shape_and_roles_are_those_of_womd(scenes):
    for scene in scenes:
        assert len(scene.timestamps_seconds) == len(scene.dynamic_map_states) == 91
        assert scene.timestamps_seconds == pytest.approx(np.arange(91) * DT)
        assert scene.current_time_index == 10
        assert len(bytes.fromhex(scene.scenario_id)) == 8
        assert {len(track.states) for track in scene.tracks} == {91}
        ids = [track.id for track in scene.tracks]
        assert len(set(ids)) == len(ids)
        assert 4 <= len(list(moving_vehicles(scene))) <= 12
        sdc = scene.tracks[scene.sdc_track_index]
        assert valid(sdc).all()
        assert sdc.object_type == scenario_pb2.Track.TYPE_VEHICLE
        predicted = [required.track_index for required in scene.tracks_to_predict]
        assert 2 <= len(predicted) == len(set(predicted)) <= 8
        assert scene.sdc_track_index not in predicted
        assert all(scene.tracks[index].states[10].valid for index in predicted)
        assert set(scene.objects_of_interest) <= set(ids)
    assert any(scene.objects_of_interest for scene in scenes)


def test_some_tracks_start_late_end_early_or_have_gaps_and_invalid_states_are_empty(scenes):
    late = early = gap = 0
    empty = scenario_pb2.ObjectState(valid=False)
    for track in (track for scene in scenes for track in scene.tracks):
        there = valid(track)
        assert all(state == empty for state in track.states if not state.valid)
        steps = np.flatnonzero(there)
        late, early, gap = late + (steps[0] > 0), early + (steps[-1] < 90), gap + (np.diff(steps) > 1).any()
    assert min(late, early, gap) > 3


def test_no_two_boxes_overlap(scenes):
    compared = 0
    for scene in scenes:
        for step in range(91):
            states = [track.states[step] for track in scene.tracks if track.states[step].valid]
            centres = np.array([[state.center_x, state.center_y] for state in states])
            reach = np.array([np.hypot(state.length, state.width) / 2 for state in states])
            apart = np.hypot(*(centres[:, None] - centres).transpose(2, 0, 1))
            for i, j in zip(*np.nonzero(np.triu(apart < reach[:, None] + reach, 1)), strict=True):
                compared += 1
                assert separated(box(states[i]), box(states[j])), (scene.scenario_id, step)
    assert compared > 100, "traffic this thin tests nothing"


def test_no_vehicle_crosses_a_road_edge_and_edges_have_the_road_on_their_left(scenes):
    for scene in scenes:
        edges = [points(edge.polyline) for edge in features(scene, "road_edge")]
        start, end = (np.concatenate([edge[part] for edge in edges]) for part in (slice(-1), slice(1, None)))
        for track in scene.tracks:
            if track.object_type == scenario_pb2.Track.TYPE_PEDESTRIAN:
                continue
            for state in (state for state in track.states[::2] if state.valid):
                here = np.array([state.center_x, state.center_y])
                near = np.hypot(*((start + end) / 2 - here).T) < state.length
                sides = box(state)
                for p, q in zip(sides, np.roll(sides, 1, 0), strict=True):
                    assert not segments_meet(p, q, start[near], end[near]).any(), scene.scenario_id
                assert side_of_nearest(here, start, end) >= 0, scene.scenario_id


def test_no_lane_crosses_a_road_edge(scenes):
    for scene in scenes:
        for edge in (points(edge.polyline) for edge in features(scene, "road_edge")):
            for lane in (points(lane.polyline) for lane in features(scene, "lane")):
                assert not segments_meet(lane[:-1, None], lane[1:, None], edge[:-1], edge[1:]).any(), scene.scenario_id


def test_lanes_continue_where_their_neighbours_end(scenes):
    for scene in scenes:
        lanes = {f.id: f.lane for f in scene.map_features if f.HasField("lane")}
        assert all(not lane.interpolating or (lane.entry_lanes and lane.exit_lanes) for lane in lanes.values())
        for number, lane in lanes.items():
            assert 15 <= lane.speed_limit_mph <= 65
            for following in lane.exit_lanes:
                assert number in lanes[following].entry_lanes
                joint = points(lane.polyline)[-1] - points(lanes[following].polyline)[0]
                assert np.hypot(*joint) < 0.05
        for sign in features(scene, "stop_sign"):
            assert set(sign.lane) <= lanes.keys()
        for state in (state for step in scene.dynamic_map_states for state in step.lane_states):
            assert state.lane in lanes


def test_lanes_that_lights_control_begin_where_one_stops(scenes):
    """As in WOMD: 0.5 m apart at most, where the lane before them ends."""
    (lit, *_) = [scene for scene in scenes if template(scene) == "signals"]
    lanes = {feature.id: feature.lane for feature in lit.map_features if feature.HasField("lane")}
    assert len(lit.dynamic_map_states[0].lane_states) == 12
    for light in lit.dynamic_map_states[0].lane_states:
        first = points(lanes[light.lane].polyline)[0]
        assert np.hypot(*(first - [light.stop_point.x, light.stop_point.y])) < 0.5
        (before,) = lanes[light.lane].entry_lanes
        np.testing.assert_allclose(points(lanes[before].polyline)[-1], first, atol=1e-3)


def test_scenes_of_one_kind():
    assert template(generate_scenario(7, "signals")) == "signals"
    assert template(generate_scenario(7, "ramp")) == "ramp"
    with pytest.raises(KeyError):
        generate_scenario(7, "nonsense")


def test_lights_change(scenes):
    signalled = [scene for scene in scenes if template(scene) == "signals"]
    changes = sum(scene.dynamic_map_states[0] != scene.dynamic_map_states[90] for scene in signalled)
    assert changes >= 1


def test_motion_is_humanly_plausible(scenes):
    for track in (track for scene in scenes for track in scene.tracks):
        both = valid(track)[1:] & valid(track)[:-1]
        speed, heading = speeds(track), column(track, "heading")[:, 0]
        acceleration = np.diff(speed)[both] / DT
        turned = np.abs(angle_change(heading[:-1], heading[1:]))[both]
        assert np.abs(acceleration).max() < 4.01
        assert (turned / DT * speed[1:][both]).max() < 3.05
        if track.object_type == scenario_pb2.Track.TYPE_VEHICLE:
            travelled = np.maximum(speed[1:][both] * DT, 1e-3)
            assert (turned / travelled)[travelled > 0.1].max(initial=0) < 1 / 4.0  # turning circle of a car
        assert ((heading >= -np.pi) & (heading < np.pi)).all()


def test_positions_velocities_and_headings_agree(scenes):
    for track in (track for scene in scenes for track in scene.tracks):
        there, position = valid(track), column(track, "center_x", "center_y")
        velocity, heading = column(track, "velocity_x", "velocity_y"), column(track, "heading")[:, 0]
        both = there[1:] & there[:-1]
        moved = np.diff(position, axis=0)[both]
        expected = ((velocity[1:] + velocity[:-1]) / 2 * DT)[both]
        assert np.abs(moved - expected).max(initial=0) < 0.03
        fast = there & (np.hypot(*velocity.T) > 0.5)
        course = np.arctan2(velocity[:, 1], velocity[:, 0])
        assert np.abs(angle_change(heading, course))[fast].max(initial=0) < 1e-3
        assert np.hypot(*position[there].T).min() > 1e3, "WOMD's world frame is far from its origin"


def test_constant_velocity_is_a_poor_forecast(scenes):
    errors = []
    for track in (track for scene in scenes for track in moving_vehicles(scene)):
        now, last = track.states[10], track.states[90]
        if now.valid and last.valid:
            forecast = np.array([now.center_x + 8 * now.velocity_x, now.center_y + 8 * now.velocity_y])
            errors.append(np.hypot(*(forecast - [last.center_x, last.center_y])))
    assert len(errors) > 40
    assert np.mean(errors) > 10
    assert np.mean(np.array(errors) > 3) > 0.7


def test_behaviour_varies(scenes):
    stops = starts = turns = steady = 0
    for track in (track for scene in scenes for track in moving_vehicles(scene)):
        there = valid(track)
        speed, heading = speeds(track)[there], np.unwrap(column(track, "heading")[there, 0])
        stops += speed[0] > 4 and speed.min() < 0.5
        starts += speed[-1] - speed.min() > 3
        turns += abs(heading[-1] - heading[0]) > 1.2
        steady += np.ptp(speed) < 2
    assert min(stops, starts, turns, steady) >= 4, (stops, starts, turns, steady)


def test_no_attempt_without_a_fault_is_told(monkeypatch):
    monkeypatch.setattr("gail_cli.data.generator.fault", lambda agents, edges: "two boxes overlap")
    monkeypatch.setattr("gail_cli.data.generator._ATTEMPTS", 2)
    with pytest.raises(RuntimeError, match=r"seed 3: .*two boxes overlap"):
        generate_scenario(3)


def test_sample_path_is_inside_the_package():
    assert Path(__file__).parents[1] / "data" / "sample" == SAMPLE
