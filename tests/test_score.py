"""``gail-cli score``: golden numbers of the challenge's scorer, and submissions that do not fit."""

import gzip
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scenes import SHARED

from benchmarks.wosac_cases import message_of, restless, with_roles
from gail_cli.cli import cli
from gail_cli.gail.evaluation.challenge import COMPONENTS, OFFICIAL_NAMES
from gail_cli.gail.evaluation.logged import index_scenes, log_of_file, read_logged
from gail_cli.gail.evaluation.scoring import measure, score_submission
from gail_cli.gail.evaluation.submitted import SubmissionError, read_submission, submission_files
from gail_cli.pipeline.readers import gpudrive_json, womd
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.pipeline.readers.sources import SourceError
from gail_cli.pipeline.readers.tfrecord import read_records, write_records
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import SceneError

SAMPLE = sorted((Path(__file__).parents[1] / "data" / "sample").glob("*.tfrecord"))[0]
GOLDEN, SCENES = SHARED / "wosac", str(SHARED / "womd" / "tfrecord")
NAMES = ("policy_submission", "waymo_test_submission")
golden = pytest.mark.skipif(not GOLDEN.exists(), reason="no ../shared/wosac")

TOLERANCES = {
    "linear_speed": 0.001, "linear_acceleration": 0.002, "angular_speed": 2e-5, "angular_acceleration": 2e-4,
    "distance_to_nearest_object": 0.005, "time_to_collision": 0.001, "distance_to_road_edge": 0.005, "red_light": 0,
}  # fmt: skip
"""Of per-step features, in their units: float32 in the file's frame resolves 0.5 mm at its 10 km. Up to one step in a
thousand may be farther: where two edges are equally near."""


@golden
@pytest.mark.parametrize("name", NAMES)
def test_golden_scores(name):
    official = json.loads((GOLDEN / "official_scores.json").read_text())[name]
    found = score_submission([str(GOLDEN / f"{name}.binproto")], [SCENES])["mean"]
    for year in ("2025", "2024"):
        assert found[f"realism_{year}"] == pytest.approx(official[year]["metametric"], abs=1e-4)
    theirs = official["2025"]
    for c in COMPONENTS:
        likely = theirs[f"{OFFICIAL_NAMES.get(c.name, c.name)}_likelihood"]
        assert found[f"likelihood_{c.name}"] == pytest.approx(likely, abs=2e-4), c.name
    assert found["ade"] == pytest.approx(theirs["average_displacement_error"], abs=1e-5)
    assert found["min_ade"] == pytest.approx(theirs["min_average_displacement_error"], abs=1e-5)
    assert found["simulated_collision"] == theirs["simulated_collision_rate"]
    assert found["simulated_off_road"] == theirs["simulated_offroad_rate"]
    assert found["simulated_traffic_light"] == theirs["simulated_traffic_light_violation_rate"]


@golden
@pytest.mark.parametrize("name", NAMES)
def test_golden_features(name):
    """Every scored object at every step of the log and of 32 drives."""
    rollouts, _ = next(read_submission([GOLDEN / f"{name}.binproto"]))
    log = log_of_file(read_logged(index_scenes([SCENES])[rollouts.scene]))
    logged, drives = measure(rollouts, log)
    with np.load(GOLDEN / f"{name}.features.npz") as theirs:
        ids = log.objects[log.worlds.selected[0].controlled].tolist()
        order = [ids.index(number) for number in theirs["log_object_id"].tolist()]
        vehicle = (theirs["log_object_type"][0] == 1)[:, None]
        np.testing.assert_array_equal(logged["valid"].numpy()[order], theirs["log_valid"][0])
        for feature, most in TOLERANCES.items():
            other = "traffic_light_violation_per_step" if feature == "red_light" else feature
            for kind, found in (("log", [logged]), ("sim", drives)):
                mine = np.stack([f[feature].numpy()[order] for f in found]).astype(np.float64)
                wanted = theirs[f"{kind}_{other}"].astype(np.float64)
                counted = np.broadcast_to(theirs["log_valid"] if kind == "log" else True, wanted.shape)
                counted = counted & vehicle if feature in ("time_to_collision", "red_light") else counted
                assert (np.isnan(mine) == np.isnan(wanted))[counted].all(), feature
                defined = counted & ~np.isnan(wanted)
                # speeds made of states of invalid steps are 5e4 m/s, of which float32 resolves 0.004
                apart = np.abs(mine - wanted)[defined] - 1e-6 * np.abs(wanted)[defined]
                assert (apart > most).mean() < 1e-3, (feature, kind, apart.max())


@pytest.fixture(scope="module")
def scene():
    """A synthetic scene, as message and as scenario."""
    data, *_ = read_records(str(SAMPLE))
    return data, womd.parse(data)


