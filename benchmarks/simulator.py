"""Steps of controlled agents a second in the embedded simulator, observation included.

    python -m benchmarks.simulator [--store PATH] [--worlds N]... [--device cpu|cuda] [--json]

Without a store, one is extracted from the committed sample. Worlds are the store's scenes, repeated as needed.
"""

from __future__ import annotations

import json
import time

import click
import torch

from benchmarks.sample import sample_store
from pipeline.store import DemoStore
from sim.env import Env
from sim.layout import ObservationConfig
from sim.worlds import make_worlds

LAYOUTS = {"entity": ObservationConfig(), "gpudrive, 2,984 floats": ObservationConfig.gpudrive()}


def agent_steps_per_s(env: Env, seconds: float) -> float:
    """Controlled agents times steps a second, over at least this long."""
    actions = torch.zeros(env.num_agents, env.action_space.components, device=env.worlds.device)
    actions = env.action_space.encode(actions)
    env.step(actions)
    steps, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for k in range(env.horizon):
            if k == 0:
                env.reset()
            env.step(actions)
        if env.worlds.device.type == "cuda":
            torch.cuda.synchronize()
        steps += env.horizon
    return steps * env.num_agents / (time.perf_counter() - begun)


@click.command()
@click.option("--store", "path", type=click.Path(exists=True), help="A demo store; the sample when left out.")
@click.option("--worlds", type=int, multiple=True, default=(1, 4, 16, 64, 256), show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--seconds", default=2.0, show_default=True, help="At least this long a measurement.")
@click.option("--json", "as_json", is_flag=True)
def main(path: str | None, worlds: tuple[int, ...], device: str, seconds: float, as_json: bool) -> None:
    """Measure."""
    with sample_store(path) as found:
        store = DemoStore(found)
        scenes = [record.scene for record in store.read()]
    results: dict[str, dict[int, float]] = {name: {} for name in LAYOUTS}
    for count in worlds:
        batch = make_worlds([scenes[i % len(scenes)] for i in range(count)], device)
        for name, layout in LAYOUTS.items():
            results[name][count] = agent_steps_per_s(Env(batch, store.space, observation=layout), seconds)
    if as_json:
        click.echo(json.dumps({"device": device, "controlled_agent_steps_per_s": results}))
        return
    for name, by_count in results.items():
        for count, rate in by_count.items():
            click.echo(f"{count:5d} worlds, {name}: {rate:12,.0f} controlled agent steps/s")


if __name__ == "__main__":
    main()
