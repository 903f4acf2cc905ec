"""Pictures: a scene from above, the curves of a run, and an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from numpy.typing import NDArray

from gail_cli.gail.evaluation.realism import COMPONENTS
from gail_cli.gail.evaluation.summary import DISTRIBUTIONS, LOG, SceneScores
from gail_cli.gail.figures.map import BOX, Viewport, draw_map, placed
from gail_cli.sim.scene import Scene

_COLOURS = ("#222222", "#2471a3", "#d35400", "#1e8449")
_MARGIN = 15.0
"""m around what is shown."""
_PANEL, _SIDE, _TOP = 5.8, 0.1, 0.55
"""Inches of a panel, at its sides, and above it."""


def draw_boxes(
    axes: Axes, state: NDArray[np.float32], size: NDArray[np.float32], colour: str, alpha: float = 1.0
) -> None:
    """Agents' boxes at states [N, 5]."""
    boxes = list(placed(BOX, state, size))
    axes.add_collection(PolyCollection(boxes, facecolors=colour, edgecolors="none", alpha=alpha, zorder=3))


def scene_figure(
    scene: Scene, agents: NDArray[np.int64], tracks: dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]
) -> Figure:
    """One panel a way of driving, from above: boxes at the start, paths, goals.

    Args:
        scene: the scene.
        agents: [N] rows of the controlled agents.
        tracks: by title: tracks [N, T, 5] of these agents and where [N, T] they hold.
    """
    width, height = len(tracks) * (_PANEL + 2 * _SIDE), _SIDE + _PANEL + _TOP
    figure = Figure(figsize=(width, height), dpi=130)
    everyone = scene.log[agents][scene.valid[agents]][:, :2]
    low, high = everyone.min(axis=0) - _MARGIN, everyone.max(axis=0) + _MARGIN
    side = float(max(high - low))
    x, y = ((low + high - side) / 2).tolist()
    view = Viewport((x, y), (side, side), 72 * _PANEL / side)
    others = np.setdiff1d(np.flatnonzero(scene.valid[:, 0]), agents)
    for column, (title, (track, holds)) in enumerate(tracks.items()):
        left = _SIDE + column * (_PANEL + 2 * _SIDE)
        axes = figure.add_axes((left / width, _SIDE / height, _PANEL / width, _PANEL / height))
        colour = _COLOURS[column % len(_COLOURS)]
        draw_map(axes, scene, view)
        draw_boxes(axes, scene.log[others, 0], scene.agent_size[others], "#b0b0b0")
        draw_boxes(axes, track[:, 0], scene.agent_size[agents], colour, alpha=0.9)
        paths = [t[h][:, :2] for t, h in zip(track, holds, strict=True)]
        axes.add_collection(LineCollection(paths, colors=colour, linewidths=2.0, zorder=4))
        last = np.stack([t[np.flatnonzero(h)[-1]] for t, h in zip(track, holds, strict=True)])
        draw_boxes(axes, last, scene.agent_size[agents], colour, alpha=0.35)
        goal = scene.goal[agents]
        axes.scatter(goal[:, 0], goal[:, 1], marker="x", s=28, color="#c0392b", linewidths=1.2, zorder=5)
        axes.set_title(title)
    figure.suptitle(
        f"scene {scene.id}: boxes solid at the start, pale at the end; crosses are goals; grey agents follow the log",
        fontsize=9,
    )
    return figure


_PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("warm start: -log pi(expert action)", "cloning steps", ("bc/loss",)),
    ("discriminator accuracy", "agent steps", ("discriminator/expert_accuracy", "discriminator/policy_accuracy")),
    ("reward a step", "agent steps", ("reward/gail", "reward/event")),
    ("rollouts: share of agents", "agent steps", ("rollout/goal", "rollout/collision", "rollout/off_road")),
    ("PPO", "agent steps", ("ppo/approx_kl", "ppo/clip_fraction", "ppo/explained_variance")),
    ("beside PPO", "agent steps", ("ppo/entropy", "ppo/bc_loss")),
)


