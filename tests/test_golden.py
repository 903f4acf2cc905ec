"""The embedded simulator against episodes recorded from GPUDrive itself (../shared/golden)."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import SHARED, real_scenario, wrapped

from sim.actions import ActionSpace
from sim.dynamics import Dynamics
from sim.env import Env, SimConfig
from sim.observation import ObservationConfig
from sim.scene import scene_from_scenario
from sim.worlds import Selection, make_worlds

GOLDEN = SHARED / "golden"
RUNS = json.loads((GOLDEN / "MANIFEST.json").read_text())["runs"] if GOLDEN.exists() else []

pytestmark = pytest.mark.skipif(not RUNS, reason=f"{GOLDEN} is absent: recordings on Waymo data are not in the project")


class Unbounded(ActionSpace):
    """Recorded actions leave the bounds that this project gives to continuous ones."""

    @property
    def bounds(self):
        return ((-np.inf, np.inf),) * self.components


def scene_as_recorded(run, recording):
    """The scene in GPUDrive's frame to the last bit: its float32 means, and the map as it stood in the simulator.

    A frame that is off by 1e-4 m, which is what GPUDrive's float32 coordinates cost, tips events that hang on a hair.
    """
    logged = real_scenario(run["scene_file"] + ".gz")
    scene = scene_from_scenario(logged)
    row = [logged.tracks.id.tolist().index(number) for number in scene.agent_id]
    log = scene.log.copy()
    log[..., :2] = logged.tracks.position[row, :, :2].astype(np.float32) - recording["world_mean"][:2]
    log[~scene.valid] = 0.0
    return replace(scene, log=log, segment=recording["roadgraph"][:, [0, 1, 2, 3, 5]])


def simulator(run, recording):
    config = run["config"]
    selection = Selection(config["init_mode"], config["remove_non_vehicles"], max_agents=64)
    return Env(
        make_worlds([scene_as_recorded(run, recording)], selection=selection),
        Unbounded(Dynamics[config["dynamics_model"].upper()]),
        SimConfig.gpudrive(config["collision_behavior"]),
        ObservationConfig.gpudrive(),
    )


@pytest.fixture(params=RUNS, ids=lambda run: run["file"].removesuffix(".npz"))
def run(request):
    return request.param


@pytest.fixture
def recording(run):
    with np.load(GOLDEN / run["file"]) as arrays:
        return dict(arrays)


def test_episode_is_gpudrives(run, recording):
    """Every agent, controlled or not, at every step: presence, motion, events, done; and what controlled ones see."""
    env = simulator(run, recording)
    controlled = recording["cont_agent_mask"]
    agents = env.worlds.selected[0]
    np.testing.assert_array_equal(agents.controlled, controlled)
    np.testing.assert_array_equal(agents.parked, recording["response_type"] == 2)

    columns = [0, 1, 3, 4, 5] if env.action_space.dynamics == Dynamics.STATE else range(env.action_space.components)
    actions = torch.from_numpy(recording["actions"][:, controlled][..., columns])
    rows = np.flatnonzero(controlled)
    # GPUDrive's 200 nearest come in the order of a heap and by midpoints, so only the default order is compared
    obs_steps = recording["obs_steps"] if run["config"]["road_obs_algorithm"] == "linear" else []
    compared = 0
    for step in range(92):
        observation = env.step(actions[step - 1]).observation if step else env.reset()
        states, present = (x.numpy() for x in env.everyone())
        expected = recording["state"][step]
        np.testing.assert_array_equal(present, expected[:, 0] > -5000)  # removed and absent ones are kilometres away
        np.testing.assert_allclose(states[present, :2], expected[present, :2], atol=1e-4)
        assert np.abs(wrapped(states[present, 2] - expected[present, 2])).max(initial=0) < 1e-4
        np.testing.assert_allclose(np.hypot(*states[present, 3:].T), expected[present, 5], atol=1e-4)
        np.testing.assert_array_equal(env._events.numpy(), recording["info_raw"][step, :, :4] > 0)
        if step < 91:  # at the end GPUDrive calls everyone done
            np.testing.assert_array_equal(env._done.numpy(), recording["done"][step] > 0)
        for i in np.flatnonzero(np.equal(obs_steps, step)):
            for j, row in enumerate(recording["obs_agents"]):
                if present[row] and controlled[row]:
                    seen = observation[np.searchsorted(rows, row)]
                    np.testing.assert_allclose(seen, recording["obs"][i, j], atol=1e-5)
                    compared += 1
    assert compared > 20 or not len(obs_steps)
