"""``gail-cli info``."""

from __future__ import annotations

import json

import click

from gail_cli.pipeline.extract.info import describe_store, table_rows


def info(store: str, as_json: bool) -> None:
    """Print what is in a store, as a table or as JSON."""
    description = describe_store(store)
    if as_json:
        click.echo(json.dumps(description, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=description["store"], show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in table_rows(description):
        table.add_row(name, value)
    Console().print(table)
