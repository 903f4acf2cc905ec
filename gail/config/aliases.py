"""The names that settings had in earlier versions and in two earlier systems, and where they are here.

A configuration may use GAIL-for-GPUDrive's sections ``train`` and ``environment`` and ML-Agents' ``reward_signals`` as
they are; so may the command line use the former's flags. docs/configuration.md says what each does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Settings = dict[str, Any]
"""Values by dotted key of :class:`gail.config.schema.TrainConfig`."""

GAIL_KEYS = {
    "use_gail": "algorithm",
    "discriminator_lr": "discriminator.learning_rate",
    "discriminator_hidden_dim": "discriminator.network.hidden",
    "discriminator_dropout": "discriminator.dropout",
    "discriminator_batch_size": "discriminator.batch_size",
    "discriminator_epochs": "discriminator.epochs",
    "discriminator_update_freq": "discriminator.update_every",
    "policy_buffer_size": "discriminator.policy_buffer_size",
    "min_policy_data": "discriminator.min_policy_data",
    "policy_weight_decay": "ppo.weight_decay",
    "value_weight_decay": "ppo.critic_weight_decay",
    "discriminator_weight_decay": "discriminator.weight_decay",
    "total_timesteps": "total_timesteps",
}
"""GAIL-for-GPUDrive's keys of ``train``, which are flags too."""

PPO_KEYS = {
    "seed": "seed",
    "device": "device",
    "learning_rate": "ppo.learning_rate",
    "gamma": "ppo.gamma",
    "gae_lambda": "ppo.gae_lambda",
    "update_epochs": "ppo.update_epochs",
    "minibatch_size": "ppo.minibatch_size",
    "clip_coef": "ppo.clip_coef",
    "ent_coef": "ppo.entropy_coef",
    "max_grad_norm": "ppo.max_grad_norm",
    "checkpoint_interval": "checkpoint_every",
}
"""Keys of ``train`` that it has from GPUDrive's PPO."""

ENVIRONMENT_FLAGS = {
    "num_worlds": "worlds.num_worlds",
    "k_unique_scenes": "data.max_scenes",
    "collision_weight": "sim.collision_weight",
    "off_road_weight": "sim.off_road_weight",
    "goal_achieved_weight": "sim.goal_achieved_weight",
    "max_single_agent_envs": "worlds.max_single_agent_envs",
}
"""Its keys of ``environment`` that are flags too."""

ENVIRONMENT_KEYS = {
    "reward_type": "sim.reward",
    "collision_behavior": "sim.on_collision",
    "dist_to_goal_threshold": "sim.goal_radius",
    "obs_radius": "observation.radius",
    "max_controlled_agents": "sim.selection.max_controlled",
    "init_mode": "sim.selection.init_mode",
    "remove_non_vehicles": "sim.selection.remove_non_vehicles",
}
"""Keys of ``environment`` that it has from GPUDrive."""

SECTIONS = {
    "train": GAIL_KEYS | PPO_KEYS,
    "environment": ENVIRONMENT_FLAGS | ENVIRONMENT_KEYS,
}
FLAGS = GAIL_KEYS | ENVIRONMENT_FLAGS | {"single_agent": "worlds.mode"}
"""Settings that are flags, and the choice between its two programs, for many agents per world and for one."""

RENAMED = {
    "ppo.clip": "ppo.clip_coef",
    "ppo.epochs": "ppo.update_epochs",
    "ppo.entropy": "ppo.entropy_coef",
    "ppo.bc_coefficient": "ppo.bc_coef",
}
"""Keys by the names that earlier versions gave them, which are still read: from files, ``--set``, and earlier runs."""

MLAGENTS = "discriminator.mlagents"
"""Where the settings of ML-Agents' ``reward_signals.gail`` are, under their own names."""


