"""The adapter to the real GPUDrive, through a stand-in for its compiled module (gpudrive_standin.py).

Recordings of the real one (../shared/golden) are replayed through it where they are at hand; everywhere else the
embedded simulator with GPUDrive's rules moves its agents.
"""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import gpudrive_standin as standin
import numpy as np
import pytest
import torch
from scenes import SHARED, car, random_scene, real_scenario, scene
from test_gpudrive_cache import FEW_ROADS, far_scene, many, segments

from gail_cli.pipeline.export.gpudrive_cache import SceneCache
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.gpudrive import MODULE, GPUDriveEnv, load_binding
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import AgentType, RoadType, SceneError
from gail_cli.sim.scene import Role, scene_from_scenario
from gail_cli.sim.worlds import make_worlds

GOLDEN = SHARED / "golden"
RUNS = json.loads((GOLDEN / "MANIFEST.json").read_text())["runs"] if GOLDEN.exists() else []
recorded = pytest.mark.skipif(not RUNS, reason=f"{GOLDEN} is absent: recordings on Waymo data are not in the project")
LAYOUT = ObservationConfig(partners=4, road_segments=8)
CLASSIC = ActionSpace.create("classic", "continuous", reverse=False)
STATE = [0, 1, 3, 4, 5]
"""Of GPUDrive's ten numbers of a state action, those that this project's has."""


@pytest.fixture
def cache(tmp_path):
    return SceneCache(tmp_path / "scenes")


# --- replayed recordings -------------------------------------------------------------------------------------------


def load(run):
    with np.load(GOLDEN / run["file"]) as arrays:
        return dict(arrays)


def recorded_worlds(runs):
    config = runs[0]["config"]
    selection = Selection(config["init_mode"], config["remove_non_vehicles"], max_agents=64)
    scenes = [scene_from_scenario(real_scenario(r["scene_file"] + ".gz"), compat="gpudrive") for r in runs]
    space = standin.Unbounded(Dynamics[config["dynamics_model"].upper()])
    return make_worlds(scenes, selection=selection), space, SimConfig.gpudrive(config["collision_behavior"], selection)


def actions_of(recording, space):
    columns = STATE if space.dynamics == Dynamics.STATE else range(space.components)
    return torch.from_numpy(recording["actions"][:, recording["cont_agent_mask"]][..., columns])


@recorded
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run["file"].removesuffix(".npz"))
def test_episodes_are_as_recorded_and_as_simulated(run, gpudrive, cache):
    """States with their velocities, events, ends and rewards; and all that is seen, to 1e-5."""
    recording = load(run)
    worlds, space, rules = recorded_worlds([run])
    gpudrive({worlds.scenes[0].id: recording})
    layout = ObservationConfig.gpudrive()
    env, embedded = GPUDriveEnv(worlds, space, rules, layout, cache), Env(worlds, space, rules, layout)
    controlled = recording["cont_agent_mask"]
    rows, actions, compared = np.flatnonzero(controlled), actions_of(recording, space), 0
    for k in range(92):
        if k:
            step, expected = env.step(actions[k - 1]), embedded.step(actions[k - 1])
            for name in ("terminated", "truncated", "alive", "events", "reward"):
                assert torch.equal(getattr(step, name), getattr(expected, name)), (k, name)
            seen, simulated = step.observation, expected.observation
        else:
            seen, simulated = env.reset(), embedded.reset()
        state, present = (x.numpy() for x in env.everyone())
        gold = recording["state"][k][:, :5]
        np.testing.assert_array_equal(present, gold[:, 0] > -5000)
        np.testing.assert_allclose(state[present], gold[present], atol=1e-5)
        assert (state[~present][:, :2] == -11000).all()
        np.testing.assert_array_equal(env.events()[:, :4], recording["info_raw"][k, controlled, :4] > 0)
        here = env.alive()
        np.testing.assert_allclose(seen[here], simulated[here], atol=1e-5)
        if run["config"]["road_obs_algorithm"] == "linear" and k in recording["obs_steps"]:
            told = recording["obs"][recording["obs_steps"].tolist().index(k)]
            for row, observation in zip(recording["obs_agents"], told, strict=True):
                if present[row] and controlled[row]:
                    np.testing.assert_allclose(seen[np.searchsorted(rows, row)], observation, atol=1e-5)
                    compared += 1
    assert compared > 20 or run["config"]["road_obs_algorithm"] != "linear"


