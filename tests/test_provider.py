import io
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning import provider as module
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.networks.discriminator import DiscriminatorNetwork
from gail_cli.gail.networks.factory import make_discriminator
from gail_cli.gail.networks.losses import adversarial_loss
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

LAYOUT = ObservationConfig(partners=2, road_segments=2, near=False, rays=False, danger=False, route=False)
SPACE = ActionSpace.create("classic")
SMALL = {"network": {"entity_hidden": 4, "hidden": 8}, "max_accuracy": 1.0}


def samples(count=40, seed=0, speed=0.0):
    generator = torch.Generator().manual_seed(seed)
    observation = torch.rand(count, LAYOUT.size, generator=generator)
    observation[:, 0] += speed
    action = torch.stack([torch.randint(n, (count,), generator=generator) for n in SPACE.sizes], dim=1)
    return Transitions(observation, action)


def provider(reward=None, demos=None, mlagents=False, **settings):
    torch.manual_seed(0)
    extra = {"compat": "mlagents"} if mlagents else {}
    given = {"discriminator": {**SMALL, **extra, **settings}, "reward": reward or {}}
    return made_of(config_from_dict(given), demos or (lambda n: samples(n, 1, speed=1.0)))


def made_of(config, demos):
    network = make_discriminator(config.discriminator, LAYOUT, SPACE, config.ppo.gamma)
    return GAILRewardProvider(network, config.discriminator, config.reward, demos)


def weights(made):
    return torch.cat([x.detach().flatten() for x in made.network.parameters()])


def test_a_reward_is_the_clipped_logit_in_its_form():
    """Without dropout and noise, and with no gradient."""
    made = provider({"form": "gail", "clip": 0.1}, dropout=0.5, use_vail=True)
    torch.nn.init.normal_(made.network.z_mu.weight)
    made.network.estimator.bias.data -= made.estimate(samples()).mean()
    f = made.network.eval().compute_estimate(samples()).detach()
    assert f.min() < -0.1
    assert f.max() > 0.1
    made.network.train()
    found = made.evaluate(samples())
    torch.testing.assert_close(found, functional.softplus(f.clamp(-0.1, 0.1)))
    assert not found.requires_grad
    made = provider()
    torch.testing.assert_close(made.evaluate(samples()), made.network.compute_estimate(samples()).detach())


@pytest.mark.parametrize("mlagents", [False, True])
def test_many_samples_are_judged_in_parts(mlagents, monkeypatch):
    made = provider(mlagents=mlagents)
    whole = made.evaluate(samples(50))
    monkeypatch.setattr(module, "_CHUNK", 7)
    torch.testing.assert_close(made.evaluate(samples(50)), whole)


def test_rows_are_picked_of_all_that_is_there():
    batch = Transitions(torch.arange(3.0)[:, None], torch.arange(3)[:, None], done=torch.tensor([True, False, False]))
    found = batch.take(torch.tensor([2, 0]))
    assert found.observation.tolist() == [[2.0], [0.0]]
    assert found.action.tolist() == [[2], [0]]
    assert found.done.tolist() == [False, True]
    assert found.log_prob is None


