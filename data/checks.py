"""What no generated scene may contain: touching boxes, vehicles across a road edge, motion no driver would make."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gail_cli.data.agents import Agent
from gail_cli.data.geometry import Array, box_crosses_segment, boxes_overlap, corners
from gail_cli.data.traffic import Mask
from gail_cli.sim.scenario import DT, AgentType

MARGIN = 0.1
"""Metres by which boxes are enlarged, in length and width, before they are compared."""
MAX_ACCELERATION = 4.0
"""m/s², either sign."""
MAX_LATERAL = 3.0
"""m/s²."""


def fault(agents: Sequence[Agent], edges: Sequence[Array]) -> str | None:
    """The first thing that is wrong with the traffic, as part of a sentence; None when all is well."""
    position = np.stack([agent.position for agent in agents])
    heading = np.stack([agent.heading for agent in agents])
    present = np.stack([agent.present for agent in agents])
    size = np.stack([agent.size[:2] + MARGIN for agent in agents])
    if _overlap(position, heading, present, size):
        return "two boxes overlap"
    wheels = np.array([agent.type != AgentType.PEDESTRIAN for agent in agents])
    if _across_edge(position[wheels], heading[wheels], present[wheels], size[wheels], edges):
        return "a vehicle crosses a road edge"
    for agent in agents:
        change = np.diff(agent.speed)[agent.present[1:]] / DT
        turning = (np.diff(agent.heading) / DT * agent.speed[1:])[agent.present[1:]]
        if np.abs(change).max(initial=0) > MAX_ACCELERATION or np.abs(turning).max(initial=0) > MAX_LATERAL:
            return "a driver accelerates implausibly"
    return None


def _overlap(position: Array, heading: Array, present: Mask, size: Array) -> bool:
    """Whether any two boxes overlap at any step; arrays are [A, T, ...], sizes [A, 2]."""
    first, second = np.triu_indices(len(position), 1)
    reach = np.hypot(*size.T) / 2
    distance = np.hypot(*np.moveaxis(position[first] - position[second], -1, 0))
    near = (distance < (reach[first] + reach[second])[:, None]) & present[first] & present[second]
    pair, step = np.nonzero(near)
    boxes = [corners(position[i, step], heading[i, step], size[i]) for i in (first[pair], second[pair])]
    return bool(boxes_overlap(*boxes).any())


def _across_edge(position: Array, heading: Array, present: Mask, size: Array, edges: Sequence[Array]) -> bool:
    """Whether any box touches any segment of the edges at any step."""
    start = np.concatenate([edge[:-1] for edge in edges])
    end = np.concatenate([edge[1:] for edge in edges])
    middle, reach = (start + end) / 2, np.hypot(*(end - start).T) / 2
    for centres, angles, there, extent in zip(position, heading, present, size, strict=True):
        limit = np.hypot(*extent) / 2 + reach
        step, segment = np.nonzero(((centres[:, None] - middle) ** 2).sum(-1) < limit**2)
        step, segment = step[there[step]], segment[there[step]]
        extents = np.broadcast_to(extent, (len(step), 2))
        if box_crosses_segment(centres[step], angles[step], extents, start[segment], end[segment]).any():
            return True
    return False
