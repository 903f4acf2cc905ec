"""The discriminator: a logit per sample, positive for "expert", and its losses as small pure functions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from gail_cli.gail.config.schema import DiscriminatorConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.policy import EntityEncoder, mlp
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig


def adversarial_loss(expert: Tensor, policy: Tensor, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy of logits, expert = 1, policy = 0 (Ho & Ermon 2016), averaged over both.

    Args:
        expert: [B] logits of expert samples.
        policy: [B] logits of policy samples.
        smoothing: labels become 1 - s and s.
    """
    real = functional.binary_cross_entropy_with_logits(expert, torch.full_like(expert, 1 - smoothing))
    fake = functional.binary_cross_entropy_with_logits(policy, torch.full_like(policy, smoothing))
    return (real + fake) / 2


def gradient_penalty(logits: Tensor, inputs: list[Tensor]) -> Tensor:
    """mean (|d logit / d inputs| - 1)^2, the norm over all inputs of a sample together (Gulrajani et al. 2017, eq. 3).

    Args:
        logits: [B], computed from the inputs with gradients.
        inputs: tensors [B, ...] that require gradients.
    """
    grads = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    squared = sum((g.flatten(1).square().sum(dim=1) for g in grads), torch.zeros_like(logits))
    return ((squared + 1e-12).sqrt() - 1).square().mean()


def interpolated(policy: dict[str, Tensor], expert: dict[str, Tensor]) -> dict[str, Tensor]:
    """Points with gradients on the lines from policy to expert samples [B, ...], one random place a sample."""
    first = next(iter(expert.values()))
    weight = torch.rand(len(first), 1, dtype=first.dtype, device=first.device)
    return {name: torch.lerp(policy[name], expert[name], weight).requires_grad_() for name in expert}


def vail_kl(mu: Tensor, sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)), the mean over samples mu [B, Z]; sigma [Z] (Peng et al. 2019, eq. 8)."""
    variance = sigma.square()
    return 0.5 * (mu.square() + variance - variance.log() - 1).sum(dim=1).mean()


def next_beta(beta: Tensor, kl: Tensor, target: float, step: float) -> Tensor:
    """max(0, beta + step (kl - target)): dual ascent on the price of information (Peng et al. 2019, eq. 10)."""
    return (beta + step * (kl - target)).clamp(min=0)


def accuracies(expert: Tensor, policy: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of expert and of policy samples that their logits [B] tell right; zero is no claim for the expert."""
    return (expert > 0).float().mean(), (policy <= 0).float().mean()


