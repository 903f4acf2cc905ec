import gzip
import json
import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gpudrive_scene, womd_message

from gail_cli.pipeline.readers.sources import SceneRef, SourceError, list_scenes, read_scenes, resolve
from gail_cli.pipeline.readers.tfrecord import CorruptRecordError, index_records, write_records
from gail_cli.sim.scenario import Scenario, SceneError

WOMD = Path(__file__).parents[2] / "shared" / "womd"
needs_real = pytest.mark.skipif(not WOMD.exists(), reason=f"{WOMD} (Waymo data, not part of the project) is absent")

NAMES = [
    "a.json",
    "b.json.gz",
    "c.tfrecord",
    "d.tfrecord.gz",
    "tfrecord-00000-of-01000_4.json",
    "training.tfrecord-00000-of-01000",
    "uncompressed_scenario_training_20s.tfrecord-00001-of-01000.gz",
]


def scenes(path, count=3):
    """A TFRecord file with scenes of 1, 2, 3 ... steps."""
    write_records(str(path), [womd_message(steps=n + 1).SerializeToString() for n in range(count)])


def read_all(path):
    refs, problems = list_scenes(str(path))
    return list(read_scenes(refs)), problems


# resolve


@pytest.fixture
def folder(tmp_path):
    for name in [*NAMES, "README.md", "tfrecord.py", "notes.jsonl", "a.tfrecord.tmp"]:
        (tmp_path / name).touch()
    (tmp_path / "sub.json").mkdir()
    (tmp_path / "sub.json" / "deep.json").touch()
    return tmp_path


def test_a_folder_gives_its_scene_files_sorted(folder):
    assert resolve([str(folder)]) == [str(folder / name) for name in NAMES]


def test_globs_files_and_folders_without_duplicates(folder):
    got = resolve([str(folder / "*.json"), str(folder / "a.json"), str(folder / "c*"), str(folder / "a.json")])
    assert got == [str(folder / name) for name in ("a.json", "c.tfrecord", "tfrecord-00000-of-01000_4.json")]
    assert resolve([str(folder / "**" / "d*.json")]) == [str(folder / "sub.json" / "deep.json")]


def test_a_named_file_is_taken_whatever_its_ending(folder):
    assert resolve([str(folder / "README.md")]) == [str(folder / "README.md")]


def test_a_file_whose_name_holds_brackets(tmp_path):
    (tmp_path / "a[1].json").touch()
    assert resolve([str(tmp_path / "a[1].json")]) == [str(tmp_path / "a[1].json")]


