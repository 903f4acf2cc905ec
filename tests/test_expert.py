from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import STEPS, Agent, car, random_scene, real_scenes, scene, valid_only, wrapped
from test_dynamics import expected_step

from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts, replay_quality
from gail_cli.pipeline.experts.logs import gears
from gail_cli.pipeline.experts.search import Search
from gail_cli.pipeline.records import ABSENT, BRIDGED, LOGGED, QUALITY, VRU_SPACE
from gail_cli.sim.actions import ActionSpace, Dynamics
from gail_cli.sim.config import Selection
from gail_cli.sim.env import Env
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.scene import Role
from gail_cli.sim.worlds import SelectedAgents, make_worlds, select_agents

SPACES = [
    ("classic", "discrete", "fine"),
    ("classic", "discrete", "gpudrive"),
    ("classic", "continuous"),
    ("bicycle", "discrete", "fine"),
    ("bicycle", "discrete", "gpudrive"),
    ("bicycle", "continuous"),
    ("delta_local", "discrete", "fine"),
    ("delta_local", "continuous"),
    ("state", "continuous"),
]
each_space = pytest.mark.parametrize("names", SPACES, ids="-".join)
ACCURATE = {  # mean distance from the log in m, and share of goals reached, that experts of real scenes must keep
    ("classic", "discrete", "fine"): (0.06, 0.98),
    ("classic", "discrete", "gpudrive"): (0.15, 0.98),
    ("delta_local", "continuous"): (0.01, 0.98),
    ("bicycle", "continuous"): (0.10, 0.98),
}
SYNTHETIC = tuple(random_scene(seed, steps=20) for seed in range(4))
CLASSIC, BICYCLE = (ActionSpace.create(name) for name in ("classic", "bicycle"))


def everyone(scenes):
    """Rows of all agents that get a demo, whatever their type."""
    return [np.sort(np.concatenate(demo_rows_of(s))) for s in scenes]


def experts_of(*agents, space=CLASSIC, search=None):
    made = scene(*agents)
    (demos,) = replay_experts([made], space, everyone([made]), search)
    return demos


def quality_of(demos, name):
    return demos.quality[:, QUALITY.index(name)]


@cache
def replayed(names, real):
    """Scenes and their demos, searched for once."""
    scenes = real_scenes() if real else SYNTHETIC
    return scenes, replay_experts(scenes, ActionSpace.create(*names), everyone(scenes))


@pytest.mark.parametrize(
    ("names", "real"),
    [*((names, False) for names in SPACES), *((names, True) for names in ACCURATE)],
    ids=lambda x: "-".join(x) if isinstance(x, tuple) else ("synthetic", "real")[x],
)
def test_the_simulator_replays_every_demo_to_the_bit(names, real):
    scenes, demos = replayed(names, real=real)
    state, action, mark = (
        torch.from_numpy(np.concatenate([getattr(d, n) for d in demos])) for n in ("state", "action", "mark")
    )
    yes = [np.ones(d.num_demos, bool) for d in demos]
    chosen = [SelectedAgents(d.agent, y, ~y) for d, y in zip(demos, yes, strict=True)]
    env = Env(make_worlds(scenes, selected=chosen), ActionSpace.create(*names))
    assert env.num_agents == len(state) > 20
    assert torch.equal(env.states(), state[:, 0])
    for step in range(1, env.worlds.num_steps):
        env.step(action[:, step - 1])
        there = mark[:, step] != ABSENT
        assert torch.equal(env.states()[there], state[there, step])


@each_space
def test_actions_are_ones_that_a_policy_can_take(names):
    space = ActionSpace.create(*names)
    scenes, demos = replayed(names, real=False)
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
    scenes, demos = replayed(names, real=False)
    for d, s in zip(demos, scenes, strict=True):
        assert d.quality.dtype == np.float32
        for k, agent in enumerate(d.agent):
            at = np.flatnonzero(s.valid[agent])
            off = d.state[k, at].astype(np.float64) - s.log[agent, at]
            distance, turn = np.hypot(off[:, 0], off[:, 1]), np.abs(wrapped(off[:, 2]))
            expected = [distance.mean(), distance[-1], turn.mean(), distance[-1] < 2]
            np.testing.assert_allclose(d.quality[k, :4], expected, atol=1e-5)


