import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
import yaml

from gail_cli.gail.config.aliases import RENAMED
from gail_cli.gail.config.load import ConfigError, config_from_dict, config_to_dict, load_config
from gail_cli.gail.config.rules import explained
from gail_cli.gail.config.schema import PPOConfig, TrainConfig
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.layout import ObservationConfig


def written(tmp_path, text):
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return path


def sentence(*args):
    with pytest.raises(ConfigError) as caught:
        load_config(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults(tmp_path):
    assert load_config() == load_config(written(tmp_path, "")) == TrainConfig()
    assert TrainConfig().sim == SimConfig(reward="weighted_combination")
    assert TrainConfig().observation == ObservationConfig()


def test_yaml_round_trip(tmp_path):
    """Every level of nesting, and values that are not their defaults."""
    config = config_from_dict(
        {
            "seed": 7,
            "sim": {"on_goal": "remove", "horizon": 20, "selection": {"max_controlled": 3}},
            "observation": {"layout": "gpudrive"},
            "discriminator": {"network": {"hidden": 5}, "dropout": 0.5, "inputs": "state"},
            "ppo": {"learning_rate": 1e-7, "bootstrap_truncation": False},
        }
    )
    rules = {"on_goal": "remove", "horizon": 20, "reward": "weighted_combination"}
    assert config.sim == SimConfig(**rules, selection=Selection(max_controlled=3))
    assert load_config(written(tmp_path, yaml.safe_dump(config_to_dict(config)))) == config
    assert config_from_dict(config_to_dict(TrainConfig())) == TrainConfig()


def test_settings_go_over_the_file(tmp_path):
    path = written(tmp_path, "seed: 3\nppo: {gamma: 0.9, update_epochs: 5}\n")
    settings = ["ppo.gamma=0.5", "sim.selection.max_agents=4", "discriminator.network.hidden=9", "reward.form=gail"]
    config = load_config(path, [*settings, "ppo.learning_rate=1e-4", "worlds.num_worlds=null", "seed=4", "seed=5"])
    assert (config.seed, config.ppo.gamma, config.ppo.update_epochs) == (5, 0.5, 5)
    assert config.sim.selection == Selection(max_agents=4)
    assert config.discriminator.network == replace(TrainConfig().discriminator.network, hidden=9)
    assert config.reward.form == "gail"
    assert config.ppo.learning_rate == 1e-4  # which YAML 1.1 takes for a string
    assert config.worlds.num_worlds is None


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("ppo.gama=0.9", "unknown key ppo.gama; did you mean ppo.gamma?"),
        ("sed=1", "unknown key sed; did you mean seed?"),
        ("gamma=0.9", "unknown key gamma; did you mean ppo.gamma?"),
        ("discriminator.network.hiden=1", "unknown key discriminator.network.hiden; did you mean discriminator.netw"),
        ("sim.selection.max_agent=1", "unknown key sim.selection.max_agent; did you mean sim.selection.max_agents?"),
        ("bc.zzz=1", "unknown key bc.zzz; known keys: steps, "),
        ("ppo=3", "ppo is a section with keys, not a value (got 3)"),
        ("sim.selection=no", "sim.selection is a section with keys, not a value (got False)"),
        ("seed.x=1", "seed is {'x': 1}; it must be a whole number"),
        ("seed=much", "seed is 'much'; it must be a whole number"),
        ("ppo.update_epochs=2.5", "ppo.update_epochs is 2.5; it must be a whole number"),
        ("ppo.update_epochs=null", "ppo.update_epochs is null; it must be a whole number"),
        ("worlds.num_worlds=many", "worlds.num_worlds is 'many'; it must be a whole number, or null"),
        ("ppo.gamma=[1]", "ppo.gamma is [1]; it must be a number"),
        ("data.roles=[sdc, boss]", "data.roles[1] is 'boss'; it must be sdc, track_to_predict, object_of_interest, "),
        ("data.stores=demos", "data.stores is 'demos'; it must be a list, each item text"),
        ("sim.replay_lag=often", "sim.replay_lag is 'often'; it must be true or false"),
        ("device=gpu", "device is 'gpu'; it must be auto, cpu or cuda"),
        ("algorithm=sac", "algorithm is 'sac'; it must be bc+gail, gail, bc or ppo"),
        ("wandb.mode=later", "wandb.mode is 'later'; it must be online, offline or disabled"),
        ("reward.goal=1", "unknown key reward.goal; did you mean"),
        ("reward.form=softplus", "reward.form is 'softplus'; it must be logit, gail, airl, bounded or dail"),
        ("seed", "--set seed: must look like section.key=value"),
        ("=1", "--set =1: must look like section.key=value"),
        ("seed=[", "--set seed=[: the value is no valid YAML"),
    ],
)
def test_what_cannot_be_set_is_one_sentence(setting, told):
    assert told in sentence(None, [setting])


