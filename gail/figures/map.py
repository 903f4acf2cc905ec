"""The map of a scene, seen from above."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gail_cli.gail.figures.shapes import BOX, placed, polylines, stripes
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Scene

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
        """Width and height of the map on paper."""
        return self.size[0] * self.points / 72, self.size[1] * self.points / 72

    @property
    def scale(self) -> float:
        """Factor on markers and thin lines, which shrink a little where much is shown."""
        return float(np.clip(self.points / 5, 0.7, 1))


def markers(places: Any, style: dict[str, Any], scale: float = 1.0, **more: Any) -> Line2D:
    """Markers at places [K, 2], by a factor larger than their style says."""
    x, y = np.asarray(places, np.float64).reshape(-1, 2).T
    sizes = {name: scale * style[name] for name in ("ms", "mew")}
    return Line2D(x, y, linestyle="none", **{**style, **sizes, **more})


def draw_map(axes: Axes, scene: Scene, viewport: Viewport) -> None:
    """Draw the map into axes, whose size is that of the viewport.

    Lanes are asphalt, painted lines are as painted; edges, crosswalks, speed bumps and stop signs.
    """
    (x, y), (width, height) = viewport.low, viewport.size
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
        lines(RoadType.LANE, lane, colors=ASPHALT, linewidths=metres * viewport.points, capstyle="round", zorder=1)
    lines(RoadType.LANE, colors="#d2d5da", linewidths=0.6, zorder=1.1)
    boxes(RoadType.CROSSWALK, 1.2, 0.0, "#d6d9de", "#ffffff", 1.2)
    boxes(RoadType.SPEED_BUMP, 1.0, 0.5, "#f3d58a", "#7d6a3c", 1.3)
    for coloured, colour in ((yellow, "#e3b341"), (~yellow, "#ffffff")):
        for dashed, dashes in ((broken, (0, (5, 4))), (~broken, "solid")):
            lines(RoadType.ROAD_LINE, coloured & dashed, colors=colour, linewidths=1.1, linestyles=dashes, zorder=1.4)
    lines(RoadType.ROAD_EDGE, colors="#6b7280", linewidths=1.3, capstyle="round", zorder=1.5)
    stop_signs = scene.segment[scene.segment_type == RoadType.STOP_SIGN]
    axes.add_artist(markers(stop_signs[:, :2], STOP_SIGN, viewport.scale, zorder=1.6))
