"""What learns in a run, as one thing to create, to fit, to save and to go on with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.adversary import Adversary
from gail_cli.gail.learning.latent import Codes, Posterior
from gail_cli.gail.learning.manager import ManagerLearner
from gail_cli.gail.learning.rollout import Manage, Rollout
from gail_cli.gail.learning.sight import Sight
from gail_cli.gail.networks.actor_critic import Networks
from gail_cli.gail.networks.factory import make_discriminator
from gail_cli.gail.networks.manager import make_manager
from gail_cli.gail.networks.policy import Critic
from gail_cli.sim.actions import ActionSpace


@dataclass
class Learners:
    """Policy and critic, and in a run that has them the discriminator, the posterior of latent codes, and the manager
    that chooses these."""

    networks: Networks
    sight: Sight
    """What each of them looks at."""
    adversary: Adversary | None = None
    codes: Codes | None = None
    manager: ManagerLearner | None = None

    @classmethod
    def create(
        cls,
        config: TrainConfig,
        space: ActionSpace,
        device: torch.device,
        experts: Callable[[int, bool], Transitions],
        generator: torch.Generator,
    ) -> Learners:
        """What learns under a configuration, as it is at first.

        Args:
            config: of the run.
            space: the actions.
            device: where the networks are.
            experts: gives as many expert samples as asked for, as the discriminator looks at them, with next
                observations if asked for them.
            generator: of what is drawn while they learn.
        """
        observation, codes = config.observation, config.latent.codes
        networks = Networks.create(observation, space, config.policy, codes, device, config.shares_eyes)
        made = cls(networks, Sight(config, networks))
        seen = networks.policy.encoder.features if config.shares_eyes else observation
        if codes:
            posterior = Posterior(seen, space, config.policy, codes).to(device)
            made.codes = Codes(config.latent, posterior, device, generator)
        manager = make_manager(config, networks.policy)
        if manager is not None:
            value = Critic(seen, config.policy).to(device)
            made.manager = ManagerLearner(config, manager.to(device), value, generator)
        if config.adversarial:
            settings, gamma = config.discriminator, config.ppo.gamma
            network = make_discriminator(settings, seen, space, gamma).to(device)
            made.adversary = Adversary(network, settings, config.reward, gamma, experts, made.log_prob, generator)
        made.set_rates(config)
        return made

    def set_rates(self, config: TrainConfig) -> None:
        """Take over what may change in a run that goes on, also over what a checkpoint brought."""
        self.networks.set_rates(config.ppo, config.bc)
        if self.adversary is not None:
            self.adversary.provider.set_rates(config.discriminator, config.reward)

    def fit_normalisers(self, expert: Transitions) -> None:
        """Fit all input statistics but the policy's on expert samples, as the discriminator looks at them, for good."""
        self.networks.critic.encoder.fit_normaliser(expert.observation)
        if self.adversary is not None:
            self.adversary.fit_normaliser(expert)
        if self.codes is not None:
            self.codes.posterior.encoder.fit_normaliser(expert.observation)
        if self.manager is not None:
            self.manager.fit_normaliser(expert.observation)

    def codes_of_rollout(self, agents: int) -> Tensor | Manage | None:
        """Codes [N] of the agents of a rollout, or who chooses them in it; None if the policy has none."""
        if self.manager is not None:
            return self.manager.manage(self.sight.judged)
        return None if self.codes is None else self.codes.draw(agents)

    def teach_manager(self, rollout: Rollout, reward: Tensor, train_policy: bool) -> dict[str, float]:
        """Let the manager, if there is one, learn from a rollout as the critic looks at it, before the policy does.

        It is paid what the policy is paid for its driving, and not for being told its code: the easiest code to tell is
        one that is always the same.

        Args:
            rollout: as the critic looks at it.
            reward: [H, N] of the policy, in whole.
            train_policy: whether the manager learns, or only its value.

        Returns:
            How it went, as metrics.
        """
        if self.manager is None or self.codes is None:
            return {}
        told = self.manager.learn(rollout, reward - self.codes.reward(rollout), train_policy)
        return {f"manager/{name}": value for name, value in told.items()}

    def with_codes(self, expert: Transitions) -> Transitions:
        """Expert samples, as rollouts hold what is seen, each with a code that is likely for its driver, if the policy
        has codes."""
        if self.codes is None:
            return expert
        actor = self.sight.actor
        return Transitions(actor.with_code(expert.observation, self.codes.assign(actor, expert)), expert.action)

    @torch.no_grad()
    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """[B] log-probabilities of actions [B, K] under the present policy after what the discriminator looks at
        [B, X], with codes as the posterior finds them."""
        code = None if self.codes is None else self.codes.infer(observation, action)
        policy = self.networks.policy
        chooser = policy.actor if self.sight.shares else policy
        return chooser.evaluate(chooser.with_code(observation, code), action)[0]

    def state_dict(self) -> dict[str, Any]:
        """The states of all, by name."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave; then :meth:`set_rates`, as some rates come with it.

        Raises:
            KeyError, ValueError, RuntimeError: when it is of other networks.
        """
        if self.manager is None and "manager" in state:
            raise ValueError("there is a manager of codes in it")
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        parts = {"networks": self.networks, "adversary": self.adversary, "codes": self.codes, "manager": self.manager}
        return {name: part for name, part in parts.items() if part is not None}
