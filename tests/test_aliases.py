"""The names of two earlier systems do here what they did there: effects, not parsing."""

import itertools
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import nn

from gail_cli import cli
from gail_cli.gail.config.aliases import (
    ENVIRONMENT_FLAGS,
    ENVIRONMENT_KEYS,
    FLAGS,
    GAIL_KEYS,
    PPO_KEYS,
    SECTIONS,
    translate,
)
from gail_cli.gail.config.load import ConfigError, config_from_dict, load_config
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.learning.ppo import update
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.learning.rollout import collect
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.sim.kernels import Event

KEYS = [
    "use_gail",
    "discriminator_lr",
    "discriminator_hidden_dim",
    "discriminator_dropout",
    "discriminator_batch_size",
    "discriminator_epochs",
    "discriminator_update_freq",
    "policy_buffer_size",
    "min_policy_data",
    "policy_weight_decay",
    "value_weight_decay",
    "discriminator_weight_decay",
]
"""Of the section ``train`` of GAIL-for-GPUDrive's configuration."""
TRAIN = """
train:
  # GAIL-specific parameters
  use_gail: true                    # Enable GAIL training
  discriminator_lr: 3e-4           # Discriminator learning rate
  discriminator_hidden_dim: 256    # Hidden layer size
  discriminator_dropout: 0.1       # Dropout rate
  discriminator_batch_size: 1024   # Batch size for discriminator
  discriminator_epochs: 5          # Epochs per discriminator update
  discriminator_update_freq: 1     # Update frequency (every N policy updates)
  policy_buffer_size: 50000        # Size of policy trajectory buffer
  min_policy_data: 1000           # Min policy data before training discriminator

  # L2 Regularization
  policy_weight_decay: 1e-4        # L2 regularization for policy network
  value_weight_decay: 1e-4         # L2 regularization for value network
  discriminator_weight_decay: 1e-4 # L2 regularization for discriminator
"""
"""That section as it is there."""
COMMAND = [
    "use_gail",
    "max_single_agent_envs",
    "total_timesteps",
    "discriminator_lr",
    "discriminator_hidden_dim",
    "discriminator_epochs",
    "discriminator_update_freq",
    "policy_weight_decay",
    "discriminator_weight_decay",
    "num_worlds",
    "k_unique_scenes",
    "collision_weight",
    "goal_achieved_weight",
    "single_agent",  # a program of its own there
    "off_road_weight",  # of the same family
]
"""Flags of its commands."""
MLAGENTS = [
    "demo_path",
    "learning_rate",
    "use_actions",
    "use_vail",
    "strength",
    "gamma",
    "network_settings.hidden_units",
    "network_settings.num_layers",
    "network_settings.normalize",
    "network_settings.memory",
]
"""Settings of ML-Agents' ``reward_signals.gail``."""
RUN = Trainer.run
BASE = {
    "device": "cpu",
    "worlds": {"num_worlds": 1},
    "augment": {"variants": 1},
    "sim": {"horizon": 6},
    "observation": {"partners": 2, "road_segments": 4},
    "policy": {"entity_hidden": 4, "hidden": 8},
    "bc": {"steps": 0},
    "ppo": {
        "learning_rate": 1e-4,
        "critic_learning_rate": 1e-3,
        "update_epochs": 1,
        "minibatch_size": 512,
        "bc_coef": 0.0,
    },
    "discriminator": {"network": {"entity_hidden": 4, "layers": 2}, "updates": 2, "max_accuracy": 1.0},
}


@pytest.fixture
def begin(make_store, tmp_path, monkeypatch):
    """Lets the command begin a run as it is told to, and gives its trainer in place of training."""
    made, number = [], itertools.count()
    monkeypatch.setattr(Trainer, "run", lambda trainer, stop: made.append(trainer))
    monkeypatch.setattr(
        "gail_cli.gail.figures.curves.curves_figure", lambda folder: SimpleNamespace(savefig=lambda file: None)
    )
    some = ("--store", make_store(scenes=3).path)

    def begin(args=(), text="", store=some):
        folder = tmp_path / f"run {next(number)}"
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(BASE) + text)
        command = ["train", tmp_path / "config.yaml", "--run", folder, *store, *args]
        result = CliRunner().invoke(cli.cli, list(map(str, command)), catch_exceptions=False)
        assert result.exit_code == 0, result.stderr
        return made[-1]

    yield begin
    for trainer in made:
        trainer.close()


