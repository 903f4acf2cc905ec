"""The documentation of the settings, made of their dataclasses: docs/configuration.md's tables, and a JSON schema.

``python -m gail_cli.gail.config.document docs/configuration.md`` writes the tables anew, each between a comment
``<!-- settings: SECTION -->`` and ``<!-- end -->``; what stands between the tables is left as it is.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import is_dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from gail_cli.gail.config.aliases import MLAGENTS, RENAMED, SECTIONS
from gail_cli.gail.config.rules import hints, rule_of, section_of
from gail_cli.gail.config.schema import TrainConfig

TOP = "top level"
"""Where a document has the settings that are in no section."""

_TABLE = re.compile(r"(<!-- settings: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = "| key | default | values | meaning |\n| --- | --- | --- | --- |\n"


@cache
def descriptions(kind: type) -> dict[str, str]:
    """The docstrings of a dataclass's fields, its parents' included, each in one line of Markdown.

    They are read from the source when they are needed: pydantic's ``use_attribute_docstrings`` would do it whenever
    the settings are imported, which takes 10 ms per class.
    """
    found = {}
    for base in reversed(kind.__mro__):
        if not is_dataclass(base):
            continue
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for field, text in pairwise(definition.body):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                assert isinstance(field.target, ast.Name)
                found[field.target.id] = markdown(ast.literal_eval(text.value))
    return found


def markdown(docstring: str) -> str:
    """A docstring in one line of Markdown."""
    text = re.sub(r":\w+:`~?(.+?)`", r"``\1``", docstring)
    return " ".join(text.replace("``", "`").split())


def settings(section: Any, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Every setting of a dataclass and the sections below it: dotted key, default, type hint, description.

    Args:
        section: an instance of the dataclass, which has the defaults.
        prefix: what stands before each key.
    """
    kind: type = type(section)
    for name, hint in hints(kind).items():
        value = getattr(section, name)
        if is_dataclass(value):
            yield from settings(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value, hint, descriptions(kind)[name]


def with_tables(text: str) -> str:
    """A document with its tables written anew; a setting is in the table of the nearest section that has one."""
    sections = [section for _, section, _ in _TABLE.findall(text)]
    rows: dict[str, list[str]] = {section: [] for section in sections}
    for key, default, hint, description in settings(TrainConfig()):
        around = [section for section in sections if key.startswith(f"{section}.")]
        rows[max(around, key=len, default=TOP)].append(_row(key, default, hint, description))
    return _TABLE.sub(lambda found: found[1] + _HEAD + "".join(rows[found[2]]) + found[3], text)


def _row(key: str, default: Any, hint: Any, description: str) -> str:
    shown = default if isinstance(default, str) else json.dumps(default)
    linked = re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", description).replace("|", r"\|")
    return f"| `{key}` | `{shown}` | {rule_of(hint).documented} | {linked} |\n"


def json_schema() -> dict[str, Any]:
    """The JSON schema of a configuration, for editors: with descriptions and defaults, and every name that is read.

    Earlier names of settings are marked as deprecated; the sections of the two earlier systems are told apart as
    :mod:`gail.config.aliases` does.
    """
    schema = _section(TrainConfig(), TypeAdapter(TrainConfig).json_schema())
    for old, new in RENAMED.items():
        section = schema["properties"][new.partition(".")[0]]
        name, now = old.partition(".")[2], new.partition(".")[2]
        earlier = {key: value for key, value in section["properties"][now].items() if key != "default"}
        section["properties"][name] = earlier | {"deprecated": True, "description": f"Earlier name of `{new}`."}
        section.setdefault("allOf", []).append({"not": {"required": [name, now]}})
    sections = {name: _translated(keys, schema) for name, keys in SECTIONS.items()}
    schema["properties"] |= sections | {"reward_signals": _signals(_place(schema, MLAGENTS))}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A training run of gail-cli"} | schema


def _section(section: Any, generated: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section: pydantic's for each setting, with the defaults that a run has."""
    kind: type = type(section)
    known = generated["$defs"].get(kind.__name__, generated)["properties"]
    properties = {}
    for name in hints(kind):
        value = getattr(section, name)
        if is_dataclass(value):
            properties[name] = _section(value, generated)
            continue
        rule = {key: each for key, each in known[name].items() if key != "title"}
        if optional := section_of(hints(kind)[name]):
            rule = {"anyOf": [_section(optional(), generated), {"type": "null"}]}
        default = list(value) if isinstance(value, tuple) else value
        properties[name] = rule | {"default": default, "description": descriptions(kind)[name]}
    described = {"description": markdown(kind.__doc__ or ""), "type": "object"}
    return described | {"additionalProperties": False, "properties": properties}


def _place(schema: dict[str, Any], key: str) -> dict[str, Any]:
    """The schema of a section or setting by its dotted key."""
    for name in key.split("."):
        schema = schema["properties"][name]
    return schema


def _translated(keys: dict[str, str], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a section of GAIL-for-GPUDrive's, whose keys are as those that they stand for."""
    properties: dict[str, Any] = {"use_gail": {"type": "boolean"}} if "use_gail" in keys else {}
    for name, key in keys.items():
        if name not in properties:
            properties[name] = {k: value for k, value in _place(schema, key).items() if k != "default"}
        properties[name] = properties[name] | {"description": f"GAIL-for-GPUDrive's name of `{key}`."}
    described = {"description": "Settings by GAIL-for-GPUDrive's names.", "type": ["object", "null"]}
    return described | {"additionalProperties": False, "properties": properties}


def _signals(gail: dict[str, Any]) -> dict[str, Any]:
    """The schema of ML-Agents' ``reward_signals``."""
    numbers = {name: {"type": "number"} for name in ("strength", "gamma")}
    extrinsic = {"type": ["object", "null"], "additionalProperties": False, "properties": numbers}
    return {
        "description": "ML-Agents' rewards, by its names; sets `discriminator.compat: mlagents`.",
        "type": "object",
        "additionalProperties": False,
        "required": ["gail"],
        "properties": {"gail": gail | {"type": ["object", "null"]}, "extrinsic": extrinsic},
    }


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        file.write_text(with_tables(file.read_text()))
