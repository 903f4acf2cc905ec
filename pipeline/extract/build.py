"""One task of an extraction: scenes in, their outcome out; no content of a file stops it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.extract.cluster import ExtractionError
from gail_cli.pipeline.logs import fingerprint
from gail_cli.pipeline.readers.sources import SceneRef, read_scenes
from gail_cli.pipeline.readers.timebase import require_regular, resampled
from gail_cli.pipeline.records import QUALITY, VRU_SPACE, Record
from gail_cli.sim.actions import ActionSpace
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
    max_replay_error: float | None = None
    """Demos whose mean distance from the log is above this are left out, m."""
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
    """``{"source", "agent", "ade_m", "reason"}``."""


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
        return resampled(scenario)
    require_regular(scenario, config.steps)
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
    """Add a scene to the outcome, without the demos that are too far from their log."""
    assert record.vru is not None
    if config.max_replay_error is not None:
        far = f"its replay is more than {config.max_replay_error:g} m from its log on average (--max-replay-error)"
        ade = QUALITY.index("ade_m")
        for demos in (record.demos, record.vru):
            for row, error in zip(demos.agent, demos.quality[:, ade], strict=True):
                if error > config.max_replay_error:
                    agent = int(record.scene.agent_id[row])
                    outcome.dropped_demos.append(
                        {"source": str(ref), "agent": agent, "ade_m": float(error), "reason": far}
                    )
        near, near_vru = (d.quality[:, ade] <= config.max_replay_error for d in (record.demos, record.vru))
        record = replace(record, demos=record.demos.only(near), vru=record.vru.only(near_vru))
    assert record.vru is not None
    if record.moving.any() or record.vru.num_demos:
        outcome.records.append(record)
        outcome.sources.append(str(ref))
    else:
        outcome.dropped.append({"source": str(ref), "reason": _NO_AGENT})
