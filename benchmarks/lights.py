"""What seeing traffic lights changes: the same policy, cloned with and without them, at signals that it has not seen.

python -m benchmarks.lights OUT

OUT gets synthetic junctions with signals, their stores, a run for each number of lights seen and each seed, its
evaluation on the junctions that it has not seen, and a table (lights.md) with the differences in the same scenes. What
is there already is not made again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from benchmarks.imitation_tables import over_seeds
from gail_cli.gail.evaluation.drivers import drive, policy_driver
from gail_cli.gail.evaluation.evaluate import pooled
from gail_cli.gail.evaluation.summary import POLICY, SceneScores, summarise
from gail_cli.gail.learning.run import load_run
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import LightState

SEEN = {"sees lights": 4, "sees no lights": 0}
"""Settings of ``observation.lights``, by what they are called."""
COLUMNS = {
    "red_light": "runs a red light", "all_red": "where all stay red",
    "collision": "collision", "full_collision": "collision, full boxes",
    "goal": "goal", "safe_success": "safe success", "ade": "ADE (m)", "realism_2025": "realism 2025",
}  # fmt: skip
_PLAIN = {"ade": 2, "realism_2025": 3}
"""Metrics that are no shares, with their digits."""
_SEEDS = {"train": 1, "test": 2}
"""Of the scenes."""


def make_store(folder: Path, name: str, scenes: int) -> Path:
    """The store of some junctions with signals."""
    store = folder / f"{name}.zarr"
    if not (folder / name).exists():
        _call("make-scenarios", folder / name, "--scenes", scenes, "--seed", _SEEDS[name], "--kind", "signals")
    if not store.exists() or not DemoStore(store).attributes.get("complete"):
        _call("extract-demos", folder / name, "--store", store)
    return store


def judged(folder: Path, seed: int, lights: int, settings: Sequence[str], rollouts: int) -> dict[str, Any]:
    """The evaluation of a policy that sees so many lights."""
    run = folder / f"lights{lights}-seed{seed}"
    report = run / "evaluation.json"
    if not report.exists():
        resume = ["--resume"] if (run / "checkpoint.pt").exists() else []
        chosen = [f"observation.lights={lights}", f"seed={seed}", *settings]
        sets = [f"--set={setting}" for setting in chosen]
        _call("train", "--store", folder / "train.zarr", "--run", run, *sets, *resume)
        options = ["--rollouts", rollouts, "--report", report]
        _call("evaluate", run, "--store", folder / "test.zarr", *options)
    result = dict(json.loads(report.read_text())["splits"]["all"])
    result["per_scene"]["sums"][POLICY]["all_red"] = at_red(run, folder / "test.zarr").tolist()
    return result


def at_red(run: Path, store: Path) -> NDArray[np.float64]:
    """[S, 2] how many agents of each scene pass a stop line, and how many there are, if all its lights stay red.

    Nothing else tells the policy so: who learned to look at lights stops, who did not drives as before.
    """
    config, policy = load_run(run, "cpu")
    opened = DemoStore(store)
    sums = np.zeros((len(opened), 2))
    for number, record in enumerate(opened.read()):
        red = np.full_like(record.scene.light_state, LightState.STOP)
        experts = make_experts([replace(record, scene=replace(record.scene, light_state=red))], config.sim)
        env = Env(experts.worlds, opened.space, config.sim, config.observation)
        ran = drive(env, policy_driver(policy, deterministic=True)).events[:, Event.RED_LIGHT]
        sums[number] = ran.sum().item(), len(ran)
    return sums


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a row a policy, the log, and what sets the first two apart, with 95 % intervals over scenes."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " |", "| --- |" + " --- |" * len(COLUMNS)]
    first, second = results.values()
    rows = {name: (result["results"][POLICY], result["intervals"][POLICY]) for name, result in results.items()}
    rows["expert replayed"] = (first["results"]["expert replayed"], first["intervals"]["expert replayed"])
    scores = [SceneScores.from_json(result["per_scene"]) for result in (first, second)]
    both = SceneScores(scores[0].scenes, {POLICY: scores[0].sums[POLICY], "other": scores[1].sums[POLICY]}, {})
    apart = summarise(both)["differences"]["other"]
    values, intervals = ({key: apart[key][what] for key in COLUMNS} for what in ("mean", "interval"))
    rows["difference"] = (values, intervals)
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(*row, key) for key in COLUMNS) + " |")
    return "\n".join(lines) + "\n"


def _cell(values: Mapping[str, Any], intervals: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return ""
    low, high = intervals[key] or (float("nan"),) * 2
    if key in _PLAIN:
        digits = _PLAIN[key]
        return f"{values[key]:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return f"{100 * values[key]:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _call(*arguments: object) -> None:
    """Run gail-cli.

    Raises:
        click.ClickException: with the last line that it said, if it fails.
    """
    command = [sys.executable, "-m", "gail_cli", *map(str, arguments)]
    environment = {"OMP_NUM_THREADS": "1"} | os.environ
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[2:])}: {done.stderr.strip().splitlines()[-1]}")


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--train", default=160, show_default=True, help="Junctions to learn from.")
@click.option("--test", default=60, show_default=True, help="Junctions to drive at.")
@click.option("--steps", default=3000, show_default=True, help="Gradient steps of cloning.")
@click.option("--seeds", default=1, show_default=True)
@click.option("--rollouts", default=4, show_default=True, help="Drawn drives of an evaluation.")
@click.option("--set", "settings", multiple=True, help="A setting of all runs.")
def main(out: Path, train: int, test: int, steps: int, seeds: int, rollouts: int, settings: tuple[str, ...]) -> None:
    """Compare policies that see lights with ones that do not."""
    out.mkdir(parents=True, exist_ok=True)
    for name, scenes in (("train", train), ("test", test)):
        make_store(out, name, scenes)
    common = ["algorithm=bc", f"bc.steps={steps}", *settings]
    results = {
        name: pooled([over_seeds([judged(out, seed, lights, common, rollouts) for seed in range(seeds)])])
        for name, lights in SEEN.items()
    }
    text = table(results)
    (out / "lights.md").write_text(text)
    click.echo(text)


if __name__ == "__main__":
    main()
