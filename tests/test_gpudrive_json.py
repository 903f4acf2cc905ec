import copy
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import differences, gpudrive_scene, scenarios

from gail_cli.pipeline.readers.gpudrive_json import (
    headings_in_degrees,
    read,
    scenario_from_json,
    scenario_to_json,
    write,
)
from gail_cli.sim.scenario import AgentType, LightState, RoadType, SceneError

WOMD = Path(__file__).parents[2] / "shared" / "womd"
SCENES = sorted(WOMD.glob("scenes/*.json.gz"))
needs_real = pytest.mark.skipif(not SCENES, reason=f"{WOMD} (Waymo data, not part of the project) is absent")


def plain(path):
    with gzip.open(path) as file:
        return json.load(file)


def in_degrees(data):
    data = copy.deepcopy(data)
    for item in data["objects"]:
        item["heading"] = [angle if angle == -10000 else float(np.rad2deg(angle)) for angle in item["heading"]]
    return data


# The real files


@needs_real
def test_172_controlled_vehicles_by_gpudrives_rule():
    count = 0
    for path in SCENES:
        tracks = read(str(path)).tracks
        steps = tracks.valid.shape[1]
        goal = tracks.position[np.arange(len(tracks.id)), steps - 1 - tracks.valid[:, ::-1].argmax(1)]
        far = np.linalg.norm((goal - tracks.position[:, 0])[:, :2], axis=1) >= 0.2
        vehicle = tracks.type == AgentType.VEHICLE
        count += int((vehicle & tracks.valid[:, 0] & far & ~tracks.mark_as_expert).sum())
    assert count == 172


@needs_real
@pytest.mark.parametrize("path", SCENES[:6], ids=lambda path: path.stem)
def test_real_scenes_hold_what_the_file_holds(path):
    data, scene = plain(path), read(str(path))
    tracks = scene.tracks
    objects = [item for item in data["objects"] if any(item["valid"])]
    assert len(objects) == len(tracks.id)
    for i, item in enumerate(objects):
        valid = np.array(item["valid"])
        xyz = np.array([[p["x"], p["y"], p.get("z", 0)] for p in item["position"]])
        v = np.array([[p["x"], p["y"]] for p in item["velocity"]], np.float32)
        assert tracks.valid[i].tolist() == item["valid"]
        assert np.array_equal(tracks.position[i], xyz * valid[:, None])
        assert np.array_equal(tracks.velocity[i], v * valid[:, None])
        assert np.array_equal(tracks.heading[i], np.array(item["heading"], np.float32) * valid)
        assert np.array_equal(tracks.size[i], np.array([item["length"], item["width"], item["height"]], np.float32))
        assert AgentType(tracks.type[i]).name.lower() == item["type"]
        goal = item["goalPosition"]
        assert tracks.position[i, np.flatnonzero(valid)[-1]].tolist() == [goal["x"], goal["y"], goal.get("z", 0)]
        assert tracks.mark_as_expert[i] == item.get("mark_as_expert", False)
    assert len(scene.roads) == len(data["roads"])
    for road, item in zip(scene.roads, data["roads"], strict=True):
        assert road.points.tolist() == [[p["x"], p["y"], p.get("z", 0)] for p in item["geometry"]]
        assert road.type.name.lower() == item["type"]
        assert road.map_type == item.get("map_element_id", -1)
    for row, lane in enumerate(scene.lights.lane.tolist()):
        signal = data["tl_states"][str(lane)]
        want = ["absent"] * scene.num_steps
        for t, state in zip(signal["time_index"], signal["state"], strict=True):
            want[t] = state
        assert [LightState(s).name.lower() for s in scene.lights.state[row].tolist()] == want
        assert scene.lights.stop_point[row].tolist() == [signal["x"][0], signal["y"][0], signal["z"][0]]
    assert len(scene.lights.lane) == len(data["tl_states"])


