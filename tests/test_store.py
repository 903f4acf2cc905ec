import json
import shutil
import tempfile
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import gpudrive_scene, scenarios

from pipeline import store
from pipeline.expert import Demos, replay_experts
from pipeline.gpudrive_json import scenario_from_json
from pipeline.store import PATHS, RAGGED, SCHEMA, DemoStore, Record, StoreError, starts_path
from sim.actions import ActionSpace
from sim.scene import scene_from_scenario, scenes_equal

STEPS = 5
SPACE = ActionSpace.create("classic")
DOC = Path(__file__).parents[1] / "docs" / "store-format.md"


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@st.composite
def records(draw, space):
    """Any scene with any demos of the right shapes."""
    try:
        scene = scene_from_scenario(draw(scenarios()), STEPS)
    except ValueError:
        assume(False)
    count, k = draw(st.integers(0, 3)), space.components
    numbers = st.floats(-1e6, 1e6, width=32)
    if space.discrete:
        action = draw(hnp.arrays(np.int16, (count, STEPS, k), elements=st.integers(0, 14)))
    else:
        action = draw(hnp.arrays(np.float32, (count, STEPS, k), elements=numbers))
    demos = Demos(
        agent=draw(hnp.arrays(np.int64, count, elements=st.integers(0, scene.num_agents - 1))),
        mark=draw(hnp.arrays(np.uint8, (count, STEPS), elements=st.integers(0, 2))),
        state=draw(hnp.arrays(np.float32, (count, STEPS, 5), elements=numbers)),
        action=action,
        error=draw(hnp.arrays(np.float32, (count, 3), elements=numbers)),
    )
    return Record(scene, demos)


def write(path, parts, space=SPACE, steps=STEPS):
    """A whole store of the given parts, each a list of records."""
    store.create_store(path, store.store_attributes(space, steps))
    for k, part in enumerate(parts):
        store.commit_part(path, store.write_part(path, f"{k:05d}", part, space, steps))
    store.finish_store(path, {})


def same(a, b):
    return scenes_equal(a.scene, b.scene) and all(
        getattr(a.demos, f.name).dtype == getattr(b.demos, f.name).dtype
        and getattr(a.demos, f.name).tobytes() == getattr(b.demos, f.name).tobytes()
        for f in fields(Demos)
    )


@pytest.fixture(scope="module")
def record():
    data = gpudrive_scene(steps=30)
    scene = scene_from_scenario(scenario_from_json(data), 30)
    return Record(scene, replay_experts([scene], SPACE)[0])


@pytest.fixture(scope="module")
def finished(record, tmp_path_factory):
    path = tmp_path_factory.mktemp("finished") / "store"
    write(path, [[record, record], [], [record]], steps=30)
    return path


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "store")


def change_root(path, **changes):
    file = path / "zarr.json"
    data = json.loads(file.read_bytes())
    data["attributes"].update(changes)
    file.write_text(json.dumps(data))


@given(st.data(), st.sampled_from([SPACE, ActionSpace.create("state", "continuous")]))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_round_trip_is_exact(data, space):
    parts = [[data.draw(records(space)) for _ in range(n)] for n in data.draw(st.lists(st.integers(0, 2), max_size=2))]
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / "store", parts, space)
        opened = DemoStore(Path(folder) / "store")
        got, flat = list(opened.read()), [record for part in parts for record in part]
    assert len(got) == len(flat) == len(opened)
    assert all(map(same, got, flat))
    assert opened.space == space


def test_scenes_are_found_by_index_and_by_id(finished, record):
    opened = DemoStore(finished)
    assert opened.places() == [("00000", 0), ("00000", 1), ("00002", 0)]
    assert opened.scene_ids() == [record.scene.id] * 3
    assert opened.find(record.scene.id) == 0
    assert [same(r, record) for r in opened.read([2, 0])] == [True, True]
    with pytest.raises(StoreError, match=f"no scene 'x'; it has {record.scene.id}"):
        opened.find("x")


def test_ids_of_any_length_survive_to_64_bytes():
    assert store.decode_id(store.encode_id("ü" * 32)) == "ü" * 32
    assert store.decode_id(store.encode_id("a" * 80)) == "a" * 64
    assert store.decode_id(store.encode_id("")) == ""


