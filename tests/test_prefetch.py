import gc
import subprocess
import sys
import threading
import weakref
from itertools import count
from pathlib import Path

import pytest
from demos import rules_of

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.prefetch import Prefetch, permuted
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.demos.worlds import WorldStream
from gail_cli.pipeline.store.schema import StoreError


@pytest.mark.parametrize("length", [1, 5, 100])
def test_each_epoch_is_a_permutation_of_its_own(length):
    epochs = [tuple(permuted(length, 7, length * epoch + k) for k in range(length)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len(set(epochs)) == (1 if length == 1 else 4)
    assert epochs[0] != tuple(permuted(length, 8, k) for k in range(length)) or length == 1


def test_what_went_wrong_in_the_background_is_told_each_time():
    def fail(number):
        raise StoreError("", f"number {number}")

    ahead = Prefetch(fail)
    for _ in range(3):
        with pytest.raises(StoreError, match="number 0"):
            ahead.next()
    ahead.close()
    closed = Prefetch(lambda number: number)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="was closed; make a new sampler or stream"):
        closed.next()


def test_threads_end_with_whom_they_work_for(make_store, sampler):
    source = DemoSampler(make_store(), rules_of(data=DataConfig(pool_scenes=1, rows_per_scene=8)))
    source.sample(8)
    thread = source._prefetch._thread
    gone = weakref.ref(source)
    del source
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert gone() is None


def test_a_program_ends_well_with_samplers_that_nobody_closed(make_store):
    code = (
        "from gail_cli.gail.config.schema import DataConfig; from gail_cli.gail.demos.sampler import DemoSampler\n"
        "from gail_cli.pipeline.store.store import DemoStore\n"
        "from gail_cli.gail.demos.rules import DemoRules\n"
        f"s = DemoSampler(DemoStore({str(make_store().path)!r}),"
        " DemoRules(data=DataConfig(pool_scenes=2, rows_per_scene=8)))\n"
        "for _ in range(9): s.sample(8)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_of_the_background_surface(make_store, sampler, monkeypatch):
    store = make_store()
    source = sampler(store, pool_scenes=1, rows_per_scene=1)
    source.sample(1)
    source._prefetch.close()

    def damaged(scenes):
        raise StoreError("", f"scenes {scenes}: damaged")

    monkeypatch.setattr(store, "read", damaged)
    broken = WorldStream(store, rules_of(), 2)
    with pytest.raises(StoreError, match="damaged"):
        broken.next()
    broken.close()
    source._prefetch = Prefetch(source._load, 1)
    with pytest.raises(StoreError, match="damaged"):
        source.sample(4)


def test_items_come_in_order_and_no_further_ahead_than_told():
    made, enough = [], threading.Event()

    def make(number):
        made.append(number)
        if number == 3:
            enough.set()
        return number

    ahead = Prefetch(make, start=2, ahead=1)
    assert enough.wait(timeout=10)  # 2 waits, 3 is held
    assert made == [2, 3]
    assert [ahead.next() for _ in range(5)] == [2, 3, 4, 5, 6]
    ahead.close()
    assert made == [*range(2, 2 + len(made))]
    assert 5 <= len(made) <= 7  # one may wait, and one may be in the making
    assert not ahead._thread.is_alive()


def test_what_was_made_before_an_error_is_handed_out_first():
    numbers = iter([10, 20])
    ahead = Prefetch(lambda number: next(numbers), ahead=5)
    assert [ahead.next(), ahead.next()] == [10, 20]
    with pytest.raises(StopIteration):
        ahead.next()
    ahead.close()


@pytest.mark.parametrize("ahead", [1, 3])
def test_closing_ends_the_thread_whatever_it_is_at(ahead):
    for taken in range(3):
        source = Prefetch(lambda number: number, ahead=ahead)
        assert [source.next() for _ in range(taken)] == list(range(taken))
        source.close()
        assert not source._thread.is_alive()
        source.close()


def test_closing_waits_for_the_item_being_made():
    begun, may_end, done = threading.Event(), threading.Event(), count()

    def make(number):
        begun.set()
        may_end.wait(timeout=10)
        return next(done)

    source = Prefetch(make)
    begun.wait(timeout=10)
    closing = threading.Thread(target=source.close)
    closing.start()
    assert closing.is_alive()
    may_end.set()
    closing.join(timeout=10)
    assert not closing.is_alive()
    assert not source._thread.is_alive()
    assert next(done) <= 2
