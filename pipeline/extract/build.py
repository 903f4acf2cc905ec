"""One task of an extraction: scenes in, their outcome out; no content of a file stops it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.experts.logs import bridged, gears, jumps_of
from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.extract.report import worst_demos
from gail_cli.pipeline.logs import fingerprint
from gail_cli.pipeline.readers.sources import SceneRef, read_scenes
from gail_cli.pipeline.readers.timebase import require_pace, require_regular, resampled
from gail_cli.pipeline.records import ABSENT, QUALITY, VRU_SPACE, Demos, Record
from gail_cli.sim.actions import CAN_REVERSE, ActionSpace
from gail_cli.sim.scenario import Scenario, SceneError
from gail_cli.sim.scene import DEFAULT_STEPS, SIMPLIFY_AREA, Compat, Scene, scene_from_scenario

_NO_AGENT = "no agent is there for a policy to control (moving vehicle, valid at the first step)"


@dataclass(frozen=True)
class ExtractConfig:
    """The settings that determine a store's content."""

    space: ActionSpace
    steps: int = DEFAULT_STEPS
    """States per scene: longer logs are cut, shorter ones end early."""
    agents: Literal["vehicles", "all"] = "vehicles"
    """Agents with demos: vehicles, or pedestrians and cyclists too."""
    max_replay_error: float | None = 0.5
    """Demos whose mean distance from the log is above this are left out, m; None: none for that."""
    max_jump: float | None = 0.5
    """Demos whose log jumps by more than this, as no car can, are left out, m; see
    :func:`pipeline.experts.logs.jumps_of`. None: none for that."""
    split: tuple[float, float, float] = (1.0, 0.0, 0.0)
    """Shares of train, validation and test scenes; those of one log stay together."""
    resample: bool = False
    """Bring logs of other rates to steps of 0.1 s; otherwise they are left out."""
    simplify: float = SIMPLIFY_AREA
    """m^2, see :func:`sim.scene.scene_from_scenario`."""
    compat: Compat = None
    """``gpudrive`` places everything to the last bit where GPUDrive has it, likewise."""
    scenes_per_part: int = 256


@dataclass
class Outcome:
    """The outcome of some scenes."""

    records: list[Record] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """Where each record's scene lies."""
    dropped: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "reason"}``: left out by rule, nothing wrong with the file."""
    failed: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "reason"}``: could not be read, in two attempts."""
    mended: list[dict[str, str]] = field(default_factory=list)
    """``{"source", "mend"}``: what was repaired in a scene; the names are those of the report."""
    dropped_demos: list[dict[str, Any]] = field(default_factory=list)
    """``{"source", "agent", "ade_m", "reason"}``, and ``"step"`` where the reason lies at one."""
    worst_demos: list[dict[str, Any]] = field(default_factory=list)
    """``{"source", "agent", "ade_m", "left_out"}`` of demos of moving vehicles, those farthest from their log first."""


def build(refs: Sequence[SceneRef], config: ExtractConfig, fail_fast: bool = False) -> Outcome:
    """Read scenes and find their expert actions; the outcome lists what cannot be used, and why.

    Raises:
        ExtractionError: with ``fail_fast``, at the first scene that cannot be read.
    """
    outcome = Outcome()
    scenes: list[Scene] = []
    logs: list[tuple[SceneRef, NDArray[np.uint64]]] = []
    for ref, logged in _read(refs):
        if isinstance(logged, Exception):
            outcome.failed.append({"source": str(ref), "reason": str(logged)})
            continue
        try:
            scenario = _at_ten_hertz(logged, config)
            outcome.mended += [{"source": str(ref), "mend": repair} for repair in _repairs(scenario, config)]
            scenes.append(scene_from_scenario(scenario, config.steps, config.simplify, config.compat))
            logs.append((ref, fingerprint(logged)))
        except ValueError as error:
            outcome.dropped.append({"source": str(ref), "reason": str(error)})
    for (ref, sample), found in zip(logs, _demonstrate(scenes, config), strict=True):
        if isinstance(found, Exception):
            reason = f"{ref}: no expert actions can be found ({type(found).__name__}: {found})"
            outcome.failed.append({"source": str(ref), "reason": reason})
        else:
            _take(outcome, ref, replace(found, fingerprint=sample), config)
    if fail_fast and outcome.failed:
        raise ExtractionError("", f"stopped at the first failure (--fail-fast): {outcome.failed[0]['reason']}")
    return outcome


def _read(refs: Sequence[SceneRef]) -> Iterator[tuple[SceneRef, Scenario | SceneError]]:
    """Scenes, or errors; what fails is read a second time, since the network may have been at fault."""
    for ref, found in read_scenes(refs):
        yield from read_scenes([ref]) if isinstance(found, Exception) else [(ref, found)]


