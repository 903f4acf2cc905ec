"""Exports hold what the sampler would show, and other programs' own readers read them."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import zarr

from gail_cli.pipeline.experts.replay import ExpertObserver, demo_agents, make_experts
from gail_cli.pipeline.export import writers as export_writers
from gail_cli.pipeline.export.export import FORMATS, ExportError, export, export_summary
from gail_cli.pipeline.export.rows import scene_demos
from gail_cli.pipeline.readers.gpudrive_json import read as read_json
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.pipeline.records import ABSENT
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scene import scene_from_scenario

ROOT = Path(__file__).parents[1]
LAYOUT = ObservationConfig(partners=3, road_segments=5)
SUFFIX = {"hdf5": "demos-v0.hdf5", "zarr-rows": "demos-v0", "gpudrive-json": "demos-v0", "minari": "demos-v0"}
SHUT = Selection(max_controlled=0)


@pytest.fixture(scope="module")
def store(make_store):
    return make_store()


@pytest.fixture(scope="module")
def expected(store):
    """Of each demo in order: (scene id, agent id, observations, states, actions, marks), found scene by scene."""
    found = []
    for record in store.read():
        chosen = demo_agents(record, Selection())
        experts = make_experts([record], SimConfig())
        observer = ExpertObserver(experts, LAYOUT)
        for n, agent in enumerate(chosen.row[chosen.controlled]):
            (d,) = np.flatnonzero(record.demos.agent == agent)
            last = int(np.flatnonzero(record.demos.mark[d] != ABSENT).max())
            steps = torch.arange(last + 1)
            found.append(
                (
                    record.scene.id,
                    int(record.scene.agent_id[agent]),
                    observer.observe(torch.full_like(steps, n), steps).numpy(),
                    record.demos.state[d, : last + 1],
                    record.demos.action[d, :last],
                    record.demos.mark[d, : last + 1],
                )
            )
    return found


def values(space, indices):
    return np.stack([np.float32(grid)[indices[:, k]] for k, grid in enumerate(space.grid)], axis=1)


@pytest.fixture(scope="module")
def exported(store, tmp_path_factory):
    """Makes each export once."""
    made = {}

    def make(format):
        if format not in made:
            out = tmp_path_factory.mktemp("export") / SUFFIX[format]
            made[format] = out, export(store, out, format, LAYOUT)
        return made[format]

    return make


@pytest.mark.parametrize("format", FORMATS)
def test_the_report_counts_what_was_written(exported, expected, store, format):
    out, report = exported(format)
    assert report["scenes"] == len(store)
    assert report["demos"] == len(expected)
    assert report["transitions"] == sum(len(action) for *_, action, _ in expected)
    files = [out] if out.is_file() else [p for p in out.rglob("*") if p.is_file()]
    assert report["bytes"] == sum(p.stat().st_size for p in files)
    assert report["left_out"] == []
    assert f"{report['demos']} demo(s)" in export_summary(report)
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_hdf5_is_laid_out_as_robomimic_has_it(exported, expected, store):
    out, report = exported("hdf5")
    with h5py.File(out) as file:
        data = file["data"]
        assert data.attrs["total"] == report["transitions"]
        assert set(json.loads(data.attrs["env_args"])) == {"env_name", "type", "env_kwargs"}
        assert len(data) == len(expected)
        for k, (scene, agent, seen, state, action, mark) in enumerate(expected):
            demo = data[f"demo_{k}"]
            assert (demo.attrs["num_samples"], demo.attrs["scene"], demo.attrs["agent_id"]) == (
                len(action),
                scene,
                agent,
            )
            np.testing.assert_array_equal(demo["obs/observation"], seen[:-1])
            np.testing.assert_array_equal(demo["next_obs/observation"], seen[1:])
            np.testing.assert_array_equal(demo["states"], state[:-1])
            np.testing.assert_array_equal(demo["next_states"], state[1:])
            np.testing.assert_array_equal(demo["action_indices"], action)
            np.testing.assert_array_equal(demo["actions"], values(store.space, action))
            np.testing.assert_array_equal(demo["marks"], mark[:-1])
            assert demo["dones"][:].tolist() == [0] * (len(action) - 1) + [1]
            assert not demo["rewards"][:].any()
        assert demo["states"].attrs["fields"].tolist() == ["x", "y", "heading", "vx", "vy"]
        names = [name.decode() for split in file["mask"] for name in file["mask"][split]]
        assert sorted(names) == sorted(data)


def test_attributes_tell_who_drove(exported, store):
    out, _ = exported("hdf5")
    record = next(iter(store.read()))
    with h5py.File(out) as file:
        attributes = file["data/demo_0"].attrs
        row = np.flatnonzero(record.scene.agent_id == attributes["agent_id"])[0]
        np.testing.assert_array_equal(attributes["agent_size"], record.scene.agent_size[row])
        np.testing.assert_array_equal(attributes["origin"], record.scene.origin)
        assert (attributes["agent_type"], attributes["first_step"], attributes["scene_index"]) == ("vehicle", 0, 0)
        about = json.loads(file["data"].attrs["about"])
    blocks = about["observation"]["blocks"]
    assert sum(block["count"] * len(block["fields"]) for block in blocks) == LAYOUT.size
    assert about["action"]["components"] == ["acceleration (m/s^2)", "steering (rad)"]


def test_zarr_rows(exported, expected, store):
    out, report = exported("zarr-rows")
    group = zarr.open_group(out, mode="r")
    rows = {key: group[key][:] for key in group.array_keys()}
    np.testing.assert_array_equal(rows["observation"], np.concatenate([seen for _, _, seen, *_ in expected]))
    np.testing.assert_array_equal(rows["state"], np.concatenate([state for *_, state, _, _ in expected]))
    ends = np.cumsum([len(state) for *_, state, _, _ in expected])
    follows = np.arange(1, ends[-1] + 1)
    follows[ends - 1] = -1
    np.testing.assert_array_equal(rows["next"], follows)
    goes_on = rows["next"] >= 0
    assert goes_on.sum() == report["transitions"] == group.attrs["transitions"]
    indices = np.concatenate([action for *_, action, _ in expected])
    np.testing.assert_array_equal(rows["action_index"][goes_on], indices)
    np.testing.assert_array_equal(rows["action"][goes_on], values(store.space, indices))
    assert not rows["action"][~goes_on].any()
    np.testing.assert_array_equal(rows["agent"], np.repeat([a for _, a, *_ in expected], np.diff(ends, prepend=0)))
    np.testing.assert_array_equal(rows["step"], np.concatenate([np.arange(len(state)) for *_, state, _, _ in expected]))
    np.testing.assert_array_equal(group["demos/start"][:], [0, *ends[:-1]])
    names = [bytes(row).rstrip(b"\0").decode() for row in group["scenes/id"][:]]
    assert [names[k] for k in rows["scene"][ends - 1]] == [scene for scene, *_ in expected]
    np.testing.assert_array_equal(group["demos/scene"][:], rows["scene"][ends - 1])
    assert group["observation"].shards == (4096, LAYOUT.size)
    assert group["observation"].chunks == (256, LAYOUT.size)


def test_zarr_rows_are_the_same_however_long_a_shard_is(store, tmp_path, monkeypatch):
    monkeypatch.setattr(export_writers, "ZARR_SHARD", 64)
    monkeypatch.setattr(export_writers, "ZARR_CHUNK", 8)
    export(store, tmp_path / "rows", "zarr-rows", LAYOUT, limit=1)
    monkeypatch.undo()
    export(store, tmp_path / "long", "zarr-rows", LAYOUT, limit=1)
    got, want = (zarr.open_group(tmp_path / name, mode="r") for name in ("rows", "long"))
    assert want["observation"].shape[0] > 5 * 64
    for key in want.array_keys():
        np.testing.assert_array_equal(got[key][:], want[key][:])


def test_a_flipped_bit_in_zarr_rows_is_noticed(store, tmp_path):
    export(store, tmp_path / "rows", "zarr-rows", LAYOUT, limit=1)
    (shard,) = (tmp_path / "rows" / "observation").glob("c/*/*")
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        zarr.open_group(tmp_path / "rows", mode="r")["observation"][:]


@pytest.mark.parametrize("actions", ["discrete", "continuous"])
def test_minari_reads_its_data_set(make_store, expected, tmp_path, monkeypatch, actions):
    minari = pytest.importorskip("minari")
    monkeypatch.setattr(export_writers, "MINARI_ROWS", 300)  # several portions
    store = make_store(actions=actions)
    export(store, tmp_path / "log" / "drivers-v2", "minari", LAYOUT)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    dataset = minari.load_dataset("log/drivers-v2")
    assert dataset.total_episodes == len(expected)
    metadata = list(dataset.storage.get_episode_metadata(range(len(dataset))))
    for k, (episode, (scene, agent, seen, _, action, mark)) in enumerate(zip(dataset, expected, strict=True)):
        assert episode.id == k
        assert (metadata[k]["scene"], metadata[k]["agent_id"]) == (scene, agent)
        assert len(episode.rewards) == len(action) == metadata[k]["total_steps"]
        assert dataset.action_space.contains(episode.actions[0])
        assert dataset.observation_space.contains(episode.observations[0])
        assert not episode.terminations.any()
        assert episode.truncations.tolist() == [False] * (len(action) - 1) + [True]
        np.testing.assert_array_equal(episode.infos["marks"], mark)
        assert episode.observations.shape == seen.shape
        if actions == "discrete":
            np.testing.assert_array_equal(episode.observations, seen)
            np.testing.assert_array_equal(episode.actions, action)
            np.testing.assert_array_equal(episode.infos["action_values"][:-1], values(store.space, action))
    assert dataset.storage.metadata["gail_cli"]["observation"]["size"] == LAYOUT.size


def test_minari_wants_a_name_with_a_version(store, tmp_path):
    with pytest.raises(ExportError, match=r"demos: a Minari data set is named like"):
        export(store, tmp_path / "demos", "minari", LAYOUT)
    assert list(tmp_path.iterdir()) == []


def test_without_minari_one_sentence_says_what_to_install(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(ExportError, match=r"pip install 'gail-cli\[minari\]'"):
        export(store, tmp_path / "demos-v0", "minari", LAYOUT)


def test_gpudrive_json_is_read_back(exported, expected, store):
    out, _ = exported("gpudrive-json")
    records, demos = list(store.read()), iter(expected)
    files = resolve([str(out)])
    assert [Path(file).name.startswith("tfrecord-") for file in files] == [True] * len(records)
    for file, record in zip(files, records, strict=True):
        scene, chosen = record.scene, demo_agents(record, Selection())
        back = scene_from_scenario(read_json(file), simplify=0.0)
        shift = back.origin  # of the mean of those who are left, in the scene's own frame
        np.testing.assert_allclose(back.segment[:, :2] + shift, scene.segment[:, :2], atol=1e-3)
        np.testing.assert_allclose(back.segment[:, 2:4], scene.segment[:, 2:4], atol=1e-3)
        np.testing.assert_array_equal(back.segment_type, scene.segment_type)
        valid = scene.valid[chosen.row]
        np.testing.assert_array_equal(back.valid, valid)
        np.testing.assert_allclose(back.log[valid][:, :2] + shift, scene.log[chosen.row][valid][:, :2], atol=1e-3)
        data = json.loads(Path(file).read_text())
        assert (data["gail_cli"]["scene"], data["gail_cli"]["origin"]) == (scene.id, scene.origin.tolist())
        driven = [item for item in data["objects"] if "demo" in item]
        assert len(driven) == chosen.controlled.sum()
        for item in driven:
            scene_id, agent, _, state, action, mark = next(demos)
            assert (scene.id, item["log_id"]) == (scene_id, agent)
            np.testing.assert_array_equal(np.float32(item["demo"]["states"]), state)
            np.testing.assert_array_equal(item["demo"]["action_indices"], action)
            assert item["demo"]["marks"] == mark.tolist()
            assert not item["mark_as_expert"]
    assert next(demos, None) is None


def test_scenes_that_gpudrive_cannot_hold_are_told(store, tmp_path, monkeypatch):
    sizes = {record.scene.id: len(demo_agents(record, Selection()).row) for record in store.read()}
    most = max(sizes.values())
    monkeypatch.setattr("gail_cli.pipeline.export.gpudrive_cache.GPUDRIVE_AGENTS", most - 1)
    report = export(store, tmp_path / "json", "gpudrive-json", LAYOUT)
    assert [item["scene"] for item in report["left_out"]] == [scene for scene, n in sizes.items() if n == most]
    assert f"{most} agents exist" in report["left_out"][0]["reason"]
    assert "scene(s) left out: " in export_summary(report)
    assert report["scenes"] == len(list((tmp_path / "json").glob("*.json"))) == len(store) - len(report["left_out"])


def test_a_limit_and_progress(store, tmp_path):
    told = []
    report = export(
        store, tmp_path / "a.hdf5", "hdf5", LAYOUT, limit=2, progress=lambda done, total: told.append((done, total))
    )
    assert report["scenes"] == 2
    assert told == [(1, 2), (2, 2)]


def test_splits(store, tmp_path, monkeypatch):
    """Scenes 0 to 4 are in the splits 0, 1, 2, 0, 1."""
    splits = np.array([0, 1, 2, 0, 1], np.uint8)
    records = [replace(record, split=int(split)) for record, split in zip(store.read(), splits, strict=True)]
    monkeypatch.setattr(store, "index", replace(store.index, split=splits))
    monkeypatch.setattr(store, "read", lambda scenes: (records[k] for k in scenes))
    export(store, tmp_path / "all.hdf5", "hdf5", LAYOUT)
    ids = store.scene_ids()
    with h5py.File(tmp_path / "all.hdf5") as file:
        for name, scenes in (("train", (0, 3)), ("valid", (1, 4)), ("test", (2,))):
            demos = [file["data"][demo.decode()].attrs["scene"] for demo in file["mask"][name]]
            assert set(demos) == {ids[k] for k in scenes}
    export(store, tmp_path / "rows", "zarr-rows", LAYOUT, split="validation")
    group = zarr.open_group(tmp_path / "rows", mode="r")
    assert group["scenes/index"][:].tolist() == [1, 4]
    assert group["scenes/split"][:].tolist() == [1, 1]


def test_episodes_end_at_the_goal_where_the_rules_say_so(store):
    """With on_goal=stop a demo ends at its first step within the goal's radius."""
    rules = SimConfig(on_goal="stop")
    records = list(enumerate(store.read()))
    for demos in scene_demos(records, store.space, LAYOUT, rules):
        for episode in demos.episodes:
            goal = episode.scene.goal[episode.agent]
            near = np.linalg.norm(episode.state[:, :2] - goal, axis=1) < rules.goal_radius
            assert not near[1:-1].any()


