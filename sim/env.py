"""Batched worlds that agents drive in: the embedded simulator, and the interface that every backend has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from sim.actions import ActionSpace
from sim.kernels import AgentArrays, Rules, Then, move, settle, struct, touch
from sim.launch import launch, to_warp
from sim.layout import ObservationConfig
from sim.observation import Observer
from sim.scenario import DT
from sim.worlds import Selection, Worlds

Behaviour = Literal["ignore", "stop", "remove"]


@dataclass(frozen=True)
class SimConfig:
    """Rules of the simulation. The defaults are the corrected ones that training and evaluation use."""

    selection: Selection = field(default_factory=Selection)
    on_collision: Behaviour = "ignore"
    """After a collision an agent drives on (and collides again), stops where it is, or leaves the world."""
    on_goal: Behaviour = "ignore"
    """At its goal an agent drives on, stops, or leaves the world. ``ignore`` gives every episode the same length, so a
    reward per step can not pay for arriving late (facts on termination bias: Kostrikov et al. 2018)."""
    goal_radius: float = 2.0
    """m."""
    box_scale: float = 0.7
    """Factor on length and width in collisions; 0.7 is GPUDrive's, 1 the true size."""
    replay_lag: bool = False
    """Agents that follow their log are one step behind, as in GPUDrive."""
    end_with_log: bool = True
    """An agent leaves, by truncation, where its log ends, so that policy and expert visit the same span."""
    teleport: bool = False
    """GPUDrive's handling of agents that are done: moved away in the next step even by ``stop``, replayed ones too,
    and their flags stay."""
    horizon: int | None = None
    """Steps of an episode; None: as many as the log has (states minus one)."""

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: for an unknown behaviour or a size that makes no sense.
        """
        for name in ("on_collision", "on_goal"):
            if getattr(self, name) not in ("ignore", "stop", "remove"):
                raise ValueError(f"simulator: {name} is {getattr(self, name)!r}; use ignore, stop or remove")
        for name in ("goal_radius", "box_scale", "horizon"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"simulator: {name} is {value}; it must be positive")

    @classmethod
    def gpudrive(cls, on_collision: Behaviour = "remove", selection: Selection | None = None) -> SimConfig:
        """GPUDrive's rules as they are, quirks included."""
        return cls(
            selection=selection or Selection(max_agents=64),
            on_collision=on_collision,
            on_goal="remove",
            replay_lag=True,
            end_with_log=False,
            teleport=True,
            horizon=91,
        )


@dataclass(frozen=True)
class Step:
    """What one step gave the N controlled agents. Tensors are valid until the next step or reset."""

    observation: torch.Tensor
    """[N, D] float32 after the step."""
    terminated: torch.Tensor
    """[N] bool: the agent's episode ended in this step by what it did; there is no future to value."""
    truncated: torch.Tensor
    """[N] bool: it ended in this step only because time or the agent's log ran out; value the future as usual."""
    events: torch.Tensor
    """[N, 4] bool, columns as in :class:`~sim.kernels.Event`: off-road, hit a vehicle, hit another agent, at goal."""
    alive: torch.Tensor
    """[N] bool: the agent acts in the next step."""


class Backend(Protocol):
    """What the embedded simulator and every other backend offer to training and evaluation."""

    worlds: Worlds
    action_space: ActionSpace
    observation_config: ObservationConfig

    @property
    def num_agents(self) -> int:
        """N, controlled agents in all worlds."""

    def reset(self, worlds: Sequence[int] | None = None) -> torch.Tensor:
        """Start the episodes of the given worlds (all when None) anew; observations [N, D] of all agents."""

    def step(self, actions: torch.Tensor) -> Step:
        """Let all agents act: actions [N, K] of the action space."""

    def states(self) -> torch.Tensor:
        """[N, 5] x, y, heading, vx, vy of the controlled agents."""


