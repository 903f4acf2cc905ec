"""Tables of a comparison of recipes: means, and differences in the same scenes, each with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from gail_cli.gail.evaluation.evaluate import pooled
from gail_cli.gail.evaluation.summary import POLICY, SceneScores, summarise

Result = Mapping[str, Any]
"""What :func:`gail_cli.gail.evaluation.evaluate.evaluate` returns, of all scenes and seeds; and ``seconds``."""


class Column(NamedTuple):
    """A metric of a table."""

    name: str
    title: str
    digits: int | None = None
    """After the point; None for shares, in per cent."""
    off_log: bool = False
    """Whether it is of starts off the log."""

    def place(self, result: Result) -> Result | None:
        """The part of a report that has it."""
        return result.get("off_log") if self.off_log else result

    @property
    def key(self) -> str:
        """A name that is its own."""
        return f"off_log.{self.name}" if self.off_log else self.name


_SAFE = (
    Column("safe_success", "safe"),
    Column("drawn_safe_success", "safe, drawn"),
    Column("full_safe_success", "true boxes"),
    Column("drawn_full_safe_success", "true boxes, drawn"),
)
_CONTACT = (Column("collision", "collision"), Column("off_road", "off-road"))
_DRAWN_CONTACT = (Column("drawn_collision", "collision, drawn"), Column("drawn_off_road", "off-road, drawn"))
_GOAL = (Column("goal", "goal"),)
_LOG = (
    Column("ade", "ADE (m)", 2),
    Column("min_ade", "minADE (m)", 2),
    Column("realism_2025", "realism 2025", 3),
)
_OFF_LOG_SAFE = tuple(column._replace(title=f"off log: {column.title}", off_log=True) for column in _SAFE)
_OFF_LOG_CONTACT = tuple(
    column._replace(title=f"off log: {column.title}", off_log=True) for column in (*_CONTACT, *_DRAWN_CONTACT)
)
WITH_GOAL = (*_SAFE, *_CONTACT, *_GOAL, *_LOG, *_OFF_LOG_SAFE)
"""Columns where the goal is known."""
WITHOUT_GOAL = (*_CONTACT, *_DRAWN_CONTACT, *_LOG, *_OFF_LOG_CONTACT, *_GOAL, *_SAFE)
"""Columns where nobody knows the goal: whether it is reached comes last."""


def over_seeds(reports: Sequence[Result]) -> dict[str, Any]:
    """Evaluations of several seeds on the same scenes as one, in which every seed counts alike."""
    result = {**reports[0], "per_scene": _added([report["per_scene"] for report in reports])}
    for section in ("blind", "off_log"):
        if all(section in report for report in reports):
            result[section] = {
                **reports[0][section], "per_scene": _added([report[section]["per_scene"] for report in reports]),
            }  # fmt: skip
    return result


def _added(tables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    scores = [SceneScores.from_json(dict(table)) for table in tables]
    sums, histograms = (
        {
            driver: {key: np.sum([table[driver][key] for table in each], axis=0) for key in columns}
            for driver, columns in each[0].items()
        }
        for each in ([s.sums for s in scores], [s.histograms for s in scores])
    )
    return SceneScores(scores[0].scenes, sums, histograms).to_json()


def together(reports: Mapping[tuple[int, int], Result]) -> dict[str, Any]:
    """One result of the reports of all folds and seeds, by (fold, seed)."""
    folds = sorted({fold for fold, _ in reports})
    return pooled([over_seeds([reports[key] for key in sorted(reports) if key[0] == fold]) for fold in folds])


def table(results: Mapping[str, Result], columns: Sequence[Column], anchors: Result | None = None) -> str:
    """Markdown: a row a recipe, then the anchors; behind the metrics what a run takes, if that is known."""
    timed = any("seconds" in result for result in results.values())
    titles = ["recipe", *(column.title for column in columns), *(["minutes", "CPU minutes"] if timed else [])]
    lines = [_row(titles), _row(["---"] * len(titles))]
    rows = [(name, result, POLICY) for name, result in results.items()]
    rows += [(name, anchors, name) for name in (anchors["results"] if anchors else ()) if name != POLICY]
    for name, result, driver in rows:
        cells = [_cell(column, result, driver) for column in columns]
        spent = result.get("seconds") if driver == POLICY else None
        minutes = [f"{spent[which] / 60:.1f}" for which in ("wall", "cpu")] if spent else ["", ""]
        lines.append(_row([name, *cells, *(minutes if timed else [])]))
    return "\n".join(lines) + "\n"


def differences(results: Mapping[str, Result], columns: Sequence[Column], against: Mapping[str, str]) -> str:
    """Markdown: what sets each recipe apart from another one in the same scenes.

    Args:
        results: by recipe.
        columns: what is shown.
        against: by recipe, the one that it is compared with; recipes without one have no row.
    """
    lines = [_row(["difference", *(c.title for c in columns)]), _row(["---"] * (len(columns) + 1))]
    for name, other in against.items():
        found = compared(results[name], results[other], columns)
        cells = [_formatted(c, *found[c.key], sign=True) if c.key in found else "" for c in columns]
        lines.append(_row([f"{name} - {other}", *cells]))
    return "\n".join(lines) + "\n"


_BLIND = {
    ("without others", "drawn_safe_success"): "without others: safe, drawn",
    ("without others", "drawn_collision"): "collision, drawn",
    ("without roads", "drawn_safe_success"): "without roads: safe, drawn",
    ("without roads", "drawn_off_road"): "off-road, drawn",
}


def blind_table(results: Mapping[str, Result]) -> str:
    """Markdown: what each recipe gains by seeing others, and roads: seeing minus blind, in the same scenes."""
    lines = [_row(["gained by seeing", *_BLIND.values()]), _row(["---"] * (len(_BLIND) + 1))]
    for name, result in results.items():
        told = [result["blind"]["differences"][who][metric] for who, metric in _BLIND]
        lines.append(_row([name, *(_formatted(Column("", ""), x["mean"], x["interval"], sign=True) for x in told)]))
    return "\n".join(lines) + "\n"


def compared(own: Result, other: Result, columns: Sequence[Column]) -> dict[str, tuple[float, list[float] | None]]:
    """By the key of each column that both have: the difference, own minus other, and its interval."""
    found = {}
    for off_log in (False, True):
        wanted = [column for column in columns if column.off_log == off_log]
        parts = [column.place(result) for result in (own, other) for column in wanted[:1]]
        if not wanted or None in parts:
            continue
        scores = [SceneScores.from_json(dict(part["per_scene"])) for part in parts if part is not None]
        if scores[0].scenes != scores[1].scenes:
            raise ValueError("results of other scenes cannot be compared; evaluate both on the same")
        names = [c.name for c in wanted if all(c.name in s.sums[POLICY] for s in scores)]
        both = {who: {n: s.sums[POLICY][n] for n in names} for who, s in zip((POLICY, "other"), scores, strict=True)}
        told = summarise(SceneScores(scores[0].scenes, both, {}))["differences"]["other"]
        for column in wanted:
            if column.name in told and told[column.name]["mean"] is not None:
                found[column.key] = (told[column.name]["mean"], told[column.name]["interval"])
    return found


def _cell(column: Column, result: Result, driver: str) -> str:
    part = column.place(result)
    if part is None or part["results"].get(driver, {}).get(column.name) is None:
        return ""
    return _formatted(column, part["results"][driver][column.name], part["intervals"][driver][column.name])


def _formatted(column: Column, mean: float, sure: Sequence[float] | None, sign: bool = False) -> str:
    """A number and its interval; a difference (``sign``) has a star if that leaves out 0."""
    digits, factor = (1, 100) if column.digits is None else (column.digits, 1)
    form = f"{'+' if sign else ''}.{digits}f"
    text = f"{factor * mean:{form}}"
    if sure is None:
        return text
    low, high = sure
    star = "*" if sign and not low <= 0 <= high else ""
    return f"{text}{star} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
