"""The curves of a run, from its metrics."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator


class Panel(NamedTuple):
    """One of the diagrams."""

    title: str
    unit: str
    """What the steps on the x axis are."""
    metrics: tuple[str, ...]
    """Names of the curves, as in the run's metrics; those that a run does not write are left out."""


PANELS = (
    Panel("warm start: -log pi(expert action)", "cloning steps", ("bc/loss",)),
    Panel(
        "discriminator accuracy",
        "agent steps",
        ("discriminator/expert_accuracy", "discriminator/policy_accuracy", "discriminator/held_out_accuracy"),
    ),
    Panel("reward per step", "agent steps", ("reward/gail", "reward/environment")),
    Panel("rollouts: share of agents", "agent steps", ("rollout/goal", "rollout/collision", "rollout/off_road")),
    Panel("PPO", "agent steps", ("ppo/approx_kl", "ppo/clip_fraction", "ppo/explained_variance")),
    Panel("beside PPO", "agent steps", ("ppo/entropy", "ppo/bc_loss")),
)


def curves_figure(run: str | Path) -> Figure:
    """The curves of a run, from its ``metrics.jsonl``."""
    lines: list[dict[str, Any]] = [json.loads(x) for x in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(13, 7), dpi=100, layout="constrained")
    for place, panel in enumerate(PANELS):
        axes = figure.add_subplot(2, 3, place + 1)
        for name in panel.metrics:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name.split("/")[1].replace("_", " "))
        if "accuracy" in panel.title:
            axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
            axes.set_ylim(0, 1)
        axes.set_title(panel.title, fontsize=10)
        axes.set_xlabel(panel.unit, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    return figure