class Env:
    """The embedded simulator: W worlds, N controlled agents, on CPU or CUDA.

    Args:
        worlds: the scenes on their device.
        action_space: what actions mean.
        config: the rules.
        observation: the layout of observations.
    """

    def __init__(
        self,
        worlds: Worlds,
        action_space: ActionSpace,
        config: SimConfig | None = None,
        observation: ObservationConfig | None = None,
    ) -> None:
        self.worlds = worlds
        self.action_space = action_space
        self.config = config or SimConfig()
        self.observation_config = observation or ObservationConfig()
        self.horizon = self.config.horizon or worlds.num_steps - 1
        self._observer = Observer(worlds, self.observation_config)
        device, m = worlds.device, worlds.num_agents
        self._state = torch.zeros(m, 5, device=device)
        self._present = torch.zeros(m, dtype=torch.bool, device=device)
        self._collided = torch.zeros(m, dtype=torch.bool, device=device)
        self._done = torch.zeros(m, dtype=torch.bool, device=device)
        self._events = torch.zeros(m, 4, dtype=torch.bool, device=device)
        self._hits = torch.zeros(m, 4, dtype=torch.bool, device=device)
        self._step = torch.zeros(worlds.num_worlds, dtype=torch.int32, device=device)
        self._action = torch.zeros(m, action_space.components, device=device)
        self._agents = worlds.controlled.to(torch.int32)
        self._world = worlds.tensors["world"][worlds.controlled].long()
        self._end = self._last_step()
        self._alive = torch.zeros(self.num_agents, dtype=torch.bool, device=device)
        self._observation = torch.zeros(self.num_agents, self.observation_config.size, device=device)
        self._world_arrays = worlds.arrays()
        self._agent_arrays = struct(
            AgentArrays,
            state=to_warp(self._state),
            present=to_warp(self._present),
            collided=to_warp(self._collided),
            done=to_warp(self._done),
            events=to_warp(self._events),
            step=to_warp(self._step),
        )
        self._rules = _rules(self.config, action_space)
        self.reset()

    @property
    def num_agents(self) -> int:
        """N, controlled agents in all worlds."""
        return len(self.worlds.controlled)

    def reset(self, worlds: Sequence[int] | None = None) -> torch.Tensor:
        """Start the episodes of the given worlds (all when None) anew; observations [N, D] of all agents."""
        device = self.worlds.device
        which = torch.zeros(self.worlds.num_worlds, dtype=torch.bool, device=device)
        which[slice(None) if worlds is None else torch.as_tensor(worlds, dtype=torch.int64, device=device)] = True
        self._step[which] = 0
        rows = which[self.worlds.tensors["world"].long()]
        self._state[rows] = self.worlds.log[rows, 0]
        parked = rows & self.worlds.tensors["parked"]
        self._state[parked, 3:] = 0.0
        self._present[rows] = self.worlds.valid[rows, 0]
        self._collided[rows] = False
        self._done[rows] = False
        self._events[rows] = False
        self._touch()
        self._alive = torch.where(which[self._world], self._end > 0, self._alive)
        return self._observe()

    def step(self, actions: torch.Tensor) -> Step:
        """Let all agents act.

        Args:
            actions: [N, K], indices or values as the action space says; of agents not alive they mean nothing.
        """
        self._action[self.worlds.controlled] = self.action_space.decode(actions)
        self._step += 1
        inputs = [self._world_arrays, self._agent_arrays, self._rules, to_warp(self._action)]
        launch(move, self.worlds.num_agents, inputs, self.worlds.device)
        self._touch()
        controlled = self.worlds.controlled
        ended = self._ended()[controlled]
        terminated = self._alive & ended
        truncated = self._alive & ~ended & (self._step[self._world] >= self._end)
        self._alive = self._alive & ~terminated & ~truncated
        return Step(self._observe(), terminated, truncated, self._events[controlled], self._alive)

    def states(self) -> torch.Tensor:
        """[N, 5] x, y, heading, vx, vy of the controlled agents, in their scene's frame."""
        return self._state[self.worlds.controlled]

    def alive(self) -> torch.Tensor:
        """[N] bool: which agents act in the next step."""
        return self._alive

    def events(self) -> torch.Tensor:
        """[N, 4] event flags of the present step, as in :class:`Step`."""
        return self._events[self.worlds.controlled]

    def everyone(self) -> tuple[torch.Tensor, torch.Tensor]:
        """[M, 5] states of all agents, and [M] whether each is in its world now."""
        return self._state, self._present

    def _ended(self) -> torch.Tensor:
        """[M] whether what an agent did ends its episode; GPUDrive learns of a collision only a step later."""
        if self.config.teleport or self.config.on_collision == "ignore":
            return self._done
        return self._done | self._collided

    def _last_step(self) -> torch.Tensor:
        """[N] step at which each agent's episode is cut off."""
        horizon = torch.full((self.num_agents,), self.horizon, dtype=torch.int32, device=self.worlds.device)
        if not self.config.end_with_log:
            return horizon
        return torch.minimum(horizon, self.worlds.tensors["last_valid"][self.worlds.controlled])

    def _touch(self) -> None:
        inputs = [self._world_arrays, self._agent_arrays, self._rules, to_warp(self._hits)]
        launch(touch, self.worlds.num_agents, inputs, self.worlds.device)
        launch(settle, self.worlds.num_agents, inputs, self.worlds.device)

    def _observe(self) -> torch.Tensor:
        left = (self._end - self._step[self._world]).clamp(min=0) * DT
        return self._observer.observe(
            self._state, self._present, self._agents, left, collided=self._collided, out=self._observation
        )


def _rules(config: SimConfig, action_space: ActionSpace) -> Rules:
    return struct(  # type: ignore[no-any-return]
        Rules,
        dynamics=int(action_space.dynamics),
        on_collision=int(Then[config.on_collision.upper()]),
        on_goal=int(Then[config.on_goal.upper()]),
        goal_radius=config.goal_radius,
        box_scale=config.box_scale,
        replay_lag=config.replay_lag,
        end_with_log=config.end_with_log,
        teleport=config.teleport,
    )
