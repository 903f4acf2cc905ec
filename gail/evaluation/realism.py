"""WOSAC-style realism: how likely the log is under the distribution of what a driver does.

Written from the public description of the Waymo Open Sim Agents Challenge (Montali et al. 2023, arXiv 2305.12032,
section 4; weights of the 2024 and 2025 challenges); it is not Waymo's code, and its numbers are not those of the
leaderboard. docs/evaluation.md lists what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gail_cli.gail.evaluation.features import Features, leaves_road, touches

PSEUDOCOUNT = 0.1
"""Added to each bin, so that nothing is impossible."""


@dataclass(frozen=True)
class Component:
    """One quantity whose likelihood counts."""

    name: str
    weight_2024: float
    weight_2025: float
    bins: tuple[float, float, int] | None = None
    """Lowest and highest value, and the number of equal bins between; None for something that happens or not."""


COMPONENTS = (
    Component("linear_speed", 0.05, 0.05, (0.0, 25.0, 10)),
    Component("linear_acceleration", 0.05, 0.05, (-12.0, 12.0, 11)),
    Component("angular_speed", 0.05, 0.05, (-0.628, 0.628, 11)),
    Component("angular_acceleration", 0.05, 0.05, (-3.14, 3.14, 11)),
    Component("distance_to_nearest_object", 0.10, 0.10, (-5.0, 40.0, 10)),
    Component("collision", 0.25, 0.25),
    Component("time_to_collision", 0.10, 0.10, (0.0, 5.0, 10)),
    Component("distance_to_road_edge", 0.10, 0.05, (-20.0, 40.0, 10)),
    Component("off_road", 0.25, 0.25),
    Component("traffic_light", 0.0, 0.05),
)
"""The challenge's components. No simulated agent passes a light here that its log did not: that likelihood is 1."""


def bin_of(x: NDArray[np.floating], low: float, high: float, bins: int) -> NDArray[np.int64]:
    """The bin of each value; what lies outside is in the first or the last one, NaN in the first."""
    place = np.floor((np.nan_to_num(x, nan=low, posinf=high, neginf=low) - low) / (high - low) * bins)
    return np.asarray(np.clip(place, 0, bins - 1), np.int64)


def histogram_log_likelihood(
    log: NDArray[np.floating], drawn: NDArray[np.floating], bins: tuple[float, float, int], copies: float = 1.0
) -> NDArray[np.float64]:
    """Log-probability [N, T] of logged values under a histogram of each agent's own drawn ones, all steps together.

    Args:
        log: [N, T], NaN where undefined, and so is the result there.
        drawn: [K, N, T], NaN where undefined.
        bins: see :attr:`Component.bins`.
        copies: how often each drawn value counts.
    """
    count = bins[2]
    agent = np.broadcast_to(np.arange(len(log))[:, None], drawn.shape)
    there = ~np.isnan(drawn)
    cells = agent[there] * count + bin_of(drawn[there], *bins)
    counts = np.bincount(cells, minlength=len(log) * count).reshape(-1, count) * copies + PSEUDOCOUNT
    probability = np.log(counts / counts.sum(axis=1, keepdims=True))
    found = np.take_along_axis(probability, bin_of(log, *bins), axis=1)
    return np.where(np.isnan(log), np.nan, found)


def event_log_likelihood(log: NDArray[np.bool_], drawn: NDArray[np.bool_], copies: float = 1.0) -> NDArray[np.float64]:
    """Log-probability [N] of what happened to agents in the log [N], by how often it happened in K drives [K, N]."""
    total = len(drawn) * copies + 2 * PSEUDOCOUNT
    happened = (drawn.sum(axis=0) * copies + PSEUDOCOUNT) / total
    return np.asarray(np.log(np.where(log, happened, 1 - happened)))


def scene_likelihood(
    log_likelihood: NDArray[np.floating], scene: NDArray[np.int64], scenes: int
) -> NDArray[np.float64]:
    """exp(mean) [S] of log-likelihoods [N] or [N, T] over all agents and steps of each scene; NaN where there is none.

    Args:
        log_likelihood: NaN where undefined.
        scene: [N] of each agent, 0 .. S-1.
        scenes: S.
    """
    values = log_likelihood.reshape(len(scene), -1)
    there = ~np.isnan(values)
    sums = np.bincount(scene, np.where(there, values, 0.0).sum(axis=1), scenes)
    counts = np.bincount(scene, there.sum(axis=1), scenes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.exp(sums / counts))


def likelihoods(
    log: Features, drives: Sequence[Features], scene: NDArray[np.int64], scenes: int, rollouts: int
) -> dict[str, NDArray[np.float64]]:
    """Likelihood [S] of each component in each scene, by its name.

    Args:
        log: features of the log.
        drives: of each drive of the same agents.
        scene: [N] scene of each agent, 0 .. S-1.
        scenes: S.
        rollouts: K; fewer drives than this are those of a driver that always drives alike, and stand for K of them.
    """
    copies = rollouts / len(drives)
    found: dict[str, NDArray[np.float64]] = {}
    for component in COMPONENTS:
        name = component.name
        if component.bins is not None:
            drawn = np.stack([drive[name].cpu().numpy() for drive in drives])
            values = histogram_log_likelihood(log[name].cpu().numpy(), drawn, component.bins, copies)
        elif name == "traffic_light":
            values = np.zeros(len(scene))
        else:
            event = touches if name == "collision" else leaves_road
            drawn = np.stack([event(drive).cpu().numpy() for drive in drives])
            values = event_log_likelihood(event(log).cpu().numpy(), drawn, copies)
        found[name] = scene_likelihood(values, scene, scenes)
    return found


def realism(found: dict[str, NDArray[np.float64]], year: int) -> NDArray[np.float64]:
    """Weighted mean [S] of the components' likelihoods, by the weights of 2024 or 2025; of those that are defined."""
    weight = np.array([getattr(component, f"weight_{year}") for component in COMPONENTS])
    values = np.stack([found[component.name] for component in COMPONENTS])
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0.0).T @ weight / (there.T @ weight))
