"""How well each recipe imitates: trained and evaluated over folds of scenes and over seeds, on one store.

python -m benchmarks.imitation STORE OUT --folds 4 --seeds 2

OUT gets a run of each recipe, fold and seed, its evaluation on the scenes that it has not seen (with one fold: on those
that it has), a table (table.md, results.json) and curves (curves.png). What is there already is not made again, so the
command goes on where it was stopped.
"""

from __future__ import annotations

import json
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

from gail.demos import chosen_scenes
from gail.evaluate import evaluate, pooled
from gail.run import load_cloned, load_run
from gail.summary import SceneScores
from pipeline import writer
from pipeline.schema import Record, Split
from pipeline.storage import LocalFolder
from pipeline.store import DemoStore, part_name

RECIPES: dict[str, Sequence[str]] = {
    "bc": ("algorithm=bc",),
    "ppo": ("algorithm=ppo",),
    "gail": ("algorithm=gail",),
    "bc+gail": (),
    "vail": ("discriminator.use_vail=true",),
}
"""Settings of each recipe over the defaults. ``ppo`` learns from arriving at the goal alone."""

ABLATIONS: dict[str, Sequence[str]] = {
    "reward gail": ("reward.form=gail",),
    "reward bounded": ("reward.form=bounded",),
    "no normaliser": ("discriminator.normalise=false",),
    "agents leave at the goal": ("sim.on_goal=remove",),
    "gradient penalty 10": ("discriminator.gradient_penalty=10",),
    "split heads": ("discriminator.structure=split",),
    "no cloning beside": ("ppo.bc_coefficient=0",),
    "no variants": ("augment.variants=1",),
    "no masking": ("masking.roads=0", "masking.all_roads=0", "masking.partners=0", "masking.all_partners=0"),
    "no dropout": ("policy.dropout=0",),
    "state only": ("discriminator.inputs=state",),
    "spectral norm": ("discriminator.spectral_norm=true",),
}
"""What is left out of the default recipe, or put into it, one at a time."""

COLUMNS = {
    "goal": "goal", "collision": "collision", "off_road": "off-road", "safe_success": "safe success",
    "full_safe_success": "safe success, full boxes", "ade": "ADE (m)", "min_ade": "minADE (m)",
    "realism_2025": "realism 2025",
}  # fmt: skip
"""Metrics of the table."""
_METRES = ("ade", "min_ade")


@dataclass(frozen=True)
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
        return self.folder / "runs" / f"{self.recipe.replace(' ', '-')}-fold{self.fold}-seed{self.seed}"


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

        def assigned(number: int, record: Record, fold: int = fold) -> Record:
            return replace(record, split=Split.TEST if folds > 1 and number % folds == fold else Split.TRAIN)

        records = [assigned(number, record) for number, record in enumerate(store.read())]
        writer.create_store(storage, attributes)
        writer.commit_part(storage, writer.write_part(storage, part_name(0), records, store.own_space, store.steps))
        writer.finish_store(storage, attributes)
    return paths


def train(job: Job, store: Path, common: Sequence[str]) -> None:
    """Make the run, or go on with it, in a process of its own."""
    checkpoint = job.run / "checkpoint.pt"
    command = [sys.executable, "-m", "cli", "train", "--store", str(store), "--run", str(job.run)]
    command += [f"--set={setting}" for setting in (f"seed={job.seed}", *common, *job.settings)]
    command += ["--resume"] if checkpoint.exists() else []
    subprocess.run(command, check=True, capture_output=True)


def judge(job: Job, store: Path, folds: int, rollouts: int) -> dict[str, Any]:
    """Evaluation of the run on the scenes of its fold, kept in its folder."""
    file = job.run / "evaluation.json"
    if not file.exists():
        config, policy = load_run(job.run)
        opened = DemoStore(store)
        scenes = chosen_scenes(opened, "test" if folds > 1 else "all").tolist()
        cloned = load_cloned(job.run)
        file.write_text(json.dumps(evaluate(policy, config, opened, scenes=scenes, cloned=cloned, rollouts=rollouts)))
    return dict(json.loads(file.read_text()))


