import json
import pickle
import shutil
import tempfile
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scenes import scenes_equal
from strategies import gpudrive_scene, scenarios

from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.readers.gpudrive_json import scenario_from_json
from gail_cli.pipeline.records import SAMPLES, VRU_SPACE, Demos, Record, Split, split_of
from gail_cli.pipeline.store import schema, writer
from gail_cli.pipeline.store.schema import PATHS, RAGGED, SCHEMA, StoreError, spec_of, starts_path
from gail_cli.pipeline.store.storage import LocalFolder, storage_at
from gail_cli.pipeline.store.store import DemoStore, manifest, sealed
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scene import scene_from_scenario

STEPS = 5
SPACE = ActionSpace.create("classic")
DOC = Path(__file__).parents[1] / "docs" / "store-format.md"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


def demos(draw, scene, space):
    """Any demos of the right shapes."""
    count, k = draw(st.integers(0, 3)), space.components
    numbers = st.floats(-1e6, 1e6, width=32)
    kind, elements = (np.int16, st.integers(0, 14)) if space.discrete else (np.float32, numbers)
    return Demos(
        agent=draw(hnp.arrays(np.int64, count, elements=st.integers(0, scene.num_agents - 1))),
        mark=draw(hnp.arrays(np.uint8, (count, STEPS), elements=st.integers(0, 2))),
        state=draw(hnp.arrays(np.float32, (count, STEPS, 5), elements=numbers)),
        action=draw(hnp.arrays(kind, (count, STEPS, k), elements=elements)),
        quality=draw(hnp.arrays(np.float32, (count, 7), elements=numbers)),
    )


@st.composite
def records(draw, space):
    """Any scene with any demos."""
    try:
        scene = scene_from_scenario(draw(scenarios()), STEPS)
    except ValueError:
        assume(False)
    split, hashes = draw(st.sampled_from(Split)), draw(hnp.arrays(np.uint64, SAMPLES))
    return Record(scene, demos(draw, scene, space), demos(draw, scene, VRU_SPACE), split, hashes)


def write(place, parts, space=SPACE, steps=STEPS):
    """A whole store of the given parts, each a list of records."""
    storage = storage_at(place)
    settings = {"scenes_per_part": 2}
    writer.create_store(storage, writer.store_attributes(space, steps, settings=settings, software={}, plan=""))
    for k, part in enumerate(parts):
        entry = writer.write_part(storage, f"{k:05d}", part, space, steps)
        entry["scenes"]["source"] = [f"source of {record.scene.id}" for record in part]
        writer.commit_part(storage, entry)
    splits = np.array([record.split for part in parts for record in part], np.uint8)
    writer.finish_store(storage, {}, lambda *_: splits)


def same(a, b, kinds=("demos", "vru")):
    pairs = [(getattr(getattr(r, k), f.name) for r in (a, b)) for k in kinds for f in fields(Demos)]
    return (
        a.split == b.split
        and np.array_equal(a.fingerprint, b.fingerprint)
        and scenes_equal(a.scene, b.scene)
        and all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in pairs)
    )


@pytest.fixture(scope="module")
def record():
    data = gpudrive_scene(steps=30)
    scene = scene_from_scenario(scenario_from_json(data), 30)
    vehicles, vru = demo_rows_of(scene)
    return Record(scene, replay_experts([scene], SPACE, [vehicles])[0], replay_experts([scene], VRU_SPACE, [vru])[0])


@pytest.fixture(scope="module")
def finished(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    write(path, [[record, record], [], [record]], steps=30)
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "store")


def change_json(file, change):
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))


def change_root(path, **changes):
    """As a writer of that kind would have sealed it."""

    def change(data):
        ours = {**data["attributes"], **changes}
        ours.pop("check")
        data["attributes"] = sealed(ours)

    change_json(path / "zarr.json", change)


