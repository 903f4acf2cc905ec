"""Scenes on a device: ragged tensors of many worlds that simulator, sampler and expert search all read.

Agents of all worlds stand one after the other, and so do the segments of all maps; ``agent_start`` and ``map_start``
say where a world or a map begins. Worlds of one scene share its map. There is no limit on agents or segments per
world, and no padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.sim.config import Selection
from gail_cli.sim.launch import struct, to_warp, wp
from gail_cli.sim.lights import Lights, light_arrays, starts
from gail_cli.sim.roads import Roads, Segment, road_grid
from gail_cli.sim.route_fields import Routes
from gail_cli.sim.routes import LaneGraph
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.scene import Role, Scene, check_scene

REMOVED_POSITION = -11000.0
"""Where GPUDrive puts removed agents, x and y, m."""
_SMALLEST_CELL = 8.0
"""Side of the cells of road grids with a short reach, m."""


@dataclass(frozen=True, eq=False)
class SelectedAgents:
    """Rows [B] of a scene's agents that exist, with their part in the simulation."""

    row: NDArray[np.int64]
    controlled: NDArray[np.bool_]
    parked: NDArray[np.bool_]


def select_agents(scene: Scene, selection: Selection) -> SelectedAgents:
    """Apply GPUDrive's rules (src/level_gen.cpp; see docs/simulator.md) to one scene."""
    at_start = scene.valid[:, 0]
    wanted = np.zeros(scene.num_agents, np.bool_)
    if selection.init_mode == "womd_tracks_to_predict":
        wanted = scene.agent_role & Role.TRACK_TO_PREDICT > 0
    exists = scene.valid.any(axis=1)
    if selection.init_mode != "all_objects":
        exists &= at_start
        if selection.remove_non_vehicles:
            walks = (scene.agent_type == AgentType.PEDESTRIAN) | (scene.agent_type == AgentType.CYCLIST)
            exists &= wanted | ~walks
    if selection.max_agents is not None:
        exists &= np.cumsum(exists) <= selection.max_agents
    parked = scene.parked & ~wanted
    if selection.init_mode in ("all_valid", "all_objects"):
        parked[:] = False
    controlled = exists & at_start & ~parked & (scene.agent_role & Role.MARK_AS_EXPERT == 0)
    if selection.init_mode == "womd_tracks_to_predict":
        controlled = exists & wanted
    if selection.max_controlled is not None:
        controlled &= np.cumsum(controlled) <= selection.max_controlled
    row = np.flatnonzero(exists)
    return SelectedAgents(row, controlled[row], parked[row])


@wp.struct
class WorldArrays:
    """The tensors of :class:`Worlds` as a kernel sees them."""

    steps: int
    log: wp.array2d(dtype=wp.float32)
    log_z: wp.array(dtype=wp.float32)
    valid: wp.array(dtype=wp.bool)
    agent_start: wp.array(dtype=wp.int32)
    world: wp.array(dtype=wp.int32)
    size: wp.array2d(dtype=wp.float32)
    radius: wp.array(dtype=wp.float32)
    lift: wp.array(dtype=wp.float32)
    goal: wp.array2d(dtype=wp.float32)
    type: wp.array(dtype=wp.int32)
    parked: wp.array(dtype=wp.bool)
    slot: wp.array(dtype=wp.int32)
    last_valid: wp.array(dtype=wp.int32)
    map: wp.array(dtype=wp.int32)
    map_start: wp.array(dtype=wp.int32)
    segment: wp.array(dtype=Segment)
    segment_z: wp.array2d(dtype=wp.float32)
    segment_type: wp.array(dtype=wp.int32)
    lights: Lights


