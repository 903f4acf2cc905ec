"""More scenes out of one: pieces of its time, its mirror image, and the scene stretched, with their demos.

A piece begins later and ends earlier, so every agent has another start, another goal (where its piece of the log ends)
and another time to get there; in the mirror image left is right; a stretched scene has other curves, crossings and
speeds. All are driving as people did it, or nearly so, and a policy that has few scenes to learn from needs them:
measured in docs/recipes.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.pipeline.experts.expert import replay_experts
from gail_cli.pipeline.experts.starts import led_back, off_log
from gail_cli.pipeline.records import ABSENT, QUALITY, Demos, Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Role, Scene

T = TypeVar("T", bound=np.generic)

_MAX_REPLAY_ERROR = 0.5
"""Mean distance from where it should be beyond which a stretched demo is left out, m."""
_LATERAL = {"steering", "curvature", "dy", "dheading", "y", "heading", "vy"}
"""Components of actions that change their sign in a mirror."""


def demo_variants(
    records: Sequence[Record], space: ActionSpace, augmentation: Augmentation, rngs: Sequence[np.random.Generator]
) -> list[Record]:
    """A random variant of each scene, with demos whose actions lead to their states in it.

    Args:
        records: the scenes, of one common number of steps.
        space: of the actions.
        augmentation: how scenes are varied, and how many demos recover.
        rngs: where the numbers of each scene come from.
    """
    result = []
    for record, rng in zip(records, rngs, strict=True):
        variant = varied(record, space, augmentation, rng)
        if augmentation.recover:
            start = off_log(variant, augmentation.perturb, rng)
            variant = led_back(variant, start, rng.random(len(start)) < augmentation.recover)
        result.append(variant)
    return replayed(result, space) if augmentation.searches else result


def varied(record: Record, space: ActionSpace, augmentation: Augmentation, rng: np.random.Generator) -> Record:
    """A random variant of a scene with its demos in an action space; the scene itself if no agent would drive in it.

    Where it is stretched its demos' actions are those of before, until :func:`replayed` has found others.
    """
    last = int(record.scene.last_valid.max(initial=0))
    whole, mirror, length, begin, direction, along, across = rng.random(7)
    result = record
    if whole >= augmentation.whole and last > augmentation.shortest:
        steps = augmentation.shortest + int(length * (last - augmentation.shortest))
        first = int(begin * (last - steps + 1))
        if augmentation.stretch > 1:
            factors = augmentation.stretch ** (2 * along - 1), augmentation.stretch ** (2 * across - 1)
            result = stretched(record, np.pi * direction, *factors)
        result = piece(result, first, first + steps)
        if not result.moving.any():
            result = record
    return mirrored(result, space) if mirror < augmentation.mirror else result


def piece(record: Record, first: int, last: int) -> Record:
    """The scene and the demos of vehicles from step ``first`` to step ``last``, both included, moved to step 0.

    As many steps as before, of which those after the piece are invalid. Demos that are not there at its begin, or whose
    agent's log is not, are left out.

    Raises:
        ValueError: for steps that are none of the scene's, or in the wrong order.
    """
    scene, demos = record.scene, record.demos
    if not 0 <= first < last < scene.num_steps:
        raise ValueError(f"scene {scene.id!r}: steps {first} to {last} are no piece of its {scene.num_steps}")

    def cut(values: NDArray[T], empty: int = 0) -> NDArray[T]:
        """[n, T, ...] moved along time."""
        moved = np.full_like(values, empty)
        moved[:, : last - first + 1] = values[:, first : last + 1]
        return moved

    small = replace(
        scene, log=cut(scene.log), log_z=cut(scene.log_z), valid=cut(scene.valid),
        light_state=cut(scene.light_state, -1),
        timestamp=scene.timestamp + (scene.timestamp[first] - scene.timestamp[0]),
    )  # fmt: skip
    role = scene.agent_role & np.uint8(0xFF & ~(Role.PARKED | Role.LATE))
    role[small.parked] |= np.uint8(Role.PARKED)
    role[~small.valid[:, 0]] |= np.uint8(Role.LATE)
    mark, action = cut(demos.mark, ABSENT), cut(demos.action)
    action[np.roll(mark, -1, axis=1) == ABSENT] = 0  # the last step has none
    action[:, -1] = 0
    keep = (mark[:, :2] != ABSENT).all(axis=1) & small.valid[demos.agent, 0]
    kept = Demos(demos.agent[keep], mark[keep], cut(demos.state)[keep], action[keep], demos.quality[keep])
    return replace(record, scene=replace(small, agent_role=role), demos=kept, vru=None)


def stretched(record: Record, direction: float, along: float, across: float) -> Record:
    """The scene and the demos of vehicles with other distances, and speeds: an affine map of the plane.

    Agents and segments keep their sizes (the length of a segment apart), and demos their actions, which no longer lead
    to their states; :func:`replayed` finds others.

    Args:
        record: the scene and its demos, which stay as they are.
        direction: rad.
        along: factor on distances in this direction.
        across: factor on distances at right angles to it.
    """
    c, s = np.cos(direction), np.sin(direction)
    turn = np.array([[c, -s], [s, c]])
    matrix = turn @ np.diag([along, across]) @ turn.T
    scene, demos = record.scene, record.demos

    def towards(heading: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where a direction points then, and how many times as far it reaches."""
        ahead = np.stack([np.cos(heading), np.sin(heading)], axis=-1) @ matrix
        return np.arctan2(ahead[..., 1], ahead[..., 0]), np.hypot(ahead[..., 0], ahead[..., 1])

    def states(before: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.float32]:
        """[..., 5] x, y, heading, vx, vy."""
        heading, _ = towards(before[..., 2])
        after = np.concatenate([before[..., :2] @ matrix, heading[..., None], before[..., 3:] @ matrix], axis=-1)
        return np.where(there[..., None], after, 0).astype(np.float32)

    x, y, half, width, heading = scene.segment.astype(np.float64).T
    middle = np.stack([x, y], axis=1) @ matrix
    pointing, factor = towards(heading)
    segment = np.column_stack([middle, half * factor, width, pointing]).astype(np.float32)
    lights = (scene.light_stop_point @ matrix).astype(np.float32)
    image = replace(scene, log=states(scene.log, scene.valid), segment=segment, light_stop_point=lights)
    moved = replace(demos, state=states(demos.state, demos.mark != ABSENT))
    return replace(record, scene=image, demos=moved, vru=None)


