"""A figure of an episode: what moves, over the map, with a title above and counts below.

The map is drawn once; what moves is made for the step that is shown, by pure functions, and thrown away.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path as Shape
from numpy.typing import NDArray

from gail_cli.gail.figures.episode import EVENT_KINDS, Episode, EpisodeEvent, count_text, known_counts, list_events
from gail_cli.gail.figures.map import FAINT, INK, Viewport, draw_map, markers
from gail_cli.gail.figures.shapes import BOX, disc, placed
from gail_cli.sim.scenario import DT, AgentType, LightState
from gail_cli.sim.scene import Scene

COLOURS = (
    "#1f6fd6", "#e8590c", "#2b8a3e", "#8e44c9", "#0b9aa8", "#d6408f", "#8a5a2b", "#5b7f00", "#3b3fae", "#b8860b",
)  # fmt: skip
"""Colours of controlled agents, in turn."""
MOVING, PARKED = ("#9aa1ad", "#5d6470"), ("#d3d6dc", "#b3b8c1")
"""Colours of face and edge of agents that follow their log."""
MARKERS: dict[str, dict[str, Any]] = {
    "goal": {"marker": "o", "ms": 9.5, "mfc": INK, "mec": "white", "mew": 0.9},
    "collision": {"marker": (9, 1, 0), "ms": 14, "mfc": "#e0142e", "mec": "white", "mew": 0.9},
    "off-road": {"marker": "^", "ms": 10.5, "mfc": "#ffb700", "mec": INK, "mew": 1.1},
}
_TICK = {"marker": Shape([(-0.5, 0.05), (-0.12, -0.38), (0.55, 0.45)]), "ms": 4.6, "mfc": "none", "mec": "white",
         "mew": 1.3}  # fmt: skip
_LIGHT = {"marker": "o", "ms": 5.5, "mec": "white", "mew": 0.8}
_LIGHTS = {
    **dict.fromkeys((LightState.STOP, LightState.ARROW_STOP, LightState.FLASHING_STOP), "#d64545"),
    **dict.fromkeys((LightState.CAUTION, LightState.ARROW_CAUTION, LightState.FLASHING_CAUTION), "#f2b134"),
    **dict.fromkeys((LightState.GO, LightState.ARROW_GO), "#3aa655"),
}
_OUTLINES = {
    AgentType.PEDESTRIAN: disc(20) * 0.5,
    AgentType.CYCLIST: np.array([[0.5, 0.0], [0.2, -0.5], [-0.2, -0.5], [-0.5, 0.0], [-0.2, 0.5], [0.2, 0.5]]),
}
"""Shapes [P, 2] of agents that are no boxes; length and width are 1, and forward is x."""
_POINTER = np.array([[0.42, 0.0], [0.14, 0.34], [0.14, -0.34]])
"""A triangle that shows the heading."""

# --- what moves ----------------------------------------------------------------------------------------------------


def colours(episode: Episode) -> NDArray[np.float64]:
    """[N, 4] of the controlled agents."""
    return to_rgba_array([COLOURS[n % len(COLOURS)] for n in range(len(episode.controlled))])


def outlines(episode: Episode, agents: NDArray[np.int64], steps: NDArray[np.int64]) -> list[NDArray[np.float32]]:
    """Outlines [P, 2] of agents [K], each at its step [K]: boxes, discs of pedestrians, lozenges of cyclists."""
    shapes = [_OUTLINES.get(AgentType(kind), BOX) for kind in episode.scene.agent_type[episode.row[agents]]]
    state, size = episode.state[agents, steps], episode.size[agents]
    return [placed(shape, state[[k]], size[[k]])[0] for k, shape in enumerate(shapes)]


def agent_boxes(episode: Episode, steps: NDArray[np.int64], shown: NDArray[np.bool_], scale: float) -> list[Artist]:
    """Everyone who is shown [M], each at its step [M], with its heading; ``scale`` is a factor on thin lines."""
    strong = np.zeros(len(shown), np.bool_)
    strong[episode.controlled] = True
    face, edge = np.ones((2, len(shown), 4))
    face[episode.controlled] = colours(episode)
    for group, pair in ((episode.parked, PARKED), (~episode.parked & ~strong, MOVING)):
        face[group], edge[group] = map(to_rgba, pair)
    artists: list[Artist] = []
    for zorder, group in ((3, episode.parked), (3.2, ~episode.parked & ~strong), (4, strong)):
        chosen = np.flatnonzero(group & shown)
        pointers = placed(_POINTER, episode.state[chosen, steps[chosen]], episode.size[chosen])
        style: dict[str, Any] = {"facecolors": face[chosen], "edgecolors": edge[chosen], "linewidths": 0.8 * scale}
        artists += [
            PolyCollection(outlines(episode, chosen, steps[chosen]), zorder=zorder, **style),
            PolyCollection(list(pointers), facecolors=edge[chosen], edgecolors="none", zorder=zorder + 0.1),
        ]
    return artists


def trails(episode: Episode, rows: NDArray[np.int64], until: int, **style: Any) -> LineCollection:
    """Paths of agents [K] up to a step."""
    paths = [episode.state[row, : until + 1][episode.present[row, : until + 1], :2] for row in rows]
    return LineCollection(paths, capstyle="round", joinstyle="round", **style)


def whole_seconds(episode: Episode, agent: int) -> NDArray[np.int64]:
    """Whole seconds (as steps) at which an agent's box does not overlap later ones, nor the one where it was last."""
    there = np.flatnonzero(episode.present[agent])
    kept: list[int] = there[-1:].tolist()
    for step in there[there % round(1 / DT) == 0][::-1].tolist():
        distance = np.linalg.norm(episode.state[agent, kept, :2] - episode.state[agent, step, :2], axis=1)
        if distance.min() > episode.size[agent, 0]:
            kept.append(step)
    return np.array(kept[:0:-1], np.int64)