def test_quality_by_hand():
    """Two demos of five steps: one with a gap, one that ends early; what lies outside them counts for nothing."""
    mark = np.array([[1, 1, 2, 1, 1], [1, 1, 1, 0, 0]], np.uint8)
    log, state = np.zeros((2, 2, 5, 5), np.float32)
    log[0, 2], log[1, 3:] = 99, 99
    state[0, :, 0] = [0, 3, 50, 0, 1]  # 3-4-5: distances 0, 5, -, 0, 1
    state[0, :, 1] = [0, 4, 50, 0, 0]
    state[0, :, 2] = [0, 0.4, 1, 2 * np.pi - 0.2, 0]
    state[1, :, 1] = [0, 0, 2.5, 70, 70]
    high_a, high_b = np.array(CLASSIC.sizes) - 1
    zero_a, zero_b = high_a // 2, high_b // 2
    action = np.full((2, 5, 2), (zero_a, zero_b), np.int16)
    action[0, :4] = [[zero_a, zero_b], [high_a, zero_b], [3, 0], [3, 3]]
    action[1, :2] = [[zero_a, 3], [0, high_b]]
    action[1, 3:] = 0
    found = replay_quality(CLASSIC, log, mark, state, action)
    np.testing.assert_allclose(found[0], [6 / 4, 1, 0.6 / 4, 1, 2 / 4, 1 / 4], atol=1e-6)
    np.testing.assert_allclose(found[1], [2.5 / 3, 2.5, 0, 0, 1 / 2, 0], atol=1e-6)
    # continuous: the bounds are 6 m/s^2 and 0.6 rad (1 rad with reverse), zero is anything below a thousandth
    space = ActionSpace.create("classic", "continuous", reverse=False)
    assert ActionSpace.create("classic", "continuous").bounds == ((-6, 6), (-1, 1))
    values = np.zeros((2, 5, 2), np.float32)
    values[0, :4] = [[5.9, 0.6], [-6, 0], [9e-4, -9e-4], [2e-3, 0]]
    values[1, :2] = [[0.01, -0.6], [0, 0]]
    found = replay_quality(space, log, mark, state, values)
    np.testing.assert_allclose(found[:, 4:], [[2 / 4, 1 / 4], [1 / 2, 1 / 2]], atol=1e-6)
    # the state model has no bounds; GPUDrive's grid of displacements has two values nearest to zero
    assert not replay_quality(ActionSpace.create("state", "continuous"), log, mark, state, log + 5)[:, 4:].any()
    space = ActionSpace.create("delta_local", "discrete", "gpudrive")
    indices = np.full((2, 5, 3), 9, np.int16)
    indices[0, 0], indices[0, 1] = (10, 9, 10), (11, 9, 9)
    assert replay_quality(space, log, mark, state, indices)[:, 5].tolist() == [0.75, 1]


def test_quantisation_is_the_distance_that_the_grid_costs():
    two = {"steps": 2}
    found = experts_of(car(speed=5, **two), space=ActionSpace.create("delta_local", "discrete", "gpudrive"))
    # 0.5 m ahead and 0 aside: nearest are -2 + 12 * 4/19 = 0.526 and +-0.105
    np.testing.assert_allclose(quality_of(found, "quantisation_m"), np.hypot(0.026, 0.105), atol=1e-6)
    # constant speed between the grid's 0 and 0.2: 0.07 m/s^2 for a step, or held for three, over a grid of 0 and 0.2
    for lookahead, time in ((1, 0.1), (3, 0.3)):
        agent = driven(CLASSIC, [[0.07, 0.0]] * 3, 10.0, 0.3, 4.5)
        found = experts_of(agent, search=Search(lookahead=lookahead))
        assert found.action[0, 0].tolist() == [7, 12]
        first = 0.5 * 0.07 * time**2
        assert 0.2 * first < quality_of(found, "quantisation_m")[0] < 1.5 * first
    for names in (("classic", "continuous"), ("delta_local", "continuous"), ("state", "continuous")):
        assert quality_of(experts_of(car(speed=5), space=ActionSpace.create(*names)), "quantisation_m") == 0


def driven(space, actions, speed, heading, length):
    """A log that the model itself makes, in float64."""
    state = np.array([0, 0, heading, speed * np.cos(heading), speed * np.sin(heading)])
    states = [state]
    for action in actions:
        states.append(expected_step(space.dynamics, states[-1], action, length))
    return Agent(np.array(states), size=(length, 2.0, 1.5))


