"""Submissions to the sim agents challenge, parsed back."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scenes import car, scene, valid_only

from gail_cli.gail.evaluation.challenge import START, STEPS
from gail_cli.gail.evaluation.submission import (
    fill,
    from_step,
    read_heights,
    submission,
)
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2 as schema
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.sim.scenario import AgentType

SAMPLE = str(Path(__file__).parents[1] / "data" / "sample")
SCENES = [0, 1]


@pytest.fixture(scope="module")
def config(small):
    return small(sim={"horizon": None})


@pytest.fixture(scope="module")
def policy(config, make_store):
    torch.manual_seed(0)
    policy = Policy(config.observation, make_store().space, config.policy)
    torch.nn.init.normal_(policy.actor.head.weight)
    return policy


def positions(rollouts):
    """[R, A, T, 4] x, y, z, heading of one scene's joint scenes."""
    fields = ("center_x", "center_y", "center_z", "heading")
    return np.array([
        [np.stack([getattr(t, f) for f in fields], axis=-1) for t in joint.simulated_trajectories]
        for joint in rollouts.joint_scenes
    ])  # fmt: skip


@pytest.fixture(scope="module")
def parsed(policy, config, make_store):
    """Two scenes, 32 times, written and read."""
    message = submission(policy, config, make_store(), scenes=SCENES, info={"account_name": "me@example.org"})
    return schema.SimAgentsChallengeSubmission.FromString(message.SerializeToString())


def test_it_is_what_the_challenge_wants(parsed, make_store):
    """32 joint scenes of everyone who is there at step 10, 80 steps each."""
    assert parsed.submission_type == parsed.SIM_AGENTS_SUBMISSION
    assert parsed.account_name == "me@example.org"
    records = list(make_store().read(SCENES))
    assert [r.scenario_id for r in parsed.scenario_rollouts] == [record.scene.id for record in records]
    kinds = set()
    for rollouts, record in zip(parsed.scenario_rollouts, records, strict=True):
        there = record.scene.valid[:, START]
        kinds |= set(record.scene.agent_type[there].tolist())
        assert len(rollouts.joint_scenes) == 32
        for joint in rollouts.joint_scenes:
            assert [t.object_id for t in joint.simulated_trajectories] == record.scene.agent_id[there].tolist()
        assert positions(rollouts).shape == (32, there.sum(), STEPS, 4)
    assert kinds > {AgentType.VEHICLE}


def test_it_begins_where_the_log_is_in_its_own_frame(parsed, make_store):
    """The log's world frame has the mean added back: in 0.1 s nobody is further away than at 30 m/s."""
    far = 0.0
    for rollouts, record in zip(parsed.scenario_rollouts, make_store().read(SCENES), strict=True):
        scene = record.scene
        start = scene.log[scene.valid[:, START], START, :2] + scene.origin
        assert np.linalg.norm(positions(rollouts)[:, :, 0, :2] - start, axis=-1).max() < 3
        far = max(far, np.abs(scene.origin).max())
    assert far > 100


def test_the_policy_drives_and_others_go_on(parsed, make_store):
    """Vehicles that stand go on standing; pedestrians go on about as they went, in each drive a little otherwise."""
    still, walkers = 0, 0
    for rollouts, record in zip(parsed.scenario_rollouts, make_store().read(SCENES), strict=True):
        scene = record.scene
        found, there = positions(rollouts), np.flatnonzero(scene.valid[:, START])
        differs = np.ptp(found[..., :2], axis=0).max(axis=(1, 2)) > 1e-6
        for agent in np.flatnonzero(~differs):
            x, y, heading, vx, vy = scene.log[there[agent], START].astype(np.float64)
            assert (scene.agent_type[there[agent]], np.hypot(vx, vy) < 0.3) == (AgentType.VEHICLE, True)
            np.testing.assert_allclose(
                found[:, agent, :, :2], np.broadcast_to(scene.origin + np.array([x, y]), (32, 80, 2)), atol=0.01
            )
            np.testing.assert_allclose(found[:, agent, :, 3], heading)
            still += 1
        for agent in np.flatnonzero(scene.agent_type[there] == AgentType.PEDESTRIAN):
            x, y, heading, vx, vy = scene.log[there[agent], START].astype(np.float64)
            ahead = [x, y] + 0.5 * np.array([vx, vy]) + scene.origin
            apart = np.linalg.norm(found[:, agent, 4, :2] - ahead, axis=-1)
            assert 0 < apart.min() <= apart.max() < 1
            walkers += 1
    assert walkers > 0


def test_driven_agents_are_as_high_as_their_logs_others_as_they_were(parsed, make_store):
    for rollouts, record in zip(parsed.scenario_rollouts, make_store().read(SCENES), strict=True):
        scene = record.scene
        there = np.flatnonzero(scene.valid[:, START])
        z = positions(rollouts)[..., 2] - scene.origin_z
        for agent, row in enumerate(there):
            known = scene.log_z[row, START:][scene.valid[row, START:]]
            if scene.agent_type[row] == AgentType.PEDESTRIAN:
                known = known[:1]
            assert np.abs(z[:, agent, :, None] - known).min(axis=-1).max() < 1e-3


def test_the_seed_decides(policy, config, make_store):
    def made(seed, scenes=(1,)):
        result = submission(policy, config, make_store(), scenes=scenes, rollouts=2, seed=seed)
        return result.SerializeToString(deterministic=True)

    assert made(3) == made(3) != made(4)


