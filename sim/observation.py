"""What an agent sees: observations from absolute states, for expert and policy alike.

The layouts are in :mod:`sim.layout`, the kernel in :mod:`sim.sight`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from sim.launch import Program, Stage, num_parts, split_evenly, struct, to_warp
from sim.layout import ObservationConfig
from sim.sight import Layout, RoadOrder, States, observe
from sim.worlds import Worlds


class Observer:
    """Makes observations of agents of some worlds from absolute states.

    Args:
        worlds: where the agents live.
        config: the layout.
    """

    def __init__(self, worlds: Worlds, config: ObservationConfig) -> None:
        self.worlds = worlds
        self.config = config
        self._layout = struct(
            Layout,
            gpudrive=config.layout == "gpudrive",
            partners=config.partners,
            roads=config.road_segments,
            radius=config.radius,
            order=int(RoadOrder[config.road_order.upper()]),
            ego_fields=len(config.ego_fields),
            partner_fields=len(config.partner_fields),
            road_fields=len(config.road_fields),
            first_road=len(config.ego_fields) + config.partners * len(config.partner_fields),
            scratch_a_part=worlds.device.type == "cpu",
        )
        self._arrays = worlds.arrays()
        self._grid = worlds.grid(config.radius)
        agents = worlds.tensors["agent_start"].diff().amax()
        listed = np.diff(self._grid.start.numpy()).max(initial=0)
        self._scratch = 3 * max(int(agents), int(listed)) + 1
        self._everywhere = torch.ones(worlds.num_worlds, dtype=torch.bool, device=worlds.device)
        self._nobody = torch.zeros(worlds.num_agents, dtype=torch.bool, device=worlds.device)

    def observe(
        self,
        state: torch.Tensor,
        present: torch.Tensor,
        agents: torch.Tensor,
        time_left: torch.Tensor,
        step: torch.Tensor | None = None,
        collided: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Observations of Q agents.

        Args:
            state: [M, 5] present states, or [M, T, 5] tracks.
            present: [M] or [M, T] bool, whether the agent is in the world.
            agents: [Q] int32 agent rows that look.
            time_left: [Q] seconds until the agent's episode ends.
            step: [Q] int32 step at which each looks; needed with tracks.
            collided: [M] bool, for the field of that name in the ``gpudrive`` layout; false when None.

        Returns:
            [Q, D] float32.
        """
        out = torch.empty(len(agents), self.config.size, device=self.worlds.device)
        bounds = split_evenly(len(agents), num_parts(len(agents), self.worlds.device))
        Program([self.stage(bounds, state, present, agents, time_left, out, step, collided)], self.worlds.device).run()
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
    ) -> Stage:
        """The same as a stage of a program over fixed arrays.

        Args:
            bounds: of the parts, over Q.
            state, present, agents, time_left, step, collided: see :meth:`observe`.
            out: [Q, D] float32 where observations go.
            which: [W] bool, worlds whose agents look; the rows of others stay as they are. All when None.
        """
        queries, device = len(agents), self.worlds.device
        views = struct(
            States,
            state=state.reshape(-1, 5),
            present=present.reshape(-1),
            collided=self._nobody if collided is None else collided,
            stride=state.shape[1] if state.dim() == 3 else 1,
        )
        base = torch.zeros(queries, dtype=torch.int32, device=device) if step is None else step
        scratch = (len(bounds) - 1 if device.type == "cpu" else queries, self._scratch)
        distance, index = torch.empty(scratch, device=device), torch.empty(scratch, dtype=torch.int32, device=device)
        which = self._everywhere if which is None else which
        arrays = map(to_warp, (agents, base, time_left, which, distance, index, out))
        return Stage(observe, bounds, [self._arrays, self._grid, views, self._layout, *arrays])
