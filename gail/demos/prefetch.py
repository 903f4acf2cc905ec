"""Items made ahead of time in a background thread, in a fixed order."""

from __future__ import annotations

import atexit
import inspect
import queue
import threading
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@lru_cache(maxsize=4)
def order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """0 .. length-1 in the random order of an epoch; not to be written to."""
    return np.random.default_rng([seed, epoch]).permutation(length)


def permuted(length: int, seed: int, number: int) -> int:
    """Item ``number`` of an endless sequence that goes through 0 .. length-1 in a new random order each epoch."""
    epoch, place = divmod(number, length)
    return int(order(length, seed, epoch)[place])


class Prefetch(Generic[T]):
    """Makes ``make(start)``, ``make(start + 1)``, ... in a background thread and hands them out in that order.

    The thread ends with :meth:`close`, with the object that ``make`` is a method of, and with the program.

    Args:
        make: a pure function of its number; what it raises is raised by :meth:`next`, from then on each time.
        start: the first number.
        ahead: how many finished items may wait.
    """

    def __init__(self, make: Callable[[int], T], start: int = 0, ahead: int = 1) -> None:
        self._queue: queue.Queue[T | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        # The thread must not keep the object alive that it works for.
        method = weakref.WeakMethod(make) if inspect.ismethod(make) else lambda: make
        args = (method, self._queue, self._stop, start)
        self._thread = threading.Thread(target=_run, args=args, name="prefetch", daemon=True)
        self._thread.start()
        weakref.finalize(self, self._stop.set).atexit = False
        _running.add(self)

    def next(self) -> T:
        """The next item, waiting for it if need be.

        Raises:
            RuntimeError: after :meth:`close`.
        """
        if self._failure is not None:
            raise self._failure
        if self._stop.is_set():
            raise RuntimeError("what is made ahead was closed; make a new sampler or stream")
        item = self._queue.get()
        if isinstance(item, BaseException):
            self._failure = item
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(timeout=0.05)


_running: weakref.WeakSet[Prefetch[Any]] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Stop all threads: one that runs a kernel while Python shuts down would crash the process."""
    for prefetch in list(_running):
        prefetch.close()


def _run(method: Callable[[], Any], items: queue.Queue[Any], stop: threading.Event, number: int) -> None:
    while not stop.is_set():
        make = method()
        if make is None:
            return
        try:
            item = make(number)
        except BaseException as error:
            item = error
        del make
        _offer(item, items, stop)
        if isinstance(item, BaseException):
            return
        number += 1


def _offer(item: Any, items: queue.Queue[Any], stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            items.put(item, timeout=0.1)
            return
        except queue.Full:
            continue
