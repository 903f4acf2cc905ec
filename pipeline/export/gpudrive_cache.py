"""Scenes of the store as files that the real GPUDrive reads, kept in a folder and named by what is in them.

A file holds one scene in the scene's own frame (near zero, where the float32 of GPUDrive's reader is fine), only the
agents that exist, in the simulator's order, and the map as polylines joined from the store's segments, so
that GPUDrive with no simplification of its own makes the same segments again. Agents that are neither controlled
nor parked are marked ``mark_as_expert`` and follow their logs there.

GPUDrive's reader has fixed sizes, and beyond them reads past its arrays or aborts the process; what does not fit is
refused here, before it is written (sizes: ``src/init.hpp``, ``src/consts.hpp`` of GPUDrive 0.4).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.pipeline.store.files import aside
from gail_cli.sim.config import GPUDRIVE_AGENTS
from gail_cli.sim.scenario import Road, RoadType, Scenario, SceneError, Tracks, TrafficLights
from gail_cli.sim.scene import Role, Scene
from gail_cli.sim.worlds import SelectedAgents

EPISODE_STATES = 91
"""States per track, and steps per episode."""
MAX_ROADS = 956
MAX_POINTS = 1746
"""Most points of a polyline; a longer one is cut in two."""
MAX_SEGMENTS = 10_000

_VERSION = 1
"""Part of a file's name; raise it when what is written changes."""
_LINES = (RoadType.ROAD_EDGE, RoadType.ROAD_LINE, RoadType.LANE)
_JOINT = 2e-3
"""Ends of consecutive segments that are nearer than this are one point, m; float32 parts them by a tenth of it."""
_MARGIN = 1e-4
"""How much longer the side of a box that gives its heading is than the others, so that rounding chooses no other, m."""


