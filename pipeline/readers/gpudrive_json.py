"""GPUDrive's (and Nocturne's) scene files: one scene per ``.json`` or ``.json.gz``.

The schema is the one that GPUDrive's C++ reader wants (commit b2e575f); what is written here can be read there. Older
files lack keys and some hold headings in degrees: :func:`scenario_from_json` repairs what it can and records that in
``Scenario.repairs``.
"""

from __future__ import annotations

import json
from collections import Counter
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.readers.tfrecord import GZIP_ERRORS, open_binary
from gail_cli.sim.scenario import (
    DT,
    AgentType,
    LightState,
    Road,
    RoadType,
    Scenario,
    SceneError,
    Tracks,
    TrafficLights,
    repaired,
    wrap_angles,
)

INVALID = -10000.0
"""What GPUDrive's files hold at invalid steps."""
NAME_BYTES = 31
"""GPUDrive copies names into 32 bytes and needs the last one for the end mark."""
DEFAULT_HEIGHT = 1.5
"""Height in m of objects without one, as in GPUDrive's own repaired files."""
DEFAULT_CURRENT_INDEX = 10
"""WOMD's ``current_time_index``, which GPUDrive's converter leaves out."""

_ANEW = "convert the scene anew with GPUDrive's process_waymo_files.py"
_STEP_KEYS = ("position", "velocity", "heading", "valid")
_XY, _XYZ = itemgetter("x", "y"), itemgetter("x", "y", "z")
_AGENT_TYPES = {kind.name.lower(): kind for kind in AgentType}
_ROAD_TYPES = {kind.name.lower(): kind for kind in RoadType}
_LIGHT_STATES = {state.name.lower(): state for state in LightState}

Repairs = Counter[str]
"""Sentence → how often it holds."""


def read(path: str) -> Scenario:
    """Read one scene file (plain or gzipped, local or any fsspec URL).

    Raises:
        SceneError: when the file is damaged, no JSON, or no scene that can be repaired.
        OSError: when the file cannot be opened or read.
    """
    try:
        with open_binary(path) as file:
            data = json.loads(file.read())
    except GZIP_ERRORS as error:
        raise SceneError(path, f"the gzip stream is damaged ({error})", "fetch the file again") from error
    except (ValueError, RecursionError) as error:
        raise SceneError(path, f"no JSON, or damaged ({error})", "fetch the file again") from error
    return scenario_from_json(data, path)


def scenario_from_json(data: Any, name: str = "") -> Scenario:
    """Turn a parsed GPUDrive JSON file into a :class:`~sim.scenario.Scenario`.

    Args:
        data: the parsed file.
        name: path or name of the file; it stands in errors, and for keys ``name`` and ``scenario_id`` where absent.

    Absent keys and what stands in for them: ``height`` 1.5 m; ``z`` 0; object and road ``id`` the place in the file;
    ``map_element_id`` -1; ``metadata`` no roles; ``scenario_id`` (also "none") the name; ``tl_states`` no lights;
    ``mark_as_expert`` false; ``timestamps_seconds`` 0.1 s apart; ``current_time_index`` 10. All but the last three
    are recorded in ``repairs``, as are headings in degrees, which are turned into radians.

    Raises:
        SceneError: when an essential key is absent or of the wrong kind, or no track is left.
    """
    repairs: Repairs = Counter()
    where, stem = name or "scene", PurePosixPath(name).name
    objects, roads = (_get(data, key, where, list) for key in ("objects", "roads"))
    scenario_id = data.get("scenario_id")
    if scenario_id in (None, "none"):
        scenario_id = stem.removesuffix(".gz").removesuffix(".json")
        repairs["'scenario_id' is absent and the file's name stands for it"] += 1
    tracks = _tracks(objects, where, repairs)
    steps = tracks.valid.shape[1]
    timestamps = _numbers(data.get("timestamps_seconds", np.arange(steps) * DT), where, "'timestamps_seconds'")
    if timestamps.shape != (steps,):
        raise SceneError(where, f"'timestamps_seconds' does not hold {steps} numbers as the tracks do", _ANEW)
    sdc, to_predict, difficulty, interest = _roles(data, len(objects), where, repairs)
    current = {"current_time_index": min(DEFAULT_CURRENT_INDEX, steps - 1)} | data
    scenario = Scenario(
        id=str(scenario_id),
        tracks=tracks,
        roads=tuple(_road(road, index, f"{where}, road {index}", repairs) for index, road in enumerate(roads)),
        lights=_lights(data, steps, repairs),
        timestamps=timestamps,
        current_index=_integer(current, "current_time_index", where),
        sdc_index=sdc,
        tracks_to_predict=to_predict,
        difficulty=difficulty,
        objects_of_interest=interest,
        name=str(data.get("name", stem)),
        repairs=tuple(text if count == 1 else f"{text} ({count} times)" for text, count in repairs.items()),
    )
    return repaired(scenario)