@needs_real
@pytest.mark.parametrize("path", SCENES[3:6], ids=lambda path: path.stem)
def test_real_scenes_survive_the_writer(path, tmp_path):
    scene = read(str(path))
    write(scene, str(tmp_path / "again.json.gz"))
    again = read(str(tmp_path / "again.json.gz"))
    cut = {"scenario.name", "scenario.repairs"} if len(scene.name) > 31 else {"scenario.repairs"}
    assert set(differences(scene, again)) - cut == set()


@needs_real
def test_the_legacy_file_is_mended_to_the_scene_of_the_same_name():
    name = "tfrecord-00003-of-01000_109.json.gz"
    old, new = read(str(WOMD / "legacy" / name)), read(str(WOMD / "scenes" / name))
    np.testing.assert_allclose(old.tracks.heading, new.tracks.heading, atol=1e-6)
    assert set(differences(old, new)) <= {"scenario.tracks.heading", "scenario.repairs"}
    assert any("degrees" in mend for mend in old.repairs)
    assert not any("degrees" in mend for mend in new.repairs)
    for key in ("height", "'id' of an object", "metadata", "map_element_id", "'z'", "scenario_id"):
        assert any(key in mend for mend in old.repairs), key


@needs_real
@pytest.mark.parametrize("path", SCENES, ids=lambda path: path.stem)
def test_real_headings_are_told_right_in_both_units(path):
    tracks = read(str(path)).tracks
    heading = tracks.heading.astype(float)
    assert not headings_in_degrees(heading, tracks.velocity, tracks.valid)
    assert headings_in_degrees(np.rad2deg(heading), tracks.velocity, tracks.valid)


@needs_real
def test_eleven_steps_and_two_objects_without_a_valid_step():
    path = WOMD / "legacy" / "tfrecord-00000-of-00150_78-11-steps.json.gz"
    data, scene = plain(path), read(str(path))
    ids = [item["id"] for item in data["objects"]]
    assert scene.num_steps == 11
    assert scene.current_index == 10
    assert scene.tracks.id.tolist() == [item["id"] for item in data["objects"] if any(item["valid"])]
    assert len(scene.tracks.id) == 10
    roles = data["metadata"]
    assert scene.tracks.id[scene.sdc_index] == ids[roles["sdc_track_index"]]
    want = [ids[role["track_index"]] for role in roles["tracks_to_predict"]]
    assert scene.tracks.id[scene.tracks_to_predict].tolist() == want
    assert "id 15, 16" in scene.repairs[0]


# Writer and reader


@settings(max_examples=50, deadline=None)
@given(scene=scenarios())
def test_round_trip(scene):
    text = json.dumps(scenario_to_json(scene), allow_nan=False)
    assert differences(scene, scenario_from_json(json.loads(text))) == []


@settings(max_examples=80, deadline=None)
@given(
    moving=st.floats(-np.pi, np.pi), parked=st.floats(-np.pi, np.pi), speed=st.floats(-30, 30), steps=st.integers(1, 40)
)
def test_the_unit_of_headings_is_told_for_any_driving_scene(moving, parked, speed, steps):
    scene = gpudrive_scene(steps)
    for item, angle, v in zip(scene["objects"], (moving, parked), (speed, 0.0), strict=True):
        item["heading"] = [angle] * steps
        item["velocity"] = [{"x": v * np.cos(angle), "y": v * np.sin(angle)}] * steps
    mended = scenario_from_json(scene)
    assert mended.repairs == ()
    assert mended.tracks.heading[:, 0].tolist() == [np.float32(moving), np.float32(parked)]
    if speed >= 0 and np.rad2deg(max(abs(moving), abs(parked))) > 16:
        mended = scenario_from_json(in_degrees(scene))
        np.testing.assert_allclose(mended.tracks.heading[:, 0], [moving, parked], atol=1e-6)
        assert "degrees" in mended.repairs[0]


