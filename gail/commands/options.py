"""Options and arguments that several commands share, and what they accept."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from gail_cli.gail.config.aliases import FLAGS

seed = click.IntRange(0, 2**32 - 1)
backend = click.Choice(["embedded", "gpudrive"])


def writable(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    """Make the folder of a file that is written at the end, so that a long run does not fail there."""
    if value is None:
        return None
    try:
        value.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.BadParameter(f"{value.parent}: cannot be made ({error.strerror}).") from error
    if value.is_dir() or not os.access(value.parent, os.W_OK):
        raise click.BadParameter(f"{value}: is a folder, or its folder cannot be written.")
    return value


def picture(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """A file that a picture can be written to."""
    if value is not None and value.suffix not in (".png", ".pdf", ".svg"):
        raise click.BadParameter(f"{value}: pictures end in .png, .pdf or .svg.")
    return writable(ctx, parameter, value)


def film(ctx: click.Context, parameter: click.Parameter, value: Path) -> Path | None:
    """A file that an episode can be drawn to."""
    if value.suffix.lower() not in (".mp4", ".gif", ".png", ".pdf", ".svg"):
        raise click.BadParameter(f"{value}: films end in .mp4 or .gif, pictures in .png, .pdf or .svg.")
    return writable(ctx, parameter, value)


def fractions(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, float, float] | None:
    """Three shares that add up to one."""
    if value is None:
        return None
    try:
        train, validation, test = map(float, value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value}: must be three numbers, as in 0.8,0.1,0.1.") from None
    if not min(train, validation, test) >= 0 or not abs(train + validation + test - 1) <= 1e-6:
        raise click.BadParameter(f"{value}: shares are not negative and add up to 1.")
    return train, validation, test


def distance(_: click.Context, __: click.Parameter, value: str) -> float | None:
    """A number of metres, or none."""
    if value == "none":
        return None
    try:
        metres = float(value)
    except ValueError:
        metres = float("nan")
    if not 0 <= metres < float("inf"):
        raise click.BadParameter(f"{value} is no distance in m; give a number, or none.")
    return metres


def existing(_: click.Context, __: click.Parameter, value: Any) -> Any:
    """Stores that are there: URLs are taken as they are, and looked up when they are opened."""
    for path in [value] if isinstance(value, str) else value:
        if "://" not in path and not Path(path).exists():
            raise click.BadParameter(f"'{path}' does not exist.")
    return value


def pairs(_: click.Context, __: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    """Texts of the form KEY=VALUE."""
    for text in value:
        if "=" not in text:
            raise click.BadParameter(f"{text!r} must have the form KEY=VALUE.")
    return {key: rest for key, _, rest in (text.partition("=") for text in value)}


store_argument = click.argument("store", type=click.Path(), callback=existing)
store_option = click.option(
    "--store", required=True, type=click.Path(), callback=existing, help="Demo store: folder, .zip or URL."
)
report_option = click.option(
    "--report", type=click.Path(path_type=Path), callback=writable, help="Write a full report to this JSON file."
)


def reference_flags(command: Callable[..., None]) -> Callable[..., None]:
    """The flags of GAIL-for-GPUDrive, each for a setting of ours."""
    switches = {"use_gail": "--use-gail/--no-use-gail", "single_agent": "--single-agent/--multi-agent"}
    for name in reversed([name for name in FLAGS if name != "total_timesteps"]):
        flag = switches.get(name, f"--{name.replace('_', '-')}")
        metavar = None if name in switches else "VALUE"
        command = click.option(flag, default=None, metavar=metavar, help=f"Sets {FLAGS[name]}.")(command)
    return command
