"""``gail-cli schema``."""

from __future__ import annotations

import json
from pathlib import Path

import click

from gail_cli.gail.config.document import json_schema


def schema(file: Path | None) -> None:
    """Write the JSON schema of configurations to a file, or print it when None."""
    text = json.dumps(json_schema(), indent=1)
    if file is None:
        click.echo(text)
        return
    file.write_text(text + "\n")
    click.echo(f"schema: {file}")
