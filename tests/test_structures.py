"""What each setting of the discriminator does to its network and its losses."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.distributions import Normal, kl_divergence

from gail_cli.gail.config.load import ConfigError, load_config
from gail_cli.gail.config.schema import DiscriminatorConfig, NetworkConfig, PolicyConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.networks.discriminator import DiscriminatorNetwork, nearness
from gail_cli.gail.networks.losses import adversarial_loss, interpolated, next_beta, vail_kl
from gail_cli.gail.networks.policy import Critic, Policy
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ROAD_TYPES, ObservationConfig

LAYOUT = ObservationConfig(partners=5, road_segments=3, near=False, rays=False, danger=False, route=False)
GPUDRIVE = ObservationConfig("gpudrive", partners=5, road_segments=3)
SIZES = NetworkConfig(entity_hidden=8, hidden=16)
SPACE = ActionSpace.create("classic")
X, Y, LENGTH = (LAYOUT.partner_fields.index(name) for name in ("x/radius", "y/radius", "length/10"))


def network(layout=LAYOUT, space=SPACE, gamma=0.9, sizes=SIZES, **settings):
    torch.manual_seed(0)
    return DiscriminatorNetwork(layout, space, DiscriminatorConfig(network=sizes, **settings), gamma).eval()


def observations(count=6, seed=0, neighbours=5):
    """Random ones, in which so many partners are there, at 5 to 35 m, and all roads and lights."""
    flat = torch.randn(count, LAYOUT.size, generator=torch.Generator().manual_seed(seed))
    _, partners, roads, lights = LAYOUT.split(flat)
    lights[..., 4:] = torch.eye(4)
    partners.abs_()
    partners[..., X], partners[..., Y] = torch.linspace(0.1, 0.7, 5), 0.0
    partners[:, neighbours:] = 0.0
    roads[..., -ROAD_TYPES:] = 0.0
    return flat


def samples(count=6, seed=0, neighbours=5, **more):
    generator = torch.Generator().manual_seed(seed)
    action = torch.stack([torch.randint(n, (count,), generator=generator) for n in SPACE.sizes], dim=1)
    following = observations(count, seed + 1000, neighbours)
    log_prob = -torch.rand(count, generator=generator)
    return Transitions(observations(count, seed, neighbours), action, following, log_prob=log_prob, **more)


def judge(model, batch):
    with torch.no_grad():
        return model.compute_estimate(batch)


def moved(model, batch, **change):
    """Whether all estimates change with some fields of the samples."""
    before, after = judge(model, batch), judge(model, replace(batch, **change))
    assert (before == after).all() or (before != after).all()
    return (before != after).all().item()


def shifted_partner(flat, which, by=0.05):
    changed = flat.clone()
    LAYOUT.split(changed)[1][:, which] += by
    return changed


# split


def test_split_logits_by_hand():
    """f_map + a sum w_i f_i / max(1, sum w_i), pair by pair, w_i = exp(-d_i / b), in crowds and alone."""
    model, batch = network(structure="split", neighbour_weight=3.0, neighbour_range=12.0), samples()
    LAYOUT.split(batch.observation)[1][:3, 1:, LENGTH] = 0.0  # three rows with one neighbour left, 5 m away
    model.fit_normaliser(batch)
    action = model.flatten_actions(batch.action)
    ego, partners, *_ = LAYOUT.split(batch.observation)
    expected = model.estimator(model.body(torch.cat([model.encoder(batch.observation), action], dim=1)))[:, 0].tolist()
    totals = []
    for row in range(6):
        weights, logits = [], []
        for partner in partners[row]:
            if partner[LENGTH] > 0:
                weights.append(math.exp(-math.hypot(partner[X] * 50, partner[Y] * 50) / 12))
                own = model.encoder.normalisers[0](ego[row])
                pair = torch.cat([own, action[row], model.encoder.normalisers[1](partner)])
                logits.append(model.neighbours.layers(pair).item())
        mean = sum(w * f for w, f in zip(weights, logits, strict=True)) / max(1, sum(weights))
        expected[row] += 3 * mean
        totals.append(sum(weights))
    assert min(totals) == pytest.approx(math.exp(-5 / 12))
    assert max(totals) > 1.3
    torch.testing.assert_close(judge(model, batch), torch.tensor(expected))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_map_head_sees_no_neighbour(weight):
    """Without the weight of the other head, neighbours may do what they like."""
    batch = samples()
    other = shifted_partner(batch.observation, 0)
    assert moved(network(structure="split", neighbour_weight=weight), batch, observation=other) == (weight > 0)


@pytest.mark.parametrize("structure", ["joint", "split"])
def test_the_map_head_sees_no_neighbour_in_rays_and_danger_numbers_either(structure):
    """Numbers of road edges it does see."""
    layout = ObservationConfig(partners=2, road_segments=2)
    config = DiscriminatorConfig(structure=structure, neighbour_weight=0.0, normalise=False)
    model, seen = DiscriminatorNetwork(layout, SPACE, config).eval(), torch.rand(4, layout.size)
    action = torch.zeros(4, SPACE.components, dtype=torch.int64)
    for boxes, looks in ((True, structure == "joint"), (False, True)):
        other = seen.clone()
        other[:, list(layout.nothing(boxes=boxes, edges=not boxes))] += 0.5
        assert torch.equal(*(judge(model, Transitions(x, action)) for x in (seen, other))) != looks


@pytest.mark.parametrize("structure", ["joint", "split"])
def test_how_neighbours_stand_to_each_other_counts_for_nothing_in_split(structure):
    """Far neighbours, whose weights stay below 1 together, add up: f(A, B) - f(A) = f(B) - f(nobody)."""
    model, both = network(structure=structure, neighbour_range=5.0), samples(neighbours=0)
    partners = LAYOUT.split(both.observation)[1]
    partners[:, 0], partners[:, 1] = torch.rand(6, 8) + 0.3, torch.rand(6, 8) + 0.3
    f = {}
    for a in (True, False):
        for b in (True, False):
            only = both.observation.clone()
            present = LAYOUT.split(only)[1][..., LENGTH]
            present[:, 0] *= a
            present[:, 1] *= b
            f[a, b] = judge(model, replace(both, observation=only))
    assert (f[True, False] != f[False, False]).all()
    left, right = f[True, True] - f[True, False], f[False, True] - f[False, False]
    assert torch.allclose(left, right, atol=1e-6) == (structure == "split")


def test_a_crowd_counts_as_much_as_one():
    """Five times the same neighbour, 1 m away (weights of 0.9 each), are the pair's own logit."""
    model, batch = network(structure="split"), samples()
    partners = LAYOUT.split(batch.observation)[1]
    partners[:] = partners[:, :1].clone()
    partners[..., X], partners[..., Y] = 0.02, 0.0
    own = torch.cat([LAYOUT.split(batch.observation)[0], model.flatten_actions(batch.action)], dim=1)
    pair = model.neighbours.pairs(own, partners[:, :1])[:, 0].detach()
    nobody = replace(batch, observation=batch.observation.clone())
    LAYOUT.split(nobody.observation)[1].zero_()
    torch.testing.assert_close(judge(model, batch) - judge(model, nobody), pair)


