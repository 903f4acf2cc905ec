import math
from dataclasses import replace

import pytest
import torch

from gail_cli.gail.config.schema import DiscriminatorConfig, NetworkConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.discriminator import DiscriminatorNetwork
from gail_cli.gail.networks.encoder import EntityEncoder, Normaliser
from gail_cli.gail.networks.losses import accuracies, adversarial_loss, gradient_penalty
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ROAD_TYPES, ObservationConfig

SIZES = NetworkConfig(entity_hidden=8, hidden=16)
LAYOUTS = [ObservationConfig(layout, partners=5, road_segments=7) for layout in ("entity", "gpudrive")]
COLLIDED = 5
CLASSIC = ActionSpace.create("classic")
layouts = pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.layout)


def observations(layout, count=6, seed=0):
    """Random ones, in which the last two partners, segments and lights are absent."""
    flat = torch.randn(count, layout.size, generator=torch.Generator().manual_seed(seed))
    _, partners, roads, lights = layout.split(flat)
    lights[..., 4:] = 0.0
    lights[:, :-2, 4:5] = 1.0
    partners.abs_()
    partners[:, -2:] = 0.0
    roads[..., -ROAD_TYPES:] = 0.0
    roads[:, :-2, 1 - ROAD_TYPES] = 1.0
    roads[:, -2:] = 0.0
    roads[:, -2:, -ROAD_TYPES] = 1.0
    return flat


def actions(space=CLASSIC, count=6):
    if space.discrete:
        return torch.stack([torch.arange(count) % n for n in space.sizes], dim=1)
    return torch.linspace(-1, 1, count)[:, None].expand(-1, space.components)


def discriminator(layout=LAYOUTS[0], space=CLASSIC, **settings):
    torch.manual_seed(0)
    return DiscriminatorNetwork(layout, space, DiscriminatorConfig(network=SIZES, **settings)).eval()


def judge(model, observation, action):
    return model.compute_estimate(Transitions(observation, action))


# Losses


def sigmoid(f):
    return 1 / (1 + math.exp(-f))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_adversarial_loss_by_hand(smoothing):
    """The cross-entropy -y ln D - (1 - y) ln(1 - D), averaged over samples of a side, then over both sides."""

    def entropy(f, label):
        return -label * math.log(sigmoid(f)) - (1 - label) * math.log(1 - sigmoid(f))

    expert, policy = [2.0, -1.0], [0.5, -3.0, 1.0]
    real = sum(entropy(f, 1 - smoothing) for f in expert) / 2
    fake = sum(entropy(f, smoothing) for f in policy) / 3
    found = adversarial_loss(torch.tensor(expert), torch.tensor(policy), smoothing)
    assert found.item() == pytest.approx((real + fake) / 2)


def test_adversarial_loss_of_a_discriminator_that_knows_nothing():
    assert adversarial_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(math.log(2))


def test_gradient_penalty_is_of_all_inputs_together():
    """f = 3 x0 + 4 x1 + 12 y has the gradient norm 13 in all; of x alone it were 5."""
    x, y = torch.randn(4, 2, requires_grad=True), torch.randn(4, 1, requires_grad=True)
    f = x @ torch.tensor([3.0, 4.0]) + 12 * y[:, 0]
    assert gradient_penalty(f, [x, y]).item() == pytest.approx(144)
    assert gradient_penalty(x @ torch.tensor([3.0, 4.0]), [x]).item() == pytest.approx(16)


def test_gradient_penalty_is_a_mean_over_samples_of_squares():
    """f = x^2 / 2 has the gradient x: norms 0, 1, 3 miss 1 by 1, 0, 2. Inputs may have any shape."""
    x = torch.tensor([0.0, 1.0, -3.0]).view(3, 1, 1).requires_grad_()
    assert gradient_penalty((x**2 / 2).sum(dim=(1, 2)), [x]).item() == pytest.approx((1 + 0 + 4) / 3, rel=1e-5)


def test_gradient_penalty_can_be_learned_from():
    slope, x = torch.tensor(3.0, requires_grad=True), torch.ones(2, 1, requires_grad=True)
    gradient_penalty(slope * x[:, 0], [x]).backward()
    assert slope.grad.item() == pytest.approx(4)  # d (s - 1)^2 / ds = 2 (s - 1)