def test_a_value_is_no_section(tmp_path):
    told = sentence(written(tmp_path, "ppo: 3"), ["ppo.gamma=1"])
    assert told == "--set ppo.gamma=1: 'ppo' is a value, not a section"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("seed=-1", "seed is -1; it must not be negative"),
        ("total_timesteps=-1", "total_timesteps is -1; it must not be negative"),
        ("checkpoint_every=0", "checkpoint_every is 0; it must be positive"),
        ("data.pool_scenes=0", "data.pool_scenes is 0; it must be positive"),
        ("data.rows_per_scene=0", "data.rows_per_scene is 0; it must be positive"),
        ("data.max_replay_error=-1", "data.max_replay_error is -1; it must not be negative, or null"),
        ("worlds.num_worlds=0", "worlds.num_worlds is 0; it must be positive, or null"),
        ("worlds.rollouts_per_batch=0", "worlds.rollouts_per_batch is 0; it must be positive"),
        ("policy.hidden=0", "policy.hidden is 0; it must be positive"),
        ("discriminator.dropout=1", "discriminator.dropout is 1; it must be in [0, 1)"),
        ("bc.steps=-1", "bc.steps is -1; it must not be negative"),
        ("bc.weight_decay=-1", "bc.weight_decay is -1; it must not be negative"),
        ("bc.batch_size=0", "bc.batch_size is 0; it must be positive"),
        ("ppo.learning_rate=.nan", "ppo.learning_rate is nan; it must be a finite number"),
        ("ppo.clip_coef=0", "ppo.clip_coef is 0; it must be positive"),
        ("ppo.gamma=1.01", "ppo.gamma is 1.01; it must be in (0, 1]"),
        ("ppo.gae_lambda=-0.1", "ppo.gae_lambda is -0.1; it must be in [0, 1]"),
        ("discriminator.updates=0", "discriminator.updates is 0; it must be positive"),
        ("discriminator.epochs=0", "discriminator.epochs is 0; it must be positive, or null"),
        ("discriminator.policy_buffer_size=0", "discriminator.policy_buffer_size is 0; it must be positive, or null"),
        ("discriminator.epochs=-1", "discriminator.epochs is -1; it must be positive"),
        ("discriminator.policy_buffer_size=-1", "discriminator.policy_buffer_size is -1; it must be positive"),
        ("discriminator.update_every=0", "discriminator.update_every is 0; it must be positive"),
        ("discriminator.min_policy_data=-1", "discriminator.min_policy_data is -1; it must not be negative"),
        ("ppo.critic_weight_decay=-1", "ppo.critic_weight_decay is -1; it must not be negative"),
        ("ppo.weight_decay=-1", "ppo.weight_decay is -1; it must not be negative"),
        ("masking.roads=1.5", "masking.roads is 1.5; it must be in [0, 1]"),
        ("masking.all_partners=-0.5", "masking.all_partners is -0.5; it must be in [0, 1]"),
        ("latent.codes=1", "latent.codes is 1; it must be 0 or at least 2"),
        ("latent.codes=-1", "latent.codes is -1; it must not be negative"),
        ("latent.weight=-1", "latent.weight is -1; it must not be negative"),
        ("latent.updates=0", "latent.updates is 0; it must be positive"),
        ("discriminator.label_smoothing=0.5", "discriminator.label_smoothing is 0.5; it must be in [0, 0.5)"),
        ("reward.gail=-1", "reward.gail is -1; it must not be negative"),
        ("reward.environment=-1", "reward.environment is -1; it must not be negative, or null"),
        ("ppo.warmup_iterations=-1", "ppo.warmup_iterations is -1; it must not be negative"),
        ("data.max_scenes=-2", "data.max_scenes is -2; it must be positive"),
        ("data.max_scenes=0", "data.max_scenes is 0; it must be positive"),
        ("reward.clip=0", "reward.clip is 0; it must be positive"),
        ("ppo.max_grad_norm=-1", "ppo.max_grad_norm is -1; it must be positive"),
        ("sim.goal_radius=0", "sim.goal_radius is 0; it must be positive"),
        ("sim.on_goal=fly", "sim.on_goal is 'fly'; it must be ignore, stop or remove"),
        ("observation.partners=0", "observation.partners is 0; it must be positive"),
    ],
)
def test_values_that_make_no_sense_are_refused(setting, told):
    assert told in sentence(None, [setting])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ppo: [", "is no valid YAML"),
        ("- seed", "must hold `key: value` lines, not a list"),
        ("seed", "must hold `key: value` lines, not a str"),
        ("ppo:\n", "ppo is a section with keys, not a value (got None)"),
        ("1: 2", "unknown key 1; known keys: algorithm, seed"),
        ("ppo: {gama: 1}", "unknown key ppo.gama; did you mean ppo.gamma?"),
        ("seed: much", "seed is 'much'; it must be a whole number"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, text, told):
    path = written(tmp_path, text)
    message = sentence(path)
    assert message.startswith(f"{path}: ")
    assert told in message


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot be read (" in sentence(tmp_path / "missing.yaml")
    assert "cannot be read (" in sentence(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read (" in sentence(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("algorithm", "adversarial", "clones", "steps", "timesteps", "weight"),
    [
        ("bc+gail", True, True, 7, 9, 0.25),
        ("gail", True, False, 0, 9, 0.25),
        ("bc", False, True, 7, 0, 0.25),
        ("ppo", False, False, 0, 9, 0.25),
    ],
)
def test_what_an_algorithm_is_made_of(algorithm, adversarial, clones, steps, timesteps, weight):
    settings = {"bc": {"steps": 7}, "total_timesteps": 9, "reward": {"environment": 0.25}}
    config = config_from_dict({"algorithm": algorithm, **settings})
    assert (config.adversarial, config.clones) == (adversarial, clones)
    assert (config.cloning_steps, config.rollout_timesteps) == (steps, timesteps)
    assert config.environment_weight == weight
    unpaid = replace(config, reward=replace(config.reward, gail=0.0))
    assert (unpaid.adversarial, unpaid.matched) == (False, config.matched)


@pytest.mark.parametrize(
    ("algorithm", "environment", "events"), [("bc+gail", 0.0, 1.0), ("gail", 0.0, 0.0), ("ppo", 1.0, 0.0)]
)
def test_events_pay_beside_a_clone_and_the_environment_where_nobody_else_does(algorithm, environment, events):
    config = config_from_dict({"algorithm": algorithm})
    assert (config.environment_weight, config.events_weight) == (environment, events)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["algorithm=gail", "bc.run=a"],
            "bc.run is a clone to begin with, but algorithm gail begins with none; leave it",
        ),
        (
            ["algorithm=gail", "reward.gail=0"],
            "rollouts are paid nothing: .*; give one of them a weight, or choose algorithm bc",
        ),
        (["ppo.train_encoder=false"], "ppo.train_encoder is false; it must be a whole number, or null"),
        (["ppo.train_encoder=5", "discriminator.policy_buffer_size=9"], "would hold what the eyes made of earlier"),
    ],
)
def test_settings_of_clones_and_eyes_that_do_not_go_together_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        load_config(None, settings)