@pytest.mark.parametrize(("layout", "unit"), [(LAYOUT, 50.0), (GPUDRIVE, 1000.0)], ids=["entity", "gpudrive"])
def test_nearness_is_in_metres(layout, unit):
    """At 3 m ahead and 4 m to the side it is exp(-5 / 10); one that is absent has none."""
    partners = torch.ones(1, 5, len(layout.partner_fields))
    at = [next(i for i, name in enumerate(layout.partner_fields) if name.startswith(axis)) for axis in ("x/", "y/")]
    partners[..., at] = torch.tensor([3.0, -4.0]) / unit
    partners[0, 1, at[0]] = 0.0
    present = torch.tensor([[True, True, True, True, False]])
    found = nearness(layout, partners, present, 10.0)
    assert found.tolist() == [pytest.approx([math.exp(-0.5), math.exp(-0.4), *[math.exp(-0.5)] * 2, 0.0])]


def test_both_heads_see_the_action():
    """With either head silenced the other still tells actions apart."""
    batch = samples()
    other = (batch.action + 1) % torch.tensor(SPACE.sizes)
    for silent in ("estimator", "neighbours"):
        model = network(structure="split")
        layer = model.estimator if silent == "estimator" else model.neighbours.layers[-1]
        nn.init.zeros_(layer.weight)
        assert moved(model, batch, action=other)


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_split_heads_learn_also_where_nobody_is(penalty):
    """Absent neighbours, all at a distance of 0, bring no gradient that is not a number."""
    model = network(structure="split", gradient_penalty=penalty)
    loss, _ = model.train().compute_loss(samples(neighbours=0), samples(seed=1, neighbours=2))
    loss.backward()
    assert all(x.grad.isfinite().all() for x in model.parameters())
    assert model.neighbours.layers[-1].weight.grad.abs().max() > 0


