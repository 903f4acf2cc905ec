"""Bytes of a store, the cost of making it, and how fast expert batches come out of it beside other ways to keep rows.

    python -m benchmarks.store [SCENES ...] [--store PATH] [--rows N] [--json] [--plot FILE]

SCENES are logged scenes whose extraction is timed by stage on one core; the committed sample without them. Batches are
drawn from the store, by default the one made of these scenes. The first N rows of it are materialised in full as Zarr
rows (the project's own export), HDF5, a memory map and a torch tensor, and random rows of these are read. Every
measurement has a process of its own, whose peak memory is reported; the ways take turns, and the median turn is
reported, so that ratios hold on a busy machine. ``warm``: nothing is replaced; ``cold``: the store's files are not in
the page cache, and scenes are replaced as by default.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click

from benchmarks import rows
from gail_cli import data
from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.pipeline.records import VRU_SPACE, Record
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.store.writer import write_part
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scenario import Scenario
from gail_cli.sim.scene import scene_from_scenario

BATCHES = (1024, 8192)
SPACE = ActionSpace.create("classic")


def stages(sources: list[str], folder: str) -> dict[str, float]:
    """Milliseconds a scene of each stage of an extraction, on one core."""
    refs = [ref for path in resolve(sources) for ref in list_scenes(path)[0]]
    times: dict[str, float] = {}

    def timed(name: str, make: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = make()
        times[name] = (time.perf_counter() - begun) / len(refs) * 1e3
        return made

    list(read_scenes(refs[:1]))  # modules load
    scenarios = timed("read", lambda: [s for _, s in read_scenes(refs) if isinstance(s, Scenario)])
    replay_experts([scene_from_scenario(scenarios[0])], SPACE, [demo_rows_of(scene_from_scenario(scenarios[0]))[0]])
    scenes = timed("scene", lambda: [scene_from_scenario(s) for s in scenarios])
    chosen = [demo_rows_of(scene) for scene in scenes]
    demos = timed("search", lambda: replay_experts(scenes, SPACE, [vehicles for vehicles, _ in chosen]))
    vru = timed("search, vru", lambda: replay_experts(scenes, VRU_SPACE, [walkers for _, walkers in chosen]))
    records = [Record(*parts) for parts in zip(scenes, demos, vru, strict=True)]
    timed("write", lambda: write_part(LocalFolder(Path(folder)), "timed", records, SPACE, scenes[0].num_steps))
    return times | {"scenes/s": 1e3 / sum(times.values())}


def sizes(path: str) -> dict[str, float]:
    """Bytes per scene and per transition, beside those of the same observations as float32 rows."""
    store = DemoStore(path)
    transitions, size = store.attributes["report"]["transitions"], store.storage.size()
    raw = transitions * rows.LAYOUT.size * 4
    return {
        "scenes": len(store),
        "bytes a scene": size / len(store),
        "bytes a transition": size / transitions,
        "times smaller than rows": raw / size,
    }


def in_a_process(work: Callable[..., dict[str, float]], *args: Any) -> dict[str, float]:
    """The result of ``work(*args)`` in a new process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def race(store: str, folder: Path, turns: int, seconds: float) -> dict[str, dict[str, float]]:
    """Rates of all ways to draw, by name and batch size: the medians over the turns."""
    ways: dict[str, tuple[Callable[..., dict[str, float]], tuple[Any, ...]]] = {
        "store, full layout, warm": (rows.sample_store, (store, "gpudrive", False)),
        "store, full layout, cold": (rows.sample_store, (store, "gpudrive", True)),
        "store, compact layout, warm": (rows.sample_store, (store, "entity", False)),
        "store, compact layout, cold": (rows.sample_store, (store, "entity", True)),
        **{name: (rows.read_rows, (str(folder), name)) for name in rows.READERS},
    }
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(turns):
        for name, (work, args) in ways.items():
            for batch in BATCHES:
                found.setdefault(f"{name}, batch {batch}", []).append(in_a_process(work, *args, batch, seconds))
    return {n: {k: statistics.median(r[k] for r in results) for k in results[0]} for n, results in found.items()}


@click.command()
@click.argument("scenes", nargs=-1)
@click.option("--store", "path", type=click.Path(), help="A demo store to draw from.")
@click.option("--rows", "count", default=20_000, show_default=True, help="Rows to materialise, 12 kB each.")
@click.option("--seconds", default=2.0, show_default=True, help="At least this long a measurement.")
@click.option("--turns", default=3, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--plot", type=click.Path(), help="Draw the rates to this file.")
def main(
    scenes: tuple[str, ...], path: str | None, count: int, seconds: float, turns: int, as_json: bool, plot: str | None
) -> None:
    """Measure."""
    sources = list(scenes) or [str(data.SAMPLE)]
    with tempfile.TemporaryDirectory() as name:
        if path is None:
            path = f"{name}/store"
            extract(sources, path, ExtractConfig(SPACE), ExtractOptions(workers=1))
        results = {"extraction_ms": stages(sources, f"{name}/timed"), "size": sizes(path)}
        in_a_process(rows.materialise, path, f"{name}/rows", count)
        results["draw"] = race(path, Path(name, "rows"), turns, seconds)
    if plot:
        _draw(results["draw"], plot)
    if as_json:
        click.echo(json.dumps(results, indent=1))
    else:
        _print(results)


def _print(results: dict[str, Any]) -> None:
    for title in ("extraction_ms", "size"):
        click.echo(f"{title}: " + ", ".join(f"{name} {value:,.1f}" for name, value in results[title].items()))
    click.echo(f"{'':44s}{'rows/s':>12s}{'first batch s':>15s}{'peak MB':>10s}{'scenes/batch':>16s}")
    for name, found in results["draw"].items():
        distinct = f"{found['scenes']:16,.0f}" if "scenes" in found else ""
        numbers = f"{found['rows_per_s']:12,.0f}{found['first_batch_s']:15.3f}{found['peak_mb']:10,.0f}"
        click.echo(f"{name:44s}{numbers}{distinct}")


def _draw(found: dict[str, dict[str, float]], file: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 0.3 * len(found) + 1.2), layout="constrained")
    axes = figure.subplots()
    names = list(found)[::-1]
    colours = ["tab:blue" if name.startswith("store") else "tab:grey" for name in names]
    bars = axes.barh(names, [found[name]["rows_per_s"] for name in names], color=colours)
    axes.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("random rows a second")
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=150)


if __name__ == "__main__":
    main()
