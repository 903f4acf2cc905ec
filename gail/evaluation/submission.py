"""Rollouts in the form of Waymo's sim agents challenge, for its official scorer.

They start at step 10, and nothing that is driven by anything but the policy knows the log's future. The policy itself
does: it sees its goal, which is where its log ends. So these files are for analysis, and break the leaderboard's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.challenge import ROLLOUTS, START, STEPS
from gail_cli.gail.evaluation.drivers import drive, policy_driver
from gail_cli.gail.evaluation.road_users import go_on
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import Env
from gail_cli.sim.heights import heights as levels_along
from gail_cli.sim.scenario import AgentType, Scenario
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import SelectedAgents, make_worlds, select_agents

SCENES_AT_ONCE = 8
"""That are simulated together, so that they share their draws."""
_FILLED = ("scenario_rollouts", "submission_type")
"""Fields of a submission that are filled here, and not by its description."""
_DRIVEN = {"vehicles": (AgentType.VEHICLE,), "vru": (AgentType.PEDESTRIAN, AgentType.CYCLIST)}

Heights = Mapping[str, Mapping[int, float]]
"""z (m) at step 10, by scene id and object id."""


def submission(
    policy: Policy,
    config: TrainConfig,
    store: DemoStore,
    *,
    scenes: Sequence[int] | None = None,
    heights: Heights | None = None,
    info: Mapping[str, str] | None = None,
    rollouts: int = ROLLOUTS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Any:
    """A ``SimAgentsChallengeSubmission`` of a policy's drives with drawn actions (:func:`simulate`). No agent leaves or
    joins.

    Args:
        policy: who drives.
        config: of its run.
        store: of scenes with 91 steps or more.
        scenes: indices; all when None.
        heights: where z is from if the store does not keep it, as those of format 2; 0 there when None.
        info: fields of the submission by name, as text (see :func:`fill`).
        rollouts: R, joint scenes per scene.
        seed: for drawing actions.
        progress: called with scenes done and scenes in all.

    Raises:
        RunError: when the store's scenes are too short or its actions are not the policy's, a field is unknown or its
            value not possible, or a scene or an object has no height though heights are given.
    """
    check_store(policy, store)
    result = fill(schema.SimAgentsChallengeSubmission(), info or {})
    for done, total, scene, driven in simulated_scenes(policy, config, store, scenes, rollouts, seed):
        z = driven.z + (0.0 if np.isnan(scene.origin_z) else scene.origin_z)
        if np.isnan(scene.origin_z) and heights is not None:
            z = z + _heights_of(scene, heights)[:, None]
        cut = from_step(scene, START, STEPS + 1)
        result.scenario_rollouts.append(_rollouts(cut, driven.track, z))
        progress(done, total)
    return result


def check_store(policy: Policy, store: DemoStore) -> None:
    """Whether a policy can drive a store's scenes by the challenge's rules.

    Raises:
        RunError: when they are too short, or its actions are not the policy's.
    """
    if store.steps < START + STEPS + 1:
        what = f"its scenes have {store.steps} steps, but the challenge's have {START + STEPS + 1}"
        raise RunError(f"store {store.path}", what)
    if policy.space != store.space:
        raise RunError(f"store {store.path}", "its actions are not those of the run", "extract with the same settings")


def simulated_scenes(
    policy: Policy, config: TrainConfig, store: DemoStore, scenes: Sequence[int] | None, rollouts: int, seed: int
) -> Iterator[tuple[int, int, Scene, Simulated]]:
    """How many scenes are done and of how many, a scene, and its drives from step 10 on: the same for submissions and
    evaluations.

    Args:
        policy: who drives.
        config: of its run.
        store: of scenes with 91 steps or more.
        scenes: indices; all when None.
        rollouts: R.
        seed: for all that is drawn.
    """
    chosen = list(range(len(store)) if scenes is None else scenes)
    for first in range(0, len(chosen), SCENES_AT_ONCE):
        whole = [record.scene for record in store.read(chosen[first : first + SCENES_AT_ONCE])]
        cuts = [from_step(scene, START, STEPS + 1) for scene in whole]
        drives = simulate(policy, config, cuts, rollouts, (seed, first))
        for k, (scene, driven) in enumerate(zip(whole, drives, strict=True)):
            yield first + k + 1, len(chosen), scene, driven


def from_step(scene: Scene, start: int, states: int) -> Scene:
    """The scene from a step on, with the agents that are there then; later ones are left out."""
    there = scene.valid[:, start]
    steps = slice(start, start + states)
    of_agents = {name: getattr(scene, name)[there] for name in ("agent_id", "agent_type", "agent_role", "agent_size")}
    return replace(
        scene,
        **of_agents,
        log=scene.log[there, steps],
        log_z=scene.log_z[there, steps],
        valid=scene.valid[there, steps],
        light_state=scene.light_state[:, steps],
        timestamp=scene.timestamp[steps],
    )


@dataclass(frozen=True, eq=False)
class Simulated:
    """R drives of one scene of A agents over T steps, of which the first is where they start."""

    track: NDArray[np.float32]
    """[R, A, T, 5]."""
    z: NDArray[np.float32]
    """[R, A, T] m above the scene's ``origin_z``."""


