"""What discriminators are trained with: small pure functions, and terms of a loss that are added.

A loss is composed from settings once, and holds no network; see :data:`gail.networks.base.Loss`. The pieces are those
of Acme's losses for adversarial imitation (Hoffman et al. 2020), and so is the way in which they are put together.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from gail_cli.gail.networks.base import Discriminator, Loss, Scored, Stats

# Functions


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
    """Points with gradients on the lines from policy to expert samples [B, ...], one random place per sample."""
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


def accuracies(expert: Tensor, policy: Tensor, boundary: float = 0.0) -> tuple[Tensor, Tensor]:
    """Shares of expert and of policy samples on the right side of the boundary, by their estimates [B].

    An estimate on the boundary itself is no claim for the expert.
    """
    return (expert > boundary).float().mean(), (policy <= boundary).float().mean()


# Terms


def added(*terms: Loss) -> Loss:
    """The sum of terms, computed and added in this order, with the statistics of all."""

    def loss(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        total, stats = terms[0](network, policy, expert)
        for term in terms[1:]:
            value, more = term(network, policy, expert)
            total, stats = total + value, stats | more
        return total, stats

    return loss


def cross_entropy_term(smoothing: float = 0.0) -> Loss:
    """:func:`adversarial_loss` of logits."""

    def term(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        loss = adversarial_loss(expert.estimate, policy.estimate, smoothing)
        return loss, {"loss": loss} | estimate_stats(network, policy, expert)

    return term


def bottleneck_term(target: float) -> Loss:
    """VAIL's beta (KL - I_c) at the present beta (Peng et al. 2019)."""

    def term(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        kl = network.information(policy, expert)
        return network.beta * (kl - target), {"kl": kl}

    return term


def penalty_term(weight: float) -> Loss:
    """The network's own gradient penalty between the samples, times a weight."""

    def term(network: Discriminator, policy: Scored, expert: Scored) -> tuple[Tensor, Stats]:
        penalty = network.compute_gradient_magnitude(policy.batch, expert.batch)
        return weight * penalty, {"gradient_penalty": penalty}

    return term


def estimate_stats(network: Discriminator, policy: Scored, expert: Scored) -> Stats:
    """How well estimates tell both sides apart, and their means."""
    expert_accuracy, policy_accuracy = accuracies(expert.estimate, policy.estimate, network.boundary)
    return {
        "expert_accuracy": expert_accuracy,
        "policy_accuracy": policy_accuracy,
        "expert_estimate": expert.estimate.mean(),
        "policy_estimate": policy.estimate.mean(),
    }