def earlier_boxes(episode: Episode) -> list[Artist]:
    """Boxes of the controlled agents on their way; later ones are less transparent."""
    artists: list[Artist] = []
    for colour, agent in zip(colours(episode), episode.controlled.tolist(), strict=True):
        steps = whole_seconds(episode, agent)
        face = np.tile(colour, (len(steps), 1))
        face[:, 3] = 0.12 + 0.4 * steps / episode.steps
        shapes = outlines(episode, np.full(len(steps), agent), steps)
        artists.append(PolyCollection(shapes, facecolors=face, edgecolors="none", zorder=2.9))
    return artists


def logged_paths(episode: Episode) -> LineCollection:
    """Where the log of the controlled agents goes."""
    rows = episode.row[episode.controlled]
    paths = [episode.scene.log[row][episode.scene.valid[row], :2] for row in rows]
    style: Any = (0, (1, 2))
    return LineCollection(paths, colors=colours(episode), linewidths=1.0, linestyles=style, alpha=0.6, zorder=2.3)


def goals(episode: Episode, reached: set[int]) -> PolyCollection:
    """Circles of the goal radius, filled when reached."""
    face = colours(episode)
    face[:, 3] = [0.85 if n in reached else 0.15 for n in range(len(face))]
    circles = episode.goal[:, None] + episode.goal_radius * disc(40)
    return PolyCollection(list(circles), facecolors=face, edgecolors=colours(episode), linewidths=1.3, zorder=2.5)


def lights(scene: Scene, step: int, scale: float) -> list[Artist]:
    """Traffic lights at their stop lines; ``scale`` is a factor on their size."""
    state = scene.light_state[:, min(step, scene.num_steps - 1)]
    return [
        markers(scene.light_stop_point[state == light], _LIGHT, scale, mfc=colour, zorder=2.6)
        for light, colour in _LIGHTS.items()
    ]