@pytest.mark.parametrize("space", [CLASSIC, BICYCLE], ids=["classic", "bicycle"])
@settings(max_examples=40)
@given(
    indices=st.tuples(st.integers(4, 10), st.integers(0, 20)),
    speed=st.floats(12, 20),
    heading=st.floats(-3, 3),
    length=st.floats(3, 9),
)
def test_a_held_action_of_the_grid_is_found_again(space, indices, speed, heading, length):
    action = [grid[i] for grid, i in zip(space.grid, indices, strict=True)]
    demos = experts_of(driven(space, [action] * (STEPS - 1), speed, heading, length), space=space)
    # at the very end, with one step to look ahead, the smallest steering makes no difference
    assert demos.action[0, :-3].tolist() == [list(indices)] * (STEPS - 3)
    assert demos.quality[0, :3].max() < 1e-3


@settings(max_examples=40)
@given(data=st.data(), heading=st.floats(-3, 3))
def test_any_actions_of_the_delta_grid_are_found_again(data, heading):
    space = ActionSpace.create("delta_local")
    steps = st.tuples(*(st.integers(0, n - 1) for n in space.sizes))
    indices = data.draw(st.lists(steps, min_size=STEPS - 1, max_size=STEPS - 1))
    actions = [[grid[i] for grid, i in zip(space.grid, row, strict=True)] for row in indices]
    demos = experts_of(driven(space, actions, 0, heading, 4.0), space=space)
    assert demos.action[0, :-1].tolist() == [list(row) for row in indices]
    assert demos.quality[0, :3].max() < 1e-4


@pytest.mark.parametrize("names", [("classic", "continuous"), ("bicycle", "continuous")], ids="-".join)
def test_continuous_search_goes_between_the_candidates(names):
    space = ActionSpace.create(*names)
    demos = experts_of(driven(space, [[1.234, 0.0567]] * (STEPS - 1), 12.0, 0.5, 4.5), space=space)
    assert demos.quality[0, :3].max() < 2e-3
    np.testing.assert_allclose(demos.action[0, :-1].mean(axis=0), [1.234, 0.0567], atol=0.01)


def cost(space, search, state, targets, gear, accel, steering, length):
    """What :class:`Search` says, restated in float64 for many actions [n] held from one state along targets [k, 5] in
    gears [k]."""

    def signed(heading, vx, vy):
        back = space.reverse & (np.cos(heading) * vx + np.sin(heading) * vy < 0)
        return np.hypot(vx, vy) * np.where(back, -1, 1)

    x, y, heading, vx, vy = (np.full(len(accel), v, np.float64) for v in state)
    a, dt = accel.astype(np.float64), 0.1
    total = search.steering_weight * (steering / np.abs(space.bounds[1]).max()) ** 2
    for k, target in enumerate(np.asarray(targets, np.float64)):
        speed = signed(heading, vx, vy)
        if space.dynamics == Dynamics.CLASSIC:
            slip = np.arctan(0.5 * np.tan(steering))
            x = x + (speed + 0.5 * a * dt) * dt * np.cos(heading + slip)
            y = y + (speed + 0.5 * a * dt) * dt * np.sin(heading + slip)
            heading = heading + (speed + 0.5 * a * dt) * dt * np.cos(slip) * np.tan(steering) / length
        else:
            x = x + vx * dt + 0.5 * a * dt**2 * np.cos(heading)
            y = y + vy * dt + 0.5 * a * dt**2 * np.sin(heading)
            heading = heading + np.clip(steering, -3, 3) * (speed * dt + 0.5 * a * dt**2)
        after = speed + a * dt
        vx, vy = after * np.cos(heading), after * np.sin(heading)
        tail = search.tail * length * (gear[k] < 0) * (space.dynamics == Dynamics.CLASSIC)
        total = total + (x - tail * np.cos(heading) - target[0] + tail * np.cos(target[2])) ** 2
        total = total + (y - tail * np.sin(heading) - target[1] + tail * np.sin(target[2])) ** 2
        total = total + search.heading_weight * wrapped(heading - target[2]) ** 2
        way, now = gear[k] * after, gear[min(k + 1, len(targets) - 1)]
        fast = search.speed_weight**0.5 * ((way if space.reverse else np.abs(way)) - gear[k] * signed(*target[2:]))
        total = total + (fast + search.reverse_weight**0.5 * np.minimum(way, 0)) ** 2
        a = np.maximum(now * a, -np.maximum(now * after, 0) / dt) * now if space.reverse else a
        a = a if space.reverse else np.maximum(a, -np.abs(after) / dt)  # a brake ends at standstill
    return total


