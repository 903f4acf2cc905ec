"""The command line: thin commands over ``pipeline`` and ``gail``.

Modules that import torch are imported inside the commands, so that ``gail-cli --help`` answers at once.

Exit codes: 0 done; 1 it could not be done, wholly or in part, or problems were found; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from gail_cli.gail.commands import options
from gail_cli.gail.commands.console import print_lines, progress_bar, stop_on_signal, terminable, training_progress
from gail_cli.gail.config.aliases import FLAGS, settings_of

if TYPE_CHECKING:
    from gail_cli.gail.config.schema import TrainConfig
    from gail_cli.gail.networks.policy import Policy
    from gail_cli.pipeline.store.store import DemoStore

# Where cores are shared, threads that wait for each other by spinning can make torch ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

INTERRUPTED = 130


class _Commands(click.Group):
    """Commands whose foreseen errors end in one sentence on stderr; what nobody foresaw keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with terminable():
                return super().invoke(ctx)
        except KeyboardInterrupt:
            click.echo("Interrupted.", err=True)
            raise SystemExit(INTERRUPTED) from None
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
            from gail_cli.gail.config.load import ConfigError

            if isinstance(error, ConfigError):
                raise click.UsageError(str(error)) from error
            if not isinstance(error, _foreseen()):
                raise
            raise click.ClickException(str(error)) from error


def _foreseen() -> tuple[type[Exception], ...]:
    """Errors whose message is one sentence for the user."""
    from gail_cli.gail.learning.run import RunError
    from gail_cli.pipeline.experts.replay import NoAgentsError
    from gail_cli.pipeline.export.writers import ExportError
    from gail_cli.pipeline.extract.cluster import ExtractionError
    from gail_cli.pipeline.readers.sources import SourceError
    from gail_cli.pipeline.store.schema import StoreError
    from gail_cli.sim.scenario import SceneError

    return RunError, ExtractionError, ExportError, NoAgentsError, SourceError, StoreError, SceneError


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="gail-cli")
def cli() -> None:
    """Driving policies that behave like people: Waymo scenarios in, a GAIL-trained policy out."""


def main() -> None:
    """Entry point of ``gail-cli``."""
    cli(prog_name="gail-cli")


# --- what several commands share -----------------------------------------------------------------------------------


def _scene_index(store: DemoStore, scene: str | None) -> int:
    """Index of a scene that is named by its id or its index; the first when None."""
    if not len(store):
        raise click.ClickException(f"store {store.path}: it has no scene; extract some")
    if scene is None:
        return 0
    named = scene.isdecimal() and int(scene) < len(store) and scene not in store.scene_ids()
    return int(scene) if named else store.find(scene)


def _write_report(file: Path | None, report: dict[str, Any]) -> None:
    if file is not None:
        file.write_text(json.dumps(report, indent=1) + "\n")


# --- extract-demos -------------------------------------------------------------------------------------------------


@cli.command("extract-demos")
@click.argument("sources", nargs=-1, required=True)
@click.option("--store", required=True, type=click.Path(), help="Folder or URL of the store to make.")
@click.option(
    "--dynamics",
    type=click.Choice(["classic", "bicycle", "delta_local", "state"]),
    default="classic",
    help="Vehicle model that replays the experts and that policies will drive.",
)
@click.option("--actions", type=click.Choice(["discrete", "continuous"]), default="discrete", help="Kind of actions.")
@click.option("--grid", default="fine", help="Values of discrete actions: fine, or gpudrive for GPUDrive's defaults.")
@click.option("--steps", type=click.IntRange(min=2), default=91, help="States a scene; longer logs are cut.")
@click.option("--agents", type=click.Choice(["vehicles", "all"]), default="vehicles",
              help="Whose demos: all adds pedestrians and cyclists, driven by delta_local.")  # fmt: skip
@click.option("--max-replay-error", type=float, callback=options.distance, metavar="M",
              help="Leave out demos that are further from their log than this on average, in m.")  # fmt: skip
@click.option("--split", "fractions", callback=options.fractions, default="1,0,0", metavar="T,V,T",
              help="Shares of train, validation and test scenes, told by a hash of their ids.")  # fmt: skip
