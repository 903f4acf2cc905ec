"""Extractions that are killed, and what the same command makes of what they left."""

import json
import multiprocessing
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

CONFIG = ExtractConfig(ActionSpace.create("classic"), steps=12, scenes_per_part=2)
KILLS = 20
WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pipeline.extract"])


@pytest.fixture(scope="module", autouse=True)
def quick():
    """No test here cuts the power, so none waits for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Nine scenes in five parts, one of them broken, and their store made in one go."""
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


def make_until(whole, path, moment, counted):
    """Extract in a process that is killed before its operation number ``moment`` on files in ``path``; tells how many
    there were when it gets through."""
    done = 0

    def watch(event, args):
        nonlocal done
        if event in WRITES and any(str(path.parent) in str(arg) for arg in args if isinstance(arg, (str, Path))):
            if event == "open" and "w" not in str(args[1]):
                return
            done += 1
            if done == moment:
                os.kill(os.getpid(), signal.SIGKILL)

    os.fsync = lambda _: None  # nobody cuts the power
    sys.addaudithook(watch)
    make(whole, path)
    counted.put(done)


def in_a_process(whole, path, moment):
    counted = PROCESSES.SimpleQueue()
    child = PROCESSES.Process(target=make_until, args=(whole, path, moment, counted))
    child.start()
    child.join()
    return child.exitcode, None if counted.empty() else counted.get()


def test_killed_at_any_moment_and_resumed_the_store_has_the_same_bytes(whole, tmp_path):
    expected = contents(whole / "store")
    (tmp_path / "all").mkdir()
    code, moments = in_a_process(whole, tmp_path / "all" / "store", None)
    assert code == 0
    assert moments > 150
    for moment in np.random.default_rng(0).choice(moments, KILLS, replace=False) + 1:
        path = tmp_path / f"{moment}" / "store"
        path.parent.mkdir()
        code, _ = in_a_process(whole, path, int(moment))
        assert code == -signal.SIGKILL
        if moment < moments:
            with pytest.raises(StoreError):
                DemoStore(path)
        make(whole, path)
        assert contents(path) == expected
        assert [p.name for p in path.parent.iterdir()] == ["store"]
        shutil.rmtree(path.parent)


def test_a_killed_worker_of_a_cluster_costs_nothing(whole, tmp_path, monkeypatch):
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