def _at_ten_hertz(scenario: Scenario, config: ExtractConfig) -> Scenario:
    """The log with steps of 0.1 s.

    Raises:
        SceneError: when it has others and may not be resampled, or cannot be.
    """
    if config.resample:
        scenario = resampled(scenario)
    else:
        require_regular(scenario, config.steps)
    require_pace(scenario, config.steps)
    return scenario


def _repairs(scenario: Scenario, config: ExtractConfig) -> Iterator[str]:
    yield from scenario.repairs
    if scenario.num_steps > config.steps:
        yield f"{scenario.num_steps} steps cut to the first {config.steps}"
    if scenario.num_steps < config.steps:
        yield f"only {scenario.num_steps} of {config.steps} steps; the rest is marked invalid"


def _demonstrate(scenes: Sequence[Scene], config: ExtractConfig) -> list[Record | Exception]:
    """Records of scenes; if together they fail, each on its own."""
    try:
        return list(_records(scenes, config))
    except Exception as error:  # an error of any kind costs one scene, not the run
        if len(scenes) == 1:
            return [error]
        return [record for scene in scenes for record in _demonstrate([scene], config)]


def _records(scenes: Sequence[Scene], config: ExtractConfig) -> Iterator[Record]:
    if not scenes:
        return
    rows = [demo_rows_of(scene) for scene in scenes]
    vehicles = replay_experts(scenes, config.space, [row for row, _ in rows])
    walkers = [row if config.agents == "all" else row[:0] for _, row in rows]
    vru = replay_experts(scenes, VRU_SPACE, walkers)
    for scene, demos, others in zip(scenes, vehicles, vru, strict=True):
        yield Record(scene, demos, others)


def _take(outcome: Outcome, ref: SceneRef, record: Record, config: ExtractConfig) -> None:
    """Add a scene to the outcome, without the demos that are no good; the agents of those are bound to their logs."""
    assert record.vru is not None
    faults = [_faults(record.scene, d, s, config) for d, s in ((record.demos, config.space), (record.vru, VRU_SPACE))]
    for demos, found in zip((record.demos, record.vru), faults, strict=True):
        for d, fault in found.items():
            outcome.dropped_demos.append({"source": str(ref), **_name(record.scene, demos, d), **fault})
    outcome.worst_demos = worst_demos(
        outcome.worst_demos
        + [
            {"source": str(ref), **_name(record.scene, record.demos, d), "left_out": d in faults[0]}
            for d in np.flatnonzero(record.moving).tolist()
        ]
    )
    good, good_vru = (
        np.array([d not in found for d in range(demos.num_demos)], np.bool_)
        for demos, found in zip((record.demos, record.vru), faults, strict=True)
    )
    record = replace(record, demos=record.demos.only(good), vru=record.vru.only(good_vru))
    assert record.vru is not None
    if record.moving.any() or record.vru.num_demos:
        outcome.records.append(record)
        outcome.sources.append(str(ref))
    else:
        outcome.dropped.append({"source": str(ref), "reason": _NO_AGENT})


def _name(scene: Scene, demos: Demos, d: int) -> dict[str, Any]:
    """Whose demo the ``d``-th is, and how far it is from its log."""
    return {"agent": int(scene.agent_id[demos.agent[d]]), "ade_m": float(demos.quality[d, QUALITY.index("ade_m")])}


def _faults(scene: Scene, demos: Demos, space: ActionSpace, config: ExtractConfig) -> dict[int, dict[str, Any]]:
    """Which demos are to be left out, and why, the first reason only.

    A jump comes first, since it explains a bad replay; then what a model that knows no reverse cannot follow.
    """
    found: dict[int, dict[str, Any]] = {}
    log = bridged(scene, demos.agent, demos.mark)
    if config.max_jump is not None:
        size, step = jumps_of(log, demos.mark)
        what = f"its log jumps by more than {config.max_jump:g} m beyond where a car could be (--max-jump)"
        found |= {d: {"reason": what, "step": int(step[d])} for d in np.flatnonzero(size > config.max_jump).tolist()}
    if space.dynamics in CAN_REVERSE and not space.reverse:
        what = "its log drives backwards, which GPUDrive's vehicles cannot (--compat gpudrive)"
        back = gears(log, demos.mark != ABSENT) < 0
        for d in np.flatnonzero(back.any(axis=1)).tolist():
            found.setdefault(d, {"reason": what, "step": int(back[d].argmax())})
    if config.max_replay_error is not None:
        what = f"its replay is more than {config.max_replay_error:g} m from its log on average (--max-replay-error)"
        far = demos.quality[:, QUALITY.index("ade_m")] > config.max_replay_error
        for d in np.flatnonzero(far).tolist():
            found.setdefault(d, {"reason": what})
    return dict(sorted(found.items()))