def curves_figure(run: str | Path) -> Figure:
    """The curves of a run, from its ``metrics.jsonl``."""
    lines: list[dict[str, Any]] = [json.loads(x) for x in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(13, 7), dpi=100, layout="constrained")
    for place, (title, unit, names) in enumerate(_PANELS):
        axes = figure.add_subplot(2, 3, place + 1)
        for name in names:
            points = [(line["step"], line[name]) for line in lines if name in line]
            if points:
                axes.plot(*zip(*points, strict=True), marker=".", label=name.split("/")[1].replace("_", " "))
        if "accuracy" in title:
            axes.axhline(0.5, color="#999999", linewidth=0.8, linestyle=":")
            axes.set_ylim(0, 1)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel(unit, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.grid(alpha=0.2)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    return figure


_DRIVERS = ("#d35400", "#8e44ad", "#2471a3", "#1e8449", "#7f8c8d")
_UNITS = ("speed (m/s)", "acceleration (m/s²)", "yaw rate (rad/s)", "nearest agent (m)")


def evaluation_figure(results: dict[str, dict[str, Any]]) -> Figure:
    """For each split, how realistic each driver is, component by component, and how its driving is distributed.

    Args:
        results: by split, what :func:`gail.evaluation.evaluate.evaluate` returned.
    """
    figure = Figure(figsize=(15, 6.2 * len(results)), dpi=100, layout="constrained")
    for part, (split, result) in zip(figure.subfigures(len(results), squeeze=False).flat, results.items(), strict=True):
        part.suptitle(f"{split}: {result['agents']} agents in {result['scenes']} scenes")
        grid = part.add_gridspec(2, len(DISTRIBUTIONS))
        _draw_realism(part.add_subplot(grid[0, :]), result)
        scores = SceneScores.from_json(result["per_scene"])
        for column, (name, bins) in enumerate(DISTRIBUTIONS.items()):
            axes = part.add_subplot(grid[1, column])
            edges = np.linspace(bins[0], bins[1], bins[2] + 1)
            for driver, colour in zip(scores.sums, _DRIVERS, strict=False):
                axes.stairs(_density(scores.histograms[driver][name]), edges, color=colour, linewidth=1.0)
            axes.stairs(
                _density(scores.histograms[LOG][name]), edges, color="#bbbbbb", fill=True, zorder=0, label="log"
            )
            axes.set_yscale("log")
            axes.set_xlabel(_UNITS[column], fontsize=8)
            axes.set_title("share of steps", fontsize=8)
            axes.legend(fontsize=7)
    return figure


def _density(histogram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of steps [B] in each bin, over all scenes [S, B]."""
    total = histogram.sum(axis=0)
    return np.asarray(total / max(total.sum(), 1.0))


def _draw_realism(axes: Axes, result: dict[str, Any]) -> None:
    """Bars of the realism and of its components, a colour a driver, with intervals."""
    titles = {f"realism_{year}": f"realism ({year})" for year in (2025, 2024)}
    titles |= {f"likelihood_{c.name}": c.name.replace("_", " ").replace(" to ", "\nto ") for c in COMPONENTS}
    width = 0.8 / len(result["results"])
    for k, (driver, colour) in enumerate(zip(result["results"], _DRIVERS, strict=False)):
        for place, name in enumerate(titles):
            mean, sure = result["results"][driver][name], result["intervals"][driver][name]
            if mean is not None:
                left = place - 0.4 + (k + 0.5) * width
                axes.bar(left, mean, width, color=colour, label=driver if place == 0 else None)
                axes.plot([left, left], sure or [mean, mean], color="#333333", linewidth=0.8)
    axes.set_xticks(range(len(titles)), list(titles.values()), fontsize=7)
    axes.set_ylim(0, 1)
    axes.set_title("WOSAC-style realism and its components", fontsize=10)
    axes.legend(fontsize=7, ncols=5)
