"""``gail-cli validate``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gail_cli.gail.commands.console import print_lines, progress_bar, write_report
from gail_cli.gail.config.load import load_config

if TYPE_CHECKING:
    from gail_cli.gail.config.schema import TrainConfig
    from gail_cli.sim.errors import UserError


def validate(
    store: str, *, config: str | None, against: tuple[str, ...], sample: int, seed: int, report: Path | None
) -> None:
    """Check a store, and whether it fits a training run; exit code 1 when there are problems (a line each).

    Args:
        store: folder, .zip or URL.
        config: file with the configuration of the run, if it is to fit one.
        against: stores that it may share no log with.
        sample: number of scenes that are replayed.
        seed: for choosing them.
        report: file for the whole report.
    """
    loaded = load_config(config) if config else None

    from gail_cli.gail.learning.requirements import expectation  # after what a wrong setting stops
    from gail_cli.pipeline.validate.against import compare
    from gail_cli.pipeline.validate.validate import validate_store

    expected = expectation(loaded.data, loaded.sim) if loaded else None
    with progress_bar("validating", "parts") as progress:
        problems: list[UserError] = [*validate_store(store, expected, sample=sample, seed=seed, progress=progress)]
    if loaded and not problems:
        problems = _backend_problems(loaded, store)
    warnings: list[UserError] = []
    if against and not problems:
        shared, told = compare(store, against)
        problems, warnings = [*shared], [*told]
    write_report(report, {"store": store, "sound": not problems, **_fields(problems=problems, warnings=warnings)})
    print_lines([*map(str, problems), *(f"Warning: {warning}" for warning in warnings)])
    click.echo(f"{store}: {len(problems)} problem(s)" if problems else f"{store}: sound")
    if problems:
        raise SystemExit(1)


def _fields(**found: list[UserError]) -> dict[str, list[dict[str, str]]]:
    """For JSON."""
    names = ("where", "what", "fix")
    return {kind: [{name: getattr(each, name) for name in names} for each in many] for kind, many in found.items()}


def _backend_problems(config: TrainConfig, store: str) -> list[UserError]:
    """Why the run's simulator cannot hold the store's scenes, if it cannot."""
    from gail_cli.gail.learning.backends import store_problem
    from gail_cli.pipeline.store.store import DemoStore

    found = store_problem(config.backend, DemoStore(store, config.data.agents), config.sim.selection)
    return [found] if found else []
