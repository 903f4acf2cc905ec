"""A store that an earlier version of this program wrote: what it has is read as it is, what it lacks is absent."""

import hashlib
from pathlib import Path

import numpy as np
from click.testing import CliRunner

from gail_cli.cli import cli
from gail_cli.pipeline.store.schema import VERSION
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import validate_store

OLD = Path(__file__).parent / "data" / "store-2.0.zip"
"""Two synthetic scenes, written by format 2.0 with shares of 0.01, 0.3 and 0.69."""
DIGESTS = ("f8172a24a33227bc", "f2ec86283d200287")
"""Of the logs, states and actions of each scene, taken by the program that wrote them."""


def digest(record):
    content = record.scene.log.tobytes() + record.demos.state.tobytes() + record.demos.action.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


def test_worlds_and_experts_are_what_they_were():
    store = DemoStore(OLD)
    assert store.attributes["version"] == [2, 0]
    assert store.scene_ids() == ["4a60f30d6b7fd4f9", "9cbfda08883cc7e8"]
    assert store.index.split.tolist() == [2, 1]
    assert [digest(record) for record in store.read()] == list(DIGESTS)


def test_heights_are_absent():
    for record in DemoStore(OLD).read():
        scene = record.scene
        assert np.isnan(scene.origin_z)
        assert scene.log_z.shape == scene.valid.shape
        assert scene.segment_z.shape == (len(scene.segment), 2)
        assert not scene.log_z.any()
        assert not scene.segment_z.any()


def test_it_is_sound():
    assert validate_store(str(OLD)) == []


def test_what_it_lacks_is_told():
    told = CliRunner().invoke(cli, ["info", str(OLD)])
    assert told.exit_code == 0
    assert "2.0" in told.output
    for what in ("of 2 scene(s) it is not known", "not known of 2 scene(s)"):  # logs, heights
        assert what in " ".join(told.output.replace("│", " ").split())


def test_its_scenes_are_known_by_their_ids(tmp_path):
    """A merged copy has no fingerprints either, but the same ids."""
    CliRunner().invoke(cli, ["merge", str(OLD), "--store", str(tmp_path / "new")])
    told = CliRunner().invoke(cli, ["validate", str(tmp_path / "new"), "--against", str(OLD)])
    assert told.exit_code == 1
    assert "2 scene(s) are of logs that" in told.output


def test_merged_it_is_a_store_of_the_present_version(tmp_path):
    merged = CliRunner().invoke(cli, ["merge", str(OLD), "--store", str(tmp_path / "new")])
    assert merged.exit_code == 0, merged.output
    store = DemoStore(tmp_path / "new")
    assert store.attributes["version"] == list(VERSION)
    assert [digest(record) for record in store.read()] == list(DIGESTS)
    assert all(np.isnan(record.scene.origin_z) for record in store.read())
    told = CliRunner().invoke(cli, ["info", str(tmp_path / "new")])
    assert "not known of 2 scene(s)" in " ".join(told.output.replace("│", " ").split())
    assert validate_store(str(tmp_path / "new")) == []
