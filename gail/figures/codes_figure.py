"""A picture of what latent codes mean: how everyone drives by each code alone, beside the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from gail_cli.gail.evaluation.codes import REACH, Style
from gail_cli.gail.evaluation.summary import LOG, POLICY
from gail_cli.sim.scenario import DT

_COLOURS = ("#2471a3", "#d35400", "#1e8449", "#8e44ad", "#c0392b", "#16a085", "#7f8c8d", "#b7950b")


class Panel(NamedTuple):
    """A distribution that is shown."""

    feature: str
    unit: str
    bins: tuple[float, float, int]
    """Lowest and highest value, and equal bins between; what lies beyond is in the outermost."""


PANELS = (
    Panel("faster", "speed minus the log's (m/s)", (-6.25, 6.25, 25)),
    Panel("acceleration", "acceleration (m/s²)", (-4.25, 4.25, 17)),
    Panel("gap", "gap to the leader (m)", (0.0, REACH, 25)),
)
COLUMNS = {
    "speed_share": ("speed, % of the log's", 100), "acceleration": ("|acceleration| (m/s²)", 1), "gap": ("gap (m)", 1),
    "ahead": ("ahead at the end (m)", 1), "goal": ("goal, %", 100), "collision": ("collision, %", 100),
    "off_road": ("off-road, %", 100),
}  # fmt: skip
"""Metrics of the table, with their titles and factors."""


def codes_figure(results: Mapping[str, tuple[dict[str, Any], Mapping[str, Style]]]) -> Figure:
    """For each split, how everyone drives by each code alone: distributions, way ahead of the log, and a table.

    Args:
        results: by split, what :func:`gail_cli.gail.evaluation.codes.drive_codes` returned.
    """
    figure = Figure(figsize=(17, 6.4 * len(results)), dpi=100, layout="constrained")
    parts = figure.subfigures(len(results), squeeze=False).flat
    for part, (split, (section, styles)) in zip(parts, results.items(), strict=True):
        part.suptitle(
            f"{split}: everyone drives by one code, {section['agents']} agents in {section['scenes']} scene(s)"
        )
        _draw(part, section, styles)
    return figure


def _draw(part: SubFigure, section: dict[str, Any], styles: Mapping[str, Style]) -> None:
    grid = part.add_gridspec(2, len(PANELS) + 1, height_ratios=(3, 1.3))
    for column, panel in enumerate(PANELS):
        axes = part.add_subplot(grid[0, column])
        edges = np.linspace(panel.bins[0], panel.bins[1], panel.bins[2] + 1)
        if panel.feature != "faster":
            log = shares(getattr(styles[LOG], panel.feature), edges)
            axes.stairs(log, edges, color="#cccccc", fill=True, zorder=0, label=LOG)
        for name, colour in _coded(styles):
            axes.stairs(shares(getattr(styles[name], panel.feature), edges), edges, color=colour, label=name)
        axes.set_xlabel(panel.unit, fontsize=8)
        axes.set_title("share of steps", fontsize=8)
        axes.legend(fontsize=7)
    _draw_ahead(part.add_subplot(grid[0, -1]), styles)
    _draw_table(part.add_subplot(grid[1, :]), section)


def _coded(styles: Mapping[str, Style]) -> Iterator[tuple[str, str]]:
    """Drivers by one code, with their colours."""
    names = [name for name in styles if name not in (POLICY, LOG)]
    for k, name in enumerate(names):
        yield name, _COLOURS[k % len(_COLOURS)]


def shares(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share [B] of values in each bin, of those that are no NaN; those beyond are in the outermost."""
    known = values[~np.isnan(values)].clip(edges[0], edges[-1])
    return np.asarray(np.histogram(known, edges)[0] / max(len(known), 1))


def _draw_ahead(axes: Axes, styles: Mapping[str, Style]) -> None:
    """Mean way ahead of the log over time; the band holds the middle half of the agents."""
    for name, colour in _coded(styles):
        ahead = styles[name].ahead
        times = np.flatnonzero((~np.isnan(ahead)).any(axis=0))
        seconds, there = times * DT, ahead[:, times]
        axes.plot(seconds, np.nanmean(there, axis=0), color=colour, label=name)
        axes.fill_between(seconds, *np.nanpercentile(there, (25, 75), axis=0), color=colour, alpha=0.12, linewidth=0)
    axes.axhline(0, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xlabel("time (s)", fontsize=8)
    axes.set_title("ahead of the log (m): mean, and the middle half of the agents", fontsize=8)
    axes.legend(fontsize=7)


def _draw_table(axes: Axes, section: dict[str, Any]) -> None:
    axes.axis("off")
    cells = [[cell(section, name, key) for key in COLUMNS] for name in section["results"]]
    titles = [title for title, _ in COLUMNS.values()]
    table = axes.table(cells, rowLabels=list(section["results"]), colLabels=titles, loc="center", cellLoc="center")
    table.auto_set_font_size(False)
    table.set_fontsize(8)


def cell(section: dict[str, Any], driver: str, name: str) -> str:
    """A mean with its 95 % interval over scenes."""
    mean, sure, factor = section["results"][driver][name], section["intervals"][driver][name], COLUMNS[name][1]
    digits = 1 if factor > 1 else 2
    if mean is None:
        return "-"
    spread = "" if sure is None else f" ({factor * sure[0]:.{digits}f} to {factor * sure[1]:.{digits}f})"
    return f"{factor * mean:.{digits}f}{spread}"
