"""Tables of an evaluation, for people; the report has all numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gail_cli.gail.evaluation.drivers import CLONED_DRIVER
from gail_cli.gail.evaluation.realism import COMPONENTS
from gail_cli.gail.evaluation.summary import POLICY

WIDTH = 100
"""Columns of a table, at most."""
_METRES = ("ade", "fde", "acceleration", "gap", "ahead")
_TITLES = {
    "safe_success": "safe\nsuccess",
    "drawn_safe_success": "with drawn\nactions",
    "drawn_full_safe_success": "with drawn\nactions",
    "off_road": "off-road",
    "red_light": "red light",
    "ade": "ADE (m)",
    "fde": "FDE (m)",
    "min_ade": "minADE (m)",
}
_MAIN = ("goal", "collision", "off_road", "safe_success", "drawn_safe_success", "ade")
_FULL = ("full_collision", "full_off_road", "full_safe_success", "drawn_full_safe_success", "infeasible", "min_ade")
MARK = "*"
LEGEND = f"{MARK} differs from the policy: the 95 % interval of the difference in the same scenes leaves out 0"
_LEGEND_OF_DIFFERENCES = f"{MARK} beyond doubt: the 95 % interval of the difference leaves out 0"


def print_evaluation(result: dict[str, Any], name: str = "", console: Console | None = None) -> None:
    """Print what :func:`gail_cli.gail.evaluation.evaluate.evaluate` returned.

    Args:
        result: of the evaluation.
        name: of the scenes, if they are not all.
        console: where to; stdout when None.
    """
    screen = _screen(console)
    scenes, sure = _sampled(result, name)
    rules = f"boxes x{result['box_scale']:g}, off the road at the touch of an edge"
    rollouts = f"min of {result['rollouts']} drives with drawn actions"
    screen.print(
        _by_driver(result, f"{_count(result['agents'], 'agent')} in {scenes}, shares in %{sure}\n{rules}", _MAIN)
    )
    screen.print(_by_driver(result, f"boxes of true size, off the road beyond an edge; {rollouts}", _FULL))
    if any(means.get("red_light") is not None for means in result["results"].values()):
        screen.print(_by_driver(result, "vehicles where lights are, %", ("red_light",)))
    screen.print(_realism(result))
    _explain(result, screen)
    _say_known(result, "off_road", screen)
    if said := beside_clone(result):
        screen.print(said, highlight=False)
    if "blind" in result:
        _print_blind(result["blind"], screen)
    if "off_log" in result:
        _print_off_log(result, screen)


_LEARNED = (
    ("drawn_safe_success", "safe success", "{:+.1f} points", 100.0),
    ("realism_2025", "realism", "{:+.3f}", 1.0),
)
"""Metrics of what was learned since cloning: their words, and how differences are written, in which unit."""


def beside_clone(result: dict[str, Any]) -> str:
    """What a policy has learned since it was cloned, in a sentence; empty where there is no clone, or it is the same.

    Better or worse is what the 95 % interval of the difference in the same scenes says.
    """
    found, clauses = result["differences"].get(CLONED_DRIVER, {}), []
    if not any(found.get(name, {}).get("mean") for name, *_ in _LEARNED):
        return ""
    for name, words, form, scale in _LEARNED:
        mean, sure = found[name]["mean"], found[name]["interval"]
        if mean is not None:
            verdict = ("better" if mean > 0 else "worse") if differs(sure) else "no difference is shown"
            low_high = "" if sure is None else " ({} to {})".format(*(form.format(scale * x).split()[0] for x in sure))
            clauses.append(f"{words} {form.format(scale * mean)}{low_high}: {verdict}")
    return f"Beside its own clone, in the same scenes with drawn actions: {'; '.join(clauses)}."


_SIGHT = {
    "collision": "collision", "off_road": "off-road", "safe_success": "safe\nsuccess", "drawn_safe_success": "drawn",
    "full_safe_success": "safe,\ntrue boxes", "drawn_full_safe_success": "drawn",
}  # fmt: skip
"""Columns of what a policy does that sees, and that does not."""
_OFF_LOG = (
    {"goal": "goal", "collision": "collision", "off_road": "off-road", "safe_success": "safe\nsuccess",
     "drawn_safe_success": "drawn"},
    {"full_collision": "collision", "full_off_road": "off-road", "full_safe_success": "safe\nsuccess",
     "drawn_full_safe_success": "drawn"},
)  # fmt: skip
"""Columns of both tables of starts off the log: by the run's rules, and at true size."""


def _print_blind(section: dict[str, Any], screen: Console) -> None:
    """What the policy does with its eyes open and shut, and what it loses."""
    screen.print(_by_driver(section, "the policy without others, roads, or either in sight, %", tuple(_SIGHT), _SIGHT))
    table = _empty("what it gains by seeing: the first row minus each of the others, in the same scenes, points")
    for title in _SIGHT.values():
        table.add_column(title, justify="right", no_wrap=True)
    for who, differences in section["differences"].items():
        table.add_row(who, *(_difference(differences[name]) for name in _SIGHT))
    screen.print(table)
    screen.print(_LEGEND_OF_DIFFERENCES, markup=False, highlight=False)
    screen.print(section["sentence"], highlight=False, soft_wrap=True)


