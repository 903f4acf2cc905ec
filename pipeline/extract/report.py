"""The report of an extraction: what was written, how well experts follow their logs, and what was left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from gail_cli.pipeline.records import QUALITY, Record
from gail_cli.pipeline.store.index import divided
from gail_cli.pipeline.store.storage import Storage
from gail_cli.pipeline.store.store import DemoStore, manifest

WORST = 10
"""Demos that a report names as the worst."""
_NOTABLE = 0.1
"""Mean distance from the log that the summary names demos for, m."""
LISTS = ("dropped", "failed", "mended", "dropped_demos")
_MEANS = {name: f"{name}_rate" if name == "goal" else name for name in QUALITY}
_MEANS |= {name: f"{name}_share" for name in ("saturated", "zero")}
"""Names of the means of the demos' qualities."""


def kept(report: dict[str, Any]) -> dict[str, Any]:
    """The part of the report that is kept in a store's root: nothing that depends on time or place; no means of no
    demos."""
    replay = report["replay"] if report["demos"]["moving"] else None
    return {"report": {name: report[name] for name in ("scenes", "demos", "transitions")} | {"replay": replay}}


def replay_sums(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Numbers of demos, and sums over them of their qualities, whose quotients are the report's means.

    Parked vehicles, and those bound to their log, are left out: standing still is easy to replay.
    """
    moving = [r.demos.quality[r.moving] for r in records]
    walking = [r.vru.quality for r in records if r.vru is not None]
    transitions = sum(r.transitions for r in records)
    return {"vehicles": {"transitions": transitions, **_sums(moving)}, "vru": _sums(walking)}


def _sums(quality: Sequence[np.ndarray[Any, Any]]) -> dict[str, float]:
    rows = np.concatenate([*quality, np.zeros((0, len(QUALITY)))])
    return {"demos": len(rows), **dict(zip(_MEANS.values(), rows.sum(axis=0).tolist(), strict=True))}


def worst_demos(demos: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ten farthest from their log, the farthest first; of equal ones the earlier."""
    return sorted(demos, key=lambda demo: -demo["ade_m"])[:WORST]


def make_report(
    storage: Storage, read: int, unread: Sequence[dict[str, str]] = (), built: int = 0, seconds: float = 1.0
) -> dict[str, Any]:
    """The report, made from the manifest and ready for JSON.

    Args:
        storage: where the store is.
        read: scenes that were planned.
        unread: files that could not be listed.
        built: scenes that were read this time.
        seconds: that took so long.
    """
    entries = manifest(storage)
    lists = {kind: [item for e in entries for item in e[kind]] for kind in LISTS}
    lists["failed"] = [*unread, *lists["failed"]]
    ids = [scene for e in entries for scene in e["scenes"]["id"]]
    vehicles, vru = (_totals([e["replay"][kind] for e in entries]) for kind in ("vehicles", "vru"))
    transitions = vehicles.pop("transitions")
    size = storage.size()
    return {
        "store": storage.url,
        "scenes": {"read": read, "written": len(ids), "dropped": len(lists["dropped"])},
        "demos": {
            "moving": int(vehicles["demos"]),
            "vehicles": sum(e["demos"] for e in entries),
            "vru": int(vru["demos"]),
        },
        "transitions": int(transitions),
        "replay": _means(vehicles),
        "replay_vru": _means(vru),
        "worst_demos": worst_demos(demo for e in entries for demo in e.get("worst_demos", ())),
        "duplicate_ids": sorted(scene for scene, n in Counter(ids).items() if n > 1),
        **lists,
        "bytes": size,
        "bytes_per_scene": size / max(len(ids), 1),
        "seconds": seconds,
        "scenes_per_s": built / seconds,
    }


def logs_of(store: DemoStore) -> dict[str, Any]:
    """How many logs a store's scenes were cut from, and what is amiss with their splits, ready for JSON."""
    ids = store.scene_ids()
    return {
        "logs": len(np.unique(store.index.group)),
        "unknown": int((~store.fingerprints.any(axis=1)).sum()),
        "divided": [ids[scene] for scene in divided(store.index)],
    }


def _totals(parts: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: sum(part[name] for part in parts) for name in parts[0]}


def _means(totals: dict[str, float]) -> dict[str, float | None]:
    """Means over demos; None where there are none."""
    return {name: totals[name] / totals["demos"] if totals["demos"] else None for name in _MEANS.values()}


def contents(report: dict[str, Any]) -> str:
    """The contents of a store, in one line."""
    scenes, demos = report["scenes"], report["demos"]
    vru = f", {demos['vru']} of pedestrians and cyclists" if demos["vru"] else ""
    return (
        f"{report['store']}: {scenes['written']} of {scenes['read']} scenes, {demos['moving']} demos of moving "
        f"vehicles, {demos['vehicles'] - demos['moving']} of others{vru}, {report['transitions']:,} transitions, "
        f"{report['bytes_per_scene'] / 1e3:.1f} kB per scene"
    )


def extraction_summary(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    lines = [
        contents(report),
        *_replay(report["replay"]),
        f"{report['seconds']:.1f} s, {report['scenes_per_s']:.1f} scenes/s",
    ]
    reasons = Counter(item["reason"] for item in report["dropped"])
    lines += [f"{n} scene(s) left out: {reason}" for reason, n in reasons.most_common()]
    reasons = Counter(item["reason"] for item in report["dropped_demos"])
    lines += [f"{n} demo(s) left out: {reason}" for reason, n in reasons.most_common()]
    worst = report["worst_demos"]
    if worst and worst[0]["ade_m"] >= _NOTABLE:
        lines.append("farthest from their logs on average:")
        lines += [
            f"  {d['ade_m']:.2f} m: agent {d['agent']} of {d['source']}{' (left out)' if d['left_out'] else ''}"
            for d in worst
        ]
    if repaired := len({item["source"] for item in report["mended"]}):
        lines.append(f"{repaired} scene(s) repaired; --report FILE lists the repairs")
    return "\n".join([*lines, *duplicates(report), *windows(report)])


def _replay(means: dict[str, float | None]) -> list[str]:
    """One line about how well experts follow their logs, if there are any."""
    if means["goal_rate"] is None:
        return []
    return [
        f"expert replay: {means['goal_rate']:.1%} reach their goal, {means['ade_m']:.2f} m from the log on average, "
        f"{means['fde_m']:.2f} m at the end"
    ]


def windows(report: dict[str, Any]) -> list[str]:
    """What there is to say about scenes of one log, see :func:`logs_of`."""
    written, logs, unknown = report["scenes"]["written"], report["logs"]["logs"], report["logs"]["unknown"]
    lines = [f"{written} scenes are windows of {logs} log{'' if logs == 1 else 's'}"] if logs < written else []
    lines += divisions(report["logs"]["divided"])
    if unknown and logs + unknown > 1:
        lines.append(f"of {unknown} scene(s) it is not known what log they are of; extract them again to tell")
    return lines


def divisions(logs: Sequence[str]) -> list[str]:
    """One line about logs in more than one split, given by their first scenes, if there are any."""
    if not logs:
        return []
    told = f"{len(logs)} log(s) have scenes in more than one split (first {logs[0]})"
    return [f"{told}; add --fractions T,V,T to assign scenes anew, log by log"]


def duplicates(report: dict[str, Any]) -> list[str]:
    """One line about scenes that occur more than once, if there are any."""
    twice = report["duplicate_ids"]
    return [f"{len(twice)} scenario id(s) occur more than once: {twice[0]}"] if twice else []
