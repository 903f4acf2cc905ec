"""Realism as the Waymo Open Sim Agents Challenge scores it: how likely the log is, if people drove like a driver.

Written from its description (Montali et al. 2023, arXiv 2305.12032, section 4; weights of the 2024 and 2025 challenges)
and compared with its scorer, of which nothing is copied (``make wosac-parity``; docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.gail.evaluation.features import Features, leaves_road, only_valid, road_known, touches

PSEUDOCOUNT = 0.1
"""Added to each bin, so that nothing is impossible."""
EVENT_PSEUDOCOUNT = 0.001
"""Added to how often something happened, and how often it did not."""


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
"""The challenge's components."""


def bin_of(x: NDArray[np.floating], low: float, high: float, bins: int) -> NDArray[np.int64]:
    """The bin of each value; what lies outside is in the first or the last one, NaN in the last."""
    edges = np.linspace(low, high, bins + 1, dtype=np.float32)
    place = np.searchsorted(edges, x.astype(np.float32), side="right") - 1
    return np.asarray(np.clip(place, 0, bins - 1), np.int64)


def histogram_log_likelihood(
    log: NDArray[np.floating],
    drawn: NDArray[np.floating],
    bins: tuple[float, float, int],
    there: NDArray[np.bool_],
    copies: float = 1.0,
) -> NDArray[np.float64]:
    """Log-probability [N, T] of logged values under a histogram of each agent's own drawn ones, all steps together.

    Args:
        log: [N, T], NaN where undefined, and so is the result there.
        drawn: [K, N, T'], NaN where undefined, which counts as the highest value.
        bins: see :attr:`Component.bins`.
        there: [K, N, T'] which of the drawn values count.
        copies: how often each drawn value counts.
    """
    count = bins[2]
    agent = np.broadcast_to(np.arange(len(log))[:, None], drawn.shape)
    cells = agent[there] * count + bin_of(drawn[there], *bins)
    counts = np.bincount(cells, minlength=len(log) * count).reshape(-1, count) * copies + PSEUDOCOUNT
    probability = np.log(counts / counts.sum(axis=1, keepdims=True))
    found = np.take_along_axis(probability, bin_of(log, *bins), axis=1)
    return np.where(np.isnan(log), np.nan, found)


def event_log_likelihood(log: NDArray[np.bool_], drawn: NDArray[np.bool_], copies: float = 1.0) -> NDArray[np.float64]:
    """Log-probability [N] of what happened to agents in the log [N], by how often it happened in K drives [K, N]."""
    total = len(drawn) * copies + 2 * EVENT_PSEUDOCOUNT
    happened = (drawn.sum(axis=0) * copies + EVENT_PSEUDOCOUNT) / total
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
        log: features of the log, at T steps.
        drives: of each drive of the same agents, at least at these steps.
        scene: [N] scene of each agent, 0 .. S-1.
        scenes: S.
        rollouts: K; fewer drives than this are those of a driver that always drives alike, and stand for K of them.
    """
    copies = rollouts / len(drives)
    logged = only_valid(log)
    there = np.stack([drive["valid"].cpu().numpy() for drive in drives])
    found: dict[str, NDArray[np.float64]] = {}
    for component in COMPONENTS:
        name = component.name
        if component.bins is not None:
            drawn = np.stack([drive[name].cpu().numpy() for drive in drives])
            values = histogram_log_likelihood(logged[name].cpu().numpy(), drawn, component.bins, there, copies)
        else:
            drawn = np.stack([happens(name, drive, log) for drive in drives])
            values = event_log_likelihood(happens(name, log, log), drawn, copies)
        if name == "off_road":
            values = np.where(np.logical_and.reduce([_known(drive) for drive in drives]), values, np.nan)
        found[name] = scene_likelihood(values, scene, scenes)
    return found


_EVENTS: dict[str, Callable[[Features], Tensor]] = {
    "collision": touches,
    "off_road": leaves_road,
    "traffic_light": itemgetter("red_light"),
}


def happens(name: str, found: Features, log: Features) -> NDArray[np.bool_]:
    """[N] whether an event happens to each agent in a drive, at a step that is valid in its log."""
    flags = _EVENTS[name](found)
    steps = min(flags.shape[1], log["valid"].shape[1])
    return np.asarray((flags[:, :steps] & log["valid"][:, :steps]).any(dim=1).cpu().numpy())


def _known(found: Features) -> NDArray[np.bool_]:
    return np.asarray(road_known(found).cpu().numpy())


def realism(found: dict[str, NDArray[np.float64]], year: int) -> NDArray[np.float64]:
    """Weighted mean [S] of the components' likelihoods, by the weights of 2024 or 2025; of those that are defined."""
    weight = np.array([getattr(component, f"weight_{year}") for component in COMPONENTS])
    values = np.stack([found[component.name] for component in COMPONENTS])
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(there, values, 0.0).T @ weight / (there.T @ weight))
