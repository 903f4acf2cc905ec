"""A scene's map, seen from above, and the shapes of which everything on it is made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Scene

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

PAPER, ASPHALT, INK, FAINT = "#f6f5f1", "#e2e4e8", "#2b2f36", "#8a9099"
STOP_SIGN: dict[str, Any] = {"marker": (8, 0, 22.5), "ms": 7, "mfc": "#c8323c", "mec": "white", "mew": 0.9}
_LANE_WIDTH, _BIKE_LANE_WIDTH, _BIKE_LANE = 3.7, 1.6, 3
_YELLOW_LINES, _BROKEN_LINES = (9, 10, 11, 12, 13), (6, 9, 10)
"""Waymo's kinds of lanes and lines, as ``segment_map_type`` counts them."""


@dataclass(frozen=True)
class Viewport:
    """The part of the world that is drawn, and how large."""

    low: tuple[float, float]
    """Least x and y, m."""
    size: tuple[float, float]
    """m."""
    points: float
    """Points (1/72 inch) of a metre."""

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of the drawing."""
        return self.size[0] * self.points / 72, self.size[1] * self.points / 72

    @property
    def scale(self) -> float:
        """Factor on signs and thin lines, which shrink a little where much is shown."""
        return float(np.clip(self.points / 5, 0.7, 1))


# --- shapes --------------------------------------------------------------------------------------------------------


def disc(points: int) -> NDArray[np.float64]:
    """[P, 2] on a circle of radius 1."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


BOX = np.array([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5], [-0.5, 0.5]])
"""[4, 2] of length and width 1."""


def placed(shape: NDArray[np.floating], state: Floats, size: Floats) -> Floats:
    """[N, P, 2] a shape [P, 2] of length and width 1 at states [N, 5] (or x, y, heading) with sizes [N, 2 or 3]."""
    c, s = np.cos(state[:, 2, None]), np.sin(state[:, 2, None])
    along, across = shape[:, 0] * size[:, :1], shape[:, 1] * size[:, 1:2]
    turned = np.stack([c * along - s * across, s * along + c * across], axis=-1)
    return np.asarray(state[:, None, :2] + turned, np.float32)


def polylines(segment: Floats, road: Ints) -> list[Floats]:
    """Lines [P, 2] through segments [S, 5] that follow each other on one road [S]."""
    reach = segment[:, 2:3] * np.stack([np.cos(segment[:, 4]), np.sin(segment[:, 4])], axis=1)
    start, end = segment[:, :2] - reach, segment[:, :2] + reach
    apart = np.abs(start[1:] - end[:-1]).max(axis=1, initial=0.0) > 0.05
    cuts = np.flatnonzero(apart | (road[1:] != road[:-1])) + 1
    bounds = pairwise(sorted({0, *cuts.tolist(), len(segment)}))
    return [np.concatenate([start[a:b], end[b - 1 : b]]) for a, b in bounds]


def stripes(segment: Floats, period: float, slant: float) -> Floats:
    """[K, 4, 2] bars across boxes [S, 5].

    Args:
        segment: the boxes.
        period: m from bar to bar, twice a bar's width; stretched so that a whole number fits.
        slant: how far a bar leans, in periods.
    """
    low, high = -0.25 - slant / 2, 0.25 - slant / 2
    bar = np.array([[low, -0.5], [high, -0.5], [high + slant, 0.5], [low + slant, 0.5]])
    bars = [np.zeros((0, 4, 2), np.float32)]
    for box in segment:
        count = max(int(2 * box[2] / period), 1)
        middles = (np.arange(count) + 0.5) / count - 0.5
        shape = (bar * [1 / count, 1] + middles[:, None, None] * [1, 0]).reshape(-1, 2)
        bars.append(placed(shape, box[None, [0, 1, 4]], 2 * box[None, 2:4]).reshape(-1, 4, 2))
    return np.concatenate(bars)


def dots(places: Any, style: dict[str, Any], scale: float = 1.0, **more: Any) -> Line2D:
    """Markers at places [K, 2], by a factor larger than their style says."""
    x, y = np.asarray(places, np.float64).reshape(-1, 2).T
    sizes = {name: scale * style[name] for name in ("ms", "mew")}
    return Line2D(x, y, linestyle="none", **{**style, **sizes, **more})


# --- the map -------------------------------------------------------------------------------------------------------


def draw_map(axes: Axes, scene: Scene, view: Viewport) -> None:
    """Fill axes, whose size is that of the view, with the map.

    Lanes are asphalt, painted lines are as painted; edges, crosswalks, speed bumps and stop signs.
    """
    (x, y), (width, height) = view.low, view.size
    axes.set(xlim=(x, x + width), ylim=(y, y + height), xticks=[], yticks=[], facecolor=PAPER)
    axes.spines[:].set(color="#d5d7db", linewidth=0.8)

    def lines(kind: RoadType, only: NDArray[np.bool_] | bool = True, **style: Any) -> None:
        chosen = (scene.segment_type == kind) & only
        paths = polylines(scene.segment[chosen], scene.segment_road[chosen])
        axes.add_collection(LineCollection(paths, joinstyle="round", **style), autolim=False)

    def boxes(kind: RoadType, period: float, slant: float, ground: str, paint: str, zorder: float) -> None:
        chosen = scene.segment[scene.segment_type == kind]
        for shapes, colour in (
            (placed(BOX, chosen[:, [0, 1, 4]], 2 * chosen[:, 2:4]), ground),
            (stripes(chosen, period, slant), paint),
        ):
            drawn = PolyCollection(list(shapes), facecolors=colour, edgecolors="none", zorder=zorder)
            axes.add_collection(drawn, autolim=False)

    bike, yellow, broken = (
        np.isin(scene.segment_map_type, kinds) for kinds in ((_BIKE_LANE,), _YELLOW_LINES, _BROKEN_LINES)
    )
    for lane, metres in ((~bike, _LANE_WIDTH), (bike, _BIKE_LANE_WIDTH)):
        lines(RoadType.LANE, lane, colors=ASPHALT, linewidths=metres * view.points, capstyle="round", zorder=1)
    lines(RoadType.LANE, colors="#d2d5da", linewidths=0.6, zorder=1.1)
    boxes(RoadType.CROSSWALK, 1.2, 0.0, "#d6d9de", "#ffffff", 1.2)
    boxes(RoadType.SPEED_BUMP, 1.0, 0.5, "#f3d58a", "#7d6a3c", 1.3)
    for coloured, colour in ((yellow, "#e3b341"), (~yellow, "#ffffff")):
        for dashed, dashes in ((broken, (0, (5, 4))), (~broken, "solid")):
            lines(RoadType.ROAD_LINE, coloured & dashed, colors=colour, linewidths=1.1, linestyles=dashes, zorder=1.4)
    lines(RoadType.ROAD_EDGE, colors="#6b7280", linewidths=1.3, capstyle="round", zorder=1.5)
    signs = scene.segment[scene.segment_type == RoadType.STOP_SIGN]
    axes.add_artist(dots(signs[:, :2], STOP_SIGN, view.scale, zorder=1.6))
