"""Waymo Open Motion Dataset: ``Scenario`` protocol buffers in TFRecord files.

Fields: https://github.com/waymo-research/waymo-open-dataset/blob/master/src/waymo_open_dataset/protos/scenario.proto
and ``map.proto`` beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from gail_cli.pipeline.readers.protos import scenario_pb2
from gail_cli.pipeline.readers.tfrecord import read_records
from gail_cli.sim.scenario import LightState, Road, RoadType, Scenario, SceneError, Tracks, TrafficLights, repaired

_ROADS: dict[str, tuple[RoadType, int, str]] = {
    "lane": (RoadType.LANE, 0, "polyline"),
    "road_line": (RoadType.ROAD_LINE, 5, "polyline"),
    "road_edge": (RoadType.ROAD_EDGE, 14, "polyline"),
    "stop_sign": (RoadType.STOP_SIGN, 17, "position"),
    "crosswalk": (RoadType.CROSSWALK, 18, "polygon"),
    "speed_bump": (RoadType.SPEED_BUMP, 19, "polygon"),
    "driveway": (RoadType.DRIVEWAY, 20, "polygon"),
}
"""Map feature → its type, the first of its ``map_element_id`` (GPUDrive's numbering), the field with its points."""


def read(path: str) -> Iterator[Scenario]:
    """Every scene of one TFRecord file, in order.

    Raises:
        TFRecordError, CorruptRecordError, SceneError: at the first scene that cannot be read
            (:func:`pipeline.readers.sources.read_scenes` goes on instead).
        OSError: when the file cannot be opened or read.
    """
    for data in read_records(path):
        if not isinstance(data, bytes):
            raise data
        yield parse(data)


def parse(data: bytes) -> Scenario:
    """One serialised ``Scenario``.

    Raises:
        SceneError: when the bytes are no such message, or the scene cannot be used.
    """
    proto = scenario_pb2.Scenario()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        fix = "give Motion Dataset files of type 'scenario'"
        raise SceneError("", "the record is no Scenario message", fix) from error
    return scenario_from_proto(proto)


def scenario_from_proto(proto: Any, name: str = "") -> Scenario:
    """Turn a ``waymo.open_dataset.Scenario`` message into a :class:`~sim.scenario.Scenario`.

    Sizes are those of the last valid step (GPUDrive's rule). ``name`` defaults to ``tfrecord-<id>.json``, which
    GPUDrive's scene loader finds by its prefix and whose length fits its 32 bytes.

    Raises:
        SceneError: when steps are missing or too many, or no track can be used.
    """
    steps = len(proto.timestamps_seconds)
    odd = [track.id for track in proto.tracks if len(track.states) != steps]
    if not steps or odd or len(proto.dynamic_map_states) > steps:
        what = f"track(s) {odd[:5]}" if odd else "dynamic_map_states" if steps else "timestamps_seconds"
        where = f"scene {proto.scenario_id!r}"
        raise SceneError(where, f"the length of {what} does not fit {steps} step(s)", "fetch the file again")
    roles = proto.tracks_to_predict
    scenario = Scenario(
        id=proto.scenario_id,
        tracks=_tracks(proto.tracks, steps),
        roads=tuple(_road(feature) for feature in proto.map_features),
        lights=_lights(proto.dynamic_map_states, steps),
        timestamps=np.array(proto.timestamps_seconds, np.float64),
        current_index=proto.current_time_index,
        sdc_index=proto.sdc_track_index if proto.HasField("sdc_track_index") else -1,
        tracks_to_predict=np.array([role.track_index for role in roles], np.int64),
        difficulty=np.array([role.difficulty for role in roles], np.int64),
        objects_of_interest=np.array(proto.objects_of_interest, np.int64),
        name=name or f"tfrecord-{proto.scenario_id}.json",
    )
    return repaired(scenario)


def _tracks(tracks: Any, steps: int) -> Tracks:
    rows = [
        (
            s.center_x,
            s.center_y,
            s.center_z,
            s.heading,
            s.velocity_x,
            s.velocity_y,
            s.length,
            s.width,
            s.height,
            s.valid,
        )
        for track in tracks
        for s in track.states
    ]
    states = np.array(rows, np.float64).reshape(len(tracks), steps, 10)
    valid = states[..., 9] != 0
    usable = valid & np.isfinite(states).all(-1)
    last = np.where(usable.any(1), steps - 1 - usable[:, ::-1].argmax(1), 0)
    return Tracks(
        id=np.array([track.id for track in tracks], np.int64),
        type=np.array([track.object_type for track in tracks], np.int8),
        size=states[np.arange(len(tracks)), last, 6:9].astype(np.float32),
        position=states[..., 0:3],
        heading=states[..., 3].astype(np.float32),
        velocity=states[..., 4:6].astype(np.float32),
        valid=valid,
        mark_as_expert=np.zeros(len(tracks), np.bool_),
    )


def _road(feature: Any) -> Road:
    kind = feature.WhichOneof("feature_data")
    if kind is None:
        return Road(feature.id, RoadType.NONE, -1, np.zeros((0, 3)))
    road_type, first_map_type, field = _ROADS[kind]
    data = getattr(feature, kind)
    points = [data.position] if field == "position" else getattr(data, field)
    subtype = data.type if field == "polyline" else 0
    return Road(feature.id, road_type, first_map_type + subtype, _xyz(points))


def _xyz(points: Any) -> NDArray[np.float64]:
    return np.array([(p.x, p.y, p.z) for p in points], np.float64).reshape(-1, 3)


def _lights(map_states: Any, steps: int) -> TrafficLights:
    """Lanes sorted by id; a lane's stop point is the first that was logged."""
    entries = [(t, signal) for t, moment in enumerate(map_states) for signal in moment.lane_states]
    stops: dict[int, Any] = {}
    for _, signal in entries:
        stops.setdefault(signal.lane, signal.stop_point)
    lanes = sorted(stops)
    row = {lane: index for index, lane in enumerate(lanes)}
    state = np.full((len(lanes), steps), LightState.ABSENT, np.int8)
    for t, signal in entries:
        state[row[signal.lane], t] = signal.state
    return TrafficLights(np.array(lanes, np.int64), state, _xyz(stops[lane] for lane in lanes))
