"""Steps of controlled agents a second in the embedded simulator, observation included.

    python -m benchmarks.simulator [SCENES ...] [--store PATH] [--worlds N ...] [--device cpu|cuda] [--json]

SCENES are files or folders of logged scenes; without them and without a store, the committed sample. Worlds are these
scenes, repeated as needed. Every controlled agent coasts for whole episodes, resets included, and only steps of agents
whose episode still runs are counted. Worlds and layouts take turns, an episode each, so that ratios hold on a busy
machine; the median episode is reported. Bytes are those that the observation must read and write: itself, the candidate
segments and the agents of the world; the bandwidth they are compared with is that of a large copy on the same device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gail_cli import data
from gail_cli.pipeline.readers.sources import SourceError, list_scenes, read_scenes, resolve
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.env import Env
from gail_cli.sim.launch import cpu_threads
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import SceneError
from gail_cli.sim.scene import Scene, scene_from_scenario
from gail_cli.sim.worlds import Worlds, make_worlds

LAYOUTS = {"full": ObservationConfig.gpudrive(), "compact": ObservationConfig()}
ON_CPU, ON_CUDA = (1, 4, 16, 64, 256), (1, 16, 256, 1024, 4096)


def episode(env: Env) -> tuple[int, float]:
    """Steps of controlled agents in one episode, and its seconds."""
    actions = torch.zeros(env.num_agents, env.action_space.components, device=env.worlds.device)
    actions = env.action_space.encode(actions)
    acted = torch.zeros((), dtype=torch.int64, device=env.worlds.device)
    _wait(env)
    begun = time.perf_counter()
    env.reset()
    for _ in range(env.horizon):
        acted += env.alive().sum()
        env.step(actions)
    _wait(env)
    return int(acted), time.perf_counter() - begun


def _wait(env: Env) -> None:
    if env.worlds.device.type == "cuda":
        torch.cuda.synchronize()


def bytes_per_observation(env: Env) -> float:
    """Mean bytes that one observation moves, by where the agents start."""
    env.reset()
    worlds, grid = env.worlds, env.worlds.grid(env.observation_config.radius)
    world = worlds.tensors["world"][worlds.controlled].long()
    number = worlds.tensors["map"][world].cpu().numpy()
    x, y, size, columns, rows, first = (
        getattr(grid, name).numpy()[number] for name in ("x", "y", "size", "columns", "rows", "first")
    )
    at = env.states()[:, :2].cpu().numpy()
    column, row = (at[:, 0] - x) // size, (at[:, 1] - y) // size
    inside = (column >= 0) & (column < columns) & (row >= 0) & (row < rows)
    cell = np.where(inside, first + row * columns + column, 0).astype(int)
    candidates = np.where(inside, np.diff(grid.start.numpy())[cell], 0).mean()
    agents = worlds.tensors["agent_start"].diff()[world].float().mean().item()
    segment = 4 + 32 + 4  # number, table row, type
    return float(4 * env.observation_config.size + segment * candidates + 21 * agents)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a large copy, the best of several."""
    source = torch.zeros(64 * 2**20 if device.type == "cpu" else 2**29, device=device)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        target.copy_(source)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 8 * source.numel() / best


def measure(scenes: Sequence[Scene], counts: Sequence[int], device: torch.device, seconds: float) -> dict[str, Any]:
    """Rates of all layouts and numbers of worlds, which take turns for ``seconds`` each."""
    space = ActionSpace.create("classic")
    batches: dict[int, Worlds] = {n: make_worlds([scenes[k % len(scenes)] for k in range(n)], device) for n in counts}
    envs = {(name, n): Env(batches[n], space, observation=layout) for name, layout in LAYOUTS.items() for n in counts}
    rates: dict[tuple[str, int], list[float]] = {key: [] for key in envs}
    for env in envs.values():
        episode(env)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds * len(envs):
        for key, env in envs.items():
            steps, took = episode(env)
            rates[key].append(steps / took)
    bandwidth = copy_bandwidth(device)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {cpu_threads()} cores",
        "scenes": len(scenes),
        "controlled_agents": {n: len(batches[n].controlled) for n in counts},
        "copy_bandwidth_gb_per_s": bandwidth / 1e9,
    }
    for name, layout in LAYOUTS.items():
        median = {n: statistics.median(rates[name, n]) for n in counts}
        moved = {n: bytes_per_observation(envs[name, n]) for n in counts}
        result[name] = {
            "observation_floats": layout.size,
            "controlled_agent_steps_per_s": median,
            "bytes_per_agent_step": moved,
            "share_of_bandwidth": {n: median[n] * moved[n] / bandwidth for n in counts},
        }
    return {"controlled_agent_steps_per_s": result["full"]["controlled_agent_steps_per_s"], **result}


def load(paths: Sequence[str], store: str | None) -> list[Scene]:
    """Scenes of a store, or of files and folders."""
    if store:
        return [record.scene for record in DemoStore(store).read()]
    refs = [ref for path in resolve(paths or [str(data.SAMPLE)]) for ref in list_scenes(path)[0]]
    logged = [scenario for _, scenario in read_scenes(refs)]
    return [scene_from_scenario(scenario) for scenario in logged if not isinstance(scenario, SceneError)]


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description=__doc__.split("\n")[0])
    parser.add_argument("scenes", nargs="*", help="scene files or folders; the committed sample when left out")
    parser.add_argument("--store", help="a demo store instead of scene files")
    parser.add_argument("--worlds", type=int, nargs="+", action="extend", help="numbers of worlds")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or cuda:1")
    parser.add_argument("--seconds", type=float, default=3.0, help="a measurement, at least")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    if given.scenes and given.store:
        parser.error("scene files and --store exclude each other")
    if given.seconds <= 0 or min(given.worlds or [1]) < 1:
        parser.error("--worlds and --seconds must be positive")
    try:
        device = torch.empty(0, device=given.device).device
        scenes = load(given.scenes, given.store)
    except (SourceError, StoreError, AssertionError, RuntimeError) as error:
        parser.error(" ".join(str(error).split()))
    if not scenes:
        parser.error("no scene in these files can be read; gail-cli extract-demos tells why")
    counts = given.worlds or (ON_CUDA if device.type == "cuda" else ON_CPU)
    result = measure(scenes, counts, device, given.seconds)
    if given.json:
        print(json.dumps(result))
        return
    print(f"{result['device']}; a large copy moves {result['copy_bandwidth_gb_per_s']:.1f} GB/s")
    print("worlds  agents  layout   agent steps/s    us each   bytes each   of bandwidth")
    for name in LAYOUTS:
        for n, rate in result[name]["controlled_agent_steps_per_s"].items():
            moved, share = result[name]["bytes_per_agent_step"][n], result[name]["share_of_bandwidth"][n]
            agents = result["controlled_agents"][n]
            print(f"{n:6d}  {agents:6d}  {name:8s} {rate:13,.0f}  {1e6 / rate:9.2f}  {moved:11,.0f}  {share:12.1%}")


if __name__ == "__main__":
    main()