def test_an_update_is_one_step_against_as_many_demos():
    """Of AdamW with its first moments at 0.5, calculated with a copy of the network."""
    asked = []

    def demos(count):
        asked.append(count)
        return samples(count, 1, speed=1.0)

    made = provider(demos=demos, dropout=0.0, weight_decay=0.01, learning_rate=0.003)
    copy = DiscriminatorNetwork(LAYOUT, SPACE, made.network.config)
    copy.load_state_dict(made.network.state_dict())
    optimiser = torch.optim.AdamW(copy.parameters(), lr=0.003, betas=(0.5, 0.999), weight_decay=0.01)
    for seed in range(3):
        expert, policy = samples(40, 1, speed=1.0), samples(40, seed)
        loss = adversarial_loss(copy.compute_estimate(expert), copy.compute_estimate(policy))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        told = made.update(policy)
        assert told["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert told["updates"] == 1
        torch.testing.assert_close(dict(made.network.named_parameters()), dict(copy.named_parameters()))
    assert asked == [40] * 3
    assert told.keys() == {
        "loss", "expert_accuracy", "policy_accuracy", "expert_estimate", "policy_estimate", "updates"
    }  # fmt: skip


def test_it_learns_with_dropout_after_paying_without():
    losses = set()
    for seed in range(2):
        made = provider(dropout=0.5)
        made.evaluate(samples())
        torch.manual_seed(seed)
        losses.add(made.update(samples())["loss"])
    assert len(losses) == 2


def test_weight_decay_shrinks_what_the_step_leaves():
    """After one step alike, all weights differ by learning rate x decay x weight."""
    plain, decayed = provider(weight_decay=0.0, dropout=0.0), provider(weight_decay=0.5, dropout=0.0)
    before = weights(plain)
    for made in (plain, decayed):
        made.update(samples())
    torch.testing.assert_close(weights(plain) - weights(decayed), 1e-3 * 0.5 * before, rtol=1e-3, atol=1e-7)


def test_momentum_is_that_of_the_optimiser():
    """The first step of Adam knows none, the second one does."""
    slow, quick = provider(momentum=0.9, dropout=0.0), provider(momentum=0.0, dropout=0.0)
    for same in (True, False):
        for made in (slow, quick):
            made.update(samples())
        assert torch.allclose(weights(slow), weights(quick), atol=1e-6) == same


def test_the_gate_is_shut_above_an_accuracy():
    """At an accuracy of 1, a network may go on only if that is allowed."""
    made = provider(learning_rate=0.03, dropout=0.0)
    while (told := made.update(samples()))["expert_accuracy"] + told["policy_accuracy"] < 2:
        assert told["updates"] == 1
    before = weights(made)
    assert made.update(samples())["updates"] == 1
    assert (weights(made) != before).any()
    shut = config_from_dict({"discriminator": {**SMALL, "max_accuracy": 0.99}})
    made.set_rates(shut.discriminator, shut.reward)
    before, state = weights(made), made.optimiser.state_dict()["state"][0]["step"].item()
    told = made.update(samples())
    assert (told["updates"], told["expert_accuracy"]) == (0, 1)
    assert (weights(made) == before).all()
    assert made.optimiser.state_dict()["state"][0]["step"].item() == state


def test_the_gate_holds_beta_too():
    """But it does not stop ML-Agents' network, which has none."""
    made = provider(use_vail=True, vail_beta=0.2, max_accuracy=0.0, vail_beta_step=1.0)
    told = made.update(samples())
    assert (told["updates"], told["beta"]) == (0, pytest.approx(0.2))
    assert made.network.beta.item() == pytest.approx(0.2)
    compat = provider(mlagents=True, max_accuracy=0.0)
    before = weights(compat)
    assert compat.update(samples())["updates"] == 1
    assert (weights(compat) != before).any()


def test_beta_follows_the_information():
    """Each update adds alpha (KL - I_c), and tells beta as it is afterwards."""
    made = provider(use_vail=True, vail_z=4, vail_beta=0.2, vail_beta_step=0.01, vail_target_kl=0.1)
    torch.nn.init.normal_(made.network.z_mu.weight)
    beta = 0.2
    for seed in range(3):
        told = made.update(samples(seed=seed))
        beta = max(0.0, beta + 0.01 * (told["kl"] - 0.1))
        assert told["beta"] == pytest.approx(beta)
    assert beta > 0.21


def test_the_penalty_is_told():
    told = provider(gradient_penalty=2.0).update(samples())
    assert told["gradient_penalty"] > 0


@pytest.mark.parametrize("settings", [{}, {"structure": "split"}, {"use_vail": True}, {"mlagents": True}])
def test_it_learns_to_pay_experts_better(settings):
    if settings.get("mlagents"):
        torch.manual_seed(0)
        given = {"compat": "mlagents", "mlagents": {"learning_rate": 0.01}}
        made = made_of(config_from_dict({"discriminator": given}), lambda n: samples(n, 1, speed=1.0))
    else:
        made = provider(learning_rate=0.01, **settings)
    before = made.evaluate(samples(seed=7, speed=1.0)).mean() - made.evaluate(samples(seed=8)).mean()
    first = made.update(samples())
    for seed in range(120):  # with 60, the loss of a noisy minibatch may still be as high as 0.74 of the first
        last = made.update(samples(seed=seed))
    assert last["loss"] < 0.7 * first["loss"]
    assert last["expert_estimate"] > last["policy_estimate"]
    after = made.evaluate(samples(seed=7, speed=1.0)).mean() - made.evaluate(samples(seed=8)).mean()
    assert after > before + 0.5


@pytest.mark.parametrize("settings", [{}, {"use_vail": True}, {"spectral_norm": True}, {"mlagents": True}])
def test_it_goes_on_from_its_state_as_if_never_stopped(settings):
    """Over a saved and loaded file, into a provider that began elsewhere."""
    one, other = provider(**settings), provider(**settings)
    for seed in range(3):
        one.update(samples(seed=seed))
        other.update(samples(seed=seed + 50))
    file = io.BytesIO()
    torch.save(one.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for made in (one, other):
        torch.manual_seed(4)
        made.update(samples(seed=9))
    torch.testing.assert_close(one.network.state_dict(), other.network.state_dict(), rtol=0, atol=0)


def test_rates_of_a_configuration_go_over_those_of_a_state():
    one, other = provider(learning_rate=0.1), provider(learning_rate=0.2)
    config = config_from_dict({"discriminator": {**SMALL, "learning_rate": 0.2}, "reward": {"form": "bounded"}})
    other.load_state_dict(one.state_dict())
    assert other.optimiser.param_groups[0]["lr"] == 0.1
    other.set_rates(config.discriminator, config.reward)
    assert other.optimiser.param_groups[0]["lr"] == 0.2
    assert other.evaluate(samples()).abs().max() < 0.5


def test_its_modules_are_named_as_in_ml_agents():
    made = provider()
    assert made.get_modules() == {"Module:GAIL": made.network}


def test_each_network_answers_for_itself():
    """ML-Agents' estimates are probabilities, its gate is never shut, its reward is not scaled and has one form."""
    plain, compat = provider({"form": "bounded"}), provider({"form": "bounded"}, mlagents=True)
    assert [made.network.boundary for made in (plain, compat)] == [0.0, 0.5]
    assert [made.network.gated for made in (plain, compat)] == [True, False]
    assert [made.network.scales_reward for made in (plain, compat)] == [True, False]
    rows = samples()
    torch.testing.assert_close(plain.evaluate(rows), plain.estimate(rows).sigmoid() - 0.5)
    torch.testing.assert_close(compat.evaluate(rows), -torch.log(1 - compat.estimate(rows)))
    assert [type(made.optimiser) for made in (plain, compat)] == [torch.optim.AdamW, torch.optim.Adam]


def test_airl_is_discounted_as_the_policy_is():
    config = config_from_dict({"discriminator": {**SMALL, "structure": "airl"}, "ppo": {"gamma": 0.5}})
    batch = replace(samples(), next_observation=samples(seed=3).observation, log_prob=torch.full((40,), -math.log(315)))
    made = made_of(config, lambda n: batch.take(torch.arange(n)))
    assert made.network.gamma == 0.5
    told = made.update(batch)
    assert told["expert_estimate"] > math.log(315) - 2
    assert made.network.needs_next_state
    assert made.network.needs_log_prob
    plain, compat = (
        make_discriminator(settings, LAYOUT, SPACE, 1.0)
        for settings in (config_from_dict({}).discriminator, replace(config.discriminator, compat="mlagents"))
    )
    assert not plain.needs_next_state
    assert not plain.needs_log_prob
    assert not compat.needs_next_state
    assert not compat.needs_log_prob