def test_the_root_explains_the_arrays(finished):
    root = zarr.open_group(finished, mode="r")
    for column in SCHEMA:
        assert root.attrs["arrays"][column.path] == {"row": column.kind, "what": column.what}
        assert root[f"parts/00000/{column.path}"].dtype == store.expected_dtype(column, SPACE)


def test_the_document_has_every_array():
    text = DOC.read_text()
    names = {"scene": "S", "agent": "A", "segment": "R", "light": "L", "demo": "D", "steps": "T", "components": "K"}
    for c in SCHEMA:
        dtype = "int16 or float32" if c.dtype == "action" else c.dtype
        shape = ", ".join(names.get(n, str(n)) for n in (c.kind, *c.tail))
        assert f"| `{c.path}` | {dtype} | [{shape}] | {c.what} |" in text
    for kind in RAGGED:
        assert f"| `{starts_path(kind)}` | int64 | [S + 1] |" in text
    assert f"format {store.VERSION[0]}.{store.VERSION[1]}" in text


def test_the_same_records_give_the_same_bytes(finished, record, tmp_path):
    write(tmp_path / "again", [[record, record], [], [record]], steps=30)
    assert contents(tmp_path / "again") == contents(finished)


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


# what cannot be read


def test_a_flipped_bit_in_any_chunk_is_told_when_it_is_read(copy):
    rng = np.random.default_rng(0)
    chunks = sorted(p for p in (copy / "parts").rglob("c/**/*") if p.is_file())
    for chunk in rng.choice(chunks, 30):
        whole = chunk.read_bytes()
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        chunk.write_bytes(data)
        with pytest.raises(StoreError, match=r"part 0000\d: damaged .*; extract the store again"):
            read_all(copy)
        chunk.write_bytes(whole)
    read_all(copy)


def read_all(path):
    opened = DemoStore(path)
    return [opened.read_part(name) for name in opened.parts]


def test_a_chunk_that_is_missing_is_told(copy):
    part = copy / "parts" / "00000"
    full = [path for path in PATHS if np.prod(zarr.open_array(part / path).shape)]
    assert len(full) > 15
    for path in full:
        (part / path / "c").rename(copy / "c")
        with pytest.raises(StoreError, match=f"a chunk of {path} is missing"):
            DemoStore(copy).read_part("00000")
        (copy / "c").rename(part / path / "c")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda root: shutil.rmtree(root), "there is no demo store here"),
        (lambda root: (root / "zarr.json").write_text("{"), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text("[]"), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text('{"attributes": null}'), "zarr.json cannot be read"),
        (lambda root: (root / "zarr.json").write_text("{}"), "is not a gail-cli demo store; check the path"),
        (lambda root: change_root(root, complete=False), "did not finish; run the same command again"),
        (lambda root: change_root(root, version=[2, 0]), "format 2.0 is newer than this program's; upgrade gail-cli"),
        (lambda root: change_root(root, version=None), "zarr.json is damaged"),
        (lambda root: change_root(root, action_space={}), "zarr.json is damaged"),
    ],
)
def test_stores_that_cannot_be_opened(copy, damage, match):
    damage(copy)
    with pytest.raises(StoreError, match=match) as error:
        DemoStore(copy)
    assert str(error.value).startswith(f"store {copy}: ")
    assert "\n" not in str(error.value)


def test_a_newer_minor_version_is_read(copy):
    change_root(copy, version=[1, 9], novelty=1)
    assert len(DemoStore(copy)) == 3


def test_a_damaged_index_is_told(copy):
    shutil.rmtree(copy / "index" / "place")
    with pytest.raises(StoreError, match="the index is damaged"):
        list(DemoStore(copy).read())


@pytest.mark.parametrize("text", ["{", "[]", '{"part": "00000"}'])
def test_a_damaged_manifest_entry_is_told(copy, text):
    (copy / "manifest" / "00000.json").write_text(text)
    with pytest.raises(StoreError, match="the manifest entry is damaged"):
        store.manifest(copy)


def test_removal_cut_short_leaves_no_store_that_opens(copy, monkeypatch):
    def fail(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.shutil, "rmtree", fail)
    with pytest.raises(KeyboardInterrupt):
        store.clear_store(copy)
    with pytest.raises(StoreError, match="did not finish"):
        DemoStore(copy)
    monkeypatch.undo()
    store.clear_store(copy)
    assert not copy.exists()
