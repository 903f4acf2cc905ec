"""Closed-loop evaluation: a policy and its anchors in the same worlds (docs/evaluation.md explains every metric)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.config.rules import explained
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.sampler import chosen_scenes
from gail_cli.gail.evaluation.challenge import ROLLOUTS
from gail_cli.gail.evaluation.drivers import CLONED_DRIVER, Drive, Driver, drive, drivers, policy_driver
from gail_cli.gail.evaluation.features import Features, features, leaves_road, only_valid, road_known, touches
from gail_cli.gail.evaluation.metrics import AgentMetrics, agent_metrics, infeasibility, over_rollouts
from gail_cli.gail.evaluation.realism import bin_of, likelihoods, realism
from gail_cli.gail.evaluation.summary import (
    DISTRIBUTIONS,
    LOG,
    POLICY,
    SceneScores,
    concatenated,
    summarise,
    sums_of_agents,
    sums_of_scenes,
)
from gail_cli.gail.learning.backends import check_backend, renew
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Backend
from gail_cli.sim.heights import heights
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.worlds import Worlds

SCENES_AT_ONCE = 32


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


def score_scenes(drives: dict[str, tuple[Drive, list[Drive]]], worlds: Worlds, rollouts: int) -> SceneScores:
    """All scores of drives in the same worlds.

    Args:
        drives: by driver: the drive that most metrics are of, and the drives with drawn actions, or the first one again
            if the driver draws none.
        worlds: where they took place.
        rollouts: number of drawn drives that each driver stands for.
    """
    scene, count = worlds.tensors["world"][worlds.controlled].cpu().numpy().astype(np.int64), worlds.num_worlds
    vehicle = worlds.tensors["type"][worlds.controlled] == AgentType.VEHICLE
    steps = {main.track.shape[1] for main, _ in drives.values()}
    log = log_features(worlds, min(*steps, worlds.num_steps))
    sums, histograms = {}, {LOG: _histograms([only_valid(log)], scene, count)}
    for name, (main, drawn) in drives.items():
        found = drive_features(main, worlds)
        drawn_found = [found if drive is main else drive_features(drive, worlds) for drive in drawn]
        agents = asdict(score(main, found, worlds)) | infeasibility(found, vehicle)
        agents |= over_rollouts([score(*pair, worlds) for pair in zip(drawn, drawn_found, strict=True)])
        agents = _where_known(agents, found)
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


def evaluate(
    policy: Policy,
    config: TrainConfig,
    store: DemoStore,
    *,
    cloned: Policy | None = None,
    anchors: bool = True,
    scenes: Sequence[int] | None = None,
    box_scale: float | None = None,
    deterministic: bool = True,
    rollouts: int = ROLLOUTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Drive the policy and the anchors through scenes of a store.

    Args:
        policy: what is evaluated.
        config: of its run: rules and observation.
        store: worlds and experts.
        cloned: a policy for the same observations, trained by behaviour cloning only: an anchor.
        anchors: whether to drive the anchors too.
        scenes: indices; all when None.
        box_scale: factor on collision boxes; that of the run when None.
        deterministic: the most likely action instead of a drawn one, in the drive that most metrics are of.
        rollouts: K, drives with drawn actions, for errors at best of K, realism, and distributions.
        seed: of the random anchor, of drawn actions and of resampled scenes.
        progress: called with scenes done and scenes in all.

    Returns:
        What :func:`~gail_cli.gail.evaluation.summary.summarise` returns (``results``, ``intervals``, ``differences``);
        ``per_scene``, from which :func:`pooled` makes one evaluation of several; and what was done: ``scenes``,
        ``agents``, ``backend``, ``box_scale``, ``goal_radius_m``, ``deterministic``, ``rollouts``, ``seed``. Ready
        for JSON.

    Raises:
        RunError: when the store's action space is not the policy's, or the clone's, the box scale is no size or not
            GPUDrive's where its rules hold, or GPUDrive is to drive and cannot hold a scene.
        ImportError: in one sentence, when it is to drive and is not installed.
    """
    _check(policy, cloned, store)
    generator = torch.Generator().manual_seed(seed)
    try:
        config = replace(config, sim=replace(config.sim, box_scale=box_scale or config.sim.box_scale))
    except ValueError as error:
        raise RunError("", explained(error, SimConfig)) from error
    device = next(policy.parameters()).device
    chosen = list(range(len(store)) if scenes is None else scenes)
    check_backend(config.backend, store, config.sim.selection, chosen)
    env: Backend | None = None
    parts: list[SceneScores] = []
    for first in range(0, len(chosen), SCENES_AT_ONCE):
        batch = chosen[first : first + SCENES_AT_ONCE]
        experts = make_experts(list(store.read(batch)), config.sim, device)
        env = renew(env, config.backend, config.sim, config.observation, experts.worlds, store.space)
        mains = drivers(policy, experts, deterministic, generator, cloned)
        drawn = {POLICY: policy_driver(policy, False), "random": mains["random"]}
        drawn |= {} if cloned is None else {CLONED_DRIVER: policy_driver(cloned, False)}
        drives = {}
        for name in mains if anchors else [POLICY]:
            torch.manual_seed(seed + first)  # so that a driver's draws do not depend on those before it
            main = None if name == "random" or (not deterministic and name in drawn) else mains[name]
            drives[name] = _drive_all(env, main, drawn.get(name), rollouts)
        parts.append(score_scenes(drives, experts.worlds, rollouts))
        progress(first + len(batch), len(chosen))
    settings = {
        "backend": config.backend,
        "box_scale": config.sim.box_scale,
        "goal_radius_m": config.sim.goal_radius,
        "deterministic": deterministic,
        "rollouts": rollouts,
        "seed": seed,
    }
    return _report(concatenated(parts), settings)