def settings_of(name: str, value: Any) -> Settings:
    """What a key or a flag of GAIL-for-GPUDrive sets.

    Raises:
        ValueError: for a switch that is neither true nor false.
    """
    if name in ("use_gail", "single_agent") and not isinstance(value, bool):
        raise ValueError(f"{name} is {value!r}; it must be true or false")
    if name == "use_gail":
        return {"algorithm": "bc+gail", "reward.events": 0.0} if value else {"algorithm": "ppo"}
    if name == "single_agent":
        return {"worlds.mode": "single_agent" if value else "multi_agent"}
    key = (SECTIONS["train"] | SECTIONS["environment"])[name]
    if name in ("collision_weight", "off_road_weight", "goal_achieved_weight"):
        return {"sim.reward": "weighted_combination", key: value}
    if name == "max_single_agent_envs" and value is not None:
        return {"worlds.mode": "single_agent", key: value}
    return {key: value}


def translate(data: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the earlier systems' sections put where their settings are here, under what is said here.

    Keys that are unknown stay where they are, for whoever checks the configuration to refuse.

    Args:
        data: nested dictionaries, as read from YAML.

    Raises:
        ValueError: for a switch that is neither true nor false, rewards of several discounts, or a setting that is
            given under its name and under an earlier one.
    """
    found: Settings = {}
    rest = {name: value for name, value in data.items() if name not in (*SECTIONS, "reward_signals")}
    for section, keys in SECTIONS.items():
        given = data.get(section)
        if given is None:
            continue
        if not isinstance(given, Mapping):
            rest[section] = given
            continue
        for name, value in given.items():
            if name in keys:
                found |= settings_of(name, value)
            else:
                rest[f"{section}.{name}"] = value
        if "reward_type" in given:  # over what the weights say
            found |= settings_of("reward_type", given["reward_type"])
    signals = data.get("reward_signals")
    if "reward_signals" in data:
        found |= _signals(signals)
    return over(_nested(found), renamed(rest))


def _signals(signals: Any) -> Settings:
    """What ML-Agents' ``reward_signals`` set: ``gail``, and the strength of ``extrinsic``, the environment's reward."""
    if isinstance(signals, Mapping):
        signals = {name: {} if signal is None else signal for name, signal in signals.items()}
    known = isinstance(signals, Mapping) and {"gail"} <= set(signals) <= {"gail", "extrinsic"}
    if not known or not all(isinstance(signal, Mapping) for signal in signals.values()):
        raise ValueError("reward_signals has a section gail, and may have extrinsic; there are no others here")
    gail, extrinsic = dict(signals["gail"]), dict(signals.get("extrinsic", {}))
    strength = extrinsic.pop("strength", 1.0 if "extrinsic" in signals else 0.0)
    if extrinsic.pop("gamma", gail.get("gamma", 0.99)) != gail.get("gamma", 0.99):
        raise ValueError("reward_signals: gail and extrinsic must have the same gamma; here all rewards have one")
    if extrinsic:
        raise ValueError(f"reward_signals.extrinsic: unknown key {next(iter(extrinsic))}; it has strength and gamma")
    weights = {"reward.gail": 1.0, "reward.environment": strength, "reward.events": 0.0}
    return {"discriminator.compat": "mlagents", **weights, MLAGENTS: gail}


def _nested(settings: Settings) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return nested


def renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with the keys of :data:`RENAMED` under their present names.

    Args:
        data: nested dictionaries; left as they are.

    Raises:
        ValueError: for a setting that is given under both names.
    """
    result = dict(data)
    for old, new in RENAMED.items():
        section, _, name = old.partition(".")
        place = result.get(section)
        if not isinstance(place, Mapping) or name not in place:
            continue
        now = new.partition(".")[2]
        if now in place:
            raise ValueError(f"{old} is an earlier name of {new}, and both are given; leave out {old}")
        result[section] = {now if key == name else key: value for key, value in place.items()}
    return result


def over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with the values of ``above`` in their place, section by section."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), dict)
        result[key] = over(result[key], value) if both else value
    return result
