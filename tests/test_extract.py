import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scenes import scenes_equal
from strategies import gpudrive_scene, womd_message

from gail_cli.data import SAMPLE
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.extract import build as build_module
from gail_cli.pipeline.extract import cluster
from gail_cli.pipeline.extract import extract as module
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.extract.report import extraction_summary, kept
from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.pipeline.readers.sources import SourceError
from gail_cli.pipeline.readers.tfrecord import write_records
from gail_cli.pipeline.records import split_of
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore, manifest
from gail_cli.pipeline.validate.validate import Expectation, fit, validate_store
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.scenario import AgentType, SceneError
from gail_cli.sim.scene import scene_from_scenario

CONFIG = ExtractConfig(ActionSpace.create("classic"), steps=20, max_replay_error=None, max_jump=None, scenes_per_part=2)


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def write_json(path, name="a", change=lambda data: None):
    data = gpudrive_scene(steps=30) | {"scenario_id": name}
    change(data)
    path.write_text(json.dumps(data))


def make_scenes(folder):
    """Five good scenes, so three parts."""
    folder.mkdir()
    for name in "abcde":
        write_json(folder / f"{name}.json", name)
    return folder


@pytest.fixture
def scenes(tmp_path):
    return make_scenes(tmp_path / "scenes")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Scenes, and their store made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    run(make_scenes(folder / "scenes"), folder / "store")
    return folder


def run(scenes, path, limit=None, progress=lambda *_: None, **options):
    options = ExtractOptions(**{"workers": 1} | options)
    return extract([str(scenes)], str(path), CONFIG, options, limit=limit, progress=progress)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_is_written_and_reported(scenes, tmp_path):
    calls = []
    report = run(scenes, tmp_path / "store", progress=lambda *call: calls.append(call))
    opened = DemoStore(tmp_path / "store")
    assert opened.scene_ids() == list("abcde")
    assert opened.parts == ["00000", "00001", "00002"]
    assert [Path(e["scenes"]["source"][0]).name for e in manifest(opened.storage)] == ["a.json", "c.json", "e.json"]
    assert report["scenes"] == {"read": 5, "written": 5, "dropped": 0}
    assert report["demos"] == {"moving": 10, "vehicles": 10, "vru": 0}
    assert report["transitions"] == 10 * 19
    assert {item["mend"] for item in report["mended"]} >= {"30 steps cut to the first 20"}
    assert report["replay"]["goal_rate"] == 1.0
    assert set(report["replay_vru"].values()) == {None}  # nobody walks there
    assert report["bytes_per_scene"] == sum(map(len, contents(tmp_path / "store").values())) / 5
    assert calls == [(0, 5), (2, 5), (4, 5), (5, 5)]
    json.dumps(report, allow_nan=False)


def test_a_store_can_hold_gpudrives_coordinates(scenes, tmp_path):
    """To the last bit, and with a plan of its own, so that the two kinds are never mixed in one store."""
    extract(
        [str(scenes)], str(tmp_path / "store"), replace(CONFIG, compat="gpudrive"), options=ExtractOptions(workers=1)
    )
    opened = DemoStore(tmp_path / "store")
    assert opened.attributes["settings"]["compat"] == "gpudrive"
    logged = gpudrive_json.read(str(scenes / "c.json"))
    kept = next(iter(opened.read([opened.find("c")]))).scene
    assert scenes_equal(kept, scene_from_scenario(logged, CONFIG.steps, compat="gpudrive"))
    assert not scenes_equal(kept, scene_from_scenario(logged, CONFIG.steps))
    writer._write_root(opened.storage, {**opened.attributes, "complete": False})
    with pytest.raises(ExtractionError, match="begun with other sources, settings"):
        run(scenes, tmp_path / "store")


def test_a_limit(scenes, tmp_path):
    (scenes / "f.tfrecord").write_text("broken, and beyond the limit")
    report = run(scenes, tmp_path / "store", limit=3)
    assert report["scenes"]["read"] == 3
    assert report["failed"] == []


def test_many_files_are_planned_in_their_order(scenes, monkeypatch):
    monkeypatch.setattr(module, "PLANNERS", 2)
    told = []
    plan = module.make_plan([str(scenes)], 2, progress=lambda *call: told.append(call))
    assert [Path(ref.path).name for part in plan.parts for ref in part] == [f"{x}.json" for x in "abcde"]
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert module.make_plan([str(scenes)], 2, limit=3).scenes == 3


