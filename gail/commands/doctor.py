"""``gail-cli doctor``: what is installed, and whether it works here.

Simulators, devices and folders are used; packages are imported. Nothing that can be missing or broken is imported
before its own check.
"""

import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np

_GPUDRIVE_SECONDS = 180
"""After which GPUDrive counts as hung; its thread pool can lose a wake-up and wait for ever."""
_SPEED = 5.0
"""Speed of the car of the tiny scene, m/s."""


class Missing(Exception):
    """Something optional is not there; the message is how to get it."""


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    package: str
    """Distribution whose version is shown; may be empty."""
    run: Callable[[], str]
    """Uses it, and gives what is worth saying; raises :class:`Missing`, or anything when it does not work."""
    remedy: str
    needed: bool = True


@dataclass(frozen=True)
class CheckResult:
    """What a check found."""

    name: str
    version: str
    state: Literal["ok", "missing", "broken"]
    """Only what is optional can be ``missing``; what is needed and absent is ``broken``."""
    remark: str
    needed: bool

    @property
    def fails(self) -> bool:
        """Whether gail-cli cannot work because of it."""
        return self.needed and self.state == "broken"


def doctor(as_json: bool) -> None:
    """Run all checks and print a table of their results, or JSON; exit code 1 when something needed does not work."""
    results = list(run_checks())
    failed = any(result.fails for result in results)
    if as_json:
        click.echo(json.dumps({"sound": not failed, "findings": [vars(result) for result in results]}, indent=1))
    else:
        _print_table(results)
    if failed:
        raise SystemExit(1)


def _print_table(results: Sequence[CheckResult]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "version", "state", ""):
        table.add_column(name, overflow="fold")
    for result in results:
        state = "missing (optional)" if result.state == "missing" else result.state
        table.add_row(result.name, result.version, state, result.remark)
    Console().print(table, markup=False)


def run_checks() -> Iterator[CheckResult]:
    """The results of all checks, one after the other."""
    for check in CHECKS:
        yield run_check(check)


def run_check(check: Check) -> CheckResult:
    """The result of a check; never raises."""

    def result(state: Literal["ok", "missing", "broken"], remark: str) -> CheckResult:
        return CheckResult(check.name, _version(check.package), state, " ".join(remark.split()), check.needed)

    try:
        return result("ok", check.run())
    except Missing as missing:
        return result("missing", str(missing))
    except Exception as error:  # whatever a damaged installation raises
        if isinstance(error, ModuleNotFoundError) and not check.needed:
            return result("missing", check.remedy)
        return result("broken", f"{type(error).__name__}: {error}; {check.remedy}")


def _version(package: str) -> str:
    if package == "python":
        return platform.python_version()
    try:
        version = metadata.version(package) if package else ""
    except metadata.PackageNotFoundError:
        return ""
    if package == "torch" and "torch" in sys.modules:  # knows its build, which the metadata of some wheels leaves out
        return str(getattr(sys.modules["torch"], "__version__", version))
    return version


# --- the ground ----------------------------------------------------------------------------------------------------


def _python() -> str:
    return sys.executable


def agree(found: Any, expected: Any, what: str) -> None:
    """Raise ValueError unless two numbers or arrays are the same to 1e-3."""
    if not np.allclose(found, expected, atol=1e-3):
        raise ValueError(f"{what} is {found}, not {expected}")


def _torch() -> str:
    import torch

    agree((torch.eye(2) * 3).sum().item(), 6.0, "a sum")
    return f"{torch.get_num_threads()} thread(s)"


def _warp() -> str:
    from gail_cli.sim.launch import wp

    @wp.kernel(enable_backward=False)  # type: ignore[untyped-decorator]
    def double(values: Any) -> None:
        i = wp.tid()
        values[i] = values[i] * wp.float32(2.0)

    devices = wp.get_devices()
    for device in devices:
        values = wp.array([1.0, 2.5], dtype=wp.float32, device=device)
        wp.launch(double, dim=2, inputs=[values], device=device)
        agree(values.numpy(), [2.0, 5.0], f"a kernel's result on {device}")
    return "kernels compile and run on " + ", ".join(str(device) for device in devices)


