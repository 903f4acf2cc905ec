"""What a drive scores: features of it and of the log, metrics of each agent, and what each scene contributes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.evaluation.drivers import Drive
from gail_cli.gail.evaluation.features import Features, features, leaves_road, only_valid, road_known, touches
from gail_cli.gail.evaluation.metrics import AgentMetrics, agent_metrics, infeasibility, over_rollouts
from gail_cli.gail.evaluation.realism import bin_of, likelihoods, realism
from gail_cli.gail.evaluation.summary import DISTRIBUTIONS, LOG, SceneScores, sums_of_agents, sums_of_scenes
from gail_cli.sim.heights import heights
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.worlds import Worlds

Drives = tuple[Drive, list[Drive]]
"""The drive that most metrics are of, and the drives with drawn actions, or the first one again if the driver draws
none."""


def drive_features(result: Drive, worlds: Worlds) -> Features:
    """The features of a drive, from its second state on, which is the first that was driven."""
    z = heights(worlds, result.everyone)
    found = from_second(features(worlds, result.everyone, z, result.present, result.driven))
    driven = {name: torch.where(found["valid"], x, torch.nan) for name, x in found.items() if x.is_floating_point()}
    return found | driven


def log_features(worlds: Worlds, steps: int) -> Features:
    """The features of what the controlled agents' logs show in their first ``steps`` states."""
    z = worlds.tensors["log_z"].view(worlds.valid.shape)[:, :steps]
    valid = worlds.valid[:, :steps]
    return from_second(features(worlds, worlds.log[:, :steps], z, valid, valid[worlds.controlled]))


def from_second(found: Features) -> Features:
    """Features without those of the first step, at which nobody has driven yet."""
    return {name: values[:, 1:] for name, values in found.items()}


def score(result: Drive, found: Features, worlds: Worlds) -> AgentMetrics:
    """Metrics of one drive, with its features, against the log of the same worlds."""
    steps = min(result.track.shape[1], worlds.num_steps)  # an episode may be shorter or longer than the log
    log, valid = worlds.log[worlds.controlled, :steps], worlds.valid[worlds.controlled, :steps]
    compared = valid & result.driven[:, :steps]
    own = worlds.controlled
    vehicle = worlds.tensors["type"][own] == AgentType.VEHICLE
    hit, off = touches(found).any(dim=1), (leaves_road(found) & vehicle[:, None]).any(dim=1)
    lit = worlds.lit[worlds.tensors["world"][own].long()] & vehicle
    return agent_metrics(result.track[:, :steps, :2], log[..., :2], compared, result.events, hit, off, lit)


_OF_ROADS = ("off_road", "safe_success")
"""How metrics end that are not known where a map has no edges."""


def _where_known(agents: dict[str, NDArray[Any]], found: Features) -> dict[str, NDArray[Any]]:
    """Metrics of agents, with NaN where no road edge tells."""
    known = road_known(found).cpu().numpy()
    return {name: np.where(known, x, np.nan) if name.endswith(_OF_ROADS) else x for name, x in agents.items()}


def agent_scores(drives: Drives, worlds: Worlds) -> tuple[dict[str, NDArray[Any]], list[Features]]:
    """Metrics [N] of the controlled agents by name, NaN where not known, and the features of the drawn drives."""
    main, drawn = drives
    found = drive_features(main, worlds)
    drawn_found = [found if drive is main else drive_features(drive, worlds) for drive in drawn]
    vehicle = worlds.tensors["type"][worlds.controlled] == AgentType.VEHICLE
    agents: dict[str, NDArray[Any]] = asdict(score(main, found, worlds)) | infeasibility(found, vehicle)
    agents |= over_rollouts([score(*pair, worlds) for pair in zip(drawn, drawn_found, strict=True)])
    return _where_known(agents, found), drawn_found


def scene_of_agents(worlds: Worlds) -> NDArray[np.int64]:
    """[N] the world of each controlled agent."""
    return worlds.tensors["world"][worlds.controlled].cpu().numpy().astype(np.int64)


def score_scenes(drives: dict[str, Drives], worlds: Worlds, rollouts: int) -> SceneScores:
    """All scores of drives in the same worlds.

    Args:
        drives: by driver.
        worlds: where they took place.
        rollouts: number of drawn drives that each driver stands for.
    """
    scene, count = scene_of_agents(worlds), worlds.num_worlds
    steps = {main.track.shape[1] for main, _ in drives.values()}
    log = log_features(worlds, min(*steps, worlds.num_steps))
    sums, histograms = {}, {LOG: _histograms([only_valid(log)], scene, count)}
    for name, driven in drives.items():
        agents, drawn_found = agent_scores(driven, worlds)
        likely = likelihoods(log, drawn_found, scene, count, rollouts)
        scenes = {f"realism_{year}": realism(likely, year) for year in (2025, 2024)}
        scenes |= {f"likelihood_{component}": values for component, values in likely.items()}
        sums[name] = {key: sums_of_agents(x, scene, count) for key, x in agents.items()}
        sums[name] |= {key: sums_of_scenes(x) for key, x in scenes.items()}
        histograms[name] = _histograms(drawn_found, scene, count)
    return SceneScores([scene.id for scene in worlds.scenes], sums, histograms)


def _histograms(found: Sequence[Features], scene: NDArray[np.int64], scenes: int) -> dict[str, NDArray[np.float64]]:
    """By feature, [S, B] how many steps of each scene are in each bin, over all drives."""
    tables = {}
    for name, bins in DISTRIBUTIONS.items():
        values = np.concatenate([f[name].cpu().numpy() for f in found], axis=1)
        there = ~np.isnan(values)
        cells = np.broadcast_to(scene[:, None], values.shape)[there] * bins[2] + bin_of(values[there], *bins)
        tables[name] = np.bincount(cells, minlength=scenes * bins[2]).reshape(scenes, bins[2]).astype(np.float64)
    return tables
