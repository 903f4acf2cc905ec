"""What a drive is like, step by step: motion, neighbours and the road's edge, for comparing drives with the log."""

from __future__ import annotations

import torch
from torch import Tensor

from gail_cli.sim.clearance import clearances
from gail_cli.sim.scenario import DT
from gail_cli.sim.worlds import Worlds

Features = dict[str, Tensor]
"""By name [N, T] of the controlled agents, NaN where undefined; the names are WOSAC's (Montali et al. 2023).

``linear_speed`` (m/s), ``linear_acceleration`` (m/s^2), ``angular_speed`` (rad/s), ``angular_acceleration`` (rad/s^2),
``distance_to_nearest_object`` (m), ``time_to_collision`` (s), ``distance_to_road_edge`` (m).
"""


def features(worlds: Worlds, track: Tensor, present: Tensor, counted: Tensor) -> Features:
    """The features of one drive, or of the log.

    Motion comes from positions and headings by central differences, velocities are not read: so the log's noise in
    them makes no difference, and all dynamics models are measured alike.

    Args:
        worlds: where the agents are.
        track: [M, T, 5] of all agents.
        present: [M, T] bool, who is in its world when.
        counted: [N, T] bool, the steps of the controlled agents that are asked for.
    """
    own = worlds.controlled
    speed = central_difference(track[..., :2], present).norm(dim=-1)
    defined = ~speed.isnan()
    turning = central_difference(track[..., 2:3], present, circular=True)[..., 0]
    nearest, ttc, edge = clearances(worlds, track, present, speed)
    values = {
        "linear_speed": speed[own],
        "linear_acceleration": central_difference(speed[own, :, None], defined[own])[..., 0],
        "angular_speed": turning[own],
        "angular_acceleration": central_difference(turning[own, :, None], defined[own])[..., 0],
        "distance_to_nearest_object": nearest,
        "time_to_collision": ttc,
        "distance_to_road_edge": edge,
    }
    return {name: torch.where(counted, value, torch.nan) for name, value in values.items()}


def central_difference(x: Tensor, valid: Tensor, circular: bool = False) -> Tensor:
    """Change per second of [A, T, D], (x[t + 1] - x[t - 1]) / 0.2 s.

    Args:
        x: [A, T, D].
        valid: [A, T] bool; NaN where a step or one of its two neighbours is not.
        circular: whether x are angles in rad, whose smaller difference counts.
    """
    change = x[:, 2:] - x[:, :-2]
    if circular:
        change = torch.atan2(change.sin(), change.cos())
    known = valid[:, 2:] & valid[:, 1:-1] & valid[:, :-2]
    result = torch.full_like(x, torch.nan)
    result[:, 1:-1] = torch.where(known[..., None], change / (2 * DT), torch.nan)
    return result


def touches(found: Features) -> Tensor:
    """[N] bool: its box of true size met another agent's at some step."""
    return (found["distance_to_nearest_object"] <= 0).any(dim=1)


def leaves_road(found: Features) -> Tensor:
    """[N] bool: a corner of its box of true size was beyond the nearest road edge at some step."""
    return (found["distance_to_road_edge"] > 0).any(dim=1)