# inputs


@pytest.mark.parametrize("structure", ["joint", "split"])
@pytest.mark.parametrize("inputs", ["state", "state_action", "state_next_state"])
def test_what_is_seen_of_a_transition(structure, inputs):
    model, batch = network(structure=structure, inputs=inputs), samples()
    assert moved(model, batch, observation=observations(seed=7))
    assert moved(model, batch, action=(batch.action + 1) % 5) == (inputs == "state_action")
    assert moved(model, batch, next_observation=observations(seed=7)) == (inputs == "state_next_state")
    if inputs == "state_next_state":
        assert moved(model, batch, observation=batch.next_observation, next_observation=batch.observation)
        with pytest.raises(ValueError, match="sees the next observation; give samples that have it"):
            model.compute_estimate(replace(batch, next_observation=None))


def test_next_states_of_split_heads_are_the_egos():
    """Partners change places in an observation from step to step, so the pairs see no partner of the next."""
    model, batch = network(structure="split", inputs="state_next_state"), samples()
    assert not moved(model, batch, next_observation=shifted_partner(batch.next_observation, 0))
    nn.init.zeros_(model.estimator.weight)  # of the pairs alone
    ego_moved = batch.next_observation.clone()
    ego_moved[:, 0] += 0.1
    assert moved(model, batch, next_observation=ego_moved)


@pytest.mark.parametrize("structure", ["joint", "split", "airl"])
def test_it_never_sees_who_is_done(structure):
    model, batch = network(structure=structure), samples()
    assert not moved(model, batch, done=torch.ones(6, dtype=torch.bool), absorbing=torch.ones(6, dtype=torch.bool))


def test_the_collided_flag_of_the_next_state_is_not_seen_either():
    model = network(GPUDRIVE, inputs="state_next_state")
    flat = torch.randn(6, GPUDRIVE.size)
    batch = Transitions(flat, samples().action, flat.clone())
    flagged = flat.clone()
    flagged[:, GPUDRIVE.hidden_from_discriminator[0]] += 1
    assert not moved(model, batch, next_observation=flagged)
    assert moved(model, batch, next_observation=flat + 0.1)


# airl


@pytest.mark.parametrize("inputs", ["state", "state_action"])
def test_airl_logits_by_hand(inputs):
    """g(s, a) + gamma h(s') - h(s) - log pi(a | s)."""
    model, batch = network(structure="airl", inputs=inputs, gamma=0.7), samples()
    here, there = model.encoder(batch.observation), model.encoder(batch.next_observation)
    seen = torch.cat([here, model.flatten_actions(batch.action)], dim=1) if inputs == "state_action" else here
    g, h, following = model.estimator(model.body(seen)), model.potential(here), model.potential(there)
    expected = (g + 0.7 * following - h)[:, 0] - batch.log_prob
    torch.testing.assert_close(judge(model, batch), expected.detach())
    _, stats = model.compute_loss(batch, batch)
    for side in ("expert", "policy"):
        assert stats[f"{side}_estimate"].item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_airl_shaping_adds_up_to_its_ends():
    """Without g, a discounted sum along a path is gamma^T h(s_T) - h(s_0), wherever the path goes."""
    model = network(structure="airl", gamma=0.7)
    nn.init.zeros_(model.estimator.weight)
    nn.init.zeros_(model.estimator.bias)
    path = observations(7)
    batch = Transitions(path[:-1], samples().action, path[1:], log_prob=torch.zeros(6))
    total = (judge(model, batch) * 0.7 ** torch.arange(6)).sum()
    h = model.potential(model.encoder(path))[:, 0]
    torch.testing.assert_close(total, (0.7**6 * h[-1] - h[0]).detach())


