"""What latent codes mean: everyone drives by one and the same code all the time, each code in turn, in the same scenes
(``evaluate --codes``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.drivers import Drive, drive, policy_driver
from gail_cli.gail.evaluation.evaluate import SCENES_AT_ONCE, with_boxes
from gail_cli.gail.evaluation.scene_scores import scene_of_agents
from gail_cli.gail.evaluation.summary import LOG, POLICY, SceneScores, concatenated, summarise, sums_of_agents
from gail_cli.gail.learning.backends import check_backend, renew
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import Backend
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import DT
from gail_cli.sim.worlds import Worlds

REACH, _ALIGNED = 50.0, 0.5
"""How far ahead a leader may be, m, and the least cosine of the angle between its heading and one's own."""


@dataclass(frozen=True, eq=False)
class Style:
    """How N agents drive over T states; NaN where one does not drive, or there is nothing to compare with."""

    faster: NDArray[np.float32]
    """[N, T] own speed minus that of the log at the same time, m/s."""
    acceleration: NDArray[np.float32]
    """[N, T] gain in speed since the state before, m/s^2."""
    gap: NDArray[np.float32]
    """[N, T] to the leader, see :func:`gaps`, m."""
    ahead: NDArray[np.float32]
    """[N, T] way driven so far minus that of the log, m."""


def gaps(state: Tensor, size: Tensor, world: Tensor, there: Tensor, own: Tensor) -> Tensor:
    """[N] distance (m) from the front of each of some agents to the rear of its leader; NaN without one.

    The leader is the nearest agent ahead whose box overlaps the corridor as wide as the own box, straight ahead, within
    :data:`REACH`, and which heads the same way within 60 degrees.

    Args:
        state: [M, 5] x, y, heading, vx, vy of all agents.
        size: [M, 3] their length, width and height.
        world: [M] theirs.
        there: [M] bool, who is in it.
        own: [N] rows of the agents that are asked about.
    """
    offset = state[None, :, :2] - state[own, None, :2]
    c, s = state[own, None, 2].cos(), state[own, None, 2].sin()
    along, aside = c * offset[..., 0] + s * offset[..., 1], c * offset[..., 1] - s * offset[..., 0]
    gap = along - (size[own, None, 0] + size[None, :, 0]) / 2
    leads = (world[own, None] == world[None]) & there[None] & (along > 0) & (gap < REACH)
    leads &= aside.abs() < (size[own, None, 1] + size[None, :, 1]) / 2
    leads &= (state[None, :, 2] - state[own, None, 2]).cos() > _ALIGNED
    leads[torch.arange(len(own), device=own.device), own] = False
    nearest = torch.where(leads, gap, torch.inf).amin(dim=1)
    return torch.where(nearest.isinf(), torch.nan, nearest)


def style_of(result: Drive, worlds: Worlds) -> tuple[Style, dict[str, NDArray[np.float64]]]:
    """How a drive was, and of each agent [N] speed and speed of the log, each summed over the steps that both have."""
    own, steps = worlds.controlled, min(result.track.shape[1], worlds.num_steps)
    track, driven = result.track[:, :steps], result.driven[:, :steps]
    speed, logged = track[..., 3:].norm(dim=2), worlds.log[own, :steps, 3:].norm(dim=2)
    both = driven & worlds.valid[own, :steps]
    both[:, 0] = False
    faster = torch.where(both, speed - logged, torch.nan)
    gained = torch.full_like(speed, torch.nan)
    gained[:, 1:] = torch.where(driven[:, 1:] & driven[:, :-1], speed.diff(dim=1) / DT, torch.nan)
    size, world = worlds.tensors["size"], worlds.tensors["world"]
    found = [gaps(result.everyone[:, t], size, world, result.present[:, t], own) for t in range(steps)]
    gap = torch.where(driven, torch.stack(found, dim=1), torch.nan)
    ahead = torch.where(both, faster.nan_to_num().cumsum(dim=1) * DT, torch.nan)
    sums = {"speed": (speed * both).sum(dim=1), "log_speed": (logged * both).sum(dim=1)}
    style = Style(*(x.cpu().numpy() for x in (faster, gained, gap, ahead)))
    return style, {name: x.double().cpu().numpy() for name, x in sums.items()}


def log_drive(worlds: Worlds, steps: int) -> Drive:
    """The log as a drive of so many states, to which nothing happens that anybody would count."""
    track, valid = worlds.log[:, :steps], worlds.valid[:, :steps]
    own = worlds.controlled
    events = torch.zeros(len(own), len(Event), dtype=torch.bool, device=own.device)
    return Drive(track[own], valid[own], events, track, valid)


def require_codes(policy: Policy) -> None:
    """Make sure that a policy has codes to drive by.

    Raises:
        RunError: when it has none.
    """
    if not policy.codes:
        raise RunError("", "the run has no latent codes", "train with latent.codes, or leave --codes out")