def simulate(
    policy: Policy, config: TrainConfig, scenes: Sequence[Scene], rollouts: int, seed: tuple[int, ...]
) -> list[Simulated]:
    """Drive scenes whose first step is the last that is known.

    The policy drives whom it drives in its run, with drawn actions, in the embedded simulator; all others go on as such
    road users do (:mod:`~gail_cli.gail.evaluation.road_users`), and keep their height.

    Args:
        policy: who drives.
        config: of its run.
        scenes: all with as many steps.
        rollouts: R.
        seed: of the drives of these scenes.
    """
    selected = [_selected(scene, config) for scene in scenes]
    others = [np.setdiff1d(np.arange(s.num_agents), c.row[c.controlled]) for s, c in zip(scenes, selected, strict=True)]
    scenes = [_level(scene, rows) for scene, rows in zip(scenes, others, strict=True)]
    tracks = [np.repeat(scene.log[None], rollouts, axis=0) for scene in scenes]
    heights = [np.repeat(scene.log_z[None], rollouts, axis=0) for scene in scenes]
    for r in range(rollouts):
        for k, (scene, rows) in enumerate(zip(scenes, others, strict=True)):
            tracks[k][r, rows] = go_on(scene, rows, np.random.default_rng((*seed, r, k)))
    if any(len(rows) < scene.num_agents for scene, rows in zip(scenes, others, strict=True)):
        # all drives at once: worlds of one scene share its map, and differ in the logs that others follow
        worlds = make_worlds(scenes * rollouts, next(policy.parameters()).device, selected=selected * rollouts)
        logs = [t[r, c.row].reshape(-1, 5) for r in range(rollouts) for t, c in zip(tracks, selected, strict=True)]
        worlds.tensors["log"].copy_(torch.from_numpy(np.concatenate(logs)))
        sim = replace(
            config.sim, compat=None, on_collision="ignore", on_goal="ignore", end_with_log=False, teleport=False,
            replay_lag=False, horizon=None,
        )  # fmt: skip
        env = Env(worlds, policy.space, sim, config.observation)
        torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1)[0]))
        driven = drive(env, policy_driver(policy, deterministic=False))
        z = levels_along(worlds, driven.everyone)[worlds.controlled].cpu().numpy()
        for (world, agent), states, levels in zip(
            worlds.controlled_agents(), driven.track.cpu().numpy(), z, strict=True
        ):
            r, k = divmod(world, len(scenes))
            tracks[k][r, agent], heights[k][r, agent] = states, levels
    return [Simulated(track, z) for track, z in zip(tracks, heights, strict=True)]


def _level(scene: Scene, rows: NDArray[np.int64]) -> Scene:
    """The scene in which some agents are there at every step, as high as at the first."""
    log_z, valid = scene.log_z.copy(), scene.valid.copy()
    log_z[rows] = scene.log_z[rows, :1]
    valid[rows] = True
    return replace(scene, log_z=log_z, valid=valid)


def _selected(scene: Scene, config: TrainConfig) -> SelectedAgents:
    """The agents in the policy's world, and which of them it drives."""
    chosen = select_agents(scene, config.sim.selection)
    kind = np.isin(scene.agent_type[chosen.row], _DRIVEN[config.data.agents])
    return SelectedAgents(chosen.row, chosen.controlled & kind, chosen.parked)


def _rollouts(scene: Scene, driven: NDArray[np.float32], z: NDArray[np.floating]) -> Any:
    """One scene's ``ScenarioRollouts``, in the frame of its log, from states [R, A, T, 5] and heights [R, A, T]."""
    result = schema.ScenarioRollouts(scenario_id=scene.id)
    place = driven[..., 1:, :2].astype(np.float64) + scene.origin
    for xy, heading, levels in zip(place, driven[..., 1:, 2], z[..., 1:], strict=True):
        joint = result.joint_scenes.add()
        for agent, number in enumerate(scene.agent_id.tolist()):
            joint.simulated_trajectories.add(
                object_id=number,
                center_x=xy[agent, :, 0].tolist(),
                center_y=xy[agent, :, 1].tolist(),
                center_z=levels[agent].tolist(),
                heading=heading[agent].tolist(),
            )
    return result


def read_heights(sources: Sequence[str], scenes: set[str]) -> dict[str, dict[int, float]]:
    """z of every object at step 10, from the files that a store was made of.

    Args:
        sources: files, folders, globs or URLs.
        scenes: ids of those that are needed.

    Raises:
        SourceError: when a source does not exist or holds no scene file.
    """
    found = {}
    for path in resolve(sources):
        for _, scenario in read_scenes(list_scenes(path)[0]):
            if isinstance(scenario, Scenario) and scenario.id in scenes and scenario.num_steps > START:
                z = scenario.tracks.position[:, START, 2]
                found[scenario.id] = dict(zip(scenario.tracks.id.tolist(), z.tolist(), strict=True))
    return found


def _heights_of(scene: Scene, heights: Heights) -> NDArray[np.float64]:
    try:
        return np.array([heights[scene.id][number] for number in scene.agent_id.tolist()])
    except KeyError:
        raise RunError(
            f"scene {scene.id!r}", "the sources do not tell its heights", "give the files that its store was made of"
        ) from None


def fill(message: Any, info: Mapping[str, str]) -> Any:
    """The submission with fields of its description set: text; true or false; several texts with commas between.

    Raises:
        RunError: for an unknown field, naming the nearest, or a value that is not true or false where it must be.
    """
    fields = {f.name: f for f in message.DESCRIPTOR.fields if f.name not in _FILLED}
    message.submission_type = message.SIM_AGENTS_SUBMISSION
    for name, text in info.items():
        if name not in fields:
            near = get_close_matches(name, fields, 1) or [", ".join(fields)]
            raise RunError("", f"a submission has no field {name!r}", f"did you mean {near[0]}?")
        if fields[name].type == fields[name].TYPE_BOOL:
            if text not in ("true", "false"):
                raise RunError("", f"{name} is {text!r}", "it must be true or false")
            setattr(message, name, text == "true")
        elif isinstance(getattr(message, name), str):
            setattr(message, name, text)
        else:
            getattr(message, name).extend(part.strip() for part in text.split(","))
    return message
