import importlib
import sys
from pathlib import Path

import numpy as np
import pytest
from strategies import differences, womd_message

from gail_cli.pipeline.readers import womd
from gail_cli.pipeline.readers.gpudrive_json import scenario_from_json, scenario_to_json
from gail_cli.pipeline.readers.protos import scenario_pb2
from gail_cli.pipeline.readers.tfrecord import read_records, write_records
from gail_cli.sim.scenario import LightState, RoadType, SceneError

REAL = Path(__file__).parents[2] / "shared" / "womd" / "tfrecord" / "motion_data_one_scenario.tfrecord"
needs_real = pytest.mark.skipif(not REAL.exists(), reason=f"{REAL} (Waymo data, not part of the project) is absent")

ROADS = {
    "lane": ("polyline", RoadType.LANE, 0, range(4)),
    "road_line": ("polyline", RoadType.ROAD_LINE, 5, range(9)),
    "road_edge": ("polyline", RoadType.ROAD_EDGE, 14, range(3)),
    "stop_sign": ("position", RoadType.STOP_SIGN, 17, [0]),
    "crosswalk": ("polygon", RoadType.CROSSWALK, 18, [0]),
    "speed_bump": ("polygon", RoadType.SPEED_BUMP, 19, [0]),
    "driveway": ("polygon", RoadType.DRIVEWAY, 20, [0]),
}


@pytest.fixture(scope="module")
def real():
    """The real scene, and the message it came from."""
    proto = scenario_pb2.Scenario()
    proto.ParseFromString(next(read_records(str(REAL))))
    (scene,) = womd.read(str(REAL))
    return scene, proto


@needs_real
def test_real_tracks(real):
    scene, proto = real
    assert (scene.id, scene.num_agents, scene.num_steps, scene.repairs) == ("637f20cafde22ff8", 83, 91, ())
    assert scene.timestamps.tolist() == list(proto.timestamps_seconds)
    tracks = scene.tracks
    for i, track in enumerate(proto.tracks):
        assert (tracks.id[i], tracks.type[i]) == (track.id, track.object_type)
        last = [state for state in track.states if state.valid][-1]
        assert tracks.size[i].tolist() == [last.length, last.width, last.height]
        for t, state in enumerate(track.states):
            got = (*tracks.position[i, t], *tracks.velocity[i, t])
            want = (state.center_x, state.center_y, state.center_z, state.velocity_x, state.velocity_y)
            assert got == (want if state.valid else (0,) * 5)
            turns = (tracks.heading[i, t] - state.heading * state.valid) / (2 * np.pi)
            assert abs(turns - round(turns)) < 1e-6
            assert tracks.valid[i, t] == state.valid
    assert np.abs(tracks.heading).max() <= np.float32(np.pi)
    assert not tracks.mark_as_expert.any()


@needs_real
def test_real_roles(real):
    scene, proto = real
    assert scene.sdc_index == 82
    assert scene.current_index == 10
    assert scene.tracks_to_predict.tolist() == [72, 43, 42]
    assert scene.difficulty.tolist() == [1, 1, 2]
    assert scene.objects_of_interest.tolist() == list(proto.objects_of_interest)


@needs_real
def test_real_roads(real):
    scene, proto = real
    assert len(scene.roads) == len(proto.map_features) == 301
    for road, feature in zip(scene.roads, proto.map_features, strict=True):
        kind = feature.WhichOneof("feature_data")
        field, road_type, first, _ = ROADS[kind]
        data = getattr(feature, kind)
        points = [data.position] if kind == "stop_sign" else getattr(data, field)
        assert road.points.tolist() == [[p.x, p.y, p.z] for p in points]
        assert (road.id, road.type) == (feature.id, road_type)
        assert road.map_type == first + (data.type if field == "polyline" else 0)


@needs_real
def test_real_lights(real):
    scene, proto = real
    assert scene.lights.lane.tolist() == [431, 432, 443, 445, 446, 447, 448, 449, 450, 455, 456, 457]
    for t, moment in enumerate(proto.dynamic_map_states):
        states = {signal.lane: signal.state for signal in moment.lane_states}
        want = [states.get(lane, LightState.ABSENT) for lane in scene.lights.lane.tolist()]
        assert scene.lights.state[:, t].tolist() == want
    assert scene.lights.stop_point[0].tolist() == [-7811.1817935320987, -6717.7573872755256, -185.15017390612329]


@needs_real
def test_the_real_scene_goes_through_gpudrive_json_unchanged(real):
    scene, _ = real
    assert differences(scene, scenario_from_json(scenario_to_json(scene), "other")) == []


@pytest.mark.parametrize(("kind", "subtype"), [(kind, sub) for kind, (*_, subs) in ROADS.items() for sub in subs])
def test_map_features(kind, subtype):
    field, road_type, first, _ = ROADS[kind]
    proto = womd_message()
    feature = proto.map_features.add(id=7)
    data = getattr(feature, kind)
    point = {"x": 1.5, "y": 2.5, "z": -3.5}
    if kind == "stop_sign":
        data.position.x, data.position.y, data.position.z = point.values()
    else:
        getattr(data, field).add(**point)
    if field == "polyline":
        data.type = subtype
    (road,) = womd.scenario_from_proto(proto).roads
    assert (road.id, road.type, road.map_type) == (7, road_type, first + subtype)
    assert road.points.tolist() == [[1.5, 2.5, -3.5]]


