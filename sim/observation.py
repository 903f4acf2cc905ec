"""What an agent sees: observations from absolute states, for expert and policy alike.

The layouts are in :mod:`sim.layout`, the kernel in :mod:`sim.observation_kernels`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from gail_cli.sim.danger import SCRATCH
from gail_cli.sim.heights import heights
from gail_cli.sim.history import history_of, motions
from gail_cli.sim.launch import Program, Stage, num_parts, split_evenly, struct, to_warp, wp
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation_kernels import Layout, RoadOrder, SourceArrays, observe, observe_pool
from gail_cli.sim.roads import road_grid
from gail_cli.sim.route_fields import Routes
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.sight import Sight, States
from gail_cli.sim.worlds import Worlds

_SOURCE_CELL = 2.0
"""Side of the grid cells of an observation source, in radii: compared with the grid of an environment, it takes a sixth
of the memory and a third of the time to make, and lookups take a tenth longer."""


def _layout(config: ObservationConfig, device: torch.device) -> Any:
    """The layout as kernels see it."""
    return struct(
        Layout,
        gpudrive=config.layout == "gpudrive",
        goal=config.goal == "point",
        time_left=config.time_left,
        near=config.near,
        history=config.history,
        sight=struct(
            Sight,
            radius=config.radius,
            goal=config.goal == "point",
            rays=config.first_ray,
            danger=config.first_danger,
        ),
        route=config.first_route,
        partners=config.partners,
        roads=config.road_segments,
        radius=config.radius,
        order=int(RoadOrder[config.road_order.upper()]),
        ego_fields=len(config.ego_fields),
        partner_fields=len(config.partner_fields),
        road_fields=len(config.road_fields),
        first_road=len(config.ego_fields) + config.partners * len(config.partner_fields),
        lights=config.lights,
        light_fields=len(config.light_fields),
        first_light=config.size - config.lights * len(config.light_fields),
        scratch_per_part=device.type == "cpu",
    )


def _scratch_size(worlds: Worlds, grid: Any) -> int:
    """Entries of scratch memory that one observation needs."""
    agents = int(worlds.tensors["agent_start"].diff().amax())
    listed = int(np.diff(grid.start.numpy()).max(initial=0))
    lights = int(worlds.lights["start"].diff().amax())
    return max(3 * max(agents, listed, lights) + 1, SCRATCH)


def _scratch(rows: int, size: int, device: torch.device) -> list[Any]:
    """Scratch memory for as many observations at a time as there are rows."""
    kinds = (torch.float32, torch.int32)
    return [to_warp(torch.empty(rows, size, dtype=kind, device=device)) for kind in kinds]


class Observer:
    """Makes observations of agents of some worlds from absolute states.

    Args:
        worlds: where the agents live.
        config: the layout.
    """

    def __init__(self, worlds: Worlds, config: ObservationConfig) -> None:
        self.worlds = worlds
        self.config = config
        self._layout = _layout(config, worlds.device)
        self._arrays = worlds.arrays()
        self._grid = worlds.grid(config.radius)
        self._edges = worlds.grid(config.radius, solid=True) if config.looks else self._grid
        self._routes = worlds.routes() if config.route else Routes()
        self._scratch = _scratch_size(worlds, self._grid)
        self._everywhere = torch.ones(worlds.num_worlds, dtype=torch.bool, device=worlds.device)
        self._no_heights = torch.empty(0, device=worlds.device)
        self._no_motion = torch.empty(0, 0, 2, device=worlds.device)
        self._none_collided = torch.zeros(worlds.num_agents, dtype=torch.bool, device=worlds.device)

    def observe(
        self,
        state: torch.Tensor,
        present: torch.Tensor,
        agents: torch.Tensor,
        time_left: torch.Tensor,
        step: torch.Tensor | None = None,
        collided: torch.Tensor | None = None,
        seen: int = 0,
        motion: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Observations of Q agents.

        Args:
            state: [M, 5] present states, or [M, T, 5] tracks; more rows, if ``seen`` says so.
            present: [M] or [M, T] bool, whether the agent is in the world.
            agents: [Q] int32 rows of the agents that observe.
            time_left: [Q] seconds until the agent's episode ends.
            step: [Q] int32 step at which each observes: of tracks, and of the lights; 0 when None.
            collided: [M] bool, for the field of that name in the ``gpudrive`` layout; false when None.
            seen: others see agent m in row m + ``seen`` of ``state`` and ``present``.
            motion: [S, M, 2] what agents did in earlier steps, for ``config.history``, see
                :class:`~sim.history.Recorder`; of tracks it is made from them when None.

        Returns:
            [Q, D] float32.

        Raises:
            ValueError: when there shall be a history, and nothing tells it.
        """
        out = torch.empty(len(agents), self.config.size, device=self.worlds.device)
        bounds = split_evenly(len(agents), num_parts(len(agents), self.worlds.device))
        stage = self.stage(bounds, state, present, agents, time_left, out, step, collided, seen=seen, motion=motion)
        Program([stage], self.worlds.device).run()
        return out

    def stage(
        self,
        bounds: Sequence[int],
        state: torch.Tensor,
        present: torch.Tensor,
        agents: torch.Tensor,
        time_left: torch.Tensor,
        out: torch.Tensor,
        step: torch.Tensor | None = None,
        collided: torch.Tensor | None = None,
        which: torch.Tensor | None = None,
        seen: int = 0,
        motion: torch.Tensor | None = None,
    ) -> Stage:
        """The same as a stage of a program over fixed arrays.

        Args:
            bounds: of the parts, over Q.
            state, present, agents, time_left, step, collided, seen, motion: see :meth:`observe`.
            out: [Q, D] float32 where observations go.
            which: [W] bool, worlds whose agents observe; the rows of others stay as they are. All when None.
        """
        queries, device = len(agents), self.worlds.device
        states = struct(
            States,
            state=state.reshape(-1, 5),
            present=present.reshape(-1),
            collided=self._none_collided if collided is None else collided,
            z=self._no_heights,
            stride=state.shape[1] if state.dim() == 3 else 1,
        )
        history = history_of(self._motion(state, present, motion), seen)
        step = torch.zeros(queries, dtype=torch.int32, device=device) if step is None else step
        scratch = _scratch(len(bounds) - 1 if device.type == "cpu" else queries, self._scratch, device)
        which = self._everywhere if which is None else which
        who, when, left, where = map(to_warp, (agents, step, time_left, which))
        place = [
            self._arrays,
            self._grid,
            self._edges,
            self._routes,
            states,
            seen * states.stride,
            history,
            self._layout,
        ]
        inputs = [*place, who, when, int(state.dim() == 3), left, where, *scratch, to_warp(out)]
        return Stage(observe, bounds, inputs)

    def _motion(self, state: torch.Tensor, present: torch.Tensor, motion: torch.Tensor | None) -> torch.Tensor:
        """[S, M, 2] what tells the history; empty without one."""
        if not self.config.history:
            return self._no_motion
        if motion is not None:
            return motion
        if state.dim() < 3:
            raise ValueError("observation: history is not known from present states; give the motion of earlier steps")
        return motions(state, present)


