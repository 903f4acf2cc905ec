"""``evaluate --protocol wosac``: a run's policy by the rules of the challenge, in the scenes of a store.

The drives are those that ``--submission`` writes, so that their score is that of ``gail-cli score`` but for the maps,
which a store keeps simplified.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.challenge import (
    ROLLOUTS,
    START,
    STEPS,
    Log,
    as_written,
    displacements,
    drive_features,
    log_features,
    log_of,
    scores,
)
from gail_cli.gail.evaluation.drivers import CLONED_DRIVER
from gail_cli.gail.evaluation.submission import Simulated, check_store, simulated_scenes
from gail_cli.gail.evaluation.summary import POLICY, SceneScores, summarise, sums_of_scenes
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.scenario import DT
from gail_cli.sim.scene import Scene

Future = tuple[torch.Tensor, torch.Tensor]
"""States [M, 80, 5] and heights [M, 80] of all who take part."""


def evaluate_challenge(
    policy: Policy,
    config: TrainConfig,
    store: DemoStore,
    *,
    cloned: Policy | None = None,
    anchors: bool = True,
    scenes: Sequence[int] | None = None,
    rollouts: int = ROLLOUTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score the policy and the anchors as the challenge does.

    Args:
        policy: what is evaluated.
        config: of its run.
        store: of scenes with 91 steps or more.
        cloned: an anchor, as in :func:`gail_cli.gail.evaluation.evaluate.evaluate`.
        anchors: whether to score the anchors too.
        scenes: indices; all when None.
        rollouts: K, drives with drawn actions.
        seed: for all that is drawn.
        progress: called with scenes done and scenes in all.

    Returns:
        As :func:`gail_cli.gail.evaluation.evaluate.evaluate`, with the metrics of
        :func:`gail_cli.gail.evaluation.challenge.scores` and ``displacements``; ``agents`` are those that are scored,
        and ``left_out`` the ids of scenes that name nobody to score.

    Raises:
        RunError: when the store's scenes are too short or its actions are not the policy's, or no scene names anybody.
    """
    check_store(policy, store)
    device = next(policy.parameters()).device
    drivers = {POLICY: policy} | ({} if cloned is None else {CLONED_DRIVER: cloned})
    found: dict[str, dict[str, dict[str, float]]] = {}
    agents = 0
    left_out: list[str] = []
    parts = [simulated_scenes(p, config, store, scenes, rollouts, seed) for p in drivers.values()]
    for simulated in zip(*parts, strict=True):
        done, total, scene, _ = simulated[0]
        log = log_of(scene, device)
        agents += len(log.worlds.controlled)
        if len(log.worlds.controlled):
            logged = log_features(log)
            drives = {
                name: _futures(driven, scene, device) for name, (*_, driven) in zip(drivers, simulated, strict=True)
            }
            drives |= {name: [make(log)] for name, make in ANCHORS.items()} if anchors else {}
            for name, futures in drives.items():
                likely = scores(logged, [drive_features(log, *future) for future in futures], rollouts)
                found.setdefault(name, {})[scene.id] = likely | displacements(log, futures)
        else:
            left_out.append(scene.id)
        progress(done, total)
    if not found:
        what = "no scene names the recording car or tracks to predict, so nobody is scored"
        raise RunError(f"store {store.path}", what, "evaluate by the other protocol")
    settings = {"protocol": "wosac", "backend": "embedded", "rollouts": rollouts, "seed": seed, "left_out": left_out}
    return _report(found, agents, settings)


def _futures(driven: Simulated, scene: Scene, device: torch.device) -> list[Future]:
    track, z = (torch.from_numpy(x[:, :, 1:]).to(device) for x in (driven.track, driven.z))
    return list(zip(as_written(track, scene.origin), z, strict=True))


def _constant_velocity(log: Log) -> Future:
    """All go straight on."""
    now = log.track[:, START : START + 1]
    steps = torch.arange(1, STEPS + 1, device=now.device)[None, :, None]
    future = now.repeat(1, STEPS, 1)
    future[..., :2] += now[..., 3:] * steps * DT
    return future, log.z[:, START : START + 1].expand(-1, STEPS)


def _log(log: Log) -> Future:
    """The log itself; where it has a gap, its last state before."""
    steps = torch.where(log.valid, torch.arange(log.valid.shape[1], device=log.valid.device), -1)
    last = steps.cummax(dim=1).values[:, START + 1 :]
    rows = torch.arange(len(last), device=last.device)[:, None]
    return log.track[rows, last], log.z[rows, last]


ANCHORS: dict[str, Callable[[Log], Future]] = {"log": _log, "constant velocity": _constant_velocity}
"""How good a policy's numbers are; each has one drive, which counts K times."""


def _report(found: dict[str, dict[str, dict[str, float]]], agents: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The report of the scores of each driver's scenes."""
    sums = {
        driver: {
            name: sums_of_scenes(np.array([row[name] for row in rows.values()])) for name in rows[next(iter(rows))]
        }
        for driver, rows in found.items()
    }
    result = SceneScores(list(found[POLICY]), sums, {})
    summary = summarise(result, seed=settings["seed"])
    return {"scenes": len(result.scenes), "agents": agents, **settings, **summary, "per_scene": result.to_json()}
