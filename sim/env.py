"""Batched worlds that agents drive in: the embedded simulator, and the interface that every backend has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.history import Recorder
from gail_cli.sim.kernels import AgentArrays, Event, EventResponse, Rules, conclude, move, restart, touch
from gail_cli.sim.launch import Program, Stage, num_parts, struct, to_warp
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.worlds import Worlds

WITHOUT_REVERSE = "extract with --compat gpudrive, or leave sim.compat out"
"""What to do where GPUDrive's rules meet vehicles that know reverse."""


@dataclass(frozen=True)
class Step:
    """What one step gave the N controlled agents; all but the observation stays as it is."""

    observation: torch.Tensor
    """[N, D] float32 after the step; the memory is written again by the next step or reset."""
    reward: torch.Tensor
    """[N] float32 reward of the environment, see :attr:`SimConfig.reward`."""
    terminated: torch.Tensor
    """[N] bool: the agent's episode ended in this step by what it did; there is no future to value."""
    truncated: torch.Tensor
    """[N] bool: it ended in this step only because time or the agent's log ran out; value the future as usual."""
    events: torch.Tensor
    """[N, 5] bool, columns as in :class:`~sim.kernels.Event`: off-road, hit a vehicle, hit another agent, at goal, ran
    a red light."""
    alive: torch.Tensor
    """[N] bool: the agent acts in the next step."""
    fault: torch.Tensor
    """[N] float32: the agent's share in the contacts that it has, the largest if it has several: its own speed towards
    the other in the speed at which both come nearer, 1/2 where they do not; 0 without a contact. 1 for all in GPUDrive,
    which does not tell who met whom."""


class Backend(Protocol):
    """What the embedded simulator and every other backend offer to training and evaluation."""

    worlds: Worlds
    config: SimConfig
    action_space: ActionSpace
    observation_config: ObservationConfig
    horizon: int
    """Steps of an episode."""

    @property
    def num_agents(self) -> int:
        """N, controlled agents in all worlds."""

    def reset(self, worlds: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Start the episodes of the given worlds (indices, or [W] bool; all when None) anew; the others stay as they
        are. Observations [N, D] of all agents."""

    def step(self, actions: torch.Tensor) -> Step:
        """Let all agents act: actions [N, K] of the action space."""

    def swap(self, worlds: Worlds) -> torch.Tensor:
        """Go on in other worlds, from their start; observations [N, D]."""

    def states(self) -> torch.Tensor:
        """[N, 5] x, y, heading, vx, vy of the controlled agents, in their scene's frame."""

    def alive(self) -> torch.Tensor:
        """[N] bool: which agents act in the next step."""

    def events(self) -> torch.Tensor:
        """[N, 5] event flags of the present step, as in :class:`Step`."""

    def everyone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, 5] states of all agents, and [M] whether each is in its world now."""


class AgentViews:
    """What backends report of their agents between steps, from the tensors that they keep."""

    worlds: Worlds
    _state: torch.Tensor
    _present: torch.Tensor
    _events: torch.Tensor
    _alive: torch.Tensor

    @property
    def num_agents(self) -> int:
        """N, controlled agents in all worlds."""
        return len(self.worlds.controlled)

    def states(self) -> torch.Tensor:
        """[N, 5] x, y, heading, vx, vy of the controlled agents, in their scene's frame."""
        return self._state[self.worlds.controlled]

    def alive(self) -> torch.Tensor:
        """[N] bool: which agents act in the next step."""
        return self._alive.clone()

    def events(self) -> torch.Tensor:
        """[N, 5] event flags of the present step, as in :class:`Step`."""
        return self._events[self.worlds.controlled]

    def everyone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, 5] states of all agents, and [M] whether each is in its world now; the simulator's own memory."""
        return self._state, self._present


