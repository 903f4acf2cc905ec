"""The configuration of a run: typed dataclasses, read from YAML and ``--set section.key=value``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from sim.env import GPUDRIVE_AGENTS, SimConfig
from sim.layout import ObservationConfig

RoleName = Literal["sdc", "track_to_predict", "object_of_interest", "mark_as_expert", "parked", "late"]
"""Names of :class:`~sim.scene.Role`, in small letters."""

_LONGEST_ECHO = 60
"""Characters of a bad value that an error repeats; a whole section is longer."""


class ConfigError(ValueError):
    """A configuration that cannot be used, in one sentence."""


def _positive(section: str, **values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{section}.{name} is {value}; it must be positive")


@dataclass(frozen=True)
class DemoFilter:
    """Which demos a run learns from. It changes nobody's part in the simulation: see ``sim.selection`` for that."""

    split: Literal["train", "validation", "test", "all"] = "train"
    """Scenes of this split alone, for demos and for worlds; a store that was not split is all ``train``."""
    types: tuple[Literal["vehicle", "pedestrian", "cyclist", "other"], ...] | None = None
    """Demos of these agent types alone; None for all."""
    roles: tuple[RoleName, ...] = ()
    """Demos of agents that have all of these roles alone."""
    without_roles: tuple[RoleName, ...] = ()
    """Demos of agents that have none of these roles alone."""
    max_replay_error: float | None = None
    """Demos whose mean distance from the log (``ade_m``) is at most this alone, m; None for all."""

    def __post_init__(self) -> None:
        if self.max_replay_error is not None and self.max_replay_error < 0:
            raise ValueError(f"data.max_replay_error is {self.max_replay_error}; it must not be negative")


@dataclass(frozen=True)
class DataConfig(DemoFilter):
    """Which expert demos are read from the store, and how."""

    agents: Literal["vehicles", "vru"] = "vehicles"
    """Whom the policy drives: vehicles, or pedestrians and cyclists, of whom the store must have demos
    (``extract-demos --agents all``) and ``sim.selection.remove_non_vehicles`` must be false."""
    weights: Literal["transition", "scene"] = "transition"
    """``transition``: each transition is drawn alike; ``scene``: each scene is, then a transition in it, so that scenes
    with many agents count no more than others."""
    pool_scenes: int = 4096
    """Scenes held ready for sampling, some 125 kB each; this bounds memory, whatever the size of the store."""
    rows_per_scene: int = 256
    """Rows drawn a scene, on average, before it makes room for another (nothing is replaced if all fit). A real scene
    has some 800 transitions; fewer rows mix better and cost more reading."""
    dynamics: Literal["classic", "bicycle", "delta_local"] | None = None
    """What the store must hold for this run; None takes what it has. Checked by ``gail-cli validate --config``."""
    actions: Literal["discrete", "continuous"] | None = None
    """Likewise for the kind of actions."""
    grid: str | None = None
    """Likewise for the named action grid."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _positive("data", pool_scenes=self.pool_scenes, rows_per_scene=self.rows_per_scene)


@dataclass(frozen=True)
class WorldsConfig:
    """Which worlds a rollout visits."""

    num_worlds: int | None = None
    """Scenes simulated side by side, which the store must have; None: 32, or as many as there are."""
    rollouts_per_batch: int = 1
    """Rollouts before the next scenes come (loaded in the background)."""

    def __post_init__(self) -> None:
        worlds = 1 if self.num_worlds is None else self.num_worlds
        _positive("worlds", rollouts_per_batch=self.rollouts_per_batch, num_worlds=worlds)


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of an entity encoder and the layers behind it."""

    entity_hidden: int = 32
    """Width of the layers that look at one partner or one road segment."""
    hidden: int = 128
    """Width of the layers behind the pooling."""

    def __post_init__(self) -> None:
        _positive("network", entity_hidden=self.entity_hidden, hidden=self.hidden)


@dataclass(frozen=True)
class BCConfig:
    """Behaviour cloning before the first rollout."""

    steps: int = 1500
    """Gradient steps; 0 starts from a random policy."""
    batch_size: int = 512
    learning_rate: float = 1e-3
    """Falls to zero over the steps along a cosine."""

    def __post_init__(self) -> None:
        _positive("bc", batch_size=self.batch_size, learning_rate=self.learning_rate)
        if self.steps < 0:
            raise ValueError("bc.steps is negative; 0 switches the warm start off")


@dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al. 2017)."""

    learning_rate: float = 3e-5
    critic_learning_rate: float = 1e-3
    gamma: float = 0.98
    gae_lambda: float = 0.95
    clip: float = 0.2
    epochs: int = 3
    minibatch_size: int = 1024
    entropy: float = 1e-3
    max_grad_norm: float = 0.5
    weight_decay: float = 0.0
    warmup_iterations: int = 2
    """First rollouts after the warm start in which critic and discriminator learn but the policy does not."""
    bc_coefficient: float = 0.5
    """Weight of the cloning loss on an expert batch beside each policy minibatch; 0 switches it off."""
    bc_batch_size: int = 256
    bootstrap_truncation: bool = True
    """Value the future of an agent whose time or log ran out; False treats that as the end."""

    def __post_init__(self) -> None:
        _positive("ppo", learning_rate=self.learning_rate, epochs=self.epochs, minibatch_size=self.minibatch_size)
        _positive("ppo", critic_learning_rate=self.critic_learning_rate, clip=self.clip)
        _positive("ppo", max_grad_norm=self.max_grad_norm, bc_batch_size=self.bc_batch_size)
        for name in ("entropy", "weight_decay", "bc_coefficient"):
            if getattr(self, name) < 0:
                raise ValueError(f"ppo.{name} is {getattr(self, name)}; it must not be negative")
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise ValueError("ppo.gamma must be in (0, 1] and ppo.gae_lambda in [0, 1]")


@dataclass(frozen=True)
class DiscriminatorConfig:
    """The network that tells expert from policy, and how it learns."""

    inputs: Literal["state", "state_action"] = "state_action"
    network: NetworkConfig = field(default_factory=NetworkConfig)
    dropout: float = 0.1
    """Share of hidden units left out while it learns; rewards are given without."""
    learning_rate: float = 1e-3
    """Of AdamW, with beta_1 = 0.5."""
    weight_decay: float = 1e-4
    batch_size: int = 512
    """Of expert and of policy samples each."""
    updates: int = 40
    """Gradient steps a rollout."""
    gradient_penalty: float = 0.0
    """Weight of mean (|gradient of the logit| - 1)^2 at random interpolates (Gulrajani et al. 2017); 0 is off.
    Observations have scales of 1, on which expert and policy differ by hundredths: a unit slope hides that."""
    label_smoothing: float = 0.0
    max_accuracy: float = 0.9
    """No further update in a rollout while the balanced accuracy is above this."""

    def __post_init__(self) -> None:
        _positive("discriminator", learning_rate=self.learning_rate, batch_size=self.batch_size, updates=self.updates)
        for name in ("gradient_penalty", "weight_decay"):
            if getattr(self, name) < 0:
                raise ValueError(f"discriminator.{name} is {getattr(self, name)}; it must not be negative")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"discriminator.dropout is {self.dropout}; it must be in [0, 1)")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError("discriminator.label_smoothing must be in [0, 0.5)")


@dataclass(frozen=True)
class RewardConfig:
    """From the discriminator's logit, and the events of the world, to the reward."""

    form: Literal["logit", "gail", "airl", "bounded"] = "logit"
    """See :mod:`gail.rewards`."""
    clip: float = 10.0
    gail: float = 1.0
    """Weight of the discriminator's reward."""
    goal: float = 0.0
    """Reward of the first step at the goal."""
    collision: float = 0.0
    """Reward of every step in contact with another agent (negative to punish)."""
    off_road: float = 0.0
    """Reward of every step on a road edge (negative to punish)."""

    def __post_init__(self) -> None:
        _positive("reward", clip=self.clip)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run, beside the store."""

    seed: int = 0
    total_timesteps: int = 1_000_000
    """Steps of controlled agents."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["embedded", "gpudrive"] = "embedded"
    """The simulator that policies drive in: this project's own, or the real GPUDrive, which has to be installed, needs
    ``sim.compat: gpudrive``, and takes ``sim.selection.max_agents`` null for its 64."""
    checkpoint_every: int = 10
    """Rollouts."""
    data: DataConfig = field(default_factory=DataConfig)
    worlds: WorldsConfig = field(default_factory=WorldsConfig)
    sim: SimConfig = field(default_factory=SimConfig)
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    policy: NetworkConfig = field(default_factory=NetworkConfig)
    bc: BCConfig = field(default_factory=BCConfig)
    ppo: PPOConfig = field(default_factory=PPOConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        if self.seed < 0 or self.total_timesteps < 0 or self.checkpoint_every < 1:
            raise ValueError("seed and total_timesteps must not be negative, checkpoint_every must be positive")
        if self.backend == "gpudrive":
            object.__setattr__(self, "sim", _held_by_gpudrive(self.sim))


def _held_by_gpudrive(sim: SimConfig) -> SimConfig:
    """The rules with as many agents as GPUDrive holds.

    Raises:
        ValueError: when the rules are not GPUDrive's, or ask for more.
    """
    if sim.compat != "gpudrive":
        raise ValueError("backend gpudrive drives by GPUDrive's own rules; set sim.compat to gpudrive too")
    most = sim.selection.max_agents
    if most is not None and most > GPUDRIVE_AGENTS:
        raise ValueError(f"GPUDrive holds {GPUDRIVE_AGENTS} agents a world; lower sim.selection.max_agents ({most})")
    return replace(sim, selection=replace(sim.selection, max_agents=most or GPUDRIVE_AGENTS))


def load_config(path: str | Path | None = None, settings: Sequence[str] = ()) -> TrainConfig:
    """A configuration from a YAML file (the defaults when None) and ``section.key=value`` settings over it.

    Raises:
        ConfigError: for a file that cannot be read, an unknown key (naming the nearest known one), or a bad value.
    """
    data: dict[str, Any] = {}
    where = "configuration"
    if path is not None:
        where = str(path)
        try:
            loaded = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}); check the path") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is no valid YAML ({' '.join(str(error).split())})") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path}: must hold `key: value` lines, not a {type(loaded).__name__}")
        data = loaded or {}
    for setting in settings:
        _apply(data, setting)
    return config_from_dict(data, where)