def test_accuracies_by_hand():
    """A logit of zero is no claim for the expert."""
    found = accuracies(torch.tensor([1.0, -1.0, 2.0, 0.0]), torch.tensor([-1.0, 0.0, 3.0, -2.0, 1.0]))
    assert [share.item() for share in found] == [0.5, pytest.approx(0.6)]


def test_the_loss_is_its_parts_together():
    space, layout = CLASSIC, LAYOUTS[0]
    model = discriminator(layout, space, label_smoothing=0.1, gradient_penalty=2.0)
    expert, policy = (Transitions(observations(layout, seed=seed), actions(space)) for seed in (1, 2))
    loss, stats = model.compute_loss(policy, expert)
    f = {side: model.compute_estimate(batch) for side, batch in (("expert", expert), ("policy", policy))}
    shares = accuracies(f["expert"], f["policy"])
    for k, (side, logits) in enumerate(f.items()):
        assert stats[f"{side}_estimate"].item() == pytest.approx(logits.mean().item(), rel=1e-5)
        assert stats[f"{side}_accuracy"] == shares[k]
    assert stats["loss"].item() == pytest.approx(adversarial_loss(f["expert"], f["policy"], 0.1).item())
    assert loss.item() == pytest.approx((stats["loss"] + 2 * stats["gradient_penalty"]).item())
    assert not any(value.requires_grad for value in stats.values())


