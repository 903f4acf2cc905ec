import math

import pytest
import torch
from scenes import car, scene

from gail_cli.gail.config.schema import NetworkConfig, PolicyConfig
from gail_cli.gail.networks.encoder import EntityEncoder, mlp
from gail_cli.gail.networks.policy import Critic, Policy
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ROAD_TYPES, ObservationConfig
from gail_cli.sim.worlds import make_worlds

LAYOUT = ObservationConfig(partners=3, road_segments=4)
SIZES = PolicyConfig(entity_hidden=8, hidden=16)
DISCRETE, CONTINUOUS = (ActionSpace.create("classic", kind) for kind in ("discrete", "continuous"))


def policy(space, layout=LAYOUT, decided=True):
    """A policy whose opinions are strong, unlike those of a fresh one."""
    torch.manual_seed(0)
    made = Policy(layout, space, SIZES).eval()
    if decided:
        torch.nn.init.normal_(made.actor.head.weight)
    return made


def observations(count=50, layout=LAYOUT):
    return torch.randn(count, layout.size, generator=torch.Generator().manual_seed(1))


def outputs(model, flat):
    """What the head puts out, before anything is made of it."""
    return model.actor.head(model.actor.body(model.actor.trunk(model.encoder(flat))))


def test_grid_actions_have_the_probabilities_of_a_softmax():
    model, flat = policy(DISCRETE), observations()
    action = torch.stack([torch.arange(50) % n for n in DISCRETE.sizes], dim=1)
    log_prob, entropy = model.evaluate(flat, action)
    expected, mixed = torch.zeros(50), torch.zeros(50)
    for k, x in enumerate(outputs(model, flat).split(DISCRETE.sizes, dim=1)):
        p = x.exp() / x.exp().sum(dim=1, keepdim=True)
        expected += p.gather(1, action[:, k : k + 1]).squeeze(1).log()
        mixed -= (p * p.log()).sum(dim=1)
    torch.testing.assert_close(log_prob, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, mixed, rtol=1e-4, atol=1e-5)


def test_continuous_actions_have_the_density_of_a_gaussian():
    """In units of the experts' actions, whose mean and deviation the policy is given."""
    model, flat = policy(CONTINUOUS), observations()
    expert = torch.tensor([[1.0, 0.1], [3.0, 0.5]])
    model.fit_normaliser(flat[:2], expert)
    with torch.no_grad():
        model.actor.log_std.copy_(torch.tensor([-0.5, 0.3]))
    action = torch.randn(50, 2)
    log_prob, entropy = model.evaluate(flat, action)
    mean = torch.tensor([2.0, 0.3]) + torch.tensor([math.sqrt(2), 0.2 * math.sqrt(2)]) * outputs(model, flat)
    std = torch.tensor([math.sqrt(2) * math.exp(-0.5), 0.2 * math.sqrt(2) * math.exp(0.3)])
    density = -((action - mean) ** 2) / (2 * std**2) - std.log() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(log_prob, density.sum(dim=1), rtol=1e-4, atol=1e-4)
    mixed = (std.log() + (1 + math.log(2 * math.pi)) / 2).sum()
    torch.testing.assert_close(entropy, mixed.expand(50), rtol=1e-5, atol=1e-5)


def test_the_most_likely_action_is_the_mode():
    model, flat = policy(DISCRETE), observations()
    mode = torch.stack([x.argmax(dim=1) for x in outputs(model, flat).split(DISCRETE.sizes, dim=1)], dim=1)
    assert torch.equal(model.act(flat, deterministic=True)[0], mode)
    model = policy(CONTINUOUS)
    torch.testing.assert_close(model.act(flat, deterministic=True)[0], outputs(model, flat))


def test_drawn_actions_follow_the_distribution():
    """Frequencies of 20,000 draws lie within five standard errors."""
    model, draws = policy(DISCRETE), 20_000
    one = observations(1)
    action, _ = model.act(one.expand(draws, -1))
    for k, x in enumerate(outputs(model, one)[0].split(DISCRETE.sizes)):
        p = x.softmax(dim=0)
        found = action[:, k].bincount(minlength=len(p)) / draws
        assert ((found - p).abs() <= 5 * (p * (1 - p) / draws).sqrt() + 1e-9).all()
    model = policy(CONTINUOUS)
    action, _ = model.act(one.expand(draws, -1))
    std = math.exp(-1)
    torch.testing.assert_close(action.mean(dim=0), outputs(model, one)[0], rtol=0, atol=5 * std / math.sqrt(draws))
    torch.testing.assert_close(action.std(dim=0), torch.full((2,), std), rtol=0.03, atol=0)