@given(st.data(), st.sampled_from([SPACE, ActionSpace.create("state", "continuous")]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_round_trip_is_exact(data, space):
    parts = [[data.draw(records(space)) for _ in range(n)] for n in data.draw(st.lists(st.integers(0, 2), max_size=2))]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "store", parts, space)
        opened = DemoStore(Path(folder) / "store")
        got, flat = list(opened.read()), [record for part in parts for record in part]
        walkers = list(DemoStore(Path(folder) / "store", agents="vru").read())
    assert len(got) == len(flat) == len(opened)
    assert all(map(same, got, flat))
    for walker, record in zip(walkers, flat, strict=True):
        assert walker.vru is None
        assert same(*(replace(r, demos=d, vru=d) for r, d in ((walker, walker.demos), (record, record.vru))))
    assert opened.space == space


@pytest.fixture(scope="module", params=["folder", "zip", "s3"])
def kept(request, finished, tmp_path_factory):
    """The finished store in each kind of place."""
    if request.param == "folder":
        return finished
    if request.param == "zip":
        return merged_bytes(finished, str(tmp_path_factory.mktemp("kept") / "store.zip"))
    return merged_bytes(finished, f"{request.getfixturevalue('s3_server')}/kept")


def merged_bytes(finished, place):
    """The same files in another place."""
    files = LocalFolder(finished).tree("")
    if place.endswith(".zip"):
        with zipfile.ZipFile(place, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    else:
        storage = storage_at(place)
        for name, data in files.items():
            storage.write(name, data)
    return place


def test_scenes_are_found_by_index_and_by_id(kept, record):
    opened = DemoStore(kept)
    index = opened.index
    assert [index.part.tolist(), index.place.tolist()] == [[0, 0, 2], [0, 1, 0]]
    assert index.demos.tolist() == [record.moving.sum()] * 3
    assert index.transitions.tolist() == [record.transitions] * 3
    assert [list(opened.part_scenes(k)) for k in range(3)] == [[0, 1], [], [2]]
    assert opened.scene_ids() == [record.scene.id] * 3
    assert opened.find(record.scene.id) == 0
    for scenes in ([2, 0], [0, 1, 2], [1], range(1, 3), [1, 1], None):
        got = list(opened.read(scenes))
        assert len(got) == (3 if scenes is None else len(scenes))
        assert all(same(r, record) for r in got)
    with pytest.raises(StoreError, match=f"no scene 'x'; it has {record.scene.id}"):
        opened.find("x")


def test_a_store_goes_to_another_process(kept, record):
    again = pickle.loads(pickle.dumps(DemoStore(kept, agents="vru")))
    assert again.space == VRU_SPACE
    assert len(list(again.read())) == 3


def test_one_request_an_array_reads_scenes_that_follow_each_other(finished, monkeypatch):
    opened = DemoStore(finished)
    list(opened.read([0]))
    asked = []
    real = opened.storage.read_spans
    monkeypatch.setattr(opened.storage, "read_spans", lambda spans: asked.append([s[0] for s in spans]) or real(spans))
    list(opened.read([0, 1]))
    (names,) = asked
    assert len(names) == len(set(names)) > 15


def test_opening_reads_one_file(finished, monkeypatch):
    asked = []
    real = LocalFolder.read
    monkeypatch.setattr(LocalFolder, "read", lambda self, names: asked.extend(names) or real(self, names))
    DemoStore(finished)
    assert asked == ["zarr.json"]


def test_ids_of_any_length_survive_to_64_bytes():
    assert schema.decode_id(schema.encode_id("ü" * 32)) == "ü" * 32
    assert schema.decode_id(schema.encode_id("a" * 80)) == "a" * 64
    assert schema.decode_id(schema.encode_id("")) == ""


def test_the_split_of_a_scene():
    """By the first eight bytes of the SHA-256 of its id: that of "abc" begins with ba7816bf, 0.7284 of 2^32."""
    assert split_of("abc", (0.7285, 0.2715, 0)) == Split.TRAIN
    assert split_of("abc", (0.7280, 0.2720, 0)) == Split.VALIDATION
    assert split_of("abc", (0.5, 0.2280, 0.2720)) == Split.TEST
    assert split_of("abc", (1, 0, 0)) == Split.TRAIN
    counts = np.bincount([split_of(str(k), (0.8, 0.15, 0.05)) for k in range(10_000)])
    np.testing.assert_allclose(counts, [8000, 1500, 500], atol=4 * np.sqrt(10_000 * 0.8 * 0.2))


def test_any_zarr_library_reads_the_arrays(finished, record):
    root = zarr.open_group(finished, mode="r")
    for column in SCHEMA:
        assert root.attrs["arrays"][column.path] == {"row": column.kind, "what": column.what}
        array = root[f"parts/00000/{column.path}"]
        assert array.dtype == spec_of(column, SPACE, 30).dtype
    states = root["parts/00000/demos/state"][...]
    assert np.array_equal(states, np.concatenate([record.demos.state] * 2))
    agents = record.scene.num_agents
    assert root["parts/00000/scenes/agent_start"][...].tolist() == [0, agents, 2 * agents]


def test_the_document_has_every_array():
    text = DOC.read_text()
    names = dict(zip(("scene", *RAGGED, "steps", "components"), "SARLDVTK", strict=True))
    for c in SCHEMA:
        dtype = "int16 or float32" if c.dtype == "action" else c.dtype
        shape = ", ".join(names.get(n, str(n)) for n in (c.kind, *c.tail))
        assert f"| `{c.path}` | {dtype} | [{shape}] | {c.what} |" in text
    for kind in RAGGED:
        assert f"| `{starts_path(kind)}` | int64 | [S + 1] |" in text
    assert f"format {schema.VERSION[0]}.{schema.VERSION[1]}" in text


def test_the_same_records_give_the_same_bytes(finished, record, tmp_path):
    write(tmp_path / "again", [[record, record], [], [record]], steps=30)
    assert contents(tmp_path / "again") == contents(finished)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# what cannot be read


def test_every_flipped_byte_is_told_when_it_is_read(copy):
    """100 of them, anywhere in chunks, manifest entries and index."""
    rng = np.random.default_rng(0)
    shutil.rmtree(copy / "parts" / "00001")  # which has no scene, so nobody reads it
    files = sorted(p for p in copy.rglob("*") if p.is_file() and p.name != "zarr.json")
    sizes = np.array([p.stat().st_size for p in files])
    told = set()
    for place in rng.integers(sizes.sum(), size=100):
        k = int(np.searchsorted(np.cumsum(sizes), place, side="right"))
        whole = files[k].read_bytes()
        data = bytearray(whole)
        data[place - sizes[:k].sum()] ^= rng.integers(1, 256)
        files[k].write_bytes(data)
        with pytest.raises(StoreError, match=r"^store [^\n]*; [^\n]*$"):
            read_all(copy)
        files[k].write_bytes(whole)
        told.add(files[k].relative_to(copy).parts[0])
    assert told == {"parts", "manifest", "index"}
    read_all(copy)


def test_a_flipped_byte_of_the_root_never_changes_what_it_says(copy):
    root, before = copy / "zarr.json", DemoStore(copy).attributes
    whole, told = root.read_bytes(), 0
    for place in range(0, len(whole), 7):
        root.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert DemoStore(copy).attributes == before
        except StoreError:
            told += 1
    assert told > len(whole) / 7 * 0.7


def read_all(path):
    opened = DemoStore(path)
    return manifest(opened.storage), list(opened.read()), opened.index


def test_a_file_that_is_missing_or_cut_is_told(copy):
    part = copy / "parts" / "00000"
    full = [path for path in PATHS if np.prod(zarr.open_array(part / path).shape)]
    assert len(full) > 15
    for path in full:
        (chunk,) = (p for p in (part / path / "c").rglob("*") if p.is_file())
        whole = chunk.read_bytes()
        chunk.unlink()
        with pytest.raises(StoreError, match=f"part 00000: damaged .a file is missing: 00000/{path}/c/0"):
            list(DemoStore(copy).read([0]))
        chunk.write_bytes(whole[:-1])
        with pytest.raises(StoreError, match="part 00000: damaged"):
            list(DemoStore(copy).read([0, 1]))
        chunk.write_bytes(whole)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda root: shutil.rmtree(root), "there is no demo store here"),
        (lambda root: (root / "zarr.json").write_text("{"), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text("[]"), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text('{"attributes": null}'), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text("{}"), "is not a gail-cli demo store; check the path"),
        (lambda root: change_root(root, complete=False), "did not finish; run the same command again"),
        (lambda root: change_root(root, version=[4, 0]), "format 4.0 is newer than this program's; upgrade gail-cli"),
        (lambda root: change_root(root, version=[1, 0]), "format 1.0 is older than this program's; extract"),
        (lambda root: change_root(root, version=None), "zarr.json is damaged"),
        (lambda root: change_root(root, action_space={}), "zarr.json is damaged"),
        (lambda root: change_json(root / "zarr.json", lambda d: d["attributes"].pop("check")), "zarr.json is damaged"),
    ],
)
def test_stores_that_cannot_be_opened(copy, damage, match):
    damage(copy)
    with pytest.raises(StoreError, match=match) as error:
        DemoStore(copy)
    assert str(error.value).startswith(f"store {copy}: ")
    assert "\n" not in str(error.value)


def test_a_newer_minor_version_is_read(copy):
    change_root(copy, version=[2, 9], novelty=1)
    assert len(DemoStore(copy)) == 3


def test_a_damaged_index_is_told(copy):
    shutil.rmtree(copy / "index" / "place")
    with pytest.raises(StoreError, match=r"the index is damaged \(a file is missing"):
        list(DemoStore(copy).read())


@pytest.mark.parametrize("text", ["{", "[]", '{"part": "00000"}', '{"check": 1}'])
def test_a_damaged_manifest_entry_is_told(copy, text):
    (copy / "manifest" / "00000.json").write_text(text)
    with pytest.raises(StoreError, match=r"manifest/00000.json: the entry is damaged"):
        manifest(LocalFolder(copy))


def test_removal_cut_short_leaves_no_store_that_opens(copy, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFolder, "remove", fail)
    with pytest.raises(KeyboardInterrupt):
        writer.clear_store(LocalFolder(copy))
    with pytest.raises(StoreError, match="did not finish"):
        DemoStore(copy)
    monkeypatch.undo()
    writer.clear_store(LocalFolder(copy))
    assert not copy.exists()
