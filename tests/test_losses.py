"""How the loss of a discriminator is put together; what its pieces are worth stands beside the networks' own tests."""

import math
from types import SimpleNamespace

import pytest
import torch

from gail_cli.gail.config.schema import DiscriminatorConfig, GAILSettings
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks import mlagents
from gail_cli.gail.networks.base import Scored
from gail_cli.gail.networks.discriminator import discriminator_loss
from gail_cli.gail.networks.losses import accuracies, added, bottleneck_term, cross_entropy_term, penalty_term

POLICY, EXPERT = (Transitions(torch.full((2, 1), x), torch.zeros(2, 1, dtype=torch.int64)) for x in (1.0, 2.0))


def network(**known):
    """All that a term may ask of one."""
    return SimpleNamespace(boundary=0.0, beta=torch.tensor(0.5), **known)


def scored(policy, expert):
    return Scored(POLICY, torch.tensor(policy)), Scored(EXPERT, torch.tensor(expert))


def test_terms_are_added_with_the_statistics_of_all():
    asked = []

    def term(name, value):
        return lambda *given: asked.append((name, given)) or (torch.tensor(value), {name: torch.tensor(value)})

    loss, stats = added(term("a", 1.0), term("b", 2.5), term("c", -0.25))("network", "policy", "expert")
    assert loss.item() == 3.25
    assert {name: value.item() for name, value in stats.items()} == {"a": 1.0, "b": 2.5, "c": -0.25}
    assert asked == [(name, ("network", "policy", "expert")) for name in "abc"]


def test_the_cross_entropy_tells_how_well_sides_are_told_apart():
    """Logits of ln 3 are probabilities of 3/4: both sides cost -ln(3/4), but for a policy sample, taken for an expert
    with a probability of 3/4, -ln(1/4)."""
    f = math.log(3)
    loss, stats = cross_entropy_term()(network(), *scored([-f, f], [f, f]))
    real, fake = -math.log(3 / 4), -(math.log(3 / 4) + math.log(1 / 4)) / 2
    assert loss.item() == pytest.approx((real + fake) / 2)
    assert {name: value.item() for name, value in stats.items()} == {
        "loss": pytest.approx(loss.item()),
        "expert_accuracy": 1.0,
        "policy_accuracy": 0.5,
        "expert_estimate": pytest.approx(f),
        "policy_estimate": pytest.approx(0.0),
    }
    smooth, _ = cross_entropy_term(0.25)(network(), *scored([-f, -f], [f, f]))
    assert smooth.item() == pytest.approx(-(3 / 4 * math.log(3 / 4) + 1 / 4 * math.log(1 / 4)))


def test_accuracies_are_by_the_boundary():
    found = accuracies(torch.tensor([0.6, 0.5, 0.9]), torch.tensor([0.4, 0.5, 0.7, 0.8]), 0.5)
    assert [share.item() for share in found] == [pytest.approx(2 / 3), 0.5]


def test_the_bottleneck_costs_its_present_price():
    """0.5 (3 - 0.2), and what the codes hold is asked of the network."""
    sides = scored([0.0], [0.0])
    kl = torch.tensor(3.0, requires_grad=True)
    loss, stats = bottleneck_term(0.2)(network(information=lambda *given: kl if given == sides else None), *sides)
    loss.backward()
    assert (loss.item(), stats["kl"].item(), kl.grad.item()) == (pytest.approx(1.4), 3.0, 0.5)


def test_the_bottleneck_of_ml_agents_has_the_value_of_one_price_and_the_slope_of_the_next():
    """0.5 (3 - 0.2), but 0.75 per nat."""
    kl = torch.tensor(3.0, requires_grad=True)
    asked = network(information=lambda *_: kl, next_beta=lambda kl: torch.tensor(0.75))
    loss, stats = mlagents.bottleneck_term(0.2)(asked, *scored([0.0], [0.0]))
    loss.backward()
    assert (loss.item(), stats["kl"].item(), kl.grad.item()) == (pytest.approx(1.4), 3.0, 0.75)


def test_the_penalty_is_of_the_samples_and_has_a_weight():
    asked = network(compute_gradient_magnitude=lambda policy, expert: (3 * policy.observation + expert.observation)[0])
    loss, stats = penalty_term(10.0)(asked, *scored([0.0], [0.0]))
    assert (loss.item(), stats["gradient_penalty"].item()) == (50.0, 5.0)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({}, set()),
        ({"use_vail": True}, {"kl"}),
        ({"gradient_penalty": 4.0}, {"gradient_penalty"}),
        ({"gradient_penalty": 4.0, "use_vail": True, "vail_target_kl": 1.0}, {"kl", "gradient_penalty"}),
    ],
)
def test_a_loss_has_the_terms_that_are_asked_for(settings, parts):
    """Beside a cross-entropy of ln 2: beta (KL - I_c), and the penalty by its weight."""
    asked = network(information=lambda *_: torch.tensor(3.0), compute_gradient_magnitude=lambda *_: torch.tensor(0.5))
    config = DiscriminatorConfig(**settings)
    loss, stats = discriminator_loss(config)(asked, *scored([0.0], [0.0]))
    kl = 0.5 * (3 - config.vail_target_kl) if "kl" in parts else 0.0
    assert loss.item() == pytest.approx(math.log(2) + kl + 0.5 * config.gradient_penalty)
    assert {"kl", "gradient_penalty"} & stats.keys() == parts


@pytest.mark.parametrize("use_vail", [False, True])
def test_ml_agents_always_has_its_penalty(use_vail):
    """Of ten times a half, beside twice ln 2, and with VAIL 0.5 (3 - 0.5)."""
    asked = network(
        information=lambda *_: torch.tensor(3.0),
        next_beta=lambda kl: torch.tensor(0.75),
        compute_gradient_magnitude=lambda *_: torch.tensor(0.5),
    )
    loss, stats = mlagents.discriminator_loss(GAILSettings(use_vail=use_vail))(asked, *scored([0.5], [0.5]))
    assert loss.item() == pytest.approx(2 * math.log(2) + 5 + use_vail * 1.25, abs=1e-6)
    assert ("kl" in stats) == use_vail
