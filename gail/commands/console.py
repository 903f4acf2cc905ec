"""What the command line shows and writes, and how it is interrupted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from gail_cli.gail.learning.progress import RunProgress

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""
_MOST_LINES = 50
"""Most problems or failures that are printed one by one; the report file has them all."""


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what it holds is given back."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_lines(lines: Sequence[str]) -> None:
    """Lines on stderr, the first of them if there are very many."""
    for line in lines[:_MOST_LINES]:
        click.echo(line, err=True)
    if len(lines) > _MOST_LINES:
        click.echo(f"... and {len(lines) - _MOST_LINES} more; --report FILE lists all", err=True)


def write_report(file: Path | None, report: dict[str, Any]) -> None:
    """Write what a command did to a JSON file, if there is to be one."""
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


ProgressUpdate = Callable[..., None]
"""Called with what is done and how much there is, and, where there are several phases, with the phase and its unit."""


@contextmanager
def progress_bar(what: str, unit: str) -> Iterator[ProgressUpdate]:
    """A bar on stderr with done, rate and time left; a line per tenth where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(what, unit)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[unit]}"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Bar(*columns, console=console, transient=True) as bar:
        tasks: dict[str, Any] = {}

        def update(done: int, total: int, what: str = what, unit: str = unit) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=None, unit=unit, rate="")
            bar.update(tasks[what], completed=done, total=total)
            speed = bar.tasks[list(tasks).index(what)].speed
            bar.update(tasks[what], rate=f"{speed:.1f}/s" if speed else "")

        yield update


def _plain_progress(what: str, unit: str) -> ProgressUpdate:
    printed: dict[str, int] = {}
    first: dict[str, tuple[int, float]] = {}

    def update(done: int, total: int, what: str = what, unit: str = unit) -> None:
        before, begun = first.setdefault(what, (done, time.monotonic()))  # the rate leaves out what an earlier run did
        tenth = 10 * done // max(total, 1)
        if tenth > printed.get(what, -1):
            printed[what] = tenth
            left = (time.monotonic() - begun) / max(done - before, 1) * (total - done)
            when = f", about {left:.0f} s left" if before < done < total else ""
            click.echo(f"{what}: {done} of {total} {unit}{when}", err=True)

    return update


@contextmanager
def stop_on_signal() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came; a second signal interrupts at once."""
    asked = False

    def ask(number: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        with suppress(OSError):  # not by click: the signal may have come while a line was being written
            os.write(2, b"Stopping after this step; once more to stop at once.\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def training_progress() -> Iterator[Callable[[RunProgress, dict[str, float]], None]]:
    """A live line on a terminal; elsewhere a plain line now and then."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda progress, metrics: click.echo(_training_line(progress, metrics), err=True)
        return
    with console.status("starting") as status:
        yield lambda progress, metrics: status.update(_training_line(progress, metrics))


def _training_line(progress: RunProgress, metrics: dict[str, float]) -> str:
    if "bc/loss" in metrics:
        return f"cloning: step {progress.cloned}, loss {metrics['bc/loss']:.3f}"
    shown = {
        "steps/s": "time/steps_per_s",
        "D expert": "discriminator/expert_accuracy",
        "D policy": "discriminator/policy_accuracy",
        "goal": "rollout/goal",
        "collision": "rollout/collision",
        "off-road": "rollout/off_road",
    }
    values = {title: metrics[name] for title, name in shown.items() if name in metrics}
    numbers = [f"{title} {value:.{0 if value >= 10 else 2}f}" for title, value in values.items()]
    if "rollout/goal" in metrics and "rollout/off_road" not in metrics:
        numbers.append("off-road -")  # no map had road edges
    return f"{progress.timesteps:,} steps: {', '.join(numbers)}"