def test_nothing_of_the_future_is_used_for_others(policy, config, make_store):
    """Logs of agents that no policy drives may be anything after step 10; and who comes later does not come."""
    store = make_store()

    def walkers(record):
        return record.scene.valid[:, START] & (record.scene.agent_type != AgentType.VEHICLE)

    index, record = next((k, record) for k, record in enumerate(store.read()) if walkers(record).any())
    there, walks = record.scene.valid[:, START], walkers(record)
    log, valid = record.scene.log.copy(), record.scene.valid.copy()
    log[walks, START + 1 :, :2] += 50.0
    valid[walks, START + 1 :] = True
    valid[~there, START + 1 :] = True

    class Other:
        path, steps, space = store.path, store.steps, store.space

        def read(self, scenes):
            return [replace(record, scene=replace(record.scene, log=log, valid=valid))]

    first, other = (submission(policy, config, s, scenes=[index], rollouts=2) for s in (store, Other()))
    assert first == other


def test_who_drives_stays_to_the_end(policy, config, make_store):
    """Also where its log ends early, which is where its goal is."""
    store = make_store()
    (record,) = store.read([0])
    valid = record.scene.valid.copy()
    valid[:, 40:] = False

    class Short:
        path, steps, space = store.path, store.steps, store.space

        def read(self, scenes):
            return [replace(record, scene=replace(record.scene, valid=valid))]

    (rollouts,) = submission(policy, config, Short(), scenes=[0], rollouts=2).scenario_rollouts
    found = positions(rollouts)[..., :2]
    assert np.ptp(found, axis=0).max() > 1e-6
    assert np.linalg.norm(np.diff(found, axis=2), axis=-1).max() < 5


def test_heights_come_from_the_sources_where_the_store_has_none(policy, config, make_store):
    store = make_store()
    ids = store.scene_ids()
    heights = read_heights([SAMPLE], {ids[1]})
    assert set(heights) == {ids[1]}
    scenario = next(s for path in resolve([SAMPLE]) for _, s in read_scenes(list_scenes(path)[0]) if s.id == ids[1])
    expected = dict(zip(scenario.tracks.id.tolist(), scenario.tracks.position[:, START, 2].tolist(), strict=True))
    raised = {ids[1]: {number: z + 12.5 for number, z in expected.items()}}

    class Flat:
        path, steps, space = store.path, store.steps, store.space

        def read(self, scenes):
            for record in store.read(scenes):
                scene = record.scene
                flat = replace(scene, origin_z=np.nan, log_z=scene.log_z * 0, segment_z=scene.segment_z * 0)
                yield replace(record, scene=flat)

    (rollouts,) = submission(policy, config, Flat(), scenes=[1], rollouts=1, heights=raised).scenario_rollouts
    for trajectory in rollouts.joint_scenes[0].simulated_trajectories:
        np.testing.assert_allclose(trajectory.center_z, expected[trajectory.object_id] + 12.5, rtol=1e-6)
    (rollouts,) = submission(policy, config, Flat(), scenes=[1], rollouts=1).scenario_rollouts
    assert {z for t in rollouts.joint_scenes[0].simulated_trajectories for z in t.center_z} == {0}
    with pytest.raises(RunError, match=r"the sources do not tell its heights; give the files"):
        submission(policy, config, Flat(), scenes=[0], rollouts=1, heights=heights)


def test_scenes_are_cut_by_hand():
    whole = scene(car(speed=5), car(1, valid=valid_only(4)), car(2, valid=valid_only(0, 1, 2, 3)), car(3, speed=2))
    cut = from_step(whole, 4, 3)
    assert cut.agent_id.tolist() == [0, 1, 3]
    np.testing.assert_array_equal(cut.log[0], whole.log[0, 4:7])
    assert (cut.valid.shape, cut.light_state.shape, cut.timestamp.tolist()) == (
        (3, 3),
        (0, 3),
        whole.timestamp[4:7].tolist(),
    )
    assert cut.goal[1].tolist() == [1, 0]


def test_short_scenes_and_other_actions_are_refused(policy, config, make_store):
    store = make_store()

    class Short:
        path, steps, space = "short", 90, store.space

    with pytest.raises(RunError, match="store short: its scenes have 90 steps, but the challenge's have 91"):
        submission(policy, config, Short())
    with pytest.raises(RunError, match="its actions are not those of the run"):
        submission(policy, config, make_store("bicycle", "continuous", scenes=2))


def test_fields_are_filled_by_name():
    given = {
        "unique_method_name": "ours", "authors": "A. One, B. Two", "uses_lidar_data": "false",
        "acknowledge_complies_with_closed_loop_requirement": "true",
    }  # fmt: skip
    found = fill(schema.SimAgentsChallengeSubmission(), given)
    assert (found.unique_method_name, list(found.authors)) == ("ours", ["A. One", "B. Two"])
    assert (found.uses_lidar_data, found.acknowledge_complies_with_closed_loop_requirement) == (False, True)
    with pytest.raises(RunError, match="no field 'author'; did you mean authors"):
        fill(schema.SimAgentsChallengeSubmission(), {"author": "me"})
    with pytest.raises(RunError, match="no field 'scenario_rollouts'"):
        fill(schema.SimAgentsChallengeSubmission(), {"scenario_rollouts": "x"})
    with pytest.raises(RunError, match="uses_lidar_data is 'no'; it must be true or false"):
        fill(schema.SimAgentsChallengeSubmission(), {"uses_lidar_data": "no"})
