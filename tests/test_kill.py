"""Extractions that are killed, and what the same command makes of what they left."""

import json
import os
import shutil
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from strategies import gpudrive_scene

from gail_cli.pipeline.extract import cluster
from gail_cli.pipeline.extract import extract as module
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace

CONFIG = ExtractConfig(ActionSpace.create("classic"), steps=12, scenes_per_part=3)
KILLS = 20
WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Nine scenes in three parts, one of them broken, and their store made in one go."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "scenes").mkdir()
    for name in "abcdefghi":
        text = "{" if name == "d" else json.dumps(gpudrive_scene(steps=12) | {"scenario_id": name})
        (folder / "scenes" / f"{name}.json").write_text(text)
    make(folder, folder / "store")
    return folder


def make(whole, path, workers=1):
    extract([str(whole / "scenes")], str(path), CONFIG, ExtractOptions(workers=workers))


def contents(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def make_and_die(whole, folder, counted):
    """Extract twice: once to the end, which tells how many operations on files there are, and once in vain: killed
    before one of them. What it would have left, had it been killed before others, is copied. Folders are named by the
    number of the operation."""
    done, moments, place = 0, set(), folder / "all"

    def watch(event, args):
        nonlocal done
        if event in WRITES and any(str(place) in str(arg) for arg in args if isinstance(arg, (str, Path))):
            if event == "open" and "w" not in str(args[1]):
                return
            done += 1
            if done in moments and done < max(moments):
                shutil.copytree(place, folder / f"{done}")
            elif done in moments:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda _: None  # nobody cuts the power
    place.mkdir()
    sys.addaudithook(watch)
    make(whole, place / "store")
    counted.put(done)
    moments = set(np.random.default_rng(0).choice(done, KILLS, replace=False) + 1)
    (folder / f"{max(moments)}").mkdir()
    place, done = folder / f"{max(moments)}", 0
    make(whole, place / "store")


def test_killed_at_any_moment_and_resumed_the_store_has_the_same_bytes(whole, tmp_path, processes):
    """Nobody cuts the power, so what a kill leaves is what others see at that moment."""
    expected = contents(whole / "store")
    counted = processes.SimpleQueue()
    child = processes.Process(target=make_and_die, args=(whole, tmp_path, counted))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert contents(tmp_path / "all" / "store") == expected
    shutil.rmtree(tmp_path / "all")
    moments = counted.get()
    assert moments > 150
    left = list(tmp_path.iterdir())
    assert len(left) == KILLS
    for folder in left:
        if folder.name != f"{moments}":
            with pytest.raises(StoreError):
                DemoStore(folder / "store")
        make(whole, folder / "store")
        assert contents(folder / "store") == expected
        assert [p.name for p in folder.iterdir()] == ["store"]


def test_a_killed_worker_of_a_cluster_costs_nothing(whole, tmp_path, monkeypatch, processes):
    """Each of the two workers is killed once, in the middle; others take over what they had."""
    monkeypatch.setattr(module, "SCENES_PER_TASK", 1)
    real, workers = cluster.dask_client, []

    @contextmanager
    def noting(*args):
        with real(*args) as client:
            workers.extend(client.run(os.getpid).values())
            yield client

    def kill(done, total):
        if (done >= 2 and len(workers) == 2) or (done >= 5 and len(workers) == 1):
            os.kill(workers.pop(), signal.SIGKILL)

    monkeypatch.setattr(module, "dask_client", noting)
    options = ExtractOptions(workers=2)
    extract([str(whole / "scenes")], str(tmp_path / "store"), CONFIG, options, progress=kill)
    assert workers == []
    assert contents(tmp_path / "store") == contents(whole / "store")