@recorded
@pytest.mark.parametrize("name", ["classic_random", "state_random_ignore"])
def test_two_recorded_worlds_with_float_dones(name, gpudrive, cache):
    """Worlds of different sizes, so different padding; and one reset while the other waits at its end."""
    runs = [run for run in RUNS if run["run"] == name]
    recordings = [load(run) for run in runs]
    worlds, space, rules = recorded_worlds(runs)
    gpudrive({s.id: r for s, r in zip(worlds.scenes, recordings, strict=True)}, done_dtype=torch.float32)
    env = GPUDriveEnv(worlds, space, rules, LAYOUT, cache)
    parts = [actions_of(recording, space) for recording in recordings]
    own, others = slice(0, len(parts[0][0])), slice(len(parts[0][0]), None)
    for k in range(40):
        env.step(torch.cat([part[k] for part in parts]))
    env.reset([1])
    for k in range(40, 131):  # beyond 91 the first world is held, whatever it is told
        step = env.step(torch.cat([parts[0][k % 91], parts[1][k - 40]]))
        state, present = (x[worlds.controlled].numpy() for x in env.everyone())
        for recording, rows, at in ((recordings[0], own, min(k + 1, 91)), (recordings[1], others, k - 39)):
            gold = recording["state"][at][recording["cont_agent_mask"], :5]
            np.testing.assert_allclose(state[rows][present[rows]], gold[present[rows]], atol=1e-5)
            np.testing.assert_array_equal(present[rows], gold[:, 0] > -5000)
        assert not step.truncated[own].any() or k == 90
    assert not step.alive.any()


# --- the adapter ---------------------------------------------------------------------------------------------------

SMALL = [random_scene(seed, steps=91) for seed in range(3)]


def make(cache, scenes=SMALL, space=CLASSIC, rules=None, layout=LAYOUT):
    rules = rules or SimConfig.gpudrive()
    return GPUDriveEnv(make_worlds(scenes, selection=rules.selection), space, rules, layout, cache)


@pytest.mark.parametrize(
    ("behaviour", "dynamics"),
    [
        ("ignore", "classic"), ("ignore", "state"), ("stop", "bicycle"),
        ("stop", "delta_local"), ("remove", "classic"), ("remove", "delta_local"),
    ],
)  # fmt: skip
def test_it_drives_as_the_embedded_simulator_does(dynamics, behaviour, gpudrive, cache):
    """On scenes with natural roads, far from their origin; drivers are mad, and some end up backwards."""
    gpudrive()
    space = standin.Unbounded(Dynamics[dynamics.upper()])
    rules = SimConfig(
        compat="gpudrive", on_collision=behaviour, reward="weighted_combination",
        collision_weight=-0.3, off_road_weight=-0.7, goal_achieved_weight=2.0, goal_radius=3.0,
    )  # fmt: skip
    scenes = [far_scene(roads=FEW_ROADS), far_scene((0.0, 0.0), FEW_ROADS)]
    worlds = make_worlds([*scenes, many(5, segments=segments(3, RoadType.ROAD_EDGE))])
    env, embedded = GPUDriveEnv(worlds, space, rules, LAYOUT, cache), Env(worlds, space, rules, LAYOUT)
    scales = {"classic": [12, 0.1], "bicycle": [12, 0.05], "delta_local": [1, 0.1, 0.1], "state": [1] * 5}
    scale = torch.tensor(scales[dynamics])
    generator = torch.Generator().manual_seed(1)
    seen, expected = env.reset(), embedded.reset()
    ended = 0
    for k in range(91):
        alive = env.alive()
        torch.testing.assert_close(seen[alive], expected[alive], atol=2e-4, rtol=0)
        action = (torch.rand(env.num_agents, space.components, generator=generator) * 2 - 1) * scale
        if dynamics == "state":
            action += worlds.log[worlds.controlled, min(k + 1, 90)]
        elif dynamics == "delta_local":
            action[:, 0] = action[:, 0].abs() * 0.6
        step, other = env.step(action), embedded.step(action)
        for name in ("terminated", "truncated", "alive", "events"):
            assert torch.equal(getattr(step, name), getattr(other, name)), (k, name)
        torch.testing.assert_close(step.reward, other.reward)
        (state, present), (gold, there) = env.everyone(), embedded.everyone()
        assert torch.equal(present, there)
        torch.testing.assert_close(state[present], gold[present], atol=1e-3, rtol=0)
        seen, expected = step.observation, other.observation
        ended += int((step.terminated | step.truncated).sum())
    assert ended == env.num_agents


