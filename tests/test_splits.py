"""Overlapping windows of one log, from the files to the splits: always on one side, and told where they are not."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scenarionet import OVERPASS, scenario_of

from gail_cli.cli import cli
from gail_cli.data import agents, generator
from gail_cli.pipeline.extract import extract as module
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.extract.merge_split import merge, split
from gail_cli.pipeline.extract.report import windows as windows_of
from gail_cli.pipeline.readers import gpudrive_json, womd
from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.growing import GrowingStore
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import DemoStore, manifest
from gail_cli.pipeline.validate.against import compare, notes, seen, shared_logs
from gail_cli.pipeline.validate.validate import validate_store
from gail_cli.sim.actions import ActionSpace

OLD = Path(__file__).parent / "data" / "store-2.0.zip"
CONFIG = ExtractConfig(ActionSpace.create("classic"), steps=20, scenes_per_part=12, split=(0.4, 0.3, 0.3))
STARTS = range(0, 109, 18)
"""First steps of the seven windows of 91 steps that WOMD has of a log of 20 s."""


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def window(log, first, name, steps=91):
    """Some steps of a log as a scene of its own: tracks that are not there are left out, time begins at 0."""
    tracks, lights = log.tracks, log.lights
    cut = slice(first, first + steps)
    there = tracks.valid[:, cut].any(axis=1)
    own = {k: getattr(tracks, k)[there] for k in ("id", "type", "size", "mark_as_expert")}
    own |= {k: getattr(tracks, k)[there, cut] for k in ("position", "heading", "velocity", "valid")}
    none = np.zeros(0, np.int64)
    return replace(
        log, id=name, name=name, tracks=replace(tracks, **own), lights=replace(lights, state=lights.state[:, cut]),
        timestamps=np.arange(own["valid"].shape[1]) * 0.1, sdc_index=-1, tracks_to_predict=none, difficulty=none,
    )  # fmt: skip


def synthetic(seed):
    """Twenty seconds of synthetic traffic."""
    with pytest.MonkeyPatch.context() as patch:
        for place in (agents, generator):
            patch.setattr(place, "STEPS", 199)
        return womd.parse(generator.generate_scenario(seed).SerializeToString())


@pytest.fixture(scope="module")
def logs():
    """Logs of 20 s by their names."""
    found = {f"synthetic{seed}": synthetic(seed) for seed in (3, 5, 8)}
    return found | ({"overpass": scenario_of(OVERPASS)} if OVERPASS.exists() else {})


@pytest.fixture(scope="module")
def windows(logs):
    """The windows of all logs, their ids in no order."""
    rng = np.random.default_rng(0)
    return {name: [window(log, first, f"{rng.integers(1 << 48):x}") for first in STARTS] for name, log in logs.items()}


def write(folder, scenes, order):
    """Files of scenes, read in this order."""
    folder.mkdir()
    for place, number in enumerate(order):
        gpudrive_json.write(scenes[number], str(folder / f"{place:03d}.json"))
    return str(folder)


def make(source, path, config=CONFIG, limit=None, **options):
    return extract([source], str(path), config, ExtractOptions(**{"workers": 1} | options), limit=limit)


@pytest.fixture(scope="module")
def files(windows, tmp_path_factory):
    scenes = [scene for many in windows.values() for scene in many]
    return write(tmp_path_factory.mktemp("windows") / "files", scenes, range(len(scenes)))


@pytest.fixture(scope="module")
def whole(files, tmp_path_factory):
    """The store of all windows, and the report of its extraction."""
    path = tmp_path_factory.mktemp("windows") / "store"
    return path, make(files, path)


def sides(path):
    """Splits by the ids of scenes."""
    store = DemoStore(path)
    return dict(zip(store.scene_ids(), store.index.split.tolist(), strict=True))


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


def test_windows_of_a_log_are_on_one_side(windows, whole):
    path, report = whole
    found, store = sides(path), DemoStore(path)
    per_log = [{found[scene.id] for scene in many if scene.id in found} for many in windows.values()]
    assert [len(each) for each in per_log] == [1] * len(windows)
    assert len(set.union(*per_log)) > 1
    starts = np.cumsum([0, *(sum(scene.id in found for scene in many) for many in windows.values())])
    assert np.unique(store.index.group).tolist() == starts[:-1].tolist()
    assert report["logs"] == {"logs": len(windows), "unknown": 0, "divided": []}
    assert [record.split for record in store.read()] == store.index.split.tolist()
    assert validate_store(path, sample=0) == []


def test_the_order_of_files_does_not_matter(windows, whole, tmp_path):
    scenes = [scene for many in windows.values() for scene in many]
    source = write(tmp_path / "files", scenes, np.random.default_rng(1).permutation(len(scenes)))
    make(source, tmp_path / "store", replace(CONFIG, scenes_per_part=5))
    assert sides(tmp_path / "store") == sides(whole[0])


def test_any_number_of_workers_and_interruptions_make_the_same_bytes(files, tmp_path, monkeypatch):
    config = replace(CONFIG, scenes_per_part=3)  # of which each log has scenes in several
    make(files, tmp_path / "one", config, 9)
    make(files, tmp_path / "two", config, 9, workers=2)
    assert contents(tmp_path / "two") == contents(tmp_path / "one")
    real, calls = module.write, []

    def die(*args):
        calls.append(args)
        return real(*args) if len(calls) < 2 else 1 / 0

    with monkeypatch.context() as patch:
        patch.setattr(module, "write", die)
        with pytest.raises(ZeroDivisionError):
            make(files, tmp_path / "again", config, 9)
    make(files, tmp_path / "again", config, 9)
    assert contents(tmp_path / "again") == contents(tmp_path / "one")


def test_windows_that_have_hardly_anything_in_common(logs, tmp_path):
    """Two steps are enough; windows that do not overlap are linked by one that lies between."""
    log = logs["synthetic3"]
    names = {"b": 0, "d": 38, "a": 76, "c": 120, "e": 158}
    scenes = [window(log, first, name, 40) for name, first in names.items()]
    make(write(tmp_path / "files", scenes, range(5)), tmp_path / "store")
    assert DemoStore(tmp_path / "store").index.group.tolist() == [0, 0, 0, 3, 3]


# several stores


@pytest.fixture(scope="module")
def halves(windows, tmp_path_factory):
    """Stores of the even and of the odd windows of each log, split each on its own, so that logs are divided."""
    folder = tmp_path_factory.mktemp("halves")
    paths = []
    for half in (0, 1):
        scenes = [scene for name, many in windows.items() if name != "synthetic8" for scene in many[half::2]]
        scenes += windows["synthetic8"] if half else []
        paths.append(folder / f"store{half}")
        make(write(folder / f"files{half}", scenes, range(len(scenes))), paths[-1])
    return paths


def test_scenes_of_one_log_in_two_stores_are_a_problem(windows, halves):
    problems, warnings = compare(str(halves[1]), [str(halves[0])])
    shared = [scene.id for name, many in windows.items() if name != "synthetic8" for scene in many[1::2]]
    (told,) = map(str, problems)
    first = windows["synthetic3"][1].id
    assert told.startswith(
        f"store {halves[1]}: {len(shared)} scene(s) are of logs that {halves[0]} has, too: {first} with"
    )
    assert f"and {len(shared) - 3} more" in told
    assert warnings == []  # what is of one log is not also told to be of one place
    found = shared_logs(*map(DemoStore, halves[::-1]))
    assert [DemoStore(halves[1]).scene_ids()[k] for k in found.scenes] == shared
    assert compare(str(halves[0]), [])[0] == []


def test_what_stores_of_one_run_have_in_common(windows, halves, whole):
    first, second = map(DemoStore, halves)
    (line,) = notes([first, second])
    shared = [scene.id for name, many in windows.items() if name != "synthetic8" for scene in many[1::2]]
    assert line.startswith(f"{len(shared)} scene(s) of {halves[1]} are of logs that {halves[0]} has, too, ")
    ours, theirs = sides(halves[1]), sides(halves[0])
    there = {name: theirs[many[0].id] for name, many in windows.items() if name != "synthetic8"}
    apart = [s.id for name in there for s in windows[name][1::2] if ours[s.id] != there[name]]
    assert f"{len(apart)} of them in another split" in line
    assert notes([first]) == []
    alone = [k for k, name in enumerate(second.scene_ids()) if name not in shared]
    assert seen(second, alone, first, "all") is None
    every = range(len(second))
    assert seen(second, every, first, "all").startswith(f"{len(shared)} of {len(second)} scenes are of logs that the")
    known = [name for name in there if there[name] == Split.VALIDATION]
    told = seen(second, every, first, "validation")
    wanted = sum(len(windows[name][1::2]) for name in known)
    assert told is None if not wanted else told.startswith(f"{wanted} of ")


def test_validate_against(halves, tmp_path):
    report = tmp_path / "r.json"
    done = CliRunner().invoke(cli, ["validate", str(halves[0]), "--against", str(halves[1]), "--report", str(report)])
    assert done.exit_code == 1
    assert "are of logs that" in done.stderr
    assert '"sound": false' in report.read_text()
    done = CliRunner().invoke(cli, ["validate", str(halves[0]), "--against", str(halves[0])])
    assert done.exit_code == 1


def test_scenes_of_one_place_are_a_warning(logs, halves, tmp_path):
    """Other traffic on the same roads: the log's own map, a second later in another life."""
    log = logs["synthetic5"]
    other = replace(log, tracks=replace(log.tracks, position=log.tracks.position + np.float64([0.125, 0.25, 0])))
    scenes = [window(other, 0, "later"), window(logs["synthetic8"], 0, "elsewhere")]
    make(write(tmp_path / "files", scenes, range(2)), tmp_path / "store")
    problems, warnings = compare(str(tmp_path / "store"), [str(halves[0])])
    assert problems == []
    (told,) = map(str, warnings)
    assert f"1 scene(s) lie where {halves[0]} has scenes, too: later with " in told
    done = CliRunner().invoke(cli, ["validate", str(tmp_path / "store"), "--against", str(halves[0])])
    assert done.exit_code == 0
    assert f"Warning: store {tmp_path / 'store'}: 1 scene(s) lie where" in done.stderr
    assert done.stdout.endswith("store: sound\n")