def replayed(records: Sequence[Record], space: ActionSpace) -> list[Record]:
    """The records with the actions of their moving vehicles' demos found anew, along the states that the demos have.

    Those states are a drive already, without the faults of a log, so that nothing is lost twice. They begin where the
    scene's log does, as a rollout would (a piece of a demo begins centimetres beside it). Demos that cannot
    follow them (no car turns so sharply, or stops so hard) are left out, as if their agents were bound to their logs. A
    demo's quality, by which demos are chosen, stays that of the scene as it was.

    Args:
        records: of one common number of steps.
        space: of the actions.
    """
    moving = [record.moving for record in records]
    rows, scenes = [], []
    for record, driven in zip(records, moving, strict=True):
        demos, log, valid = record.demos, record.scene.log.copy(), record.scene.valid.copy()
        rows.append(demos.agent[driven])
        begin = np.where(valid[rows[-1], :1], log[rows[-1], 0], demos.state[driven, 0])
        log[rows[-1]], valid[rows[-1]] = demos.state[driven], demos.mark[driven] != ABSENT
        log[rows[-1], 0] = begin
        scenes.append(replace(record.scene, log=log, valid=valid))
    result = []
    for record, driven, found in zip(records, moving, replay_experts(scenes, space, rows), strict=True):
        state, action = record.demos.state.copy(), record.demos.action.copy()
        state[driven], action[driven] = found.state, found.action
        keep = np.ones(len(state), np.bool_)
        keep[driven] = found.quality[:, QUALITY.index("ade_m")] <= _MAX_REPLAY_ERROR
        result.append(replace(record, demos=replace(record.demos, state=state, action=action).only(keep)))
    return result


def mirrored(record: Record, space: ActionSpace) -> Record:
    """The scene and the demos of vehicles with left and right exchanged.

    Road edges are turned round, as drivable ground lies to the left of them: also the order of their segments, so that
    each goes on where the one before ends.

    Raises:
        ValueError: when the grid of the actions is not symmetric.
    """
    scene, demos = record.scene, record.demos
    segment, height = scene.segment * np.array([1, -1, 1, 1, -1], np.float32), scene.segment_z.copy()
    edge = scene.segment_type == RoadType.ROAD_EDGE
    segment[edge, 4] += np.float32(np.pi)
    height[edge] = height[edge, ::-1]
    order = _edges_backwards(scene)
    image = replace(
        scene, log=mirrored_states(scene.log), segment=segment[order], segment_z=height[order],
        segment_type=scene.segment_type[order], segment_map_type=scene.segment_map_type[order],
        segment_road=scene.segment_road[order], light_stop_point=scene.light_stop_point * np.array([1, -1], np.float32),
    )  # fmt: skip
    image_of = mirrored_actions(demos.action, space)
    action: NDArray[Any] = np.where((demos.mark != ABSENT)[..., None], image_of, 0).astype(demos.action.dtype)
    return replace(
        record, scene=image,
        demos=replace(demos, state=mirrored_states(demos.state), action=action), vru=None,
    )  # fmt: skip


def _edges_backwards(scene: Scene) -> NDArray[np.int64]:
    """[S] numbers of a scene's segments, those of each road edge in the opposite order."""
    edge, road = scene.segment_type == RoadType.ROAD_EDGE, scene.segment_road
    new = np.ones(len(road), np.bool_)
    new[1:] = (road[1:] != road[:-1]) | (edge[1:] != edge[:-1])
    runs = np.split(np.arange(len(road)), np.flatnonzero(new)[1:])
    return np.concatenate([run[::-1] if len(run) and edge[run[0]] else run for run in runs])


def mirrored_states(states: NDArray[np.float32]) -> NDArray[np.float32]:
    """States [..., 5] x, y, heading, vx, vy with left and right exchanged."""
    return states * np.array([1, -1, -1, 1, -1], np.float32)


def mirrored_actions(actions: NDArray[Any], space: ActionSpace) -> NDArray[Any]:
    """Actions [..., K] of a space that do with left and right exchanged what these do.

    Raises:
        ValueError: when a component's grid is not symmetric.
    """
    result = actions.copy()
    for k, name in enumerate(space.dynamics.action_names):
        if name.split()[0] not in _LATERAL:
            continue
        if space.grid is None:
            result[..., k] = -actions[..., k]
        else:
            values = np.array(space.grid[k])
            if not np.allclose(values, -values[::-1]):
                raise ValueError(f"the grid of {name} is not symmetric; set augment.mirror to 0")
            result[..., k] = len(values) - 1 - actions[..., k]
    return result
