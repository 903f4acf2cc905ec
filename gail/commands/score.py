"""``gail-cli score``."""

from __future__ import annotations

from pathlib import Path

import click

from gail_cli.gail.commands.console import progress_bar, write_report
from gail_cli.gail.evaluation.scoring import score_submission
from gail_cli.gail.evaluation.tables import print_score


def score(submission: str, scenes: tuple[str, ...], more: tuple[str, ...], *, device: str, report: Path | None) -> None:
    """Score a submission on scenes of files, print a table, and write the report.

    Args:
        submission: file or folder.
        scenes: files, folders, globs or URLs of the scenes.
        more: further ones.
        device: where features are measured.
        report: file for all numbers.
    """
    with progress_bar("scoring", "scenes") as progress:
        result = score_submission([submission], [*scenes, *more], device=device, progress=progress)
    write_report(report, {"submission": submission, **result})
    print_score(result)
    for scene, notes in result["notes"].items():
        for note in notes:
            click.echo(f"scene {scene}: {note}")