def test_the_penalty_is_taken_between_expert_and_policy():
    """At the very samples where both sides are the same, wherever the mixing weights fall."""
    model, layout = discriminator(gradient_penalty=1.0), LAYOUTS[0]
    same = Transitions(observations(layout), actions())
    observation, action = same.observation.requires_grad_(), model.flatten_actions(same.action).requires_grad_()
    inputs = {"observation": observation, "action": action}
    expected = gradient_penalty(model.logits(inputs)[0], [observation, action])
    _, stats = model.compute_loss(same, Transitions(observation.detach(), same.action))
    assert stats["gradient_penalty"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("inputs", ["state", "state_action"])
def test_without_a_penalty_none_is_computed(inputs):
    samples = Transitions(observations(LAYOUTS[0]), actions())
    for weight in (0.0, 1.0):
        _, stats = discriminator(inputs=inputs, gradient_penalty=weight).compute_loss(samples, samples)
        assert ("gradient_penalty" in stats) == (weight > 0)


# What the discriminator sees


def test_it_never_sees_the_collided_flag():
    layout = LAYOUTS[1]
    assert layout.ego_fields[COLLIDED] == "collided"
    clean, flagged, faster = observations(layout), observations(layout), observations(layout)
    clean[:, COLLIDED], flagged[:, COLLIDED] = 0.0, 1.0
    faster[:, 0] += 0.1
    model = discriminator(layout)
    torch.testing.assert_close(judge(model, clean, actions()), judge(model, flagged, actions()), rtol=0, atol=0)
    assert (judge(model, clean, actions()) != judge(model, faster, actions())).all()
    fitted_clean, fitted_flagged = discriminator(layout), discriminator(layout)
    half_flagged = torch.where(torch.arange(6)[:, None] % 2 == 0, clean, flagged)
    fitted_clean.fit_normaliser(Transitions(clean, actions()))
    fitted_flagged.fit_normaliser(Transitions(half_flagged, actions()))
    torch.testing.assert_close(fitted_clean.state_dict(), fitted_flagged.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("dynamics", ["classic", "delta_local"])
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("inputs", ["state", "state_action"])
def test_it_sees_actions_only_where_told(dynamics, kind, inputs):
    space = ActionSpace.create(dynamics, kind)
    model = discriminator(space=space, inputs=inputs)
    here = observations(LAYOUTS[0])
    for component in range(space.components):
        other = actions(space).clone()
        other[:, component] = other[:, component] + 1 if kind == "continuous" else (other[:, component] + 1) % 5
        changed = (judge(model, here, actions(space)) != judge(model, here, other)).all().item()
        assert changed == (inputs == "state_action")


def test_grid_actions_are_one_hot_by_component():
    space = replace(CLASSIC, grid=((-1.0, 0.0, 1.0), (0.0, 0.5)))
    flat = discriminator(space=space).flatten_actions(torch.tensor([[0, 1], [2, 0]], dtype=torch.int16))
    assert flat.tolist() == [[1, 0, 0, 0, 1], [0, 0, 1, 1, 0]]
    assert flat.dtype == torch.float32


def test_continuous_actions_are_standardised_by_the_experts():
    model = discriminator(space=ActionSpace.create("classic", "continuous"))
    expert = torch.tensor([[1.0, 0.1], [3.0, 0.1]])
    model.fit_normaliser(Transitions(observations(LAYOUTS[0], 2), expert))
    flat = model.flatten_actions(torch.tensor([[2.0, 0.1], [2.0 + math.sqrt(2), 0.101]]))
    torch.testing.assert_close(flat, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), rtol=0, atol=1e-5)


# The encoder and its normaliser


def test_normaliser_by_hand():
    """Means 2 and 5; deviations sqrt(2) and none, which is left alone. Five deviations are the most."""
    normaliser = Normaliser(2)
    normaliser.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    found = normaliser(torch.tensor([[2.0, 5.0], [2 + math.sqrt(2), 6.0], [1000.0, -1000.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [1.0, 1.0], [5.0, -5.0]]))


def test_normalisers_are_inside_and_in_the_checkpoint():
    """Another network that takes over the state judges alike, and training moves no statistic."""
    space = ActionSpace.create("classic", "continuous")
    model, copy = discriminator(space=space), discriminator(space=space)
    samples = Transitions(observations(LAYOUTS[0]), actions(space))
    unfitted = judge(model, samples.observation, samples.action)
    model.fit_normaliser(Transitions(samples.observation * 3 + 1, samples.action * 2))
    fitted = judge(model, samples.observation, samples.action)
    assert (unfitted != fitted).all()
    copy.load_state_dict(model.state_dict())
    torch.testing.assert_close(judge(copy, samples.observation, samples.action), fitted, rtol=0, atol=0)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    judge(model.train(), samples.observation, samples.action)
    torch.testing.assert_close(dict(model.named_buffers()), before, rtol=0, atol=0)
    assert any(name.endswith("mean") for name in before)


@layouts
def test_normalisers_are_fitted_on_present_entities_only(layout):
    encoder, flat = EntityEncoder(layout, SIZES), observations(layout)
    encoder.fit_normaliser(flat)
    ego, *blocks = layout.split(flat)
    there = [block[:, :-2] for block in blocks if block.numel()]
    for normaliser, rows in zip(encoder.normalisers, (ego, *there), strict=True):
        torch.testing.assert_close(normaliser.mean, rows.flatten(0, -2).mean(dim=0))


@layouts
def test_the_order_of_entities_does_not_matter_and_absent_ones_do_not_exist(layout):
    torch.manual_seed(0)
    encoder, flat = EntityEncoder(layout, SIZES).eval(), observations(layout)
    encoder.fit_normaliser(flat)
    ego, partners, roads, lights = layout.split(flat)

    def encoded(partners, roads, lights=lights):
        return encoder(torch.cat([ego, partners.flatten(1), roads.flatten(1), lights.flatten(1)], dim=1))

    original = encoded(partners, roads)
    torch.testing.assert_close(encoded(partners.flip(1), roads[:, torch.randperm(7)], lights.flip(1)), original)
    (length,) = [column for column, name in enumerate(layout.partner_fields) if "length" in name]
    none_road = roads.shape[-1] - ROAD_TYPES
    junk_partners, junk_roads = partners.clone(), roads.clone()
    junk_partners[:, -2:] = 99.0
    junk_partners[:, -2:, length] = 0.0
    junk_roads[:, -2:, :none_road] = -99.0
    torch.testing.assert_close(encoded(junk_partners, junk_roads), original, rtol=0, atol=0)
    without_one = partners.clone()
    without_one[:, 0, length] = 0.0
    assert (encoded(without_one, roads) != original).any()
    if layout.lights:
        junk_lights, other_lights = lights.clone(), lights.clone()
        junk_lights[:, -2:, :4], other_lights[:, :-2, 4:] = 9.0, lights[:, :-2, 4:].flip(-1)
        torch.testing.assert_close(encoded(partners, roads, junk_lights), original, rtol=0, atol=0)
        assert (encoded(partners, roads, other_lights) != original).any()


def test_a_world_without_anyone_is_fine():
    layout = LAYOUTS[0]
    encoder, empty = EntityEncoder(layout, SIZES).eval(), observations(layout)
    _, partners, roads, lights = layout.split(empty)
    partners.zero_()
    lights.zero_()
    roads.zero_()[..., -ROAD_TYPES] = 1.0
    encoder.fit_normaliser(empty)
    assert encoder(empty).isfinite().all()
