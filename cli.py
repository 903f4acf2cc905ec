"""The command line: what commands and options there are; what they do is in ``gail/commands``.

Those modules are imported inside the commands, so that ``gail-cli --help`` answers at once.

Exit codes: 0 done; 1 it could not be done, wholly or in part, or problems were found; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import click

from gail_cli.gail.commands import options
from gail_cli.gail.commands.console import INTERRUPTED, terminable
from gail_cli.sim.errors import UserError

# Where cores are shared, threads that wait for each other by spinning can make torch ten times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class _Commands(click.Group):
    """Commands whose foreseen errors end in one sentence on stderr; any other error keeps its traceback."""

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
        except UserError as error:
            from gail_cli.gail.config.load import ConfigError

            kind = click.UsageError if isinstance(error, ConfigError) else click.ClickException
            raise kind(str(error)) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(package_name="gail-cli")
def cli() -> None:
    """Driving policies that behave like people: Waymo scenarios in, a GAIL-trained policy out."""


def main() -> None:
    """Entry point of ``gail-cli``."""
    cli(prog_name="gail-cli")


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
@click.option("--grid", default="fine", help="Values of discrete actions: fine, fine-0.5 (classic: the former fine, "
              "without sharp steering), or gpudrive for GPUDrive's defaults.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=2), default=91, help="States per scene; longer logs are cut.")
@click.option("--agents", type=click.Choice(["vehicles", "all"]), default="vehicles",
              help="Whose demos: all adds pedestrians and cyclists, driven by delta_local.")  # fmt: skip
@click.option("--max-replay-error", default="0.5", callback=options.distance, metavar="M",
              help="Leave out demos that are further from their log than this on average, in m; or none.")  # fmt: skip
@click.option("--max-jump", default="0.5", callback=options.distance, metavar="M",
              help="Leave out demos whose log jumps this far beyond where a car could be, in m; or none.")  # fmt: skip
@click.option("--split", "fractions", callback=options.fractions, default="1,0,0", metavar="T,V,T",
              help="Shares of train, validation and test scenes; scenes of one log stay together.")  # fmt: skip
@click.option("--resample", is_flag=True,
              help="Bring logs whose steps are not 0.1 s apart to that; otherwise they are left out.")  # fmt: skip
@click.option(
    "--compat",
    type=click.Choice(["gpudrive"]),
    help="Coordinates as GPUDrive rounds them, to the last bit, and vehicles that know no reverse.",
)
@click.option("--scenes-per-part", type=click.IntRange(min=1), default=256, help="Scenes that are written together.")
@click.option("--limit", type=click.IntRange(min=1), help="Read at most this many scenes.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes. [default: by cores and scenes]")
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask scheduler instead of local processes.")
@click.option("--overwrite", is_flag=True, help="Replace a store that is there already.")
@click.option("--resume/--no-resume", default=None,
              help="Take a finished store of the same plan as done / refuse whatever is there. "
                   "[default: go on with an unfinished one]")  # fmt: skip
@click.option("--fail-fast", is_flag=True, help="Stop at the first scene that cannot be read.")
@options.report_option
def extract_demos(**given: Any) -> None:
    """Turn logged scenes into a store of worlds and expert demonstrations.

    SOURCES are files, folders, globs or URLs: TFRecords of Waymo scenarios, GPUDrive's JSON (each also as .gz), or HDF5
    files of states and actions. The store is a folder or a URL (s3://, gs://). An interrupted extraction goes on where
    it stopped when the same command is run again.
    """
    from gail_cli.gail.commands.extract import extract_demos

    extract_demos(**given)


# --- merge, split ----------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("stores", nargs=-1, required=True, callback=options.existing)
@click.option("--store", required=True, type=click.Path(), help="Store to make: folder, URL, or .zip for sharing.")
@click.option("--fractions", callback=options.fractions, metavar="T,V,T",
              help="Assign scenes to splits anew by these shares. [default: as extracted]")  # fmt: skip
def merge(stores: tuple[str, ...], store: str, fractions: tuple[float, float, float] | None) -> None:
    """Make one store of the scenes of several; of one, a copy: in a folder, in a bucket, or packed into a .zip."""
    from gail_cli.gail.commands.merge_split import merge

    merge(stores, store, fractions)


@cli.command()
@options.store_argument
@click.option("--out", required=True, type=click.Path(), help="Folder or URL to put train, validation and test in.")
@click.option("--fractions", callback=options.fractions, metavar="T,V,T",
              help="Assign scenes anew by these shares. [default: as extracted]")  # fmt: skip
def split(store: str, out: str, fractions: tuple[float, float, float] | None) -> None:
    """Cut a store into one per split: train, validation and test."""
    from gail_cli.gail.commands.merge_split import split

    split(store, out, fractions)


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
@click.option("--limit", type=click.IntRange(min=1), help="Write at most this many scenes.")
@click.option("--overwrite", is_flag=True, help="Replace an export that is there already.")
@options.report_option
def export(**given: Any) -> None:
    """Write a store's demos for other tools: observations computed, with actions and states.

    Memory stays bounded; the output takes its name when it is complete.
    """
    from gail_cli.gail.commands.export import export

    export(**given)


# --- validate ------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="Check that the store fits the training run of this configuration.",
)
@click.option("--against", multiple=True, type=click.Path(), callback=options.existing, metavar="STORE",
              help="Check that no scene is of a log that STORE has scenes of, too; may be repeated.")  # fmt: skip
@click.option("--sample", type=click.IntRange(min=0), default=64, help="Scenes that are replayed.")
@click.option("--seed", type=options.seed, default=0, help="Chooses the scenes that are replayed.")
@options.report_option
def validate(**given: Any) -> None:
    """Check a store: exit code 0 when it is sound, 1 when it has problems (a line each)."""
    from gail_cli.gail.commands.validate import validate

    validate(**given)


# --- info ----------------------------------------------------------------------------------------------------------


@cli.command()
@options.store_argument
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(store: str, as_json: bool) -> None:
    """Print what is in a store."""
    from gail_cli.gail.commands.info import info

    info(store, as_json)


# --- doctor --------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Check what gail-cli runs on: exit code 0 when everything needed works.

    Simulators and devices are used, packages imported, not only looked for. What is missing and not needed is no
    failure.
    """
    from gail_cli.gail.commands.doctor import doctor

    doctor(as_json)


# --- make-scenarios ------------------------------------------------------------------------------------------------


@cli.command("make-scenarios")
@click.argument("folder", type=click.Path(file_okay=False))
@click.option("--scenes", type=click.IntRange(min=1), default=16, help="How many.")
@click.option("--seed", type=options.seed, default=0, help="The same seed gives the same bytes.")
@click.option(
    "--kind",
    type=click.Choice(["road", "stop-signs", "signals", "ramp"]),
    help="Scenes of one kind: a winding road, a junction with stop signs or with traffic lights, a motorway ramp. "
    "[default: all four]",
)
def make_scenarios(folder: str, scenes: int, seed: int, kind: str | None) -> None:
    """Write scenes of synthetic traffic to FOLDER, as TFRecords of Waymo scenarios."""
    from gail_cli.data.generator import write_scenarios

    paths = write_scenarios(folder, scenes=scenes, seed=seed, kind=kind)
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
              help="Cloning and GAIL together, one of them, or PPO with only the environment's reward.")  # fmt: skip