def test_airl_says_what_it_lacks():
    model, batch = network(structure="airl"), samples()
    with pytest.raises(ValueError, match="needs the log-probability of actions"):
        model.compute_estimate(replace(batch, log_prob=None))
    with pytest.raises(ValueError, match="sees the next observation"):
        model.compute_estimate(replace(batch, next_observation=None))


# absorbing


@pytest.mark.parametrize("structure", ["joint", "split"])
def test_absorbing_states_are_all_one(structure):
    """Whatever the row says; and they are told from a state that merely looks empty by their column."""
    model, batch = network(structure=structure, absorbing=True), samples()
    plain, away = judge(model, batch), judge(model, replace(batch, absorbing=torch.arange(6) >= 3))
    torch.testing.assert_close(away[:3], plain[:3])
    torch.testing.assert_close(away[3:], away[3].expand(3))
    assert (away[3:] != plain[3:]).all()
    empty = model.inputs(replace(batch, observation=torch.zeros_like(batch.observation)))
    empty["action"] = torch.zeros_like(empty["action"])
    assert (model.logits(empty)[0] != away[3]).all()
    empty["absorbing"] = torch.ones_like(empty["absorbing"])
    torch.testing.assert_close(model.logits(empty)[0].detach(), away[3].expand(6))


# regularisers


def test_spectral_norm_bounds_every_layer():
    """After steps that would double the weights. Without it they are beyond."""

    def largest(spectral):
        model = network(spectral_norm=spectral).train()
        optimiser = torch.optim.SGD(model.parameters(), lr=3.0)
        for k in range(10):
            optimiser.zero_grad()
            model.compute_loss(samples(64, seed=k), samples(64, seed=100 + k))[0].backward()
            optimiser.step()
        for _ in range(100):  # each pass comes a step nearer to the largest singular value
            model.compute_estimate(samples())
        layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
        norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm)]
        return [torch.linalg.svdvals(m.weight)[0].item() for m in layers], norms

    values, norms = largest(spectral=True)
    assert values == pytest.approx([1.0] * 11, abs=1e-3)
    assert not norms
    values, norms = largest(spectral=False)
    assert max(values) > 1.5
    assert norms


def test_dropout_is_for_learning_alone():
    model, batch = network(dropout=0.5), samples()
    torch.testing.assert_close(judge(model, batch), judge(model, batch), rtol=0, atol=0)
    model.train()
    assert (judge(model, batch) != judge(model, batch)).any()
    assert (judge(network(dropout=0.0).train(), batch) == judge(network(dropout=0.0), batch)).all()


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_moves_the_optimum(smoothing):
    """There is no gradient where D is 1 - s of experts and s of the policy; without smoothing there is."""
    best = math.log((1 - smoothing) / smoothing)
    expert, policy = torch.full((3,), best, requires_grad=True), torch.full((3,), -best, requires_grad=True)
    adversarial_loss(expert, policy, smoothing).backward()
    torch.testing.assert_close(torch.cat([expert.grad, policy.grad]), torch.zeros(6), rtol=0, atol=1e-7)
    plain = torch.full((3,), best, requires_grad=True)
    adversarial_loss(plain, -plain).backward()
    assert (plain.grad < -0.01).all()
    loss = {s: network(label_smoothing=s).compute_loss(samples(), samples(seed=1))[0].item() for s in (0.0, smoothing)}
    assert loss[0.0] != loss[smoothing]


def test_interpolates_have_one_place_a_sample():
    """Between policy at 0 and expert at 1, all inputs of a row are at the same place."""
    sizes = {"observation": 4, "action": 3, "next_observation": 4}
    policy, expert = ({name: torch.full((50, n), x) for name, n in sizes.items()} for x in (0.0, 1.0))
    mixed = torch.cat(list(interpolated(policy, expert).values()), dim=1)
    assert (mixed == mixed[:, :1]).all()
    assert mixed[:, 0].unique().numel() == 50
    assert 0 <= mixed.min() < 0.1 < 0.9 < mixed.max() <= 1


