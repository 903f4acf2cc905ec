"""A picture of an evaluation: how realistic each driver is, and how its driving is distributed."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gail_cli.gail.evaluation.realism import COMPONENTS
from gail_cli.gail.evaluation.summary import DISTRIBUTIONS, LOG, SceneScores

_COLOURS = ("#d35400", "#8e44ad", "#2471a3", "#1e8449", "#7f8c8d")
_UNITS = ("speed (m/s)", "acceleration (m/s²)", "yaw rate (rad/s)", "nearest agent (m)")


def evaluation_figure(results: dict[str, dict[str, Any]]) -> Figure:
    """For each split, how realistic each driver is, component by component, and how its driving is distributed.

    Args:
        results: by split, what :func:`gail_cli.gail.evaluation.evaluate.evaluate` returned.
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
            for driver, colour in zip(scores.sums, _COLOURS, strict=False):
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
    """Bars of the realism and of its components, a colour per driver, with intervals."""
    titles = {f"realism_{year}": f"realism ({year})" for year in (2025, 2024)}
    titles |= {f"likelihood_{c.name}": c.name.replace("_", " ").replace(" to ", "\nto ") for c in COMPONENTS}
    width = 0.8 / len(result["results"])
    for k, (driver, colour) in enumerate(zip(result["results"], _COLOURS, strict=False)):
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
