"""Things made ahead of time in a thread, in a fixed order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


@lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(length)


def permuted(length: int, seed: int, number: int) -> int:
    """Item ``number`` of an endless sequence that goes through 0 .. length-1 in a new random order each epoch."""
    epoch, place = divmod(number, length)
    return int(_order(length, seed, epoch)[place])


class Prefetch(Generic[T]):
    """Makes ``make(start)``, ``make(start + 1)``, ... in a background thread and hands them out in that order.

    Args:
        make: a pure function of its number; what it raises is raised by :meth:`next`.
        start: the first number.
        ahead: how many finished items may wait.
    """

    def __init__(self, make: Callable[[int], T], start: int = 0, ahead: int = 1) -> None:
        self._make = make
        self._queue: queue.Queue[T | BaseException] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(start,), name="prefetch", daemon=True)
        self._thread.start()

    def next(self) -> T:
        """The next item, waiting for it if need be."""
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        while self._thread.is_alive():
            while not self._queue.empty():
                self._queue.get_nowait()
            self._thread.join(timeout=0.05)

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                item: T | BaseException = self._make(number)
            except BaseException as error:
                item = error
            self._offer(item)
            if isinstance(item, BaseException):
                return
            number += 1

    def _offer(self, item: T | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