@pytest.mark.parametrize(("place", "side"), [(0.0, 0), (1.0, 1)])
def test_the_penalty_lies_between_policy_and_expert(place, side, monkeypatch):
    """At the one end of the line it is that of the policy's samples, at the other that of the experts'."""
    model, sides = network(gradient_penalty=1.0), (samples(), samples(seed=1))
    alone = [model.compute_gradient_magnitude(x, x).item() for x in sides]
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)
    monkeypatch.setattr(torch, "rand", lambda *shape, **kind: torch.full(shape, place, **kind))
    assert model.compute_gradient_magnitude(*sides).item() == pytest.approx(alone[side], rel=1e-4)


@pytest.mark.parametrize("settings", [{"inputs": "state_next_state"}, {"structure": "airl"}, {"structure": "split"}])
def test_the_penalty_is_by_all_inputs(settings, monkeypatch):
    """Of the squared slopes of f, by finite differences in float64 at the very same sample of both sides.

    The weights of neighbours are held: what is near is not judged by that.
    """
    model, batch = network(**settings).double(), samples(1)
    batch = replace(batch, observation=batch.observation.double(), next_observation=batch.next_observation.double())
    inputs = model.inputs(batch)
    nn.init.zeros_(model.encoder.roads[0].weight[:, -ROAD_TYPES])  # it says who is there, so there is no slope in it
    roads = LAYOUT.split(torch.arange(LAYOUT.size)).roads
    absent = roads[:, -ROAD_TYPES].tolist()
    found = model.compute_gradient_magnitude(batch, batch).item()
    partners = LAYOUT.split(inputs["observation"]).partners
    weights = nearness(LAYOUT, partners, partners[..., LENGTH] > 0, 10.0)
    monkeypatch.setattr("gail_cli.gail.networks.discriminator.nearness", lambda *_: weights)
    squared = 0.0
    for name, x in inputs.items():
        for column in set(range(x.shape[1])) - set(absent if name != "action" else []):
            ahead, behind = x.clone(), x.clone()
            ahead[0, column] += 1e-6
            behind[0, column] -= 1e-6
            with torch.no_grad():
                rise = model.logits({**inputs, name: ahead})[0] - model.logits({**inputs, name: behind})[0]
            squared += (rise.item() / 2e-6) ** 2
    assert found == pytest.approx((math.sqrt(squared) - 1) ** 2, rel=1e-5)


# VAIL


def test_kl_by_hand_and_by_torch():
    mu, sigma = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([1.0, 0.5])
    by_hand = (0.5 * 1 + 0.5 * (4 + 0.25 + math.log(4) - 1) + 0.5 * (1 + 0.25 + math.log(4) - 1)) / 2
    assert vail_kl(mu, sigma).item() == pytest.approx(by_hand)
    mu, sigma = torch.randn(7, 5), torch.rand(5) + 0.1
    expected = kl_divergence(Normal(mu, sigma), Normal(0.0, 1.0)).sum(dim=1).mean()
    torch.testing.assert_close(vail_kl(mu, sigma), expected)
    torch.testing.assert_close(vail_kl(mu, -sigma), expected)


def test_beta_by_hand():
    assert next_beta(torch.tensor(0.1), torch.tensor(3.0), 0.5, 0.01).item() == pytest.approx(0.125)
    assert next_beta(torch.tensor(0.1), torch.tensor(0.2), 0.5, 1.0).item() == 0.0


