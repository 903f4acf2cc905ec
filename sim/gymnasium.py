"""Any backend as a Gymnasium ``VectorEnv``: a sub-environment is a controlled agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import Space
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.env import Backend


class GymnasiumEnv(VectorEnv[NDArray[np.float32], NDArray[Any], NDArray[Any]]):
    """N agents as sub-environments, with NumPy arrays in and out and resets in the same step.

    Agents share worlds, and worlds are reset whole: an agent whose episode ended, which ``terminated`` or
    ``truncated`` reported in that step, waits for the last one of its world. Meanwhile its observation and reward are
    zero, its action is ignored, and ``infos["alive"]`` is false. When the last one ended, the world is reset in
    that very step. With one controlled agent per world (``Selection(max_controlled=1)``) no agent waits, and this is
    Gymnasium's own contract to the letter.

    ``infos`` hold ``alive`` [N], whether each agent acts in the next step, and ``events`` [N, 5], as in
    :class:`~sim.env.Step`; where an episode ended, also ``final_obs`` and ``final_info`` (the events then).
    The simulator knows no chance, so a seed changes nothing but :attr:`np_random`.

    Args:
        backend: the worlds, reset or not; the environment has it for itself from now on.

    Raises:
        ValueError: when no world has a controlled agent.
    """

    metadata: dict[str, Any] = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, backend: Backend) -> None:
        if backend.num_agents == 0:
            raise ValueError("gymnasium: no world has a controlled agent; choose other scenes or another selection")
        self.backend = backend
        self.num_envs = backend.num_agents
        self.single_observation_space = Box(-np.inf, np.inf, (backend.observation_config.size,), np.float32)
        self.single_action_space = action_space(backend.action_space)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        worlds = backend.worlds
        self._worlds = worlds
        self._world = _array(worlds.tensors["world"][worlds.controlled])
        self._acts = np.zeros(self.num_envs, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start new episodes.

        Args:
            seed: of :attr:`np_random`; the worlds are the same for all seeds.
            options: ``{"reset_mask": mask}``, bool [N], for the episodes of some worlds; all agents of a world or none.

        Returns:
            Observations [N, D] of all agents, and ``infos``.

        Raises:
            ValueError: for a mask of another shape or type, or with a part of a world's agents.
        """
        super().reset(seed=seed)
        self._check_worlds()
        mask = (options or {}).get("reset_mask")
        observation = self.backend.reset(None if mask is None else self._worlds_of(mask))
        self._acts = _array(self.backend.alive())
        return _seen(observation, self._acts), self._infos()

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Let all agents act: actions [N, K]; see the class for who waits, and when worlds are reset."""
        self._check_worlds()
        acted = self._acts
        meant = np.where(acted[:, None], actions, 0)
        step = self.backend.step(torch.as_tensor(meant, device=self.backend.worlds.device))
        self._acts = _array(step.alive)
        observation = _seen(step.observation, acted | self._acts)
        reward = np.where(acted, _array(step.reward), np.float32(0))
        terminated, truncated = _array(step.terminated), _array(step.truncated)
        infos = {}
        if (ended := terminated | truncated).any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final[i] = observation[i].copy()
            events = np.where(ended[:, None], _array(step.events), False)
            infos = {"final_obs": final, "_final_obs": ended, "_final_info": ended.copy()}
            infos["final_info"] = {"events": events, "_events": ended.copy()}
        over = self._some(acted) & ~self._some(self._acts)
        if over.any():
            fresh = self.backend.reset(torch.as_tensor(over, device=self.backend.worlds.device))
            self._acts = _array(self.backend.alive())
            again = over[self._world]
            observation[again] = _seen(fresh, self._acts)[again]
        return observation, reward, terminated, truncated, infos | self._infos()

    def _infos(self) -> dict[str, Any]:
        everyone = np.ones(self.num_envs, np.bool_)
        events = _array(self.backend.events())
        return {"events": events, "_events": everyone, "alive": self._acts.copy(), "_alive": everyone.copy()}

    def _worlds_of(self, mask: Any) -> torch.Tensor:
        """[W] bool, the worlds whose agents a mask [N] names."""
        if not isinstance(mask, np.ndarray) or mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
            raise ValueError(f"gymnasium: reset_mask must be a NumPy array of {self.num_envs} bool, one per agent")
        named = self._some(mask)
        if (partly := np.flatnonzero(named & self._some(~mask))).size:
            raise ValueError(f"gymnasium: reset_mask names a part of world {partly[0]}; name all of its agents or none")
        return torch.as_tensor(named, device=self.backend.worlds.device)

    def _some(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[W] in which worlds some agent is named by a mask [N]."""
        return np.bincount(self._world, mask, self.backend.worlds.num_worlds) > 0

    def _check_worlds(self) -> None:
        if self.backend.worlds is not self._worlds:
            raise RuntimeError(
                "gymnasium: the backend has other worlds than when this was made; make a new GymnasiumEnv"
            )


def action_space(space: ActionSpace) -> Space[Any]:
    """Gymnasium's form of one agent's actions [K]: grid indices, or values within the bounds (``state`` has none)."""
    if space.discrete:
        return MultiDiscrete(np.array(space.sizes))
    low, high = np.array(space.bounds, np.float32).T
    return Box(low, high, dtype=np.float32)


def _array(values: torch.Tensor) -> NDArray[Any]:
    """A copy of a tensor as an array."""
    return values.cpu().numpy().copy()


def _seen(observation: torch.Tensor, there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """A copy of observations [N, D], zero in the rows that are not ``there`` [N]."""
    return np.where(there[:, None], observation.cpu().numpy(), np.float32(0))