@pytest.fixture(scope="module")
def merged(halves, tmp_path_factory):
    """The two merged as they are, and what the command says."""
    path = tmp_path_factory.mktemp("merged") / "store"
    done = CliRunner().invoke(cli, ["merge", *map(str, halves), "--store", str(path)])
    assert done.exit_code == 0
    return path, done.stdout


def test_scenes_of_one_log_in_words():
    report = {"scenes": {"written": 3}, "logs": {"logs": 1, "unknown": 0, "divided": []}}
    assert windows_of(report) == ["3 scenes are windows of 1 log"]


def test_merged_stores_keep_their_splits_and_tell_what_is_divided(windows, halves, merged):
    path, said = merged
    expected = sides(halves[0]) | sides(halves[1])
    assert sides(path) == expected
    per_log = [[scene.id for scene in many] for many in windows.values()]
    divided = [ids for ids in per_log if len({expected[name] for name in ids}) > 1]
    assert len(divided) > 0  # else the test shows nothing
    assert f"{len(expected)} scenes are windows of {len(windows)} logs\n" in said
    assert f"{len(divided)} log(s) have scenes in more than one split (first " in said
    (told,) = map(str, validate_store(path, sample=0))
    assert f"{len(divided)} log(s) have scenes in more than one split, first that of scene" in told