def headings_in_degrees(heading: NDArray[np.float64], velocity: NDArray[np.float32], valid: NDArray[np.bool_]) -> bool:
    """Whether headings [A, T] are in degrees, judged by the direction of velocities [A, T, 2] faster than 2 m/s.

    The median angle between heading and velocity is 0.002-0.06 rad in the right unit and 0.3-2 in the wrong one. Where
    too few moving steps, or traffic along the x axis, leave that open, the range decides: unwrapped headings of real
    scenes reach 14 rad. A scene in which all headings lie within pi is in radians.
    """
    largest = np.abs(heading[valid]).max(initial=0)
    if largest <= np.float32(np.pi):
        return False
    moving = valid & (np.hypot(velocity[..., 0], velocity[..., 1]) > 2)
    if moving.sum() >= 20:
        direction = np.arctan2(velocity[..., 1], velocity[..., 0])[moving]
        rad = np.median(np.abs(wrap_angles(heading[moving] - direction)))
        deg = np.median(np.abs(wrap_angles(np.deg2rad(heading[moving]) - direction)))
        if min(rad, deg) < 0.2 < max(rad, deg):
            return bool(deg < rad)
    return bool(largest > 16)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise SceneError(where, f"holds {type(value).__name__} where an object with keys is expected", _ANEW)
    return value


def _get(data: Any, key: Any, where: str, kind: type | tuple[type, ...] = object) -> Any:
    """``data[key]``, checked to be there and of this kind."""
    if key not in _mapping(data, where):
        raise SceneError(where, f"the essential key {key!r} is absent", _ANEW)
    if not isinstance(data[key], kind):
        raise SceneError(where, f"key {key!r} holds {type(data[key]).__name__}, which is not expected", _ANEW)
    return data[key]


def _integer(data: Any, key: Any, where: str) -> int:
    """``data[key]``, checked to be there and a whole number of 64 bits."""
    value = _get(data, key, where, int)
    if isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise SceneError(where, f"key {key!r} holds {value}, which is no 64-bit integer", _ANEW)
    return int(value)


def _numbers(value: Any, where: str, name: str) -> NDArray[np.float64]:
    """An array of numbers, called ``name`` in errors; null becomes NaN."""
    try:
        return np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        raise SceneError(where, f"{name} does not hold plain numbers ({error})", _ANEW) from error


def _points(value: list[Any], where: str, name: str, repairs: Repairs) -> NDArray[np.float64]:
    """[P, 3] of a list of {x, y, z}; [P, 2] values get z = 0."""
    try:
        try:
            rows = list(map(_XYZ, value))
        except KeyError:
            rows = [(*_XY(point), point.get("z", 0.0)) for point in value]
            repairs["'z' is absent from a list of points and taken as 0"] += 1
    except (KeyError, TypeError, AttributeError) as error:
        raise SceneError(where, f"{name} does not hold points with 'x' and 'y'", _ANEW) from error
    return _numbers(rows, where, name).reshape(-1, 3)


def _tracks(objects: list[Any], where: str, repairs: Repairs) -> Tracks:
    """Objects as tracks, headings in radians; not yet free of sentinels."""
    rows = [_object(item, index, f"{where}, object {index}", repairs) for index, item in enumerate(objects)]
    if not rows:
        raise SceneError(where, "'objects' is empty", "leave the scene out")
    lengths = [len(row["valid"]) for row in rows]
    if len(set(lengths)) > 1 or not lengths[0]:
        raise SceneError(where, f"objects hold {min(lengths)} to {max(lengths)} steps", _ANEW)
    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    heading, valid = stacked["heading"], stacked["valid"]
    with np.errstate(over="ignore"):  # to infinity, which `repaired` takes as invalid
        velocity, size = stacked["velocity"].astype(np.float32), stacked["size"].astype(np.float32)
        known = valid & np.isfinite(heading) & np.isfinite(velocity).all(-1)
        if headings_in_degrees(heading, velocity, known):
            heading = np.deg2rad(heading)
            repairs["headings are in degrees and were turned into radians"] += 1
        heading = heading.astype(np.float32)
    return Tracks(
        id=stacked["id"],
        type=stacked["type"],
        size=size,
        position=stacked["position"],
        heading=heading,
        velocity=velocity,
        valid=valid,
        mark_as_expert=stacked["mark_as_expert"],
    )


