"""Closed-loop evaluation: a policy beside its anchors, in the same worlds (docs/evaluation.md tells every metric)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.sampler import chosen_scenes
from gail_cli.gail.evaluation.features import Features, features, leaves_road, touches
from gail_cli.gail.evaluation.metrics import AgentMetrics, agent_metrics, infeasibility, over_rollouts
from gail_cli.gail.evaluation.realism import bin_of, likelihoods, realism
from gail_cli.gail.evaluation.summary import (
    DISTRIBUTIONS,
    LOG,
    POLICY,
    SceneScores,
    concatenated,
    summary,
    sums_of_agents,
    sums_of_scenes,
)
from gail_cli.gail.figures.curves import scene_figure
from gail_cli.gail.learning.backends import check_backend, make_backend, renew
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import Experts, make_experts
from gail_cli.pipeline.records import Record, Split
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.dynamics import Dynamics
from gail_cli.sim.env import Backend
from gail_cli.sim.scenario import DT, AgentType
from gail_cli.sim.worlds import Worlds

SCENES_AT_ONCE = 32
ROLLOUTS = 8
"""Drives with drawn actions, unless told otherwise."""
CLONED_DRIVER = "behaviour cloning"

Driver = Callable[[Backend, Tensor, int], Tensor]
"""Chooses actions [N, K] from the environment, the observations [N, D] and the step."""


@dataclass(frozen=True, eq=False)
class Drive:
    """One episode as it was driven by N agents over T states."""

    track: Tensor
    """[N, T, 5] x, y, heading, vx, vy."""
    driven: Tensor
    """[N, T] bool: the agent was in its world."""
    events: Tensor
    """[N, 4] bool: what ever happened to it."""
    everyone: Tensor
    """[M, T, 5] of all agents."""
    present: Tensor
    """[M, T] bool: who was in its world."""


@torch.no_grad()
def drive(env: Backend, driver: Driver) -> Drive:
    """Let a driver drive one episode of every world."""
    observation = env.reset()
    alive = env.alive()
    driven = [torch.ones_like(alive)]
    everyone = [tuple(x.clone() for x in env.everyone())]
    events = torch.zeros(env.num_agents, 4, dtype=torch.bool, device=observation.device)
    for k in range(env.horizon):
        step = env.step(driver(env, observation, k))
        events |= step.events & alive[:, None]
        everyone.append(tuple(x.clone() for x in env.everyone()))
        driven.append(alive)
        observation, alive = step.observation, step.alive
    state, present = (torch.stack(column, dim=1) for column in zip(*everyone, strict=True))
    return Drive(state[env.worlds.controlled], torch.stack(driven, dim=1), events, state, present)


def policy_driver(policy: Policy, deterministic: bool) -> Driver:
    """The policy's most likely action, or one drawn from it; each agent keeps the latent code, if there are some, that
    is drawn for it at the start of a drive."""
    code: Tensor | None = None

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        nonlocal code
        if policy.codes and step == 0:
            code = torch.randint(policy.codes, (len(observation),), device=observation.device)
        return policy.act(policy.with_code(observation, code), deterministic)[0]

    return act


def expert_driver(experts: Experts) -> Driver:
    """The recorded expert actions."""
    last = experts.action.shape[1] - 1
    return lambda env, observation, step: experts.action[:, min(step, last)]


def constant_velocity_driver() -> Driver:
    """Straight on at the present speed, as nearly as the action space allows."""

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        values = torch.zeros(env.num_agents, env.action_space.components, device=observation.device)
        if env.action_space.dynamics == Dynamics.DELTA_LOCAL:
            values[:, 0] = env.states()[:, 3:].norm(dim=1) * DT
        return env.action_space.encode(values)

    return act


def random_driver(generator: torch.Generator) -> Driver:
    """Uniform over the grid, or within the bounds."""

    def act(env: Backend, observation: Tensor, step: int) -> Tensor:
        space = env.action_space
        draws = torch.rand(env.num_agents, space.components, generator=generator).to(observation.device)
        if space.discrete:
            return (draws * torch.tensor(space.sizes, device=draws.device)).long()
        low, high = torch.tensor(space.bounds, device=draws.device).unbind(dim=1)
        return low + draws * (high - low)

    return act


def drive_features(result: Drive, worlds: Worlds) -> Features:
    """The features of a drive, from its second state on, which is the first that was driven."""
    counted = result.driven.clone()
    counted[:, 0] = False
    return features(worlds, result.everyone, result.present, counted)


def log_features(worlds: Worlds, steps: int) -> Features:
    """The features of what the controlled agents' logs show in their first ``steps`` states."""
    counted = worlds.valid[worlds.controlled, :steps].clone()
    counted[:, 0] = False
    return features(worlds, worlds.log[:, :steps], worlds.valid[:, :steps], counted)