def jittery(seed, speed, steps=25):
    """A log that no model can follow: noise of some cm on a bend, and a velocity that is not along the heading."""
    rng = np.random.default_rng(seed)
    heading = 3.0 + 0.05 * np.arange(steps)
    course = heading + 0.1
    velocity = speed * np.stack([np.cos(course), np.sin(course)], axis=1)
    position = np.cumsum(0.1 * velocity, axis=0) + rng.normal(0, 0.03, (steps, 2)) + 500
    noisy = wrapped(heading + rng.normal(0, 0.01, steps))
    return Agent(np.column_stack([position, noisy, velocity]), size=(4.5, 2.0, 1.5))


@pytest.mark.parametrize("names", SPACES[:6], ids="-".join)
@pytest.mark.parametrize(("lookahead", "reverse"), [(1, False), (3, False), (3, True)])
def test_no_action_is_cheaper_than_the_one_chosen(names, lookahead, reverse):
    """Brute force: all of a grid; or a dense grid over the continuous range, and another around the action chosen."""
    space, search = ActionSpace.create(*names, reverse=reverse), Search(lookahead=lookahead)
    agents = [
        jittery(0, 0.0),
        jittery(1, -0.4 if reverse else 0.4),
        jittery(2, 6.0),
        jittery(3, -3 if reverse else 18.0),
    ]
    made = scene(*agents)
    demos = experts_of(*agents, space=space, search=search)
    values = space.decode(torch.from_numpy(demos.action.reshape(-1, 2))).numpy().reshape(demos.action.shape)
    gear = gears(made.log, made.valid)
    assert [row.min() for row in gear] == [1, *([-1, 1, -1] if reverse else [1, 1, 1])]
    for k in range(demos.num_demos):
        for step in range(24):
            chosen = values[k, step]
            axes = space.grid or [np.linspace(*b, 81) for b in space.bounds]
            tried = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
            if not space.discrete:
                near = np.stack(np.meshgrid(*([np.linspace(-0.1, 0.1, 21)] * 2)), axis=-1).reshape(-1, 2)
                low, high = np.transpose(space.bounds)
                tried = np.concatenate([tried, (chosen + near * (high - low) / 2).clip(low, high)])
            ahead = slice(step + 1, step + 1 + lookahead)
            args = demos.state[k, step], made.log[k, ahead], (gear if reverse else gear**2)[k, ahead]
            best = cost(space, search, *args, *tried.T, 4.5).min()
            (mine,) = cost(space, search, *args, *chosen[:, None], 4.5)
            assert mine <= best * (1 + (1e-4 if space.discrete else 0.04)) + 2e-5  # places 500 m away are rounded


@pytest.mark.parametrize("names", [n for n in SPACES[:6] if n[-1] != "gpudrive"], ids="-".join)
def test_who_stands_does_nothing(names):
    """It brakes, and waits with noise of a cm in its log: hardly any throttle, straight wheels, and no brake held
    beyond standstill, by which the models would let an agent jump back. (GPUDrive's grids are too coarse to stop.)"""
    space = ActionSpace.create(*names)
    speed = np.maximum(5 - 0.25 * np.arange(60), 0)
    waits = car(steps=60)
    waits.log[1:, 0] = 0.1 * np.cumsum((speed[1:] + speed[:-1]) / 2)
    waits.log[:, :2] += np.random.default_rng(0).normal(0, 0.01, (60, 2))
    waits.log[:, 3] = speed
    demos = experts_of(waits, space=space)
    accel, steering = np.abs(space.decode(torch.from_numpy(demos.action[0])).numpy()[24:-1].T)
    assert accel.mean() < 0.1
    assert steering.mean() < 0.002
    assert np.hypot(*demos.state[0, 24:, 3:].T).max() < 0.1


