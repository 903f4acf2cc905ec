"""What a setting may be, in words: for the error when a value is refused, and for the documentation."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import ValidationError

_TYPES: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "`true`, `false`"),
    int: ("a whole number", "integer"),
    float: ("a number", "number"),
    str: ("text", "text"),
    dict: ("a section with keys", "section"),
}
"""A type in an error, and in the documentation."""
_OUT_OF_RANGE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")
_LONGEST_ECHO = 60
"""Characters of a bad value that an error repeats; a whole section is longer."""


@dataclass(frozen=True)
class Rule:
    """What one setting may be."""

    kind: Any
    """Its type without bounds."""
    bounds: Mapping[str, float]
    """``gt``, ``ge``, ``lt`` and ``le``, those that there are."""
    nullable: bool

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values that it is one of; empty when it is not chosen from a list."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def item(self) -> Rule | None:
        """The rule of the items, for a list."""
        return rule_of(get_args(self.kind)[0]) if get_origin(self.kind) is tuple else None

    @property
    def range(self) -> str:
        """Bounds in words, such as ``positive`` or ``in [0, 1)``; empty without any."""
        low, high = self.bounds.get("ge", self.bounds.get("gt")), self.bounds.get("le", self.bounds.get("lt"))
        if low is not None and high is not None:
            return f"in {'[' if 'ge' in self.bounds else '('}{low:g}, {high:g}{']' if 'le' in self.bounds else ')'}"
        if low is not None:
            return ("not negative" if "ge" in self.bounds else "positive") if low == 0 else f"at least {low:g}"
        return "" if high is None else f"at most {high:g}"

    @property
    def words(self) -> str:
        """What it must be, but for bounds, as an error says it."""
        if self.choices:
            *most, last = map(str, self.choices)
            return f"{', '.join(most)} or {last}" if most else last
        if self.item is not None:
            return f"a list, each item {self.item.words}"
        if is_dataclass(self.kind):
            return _TYPES[dict][0]
        return _TYPES[get_origin(self.kind) or self.kind][0]

    @property
    def documented(self) -> str:
        """What it may be, as the tables of the documentation say it."""
        if self.choices:
            kind = ", ".join(f"`{choice}`" for choice in self.choices)
        elif self.item is not None:
            kind = f"list of {self.item.documented}{'s' if self.item.kind in (int, float) else ''}"
        elif is_dataclass(self.kind):
            kind = _TYPES[dict][1]
        else:
            kind = _TYPES[get_origin(self.kind) or self.kind][1]
        return ", ".join(part for part in (kind, self.range, self.nullable and "or null") if part)


@cache
def hints(kind: type) -> Mapping[str, Any]:
    """The types of a dataclass's fields, with their bounds."""
    return get_type_hints(kind, include_extras=True)


def section_of(hint: Any) -> Any:
    """The dataclass of a section, also of one that may be null; None for what is no section."""
    return next((kind for kind in (hint, *get_args(hint)) if isinstance(kind, type) and is_dataclass(kind)), None)


def rule_of(hint: Any) -> Rule:
    """The rule that a type hint stands for."""
    options = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    (kind,) = (option for option in options if option is not types.NoneType)
    bounds: dict[str, float] = {}
    if get_origin(kind) is Annotated:
        kind, *given = get_args(kind)
        for each in [part for one in given for part in getattr(one, "metadata", [one])]:
            bounds |= {name: getattr(each, name) for name in ("gt", "ge", "lt", "le") if hasattr(each, name)}
    return Rule(kind, bounds, types.NoneType in options)


def refusal(error: ValueError, kind: type) -> tuple[str, str]:
    """Why a dataclass of settings could not be made: what is wrong first, and what to do about it (may be empty).

    Args:
        error: what making it raised.
        kind: the dataclass, whose own fields are named without a section.
    """
    if not isinstance(error, ValidationError):
        return str(error), ""
    first = error.errors(include_url=False)[0]
    if first["type"] == "value_error":
        what, _, fix = first["msg"].removeprefix("Value error, ").partition("; ")
        return what, fix
    key, rule = _place(first["loc"], kind)
    shown = _shown(first["input"])
    what = f"{key} is {shown}" if len(shown) < _LONGEST_ECHO else f"{key} cannot be used"
    if rule is None:
        return what, first["msg"]
    words = {"finite_number": "a finite number"} | dict.fromkeys(_OUT_OF_RANGE, rule.range)
    wanted = words.get(first["type"], rule.words)
    must = "not be negative" if wanted == "not negative" else f"be {wanted}"
    return what, f"it must {must}{', or null' if rule.nullable else ''}"


def explained(error: ValueError, kind: type) -> str:
    """:func:`refusal` in one sentence."""
    return "; ".join(part for part in refusal(error, kind) if part)


def _place(path: Sequence[int | str], kind: Any) -> tuple[str, Rule | None]:
    """The dotted name of what pydantic locates below a dataclass, and its rule; None for what is no setting."""
    key, rule = "", None
    for part in path:
        if isinstance(part, int):
            key, rule = f"{key}[{part}]", rule and rule.item
            continue
        key = f"{key}.{part}" if key else part
        hint = hints(kind).get(part) if isinstance(kind, type) else None
        kind = None if hint is None else section_of(hint)
        rule = None if hint is None or kind is hint else rule_of(hint)
    return key, rule


def _shown(value: Any) -> str:
    """A value as YAML has it."""
    return json.dumps(value) if value is None or isinstance(value, bool) else repr(value)