@click.option("--total-timesteps", type=click.IntRange(min=0), help="Steps of controlled agents.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to train.")
@click.option("--seed", type=options.seed, help="Seed of everything random.")
@click.option("--backend", type=options.backend, help="Simulator to drive in; gpudrive sets sim.compat=gpudrive too.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Any setting; may be repeated.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint of the run.")
@options.reference_flags
def train(**given: Any) -> None:
    """Train a policy: by default behaviour cloning, then GAIL with PPO.

    CONFIG is a YAML file; what it leaves out has its default. The run's folder gets the whole configuration, metrics
    (metrics.jsonl and TensorBoard), the checkpoint and a picture of the curves. Ctrl-C ends the run with a checkpoint.
    """
    from gail_cli.gail.commands.train import train

    train(**given)


# --- schema --------------------------------------------------------------------------------------------------------


@cli.command()
@click.option("--out", "file", type=click.Path(path_type=Path), callback=options.writable,
              help="JSON file to write. [default: print it]")  # fmt: skip
def schema(file: Path | None) -> None:
    """Print the JSON schema of configurations: editors complete, explain and check a YAML file with it."""
    from gail_cli.gail.commands.schema import schema

    schema(file)


# --- evaluate ------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("run", type=click.Path(exists=True, file_okay=False))
@options.store_option
@click.option("--protocol", type=click.Choice(["controlled", "wosac"]), default="controlled",
              help="Whom to score and from when on: all controlled agents from the first step, or as the sim agents "
                   "challenge does: the recording car and the tracks to predict, from step 10.")  # fmt: skip
@click.option("--box-scale", type=click.FloatRange(min=0, min_open=True),
              help="Factor on the size of collision boxes. [default: the run's]")  # fmt: skip
@click.option(
    "--backend", type=options.backend, help="Simulator to drive in; gpudrive brings its rules. [default: the run's]"
)
@click.option("--split", "splits", multiple=True, type=click.Choice(["all", "train", "validation", "test"]),
              help="Which scenes; may be repeated. [default: each split that has some]")  # fmt: skip