def _difference(found: dict[str, Any], factor: float = 100, digits: int = 1, sure_digits: int = 1) -> str:
    """A difference (of shares: in points), half the width of its interval, and whether that leaves out 0."""
    mean, sure = found["mean"], found["interval"]
    if mean is None:
        return "- "
    spread = "" if sure is None else f" ±{factor * (sure[1] - sure[0]) / 2:.{sure_digits}f}"
    return f"{factor * mean:+.{digits}f}{spread}{MARK if differs(sure) else ' '}"


def _print_off_log(result: dict[str, Any], screen: Console) -> None:
    section = result["off_log"]
    variants, agents = _count(section["variants"], "variant"), _count(section["agents"], "agent")
    what = f"begun off the log: {variants} of each scene, {agents}, %, {_count(section['rollouts'], 'drawn drive')}"
    for columns, boxes in zip(_OFF_LOG, (f"boxes x{result['box_scale']:g}", "boxes of true size"), strict=True):
        screen.print(_by_driver(section, f"{what}\n{boxes}", tuple(columns), columns))


_CODES = {
    "speed_share": "speed,\n% of log's", "acceleration": "|accelera-\ntion| (m/s²)", "gap": "gap to\nleader (m)",
    "ahead": "ahead at\nthe end (m)", "goal": "goal", "collision": "collision", "off_road": "off-road",
}  # fmt: skip
"""Columns of how everyone drives by each latent code."""


def print_codes(section: dict[str, Any], name: str = "", console: Console | None = None) -> None:
    """Print what :func:`gail_cli.gail.evaluation.codes.drive_codes` measured.

    Args:
        section: its first result.
        name: of the scenes, if they are not all.
        console: where to; stdout when None.
    """
    screen = _screen(console)
    scenes, sure = _sampled(section, name)
    title = f"by one latent code all the time: {_count(section['agents'], 'agent')} in {scenes}{sure}"
    screen.print(_by_driver(section, title, tuple(_CODES), _CODES))
    table = _empty("codes minus code 0, in the same scenes, shares in points")
    for column in _CODES.values():
        table.add_column(column, justify="right", no_wrap=True)
    for code, differences in section["between"].items():
        table.add_row(code, *(_difference(differences[metric], *_form(metric)) for metric in _CODES))
    _explain(section, screen)
    screen.print(table)
    screen.print(_LEGEND_OF_DIFFERENCES, markup=False, highlight=False)


def print_challenge(result: dict[str, Any], name: str = "", console: Console | None = None) -> None:
    """Print what :func:`gail_cli.gail.evaluation.wosac.evaluate_challenge` returned.

    Args:
        result: of the evaluation.
        name: of the scenes, if they are not all.
        console: where to; stdout when None.
    """
    screen = _screen(console)
    scenes, sure = _sampled(result, name)
    screen.print(
        f"the challenge's protocol: {_count(result['agents'], 'agent')} scored in {scenes}{sure}", highlight=False
    )
    screen.print(_realism(result))
    if result["left_out"]:
        screen.print(f"{len(result['left_out'])} scene(s) name nobody to score and are left out", highlight=False)
    _explain(result, screen)
    _say_known(result, "likelihood_off_road", screen)


def _screen(console: Console | None) -> Console:
    """Where tables go: stdout when None, and wide enough."""
    screen = console or Console()
    return screen if screen.width >= WIDTH else Console(width=WIDTH)


def _sampled(result: dict[str, Any], name: str) -> tuple[str, str]:
    """How many scenes an evaluation is of, and what is to be said of intervals over them."""
    sure = ", ± 95 % over scenes" if result["scenes"] > 1 else ""
    return _count(result["scenes"], f"{name} scene".strip()), sure


def _explain(result: dict[str, Any], screen: Console) -> None:
    if len(result["results"]) > 1:
        screen.print(LEGEND, markup=False, highlight=False)


def _say_known(result: dict[str, Any], name: str, screen: Console) -> None:
    """Say of how many agents, in how many scenes, off-road is known, if not of all.

    Args:
        result: of an evaluation.
        name: of a metric of its agents or scenes that road edges tell.
        screen: where to.
    """
    counts = [int(number) for _, number in result["per_scene"]["sums"][POLICY][name]]
    scenes = sum(number > 0 for number in counts)
    if scenes == result["scenes"]:
        return
    of_agents = f"{sum(counts)} of {result['agents']} agents, in " if name == "off_road" else ""
    text = f"off-road is known of {of_agents}{scenes} of {_count(result['scenes'], 'scene')}"
    text += ": the other maps have no road edges"
    screen.print(text, highlight=False, soft_wrap=True)