def test_merged_and_split_by_log(whole, halves, merged, tmp_path):
    """As if all had been extracted at once."""
    fractions = CONFIG.split
    merge([str(half) for half in halves], str(tmp_path / "anew"), fractions)
    assert sides(tmp_path / "anew") == sides(whole[0])
    assert validate_store(tmp_path / "anew", sample=0) == []
    assert DemoStore(tmp_path / "anew").attributes["settings"]["split"] == list(fractions)
    done = CliRunner().invoke(cli, ["split", str(merged[0]), "--out", str(tmp_path / "as they are")])
    assert "log(s) have scenes in more than one split (first " in done.stderr
    split(str(merged[0]), str(tmp_path / "parts"), fractions)
    for which in Split:
        if which in sides(whole[0]).values():
            found = sides(tmp_path / "parts" / which.name.lower())
            assert found == {name: side for name, side in sides(whole[0]).items() if side == which}


def test_of_stores_of_format_2_logs_are_not_known():
    store = DemoStore(OLD)
    assert store.index.group.tolist() == [0, 1]
    assert not store.fingerprints.any()
    problems, warnings = compare(str(OLD), [str(OLD)])
    assert "2 scene(s) are of logs that" in str(problems[0])  # by their ids
    (told,) = map(str, warnings)
    assert "of 4 scene(s) here and in" in told
    assert "it is not known what log they are of; extract them again to tell" in told