def score(result: Drive, found: Features, worlds: Worlds) -> AgentMetrics:
    """Metrics of one drive, with its features, against the log of the same worlds."""
    steps = min(result.track.shape[1], worlds.num_steps)  # an episode may be shorter or longer than the log
    log, valid = worlds.log[worlds.controlled, :steps], worlds.valid[worlds.controlled, :steps]
    compared = valid & result.driven[:, :steps]
    position, full = result.track[:, :steps, :2], (touches(found), leaves_road(found))
    return agent_metrics(position, log[..., :2], compared, result.events, *full)


def score_scenes(drives: dict[str, tuple[Drive, list[Drive]]], worlds: Worlds, rollouts: int) -> SceneScores:
    """All scores of drives in the same worlds.

    Args:
        drives: by driver: the one that is told of, and the drives with drawn actions, or that one again if it has none.
        worlds: where.
        rollouts: for how many drawn drives each driver stands.
    """
    scene, count = worlds.tensors["world"][worlds.controlled].cpu().numpy().astype(np.int64), worlds.num_worlds
    vehicle = worlds.tensors["type"][worlds.controlled] == AgentType.VEHICLE
    steps = {main.track.shape[1] for main, _ in drives.values()}
    log = log_features(worlds, min(*steps, worlds.num_steps))
    sums, histograms = {}, {LOG: _histograms([log], scene, count)}
    for name, (main, drawn) in drives.items():
        found = drive_features(main, worlds)
        drawn_found = [found if drive is main else drive_features(drive, worlds) for drive in drawn]
        agents = asdict(score(main, found, worlds)) | infeasibility(found, vehicle)
        agents |= over_rollouts([score(*pair, worlds) for pair in zip(drawn, drawn_found, strict=True)])
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


def make_env(
    records: Sequence[Record], config: TrainConfig, space: ActionSpace, device: torch.device
) -> tuple[Backend, Experts]:
    """Worlds of some scenes, with their experts."""
    experts = make_experts(records, config.sim, device)
    return make_backend(config.backend, config.sim, config.observation, experts.worlds, space), experts


def drivers(
    policy: Policy,
    experts: Experts,
    deterministic: bool,
    generator: torch.Generator,
    cloned: Policy | None = None,
) -> dict[str, Driver]:
    """The policy and its anchors, by the names of the report."""
    clone = {} if cloned is None else {CLONED_DRIVER: policy_driver(cloned, deterministic)}
    return {
        POLICY: policy_driver(policy, deterministic),
        **clone,
        "expert replayed": expert_driver(experts),
        "constant velocity": constant_velocity_driver(),
        "random": random_driver(generator),
    }


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
        cloned: a policy for the same observations, by behaviour cloning alone: an anchor.
        anchors: whether to drive the anchors too.
        scenes: indices; all when None.
        box_scale: of collision boxes; that of the run when None.
        deterministic: the most likely action instead of a drawn one, in the drive that most metrics are of.
        rollouts: K, drives with drawn actions, for errors at best of K, realism, and distributions.
        seed: of the random anchor, of drawn actions and of resampled scenes.
        progress: called with scenes done and scenes in all.

    Returns:
        What :func:`~gail.evaluation.summary.summary` tells (``results``, ``intervals``, ``differences``);
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
        raise RunError(str(error)) from error
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
            torch.manual_seed(seed + first)  # so that nobody's draws depend on who drove before
            main = None if name == "random" or (not deterministic and name in drawn) else mains[name]
            drives[name] = _drives(env, main, drawn.get(name), rollouts)
        parts.append(score_scenes(drives, experts.worlds, rollouts))
        progress(first + len(batch), len(chosen))
    told = {
        "backend": config.backend,
        "box_scale": config.sim.box_scale,
        "goal_radius_m": config.sim.goal_radius,
        "deterministic": deterministic,
        "rollouts": rollouts,
        "seed": seed,
    }
    return _report(concatenated(parts), told)