def as_flags(**settings):
    """What ``begin`` takes for flags of these names."""
    switches = {("use_gail", False): "--no-use-gail", ("use_gail", True): "--use-gail"}
    args = []
    for name, value in settings.items():
        flag = f"--{name.replace('_', '-')}"
        args += [switches.get((name, value), flag)] if isinstance(value, bool) else [flag, value]
    return {"args": args}


def as_keys(**settings):
    """Likewise for keys of the configuration file, written as they are."""
    text = ""
    for section, names in SECTIONS.items():
        lines = [f"  {name}: {str(value).lower()}\n" for name, value in settings.items() if name in names]
        text += f"{section}:\n{''.join(lines)}" if lines else ""
    return {"text": text}


def mlagents(**settings):
    return {"text": yaml.safe_dump({"reward_signals": {"gail": settings}})}


def parameters(module):
    return torch.cat([x.detach().flatten() for x in module.parameters()]).clone()


def told(trainer):
    """The metrics of one more rollout."""
    trainer._iterate()
    return json.loads((trainer.folder.path / "metrics.jsonl").read_text().splitlines()[-1])


def networks(trainer):
    judge = [] if trainer.adversary is None else [trainer.adversary.provider.network]
    return [parameters(x) for x in (trainer.networks.policy, trainer.networks.critic, *judge)]


def widths(module):
    return [(layer.in_features, layer.out_features) for layer in module.modules() if isinstance(layer, nn.Linear)]


def largest_change(trainer):
    """Of any weight of the discriminator in one update; Adam's first step is of the size of its rate."""
    provider = trainer.adversary.provider
    before = parameters(provider.network)
    rollout, _ = collect(trainer._next_env(), trainer.sight.actor, trainer.sight.show)
    provider.update(rollout.samples())
    return (parameters(provider.network) - before).abs().max().item()


def scenes_and_agents(trainer, rollouts=12):
    """Of some batches of worlds, and of demos: the scenes, and the (scene, agent) that are learned from."""
    ids = {scene: k for k, scene in enumerate(trainer.stores.stores[0].scene_ids())}
    driven = set()
    for _ in range(rollouts):
        worlds = trainer.stream.next().worlds
        driven |= {(ids[worlds.scenes[w].id], row) for w, row in worlds.controlled_agents()}
    demos = {tuple(row) for row in trainer.sampler.sample(4096).transition[:, :2].tolist()}
    return driven, demos


# What each does. An effect gets ``begin`` and one of ``as_flags`` and ``as_keys``.


def use_gail(begin, given, monkeypatch):
    """A discriminator takes part and pays, or there is none and the environment does."""
    gail, plain = begin(**given(use_gail=True)), begin(**given(use_gail=False))
    assert {"discriminator/loss", "reward/gail"} <= told(gail).keys()
    assert plain.adversary is None
    assert (gail.config.environment_weight, plain.config.environment_weight) == (0.0, 1.0)
    line = told(plain)
    assert not any(name.startswith("discriminator/") or name == "reward/gail" for name in line)


def total_timesteps(begin, given, monkeypatch):
    """A run ends with the first rollout that makes so many."""
    for least, rollouts in ((0, 0), (1, 1)):
        trainer = begin(**given(total_timesteps=least))
        RUN(trainer)
        assert trainer.progress.iteration == rollouts


def discriminator_lr(begin, given, monkeypatch):
    for rate in ("1e-4", "2e-2"):
        assert largest_change(begin(**given(discriminator_lr=rate))) == pytest.approx(float(rate), rel=0.02)