@dataclass(frozen=True, eq=False)
class Trajectories:
    """States of all M agents of some worlds over T steps."""

    state: torch.Tensor
    """[M, T, 5]."""
    present: torch.Tensor
    """[M, T] bool, whether the agent is in its world."""


@dataclass(frozen=True, eq=False)
class ObservationSource:
    """The part of some worlds that observations are made from: no scenes, no logs."""

    arrays: Any
    """:class:`~sim.observation_kernels.SourceArrays`."""
    scratch: int
    """Entries of scratch memory that one observation needs."""
    owners: tuple[object, ...]
    """The tensors whose memory the arrays point to."""

    @classmethod
    def of(
        cls, worlds: Worlds, own: Trajectories, others: Trajectories, config: ObservationConfig
    ) -> ObservationSource:
        """The source for agents that move along given trajectories.

        Args:
            worlds: where the agents live.
            own: where each agent is when it observes.
            others: where each agent is when others observe it; ``own`` itself takes no additional memory.
            config: the layout.
        """
        cell = _SOURCE_CELL * config.radius
        everything = torch.ones(len(worlds.roads.segment), dtype=torch.bool, device=worlds.device)
        grid = road_grid(worlds.roads, config.radius, cell, everything)
        edge = worlds.roads.type == RoadType.ROAD_EDGE
        edges = road_grid(worlds.roads, config.radius, cell, edge) if config.looks else grid
        none_collided = torch.zeros(worlds.num_agents, dtype=torch.bool, device=worlds.device)
        # agents of one step lie side by side, since one observation reads them all
        layers = [own] if others is own else [own, others]
        state = torch.cat([layer.state.transpose(0, 1).reshape(-1, 5) for layer in layers])
        present = torch.cat([layer.present.t().reshape(-1) for layer in layers])
        routes = worlds.routes() if config.route else Routes()
        z = torch.empty(0, device=worlds.device)
        if config.looks:
            z = torch.cat([heights(worlds, layer.state).t().reshape(-1) for layer in layers])
        past = [motions(layer.state, layer.present) for layer in layers if config.history]
        motion = torch.cat(past, dim=1) if past else torch.empty(0, 0, 2, device=worlds.device)
        logs = ("log", "log_z", "valid")
        unlogged = {name: x[:0].clone() if name in logs else x for name, x in worlds.tensors.items()}
        seen = replace(worlds, tensors=unlogged)
        arrays = struct(
            SourceArrays,
            worlds=seen.arrays(),
            grid=grid,
            edges=edges,
            routes=routes,
            states=struct(States, state=state, present=present, collided=none_collided, z=z, stride=1),
            rows_per_step=worlds.num_agents,
            seen=0 if others is own else own.present.numel(),
            history=history_of(motion, 0 if others is own else worlds.num_agents),
        )
        owners = (state, present, none_collided, z, motion, seen.tensors, seen.lights, grid, edges, routes)
        return cls(arrays, _scratch_size(worlds, grid), owners)