def pooled(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One evaluation of several that :func:`evaluate` returned for different scenes, as of the folds of a
    cross-validation: means and intervals over all their scenes, of the drivers that all have."""
    parts = [SceneScores.from_json(report["per_scene"]) for report in reports]
    told = {name: reports[0][name] for name in _TOLD}
    return _report(concatenated(parts), told)


_TOLD = ("backend", "box_scale", "goal_radius_m", "deterministic", "rollouts", "seed")


def _report(scores: SceneScores, told: dict[str, Any]) -> dict[str, Any]:
    agents = int(scores.sums[POLICY]["goal"][:, 1].sum())
    found = summary(scores, seed=told["seed"])
    return {"scenes": len(scores.scenes), "agents": agents, **told, **found, "per_scene": scores.to_json()}


def _drives(env: Backend, main: Driver | None, drawn: Driver | None, rollouts: int) -> tuple[Drive, list[Drive]]:
    """The drive that is told of, and those with drawn actions: the first of these when there is no ``main``, and that
    one alone when there is no ``drawn``."""
    first = [] if main is None else [drive(env, main)]
    several = [] if drawn is None else [drive(env, drawn) for _ in range(rollouts)]
    return (first or several)[0], several or first


def _check(policy: Policy, cloned: Policy | None, store: DemoStore) -> None:
    """Whether the policies can drive in the store's worlds, and both see the same."""
    if policy.space != store.space:
        raise RunError(f"store {store.path}: its actions are not those of the run; extract with the same settings")
    if cloned is not None and cloned.space != policy.space:
        raise RunError("the cloned policy's actions are not those of the run; give a clone for the same store")
    if cloned is not None and cloned.encoder.observation != policy.encoder.observation:
        raise RunError("the cloned policy sees something else than the run's; give one with the same observation")


def splits_of(store: DemoStore, splits: Sequence[str] = ()) -> dict[str, list[int]]:
    """Scenes by the name of their split: of the given ones, or of each that has some; "all" when that is but one.

    Raises:
        NoAgentsError: when a given split has no scene.
    """
    if splits:
        return {split: chosen_scenes(store, split).tolist() for split in splits}
    found = {split.name.lower(): store.scenes_of(split.name.lower()).tolist() for split in Split}
    found = {name: scenes for name, scenes in found.items() if scenes}
    return found if len(found) > 1 else {"all": chosen_scenes(store, "all").tolist()}


def draw_scene(policy: Policy, config: TrainConfig, store: DemoStore, scene: int) -> Figure:
    """One scene from above: as logged, as the experts replay it, as the policy drives it."""
    records = list(store.read([scene]))
    env, experts = make_env(records, config, store.space, next(policy.parameters()).device)
    rows = experts.worlds.controlled
    tracks = {"logged": (experts.worlds.log[rows], experts.worlds.valid[rows])}
    driven = drivers(policy, experts, deterministic=True, generator=torch.Generator())
    for name in ("expert replayed", "policy"):
        result = drive(env, driven[name])
        tracks[name] = (result.track, result.driven)
    agents = np.array([agent for _, agent in experts.worlds.controlled_agents()])
    return scene_figure(
        records[0].scene, agents, {name: (t.cpu().numpy(), h.cpu().numpy()) for name, (t, h) in tracks.items()}
    )