def test_links_are_followed(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("links")
    (other / "link.json").symlink_to(folder / "a.json")
    (other / "all").symlink_to(folder)
    assert resolve([str(other)]) == [str(other / "link.json")]
    assert resolve([str(other / "all")]) == [str(other / "all" / name) for name in NAMES]


def test_local_paths_become_absolute(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert resolve(["a.json", f"file://{folder}/b.json.gz"]) == [str(folder / "a.json"), str(folder / "b.json.gz")]


def test_urls():
    fs = fsspec.filesystem("memory")
    for name in NAMES[:3]:
        fs.pipe(f"/resolve/{name}", b"x")
    want = [f"memory://resolve/{name}" for name in NAMES[:3]]
    assert [path.replace(":///", "://") for path in resolve(["memory://resolve"])] == want
    assert [path.replace(":///", "://") for path in resolve(["memory://resolve/*.json*"])] == want[:2]
    assert [path.replace(":///", "://") for path in resolve([want[2]])] == want[2:]
    assert all(fs.exists(path) for path in resolve(["memory://resolve"]))


@pytest.mark.parametrize("source", ["", "missing.json", "empty", "empty/*", "missing/*.json", "only", "only/*"])
def test_sources_without_scenes(tmp_path, source):
    (tmp_path / "empty").mkdir()
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "README.md").touch()
    source = str(tmp_path / source)
    with pytest.raises(SourceError) as error:
        resolve([source])
    assert source in str(error.value)
    assert "\n" not in str(error.value)


def test_a_protocol_that_nobody_knows():
    with pytest.raises(SourceError, match=r"xyz://a cannot be reached"):
        resolve(["xyz://a"])


# list_scenes and read_scenes


def test_refs_are_small_and_go_to_workers():
    ref = SceneRef("a.tfrecord", 3, 1234)
    assert pickle.loads(pickle.dumps(ref)) == ref
    assert str(ref) == "a.tfrecord, record 3"
    assert str(SceneRef("a.json")) == "a.json"


@pytest.mark.parametrize("name", ["a.tfrecord", "a.tfrecord.gz", "a.tfrecord-00000-of-01000", "named_by_nobody"])
def test_tfrecord_files(tmp_path, name):
    scenes(tmp_path / name)
    got, problems = read_all(tmp_path / name)
    assert problems == []
    assert [(ref.record, scene.num_steps) for ref, scene in got] == [(0, 1), (1, 2), (2, 3)]


def test_any_part_of_a_file_in_any_order(tmp_path):
    path = tmp_path / "a.tfrecord"
    scenes(path, 5)
    refs, _ = list_scenes(str(path))
    assert [scene.num_steps for _, scene in read_scenes(refs[2:4])] == [3, 4]
    assert [scene.num_steps for _, scene in read_scenes(refs[::-2])] == [5, 3, 1]


@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "named_by_nobody"])
def test_json_files(tmp_path, name):
    with fsspec.open(str(tmp_path / name), "wt", compression="infer") as file:
        json.dump(gpudrive_scene(), file, indent=2)
    ((ref, scene),), problems = read_all(tmp_path / name)
    assert (ref.path, ref.record, scene.id, problems) == (str(tmp_path / name), None, "a", [])


def test_files_on_another_file_system():
    write_records("memory://there/a.tfrecord.gz", [womd_message().SerializeToString()])
    with fsspec.open("memory://there/b.json", "wt") as file:
        json.dump(gpudrive_scene(), file)
    refs = [ref for path in resolve(["memory://there"]) for ref in list_scenes(path)[0]]
    assert [scene.id for _, scene in read_scenes(refs)] == ["abc", "a"]


def test_a_bad_scene_does_not_stop_the_others(tmp_path):
    records = [womd_message().SerializeToString(), b"\xff\xff", womd_message(tracks=0).SerializeToString(),
               womd_message(steps=11).SerializeToString(), b"hurt"]  # fmt: skip
    write_records(str(tmp_path / "a.tfrecord"), records)
    data = bytearray((tmp_path / "a.tfrecord").read_bytes())
    data[-5] ^= 1
    (tmp_path / "a.tfrecord").write_bytes(data)
    (tmp_path / "b.json").write_text("{")
    (tmp_path / "c.json").write_text(json.dumps(gpudrive_scene()))
    refs = [ref for path in resolve([str(tmp_path)]) for ref in list_scenes(path)[0]]
    got = list(read_scenes(refs))
    assert [ref for ref, _ in got] == refs
    kinds = [type(scene) for _, scene in got]
    assert kinds == [Scenario, SceneError, SceneError, Scenario, SceneError, SceneError, Scenario]
    for ref, scene in got:
        if isinstance(scene, SceneError):
            assert str(scene).count(ref.path) == 1
            assert "\n" not in str(scene)
            assert pickle.loads(pickle.dumps(scene)).args == scene.args
    assert "record 1" in str(got[1][1])
    assert "checksum" in str(got[4][1])


def test_a_cut_file_gives_what_comes_before_and_one_problem(tmp_path):
    path = tmp_path / "a.tfrecord"
    scenes(path)
    path.write_bytes(path.read_bytes()[:-1])
    got, (problem,) = read_all(path)
    assert [scene.num_steps for _, scene in got] == [1, 2]
    assert "ends within the record" in str(problem)
    assert "2 record(s)" in str(problem)