def nearness(observation: ObservationConfig, partners: Tensor, present: Tensor, scale: float) -> Tensor:
    """exp(-d / scale) of partners [B, P, F] at a distance d, m, centre to centre: [B, P]; zero of absent ones.

    Without gradients: how near somebody is decides how much a head counts, and is not itself judged that way.
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


class DiscriminatorNetwork(nn.Module):
    """Tells expert from policy. It never sees who is done, the collided flag, or any other bookkeeping.

    ``config.inputs`` says what it looks at: the state alone, the state and the action (one-hot a grid component), or
    the state and the next one, through the same encoder. ``config.structure`` says how its logit is made:

    * ``joint``: one network over everything.
    * ``split`` (DecompGAIL, 2510.06913): f = f_map + a sum w_i f_i / max(1, sum w_i), where f_map sees ego, road and
      action, and f_i sees ego, action and the i-th neighbour alone, with w_i = exp(-d_i / b). How neighbours stand to
      each other, which the ego cannot help, counts for nothing. (Of the next state, the pairs see the ego alone, as
      partners change places from step to step.)
    * ``airl`` (Fu et al. 2018, eq. 4): f = g + gamma h(s') - h(s), and the logit is f - log pi(a | s). h(s') is counted
      in the last step too, as it should be with a fixed horizon, where an end is a truncation.

    Args:
        observation: the layout of the input.
        space: the actions.
        config: sizes and inputs.
        gamma: of the ``airl`` structure: the discount that the policy is trained with.
    """

    visible: Tensor
    action_mean: Tensor
    action_std: Tensor
    beta: Tensor

    def __init__(
        self, observation: ObservationConfig, space: ActionSpace, config: DiscriminatorConfig, gamma: float = 1.0
    ) -> None:
        super().__init__()
        self.observation, self.space, self.config, self.gamma = observation, space, config, gamma
        sizes, norm, split = config.network, not config.spectral_norm, config.structure == "split"
        self.encoder = EntityEncoder(observation, sizes, config.dropout, norm, partners=not split)
        visible = torch.ones(observation.size)
        visible[list(observation.hidden_from_discriminator)] = 0.0
        self.register_buffer("visible", visible)
        self.register_buffer("action_mean", torch.zeros(space.components))
        self.register_buffer("action_std", torch.ones(space.components))
        self.register_buffer("beta", torch.tensor(config.vail_beta))
        states = 2 if config.inputs == "state_next_state" else 1
        extra = int(config.absorbing)
        if config.inputs == "state_action":
            extra += sum(space.sizes) if space.discrete else space.components
        h, ego = sizes.hidden, len(observation.ego_fields)
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
            partner = len(observation.partner_fields)
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

    def flatten_actions(self, actions: Tensor) -> Tensor:
        """Actions [B, K] as network input: one-hot a grid component, or standardised values."""
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
        if self.config.needs_next_state:
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
        n_ego, n_partners, _ = self.encoder.normalisers
        ego, partners, roads = self.observation.split(inputs["observation"])
        weight = nearness(
            self.observation, partners, self.observation.present(partners, roads)[0], self.config.neighbour_range
        )
        own = [n_ego(ego)]
        if self.config.inputs == "state_next_state":
            own.append(n_ego(self.observation.split(inputs["next_observation"])[0]))
        return self.neighbours(torch.cat([*own, *extra], dim=1), n_partners(partners), weight)  # type: ignore[no-any-return]

    def compute_estimate(self, batch: Transitions, use_vail_noise: bool = False) -> Tensor:
        """[B] logits: what is above zero looks like an expert."""
        return self._less_log_prob(self.logits(self.inputs(batch), use_vail_noise)[0], batch)

    def forward(self, batch: Transitions) -> Tensor:
        """:meth:`compute_estimate` without noise."""
        return self.compute_estimate(batch)

    def compute_loss(self, policy_batch: Transitions, expert_batch: Transitions) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of one update and its parts, detached, with accuracies and mean logits of both sides.

        It changes nothing: the bottleneck's price is raised by :meth:`update_beta`, after the step.
        """
        config = self.config
        expert, policy = self.inputs(expert_batch), self.inputs(policy_batch)
        both, mu = self.logits({name: torch.cat([expert[name], policy[name]]) for name in expert}, noise=True)
        f_expert, f_policy = both.split([len(expert_batch.action), len(policy_batch.action)])
        f_expert, f_policy = self._less_log_prob(f_expert, expert_batch), self._less_log_prob(f_policy, policy_batch)
        loss = adversarial_loss(f_expert, f_policy, config.label_smoothing)
        expert_accuracy, policy_accuracy = accuracies(f_expert, f_policy)
        stats = {
            "loss": loss,
            "expert_accuracy": expert_accuracy,
            "policy_accuracy": policy_accuracy,
            "expert_estimate": f_expert.mean(),
            "policy_estimate": f_policy.mean(),
        }
        if mu is not None:
            stats["kl"] = vail_kl(mu, self.z_sigma)
            loss = loss + self.beta * (stats["kl"] - config.vail_target_kl)
        if config.gradient_penalty > 0:
            stats["gradient_penalty"] = self.compute_gradient_magnitude(policy_batch, expert_batch)
            loss = loss + config.gradient_penalty * stats["gradient_penalty"]
        return loss, {name: value.detach() for name, value in stats.items()}

    def compute_gradient_magnitude(self, policy_batch: Transitions, expert_batch: Transitions) -> Tensor:
        """:func:`gradient_penalty` of f at random points between as many samples of policy and expert."""
        mixed = interpolated(self.inputs(policy_batch), self.inputs(expert_batch))
        return gradient_penalty(self.logits(mixed, noise=True)[0], list(mixed.values()))

    def update_beta(self, kl: Tensor) -> None:
        """After a step: make information dearer if more passed than was to, and cheaper otherwise."""
        self.beta.copy_(next_beta(self.beta, kl, self.config.vail_target_kl, self.config.vail_beta_step))

    def _less_log_prob(self, f: Tensor, batch: Transitions) -> Tensor:
        """The logit that goes with f."""
        if not self.config.needs_log_prob:
            return f
        if batch.log_prob is None:
            raise ValueError("structure airl needs the log-probability of actions; give samples that have it")
        return f - batch.log_prob


def one_hot(actions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Indices [B, K] into grids of these sizes as [B, sum of sizes] int64, one-hot each."""
    return torch.cat([functional.one_hot(actions[:, k].long(), n) for k, n in enumerate(sizes)], dim=1)