def _object(item: Any, index: int, where: str, repairs: Repairs) -> dict[str, Any]:
    steps = {key: _get(item, key, where, list) for key in _STEP_KEYS}
    if len({len(values) for values in steps.values()}) > 1:
        lengths = ", ".join(f"{key} {len(values)}" for key, values in steps.items())
        raise SceneError(where, f"the lists of its steps are of unequal length ({lengths})", _ANEW)
    if "height" not in item:
        repairs[f"'height' of an object is absent and taken as {DEFAULT_HEIGHT} m"] += 1
    size = [_get(item, "length", where), _get(item, "width", where), item.get("height", DEFAULT_HEIGHT)]
    kind = _AGENT_TYPES.get(str(_get(item, "type", where)))
    if kind is None:
        repairs[f"an object is of the unknown type {item['type']!r} and taken as other"] += 1
    heading = _numbers(steps["heading"], where, "'heading'")
    try:
        velocity = _numbers(list(map(_XY, steps["velocity"])), where, "'velocity'").reshape(-1, 2)
    except (KeyError, TypeError) as error:
        raise SceneError(where, "'velocity' does not hold points with 'x' and 'y'", _ANEW) from error
    if heading.ndim != 1:
        raise SceneError(where, "'heading' is not a list of plain numbers", _ANEW)
    return {
        "id": _id(item, index, where, "an object", repairs),
        "type": np.int8(AgentType.OTHER if kind is None else kind),
        "size": _numbers(size, where, "its size").reshape(3),
        "position": _points(steps["position"], where, "'position'", repairs),
        "heading": heading,
        "velocity": velocity,
        "valid": _numbers(steps["valid"], where, "'valid'") == 1,
        "mark_as_expert": np.bool_(bool(item.get("mark_as_expert", False))),
    }


def _id(item: dict[str, Any], index: int, where: str, what: str, repairs: Repairs) -> np.int64:
    if "id" not in item:
        repairs[f"'id' of {what} is absent and its place in the file stands for it"] += 1
    return np.int64(_integer({"id": index} | item, "id", where))


def _road(item: Any, index: int, where: str, repairs: Repairs) -> Road:
    points = _points(_get(item, "geometry", where, list), where, "'geometry'", repairs)
    kind = _ROAD_TYPES.get(str(_get(item, "type", where)))
    if kind is None:
        repairs[f"a map feature is of the unknown type {item['type']!r}"] += 1
    if "map_element_id" not in item:
        repairs["'map_element_id' of a map feature is absent and taken as -1"] += 1
    return Road(
        id=int(_id(item, index, where, "a map feature", repairs)),
        type=RoadType.NONE if kind is None else kind,
        map_type=_integer({"map_element_id": -1} | item, "map_element_id", where),
        points=points,
    )