def test_masks_hide_when_any_rate_is_positive():
    nothing = {"roads": 0, "all_roads": 0, "partners": 0, "all_partners": 0}
    assert not config_from_dict({"masking": nothing}).masking.hides
    assert all(config_from_dict({"masking": {**nothing, name: 0.1}}).masking.hides for name in nothing)


def test_a_manager_of_codes_needs_rollouts_and_codes_do_not():
    assert load_config(None, ["algorithm=bc", "latent.codes=3"]).latent.codes == 3
    told = sentence(None, ["algorithm=bc", "latent.codes=3", "latent.every=10"])
    assert "latent.every is for a manager, which learns from rollouts" in told


OLD = "ppo: {clip: 0.3, epochs: 7, entropy: 0.5, bc_coefficient: 2}"
"""Settings by the names that earlier versions gave them."""


def coefficients(config):
    return config.ppo.clip_coef, config.ppo.update_epochs, config.ppo.entropy_coef, config.ppo.bc_coef


def test_names_of_earlier_versions_are_read(tmp_path):
    """From a file, from the command line, and from the complete configuration that a run left."""
    assert coefficients(load_config(written(tmp_path, OLD))) == (0.3, 7, 0.5, 2.0)
    assert coefficients(load_config(None, ["ppo.clip=0.3", "ppo={epochs: 7}"])) == (0.2, 7, 1e-2, 0.25)
    before = config_to_dict(TrainConfig())
    for old, new in RENAMED.items():
        before["ppo"][old.removeprefix("ppo.")] = before["ppo"].pop(new.removeprefix("ppo."))
    assert list(before["ppo"])[-4:] == ["clip", "epochs", "entropy", "bc_coefficient"]
    assert config_from_dict(before) == TrainConfig()
    assert "clip" in before["ppo"]  # what was given stays as it is


