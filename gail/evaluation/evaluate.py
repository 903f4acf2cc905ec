"""Closed-loop evaluation: a policy and its anchors in the same worlds (docs/evaluation.md explains every metric)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from gail_cli.gail.config.rules import explained
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.sampler import chosen_scenes
from gail_cli.gail.evaluation.blind import BLIND, blind_section
from gail_cli.gail.evaluation.challenge import ROLLOUTS
from gail_cli.gail.evaluation.drivers import Lineup
from gail_cli.gail.evaluation.off_log import DRIVES, off_log_scores
from gail_cli.gail.evaluation.scene_scores import score_scenes
from gail_cli.gail.evaluation.summary import POLICY, SceneScores, concatenated, summarise
from gail_cli.gail.learning.backends import check_backend, renew
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.records import Split
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Backend

SCENES_AT_ONCE = 32


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
    blind: bool = False,
    off_log: int = 0,
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
        blind: whether the policy also drives without other agents in sight, without roads, and without either.
        off_log: variants of each scene that are begun off the log, see :mod:`gail.evaluation.off_log`; driven at most
            eight times with drawn actions.
        seed: of the random anchor, of drawn actions, of variants and of resampled scenes.
        progress: called with scenes done and scenes in all.

    Returns:
        What :func:`~gail_cli.gail.evaluation.summary.summarise` returns (``results``, ``intervals``, ``differences``);
        ``per_scene``, from which :func:`pooled` makes one evaluation of several; and what was done: ``scenes``,
        ``agents``, ``backend``, ``box_scale``, ``goal_radius_m``, ``deterministic``, ``rollouts``, ``seed``. If asked
        for, ``blind``, see :func:`~gail_cli.gail.evaluation.blind.blind_section`, and ``off_log``: ``variants``,
        ``agents`` (of all variants), ``rollouts``, and the same of the variants, but without experts. Ready for JSON.

    Raises:
        RunError: when the store's action space is not the policy's, or the clone's, the box scale is no size or not
            GPUDrive's where its rules hold, or GPUDrive is to drive and cannot hold a scene.
        ImportError: in one sentence, when it is to drive and is not installed.
    """
    _check(policy, cloned, store)
    on, beyond = (
        Lineup(policy, cloned, anchors, deterministic, drawn, torch.Generator().manual_seed(seed))
        for drawn in (rollouts, min(rollouts, DRIVES))
    )
    config = with_boxes(config, box_scale)
    device = next(policy.parameters()).device
    chosen = list(range(len(store)) if scenes is None else scenes)
    check_backend(config.backend, store, config.sim.selection, chosen)
    env: Backend | None = None
    parts: list[SceneScores] = []
    off: list[SceneScores] = []
    for first in range(0, len(chosen), SCENES_AT_ONCE):
        batch = chosen[first : first + SCENES_AT_ONCE]
        records = list(store.read(batch))
        experts = make_experts(records, config.sim, device)
        env = renew(env, config.backend, config.sim, config.observation, experts.worlds, store.space)
        parts.append(score_scenes(on.drives(env, seed + first, experts, blind), experts.worlds, rollouts))
        if off_log:
            off.append(
                off_log_scores(
                    beyond, env, records, config.sim.selection,
                    variants=off_log, variants_seed=seed, drives_seed=seed + first,
                )
            )  # fmt: skip
        progress(first + len(batch), len(chosen))
    settings = {
        "backend": config.backend,
        "box_scale": config.sim.box_scale,
        "goal_radius_m": config.sim.goal_radius,
        "deterministic": deterministic,
        "rollouts": rollouts,
        "seed": seed,
    }
    report = _report(concatenated(parts), settings)
    if off_log:
        report["off_log"] = _off_log_section(concatenated(off), off_log, beyond.rollouts, seed)
    return report


def pooled(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One evaluation of several that :func:`evaluate` returned for different scenes, as of the folds of a
    cross-validation: means and intervals over all their scenes, of the drivers that all have. It has the sections
    ``blind`` and ``off_log`` if all have them."""

    def together(*tables: dict[str, Any]) -> SceneScores:
        return concatenated([SceneScores.from_json(table["per_scene"]) for table in tables])

    settings = {name: reports[0][name] for name in _SETTINGS}
    whole = _report(together(*reports), settings)
    if all("blind" in report for report in reports):
        whole["blind"] = blind_section(together(*(report["blind"] for report in reports)), settings["seed"])
    if all("off_log" in report for report in reports):
        off = [report["off_log"] for report in reports]
        drawn = min(report["off_log"].get("rollouts", report["rollouts"]) for report in reports)
        whole["off_log"] = _off_log_section(together(*off), off[0]["variants"], drawn, settings["seed"])
    return whole


_SETTINGS = ("backend", "box_scale", "goal_radius_m", "deterministic", "rollouts", "seed")
"""What an evaluation was done with, by its names in the report."""


def _report(scores: SceneScores, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of all drivers; of those that do not see in a section of its own."""
    blind = {"blind": blind_section(scores, settings["seed"])} if scores.sums.keys() >= BLIND.keys() else {}
    scores = scores.without(BLIND)
    found = summarise(scores, seed=settings["seed"])
    counted = {"scenes": len(scores.scenes), "agents": _agents(scores)}
    return {**counted, **settings, **found, **blind, "per_scene": scores.to_json()}


def _off_log_section(scores: SceneScores, variants: int, rollouts: int, seed: int) -> dict[str, Any]:
    found = summarise(scores, seed=seed)
    return {
        "variants": variants,
        "agents": _agents(scores),
        "rollouts": rollouts,
        **found,
        "per_scene": scores.to_json(),
    }


def _agents(scores: SceneScores) -> int:
    return int(scores.sums[POLICY]["goal"][:, 1].sum())


def with_boxes(config: TrainConfig, box_scale: float | None) -> TrainConfig:
    """The configuration with another factor on collision boxes, if one is given.

    Raises:
        RunError: when it is no size, or not GPUDrive's where its rules hold.
    """
    try:
        return replace(config, sim=replace(config.sim, box_scale=box_scale or config.sim.box_scale))
    except ValueError as error:
        raise RunError("", explained(error, SimConfig)) from error


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