def test_an_existing_place_is_not_touched_unless_told(store, tmp_path):
    for format in ("hdf5", "zarr-rows", "gpudrive-json", "minari"):
        out = tmp_path / SUFFIX[format] / format if format == "hdf5" else tmp_path / f"{format}-v0"
        export(store, out, format, LAYOUT, limit=1)
        with pytest.raises(ExportError, match=r"exists already; add --overwrite"):
            export(store, out, format, LAYOUT, limit=2)
        assert export(store, out, format, LAYOUT, limit=2, overwrite=True)["scenes"] == 2
        assert not list(out.parent.glob(".*"))


def test_what_is_no_export_is_never_replaced(store, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    (tmp_path / "b.hdf5").write_text("no HDF5")
    for format, name in [("zarr-rows", "notes"), ("gpudrive-json", "notes"), ("hdf5", "b.hdf5"), ("hdf5", "notes"),
                         ("zarr-rows", "b.hdf5")]:  # fmt: skip
        with pytest.raises(ExportError, match=r"that is not such an export is there"):
            export(store, tmp_path / name, format, LAYOUT, overwrite=True)
    for place in (store.path, Path(store.path) / "parts"):
        with pytest.raises(ExportError, match="belongs to the store itself"):
            export(store, place, "zarr-rows", LAYOUT, overwrite=True)
    with pytest.raises(ExportError, match="only local paths"):
        export(store, "s3://bucket/rows", "zarr-rows", LAYOUT)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"format": "csv"}, "format 'csv' is unknown; use one of hdf5, zarr-rows, gpudrive-json, minari"),
        ({"split": "dev"}, "split 'dev' is unknown; use one of all, train, validation, test"),
        ({"split": "test"}, "nothing to export: the split test has no scene"),
        ({"sim": SimConfig(selection=SHUT)}, "nothing to export: no agent has a demo and may be controlled"),
    ],
)
def test_what_cannot_be_exported(store, tmp_path, monkeypatch, changes, sentence):
    monkeypatch.setattr(store, "index", replace(store.index, split=np.zeros(len(store), np.uint8)))
    arguments = {"format": "hdf5", "observation": LAYOUT} | changes
    with pytest.raises(ExportError, match=re.escape(sentence)):
        export(store, tmp_path / "a.hdf5", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_the_old_export(store, tmp_path, monkeypatch):
    out = tmp_path / "a.hdf5"
    export(store, out, "hdf5", LAYOUT, limit=1)
    before = out.read_bytes()

    def full(self, demos):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_writers.Hdf5Writer, "add", full)
    with pytest.raises(ExportError, match=r"cannot be written \(No space left on device\); make room"):
        export(store, out, "hdf5", LAYOUT, overwrite=True)
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_an_export_is_a_source(exported, store):
    """HDF5 and Minari hold states, and so can be extracted anew."""
    for format, file in (("hdf5", "."), ("minari", "data/main_data.hdf5")):
        refs, problems = list_scenes(str(exported(format)[0] / file))
        assert problems == []
        assert [scene.id for _, scene in read_scenes(refs)] == store.scene_ids()


def test_the_documentation_runs(store, tmp_path, monkeypatch, capsys):
    """The code blocks of docs/export.md, one after the other, beside exports of each format."""
    pytest.importorskip("minari")
    names = {"hdf5": "demos.hdf5", "zarr-rows": "rows.zarr", "gpudrive-json": "json", "minari": "minari/demos-v0"}
    for format, name in names.items():
        export(store, tmp_path / name, format, LAYOUT, limit=2)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/export.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, {})
    printed = capsys.readouterr().out
    assert len(re.findall(rf"\(\d+, {LAYOUT.size}\)", printed)) == 3