@pytest.mark.parametrize("layout", [LAYOUT, ObservationConfig.gpudrive()], ids=["entity", "gpudrive"])
@pytest.mark.parametrize("dynamics", ["classic", "bicycle", "delta_local"])
@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_every_kind_drives_in_the_simulator(layout, dynamics, kind):
    space = ActionSpace.create(dynamics, kind)
    env = Env(make_worlds([scene(car(speed=5), car(20, speed=5))]), space, observation=layout)
    model, critic = policy(space, layout, decided=False), Critic(layout, SIZES).eval()
    flat = env.reset()
    action, log_prob = model.act(flat)
    assert action.shape == (2, space.components)
    assert log_prob.shape == critic(flat).shape == (2,)
    torch.testing.assert_close(model.evaluate(flat, action)[0], log_prob)
    before = env.states().clone()
    env.step(action)
    assert (env.states()[:, :2] != before[:, :2]).any(dim=1).all()


def test_a_fresh_policy_is_nearly_uniform():
    model, flat = policy(DISCRETE, decided=False), observations()
    _, entropy = model.evaluate(flat, torch.zeros(50, 2, dtype=torch.int64))
    assert (sum(math.log(n) for n in DISCRETE.sizes) - entropy).max() < 0.01


def test_layers_of_an_mlp():
    def kinds(**options):
        return [type(layer).__name__ for layer in mlp([2, 3, 4], **options)]

    assert kinds() == ["Linear", "LayerNorm", "ReLU"] * 2
    assert kinds(norm=False) == ["Linear", "ReLU"] * 2
    assert kinds(dropout=0.5) == ["Linear", "LayerNorm", "ReLU", "Dropout"] * 2


def dense(encoder, flat):
    """What the encoder computes, over every row whether there is anything in it or not."""
    ego, *blocks = LAYOUT.split(flat)
    parts = [encoder.ego(encoder.normalisers[0](ego))]
    networks = (encoder.partners, encoder.roads, encoder.lights)
    seen = zip(networks, encoder.normalisers[1:], blocks, LAYOUT.present(*blocks), strict=True)
    for network, normaliser, entities, present in seen:
        parts.append((network(normaliser(entities)) * present.unsqueeze(-1)).amax(dim=1))
    parts.append(encoder.normalisers[0](ego))  # which shows rays and danger numbers
    return encoder.trunk(torch.cat(parts, dim=1))


def test_the_encoder_looks_at_those_who_are_there_alone():
    """Its output, its gradient, and the gradient of that (which a gradient penalty needs) are those of a maximum over
    all rows in which nobody's outputs are zero; the last rows have no partner, no segment, and neither."""
    torch.manual_seed(2)
    encoder = EntityEncoder(LAYOUT, NetworkConfig(entity_hidden=8, hidden=16)).double()
    flat = observations().double()
    _, partners, roads, _ = LAYOUT.split(flat)
    roads[..., -ROAD_TYPES] = (torch.rand(50, 4) < 0.5).double()
    partners[-1], partners[-3] = 0.0, 0.0
    roads[-2:, :, -ROAD_TYPES] = 1.0
    encoder.fit_normaliser(flat[:40])
    flat.requires_grad_()
    told = []
    for forward in (encoder, lambda x: dense(encoder, x)):
        output = forward(flat)
        (slope,) = torch.autograd.grad(output.square().sum(), flat, create_graph=True)
        second = torch.autograd.grad(slope.square().sum(), list(encoder.roads.parameters()))
        told.append((output, slope, *second))
    assert all(x.abs().max() > 0 for x in told[0])
    torch.testing.assert_close(told[0], told[1])


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_policies_saved_before_eyes_and_actor_were_told_apart_are_read(kind):
    space = ActionSpace.create("classic", kind)
    saved, model = (policy(space, LAYOUT, decided=False) for _ in range(2))
    for weight in saved.parameters():
        torch.nn.init.normal_(weight)
    of_actor = {name.removeprefix("actor."): x for name, x in saved.state_dict().items() if name.startswith("actor.")}
    earlier = {name: x for name, x in saved.state_dict().items() if not name.startswith("actor.")}
    earlier |= {f"encoder.{name}" if name.startswith("trunk.") else name: x for name, x in of_actor.items()}
    assert {"encoder.trunk.0.weight", "body.0.weight", "head.weight", "log_std", "action_std"} <= earlier.keys()
    model.load_state_dict(earlier)
    seen = observations()
    action = saved.act(seen, deterministic=True)[0]
    assert torch.equal(model.evaluate(seen, action)[0], saved.evaluate(seen, action)[0])
