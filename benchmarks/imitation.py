"""How well each recipe imitates: trained and evaluated over folds of scenes and over seeds, on one store.

python -m benchmarks.imitation STORE OUT --folds 4 --seeds 2

OUT gets a run of each recipe, fold and seed, its evaluation on the scenes that it has not seen (with one fold: on those
that it has), a table (recipes.md, recipes.json) and curves (recipes.png); with ``--compare ablations`` or ``troubles``,
the same of variations of the default recipe. What is there already is not made again, so the command goes on where it
was stopped.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from gail_cli.gail.evaluation.evaluate import pooled
from gail_cli.gail.evaluation.summary import POLICY, SceneScores, summarise
from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store import writer
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore, part_name

CLONES = "bc"
"""The recipe whose policies the others begin with, unless they clone in another way or not at all."""

RECIPES: dict[str, Sequence[str]] = {
    CLONES: ("algorithm=bc",),
    "ppo": ("algorithm=ppo", "sim.reward=sparse_on_goal_achieved"),
    "gail": ("algorithm=gail",),
    "bc+gail": (),
    "vail": ("discriminator.use_vail=true",),
}
"""Settings of each recipe over the defaults. ``ppo`` learns from arriving at the goal alone."""

ABLATIONS: dict[str, Sequence[str]] = {
    CLONES: ("algorithm=bc",),
    "default": (),
    "no environment reward": ("reward.environment=0",),
    "begin on the log": ("augment.perturb=0",),
    "no cloning beside": ("ppo.bc_coef=0",),
    "reward -ln(1-D)": ("reward.form=gail",),
    "no normaliser": ("discriminator.normalise=false",),
    "agents leave at the goal": ("sim.on_goal=remove",),
    "gradient penalty 10": ("discriminator.gradient_penalty=10",),
    "split heads": ("discriminator.structure=split",),
    "state only": ("discriminator.inputs=state",),
    "gail": ("algorithm=gail",),
    "gail, environment reward": ("algorithm=gail", "reward.environment=0.3"),
    "gail, reward -ln(1-D)": ("algorithm=gail", "reward.form=gail"),
    "gail, no normaliser": ("algorithm=gail", "discriminator.normalise=false"),
    "gail, agents leave at the goal": ("algorithm=gail", "sim.on_goal=remove"),
    "gail, gradient penalty 10": ("algorithm=gail", "discriminator.gradient_penalty=10"),
    "gail, split heads": ("algorithm=gail", "discriminator.structure=split"),
    "bc, no variants": ("algorithm=bc", "augment.variants=1"),
    "bc, no stretching": ("algorithm=bc", "augment.stretch=1"),
    "bc, no masking": (
        "algorithm=bc", "masking.roads=0", "masking.all_roads=0", "masking.partners=0", "masking.all_partners=0",
    ),
    "bc, no dropout": ("algorithm=bc", "policy.dropout=0"),
}  # fmt: skip
"""What is left out of the default recipe, or put into it, one at a time; of GAIL from a random policy likewise, as a
clone hides what GAIL is worth."""

COLUMNS = {
    "goal": "goal", "collision": "collision", "off_road": "off-road", "safe_success": "safe success",
    "full_safe_success": "safe success, full boxes", "ade": "ADE (m)", "min_ade": "minADE (m)",
    "realism_2025": "realism 2025",
}  # fmt: skip
"""Metrics of the table."""
_METRES = ("ade", "min_ade")


TROUBLES: dict[str, Sequence[str]] = {
    CLONES: ("algorithm=bc",),
    "healthy": (),
    "discriminator too strong": (
        "discriminator.learning_rate=0.003", "discriminator.updates=160", "discriminator.dropout=0",
        "discriminator.max_accuracy=1", "ppo.bc_coef=0", "reward.environment=0",
    ),
    "policy too fast": ("ppo.learning_rate=0.01", "ppo.bc_coef=0"),
    "paid for being there": (
        "sim.on_goal=remove", "reward.form=gail", "reward.environment=0", "ppo.bc_coef=0",
        "ppo.learning_rate=0.001",
    ),
}  # fmt: skip
"""Ways to go wrong, for the pictures of docs/recipes.md."""

SETS = {"recipes": RECIPES, "ablations": ABLATIONS, "troubles": TROUBLES}


@dataclass(frozen=True, eq=False)
class Job:
    """A run to make."""

    recipe: str
    settings: Sequence[str]
    fold: int
    seed: int
    folder: Path

    @property
    def run(self) -> Path:
        """Its folder."""
        name = re.sub("[^a-z0-9+]+", "-", self.recipe.lower())
        return self.folder / "runs" / f"{name}-fold{self.fold}-seed{self.seed}"

    @property
    def clone(self) -> Path | None:
        """The run whose cloned policy it begins with; None for its own."""
        clones = replace(self, recipe=CLONES).run
        return None if any(setting.startswith("algorithm=") for setting in self.settings) else clones


def write_folds(store: DemoStore, folder: Path, folds: int) -> list[Path]:
    """A store for each fold, in which every ``folds``-th scene is of the split "test" and the rest of "train"; with one
    fold, all are of both."""
    paths = []
    for fold in range(folds):
        path = folder / f"fold{fold}"
        paths.append(path)
        if path.exists() and DemoStore(path).attributes.get("complete"):
            continue
        storage, attributes = LocalFolder(path), writer.store_attributes(store.own_space, store.steps)
        tests = (np.arange(len(store)) % folds == fold) & (folds > 1)
        sides = np.where(tests, Split.TEST, Split.TRAIN).astype(np.uint8)
        records = list(store.read())
        writer.create_store(storage, attributes)
        writer.commit_part(storage, writer.write_part(storage, part_name(0), records, store.own_space, store.steps))
        writer.finish_store(storage, attributes, lambda ids, group, sides=sides: sides)
    return paths


def train(job: Job, store: Path, common: Sequence[str], threads: int) -> None:
    """Make the run, or go on with it, in a process of its own."""
    settings = [f"seed={job.seed}", *common, *job.settings, *([f"bc.run={job.clone}"] if job.clone else [])]
    resume = ["--resume"] if (job.run / "checkpoint.pt").exists() else []
    _call(["train", "--store", store, "--run", job.run, *(f"--set={s}" for s in settings), *resume], threads)


def judge(job: Job, store: Path, split: str, rollouts: int, threads: int) -> dict[str, Any]:
    """Evaluation of the run on a split, kept in its folder."""
    file = job.run / "evaluation.json"
    if not file.exists():
        options = ["--split", split, "--rollouts", rollouts, "--report", file]
        _call(["evaluate", job.run, "--store", store, *options], threads)
    return dict(json.loads(file.read_text())["splits"][split])


def _call(arguments: Sequence[object], threads: int) -> None:
    """Run gail-cli.

    Raises:
        click.ClickException: with the last line that it said, if it fails.
    """
    command = [sys.executable, "-m", "gail_cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[2:])}: {done.stderr.strip().splitlines()[-1]}")


def over_seeds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Evaluations of several seeds on the same scenes as one, in which every seed counts alike."""
    scores = [SceneScores.from_json(report["per_scene"]) for report in reports]
    sums, histograms = (
        {
            driver: {key: np.sum([table[driver][key] for table in tables], axis=0) for key in columns}
            for driver, columns in tables[0].items()
        }
        for tables in ([s.sums for s in scores], [s.histograms for s in scores])
    )
    return {**reports[0], "per_scene": SceneScores(scores[0].scenes, sums, histograms).to_json()}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a recipe, then the anchors, with 95 % intervals over scenes."""
    lines = ["| recipe | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    last = list(results.values())[-1]  # anchors are the same beside all
    rows = {name: (result, "policy") for name, result in results.items()}
    rows |= {name: (last, name) for name in last["results"] if name not in ("policy", "behaviour cloning")}
    for name, (result, driver) in rows.items():
        cells = [_cell(result["results"][driver], result["intervals"][driver], key) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def differences(results: Mapping[str, Mapping[str, Any]], against: str) -> str:
    """Markdown: what sets each recipe apart from one of them, with 95 % intervals of the difference in the same
    scenes."""
    shown = {"safe_success": "safe success", "realism_2025": "realism 2025", "ade": "ADE (m)"}
    lines = [f"| against {against} | " + " | ".join(shown.values()) + " |", "| --- |" + " --- |" * len(shown)]
    scores = {name: SceneScores.from_json(result["per_scene"]) for name, result in results.items()}
    for name, own in scores.items():
        if name != against:
            both = {POLICY: own.sums[POLICY], against: scores[against].sums[POLICY]}
            found = summarise(SceneScores(own.scenes, both, {}))["differences"][against]
            values, intervals = ({key: found[key][what] for key in shown} for what in ("mean", "interval"))
            lines.append(f"| {name} | " + " | ".join(_cell(values, intervals, key) for key in shown) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Mapping[str, Any], intervals: Mapping[str, Any], key: str) -> str:
    if values.get(key) is None:
        return ""
    low, high = intervals[key] or (float("nan"),) * 2
    if key in _METRES:
        return f"{values[key]:.2f} ({low:.2f} to {high:.2f})"
    if key.startswith("realism"):
        return f"{values[key]:.3f} ({low:.3f} to {high:.3f})"
    return f"{100 * values[key]:.1f} % ({100 * low:.0f} to {100 * high:.0f})"


def curves(jobs: Sequence[Job]) -> Figure:
    """What the recipes' rollouts did as they learned: a line a recipe, the mean over folds and seeds."""
    names = {
        "rollout/goal": "at the goal", "rollout/collision": "collision", "rollout/off_road": "off-road",
        "rollout/length": "steps of an episode", "discriminator/expert_accuracy": "discriminator: experts recognised",
        "discriminator/policy_accuracy": "discriminator: policy recognised",
        "ppo/entropy": "entropy (nats)", "ppo/approx_kl": "change of the policy a rollout (KL, nats)",
    }  # fmt: skip
    figure = Figure(figsize=(15, 6.5), dpi=110, layout="constrained")
    axes = figure.subplots(2, 4).flatten()
    for recipe in dict.fromkeys(job.recipe for job in jobs):
        runs = [_lines(job.run) for job in jobs if job.recipe == recipe]
        for axis, name in zip(axes, names, strict=True):
            series = [[(line["step"], line[name]) for line in run if name in line] for run in runs]
            length = min(map(len, series), default=0)
            if length:
                step, value = np.array([s[:length] for s in series]).mean(axis=0).T
                axis.plot(step, value, label=recipe, linewidth=1.4)
    for axis, title in zip(axes, names.values(), strict=True):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("agent steps", fontsize=8)
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
    axes[-1].set_yscale("log")
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, fontsize=9, frameon=False)
    return figure


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@click.command()
@click.argument("store")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folds", type=click.IntRange(min=1), default=4, show_default=True, help="1: train and test on all.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--compare", "what", type=click.Choice(list(SETS)), default="recipes", show_default=True)
@click.option("--recipes", help="Names out of these, with semicolons between. [default: all]")
@click.option("--against", default=CLONES, show_default=True, help="The recipe that the others are compared with.")
@click.option("--set", "common", multiple=True, help="A setting of all runs.")
@click.option("--total-timesteps", default=200_000, show_default=True)
@click.option("--rollouts", default=32, show_default=True, help="Drawn drives of an evaluation.")
@click.option("--jobs", "at_once", default=2, show_default=True, help="Runs at once.")
def main(
    store: str,
    out: Path,
    folds: int,
    seeds: int,
    what: str,
    recipes: str | None,
    against: str,
    common: tuple[str, ...],
    total_timesteps: int,
    rollouts: int,
    at_once: int,
) -> None:
    """Compare recipes."""
    known = SETS[what]
    chosen = {name: known[name] for name in (CLONES, *(recipes.split(";") if recipes else known))}
    if against not in chosen:
        raise click.UsageError(f"--against {against}: it is none of the recipes compared: {'; '.join(chosen)}")
    out.mkdir(parents=True, exist_ok=True)
    stores = write_folds(DemoStore(store), out, folds)
    common = (f"total_timesteps={total_timesteps}", *common)
    jobs = [
        Job(name, settings, fold, seed, out)
        for seed in range(seeds)
        for name, settings in chosen.items()
        for fold in range(folds)
    ]
    reports: dict[Job, dict[str, Any]] = {}
    cores = max(1, (os.cpu_count() or 1) // at_once)
    with (
        ThreadPoolExecutor(at_once) as threads,
        click.progressbar(length=len(jobs), label="runs", file=sys.stderr) as bar,
    ):

        def do(job: Job) -> None:
            train(job, stores[job.fold], common, cores)
            reports[job] = judge(job, stores[job.fold], "test" if folds > 1 else "all", rollouts, cores)
            bar.update(1)

        for clones in (True, False):
            list(threads.map(do, [job for job in jobs if (job.recipe == CLONES) == clones]))
    results = {}
    for name in chosen:
        seen = [[reports[job] for job in jobs if (job.recipe, job.fold) == (name, fold)] for fold in range(folds)]
        results[name] = pooled([over_seeds(of_seeds) for of_seeds in seen])
    (out / f"{what}.json").write_text(json.dumps(results))
    text = table(results) + "\n" + differences(results, against)
    (out / f"{what}.md").write_text(text)
    curves(jobs).savefig(out / f"{what}.png")
    click.echo(text)


if __name__ == "__main__":
    main()
