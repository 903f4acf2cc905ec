"""``gail-cli export``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from gail_cli.gail.commands.console import progress_bar, write_report
from gail_cli.pipeline.export import export as exporting
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.layout import ObservationConfig


def export(
    store: str,
    *,
    kind: str,
    out: str,
    layout: Literal["entity", "gpudrive"],
    agents: Literal["vehicles", "vru"],
    split: str,
    limit: int | None,
    overwrite: bool,
    report: Path | None,
) -> None:
    """Write a store's demos for other tools, and print what was written.

    Args:
        store: folder, .zip or URL.
        kind: format of what is written.
        out: file or folder to make.
        layout: of observations.
        agents: whose demos.
        split: which scenes.
        limit: write at most this many scenes.
        overwrite: replace what is there.
        report: file for the whole report.
    """
    sim = SimConfig(selection=Selection(remove_non_vehicles=agents == "vehicles"))
    observation = ObservationConfig.gpudrive() if layout == "gpudrive" else ObservationConfig()
    with progress_bar("exporting", "scenes") as progress:
        result = exporting.export(
            DemoStore(store, agents), out, kind, observation, sim, split, limit=limit, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    write_report(report, result)
    click.echo(exporting.export_summary(result))
