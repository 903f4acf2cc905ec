"""The discriminator: a logit per sample, positive for "expert"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from gail_cli.gail.config.schema import DiscriminatorConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.base import Discriminator, Loss, Scored
from gail_cli.gail.networks.encoder import EntityEncoder, Seen, make_encoder, mlp, one_hot, width
from gail_cli.gail.networks.losses import (
    added,
    bottleneck_term,
    cross_entropy_term,
    gradient_penalty,
    interpolated,
    next_beta,
    penalty_term,
    vail_kl,
)
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig


def discriminator_loss(config: DiscriminatorConfig) -> Loss:
    """The cross-entropy, and what else the settings ask for."""
    terms = [cross_entropy_term(config.label_smoothing)]
    if config.use_vail:
        terms.append(bottleneck_term(config.vail_target_kl))
    if config.gradient_penalty > 0:
        terms.append(penalty_term(config.gradient_penalty))
    return added(*terms)


def nearness(observation: ObservationConfig, partners: Tensor, present: Tensor, scale: float) -> Tensor:
    """exp(-d / scale) of partners [B, P, F] at a distance d, m, centre to centre: [B, P]; zero of absent ones.

    Without gradients: how near somebody is decides how much a head counts, and is not learned from that way.
    """
    x, y = (next(i for i, name in enumerate(observation.partner_fields) if name.startswith(f"{a}/")) for a in "xy")
    metres = observation.radius if observation.partner_fields[x] == "x/radius" else 1000.0
    distance = partners.detach()[..., [x, y]].norm(dim=-1) * metres
    return torch.exp(-distance / scale) * present


class NeighbourHead(nn.Module):
    """A logit of ego and one neighbour, for each neighbour, summed by weight; it never sees two neighbours together.

    Args:
        own: floats that all pairs of a sample share.
        partner: floats of one partner.
        hidden: width.
        dropout: after each hidden layer.
    """

    def __init__(self, own: int, partner: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(mlp([own + partner, hidden, hidden], dropout, norm=False), nn.Linear(hidden, 1))

    def pairs(self, own: Tensor, partners: Tensor) -> Tensor:
        """[B, P] logits from what the pairs share [B, S] and partners [B, P, F]."""
        shared = own.unsqueeze(1).expand(-1, partners.shape[1], -1)
        return self.layers(torch.cat([shared, partners], dim=-1)).squeeze(-1)  # type: ignore[no-any-return]

    def forward(self, own: Tensor, partners: Tensor, weight: Tensor) -> Tensor:
        """[B]: sum of w_i f_i over neighbours, over max(1, sum of w_i), with weights [B, P].

        So a lone far neighbour fades, and a crowd is averaged: its noise does not grow with its size.
        """
        return (weight * self.pairs(own, partners)).sum(dim=1) / weight.sum(dim=1).clamp(min=1)


class DiscriminatorNetwork(Discriminator):
    """Tells expert from policy. It never sees who is done, the collided flag, or any other bookkeeping.

    ``config.inputs`` says what it looks at: only the state, the state and the action (one-hot per grid component), or
    the state and the next one, through the same encoder. ``config.structure`` says how its logit is made:

    * ``joint``: one network over everything.
    * ``split`` (DecompGAIL, 2510.06913): f = f_map + a sum w_i f_i / max(1, sum w_i), where f_map sees ego, road,
      lights and action, and f_i sees only ego, action and the i-th neighbour, with w_i = exp(-d_i / b). How neighbours
      stand to each other, which the ego cannot help, counts for nothing. (The pairs see only the ego of the next state,
      as partners change places from step to step.)
    * ``airl`` (Fu et al. 2018, eq. 4): f = g + gamma h(s') - h(s), and the logit is f - log pi(a | s). h(s') is counted
      in the last step too, as it should be with a fixed horizon, where an end is a truncation.

    Args:
        seen: what it looks at: observations of a layout, or features that a policy's eyes have made of them (not with
            ``split``, which looks at single neighbours).
        space: the actions.
        config: sizes and inputs.
        gamma: of the ``airl`` structure: the discount that the policy is trained with.
    """

    visible: Tensor
    action_mean: Tensor
    action_std: Tensor
    boundary = 0.0
    gated = True
    scales_reward = True

    def __init__(self, seen: Seen, space: ActionSpace, config: DiscriminatorConfig, gamma: float = 1.0) -> None:
        super().__init__()
        self.space, self.config, self.gamma = space, config, gamma
        self.needs_log_prob = config.structure == "airl"
        self.needs_next_state = self.needs_log_prob or config.inputs == "state_next_state"
        self.loss = discriminator_loss(config)
        sizes, norm, split = config.network, not config.spectral_norm, config.structure == "split"
        self.encoder = make_encoder(seen, sizes, config.dropout, norm, partners=not split)
        visible = torch.ones(width(seen))
        if not isinstance(seen, int):
            visible[list(seen.hidden_from_discriminator)] = 0.0
            if split:  # the ego's rays and danger numbers show neighbours together
                visible[list(seen.nothing(boxes=True, edges=False))] = 0.0
        self.register_buffer("visible", visible)
        self.register_buffer("action_mean", torch.zeros(space.components))
        self.register_buffer("action_std", torch.ones(space.components))
        self.register_buffer("beta", torch.tensor(config.vail_beta))
        states = 2 if config.inputs == "state_next_state" else 1
        extra = int(config.absorbing)
        if config.inputs == "state_action":
            extra += sum(space.sizes) if space.discrete else space.components
        h = sizes.hidden
        self.body = mlp([states * h + extra] + [h] * (sizes.layers - 1), config.dropout, norm)
        last = h if sizes.layers > 1 else states * h + extra
        self.z_mu = nn.Linear(last, config.vail_z) if config.use_vail else None
        if self.z_mu is not None:  # ML-Agents' beginning: little information
            nn.init.kaiming_normal_(self.z_mu.weight, nonlinearity="linear").data.mul_(0.1)
            nn.init.zeros_(self.z_mu.bias)
            self.z_sigma = nn.Parameter(torch.ones(config.vail_z))
        self.estimator = nn.Linear(config.vail_z if config.use_vail else last, 1)
        self.neighbours = self.potential = None
        if split:
            assert not isinstance(seen, int)
            ego, partner = len(seen.ego_fields), len(seen.partner_fields)
            self.neighbours = NeighbourHead(states * ego + extra, partner, sizes.entity_hidden, config.dropout)
        if config.structure == "airl":
            self.potential = nn.Sequential(mlp([h] * sizes.layers, config.dropout, norm), nn.Linear(h, 1))
        if config.spectral_norm:
            for module in [m for m in self.modules() if isinstance(m, nn.Linear)]:
                parametrizations.spectral_norm(module)

    def fit_normaliser(self, expert: Transitions) -> None:
        """Fit the input statistics on expert samples, unless the configuration says that there are none."""
        if not self.config.normalise:
            return
        self.encoder.fit_normaliser(expert.observation * self.visible)
        if not self.space.discrete:
            self.action_mean.copy_(expert.action.mean(dim=0))
            self.action_std.copy_(expert.action.std(dim=0).clamp(min=1e-3))

    def observe_experts(self, expert: Transitions) -> None:
        """Nothing: statistics that follow their input would change what a reward means."""

    def make_optimiser(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.parameters())

    def rates(self, config: DiscriminatorConfig) -> dict[str, Any]:
        """Learning rate, weight decay and momentum."""
        betas = (config.momentum, 0.999)
        return {"lr": config.learning_rate, "weight_decay": config.weight_decay, "betas": betas}

    def reward(self, estimate: Tensor, form: Callable[[Tensor], Tensor]) -> Tensor:
        """[B] logits [B] in the form that is asked for."""
        return form(estimate)

    def flatten_actions(self, actions: Tensor) -> Tensor:
        """Actions [B, K] as network input: one-hot per grid component, or standardised values."""
        if not self.space.discrete:
            return (actions - self.action_mean) / self.action_std
        return one_hot(actions, self.space.sizes).to(self.action_mean.dtype)

    def inputs(self, batch: Transitions) -> dict[str, Tensor]:
        """What the network looks at, each [B, ...] of floats, by name.

        Raises:
            ValueError: when the samples lack something.
        """
        found = {"observation": batch.observation * self.visible}
        if self.config.inputs == "state_action":
            found["action"] = self.flatten_actions(batch.action)
        if self.needs_next_state:
            if batch.next_observation is None:
                raise ValueError("this discriminator sees the next observation; give samples that have it")
            found["next_observation"] = batch.next_observation * self.visible
        if self.config.absorbing:
            first = found["observation"][:, :1]
            away = torch.zeros_like(first) if batch.absorbing is None else batch.absorbing[:, None].to(first)
            found = {name: x * (1 - away) for name, x in found.items()} | {"absorbing": away}
        return found

    def logits(self, inputs: dict[str, Tensor], noise: bool = False) -> tuple[Tensor, Tensor | None]:
        """f [B] of :meth:`inputs`, and the means [B, Z] of the bottleneck, if there is one, whose codes have noise."""
        state = self.encoder(inputs["observation"])
        following = self.encoder(inputs["next_observation"]) if "next_observation" in inputs else None
        extra = [inputs[name] for name in ("action", "absorbing") if name in inputs]
        states = [state, following] if self.config.inputs == "state_next_state" else [state]
        hidden, mu = self.body(torch.cat([*states, *extra], dim=1)), None
        if self.z_mu is not None:
            mu = self.z_mu(hidden)
            hidden = mu + self.z_sigma * torch.randn_like(mu) if noise else mu
        f = self.estimator(hidden).squeeze(-1)
        if self.neighbours is not None:
            f = f + self.config.neighbour_weight * self._neighbours(inputs, extra)
        if self.potential is not None:
            f = f + self.gamma * self.potential(following).squeeze(-1) - self.potential(state).squeeze(-1)
        return f, mu

    def _neighbours(self, inputs: dict[str, Tensor], extra: list[Tensor]) -> Tensor:
        """[B] of the ego-neighbour head."""
        assert self.neighbours is not None
        assert isinstance(self.encoder, EntityEncoder)
        layout = self.encoder.observation
        n_ego, n_partners, *_ = self.encoder.normalisers
        ego, partners, roads, lights = layout.split(inputs["observation"])
        there = layout.present(partners, roads, lights)[0]
        weight = nearness(layout, partners, there, self.config.neighbour_range)
        own = [n_ego(ego)]
        if self.config.inputs == "state_next_state":
            own.append(n_ego(layout.split(inputs["next_observation"])[0]))
        return self.neighbours(torch.cat([*own, *extra], dim=1), n_partners(partners), weight)  # type: ignore[no-any-return]

    def compute_estimate(self, batch: Transitions, use_vail_noise: bool = False) -> Tensor:
        """[B] logits: what is above zero looks like an expert."""
        return self._less_log_prob(self.logits(self.inputs(batch), use_vail_noise)[0], batch)

    def score(self, policy_batch: Transitions, expert_batch: Transitions) -> tuple[Scored, Scored]:
        """Both sides with their logits, out of one pass through the network."""
        expert, policy = self.inputs(expert_batch), self.inputs(policy_batch)
        both, mu = self.logits({name: torch.cat([expert[name], policy[name]]) for name in expert}, noise=True)
        sizes = [len(expert_batch), len(policy_batch)]
        f_expert, f_policy = both.split(sizes)
        mu_expert, mu_policy = (None, None) if mu is None else mu.split(sizes)
        return (
            Scored(policy_batch, self._less_log_prob(f_policy, policy_batch), mu_policy),
            Scored(expert_batch, self._less_log_prob(f_expert, expert_batch), mu_expert),
        )

    def information(self, policy: Scored, expert: Scored) -> Tensor:
        """:func:`vail_kl` of both sides as one batch."""
        assert policy.mu is not None
        assert expert.mu is not None
        return vail_kl(torch.cat([expert.mu, policy.mu]), self.z_sigma)

    def compute_gradient_magnitude(self, policy_batch: Transitions, expert_batch: Transitions) -> Tensor:
        """:func:`gradient_penalty` of f at random points between as many samples of policy and expert."""
        mixed = interpolated(self.inputs(policy_batch), self.inputs(expert_batch))
        return gradient_penalty(self.logits(mixed, noise=True)[0], list(mixed.values()))

    def next_beta(self, kl: Tensor) -> Tensor:
        """[] by the settings of the bottleneck."""
        return next_beta(self.beta, kl, self.config.vail_target_kl, self.config.vail_beta_step)

    def _less_log_prob(self, f: Tensor, batch: Transitions) -> Tensor:
        """The logit that goes with f."""
        if not self.needs_log_prob:
            return f
        if batch.log_prob is None:
            raise ValueError("structure airl needs the log-probability of actions; give samples that have it")
        return f - batch.log_prob
