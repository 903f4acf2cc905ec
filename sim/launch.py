"""How Warp kernels are started here: silently, without gradients, and over all CPU cores.

Import Warp from this module (``from sim.launch import wp``) so that its settings come before its first use.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
import warp

wp: Any = warp
wp.config.log_level = wp.LOG_ERROR
wp.config.enable_backward = False

_MIN_ITEMS_PER_THREAD = 64


def _init() -> None:
    """Start Warp, whose native code tells stderr that there is no CUDA driver, which is no news."""
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


@cache
def _pool(_pid: int) -> ThreadPoolExecutor:
    """Threads of this process (a forked child must not inherit them: hence the process id as key)."""
    return ThreadPoolExecutor(cpu_threads(), thread_name_prefix="warp")


def launch(kernel: Any, items: int, inputs: Sequence[Any], device: torch.device) -> None:
    """Run ``kernel`` for items 0 .. items-1.

    The kernel's first parameter is the first item of its launch (``i = first + wp.tid()``). On a CPU, where Warp runs
    a launch on one core but releases the GIL, the items are split over threads; items must not depend on each other.
    """
    if items == 0:
        return
    if device.type == "cuda":
        stream = wp.stream_from_torch(torch.cuda.current_stream(device))
        wp.launch(kernel, dim=items, inputs=[0, *inputs], device=f"cuda:{device.index or 0}", stream=stream)
        return
    parts = max(1, min(cpu_threads(), items // _MIN_ITEMS_PER_THREAD))
    bounds = [items * p // parts for p in range(parts + 1)]

    def run(part: int) -> None:
        first, last = bounds[part], bounds[part + 1]
        wp.launch(kernel, dim=last - first, inputs=[first, *inputs], device="cpu")

    if parts == 1:
        run(0)
    else:
        list(_pool(os.getpid()).map(run, range(parts)))


def to_warp(tensor: torch.Tensor, dtype: Any = None) -> Any:
    """A Warp array over the memory of a contiguous tensor (no copy)."""
    return wp.from_torch(tensor.detach(), dtype=dtype) if dtype else wp.from_torch(tensor.detach())