def config_from_dict(data: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
    """A configuration from nested dictionaries.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    _check_keys(data, TrainConfig, where, "")
    try:
        config = TypeAdapter(TrainConfig).validate_python(_over(asdict(TrainConfig()), data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        got = f" (got {first['input']!r})" if len(repr(first["input"])) < _LONGEST_ECHO else ""
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{message}{got}") from error
    for path in _paths(TrainConfig):
        value = attrgetter(path)(config)
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {path} is {value}; it must be a finite number")
    return config


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested dictionaries that :func:`config_from_dict` turns back into an equal configuration."""
    return asdict(config)


def _apply(data: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {setting}: must look like section.key=value")
    *sections, name = key.split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise ConfigError(f"--set {setting}: {section!r} is a value, not a section")
    try:
        data[name] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {setting}: the value is no valid YAML") from error


def _over(defaults: dict[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """``defaults`` with the values of ``data`` in their place, section by section."""
    result = dict(defaults)
    for key, value in data.items():
        both = isinstance(value, Mapping) and isinstance(defaults[key], dict)
        result[key] = _over(defaults[key], value) if both else value
    return result


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys below a dataclass."""
    for name, hint in get_type_hints(kind).items():
        if is_dataclass(hint):
            yield from _paths(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _check_keys(data: Any, kind: type, where: str, prefix: str) -> None:
    """Refuse keys that the dataclass ``kind`` does not have, section by section."""
    if not isinstance(data, Mapping):
        what = prefix.rstrip(".") or "a configuration"
        raise ConfigError(f"{where}: {what} is a section with keys, not a value (got {data!r})")
    hints = get_type_hints(kind)
    known = [f.name for f in fields(kind)]
    for key, value in data.items():
        if key not in known:
            elsewhere = [path for path in _paths(TrainConfig) if path.split(".")[-1] == key]
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.4)
            nearest = elsewhere or [prefix + name for name in near]
            hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; {hint}")
        if is_dataclass(hints[key]):
            _check_keys(value, hints[key], where, f"{prefix}{key}.")
