"""A stand-in for GPUDrive's compiled module ``madrona_gpudrive``: its calls, its tensors and its traps.

Behind every world is an engine: a recording of the real GPUDrive (``../shared/golden``), which insists on the recorded
actions, or the embedded simulator with GPUDrive's rules, built from the file that the world was loaded from.
"""

import enum
import json
import math
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scene import scene_from_scenario
from gail_cli.sim.worlds import SelectedAgents, make_worlds

AGENTS, SEGMENTS, STEPS = 64, 10_000, 91
REMOVED, INVALID = -11000.0, -10000.0
JUNK = -77
OBJECT_KEYS = {"position", "width", "length", "height", "heading", "velocity", "valid", "goalPosition", "type", "id"}
ROAD_KEYS = {"geometry", "type", "id", "map_element_id"}
LEAST_POINTS = {"crosswalk": 4, "speed_bump": 4, "stop_sign": 1}
NAMES = {"Classic": "classic", "InvertibleBicycle": "bicycle", "DeltaLocal": "delta_local", "State": "state"}


@dataclass
class Frame:
    """What A agents of a world are at one moment, in the scene's frame."""

    position: np.ndarray
    """[A, 2] m; REMOVED where removed, below INVALID / 2 where the log has no state."""
    yaw: np.ndarray
    speed: np.ndarray
    collided: np.ndarray
    info: np.ndarray
    """[A, 4]"""
    done: np.ndarray
    reward: np.ndarray


class Replay:
    """A world that was recorded; every action must be the recorded one."""

    def __init__(self, recording):
        self.recording = recording
        self.k = 0

    def reset(self):
        self.k = 0

    def step(self, action, mean):
        r = self.recording
        rows = np.flatnonzero(r["cont_agent_mask"])
        expected = r["actions"][self.k].astype(np.float32)
        given = action[rows, : expected.shape[1]].copy()
        if expected.shape[1] == 10:  # absolute positions, which lie in the frame of the file's own mean
            given[:, :2] += mean
        np.testing.assert_allclose(given, expected[rows], atol=2e-5 if expected.shape[1] == 10 else 0)
        self.k += 1

    def frame(self):
        r, k = self.recording, self.k
        state = r["state"][k]
        info, collided = r["info_raw"][k, :, :4], r["self_obs"][k, :, 6]
        return Frame(state[:, :2], state[:, 2], state[:, 5], collided, info, r["done"][k], r["reward"][k])


class Live:
    """A world of the embedded simulator with GPUDrive's rules."""

    def __init__(self, scenario, parts, parameters):
        rows = np.arange(scenario.num_agents)
        worlds = make_worlds(
            [scene_from_scenario(scenario, simplify=0)],
            selected=[SelectedAgents(rows, parts.controlled, parts.static)],
        )
        behaviour = {"Ignore": "ignore", "AgentStop": "stop", "AgentRemoved": "remove"}
        self.rules = SimConfig(
            compat="gpudrive",
            on_collision=behaviour[parameters.collisionBehaviour.name],
            goal_radius=parameters.rewardParams.distanceToGoalThreshold,
        )
        self.offset = worlds.scenes[0].origin  # of the file's frame
        self.space = Unbounded(Dynamics[NAMES[parameters.dynamicsModel.name].upper()])
        self.env = Env(worlds, self.space, self.rules, ObservationConfig(partners=1, road_segments=1))

    def reset(self):
        self.env.reset()

    def step(self, action, mean):
        given = torch.from_numpy(action[self.env.worlds.controlled.numpy()].copy())
        if self.space.dynamics == Dynamics.STATE:
            given[:, :2] += torch.from_numpy(mean - self.offset).float()
            given = given[:, [0, 1, 3, 4, 5]]
        self.env.step(given[:, : self.space.components])

    def frame(self):
        env = self.env
        state, present = (x.numpy().copy() for x in env.everyone())
        removed = state[:, 0] == REMOVED
        state[:, :2] += self.offset
        state[~present, :2] = INVALID
        state[removed & ~present, :2] = REMOVED
        speed = np.hypot(state[:, 3], state[:, 4])
        told = (env._collided, env._events[:, :4], env._done, env._reward)
        return Frame(state[:, :2], state[:, 2], speed, *(x.numpy().copy() for x in told))


class Unbounded(ActionSpace):
    """What the simulator gets is what it does: GPUDrive has no bounds."""

    @property
    def bounds(self):
        return ((-math.inf, math.inf),) * self.components


@dataclass
class Loaded:
    """A world of the simulator."""

    engine: object
    mean: np.ndarray
    controlled: np.ndarray
    static: np.ndarray
    segments: int
    left: int = STEPS