def _roles(
    data: dict[str, Any], count: int, where: str, repairs: Repairs
) -> tuple[int, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """SDC index, tracks to predict [K], their difficulty [K], ids of objects of interest."""
    if "metadata" not in data:
        repairs["'metadata' is absent and no track has a role"] += 1
    metadata = data.get("metadata", {})
    where = f"{where}, metadata"
    given = {"sdc_track_index": -1, "tracks_to_predict": [], "objects_of_interest": []} | _mapping(metadata, where)
    sdc = _integer(given, "sdc_track_index", where)
    roles = [
        (_integer(role, "track_index", where), _integer({"difficulty": 0} | role, "difficulty", where))
        for role in _get(given, "tracks_to_predict", where, list)
    ]
    known = [role for role in roles if 0 <= role[0] < count]
    if len(known) < len(roles) or not -1 <= sdc < count:
        repairs["a role in 'metadata' names an object that is not there and is left out"] += 1
    pairs = np.array(known, np.int64).reshape(-1, 2)
    ids = dict(enumerate(_get(given, "objects_of_interest", where, list)))
    interest = np.array([_integer(ids, place, f"{where}, objects_of_interest") for place in ids], np.int64)
    return sdc if 0 <= sdc < count else -1, pairs[:, 0], pairs[:, 1], interest


def _lights(data: dict[str, Any], steps: int, repairs: Repairs) -> TrafficLights:
    """``tl_states``: lane id → lists ``state`` (names), ``x``, ``y``, ``z`` and ``time_index`` of equal length."""
    if "tl_states" not in data:
        repairs["'tl_states' is absent and no lane has a light"] += 1
    try:
        signals = sorted((int(lane), signal) for lane, signal in data.get("tl_states", {}).items())
        state = np.full((len(signals), steps), LightState.ABSENT, np.int8)
        stop = np.zeros((len(signals), 3))
        for row, (_, signal) in enumerate(signals):
            times = np.array(signal["time_index"], np.int64)
            if (times < 0).any():
                raise ValueError("a time_index is negative")
            state[row, times] = [_LIGHT_STATES[name] for name in signal["state"]]
            stop[row] = [signal[axis][0] for axis in "xyz"]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        repairs[f"'tl_states' cannot be read ({type(error).__name__}: {error}) and the lights are left out"] += 1
        return TrafficLights.none(steps)
    return TrafficLights(np.array([lane for lane, _ in signals], np.int64), state, stop)


def write(scenario: Scenario, path: str) -> None:
    """Write one scene file that GPUDrive can load (gzipped when the path ends in ``.gz``).

    Raises:
        OSError: when the path cannot be written.
    """
    text = json.dumps(scenario_to_json(scenario), allow_nan=False, separators=(",", ":"))
    with open_binary(path, "wb") as file:
        file.write(text.encode())


def scenario_to_json(scenario: Scenario) -> dict[str, Any]:
    """The scene in GPUDrive's schema; :func:`scenario_from_json` gives the same scene back.

    Beside GPUDrive's own keys it holds ``timestamps_seconds``, ``current_time_index`` and filled ``tl_states``, which
    GPUDrive does not read. ``name`` and ``scenario_id`` are cut to 31 bytes, the most that GPUDrive can hold.
    """
    tracks = scenario.tracks
    return {
        "name": _cut(scenario.name),
        "scenario_id": _cut(scenario.id),
        "objects": [_object_to_json(tracks, index) for index in range(scenario.num_agents)],
        "roads": [
            {
                "geometry": _points_to_json(road.points),
                "type": road.type.name.lower(),
                "id": road.id,
                "map_element_id": road.map_type,
            }
            for road in scenario.roads
        ],
        "tl_states": _lights_to_json(scenario.lights),
        "metadata": {
            "sdc_track_index": scenario.sdc_index,
            "objects_of_interest": scenario.objects_of_interest.tolist(),
            "tracks_to_predict": [
                {"track_index": index, "difficulty": difficulty}
                for index, difficulty in zip(
                    scenario.tracks_to_predict.tolist(), scenario.difficulty.tolist(), strict=True
                )
            ],
        },
        "timestamps_seconds": scenario.timestamps.tolist(),
        "current_time_index": scenario.current_index,
    }


def _object_to_json(tracks: Tracks, index: int) -> dict[str, Any]:
    valid = tracks.valid[index]
    position = np.where(valid[:, None], tracks.position[index], INVALID)
    velocity = np.where(valid[:, None], tracks.velocity[index], np.float32(INVALID))
    length, width, height = tracks.size[index].tolist()
    return {
        "position": _points_to_json(position),
        "width": width,
        "length": length,
        "height": height,
        "heading": np.where(valid, tracks.heading[index], np.float32(INVALID)).tolist(),
        "velocity": [{"x": x, "y": y} for x, y in velocity.tolist()],
        "valid": valid.tolist(),
        "goalPosition": _points_to_json(position[np.flatnonzero(valid)[-1:]])[0],
        "type": AgentType(int(tracks.type[index])).name.lower(),
        "id": int(tracks.id[index]),
        "mark_as_expert": bool(tracks.mark_as_expert[index]),
    }


def _points_to_json(points: NDArray[np.float64]) -> list[dict[str, float]]:
    return [{"x": x, "y": y, "z": z} for x, y, z in points.tolist()]


def _lights_to_json(lights: TrafficLights) -> dict[str, Any]:
    signals = {}
    for lane, states, stop in zip(lights.lane.tolist(), lights.state, lights.stop_point.tolist(), strict=True):
        times = np.flatnonzero(states != LightState.ABSENT).tolist()
        signals[str(lane)] = {
            "state": [LightState(int(states[t])).name.lower() for t in times],
            **{axis: [value] * len(times) for axis, value in zip("xyz", stop, strict=True)},
            "time_index": times,
        }
    return signals


def _cut(text: str) -> str:
    """As many whole characters as fit in 31 bytes of UTF-8."""
    return text.encode()[:NAME_BYTES].decode(errors="ignore")