def _count(number: int, what: str) -> str:
    """A number of things, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _by_driver(
    result: dict[str, Any], title: str, names: Sequence[str], titles: Mapping[str, str] | None = None
) -> Table:
    """A row per driver, a column per metric, called by ``titles`` where there are some."""
    table = _empty(title)
    for name in names:
        plain = name.removeprefix("full_")
        shown = _TITLES.get(plain, plain) if titles is None else titles[name]
        table.add_column(shown, justify="right", no_wrap=True)
    for driver in result["results"]:
        table.add_row(driver, *(_cell(result, driver, name, *_form(name)) for name in names))
    return table


def _realism(result: dict[str, Any]) -> Table:
    """A row per component, a column per driver."""
    table = _empty(f"WOSAC-style realism: likelihood of the log under {result['rollouts']} drives per driver")
    table.add_column("weight", justify="right", no_wrap=True)
    for driver in result["results"]:
        table.add_column(driver.replace(" ", "\n"), justify="right", no_wrap=True)
    rows = [("realism (2025)", "", "realism_2025"), ("realism (2024)", "", "realism_2024")]
    rows += [(_plain(c.name), f"{c.weight_2025:.2f}", f"likelihood_{c.name}") for c in COMPONENTS]
    rows += [row for row in _events() if row[2] in next(iter(result["results"].values()))]
    for title, weight, name in rows:
        digits = (3, 2 if name.startswith("realism") else None)
        table.add_row(title, weight, *(_cell(result, driver, name, 1, *digits) for driver in result["results"]))
    return table


_SCORE_COLUMNS = 3
"""Scenes that a table of scores has columns for, at most."""
_HAPPENS = ("simulated_collision", "simulated_off_road", "simulated_traffic_light")


def print_score(result: dict[str, Any], console: Console | None = None) -> None:
    """Print what :func:`gail_cli.gail.evaluation.scoring.score_submission` returned.

    Args:
        result: the scores.
        console: where to; stdout when None.
    """
    screen = _screen(console)
    scenes = result["scenes"]
    shown = list(scenes) if 1 < len(scenes) <= _SCORE_COLUMNS else []
    table = _empty(
        f"the challenge's score: likelihood of the log under {result['rollouts']} drives, {len(scenes)} scene(s)"
    )
    for title in ("weight", "mean" if len(scenes) > 1 else next(iter(scenes)), *shown):
        table.add_column(title, justify="right", no_wrap=True)
    for title, weight, name in _score_rows():
        row = [result["mean"][name], *(scenes[scene][name] for scene in shown)]
        table.add_row(title, weight, *("-" if x is None else f"{x:.4f}" for x in row))
    screen.print(table)
    if len(scenes) > _SCORE_COLUMNS:
        screen.print(_scenes(scenes))


def _score_rows() -> list[tuple[str, str, str]]:
    """Title, weight and name of each row of a table of scores."""
    rows = [("realism (2025)", "", "realism_2025"), ("realism (2024)", "", "realism_2024")]
    rows += [(_plain(c.name), f"{c.weight_2025:.2f}", f"likelihood_{c.name}") for c in COMPONENTS]
    return [*rows, *_events(), ("ADE (m)", "", "ade"), ("least ADE (m)", "", "min_ade")]


def _events() -> list[tuple[str, str, str]]:
    return [(f"drives with {_plain(name.removeprefix('simulated_'))}", "", name) for name in _HAPPENS]


def _scenes(scenes: dict[str, dict[str, float | None]]) -> Table:
    """A row per scene."""
    table = _empty("by scene")
    names = {"realism_2025": "realism\n2025", "realism_2024": "realism\n2024", "min_ade": "least\nADE (m)"}
    names |= {name: name.removeprefix("simulated_").replace("_", "\n") for name in _HAPPENS}
    for title in names.values():
        table.add_column(title, justify="right", no_wrap=True)
    for scene, row in scenes.items():
        table.add_row(scene, *("-" if (x := row[name]) is None else f"{x:.3f}" for name in names))
    return table


def _plain(name: str) -> str:
    return name.replace("_", " ").removeprefix("distance to ")


def _empty(title: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    return table


def _form(name: str) -> tuple[float, int, int]:
    """Factor of a metric, and digits after the point of it and of its interval: m, or per cent."""
    return (1, 2, 1) if name.endswith(_METRES) else (100, 1, 1)


def _cell(result: dict[str, Any], driver: str, name: str, factor: float, digits: int, sure_digits: int | None) -> str:
    """A mean, half the width of its interval, and whether the policy's is another."""
    mean, sure = result["results"][driver][name], result["intervals"][driver][name]
    if mean is None:
        return "- "
    spread = ""
    if sure is not None and sure_digits is not None:
        spread = f" ±{factor * (sure[1] - sure[0]) / 2:.{sure_digits}f}"
    apart = driver in result["differences"] and differs(result["differences"][driver][name]["interval"])
    return f"{factor * mean:.{digits}f}{spread}{MARK if apart else ' '}"


def differs(sure: list[float] | None) -> bool:
    """Whether an interval of a difference leaves out 0."""
    return sure is not None and not sure[0] <= 0 <= sure[1]
