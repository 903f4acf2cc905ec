"""What agents touch, by another measure than the rules that they drive by: for evaluation."""

from __future__ import annotations

import torch

from sim.env import OffRoad, SimConfig, rules_struct, solid_grid
from sim.kernels import AgentArrays, touch
from sim.launch import Program, Stage, num_parts, split_evenly, struct, to_warp
from sim.worlds import Worlds


class Contacts:
    """Tells collisions and agents off the road in given states; nothing follows from them.

    Args:
        worlds: where the agents are.
        box_scale: factor on length and width; 1 is the true size.
        off_road: see :attr:`sim.env.SimConfig.off_road`; by default Waymo's signed distance.
    """

    def __init__(self, worlds: Worlds, box_scale: float = 1.0, off_road: OffRoad = "outside") -> None:
        device, m = worlds.device, worlds.num_agents
        config = SimConfig(box_scale=box_scale, off_road=off_road)
        self._controlled = worlds.controlled
        self._state = torch.zeros(m, 5, device=device)
        self._present, self._events = (torch.zeros(shape, dtype=torch.bool, device=device) for shape in (m, (m, 4)))
        self._flags = torch.zeros(2, m, dtype=torch.bool, device=device)
        agents = struct(
            AgentArrays,
            state=self._state,
            present=self._present,
            events=self._events,
            collided=self._flags[0],
            done=self._flags[1],
            step=torch.ones(m, dtype=torch.int32, device=device),
            reward=torch.zeros(m, device=device),
        )
        everywhere = to_warp(torch.ones(worlds.num_worlds, dtype=torch.bool, device=device))
        inputs = [worlds.arrays(), agents, rules_struct(config), solid_grid(worlds, config), everywhere]
        self._program = Program([Stage(touch, split_evenly(m, num_parts(m, device)), inputs)], device)

    def events(self, state: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
        """Flags [N, 4] of the controlled agents, columns as in :class:`~sim.kernels.Event`.

        Args:
            state: [M, 5] of all agents.
            present: [M] bool, who is in its world.
        """
        self._state.copy_(state)
        self._present.copy_(present)
        self._events.zero_()
        self._program.run()
        return self._events[self._controlled]