@pytest.mark.parametrize("mode", ["all_non_trivial", "all_valid", "all_objects"])
def test_init_modes(mode, gpudrive, cache):
    """A moving car, a parked one, one that comes later, and a pedestrian who does."""
    gpudrive()
    late = np.arange(91) > 20
    walker = car(0, 60, speed=1, steps=91, type=AgentType.PEDESTRIAN, size=(1, 1, 2))
    agents = [car(speed=5, steps=91), car(0, 20, steps=91), car(0, 40, speed=5, steps=91, valid=late), walker]
    selection = Selection(mode)
    worlds = make_worlds([scene(*agents, segments=segments(2))], selection=selection)
    common = (worlds, CLASSIC, SimConfig.gpudrive("ignore", selection), LAYOUT)
    env, embedded = GPUDriveEnv(*common, cache), Env(*common)
    exist, controlled = {"all_non_trivial": (2, 1), "all_valid": (2, 2), "all_objects": (4, 3)}[mode]
    assert (worlds.num_agents, env.num_agents) == (exist, controlled)
    for _ in range(40):
        step, expected = (one.step(torch.full((controlled, 2), 0.01)) for one in (env, embedded))
        assert torch.equal(step.alive, expected.alive)
        assert torch.equal(env.everyone()[1], embedded.everyone()[1])
        torch.testing.assert_close(step.observation[step.alive], expected.observation[step.alive], atol=1e-5, rtol=0)


def test_a_parked_agent_that_waymo_wants_predicted_is_refused(gpudrive, cache):
    """GPUDrive controls parked agents of a whole batch or of none."""
    gpudrive()
    scenes = [scene(car(speed=5, steps=91), car(0, 20, steps=91, role=Role.TRACK_TO_PREDICT), segments=segments(2))]
    with pytest.raises(SceneError, match="GPUDrive made others parked than the store does"):
        make(cache, scenes, rules=SimConfig.gpudrive("ignore", Selection("womd_tracks_to_predict")))


@pytest.mark.parametrize("behaviour", ["ignore", "stop", "remove"])
def test_an_accident_just_before_the_end_ends_an_episode(behaviour, gpudrive, cache):
    """It hits a wall in step 90; in step 91, the last, everyone is done, but not everyone by what it did."""
    gpudrive()
    agents = [car(0, y, speed=5, steps=91) for y in (0, 30)]
    for agent in agents:
        agent.log[90, 1] += 60  # a goal that nobody comes to
    wall = (RoadType.ROAD_EDGE, 46.4, 0, 3, 0.1, np.pi / 2)
    env = make(cache, [scene(*agents, segments=[wall])], rules=SimConfig.gpudrive(behaviour))
    for k in range(1, 92):
        step = env.step(torch.zeros(2, 2))
        assert step.events[:, 0].tolist() == [k >= 90, False]
        assert (step.terminated | step.truncated).any() == (k == 91)
    assert step.terminated.tolist() == [behaviour != "ignore", False]
    assert step.truncated.tolist() == [behaviour == "ignore", True]


def test_actions_fill_the_rows_of_the_controlled(gpudrive, cache):
    gpudrive()
    env = make(cache, space=ActionSpace.create("state", "continuous"))
    given = torch.arange(env.num_agents * 5.0).view(-1, 5)
    env._send(given)
    memory, means = env._sim.memory["action"], env._sim.memory["world_means"]
    assert float(means[:, :2].abs().min()) > 0.1
    place = 0
    for w, chosen in enumerate(env.worlds.selected):
        for slot, controlled in enumerate(chosen.controlled):
            if controlled:
                x, y, *rest = given[place].tolist()
                expected = [x - means[w, 0], y - means[w, 1], 1.0, *rest, 0.0, 0.0, 0.0, 0.0]
                torch.testing.assert_close(memory[w, slot], torch.tensor(expected))
                place += 1
            else:
                assert (memory[w, slot] == 0).all()
        assert memory[w, len(chosen.row) :].isnan().all()
    assert place == env.num_agents


