"""``gail-cli merge`` and ``gail-cli split``."""

from __future__ import annotations

import click

from gail_cli.gail.commands.console import print_lines, progress_bar
from gail_cli.pipeline.extract import merge_split
from gail_cli.pipeline.extract.report import contents, divisions, duplicates, windows
from gail_cli.pipeline.store.index import divided
from gail_cli.pipeline.store.store import DemoStore


def merge(stores: tuple[str, ...], store: str, fractions: tuple[float, float, float] | None) -> None:
    """Make one store of the scenes of several, and print what it holds."""
    with progress_bar("merging", "scenes") as progress:
        report = merge_split.merge(stores, store, fractions, progress=progress)
    click.echo("\n".join([contents(report), *duplicates(report), *windows(report)]))


def split(store: str, out: str, fractions: tuple[float, float, float] | None) -> None:
    """Make a store per split in the folder ``out``, and print what each holds."""
    with progress_bar("splitting", "scenes") as progress:
        for report in merge_split.split(store, out, fractions, progress=progress).values():
            click.echo(contents(report))
    if fractions is None:
        opened = DemoStore(store)
        ids = opened.scene_ids()
        print_lines(divisions([ids[scene] for scene in divided(opened.index)]))
