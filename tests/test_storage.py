import json
import subprocess
import sys
import time
import zipfile

import pytest

from gail_cli.pipeline.store import storage as module
from gail_cli.pipeline.store.storage import LOCK, LocalFolder, StorageError, storage_at


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path):
    return str(tmp_path / "store") if request.param == "local" else request.getfixturevalue("s3")


FILES = {"a/b": b"0123456789", "a/c/d": b"", "e": b"x"}


@pytest.fixture
def filled(place):
    storage = storage_at(place)
    storage.write_tree("t", FILES)
    storage.write("top", b"old")
    storage.write("top", b"new")
    return storage


def check_reading(storage):
    assert storage.read(["t/a/b", "top"]) == [b"0123456789", b"new"]
    assert storage.read([]) == storage.read_spans([]) == []
    assert storage.read_spans([("t/a/b", 2, 5), ("top", 0, 1), ("t/a/b", 8, 99)]) == [b"234", b"n", b"89"]
    assert storage.tree("t") == FILES
    assert storage.tree("missing") == {}
    assert storage.names("") == ["t", "top"]
    assert storage.names("t") == ["a", "e"]
    assert storage.names("missing") == []
    assert storage.size() == 14
    for missing in (lambda: storage.read(["none"]), lambda: storage.read_spans([("t/none", 0, 1)])):
        with pytest.raises(FileNotFoundError):
            missing()


def test_what_is_written_is_read(filled):
    check_reading(filled)
    check_reading(storage_at(filled.url))


def test_a_zip_file_is_read_alike(filled, tmp_path):
    file = tmp_path / "store.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("t/a/b", "t/a/c/d", "t/e", "top"):
            archive.writestr(name, filled.read([name])[0])
    check_reading(storage_at(file))
    assert not storage_at(file).durable


def test_what_is_removed_is_gone(filled):
    filled.remove("t/a")
    filled.remove("top")
    filled.remove("never there")
    assert filled.names("") == ["t"]
    assert filled.tree("t") == {"e": b"x"}
    filled.write_tree("t", {"a": b""})
    assert filled.tree("t")["a"] == b""


def test_a_second_writer_is_refused(place):
    with (
        storage_at(place).lock(),
        pytest.raises(StorageError, match="another process is writing to it"),
        storage_at(place).lock(),
    ):
        pass
    with storage_at(place).lock():
        storage_at(place).write("a", b"")
    assert storage_at(place).names("") == ["a"]


def test_a_lock_does_not_outlive_its_process(tmp_path):
    """A local lock is the system's: it goes when the process does, however that ends."""
    script = (
        "import os, sys; from gail_cli.pipeline.store.storage import storage_at\n"
        f"with storage_at({str(tmp_path / 'store')!r}).lock():\n"
        "    print('held', flush=True); sys.stdin.read(1); os._exit(9)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1, text=True) as child:
        assert child.stdout.readline() == "held\n"
        with pytest.raises(StorageError), storage_at(tmp_path / "store").lock():
            pass
        child.communicate("x")
    with storage_at(tmp_path / "store").lock():
        pass


@pytest.mark.parametrize(("age", "held"), [(module.DEAD - 5, True), (module.DEAD + 5, False)])
def test_a_bucket_is_free_again_when_its_writer_has_died(s3, age, held):
    storage = storage_at(s3)
    storage.write(LOCK, json.dumps({"owner": "x", "time": time.time() - age}).encode())
    if held:
        with pytest.raises(StorageError, match=r"last sign of life 11\d s ago"), storage.lock():
            pass
    else:
        with storage.lock():
            pass


def test_a_writer_to_a_bucket_shows_that_it_lives(s3, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT", 0.01)
    storage = storage_at(s3)
    with storage.lock():
        first = storage.read([LOCK])[0]
        deadline = time.monotonic() + 20
        while storage.read([LOCK])[0] == first:
            assert time.monotonic() < deadline


def test_urls_of_unknown_kinds():
    with pytest.raises(StorageError, match=r"its file system cannot be used .*; check the URL"):
        storage_at("nosuch://a/b")


def test_a_killed_writers_left_overs_are_swept(tmp_path):
    storage = LocalFolder(tmp_path)
    storage.write("m/a.json", b"{}")
    (tmp_path / "m" / ".a.json.0123abcd").write_text("{")
    (tmp_path / ".x.0123abcd" / "y").mkdir(parents=True)
    assert storage.names("m") == ["a.json"]
    storage.sweep()
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.json", "m"]
