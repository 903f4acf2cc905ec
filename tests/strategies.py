"""Scenes for the tests of the readers: hypothesis strategies, a comparison, one example of each format."""

from __future__ import annotations

import math
from dataclasses import fields

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gail_cli.pipeline.readers.protos import scenario_pb2
from gail_cli.sim.scenario import LightState, Road, RoadType, Scenario, Tracks, TrafficLights

_IDS = st.integers(0, 2**40)
_NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=31).filter(
    lambda text: len(text.encode()) <= 31
)


def _floats(shape, limit, dtype=np.float64, low=None):
    width = 32 if dtype == np.float32 else 64
    low, limit = (float(np.dtype(dtype).type(x)) for x in (-limit if low is None else low, limit))
    return hnp.arrays(dtype, shape, elements=st.floats(low, limit, width=width))


@st.composite
def tracks(draw, steps):
    """1 to 4 tracks, each valid at one step at least, entries of invalid steps zero."""
    count = draw(st.integers(1, 4))
    valid = draw(hnp.arrays(np.bool_, (count, steps)))
    valid[np.arange(count), draw(hnp.arrays(np.int64, count, elements=st.integers(0, steps - 1)))] = True
    return Tracks(
        id=np.array(draw(st.lists(_IDS, min_size=count, max_size=count, unique=True)), np.int64),
        type=draw(hnp.arrays(np.int8, count, elements=st.integers(0, 4))),
        size=draw(_floats((count, 3), 20, np.float32, low=0.125)),
        position=(draw(_floats((3,), 1e5)) + draw(_floats((count, steps, 3), 700))) * valid[..., None],
        heading=draw(_floats((count, steps), math.pi, np.float32)) * valid,
        velocity=draw(_floats((count, steps, 2), 40, np.float32)) * valid[..., None],
        valid=valid,
        mark_as_expert=draw(hnp.arrays(np.bool_, count)),
    )


@st.composite
def lights(draw, steps):
    """0 to 3 signalled lanes in the order of their ids, each with a state at one step at least."""
    lanes = sorted(draw(st.sets(_IDS, max_size=3)))
    state = draw(hnp.arrays(np.int8, (len(lanes), steps), elements=st.sampled_from([int(s) for s in LightState])))
    seen = draw(hnp.arrays(np.int64, len(lanes), elements=st.integers(0, steps - 1)))
    state[np.arange(len(lanes)), seen] = LightState.GO
    return TrafficLights(np.array(lanes, np.int64), state, draw(_floats((len(lanes), 3), 1e5)))


roads = st.builds(
    Road,
    id=_IDS,
    type=st.sampled_from(RoadType),
    map_type=st.integers(-1, 20),
    points=st.integers(1, 5).flatmap(lambda count: _floats((count, 3), 1e5)),
)


@st.composite
def scenarios(draw):
    """Any scene that a reader can return: up to 4 tracks, 4 steps, 4 map features, 3 lights."""
    steps = draw(st.integers(1, 4))
    cars = draw(tracks(steps))
    indices = st.integers(0, len(cars.id) - 1)
    roles = draw(st.lists(st.tuples(indices, st.integers(0, 2)), max_size=3))
    return Scenario(
        id=draw(_NAMES.filter(lambda text: text != "none")),
        tracks=cars,
        roads=tuple(draw(st.lists(roads, max_size=4))),
        lights=draw(lights(steps)),
        timestamps=np.array(draw(st.lists(st.floats(0, 1e3), min_size=steps, max_size=steps)), np.float64),
        current_index=draw(st.integers(0, steps - 1)),
        sdc_index=draw(st.integers(-1, len(cars.id) - 1)),
        tracks_to_predict=np.array([index for index, _ in roles], np.int64),
        difficulty=np.array([difficulty for _, difficulty in roles], np.int64),
        objects_of_interest=np.array(draw(st.lists(_IDS, max_size=3)), np.int64),
        name=draw(_NAMES),
    )


def differences(a, b, path="scenario"):
    """The names of all fields in which two scenes (or parts) differ by a value, a shape or a dtype."""
    if isinstance(a, np.ndarray):
        same = a.dtype == b.dtype and np.array_equal(a, b)
        return [] if same else [path]
    if isinstance(a, tuple) and a and isinstance(a[0], Road):
        if len(a) != len(b):
            return [path]
        return [name for i, (x, y) in enumerate(zip(a, b, strict=True)) for name in differences(x, y, f"{path}[{i}]")]
    if hasattr(a, "__dataclass_fields__"):
        names = [field.name for field in fields(a)]
        return [name for n in names for name in differences(getattr(a, n), getattr(b, n), f"{path}.{n}")]
    return [] if a == b else [path]


def womd_message(steps=3, tracks=2):
    """A ``Scenario`` proto in which track i is at (10 i + t, -t, 1), valid everywhere, length 4 + t."""
    proto = scenario_pb2.Scenario(scenario_id="abc", current_time_index=1, sdc_track_index=tracks - 1)
    proto.timestamps_seconds.extend(0.1 * t for t in range(steps))
    for i in range(tracks):
        track = proto.tracks.add(id=100 + i, object_type=1 + i % 4)
        for t in range(steps):
            track.states.add(
                center_x=10 * i + t, center_y=-t, center_z=1, length=4 + t, width=2, height=1.5, heading=0.25 * t,
                velocity_x=10, velocity_y=-10, valid=True,
            )  # fmt: skip
    return proto


def gpudrive_scene(steps=30):
    """The JSON of two cars at 10 m/s along y and x = -1, with all keys that a file of today has."""

    def car(number, heading, vx, vy):
        return {
            "position": [{"x": vx * 0.1 * t, "y": vy * 0.1 * t, "z": 1.0} for t in range(steps)],
            "velocity": [{"x": vx, "y": vy}] * steps,
            "heading": [heading] * steps,
            "valid": [True] * steps,
            "length": 4.5,
            "width": 2.0,
            "height": 1.75,
            "goalPosition": {"x": vx * 0.1 * (steps - 1), "y": vy * 0.1 * (steps - 1), "z": 1.0},
            "type": "vehicle",
            "id": number,
            "mark_as_expert": False,
        }

    return {
        "name": "tfrecord-a.json",
        "scenario_id": "a",
        "objects": [car(5, np.pi / 2, 0.0, 10.0), car(6, -np.pi, -10.0, 0.0)],
        "roads": [
            {"geometry": [{"x": 1.0, "y": 2.0, "z": 3.0}], "type": "road_edge", "map_element_id": 15, "id": 3},
            {"geometry": [{"x": 4.0, "y": 5.0, "z": 6.0}], "type": "stop_sign", "map_element_id": 17, "id": 4},
        ],
        "tl_states": {},
        "metadata": {
            "sdc_track_index": 1,
            "objects_of_interest": [6],
            "tracks_to_predict": [{"track_index": 0, "difficulty": 2}],
        },
    }
