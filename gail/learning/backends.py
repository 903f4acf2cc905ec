"""Which simulator a run drives in, chosen by its configuration: the embedded one, or the real GPUDrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gail_cli.gail.config.rules import explained
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.experts.replay import demo_agents
from gail_cli.pipeline.export.gpudrive_cache import EPISODE_STATES, SceneCache, cache_folder, misfits
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.pipeline.validate.validate import Problem
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Backend, Env
from gail_cli.sim.worlds import Worlds

_NAMED = 3
"""Scenes that an error names one by one."""


def make_backend(config: TrainConfig, worlds: Worlds, space: ActionSpace) -> Backend:
    """The run's simulator, in these worlds.

    Raises:
        ImportError: in one sentence, when GPUDrive is asked for and not installed.
        SceneError: when GPUDrive cannot hold one of the scenes.
    """
    if config.backend == "embedded":
        return Env(worlds, space, config.sim, config.observation)
    from gail_cli.sim.gpudrive import GPUDriveEnv

    scene_file = SceneCache(cache_folder() / "gpudrive")
    return GPUDriveEnv(worlds, space, config.sim, config.observation, scene_file)


def renew(env: Backend | None, config: TrainConfig, worlds: Worlds, space: ActionSpace) -> Backend:
    """The simulator in new worlds: a new one when there is none, else the same."""
    if env is None:
        return make_backend(config, worlds, space)
    env.swap(worlds)
    return env


def with_backend(config: TrainConfig, backend: Literal["embedded", "gpudrive"]) -> TrainConfig:
    """The configuration with another simulator; GPUDrive brings its rules along.

    Raises:
        RunError: when a rule of the run is none of GPUDrive's.
    """
    try:
        sim = replace(config.sim, compat="gpudrive") if backend == "gpudrive" else config.sim
        return replace(config, backend=backend, sim=sim)
    except ValueError as error:
        raise RunError(f"--backend {backend}: {explained(error, SimConfig)}") from error


def check_backend(config: TrainConfig, store: DemoStore, scenes: Sequence[int] | None = None) -> None:
    """Whether the run's simulator is there and can hold the store's scenes, before anything depends on it.

    Reads the scenes through once when it is GPUDrive.

    Args:
        config: of the run.
        store: where the scenes are.
        scenes: indices of those that are used; all when None.

    Raises:
        ImportError: in one sentence, when GPUDrive is asked for and not installed.
        RunError: naming scenes that GPUDrive cannot hold, and why.
    """
    if config.backend == "embedded":
        return
    from gail_cli.sim.gpudrive import load_binding

    load_binding()
    if problem := store_problem(config, store, scenes):
        raise RunError(str(problem))


def store_problem(config: TrainConfig, store: DemoStore, scenes: Sequence[int] | None = None) -> Problem | None:
    """What keeps the run's simulator from holding scenes of the store; reads them through when it is GPUDrive."""
    if config.backend == "embedded":
        return None
    instead, where = "drive embedded (--backend embedded)", f"store {store.path}"
    if store.steps != EPISODE_STATES:
        what = f"its scenes have {store.steps} steps, GPUDrive's {EPISODE_STATES}"
        return Problem(where, what, f"extract with --steps {EPISODE_STATES}, or {instead}")
    selection = config.sim.selection
    wrong = [
        f"{record.scene.id!r} ({reasons[0]})"
        for record in store.read(scenes)
        if (reasons := misfits(record.scene, demo_agents(record, selection)))
    ]
    if not wrong:
        return None
    named = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
    what = f"GPUDrive cannot hold {len(wrong)} of its scenes: {named}"
    return Problem(where, what, f"extract without them, or {instead}")