def drive_codes(
    policy: Policy,
    config: TrainConfig,
    store: DemoStore,
    *,
    scenes: Sequence[int] | None = None,
    box_scale: float | None = None,
    deterministic: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], dict[str, Style]]:
    """Drive by each code alone through scenes of a store.

    Args:
        policy: of the run.
        config: of the run.
        store: worlds and experts.
        scenes: indices; all when None.
        box_scale: factor on collision boxes; that of the run when None.
        deterministic: the most likely action instead of a drawn one.
        seed: of all that is drawn.
        progress: called with scenes done and scenes in all.

    Returns:
        What :func:`~gail_cli.gail.evaluation.summary.summarise` returns, ready for JSON, and the styles; each by
        driver: "policy", which has its codes as in the run; "code 0" and so on; and "log". Metrics: ``speed_share`` of
        that of the log, mean absolute ``acceleration`` (m/s^2), mean ``gap`` (m), ``ahead`` at the last step compared
        (m), ``goal``, ``collision``, ``off_road``. And ``between`` {code: {metric: {"mean", "interval"}}}, see
        :func:`between`.

    Raises:
        RunError: when the policy has no codes, or the box scale is no size.
        ImportError: in one sentence, when GPUDrive is to drive and is not installed.
    """
    require_codes(policy)
    config = with_boxes(config, box_scale)
    chosen = list(range(len(store)) if scenes is None else scenes)
    check_backend(config.backend, store, config.sim.selection, chosen)
    env: Backend | None = None
    parts: list[SceneScores] = []
    styles: dict[str, list[Style]] = {}
    for first in range(0, len(chosen), SCENES_AT_ONCE):
        batch = chosen[first : first + SCENES_AT_ONCE]
        experts = make_experts(list(store.read(batch)), config.sim, next(policy.parameters()).device)
        env = renew(env, config.backend, config.sim, config.observation, experts.worlds, store.space)
        sums = {}
        for name, code in {POLICY: None, **{f"code {k}": k for k in range(policy.codes)}}.items():
            torch.manual_seed(seed + first)
            result = drive(env, policy_driver(policy, deterministic, code))
            sums[name] = _sums(result, experts.worlds, styles.setdefault(name, []))
        logged = log_drive(experts.worlds, result.track.shape[1])
        sums[LOG] = _sums(logged, experts.worlds, styles.setdefault(LOG, []))
        for name in ("goal", "collision", "off_road"):
            sums[LOG][name] = np.zeros_like(sums[LOG][name])
        parts.append(SceneScores([scene.id for scene in experts.worlds.scenes], sums, {}))
        progress(first + len(batch), len(chosen))
    scores = concatenated(parts)
    agents = int(scores.sums[POLICY]["goal"][:, 1].sum())
    found = {"scenes": len(scores.scenes), "agents": agents, "box_scale": config.sim.box_scale}
    found |= {"deterministic": deterministic, "seed": seed}
    found |= summarise(scores, seed=seed) | {"between": between(scores, seed)}
    return found, {name: _together(several) for name, several in styles.items()}


def between(scores: SceneScores, seed: int = 0) -> dict[str, dict[str, dict[str, Any]]]:
    """What each code but the first does minus what the first does in the same scenes, with 95 % intervals over scenes:
    {code: {metric: {"mean", "interval"}}}.

    Args:
        scores: of drivers by codes, in their order, among others.
        seed: for drawing scenes.
    """
    first, *others = [name for name in scores.sums if name not in (POLICY, LOG)]
    pairs = {name: {POLICY: scores.sums[name], first: scores.sums[first]} for name in others}
    return {
        name: summarise(SceneScores(scores.scenes, sums, {}), seed=seed)["differences"][first]
        for name, sums in pairs.items()
    }


def _sums(result: Drive, worlds: Worlds, styles: list[Style]) -> dict[str, NDArray[np.float64]]:
    """What each scene contributes to each metric; the style is put to the others."""
    scene, count = scene_of_agents(worlds), worlds.num_worlds
    style, speed = style_of(result, worlds)
    styles.append(style)
    events = result.events.double().cpu().numpy()
    edged = worlds.edged[worlds.tensors["world"][worlds.controlled].long()].cpu().numpy()
    agents = {
        "goal": events[:, Event.GOAL],
        "collision": np.maximum(events[:, Event.VEHICLE], events[:, Event.NON_VEHICLE]),
        "off_road": np.where(edged, events[:, Event.OFF_ROAD], np.nan),
        "ahead": _last(style.ahead),
    }
    steps = {"acceleration": np.abs(style.acceleration), "gap": style.gap}
    share = [sums_of_agents(speed[name], scene, count)[:, 0] for name in ("speed", "log_speed")]
    return (
        {"speed_share": np.stack(share, axis=1)}
        | {name: _sums_of_steps(x, scene, count) for name, x in steps.items()}
        | {name: sums_of_agents(x, scene, count) for name, x in agents.items()}
    )


def _sums_of_steps(values: NDArray[np.float32], scene: NDArray[np.int64], scenes: int) -> NDArray[np.float64]:
    """[S, 2] of values of steps [N, T]; NaN does not count."""
    sums, counts = np.nansum(values, axis=1, dtype=np.float64), (~np.isnan(values)).sum(axis=1)
    return np.stack([np.bincount(scene, x, scenes) for x in (sums, counts)], axis=1)


def _last(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N] the last of values [N, T] that is not NaN; NaN where none is."""
    last = values.shape[1] - 1 - np.argmax(~np.isnan(values[:, ::-1]), axis=1)
    return np.asarray(values[np.arange(len(values)), last])


def _together(styles: Sequence[Style]) -> Style:
    return Style(*(np.concatenate([getattr(style, f.name) for style in styles]) for f in fields(Style)))
