"""``gail-cli train``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gail_cli.gail.commands.console import INTERRUPTED, stop_on_signal, training_progress
from gail_cli.gail.config.aliases import FLAGS, settings_of
from gail_cli.gail.config.load import load_config


def train(
    config: str | None,
    *,
    stores: tuple[str, ...],
    weights: tuple[float, ...],
    folder: str,
    settings: tuple[str, ...],
    resume: bool,
    **given: Any,
) -> None:
    """Train a policy, and draw the curves of the run; an interrupted run ends with a checkpoint.

    Args:
        config: YAML file; that of the run's folder when None and the run goes on.
        stores: of demos; those that the configuration names when empty.
        weights: how often each store is drawn from.
        folder: of the run.
        settings: of the form section.key=value.
        resume: go on from the run's checkpoint.
        given: options by name, each for a setting; None where it was not given.

    Raises:
        click.UsageError: for options that exclude each other.
    """
    settings = (*settings, *_flags(weights, given))
    if given["backend"] == "gpudrive":
        settings = ("sim.compat=gpudrive", *settings)
    if resume and config is None and (Path(folder) / "config.yaml").exists():
        config = str(Path(folder) / "config.yaml")
    loaded = load_config(config, settings)

    from gail_cli.gail.figures.curves import curves_figure  # with the others, after what a wrong setting stops
    from gail_cli.gail.learning.run import chosen_stores
    from gail_cli.gail.learning.trainer import Trainer
    from gail_cli.pipeline.validate.against import notes

    try:
        with training_progress() as report, stop_on_signal() as stop:
            trainer = Trainer(loaded, chosen_stores(loaded, stores, folder if resume else None), folder, resume, report)
            for note in notes(trainer.stores.stores):
                click.echo(f"Warning: {note}.", err=True)
            for name, (was, now) in trainer.changed.items():
                click.echo(f"From here on {name}={now} (before: {was}).", err=True)
            trainer.run(stop)
    except KeyboardInterrupt:
        click.echo("Interrupted within a rollout: its steps do not count.", err=True)
        raise SystemExit(INTERRUPTED) from None
    curves_figure(folder).savefig(Path(folder) / "curves.png")
    progress = trainer.progress
    click.echo(f"{folder}: {progress.timesteps:,} steps in {progress.seconds:.0f} s; see {folder}/curves.png")
    if stop():
        click.echo("Interrupted: the same command with --resume goes on from here.", err=True)
        raise SystemExit(INTERRUPTED)


def _flags(weights: tuple[float, ...], given: dict[str, Any]) -> list[str]:
    """Settings of the form section.key=value for the options that were given."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("single_agent") is False and "max_single_agent_envs" in chosen:
        raise click.UsageError("--max-single-agent-envs is about --single-agent; leave out one of the two.")
    if "algorithm" in chosen and "use_gail" in chosen:
        raise click.UsageError("--algorithm and --use-gail both choose the algorithm; leave out one of the two.")
    each = [settings_of(name, value) if name in FLAGS else {name: value} for name, value in chosen.items()]
    flags = [f"{key}={value}" for part in each for key, value in part.items()]
    return [*flags, f"data.store_weights={list(weights)}"] if weights else flags