def test_unwrapped_headings_in_radians_are_told_by_the_motion():
    scene = gpudrive_scene()
    scene["objects"][0]["heading"] = [np.pi / 2 + 20 * np.pi] * 30
    mended = scenario_from_json(scene)
    assert mended.repairs == ()
    assert mended.tracks.heading[0, 0] == pytest.approx(np.pi / 2, abs=1e-6)


def test_the_schema_is_gpudrives():
    source = gpudrive_scene(steps=3)
    source["objects"][0]["valid"] = [True, True, False]
    data = scenario_to_json(scenario_from_json(source))
    assert {"name", "scenario_id", "objects", "roads", "tl_states", "metadata"} <= set(data)
    first = data["objects"][0]
    assert set(first) == set(source["objects"][0])
    assert first["position"][2] == {"x": -10000, "y": -10000, "z": -10000}
    assert first["velocity"][2] == {"x": -10000, "y": -10000}
    assert first["heading"][2] == -10000
    assert first["goalPosition"] == first["position"][1] == source["objects"][0]["position"][1]
    assert data["roads"] == source["roads"]
    assert data["metadata"] == source["metadata"]
    assert data["timestamps_seconds"] == pytest.approx([0, 0.1, 0.2])
    assert data["current_time_index"] == 2


def test_names_are_cut_to_31_bytes_at_a_whole_character():
    source = gpudrive_scene() | {"name": "ä" * 20, "scenario_id": "b" * 40}
    data = scenario_to_json(scenario_from_json(source))
    assert data["name"] == "ä" * 15
    assert data["scenario_id"] == "b" * 31


def test_lights():
    source = gpudrive_scene(steps=4)
    source["tl_states"] = {
        "20": {"state": ["go", "arrow_stop"], "x": [1.0, 9.0], "y": [2.0, 9.0], "z": [3.0, 9.0], "time_index": [1, 3]},
        "7": {"state": ["flashing_caution"], "x": [4.0], "y": [5.0], "z": [6.0], "time_index": [0]},
    }
    lights = scenario_from_json(source).lights
    assert lights.lane.tolist() == [7, 20]
    assert lights.state.tolist() == [[8, -1, -1, -1], [-1, 6, -1, 1]]
    assert lights.stop_point.tolist() == [[4, 5, 6], [1, 2, 3]]


@pytest.mark.parametrize(
    "bad",
    [
        {"7": {"state": ["go"]}},
        {"a": {}},
        [],
        {"7": {"state": ["go"], "x": [1], "y": [1], "z": [1], "time_index": [99]}},
        {"7": {"state": ["go"], "x": [1], "y": [1], "z": [1], "time_index": [-1]}},
        {"7": {"state": ["green"], "x": [1], "y": [1], "z": [1], "time_index": [1]}},
    ],
)
def test_lights_that_cannot_be_read_are_left_out(bad):
    scene = scenario_from_json(gpudrive_scene() | {"tl_states": bad})
    assert len(scene.lights.lane) == 0
    assert any("tl_states" in mend for mend in scene.repairs)


# Repairs


def without(data, key, inside=None):
    for item in data[inside] if inside else [data]:
        item.pop(key)
    return data


@pytest.mark.parametrize(
    ("key", "inside", "get", "want"),
    [
        ("height", "objects", lambda s: s.tracks.size[:, 2].tolist(), [1.5, 1.5]),
        ("id", "objects", lambda s: s.tracks.id.tolist(), [0, 1]),
        ("id", "roads", lambda s: [road.id for road in s.roads], [0, 1]),
        ("map_element_id", "roads", lambda s: [road.map_type for road in s.roads], [-1, -1]),
        ("metadata", None, lambda s: (s.sdc_index, len(s.tracks_to_predict), len(s.objects_of_interest)), (-1, 0, 0)),
        ("scenario_id", None, lambda s: s.id, "file"),
        ("tl_states", None, lambda s: len(s.lights.lane), 0),
    ],
)
def test_absent_keys_are_mended_and_told(key, inside, get, want):
    scene = scenario_from_json(without(gpudrive_scene(), key, inside), "folder/file.json.gz")
    assert get(scene) == want
    assert len(scene.repairs) == 1
    assert key in scene.repairs[0]


