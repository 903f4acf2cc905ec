import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from test_store import same

from gail_cli.data import SAMPLE
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.extract.merge_split import merge, split
from gail_cli.pipeline.records import Split, split_of
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import DemoStore, manifest
from gail_cli.pipeline.validate.validate import validate_store
from gail_cli.sim.actions import ActionSpace

SPACE = ActionSpace.create("classic")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def make(path, file, scenes, **config):
    source = str(SAMPLE / f"synthetic-0000{file}-of-00004.tfrecord")
    extract([source], str(path), ExtractConfig(SPACE, **config), ExtractOptions(workers=1), limit=scenes)
    return path


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Three scenes in parts of two and one, and one more: together two parts, each with scenes of another part."""
    folder = tmp_path_factory.mktemp("stores")
    first = make(folder / "a", 0, 3, scenes_per_part=2, agents="all", split=(0.5, 0.3, 0.2))
    return [first, make(folder / "b", 1, 1, scenes_per_part=4)]


def records(*paths):
    return [record for path in paths for record in DemoStore(path).read()]


def assert_same(got, expected):
    assert len(got) == len(expected) > 0
    assert all(map(same, got, expected))


@pytest.mark.parametrize("kind", ["folder", "zip", "s3"])
def test_merged_stores_hold_the_same_scenes(stores, tmp_path, request, kind):
    target = {"folder": str(tmp_path / "all"), "zip": str(tmp_path / "all.zip")}.get(kind)
    target = target or request.getfixturevalue("s3")
    told = []
    report = merge([str(s) for s in stores], target, progress=lambda *call: told.append(call))
    assert_same(records(target), records(*stores))
    assert validate_store(target) == []
    assert told[0] == (0, len(records(*stores)))
    assert told[-1] == (len(records(*stores)),) * 2
    for name in ("demos", "transitions"):
        parts = [DemoStore(s).attributes["report"][name] for s in stores]
        total = sum(parts) if name == "transitions" else {k: sum(p[k] for p in parts) for k in parts[0]}
        assert report[name] == DemoStore(target).attributes["report"][name] == total
    sources = [source for s in stores for e in manifest(DemoStore(s).storage) for source in e["scenes"]["source"]]
    assert [x for e in manifest(DemoStore(target).storage) for x in e["scenes"]["source"]] == sources
    assert {p.name for p in tmp_path.iterdir()} <= {Path(target).name}


def test_a_zip_file_is_not_compressed_twice(stores, tmp_path):
    merge([str(stores[0])], str(tmp_path / "one.zip"))
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    merge([str(tmp_path / "one.zip")], str(tmp_path / "back"))
    assert_same(records(tmp_path / "back"), records(stores[0]))


@pytest.mark.parametrize("fractions", [None, (0.4, 0.4, 0.2)])
def test_splits_are_stores_that_together_are_the_whole(stores, tmp_path, fractions):
    whole = records(stores[0])
    reports = split(str(stores[0]), str(tmp_path / "splits"), fractions)
    wanted = [r.split if fractions is None else split_of(r.scene.id, fractions) for r in whole]
    assert len(set(wanted)) > 1
    assert set(reports) == {Split(k).name.lower() for k in wanted}
    for which in set(wanted):
        got = records(tmp_path / "splits" / Split(which).name.lower())
        assert [r.scene.id for r in got] == [r.scene.id for r, k in zip(whole, wanted, strict=True) if k == which]
        assert {r.split for r in got} == {which}
        assert validate_store(tmp_path / "splits" / Split(which).name.lower()) == []
    assert sum(report["scenes"]["written"] for report in reports.values()) == len(whole)


def test_stores_that_do_not_fit_are_refused(stores, tmp_path):
    other = tmp_path / "other"
    extract([str(SAMPLE)], str(other), ExtractConfig(ActionSpace.create("bicycle")), ExtractOptions(workers=1), limit=1)
    with pytest.raises(ExtractionError, match=rf"store {other}: its action space is not that of {stores[0]}; extract"):
        merge([str(stores[0]), str(other)], str(tmp_path / "all"))
    extract([str(SAMPLE)], str(tmp_path / "short"), ExtractConfig(SPACE, steps=20), ExtractOptions(workers=1), limit=1)
    with pytest.raises(ExtractionError, match="its number of steps is not"):
        merge([str(stores[0]), str(tmp_path / "short")], str(tmp_path / "all"))
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("name", ["there", "there.zip"])
def test_nothing_is_overwritten(stores, tmp_path, name):
    place = tmp_path / name
    if name == "there":
        place.mkdir()
        place /= "notes"
    place.write_text("mine")
    with pytest.raises(ExtractionError, match="something is there already; choose another place"):
        merge([str(stores[0])], str(tmp_path / name))
    assert place.read_text() == "mine"
    (tmp_path / "out" / "train").mkdir(parents=True)
    (tmp_path / "out" / "train" / "notes").write_text("mine")
    with pytest.raises(ExtractionError, match="something is there already"):
        split(str(stores[0]), str(tmp_path / "out"))
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["train"]


def test_a_merge_that_was_cut_short_leaves_no_store_that_opens(stores, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("gail_cli.pipeline.store.writer.finish_store", stop)
    for name in ("all", "all.zip"):
        with pytest.raises(KeyboardInterrupt):
            merge([str(stores[0])], str(tmp_path / name))
    assert not (tmp_path / "all.zip").exists()
    with pytest.raises(ValueError, match="did not finish"):
        DemoStore(tmp_path / "all")


def test_the_index_of_a_merged_store(stores, tmp_path):
    merge([str(s) for s in stores], str(tmp_path / "all"))
    index = DemoStore(tmp_path / "all").index
    scenes = len(records(*stores))
    assert index.part.tolist() == (np.arange(scenes) // 2).tolist()
    assert index.place.tolist() == (np.arange(scenes) % 2).tolist()


def test_a_merged_store_tells_where_it_comes_from(stores, tmp_path):
    """What differs is called so; what was left out of the sources stays told; and so on, store by store."""
    merge([str(s) for s in stores], str(tmp_path / "all"))
    inputs, merged = [DemoStore(s).attributes for s in stores], DemoStore(tmp_path / "all").attributes
    assert merged["settings"]["agents"] == merged["settings"]["split"] == "mixed"
    assert merged["settings"]["simplify"] == 0.1
    assert [plan for plan, _ in merged["made_from"]] == [one["plan"] for one in inputs]
    entries = manifest(DemoStore(tmp_path / "all").storage)
    for kind in ("mended", "dropped"):
        expected = [item for s in stores for e in manifest(DemoStore(s).storage) for item in e[kind]]
        assert [item for e in entries for item in e[kind]] == expected
    split(str(tmp_path / "all"), str(tmp_path / "parts"), (0.5, 0.5, 0.0))
    part = DemoStore(tmp_path / "parts" / "train").attributes
    assert part["settings"]["split"] == [0.5, 0.5, 0.0]
    assert part["made_from"] == [[merged["plan"], len(DemoStore(tmp_path / "parts" / "train"))]]


def test_a_store_without_an_entry_of_its_manifest_is_refused(stores, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(stores[0], copy)
    next(copy.glob("manifest/*.json")).unlink()
    with pytest.raises(StoreError, match=r"copy: its manifest lists \d+ part\(s\), its attributes \d+; restore it"):
        merge([str(copy)], str(tmp_path / "merged"))


def test_scenes_that_are_there_twice_are_told(stores, tmp_path):
    report = merge([str(stores[0]), str(stores[0])], str(tmp_path / "twice"))
    assert report["duplicate_ids"] == sorted(DemoStore(stores[0]).scene_ids())


def test_no_store_within_a_store(stores, tmp_path):
    merge([str(stores[0])], str(tmp_path / "a"))
    with pytest.raises(ExtractionError, match="it would lie inside"):
        merge([str(stores[0])], str(tmp_path / "a" / "sub"))
    with pytest.raises(ExtractionError, match="it would lie inside"):
        split(str(tmp_path / "a"), str(tmp_path / "a"))
