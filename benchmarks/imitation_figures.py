"""Figures of a comparison of recipes: differences with their intervals, and learning curves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from benchmarks.imitation_jobs import Job
from benchmarks.imitation_tables import Column, Result, compared
from gail_cli.gail.evaluation.summary import POLICY

_GREY = "#7f8c8d"


def forest(results: Mapping[str, Result], columns: Sequence[Column], against: Mapping[str, str]) -> Figure:
    """For each metric a panel, in it a line a recipe: its difference in the same scenes, and the 95 % interval.

    Args:
        results: by recipe.
        columns: a panel each.
        against: by recipe, the one that it is compared with.
    """
    figure = Figure(figsize=(2.4 * len(columns) + 2.5, 0.32 * len(against) + 1.4), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    found = {name: compared(results[name], results[other], columns) for name, other in against.items()}
    for axis, column in zip(axes, columns, strict=True):
        factor = 100 if column.digits is None else 1
        axis.axvline(0, color=_GREY, linewidth=0.8)
        for y, name in enumerate(against):
            if column.key not in found[name]:
                continue
            mean, sure = found[name][column.key]
            low, high = sure or (mean, mean)
            apart = sure is not None and not low <= 0 <= high
            colour = "#d35400" if apart else _GREY
            axis.plot([factor * low, factor * high], [y, y], color=colour, linewidth=1.6)
            axis.plot(factor * mean, y, "o", color=colour, markersize=4)
        axis.set_title(f"{column.title}{' (points)' if column.digits is None else ''}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(against)), list(against), fontsize=8)
    axes[0].set_ylim(len(against) - 0.5, -0.5)
    return figure


def learning_curves(
    series: Mapping[str, Mapping[float, Result]], columns: Sequence[Column], what: str, levels: Mapping[str, Result]
) -> Figure:
    """A panel a metric, a line a recipe with its 95 % interval over scenes.

    Args:
        series: by recipe, results by where they are on the axis.
        columns: a panel each.
        what: the axis.
        levels: results that stand for no place on it, drawn as dashed lines.
    """
    figure = Figure(figsize=(3.6 * len(columns), 3.6), dpi=110, layout="constrained")
    axes = figure.subplots(1, len(columns), squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=True):
        for name, results in series.items():
            points = [(x, *_told(column, result)) for x, result in sorted(results.items())]
            x, mean, low, high = np.array(points).T
            (line,) = axis.plot(x, mean, "o-", label=name, markersize=3, linewidth=1.4)
            axis.fill_between(x, low, high, alpha=0.15, color=line.get_color(), linewidth=0)
        for name, result in levels.items():
            axis.axhline(_told(column, result)[0], color=_GREY, linestyle="--", linewidth=1, label=name)
        _finish(axis, f"{column.title}{' (%)' if column.digits is None else ''}", what)
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)
    return figure


def _told(column: Column, result: Result) -> tuple[float, float, float]:
    """Mean of the policy's and both ends of its interval; NaN where it is not known."""
    part: Any = column.place(result) or {"results": {POLICY: {}}, "intervals": {POLICY: {}}}
    factor = 100 if column.digits is None else 1
    mean = part["results"][POLICY].get(column.name)
    if mean is None:
        return (float("nan"),) * 3
    low, high = part["intervals"][POLICY][column.name] or (mean, mean)
    return factor * mean, factor * low, factor * high


def rollout_curves(jobs: Sequence[Job]) -> Figure:
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
        _finish(axis, title, "agent steps")
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axes[-1].lines):
        axes[-1].set_yscale("log")
    handles = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=8, fontsize=9, frameon=False)
    return figure


def _lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def _finish(axis: Axes, title: str, what: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel(what, fontsize=8)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.grid(alpha=0.3)