@click.option("--bc", type=click.Path(exists=True, file_okay=False), metavar="RUN",
              help="Take the cloned policy, an anchor, from this run. [default: the run's own]")  # fmt: skip
@click.option("--rollouts", type=click.IntRange(min=1), default=32,
              help="Number of drives with drawn actions: for realism, distributions and smallest errors.")  # fmt: skip
@click.option("--sampled", is_flag=True, help="Draw the policy's actions instead of taking the most likely ones.")
@click.option("--blind", is_flag=True, help="Drive the policy also without other agents in sight, without roads, and "
              "without either, and say whether it looks at them.")  # fmt: skip
@click.option("--off-log", is_flag=True, help="Drive also in variants of the scenes: cut, mirrored, stretched, and "
              "begun off the log.")  # fmt: skip
@click.option("--variants", type=click.IntRange(min=1), help="Of each scene, for --off-log. [default: 2]")
@click.option("--seed", type=options.seed, default=0, help="Seed of random and drawn actions, and of resampled scenes.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", help="Where to run.")
@click.option(
    "--picture", type=click.Path(path_type=Path), callback=options.picture, help="Draw one scene to this PNG file."
)
@click.option("--scene", help="Id of the scene to draw. [default: the first]")
@click.option("--figure", type=click.Path(path_type=Path), callback=options.picture,
              help="Draw realism and distributions to this PNG file.")  # fmt: skip
@click.option("--codes", type=click.Path(path_type=Path), callback=options.picture,
              help="Also drive everyone by each latent code alone, and draw what codes mean to this file.")  # fmt: skip
@click.option("--submission", "submitted", type=click.Path(path_type=Path), callback=options.writable, metavar="FILE",
              help="Write 32 drives from step 10 on as a SimAgentsChallengeSubmission, for Waymo's scorer. The policy "
                   "knows its goals from the log: for analysis, not for the leaderboard.")  # fmt: skip
@click.option("--submission-info", "info", multiple=True, callback=options.pairs, metavar="KEY=VALUE",
              help="A field of the submission, as account_name; may be repeated.")  # fmt: skip
@click.option("--submission-source", "sources", multiple=True, metavar="SOURCE",
              help="Files that a store of format 2 was made of, for the submission's heights, which are then 0; later "
                   "stores keep their own. May be repeated.")  # fmt: skip
@options.report_option
def evaluate(**given: Any) -> None:
    """Drive a run's policy and its anchors through the scenes of a store.

    The anchors are the policy as it was after behaviour cloning, the experts' own actions replayed, constant velocity,
    and random actions. Shares are of controlled agents; ADE and FDE are distances from the log; intervals come from
    resampled scenes. The report has every metric that docs/evaluation.md explains.
    """
    from gail_cli.gail.commands.evaluate import evaluate

    evaluate(**given)


# --- score ---------------------------------------------------------------------------------------------------------


@cli.command()
@click.argument("submission", type=click.Path(exists=True))
@click.argument("more", nargs=-1, metavar="[SCENES]...")
@click.option("--scenes", multiple=True, required=True, metavar="SCENES",
              help="Files, folders, globs or URLs that hold the submission's scenes; several may follow.")  # fmt: skip
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="cpu", help="Where to measure.")
@options.report_option
def score(**given: Any) -> None:
    """Score a submission to Waymo's sim agents challenge, of whoever's making, without TensorFlow.

    SUBMISSION is a SimAgentsChallengeSubmission (also compressed), a folder of its shards, or the .tar.gz that is
    uploaded. The numbers are those of Waymo's own scorer: realism of 2025 and 2024, and what it is made of.
    """
    from gail_cli.gail.commands.score import score

    score(**given)


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
@click.option("--seed", type=options.seed, default=0, help="Seed of random and of drawn actions.")
@click.option("--box-scale", type=click.FloatRange(min=0, min_open=True),
              help="Factor on the size of collision boxes. [default: the run's, or 0.7]")  # fmt: skip
@click.option("--everyone", is_flag=True, help="Pedestrians, cyclists, and agents that come later, too.")
@click.option("--fps", type=click.IntRange(1, 50), default=10, help="Frames per second of a film; 10 is real time.")
@click.option("--dpi", type=click.IntRange(20, 600), help="Dots per inch. [default: png 200, mp4 160, gif 100]")
def simulate(**given: Any) -> None:
    """Drive one scene of a store, and draw it from above.

    Controlled agents have colours, and goals of their colour; grey ones follow their log. A dotted line is where the
    log went, a star a collision, a triangle an agent off the road.
    """
    from gail_cli.gail.commands.simulate import simulate

    simulate(**given)


if __name__ == "__main__":
    main()