def test_good_scenes_beside_bad_ones_are_written(scenes, tmp_path):
    (scenes / "b.json").write_text('{"objects": 1}')
    write_records(str(scenes / "f.tfrecord"), [womd_message(steps=20).SerializeToString()] * 2)
    cut = (scenes / "f.tfrecord").read_bytes()[:-5]
    (scenes / "f.tfrecord").write_bytes(cut)
    report = run(scenes, tmp_path / "store")
    assert DemoStore(tmp_path / "store").scene_ids() == ["a", "c", "d", "e", "abc"]
    assert sorted(Path(item["source"]).name for item in report["failed"]) == ["b.json", "f.tfrecord"]
    assert all("\n" not in item["reason"] for item in report["failed"])


def test_scenes_without_anybody_to_control_are_dropped_and_counted(scenes, tmp_path):
    def park(data):
        for car in data["objects"]:
            car["position"], car["velocity"] = [car["position"][0]] * 30, [{"x": 0.0, "y": 0.0}] * 30

    write_json(scenes / "b.json", "b", park)
    report = run(scenes, tmp_path / "store")
    assert report["scenes"] == {"read": 5, "written": 4, "dropped": 1}
    assert report["failed"] == []
    assert "no agent is there for a policy to control" in report["dropped"][0]["reason"]


