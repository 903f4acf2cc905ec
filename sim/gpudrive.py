"""The real GPUDrive as a backend: its simulator moves agents and reports events, this project's kernel observes.

GPUDrive's compiled module ``madrona_gpudrive`` is driven directly (``src/bindings.cpp``, version 0.4). Every world has
64 rows of agents, of which the first ones are real and the rest is junk; every tensor is a view of memory that the
next step writes to. What is read here is copied, and only real rows are read. docs/gpudrive.md describes how GPUDrive's
peculiarities are handled: its frame, velocities that it does not report, agents that are gone, the end of an episode.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gail_cli.sim.actions import BICYCLE_MAX_ACCEL, ActionSpace, Dynamics
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import AgentViews, Step, check_actions, check_reverse, world_mask
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.scenario import DT, SceneError
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import REMOVED_POSITION, SelectedAgents, Worlds

SceneFile = Callable[[Scene, SelectedAgents], Path]
"""Gives the file from which GPUDrive reads a scene with these agents, in the scene's own frame."""

MODULE = "madrona_gpudrive"
EPISODE = 91
"""Steps of an episode; the last one reads the last state of the logs, since replayed agents lag."""
HOW_TO_GET = (
    "build GPUDrive 0.4 or newer from https://github.com/Emerge-Lab/gpudrive into this environment (PyPI's package "
    "holds no simulator), or use --backend embedded"
)

_NEAR = 5000.0
"""No agent in a world is farther from its middle, m; agents that are gone are put at -10000 or -11000."""
_OBSERVATION_RADIUS = 50.0
"""GPUDrive's default, m; its own observations are switched off, and no other radius was measured."""
_GETTERS = (
    "absolute_self_observation_tensor", "action_tensor", "controlled_state_tensor", "done_tensor", "info_tensor",
    "response_type_tensor", "reward_tensor", "self_observation_tensor", "shape_tensor", "world_means_tensor",
)  # fmt: skip
_COLLISION = {"ignore": "Ignore", "stop": "AgentStop", "remove": "AgentRemoved"}
_DYNAMICS = {
    Dynamics.CLASSIC: "Classic",
    Dynamics.BICYCLE: "InvertibleBicycle",
    Dynamics.DELTA_LOCAL: "DeltaLocal",
    Dynamics.STATE: "State",
}
_STATIC = 2
"""``response_type`` of parked agents."""


def version() -> str | None:
    """Version of the installed Python package ``gpudrive``, if there is one."""
    try:
        return metadata.version("gpudrive")
    except metadata.PackageNotFoundError:
        return None


def load_binding() -> Any:
    """GPUDrive's compiled module.

    Raises:
        ImportError: in one sentence, when it is absent, of another version, or built with other constants.
    """
    try:
        binding = importlib.import_module(MODULE)
    except ModuleNotFoundError as error:
        raise ImportError(f"GPUDrive is not installed ({error}); {HOW_TO_GET}") from error
    except ImportError as error:
        raise ImportError(f"GPUDrive is there but cannot be loaded ({error}); {HOW_TO_GET}") from error
    manager = getattr(binding, "SimManager", None)
    if missing := [name for name in (*_GETTERS, "set_maps", "reset", "step") if not hasattr(manager, name)]:
        raise ImportError(f"GPUDrive {version() or ''} lacks {missing[0]} and is of another version; {HOW_TO_GET}")
    for name, wanted in (("episodeLen", EPISODE), ("vehicleScale", 0.7)):
        found = getattr(binding, name, wanted)
        if abs(found - wanted) > 1e-6:
            raise ImportError(f"GPUDrive was built with {name} {found}, not {wanted}; build it unchanged")
    return binding