def running_mean(data):
    """GPUDrive's float32 running mean over valid positions, then all map points."""
    points = [p for o in data["objects"] for p, valid in zip(o["position"], o["valid"], strict=True) if valid]
    points += [p for road in data["roads"] for p in road["geometry"]]
    mean = np.zeros(2, np.float32)
    for n, p in enumerate(points, 1):
        mean += (np.array([p["x"], p["y"]], np.float32) - mean) / np.float32(n)
    return mean


def check_file(data):
    """All that makes GPUDrive's reader abort, or read past its arrays, or drop something."""
    assert {"name", "scenario_id", "objects", "roads", "tl_states", "metadata"} <= data.keys()
    assert all(len(data[name].encode()) <= 31 for name in ("name", "scenario_id"))
    assert {"sdc_track_index", "objects_of_interest", "tracks_to_predict"} <= data["metadata"].keys()
    assert all({"track_index", "difficulty"} <= role.keys() for role in data["metadata"]["tracks_to_predict"])
    assert 1 <= len(data["objects"]) <= AGENTS
    assert len({o["id"] for o in data["objects"]}) == len(data["objects"])
    for o in data["objects"]:
        assert o.keys() >= OBJECT_KEYS
        assert isinstance(o["mark_as_expert"], bool)
        assert {len(o[name]) for name in ("position", "heading", "velocity", "valid")} == {STEPS}
        assert all(isinstance(valid, bool) for valid in o["valid"])
        assert -(2**31) <= o["id"] < 2**31
    assert 1 <= len(data["roads"]) <= 956
    for road in data["roads"]:
        assert road.keys() >= ROAD_KEYS
        assert LEAST_POINTS.get(road["type"], 2) <= len(road["geometry"]) <= 1746
        assert 0 <= road["id"] < 2**32


def parts(data, parameters):
    """Which objects are static and which controlled, by GPUDrive's rules, and how many segments it makes."""
    assert not parameters.IgnoreNonVehicles
    objects = data["objects"]
    start = np.array([[o["position"][0]["x"], o["position"][0]["y"]] for o in objects], np.float32)
    goal = np.array([[o["goalPosition"]["x"], o["goalPosition"]["y"]] for o in objects], np.float32)
    valid, marked = (np.array(x) for x in zip(*((o["valid"][0], o["mark_as_expert"]) for o in objects), strict=True))
    assert valid.all() or not parameters.initOnlyValidAgentsAtFirstStep
    static = (np.hypot(*(goal - start).T) < 0.2) & (not parameters.isStaticAgentControlled)
    controlled = valid & ~static & ~marked
    controlled &= np.cumsum(controlled) <= parameters.maxNumControlledAgents
    lines = [road for road in data["roads"] if road["type"] in ("road_edge", "road_line", "lane")]
    segments = len(data["roads"]) - len(lines) + sum(len(road["geometry"]) - 1 for road in lines)
    return SimpleNamespace(static=static, controlled=controlled, segments=segments)


class Tensor:
    """Exported memory."""

    def __init__(self, memory):
        self._memory = memory

    def to_torch(self):
        return self._memory


class Fields:
    """A class of a compiled module: it has these fields and takes no others."""

    names: tuple[str, ...] = ()

    def __setattr__(self, name, value):
        if name not in self.names:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class RewardParams(Fields):
    names = ("rewardType", "distanceToGoalThreshold", "distanceToExpertThreshold")


class Parameters(Fields):
    names = (
        "polylineReductionThreshold", "observationRadius", "rewardParams", "collisionBehaviour",
        "maxNumControlledAgents", "IgnoreNonVehicles", "roadObservationAlgorithm", "initOnlyValidAgentsAtFirstStep",
        "dynamicsModel", "enableLidar", "disableClassicalObs", "isStaticAgentControlled", "readFromTracksToPredict",
    )  # fmt: skip


ExecMode = enum.Enum("ExecMode", ["CPU", "CUDA"])
PER_AGENT = {
    "action": 10, "self_observation": 8, "absolute_self_observation": 14, "reward": 1, "info": 5, "done": 1,
    "steps_remaining": 1, "controlled_state": 1, "response_type": 1,
}  # fmt: skip
WHOLE = ("info", "steps_remaining", "controlled_state", "response_type")
"""Whole numbers."""