@dataclass(frozen=True, eq=False)
class Worlds:
    """W worlds with M agents in all, N of them controlled, T steps, S segments."""

    scenes: tuple[Scene, ...]
    selected: tuple[SelectedAgents, ...]
    tensors: dict[str, torch.Tensor]
    """The arrays, by the names of :class:`WorldArrays`."""
    lights: dict[str, torch.Tensor]
    """The arrays of :class:`~sim.lights.Lights`."""
    controlled: torch.Tensor
    """[N] agent rows (0 .. M-1) of the controlled agents; ``slot`` [M] is the inverse, -1 for the others."""
    device: torch.device
    _grids: dict[tuple[float, bool], Any] = field(default_factory=dict, repr=False)
    _lanes: list[LaneGraph] = field(default_factory=list, repr=False)
    _routes: list[Any] = field(default_factory=list, init=False, repr=False)  # not shared by worlds of other starts

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

    @property
    def roads(self) -> Roads:
        """The maps."""
        return Roads(*(self.tensors[name] for name in ("map_start", "segment", "segment_type")))

    def arrays(self) -> Any:
        """The struct that kernels take; holds views, so keep this object alive as long as it is in use."""
        tensors = {name: x for name, x in self.tensors.items() if name != "segment"}
        segment, lights = to_warp(self.tensors["segment"], Segment), struct(Lights, steps=self.num_steps, **self.lights)
        return struct(WorldArrays, steps=self.num_steps, segment=segment, lights=lights, **tensors)

    def grid(self, reach: float, solid: bool = False) -> Any:
        """The :class:`~sim.roads.RoadGrid` of the segments within ``reach`` (m), made once and kept.

        Args:
            reach: how near a listed segment is to its cell, m.
            solid: list only what an agent can hit: road edges and stop signs.
        """
        if (reach, solid) not in self._grids:
            kind = self.roads.type
            hit = (kind == RoadType.ROAD_EDGE) | (kind == RoadType.STOP_SIGN)
            listed = hit if solid else torch.ones_like(hit)
            self._grids[reach, solid] = road_grid(self.roads, reach, max(reach / 2, _SMALLEST_CELL), listed)
        return self._grids[reach, solid]

    def lanes(self) -> list[LaneGraph]:
        """The lanes of each map as a graph, made once and kept."""
        if not self._lanes:
            self._lanes.extend(LaneGraph(scene) for scene in distinct_maps(self.scenes))
        return self._lanes

    def routes(self) -> Any:
        """The :class:`~sim.route_fields.Routes` of the controlled agents from their starts to their goals, made once
        and kept."""
        if not self._routes:
            self._routes.append(_routes(self))
        return self._routes[0]

    @property
    def lit(self) -> torch.Tensor:
        """[W] bool, which worlds have traffic lights."""
        return self.lights["start"].diff()[self.tensors["map"].long()] > 0

    @property
    def edged(self) -> torch.Tensor:
        """[W] bool, which worlds have road edges; who is off the road in the others nobody knows."""
        edges = torch.nn.functional.pad((self.roads.type == RoadType.ROAD_EDGE).long().cumsum(0), (1, 0))
        return (edges[self.tensors["map_start"].long()].diff() > 0)[self.tensors["map"].long()]

    def controlled_agents(self) -> list[tuple[int, int]]:
        """(world, row in the scene's agents) of the N controlled agents, in order."""
        return [(w, int(row)) for w, chosen in enumerate(self.selected) for row in chosen.row[chosen.controlled]]


