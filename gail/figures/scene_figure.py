"""A picture of a scene as it was logged, as the experts replay it, and as a policy drives it."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.drivers import drive, drivers, make_env
from gail_cli.gail.figures.map import Viewport, draw_map
from gail_cli.gail.figures.shapes import BOX, placed
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.scene import Scene

_COLOURS = ("#222222", "#2471a3", "#d35400", "#1e8449")
_MARGIN = 15.0
"""Around what is shown, m."""
_PANEL, _SIDE, _TOP = 5.8, 0.1, 0.55
"""Inches of a panel, at its sides, and above it."""


def draw_scene(policy: Policy, config: TrainConfig, store: DemoStore, scene: int) -> Figure:
    """One scene from above: as logged, as the experts replay it, as the policy drives it."""
    records = list(store.read([scene]))
    env, experts = make_env(records, config, store.space, next(policy.parameters()).device)
    rows = experts.worlds.controlled
    tracks = {"logged": (experts.worlds.log[rows], experts.worlds.valid[rows])}
    driven = drivers(policy, experts, deterministic=True, generator=torch.Generator())
    for name in ("expert replayed", "policy"):
        result = drive(env, driven[name])
        tracks[name] = (result.track, result.driven)
    agents = np.array([agent for _, agent in experts.worlds.controlled_agents()])
    return scene_figure(
        records[0].scene, agents, {name: (t.cpu().numpy(), h.cpu().numpy()) for name, (t, h) in tracks.items()}
    )


def draw_boxes(
    axes: Axes, state: NDArray[np.float32], size: NDArray[np.float32], colour: str, alpha: float = 1.0
) -> None:
    """Agents' boxes at states [N, 5]."""
    boxes = list(placed(BOX, state, size))
    axes.add_collection(PolyCollection(boxes, facecolors=colour, edgecolors="none", alpha=alpha, zorder=3))


def scene_figure(
    scene: Scene, agents: NDArray[np.int64], tracks: dict[str, tuple[NDArray[np.float32], NDArray[np.bool_]]]
) -> Figure:
    """One panel per way of driving, from above: boxes at the start, paths, goals.

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
    viewport = Viewport((x, y), (side, side), 72 * _PANEL / side)
    others = np.setdiff1d(np.flatnonzero(scene.valid[:, 0]), agents)
    for column, (title, (track, holds)) in enumerate(tracks.items()):
        left = _SIDE + column * (_PANEL + 2 * _SIDE)
        axes = figure.add_axes((left / width, _SIDE / height, _PANEL / width, _PANEL / height))
        colour = _COLOURS[column % len(_COLOURS)]
        draw_map(axes, scene, viewport)
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