@pytest.fixture
def submit(scene, tmp_path):
    """Writes a submission of the scene and the scene itself, and returns their paths."""

    def write(change=lambda rollouts: None, name="s.binproto", pack=lambda data: data):
        message = schema.SimAgentsChallengeSubmission(scenario_rollouts=[restless(scene[1], 0)])
        change(message.scenario_rollouts[0])
        (tmp_path / name).write_bytes(pack(message.SerializeToString()))
        write_records(str(tmp_path / "scenes.tfrecord"), [scene[0]])
        return str(tmp_path / name), str(tmp_path / "scenes.tfrecord")

    return write


def test_packed_submissions_score_alike(submit, tmp_path):
    plain, scenes = submit()
    packed, _ = submit(name="s.binproto.gz", pack=gzip.compress)
    with tarfile.open(tmp_path / "up.tar.gz", "w:gz") as archive:
        archive.add(plain, "submission.binproto-00000-of-00001")
    folder = tmp_path / "shards"
    folder.mkdir()
    (folder / "s.binproto-00000-of-00001").write_bytes(Path(plain).read_bytes())
    results = [score_submission([x], [scenes]) for x in (plain, packed, str(tmp_path / "up.tar.gz"), str(folder))]
    assert all(result == results[0] for result in results)
    mean = results[0]["mean"]
    assert 0 < mean["realism_2025"] < 1
    assert results[0]["scenes"][womd.parse(*read_records(scenes)).id] == mean


def test_scenes_as_json_score_alike(submit, scene, tmp_path):
    """But for what the format does not keep: heights of the map's points are, sizes of step 10 are not."""
    submission, scenes = submit()
    gpudrive_json.write(scene[1], str(tmp_path / "scene.json"))
    first, other = (score_submission([submission], [x])["mean"] for x in (scenes, str(tmp_path / "scene.json")))
    for name, value in first.items():
        assert other[name] == pytest.approx(value, abs=1e-3), name


def test_messages_of_scenarios_are_read_back(scene):
    again = womd.scenario_from_proto(message_of(scene[1]))
    np.testing.assert_array_equal(again.tracks.position, scene[1].tracks.position)
    assert [road.id for road in again.roads] == [r.id for r in scene[1].roads if r.type in (1, 3)]
    roleless = with_roles(scene[1])
    assert roleless is scene[1]


def drop(rollouts):
    del rollouts.joint_scenes[3].simulated_trajectories[0]


def drop_everywhere(rollouts):
    for joint in rollouts.joint_scenes:
        del joint.simulated_trajectories[0]


def double(rollouts):
    joint = rollouts.joint_scenes[5]
    joint.simulated_trajectories.append(joint.simulated_trajectories[0])


def add(rollouts):
    for joint in rollouts.joint_scenes:
        joint.simulated_trajectories.add().CopyFrom(joint.simulated_trajectories[0])
        joint.simulated_trajectories[-1].object_id = 987654


def shorten(rollouts):
    del rollouts.joint_scenes[0].simulated_trajectories[0].center_z[-1]


def fewer(rollouts):
    del rollouts.joint_scenes[-1]


def spoil(rollouts):
    rollouts.joint_scenes[1].simulated_trajectories[0].heading[7] = float("nan")


def rename(rollouts):
    rollouts.scenario_id = "elsewhere"


def launch(rollouts):
    rollouts.joint_scenes[2].simulated_trajectories[1].center_y[79] = -1e38


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop, r"scene '\w+': drive 3 has other objects than drive 0: \d+; simulate every object"),
        (drop_everywhere, r"scene '\w+': the submission lacks object\(s\) \d+; simulate every object"),
        (double, r"scene '\w+': drive 5 has object \d+ twice"),
        (add, r"scene '\w+': object\(s\) 987654 of the submission are not there at step 10"),
        (shorten, r"scene '\w+': drive 0 has 79 steps of object \d+; the challenge asks for 80"),
        (fewer, r"scene '\w+': the submission has 31 drives of it; the challenge asks for 32"),
        (spoil, r"scene '\w+': drive 1 has a number of object \d+ that is not finite"),
        (launch, r"scene '\w+': drive 2 has object \d+ more than 1e\+07 m away; simulate it again"),
        (rename, r"scene 'elsewhere' is not among the 1 scene\(s\) of the files; give the files"),
    ],
)
def test_submissions_that_do_not_fit(submit, change, message):
    submission, scenes = submit(change)
    with pytest.raises(SubmissionError, match=rf"^{re.escape(submission)}: {message}"):
        score_submission([submission], [scenes])