def make_worlds(
    scenes: Sequence[Scene],
    device: torch.device | str = "cpu",
    selection: Selection | None = None,
    selected: Sequence[SelectedAgents] | None = None,
) -> Worlds:
    """Lay scenes out on a device, one world per scene.

    Args:
        scenes: at least one, all with the same number of steps.
        device: where the tensors live.
        selection: rule by which agents exist and are controlled; GPUDrive's default rule when None.
        selected: the choice itself, one per world, instead of a rule.

    Raises:
        ValueError: when there is no scene, their step counts differ, or one holds a number that can not be simulated.
    """
    if not scenes:
        raise ValueError("no scene to simulate; pass at least one")
    if len({s.num_steps for s in scenes}) > 1:
        raise ValueError("the scenes have different numbers of steps; prepare them with one value of `steps`")
    chosen = tuple(selected or (select_agents(s, selection or Selection()) for s in scenes))
    pairs = list(zip(scenes, chosen, strict=True))

    def gather(per_scene: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
        return np.ascontiguousarray(np.concatenate(per_scene), dtype)

    for scene in {id(s): s for s in scenes}.values():
        check_scene(scene)
    maps = distinct_maps(scenes)
    place = {_map_key(s): k for k, s in enumerate(maps)}
    counts, map_start = [len(c.row) for c in chosen], starts([len(s.segment) for s in maps])
    size = gather([s.agent_size[c.row] for s, c in pairs], np.float32)
    controlled = gather([c.controlled for c in chosen], np.bool_)
    arrays: dict[str, NDArray[Any]] = {
        "log": gather([s.log[c.row].reshape(-1, 5) for s, c in pairs], np.float32),
        "log_z": gather([s.log_z[c.row].reshape(-1) for s, c in pairs], np.float32),
        "valid": gather([s.valid[c.row].reshape(-1) for s, c in pairs], np.bool_),
        "agent_start": starts(counts),
        "world": np.repeat(np.arange(len(scenes), dtype=np.int32), counts),
        "size": size,
        "radius": np.hypot(size[:, 0], size[:, 1]) / 2,
        "lift": gather([_lift(s)[c.row] for s, c in pairs], np.float32),
        "goal": gather([s.goal[c.row] for s, c in pairs], np.float32),
        "type": gather([s.agent_type[c.row] for s, c in pairs], np.int32),
        "parked": gather([c.parked for c in chosen], np.bool_),
        "slot": np.where(controlled, np.cumsum(controlled) - 1, -1).astype(np.int32),
        "last_valid": gather([s.last_valid[c.row] for s, c in pairs], np.int32),
        "map": np.array([place[_map_key(s)] for s in scenes], np.int32),
        "map_start": map_start,
        "segment": gather([_segment_table(s.segment) for s in maps], np.float32),
        "segment_z": gather([s.segment_z for s in maps], np.float32),
        "segment_type": gather([s.segment_type for s in maps], np.int32),
    }
    on = torch.empty(0, device=device).device  # with its number, which plain "cuda" does not have
    lights = light_arrays(maps, map_start[:-1].tolist())
    tensors, light_tensors = (
        {name: torch.from_numpy(array).to(on) for name, array in table.items()} for table in (arrays, lights)
    )
    rows = torch.from_numpy(np.flatnonzero(controlled)).to(on)
    return Worlds(tuple(scenes), chosen, tensors, light_tensors, rows, on)


def _routes(worlds: Worlds) -> Any:
    """The :class:`~sim.route_fields.Routes` of the controlled agents; who has the same start and goal shares one."""
    rows = worlds.controlled
    begin = worlds.log[rows, worlds.valid[rows].int().argmax(dim=1), :3]
    asked = torch.cat([begin, worlds.tensors["goal"][rows]], dim=1).cpu().numpy().astype(np.float64)
    place, n = worlds.tensors["map"][worlds.tensors["world"][rows].long()].cpu().numpy(), worlds.num_agents
    found = np.empty(len(rows), object)
    for number, lanes in enumerate(worlds.lanes()):
        here = np.flatnonzero(place == number)
        wanted, which = np.unique(asked[here], axis=0, return_inverse=True)
        routes = lanes.routes(wanted[:, :3], wanted[:, 3:]) if len(here) else []
        found[here] = [routes[k] for k in which.reshape(-1)]  # NumPy 2.0.0 gives a column
    count, spacing, lane = np.zeros(n, np.int64), np.zeros(n, np.float32), np.zeros(n, np.float32)
    for row, route in zip(rows.tolist(), found, strict=True):
        count[row], spacing[row], lane[row] = len(route.points), route.spacing, route.lane
    points = np.concatenate([np.zeros((0, 4)), *(route.points for route in found)]).astype(np.float32)
    table = starts(count.tolist()), points, spacing, lane
    start, point, *of_agents = (torch.from_numpy(array).to(worlds.device) for array in table)
    return struct(Routes, start=start, point=to_warp(point, wp.vec4), spacing=of_agents[0], lane=of_agents[1])


def distinct_maps(scenes: Sequence[Scene]) -> list[Scene]:
    """One scene for each map, with its lights, of some worlds, in the order of their first world."""
    found: dict[tuple[int, ...], Scene] = {}
    for scene in scenes:
        found.setdefault(_map_key(scene), scene)
    return list(found.values())


def _map_key(scene: Scene) -> tuple[int, ...]:
    """The same for scenes that only differ in what agents do."""
    return tuple(map(id, (scene.segment, scene.segment_z, scene.light_state, scene.light_stop_point)))


def _lift(scene: Scene) -> NDArray[np.float32]:
    """[A] height of the middle of each box above the ground, m; 0 where the scene's heights are not known."""
    return scene.agent_size[:, 2] * np.float32(0.5 if np.isfinite(scene.origin_z) else 0.0)


def _segment_table(segment: NDArray[np.float32]) -> NDArray[np.float32]:
    """[S, 8] rows of :data:`~sim.roads.Segment`."""
    heading = segment[:, 4:5]
    return np.concatenate([segment, np.cos(heading), np.sin(heading), np.zeros_like(heading)], axis=1)