@pytest.mark.parametrize("key", ["name", "mark_as_expert", "goalPosition"])
def test_absent_keys_that_lose_nothing(key):
    data = without(gpudrive_scene(), key, None if key == "name" else "objects")
    scene = scenario_from_json(data, "folder/file.json")
    assert scene.repairs == ()
    assert scene.name == ("file.json" if key == "name" else "tfrecord-a.json")


def test_absent_z_is_zero():
    data = gpudrive_scene()
    for points in [item["position"] for item in data["objects"]] + [road["geometry"] for road in data["roads"]]:
        for point in points:
            point.pop("z", None)
    scene = scenario_from_json(data)
    assert not scene.tracks.position[..., 2].any()
    assert scene.roads[0].points.tolist() == [[1, 2, 0]]
    assert "'z'" in scene.repairs[0]


@pytest.mark.parametrize("sentinel", [-10000.0, 0.0001, float("nan"), None])
def test_sentinels_at_invalid_steps_become_zero(sentinel):
    data = gpudrive_scene()
    first = data["objects"][0]
    first["valid"][3] = False
    first["heading"][3] = sentinel
    first["position"][3] = {"x": sentinel, "y": sentinel, "z": sentinel}
    first["velocity"] = list(first["velocity"])
    first["velocity"][3] = {"x": sentinel, "y": sentinel}
    scene = scenario_from_json(data)
    assert scene.repairs == ()
    for array in (scene.tracks.position, scene.tracks.heading, scene.tracks.velocity):
        assert not array[0, 3].any()
        assert array[0, 4].any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e39, None])
def test_a_valid_step_that_is_not_finite_becomes_invalid(value):
    data = gpudrive_scene()
    data["objects"][0]["heading"][3] = value
    scene = scenario_from_json(data)
    assert not scene.tracks.valid[0, 3]
    assert scene.tracks.valid.sum() == 59
    assert not scene.tracks.position[0, 3].any()
    assert "1 valid step(s)" in scene.repairs[0]


def test_a_few_steps_in_degrees_are_told_by_their_range():
    scene = scenario_from_json(in_degrees(gpudrive_scene(steps=2)))
    assert scene.tracks.heading[:, 0].tolist() == [np.float32(np.pi / 2), np.float32(-np.pi)]
    assert "degrees" in scene.repairs[0]


def test_cars_that_back_up_to_the_east_are_in_radians():
    scene = gpudrive_scene()
    for item in scene["objects"]:
        item["heading"] = [3.1] * 30
        item["velocity"] = [{"x": 10.0, "y": 0.0}] * 30
    assert scenario_from_json(scene).tracks.heading[0, 0] == np.float32(3.1)


def test_roles_that_name_no_object_are_left_out():
    data = gpudrive_scene()
    data["metadata"]["sdc_track_index"] = 2
    data["metadata"]["tracks_to_predict"].append({"track_index": 7, "difficulty": 1})
    scene = scenario_from_json(data)
    assert scene.sdc_index == -1
    assert scene.tracks_to_predict.tolist() == [0]
    assert "metadata" in scene.repairs[0]


def test_unknown_types_are_told():
    data = gpudrive_scene()
    data["objects"][0]["type"] = "tram"
    data["roads"][0]["type"] = "canal"
    scene = scenario_from_json(data)
    assert scene.tracks.type.tolist() == [AgentType.OTHER, AgentType.VEHICLE]
    assert scene.roads[0].type == RoadType.NONE
    assert "tram" in scene.repairs[0]
    assert "canal" in scene.repairs[1]


def test_objects_without_a_size_are_left_out():
    data = gpudrive_scene()
    data["objects"][0]["width"] = None
    scene = scenario_from_json(data)
    assert scene.tracks.id.tolist() == [6]
    assert scene.sdc_index == 0
    assert len(scene.tracks_to_predict) == 0


