from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import STEPS, Agent, car, random_scene, real_scenes, scene, valid_only, wrapped
from test_dynamics import expected_step

from pipeline.expert import ABSENT, BRIDGED, LOGGED, replay_experts
from sim.actions import ActionSpace
from sim.env import Env, SimConfig
from sim.scene import Role
from sim.worlds import Selection, make_worlds

SPACES = [
    ("classic", "discrete", "fine"),
    ("classic", "discrete", "gpudrive"),
    ("classic", "continuous"),
    ("bicycle", "discrete", "fine"),
    ("bicycle", "continuous"),
    ("delta_local", "discrete", "fine"),
    ("delta_local", "continuous"),
    ("state", "continuous"),
]
each_space = pytest.mark.parametrize("names", SPACES, ids="-".join)
ACCURATE = {  # mean distance from the log in m, and share of goals reached, that experts of real scenes must keep
    ("classic", "discrete", "fine"): (0.06, 0.98),
    ("delta_local", "continuous"): (0.01, 0.98),
    ("bicycle", "continuous"): (0.10, 0.98),
}
EVERYONE = Selection(init_mode="all_objects")
SYNTHETIC = tuple(random_scene(seed, steps=20) for seed in range(4))


@cache
def replayed(names, real):
    """Scenes and their demos, searched for once."""
    scenes, selection = (real_scenes(), Selection()) if real else (SYNTHETIC, EVERYONE)
    return scenes, selection, replay_experts(scenes, ActionSpace.create(*names), selection)


@pytest.mark.parametrize(
    ("names", "real"),
    [*((names, False) for names in SPACES), *((names, True) for names in ACCURATE)],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else ("synthetic", "real")[x],
)
def test_the_simulator_replays_every_demo_to_the_bit(names, real):
    scenes, selection, demos = replayed(names, real=real)
    state, action, mark = (
        torch.from_numpy(np.concatenate([getattr(d, n) for d in demos])) for n in ("state", "action", "mark")
    )
    env = Env(make_worlds(scenes, selection=selection), ActionSpace.create(*names), SimConfig(selection=selection))
    assert env.num_agents == len(state) > 20
    assert torch.equal(env.states(), state[:, 0])
    for step in range(1, env.worlds.num_steps):
        env.step(action[:, step - 1])
        there = mark[:, step] != ABSENT
        assert torch.equal(env.states()[there], state[there, step])


@each_space
def test_actions_are_ones_that_a_policy_can_take(names):
    space = ActionSpace.create(*names)
    scenes, _, demos = replayed(names, real=False)
    for d, s in zip(demos, scenes, strict=True):
        assert d.action.shape == (d.num_demos, s.num_steps, space.components)
        low, high = np.transpose(space.bounds)
        if space.discrete:
            assert d.action.dtype == np.int16
            low, high = 0, np.array(space.sizes) - 1
        assert (d.action >= np.float32(low)).all()
        assert (d.action <= np.float32(high)).all()
        # a demo has no action where it ends, or where it is not
        goes_on = np.roll(d.mark != ABSENT, -1, axis=1)
        goes_on[:, -1] = False
        assert not d.action[~goes_on | (d.mark == ABSENT)].any()
        assert not d.state[d.mark == ABSENT].any()


@each_space
def test_errors_are_the_distances_from_the_log(names):
    scenes, _, demos = replayed(names, real=False)
    for d, s in zip(demos, scenes, strict=True):
        for k, agent in enumerate(d.agent):
            at = np.flatnonzero(s.valid[agent])
            off = d.state[k, at].astype(np.float64) - s.log[agent, at]
            distance, turn = np.hypot(off[:, 0], off[:, 1]), np.abs(wrapped(off[:, 2]))
            np.testing.assert_allclose(d.error[k], [distance.mean(), distance[-1], turn.mean()], atol=1e-5)


def driven(space, actions, speed, heading, length):
    """A log that the model itself makes, in float64."""
    state = np.array([0, 0, heading, speed * np.cos(heading), speed * np.sin(heading)])
    states = [state]
    for action in actions:
        states.append(expected_step(space.dynamics, states[-1], action, length))
    return Agent(np.array(states), size=(length, 2.0, 1.5))


@pytest.mark.parametrize("dynamics", ["classic", "bicycle"])
@settings(max_examples=40)
@given(
    indices=st.tuples(st.integers(4, 10), st.integers(0, 20)),
    speed=st.floats(8, 20),
    heading=st.floats(-3, 3),
    length=st.floats(3, 9),
)
def test_a_held_action_of_the_grid_is_found_again(dynamics, indices, speed, heading, length):
    space = ActionSpace.create(dynamics)
    action = [grid[i] for grid, i in zip(space.grid, indices, strict=True)]
    log = driven(space, [action] * (STEPS - 1), speed, heading, length)
    (demos,) = replay_experts([scene(log)], space)
    assert demos.action[0, :-1].tolist() == [list(indices)] * (STEPS - 1)
    assert demos.error[0].max() < 1e-4


