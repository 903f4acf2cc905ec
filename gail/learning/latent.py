"""Latent codes that let one policy drive in several ways (InfoGAIL, Li et al. 2017, 1703.08840).

Each agent has a code, for an episode or until a manager chooses another (:mod:`gail.learning.manager`), which policy
and critic see and the discriminator does not. A posterior learns to infer the code from what the agent does, and
rewards the policy where it can: so codes go on to mean something. What they mean is found while experts are cloned,
each by the code that is likely for how it drives (:mod:`gail.learning.assignment`).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from gail_cli.gail.config.schema import LatentConfig, NetworkConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.assignment import Assignment
from gail_cli.gail.learning.rollout import Rollout
from gail_cli.gail.networks.encoder import Seen, make_encoder, mlp, one_hot
from gail_cli.gail.networks.policy import Chooser
from gail_cli.sim.actions import ActionSpace

_CHUNK = 8192


class Posterior(nn.Module):
    """q(c | s, a): logits [B, C] of the code of a transition.

    Args:
        seen: what it looks at: observations, or features.
        space: the actions.
        config: sizes.
        codes: C.
    """

    def __init__(self, seen: Seen, space: ActionSpace, config: NetworkConfig, codes: int) -> None:
        super().__init__()
        h = config.hidden
        self.space = space
        actions = sum(space.sizes) if space.discrete else space.components
        self.encoder = make_encoder(seen, config)
        self.head = nn.Sequential(mlp([h + actions, h]), nn.Linear(h, codes))

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """[B, C] of what was seen [B, X] and actions [B, K]."""
        flat = one_hot(action, self.space.sizes).float() if self.space.discrete else action
        return self.head(torch.cat([self.encoder(observation), flat], dim=1))  # type: ignore[no-any-return]


def information(logits: Tensor, code: Tensor) -> Tensor:
    """log q(c | s, a) + log C, [B]: nats by which codes [B] are inferred better than by chance (InfoGAIL, eq. 2)."""
    chosen = functional.log_softmax(logits, dim=1).gather(1, code[:, None]).squeeze(1)
    return chosen + math.log(logits.shape[1])


class Codes:
    """The codes of a run: drawn for agents, inferred by the posterior, and the reward for what it can infer.

    Args:
        config: how many there are, and how they are learned.
        posterior: on its device.
        device: the same.
        generator: of what is drawn.
    """

    def __init__(
        self, config: LatentConfig, posterior: Posterior, device: torch.device, generator: torch.Generator
    ) -> None:
        self._config, self._device, self._generator = config, device, generator
        self.posterior, self.assignment = posterior, Assignment(config.codes)
        self.optimiser = torch.optim.Adam(self.posterior.parameters(), lr=config.learning_rate)

    def draw(self, count: int) -> Tensor:
        """[count] codes, each as likely as another."""
        return torch.randint(self._config.codes, (count,), generator=self._generator).to(self._device)

    @torch.no_grad()
    def infer(self, observation: Tensor, action: Tensor) -> Tensor:
        """[B] codes drawn from the posterior of transitions."""
        return self._drawn(self.posterior(observation, action).softmax(dim=1))

    def assign(self, chooser: Chooser, demos: Transitions) -> Tensor:
        """[B] codes to clone demos with, drawn by how likely each is for the demo's driver, after this batch.

        Args:
            chooser: the policy, or the part of it that looks at what the demos hold.
            demos: with their drivers.
        """
        return self._drawn(self.assignment(chooser, demos))

    def _drawn(self, chances: Tensor) -> Tensor:
        return torch.multinomial(chances.cpu(), 1, generator=self._generator).squeeze(1).to(self._device)

    def update(self, rollout: Rollout, batch_size: int | None = None, updates: int | None = None) -> dict[str, float]:
        """Some gradient steps on the cross-entropy of the codes of a rollout; the accuracy before the first.

        Only when its rewards are known: a posterior that has seen the rollout knows its agents again, and would pay for
        that.

        Args:
            rollout: as it looks at it.
            batch_size, updates: those of ``latent`` when None.
        """
        batch_size, updates = batch_size or self._config.batch_size, updates or self._config.updates
        assert rollout.code is not None
        observation, action = rollout.observation[rollout.alive], rollout.action[rollout.alive]
        code = rollout.code.expand_as(rollout.alive)[rollout.alive]
        first = 0.0
        for k in range(updates):
            pick = torch.randint(len(code), (batch_size,), generator=self._generator).to(self._device)
            logits = self.posterior(observation[pick], action[pick])
            if k == 0:
                first = (logits.argmax(dim=1) == code[pick]).float().mean().item()
            loss = functional.cross_entropy(logits, code[pick])
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            self.optimiser.step()
        return {"latent/accuracy": first, "latent/loss": loss.item()}

    @torch.no_grad()
    def reward(self, rollout: Rollout) -> Tensor:
        """[H, N] nats of information in each step about its agent's code, times ``latent.weight``."""
        assert rollout.code is not None
        alive = rollout.alive
        parts = zip(
            rollout.observation[alive].split(_CHUNK),
            rollout.action[alive].split(_CHUNK),
            rollout.code.expand_as(alive)[alive].split(_CHUNK),
            strict=True,
        )
        nats = torch.cat([information(self.posterior(o, a), c) for o, a, c in parts])
        reward = torch.zeros_like(rollout.log_prob)
        reward[alive] = self._config.weight * nats
        return reward

    def state_dict(self) -> dict[str, Any]:
        """Posterior and optimiser, and what is known of the codes of demos."""
        posterior, optimiser = self.posterior.state_dict(), self.optimiser.state_dict()
        return {"posterior": posterior, "optimiser": optimiser, "assignment": self.assignment.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, but for the learning rate."""
        self.posterior.load_state_dict(state["posterior"])
        self.optimiser.load_state_dict(state["optimiser"])
        if "assignment" in state:  # not in runs of earlier versions
            self.assignment.load_state_dict(state["assignment"])
        for group in self.optimiser.param_groups:
            group.update(lr=self._config.learning_rate)
