"""Scenes of files as the challenge's scorer reads them: nothing mended, nothing simplified, float32 in its frame.

A store's scene is another reading of the same file: headings are wrapped there, states of invalid steps are zero, sizes
are those of the last step, and lanes and edges are simplified.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.evaluation.challenge import START, STEPS, Log, takes_part
from gail_cli.gail.evaluation.features import Theirs
from gail_cli.gail.evaluation.red_light import STOP_STATES, Signals, lanes_of
from gail_cli.pipeline.readers.protos import scenario_pb2
from gail_cli.pipeline.readers.sources import SceneRef, SourceError, list_scenes, read_scenes, resolve
from gail_cli.pipeline.readers.tfrecord import read_records_at
from gail_cli.pipeline.readers.womd import scenario_from_proto
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import LightState, Scenario, SceneError
from gail_cli.sim.scene import scene_from_scenario
from gail_cli.sim.worlds import make_worlds


class NobodyScoredError(UserError):
    """A scene that names nobody who is to be scored."""


@dataclass(frozen=True, eq=False)
class Logged:
    """A scene of a file; A objects over T steps, L signalled lanes."""

    scenario: Scenario
    state: NDArray[np.float32]
    """[A, T, 4] x, y, z, heading as they are in the file, also at invalid steps; objects as in the scenario."""
    size: NDArray[np.float32]
    """[A, 3] m at step 10."""
    stop_point: NDArray[np.float32]
    """[L, T, 2] of its lights; 0 where one is not seen."""
    notes: tuple[str, ...] = ()
    """What the file does not tell, one sentence each."""


def index_scenes(sources: Sequence[str]) -> dict[str, SceneRef]:
    """Where each scene of some files lies, by its id; of scenes that are there twice, the one in a TFRecord, the first.

    Raises:
        SourceError: when a source does not exist or holds no scene file, a file can not be read, none has a scene, or
            one is a demo store, which lacks what the challenge's scorer reads.
        UserError: when none of the scenes can be read; that of the first.
    """
    for source in sources:
        _refuse_store(source)
    found: dict[str, SceneRef] = {}
    bad: UserError | None = None
    for path in resolve(sources):
        refs, errors = list_scenes(path)
        if errors and not refs:
            raise SourceError(errors[0].where, errors[0].what, errors[0].fix)
        for ref, name in _ids(refs):
            if isinstance(name, UserError):
                bad = bad or name
            elif name not in found or (found[name].record is None and ref.record is not None):
                found[name] = ref
    if not found:
        raise bad or SourceError("", f"{', '.join(sources)} has no scene", "give the files of the submission's scenes")
    return found


def _refuse_store(source: str) -> None:
    """Refuse a demo store: a folder, or a zip of one."""
    path = Path(source)
    if path.suffix == ".zip" or (path / "zarr.json").is_file():
        what = f"{source} is a demo store, which does not hold all that the score reads"
        raise SourceError("", what, "give the files that it was made from")


def _ids(refs: Sequence[SceneRef]) -> Iterable[tuple[SceneRef, str | UserError]]:
    """Each scene that can be read with its id, and others with what is amiss."""
    if refs and refs[0].record is not None:
        for ref, data in zip(refs, read_records_at(refs[0].path, [ref.offset for ref in refs]), strict=True):
            yield ref, _message(data).scenario_id if isinstance(data, bytes) else data
        return
    for ref, scenario in read_scenes(refs):
        yield ref, scenario.id if isinstance(scenario, Scenario) else scenario


def _message(data: bytes) -> Any:
    message = scenario_pb2.Scenario()
    message.ParseFromString(data)
    return message


def read_logged(ref: SceneRef) -> Logged:
    """The scene that lies there.

    Raises:
        SceneError: when it can not be read, or is too short.
    """
    if ref.record is not None:
        (data,) = read_records_at(ref.path, [ref.offset])
        if not isinstance(data, bytes):
            raise data
        found = _of_message(_message(data))
    else:
        scenario = next(scene for _, scene in read_scenes([ref]))
        if not isinstance(scenario, Scenario):
            raise scenario
        found = _of_scenario(scenario)
    if found.scenario.num_steps != START + 1 + STEPS:
        what = f"it has {found.scenario.num_steps} steps, but the challenge's scenes have {START + 1 + STEPS}"
        raise SceneError(f"scene {found.scenario.id!r}", what, "give files of WOMD's training or validation set")
    return found


def _of_message(message: Any) -> Logged:
    scenario = scenario_from_proto(message)
    place = {number: k for k, number in enumerate(scenario.tracks.id.tolist())}
    state = np.zeros((scenario.num_agents, scenario.num_steps, 4), np.float32)
    size = np.ones((scenario.num_agents, 3), np.float32)
    for track in message.tracks:
        if track.id in place:
            rows = [(s.center_x, s.center_y, s.center_z, s.heading) for s in track.states]
            state[place[track.id]] = np.array(rows, np.float64)
            if len(track.states) > START and track.states[START].valid:
                s = track.states[START]
                size[place[track.id]] = s.length, s.width, s.height
    points = np.zeros((len(scenario.lights.lane), scenario.num_steps, 2), np.float32)
    row = {lane: k for k, lane in enumerate(scenario.lights.lane.tolist())}
    for t, moment in enumerate(message.dynamic_map_states):
        for signal in moment.lane_states:
            points[row[signal.lane], t] = signal.stop_point.x, signal.stop_point.y
    return Logged(scenario, state, size, points)


def _of_scenario(scenario: Scenario) -> Logged:
    """Of a file in another format, which has one size and one stop point for all steps."""
    tracks, lights = scenario.tracks, scenario.lights
    state = np.concatenate([tracks.position, tracks.heading[..., None]], axis=-1).astype(np.float32)
    seen = lights.state != LightState.ABSENT
    points = np.where(seen[..., None], lights.stop_point[:, None, :2], 0.0).astype(np.float32)
    missing = {
        "no lights, so nobody runs a red one": not len(lights.lane),
        "no recording car, so only tracks to predict are scored": scenario.sdc_index < 0,
        "no tracks to predict, so only the recording car is scored": not len(scenario.tracks_to_predict),
    }
    notes = tuple(f"its file names {what}" for what, lacks in missing.items() if lacks)
    return Logged(scenario, state, tracks.size, points, notes)


def log_of_file(logged: Logged, device: torch.device | str = "cpu") -> Log:
    """The log of a scene of a file, with the whole map.

    Raises:
        NobodyScoredError: when it names nobody.
    """
    scenario = logged.scenario
    if scenario.sdc_index < 0 and not len(scenario.tracks_to_predict):
        what = "its file names neither the recording car nor tracks to predict, so nobody is scored"
        raise NobodyScoredError(f"scene {scenario.id!r}", what, "give a file with these roles, as WOMD's own have them")
    tracks = replace(scenario.tracks, size=logged.size)
    scene = scene_from_scenario(replace(scenario, tracks=tracks), START + 1 + STEPS, simplify=0)
    worlds = make_worlds([scene], device, selected=[takes_part(scene)])
    place = {number: k for k, number in enumerate(scenario.tracks.id.tolist())}
    rows = [place[number] for number in scene.agent_id[worlds.selected[0].row].tolist()]
    state = logged.state[rows].astype(np.float64)
    track = np.zeros((len(rows), scenario.num_steps, 5), np.float32)
    track[..., :2] = state[..., :2] - scene.origin[:2]
    track[..., 2] = state[..., 3]
    z = (state[..., 2] - scene.origin_z).astype(np.float32)
    return Log(worlds, _on(track, worlds.device), _on(z, worlds.device), worlds.valid, _theirs(logged, scene))


def _on(array: NDArray[Any], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(array).to(device)


def _theirs(logged: Logged, scene: Any) -> Theirs:
    lights = logged.scenario.lights
    if not len(lights.lane):
        return Theirs([None])
    points = logged.stop_point.astype(np.float64) - scene.origin[:2]
    signals = Signals(lights.lane, np.isin(lights.state, STOP_STATES), points)
    return Theirs([(lanes_of(scene, padding=-scene.origin[:2]), signals)])