def tiny_scene() -> Any:
    """A scene of 91 steps: a car at 5 m/s, a parked one, and a road edge far from both."""
    from gail_cli.sim.scenario import AgentType, Road, RoadType, Scenario, Tracks, TrafficLights
    from gail_cli.sim.scene import scene_from_scenario

    steps = 91
    position = np.zeros((2, steps, 3))
    position[0, :, 0] = _SPEED * 0.1 * np.arange(steps)
    position[1] = [20.0, 10.0, 0.0]
    velocity = np.zeros((2, steps, 2), np.float32)
    velocity[0, :, 0] = _SPEED
    tracks = Tracks(
        id=np.arange(2),
        type=np.full(2, AgentType.VEHICLE, np.int8),
        size=np.tile(np.array([4.5, 2.0, 1.5], np.float32), (2, 1)),
        position=position,
        heading=np.zeros((2, steps), np.float32),
        velocity=velocity,
        valid=np.ones((2, steps), np.bool_),
        mark_as_expert=np.zeros(2, np.bool_),
    )
    edge = Road(0, RoadType.ROAD_EDGE, 15, np.array([[-50.0, -20.0, 0.0], [100.0, -20.0, 0.0]]))
    lights, times = TrafficLights.none(steps), 0.1 * np.arange(steps, dtype=np.float64)
    return scene_from_scenario(Scenario("doctor", tracks, (edge,), lights, times))


def _advance(device: str) -> None:
    """Step the tiny scene in the embedded simulator, and look where the car is."""
    import torch

    from gail_cli.sim.actions import ActionSpace
    from gail_cli.sim.env import Env
    from gail_cli.sim.worlds import make_worlds

    env = Env(make_worlds([tiny_scene()], device), ActionSpace.create("classic", "continuous"))
    before = env.states()
    step = env.step(torch.zeros(1, 2, device=device))
    agree((env.states() - before)[0, :2].tolist(), [_SPEED * 0.1, 0.0], "the way of a car in 0.1 s")
    if not (step.alive.all() and torch.isfinite(step.observation).all()):
        raise ValueError("the car is gone, or its observation is not finite")


def _simulator() -> str:
    _advance("cpu")
    return "steps a scene right on the CPU"


def _cuda() -> str:
    import torch

    if not torch.cuda.is_available():
        raise Missing("torch sees no CUDA device: all runs on the CPU; for a GPU install its driver and torch for CUDA")
    names = []
    for index in range(torch.cuda.device_count()):
        _advance(f"cuda:{index}")
        names.append(torch.cuda.get_device_name(index))
    return "steps a scene right on " + ", ".join(names)


# --- GPUDrive and folders ------------------------------------------------------------------------------------------


def _gpudrive() -> str:
    from gail_cli.sim.gpudrive import HOW_TO_GET, MODULE, load_binding

    if find_spec(MODULE) is None:
        raise Missing(HOW_TO_GET)
    load_binding()
    # in a process of its own: what it does not like aborts the process, and it may wait for ever
    program = f"from {__name__} import drive_gpudrive; drive_gpudrive()"
    try:
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=_GPUDRIVE_SECONDS)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"a step did not end within {_GPUDRIVE_SECONDS} s") from None
    if run.returncode:
        last = (run.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"a step of a tiny scene ended with code {run.returncode} ({last})")
    return "steps a scene as the embedded simulator does"


