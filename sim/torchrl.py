"""Any backend as a TorchRL environment: a batch element is a world, its controlled agents are the group ``agents``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, MultiCategorical, TensorSpec, Unbounded
from torchrl.envs import EnvBase

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.env import Backend
from gail_cli.sim.kernels import Event

GROUP = "agents"
DONE = ("done", "terminated", "truncated")


class TorchRLEnv(EnvBase):  # type: ignore[misc]
    """W worlds as a batch; the group ``agents`` is padded to A, the most agents that one of these worlds controls.

    Of a world [W, 1]: ``done`` when the last of its agents has ended, and then either ``truncated``, if some agent was,
    or ``terminated``; a world in which no agent ever acts is never done. Of an agent, under ``agents``:

    * ``observation`` [W, A, D], zero where the agent neither acted nor acts next,
    * ``mask`` [W, A], whether it acts in the next step: not in padding, nor after its own end,
    * ``action`` [W, A, K]: grid indices, or values; without meaning where the mask is false,
    * ``reward`` [W, A, 1], zero where it did not act,
    * ``done``, ``terminated``, ``truncated`` [W, A, 1], from its own end to the reset of its world,
    * ``events`` [W, A, 5], as in :class:`~sim.env.Step`.

    Worlds are reset by the mask ``_reset`` [W, 1]. The simulator knows no chance, so a seed changes nothing. After the
    backend swapped its worlds, make a new one of these.

    Args:
        backend: the worlds, reset or not; the environment has it for itself from now on.

    Raises:
        ValueError: when no world has a controlled agent.
    """

    def __init__(self, backend: Backend) -> None:
        worlds = backend.worlds
        super().__init__(device=worlds.device, batch_size=[worlds.num_worlds])
        self.backend = backend
        self._worlds = worlds
        self._world = worlds.tensors["world"][worlds.controlled].long()
        counts = torch.bincount(self._world, minlength=worlds.num_worlds)
        most = int(counts.max())
        if most == 0:
            raise ValueError("torchrl: no world has a controlled agent; choose other scenes or another selection")
        first = counts.cumsum(0) - counts
        within = torch.arange(backend.num_agents, device=worlds.device) - first[self._world]
        self._slot = self._world * most + within
        """[N] where each agent stands among the W * A places."""
        self._shape = torch.Size([worlds.num_worlds, most])
        self._acts = self._terminated = self._truncated = torch.zeros_like(self._world, dtype=torch.bool)
        self.group_map = {GROUP: [f"agent_{i}" for i in range(most)]}
        self._make_specs()

    def _make_specs(self) -> None:
        agents, device, layout = self._shape, self.device, self.backend.observation_config

        def flags(*shape: int) -> TensorSpec:
            return Categorical(2, shape=shape, dtype=torch.bool, device=device)

        def spec(**fields: TensorSpec) -> Composite:
            return Composite(fields, shape=agents, device=device)

        seen = Unbounded((*agents, layout.size), dtype=torch.float32, device=device)
        # Flags of agents are observed: among the done flags, rollout(break_when_all_done=True) of TorchRL 0.14 fails.
        ends = {name: flags(*agents, 1) for name in DONE}
        observation = spec(observation=seen, mask=flags(*agents), events=flags(*agents, len(Event)), **ends)
        self.observation_spec = Composite({GROUP: observation}, shape=self.batch_size)
        action = spec(action=action_spec(self.backend.action_space, agents, device))
        self.action_spec = Composite({GROUP: action}, shape=self.batch_size)
        reward = spec(reward=Unbounded((*agents, 1), dtype=torch.float32, device=device))
        self.reward_spec = Composite({GROUP: reward}, shape=self.batch_size)
        self.done_spec = Composite({name: flags(*self.batch_size, 1) for name in DONE}, shape=self.batch_size)

    def _reset(self, tensordict: TensorDictBase | None, **_: Any) -> TensorDict:
        self._check_worlds()
        named = None if tensordict is None else tensordict.get("_reset", None)
        worlds = None if named is None else named.reshape(self.batch_size)
        observation = self.backend.reset(worlds)
        others = torch.zeros_like(self._acts) if worlds is None else ~worlds[self._world]
        self._terminated, self._truncated = self._terminated & others, self._truncated & others
        self._acts = self.backend.alive()
        return self._agents(observation, self.backend.events(), self._acts).update(self.full_done_spec.zero())

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._check_worlds()
        acted = self._acts
        actions = tensordict[GROUP, "action"].flatten(0, 1)[self._slot]
        step = self.backend.step(torch.where(acted[:, None], actions, 0))
        self._terminated, self._truncated = self._terminated | step.terminated, self._truncated | step.truncated
        self._acts = step.alive
        result = self._agents(step.observation, step.events, acted | self._acts)
        group = result[GROUP]
        group["reward"] = self._pad(torch.where(acted, step.reward, 0.0)[:, None])
        done = group["done"].any(1) & ~group["mask"].any(1, keepdim=True)
        by_time = done & group["truncated"].any(1)
        return result.update({"done": done, "terminated": done & ~by_time, "truncated": by_time})

    def _set_seed(self, seed: int | None) -> None:
        """There is nothing to seed."""

    def _agents(self, observation: torch.Tensor, events: torch.Tensor, there: torch.Tensor) -> TensorDict:
        """What the group observes, of values [N, ...]; zero in the rows that are not ``there`` [N]."""
        terminated, truncated = self._terminated[:, None], self._truncated[:, None]
        fields = {
            "observation": torch.where(there[:, None], observation, 0.0),
            "mask": self._acts,
            "events": events,
            **dict(zip(DONE, (terminated | truncated, terminated, truncated), strict=True)),
        }
        group = TensorDict({name: self._pad(value) for name, value in fields.items()}, self._shape, self.device)
        return TensorDict({GROUP: group}, self.batch_size, self.device)

    def _pad(self, values: torch.Tensor) -> torch.Tensor:
        """Values [N, ...] at their places in [W, A, ...], zero in padding."""
        padded = values.new_zeros(self._shape.numel(), *values.shape[1:])
        padded[self._slot] = values
        return padded.view(*self._shape, *values.shape[1:])

    def _check_worlds(self) -> None:
        if self.backend.worlds is not self._worlds:
            raise RuntimeError("torchrl: the backend has other worlds than when this was made; make a new TorchRLEnv")


def action_spec(space: ActionSpace, agents: torch.Size, device: torch.device) -> TensorSpec:
    """The spec of actions [*agents, K] of a space; the bounds of ``state``, which has none, are left open."""
    shape = (*agents, space.components)
    if space.discrete:
        return MultiCategorical(space.sizes, shape=shape, device=device, dtype=torch.int64)
    low, high = torch.tensor(space.bounds, dtype=torch.float32, device=device).T
    if not np.isfinite(space.bounds).all():
        return Unbounded(shape, dtype=torch.float32, device=device)
    return Bounded(low.expand(shape), high.expand(shape), shape, dtype=torch.float32, device=device)
