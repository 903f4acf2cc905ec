"""How a manager learns which latent code is worth driving by (``latent.every``), and when it chooses.

To a manager, a rollout is one of few steps: a step is a segment of N steps of the simulation, its action the code that
an agent keeps so long, its reward that of the N steps, discounted (without what the policy is paid for being told its
code, see :meth:`~gail_cli.gail.learning.learners.Learners.teach_manager`). So it is trained by the same PPO, gamma
being gamma^N (options of a fixed length: Sutton, Precup & Singh 1999, eq. 3).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.learning.ppo import AdvantageScale, update, values
from gail_cli.gail.learning.rollout import Manage, Rollout
from gail_cli.gail.networks.manager import Manager
from gail_cli.gail.networks.policy import Critic


def by_segment(steps: Tensor, every: int) -> Tensor:
    """[S, every, N, ...] of [H, N, ...], with zeros behind the last step where ``every`` does not divide H."""
    padded = steps.new_zeros(-(-len(steps) // every) * every, *steps.shape[1:])
    padded[: len(steps)] = steps
    return padded.view(-1, every, *steps.shape[1:])


def segment_rewards(reward: Tensor, alive: Tensor, every: int, gamma: float) -> Tensor:
    """[S, N] rewards [H, N] of each segment's steps in which an agent acted, discounted to the segment's first."""
    weight = gamma ** torch.arange(every, device=reward.device)
    return (by_segment(reward * alive, every) * weight[:, None]).sum(dim=1)


def segments(rollout: Rollout, every: int) -> Rollout:
    """A rollout as the manager sees it: S steps, each a segment, whose actions [S, N, 1] are codes.

    An agent acts in a segment when it acts in its first step. One that is cut off within a segment leaves what it saw
    then in the next, where it does not act, as in any rollout. Log-probabilities are yet to be filled in.
    """
    assert rollout.code is not None
    length = len(rollout.alive)
    first = torch.arange(0, length, every, device=rollout.alive.device)
    terminated, truncated, happened = (
        by_segment(x, every).any(dim=1) for x in (rollout.terminated, rollout.truncated, rollout.happened)
    )
    observation, last = rollout.observation[first], rollout.last_observation
    step, agent = rollout.truncated[:-1].nonzero(as_tuple=True)
    following, seen = step // every + 1, rollout.observation[step + 1, agent]
    within = following < len(first)
    observation[following[within], agent[within]] = seen[within]
    if not within.all():
        last = last.index_copy(0, agent[~within], seen[~within])
    return Rollout(
        observation=observation,
        last_observation=last,
        action=rollout.code[first][..., None],
        log_prob=torch.zeros_like(rollout.log_prob[first]),
        alive=rollout.alive[first],
        terminated=terminated,
        truncated=truncated,
        environment_reward=by_segment(rollout.environment_reward, every).sum(dim=1),
        end=-(-rollout.end // every),
        happened=happened,
        fault=by_segment(rollout.fault, every).amax(dim=1),
    )


def cut_short(
    value: Callable[[Tensor], Tensor], chosen: Rollout, alive: Tensor, every: int, gamma: float, bootstrap: bool
) -> Tensor:
    """[S, N] what is missing of the future's value where it begins after m < N steps: (gamma^m - gamma^N) V.

    PPO discounts what comes after a segment by gamma^N, whatever the segment's length.

    Args:
        value: V [B] of what was seen [B, X].
        chosen: the rollout as the manager sees it.
        alive: [H, N] the steps in which agents acted.
        every: N.
        gamma: discount per step.
        bootstrap: whether the future of agents that are cut off counts.
    """
    lived = by_segment(alive, every).sum(dim=1)
    going_on = ~chosen.terminated & (bootstrap | ~chosen.truncated)
    short = chosen.alive & (lived < every) & going_on
    missing = torch.zeros_like(chosen.log_prob)
    if short.any():
        after = torch.cat([chosen.observation[1:], chosen.last_observation[None]])[short]
        missing[short] = (gamma ** lived[short] - gamma**every) * value(after)
    return missing


class ManagerLearner:
    """A manager with a value of its own, and how they learn.

    Args:
        config: of the run.
        manager, value: on their device; both look at the same.
        generator: of minibatches.
    """

    def __init__(self, config: TrainConfig, manager: Manager, value: Critic, generator: torch.Generator) -> None:
        latent = config.latent
        self._gamma, self._generator, self._rate = config.ppo.gamma, generator, latent.manager_learning_rate
        self.manager, self.value, self.scale = manager, value, AdvantageScale()
        self._ppo = replace(config.ppo, gamma=config.ppo.gamma**manager.every, entropy_coef=latent.manager_entropy_coef)
        self.optimisers = (
            torch.optim.Adam(manager.parameters(), lr=self._rate),
            torch.optim.Adam(value.parameters(), lr=self._rate),
        )

    def fit_normaliser(self, seen: Tensor) -> None:
        """Fit input statistics on what experts see [B, X]."""
        for network in (self.manager, self.value):
            network.encoder.fit_normaliser(seen)

    def manage(self, look: Callable[[Tensor], Tensor]) -> Manage:
        """Who chooses codes in one rollout.

        Args:
            look: from what rollouts hold [N, X] to what the manager looks at.
        """
        code: Tensor | None = None

        def codes(seen: Tensor, step: int) -> Tensor:
            nonlocal code
            if code is None or step % self.manager.every == 0:
                code = self.manager.choose(look(seen))
            return code

        return codes

    def learn(self, rollout: Rollout, reward: Tensor, train_policy: bool = True) -> dict[str, float]:
        """Improve manager and value on one rollout, before anything changes what they look at.

        Args:
            rollout: as they look at it.
            reward: [H, N].
            train_policy: whether the manager learns, or only its value.

        Returns:
            What :func:`~gail_cli.gail.learning.ppo.update` tells, and ``switched``: the share of the choices after an
            agent's first by which its code changes.
        """
        every, ppo = self.manager.every, self._ppo
        chosen = segments(rollout, every)
        alive, code = chosen.alive, chosen.action.squeeze(2)
        with torch.no_grad():
            chosen.log_prob[alive] = self.manager.evaluate(chosen.observation[alive], chosen.action[alive])[0]
        paid = segment_rewards(reward, rollout.alive, every, self._gamma) + cut_short(
            lambda seen: values(self.value, seen), chosen, rollout.alive, every, self._gamma, ppo.bootstrap_truncation
        )
        nets, tools = (self.manager, self.value, self.optimisers), (self.scale, self._generator)
        told = update(*nets, chosen, paid, ppo, None, *tools, train_policy)
        again = alive[1:]
        switched = (code[1:] != code[:-1])[again]
        return told | ({"switched": switched.float().mean().item()} if again.any() else {})

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, and the scale of advantages."""
        names = ("manager_optimiser", "value_optimiser")
        return {
            "manager": self.manager.state_dict(),
            "value": self.value.state_dict(),
            "scale": dict(vars(self.scale)),
            **{name: optimiser.state_dict() for name, optimiser in zip(names, self.optimisers, strict=True)},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave, but for the learning rates."""
        self.manager.load_state_dict(state["manager"])
        self.value.load_state_dict(state["value"])
        self.scale = AdvantageScale(**state["scale"])
        for optimiser, name in zip(self.optimisers, ("manager_optimiser", "value_optimiser"), strict=True):
            optimiser.load_state_dict(state[name])
            for group in optimiser.param_groups:
                group.update(lr=self._rate)