# a store that grows


def test_splits_are_known_when_the_extraction_has_finished(files, tmp_path, monkeypatch):
    monkeypatch.setattr("gail_cli.pipeline.store.writer.finish_store", lambda *_: 1 / 0)
    for name, shares in (("cut", CONFIG.split), ("train", (1.0, 0.0, 0.0)), ("test", (0.0, 0.0, 1.0))):
        with pytest.raises(ZeroDivisionError):
            extract([files], str(tmp_path / name), replace(CONFIG, split=shares), ExtractOptions(workers=1), limit=4)
    store = GrowingStore(tmp_path / "cut")
    assert store.scenes_of("all").tolist() == [0, 1, 2, 3]
    with pytest.raises(StoreError, match="which scenes are in the split 'train' is known only when its extraction has"):
        store.scenes_of("train")
    assert GrowingStore(tmp_path / "train").scenes_of("train").tolist() == [0, 1, 2, 3]
    assert GrowingStore(tmp_path / "test").scenes_of("test").tolist() == [0, 1, 2, 3]
    assert [record.split for record in GrowingStore(tmp_path / "test").read([1])] == [Split.TEST]
    assert len(GrowingStore(tmp_path / "test").scenes_of("train")) == 0


def test_a_finished_store_that_might_have_grown_has_its_splits(whole):
    store, grown = DemoStore(whole[0]), GrowingStore(whole[0])
    assert grown.index.split.tolist() == store.index.split.tolist()
    assert grown.index.group.tolist() == store.index.group.tolist()
    assert np.array_equal(grown.fingerprints, store.fingerprints)
    assert {"id", "demos", "transitions", "source"} == set(manifest(store.storage)[0]["scenes"])


# time


def test_logs_of_another_rate_are_left_out_or_resampled(logs, tmp_path):
    log = window(logs["synthetic3"], 0, "slow", 101)
    tracks, lights = log.tracks, log.lights
    every = {k: getattr(tracks, k)[:, ::5] for k in ("position", "heading", "velocity", "valid")}
    slow = replace(
        log, tracks=replace(tracks, **every), timestamps=log.timestamps[::5],
        lights=replace(lights, state=lights.state[:, ::5]),
    )  # fmt: skip
    source = write(tmp_path / "files", [slow, window(logs["synthetic3"], 0, "usual")], range(2))
    report = make(source, tmp_path / "left")
    assert [item["reason"] for item in report["dropped"]] == [
        "scene 'slow': its steps are 0.5 s apart, not 0.1 s; add --resample to interpolate, or leave it out"
    ]
    assert DemoStore(tmp_path / "left").scene_ids() == ["usual"]
    config = replace(CONFIG, resample=True, steps=91)
    report = make(source, tmp_path / "resampled", config)
    assert report["scenes"] == {"read": 2, "written": 2, "dropped": 0}
    assert "steps of 0.5 s are resampled to 0.1 s" in {item["mend"] for item in report["mended"]}
    assert validate_store(tmp_path / "resampled") == []
    pair = [record.scene for record in DemoStore(tmp_path / "resampled").read()]
    rows = [dict(zip(scene.agent_id.tolist(), range(scene.num_agents), strict=True)) for scene in pair]
    for agent in rows[0].keys() & rows[1].keys():
        a, b = (scene.log[row[agent]][scene.valid[row[agent]]] for scene, row in zip(pair, rows, strict=True))
        if len(a) == len(b) == 91:
            places = (x[:, :2] + scene.origin for x, scene in zip((a, b), pair, strict=True))
            assert np.linalg.norm(np.subtract(*places), axis=1).max() < 0.3
    assert DemoStore(tmp_path / "resampled").index.group.tolist() == [0, 0]  # every fifth step is the same
