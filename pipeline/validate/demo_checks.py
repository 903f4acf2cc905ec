"""The checks of a part's demos: those of vehicles and those of pedestrians and cyclists, alike."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.pipeline.experts.expert import has_action, replay_quality
from gail_cli.pipeline.records import ABSENT, BRIDGED, LOGGED, QUALITY
from gail_cli.pipeline.store.schema import record_at
from gail_cli.pipeline.validate.part_view import SLACK, DemoGroup, Finding, Part, check_places, in_rows
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import SelectedAgents, make_worlds

TOLERANCE = 1e-3
"""Largest difference (m, rad, m/s) between stored and recomputed states; on the machine that made them it is 0."""


def driven(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """Each demo is of another agent of its scene."""
    path = f"{group.path}/agent"
    agent, scene = part.arrays[path], part.scene_of(group.kind)
    outside = (agent < 0) | (agent >= np.diff(part.starts("agent"))[scene])
    yield from in_rows(part, path, outside, "the agent is not in its scene")
    order = np.zeros(len(agent), np.bool_)
    order[1:] = (np.diff(agent) <= 0) & (np.diff(scene) == 0)
    yield from in_rows(part, path, order, "the agent has a demo already, or is out of order,")


def marks(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """Marks say what the log says."""
    path = f"{group.path}/mark"
    mark, valid = part.arrays[path], part.arrays["tracks/valid"][part.driven(group)]
    present = mark != ABSENT
    last = present.shape[1] - 1 - present[:, ::-1].argmax(axis=1)
    ends = np.stack([mark[:, 0], mark[np.arange(len(mark)), last]])
    for bad, what in (
        (mark > BRIDGED, f"a code is not within {ABSENT} to {BRIDGED}"),
        ((mark == LOGGED) & ~valid, "a step is marked logged where the log is not valid"),
        ((mark == BRIDGED) & valid, "a step is marked bridged where the log is valid"),
        ((mark == ABSENT) & valid, "a step is marked absent where the log is valid"),
        (present[:, 1:] & ~present[:, :-1], "the demo is not one unbroken span from step 0"),
        ((ends != LOGGED).any(axis=0), "the demo does not begin and end at a logged step"),
    ):
        yield from in_rows(part, path, bad, what)


def states(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """States are places, and zero where there is none."""
    path = f"{group.path}/state"
    state, absent = part.arrays[path], part.arrays[f"{group.path}/mark"] == ABSENT
    yield from in_rows(part, path, (state != 0).any(axis=-1) & absent, "a state is not zero where absent")
    yield from check_places(part, path, state)


def actions(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """Actions are of the action space, and zero where no agent acts."""
    path, space = f"{group.path}/action", group.space
    action, acts = part.arrays[path], has_action(part.arrays[f"{group.path}/mark"])
    if space.discrete:
        low, high = np.zeros(space.components), np.array(space.sizes) - 1
        what = f"an index is outside the action grid of {' x '.join(map(str, space.sizes))}"
    else:
        low, high = np.array(space.bounds).T
        low, high = low - SLACK, high + SLACK
        what = "an action is outside the bounds"
    yield from in_rows(part, path, (action < low) | (action > high), what)
    idle = (action != 0).any(axis=-1) & ~acts
    yield from in_rows(part, path, idle, "an action is not zero where the demo does not go on")


def qualities(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """The stored qualities are those of the stored states and actions."""
    path = f"{group.path}/quality"
    stored = part.arrays[path]
    state, action, mark = (part.arrays[f"{group.path}/{name}"] for name in ("state", "action", "mark"))
    expected = replay_quality(group.space, part.arrays["tracks/log"][part.driven(group)], mark, state, action)
    close = np.abs(expected[:, QUALITY.index("fde_m")] - SimConfig().goal_radius) < TOLERANCE
    for k, name in enumerate(QUALITY[: expected.shape[1]]):
        bad = np.abs(stored[:, k] - expected[:, k]) > TOLERANCE
        if name == "goal":
            bad &= ~close
        yield from in_rows(part, path, bad, f"{name} is not that of the stored states and actions")
    yield from in_rows(part, path, stored[:, QUALITY.index("quantisation_m")] < 0, "quantisation_m is negative")


def replay(part: Part, group: DemoGroup) -> Iterator[Finding]:
    """Drive the sampled scenes' demos through the simulator."""
    found = [record_at(part.arrays, k) for k in part.sampled]
    pairs = [(r.scene, getattr(r, group.path)) for r in found]
    pairs = [(scene, demos) for scene, demos in pairs if demos.num_demos]
    if not pairs:
        return
    yes = [np.ones(demos.num_demos, np.bool_) for _, demos in pairs]
    selected = [SelectedAgents(demos.agent, y, ~y) for (_, demos), y in zip(pairs, yes, strict=True)]
    worlds = make_worlds([scene for scene, _ in pairs], selected=selected)
    env = Env(worlds, group.space, observation=ObservationConfig(partners=1, road_segments=1, radius=1.0, lights=0))
    mark, state, action = (np.concatenate([getattr(d, n) for _, d in pairs]) for n in ("mark", "state", "action"))
    bad: NDArray[np.bool_] = np.zeros(len(mark), np.bool_)
    for step in range(mark.shape[1]):
        if step:
            env.step(torch.from_numpy(action[:, step - 1]))
        error = np.abs(env.states().numpy() - state[:, step])
        error[:, 2] = np.minimum(error[:, 2], np.abs(2 * np.pi - error[:, 2]))
        bad |= (error > TOLERANCE).any(axis=1) & (mark[:, step] != ABSENT)
    rows = np.zeros(part.rows(group.kind), np.bool_)
    rows[np.flatnonzero(np.isin(part.scene_of(group.kind), part.sampled))[bad]] = True
    yield from in_rows(part, f"{group.path}/state", rows, "the stored actions do not lead to the stored states")