def cache_folder() -> Path:
    """``$GAIL_CLI_CACHE``, else ``gail-cli`` in the user's cache folder."""
    if given := os.environ.get("GAIL_CLI_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gail-cli"


@dataclass(frozen=True)
class SceneCache:
    """Makes the file of a scene, or finds the one that was made before."""

    folder: Path

    def __call__(self, scene: Scene, chosen: SelectedAgents) -> Path:
        """The file of this scene with these agents.

        Raises:
            SceneError: when GPUDrive cannot hold the scene.
            OSError: when the folder cannot be written.
        """
        file = self.folder / f"{_digest(scene, chosen)}.json"
        if file.exists():
            return file
        scenario = gpudrive_scenario(scene, chosen)
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = aside(file)
        try:
            gpudrive_json.write(scenario, str(temporary))
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
        return file


def gpudrive_scenario(scene: Scene, chosen: SelectedAgents) -> Scenario:
    """The scenario from which GPUDrive makes this scene with these agents, and nothing else.

    Raises:
        SceneError: when GPUDrive cannot hold it.
    """
    roads = _roads(scene)
    for reason in _unfit(scene, chosen, len(roads)):
        what = f"GPUDrive cannot hold it: {reason}"
        raise SceneError(f"scene {scene.id!r}", what, "leave it out or drive it embedded")
    row, places = chosen.row, np.arange(len(chosen.row))
    role = scene.agent_role[row]
    log = scene.log[row]
    predict = np.flatnonzero(role & Role.TRACK_TO_PREDICT)
    sdc = np.flatnonzero(role & Role.SDC)
    return Scenario(
        id=scene.id,
        tracks=Tracks(
            id=places,  # the reader drops objects whose number came before
            type=scene.agent_type[row],
            size=scene.agent_size[row],
            position=_flat(log[..., :2]),
            heading=log[..., 2],
            velocity=log[..., 3:],
            valid=scene.valid[row],
            mark_as_expert=~chosen.controlled & ~chosen.parked,
        ),
        roads=tuple(roads),
        lights=TrafficLights.none(scene.num_steps),  # GPUDrive does not read them
        timestamps=scene.timestamp,
        sdc_index=int(sdc[0]) if len(sdc) else -1,
        tracks_to_predict=predict,
        difficulty=np.zeros_like(predict),
        objects_of_interest=np.flatnonzero(role & Role.OBJECT_OF_INTEREST),
        name=scene.id,
    )


def misfits(scene: Scene, chosen: SelectedAgents) -> list[str]:
    """Why GPUDrive cannot hold this scene with these agents; empty when it can."""
    return list(_unfit(scene, chosen, _num_roads(scene)))


def _unfit(scene: Scene, chosen: SelectedAgents, roads: int) -> Iterator[str]:
    agents, segments = len(chosen.row), len(scene.segment)
    if scene.num_steps != EPISODE_STATES:
        yield f"it has {scene.num_steps} steps, not {EPISODE_STATES}"
    if not 1 <= agents <= GPUDRIVE_AGENTS:
        yield f"{agents} agents exist, at least 1 and at most {GPUDRIVE_AGENTS} can"
    if roads > MAX_ROADS:
        yield f"{roads} map features, more than {MAX_ROADS}"
    if not 1 <= segments <= MAX_SEGMENTS:
        yield f"{segments} road segments, at least 1 and at most {MAX_SEGMENTS} can be"


def _digest(scene: Scene, chosen: SelectedAgents) -> str:
    """The name of the file: a digest of everything that goes into it."""
    digest = hashlib.sha256(f"{_VERSION} {scene.id}\0".encode())
    row = chosen.row
    agents = (scene.agent_type, scene.agent_role, scene.agent_size, scene.log, scene.valid)
    roads = (scene.segment, scene.segment_type, scene.segment_map_type, scene.segment_road)
    for array in (row, chosen.controlled, chosen.parked, *(a[row] for a in agents), *roads, scene.timestamp):
        digest.update(f"{array.shape} {array.dtype}\0".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


# --- the map -------------------------------------------------------------------------------------------------------


def _ends(scene: Scene) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where each segment begins and ends, [S, 2] each."""
    x, y, reach, _, heading = scene.segment.astype(np.float64).T
    middle, arm = np.stack([x, y], axis=1), reach[:, None] * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    return middle - arm, middle + arm


def _first_of_roads(scene: Scene) -> NDArray[np.bool_]:
    """[S] whether a segment begins a map feature instead of going on from the one before."""
    start, end = _ends(scene)
    line = np.isin(scene.segment_type, _LINES)
    goes_on = np.zeros(len(line), np.bool_)
    goes_on[1:] = line[1:] & (np.abs(start[1:] - end[:-1]).max(axis=1) < _JOINT)
    for label in (scene.segment_type, scene.segment_map_type, scene.segment_road):
        goes_on[1:] &= label[1:] == label[:-1]
    first = np.flatnonzero(~goes_on)
    place = np.arange(len(line)) - np.repeat(first, np.diff(np.append(first, len(line))))
    return np.asarray(place % (MAX_POINTS - 1) == 0)


def _num_roads(scene: Scene) -> int:
    return int(_first_of_roads(scene).sum())


def _roads(scene: Scene) -> list[Road]:
    """Map features that GPUDrive turns into the scene's segments, in their order."""
    start, end = _ends(scene)
    firsts = np.flatnonzero(_first_of_roads(scene))
    roads = []
    for first, last in zip(firsts, np.append(firsts, len(start))[1:] - 1, strict=True):
        kind = RoadType(int(scene.segment_type[first]))
        if kind in _LINES:
            joints = (end[first:last] + start[first + 1 : last + 1]) / 2
            points = np.concatenate([start[first : first + 1], joints, end[last : last + 1]])
        elif kind == RoadType.STOP_SIGN:
            points = scene.segment[first : first + 1, :2].astype(np.float64)
        else:
            points = _corners(scene.segment[first].astype(np.float64))
        number = int(scene.segment_road[first]) % 2**32  # the reader takes 32 bits without a sign
        roads.append(Road(number, kind, int(scene.segment_map_type[first]), _flat(points)))
    return roads


def _corners(box: NDArray[np.float64]) -> NDArray[np.float64]:
    """[4, 2] corners of which GPUDrive makes this box again.

    It takes heading and length from the longest side, the first of equals, and the width from the shortest. The side
    opposite the first is a little shorter, and so is the width of a square, lest rounding make another the longest.
    """
    x, y, length, width, heading = box
    width = max(min(width, length - _MARGIN), 0.0)
    along = np.array([-length, length, length - _MARGIN, _MARGIN - length])
    across = np.array([-width, -width, width, width])
    c, s = np.cos(heading), np.sin(heading)
    return np.stack([x + c * along - s * across, y + s * along + c * across], axis=1)


def _flat(points: NDArray[np.floating]) -> NDArray[np.float64]:
    """[..., 3] points at height zero, of [..., 2]."""
    return np.concatenate([points, np.zeros((*points.shape[:-1], 1))], axis=-1)