@pytest.mark.parametrize("names", SPACES[:1] + SPACES[2:4] + SPACES[5:8], ids="-".join)
def test_parked_vehicles_do_nothing_at_all(names):
    space = ActionSpace.create(*names)
    demos = experts_of(car(30, -20, heading=2.0), car(0, 5, role=Role.MARK_AS_EXPERT), space=space)
    np.testing.assert_array_equal(demos.quality, [[0, 0, 0, 1, 0, 1, 0]] * 2)
    np.testing.assert_array_equal(demos.state[:, 1:], demos.state[:, :-1])
    values = space.decode(torch.from_numpy(demos.action[:, :-1].reshape(-1, space.components)))
    assert not values.any()


def test_pedestrians_and_cyclists_are_followed_exactly():
    """They walk sideways and turn on the spot, as no vehicle does."""
    rng = np.random.default_rng(0)
    walks = []
    for kind in (AgentType.PEDESTRIAN, AgentType.CYCLIST):
        log = np.zeros((91, 5))
        log[:, :2] = np.cumsum(rng.normal(0, 0.5, (91, 2)), axis=0) - 300
        log[:, 2] = rng.uniform(-np.pi, np.pi, 91)
        walks.append(Agent(log, type=kind, valid=~np.isin(np.arange(91), [40, 41, 42])))
    made = scene(*walks)
    assert [rows.tolist() for rows in demo_rows_of(made)] == [[], [0, 1]]
    (demos,) = replay_experts([made], VRU_SPACE, [demo_rows_of(made)[1]])
    assert quality_of(demos, "ade_m").max() < 1e-3
    assert quality_of(demos, "fde_m").max() < 1e-3
    assert quality_of(demos, "heading_error_rad").max() < 1e-4
    assert (quality_of(demos, "goal") == 1).all()


def backing_out(speed, radius):
    """A car waits for 1.5 s and drives backwards, its rear axle, 1.35 m back, on an arc; the log has noise of a cm."""
    fast = -speed * np.clip(0.1 * np.arange(91) - 1.5, 0, 1)
    heading = 1.0 + 0.1 * np.cumsum(fast) / radius
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    middle = 0.1 * np.cumsum(fast[:, None] * ahead, axis=0) + 1.35 * ahead
    noise = np.random.default_rng(1).normal(0, 0.01, middle.shape)
    velocity = np.gradient(middle, 0.1, axis=0)
    return Agent(np.column_stack([middle + noise, heading, velocity]), size=(4.7, 2.0, 1.5))


@pytest.mark.parametrize("names", [("classic",), ("classic", "continuous"), ("bicycle",)], ids="-".join)
def test_the_search_backs_out_of_a_driveway(names):
    """20 m backwards, in a bend of 20 m: within 0.3 m, of which most is that of a rear axle at another place."""
    agent = backing_out(3, 20)
    backs, cannot = (experts_of(agent, space=ActionSpace.create(*names, reverse=r)).quality[0] for r in (True, False))
    ade, fde, turn, goal = backs[:4]
    assert (ade < 0.3, fde < 0.5, turn < 0.1, goal) == (True, True, True, 1)
    assert cannot[0] > 1


def test_driving_backwards_is_stable():
    """Straight on at 5 m/s for 35 m, with noise of a cm: steered by its middle, a car soon turns across."""
    assert experts_of(backing_out(5, 1e9)).quality[0, :3].max() < 0.03
    assert experts_of(backing_out(5, 1e9), search=Search(tail=0.0)).quality[0, 0] > 1


def test_the_search_turns_round():
    """A U-turn of 4.5 m radius at 4 m/s: a car of 4.8 m needs 0.9 rad for it."""
    heading = 4 / 4.5 * 0.1 * np.arange(36)
    place = 4.5 * np.stack([np.sin(heading), 1 - np.cos(heading)], axis=1)
    turns = np.column_stack([place, heading, 4 * np.cos(heading), 4 * np.sin(heading)])
    wide, narrow = (
        quality_of(
            experts_of(Agent(turns, size=(4.8, 2.0, 1.5)), space=ActionSpace.create("classic", grid=name)), "ade_m"
        )[0]
        for name in ("fine", "fine-0.5")
    )
    assert wide < 0.1
    assert narrow > 1


