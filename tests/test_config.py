from dataclasses import replace

import pytest
import yaml

from gail_cli.gail.config.load import ConfigError, config_from_dict, config_to_dict, load_config
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.sim.env import SimConfig
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import Selection


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
    path = written(tmp_path, "seed: 3\nppo: {gamma: 0.9, epochs: 5}\n")
    settings = ["ppo.gamma=0.5", "sim.selection.max_agents=4", "discriminator.network.hidden=9", "reward.form=gail"]
    config = load_config(path, [*settings, "ppo.learning_rate=1e-4", "worlds.num_worlds=null", "seed=4", "seed=5"])
    assert (config.seed, config.ppo.gamma, config.ppo.epochs) == (5, 0.5, 5)
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
        ("seed.x=1", "seed: Input should be a valid integer (got {'x': 1})"),
        ("seed=much", "seed: Input should be a valid integer, unable to parse string as an integer (got 'much')"),
        ("ppo.epochs=2.5", "ppo.epochs: Input should be a valid integer"),
        ("ppo.epochs=null", "ppo.epochs: Input should be a valid integer (got None)"),
        ("ppo.gamma=[1]", "ppo.gamma: Input should be a valid number (got [1])"),
        ("device=gpu", "device: Input should be 'auto', 'cpu' or 'cuda' (got 'gpu')"),
        ("algorithm=sac", "algorithm: Input should be 'bc+gail', 'gail', 'bc' or 'ppo' (got 'sac')"),
        ("wandb.mode=later", "wandb.mode: Input should be 'online', 'offline' or 'disabled' (got 'later')"),
        ("reward.goal=1", "unknown key reward.goal; did you mean"),
        ("reward.form=softplus", "reward.form: Input should be 'logit', 'gail', 'airl', 'bounded' or 'dail' ("),
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
        ("seed=-1", "seed and total_timesteps must not be negative"),
        ("total_timesteps=-1", "seed and total_timesteps must not be negative"),
        ("checkpoint_every=0", "checkpoint_every must be positive"),
        ("data.pool_scenes=0", "data.pool_scenes is 0; it must be positive"),
        ("data.rows_per_scene=0", "data.rows_per_scene is 0; it must be positive"),
        ("data.max_replay_error=-1", "data.max_replay_error is -1.0; it must not be negative"),
        ("worlds.num_worlds=0", "worlds.num_worlds is 0; it must be positive"),
        ("worlds.rollouts_per_batch=0", "worlds.rollouts_per_batch is 0; it must be positive"),
        ("policy.hidden=0", "policy: hidden is 0; it must be positive"),
        ("discriminator.dropout=1", "discriminator.dropout is 1.0; it must be in [0, 1)"),
        ("bc.steps=-1", "bc.steps and bc.weight_decay must not be negative; 0 steps switch the warm start off"),
        ("bc.weight_decay=-1", "bc.steps and bc.weight_decay must not be negative"),
        ("bc.batch_size=0", "bc.batch_size is 0; it must be positive"),
        ("ppo.learning_rate=.nan", "ppo.learning_rate is nan; it must be positive"),
        ("ppo.clip=0", "ppo.clip is 0.0; it must be positive"),
        ("ppo.gamma=1.01", "ppo.gamma must be in (0, 1]"),
        ("ppo.gae_lambda=-0.1", "ppo.gae_lambda in [0, 1]"),
        ("discriminator.updates=0", "discriminator.updates is 0; it must be positive"),
        (
            "discriminator.epochs=0",
            "discriminator.epochs and discriminator.policy_buffer_size must be positive, or null",
        ),
        ("discriminator.policy_buffer_size=0", "discriminator.policy_buffer_size must be positive, or null"),
        ("discriminator.epochs=-1", "discriminator.epochs is -1; it must be positive"),
        ("discriminator.policy_buffer_size=-1", "discriminator.policy_buffer_size is -1; it must be positive"),
        ("discriminator.update_every=0", "discriminator.update_every is 0; it must be positive"),
        ("discriminator.min_policy_data=-1", "discriminator.min_policy_data is -1; it must not be negative"),
        ("ppo.critic_weight_decay=-1", "ppo.critic_weight_decay is -1.0; it must not be negative"),
        ("ppo.weight_decay=-1", "ppo.weight_decay is -1.0; it must not be negative"),
        ("masking.roads=1.5", "masking.roads is 1.5; it must be in [0, 1]"),
        ("masking.all_partners=-0.5", "masking.all_partners is -0.5; it must be in [0, 1]"),
        ("latent.codes=1", "latent.codes must be 0 or at least 2"),
        ("latent.codes=-1", "latent.codes must be 0 or at least 2"),
        ("latent.weight=-1", "latent.weight not negative"),
        ("latent.updates=0", "latent.updates is 0; it must be positive"),
        ("discriminator.label_smoothing=0.5", "discriminator.label_smoothing must be in [0, 0.5)"),
        ("reward.gail=-1", "reward.gail and reward.environment must not be negative"),
        ("reward.environment=-1", "reward.gail and reward.environment must not be negative"),
        ("ppo.warmup_iterations=-1", "ppo.warmup_iterations is -1; it must not be negative"),
        ("data.max_scenes=-2", "data.max_scenes is -2; it must be positive"),
        ("data.max_scenes=0", "data.max_scenes is 0; it must be positive"),
        ("reward.clip=0", "reward.clip is 0.0; it must be positive"),
        ("ppo.max_grad_norm=-1", "ppo.max_grad_norm is -1.0; it must be positive"),
        ("sim.goal_radius=0", "simulator: goal_radius is 0.0; it must be positive"),
        ("sim.on_goal=fly", "sim.on_goal"),
        ("observation.partners=0", "partners, road_segments and radius must be positive"),
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
        ("seed: much", "seed: Input should be a valid integer"),
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
        ("ppo", False, False, 0, 9, 1.0),
    ],
)
def test_what_an_algorithm_is_made_of(algorithm, adversarial, clones, steps, timesteps, weight):
    settings = {"bc": {"steps": 7}, "total_timesteps": 9, "reward": {"environment": 0.25}}
    config = config_from_dict({"algorithm": algorithm, **settings})
    assert (config.adversarial, config.clones) == (adversarial, clones)
    assert (config.cloning_steps, config.rollout_timesteps) == (steps, timesteps)
    assert config.environment_weight == weight


@pytest.mark.parametrize(("algorithm", "weight"), [("bc+gail", 0.3), ("gail", 0.0), ("ppo", 1.0)])
def test_the_environment_pays_beside_a_clone_unless_told_otherwise(algorithm, weight):
    assert config_from_dict({"algorithm": algorithm}).environment_weight == weight


def test_masks_hide_when_any_rate_is_positive():
    nothing = {"roads": 0, "all_roads": 0, "partners": 0, "all_partners": 0}
    assert not config_from_dict({"masking": nothing}).masking.hides
    assert all(config_from_dict({"masking": {**nothing, name: 0.1}}).masking.hides for name in nothing)


def test_latent_codes_need_rollouts():
    assert "latent.codes are learned from rollouts" in sentence(None, ["algorithm=bc", "latent.codes=3"])