class Env(AgentViews):
    """The embedded simulator: W worlds, N controlled agents, on CPU or CUDA.

    A step is one pass of each kernel over its agents, on a CPU with the worlds split over threads, on CUDA as one graph
    and without waiting for it.

    Args:
        worlds: the scenes on their device.
        action_space: what actions mean.
        config: the rules.
        observation: the layout of observations.

    Raises:
        ValueError: when the vehicles know reverse, but the rules are GPUDrive's.
    """

    def __init__(
        self,
        worlds: Worlds,
        action_space: ActionSpace,
        config: SimConfig | None = None,
        observation: ObservationConfig | None = None,
    ) -> None:
        self.action_space = action_space
        self.config = config or SimConfig()
        check_reverse(self.action_space, self.config)
        self.observation_config = observation or ObservationConfig()
        self.swap(worlds)

    def swap(self, worlds: Worlds) -> torch.Tensor:
        """Go on in other worlds, from their start; observations [N, D]."""
        self.worlds = worlds
        self.horizon = self.config.horizon or worlds.num_steps - 1
        device, m, n = worlds.device, worlds.num_agents, len(worlds.controlled)

        def flags(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.bool, device=device)

        self._state = torch.zeros(m, 5, device=device)
        self._present, self._done, self._collided = flags(m), flags(m), flags(m)
        self._events, self._arrived = flags(m, len(Event)), flags(m)
        self._reward, self._fault = torch.zeros(m, device=device), torch.zeros(m, device=device)
        self._alive, self._terminated, self._truncated = flags(n), flags(n), flags(n)
        self._action = torch.zeros(n, self.action_space.components, device=device)
        self._observation = torch.zeros(n, self.observation_config.size, device=device)
        self._which = flags(worlds.num_worlds)
        self._prepare()
        return self.reset()

    def reset(self, worlds: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Start the episodes of the given worlds anew, without waiting for the device.

        Args:
            worlds: indices, or [W] bool; all when None.

        Returns:
            Observations [N, D] of all agents; those of agents in other worlds stay as they are.

        Raises:
            ValueError: for a mask that is not one flag per world.
            IndexError: for a world that is not there.
        """
        self._which.copy_(world_mask(worlds, self.worlds))
        self._reset.run()
        return self._observation

    def step(self, actions: torch.Tensor) -> Step:
        """Let all agents act.

        Args:
            actions: [N, K], indices or values as the action space says; of agents not alive they mean nothing.

        Raises:
            ValueError: for actions of another shape, or an index beyond the grid (see :meth:`ActionSpace.decode`).
        """
        check_actions(actions, self.worlds, self.action_space)
        self._action.copy_(self.action_space.decode(actions))
        self._step.run()
        return Step(
            observation=self._observation,
            reward=self._reward[self.worlds.controlled],
            terminated=self._terminated.clone(),
            truncated=self._truncated.clone(),
            events=self.events(),
            alive=self._alive.clone(),
            fault=self._fault[self.worlds.controlled],
        )

    def _prepare(self) -> None:
        """Bind the kernels of a step and of a reset to the arrays of these worlds."""
        worlds, device = self.worlds, self.worlds.device
        horizon = torch.full((self.num_agents,), self.horizon, dtype=torch.int32, device=device)
        if self.config.end_with_log:
            horizon = torch.minimum(horizon, worlds.tensors["last_valid"][worlds.controlled])
        time_left = torch.zeros(self.num_agents, device=device)
        now = torch.zeros(self.num_agents, dtype=torch.int32, device=device)
        step = torch.zeros(worlds.num_agents, dtype=torch.int32, device=device)
        agents = worlds.controlled.to(torch.int32)
        arrays = struct(
            AgentArrays,
            state=self._state,
            present=self._present,
            collided=self._collided,
            done=self._done,
            events=self._events,
            arrived=self._arrived,
            step=step,
            now=now,
            reward=self._reward,
            fault=self._fault,
            end=horizon,
            alive=self._alive,
            terminated=self._terminated,
            truncated=self._truncated,
            time_left=time_left,
        )
        rules = rules_struct(self.config, self.action_space)
        everywhere = torch.ones_like(self._which)
        solid = solid_grid(worlds, self.config)
        common = [worlds.arrays(), arrays, rules]
        all_bounds, own_bounds = _bounds(worlds)
        observer = Observer(worlds, self.observation_config)
        past = Recorder(worlds.tensors["world"], step, self._state, self._present, self.observation_config.history)

        def program(begin: Any, argument: torch.Tensor, which: torch.Tensor) -> Program:
            observation = observer.stage(
                own_bounds, self._state, self._present, agents, time_left, self._observation,
                step=now, collided=self._collided, which=which, motion=past.motion,
            )  # fmt: skip
            return Program(
                [
                    Stage(begin, all_bounds, [*common, to_warp(argument)]),
                    *past.stages(all_bounds, which),
                    Stage(touch, all_bounds, [*common, solid, to_warp(which)]),
                    Stage(conclude, own_bounds, [*common, to_warp(agents)]),
                    observation,
                ],
                device,
            )

        self._step = program(move, self._action, everywhere)
        self._reset = program(restart, self._which, self._which)


def world_mask(chosen: Sequence[int] | torch.Tensor | None, worlds: Worlds) -> torch.Tensor:
    """[W] bool, the worlds that ``chosen`` names: indices, one flag per world, or all when None.

    Raises:
        ValueError: for flags that are not one per world.
        IndexError: for a world that is not there.
    """
    if chosen is None:
        return torch.ones(worlds.num_worlds, dtype=torch.bool, device=worlds.device)
    given = torch.as_tensor(chosen)
    if given.dtype == torch.bool:
        if given.shape != (worlds.num_worlds,):
            raise ValueError(
                f"a mask of shape {tuple(given.shape)} for {worlds.num_worlds} worlds; give one flag per world"
            )
        return given
    mask = torch.zeros(worlds.num_worlds, dtype=torch.bool, device=worlds.device)
    return mask.index_fill_(0, given.to(worlds.device, torch.int64), True)


def check_actions(actions: torch.Tensor, worlds: Worlds, space: ActionSpace) -> None:
    """Whether there is a row of actions for each controlled agent.

    Raises:
        ValueError: when their shape is another.
    """
    wanted = (len(worlds.controlled), space.components)
    if actions.shape != wanted:
        raise ValueError(f"actions have the shape {tuple(actions.shape)}, not {wanted}: one row per agent")


def check_reverse(space: ActionSpace, config: SimConfig) -> None:
    """Whether the vehicles are ones of these rules: GPUDrive's know no reverse.

    Raises:
        ValueError: when they are not.
    """
    if space.reverse and config.compat == "gpudrive":
        raise ValueError(f"these actions know reverse, GPUDrive's vehicles do not; {WITHOUT_REVERSE}")


def warm(worlds: Worlds, config: SimConfig, observation: ObservationConfig) -> Worlds:
    """The worlds, with the grids and routes that an environment will need made already, which another thread may do."""
    worlds.grid(observation.radius)
    if observation.looks:
        worlds.grid(observation.radius, solid=True)
    if observation.route:
        worlds.routes()
    solid_grid(worlds, config)
    return worlds


def solid_grid(worlds: Worlds, config: SimConfig) -> Any:
    """The grid of what the largest agent's box can hit from its middle."""
    largest = worlds.tensors["radius"].amax().item() if worlds.num_agents else 1.0
    kind = worlds.tensors["type"]
    hits_all = config.teleport and bool(((kind < AgentType.VEHICLE) | (kind > AgentType.CYCLIST)).any())
    return worlds.grid(config.box_scale * largest, solid=not hits_all)


def _bounds(worlds: Worlds) -> tuple[list[int], list[int]]:
    """Bounds of parts over all agents [M] and over the controlled ones [N]: whole worlds, about equal work each."""
    parts = min(worlds.num_worlds, num_parts(len(worlds.controlled), worlds.device))
    start = worlds.tensors["agent_start"].cpu()
    own = torch.searchsorted(worlds.controlled.cpu(), start.long())
    work = own + 0.1 * start  # a controlled agent, which observes, takes ten times the work of one that is only moved
    share = work[-1] * torch.arange(1, parts) / parts
    cut = [0, *torch.searchsorted(work, share).tolist(), worlds.num_worlds]
    return start[cut].tolist(), own[cut].tolist()


def rules_struct(config: SimConfig, space: ActionSpace) -> Rules:
    """The rules as kernels see them."""
    return struct(  # type: ignore[no-any-return]
        Rules,
        dynamics=int(space.dynamics),
        reverse=space.reverse,
        on_collision=int(EventResponse[config.on_collision.upper()]),
        on_goal=int(EventResponse[config.on_goal.upper()]),
        goal_radius=config.goal_radius,
        box_scale=config.box_scale,
        outside=config.off_road == "outside",
        heights=config.heights,
        replay_lag=config.replay_lag,
        end_with_log=config.end_with_log,
        teleport=config.teleport,
        weighted=config.reward == "weighted_combination",
        collision_weight=config.collision_weight,
        goal_weight=config.goal_achieved_weight,
        off_road_weight=config.off_road_weight,
        red_light_weight=config.red_light_weight,
    )
