"""The embedded simulator against episodes recorded from GPUDrive itself (../shared/golden)."""

import json

import numpy as np
import pytest
import torch
from scenes import SHARED, real_scenario, wrapped

from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scene import Role, scene_from_scenario
from gail_cli.sim.worlds import make_worlds

GOLDEN = SHARED / "golden"
RUNS = json.loads((GOLDEN / "MANIFEST.json").read_text())["runs"] if GOLDEN.exists() else []

pytestmark = pytest.mark.skipif(not RUNS, reason=f"{GOLDEN} is absent: recordings on Waymo data are not in the project")


class Unbounded(ActionSpace):
    """Recorded actions leave the bounds that this project gives to continuous ones."""

    @property
    def bounds(self):
        return ((-np.inf, np.inf),) * self.components


def simulator(run):
    config = run["config"]
    selection = Selection(config["init_mode"], config["remove_non_vehicles"], max_agents=64)
    order = {"linear": "first", "k_nearest_roadpoints": "nearest_midpoint"}[config["road_obs_algorithm"]]
    scene = scene_from_scenario(real_scenario(run["scene_file"] + ".gz"), compat="gpudrive")
    return Env(
        make_worlds([scene], selection=selection),
        Unbounded(Dynamics[config["dynamics_model"].upper()]),
        SimConfig.gpudrive(config["collision_behavior"], selection),
        ObservationConfig.gpudrive(order),
    )


@pytest.fixture(params=RUNS, ids=lambda run: run["file"].removesuffix(".npz"))
def run(request):
    return request.param


@pytest.fixture
def recording(run):
    with np.load(GOLDEN / run["file"]) as arrays:
        return dict(arrays)


def assert_headings_close(actual, expected, atol):
    assert np.abs(wrapped(actual - expected)).max(initial=0) < atol


def test_scene_is_gpudrives(run, recording):
    """Origin, agents and their parts, goals, and the table of segments."""
    env = simulator(run)
    scene, agents = env.worlds.scenes[0], env.worlds.selected[0]
    np.testing.assert_array_equal(scene.origin, recording["world_mean"][:2])
    np.testing.assert_array_equal(agents.controlled, recording["cont_agent_mask"])
    np.testing.assert_array_equal(agents.parked, recording["response_type"] == 2)
    np.testing.assert_array_equal(scene.agent_id[agents.row], recording["self_obs"][0, :, 7])
    roles = scene.agent_role[agents.row, None] & [Role.SDC, Role.OBJECT_OF_INTEREST, Role.TRACK_TO_PREDICT] > 0
    np.testing.assert_array_equal(roles, recording["metadata"][:, :3] > 0)
    assert [len(agents.row), len(scene.segment)] == recording["shape"].tolist()

    table = recording["roadgraph"]
    np.testing.assert_array_equal(scene.segment[:, :2], table[:, :2])
    np.testing.assert_allclose(scene.segment[:, 2:4], table[:, 2:4], atol=1e-5)
    assert_headings_close(scene.segment[:, 4], table[:, 5], 1e-6)
    for ours, column in ((scene.segment_type, 6), (scene.segment_road, 7), (scene.segment_map_type, 8)):
        np.testing.assert_array_equal(ours, table[:, column])

    valid = scene.valid[agents.row]
    np.testing.assert_array_equal(valid, recording["expert_valid"])
    np.testing.assert_array_equal(scene.log[agents.row][valid][:, :2], recording["expert_pos"][valid])


def rows_as_set(observation, config):
    """The roads' block with its rows in an order of their own; ego and partners as they are."""
    ego, partners, roads, _ = config.split(torch.as_tensor(observation))
    keys = roads.double().numpy().round(4)
    return np.concatenate([ego, partners.flatten(), roads.numpy()[np.lexsort(keys.T)].ravel()])


def test_episode_is_gpudrives(run, recording):
    """Every agent, controlled or not, at every step: presence, motion, events, done, reward; and what they see."""
    env = simulator(run)
    controlled = recording["cont_agent_mask"]
    columns = [0, 1, 3, 4, 5] if env.action_space.dynamics == Dynamics.STATE else range(env.action_space.components)
    actions = torch.from_numpy(recording["actions"][:, controlled][..., columns])
    if "action_index" in recording:  # acceleration, steering, and a head that does not tilt
        env.action_space = ActionSpace.create("classic", "discrete", "gpudrive")
        index = torch.from_numpy(recording["action_index"][:, controlled].astype(np.int64))
        actions = torch.stack([index // 13, index % 13], dim=-1)
    rows = np.flatnonzero(controlled)
    unsorted = env.observation_config.road_order == "nearest_midpoint"
    compared = 0
    for step in range(92):
        observation = env.step(actions[step - 1]).observation if step else env.reset()
        states, present = (x.numpy() for x in env.everyone())
        expected = recording["state"][step]
        np.testing.assert_array_equal(present, expected[:, 0] > -5000)  # removed and absent ones are kilometres away
        np.testing.assert_allclose(states[present, :2], expected[present, :2], atol=1e-4)
        assert_headings_close(states[present, 2], expected[present, 2], 1e-4)
        np.testing.assert_allclose(np.hypot(*states[present, 3:].T), expected[present, 5], atol=1e-4)
        np.testing.assert_array_equal(env._events.numpy()[:, :4], recording["info_raw"][step, :, :4] > 0)
        np.testing.assert_array_equal(env._reward.numpy(), recording["reward"][step])
        if step < 91:  # at the end GPUDrive calls everyone done
            np.testing.assert_array_equal(env._done.numpy(), recording["done"][step] > 0)
        for i in np.flatnonzero(recording["obs_steps"] == step):
            for j, row in enumerate(recording["obs_agents"]):
                if controlled[row]:
                    seen, gold = observation[np.searchsorted(rows, row)], recording["obs"][i, j]
                    if unsorted:
                        seen, gold = (rows_as_set(x, env.observation_config) for x in (seen, gold))
                    away = 0 if present[row] else 2e-5  # who is gone sees its goal 15 km away, rounded to 2 cm
                    np.testing.assert_allclose(seen[:6], gold[:6], atol=1e-5 + away)
                    np.testing.assert_allclose(seen[6:], gold[6:], atol=1e-5)
                    compared += 1
    assert compared > 20