def test_a_setting_of_the_command_line_counts_more_than_a_file_with_another_name_of_it(tmp_path):
    path = written(tmp_path, OLD)
    assert coefficients(load_config(path, ["ppo.clip_coef=0.1", "ppo.epochs=2"])) == (0.1, 2, 0.5, 2.0)
    path = written(tmp_path, "ppo: {clip_coef: 0.3}")
    assert load_config(path, ["ppo.clip=0.1"]).ppo.clip_coef == 0.1


def test_a_setting_has_one_name_in_a_file(tmp_path):
    told = sentence(written(tmp_path, "ppo: {clip: 0.3, clip_coef: 0.2}"))
    assert told.endswith(": ppo.clip is an earlier name of ppo.clip_coef, and both are given; leave out ppo.clip")
    with pytest.raises(ConfigError, match=r"ppo\.epochs is an earlier name of ppo\.update_epochs"):
        config_from_dict({"ppo": {"epochs": 1, "update_epochs": 1}})
    assert "both are given" in sentence(None, ["ppo={clip: 0.3, clip_coef: 0.2}"])


def test_an_error_has_fields(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config(written(tmp_path, "ppo: {epochs: 0}"))
    error = caught.value
    found = error.where, error.what, error.fix
    assert found == (str(tmp_path / "run.yaml"), "ppo.update_epochs is 0", "it must be positive")
    with pytest.raises(ConfigError) as caught:
        config_from_dict({"worlds": {"max_single_agent_envs": 3}})
    assert caught.value.fix == "set that, or leave it out"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: PPOConfig(update_epochs=0), "update_epochs is 0; it must be positive"),
        (lambda: PPOConfig(gamma=float("inf")), "gamma is inf; it must be a finite number"),
        (lambda: PPOConfig(epochs=1), "epochs is 1; Unexpected keyword argument"),
        (lambda: replace(PPOConfig(), clip_coef=-1.0), "clip_coef is -1.0; it must be positive"),
    ],
)
def test_settings_made_directly_are_checked_too(make, told):
    with pytest.raises(ValueError, match="PPOConfig") as caught:
        make()
    assert explained(caught.value, PPOConfig) == told


def test_settings_are_plain_values():
    """Equal settings have one hash, numbers are what was given, and lists of YAML become tuples."""
    config = config_from_dict({"ppo": {"learning_rate": 1e-4}, "data": {"stores": ["a"]}, "sim": {"goal_radius": 2}})
    again = config_from_dict(config_to_dict(config))
    assert config == again
    assert hash(config.ppo) == hash(again.ppo)
    assert (config.ppo.learning_rate, config.data.stores) == (1e-4, ("a",))
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(FrozenInstanceError):
        config.ppo.gamma = 0.5
