"""``gail-cli extract-demos``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import click

from gail_cli.gail.commands.console import INTERRUPTED, print_lines, progress_bar, write_report
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.extract.report import extraction_summary
from gail_cli.sim.actions import ActionSpace

_CONTENT = ("steps", "agents", "max_replay_error", "max_jump", "compat", "resample", "scenes_per_part")
"""Options that decide what is in the store; the others decide how it is made."""


def extract_demos(
    sources: tuple[str, ...],
    store: str,
    *,
    dynamics: str,
    actions: str,
    grid: str,
    fractions: tuple[float, float, float],
    limit: int | None,
    report: Path | None,
    **given: Any,
) -> None:
    """Turn logged scenes into a store; exit code 1 when a scene could not be read.

    Args:
        sources: files, folders, globs or URLs.
        store: folder or URL of the store to make.
        dynamics: vehicle model.
        actions: discrete or continuous.
        grid: values of discrete actions.
        fractions: shares of train, validation and test scenes.
        limit: read at most this many scenes.
        report: file for the whole report.
        given: the fields of ``ExtractConfig`` and ``ExtractOptions`` that are options of the command.

    Raises:
        click.UsageError: for options that exclude each other, and actions that do not exist.
    """
    if given["workers"] and given["scheduler"]:
        raise click.UsageError("--workers and --scheduler exclude each other: the scheduler has workers of its own.")
    if given["overwrite"] and given["resume"] is not None:
        raise click.UsageError("--overwrite and --resume exclude each other: say what to do with the store there.")
    try:
        space = ActionSpace.create(dynamics, actions, grid, reverse=given["compat"] != "gpudrive")
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    content = {name: given.pop(name) for name in _CONTENT}
    config, manner = ExtractConfig(space, split=fractions, **content), ExtractOptions(**given)
    try:
        with progress_bar("extracting", "scenes") as progress:
            planning = partial(progress, what="planning", unit="files")
            result = extract(sources, store, config, manner, limit=limit, progress=progress, planning=planning)
    except KeyboardInterrupt:
        same = "the same command without --overwrite" if manner.overwrite else "the same command"
        click.echo(f"Interrupted: what is done is kept, and running {same} goes on from there.", err=True)
        raise SystemExit(INTERRUPTED) from None
    write_report(report, result)
    click.echo(extraction_summary(result))
    print_lines([f"Error: {item['reason']}" for item in result["failed"]])
    if result["failed"]:
        raise SystemExit(1)
