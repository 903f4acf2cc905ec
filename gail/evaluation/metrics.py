"""How well agents drove, measured against their logs; small pure functions over trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.gail.evaluation.features import Features
from gail_cli.sim.kernels import Event

MAX_ACCELERATION = 8.0
"""Largest acceleration along and across, m/s^2: about what dry asphalt holds (friction coefficient 0.8)."""
MAX_CURVATURE = 0.3
"""Largest curvature of a path, 1/m: a car turns within 3.3 m at best (the limit of Waymax, Gulino et al. 2023)."""
_TURN_IN_PLACE = 0.1
"""Turning that is taken for noise in headings at any speed, rad/s."""


@dataclass(frozen=True)
class AgentMetrics:
    """One value per controlled agent, [N] each."""

    goal: NDArray[np.bool_]
    """Came within the goal radius of where its log ends, at some step."""
    collision: NDArray[np.bool_]
    """Touched another agent at some step."""
    off_road: NDArray[np.bool_]
    """Touched a road edge (or a stop sign's post) at some step."""
    safe_success: NDArray[np.bool_]
    """At its goal, and neither of the two."""
    ade: NDArray[np.float32]
    """Mean distance from the log over logged steps after the first, m."""
    fde: NDArray[np.float32]
    """Distance from the log at its last logged step, m."""
    full_collision: NDArray[np.bool_]
    """As ``collision``, with boxes of true size whatever those of the rules."""
    full_off_road: NDArray[np.bool_]
    """A corner of its box of true size lay beyond the nearest road edge (Waymo's measure) at some step."""
    full_safe_success: NDArray[np.bool_]
    """At its goal, and neither of these two."""
    red_light: NDArray[np.float64]
    """1 if it ran a red light at some step, 0 if not; NaN for who is no vehicle, or where there are no lights."""


def displacement_errors(position: Tensor, log: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """ADE and FDE [N].

    Args:
        position: [N, T, 2] driven.
        log: [N, T, 2] logged.
        valid: [N, T] bool, where both are to be compared; at least once per agent.
    """
    distance = (position - log).norm(dim=-1)
    ade = (distance * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    steps = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, steps, 0).amax(dim=1)
    return ade, distance.gather(1, last[:, None]).squeeze(1)


def agent_metrics(
    position: Tensor,
    log: Tensor,
    valid: Tensor,
    events: Tensor,
    full_collision: Tensor,
    full_off_road: Tensor,
    obeys_lights: Tensor | None = None,
) -> AgentMetrics:
    """All metrics of N agents over T steps.

    Args:
        position: [N, T, 2] driven.
        log: [N, T, 2] logged.
        valid: [N, T] bool, logged steps that the agent also drove; the first step is left out.
        events: [N, 5] bool, what happened to each agent at any step while it drove.
        full_collision: [N] bool, whether a box of true size ever touched another.
        full_off_road: [N] bool, whether a corner of it was ever beyond the road's edge.
        obeys_lights: [N] bool, who is a vehicle where there are lights; nobody when None.
    """
    counted = valid.clone()
    counted[:, 0] = False
    ade, fde = displacement_errors(position, log, counted)
    goal = events[:, Event.GOAL]
    collision, off_road = events[:, Event.VEHICLE] | events[:, Event.NON_VEHICLE], events[:, Event.OFF_ROAD]
    safe, full_safe = goal & ~collision & ~off_road, goal & ~full_collision & ~full_off_road
    red = torch.full_like(ade, torch.nan, dtype=torch.float64)
    if obeys_lights is not None:
        red = torch.where(obeys_lights, events[:, Event.RED_LIGHT].double(), red)
    values = (goal, collision, off_road, safe, ade, fde, full_collision, full_off_road, full_safe, red)
    return AgentMetrics(*(x.cpu().numpy() for x in values))


def over_rollouts(rollouts: Sequence[AgentMetrics]) -> dict[str, NDArray[np.float64]]:
    """The smallest errors of each agent [N] over K drives, and the mean of each metric over them."""
    stacked = {f.name: np.stack([getattr(m, f.name) for m in rollouts]) for f in fields(AgentMetrics)}
    least = {f"min_{name}": stacked[name].min(axis=0).astype(np.float64) for name in ("ade", "fde")}
    return least | {f"drawn_{name}": values.mean(axis=0, dtype=np.float64) for name, values in stacked.items()}


def infeasibility(found: Features, vehicle: Tensor) -> dict[str, NDArray[np.float64]]:
    """Share [N] of each vehicle's steps that no car could drive; NaN for agents that are none.

    ``infeasible`` is any of: ``infeasible_acceleration`` (it gains or loses speed faster than
    :data:`MAX_ACCELERATION`), ``infeasible_lateral`` (so does speed times yaw rate), ``infeasible_curvature`` (it turns
    more sharply than :data:`MAX_CURVATURE`).

    Args:
        found: features of a drive.
        vehicle: [N] bool.
    """
    speed, turning = found["linear_speed"], found["angular_speed"].abs()
    parts = {
        "infeasible_acceleration": found["linear_acceleration"].abs() > MAX_ACCELERATION,
        "infeasible_lateral": speed * turning > MAX_ACCELERATION,
        "infeasible_curvature": turning > MAX_CURVATURE * speed + _TURN_IN_PLACE,
    }
    known = ~speed.isnan() & vehicle[:, None]
    parts = {"infeasible": torch.stack(list(parts.values())).any(dim=0)} | parts
    shares = {name: (flags & known).sum(dim=1) / known.sum(dim=1) for name, flags in parts.items()}
    return {name: share.double().cpu().numpy() for name, share in shares.items()}
