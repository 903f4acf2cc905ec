"""ML-Agents' arithmetic, calculated a second time in numpy and float64, with gradients by complex steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.config.schema import GAILSettings, NetworkSettings
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.networks import mlagents
from gail_cli.gail.networks.factory import make_discriminator
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

LAYOUT = ObservationConfig(partners=1, road_segments=1, near=False, rays=False, danger=False, route=False)
EGO = len(LAYOUT.ego_fields)
CONTINUOUS = ActionSpace.create("classic", "continuous")
DISCRETE = replace(ActionSpace.create("classic"), grid=((-1.0, 0.0, 1.0), (0.0, 0.5)))
SPACES = {"continuous": CONTINUOUS, "discrete": DISCRETE}
ROWS, HIDDEN, CODES = 5, 3, 6
SETTINGS = [
    {},
    {"use_actions": True},
    {"use_vail": True},
    {"network_settings": {"normalize": True}},
    {"use_actions": True, "use_vail": True, "network_settings": {"normalize": True}},
]
every_setting = pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "+".join(s) or "defaults")
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())


# The calculation in numpy


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def actions_and_done(batch, space):
    """Actions, one-hot by hand, then the done flag."""
    rows = []
    for action, done in zip(batch.action.tolist(), batch.done.tolist(), strict=True):
        row = list(action)
        if space.discrete:
            row = [float(index == k) for index, n in zip(action, space.sizes, strict=True) for k in range(n)]
        rows.append([*row, float(done)])
    return np.array(rows)


class Reference:
    """The network as arrays, its loss, and its Adam."""

    def __init__(self, network, space, settings):
        self.p = {name: x.detach().numpy().copy() for name, x in network.named_parameters()}
        self.space, self.beta = space, 0.0
        self.actions, self.vail = settings.get("use_actions", False), settings.get("use_vail", False)
        self.seen = np.zeros((1, LAYOUT.size)) if "network_settings" in settings else None
        self.moments = {name: (np.zeros_like(x), np.zeros_like(x)) for name, x in self.p.items()}
        self.steps = 0

    def follow(self, observation):
        """What the normaliser has seen, which began as one observation of zeros."""
        if self.seen is not None:
            self.seen = np.concatenate([self.seen, observation])

    def forward(self, observation, actions=None, noise=None):
        """D [B], means of the codes, and dD / d ego [B, E] by going back through the layers."""
        p, x, slope = self.p, observation, np.ones_like(observation)
        if self.seen is not None:
            m2 = 1 + np.square(self.seen - self.seen.mean(axis=0)).sum(axis=0)
            std = np.sqrt(m2 / len(self.seen))
            x = (observation - self.seen.mean(axis=0)) / std
            slope = (np.abs(x) < 5) / std
            x = np.clip(x, -5, 5)
        h = x if actions is None else np.concatenate([x, actions], axis=1)
        z1 = h @ p["encoder.0.weight"].T + p["encoder.0.bias"]
        z2 = (z1 * sigmoid(z1)) @ p["encoder.2.weight"].T + p["encoder.2.bias"]
        code, mu = z2 * sigmoid(z2), None
        if self.vail:
            mu = code @ p["z_mu.weight"].T + p["z_mu.bias"]
            code = mu if noise is None else mu + p["z_sigma"] * noise
        d = sigmoid(code @ p["estimator.0.weight"][0] + p["estimator.0.bias"])
        back = (d * (1 - d))[:, None] * p["estimator.0.weight"]
        back = back @ p["z_mu.weight"] if self.vail else back
        for z, weight in ((z2, p["encoder.2.weight"]), (z1, p["encoder.0.weight"])):
            s = sigmoid(z)
            back = (back * (s + z * s * (1 - s))) @ weight
        return d, mu, back[:, :EGO] * slope[:, :EGO]

    def inputs(self, batch):
        return batch.observation.numpy(), actions_and_done(batch, self.space) if self.actions else None

    def loss(self, policy, expert, draws, beta):
        """The loss as a function of the parameters, with a beta that is held, and its parts."""
        noise = draws.get
        d_policy, mu_policy, _ = self.forward(*self.inputs(policy), noise("policy"))
        d_expert, mu_expert, _ = self.forward(*self.inputs(expert), noise("expert"))
        adversarial = -np.mean(np.log(d_expert + 1e-7) + np.log(1 - d_policy + 1e-7))
        loss, parts = adversarial, {"loss": adversarial}
        if self.vail:
            variance = self.p["z_sigma"] ** 2
            kl = np.mean(
                np.sum(mu_expert**2 / 2 + mu_policy**2 / 2 + variance - np.log(variance) - 1, axis=1),
            )
            parts["kl"] = kl
            loss += beta * (kl - 0.5)
        mixed = [
            None if p is None else e + draws[name] * (p - e)
            for name, p, e in zip(("mix", "mix actions"), self.inputs(policy), self.inputs(expert), strict=True)
        ]
        gradient = self.forward(*mixed, noise("mixed"))[2]
        norm = np.sqrt(np.sum(gradient**2, axis=1) + 1e-7)
        parts["gradient_penalty"] = np.mean((norm - 1) ** 2)
        return loss + 10 * parts["gradient_penalty"], parts

    def gradients(self, *args, h=1e-30):
        """Each parameter in turn takes an imaginary step: the loss is analytic, and its imaginary part h x slope."""
        real, found = self.p, {}
        self.p = {name: x.astype(complex) for name, x in real.items()}
        for name, x in self.p.items():
            found[name] = np.zeros(x.shape)
            for at in np.ndindex(x.shape):
                x[at] += 1j * h
                found[name][at] = self.loss(*args)[0].imag / h
                x[at] = x[at].real
        self.p = real
        return found

    def step(self, policy, expert, draws, rate):
        """One update: the beta that follows from this loss is the one that the gradient sees."""
        _, parts = self.loss(policy, expert, draws, self.beta)
        if self.vail:
            self.beta = max(0.0, self.beta + 5e-4 * (parts["kl"] - 0.5))
        self.steps += 1
        for name, g in self.gradients(policy, expert, draws, self.beta).items():
            m, v = self.moments[name]
            m[...] = 0.9 * m + 0.1 * g
            v[...] = 0.999 * v + 0.001 * g**2
            step = m / (1 - 0.9**self.steps) / (np.sqrt(v / (1 - 0.999**self.steps)) + 1e-8)
            self.p[name] -= rate * step
        return parts


# Both sides of the comparison


def batch(space, seed):
    rng = np.random.default_rng(seed)
    columns = [rng.integers(n, size=ROWS) for n in space.sizes] or [rng.normal(size=ROWS) for _ in range(2)]
    done = torch.tensor(rng.random(ROWS) < 0.4)
    assert 0 < done.sum() < ROWS
    return Transitions(
        torch.tensor(rng.normal(scale=1.5, size=(ROWS, LAYOUT.size))),
        torch.tensor(np.stack(columns, axis=1)),
        done=done,
    )


def settings_of(settings):
    merged = {**settings, "learning_rate": 0.01}
    merged["network_settings"] = {"hidden_units": HIDDEN, **settings.get("network_settings", {})}
    return merged


def provider(space, settings, demos=None):
    """In float64, with opinions stronger than at first, and codes that tell more than they may."""
    torch.manual_seed(0)
    config = config_from_dict({"discriminator": {"compat": "mlagents", "mlagents": settings_of(settings)}})
    network = make_discriminator(config.discriminator, LAYOUT, space, config.ppo.gamma)
    made = GAILRewardProvider(network, config.discriminator, config.reward, demos or (lambda count: batch(space, 9)))
    made.network.double()
    with torch.no_grad():
        for name, x in made.network.named_parameters():
            x.mul_(1.5 if name.endswith("weight") else 1.0).add_(torch.randn_like(x), alpha=0.1)
            if name == "z_sigma":
                x.add_(0.2)
    return made


@pytest.fixture
def few_codes(monkeypatch):
    """Steps in 128 codes would take long; what is calculated is the same."""
    monkeypatch.setattr(mlagents, "Z_SIZE", CODES)


def draws(settings, space):
    """The random numbers in the order in which the network takes them from torch."""
    found = {}
    if settings.get("use_vail"):
        found["policy"] = torch.randn(ROWS, CODES, dtype=torch.float64).numpy()
        found["expert"] = torch.randn(ROWS, CODES, dtype=torch.float64).numpy()
    found["mix"] = torch.rand(ROWS, LAYOUT.size, dtype=torch.float64).numpy()
    if settings.get("use_actions"):
        columns = (sum(space.sizes) or 2) + 1
        found["mix actions"] = torch.rand(ROWS, columns, dtype=torch.float64).numpy()
    if settings.get("use_vail"):
        found["mixed"] = torch.randn(ROWS, CODES, dtype=torch.float64).numpy()
    return found


def close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.usefixtures("few_codes")
@every_space
@every_setting
def test_losses_and_all_gradients(space, settings):
    """At a beta of 0.3, so that the value sees it and the gradient sees its successor."""
    network = provider(space, settings).network
    reference = Reference(network, space, settings)
    policy, expert = batch(space, 1), batch(space, 2)
    network.observe_experts(expert)
    reference.follow(expert.observation.numpy())
    network.beta.fill_(0.3)
    torch.manual_seed(5)
    loss, stats = network.compute_loss(policy, expert)
    loss.backward()
    torch.manual_seed(5)
    random = draws(settings, space)
    value, parts = reference.loss(policy, expert, random, 0.3)
    close(loss.item(), value)
    for name, part in parts.items():
        close(stats[name].item(), part)
    upcoming = 0.3 + 5e-4 * (parts.get("kl", 0.5) - 0.5)
    assert not settings.get("use_vail") or upcoming > 0.3 + 1e-4
    expected = reference.gradients(policy, expert, random, upcoming)
    assert expected.keys() == dict(network.named_parameters()).keys()
    for name, x in network.named_parameters():
        close(x.grad.numpy(), expected[name])
        assert np.abs(expected[name]).max() > 1e-4, name


@pytest.mark.usefixtures("few_codes")
@every_space
@every_setting
def test_some_updates_with_their_betas_and_rewards(space, settings):
    """Parameters after steps of Adam without clipping, the path of beta, the normaliser and rewards on the way."""
    given = iter(range(100, 200))
    made = provider(space, settings, lambda count: batch(space, next(given)))
    reference = Reference(made.network, space, settings)
    betas = []
    for k in range(3):
        policy, expert = batch(space, 10 + k), batch(space, 100 + k)
        torch.manual_seed(k)
        told = made.update(policy)
        torch.manual_seed(k)
        reference.follow(expert.observation.numpy())
        parts = reference.step(policy, expert, draws(settings, space), 0.01)
        for name, part in parts.items():
            close(told[name], part)
        betas.append(reference.beta)
        close(made.network.beta.item(), reference.beta)
        assert told.get("beta", 0.0) == pytest.approx(reference.beta)
        for name, x in made.network.named_parameters():
            close(x.detach().numpy(), reference.p[name])
        d = reference.forward(*reference.inputs(policy))[0]
        close(made.evaluate(policy).numpy(), -np.log(1 - d * (1 - 1e-7)))
    if settings.get("use_vail"):
        assert 0 < betas[0] < betas[1] < betas[2]


def test_beta_never_falls_below_zero():
    """At first codes tell nothing: KL is 0 and beta would go to -alpha / 2."""
    network = mlagents.DiscriminatorNetwork(LAYOUT, DISCRETE, GAILSettings(use_vail=True))
    network.update_beta(torch.tensor(0.0))
    assert network.beta.item() == 0
    network.update_beta(torch.tensor(2.5))
    assert network.beta.item() == pytest.approx(1e-3)
    assert network.state_dict()["beta"].item() == pytest.approx(1e-3)


# By hand


def test_losses_by_hand():
    expert, policy = torch.tensor([0.8, 0.5]), torch.tensor([0.1, 0.5])
    by_hand = -(math.log(0.8) + math.log(0.9) + 2 * math.log(0.5)) / 2
    assert mlagents.adversarial_loss(expert, policy).item() == pytest.approx(by_hand, abs=1e-6)
    certain = mlagents.adversarial_loss(torch.zeros(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64))
    assert certain.item() == pytest.approx(-math.log(1e-7) - math.log(1 + 1e-7))
    kl = mlagents.kl_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]), torch.tensor([1.0, 2.0]))
    assert kl.item() == pytest.approx(0.5 + (2 + 2) + (4 - math.log(4) - 1))
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], requires_grad=True)  # D = x^2 / 2 has the gradient x
    norms = math.sqrt(25 + 1e-7), math.sqrt(1e-7)
    found = mlagents.gradient_magnitude(x.square().sum(dim=1) / 2, x)
    assert found.item() == pytest.approx(sum((n - 1) ** 2 for n in norms) / 2, rel=1e-5)


def test_rewards_by_hand():
    found = mlagents.reward(torch.tensor([0.0, 0.5, 1.0]))
    assert found.tolist() == [0.0, pytest.approx(math.log(2), abs=1e-6), pytest.approx(15.94, abs=0.005)]
    assert mlagents.reward(torch.ones(1, dtype=torch.float64)).item() == pytest.approx(-math.log(1e-7))


def test_strength_scales_the_reward():
    single, double = (provider(DISCRETE, {"strength": strength}) for strength in (1.0, 2.0))
    rows = batch(DISCRETE, 3)
    torch.testing.assert_close(double.evaluate(rows), 2 * single.evaluate(rows))


# What it sees


def test_only_the_ego_block_is_penalised():
    """With no weight on the ego block there is no gradient, whatever the rest weighs: (sqrt(1e-7) - 1)^2."""
    network = provider(DISCRETE, {}).network
    with torch.no_grad():
        network.encoder[0].weight[:, :EGO] = 0.0
    found = network.compute_gradient_magnitude(batch(DISCRETE, 1), batch(DISCRETE, 2))
    assert found.item() == pytest.approx((math.sqrt(1e-7) - 1) ** 2)


def test_every_number_is_interpolated_by_itself():
    """Between policy at 1 and expert at 0 lie the random numbers themselves, not one of them a row."""
    torch.manual_seed(0)
    mixed = mlagents._between(torch.ones(40, 50), torch.zeros(40, 50))
    assert mixed.unique().numel() > 1900
    assert 0 <= mixed.min() < 0.01 < 0.99 < mixed.max() <= 1


@every_space
@pytest.mark.parametrize("use_actions", [False, True])
def test_done_and_actions_are_seen_together_or_not_at_all(space, use_actions):
    network = provider(space, {"use_actions": use_actions}).network
    rows = batch(space, 1)
    others = [
        replace(rows, done=~rows.done),
        replace(rows, action=(rows.action + 1) % 2 if space.discrete else rows.action + 1),
    ]
    for other in others:
        moved = (network.compute_estimate(other) != network.compute_estimate(rows)).any(dim=0)
        assert moved.item() == use_actions
    if use_actions:
        with pytest.raises(ValueError, match="sees who is done; give samples that tell it"):
            network.compute_estimate(replace(rows, done=None))


# The network


def test_it_begins_as_ml_agents_does():
    torch.manual_seed(0)
    layout = ObservationConfig(partners=16, road_segments=64)
    settings = GAILSettings(use_actions=True, use_vail=True)
    network = mlagents.DiscriminatorNetwork(layout, DISCRETE, settings)
    inputs = layout.size + 5 + 1
    first, second, head = network.encoder[0], network.encoder[2], network.estimator[0]
    assert [tuple(x.weight.shape) for x in (first, second, head)] == [(128, inputs), (128, 128), (1, 128)]
    assert first.weight.std().item() == pytest.approx(1 / math.sqrt(inputs), rel=0.02)
    assert second.weight.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.03)
    assert network.z_mu.weight.std().item() == pytest.approx(0.1 / math.sqrt(128), rel=0.03)
    bound = 0.2 * math.sqrt(6 / 129)
    assert 0.9 * bound < head.weight.abs().max().item() <= bound
    assert network.z_sigma.tolist() == [1.0] * 128
    assert network.beta.item() == 0
    assert all((x == 0).all() for name, x in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize("layers", [1, 3])
def test_layers_and_units_are_settings(layers):
    settings = GAILSettings(network_settings=NetworkSettings(hidden_units=7, num_layers=layers))
    network = mlagents.DiscriminatorNetwork(LAYOUT, DISCRETE, settings)
    shapes = [tuple(x.shape) for name, x in network.encoder.named_parameters() if name.endswith("weight")]
    assert shapes == [(7, LAYOUT.size)] + [(7, 7)] * (layers - 1)


def test_the_normaliser_begins_with_a_count_of_one():
    """Of {0} and {1, 3}: mean 4/3, M2 1 + 14/3 of a count of 3. Five deviations are the most."""
    normaliser = mlagents.Normaliser(1)
    assert normaliser(torch.tensor([[0.5]])).item() == 0.5
    normaliser.update(torch.tensor([[1.0], [3.0]]))
    std = math.sqrt((1 + 14 / 3) / 3)
    found = normaliser(torch.tensor([[0.0], [1e3], [-1e3]])).flatten().tolist()
    assert found == [pytest.approx(-4 / 3 / std), 5.0, -5.0]


def test_only_experts_move_the_normaliser_and_only_if_there_is_one():
    made = provider(DISCRETE, {"network_settings": {"normalize": True}})
    before = made.network.normaliser.mean.clone()
    made.evaluate(batch(DISCRETE, 1))
    made.network.fit_normaliser(batch(DISCRETE, 1))
    assert (made.network.normaliser.mean == before).all()
    made.update(batch(DISCRETE, 1))
    expected = batch(DISCRETE, 9).observation.sum(dim=0) / (ROWS + 1)
    torch.testing.assert_close(made.network.normaliser.mean, expected)
    assert provider(DISCRETE, {}).network.normaliser is None


def test_a_memory_is_ignored_with_a_warning():
    memory = NetworkSettings(hidden_units=HIDDEN, memory={"memory_size": 128, "sequence_length": 64})
    with pytest.warns(UserWarning, match="memory is ignored: the GAIL discriminator supports no memory"):
        network = mlagents.DiscriminatorNetwork(LAYOUT, DISCRETE, GAILSettings(network_settings=memory))
    plain = mlagents.DiscriminatorNetwork(
        LAYOUT, DISCRETE, GAILSettings(network_settings=NetworkSettings(hidden_units=HIDDEN))
    )
    assert network.state_dict().keys() == plain.state_dict().keys()
    set_so = {"discriminator": {"mlagents": {"network_settings": {"memory": {"memory_size": 8}}}}}
    assert config_from_dict(set_so).discriminator.mlagents.network_settings.memory == {"memory_size": 8}