@settings(max_examples=40)
@given(data=st.data(), heading=st.floats(-3, 3))
def test_any_actions_of_the_delta_grid_are_found_again(data, heading):
    space = ActionSpace.create("delta_local")
    steps = st.tuples(*(st.integers(0, n - 1) for n in space.sizes)).filter(lambda i: i[0] > 20)  # not parked
    indices = data.draw(st.lists(steps, min_size=STEPS - 1, max_size=STEPS - 1))
    actions = [[grid[i] for grid, i in zip(space.grid, row, strict=True)] for row in indices]
    (demos,) = replay_experts([scene(driven(space, actions, 0, heading, 4.0))], space)
    if demos.num_demos:  # a walk may end where it began
        assert demos.action[0, :-1].tolist() == [list(row) for row in indices]
        assert demos.error[0].max() < 1e-4


@pytest.mark.parametrize("names", [("classic", "continuous"), ("bicycle", "continuous")], ids="-".join)
def test_continuous_search_goes_between_the_candidates(names):
    space = ActionSpace.create(*names)
    log = driven(space, [[1.234, 0.0567]] * (STEPS - 1), 12.0, 0.5, 4.5)
    (demos,) = replay_experts([scene(log)], space)
    assert demos.error[0].max() < 2e-3
    np.testing.assert_allclose(demos.action[0, :-1].mean(axis=0), [1.234, 0.0567], atol=0.01)


def test_gaps_are_bridged_along_the_shorter_turn():
    agent = car(speed=10, valid=valid_only(0, 1, 2, 5, 6, 7))
    agent.log[:, 1] = np.arange(STEPS) ** 2 * 0.1
    agent.log[2, 2], agent.log[5, 2] = 3.0, -3.0
    (demos,) = replay_experts([scene(agent)], ActionSpace.create("delta_local", "continuous"))
    assert demos.mark[0].tolist() == [LOGGED] * 3 + [BRIDGED] * 2 + [LOGGED] * 3 + [ABSENT] * 3
    np.testing.assert_allclose(demos.state[0, :8, 0], np.arange(8.0), atol=1e-5)
    np.testing.assert_allclose(demos.state[0, 2:6, 1], [0.4, 1.1, 1.8, 2.5], atol=1e-5)  # a line from 0.4 to 2.5
    step = (2 * np.pi - 6) / 3
    np.testing.assert_allclose(wrapped(demos.state[0, 2:6, 2] - 3), step * np.arange(4), atol=1e-5)
    assert not demos.state[0, 8:].any()
    assert demos.error[0].max() < 1e-5


def test_a_jump_beyond_the_bounds_is_caught_up():
    """The log jumps by 9 m in one step; an action carries 6 m at most."""
    agent = car(speed=10)
    agent.log[4:, 0] += 8
    (demos,) = replay_experts([scene(agent)], ActionSpace.create("delta_local", "continuous"))
    np.testing.assert_allclose(demos.state[0, :6, 0], [0, 1, 2, 3, 9, 13], atol=1e-5)
    np.testing.assert_allclose(demos.action[0, 3:5, 0], [6, 4], atol=1e-5)


def test_only_controlled_agents_give_demos():
    late = car(0, 10, speed=5, valid=valid_only(*range(3, STEPS)))
    s = scene(late, car(0, 20), car(0, 30, speed=5, role=Role.MARK_AS_EXPERT), car(0, 40, speed=5), car(0, 50, speed=6))
    demos = replay_experts([s, scene(car())], ActionSpace.create("state", "continuous"))
    assert [d.agent.tolist() for d in demos] == [[3, 4], []]
    np.testing.assert_array_equal(demos[0].state, s.log[[3, 4]])


def test_scenes_do_not_depend_on_each_other():
    space = ActionSpace.create("classic")
    together = replayed(("classic", "discrete", "fine"), real=False)[2]
    for s, expected in zip(SYNTHETIC, together, strict=True):
        (alone,) = replay_experts([s], space, EVERYONE)
        for field in ("agent", "mark", "state", "action", "error"):
            np.testing.assert_array_equal(getattr(alone, field), getattr(expected, field))


@pytest.mark.parametrize("names", ACCURATE, ids="-".join)
def test_experts_of_real_scenes_stay_on_their_logs(names):
    """GPUDrive's own inferred actions bring 51.6 % (classic) and 39.4 % (bicycle) to their goals."""
    scenes, _, demos = replayed(names, real=True)
    final = np.concatenate([d.error[:, 1] for d in demos])
    assert len(final) == 172
    limit, goals = ACCURATE[names]
    assert np.concatenate([d.error[:, 0] for d in demos]).mean() <= limit
    ends = [d.state[k, np.flatnonzero(d.mark[k]).max(), :2] for d in demos for k in range(d.num_demos)]
    logged = np.concatenate([s.goal[d.agent] for s, d in zip(scenes, demos, strict=True)])
    assert (np.hypot(*(np.array(ends) - logged).T) < 2).mean() >= goals