def pooled(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One evaluation of several that :func:`evaluate` returned for different scenes, as of the folds of a
    cross-validation: means and intervals over all their scenes, of the drivers that all have."""
    parts = [SceneScores.from_json(report["per_scene"]) for report in reports]
    settings = {name: reports[0][name] for name in _SETTINGS}
    return _report(concatenated(parts), settings)


_SETTINGS = ("backend", "box_scale", "goal_radius_m", "deterministic", "rollouts", "seed")
"""What an evaluation was done with, by its names in the report."""


def _report(scores: SceneScores, settings: dict[str, Any]) -> dict[str, Any]:
    agents = int(scores.sums[POLICY]["goal"][:, 1].sum())
    found = summarise(scores, seed=settings["seed"])
    return {"scenes": len(scores.scenes), "agents": agents, **settings, **found, "per_scene": scores.to_json()}


def _drive_all(env: Backend, main: Driver | None, drawn: Driver | None, rollouts: int) -> tuple[Drive, list[Drive]]:
    """The drive that most metrics are of, and those with drawn actions.

    The former is the first of the latter when there is no ``main``, and stands for them when there is no ``drawn``.
    """
    first = [] if main is None else [drive(env, main)]
    several = [] if drawn is None else [drive(env, drawn) for _ in range(rollouts)]
    return (first or several)[0], several or first


def _check(policy: Policy, cloned: Policy | None, store: DemoStore) -> None:
    """Whether the policies can drive in the store's worlds, and both see the same."""
    if policy.space != store.space:
        raise RunError(f"store {store.path}", "its actions are not those of the run", "extract with the same settings")
    if cloned is not None and cloned.space != policy.space:
        raise RunError("", "the cloned policy's actions are not those of the run", "give a clone for the same store")
    if cloned is not None and cloned.encoder.observation != policy.encoder.observation:
        raise RunError("", "the cloned policy sees something else than the run's", "give one with the same observation")


def splits_of(store: DemoStore, splits: Sequence[str] = ()) -> dict[str, list[int]]:
    """Scenes by the name of their split: of the given ones, or of each that has some; "all" when there is only one.

    Raises:
        NoAgentsError: when a given split has no scene.
    """
    if splits:
        return {split: chosen_scenes(store, split).tolist() for split in splits}
    found = {split.name.lower(): store.scenes_of(split.name.lower()).tolist() for split in Split}
    found = {name: scenes for name, scenes in found.items() if scenes}
    return found if len(found) > 1 else {"all": chosen_scenes(store, "all").tolist()}
