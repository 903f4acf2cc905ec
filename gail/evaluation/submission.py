"""Rollouts in the form of Waymo's sim agents challenge, for its official scorer.

They start at step 10, and nothing that is driven by anything but the policy knows the log's future. The policy itself
does: it sees its goal, which is where its log ends. So these files are for analysis, and break the leaderboard's rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.drivers import drive, policy_driver
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.env import Env
from gail_cli.sim.scenario import DT, AgentType, Scenario
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import SelectedAgents, make_worlds, select_agents

START, STEPS, ROLLOUTS = 10, 80, 32
"""The last logged step, how many are simulated after it, and how often (Montali et al. 2023)."""
_SCENES_AT_ONCE = 8
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
    """A ``SimAgentsChallengeSubmission`` of a policy's drives with drawn actions.

    The policy drives the agents that it drives in its run, in the embedded simulator; all others that are there at
    step 10 go on at constant velocity. No agent leaves or joins.

    Args:
        policy: who drives.
        config: of its run.
        store: of scenes with 91 steps or more.
        scenes: indices; all when None.
        heights: where z is from, which a store does not keep; 0 when None.
        info: fields of the submission by name, as text (see :func:`fill`).
        rollouts: R, joint scenes per scene.
        seed: for drawing actions.
        progress: called with scenes done and scenes in all.

    Raises:
        RunError: when the store's scenes are too short or its actions are not the policy's, a field is unknown or its
            value not possible, or a scene or an object has no height though heights are given.
    """
    if store.steps < START + STEPS + 1:
        raise RunError(f"store {store.path}", f"its scenes have {store.steps} steps, but a submission needs 91")
    if policy.space != store.space:
        raise RunError(f"store {store.path}", "its actions are not those of the run", "extract with the same settings")
    result = fill(schema.SimAgentsChallengeSubmission(), info or {})
    chosen = list(range(len(store)) if scenes is None else scenes)
    for first in range(0, len(chosen), _SCENES_AT_ONCE):
        records = list(store.read(chosen[first : first + _SCENES_AT_ONCE]))
        cuts = [from_step(record.scene, START, STEPS + 1) for record in records]
        drives = _simulated(policy, config, cuts, rollouts, (seed, first))
        for scene, driven in zip(cuts, drives, strict=True):
            z = np.zeros(scene.num_agents) if heights is None else _heights_of(scene, heights)
            result.scenario_rollouts.append(_rollouts(scene, driven, z))
        progress(first + len(records), len(chosen))
    return result


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


def constant_velocity(scene: Scene, rows: NDArray[np.bool_]) -> Scene:
    """The scene in which the agents ``rows`` [A] go on from its first step as they were, whatever their log does."""
    steps = np.arange(scene.num_steps)[None, :, None]
    log, valid = scene.log.copy(), scene.valid.copy()
    log[rows] = scene.log[rows, :1]
    log[rows, :, :2] += scene.log[rows, :1, 3:] * (steps * DT).astype(np.float32)
    valid[rows] = True
    return replace(scene, log=log, valid=valid)


def _simulated(
    policy: Policy, config: TrainConfig, scenes: Sequence[Scene], rollouts: int, seed: tuple[int, int]
) -> list[NDArray[np.float32]]:
    """[R, A, T, 5] of all agents of each scene, in R drives."""
    selected = [_selected(scene, config) for scene in scenes]
    driven = [np.isin(np.arange(s.num_agents), c.row[c.controlled]) for s, c in zip(scenes, selected, strict=True)]
    scenes = [constant_velocity(scene, ~rows) for scene, rows in zip(scenes, driven, strict=True)]
    tracks = [np.repeat(scene.log[None], rollouts, axis=0) for scene in scenes]
    if any(rows.any() for rows in driven):
        worlds = make_worlds(scenes, next(policy.parameters()).device, selected=selected)
        sim = replace(
            config.sim, compat=None, on_collision="ignore", on_goal="ignore", end_with_log=False, teleport=False,
            replay_lag=False, horizon=None,
        )  # fmt: skip
        env = Env(worlds, policy.space, sim, config.observation)
        places = worlds.controlled_agents()
        for r in range(rollouts):
            torch.manual_seed(int(np.random.SeedSequence((*seed, r)).generate_state(1)[0]))
            track = drive(env, policy_driver(policy, deterministic=False)).track.cpu().numpy()
            for (world, agent), states in zip(places, track, strict=True):
                tracks[world][r, agent] = states
    return tracks


def _selected(scene: Scene, config: TrainConfig) -> SelectedAgents:
    """The agents in the policy's world, and which of them it drives."""
    chosen = select_agents(scene, config.sim.selection)
    kind = np.isin(scene.agent_type[chosen.row], _DRIVEN[config.data.agents])
    return SelectedAgents(chosen.row, chosen.controlled & kind, chosen.parked)


def _rollouts(scene: Scene, driven: NDArray[np.float32], z: NDArray[np.float64]) -> Any:
    """One scene's ``ScenarioRollouts``, in the frame of its log, from states [R, A, T, 5]."""
    result = schema.ScenarioRollouts(scenario_id=scene.id)
    place = driven[..., 1:, :2].astype(np.float64) + scene.origin
    for xy, heading in zip(place, driven[..., 1:, 2], strict=True):
        joint = result.joint_scenes.add()
        for agent, number in enumerate(scene.agent_id.tolist()):
            joint.simulated_trajectories.add(
                object_id=number,
                center_x=xy[agent, :, 0].tolist(),
                center_y=xy[agent, :, 1].tolist(),
                center_z=[float(z[agent])] * len(xy[agent]),
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
