"""How well each recipe imitates: trained and evaluated over folds by log and over seeds, on one store.

python -m benchmarks.imitation STORE OUT --folds 4 --seeds 3 --total-timesteps 1000000
python -m benchmarks.imitation STORE OUT --compare ablations --without-goal
python -m benchmarks.imitation STORE OUT --recipes "clone;default" --at 100000,300000,1000000 --total-timesteps 3000000
python -m benchmarks.imitation STORE OUT --compare scenes

OUT gets a run of each recipe, fold and seed, with its evaluation on the scenes that it has not seen (with one fold: on
those that it has), and of all of them tables (NAME.md, NAME.json), differences with intervals (NAME-differences.png),
what rollouts did (NAME-rollouts.png) and learning curves over steps (``--at``) or scenes (``--compare scenes``). What
is there already is not made again: a command goes on where it was stopped, and parts may be made by several
(``--only-folds``, ``--only-seeds``). benchmarks/recipes.py has the recipes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from benchmarks.folds import write_folds
from benchmarks.imitation_figures import forest, learning_curves, rollout_curves
from benchmarks.imitation_jobs import Job, OtherSettingsError, judge, report, seconds, train
from benchmarks.imitation_tables import WITH_GOAL, WITHOUT_GOAL, Column, blind_table, differences, table, together
from benchmarks.recipes import CLONE, COMPARISONS, Comparison, scenes_of
from benchmarks.recipes import WITHOUT_GOAL as HIDDEN_GOAL
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.errors import UserError

_DRAWN = (
    "drawn_safe_success", "drawn_full_safe_success", "collision", "off_road", "min_ade", "realism_2025",
    "off_log.drawn_safe_success",
)  # fmt: skip
_DRAWN_WITHOUT_GOAL = ("drawn_collision", "drawn_off_road", "ade", "min_ade", "realism_2025", "off_log.drawn_collision")
"""Metrics that figures show, by the keys of their columns."""


@dataclass(frozen=True)
class Plan:
    """What is compared, and how."""

    comparison: Comparison
    without_goal: bool
    common: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: tuple[int, ...]
    out: Path
    stores: Mapping[int, Path]
    """By fold."""

    def jobs(self) -> list[Job]:
        """All runs, with the clones that they begin with first, each once."""
        begin = HIDDEN_GOAL if self.without_goal else ()
        folder = self.out / "without-goal" if self.without_goal else self.out
        asked = [
            Job(name, (*begin, *settings), self.common, fold, seed, folder, store, self.steps)
            for seed in self.seeds
            for name, settings in self.comparison.recipes.items()
            for fold, store in self.stores.items()
        ]
        clones: dict[Path, Job] = {}
        for job in sorted(asked, key=lambda job: not job.clones_only):  # those with names of their own first
            if job.clone is not None:
                clones.setdefault(job.clone.run, job.clone)
        return [*clones.values(), *(job for job in asked if not job.clones_only)]

    @property
    def columns(self) -> tuple[Column, ...]:
        """Of the tables."""
        return WITHOUT_GOAL if self.without_goal else WITH_GOAL

    @property
    def shown(self) -> list[Column]:
        """Of the figures."""
        keys = _DRAWN_WITHOUT_GOAL if self.without_goal else _DRAWN
        return [column for key in keys for column in self.columns if column.key == key]


def run_all(jobs: Sequence[Job], split: str, rollouts: int, blind: bool, at_once: int) -> None:
    """Train and evaluate, clones before those that begin with them, each run in a process of its own."""
    threads = max(1, (os.cpu_count() or 1) // at_once)
    # read by each process when it starts: threads that wait by spinning make shared cores ten times slower
    os.environ |= {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    context = multiprocessing.get_context("spawn")
    phases: list[tuple[Callable[..., None], list[Job], tuple[Any, ...]]] = []
    for clones in (True, False):
        some = [job for job in jobs if job.clones_only == clones]
        phases += [(train, some, (threads,)), (judge, some, (split, rollouts, blind, threads))]
    with click.progressbar(length=2 * len(jobs), label="runs", file=sys.stderr) as bar:
        for work, some, more in phases:
            with ProcessPoolExecutor(at_once, context, max_tasks_per_child=1) as pool:
                for done in as_completed([pool.submit(work, job, *more) for job in some]):
                    done.result()
                    bar.update(1)


def results_of(jobs: Sequence[Job]) -> dict[str, dict[str, Any]]:
    """By recipe, the evaluation over all folds and seeds, and what a run took on average."""
    return {name: _result(some, None) for name, some in _by_recipe(jobs).items()}


def _by_recipe(jobs: Sequence[Job]) -> dict[str, list[Job]]:
    return {name: [job for job in jobs if job.recipe == name] for name in dict.fromkeys(job.recipe for job in jobs)}


def _result(jobs: Sequence[Job], step: int | None) -> dict[str, Any]:
    reports = {(job.fold, job.seed): report(job.run if step is None else job.at(step)) for job in jobs}
    spent = [seconds(job, step) for job in jobs]
    return together(reports) | {"seconds": {key: sum(s[key] for s in spent) / len(spent) for key in ("wall", "cpu")}}


def write(plan: Plan, name: str, jobs: Sequence[Job]) -> str:
    """Tables and figures; returns the tables."""
    results = results_of(jobs)
    reference = plan.comparison.against
    against = {recipe: reference for recipe in results if recipe != reference}
    names = {job.run: job.recipe for job in jobs}
    own = {job.recipe: names[clone.run] for job in jobs if not job.clones_only and (clone := job.clone)}
    parts = [table(results, plan.columns, results.get(CLONE) or next(iter(results.values())))]
    parts.append(differences(results, plan.columns, against))
    if any(clone != reference for clone in own.values()):
        parts.append(differences(results, plan.columns, own))
    if all("blind" in result for result in results.values()):
        parts.append(blind_table(results))
    place = plan.out / f"{name}{'-without-goal' if plan.without_goal else ''}"
    place.with_suffix(".json").write_text(json.dumps(results))
    if against:
        forest(results, plan.shown, against).savefig(f"{place}-differences.png")
    rollout_curves(jobs).savefig(f"{place}-rollouts.png")
    parts += _curves_over_steps(plan, place, jobs, results)
    _curves_over_scenes(plan, place, results)
    text = "\n".join(parts)
    place.with_suffix(".md").write_text(text)
    return text


def _curves_over_steps(
    plan: Plan, place: Path, jobs: Sequence[Job], results: Mapping[str, dict[str, Any]]
) -> list[str]:
    """Figures of the evaluations on the way, over steps and over minutes, and a table for each recipe."""
    series: dict[str, dict[float, Any]] = {}
    for recipe, some in _by_recipe([job for job in jobs if not job.clones_only]).items():
        kept = [step for step in plan.steps if all((job.at(step) / "evaluation.json").exists() for job in some)]
        if kept:
            last = max(_last_step(job) for job in some)
            series[recipe] = {step: _result(some, step) for step in kept} | {last: results[recipe]}
    if not series:
        return []
    level = {CLONE: results[CLONE]} if CLONE in results else {}
    learning_curves(series, plan.shown, "agent steps", level).savefig(f"{place}-steps.png")
    timed = {name: {r["seconds"]["cpu"] / 60: r for r in some.values()} for name, some in series.items()}
    learning_curves(timed, plan.shown, "CPU minutes, cloning included", level).savefig(f"{place}-minutes.png")
    return [
        table({f"{name}, {step:,.0f} steps": result for step, result in some.items()}, plan.columns)
        for name, some in series.items()
    ]


def _last_step(job: Job) -> int:
    return int(json.loads((job.run / "metrics.jsonl").read_text().splitlines()[-1])["step"])


def _curves_over_scenes(plan: Plan, place: Path, results: Mapping[str, dict[str, Any]]) -> None:
    series: dict[str, dict[float, Any]] = {}
    for name, result in results.items():
        if found := scenes_of(name):
            series.setdefault(found[0], {})[found[1]] = result
    if series:
        learning_curves(series, plan.shown, "training scenes", {}).savefig(f"{place}-curve.png")


def _numbers(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None:
        return None
    try:
        return tuple(int(part.replace("_", "")) for part in value.split(","))
    except ValueError:
        raise click.BadParameter("numbers with commas between") from None


@click.command()
@click.argument("store")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folds", type=click.IntRange(min=1), default=4, show_default=True, help="1: train and test on all.")
@click.option("--only-folds", callback=_numbers, metavar="N,N", help="Make, and show, these only. [default: all]")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--only-seeds", callback=_numbers, metavar="N,N", help="Likewise.")
@click.option("--compare", "what", type=click.Choice(list(COMPARISONS)), default="recipes", show_default=True)
@click.option("--without-goal", is_flag=True, help="Nobody sees its goal, nor the time left.")
@click.option("--recipes", help="Names out of these, with semicolons between. [default: all]")
@click.option("--against", help="The recipe that the others are compared with. [default: that of the comparison]")
@click.option("--set", "common", multiple=True, help="A setting of all runs.")
@click.option("--total-timesteps", default=1_000_000, show_default=True)
@click.option("--at", "steps", callback=_numbers, metavar="N,N", help="Evaluate after so many steps too.")
@click.option("--rollouts", default=32, show_default=True, help="Drawn drives of an evaluation.")
@click.option("--blind", is_flag=True, help="Evaluate without others, and roads, in sight too.")
@click.option("--jobs", "at_once", type=click.IntRange(min=1), default=2, show_default=True, help="Runs at once.")
def main(
    store: str,
    out: Path,
    folds: int,
    only_folds: tuple[int, ...] | None,
    seeds: int,
    only_seeds: tuple[int, ...] | None,
    what: str,
    without_goal: bool,
    recipes: str | None,
    against: str | None,
    common: tuple[str, ...],
    total_timesteps: int,
    steps: tuple[int, ...] | None,
    rollouts: int,
    blind: bool,
    at_once: int,
) -> None:
    """Compare recipes."""
    chosen = chosen_recipes(COMPARISONS[what], recipes, against)
    some_folds, some_seeds = (
        tuple(range(most)) if only is None else only for only, most in ((only_folds, folds), (only_seeds, seeds))
    )
    if not set(some_folds) <= set(range(folds)):
        raise click.UsageError(f"--only-folds: there are the folds 0 to {folds - 1}")
    out.mkdir(parents=True, exist_ok=True)
    stores = write_folds(DemoStore(store), out, folds, some_folds)
    settings = (f"total_timesteps={total_timesteps}", *common)
    plan = Plan(chosen, without_goal, settings, some_seeds, steps or (), out, stores)
    jobs = plan.jobs()
    try:
        run_all(jobs, "test" if folds > 1 else "all", rollouts, blind, at_once)
    except (OtherSettingsError, UserError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(write(plan, what, jobs))


def chosen_recipes(comparison: Comparison, names: str | None, against: str | None) -> Comparison:
    """Some recipes of a comparison, always with the one that they are compared with.

    Raises:
        click.UsageError: for a name that it does not have.
    """
    reference = against or comparison.against
    wanted = [reference, *(names.split(";") if names else comparison.recipes)]
    for name in wanted:
        if name not in comparison.recipes:
            raise click.UsageError(f"{name!r} is none of the recipes compared: {'; '.join(comparison.recipes)}")
    return Comparison({name: comparison.recipes[name] for name in comparison.recipes if name in wanted}, reference)


if __name__ == "__main__":
    main()
