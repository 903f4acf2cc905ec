"""How Warp kernels are started here: silently, without gradients, and over all CPU cores.

Import Warp from this module (``from sim.launch import wp``) so that its settings come before its first use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any

import torch
import warp

wp: Any = warp
wp.config.log_level = wp.LOG_ERROR
wp.config.enable_backward = False

_MIN_ITEMS_A_PART = 96
"""Handing a part to a thread takes some hundred microseconds, an agent only some."""
_PARTS_PER_THREAD = 4
"""More parts than threads, so that a thread that got the light worlds takes over work from the others."""


def _init() -> None:
    """Start Warp without the note on stderr with which its native code reports that there is no CUDA driver."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        warp.init()
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


_init()


def cpu_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def num_parts(items: int, device: torch.device) -> int:
    """Into how many parts work on this many items is best split: several per thread on a CPU, one on CUDA."""
    if device.type == "cuda" or cpu_threads() == 1:
        return 1
    return max(1, min(_PARTS_PER_THREAD * cpu_threads(), items // _MIN_ITEMS_A_PART))


def split_evenly(items: int, parts: int) -> list[int]:
    """Bounds [parts + 1] of ranges of about the same length."""
    return [items * p // parts for p in range(parts + 1)]


@dataclass(frozen=True, eq=False)
class Stage:
    """One kernel over items 0 .. bounds[-1] - 1, whose items do not depend on each other.

    The kernel's first two parameters are the first item of its launch (``i = first + wp.tid()``) and the number of
    the part that it belongs to.
    """

    kernel: Any
    bounds: Sequence[int]
    """Part p has the items bounds[p] .. bounds[p + 1] - 1."""
    inputs: Sequence[Any]


class Program:
    """Kernels that run one after the other on fixed arrays: prepared once, run many times.

    On a CPU, where Warp runs a launch on one core but releases the GIL, each part goes through all stages on one
    thread; a stage must therefore read of the stages before it only what its own part wrote. On CUDA the stages are
    whole launches on torch's current stream, recorded into a CUDA graph at their second run.

    Args:
        stages: all with the same number of parts.
        device: where the arrays are.
    """

    def __init__(self, stages: Sequence[Stage], device: torch.device) -> None:
        self._stages = stages  # keeps the arrays alive
        self._device = device
        self._graph: Any = None
        self._warm = False
        on = wp.device_from_torch(device)
        parts = len(stages[0].bounds) - 1
        self._parts: list[list[Any]] = [[] for _ in range(parts)]
        for stage in stages:
            for part, (first, last) in enumerate(pairwise(stage.bounds)):
                if last > first:
                    inputs = [first, part, *stage.inputs]
                    with _loading(os.getpid()):
                        launch = wp.launch(stage.kernel, dim=last - first, inputs=inputs, device=on, record_cmd=True)
                    self._parts[part].append(launch)

    def run(self) -> None:
        """Run all stages; on CUDA without waiting for them."""
        if self._device.type == "cuda":
            self._run_on_cuda()
            return
        parts = [part for part in self._parts if part]
        if len(parts) > 1:
            list(_pool(os.getpid()).map(_run_part, parts))
        else:
            for part in parts:
                _run_part(part)

    def _run_on_cuda(self) -> None:
        launches = self._parts[0]
        stream = wp.stream_from_torch(torch.cuda.current_stream(self._device))
        if torch.cuda.is_current_stream_capturing() or not self._warm:
            for launch in launches:
                launch.launch(stream)
            self._warm = True
            return
        if self._graph is None:
            # on Warp's own stream, as torch's default one can not be captured
            with wp.ScopedCapture(device=wp.device_from_torch(self._device), force_module_load=False) as capture:
                for launch in launches:
                    launch.launch()
            self._graph = capture.graph
        wp.capture_launch(self._graph, stream=stream)


def launch(kernel: Any, items: int, inputs: Sequence[Any], device: torch.device) -> None:
    """Run one kernel once over items 0 .. items-1, with the parameters of :class:`Stage`."""
    if items:
        bounds = split_evenly(items, num_parts(items, device))
        Program([Stage(kernel, bounds, inputs)], device).run()


@cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    """Threads of this process (a forked child must not inherit them: hence the process id as key)."""
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="warp")


@cache
def _loading(_pid: int) -> Lock:
    """Held while kernels are loaded, which Warp does at their first launch and not safely in two threads at once."""
    return Lock()


def _run_part(launches: Sequence[Any]) -> None:
    for launch in launches:
        launch.launch()


def to_warp(tensor: torch.Tensor, dtype: Any = None) -> Any:
    """A Warp array over the memory of a contiguous tensor (no copy)."""
    if dtype and not tensor.numel():
        return wp.empty(0, dtype=dtype, device=wp.device_from_torch(tensor.device))
    return wp.from_torch(tensor.detach(), dtype=dtype) if dtype else wp.from_torch(tensor.detach())


def struct(kind: Any, **values: Any) -> Any:
    """A Warp struct filled by name; tensors become arrays over their memory."""
    result = kind()
    for name, value in values.items():
        setattr(result, name, to_warp(value) if isinstance(value, torch.Tensor) else value)
    return result
