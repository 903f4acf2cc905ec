"""Scenes on a device: ragged tensors of many worlds that simulator, sampler and expert search all read.

Agents of all worlds stand one after the other, and so do their segments; ``agent_start`` and ``segment_start`` say
where a world begins. There is no limit on agents or segments a world, and no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sim.launch import to_warp, wp
from sim.scenario import AgentType, RoadType
from sim.scene import Role, Scene

InitMode = Literal["all_non_trivial", "all_valid", "all_objects"]
PARKED_DISTANCE = 0.2
"""An agent whose goal is nearer than this to its start is parked (GPUDrive), m."""


@dataclass(frozen=True)
class Selection:
    """Which agents of a scene exist in the simulator, and which of them a policy controls (GPUDrive's init modes)."""

    init_mode: InitMode = "all_non_trivial"
    """``all_non_trivial``: moving agents valid at step 0 are controlled; ``all_valid``: parked ones too;
    ``all_objects``: as ``all_valid``, and agents of every type exist, also those that appear later."""
    remove_non_vehicles: bool = True
    """Leave out pedestrians and cyclists; ``all_objects`` keeps them whatever stands here, as in GPUDrive."""
    max_agents: int | None = None
    """Limit of agents a world, in agent order (GPUDrive: 64); None for all."""
    max_controlled: int | None = None
    """Limit of controlled agents a world, in agent order; None for all."""


@dataclass(frozen=True, eq=False)
class SelectedAgents:
    """Rows [B] of a scene's agents that exist, with their part in the simulation."""

    row: NDArray[np.int64]
    controlled: NDArray[np.bool_]
    parked: NDArray[np.bool_]


def select_agents(scene: Scene, selection: Selection) -> SelectedAgents:
    """Apply GPUDrive's rules (src/level_gen.cpp; see docs/simulator.md) to one scene."""
    at_start = scene.valid[:, 0]
    exists = scene.valid.any(axis=1)
    if selection.init_mode != "all_objects":
        exists &= at_start
    if selection.remove_non_vehicles and selection.init_mode != "all_objects":
        exists &= ~np.isin(scene.agent_type, (AgentType.PEDESTRIAN, AgentType.CYCLIST))
    if selection.max_agents is not None:
        exists &= np.cumsum(exists) <= selection.max_agents
    distance = np.linalg.norm(scene.goal - scene.log[:, 0, :2], axis=1)
    parked = at_start & (distance < PARKED_DISTANCE) & (selection.init_mode == "all_non_trivial")
    controlled = exists & at_start & ~parked & (scene.agent_role & Role.MARK_AS_EXPERT == 0)
    if selection.max_controlled is not None:
        controlled &= np.cumsum(controlled) <= selection.max_controlled
    row = np.flatnonzero(exists)
    return SelectedAgents(row, controlled[row], parked[row])


@wp.struct
class WorldArrays:
    """The tensors of :class:`Worlds` as a kernel sees them."""

    steps: int
    log: wp.array2d(dtype=wp.float32)
    valid: wp.array(dtype=wp.bool)
    agent_start: wp.array(dtype=wp.int32)
    world: wp.array(dtype=wp.int32)
    size: wp.array2d(dtype=wp.float32)
    goal: wp.array2d(dtype=wp.float32)
    type: wp.array(dtype=wp.int32)
    parked: wp.array(dtype=wp.bool)
    controlled: wp.array(dtype=wp.bool)
    last_valid: wp.array(dtype=wp.int32)
    segment_start: wp.array(dtype=wp.int32)
    segment: wp.array2d(dtype=wp.float32)
    segment_type: wp.array(dtype=wp.int32)
    solid_start: wp.array(dtype=wp.int32)
    solid: wp.array(dtype=wp.int32)


@dataclass(frozen=True, eq=False)
class Worlds:
    """W worlds with M agents in all, N of them controlled, T steps, S segments."""

    scenes: tuple[Scene, ...]
    selected: tuple[SelectedAgents, ...]
    tensors: dict[str, torch.Tensor]
    """By the names of :class:`WorldArrays`."""
    controlled: torch.Tensor
    """[N] agent rows (0 .. M-1) of the controlled agents."""
    device: torch.device

    @property
    def num_worlds(self) -> int:
        """W."""
        return len(self.scenes)

    @property
    def num_agents(self) -> int:
        """M."""
        return int(self.tensors["world"].shape[0])

    @property
    def num_steps(self) -> int:
        """T."""
        return self.scenes[0].num_steps

    @property
    def log(self) -> torch.Tensor:
        """[M, T, 5] logged x, y, heading, vx, vy."""
        return self.tensors["log"].view(self.num_agents, self.num_steps, 5)

    @property
    def valid(self) -> torch.Tensor:
        """[M, T] whether the log has a state there."""
        return self.tensors["valid"].view(self.num_agents, self.num_steps)

    def arrays(self) -> Any:
        """The struct that kernels take; holds views, so keep this object alive as long as it is in use."""
        struct = WorldArrays()
        struct.steps = self.num_steps
        for name, tensor in self.tensors.items():
            setattr(struct, name, to_warp(tensor))
        return struct

    def controlled_agents(self) -> list[tuple[int, int]]:
        """(world, row in the scene's agents) of the N controlled agents, in order."""
        return [(w, int(row)) for w, chosen in enumerate(self.selected) for row in chosen.row[chosen.controlled]]


def make_worlds(
    scenes: Sequence[Scene],
    device: torch.device | str = "cpu",
    selection: Selection | None = None,
    selected: Sequence[SelectedAgents] | None = None,
) -> Worlds:
    """Lay scenes out on a device, one world a scene.

    Args:
        scenes: at least one, all with the same number of steps.
        device: where the tensors live.
        selection: rule by which agents exist and are controlled; GPUDrive's default rule when None.
        selected: the choice itself, a world each, instead of a rule.

    Raises:
        ValueError: when there is no scene, or their step counts differ.
    """
    if not scenes:
        raise ValueError("no scene to simulate; pass at least one")
    if len({s.num_steps for s in scenes}) > 1:
        raise ValueError("the scenes have different numbers of steps; prepare them with one value of `steps`")
    chosen = tuple(selected or (select_agents(s, selection or Selection()) for s in scenes))
    pairs = list(zip(scenes, chosen, strict=True))

    def gather(per_scene: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate(per_scene), dtype)

    solid = [np.flatnonzero(np.isin(s.segment_type, (RoadType.ROAD_EDGE, RoadType.STOP_SIGN))) for s in scenes]
    segment_start = _starts([len(s.segment) for s in scenes])
    counts = [len(c.row) for c in chosen]
    arrays: dict[str, NDArray[Any]] = {
        "log": gather([s.log[c.row].reshape(-1, 5) for s, c in pairs], np.float32),
        "valid": gather([s.valid[c.row].reshape(-1) for s, c in pairs], np.bool_),
        "agent_start": _starts(counts),
        "world": np.repeat(np.arange(len(scenes), dtype=np.int32), counts),
        "size": gather([s.agent_size[c.row] for s, c in pairs], np.float32),
        "goal": gather([s.goal[c.row] for s, c in pairs], np.float32),
        "type": gather([s.agent_type[c.row] for s, c in pairs], np.int32),
        "parked": gather([c.parked for c in chosen], np.bool_),
        "controlled": gather([c.controlled for c in chosen], np.bool_),
        "last_valid": gather([s.last_valid[c.row] for s, c in pairs], np.int32),
        "segment_start": segment_start,
        "segment": gather([_with_direction(s.segment) for s in scenes], np.float32),
        "segment_type": gather([s.segment_type for s in scenes], np.int32),
        "solid_start": _starts([len(s) for s in solid]),
        "solid": gather([s + first for s, first in zip(solid, segment_start[:-1], strict=True)], np.int32),
    }
    on = torch.device(device)
    tensors = {name: torch.from_numpy(array).to(on) for name, array in arrays.items()}
    return Worlds(tuple(scenes), chosen, tensors, tensors["controlled"].nonzero().flatten(), on)


def _with_direction(segment: NDArray[np.float32]) -> NDArray[np.float32]:
    """[S, 7] segments with the cosine and sine of their heading, which every query would compute again."""
    heading = segment[:, 4:5]
    return np.concatenate([segment, np.cos(heading), np.sin(heading)], axis=1)


def _starts(counts: Sequence[int]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