def test_gaps_are_bridged_along_the_shorter_turn():
    agent = car(speed=10, valid=valid_only(0, 1, 2, 5, 6, 7))
    agent.log[:, 1] = np.arange(STEPS) ** 2 * 0.1
    agent.log[2, 2], agent.log[5, 2] = 3.0, -3.0
    demos = experts_of(agent, space=ActionSpace.create("delta_local", "continuous"))
    assert demos.mark[0].tolist() == [LOGGED] * 3 + [BRIDGED] * 2 + [LOGGED] * 3 + [ABSENT] * 3
    np.testing.assert_allclose(demos.state[0, :8, 0], np.arange(8.0), atol=1e-5)
    np.testing.assert_allclose(demos.state[0, 2:6, 1], [0.4, 1.1, 1.8, 2.5], atol=1e-5)  # a line from 0.4 to 2.5
    step = (2 * np.pi - 6) / 3
    np.testing.assert_allclose(wrapped(demos.state[0, 2:6, 2] - 3), step * np.arange(4), atol=1e-5)
    assert not demos.state[0, 8:].any()
    assert demos.quality[0, :3].max() < 1e-5


def test_a_jump_beyond_the_bounds_is_caught_up():
    """The log jumps by 9 m in one step; an action carries 6 m at most."""
    agent = car(speed=10)
    agent.log[4:, 0] += 8
    demos = experts_of(agent, space=ActionSpace.create("delta_local", "continuous"))
    np.testing.assert_allclose(demos.state[0, :6, 0], [0, 1, 2, 3, 9, 13], atol=1e-5)
    np.testing.assert_allclose(demos.action[0, 3:5, 0], [6, 4], atol=1e-5)
    np.testing.assert_allclose(quality_of(demos, "saturated"), 0.1)


def test_who_gets_a_demo():
    late = car(0, 10, speed=5, valid=valid_only(*range(3, STEPS)))
    seen_once = car(0, 15, speed=5, valid=valid_only(0))
    made = scene(
        late,
        seen_once,
        car(0, 20),
        car(0, 30, speed=5, role=Role.MARK_AS_EXPERT),
        car(0, 40, speed=5, type=AgentType.OTHER),
        car(0, 50, speed=1, type=AgentType.PEDESTRIAN),
        car(0, 60, speed=3, type=AgentType.CYCLIST, valid=valid_only(0, 5)),
    )
    assert [rows.tolist() for rows in demo_rows_of(made)] == [[2, 3, 4], [5, 6]]
    state = ActionSpace.create("state", "continuous")
    demos = replay_experts([made, scene(car())], state, [demo_rows_of(made)[0], np.zeros(0, int)])
    assert [d.agent.tolist() for d in demos] == [[2, 3, 4], []]
    np.testing.assert_array_equal(demos[0].state, made.log[[2, 3, 4]])
    assert replay_experts([], state, []) == []
    (nobody,) = replay_experts([made], CLASSIC, [np.zeros(0, int)])
    assert nobody.quality.shape == (0, len(QUALITY))


def test_scenes_do_not_depend_on_each_other():
    together = replayed(("classic", "discrete", "fine"), real=False)[1]
    for s, expected in zip(SYNTHETIC, together, strict=True):
        (alone,) = replay_experts([s], CLASSIC, everyone([s]))
        for field in ("agent", "mark", "state", "action", "quality"):
            np.testing.assert_array_equal(getattr(alone, field), getattr(expected, field))


@pytest.mark.parametrize("steps", [0, 9])
def test_a_lookahead_that_the_search_has_not_is_refused(steps):
    with pytest.raises(ValueError, match=f"search: lookahead is {steps}; use 1 to 8 steps"):
        Search(lookahead=steps)


@pytest.mark.parametrize("names", ACCURATE, ids="-".join)
def test_experts_of_real_scenes_stay_on_their_logs(names):
    """GPUDrive's own inferred actions bring 51.6 % (classic) and 39.4 % (bicycle) to their goals."""
    scenes, demos = replayed(names, real=True)
    chosen = [select_agents(s, Selection()) for s in scenes]
    driving = [np.isin(d.agent, c.row[c.controlled]) for d, c in zip(demos, chosen, strict=True)]
    quality = np.concatenate([d.quality[which] for d, which in zip(demos, driving, strict=True)])
    assert len(quality) == 172
    limit, goals = ACCURATE[names]
    means = dict(zip(QUALITY, quality.mean(axis=0), strict=True))
    assert means["ade_m"] <= limit
    assert means["goal"] >= goals
    assert means["saturated"] < 0.15