def event_markers(episode: Episode, events: Sequence[EpisodeEvent], viewport: Viewport) -> list[Artist]:
    """Markers that stay where something happened; those of goals stand beside them, where they hide no agent."""
    beside = (episode.goal_radius + viewport.scale * MARKERS["goal"]["ms"] / 2 / viewport.points) / np.sqrt(2)
    places = {
        kind: np.array([event.place for event in events if event.kind == kind]).reshape(-1, 2) for kind in EVENT_KINDS
    }
    places["goal"] += beside
    return [artist for kind, at in places.items() for artist in _marker(kind, at, viewport.scale)]


def _marker(kind: str, places: Any, scale: float = 1.0) -> list[Artist]:
    """The marker of a kind of event at places [K, 2]."""
    layers = [MARKERS[kind], _TICK] if kind == "goal" else [MARKERS[kind]]
    return [markers(places, layer, scale, zorder=5) for layer in layers]


# --- the figure ----------------------------------------------------------------------------------------------------

_LARGEST = (10.0, 7.5)
"""Inches of the map."""
_ASPECTS = (0.85, 2.1)
"""Width over height of the narrowest and the widest viewport."""
_MARGIN = 12.0
"""Around what is shown, m."""
_LEAST = 60.0
"""Smallest width of a viewport, m."""
_TOP, _BOTTOM, _SIDE = 0.46, 0.42, 0.12
"""Inches of the strips above and below the map, and of its other margins."""
_COUNTS = {"goal": -4.0, "collision": -2.3, "off-road": -1.05}
"""Inches from the right where the counts stand."""
_LONGEST_ID = 34
_BARS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Lengths of the scale bar, m."""


def viewport(episode: Episode) -> Viewport:
    """The part of the world that holds all that the controlled agents do, and their goals."""
    there = episode.state[episode.controlled][episode.present[episode.controlled]][:, :2]
    places = np.concatenate([there, episode.goal])
    low, high = places.min(axis=0) - _MARGIN, places.max(axis=0) + _MARGIN
    (x, y), (width, height) = ((low + high) / 2).tolist(), (high - low).tolist()
    width = max(width, _LEAST, height * _ASPECTS[0])
    height = max(height, width / _ASPECTS[1])
    points = 72 * min(_LARGEST[0] / width, _LARGEST[1] / height)
    return Viewport((x - width / 2, y - height / 2), (width, height), points)


class EpisodeFigure:
    """A figure with the map, a title above and a scale below; what moves is drawn over it.

    Args:
        episode: what is shown.
        dpi: dots an inch.
    """

    def __init__(self, episode: Episode, dpi: float) -> None:
        self.episode, self.viewport, self._events = episode, viewport(episode), list_events(episode)
        width, height = self.viewport.inches
        self._size = width + 2 * _SIDE, height + _TOP + _BOTTOM
        self.figure = Figure(figsize=self._size, dpi=dpi, facecolor="white")
        self._canvas: Any = FigureCanvasAgg(self.figure)  # it has no annotations
        self.axes = self.figure.add_axes((*self._at(_SIDE, _BOTTOM), width / self._size[0], height / self._size[1]))
        draw_map(self.axes, episode.scene, self.viewport)
        self._title()
        self._scale()
        self._canvas.draw()  # type: ignore[no-untyped-call]
        self._map = self._canvas.copy_from_bbox(self.figure.bbox)  # type: ignore[no-untyped-call]

    def frame(self, step: int) -> NDArray[np.uint8]:
        """[H, W, 3] the picture of a step, with what happened until then."""
        self._canvas.restore_region(self._map)
        for artist in self._add(self._step_artists(step), step):
            artist.draw(self._canvas.get_renderer())
            artist.remove()
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()

    def whole(self) -> Figure:
        """The figure with the whole episode."""
        self._add(self._episode_artists(), self.episode.steps - 1)
        return self.figure

    def _step_artists(self, step: int) -> list[Artist]:
        """Everyone at a step, and the paths that led there."""
        e = self.episode
        paths = trails(e, e.controlled, step, colors=colours(e), linewidths=2.2, alpha=0.55, zorder=2.8)
        return [paths, *agent_boxes(e, np.full(len(e.row), step), e.present[:, step], self.viewport.scale)]

    def _episode_artists(self) -> list[Artist]:
        """Paths, boxes on the way, and everyone where it was last."""
        e = self.episode
        others = np.setdiff1d(np.flatnonzero(~e.parked), e.controlled)
        last = e.steps - 1 - e.present[:, ::-1].argmax(axis=1)
        return [
            trails(e, others, e.steps, colors=MOVING[0], linewidths=1.2, alpha=0.6, zorder=2.2),
            trails(e, e.controlled, e.steps, colors=colours(e), linewidths=1.6, alpha=0.8, zorder=2.8),
            *earlier_boxes(e),
            *agent_boxes(e, last, np.asarray(e.present.any(axis=1)), self.viewport.scale),
        ]

    def _add(self, artists: list[Artist], step: int) -> list[Artist]:
        """Add artists, and what every picture has: goals, lights, markers, clock, counts; all of them, lowest first."""
        events = [event for event in self._events if event.step <= step]
        reached = {event.agent for event in events if event.kind == "goal"}
        artists = [
            logged_paths(self.episode),
            goals(self.episode, reached),
            *lights(self.episode.scene, step, self.viewport.scale),
            *artists,
            *event_markers(self.episode, events, self.viewport),
        ]
        for artist in artists:
            if isinstance(artist, (LineCollection, PolyCollection)):
                self.axes.add_collection(artist, autolim=False)
            else:
                self.axes.add_artist(artist)
        clock = self._text(-_SIDE, -_TOP / 2, f"{step * DT:.1f} s", ha="right", weight="bold", fontsize=12)
        numbers = [
            self._text(_COUNTS[kind] + 0.14, _BOTTOM / 2, count_text(kind, count, len(self.episode.controlled)),
                       color=INK if count else FAINT, fontsize=9)
            for kind, count in known_counts(self.episode, events).items()
        ]  # fmt: skip
        return [*sorted(artists, key=lambda artist: artist.get_zorder()), clock, *numbers]

    def _at(self, x: float, y: float) -> tuple[float, float]:
        """The place x inches from the left (right, if negative) and y from the bottom (top), in parts of the figure."""
        width, height = self._size
        return x % width / width, y % height / height

    def _text(self, x: float, y: float, text: str, **style: Any) -> Artist:
        style = {"fontsize": 10, "color": INK, "va": "center", "parse_math": False, **style}
        return self.figure.text(*self._at(x, y), text, **style)

    def _title(self) -> None:
        title = self._text(_SIDE, -_TOP / 2, self.episode.title, weight="bold", fontsize=12)
        end = title.get_window_extent(self._canvas.get_renderer()).x1 / self.figure.dpi
        name, half = self.episode.scene.id, _LONGEST_ID // 2
        short = name if len(name) <= _LONGEST_ID else f"{name[:half]}…{name[-half:]}"
        self._text(end + 0.15, -_TOP / 2, f"scene {short}", color=FAINT)

    def _scale(self) -> None:
        """The scale bar, and the markers in front of the counts."""
        metres = max(length for length in _BARS if length <= self.viewport.size[0] / 6)
        length, y = metres * self.viewport.points / 72, _BOTTOM / 2
        corners = [(_SIDE, y + 0.05), (_SIDE, y - 0.03), (_SIDE + length, y - 0.03), (_SIDE + length, y + 0.05)]
        xs, ys = zip(*(self._at(*corner) for corner in corners), strict=True)
        self.figure.add_artist(Line2D(xs, ys, color=INK, linewidth=1.3, solid_joinstyle="miter"))
        self._text(_SIDE + length + 0.1, y, f"{metres} m", fontsize=9)
        for kind, x in _COUNTS.items():
            for artist in _marker(kind, self._at(x, y)):
                self.figure.add_artist(artist)
