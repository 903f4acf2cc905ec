"""The command line: thin commands over ``pipeline`` and ``gail``.

Modules that import torch are imported inside the commands, so that ``gail-cli --help`` answers at once.

Exit codes: 0 done; 1 it could not be done, wholly or in part, or problems were found; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pipeline.validate import Expectation

INTERRUPTED = 130
_MOST_LINES = 50
"""Problems or failures printed one by one; the report file has them all."""


class _Commands(click.Group):
    """Commands whose foreseen errors end in one sentence on stderr; what nobody foresaw keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            raise click.ClickException(
                f"the Python package {error.name!r} is missing; install what gail-cli needs with `pip install gail-cli`"
            ) from error
        except ImportError as error:
            raise click.ClickException(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(where + (error.strerror or str(error))) from error
        except ValueError as error:
            if not isinstance(error, _foreseen()):
                raise
            raise click.ClickException(str(error)) from error


def _foreseen() -> tuple[type[Exception], ...]:
    """Errors whose message is one sentence for the user."""
    from pipeline.extract import ExtractionError
    from pipeline.sources import SourceError
    from pipeline.store import StoreError
    from sim.scenario import SceneError

    return ExtractionError, SourceError, StoreError, SceneError


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="gail-cli")
def cli() -> None:
    """Driving policies that behave like people: Waymo scenarios in, a GAIL-trained policy out."""


def main() -> None:
    """Entry point of ``gail-cli``."""
    cli(prog_name="gail-cli")


# --- what several commands share -----------------------------------------------------------------------------------