class ObservationPool:
    """Makes observations of agents of many sets of worlds, which come and go, in one launch.

    Args:
        places: how many sets of worlds there is room for.
        config: the layout.
        device: where they are.
    """

    def __init__(self, places: int, config: ObservationConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.scratch = 0
        """Entries of scratch memory that one observation needs; a stage that was made for fewer must be made again."""
        self._layout = _layout(config, device)
        self._held: list[ObservationSource | None] = [None] * places
        # in torch's memory, so that changes are ordered with torch's other work
        self._bytes = torch.zeros(
            places, wp.zeros(1, dtype=SourceArrays, device="cpu").strides[0], dtype=torch.uint8, device=device
        )
        self._sources = wp.array(
            ptr=self._bytes.data_ptr(),
            dtype=SourceArrays,
            shape=places,
            device=wp.device_from_torch(device),
            copy=False,
        )

    def put(self, place: int, source: ObservationSource | None) -> None:
        """Put worlds into a place, instead of those that were there; None empties it."""
        if source is None:
            self._held[place] = None
            return
        arrays = wp.array([source.arrays], dtype=SourceArrays, device="cpu").numpy()
        self._bytes[place].copy_(torch.from_numpy(arrays.view(np.uint8)))
        self._held[place] = source
        if source.scratch > self.scratch:
            self.scratch = source.scratch * 5 // 4

    def stage(self, bounds: Sequence[int], query: torch.Tensor, time_left: torch.Tensor, out: torch.Tensor) -> Stage:
        """Observations as a stage of a program over fixed arrays.

        Args:
            bounds: of the parts, over Q.
            query: [Q, 4] int32: place of the worlds, agent row there, step, row of ``out``; a step below zero gives
                zeros.
            time_left: [Q] seconds until each agent's episode ends.
            out: [Q, D] float32 where observations go.
        """
        rows = len(bounds) - 1 if self.device.type == "cpu" else len(query)
        arrays = map(to_warp, (query, time_left))
        scratch = _scratch(rows, self.scratch, self.device)
        return Stage(observe_pool, bounds, [self._sources, self._layout, *arrays, *scratch, to_warp(out)])