def test_size_is_that_of_the_last_valid_step_and_invalid_steps_are_zero():
    proto = womd_message()
    proto.tracks[1].states[2].valid = False
    tracks = womd.scenario_from_proto(proto).tracks
    assert tracks.size[:, 0].tolist() == [6, 5]
    assert tracks.position[1].tolist() == [[10, 0, 1], [11, -1, 1], [0, 0, 0]]
    assert tracks.heading[1].tolist() == [0, 0.25, 0]
    assert tracks.velocity[1].tolist() == [[10, -10], [10, -10], [0, 0]]


def test_headings_are_wrapped():
    proto = womd_message()
    for state, heading in zip(proto.tracks[0].states, (7.830572, -4.0, 3.0), strict=True):
        state.heading = heading
    heading = womd.scenario_from_proto(proto).tracks.heading[0]
    np.testing.assert_allclose(heading, [7.830572 - 2 * np.pi, 2 * np.pi - 4, 3], atol=1e-6)


def test_lights_that_come_and_go():
    proto = womd_message(steps=3)
    for lanes in ([(9, 4, 1.0)], [(9, 6, 2.0), (3, 0, 5.0)]):
        moment = proto.dynamic_map_states.add()
        for lane, state, x in lanes:
            moment.lane_states.add(lane=lane, state=state).stop_point.x = x
    lights = womd.scenario_from_proto(proto).lights
    assert lights.lane.tolist() == [3, 9]
    assert lights.state.tolist() == [[-1, 0, -1], [4, 6, -1]]
    assert lights.stop_point[:, 0].tolist() == [5.0, 1.0]


def test_tracks_without_a_valid_step_are_left_out_and_the_roles_follow():
    proto = womd_message(tracks=4)
    for track in (0, 2):
        for state in proto.tracks[track].states:
            state.valid = False
    for index in (3, 2, 1):
        proto.tracks_to_predict.add(track_index=index, difficulty=index % 3)
    scene = womd.scenario_from_proto(proto)
    assert scene.tracks.id.tolist() == [101, 103]
    assert scene.sdc_index == 1
    assert scene.tracks_to_predict.tolist() == [1, 0]
    assert scene.difficulty.tolist() == [0, 1]
    assert len(scene.repairs) == 1
    assert "100, 102" in scene.repairs[0]


@pytest.mark.parametrize("field", ["center_x", "heading", "velocity_y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_step_that_is_not_finite_becomes_invalid(field, value):
    proto = womd_message()
    setattr(proto.tracks[0].states[2], field, value)
    scene = womd.scenario_from_proto(proto)
    assert scene.tracks.valid.tolist() == [[True, True, False], [True, True, True]]
    assert not scene.tracks.position[0, 2].any()
    assert scene.tracks.size[0, 0] == 5
    assert "1 valid step(s)" in scene.repairs[0]


def test_map_points_that_are_not_finite_and_empty_features_are_left_out():
    proto = womd_message()
    lane = proto.map_features.add(id=1).lane
    lane.polyline.add(x=1, y=2, z=3)
    lane.polyline.add(x=np.nan, y=2, z=3)
    proto.map_features.add(id=2).lane.SetInParent()
    proto.map_features.add(id=3)
    scene = womd.scenario_from_proto(proto)
    assert [road.id for road in scene.roads] == [1]
    assert scene.roads[0].points.tolist() == [[1, 2, 3]]
    assert "1 map point(s)" in scene.repairs[0]
    assert "id 2, 3" in scene.repairs[1]


def test_names():
    assert womd.scenario_from_proto(womd_message()).name == "tfrecord-abc.json"
    assert womd.scenario_from_proto(womd_message(), "given").name == "given"


def test_a_scene_without_the_recording_car():
    proto = womd_message()
    proto.ClearField("sdc_track_index")
    assert womd.scenario_from_proto(proto).sdc_index == -1


def test_eleven_steps():
    assert womd.scenario_from_proto(womd_message(steps=11)).num_steps == 11


def test_scenes_that_cannot_be_used():
    proto = womd_message()
    del proto.tracks[1].states[2:]
    with pytest.raises(SceneError, match=r"track\(s\) \[101\]"):
        womd.scenario_from_proto(proto)
    with pytest.raises(SceneError, match="timestamps_seconds"):
        womd.scenario_from_proto(womd_message(steps=0))
    with pytest.raises(SceneError, match="no track"):
        womd.scenario_from_proto(womd_message(tracks=0))
    proto = womd_message()
    for _ in range(4):
        proto.dynamic_map_states.add()
    with pytest.raises(SceneError, match="dynamic_map_states"):
        womd.scenario_from_proto(proto)
    with pytest.raises(SceneError, match="no Scenario"):
        womd.parse(b"\xff\xff\xff")


def test_read_gives_every_scene_and_stops_at_damage(tmp_path):
    path = tmp_path / "a.tfrecord"
    write_records(str(path), [womd_message(steps=n).SerializeToString() for n in (1, 2)])
    assert [scene.num_steps for scene in womd.read(str(path))] == [1, 2]
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum"):
        list(womd.read(str(path)))


def test_absent_protocol_buffers_are_told_in_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "waymo_open_dataset.protos", None)
    monkeypatch.delitem(sys.modules, "gail_cli.pipeline.readers.protos")
    with pytest.raises(ImportError, match="pip install --no-deps waymo-open-dataset-tf-2-12-0"):
        importlib.import_module("gail_cli.pipeline.readers.protos")
