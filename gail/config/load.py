"""A run's configuration out of YAML and ``--set section.key=value``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import yaml

from gail_cli.gail.config.aliases import RENAMED, SECTIONS, over, renamed, translate
from gail_cli.gail.config.rules import hints, refusal, section_of
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.sim.errors import UserError


class ConfigError(UserError):
    """A configuration that cannot be used, in one sentence."""


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
            raise ConfigError(where, f"cannot be read ({error})", "check the path") from error
        except yaml.YAMLError as error:
            raise ConfigError(where, f"is no valid YAML ({' '.join(str(error).split())})") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(where, f"must hold `key: value` lines, not a {type(loaded).__name__}")
        try:
            data = translate(loaded or {})
        except ValueError as error:
            raise ConfigError(where, *refusal(error, TrainConfig)) from error
    for setting in settings:
        data = _applied(data, setting)
    return config_from_dict(data, where)


def config_from_dict(data: Mapping[str, Any], where: str = "configuration") -> TrainConfig:
    """A configuration from nested dictionaries, in which keys may have the names that earlier versions gave them.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    try:
        given = renamed(data) if isinstance(data, Mapping) else data
        _check_keys(given, TrainConfig, where, "")
        # of the observation only what is given, as the layout decides over the rest
        return TrainConfig(**over(asdict(TrainConfig()) | {"observation": {}}, given))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(where, *refusal(error, TrainConfig)) from error


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested dictionaries that :func:`config_from_dict` turns back into an equal configuration."""
    return asdict(config)


def flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by their dotted names."""
    values = {path: attrgetter(path)(config) for path in _paths(TrainConfig)}
    return {path: asdict(x) if is_dataclass(x) and not isinstance(x, type) else x for path, x in values.items()}


def _applied(data: dict[str, Any], setting: str) -> dict[str, Any]:
    """The settings with one of the command line over them."""
    where = f"--set {setting}"
    key, equals, value = setting.partition("=")
    if not equals or not key:
        raise ConfigError(where, "must look like section.key=value")
    *sections, name = RENAMED.get(key, key).split(".")
    place = data
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise ConfigError(where, f"{section!r} is a value, not a section")
    try:
        place[name] = yaml.safe_load(value)
        return renamed(data)  # the value may be a whole section
    except yaml.YAMLError as error:
        raise ConfigError(where, "the value is no valid YAML") from error
    except ValueError as error:
        raise ConfigError(where, str(error)) from error


def _paths(kind: type, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys below a dataclass."""
    for name, hint in hints(kind).items():
        if is_dataclass(hint):
            yield from _paths(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield prefix + name


def _check_keys(data: Any, kind: type, where: str, prefix: str) -> None:
    """Refuse keys that the dataclass ``kind`` does not have, section by section."""
    if not isinstance(data, Mapping):
        what = prefix.rstrip(".") or "a configuration"
        raise ConfigError(where, f"{what} is a section with keys, not a value (got {data!r})")
    known = list(hints(kind))
    for key, value in data.items():
        if key not in known:
            elsewhere = [path for path in _paths(TrainConfig) if path.split(".")[-1] == key]
            section, _, name = str(key).partition(".")  # of an earlier system's section, see gail/config/aliases.py
            names = [f"{section}.{known}" for known in SECTIONS[section]] if name and section in SECTIONS else known
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.4)
            nearest = elsewhere or [prefix + name for name in near]
            hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
            raise ConfigError(where, f"unknown key {prefix}{key}", hint)
        section = section_of(hints(kind)[key])
        if section is not None and (value is not None or section is hints(kind)[key]):
            _check_keys(value, section, where, f"{prefix}{key}.")