def test_nothing_is_left_when_no_scene_can_be_used(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(ExtractionError, match=r"none of the 1 scene\(s\) can be used: .*a.json"):
        run(tmp_path / "a.json", tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_what_fails_once_is_tried_again(scenes, tmp_path, monkeypatch):
    """A network may have been at fault; what fails twice is recorded, and costs nothing else."""
    real, asked = build_module.read_scenes, Counter()

    def flaky(refs):
        for ref, found in real(refs):
            asked[Path(ref.path).name] += 1
            fails = (ref.path.endswith("b.json") and asked["b.json"] == 1) or ref.path.endswith("d.json")
            yield ref, SceneError(str(ref), "the line is down") if fails else found

    monkeypatch.setattr(build_module, "read_scenes", flaky)
    report = run(scenes, tmp_path / "store")
    assert asked == {"a.json": 1, "b.json": 2, "c.json": 1, "d.json": 2, "e.json": 1}
    assert DemoStore(tmp_path / "store").scene_ids() == list("abce")
    assert [item["reason"] for item in report["failed"]] == [f"{scenes / 'd.json'}: the line is down"]


def test_a_scene_that_provokes_what_nobody_foresaw_costs_itself_alone(scenes, tmp_path, monkeypatch):
    real = build_module.replay_experts

    def breaks(found, *args):
        if any(scene.id == "b" for scene in found):
            raise ZeroDivisionError("b")
        return real(found, *args)

    monkeypatch.setattr(build_module, "replay_experts", breaks)
    report = run(scenes, tmp_path / "store")
    assert DemoStore(tmp_path / "store").scene_ids() == list("acde")
    (failed,) = report["failed"]
    assert failed["reason"] == f"{scenes / 'b.json'}: no expert actions can be found (ZeroDivisionError: b)"


@pytest.mark.parametrize("bad", ["b.json", "f.tfrecord"])
def test_the_strict_stop_at_the_first_failure(scenes, tmp_path, bad):
    (scenes / bad).write_text('{"objects": 1}')
    with pytest.raises(ExtractionError, match=rf"stopped at the first failure \(--fail-fast\): .*{bad}"):
        run(scenes, tmp_path / "store", fail_fast=True)
    (scenes / bad).unlink()
    if bad == "b.json":
        write_json(scenes / "b.json", "b")
    assert run(scenes, tmp_path / "store", fail_fast=True)["scenes"]["written"] == 5


def test_demos_far_from_their_log_are_left_out(scenes, tmp_path):
    """A car that jumps sideways by 1 m in one step cannot be followed by a car."""

    def jump(data):
        for place in data["objects"][0]["position"][15:]:
            place["x"] += 1.0

    write_json(scenes / "b.json", "b", jump)
    everything = run(scenes, tmp_path / "all")
    limit = replace(CONFIG, max_replay_error=0.05)
    report = extract([str(scenes)], str(tmp_path / "near"), limit, ExtractOptions(workers=1))
    assert everything["demos"]["moving"] - report["demos"]["moving"] == len(report["dropped_demos"]) == 1
    (dropped,) = report["dropped_demos"]
    assert dropped["agent"] == 5
    assert dropped["ade_m"] > 0.05
    assert "more than 0.05 m from its log on average (--max-replay-error)" in dropped["reason"]
    quality = np.concatenate([r.demos.quality for r in DemoStore(tmp_path / "near").read()])
    assert quality[:, 0].max() <= 0.05
    assert report["replay"]["ade_m"] == pytest.approx(quality[:, 0].mean())


def test_demos_of_logs_that_jump_are_left_out_and_their_agents_follow_the_log(scenes, tmp_path):
    """2 m aside between steps 14 and 15; the other car of the scene stays, and the report names the worst."""

    def jump(data):
        for place in data["objects"][0]["position"][15:]:
            place["x"] += 2.0

    write_json(scenes / "b.json", "b", jump)
    config = ExtractConfig(CONFIG.space, steps=20, scenes_per_part=2)
    report = extract([str(scenes)], str(tmp_path / "store"), config, ExtractOptions(workers=1))
    (dropped,) = report["dropped_demos"]
    assert (dropped["agent"], dropped["step"], Path(dropped["source"]).name) == (5, 14, "b.json")
    assert dropped["reason"] == "its log jumps by more than 0.5 m beyond where a car could be (--max-jump)"
    (record,) = DemoStore(tmp_path / "store").read([1])
    assert record.scene.agent_id[record.demos.agent].tolist() == [6]
    experts = make_experts([record], SimConfig())
    (controlled,) = experts.worlds.controlled.tolist()
    assert record.scene.agent_id[controlled] == 6
    (follower,) = np.flatnonzero(record.scene.agent_id == 5)
    np.testing.assert_array_equal(experts.track[follower], record.scene.log[follower])
    worst = report["worst_demos"]
    assert len(worst) == 10
    assert (worst[0]["agent"], worst[0]["ade_m"], worst[0]["left_out"]) == (5, dropped["ade_m"], True)
    assert [d["ade_m"] for d in worst] == sorted([d["ade_m"] for d in worst], reverse=True)
    assert not any(d["left_out"] for d in worst[1:])
    assert f"{dropped['ade_m']:.2f} m: agent 5 of {dropped['source']} (left out)" in extraction_summary(report)


def test_logs_that_drive_backwards_are_for_vehicles_that_know_reverse(scenes, tmp_path):
    def turn_round(data):
        data["objects"][0]["heading"] = [-np.pi / 2] * 30

    write_json(scenes / "b.json", "b", turn_round)
    reports = {}
    for reverse in (True, False):
        config = ExtractConfig(ActionSpace.create("classic", reverse=reverse), steps=20, scenes_per_part=2)
        reports[reverse] = extract([str(scenes)], str(tmp_path / str(reverse)), config, ExtractOptions(workers=1))
    assert reports[True]["dropped_demos"] == []
    assert reports[True]["replay"]["ade_m"] < 0.05
    (dropped,) = reports[False]["dropped_demos"]
    assert (dropped["agent"], dropped["step"]) == (5, 1)
    assert dropped["reason"] == "its log drives backwards, which GPUDrive's vehicles cannot (--compat gpudrive)"
    assert DemoStore(tmp_path / "True").space.reverse
    assert not DemoStore(tmp_path / "False").space.reverse
    found = {name: fit(DemoStore(tmp_path / name), Expectation(gpudrive=True)) for name in ("True", "False")}
    assert [p.what for p in found["True"]] == ["its vehicles know reverse, but GPUDrive's rules do not"]
    assert found["False"] == []


def test_demos_half_a_metre_off_are_left_out_by_default(scenes, tmp_path):
    """A car that turns on the spot by 20 degrees a step: no jump, and nothing that a car could do."""

    def spin(data):
        data["objects"][0]["heading"] = [0.35 * t for t in range(30)]

    write_json(scenes / "b.json", "b", spin)
    config = ExtractConfig(CONFIG.space, steps=20, scenes_per_part=2)
    report = extract([str(scenes)], str(tmp_path / "store"), config, ExtractOptions(workers=1))
    (dropped,) = report["dropped_demos"]
    assert dropped["agent"] == 5
    assert dropped["ade_m"] > 0.5
    assert dropped["reason"] == "its replay is more than 0.5 m from its log on average (--max-replay-error)"


def test_pedestrians_and_cyclists_on_demand(tmp_path):
    config = ExtractConfig(CONFIG.space, agents="all")
    report = extract([str(SAMPLE)], str(tmp_path / "store"), config, ExtractOptions(workers=1))
    walkers = [record for record in DemoStore(tmp_path / "store", agents="vru").read() if record.demos.num_demos]
    assert sum(record.demos.num_demos for record in walkers) == report["demos"]["vru"] > 5
    for record in walkers:
        kinds = record.scene.agent_type[record.demos.agent]
        assert set(kinds.tolist()) <= {AgentType.PEDESTRIAN, AgentType.CYCLIST}
    assert report["replay_vru"]["ade_m"] < 0.01


def test_means_of_no_demos_are_not_told(scenes, tmp_path):
    """As when every vehicle that moves is left out: no share of nobody reaches a goal."""
    report = run(scenes, tmp_path / "store", limit=1)
    assert "expert replay" in extraction_summary(report)
    assert kept(report)["report"]["replay"] == report["replay"]
    nobody = report | {"replay": report["replay_vru"], "demos": report["demos"] | {"moving": 0}}
    assert "expert replay" not in extraction_summary(nobody)
    assert kept(nobody)["report"]["replay"] is None


def test_splits_are_settable_and_stable(scenes, tmp_path):
    for k, name in enumerate("abcde"):  # elsewhere each, as scenes of other logs are

        def shift(data, by=50.0 * k):
            for item in data["objects"]:
                item["position"] = [{**point, "x": point["x"] + by} for point in item["position"]]

        write_json(scenes / f"{name}.json", name, shift)
    config = replace(CONFIG, split=(0.5, 0.25, 0.25))
    extract([str(scenes)], str(tmp_path / "store"), config, ExtractOptions(workers=1))
    expected = [split_of(scene, config.split) for scene in "abcde"]
    opened = DemoStore(tmp_path / "store")
    assert opened.index.split.tolist() == expected
    assert [record.split for record in opened.read()] == expected
    assert len(set(expected)) > 1


# resuming


def test_a_finished_store_is_done(scenes, tmp_path):
    """For jobs that are started again: the same plan is done, another one is refused."""
    first = run(scenes, tmp_path / "store")
    before = contents(tmp_path / "store")
    again = run(scenes, tmp_path / "store", resume=True)
    assert {k: again[k] for k in ("scenes", "replay", "bytes")} == {k: first[k] for k in ("scenes", "replay", "bytes")}
    assert contents(tmp_path / "store") == before
    with pytest.raises(ExtractionError, match="exists already"):
        run(scenes, tmp_path / "store", resume=True, limit=2)


def test_an_unfinished_store_is_refused_on_demand(scenes, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "finish_store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(scenes, tmp_path / "store")
    with pytest.raises(ExtractionError, match="it exists already; add --overwrite"):
        run(scenes, tmp_path / "store", resume=False)


@pytest.mark.parametrize(
    ("moment", "parts"), [("write_part", 1), ("commit_part", 0), ("commit_part", 2), ("finish_store", 3)]
)
def test_a_run_that_was_cut_short_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, moment, parts):
    """The run dies when so many parts are whole, before ``moment``; what it was writing lies around."""
    real, calls = getattr(writer, moment), []

    def die(storage, *args):
        path = storage.root
        calls.append(path)
        if len(calls) > parts % 3:
            (path / "parts" / ".00001.0123abcd" / "agents").mkdir(parents=True)
            (path / "manifest").mkdir(exist_ok=True)
            (path / "manifest" / ".00001.json.0123abcd").write_text("{")
            raise KeyboardInterrupt
        return real(storage, *args)

    with monkeypatch.context() as patch:
        patch.setattr(writer, moment, die)
        with pytest.raises(KeyboardInterrupt):
            run(whole / "scenes", tmp_path / "cut")
    with pytest.raises(StoreError, match="did not finish" if parts else "no demo store here"):
        DemoStore(tmp_path / "cut")
    progress = []
    run(whole / "scenes", tmp_path / "cut", progress=lambda done, _: progress.append(done))
    assert progress[0] == min(2 * parts, 5)
    assert contents(tmp_path / "cut") == contents(whole / "store")


def test_two_workers_give_the_same_bytes(whole, tmp_path, monkeypatch, processes):
    monkeypatch.setattr(module, "SCENES_PER_TASK", 1)
    calls = []
    run(whole / "scenes", tmp_path / "two", workers=2, progress=lambda *call: calls.append(call))
    assert contents(tmp_path / "two") == contents(whole / "store")
    assert calls == [(n, 5) for n in range(6)]


def test_a_store_that_is_there_is_not_touched_without_overwrite(scenes, tmp_path):
    run(scenes, tmp_path / "store")
    before = contents(tmp_path / "store")
    with pytest.raises(ExtractionError, match="exists already; add --overwrite"):
        run(scenes, tmp_path / "store")
    with pytest.raises(SourceError):
        run(tmp_path / "missing", tmp_path / "store", overwrite=True)
    assert contents(tmp_path / "store") == before
    run(scenes, tmp_path / "store", overwrite=True, limit=1)
    assert len(DemoStore(tmp_path / "store")) == 1


def test_an_unfinished_store_of_other_scenes_is_not_gone_on_with(scenes, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writer, "finish_store", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(scenes, tmp_path / "store")
    with pytest.raises(ExtractionError, match="was begun with other sources, settings or software"):
        run(scenes, tmp_path / "store", limit=4)
    assert run(scenes, tmp_path / "store")["scenes"]["written"] == 5


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_store_is_never_touched(scenes, tmp_path, overwrite):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes").write_text("mine")
    shutil.copytree(scenes, tmp_path / "zarr")
    (tmp_path / "zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}')
    for place, match in (
        ("file", "a file is there; choose another place"),
        ("folder", "holds other things than a demo store; choose another place"),
        ("zarr", "is not a gail-cli demo store; check the path"),
        ("file/below", r"cannot be written \(.*\); choose another place"),
    ):
        with pytest.raises((ExtractionError, StoreError), match=match):
            run(scenes, tmp_path / place, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "notes").read_text() == "mine"
    assert len(list((tmp_path / "zarr").iterdir())) == 6


def test_a_scheduler_that_is_not_there(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "SCHEDULER_TIMEOUT", "0.5s")
    with pytest.raises(ExtractionError, match=r"scheduler tcp://127.0.0.1:9: cannot be reached"):
        run(scenes, tmp_path / "store", scheduler="tcp://127.0.0.1:9")


def test_a_replaced_store_comes_back_when_nothing_replaces_it(scenes, tmp_path, monkeypatch):
    run(scenes, tmp_path / "store")
    before = contents(tmp_path)
    (tmp_path / "none.json").write_text("{}")
    monkeypatch.setattr(cluster, "SCHEDULER_TIMEOUT", "0.5s")
    for source, scheduler in ((tmp_path / "none.json", None), (scenes, "tcp://127.0.0.1:9")):
        with pytest.raises(ExtractionError):
            run(source, tmp_path / "store", overwrite=True, scheduler=scheduler)
    (tmp_path / "none.json").unlink()
    assert contents(tmp_path) == before


def test_a_replacement_that_was_interrupted_is_gone_on_with(scenes, tmp_path, monkeypatch):
    run(scenes, tmp_path / "store", limit=1)
    monkeypatch.setattr(writer, "finish_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(scenes, tmp_path / "store", overwrite=True)
    monkeypatch.undo()
    run(scenes, tmp_path / "store")
    assert len(DemoStore(tmp_path / "store")) == 5
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    "space",
    [
        ActionSpace.create("bicycle", grid="gpudrive"),
        ActionSpace.create("delta_local"),
        ActionSpace.create("classic", "continuous"),
        ActionSpace.create("state", "continuous"),
    ],
)
def test_every_action_space(tmp_path, space):
    extract([str(SAMPLE)], str(tmp_path / "store"), ExtractConfig(space), options=ExtractOptions(workers=1), limit=2)
    opened = DemoStore(tmp_path / "store")
    assert opened.space == space
    for record in opened.read():
        if space.discrete:
            assert (record.demos.action < np.array(space.sizes)).all()


# buckets


@pytest.fixture(scope="module")
def two_parts(whole):
    """As many scenes as make two parts, since a bucket takes its time for each file; in a folder."""
    run(whole / "scenes", whole / "two parts", limit=3)
    return whole / "two parts"


def test_a_bucket_holds_the_same_store(whole, two_parts, s3):
    run(whole / "scenes", s3, limit=3)
    opened = DemoStore(s3)
    assert opened.scene_ids() == list("abc")
    assert opened.storage.tree("parts") == LocalFolder(two_parts).tree("parts")
    assert opened.storage.tree("index") == LocalFolder(two_parts).tree("index")
    assert validate_store(s3) == []
    with pytest.raises(ExtractionError, match="exists already; add --overwrite"):
        run(whole / "scenes", s3, limit=3)


def test_an_interrupted_extraction_into_a_bucket_goes_on(whole, two_parts, s3, monkeypatch):
    real, calls = writer.commit_part, []

    def die(storage, entry):
        calls.append(entry)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(storage, entry)

    with monkeypatch.context() as patch:
        patch.setattr(writer, "commit_part", die)
        with pytest.raises(KeyboardInterrupt):
            run(whole / "scenes", s3, limit=3)
    progress = []
    run(whole / "scenes", s3, limit=3, progress=lambda done, _: progress.append(done))
    assert progress[0] == 2
    assert DemoStore(s3).storage.tree("manifest") == LocalFolder(two_parts).tree("manifest")


def test_a_bucket_keeps_its_store_until_there_is_another(scenes, s3, tmp_path):
    run(scenes, s3, limit=1)
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ExtractionError, match="can be used"):
        run(tmp_path / "none.json", s3, overwrite=True)
    assert DemoStore(s3).scene_ids() == ["a"]
    assert validate_store(s3) == []
    run(scenes, s3, overwrite=True, limit=2)
    assert DemoStore(s3).scene_ids() == ["a", "b"]
    assert LocalFolder(tmp_path).names("") == ["none.json", "scenes"]


def test_a_bucket_that_cannot_be_reached_is_one_sentence(scenes, monkeypatch):
    pytest.importorskip("s3fs")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises((ExtractionError, StoreError), match=r"^store s3://stores/x: cannot be reached \(.*\);"):
            run(scenes, "s3://stores/x")
    finally:
        s3fs.S3FileSystem.clear_instance_cache()


def test_links_lead_to_the_store_itself(scenes, tmp_path):
    """It is replaced where it lies, and locked under whatever name."""
    run(scenes, tmp_path / "real", limit=1)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    run(scenes, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert len(DemoStore(tmp_path / "real")) == 5
    assert not list(tmp_path.glob(".*"))
    with (
        LocalFolder(tmp_path / "real").lock(),
        pytest.raises(ExtractionError, match=f"store {tmp_path / 'link'}: another process is writing to it"),
    ):
        run(scenes, tmp_path / "link", overwrite=True)


def test_a_stray_folder_is_not_taken_for_a_kept_store(scenes, tmp_path):
    run(scenes, tmp_path / "store", limit=1)
    (tmp_path / ".store.replaced").mkdir()
    (tmp_path / "none.json").write_text("{}")
    with pytest.raises(ExtractionError):
        run(tmp_path / "none.json", tmp_path / "store", overwrite=True)
    assert len(DemoStore(tmp_path / "store")) == 1


def test_the_working_directory_can_be_the_store(scenes, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(scenes, ".")["scenes"]["written"] == 5
    assert len(DemoStore(f"file://{tmp_path}/here")) == 5


def test_no_store_within_a_store(scenes, tmp_path):
    run(scenes, tmp_path / "store", limit=1)
    with pytest.raises(ExtractionError, match=f"it would lie inside {tmp_path / 'store'}; choose another place"):
        run(scenes, tmp_path / "store" / "sub")


def test_workers_that_write_elsewhere_are_told(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "write", lambda *_: 0)
    with pytest.raises(ExtractionError, match="what the workers wrote is not there; name a folder that all of"):
        run(scenes, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_two_extractions_at_once(scenes, tmp_path, monkeypatch):
    real = writer.write_part

    def second(*args):
        with pytest.raises(ExtractionError, match="another process is writing to it; wait for it"):
            run(scenes, tmp_path / "store")
        return real(*args)

    monkeypatch.setattr(writer, "write_part", second)
    assert run(scenes, tmp_path / "store")["scenes"]["written"] == 5


def test_a_zip_file_is_packed_not_extracted(scenes, tmp_path):
    with pytest.raises(ExtractionError, match=r"a zip file cannot grow part by part; extract to a folder"):
        run(scenes, tmp_path / "store.zip")
