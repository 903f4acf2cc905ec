"""Small uses of the packages that gail-cli stands on, for ``gail-cli doctor``.

Each function gives what is worth saying, and raises when the package does not work; nothing is imported before that.
"""

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np


class Missing(Exception):
    """Something optional is not there; the message is how to get it."""


def agree(found: Any, expected: Any, what: str) -> None:
    """Raise ValueError unless two numbers or arrays are the same to 1e-3."""
    if not np.allclose(found, expected, atol=1e-3):
        raise ValueError(f"{what} is {found}, not {expected}")


def torchrl() -> str:
    """TorchRL and TensorDict."""
    import torch
    from tensordict import TensorDict

    import_module("torchrl.envs")
    agree(TensorDict({"a": torch.ones(2)}, [2])[0]["a"].item(), 1.0, "an entry")
    return "with tensordict " + metadata.version("tensordict")


def space() -> str:
    """A space and its sample."""
    from gymnasium.spaces import Box

    box = Box(-1.0, 1.0, (2,), np.float32)
    if not box.contains(box.sample()):
        raise ValueError("a space does not contain its sample")
    return ""


def zarr_store() -> str:
    """An array with checksums, written and read."""
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    with tempfile.TemporaryDirectory() as folder:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        array = group.create_array("a", shape=(3,), dtype="float32", compressors=[ZstdCodec(), Crc32cCodec()])
        array[...] = np.arange(3, dtype=np.float32)
        read = zarr.open_group(folder, mode="r")["a"]
        agree(np.asarray(read[...]), [0, 1, 2], "an array read again")  # type: ignore[index]
    return "writes and reads, with checksums"


def cluster() -> str:
    """A task on a cluster of one thread."""
    from dask import delayed
    from distributed import Client

    with Client(processes=False, n_workers=1, threads_per_worker=1, dashboard_address=None) as client:
        agree(client.compute(delayed(sum)([1, 2])).result(), 3, "a sum")
    return "runs a task"


def hdf5() -> str:
    """A file in memory."""
    import h5py

    with h5py.File("doctor", "w", driver="core", backing_store=False) as file:
        file["a"] = np.arange(3)
        agree(file["a"][...], [0, 1, 2], "an array read again")
    return ""


def files() -> str:
    """A file in memory."""
    import fsspec

    with fsspec.open("memory://doctor", "wb") as file:
        file.write(b"x")
    with fsspec.open("memory://doctor", "rb") as file:
        if file.read() != b"x":
            raise ValueError("a file is not what was written")
    return ""


def crc32c() -> str:
    """The checksum of TFRecords."""
    import google_crc32c

    agree(google_crc32c.value(b"123456789"), 0xE3069283, "a checksum")
    return f"{google_crc32c.implementation} implementation"


def configuration() -> str:
    """pydantic and PyYAML, by reading a configuration."""
    from gail_cli.gail.config.load import load_config

    agree(load_config(None, ["ppo.gamma=0.5"]).ppo.gamma, 0.5, "a setting")
    return ""


def picture() -> str:
    """A picture in memory."""
    from matplotlib.figure import Figure

    memory = io.BytesIO()
    Figure().savefig(memory, format="png")
    if not memory.getvalue().startswith(b"\x89PNG"):
        raise ValueError("what it draws is no PNG")
    return ""


def tensorboard() -> str:
    """A file of events."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        writer = SummaryWriter(folder)
        writer.add_scalar("a", 1.0, 0)
        writer.close()
        if not any(Path(folder).iterdir()):
            raise ValueError("it wrote nothing")
    return ""


def waymo() -> str:
    """Waymo's protocol buffers; optional."""
    try:
        from gail_cli.pipeline.readers.protos import scenario_pb2
    except ImportError as error:
        if find_spec("waymo_open_dataset") is None:
            raise Missing("for TFRecords: pip install --no-deps waymo-open-dataset-tf-2-12-0") from error
        raise
    scenario = scenario_pb2.Scenario.FromString(scenario_pb2.Scenario(scenario_id="a").SerializeToString())
    if scenario.scenario_id != "a":
        raise ValueError("a scenario is not what was written")
    return "reads and writes scenarios"


def filesystem(protocol: str) -> Callable[[], str]:
    """A check of one of fsspec's optional file systems."""

    def check() -> str:
        import fsspec

        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise Missing(f"for {protocol}:// sources: pip install 'gail-cli[cloud]'") from error
        return f"opens {protocol}://"

    return check


def tracker() -> str:
    """Weights & Biases; optional."""
    import_module("wandb")
    return ""


def ffmpeg() -> str:
    """The program that writes films; optional."""
    try:
        program = import_module("imageio_ffmpeg").get_ffmpeg_exe()
    except (ModuleNotFoundError, RuntimeError):
        program = shutil.which("ffmpeg")
    if not program:
        raise Missing("for .mp4 films: pip install imageio-ffmpeg, or install ffmpeg")
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, timeout=60).stdout
    return told.split("Copyright")[0]