def discriminator_hidden_dim(begin, given, monkeypatch):
    network = begin(**given(discriminator_hidden_dim=24)).adversary.provider.network
    (last,) = widths(network.encoder.trunk)
    assert last[1] == 24
    assert [n_out for _, n_out in widths(network.body)] == [24]
    assert widths(network.estimator) == [(24, 1)]


def discriminator_dropout(begin, given, monkeypatch):
    """Units are left out at random while it learns."""
    for share in (0.0, 0.5):
        trainer = begin(**given(discriminator_dropout=share))
        network, batch = trainer.adversary.provider.network.train(), trainer.experts.judged(64)
        same = torch.equal(network(batch), network(batch))
        assert same == (share == 0)
        units = torch.ones(200_000)
        (layer, *_) = [m for m in network.modules() if isinstance(m, nn.Dropout)] or [nn.Identity()]
        assert (layer(units) == 0).float().mean().item() == pytest.approx(share, abs=0.01)


def discriminator_batch_size(begin, given, monkeypatch):
    """Of policy and of expert samples."""
    seen, update = [], GAILRewardProvider.update
    monkeypatch.setattr(GAILRewardProvider, "update", lambda p, batch: seen.append(batch) or update(p, batch))
    trainer = begin(**given(discriminator_batch_size=37))
    trainer.adversary.provider._demos = spied(seen, trainer.adversary.provider._demos)
    told(trainer)
    assert [len(batch.action) for batch in seen] == [37] * 4


def spied(seen, demos):
    return lambda count: seen.append(demos(count)) or seen[-1]


def discriminator_epochs(begin, given, monkeypatch):
    """Gradient steps: passes over what was driven, in batches of 20."""
    for epochs in (1, 3):
        trainer = begin(**given(discriminator_epochs=epochs, discriminator_batch_size=20))
        line = told(trainer)
        assert line["discriminator/updates"] == epochs * math.ceil(line["step"] / 20) > epochs


def discriminator_update_freq(begin, given, monkeypatch):
    trainer = begin(**given(discriminator_update_freq=2))
    learned = []
    for _ in range(4):
        _, _, before = networks(trainer)
        assert ("discriminator/loss" in told(trainer)) == (not torch.equal(networks(trainer)[2], before))
        learned.append(not torch.equal(networks(trainer)[2], before))
    assert learned == [True, False, True, False]


def policy_buffer_size(begin, given, monkeypatch):
    """It learns from the newest samples of so many, whichever rollout they are of."""
    lengths = []
    for size in (10_000, 50):
        trainer = begin(**given(policy_buffer_size=size))
        told(trainer)
        line = told(trainer)
        lengths.append((len(trainer.adversary._buffer.action), line["step"]))
    (large, driven), (few, _) = lengths
    assert large == driven
    assert few == 50


def min_policy_data(begin, given, monkeypatch):
    for least, learns in ((1, True), (10_000, False)):
        trainer = begin(**given(min_policy_data=least))
        before = networks(trainer)[2]
        told(trainer)
        assert torch.equal(networks(trainer)[2], before) != learns


def shrunk(begin, settings):
    """Of each network the norm after one rollout, by what it is without this setting; and whether it is the same."""
    found = []
    for trainer in (begin(**settings) if with_it else begin() for with_it in (True, False)):
        told(trainer)
        found.append(networks(trainer))
    pairs = zip(*found, strict=True)
    return [((a.norm() / b.norm()).item(), torch.equal(a, b)) for a, b in pairs]


def policy_weight_decay(begin, given, monkeypatch):
    """The policy alone shrinks, by its rate times that a step."""
    (policy, _), (_, critic_same), (_, judge_same) = shrunk(begin, given(policy_weight_decay="1e3"))
    assert policy == pytest.approx(1 - 1e-4 * 1e3, abs=0.02)
    assert critic_same
    assert judge_same


def value_weight_decay(begin, given, monkeypatch):
    (_, policy_same), (critic, _), (_, judge_same) = shrunk(begin, given(value_weight_decay=100))
    assert critic == pytest.approx(1 - 1e-3 * 100, abs=0.01)
    assert policy_same
    assert judge_same