def drive_gpudrive() -> None:
    """Drive the tiny scene through GPUDrive and the embedded simulator side by side.

    Raises:
        ValueError: when they do not agree.
        ImportError: when GPUDrive is not installed.
    """
    import torch

    from gail_cli.pipeline.export.gpudrive_cache import SceneCache
    from gail_cli.sim.actions import ActionSpace
    from gail_cli.sim.config import SimConfig
    from gail_cli.sim.env import Env
    from gail_cli.sim.gpudrive import GPUDriveEnv
    from gail_cli.sim.layout import ObservationConfig
    from gail_cli.sim.worlds import make_worlds

    common = (
        make_worlds([tiny_scene()]), ActionSpace.create("classic", "continuous", reverse=False), SimConfig.gpudrive(),
        ObservationConfig(),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        theirs, ours = GPUDriveEnv(*common, SceneCache(Path(folder))), Env(*common)
    for _ in range(3):
        action = torch.tensor([[1.0, 0.02]])
        seen = [env.step(action).observation for env in (theirs, ours)]
        agree(theirs.states().tolist(), ours.states().tolist(), "GPUDrive's state")
        agree(seen[0].tolist(), seen[1].tolist(), "what is seen in GPUDrive")


def _writable(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x")
    return str(folder)


def _kernel_cache() -> str:
    from gail_cli.sim.launch import wp

    return _writable(Path(wp.config.kernel_cache_dir))


def _scene_cache() -> str:
    from gail_cli.pipeline.export.gpudrive_cache import cache_folder

    return _writable(cache_folder())


# --- packages ------------------------------------------------------------------------------------------------------


def _imports(*modules: str) -> Callable[[], str]:
    """A check that modules can be imported."""

    def check() -> str:
        for module in modules:
            import_module(module)
        return ""

    return check


def _ffmpeg() -> str:
    """The version of the program that writes films."""
    import imageio_ffmpeg  # type: ignore[import-untyped]

    try:
        return f"version {imageio_ffmpeg.get_ffmpeg_version()}"
    except RuntimeError as error:
        raise Missing("for .mp4 films: pip install imageio-ffmpeg, or install ffmpeg") from error


_AGAIN = "install gail-cli again (`pip install -c constraints.txt -e .`)"
CHECKS: tuple[Check, ...] = (
    Check("Python", "python", _python, "make an environment with Python 3.11 or newer"),
    Check("torch", "torch", _torch, _AGAIN),
    Check("CUDA", "", _cuda, "update the driver, or train with --device cpu"),
    Check("Warp", "warp-lang", _warp, _AGAIN),
    Check("kernel cache", "", _kernel_cache, "make the folder writable, or set WARP_CACHE_PATH to another"),
    Check("embedded simulator", "gail-cli", _simulator, _AGAIN),
    Check("GPUDrive", "gpudrive", _gpudrive, "build it anew, or drive embedded", needed=False),
    Check("scene cache", "", _scene_cache, "set GAIL_CLI_CACHE to a folder that can be written", needed=False),
    Check("TorchRL", "torchrl", _imports("torchrl.envs", "tensordict"), _AGAIN),
    Check("Gymnasium", "gymnasium", _imports("gymnasium"), _AGAIN),
    Check("configuration", "pydantic", _imports("pydantic", "yaml"), _AGAIN),
    Check("Zarr", "zarr", _imports("zarr", "numcodecs"), _AGAIN),
    Check("SciPy", "scipy", _imports("scipy.sparse.csgraph", "scipy.spatial"), _AGAIN),
    Check("Dask", "dask", _imports("dask", "distributed"), _AGAIN),
    Check("HDF5", "h5py", _imports("h5py"), _AGAIN),
    Check("fsspec", "fsspec", _imports("fsspec"), _AGAIN),
    Check("CRC-32C", "google-crc32c", _imports("google_crc32c"), _AGAIN),
    Check("Matplotlib", "matplotlib", _imports("matplotlib.figure"), _AGAIN),
    Check("TensorBoard", "tensorboard", _imports("torch.utils.tensorboard"), _AGAIN),
    Check(
        "Waymo's protos",
        "waymo-open-dataset-tf-2-12-0",
        _imports("waymo_open_dataset.protos.scenario_pb2"),
        "for TFRecords: pip install --no-deps waymo-open-dataset-tf-2-12-0, and protobuf 5.26 or newer",
        needed=False,
    ),
    Check("s3", "s3fs", _imports("s3fs"), "for s3:// sources: pip install 'gail-cli[cloud]'", needed=False),
    Check("gs", "gcsfs", _imports("gcsfs"), "for gs:// sources: pip install 'gail-cli[cloud]'", needed=False),
    Check("Weights & Biases", "wandb", _imports("wandb"), "pip install 'gail-cli[wandb]'", needed=False),
    Check("ffmpeg", "imageio-ffmpeg", _ffmpeg, "pip install imageio-ffmpeg", needed=False),
)
"""All checks, in the order of the table."""
