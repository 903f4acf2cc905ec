"""How well agents drove, measured against their logs; small pure functions over trajectories."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sim.kernels import Event


@dataclass(frozen=True)
class AgentMetrics:
    """One value a controlled agent, [N] each."""

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


def displacement_errors(position: Tensor, log: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """ADE and FDE [N].

    Args:
        position: [N, T, 2] driven.
        log: [N, T, 2] logged.
        valid: [N, T] bool, where both are to be compared; at least once an agent.
    """
    distance = (position - log).norm(dim=-1)
    ade = (distance * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
    steps = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, steps, 0).amax(dim=1)
    return ade, distance.gather(1, last[:, None]).squeeze(1)


def agent_metrics(position: Tensor, log: Tensor, valid: Tensor, events: Tensor, full_events: Tensor) -> AgentMetrics:
    """All metrics of N agents over T steps.

    Args:
        position: [N, T, 2] driven.
        log: [N, T, 2] logged.
        valid: [N, T] bool, logged steps that the agent also drove; the first step is left out.
        events: [N, 4] bool, what ever happened to each agent while it drove.
        full_events: [N, 4] bool, the same as :class:`~sim.contacts.Contacts` has it; its goal is not read.
    """
    counted = valid.clone()
    counted[:, 0] = False
    ade, fde = displacement_errors(position, log, counted)
    goal = events[:, Event.GOAL]
    own, full = ((e[:, Event.VEHICLE] | e[:, Event.NON_VEHICLE], e[:, Event.OFF_ROAD]) for e in (events, full_events))
    safe, full_safe = (goal & ~collision & ~off_road for collision, off_road in (own, full))
    values = (goal, *own, safe, ade, fde, *full, full_safe)
    return AgentMetrics(*(x.cpu().numpy() for x in values))


def concatenate(parts: list[AgentMetrics]) -> AgentMetrics:
    """Metrics of all agents of several batches."""
    return AgentMetrics(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(AgentMetrics)))


def means(metrics: AgentMetrics) -> dict[str, float]:
    """Mean of each metric over agents: shares for events, m for errors."""
    return {f.name: float(np.mean(getattr(metrics, f.name))) for f in fields(AgentMetrics)}