@click.option("--compat", type=click.Choice(["gpudrive"]), help="Coordinates as GPUDrive rounds them, to the last bit.")
@click.option("--scenes-per-part", type=click.IntRange(min=1), default=256, help="Scenes that are written together.")
@click.option("--limit", type=click.IntRange(min=1), help="Read no more scenes than this.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: by cores and scenes]")
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler instead of processes of our own.")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@click.option("--resume/--no-resume", default=None,
              help="Take a finished store of the same plan as done / refuse whatever is there. "
                   "[default: go on with an unfinished one]")  # fmt: skip
@click.option("--fail-fast", is_flag=True, help="Stop at the first scene that cannot be read.")
@options.report_option
def extract_demos(
    sources: tuple[str, ...],
    store: str,
    dynamics: str,
    actions: str,
    grid: str,
    fractions: tuple[float, float, float],
    limit: int | None,
    report: Path | None,
    **given: Any,
) -> None:
    """Turn logged scenes into a store of worlds and expert demonstrations.

    SOURCES are files, folders, globs or URLs: TFRecords of Waymo scenarios, GPUDrive's JSON (each also as .gz), or HDF5
    files of states and actions. The store is a folder or a URL (s3://, gs://). An interrupted extraction goes on where
    it stopped when the same command is run again.
    """
    from gail_cli.pipeline.extract.build import ExtractConfig
    from gail_cli.pipeline.extract.extract import ExtractOptions, extract
    from gail_cli.pipeline.extract.report import summary
    from gail_cli.sim.actions import ActionSpace

    if given["workers"] and given["scheduler"]:
        raise click.UsageError("--workers and --scheduler exclude each other: the scheduler has workers of its own.")
    if given["overwrite"] and given["resume"] is not None:
        raise click.UsageError("--overwrite and --resume exclude each other: say what to do with the store there.")
    try:
        space = ActionSpace.create(dynamics, actions, grid)
    except ValueError as error:
        raise click.UsageError(f"{error}.") from error
    content = {key: given.pop(key) for key in ("steps", "agents", "max_replay_error", "compat", "scenes_per_part")}
    config, manner = ExtractConfig(space, split=fractions, **content), ExtractOptions(**given)
    try:
        with progress_bar("extracting", "scenes") as progress:
            planning = partial(progress, what="planning", unit="files")
            result = extract(sources, store, config, manner, limit=limit, progress=progress, planning=planning)
    except KeyboardInterrupt:
        same = "the same command without --overwrite" if manner.overwrite else "the same command"
        click.echo(f"Interrupted: what is done is kept, and running {same} goes on from there.", err=True)
        raise SystemExit(INTERRUPTED) from None
    _write_report(report, result)
    click.echo(summary(result))
    print_lines([f"Error: {item['reason']}" for item in result["failed"]])
    if result["failed"]:
        raise SystemExit(1)


# --- merge, split ----------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("stores", nargs=-1, required=True, callback=options.existing)
@click.option("--store", required=True, type=click.Path(), help="Store to make: folder, URL, or .zip for sharing.")
def merge(stores: tuple[str, ...], store: str) -> None:
    """Make one store of the scenes of several; of one, a copy: in a folder, in a bucket, or packed into a .zip."""
    from gail_cli.pipeline.extract.merge_split import merge as run_merge
    from gail_cli.pipeline.extract.report import contents, duplicates

    with progress_bar("merging", "scenes") as progress:
        report = run_merge(stores, store, progress=progress)
    click.echo("\n".join([contents(report), *duplicates(report)]))


@cli.command()
@options.store_argument
@click.option("--out", required=True, type=click.Path(), help="Folder or URL to put train, validation and test in.")
@click.option("--fractions", callback=options.fractions, metavar="T,V,T",
              help="Assign scenes anew by these shares. [default: as extracted]")  # fmt: skip
def split(store: str, out: str, fractions: tuple[float, float, float] | None) -> None:
    """Cut a store into one a split: train, validation and test."""
    from gail_cli.pipeline.extract.merge_split import split as run_split
    from gail_cli.pipeline.extract.report import contents

    with progress_bar("splitting", "scenes") as progress:
        for report in run_split(store, out, fractions, progress=progress).values():
            click.echo(contents(report))


