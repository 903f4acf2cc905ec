"""``info``: what is in a demo store, counted from its arrays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.extract.report import logs_of
from gail_cli.pipeline.records import BRIDGED, Record, Split
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.scene import Role


def describe_store(path: str | Path) -> dict[str, Any]:
    """Everything that ``gail-cli info`` shows, ready for JSON; one part is in memory at a time.

    Raises:
        StoreError: when there is no finished store, or a part is damaged.
    """
    store = DemoStore(path)
    counts: Counter[str] = Counter()
    for record in store.read():
        counts.update(_count(record))
    size, logs = store.storage.size(), logs_of(store)
    return {
        "store": str(path),
        "version": ".".join(map(str, store.attributes["version"])),
        "scenes": len(store),
        "logs": logs["logs"],
        "scenes_of_unknown_log": logs["unknown"],
        "splits": {split.name.lower(): int((store.index.split == split).sum()) for split in Split},
        "parts": len(store.parts),
        "agents": _named(counts, "agent", AgentType),
        "roles": _named(counts, "role", Role),
        "demos": {kind: counts[kind] for kind in ("moving", "vehicles", "vru")},
        "transitions": counts["transitions"],
        "bridged_steps": counts["bridged"],
        "road_segments": _named(counts, "road", RoadType),
        "lights": store.totals["lights"],
        "scenes_without_heights": counts["flat"],
        "scenes_without_road_edges": counts["open"],
        "steps": store.steps,
        "dt_s": store.attributes["dt_s"],
        "actions": describe_actions(store.space),
        "replay": store.attributes.get("report", {}).get("replay"),
        "bytes": size,
        "bytes_per_scene": size / max(len(store), 1),
        "bytes_per_transition": size / max(counts["transitions"], 1),
        "settings": store.attributes["settings"],
        "software": store.attributes["software"],
    }


def describe_actions(space: ActionSpace) -> dict[str, Any]:
    """An action space in a few words: names, and for each component its number of values and its limits."""
    names = space.dynamics.action_names
    return {
        "dynamics": space.dynamics.name.lower(),
        "kind": "discrete" if space.discrete else "continuous",
        "grid": (space.grid_name or "of its own") if space.discrete else None,
        "reverse": space.reverse,
        "components": [
            {
                "name": name,
                "values": size,
                "low": low if np.isfinite(low) else None,
                "high": high if np.isfinite(high) else None,
            }
            for name, size, (low, high) in zip(names, space.sizes or (None,) * len(names), space.bounds, strict=True)
        ],
    }


def _count(record: Record) -> Counter[str]:
    """What one scene holds."""
    scene, demos = record.scene, record.demos
    counts = Counter({f"agent {value}": n for value, n in _unique(scene.agent_type)})
    counts.update({f"road {value}": n for value, n in _unique(scene.segment_type)})
    counts.update({f"role {role.value}": int((scene.agent_role & role > 0).sum()) for role in Role})
    counts["transitions"] = record.transitions
    counts["moving"], counts["vehicles"] = int(record.moving.sum()), demos.num_demos
    counts["vru"] = record.vru.num_demos if record.vru else 0
    counts["bridged"] = int((demos.mark == BRIDGED).sum())
    counts["flat"] = int(np.isnan(scene.origin_z))
    counts["open"] = int(not (scene.segment_type == RoadType.ROAD_EDGE).any())
    return counts


def _unique(values: NDArray[np.int8]) -> Iterable[tuple[int, int]]:
    return zip(*(x.tolist() for x in np.unique(values, return_counts=True)), strict=True)


def _named(counts: Counter[str], kind: str, names: type[IntEnum] | type[Role]) -> dict[str, int]:
    """Counts of one kind by the names of its values, without those that do not occur."""
    found = {str(member.name).lower(): counts[f"{kind} {member.value}"] for member in names}
    return {name: n for name, n in found.items() if n}


def table_rows(d: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What :func:`describe_store` found, as lines of a table: (name, value)."""

    def listed(counts: dict[str, Any]) -> str:
        return ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items()) or "none"

    actions, replay = d["actions"], d["replay"]
    yield "scenes", f"{d['scenes']:,} in {d['parts']} part(s), {d['steps']} steps of {d['dt_s']} s"
    unknown = d["scenes_of_unknown_log"]
    of_what = f"at most {d['logs']:,}; of {unknown:,} scene(s) it is not known, extraction anew tells"
    yield "logs", of_what if unknown else f"{d['logs']:,}"
    yield "splits", listed(d["splits"])
    yield "agents", listed(d["agents"])
    yield "roles", listed(d["roles"])
    demos = d["demos"]
    still = demos["vehicles"] - demos["moving"]
    yield (
        "demos",
        f"{demos['moving']:,} of moving vehicles, {still:,} of others, {demos['vru']:,} of pedestrians and cyclists",
    )
    yield "transitions", f"{d['transitions']:,}, {d['bridged_steps']:,} step(s) bridged over gaps of the log"
    yield "road segments", listed(d["road_segments"])
    if d["scenes_without_road_edges"]:
        yield "", f"none of the edges in {d['scenes_without_road_edges']:,} scene(s), where off-road is not known"
    yield "lights", f"{d['lights']:,}"
    if d["scenes_without_heights"]:
        yield "heights", f"not known of {d['scenes_without_heights']:,} scene(s); extraction anew tells them"
    grid = f", grid {actions['grid']}" if actions["grid"] else ""
    yield "actions", f"{actions['dynamics']}, {actions['kind']}{grid}{', with reverse' if actions['reverse'] else ''}"
    for part in actions["components"]:
        limits = "unbounded" if part["low"] is None else f"{part['low']:g} to {part['high']:g}"
        yield "", f"{part['name']}: {limits}" + (f", {part['values']} values" if part["values"] else "")
    if replay:
        yield "expert replay", f"{replay['goal_rate']:.1%} reach their goal"
        yield "", f"{replay['ade_m']:.3f} m from the log on average, {replay['fde_m']:.3f} m at the end"
        yield "", f"{replay['heading_error_rad']:.4f} rad off the log's heading on average"
    yield "size", f"{d['bytes'] / 1e6:.2f} MB, {d['bytes_per_scene'] / 1e3:.1f} kB per scene"
    yield "", f"{d['bytes_per_transition']:.1f} bytes per transition"
    yield "settings", ", ".join(f"{k} {v}" for k, v in d["settings"].items())
    yield "made by", ", ".join(f"{name} {v}" for name, v in d["software"].items())
    yield "format", d["version"]
