"""Bytes of a store, and how fast expert batches come out of it.

    python -m benchmarks.store [--store PATH] [--json]

Without a store, one is extracted from the committed sample.
"""

from __future__ import annotations

import json
import time

import click

from benchmarks.sample import sample_store
from gail.demos import DemoSampler
from pipeline.files import folder_bytes
from pipeline.store import DemoStore
from sim.env import SimConfig
from sim.layout import ObservationConfig


def rows_per_s(sampler: DemoSampler, batch_size: int, seconds: float) -> float:
    """Expert samples a second, over at least this long."""
    sampler.sample(batch_size)
    rows, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        sampler.sample(batch_size)
        rows += batch_size
    return rows / (time.perf_counter() - begun)


@click.command()
@click.option("--store", "path", type=click.Path(exists=True), help="A demo store; the sample when left out.")
@click.option("--seconds", default=2.0, show_default=True, help="At least this long a measurement.")
@click.option("--json", "as_json", is_flag=True)
def main(path: str | None, seconds: float, as_json: bool) -> None:
    """Measure."""
    with sample_store(path) as found:
        store = DemoStore(found)
        size = folder_bytes(store.path)
        results = {
            "bytes_per_scene": size / len(store),
            "bytes_per_transition": size / store.attributes["report"]["transitions"],
        }
        for name, layout in (("entity", ObservationConfig()), ("gpudrive", ObservationConfig.gpudrive())):
            begun = time.perf_counter()
            sampler = DemoSampler(store, layout, SimConfig())
            sampler.sample(1024)
            results[f"{name}_first_batch_s"] = time.perf_counter() - begun
            for batch_size in (1024, 8192):
                results[f"{name}_rows_per_s_{batch_size}"] = rows_per_s(sampler, batch_size, seconds)
            sampler.close()
    if as_json:
        click.echo(json.dumps(results))
        return
    for name, value in results.items():
        click.echo(f"{name:28s} {value:14,.2f}")


if __name__ == "__main__":
    main()