# Errors


@pytest.mark.parametrize(
    ("key", "inside"),
    [("objects", None), ("roads", None)]
    + [(key, "objects") for key in ("position", "velocity", "heading", "valid", "type", "length", "width")]
    + [(key, "roads") for key in ("geometry", "type")],
)
def test_absent_essential_keys_are_named(key, inside):
    data = gpudrive_scene()
    del (data[inside][1] if inside else data)[key]
    with pytest.raises(SceneError, match=f"'{key}' is absent") as error:
        scenario_from_json(data, "some/file.json")
    assert str(error.value).startswith("some/file.json" + (f", {inside.removesuffix('s')} 1" if inside else ""))


def broken(change):
    data = gpudrive_scene()
    change(data)
    return data


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ([], "list"),
        (broken(lambda d: d.update(objects={})), "'objects' holds dict"),
        (broken(lambda d: d.update(objects=[])), "'objects' is empty"),
        (broken(lambda d: d["objects"].append(3)), "object 2: holds int"),
        (broken(lambda d: d["objects"][1]["heading"].pop()), "object 1.*unequal length .*heading 29"),
        (broken(lambda d: [d["objects"][1][k].pop() for k in ("position", "heading", "valid")]
                and d["objects"][1].update(velocity=d["objects"][1]["velocity"][:-1])), "29 to 30 steps"),
        (broken(lambda d: d["objects"][0]["heading"].__setitem__(0, "north")), "object 0: 'heading'"),
        (broken(lambda d: d["objects"][0].update(heading=[[0]] * 30)), "object 0: 'heading'"),
        (broken(lambda d: d["objects"][0]["position"].__setitem__(0, {"x": 1})), "object 0: 'position'"),
        (broken(lambda d: d["objects"][0]["position"].__setitem__(0, 3)), "object 0: 'position'"),
        (broken(lambda d: d["objects"][0]["position"].__setitem__(0, {"x": [], "y": 1, "z": 1})), "'position'"),
        (broken(lambda d: d["objects"][0].update(velocity=[{"x": 1}] * 30)), "object 0: 'velocity'"),
        (broken(lambda d: d["objects"][0].update(id="five")), "'id' holds str"),
        (broken(lambda d: d["objects"][0].update(width="wide")), "object 0: its size"),
        (broken(lambda d: d["roads"][0].update(geometry=None)), "road 0: key 'geometry'"),
        (broken(lambda d: d["roads"][0].update(id=None)), "road 0: key 'id'"),
        (broken(lambda d: d.update(metadata=[])), "metadata: holds list"),
        (broken(lambda d: d["metadata"].update(sdc_track_index=True)), "'sdc_track_index' holds True"),
        (broken(lambda d: d["metadata"].update(sdc_track_index=2**63)), "'sdc_track_index' holds 92"),
        (broken(lambda d: d["metadata"].update(tracks_to_predict=[3])), "metadata: holds int"),
        (broken(lambda d: d["metadata"].update(objects_of_interest=["a"])), "objects_of_interest"),
        (broken(lambda d: d.update(timestamps_seconds=[1, 2])), "timestamps_seconds"),
        (broken(lambda d: d.update(current_time_index="ten")), "current_time_index"),
        (broken(lambda d: [o.update(valid=[False] * 30) for o in d["objects"]]), "no track with a valid step"),
    ],
)  # fmt: skip
def test_errors_say_where(data, match):
    with pytest.raises(SceneError, match=match) as error:
        scenario_from_json(data, "file.json")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[" * 100_000, b"\x1f\x8b\x08\x00broken"])
def test_files_that_are_no_json(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(SceneError, match=r"a\.json"):
        read(str(path))


def test_every_truncation_of_a_zipped_file_is_detected(tmp_path):
    path = tmp_path / "a.json.gz"
    write(scenario_from_json(gpudrive_scene(steps=1)), str(path))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(SceneError):
            read(str(path))
