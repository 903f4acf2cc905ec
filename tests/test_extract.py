import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from strategies import gpudrive_scene, womd_message

from data import SAMPLE
from pipeline import cluster, gpudrive_json, store
from pipeline import extract as module
from pipeline.cluster import ExtractionError
from pipeline.extract import ExtractConfig, extract
from pipeline.sources import SourceError
from pipeline.store import DemoStore, StoreError
from pipeline.tfrecord import write_records
from sim.actions import ActionSpace
from sim.scene import scene_from_scenario, scenes_equal

CONFIG = ExtractConfig(ActionSpace.create("classic"), steps=20, scenes_per_part=2)


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


def run(scenes, path, **more):
    return extract([str(scenes)], str(path), CONFIG, **{"workers": 1} | more)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_what_is_written_and_reported(scenes, tmp_path):
    calls = []
    report = run(scenes, tmp_path / "store", progress=lambda *call: calls.append(call))
    opened = DemoStore(tmp_path / "store")
    assert opened.scene_ids() == list("abcde")
    assert opened.parts == ["00000", "00001", "00002"]
    assert report["scenes"] == {"read": 5, "written": 5, "dropped": 0}
    assert (report["demos"], report["transitions"]) == (10, 10 * 19)
    assert {item["mend"] for item in report["mended"]} >= {"30 steps cut to the first 20"}
    assert report["replay"]["goal_rate"] == 1.0
    assert report["bytes_per_scene"] == sum(map(len, contents(tmp_path / "store").values())) / 5
    assert calls == [(0, 5), (2, 5), (4, 5), (5, 5)]
    json.dumps(report, allow_nan=False)


def test_a_store_can_hold_gpudrives_coordinates(scenes, tmp_path):
    """To the last bit, and with a plan of its own, so that the two kinds are never mixed in one store."""
    extract([str(scenes)], str(tmp_path / "store"), replace(CONFIG, compat="gpudrive"), workers=1)
    opened = DemoStore(tmp_path / "store")
    assert opened.attributes["settings"]["compat"] == "gpudrive"
    logged = gpudrive_json.read(str(scenes / "c.json"))
    kept = next(iter(opened.read([opened.find("c")]))).scene
    assert scenes_equal(kept, scene_from_scenario(logged, CONFIG.steps, compat="gpudrive"))
    assert not scenes_equal(kept, scene_from_scenario(logged, CONFIG.steps))
    store._write_root(tmp_path / "store", {**opened.attributes, "complete": False})
    with pytest.raises(ExtractionError, match="begun with other sources, settings"):
        run(scenes, tmp_path / "store")


def test_a_limit(scenes, tmp_path):
    assert run(scenes, tmp_path / "store", limit=3)["scenes"]["read"] == 3


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


# resuming


@pytest.mark.parametrize(
    ("moment", "parts"), [("write_part", 1), ("commit_part", 0), ("commit_part", 2), ("finish_store", 3)]
)
def test_a_run_that_was_cut_short_ends_with_the_same_bytes(whole, tmp_path, monkeypatch, moment, parts):
    """The run dies when so many parts are whole, before ``moment``; what it was writing lies around."""
    real, calls = getattr(store, moment), []

    def die(path, *args):
        calls.append(path)
        if len(calls) > parts % 3:
            (Path(path) / "parts" / ".00001.0123abcd" / "agents").mkdir(parents=True)
            (Path(path) / "manifest" / ".00001.json.0123abcd").write_text("{")
            raise KeyboardInterrupt
        return real(path, *args)

    with monkeypatch.context() as patch:
        patch.setattr(store, moment, die)
        with pytest.raises(KeyboardInterrupt):
            run(whole / "scenes", tmp_path / "cut")
    with pytest.raises(StoreError, match="did not finish"):
        DemoStore(tmp_path / "cut")
    progress = []
    run(whole / "scenes", tmp_path / "cut", progress=lambda done, _: progress.append(done))
    assert progress[0] == min(2 * parts, 5)
    assert contents(tmp_path / "cut") == contents(whole / "store")


def test_two_workers_give_the_same_bytes(whole, tmp_path, monkeypatch):
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
        patch.setattr(store, "finish_store", lambda *_: 1 / 0)
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
        ("file/below", r"cannot be written \(Not a directory\); choose another place"),
    ):
        with pytest.raises((ExtractionError, StoreError), match=match):
            run(scenes, tmp_path / place, overwrite=overwrite)
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "notes").read_text() == "mine"
    assert len(list((tmp_path / "zarr").iterdir())) == 6


def test_a_store_is_no_url(scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StoreError, match="store s3://bucket/store: stores lie in local folders"):
        run(scenes, "s3://bucket/store")
    assert sorted(tmp_path.iterdir()) == before


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
    monkeypatch.setattr(store, "finish_store", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
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
    extract([str(SAMPLE)], str(tmp_path / "store"), ExtractConfig(space), workers=1, limit=2)
    opened = DemoStore(tmp_path / "store")
    assert opened.space == space
    for record in opened.read():
        if space.discrete:
            assert (record.demos.action < np.array(space.sizes)).all()
