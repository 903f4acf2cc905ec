import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.export.writers import ExportError
from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.readers.sources import SceneRef, SourceError, read_scenes
from gail_cli.pipeline.readers.tfrecord import CorruptRecordError, TFRecordError
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.storage import StorageError
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Problem
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import SceneError

KINDS = [
    UserError, SceneError, SourceError, TFRecordError, CorruptRecordError, NoAgentsError, StoreError, StorageError,
    ExtractionError, ExportError, Problem,
]  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (("store a", "it is gone", "make it again"), "store a: it is gone; make it again"),
        (("", "it is gone", "make it again"), "it is gone; make it again"),
        (("store a", "it is gone"), "store a: it is gone"),
        (("", "it is gone: lost"), "it is gone: lost"),
        (("store a", "line one\nline two", "mend\nit"), "store a: line one line two; mend it"),
    ],
)
def test_a_sentence_is_made_of_the_fields(fields, sentence):
    assert str(UserError(*fields)) == sentence


@pytest.mark.parametrize("kind", KINDS)
def test_errors_survive_pickling(kind):
    error = kind("store a: b; c", "it is gone; really: gone", "make it again")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert vars(copy) == {"where": "store a: b; c", "what": "it is gone; really: gone", "fix": "make it again"}
    assert str(copy) == str(error)


def test_an_error_of_another_process_has_its_fields(tmp_path):
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(StoreError) as caught:
        pool.submit(DemoStore, tmp_path).result()
    assert (caught.value.where, caught.value.what) == (f"store {tmp_path}", "there is no demo store here")


def test_problems_are_equal_by_their_fields():
    problem = Problem("a", "b", "c")
    assert problem == Problem("a", "b", "c")
    assert {problem: 1}[Problem("a", "b", "c")] == 1
    assert all(problem != other for other in (Problem("x", "b", "c"), Problem("a", "x", "c"), Problem("a", "b", "x")))
    assert problem != UserError("a", "b", "c")


def test_a_scene_without_a_place_gets_that_of_its_file(tmp_path):
    path = str(tmp_path / "a.json")
    (tmp_path / "a.json").write_text('{"objects": [], "roads": []}')
    ((_, empty),) = read_scenes([SceneRef(path)])
    assert (empty.where, empty.what, empty.fix) == (path, "'objects' is empty", "leave the scene out")
    ((_, lost),) = read_scenes([SceneRef(str(tmp_path / "b.json"))])
    assert lost.where == str(tmp_path / "b.json")
    assert lost.what.startswith("cannot be read (FileNotFoundError: ")
    assert not lost.fix
