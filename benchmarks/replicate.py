"""Many scenes out of few: real records under random rigid motions, to measure stores of any size on.

python -m benchmarks.replicate STORE TARGET --scenes 100000
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields, replace
from functools import partial
from itertools import count, islice
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.extract.report import LISTS, kept, make_report, replay_sums
from gail_cli.pipeline.records import Demos, Record
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore, part_name

MAX_SHIFT = 100.0
"""m, along x and along y."""


def replicated(records: Sequence[Record], seed: int = 0, first: int = 0) -> Iterator[Record]:
    """Endless copies of the records in turn, from copy ``first`` on: turned about their origin, shifted, with new ids.

    Copy ``k`` is a pure function of the records and ``(seed, k)``. What is relative (actions, replay errors, sizes) is
    as it was; what is absolute moves, by float64 arithmetic rounded to float32. Not for stores whose actions are
    absolute states. Each copy counts as a log of its own.
    """
    for number in count(first):
        record = records[number % len(records)]
        rng = np.random.default_rng([seed, number])
        moved = moved_record(record, rng.uniform(-np.pi, np.pi), rng.uniform(-MAX_SHIFT, MAX_SHIFT, 2))
        scene = replace(moved.scene, id=f"{record.scene.id}-{number}")
        yield replace(moved, scene=scene, fingerprint=np.zeros_like(record.fingerprint))


def moved_record(record: Record, angle: float, shift: NDArray[np.float64]) -> Record:
    """The record turned by ``angle`` (rad) about its origin, then shifted by [2] m."""
    s = record.scene
    segment = s.segment.astype(np.float64)
    middle, heading = _turned(segment[:, :2], angle) + shift, _wrapped(segment[:, 4:] + angle)
    scene = replace(
        s,
        log=np.where(s.valid[..., None], _moved_states(s.log, angle, shift), 0).astype(np.float32),
        segment=np.concatenate([middle, segment[:, 2:4], heading], axis=1).astype(np.float32),
        light_stop_point=(_turned(s.light_stop_point.astype(np.float64), angle) + shift).astype(np.float32),
    )
    demos = {f.name: getattr(record, f.name) for f in fields(record)}
    demos = {name: _moved_demos(d, angle, shift) for name, d in demos.items() if isinstance(d, Demos)}
    return replace(record, scene=scene, **demos)


def _moved_demos(demos: Demos, angle: float, shift: NDArray[np.float64]) -> Demos:
    state = np.where(demos.mark[..., None] > 0, _moved_states(demos.state, angle, shift), 0)
    return replace(demos, state=state.astype(np.float32))


def _moved_states(state: NDArray[np.float32], angle: float, shift: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 5] x, y, heading, vx, vy."""
    s = state.astype(np.float64)
    position, heading = _turned(s[..., :2], angle) + shift, _wrapped(s[..., 2:3] + angle)
    return np.concatenate([position, heading, _turned(s[..., 3:], angle)], axis=-1)


def _turned(vectors: NDArray[np.float64], angle: float) -> NDArray[np.float64]:
    """[..., 2]."""
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([c * vectors[..., 0] - s * vectors[..., 1], s * vectors[..., 0] + c * vectors[..., 1]], axis=-1)


def _wrapped(angle: NDArray[np.float64]) -> NDArray[np.float64]:
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _write_part(source: str, target: str, scenes: int, scenes_per_part: int, number: int) -> None:
    store, first = DemoStore(source), number * scenes_per_part
    wanted = min(scenes_per_part, scenes - first)
    records = list(islice(replicated(list(store.read()), first=first), wanted))
    entry = writer.write_part(LocalFolder(Path(target)), part_name(number), records, store.own_space, store.steps)
    entry["scenes"]["source"] = [record.scene.id for record in records]
    entry |= {kind: [] for kind in LISTS} | {"replay": replay_sums(records)}
    writer.commit_part(LocalFolder(Path(target)), entry)


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--scenes", default=100_000, show_default=True)
@click.option("--scenes-per-part", default=256, show_default=True)
@click.option("--workers", default=2, show_default=True)
def main(source: str, target: str, scenes: int, scenes_per_part: int, workers: int) -> None:
    """Write a store of so many copies."""
    store, storage = DemoStore(source), LocalFolder(Path(target))
    same = {key: store.attributes[key] for key in ("settings", "software")}
    writer.create_store(storage, writer.store_attributes(store.own_space, store.steps, plan=None, **same))
    parts = range(-(-scenes // scenes_per_part))
    with ProcessPoolExecutor(workers) as pool, click.progressbar(length=len(parts), label="parts") as bar:
        for _ in pool.map(partial(_write_part, source, target, scenes, scenes_per_part), parts):
            bar.update(1)
    report = make_report(storage, scenes)
    writer.finish_store(storage, kept(report))


if __name__ == "__main__":
    main()