def discriminator_weight_decay(begin, given, monkeypatch):
    """In two updates."""
    (policy, _), (critic, _), (judge, _) = shrunk(begin, given(discriminator_weight_decay=100))
    rate = begin().config.discriminator.learning_rate
    assert judge == pytest.approx((1 - rate * 100) ** 2, abs=0.01)
    assert policy == pytest.approx(1, abs=1e-2)
    assert critic == pytest.approx(1, abs=1e-2)


def num_worlds(begin, given, monkeypatch):
    for count in (2, 3):
        assert begin(**given(num_worlds=count))._next_env().worlds.num_worlds == count


def k_unique_scenes(begin, given, monkeypatch):
    """Worlds and demos are of so many scenes."""
    assert len({scene for scene, _ in scenes_and_agents(begin())[0]}) == 3
    driven, demos = scenes_and_agents(begin(**given(k_unique_scenes=2)))
    assert len({scene for scene, _ in driven}) == 2
    assert {scene for scene, _ in demos} == {scene for scene, _ in driven}


def max_single_agent_envs(begin, given, monkeypatch):
    """Each world has one controlled agent, and there are no more of them, nor demos of others."""
    trainer = begin(**given(max_single_agent_envs=3))
    driven, demos = scenes_and_agents(trainer)
    assert len(driven) == 3
    assert demos == driven
    worlds = trainer._next_env().worlds
    assert len(worlds.controlled) == worlds.num_worlds


def single_agent(begin, given, monkeypatch):
    """Each world has one controlled agent; the others are there, and follow their logs."""
    alone, many = begin(**given(single_agent=True)), begin()
    env = alone._next_env()
    assert [w for w, _ in env.worlds.controlled_agents()] == list(range(env.worlds.num_worlds))
    assert env.worlds.num_agents > env.num_agents
    together = many._next_env().worlds
    assert len(together.controlled) > together.num_worlds
    assert len(scenes_and_agents(alone, 40)[0]) > 5  # in turn, each of them


WEIGHTS = {"collision_weight": -0.5, "goal_achieved_weight": 1.0, "off_road_weight": -0.5}