def test_a_world_at_its_end_waits(gpudrive, cache):
    gpudrive()
    env = make(cache, rules=SimConfig.gpudrive("ignore"))
    own = env.worlds.tensors["world"][env.worlds.controlled] == 1
    action = torch.tensor([[0.5, 0.01]]).expand(env.num_agents, 2)
    for _ in range(30):
        env.step(action)
    env.reset([1])
    for _ in range(61):
        env.step(action)
    waiting, events, seen = env.states()[~own], env.events()[~own], env._observe()[~own].clone()
    for k in range(62, 92):
        step = env.step(action)
        assert not step.alive[~own].any()
        assert not (step.terminated | step.truncated)[~own].any()
        assert step.truncated[own].any() == (k == 91)
        assert torch.equal(env.states()[~own], waiting)
        assert torch.equal(step.events[~own], events)
        assert torch.equal(step.observation[~own], seen)
    for _ in range(95):  # nobody asks for a reset, and nobody steps past the end
        assert not env.step(action).alive.any()
    env.reset([0, 2])
    start = env.states()
    assert env.alive().tolist() == (~own).tolist()
    env.step(action)
    moved = (env.states() - start).abs().amax(dim=1) > 0
    assert moved.tolist() == (~own).tolist()


def test_parked_cars_and_gaps_are_as_in_the_log(gpudrive, cache):
    gpudrive()
    env = make(cache, [far_scene()], rules=SimConfig.gpudrive("ignore", Selection("all_non_trivial", False)))
    chosen, log = env.worlds.selected[0], env.worlds.log
    assert chosen.parked.tolist() == [False, False, False, True]
    assert chosen.controlled.tolist() == [False, True, False, False]
    for k in range(1, 80):
        env.step(torch.zeros(1, 2))
        state, present = env.everyone()
        torch.testing.assert_close(state[3, :3], log[3, 0, :3], atol=1e-5, rtol=0)
        assert state[3, 3:].tolist() == [0.0, 0.0]
        torch.testing.assert_close(state[0], log[0, k - 1], atol=1e-5, rtol=0)  # one step late
        assert present.tolist() == [True, True, not 30 < k <= 40, True]
        assert (state[2, :2] == -11000).all() or present[2]


def test_absent_old_and_altered_builds_are_told_apart(gpudrive, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, MODULE, None)
    with pytest.raises(ImportError, match=r"GPUDrive is not installed .*; build GPUDrive 0\.4 .*--backend embedded$"):
        load_binding()
    (tmp_path / f"{MODULE}.py").write_text("raise ImportError('libcudart.so.12: not found')")
    with monkeypatch.context() as patch:
        patch.delitem(sys.modules, MODULE, raising=False)
        patch.syspath_prepend(str(tmp_path))
        with pytest.raises(ImportError, match=r"GPUDrive is there but cannot be loaded \(libcudart.*; build GPUDrive"):
            load_binding()
    gpudrive().SimManager = SimpleNamespace(step=1, reset=1, set_maps=1)
    with pytest.raises(ImportError, match="lacks absolute_self_observation_tensor and is of another version"):
        load_binding()
    gpudrive().episodeLen = 200
    with pytest.raises(ImportError, match="built with episodeLen 200, not 91"):
        load_binding()
    gpudrive().vehicleScale = 1.0
    with pytest.raises(ImportError, match="built with vehicleScale"):
        load_binding()


@pytest.mark.parametrize(
    ("part", "made", "what"),
    [
        ("segments", 59, "6 agents and 59 segments of 6 and 60"),
        ("static", np.ones(6, bool), "others parked than the store does"),
        ("controlled", np.zeros(6, bool), "others controlled than the store does"),
    ],
)
def test_scenes_that_became_something_else_are_refused(part, made, what, gpudrive, cache, monkeypatch):
    gpudrive()
    parts = standin.parts
    monkeypatch.setattr(standin, "parts", lambda *args: SimpleNamespace(**{**vars(parts(*args)), part: made}))
    with pytest.raises(SceneError, match=rf"scene 'random 0': GPUDrive made {what}; leave it out"):
        make(cache, SMALL[:1])


def test_other_rules_and_other_devices_are_refused(gpudrive, cache):
    gpudrive()
    with pytest.raises(ValueError, match=r"set sim\.compat to gpudrive"):
        make(cache, rules=SimConfig())
    env = make(cache)
    with pytest.raises(ValueError, match="the worlds are on meta, the simulator on cpu"):
        env.swap(replace(env.worlds, device=torch.device("meta")))