def test_errors_name_the_shard(submit, tmp_path):
    def other(rollouts):
        rollouts.scenario_id = "other"
        fewer(rollouts)

    good, scenes = submit()
    bad, _ = submit(other, name="t.binproto")
    folder = tmp_path / "shards"
    folder.mkdir()
    Path(good).rename(folder / "s.binproto-00000-of-00002")
    Path(bad).rename(folder / "s.binproto-00001-of-00002")
    with pytest.raises(SubmissionError, match=r"^\S+/s\.binproto-00001-of-00002: scene 'other': the submission has 31"):
        score_submission([str(folder)], [scenes])


def test_scenes_that_are_none(submit, make_store, tmp_path):
    submission, scenes = submit()
    old = str(Path(__file__).parent / "data" / "store-2.0.zip")
    for store in (str(make_store(scenes=1).path), old):
        with pytest.raises(SourceError, match=f"^{store} is a demo store, .*; give the files that it was made from$"):
            score_submission([submission], [store])
    write_records(str(tmp_path / "none.tfrecord"), [])
    with pytest.raises(UserError, match=r"none\.tfrecord is empty"):
        score_submission([submission], [str(tmp_path / "none.tfrecord")])
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(SceneError, match=r"other\.json"):
        score_submission([submission], [str(tmp_path / "other.json")])
    data = bytearray(Path(scenes).read_bytes())
    data[100] ^= 255
    (tmp_path / "bad.tfrecord").write_bytes(data)
    with pytest.raises(UserError, match=r"bad\.tfrecord"):
        score_submission([submission], [str(tmp_path / "bad.tfrecord")])


def test_files_that_are_none(submit, tmp_path):
    submission, scenes = submit()
    junk = tmp_path / "junk.binproto"
    junk.write_bytes(b"junk")
    with pytest.raises(SubmissionError, match="is no SimAgentsChallengeSubmission"):
        score_submission([str(junk)], [scenes])
    (tmp_path / "cut.binproto.gz").write_bytes(gzip.compress(Path(submission).read_bytes())[:-9])
    with pytest.raises(SubmissionError, match="can not be read"):
        score_submission([str(tmp_path / "cut.binproto.gz")], [scenes])
    junk.write_bytes(b"")
    with pytest.raises(SubmissionError, match="holds no scene"):
        score_submission([str(junk)], [scenes])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SubmissionError, match="has no submission"):
        submission_files([str(tmp_path / "empty")])
    with pytest.raises(SubmissionError, match=r"scene '\w+' is in the submission twice"):
        score_submission([submission, submission], [scenes])


def test_scenes_that_name_nobody(submit, scene, tmp_path):
    message = message_of(scene[1])
    message.ClearField("sdc_track_index")
    message.ClearField("tracks_to_predict")
    submission, _ = submit()
    write_records(str(tmp_path / "nobody.tfrecord"), [message.SerializeToString()])
    with pytest.raises(UserError, match="names neither the recording car nor tracks to predict"):
        score_submission([submission], [str(tmp_path / "nobody.tfrecord")])
    message.scenario_id = "nobody"
    both = schema.SimAgentsChallengeSubmission.FromString(Path(submission).read_bytes())
    both.scenario_rollouts.add().CopyFrom(both.scenario_rollouts[0])
    both.scenario_rollouts[1].scenario_id = "nobody"
    (tmp_path / "both.binproto").write_bytes(both.SerializeToString())
    write_records(str(tmp_path / "nobody.tfrecord"), [scene[0], message.SerializeToString()])
    found = score_submission([str(tmp_path / "both.binproto")], [str(tmp_path / "nobody.tfrecord")])
    assert list(found["scenes"]) == [scene[1].id]
    assert found["notes"]["nobody"] == [
        "its file names neither the recording car nor tracks to predict, so nobody is scored and it is left out"
    ]


def test_without_road_edges(submit, scene, tmp_path):
    message = message_of(scene[1])
    for feature in list(message.map_features):
        if feature.HasField("road_edge"):
            message.map_features.remove(feature)
    submission, _ = submit()
    write_records(str(tmp_path / "bare.tfrecord"), [message.SerializeToString()])
    found = score_submission([submission], [str(tmp_path / "bare.tfrecord")])
    assert found["mean"]["likelihood_off_road"] is None
    assert found["mean"]["likelihood_distance_to_road_edge"] is None
    assert found["mean"]["simulated_off_road"] is None
    assert 0 < found["mean"]["realism_2025"] < 1
    assert "no road edges" in found["notes"][scene[1].id][0]


def test_the_command(submit, tmp_path):
    submission, scenes = submit()
    report = tmp_path / "report.json"
    result = CliRunner().invoke(cli, ["score", submission, "--scenes", scenes, "--report", str(report)])
    assert result.exit_code == 0, result.output
    written = json.loads(report.read_text())
    assert f"{written['mean']['realism_2025']:.4f}" in result.output
    assert written["rollouts"] == 32
