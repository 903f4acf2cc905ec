"""A run's configuration out of YAML and ``--set section.key=value``."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from gail_cli.gail.config.aliases import SECTIONS, over, translate
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.sim.errors import UserError

_LONGEST_ECHO = 60
"""Characters of a bad value that an error repeats; a whole section is longer."""


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
            raise ConfigError(f"{path}: cannot be read ({error}); check the path") from error
        except yaml.YAMLError as error:
            raise ConfigError(f"{path}: is no valid YAML ({' '.join(str(error).split())})") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"{path}: must hold `key: value` lines, not a {type(loaded).__name__}")
        try:
            data = translate(loaded or {})
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from error
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
        config = TypeAdapter(TrainConfig).validate_python(over(asdict(TrainConfig()), data))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        got = f" (got {first['input']!r})" if len(repr(first["input"])) < _LONGEST_ECHO else ""
        raise ConfigError(f"{where}: {f'{key}: ' if key else ''}{message}{got}") from error
    for path, value in flat(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{where}: {path} is {value}; it must be a finite number")
    return config


def config_to_dict(config: TrainConfig) -> dict[str, Any]:
    """Nested dictionaries that :func:`config_from_dict` turns back into an equal configuration."""
    return asdict(config)


def flat(config: TrainConfig) -> dict[str, Any]:
    """All settings by their dotted names."""
    return {path: attrgetter(path)(config) for path in _paths(TrainConfig)}


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
            section, _, name = str(key).partition(".")  # of an earlier system's section, see gail/reference.py
            names = [f"{section}.{known}" for known in SECTIONS[section]] if name and section in SECTIONS else known
            near = difflib.get_close_matches(str(key), names, n=1, cutoff=0.4)
            nearest = elsewhere or [prefix + name for name in near]
            hint = f"did you mean {nearest[0]}?" if nearest else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key {prefix}{key}; {hint}")
        if is_dataclass(hints[key]):
            _check_keys(value, hints[key], where, f"{prefix}{key}.")