def _writable(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
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


_store_argument = click.argument("store", type=click.Path(exists=True, file_okay=False))
_report_option = click.option(
    "--report", type=click.Path(path_type=Path), callback=_writable, help="Write a full report to this JSON file."
)


def _write_report(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


def _print_lines(lines: Sequence[str]) -> None:
    """Lines on stderr, the first of them if there are very many."""
    for line in lines[:_MOST_LINES]:
        click.echo(line, err=True)
    if len(lines) > _MOST_LINES:
        click.echo(f"... and {len(lines) - _MOST_LINES} more; --report FILE lists all", err=True)


@contextmanager
def _progress(what: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr with done, rate and time left; a line each tenth where stderr is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress(what, unit)
        return
    columns = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(unit),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None, rate="")

        def update(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield update


def _plain_progress(what: str, unit: str) -> Callable[[int, int], None]:
    told = -1

    def update(done: int, total: int) -> None:
        nonlocal told
        tenth = 10 * done // max(total, 1)
        if tenth > told:
            told = tenth
            click.echo(f"{what}: {done} of {total} {unit}", err=True)

    return update


# --- extract-demos -------------------------------------------------------------------------------------------------


@cli.command("extract-demos")
@click.argument("sources", nargs=-1, required=True)
@click.option("--store", required=True, type=click.Path(), help="Folder of the store to make.")
@click.option(
    "--dynamics",
    type=click.Choice(["classic", "bicycle", "delta_local", "state"]),
    default="classic",
    help="Vehicle model that replays the experts and that policies will drive.",
)
@click.option("--actions", type=click.Choice(["discrete", "continuous"]), default="discrete", help="Kind of actions.")
@click.option("--grid", default="fine", help="Values of discrete actions: fine, or gpudrive for GPUDrive's defaults.")
@click.option("--steps", type=click.IntRange(min=2), default=91, help="States a scene; longer logs are cut.")
@click.option("--limit", type=click.IntRange(min=1), help="Read no more scenes than this.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: by cores and scenes]")
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler instead of processes of our own.")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@_report_option
@click.pass_context
def extract_demos(
    ctx: click.Context,
    sources: tuple[str, ...],
    store: str,
    dynamics: str,
    actions: str,
    grid: str,
    steps: int,
    limit: int | None,
    workers: int | None,
    scheduler: str | None,
    overwrite: bool,
    report: Path | None,
) -> None:
    """Turn logged scenes into a store of worlds and expert demonstrations.

    SOURCES are files, folders, globs or URLs: TFRecords of Waymo scenarios, or GPUDrive's JSON; each also as .gz. An
    interrupted extraction goes on where it stopped when the same command is run again.
    """
    from pipeline.extract import ExtractConfig, extract
    from sim.actions import ActionSpace

    if workers and scheduler:
        raise click.UsageError("--workers and --scheduler exclude each other: the scheduler has workers of its own.")
    try:
        space = ActionSpace.create(dynamics, actions, grid)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    try:
        with _progress("extracting", "scenes") as progress:
            result = extract(
                sources, store, ExtractConfig(space, steps), workers=workers, scheduler=scheduler,
                overwrite=overwrite, limit=limit, progress=progress,
            )  # fmt: skip
    except KeyboardInterrupt:
        same = "the same command without --overwrite" if overwrite else "the same command"
        click.echo(f"Interrupted: what is done is kept, and running {same} goes on from there.", err=True)
        ctx.exit(INTERRUPTED)
    _write_report(report, result)
    click.echo(_extraction_summary(result))
    _print_lines([f"Error: {item['reason']}" for item in result["failed"]])
    ctx.exit(1 if result["failed"] else 0)


def _extraction_summary(report: dict[str, Any]) -> str:
    scenes, replay = report["scenes"], report["replay"]
    lines = [
        f"{report['store']}: {scenes['written']} of {scenes['read']} scenes, {report['demos']} demos, "
        f"{report['transitions']:,} transitions, {report['bytes_per_scene'] / 1e3:.1f} kB a scene",
        f"expert replay: {replay['goal_rate']:.1%} reach their goal, {replay['ade_m']:.2f} m from the log on average, "
        f"{replay['fde_m']:.2f} m at the end",
        f"{report['seconds']:.1f} s, {report['scenes_per_s']:.1f} scenes/s",
    ]
    reasons = Counter(item["reason"] for item in report["dropped"])
    lines += [f"{n} scene(s) left out: {reason}" for reason, n in reasons.most_common()]
    if mended := len({item["source"] for item in report["mended"]}):
        lines.append(f"{mended} scene(s) mended; --report FILE tells what was done to each")
    if report["duplicate_ids"]:
        lines.append(
            f"{len(report['duplicate_ids'])} scenario id(s) occur more than once: {report['duplicate_ids'][0]}"
        )
    return "\n".join(lines)


# --- validate ------------------------------------------------------------------------------------------------------


@cli.command()
@_store_argument
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="Check the fit with this training run.")
@click.option("--sample", type=click.IntRange(min=0), default=64, help="Scenes that are replayed.")
@click.option("--seed", type=int, default=0, help="Chooses the scenes that are replayed.")
@_report_option
@click.pass_context
def validate(ctx: click.Context, store: str, config: str | None, sample: int, seed: int, report: Path | None) -> None:
    """Check a store: exit code 0 when it is sound, 1 when it has problems (a line each)."""
    from pipeline.validate import validate_store

    expectation = _expectation(config) if config else None
    with _progress("validating", "parts") as progress:
        problems = validate_store(store, expectation, sample=sample, seed=seed, progress=progress)
    _write_report(report, {"store": store, "sound": not problems, "problems": [vars(problem) for problem in problems]})
    _print_lines([str(problem) for problem in problems])
    click.echo(f"{store}: {len(problems)} problem(s)" if problems else f"{store}: sound")
    ctx.exit(1 if problems else 0)


def _expectation(config: str) -> Expectation:
    """What the training run of a configuration file asks of a store."""
    # HOOK: gail.config is not there yet; when it is, build the Expectation from its TrainConfig:
    #     from gail.config import load_config
    #     settings = load_config(config)
    #     return Expectation(dynamics=..., actions=..., grid=..., min_scenes=..., min_demos=...)
    raise click.UsageError(f"--config {config}: training configurations cannot be read yet.")


# --- info ----------------------------------------------------------------------------------------------------------


@cli.command()
@_store_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(store: str, as_json: bool) -> None:
    """Tell what is in a store."""
    from pipeline.info import describe

    description = describe(store)
    if as_json:
        click.echo(json.dumps(description, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=description["store"], show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in _info_rows(description):
        table.add_row(name, value)
    Console().print(table)


def _info_rows(d: dict[str, Any]) -> Iterator[tuple[str, str]]:
    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()) or "none"

    actions, replay = d["actions"], d["replay"]
    yield "scenes", f"{d['scenes']:,} in {d['parts']} part(s), {d['steps']} steps of {d['dt_s']} s"
    yield "agents", listed(d["agents"])
    yield "controlled (demos)", f"{d['controlled']:,}"
    yield "parked", f"{d['parked']:,}"
    yield "transitions", f"{d['transitions']:,}, {d['bridged_steps']:,} step(s) bridged over gaps of the log"
    yield "road segments", listed(d["road_segments"])
    yield "lights", f"{d['lights']:,}"
    grid = f", grid {actions['grid']}" if actions["grid"] else ""
    yield "actions", f"{actions['dynamics']}, {actions['kind']}{grid}"
    for part in actions["components"]:
        limits = "unbounded" if part["low"] is None else f"{part['low']:g} to {part['high']:g}"
        yield "", f"{part['name']}: {limits}" + (f", {part['values']} values" if part["values"] else "")
    yield "expert replay", f"{replay['goal_rate']:.1%} reach their goal"
    yield "", f"{replay['ade_m']:.3f} m from the log on average, {replay['fde_m']:.3f} m at the end"
    yield "", f"{replay['heading_error_rad']:.4f} rad off the log's heading on average"
    yield "size", f"{d['bytes'] / 1e6:.2f} MB, {d['bytes_per_scene'] / 1e3:.1f} kB a scene"
    yield "", f"{d['bytes_per_transition']:.1f} bytes a transition"
    yield "settings", ", ".join(f"{k} {v}" for k, v in d["settings"].items() if k != "selection")
    yield "agents taken", ", ".join(f"{k} {v}" for k, v in d["settings"]["selection"].items())
    yield "made by", ", ".join(f"{name} {v}" for name, v in d["software"].items())
    yield "format", d["version"]


# --- make-scenarios ------------------------------------------------------------------------------------------------


@cli.command("make-scenarios")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--scenes", type=click.IntRange(min=1), default=16, help="How many.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="The same seed gives the same bytes.")
def make_scenarios(folder: str, scenes: int, seed: int) -> None:
    """Write scenes of synthetic traffic to FOLDER, as TFRecords of Waymo scenarios."""
    from data.generator import write_scenarios

    paths = write_scenarios(folder, scenes=scenes, seed=seed)
    click.echo(f"{folder}: {scenes} scene(s) in {len(paths)} file(s)")


if __name__ == "__main__":
    main()
