"""Ways to draw random expert rows: from a store, and from rows that were materialised."""

from __future__ import annotations

import mmap
import os
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.layout import ObservationConfig

LAYOUT = ObservationConfig.gpudrive()
_HDF5_CHUNK = 16
"""Rows; the fastest of those measured for random reads."""


def _measure(draw: Callable[[], Tensor], batch: int, seconds: float, begun: float) -> dict[str, float]:
    """Rows a second of a way to draw, from the second batch on."""
    draw()
    first = time.perf_counter() - begun
    drawn, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        draw()
        drawn += batch
    rate = drawn / (time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"rows_per_s": rate, "first_batch_s": first, "peak_mb": peak}


def sample_store(path: str, layout: str, cold: bool, batch: int, seconds: float) -> dict[str, float]:
    """Draw from a store; ``cold``: with its files out of the page cache, and scenes replaced as by default."""
    observation = LAYOUT if layout == "gpudrive" else ObservationConfig()
    config = DataConfig(rows_per_scene=10**9)
    if cold:
        _forget(Path(path))
        scenes = len(DemoStore(path))
        config = DataConfig(pool_scenes=min(DataConfig().pool_scenes, max(1, scenes // 2)))
    begun = time.perf_counter()
    sampler = DemoSampler(DemoStore(path), DemoRules(observation=observation, data=config))
    found = _measure(lambda: sampler.sample(batch).observation, batch, seconds, begun)
    origin = sampler.sample(batch).transition
    assert origin is not None
    sampler.close()
    return found | {"scenes": float(len(origin[:, 0].unique()))}


def _forget(folder: Path) -> None:
    """Ask the system to drop the files of a folder from its page cache."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def materialise(store: str, folder: str, count: int) -> dict[str, float]:
    """Write the first rows of a store in full, in every form that is read below."""
    import h5py

    from gail_cli.pipeline.export.export import export

    opened, root = DemoStore(store), Path(folder)
    scenes = int(np.searchsorted(np.cumsum(opened.index.transitions), count)) + 1
    root.mkdir()
    export(opened, root / "zarr rows", "zarr-rows", LAYOUT, limit=scenes)
    found = _zarr(root)[:count]
    np.save(root / "rows.npy", found)
    with h5py.File(root / "rows.h5", "w") as file:
        file.create_dataset("observation", data=found, chunks=(_HDF5_CHUNK, LAYOUT.size))
    return {"rows": float(len(found))}


def _zarr(root: Path) -> Any:
    import zarr

    return zarr.open_group(root / "zarr rows", mode="r")["observation"]


def _from_zarr(root: Path) -> tuple[int, Callable[[Tensor], Tensor]]:
    array = _zarr(root)
    return array.shape[0], lambda pick: torch.from_numpy(array.oindex[pick.numpy()])


def _from_hdf5(root: Path) -> tuple[int, Callable[[Tensor], Tensor]]:
    import h5py

    array = h5py.File(root / "rows.h5")["observation"]

    def read(pick: Tensor) -> Tensor:
        unique, of = pick.unique(return_inverse=True)  # h5py takes rising indices alone
        return torch.from_numpy(array[unique.numpy()])[of]

    return len(array), read


def _from_map(root: Path) -> tuple[int, Callable[[Tensor], Tensor]]:
    array = np.load(root / "rows.npy", mmap_mode="r")
    return len(array), lambda pick: torch.from_numpy(array[pick.numpy()])


def _from_ram(root: Path) -> tuple[int, Callable[[Tensor], Tensor]]:
    tensor = torch.from_numpy(np.load(root / "rows.npy"))
    return len(tensor), lambda pick: tensor.index_select(0, pick)


def _from_ram_fresh(root: Path) -> tuple[int, Callable[[Tensor], Tensor]]:
    tensor = torch.from_numpy(np.load(root / "rows.npy"))

    def read(pick: Tensor) -> Tensor:
        memory = mmap.mmap(-1, len(pick) * tensor.shape[1] * 4)  # pages that the process has not touched before
        out = torch.frombuffer(memory, dtype=torch.float32).view(len(pick), -1)
        return torch.index_select(tensor, 0, pick, out=out)

    return len(tensor), read


READERS = {
    "Zarr rows (zstd, chunks of 256)": _from_zarr,
    "HDF5 rows (chunks of 16)": _from_hdf5,
    "memory-mapped rows": _from_map,
    "torch tensor in RAM, fresh memory": _from_ram_fresh,
    "torch tensor in RAM, memory reused": _from_ram,
}


def read_rows(folder: str, name: str, batch: int, seconds: float) -> dict[str, float]:
    """Read random rows that were materialised, sorted, as a reader would wish."""
    begun = time.perf_counter()
    length, read = READERS[name](Path(folder))
    generator = torch.Generator().manual_seed(0)
    return _measure(
        lambda: read(torch.randint(length, (batch,), generator=generator).sort().values), batch, seconds, begun
    )
