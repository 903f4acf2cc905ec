"""Which simulator a run drives in, chosen by its configuration: the embedded one, or the real GPUDrive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gail_cli.gail.config.rules import refusal
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.experts.replay import demo_agents
from gail_cli.pipeline.export.gpudrive_cache import EPISODE_STATES, SceneCache, cache_folder, misfits
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Backend, Env
from gail_cli.sim.errors import UserError
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import Worlds

BackendName = Literal["embedded", "gpudrive"]

_NAMED = 3
"""Scenes that an error names one by one."""


def make_backend(
    backend: BackendName, sim: SimConfig, observation: ObservationConfig, worlds: Worlds, space: ActionSpace
) -> Backend:
    """The simulator of a run, in these worlds.

    Args:
        backend: which one.
        sim: its rules.
        observation: the layout of what agents see.
        worlds: where they drive.
        space: their actions.

    Raises:
        ImportError: in one sentence, when GPUDrive is asked for and not installed.
        SceneError: when GPUDrive cannot hold one of the scenes.
    """
    if backend == "embedded":
        return Env(worlds, space, sim, observation)
    from gail_cli.sim.gpudrive import GPUDriveEnv

    scene_file = SceneCache(cache_folder() / "gpudrive")
    return GPUDriveEnv(worlds, space, sim, observation, scene_file)


def renew(
    env: Backend | None,
    backend: BackendName,
    sim: SimConfig,
    observation: ObservationConfig,
    worlds: Worlds,
    space: ActionSpace,
) -> Backend:
    """The simulator in new worlds: a new one, see :func:`make_backend`, when there is none, else the same."""
    if env is None:
        return make_backend(backend, sim, observation, worlds, space)
    env.swap(worlds)
    return env


def with_backend(config: TrainConfig, backend: BackendName) -> TrainConfig:
    """The configuration with another simulator; GPUDrive brings its rules along.

    Raises:
        RunError: when a rule of the run is none of GPUDrive's.
    """
    try:
        sim = replace(config.sim, compat="gpudrive") if backend == "gpudrive" else config.sim
        return replace(config, backend=backend, sim=sim)
    except ValueError as error:
        raise RunError(f"--backend {backend}", *refusal(error, SimConfig)) from error


def check_backend(
    backend: BackendName, store: DemoStore, selection: Selection, scenes: Sequence[int] | None = None
) -> None:
    """Whether the run's simulator is there and can hold the store's scenes, before anything depends on it.

    Reads the scenes through once when it is GPUDrive.

    Args:
        backend: which simulator.
        store: where the scenes are.
        selection: which agents are controlled.
        scenes: indices of those that are used; all when None.

    Raises:
        ImportError: in one sentence, when GPUDrive is asked for and not installed.
        RunError: naming scenes that GPUDrive cannot hold, and why.
    """
    if backend == "embedded":
        return
    from gail_cli.sim.gpudrive import load_binding

    load_binding()
    if problem := store_problem(backend, store, selection, scenes):
        raise RunError(problem.where, problem.what, problem.fix)


def store_problem(
    backend: BackendName, store: DemoStore, selection: Selection, scenes: Sequence[int] | None = None
) -> UserError | None:
    """What keeps the run's simulator from holding scenes of the store; reads them through when it is GPUDrive."""
    if backend == "embedded":
        return None
    instead, where = "drive embedded (--backend embedded)", f"store {store.path}"
    if store.space.reverse:
        what = "its vehicles know reverse, GPUDrive's do not"
        return UserError(where, what, f"extract with --compat gpudrive, or {instead}")
    if store.steps != EPISODE_STATES:
        what = f"its scenes have {store.steps} steps, GPUDrive's {EPISODE_STATES}"
        return UserError(where, what, f"extract with --steps {EPISODE_STATES}, or {instead}")
    wrong = [
        f"{record.scene.id!r} ({reasons[0]})"
        for record in store.read(scenes)
        if (reasons := misfits(record.scene, demo_agents(record, selection)))
    ]
    if not wrong:
        return None
    named = ", ".join(wrong[:_NAMED]) + (", ..." if len(wrong) > _NAMED else "")
    what = f"GPUDrive cannot hold {len(wrong)} of its scenes: {named}"
    return UserError(where, what, f"extract without them, or {instead}")
