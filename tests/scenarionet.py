"""A ScenarioNet file as a Scenario, for tests on the real logs of that form."""

import pickle
from pathlib import Path

import numpy as np
from scenes import SHARED

from gail_cli.sim.scenario import AgentType, LightState, Road, RoadType, Scenario, Tracks, TrafficLights

FORMATS = SHARED / "formats" / "scenarionet"
OVERPASS = FORMATS / "sd_waymo_v1.2_eb4b91b10ca94ff2.pkl"
_SAFE = {
    ("collections", "defaultdict"),
    ("collections", "OrderedDict"),
    ("builtins", "dict"),
    ("builtins", "int"),
    ("builtins", "float"),
}
_TYPES = {"VEHICLE": AgentType.VEHICLE, "PEDESTRIAN": AgentType.PEDESTRIAN, "CYCLIST": AgentType.CYCLIST}
_ROADS = {"LANE": RoadType.LANE, "ROAD_LINE": RoadType.ROAD_LINE, "ROAD_EDGE": RoadType.ROAD_EDGE}


class _Plain(pickle.Unpickler):
    def find_class(self, module, name):
        if module.split(".")[0] != "numpy" and (module, name) not in _SAFE:
            raise pickle.UnpicklingError(f"{module}.{name} is no data")
        return super().find_class(module, name)


def scenario_of(path):
    with Path(path).open("rb") as file:
        data = _Plain(file).load()
    tracks, times = list(data["tracks"].items()), np.asarray(data["metadata"]["ts"], float)[: data["length"]]

    def gathered(name):
        return np.array([np.asarray(t["state"][name], float).reshape(len(times), -1) for _, t in tracks])

    valid = gathered("valid")[..., 0] > 0
    size = np.concatenate([gathered(name) for name in ("length", "width", "height")], -1)
    last = valid.shape[1] - 1 - valid[:, ::-1].argmax(1)
    lights = list(data["dynamic_map_states"].items())
    return Scenario(
        id=data["id"],
        tracks=Tracks(
            id=np.array([int(n) if n.isdigit() else k for k, (n, _) in enumerate(tracks)]),
            type=np.array([_TYPES.get(t["type"], AgentType.OTHER) for _, t in tracks], np.int8),
            size=size[np.arange(len(tracks)), last].astype(np.float32),
            position=gathered("position"),
            heading=gathered("heading")[..., 0].astype(np.float32),
            velocity=gathered("velocity").astype(np.float32),
            valid=valid,
            mark_as_expert=np.zeros(len(tracks), bool),
        ),
        roads=tuple(_roads(data["map_features"])),
        lights=TrafficLights(
            np.array([int(lane) for lane, _ in lights], np.int64),
            np.array([_light_states(light, len(times)) for _, light in lights], np.int8).reshape(-1, len(times)),
            np.array([np.asarray(light["stop_point"])[:3] for _, light in lights]).reshape(-1, 3),
        ),
        timestamps=times,
        sdc_index=[name for name, _ in tracks].index(str(data["metadata"]["sdc_id"])),
    )


def _light_states(light, steps):
    names = [str(s or "").removeprefix("LANE_STATE_") for s in light["state"]["object_state"][:steps]]
    return [LightState[name] if name in LightState.__members__ else LightState.UNKNOWN for name in names]


def _roads(features):
    for number, (name, feature) in enumerate(features.items()):
        kind = next((t for prefix, t in _ROADS.items() if feature["type"].startswith(prefix)), None)
        if kind is not None and "polyline" in feature:
            points = np.asarray(feature["polyline"], float)
            points = np.column_stack([points, np.zeros((len(points), 3 - points.shape[1]))])
            yield Road(int(name) if name.isdigit() else number, kind, -1, points)