@pytest.mark.parametrize("content", [b"", b"nothing known", b"\x1f\x8b\x08", gzip.compress(b"")])
@pytest.mark.parametrize("name", ["a.tfrecord", "named_by_nobody"])
def test_files_without_any_record(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    got, (problem,) = read_all(tmp_path / name)
    assert got == []
    assert isinstance(problem, SceneError)
    assert str(tmp_path / name) in str(problem)


def test_a_file_that_went_away_after_the_plan(tmp_path):
    for name in ("a.tfrecord", "b.json"):
        refs, problems = list_scenes(str(tmp_path / name))
        if name == "a.tfrecord":
            assert (refs, len(problems)) == ([], 1)
    refs = [SceneRef(str(tmp_path / "a.tfrecord"), n, n * 100) for n in range(2)] + [SceneRef(str(tmp_path / "b.json"))]
    got = list(read_scenes(refs))
    assert [type(scene) for _, scene in got] == [SceneError] * 3
    assert all("FileNotFoundError" in str(scene) for _, scene in got)


def test_a_file_that_changed_after_the_plan(tmp_path):
    path = tmp_path / "a.tfrecord"
    scenes(path)
    refs, _ = list_scenes(str(path))
    path.write_bytes(path.read_bytes()[: refs[1].offset + 40])
    kinds = [type(scene) for _, scene in read_scenes(refs)]
    assert kinds == [Scenario, SceneError, SceneError]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_byte_of_a_message_can_stop_the_run(data):
    record = bytearray(womd_message().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        record[data.draw(st.integers(0, len(record) - 1))] = data.draw(st.integers(0, 255))
    write_records("memory://fuzz.tfrecord", [bytes(record)])
    ((_, scene),), _ = read_all("memory://fuzz.tfrecord")
    assert isinstance(scene, Scenario | SceneError)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["x", "y", "z", "id"]), inner),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(value=JSON, data=st.data())
def test_no_json_value_anywhere_can_stop_the_run(value, data):
    scene = gpudrive_scene(steps=3) | {"timestamps_seconds": [0, 0.1, 0.2], "current_time_index": 1}
    scene["tl_states"] = {"5": {"state": ["go"], "x": [1], "y": [1], "z": [1], "time_index": [2]}}
    scene = json.loads(json.dumps(scene))
    place = scene
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.integers(0, 3)) == 0:
            break
        place = place[key]
    place[key] = value
    with fsspec.open("memory://fuzz.json", "wt") as file:
        json.dump(scene, file)
    ((_, got),), _ = read_all("memory://fuzz.json")
    assert isinstance(got, Scenario | SceneError)
    if isinstance(got, SceneError):
        assert "cannot be read" not in str(got)  # each fault has a sentence of its own


@needs_real
def test_everything_real():
    """Each file has one scene; of the many that are alike, some."""
    files = [file for name in ("scenes", "legacy", "tfrecord") for file in sorted((WOMD / name).iterdir())]
    files += sorted((WOMD / "more").glob("*.json.gz"))[::9]
    refs = [ref for path in resolve(list(map(str, files))) for ref in list_scenes(path)[0]]
    got = list(read_scenes(refs))
    assert len(got) == len(files) >= 19
    assert all(isinstance(scene, Scenario) for _, scene in got)


@needs_real
def test_a_damaged_real_record_is_detected(tmp_path):
    (real,) = resolve([str(WOMD / "tfrecord")])
    data = bytearray(Path(real).read_bytes())
    data[500_000] ^= 4
    (tmp_path / "a.tfrecord").write_bytes(data)
    assert index_records(str(tmp_path / "a.tfrecord")) == ([0], None)
    ((_, scene),), _ = read_all(tmp_path / "a.tfrecord")
    assert isinstance(scene, SceneError)
    assert "checksum" in str(scene)
    assert issubclass(CorruptRecordError, ValueError)
