"""HDF5 files of demonstrations as scenes."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gail_cli.pipeline.export.export import export
from gail_cli.pipeline.extract.extract import ExtractConfig, ExtractOptions, extract
from gail_cli.pipeline.readers.hdf5 import DEFAULT_SIZE, list_demos, read
from gail_cli.pipeline.readers.sources import SceneRef, list_scenes, read_scenes, resolve
from gail_cli.pipeline.records import ABSENT
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import AgentType, Scenario, SceneError
from gail_cli.sim.scene import scene_from_scenario

CIRCLE = np.linspace(0, 1.5, 10)  # rad, on a radius of 5 m


def turning(steps=10, columns=5):
    """A car on a circle of 5 m: x, y, heading, vx, vy."""
    angle = CIRCLE[:steps]
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([5 * c, 5 * s, angle + np.pi / 2, -10 * s, 10 * c], axis=1)[:, :columns]


@pytest.fixture
def write(tmp_path):
    """Writes a file of groups: name -> (datasets, attributes)."""

    def make(groups, name="a.hdf5", fields=None, **attributes):
        with h5py.File(tmp_path / name, "w") as file:
            file.attrs.update(attributes)
            for group, (datasets, about) in groups.items():
                made = file.create_group(group)
                made.attrs.update(about)
                for key, value in datasets.items():
                    made[key] = value
                    if fields is not None:
                        made[key].attrs["fields"] = fields
        return str(tmp_path / name)

    return make


def only(path):
    """The one scene of a file."""
    (groups,) = list_demos(path)
    return read(path, groups)


def problem(path):
    """The one sentence on a file whose one scene cannot be read."""
    refs, problems = list_scenes(path)
    found = problems + [scene for _, scene in read_scenes(refs)]
    (error,) = found
    assert isinstance(error, SceneError)
    assert "\n" not in str(error)
    assert str(error).count(path) == 1
    return str(error)


# the round trip


@pytest.fixture(scope="module")
def exported(make_store, tmp_path_factory):
    store = make_store()
    path = tmp_path_factory.mktemp("hdf5") / "demos.hdf5"
    export(store, path, "hdf5", ObservationConfig(partners=1, road_segments=1))
    return store, str(path)


def test_trajectories_are_the_replayed_states(exported):
    store, path = exported
    refs, problems = list_scenes(path)
    assert problems == []
    scenes = dict(zip(store.scene_ids(), (scene for _, scene in read_scenes(refs)), strict=True))
    for record in store.read():
        scenario, scene = scenes[record.scene.id], record.scene
        assert scenario.id == scene.id
        rows = {int(scene.agent_id[agent]): row for row, agent in enumerate(record.demos.agent)}
        for k, number in enumerate(scenario.tracks.id):
            row = rows.pop(int(number))
            there = record.demos.mark[row] != ABSENT
            state = record.demos.state[row, there]
            valid = scenario.tracks.valid[k]
            np.testing.assert_array_equal(np.flatnonzero(valid), np.flatnonzero(there))
            world = state[:, :2].astype(np.float64) + scene.origin
            np.testing.assert_array_equal(scenario.tracks.position[k, valid][:, :2], world)
            np.testing.assert_array_equal(scenario.tracks.heading[k, valid], state[:, 2])
            np.testing.assert_array_equal(scenario.tracks.velocity[k, valid], state[:, 3:])
            np.testing.assert_array_equal(scenario.tracks.size[k], scene.agent_size[record.demos.agent[row]])
        assert not (rows.keys() & set(scenario.tracks.id.tolist()))
        moving = np.linalg.norm(scene.goal - scene.log[:, 0, :2], axis=1)[record.demos.agent] >= 0.2
        assert len(scenario.tracks.id) + len(rows) == len(record.demos.agent)
        assert scenario.num_agents == moving.sum()


def test_extracting_anew_gives_demos_of_the_same_drives(exported, tmp_path):
    store, path = exported
    space = ActionSpace.create("delta_local", "continuous")
    report = extract([path], str(tmp_path / "again"), ExtractConfig(space), ExtractOptions(workers=1))
    assert report["demos"]["moving"] == sum(len(groups) for groups in list_demos(path))
    assert report["replay"]["ade_m"] < 0.01
    assert len(report["mended"]) >= len(store)
    reasons = {mend.split(" (")[0] for _, scene in read_scenes(list_scenes(path)[0]) for mend in scene.repairs}
    assert reasons == {
        "the scene is made of demonstrations: it has no map and no other agents",
        "actions in the file are not taken over: the expert's are found anew",
    }
    again = DemoStore(tmp_path / "again")
    assert again.scene_ids() == store.scene_ids()
    assert again.totals["segments"] == 0


# what files may look like


def test_a_file_laid_out_as_robomimics(write):
    groups = {f"data/demo_{k}": ({"states": turning(), "actions": np.zeros((10, 2))}, {}) for k in (0, 2, 10)}
    path = write(groups)
    assert list_demos(path) == [("data/demo_0",), ("data/demo_2",), ("data/demo_10",)]
    scene = read(path, ("data/demo_2",))
    assert scene.id == "a.hdf5/demo_2"
    np.testing.assert_array_equal(scene.tracks.position[0, :, :2], turning()[:, :2])
    np.testing.assert_array_equal(scene.tracks.heading[0], np.float32(turning()[:, 2]))
    np.testing.assert_array_equal(scene.tracks.velocity[0], np.float32(turning()[:, 3:]))
    assert scene.tracks.size[0].tolist() == list(DEFAULT_SIZE)
    assert scene.tracks.type.tolist() == [AgentType.VEHICLE]
    assert scene.timestamps[9] == pytest.approx(0.9)
    assert len(scene.repairs) == 4
    assert "actions in the file are not taken over: the expert's are found anew" in scene.repairs
    assert "'agent_size' is absent and taken as 4.5 x 2.0 x 1.5 m" in scene.repairs


def test_a_file_laid_out_as_minaris(write):
    scene = only(write({"episode_0": ({"infos/states": turning(), "observations": np.zeros((10, 3))}, {})}))
    np.testing.assert_array_equal(scene.tracks.position[0, :, :2], turning()[:, :2])


def test_demonstrations_of_one_scene_come_together(write):
    path = write({
        "data/demo_0": ({"states": turning(4)}, {"scene": "s", "agent_id": 7, "agent_size": [5.0, 2.0]}),
        "data/demo_1": ({"states": turning()}, {}),
        "data/demo_2": ({"states": turning(5)}, {"scene": b"s", "agent_id": 9, "agent_type": "cyclist", "first_step": 3,
                                                 "origin": [100.0, -50.0], "agent_size": np.float32([2, 0.5, 1.7])}),
    })  # fmt: skip
    assert list_demos(path) == [("data/demo_0", "data/demo_2"), ("data/demo_1",)]
    scene = read(path, ("data/demo_0", "data/demo_2"))
    assert scene.id == "s"
    assert scene.num_steps == 8
    assert scene.tracks.id.tolist() == [7, 9]
    assert scene.tracks.type.tolist() == [AgentType.VEHICLE, AgentType.CYCLIST]
    assert scene.tracks.valid.tolist() == [[True] * 4 + [False] * 4, [False] * 3 + [True] * 5]
    np.testing.assert_array_equal(scene.tracks.size, np.float32([[5, 2, 1.5], [2, 0.5, 1.7]]))
    np.testing.assert_array_equal(scene.tracks.position[1, 3:, :2], turning(5)[:, :2] + [100, -50])


def test_agents_that_share_a_number_are_told_by_their_places(write):
    groups = {f"demo_{k}": ({"states": turning()}, {"scene": "s", "agent_id": 7}) for k in range(2)}
    scene = only(write(groups))
    assert scene.tracks.id.tolist() == [0, 1]
    assert any("'agent_id'" in mend for mend in scene.repairs)


def test_the_last_of_the_next_states_is_taken(write):
    states = turning()
    scene = only(write({"demo_0": ({"states": states[:-1], "next_states": states[1:]}, {})}))
    np.testing.assert_array_equal(scene.tracks.position[0, :, :2], states[:, :2])


def test_velocities_by_central_differences(write):
    scene = only(write({"demo_0": ({"states": turning(columns=3)}, {})}))
    x = turning()[:, 0]
    want = np.concatenate([[(x[1] - x[0]) / 0.1], (x[2:] - x[:-2]) / 0.2, [(x[-1] - x[-2]) / 0.1]])
    np.testing.assert_allclose(scene.tracks.velocity[0, :, 0], want, rtol=1e-6)
    assert "velocities are absent and found by central differences" in scene.repairs


@pytest.mark.parametrize(
    "fields",
    [
        ["vy (m/s)", "speed", "Yaw (rad)", "x (m)", "vx (m/s)", "y (m)"],
        json.dumps(["vy", "speed", "heading", "x", "vx", "y"]),
        "vy, speed, heading, x, vx, y",
    ],
)
def test_columns_by_name(write, fields):
    x, y, heading, vx, vy = turning().T
    table = np.stack([vy, np.full(10, 99.0), heading, x, vx, y], axis=1)
    scene = only(write({"demo_0": ({"states": table}, {})}, fields=fields))
    np.testing.assert_array_equal(scene.tracks.position[0, :, :2], turning()[:, :2])
    np.testing.assert_array_equal(scene.tracks.velocity[0], np.float32(turning()[:, 3:]))
    np.testing.assert_array_equal(scene.tracks.heading[0], np.float32(turning()[:, 2]))


def test_headings_in_degrees_are_turned(write):
    t = np.arange(30) * 0.1
    table = np.stack([0 * t, 10 * t, 0 * t + 90, 0 * t, 0 * t + 10], axis=1)
    scene = only(write({"demo_0": ({"states": table}, {})}))
    np.testing.assert_allclose(scene.tracks.heading, np.pi / 2, rtol=1e-6)
    assert "headings are in degrees and were turned into radians" in scene.repairs


def test_sources_know_hdf5_by_ending_and_by_content(write, tmp_path):
    path = write({"demo_0": ({"states": turning()}, {})}, "b.h5")
    assert resolve([str(tmp_path)]) == [path]
    other = tmp_path / "named_by_nobody"
    Path(path).rename(other)
    refs, problems = list_scenes(str(other))
    assert (refs, problems) == ([SceneRef(str(other), groups=("demo_0",))], [])
    assert str(refs[0]) == f"{other}, demo_0"
    assert str(SceneRef("a", groups=("demo_0", "demo_1", "demo_2"))) == "a, demo_0 and 2 more"
    ((_, scene),) = read_scenes(refs)
    assert isinstance(scene, Scenario)


# what cannot be read

NAN = turning()
NAN[3, 1] = np.nan
GOOD = turning()


@pytest.mark.parametrize(
    ("datasets", "attributes", "sentence"),
    [
        ({}, {}, "there is no dataset 'states' of absolute x, y, heading, vx, vy"),
        ({"states/x": GOOD}, {}, "there is no dataset 'states'"),
        ({"states": NAN}, {}, "'states': row 3 holds a number that is not finite"),
        ({"states": GOOD[:, 0]}, {}, "'states' is float64 of shape (10,), not numbers [T, at least 3]"),
        ({"states": GOOD[:, :2]}, {}, "shape (10, 2), not numbers"),
        ({"states": np.zeros((10, 5, 2))}, {}, "shape (10, 5, 2), not numbers"),
        ({"states": GOOD[:, :4]}, {}, "'states' has 4 columns with the fields x, y, heading, vx, vy; needed are"),
        ({"states": GOOD[:1]}, {}, "'states' holds 1 state(s), not 2 to 10000"),
        ({"states": np.array([[b"a", b"b", b"c"]] * 3)}, {}, "not numbers"),
        ({"states": GOOD > 0}, {}, "'states' is bool"),
        ({"states": GOOD, "next_states": NAN}, {}, "'next_states': row 3 holds"),
        ({"states": GOOD}, {"agent_size": [4.0, -2.0]}, "'agent_size' is not length, width and height in m"),
        ({"states": GOOD}, {"agent_size": "big"}, "'agent_size' does not hold plain numbers"),
        ({"states": GOOD}, {"agent_size": [np.nan, 1, 1]}, "'agent_size' holds a number that is not finite"),
        ({"states": GOOD}, {"origin": [1.0, 2.0, 3.0]}, "'origin' is not two numbers"),
        ({"states": GOOD}, {"first_step": -1}, "'first_step' is not a whole number from 0 to 9999"),
        ({"states": GOOD}, {"first_step": 0.5}, "'first_step' is not a whole number"),
        ({"states": GOOD}, {"dt_s": 0.05}, "states are 0.05 s apart by 'dt_s'; resample them to 0.1 s"),
    ],
)
def test_each_fault_has_its_sentence(write, datasets, attributes, sentence):
    assert sentence in problem(write({"data/demo_0": (datasets, attributes)}))


@pytest.mark.parametrize("fields", [["x", "y", "z", "vx", "vy"], "", "[1", 5, ["x", "y", "heading", "vx", "speed"]])
def test_fields_that_do_not_tell_enough(write, fields):
    assert "needed are x, y, heading" in problem(write({"demo_0": ({"states": GOOD}, {})}, fields=fields))


def test_a_rate_told_by_the_whole_file(write):
    assert "'dt_s'" in problem(write({"demo_0": ({"states": GOOD}, {})}, dt_s=1.0))
    assert "'dt_s'" in problem(write({"data": ({}, {"dt_s": 1.0}), "data/demo_0": ({"states": GOOD}, {})}))
    assert only(write({"demo_0": ({"states": GOOD}, {"dt_s": np.float32(0.1)})})).num_steps == 10


def test_a_claimed_size_is_not_allocated(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("demo_0/states", (10**12, 5), "f8", chunks=(1000, 5))
    assert "holds 1000000000000 state(s)" in problem(str(tmp_path / "a.h5"))


@pytest.mark.parametrize("groups", [{}, {"data/other": ({}, {})}, {"demo_x": ({}, {})}])
def test_files_without_demonstrations(write, groups):
    assert "holds no demonstrations" in problem(write(groups))


def test_a_missing_file():
    refs, (error,) = list_scenes("/nowhere/a.hdf5")
    assert refs == []
    assert "/nowhere/a.hdf5" in str(error)


@settings(max_examples=40, deadline=None)
@given(data=st.binary(max_size=200), keep=st.none() | st.floats(0, 0.999))
def test_bytes_that_are_no_file(tmp_path_factory, data, keep):
    """Bytes of anything, and files that were cut."""
    path = tmp_path_factory.mktemp("bytes") / "a.hdf5"
    if keep is not None:
        with h5py.File(path, "w") as file:
            file["demo_0/states"] = GOOD
        whole = path.read_bytes()
        data = whole[: int(keep * len(whole))]
    path.write_bytes(data)
    assert "no HDF5 file, or damaged" in problem(str(path))


VALUES = (
    st.integers(-(2**63), 2**63 - 1)
    | st.floats()
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=5)
    | st.lists(st.floats(), max_size=4)
    | st.lists(st.lists(st.integers(-5, 5), min_size=2, max_size=2), min_size=1, max_size=3)
)
NAMES = st.sampled_from(
    ["scene", "scene_index", "agent_id", "agent_type", "agent_size", "origin", "first_step", "dt_s"]
)
TABLES = st.tuples(
    st.lists(st.integers(0, 6), max_size=3),
    st.sampled_from(["f4", "f8", "f2", "i2", "u8", "S3", "?", "c8"]),
    st.sampled_from([0, 1, 1e300, np.nan, -np.inf]),
)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_content_can_stop_the_run(tmp_path_factory, data):
    path = str(tmp_path_factory.mktemp("fuzz") / "a.hdf5")
    with h5py.File(path, "w") as file, np.errstate(all="ignore"):
        for name in data.draw(
            st.lists(st.sampled_from(["demo_0", "data/demo_0", "data/demo_1", "data/x"]), unique=True)
        ):
            group = file.create_group(name)
            group.attrs.update(data.draw(st.dictionaries(NAMES, VALUES, max_size=3)))
            for key in data.draw(st.lists(st.sampled_from(["states", "next_states", "infos"]), unique=True)):
                shape, dtype, value = data.draw(TABLES)
                table = np.full(shape, 0).astype(dtype)
                if table.dtype.kind == "f":
                    table[...] = value
                group[key] = GOOD if data.draw(st.booleans()) else table
                if data.draw(st.booleans()):
                    group[key].attrs["fields"] = data.draw(VALUES)
    refs, problems = list_scenes(path)
    for scene in [*problems, *(scene for _, scene in read_scenes(refs))]:
        assert isinstance(scene, Scenario | SceneError)
        if isinstance(scene, Scenario):
            try:
                scene_from_scenario(scene)
            except ValueError as error:
                assert "\n" not in str(error)  # noqa: PT017
        else:
            assert "\n" not in str(scene)
            assert "damaged" not in str(scene)  # each fault has a sentence of its own
            assert "cannot be read" not in str(scene)