# --- export --------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option(
    "--format", "kind", required=True, type=click.Choice(["hdf5", "zarr-rows", "gpudrive-json", "minari"]),
    help="What to write; see docs/export.md.",
)  # fmt: skip
@click.option("--out", required=True, type=click.Path(), help="File (hdf5) or folder to make.")
@click.option("--layout", type=click.Choice(["entity", "gpudrive"]), default="entity", help="Layout of observations.")
@click.option("--agents", type=click.Choice(["vehicles", "vru"]), default="vehicles",
              help="Whose demos: vehicles', or those of pedestrians and cyclists.")  # fmt: skip
@click.option("--split", type=click.Choice(["all", "train", "validation", "test"]), default="all", help="Which scenes.")
@click.option("--limit", type=click.IntRange(min=1), help="Write no more scenes than this.")
@click.option("--overwrite", is_flag=True, help="Replace an export that is there already.")
@options.report_option
def export(
    store: str,
    kind: str,
    out: str,
    layout: Literal["entity", "gpudrive"],
    agents: Literal["vehicles", "vru"],
    split: str,
    limit: int | None,
    overwrite: bool,
    report: Path | None,
) -> None:
    """Write a store's demos for other tools: observations made out, actions and states beside them.

    Memory stays bounded; what is written takes its name when it is whole.
    """
    from gail_cli.pipeline.export.export import export as run_export
    from gail_cli.pipeline.export.export import summary
    from gail_cli.pipeline.store.store import DemoStore
    from gail_cli.sim.env import SimConfig
    from gail_cli.sim.layout import ObservationConfig
    from gail_cli.sim.worlds import Selection

    sim = SimConfig(selection=Selection(remove_non_vehicles=agents == "vehicles"))
    observation = ObservationConfig.gpudrive() if layout == "gpudrive" else ObservationConfig()
    with progress_bar("exporting", "scenes") as progress:
        result = run_export(
            DemoStore(store, agents), out, kind, observation, sim, split, limit=limit, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    _write_report(report, result)
    click.echo(summary(result))


# --- validate ------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option("--config", type=click.Path(exists=True, dir_okay=False), help="Check the fit with this training run.")
@click.option("--sample", type=click.IntRange(min=0), default=64, help="Scenes that are replayed.")
@click.option("--seed", type=options.seed, default=0, help="Chooses the scenes that are replayed.")
@options.report_option
@click.pass_context
def validate(ctx: click.Context, store: str, config: str | None, sample: int, seed: int, report: Path | None) -> None:
    """Check a store: exit code 0 when it is sound, 1 when it has problems (a line each)."""
    from gail_cli.pipeline.validate.validate import validate_store

    expectation = loaded = None
    if config:
        from gail_cli.gail.config.load import load_config
        from gail_cli.gail.learning.requirements import expectation as expectation_of

        loaded = load_config(config)
        expectation = expectation_of(loaded.data)
    with progress_bar("validating", "parts") as progress:
        problems = validate_store(store, expectation, sample=sample, seed=seed, progress=progress)
    if loaded and not problems:
        from gail_cli.gail.learning.backends import store_problem
        from gail_cli.pipeline.store.store import DemoStore

        found = store_problem(loaded.backend, DemoStore(store, loaded.data.agents), loaded.sim.selection)
        problems = [found] if found else []
    _write_report(report, {"store": store, "sound": not problems, "problems": [vars(problem) for problem in problems]})
    print_lines([str(problem) for problem in problems])
    click.echo(f"{store}: {len(problems)} problem(s)" if problems else f"{store}: sound")
    ctx.exit(1 if problems else 0)


# --- info ----------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(store: str, as_json: bool) -> None:
    """Tell what is in a store."""
    from gail_cli.pipeline.extract.info import describe, rows

    description = describe(store)
    if as_json:
        click.echo(json.dumps(description, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=description["store"], show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows(description):
        table.add_row(name, value)
    Console().print(table)


# --- doctor --------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Check what gail-cli runs on: exit code 0 when everything needed works.

    Simulators, devices and packages are used, not only looked for. What is missing and not needed is no failure.
    """
    from gail_cli.gail.commands.doctor import examine

    findings = list(examine())
    failed = any(finding.fails for finding in findings)
    if as_json:
        click.echo(json.dumps({"sound": not failed, "findings": [vars(finding) for finding in findings]}, indent=1))
        ctx.exit(1 if failed else 0)
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("", "version", "state", ""):
        table.add_column(name, overflow="fold")
    for finding in findings:
        state = "missing (optional)" if finding.state == "missing" else finding.state
        table.add_row(finding.name, finding.version, state, finding.remark)
    Console().print(table, markup=False)
    ctx.exit(1 if failed else 0)


# --- make-scenarios ------------------------------------------------------------------------------------------------


@cli.command("make-scenarios")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--scenes", type=click.IntRange(min=1), default=16, help="How many.")
@click.option("--seed", type=options.seed, default=0, help="The same seed gives the same bytes.")
def make_scenarios(folder: str, scenes: int, seed: int) -> None:
    """Write scenes of synthetic traffic to FOLDER, as TFRecords of Waymo scenarios."""
    from gail_cli.data.generator import write_scenarios

    paths = write_scenarios(folder, scenes=scenes, seed=seed)
    click.echo(f"{folder}: {scenes} scene(s) in {len(paths)} file(s)")


# --- train ---------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("config", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--store", "stores", multiple=True, type=click.Path(), callback=options.existing,
              help="Demo store: folder, .zip or URL; may be repeated. [default: data.stores of CONFIG]")  # fmt: skip
@click.option("--weight", "weights", multiple=True, type=click.FloatRange(min=0, min_open=True),
              help="How often each --store is drawn from compared with the others, in their order.")  # fmt: skip
@click.option("--run", "folder", required=True, type=click.Path(file_okay=False), help="Folder of the run to make.")
@click.option("--algorithm", type=click.Choice(["bc+gail", "gail", "bc", "ppo"]),
              help="Cloning and GAIL beside it, one of them, or the environment's reward alone.")  # fmt: skip
@click.option("--total-timesteps", type=click.IntRange(min=0), help="Steps of controlled agents.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=options.seed, help="Of everything random.")
@click.option("--backend", type=options.backend, help="Simulator to drive in; gpudrive sets sim.compat=gpudrive too.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of the run.")
@options.reference_flags
def train(
    config: str | None,
    stores: tuple[str, ...],
    weights: tuple[float, ...],
    folder: str,
    settings: tuple[str, ...],
    resume: bool,
    **given: Any,
) -> None:
    """Train a policy: by default behaviour cloning, then GAIL with PPO.

    CONFIG is a YAML file; what it leaves out has its default. The run's folder gets the whole configuration, metrics
    (metrics.jsonl and TensorBoard), the checkpoint and a picture of the curves. Ctrl-C ends the run with a checkpoint.
    """
    from gail_cli.gail.config.load import load_config
    from gail_cli.gail.figures.curves import curves_figure
    from gail_cli.gail.learning.run import chosen_stores
    from gail_cli.gail.learning.trainer import Trainer

    chosen = {name: value for name, value in given.items() if value is not None}
    if chosen.get("single_agent") is False and "max_single_agent_envs" in chosen:
        raise click.UsageError("--max-single-agent-envs is about --single-agent; leave out one of the two.")
    if "algorithm" in chosen and "use_gail" in chosen:
        raise click.UsageError("--algorithm and --use-gail both choose the algorithm; leave out one of the two.")
    each = [settings_of(name, value) if name in FLAGS else {name: value} for name, value in chosen.items()]
    flags = [f"{key}={value}" for part in each for key, value in part.items()]
    if weights:
        flags.append(f"data.store_weights={list(weights)}")
    if given["backend"] == "gpudrive":
        settings = ("sim.compat=gpudrive", *settings)
    if resume and config is None and (Path(folder) / "config.yaml").exists():
        config = str(Path(folder) / "config.yaml")
    try:
        with training_progress() as report, stop_on_signal() as stop:
            loaded = load_config(config, [*settings, *flags])
            named = chosen_stores(loaded, stores, folder if resume else None)
            trainer = Trainer(loaded, named, folder, resume, report)
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


# --- evaluate ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@options.store_option
@click.option(
    "--box-scale", type=click.FloatRange(min=0, min_open=True), help="Of collision boxes. [default: the run's]"
)
@click.option(
    "--backend", type=options.backend, help="Simulator to drive in; gpudrive brings its rules. [default: the run's]"
)
@click.option("--split", "splits", multiple=True, type=click.Choice(["all", "train", "validation", "test"]),
              help="Which scenes; may be repeated. [default: each split that has some]")  # fmt: skip
@click.option("--bc", type=click.Path(exists=True, file_okay=False), metavar="RUN",
              help="Take the cloned policy, an anchor, from this run. [default: the run's own]")  # fmt: skip
@click.option("--rollouts", type=click.IntRange(min=1), default=8,
              help="Drives with drawn actions: for realism, distributions and errors at best.")  # fmt: skip
@click.option("--sampled", is_flag=True, help="Draw the policy's actions instead of taking the most likely ones.")
@click.option("--seed", type=options.seed, default=0, help="Of random and drawn actions, and of resampled scenes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run.")
@click.option(
    "--picture", type=click.Path(path_type=Path), callback=options.picture, help="Draw one scene to this PNG file."
)
@click.option("--scene", help="Id of the scene to draw. [default: the first]")
@click.option("--figure", type=click.Path(path_type=Path), callback=options.picture,
              help="Draw realism and distributions to this PNG file.")  # fmt: skip
@click.option("--submission", "submitted", type=click.Path(path_type=Path), callback=options.writable, metavar="FILE",
              help="Write 32 drives from step 10 on as a SimAgentsChallengeSubmission, for Waymo's scorer. The policy "
                   "knows its goals from the log: for analysis, not for the leaderboard.")  # fmt: skip
@click.option("--submission-info", "info", multiple=True, callback=options.pairs, metavar="KEY=VALUE",
              help="A field of the submission, as account_name; may be repeated.")  # fmt: skip
@click.option("--submission-source", "sources", multiple=True, metavar="SOURCE",
              help="Files that the store was made of, for the submission's heights; may be repeated. [default: all 0]"
              )  # fmt: skip
@options.report_option
def evaluate(
    run: str,
    store: str,
    box_scale: float | None,
    backend: Literal["embedded", "gpudrive"] | None,
    splits: tuple[str, ...],
    bc: str | None,
    rollouts: int,
    sampled: bool,
    seed: int,
    device: str,
    picture: Path | None,
    scene: str | None,
    figure: Path | None,
    submitted: Path | None,
    info: dict[str, str],
    sources: tuple[str, ...],
    report: Path | None,
) -> None:
    """Drive a run's policy through the scenes of a store, beside its anchors.

    The anchors are the policy as it was after behaviour cloning, the experts' own actions replayed, constant velocity,
    and random actions. Shares are of controlled agents; ADE and FDE are distances from the log; intervals come from
    resampled scenes. The report has every metric that docs/evaluation.md tells of.
    """
    if (info or sources) and submitted is None:
        raise click.UsageError("--submission-info and --submission-source are about --submission FILE; add that.")
    from gail_cli.gail.evaluation.evaluate import draw_scene, splits_of
    from gail_cli.gail.evaluation.evaluate import evaluate as run_evaluation
    from gail_cli.gail.evaluation.tables import print_evaluation
    from gail_cli.gail.figures.curves import evaluation_figure
    from gail_cli.gail.learning.backends import with_backend
    from gail_cli.gail.learning.run import load_cloned, load_run
    from gail_cli.pipeline.store.store import DemoStore

    config, policy = load_run(run, device)
    config = with_backend(config, backend) if backend else config
    cloned = load_cloned(bc or run, device)
    opened = DemoStore(store, config.data.agents)
    chosen = splits_of(opened, splits)
    drawn = opened.find(scene) if scene else next(iter(chosen.values()))[0]
    if submitted is not None:
        every = [index for scenes in chosen.values() for index in scenes]
        _write_submission(submitted, config, policy, opened, every, seed, info, sources)
    results = {}
    for split, scenes in chosen.items():
        with progress_bar("evaluating", "scenes") as progress:
            results[split] = run_evaluation(
                policy, config, opened, cloned=cloned, scenes=scenes, box_scale=box_scale, deterministic=not sampled,
                rollouts=rollouts, seed=seed, progress=progress,
            )  # fmt: skip
    _write_report(report, {"run": run, "store": store, "splits": results})
    for split, result in results.items():
        print_evaluation(result, "" if split == "all" else split)
    if cloned is None:
        click.echo(f"run {bc or run} keeps no policy from behaviour cloning, so that anchor is left out (--bc RUN)")
    if picture is not None:
        draw_scene(policy, config, opened, drawn).savefig(picture)
        click.echo(f"picture: {picture}")
    if figure is not None:
        evaluation_figure(results).savefig(figure)
        click.echo(f"figure: {figure}")


def _write_submission(
    file: Path, config: TrainConfig, policy: Policy, store: DemoStore, scenes: list[int], seed: int,
    info: dict[str, str], sources: tuple[str, ...],
) -> None:  # fmt: skip
    from gail_cli.gail.evaluation.submission import read_heights, submission

    ids = store.scene_ids()
    heights = read_heights(sources, {ids[k] for k in scenes}) if sources else None
    with progress_bar("submission", "scenes") as progress:
        message = submission(
            policy, config, store, scenes=scenes, heights=heights, info=info, seed=seed, progress=progress
        )
    file.write_bytes(message.SerializeToString())
    click.echo(f"submission: {file}" + ("" if sources else ", all heights 0 (--submission-source tells them)"))


# --- simulate ------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option(
    "--out", "file", required=True, type=click.Path(path_type=Path), callback=options.film,
    help="Film (.mp4, .gif) or picture of the whole episode (.png, .pdf, .svg).",
)  # fmt: skip
@click.option("--scene", help="Id or index of the scene. [default: the first]")
@click.option(
    "--policy", "driver", type=click.Choice(["expert", "log", "constant-velocity", "random", "policy"]),
    help="Who drives; `policy` is that of --run. [default: policy with --run, else expert]",
)  # fmt: skip
@click.option("--run", type=click.Path(exists=True, file_okay=False), help="A trained run: its policy and its rules.")
@click.option("--sampled", is_flag=True, help="Draw the policy's actions instead of taking the most likely ones.")
@click.option("--seed", type=options.seed, default=0, help="Of random and of drawn actions.")
@click.option(
    "--box-scale", type=click.FloatRange(min=0, min_open=True), help="Of collision boxes. [default: the run's, or 0.7]"
)
@click.option("--everyone", is_flag=True, help="Pedestrians, cyclists, and agents that come later, too.")
@click.option("--fps", type=click.IntRange(1, 50), default=10, help="Frames a second of a film; 10 is real time.")
@click.option("--dpi", type=click.IntRange(20, 600), help="Dots an inch. [default: png 200, mp4 160, gif 100]")
def simulate(
    store: str,
    file: Path,
    scene: str | None,
    driver: str | None,
    run: str | None,
    sampled: bool,
    seed: int,
    box_scale: float | None,
    everyone: bool,
    fps: int,
    dpi: int | None,
) -> None:
    """Drive one scene of a store, and draw it from above.

    Controlled agents have colours, and goals of their colour; grey ones follow their log. A dotted line is where the
    log went, a star a collision, a triangle an agent off the road.
    """
    from gail_cli.gail.config.schema import TrainConfig
    from gail_cli.gail.figures.episode import counts, drive_scene, marks, told, with_rules
    from gail_cli.gail.figures.render import render
    from gail_cli.gail.learning.run import load_run
    from gail_cli.pipeline.store.store import DemoStore

    driver = driver or ("policy" if run else "expert")
    if sampled and driver != "policy":
        raise click.UsageError("--sampled is about a policy's actions; leave it out, or name a --run.")
    if driver == "policy" and run is None:
        raise click.UsageError("--policy policy needs the run that it comes from: --run FOLDER.")
    config, policy = load_run(run, "cpu") if run else (TrainConfig(), None)
    config = with_rules(config, box_scale, everyone)
    opened = DemoStore(store, config.data.agents)
    index = _scene_index(opened, scene)
    (record,) = opened.read([index])
    episode = drive_scene(record, config, opened.space, driver, policy=policy, deterministic=not sampled, seed=seed)
    with progress_bar("drawing", "frames") as progress:
        render(episode, file, fps, dpi, progress)
    happened = counts(marks(episode))
    agents = len(episode.controlled)
    what = ", ".join(told(kind, count, agents) for kind, count in happened.items())
    click.echo(f"{file}: scene {episode.scene.id}, {episode.title.lower()}: {what}")


if __name__ == "__main__":
    main()