class Manager:
    """``SimManager``; rows of agents that do not exist hold NaN or JUNK."""

    recordings: dict
    """scenario id → recording; a scene without one is simulated."""
    done_dtype: torch.dtype

    def __init__(self, exec_mode, gpu_id, scenes, params, enable_batch_renderer=False):
        assert (exec_mode, gpu_id, enable_batch_renderer) == (ExecMode.CPU, 0, False)
        assert params.polylineReductionThreshold == 0
        assert params.disableClassicalObs
        assert not params.enableLidar
        self.params, w = params, len(scenes)
        self.memory = {"shape": torch.zeros(w, 2, dtype=torch.int32), "world_means": torch.zeros(w, 3)}
        types = dict.fromkeys(WHOLE, torch.int32) | {"done": self.done_dtype}
        for name, fields in PER_AGENT.items():
            self.memory[name] = torch.zeros(w, AGENTS, fields, dtype=types.get(name, torch.float32))
        self.set_maps(scenes)

    def set_maps(self, paths):
        assert len(paths) == len(self.memory["shape"]), "as many maps as worlds"
        self.worlds = [self._load(path) for path in paths]
        for w, world in enumerate(self.worlds):
            agents = len(world.controlled)
            for tensor in self.memory.values():
                tensor[w] = torch.nan if tensor.is_floating_point() else JUNK
            self.memory["shape"][w] = torch.tensor([agents, world.segments])
            self.memory["world_means"][w] = torch.tensor([*world.mean, 0.0])
            self.memory["controlled_state"][w, :agents, 0] = torch.from_numpy(world.controlled).int()
            self.memory["response_type"][w, :agents, 0] = torch.from_numpy(world.static).int() * 2
        self.reset(list(range(len(paths))))

    def reset(self, indices):
        assert isinstance(indices, list)
        assert all(isinstance(w, int) for w in indices)
        for w in indices:
            self.worlds[w].engine.reset()
            self.worlds[w].left = STEPS
            self.memory["action"][w, : len(self.worlds[w].controlled)] = 0.0
        self._export()

    def step(self):
        for w, world in enumerate(self.worlds):
            assert world.left > 0, "stepped past the end"
            world.left -= 1
            action = self.memory["action"][w, : len(world.controlled)].numpy()
            world.engine.step(action.copy(), world.mean)
        self._export()

    def _load(self, path):
        with open(path) as file:
            data = json.load(file)
        check_file(data)
        made, mean = parts(data, self.params), running_mean(data)
        recording = self.recordings.get(data["scenario_id"])
        if recording is None:
            scenario = gpudrive_json.read(str(path))
            return Loaded(Live(scenario, made, self.params), mean, made.controlled, made.static, made.segments)
        np.testing.assert_array_equal(made.controlled, recording["cont_agent_mask"])
        np.testing.assert_array_equal(made.static, recording["response_type"] == 2)
        assert [len(made.static), made.segments] == recording["shape"].tolist()
        return Loaded(Replay(recording), mean, made.controlled, made.static, made.segments)

    def _export(self):
        memory = self.memory
        for w, world in enumerate(self.worlds):
            frame, rows = world.engine.frame(), slice(0, len(world.controlled))
            position = np.where(frame.position == REMOVED, REMOVED, frame.position - world.mean)
            absolute, own = memory["absolute_self_observation"][w, rows], memory["self_observation"][w, rows]
            absolute[:, :2] = torch.from_numpy(position)
            absolute[:, 7] = torch.from_numpy(frame.yaw)
            own[:, 0] = torch.from_numpy(frame.speed)
            own[:, 6] = torch.from_numpy(frame.collided).float()
            memory["info"][w, rows, :4] = torch.from_numpy(frame.info).int()
            memory["done"][w, rows, 0] = torch.from_numpy((frame.done > 0) | (world.left == 0)).to(self.done_dtype)
            memory["reward"][w, rows, 0] = torch.from_numpy(frame.reward).float()
            memory["steps_remaining"][w, :, 0] = world.left


for each in (*PER_AGENT, "shape", "world_means"):
    setattr(Manager, f"{each}_tensor", lambda self, each=each: Tensor(self.memory[each]))


def module(recordings=None, done_dtype=torch.int32):
    """The module, with recordings by scenario id."""
    kinds = {"recordings": recordings or {}, "done_dtype": done_dtype}
    return SimpleNamespace(
        SimManager=type("SimManager", (Manager,), kinds),
        Parameters=Parameters,
        RewardParams=RewardParams,
        RewardType=enum.Enum("RewardType", ["DistanceBased", "OnGoalAchieved", "Dense"]),
        CollisionBehaviour=enum.Enum("CollisionBehaviour", ["AgentStop", "AgentRemoved", "Ignore"]),
        DynamicsModel=enum.Enum("DynamicsModel", list(NAMES)),
        FindRoadObservationsWith=enum.Enum(
            "FindRoadObservationsWith", ["KNearestEntitiesWithRadiusFiltering", "AllEntitiesWithRadiusFiltering"]
        ),
        madrona=SimpleNamespace(ExecMode=ExecMode),
        kMaxAgentCount=AGENTS,
        kMaxRoadEntityCount=SEGMENTS,
        episodeLen=STEPS,
        vehicleScale=0.7,
    )