def environment_pays(begin, given, name, value):
    """The environment's reward, which PPO alone learns from, is the sum of what happens, by these weights."""
    settings = given(use_gail=False, **{name: value})
    rules = "sim: {box_scale: 3.0, goal_radius: 20.0, horizon: 12}\nworlds: {num_worlds: 3}\n"
    trainer = begin(settings.get("args", ()), settings.get("text", "") + rules)
    env, weights = trainer._next_env(), WEIGHTS | {name: value}
    env.reset()
    alive, arrived = env.alive(), torch.zeros(env.num_agents, dtype=torch.bool)
    happened = torch.zeros(len(Event), dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(env.horizon):
        action = torch.stack([torch.randint(n, (env.num_agents,), generator=generator) for n in env.action_space.sizes])
        step = env.step(action.T)
        hit = step.events[:, Event.VEHICLE].float() + step.events[:, Event.NON_VEHICLE].float()
        goal = step.events[:, Event.GOAL] & ~arrived
        expected = weights["collision_weight"] * hit + weights["goal_achieved_weight"] * goal
        expected += weights["off_road_weight"] * step.events[:, Event.OFF_ROAD]
        torch.testing.assert_close(step.reward[alive], expected[alive])
        happened |= (step.events & alive[:, None]).any(dim=0)
        arrived, alive = arrived | goal, step.alive
    assert happened[[Event.VEHICLE, Event.OFF_ROAD, Event.GOAL]].all()
    rollout, _ = collect(env, trainer.sight.actor, trainer.sight.show)
    assert torch.equal(trainer._reward(rollout)[0], rollout.environment_reward)
    assert rollout.environment_reward.any()


def collision_weight(begin, given, monkeypatch):
    environment_pays(begin, given, "collision_weight", 2.0)


def goal_achieved_weight(begin, given, monkeypatch):
    environment_pays(begin, given, "goal_achieved_weight", 1.5)


def off_road_weight(begin, given, monkeypatch):
    environment_pays(begin, given, "off_road_weight", -3.25)


@pytest.mark.parametrize("name", KEYS)
def test_a_key_of_the_section_train_does_what_it_did(begin, monkeypatch, name):
    globals()[name](begin, as_keys, monkeypatch)


@pytest.mark.parametrize("name", COMMAND)
def test_a_flag_does_what_it_did(begin, monkeypatch, name):
    globals()[name](begin, as_flags, monkeypatch)


# ML-Agents


def demo_path(begin, make_store, monkeypatch):
    """The store that is learned from, if none is named."""
    store, other = make_store(scenes=2).path, make_store().path
    found = begin(**mlagents(demo_path=str(store)), store=())
    assert found.stores.locations == [str(store)]
    found = begin(**mlagents(demo_path=str(store)), store=("--store", other))
    assert found.stores.locations == [str(other)]


def learning_rate(begin, make_store, monkeypatch):
    for rate in (1e-4, 2e-2):
        assert largest_change(begin(**mlagents(learning_rate=rate))) == pytest.approx(rate, rel=0.02)


def use_actions(begin, make_store, monkeypatch):
    """What it makes of a state depends on the action."""
    for sees in (False, True):
        trainer = begin(**mlagents(use_actions=sees))
        rollout, _ = collect(trainer._next_env(), trainer.sight.actor, trainer.sight.show)
        before = trainer.adversary.estimates(rollout)
        rollout.action[:] = (rollout.action + 1) % 5
        assert torch.equal(trainer.adversary.estimates(rollout), before) != sees
        size = trainer.config.observation.size + sees * (sum(trainer.stores.space.sizes) + 1)
        assert widths(trainer.adversary.provider.network)[0] == (size, 128)


def use_vail(begin, make_store, monkeypatch):
    """There is a bottleneck with noise, and its price is told."""
    plain, vail = (begin(**mlagents(use_vail=use)) for use in (False, True))
    for trainer, noisy in ((plain, False), (vail, True)):
        network, batch = trainer.adversary.provider.network, trainer.experts.judged(8)
        found = [network.compute_estimate(batch, use_vail_noise=True) for _ in range(2)]
        assert torch.equal(*found) != noisy
    assert {"discriminator/kl", "discriminator/beta"} <= told(vail).keys()


def strength(begin, make_store, monkeypatch):
    """A factor on the reward."""
    paid = []
    for factor in (1.0, 3.0):
        trainer = begin(**mlagents(strength=factor))
        torch.manual_seed(0)
        rollout, _ = collect(trainer._next_env(), trainer.sight.actor, trainer.sight.show)
        paid.append(trainer.adversary.reward(rollout)[0])
    assert paid[0].any()
    torch.testing.assert_close(paid[1], 3 * paid[0])


def gamma(begin, make_store, monkeypatch):
    """The discount that the policy is trained with."""
    seen = []
    monkeypatch.setattr(
        "gail_cli.gail.learning.trainer.update", lambda *args, **more: seen.append(args[5]) or update(*args, **more)
    )
    told(begin(**mlagents(gamma=0.75)))
    assert [config.gamma for config in seen] == [0.75]


def network(begin, settings):
    return begin(**mlagents(network_settings=settings)).adversary.provider.network


def hidden_units(begin, make_store, monkeypatch):
    (first, second) = widths(network(begin, {"hidden_units": 24}).encoder)
    assert first[1] == 24
    assert second == (24, 24)


def num_layers(begin, make_store, monkeypatch):
    assert [n_out for _, n_out in widths(network(begin, {"num_layers": 3}).encoder)] == [128] * 3


def normalize(begin, make_store, monkeypatch):
    """Experts' statistics, which follow what it sees."""
    assert network(begin, {"normalize": False}).normaliser is None
    trainer = begin(**mlagents(network_settings={"normalize": True}))
    normaliser = trainer.adversary.provider.network.normaliser
    before = normaliser.mean.clone()
    told(trainer)
    assert not torch.equal(normaliser.mean, before)
    seen = trainer.experts.judged(4096).observation
    assert (normaliser.mean - seen.mean(dim=0)).abs().mean() < (before - seen.mean(dim=0)).abs().mean()


def memory(begin, make_store, monkeypatch):
    """None, but for a warning."""
    with pytest.warns(UserWarning, match="network_settings.memory is ignored") as caught:
        found = network(begin, {"memory": {"memory_size": 128, "sequence_length": 16}})
    assert len(caught) == 1
    assert widths(found) == widths(network(begin, {}))


@pytest.mark.parametrize("name", MLAGENTS)
def test_a_setting_of_ml_agents_does_what_it_did(begin, make_store, monkeypatch, name):
    globals()[name.split(".")[-1]](begin, make_store, monkeypatch)


# Names and what is said beside them


def test_names_are_the_references():
    """None is known that has no effect tested here, but for PPO's and the environment's, which are translated only."""
    assert {*GAIL_KEYS} == {*KEYS, "total_timesteps"}
    assert {*COMMAND} >= {*ENVIRONMENT_FLAGS}
    assert {*FLAGS} == {*KEYS, *COMMAND}


def test_a_section_train_is_taken_as_it_is(tmp_path):
    (tmp_path / "gail_config.yaml").write_text(TRAIN)
    config = load_config(tmp_path / "gail_config.yaml")
    assert (config.algorithm, config.ppo.weight_decay, config.ppo.critic_weight_decay) == ("bc+gail", 1e-4, 1e-4)
    judge = config.discriminator
    assert (judge.learning_rate, judge.network.hidden, judge.dropout, judge.batch_size) == (3e-4, 256, 0.1, 1024)
    assert (judge.epochs, judge.update_every, judge.policy_buffer_size) == (5, 1, 50000)
    assert (judge.min_policy_data, judge.weight_decay) == (1000, 1e-4)


def test_settings_of_ml_agents_are_taken_as_they_are(tmp_path):
    text = """
    reward_signals:
      gail:
        strength: 0.5
        gamma: 0.95
        demo_path: demos/expert.zarr
        learning_rate: 3e-4
        use_actions: true
        use_vail: false
        network_settings: {normalize: false, hidden_units: 64, num_layers: 2, memory: null}
    """
    (tmp_path / "trainer.yaml").write_text(text)
    config = load_config(tmp_path / "trainer.yaml")
    settings = config.discriminator.mlagents
    assert config.discriminator.compat == "mlagents"
    assert config.environment_weight == 0.0
    assert (settings.strength, settings.gamma, settings.learning_rate, settings.use_actions) == (0.5, 0.95, 3e-4, True)
    assert (settings.demo_path, settings.network_settings.hidden_units) == ("demos/expert.zarr", 64)


def test_the_examples_on_the_command_line_are_taken_as_they_are(begin):
    flags = """--use-gail --discriminator-lr 1e-4 --discriminator-hidden-dim 512 --discriminator-epochs 10
        --discriminator-update-freq 2 --policy-weight-decay 1e-4 --discriminator-weight-decay 1e-4
        --total-timesteps 50000000 --num-worlds 2 --k-unique-scenes 5 --collision-weight 2.0
        --goal-achieved-weight 1.5"""
    config = begin(flags.split()).config
    assert (config.total_timesteps, config.discriminator.epochs, config.ppo.weight_decay) == (50_000_000, 10, 1e-4)
    assert (config.sim.collision_weight, config.sim.goal_achieved_weight) == (2.0, 1.5)
    config = begin(["--max-single-agent-envs", 32, "--total-timesteps", 1_000_000]).config
    assert (config.worlds.mode, config.worlds.max_single_agent_envs) == ("single_agent", 32)


@pytest.mark.parametrize(
    ("section", "names"), [("train", {**PPO_KEYS}), ("environment", {**ENVIRONMENT_KEYS, **ENVIRONMENT_FLAGS})]
)
def test_other_keys_of_the_same_sections_have_their_place(section, names):
    """Each is a key of the configuration, and what stands there arrives."""
    values = {
        "device": "cpu", "reward_type": "weighted_combination", "collision_behavior": "stop",
        "init_mode": "all_valid", "remove_non_vehicles": False, "gamma": 0.5, "gae_lambda": 0.5,
    }  # fmt: skip
    for name, key in names.items():
        value = values.get(name, 7)
        config = config_from_dict(translate({section: {name: value}}))
        for part in key.split("."):
            config = getattr(config, part)
        assert config == value, name


def test_what_is_said_in_our_names_counts_more():
    found = config_from_dict(
        translate({"train": {"use_gail": False, "discriminator_lr": 0.5, "learning_rate": 0.25}, "algorithm": "gail",
                   "discriminator": {"learning_rate": 0.125, "batch_size": 9}})
    )  # fmt: skip
    assert (found.algorithm, found.discriminator.learning_rate, found.ppo.learning_rate) == ("gail", 0.125, 0.25)
    assert found.discriminator.batch_size == 9


@pytest.mark.parametrize("order", [1, -1])
def test_a_reward_type_counts_more_than_that_there_are_weights(order):
    """As in GPUDrive, whose configurations have both, in whatever order."""
    section = {"reward_type": "sparse_on_goal_achieved", "collision_weight": -0.75}
    sim = config_from_dict(translate({"environment": dict(list(section.items())[::order])})).sim
    assert (sim.reward, sim.collision_weight) == ("sparse_on_goal_achieved", -0.75)
    assert config_from_dict(translate({"environment": {"collision_weight": 1}})).sim.reward == "weighted_combination"


def test_no_limit_of_single_agent_worlds_is_no_choice_of_them():
    found = config_from_dict(translate({"environment": {"max_single_agent_envs": None}}))
    assert found == TrainConfig()


def test_empty_sections_leave_everything_as_it_is():
    assert config_from_dict(translate({"train": None, "environment": None})) == TrainConfig()
    assert translate({"reward_signals": {"gail": None}}) == translate({"reward_signals": {"gail": {}}})


def test_a_configuration_in_our_names_alone_is_left_as_it_is():
    given = {"seed": 3, "ppo": {"gamma": 0.5}}
    assert translate(given) == given


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {discriminator_lrr: 1}", "unknown key train.discriminator_lrr; did you mean train.discriminator_lr?"),
        ("environment: {num_world: 1}", "unknown key environment.num_world; did you mean environment.num_worlds?"),
        ("environment: {polyline_reduction_threshold: 0.1}", "unknown key environment.polyline_reduction_threshold; "),
        ("train: 3", "unknown key train; "),
        ("reward_signals: {gail: {demo: x}}", "unknown key discriminator.mlagents.demo; did you mean discriminator."),
        ("train: {discriminator_lr: fast}", "discriminator.learning_rate is 'fast'; it must be a number"),
        (
            "train: {policy_buffer_size: 500, min_policy_data: 1000}",
            "discriminator.policy_buffer_size never holds discriminator.min_policy_data; raise it",
        ),
    ],
)
def test_what_is_unknown_or_unfit_is_one_sentence(tmp_path, text, told):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "config.yaml")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("train: {use_gail: maybe}", "use_gail is 'maybe'; it must be true or false"),
        ("train: {use_gail: 7}", "use_gail is 7; it must be true or false"),
        ("reward_signals: {curiosity: {strength: 1}}", "reward_signals has a section gail, and may have extrinsic"),
        ("reward_signals: {gail: {}, extrinsic: {gamma: 0.9}}", "gail and extrinsic must have the same gamma"),
        ("reward_signals: {gail: {}, extrinsic: {weight: 1}}", "reward_signals.extrinsic: unknown key weight"),
    ],
)
def test_what_the_references_could_not_mean_is_told(tmp_path, text, told):
    (tmp_path / "file.yaml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config(tmp_path / "file.yaml")


def test_an_extrinsic_signal_is_the_environments_reward(tmp_path):
    (tmp_path / "file.yaml").write_text("reward_signals: {gail: {gamma: 0.9}, extrinsic: {strength: 0.25, gamma: 0.9}}")
    config = load_config(tmp_path / "file.yaml")
    assert (config.environment_weight, config.ppo.gamma) == (0.25, 0.9)