class GPUDriveEnv(AgentViews):
    """GPUDrive with W worlds and N controlled agents, as :class:`~sim.env.Backend`.

    A world whose episode is over stays as it is until it is reset, while others go on.

    Args:
        worlds: scenes of 91 states on the device where GPUDrive shall run.
        action_space: what actions mean.
        config: the rules, with ``compat="gpudrive"``.
        observation: the layout of observations.
        scene_file: gives the file of a scene.

    Raises:
        ImportError: when GPUDrive is not installed.
        ValueError: when the rules are not GPUDrive's, the vehicles know reverse, or a history shall be seen.
        SceneError: when GPUDrive cannot hold a scene, or made something else of it.
    """

    horizon = EPISODE

    def __init__(
        self,
        worlds: Worlds,
        action_space: ActionSpace,
        config: SimConfig,
        observation: ObservationConfig,
        scene_file: SceneFile,
    ) -> None:
        if config.compat != "gpudrive":
            raise ValueError("the gpudrive backend has GPUDrive's rules; set sim.compat to gpudrive")
        check_reverse(action_space, config)
        if observation.history:
            raise ValueError("the gpudrive backend knows no history; leave out observation.history")
        self.worlds = worlds
        self.action_space = action_space
        self.config = config
        self.observation_config = observation
        self._scene_file = scene_file
        self._binding = load_binding()
        self._begin(worlds, self._manager(worlds))

    def reset(self, worlds: Sequence[int] | torch.Tensor | None = None) -> torch.Tensor:
        """Start the episodes of the given worlds (indices, or [W] bool; all when None) anew; observations [N, D]."""
        which = world_mask(worlds, self.worlds).cpu()
        self._sim.reset(which.nonzero().flatten().tolist())
        self._clock[which] = 0
        self._over[which] = False
        self._read(which, self._first_velocity)
        self._alive |= which.to(self._alive.device)[self._world[self.worlds.controlled]]
        return self._observe()

    def step(self, actions: torch.Tensor) -> Step:
        """Let all agents act: actions [N, K], indices or values as the action space says."""
        check_actions(actions, self.worlds, self.action_space)
        values = self.action_space.decode(actions)
        self._hold()
        before, hit = self.states(), self._collided[self.worlds.controlled]
        self._send(values)
        self._sim.step()
        self._clock += 1
        going = ~self._over
        self._read(going, self._velocity(before, values))
        return self._conclude(hit & (self.config.on_collision != "ignore"), going & (self._clock == EPISODE))

    def swap(self, worlds: Worlds) -> torch.Tensor:
        """Go on in other worlds, from their start; observations [N, D]. Quick when their number is the same."""
        if worlds.device != self.worlds.device:
            raise ValueError(f"the worlds are on {worlds.device}, the simulator on {self.worlds.device}; move them")
        same = worlds.num_worlds == self.worlds.num_worlds
        if same:
            self._sim.set_maps(self._files(worlds))
        return self._begin(worlds, self._sim if same else self._manager(worlds))

    # --- beginning -------------------------------------------------------------------------------------------------

    def _files(self, worlds: Worlds) -> list[str]:
        return [str(self._scene_file(*pair)) for pair in zip(worlds.scenes, worlds.selected, strict=True)]

    def _manager(self, worlds: Worlds) -> Any:
        """A simulator of these worlds; the one before is released first, for its memory."""
        binding, files = self._binding, self._files(worlds)
        self._sim: Any = None
        mode = binding.madrona.ExecMode
        return binding.SimManager(
            exec_mode=mode.CUDA if worlds.device.type == "cuda" else mode.CPU,
            gpu_id=worlds.device.index or 0,
            scenes=files,
            params=_parameters(binding, self.config, self.action_space.dynamics),
        )

    def _begin(self, worlds: Worlds, sim: Any) -> torch.Tensor:
        """Take over a simulator that has just loaded these worlds."""
        self.worlds, self._sim = worlds, sim
        device, m, n = worlds.device, worlds.num_agents, len(worlds.controlled)
        self._world = worlds.tensors["world"].long()
        self._slot = torch.arange(m, device=device) - worlds.tensors["agent_start"].long()[self._world]
        self._check()
        self._mean = sim.world_means_tensor().to_torch()[:, :2].clone()[self._world]
        self._clock = torch.zeros(worlds.num_worlds, dtype=torch.int64)  # on the CPU, so that nothing waits for CUDA
        self._over = torch.zeros(worlds.num_worlds, dtype=torch.bool)
        self._state = torch.zeros(m, 5, device=device)
        self._present, self._collided, self._done = torch.zeros(3, m, dtype=torch.bool, device=device)
        self._events = torch.zeros(m, len(Event), dtype=torch.bool, device=device)
        self._reward = torch.zeros(m, device=device)
        self._alive = torch.zeros(n, dtype=torch.bool, device=device)
        self._observer = Observer(worlds, self.observation_config)
        self._agents = worlds.controlled.to(torch.int32)
        self._first_velocity = self._logged_velocity(torch.zeros_like(self._world))
        return self.reset()

    def _check(self) -> None:
        """Whether GPUDrive made of the files what they are meant to be.

        Raises:
            SceneError: naming the first scene for which it did not.
        """
        sim = self._sim
        made = (sim.shape_tensor(), sim.controlled_state_tensor(), sim.response_type_tensor())
        shape, control, response = (tensor.to_torch().cpu().numpy() for tensor in made)
        for w, (scene, chosen) in enumerate(zip(self.worlds.scenes, self.worlds.selected, strict=True)):
            agents, segments = len(chosen.row), len(scene.segment)
            problem = None
            if shape[w].tolist() != [agents, segments]:
                problem = f"{shape[w, 0]} agents and {shape[w, 1]} segments of {agents} and {segments}"
            elif not np.array_equal(response[w, :agents, 0] == _STATIC, chosen.parked):
                problem = "others parked than the store does"
            elif not np.array_equal(control[w, :agents, 0] == 1, chosen.controlled):
                problem = "others controlled than the store does"
            if problem:
                raise SceneError(f"scene {scene.id!r}", f"GPUDrive made {problem}", "leave it out or drive it embedded")

    # --- a step ----------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Keep worlds that are over as they are: GPUDrive, which must not step past the end, begins them anew."""
        ended = self._clock == EPISODE
        if ended.any():
            self._over |= ended
            self._clock[ended] = 0
            self._sim.reset(ended.nonzero().flatten().tolist())

    def _send(self, values: torch.Tensor) -> None:
        """Write actions [N, K] into the rows of the controlled agents, in the order of GPUDrive's union."""
        rows = self.worlds.controlled
        union = torch.zeros(len(values), 10, device=values.device)
        if self.action_space.dynamics == Dynamics.STATE:  # x, y, z, yaw, velocity, angular velocity
            union[:, :2] = values[:, :2] - self._mean[rows]
            union[:, 2] = 1.0  # where agents collide
            union[:, 3:6] = values[:, 2:]
        else:
            union[:, : values.shape[1]] = values
        self._sim.action_tensor().to_torch()[self._world[rows], self._slot[rows]] = union

    def _read(self, which: torch.Tensor, velocity: torch.Tensor) -> None:
        """Take over the agents of worlds ``which`` [W]; velocity [M, 2] of those who are there."""
        device = self.worlds.device
        sim = self._sim
        absolute, own = self._rows(sim.absolute_self_observation_tensor()), self._rows(sim.self_observation_tensor())
        info, done, reward = (self._rows(t) for t in (sim.info_tensor(), sim.done_tensor(), sim.reward_tensor()))
        here = (absolute[:, :2].abs() < _NEAR).all(dim=1)
        gone = torch.full_like(self._mean, REMOVED_POSITION)
        position = torch.where(here[:, None], absolute[:, :2] + self._mean, gone)
        state = torch.cat([position, absolute[:, 7:8], torch.where(here[:, None], velocity, 0.0)], dim=1)
        now = which.to(device)[self._world]
        self._state = torch.where(now[:, None], state, self._state)
        self._present = torch.where(now, here, self._present)
        self._collided = torch.where(now, own[:, 6] != 0, self._collided)
        theirs = slice(Event.RED_LIGHT)  # it has no lights
        self._events[:, theirs] = torch.where(now[:, None], info[:, :4] != 0, self._events[:, theirs])
        self._done = torch.where(now, done[:, 0] != 0, self._done)
        self._reward = torch.where(now, reward[:, 0], self._reward)

    def _rows(self, tensor: Any) -> torch.Tensor:
        """[M, ...] what a tensor of GPUDrive holds of the agents that exist; a copy."""
        view: torch.Tensor = tensor.to_torch()
        return view[self._world, self._slot]

    def _conclude(self, blamed: torch.Tensor, last: torch.Tensor) -> Step:
        """What the step gave the controlled agents.

        Args:
            blamed: [N] whether a collision in the step before ends the agent's episode now.
            last: [W] whether the world's time is up now, when GPUDrive calls everyone done.
        """
        rows, events = self.worlds.controlled, self.events()
        time_up = last.to(rows.device)[self._world[rows]]
        ended = torch.where(time_up, blamed | events[:, Event.GOAL], self._done[rows])
        terminated, truncated = self._alive & ended, self._alive & ~ended & time_up
        self._alive = self._alive & ~terminated & ~truncated
        reward = self._reward[rows] if self.config.reward == "sparse_on_goal_achieved" else self._weighted(events)
        return Step(self._observe(), reward, terminated, truncated, events, self.alive(), torch.ones_like(reward))

    def _weighted(self, events: torch.Tensor) -> torch.Tensor:
        c = self.config
        weights = [c.off_road_weight, c.collision_weight, c.collision_weight, c.goal_achieved_weight]
        return events[:, : Event.RED_LIGHT].float() @ torch.tensor(weights, device=events.device)

    def _observe(self) -> torch.Tensor:
        world, device = self._world[self.worlds.controlled], self._world.device
        step = torch.where(self._over, EPISODE, self._clock).to(device, torch.int32)[world]
        time_left = (EPISODE - step).float() * DT
        return self._observer.observe(
            self._state, self._present, self._agents, time_left, step, collided=self._collided
        )

    # --- velocities, of which GPUDrive reports only the length -----------------------------------------------------

    def _velocity(self, before: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """[M, 2] m/s after a step: the log's for replayed agents, by the dynamics for the controlled ones.

        Args:
            before: [N, 5] states before the step.
            values: [N, K] what was done.
        """
        rows, dynamics = self.worlds.controlled, self.action_space.dynamics
        velocity = self._logged_velocity((self._clock.to(rows.device) - 1)[self._world])
        heading = self._rows(self._sim.absolute_self_observation_tensor())[rows, 7]
        speed = self._rows(self._sim.self_observation_tensor())[rows, :1]
        if dynamics == Dynamics.STATE:
            ahead = values[:, 3:]
        elif dynamics == Dynamics.DELTA_LOCAL:
            (dx, dy), (c, s) = values[:, :2].unbind(dim=1), (before[:, 2].cos(), before[:, 2].sin())
            ahead = torch.stack([c * dx - s * dy, s * dx + c * dy], dim=1)
        else:
            limit = BICYCLE_MAX_ACCEL if dynamics == Dynamics.BICYCLE else torch.inf
            signed = before[:, 3:].norm(dim=1) + values[:, 0].clamp(-limit, limit) * DT  # below zero: backwards
            ahead = torch.stack([heading.cos(), heading.sin()], dim=1) * torch.where(signed < 0, -1.0, 1.0)[:, None]
        velocity[rows] = speed * torch.nn.functional.normalize(ahead, dim=1)
        return velocity

    def _logged_velocity(self, index: torch.Tensor) -> torch.Tensor:
        """[M, 2] logged velocities at steps ``index`` [M]; zero for parked agents."""
        logged = self.worlds.log[torch.arange(len(index), device=index.device), index, 3:]
        return torch.where(self.worlds.tensors["parked"][:, None], 0.0, logged)


def _parameters(binding: Any, config: SimConfig, dynamics: Dynamics) -> Any:
    """GPUDrive's parameters: files hold who exists and what the map is, so that its own filters are off."""
    reward = binding.RewardParams()
    reward.rewardType = binding.RewardType.OnGoalAchieved
    reward.distanceToGoalThreshold = config.goal_radius
    mode = config.selection.init_mode
    parameters = binding.Parameters()
    values = {
        "polylineReductionThreshold": 0.0,
        "observationRadius": _OBSERVATION_RADIUS,
        "rewardParams": reward,
        "collisionBehaviour": getattr(binding.CollisionBehaviour, _COLLISION[config.on_collision]),
        "maxNumControlledAgents": binding.kMaxAgentCount,
        "IgnoreNonVehicles": False,
        "roadObservationAlgorithm": binding.FindRoadObservationsWith.AllEntitiesWithRadiusFiltering,
        "initOnlyValidAgentsAtFirstStep": mode != "all_objects",
        "isStaticAgentControlled": mode in ("all_valid", "all_objects"),
        "dynamicsModel": getattr(binding.DynamicsModel, _DYNAMICS[dynamics]),
        "enableLidar": False,
        "disableClassicalObs": True,
    }
    for name, value in values.items():
        setattr(parameters, name, value)
    return parameters