def over_seeds(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Evaluations of several seeds on the same scenes as one, in which every seed counts alike."""
    first, *rest = (SceneScores.from_json(report["per_scene"]) for report in reports)
    sums = {
        driver: {key: x + sum(other.sums[driver][key] for other in rest) for key, x in columns.items()}
        for driver, columns in first.sums.items()
    }
    return {**reports[0], "per_scene": SceneScores(first.scenes, sums, first.histograms).to_json()}


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a recipe, then the anchors, with 95 % intervals over scenes."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    last = list(results.values())[-1]
    rows = {name: (result, "policy") for name, result in results.items()}
    rows |= {name: (last, name) for name in last["results"] if name not in ("policy", "behaviour cloning")}
    for name, (result, driver) in rows.items():
        cells = [_cell(result["results"][driver], result["intervals"][driver], key) for key in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
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
        "discriminator/expert_accuracy": "discriminator: experts told right",
        "discriminator/policy_accuracy": "discriminator: policy told right", "ppo/entropy": "entropy (nats)",
    }  # fmt: skip
    figure = Figure(figsize=(12, 6.5), dpi=130, layout="constrained")
    axes = figure.subplots(2, 3).flatten()
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
        axis.grid(alpha=0.3)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, fontsize=9, frameon=False)
    return figure


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _do(job: Job, stores: Sequence[Path], common: Sequence[str], folds: int, rollouts: int) -> dict[str, Any]:
    train(job, stores[job.fold], common)
    return judge(job, stores[job.fold], folds, rollouts)


@click.command()
@click.argument("store")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--folds", type=click.IntRange(min=1), default=4, show_default=True, help="1: train and test on all.")
@click.option("--seeds", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--recipes", default=",".join(RECIPES), show_default=True, help="Comma-separated names.")
@click.option("--ablations", is_flag=True, help="Vary the default recipe instead.")
@click.option("--set", "common", multiple=True, help="A setting of all runs.")
@click.option("--total-timesteps", default=200_000, show_default=True)
@click.option("--rollouts", default=16, show_default=True, help="Drawn drives of an evaluation.")
@click.option("--jobs", "at_once", default=2, show_default=True, help="Runs at once.")
def main(
    store: str,
    out: Path,
    folds: int,
    seeds: int,
    recipes: str,
    ablations: bool,
    common: tuple[str, ...],
    total_timesteps: int,
    rollouts: int,
    at_once: int,
) -> None:
    """Compare recipes."""
    chosen = ABLATIONS if ablations else {name: RECIPES[name] for name in recipes.split(",")}
    out.mkdir(parents=True, exist_ok=True)
    stores = write_folds(DemoStore(store), out, folds)
    common = (f"total_timesteps={total_timesteps}", *common)
    jobs = [
        Job(name, settings, fold, seed, out)
        for seed in range(seeds)
        for fold in range(folds)
        for name, settings in chosen.items()
    ]
    with (
        ThreadPoolExecutor(at_once) as threads,
        click.progressbar(length=len(jobs), label="runs", file=sys.stderr) as bar,
    ):
        reports = []
        for report in threads.map(lambda job: _do(job, stores, common, folds, rollouts), jobs):
            reports.append(report)
            bar.update(1)
    results = {}
    for name in chosen:
        mine = [(job, report) for job, report in zip(jobs, reports, strict=True) if job.recipe == name]
        of_folds = [over_seeds([r for job, r in mine if job.fold == fold]) for fold in range(folds)]
        results[name] = pooled(of_folds)
    (out / "results.json").write_text(json.dumps(results))
    (out / "table.md").write_text(table(results))
    curves(jobs).savefig(out / "curves.png")
    click.echo(table(results))


if __name__ == "__main__":
    main()