def test_the_bottleneck_is_paid_for_at_the_present_beta():
    """Value and gradient of adversarial loss + beta (KL - I_c), with the KL of both sides alike, expert first."""
    settings = {"use_vail": True, "vail_z": 4, "vail_beta": 0.3, "vail_target_kl": 0.2}
    model, expert, policy = network(**settings), samples(), samples(seed=1)
    torch.manual_seed(3)
    loss, stats = model.compute_loss(policy, expert)
    loss.backward()
    found = {name: x.grad.clone() for name, x in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(3)
    both = {name: torch.cat([x, model.inputs(policy)[name]]) for name, x in model.inputs(expert).items()}
    hidden = model.body(torch.cat([model.encoder(both["observation"]), both["action"]], dim=1))
    codes = Normal(model.z_mu(hidden), model.z_sigma)
    z = codes.mean + codes.stddev * torch.randn(12, 4)
    kl = kl_divergence(codes, Normal(0.0, 1.0)).sum(dim=1).mean()
    f = model.estimator(z)[:, 0]
    expected = adversarial_loss(f[:6], f[6:]) + 0.3 * (kl - 0.2)
    expected.backward()
    assert stats["kl"].item() == pytest.approx(kl.item(), rel=1e-5)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for name, x in model.named_parameters():
        torch.testing.assert_close(found[name], x.grad)
    assert model.beta.item() == pytest.approx(0.3)  # computing a loss changes nothing
    model.update_beta(stats["kl"])
    assert model.state_dict()["beta"].item() == pytest.approx(0.3 + 5e-4 * (kl.item() - 0.2))


def test_codes_have_noise_only_when_asked():
    model, batch = network(use_vail=True), samples()
    assert (judge(model, batch) == judge(model, batch)).all()
    noisy = [model.compute_estimate(batch, use_vail_noise=True) for _ in range(2)]
    assert (noisy[0] != noisy[1]).all()
    assert model.z_mu.weight.shape == (128, 16)
    assert model.z_mu.weight.std().item() == pytest.approx(0.1 / math.sqrt(16), rel=0.05)
    assert model.z_sigma.tolist() == [1.0] * 128


def test_a_price_on_information_keeps_it_low():
    def information(beta):
        model = network(use_vail=True, vail_z=8, vail_beta=beta, vail_target_kl=0.0, dropout=0.0).train()
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(60):
            optimiser.zero_grad()
            loss, stats = model.compute_loss(samples(), samples(seed=1))
            loss.backward()
            optimiser.step()
        return stats["kl"].item()

    free, dear = information(0.0), information(10.0)
    assert dear < 0.1 < 1 < free


# sizes and scales


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_layers_behind_the_pooling(layers):
    """One takes in what was pooled; the outputs are not counted. The same for policy and critic."""
    sizes = replace(SIZES, layers=layers)
    nets = [network(sizes=sizes), Policy(LAYOUT, SPACE, PolicyConfig(**vars(sizes))), Critic(LAYOUT, sizes)]
    assert [sum(isinstance(m, nn.LayerNorm) for m in net.modules()) for net in nets] == [layers] * 3
    assert judge(nets[0], samples()).shape == (6,)
    nets[1].act(observations())
    assert nets[2](observations()).shape == (6,)


def test_without_normaliser_nothing_is_fitted():
    batch = samples()
    for normalise in (True, False):
        space = ActionSpace.create("classic", "continuous")
        model = network(space=space, normalise=normalise)
        rows = Transitions(batch.observation, torch.randn(6, 2))
        before = judge(model, rows)
        model.fit_normaliser(Transitions(3 * batch.observation + 1, 2 * rows.action))
        assert (judge(model, rows) != before).all().item() == normalise


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["use_vail=true", "structure=split"], "use_vail needs one joint network; set discriminator.structure to"),
        (["absorbing=true", "structure=airl"], "discriminator.absorbing tells of one state, not of two"),
        (["absorbing=true", "inputs=state_next_state"], "discriminator.absorbing tells of one state, not of two"),
        (["absorbing=true", "compat=mlagents"], "ML-Agents knows no absorbing states; leave out discriminator.abs"),
        (["neighbour_range=0"], "discriminator.neighbour_range is 0; it must be positive"),
        (["neighbour_weight=-1"], "discriminator.neighbour_weight is -1; it must not be negative"),
        (["vail_z=0"], "discriminator.vail_z is 0; it must be positive"),
        (["vail_beta=-1"], "discriminator.vail_beta is -1; it must not be negative"),
        (["momentum=1"], "discriminator.momentum is 1; it must be in [0, 1)"),
        (["network.layers=0"], "discriminator.network.layers is 0; it must be positive"),
        (["compat=unity"], "discriminator.compat is 'unity'; it must be mlagents, or null"),
        (["mlagents.gamma=2"], "discriminator.mlagents.gamma is 2; it must be in (0, 1]"),
        (["mlagents.network_settings.num_layers=0"], "network_settings.num_layers is 0; it must be positive"),
        (["mlagents.network_settings.hidden_unit=3"], "did you mean discriminator.mlagents.network_settings.hidden_un"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, told):
    with pytest.raises(ConfigError) as caught:
        load_config(None, [f"discriminator.{setting}" for setting in settings])
    assert told in str(caught.value)
