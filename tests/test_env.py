from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenes import STEPS, Agent, car, scene, valid_only

from gail_cli.gail.config.rules import explained
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.scene import Role
from gail_cli.sim.worlds import REMOVED_POSITION, make_worlds

ALL_VALID = Selection(init_mode="all_valid", remove_non_vehicles=False)
EVERYONE = Selection(init_mode="all_objects")
LOGGED = Role.MARK_AS_EXPERT
"""The role of agents that are not controlled and follow their log."""
OFF_ROAD, VEHICLE, NON_VEHICLE, GOAL, RED_LIGHT = Event


def simulator(*scenes, dynamics="classic", selection=ALL_VALID, observation=None, **rules):
    worlds = make_worlds(scenes, selection=selection)
    space = ActionSpace.create(dynamics, "continuous", reverse=rules.get("compat") != "gpudrive")
    return Env(worlds, space, SimConfig(selection=selection, **rules), observation)


def coast(env):
    """Everyone keeps speed and heading (classic)."""
    return env.step(torch.zeros(env.num_agents, 2))


def positions(env):
    """x and y of all agents, controlled or not."""
    return env.everyone()[0][:, :2].tolist()


# What touches what


def corners(x, y, heading, half_length, half_width):
    turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
    return [x, y] + np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [half_length, half_width] @ turn


def separation(a, b):
    """Widest gap between two convex polygons along the normals of their sides; negative if they overlap."""
    gaps = []
    for polygon in (a, b):
        for side in np.roll(polygon, -1, axis=0) - polygon:
            normal = np.array([-side[1], side[0]]) / np.hypot(*side)
            gaps += [(b @ normal).min() - (a @ normal).max(), (a @ normal).min() - (b @ normal).max()]
    return max(gaps)


poses = st.tuples(st.floats(-6, 6), st.floats(-6, 6), st.floats(-3.14, 3.14))
sizes = st.tuples(st.floats(0.5, 12), st.floats(0.3, 4))


@settings(max_examples=200)
@given(pose=poses, other=poses, size=sizes, other_size=sizes, scale=st.sampled_from([0.7, 1.0]))
def test_boxes_collide_as_polygons_do(pose, other, size, other_size, scale):
    gap = separation(
        corners(*pose, scale * size[0] / 2, scale * size[1] / 2),
        corners(*other, scale * other_size[0] / 2, scale * other_size[1] / 2),
    )
    assume(abs(gap) > 1e-4)
    env = simulator(scene(car(*pose, size=(*size, 1)), car(*other, size=(*other_size, 1))), box_scale=scale)
    assert env.events()[:, VEHICLE].tolist() == [gap < 0] * 2


@settings(max_examples=200)
@given(pose=poses, edge=poses, size=sizes, half_length=st.floats(0, 15))
def test_cars_leave_the_road_as_polygons_do(pose, edge, size, half_length):
    gap = separation(corners(*pose, 0.35 * size[0], 0.35 * size[1]), corners(*edge, half_length + 1e-9, 0.1))
    assume(abs(gap) > 1e-4)
    x, y, heading = edge
    segment = (RoadType.ROAD_EDGE, x, y, half_length, 0.1, heading)
    env = simulator(scene(car(*pose, size=(*size, 1)), segments=[segment]))
    assert env.events()[:, OFF_ROAD].tolist() == [gap < 0]


def test_which_roads_stop_whom():
    """Vehicles touch road edges and stop signs, people stop signs only, and nobody lanes, lines, crosswalks, bumps."""
    kinds = list(range(RoadType.ROAD_EDGE, RoadType.DRIVEWAY))
    touched = {}
    for agent in (AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.CYCLIST):
        env = simulator(*(scene(car(type=agent), segments=[(kind, 0, 0, 1, 1, 0)]) for kind in kinds))
        touched[agent] = {kinds[i] for i in env.events()[:, OFF_ROAD].nonzero().flatten().tolist()}
    assert touched == {
        AgentType.VEHICLE: {RoadType.ROAD_EDGE, RoadType.STOP_SIGN},
        AgentType.PEDESTRIAN: {RoadType.STOP_SIGN},
        AgentType.CYCLIST: {RoadType.STOP_SIGN},
    }


def test_a_collision_is_named_by_what_was_hit():
    env = simulator(scene(car(), car(1, type=AgentType.PEDESTRIAN), car(50), car(51, type=AgentType.CYCLIST), car(99)))
    hit = {VEHICLE: [False, True, False, True, False], NON_VEHICLE: [True, False, True, False, False]}
    assert {event: env.events()[:, event].tolist() for event in hit} == hit


def test_parked_cars_touch_only_what_moves():
    """A pair of parked cars on a road edge is no collision; a car that drives into them is one for all it touches."""
    s = scene(car(0), car(1), car(-5, speed=10), segments=[(RoadType.ROAD_EDGE, 0, 0, 0.5, 0.1, np.pi / 2)])
    env = simulator(s, selection=Selection())
    assert not env._events.any()
    for _ in range(3):
        step = coast(env)
    assert step.events[0].nonzero().tolist() == [[VEHICLE]]  # at x = -2: reaches to -0.6, the edge begins at -0.1
    assert env._events[:, VEHICLE].tolist() == [True, False, True]
    assert not env._events[:2, OFF_ROAD].any()


def test_agents_of_other_worlds_do_not_exist():
    edge = (RoadType.ROAD_EDGE, 0, 0, 5, 0.1, 0)
    env = simulator(scene(car()), scene(car(1)), scene(car(99), segments=[edge]))
    assert not env.events().any()


# What follows


HEAD_ON = scene(car(0, speed=10, steps=15), car(20, heading=np.pi, speed=10, steps=15))
"""Boxes of 2.8 m meet at 20 m/s: they touch at steps 9, 10 and 11, when 2, 0 and 2 m lie between their centres."""


def test_ignored_collisions_pass_by():
    env = simulator(HEAD_ON)
    touching = []
    for k in range(1, 15):
        step = coast(env)
        touching += [k] if step.events[:, VEHICLE].all() else []
        assert step.events[:, VEHICLE].unique().numel() == 1
        assert not step.terminated.any()
    assert touching == [9, 10, 11]
    assert step.truncated.all()
    np.testing.assert_allclose(positions(env), [[14, 0], [6, 0]], atol=1e-5)


@pytest.mark.parametrize("teleport", [False, True])
@pytest.mark.parametrize("on_collision", ["stop", "remove"])
def test_collisions_end_episodes(on_collision, teleport):
    """Corrected rules know it at once, and ``stop`` stops; GPUDrive's know it a step later and move both away."""
    env = simulator(HEAD_ON, on_collision=on_collision, teleport=teleport)
    ends = 10 if teleport else 9
    for k in range(1, 13):
        step = coast(env)
        assert step.terminated.tolist() == [k == ends] * 2
        assert step.alive.tolist() == [k < ends] * 2
        assert step.events[:, VEHICLE].tolist() == [k >= 9] * 2
        assert not step.truncated.any()
        if k >= 10 and (teleport or on_collision == "remove"):
            assert positions(env) == [[REMOVED_POSITION] * 2] * 2
            assert not env.everyone()[1].any()
        else:
            here = min(k, 9)
            np.testing.assert_allclose(positions(env), [[here, 0], [20 - here, 0]], atol=1e-5)
            np.testing.assert_allclose(env.states()[:, 3].abs(), 10 if k < 10 else 0)


def test_an_overlap_at_the_start_counts_at_the_start():
    env = simulator(scene(car(speed=5), car(1, speed=5)), on_collision="remove")
    assert env.events()[:, VEHICLE].all()
    assert env.alive().all()
    step = coast(env)
    assert step.terminated.all()
    assert not env.everyone()[1].any()


# The goal of this car is at 10 m; it comes nearer than 2 m at step 9 (at step 8 it is 2 m away, which is not enough).
TO_GOAL = scene(car(speed=10), car(0, 30, speed=10, role=LOGGED))


@pytest.mark.parametrize("on_goal", ["ignore", "stop", "remove"])
def test_what_follows_the_goal(on_goal):
    env = simulator(TO_GOAL, on_goal=on_goal)
    for k in range(1, 11):
        step = coast(env)
        removed = on_goal == "remove" and k == 10
        assert step.events[0, GOAL] == (k >= 9 and not removed)
        assert step.terminated.tolist() == [on_goal != "ignore" and k == 9]
        assert step.truncated.tolist() == [on_goal == "ignore" and k == 10]
    own = {"ignore": [10, 0], "stop": [9, 0], "remove": [REMOVED_POSITION] * 2}[on_goal]
    np.testing.assert_allclose(positions(env), [own, [10, 30]], atol=1e-5)  # the logged car goes on to the end


def test_gpudrive_removes_logged_cars_at_their_goals_too():
    """After a lag of one step the logged car is within 2 m of its goal at step 10, and gone at step 11."""
    rules = SimConfig.gpudrive(selection=ALL_VALID)
    env = Env(
        make_worlds([TO_GOAL], selection=ALL_VALID), ActionSpace.create("classic", "continuous", reverse=False), rules
    )
    present = []
    for _ in range(11):
        coast(env)
        present.append(env.everyone()[1].tolist())
    assert present == [[True, True]] * 9 + [[False, True], [False, False]]


@pytest.mark.parametrize(("compat", "hits"), [("gpudrive", [4, 7, 8]), (None, [4, 5, 6, 7, 8])])
def test_parked_cars_can_be_passed_through_in_gpudrive_while_their_log_has_a_gap(compat, hits):
    """It looks at the log one step back; a car at -6 + k m touches the parked one while less than 2.8 m lie between."""
    parked = car(valid=np.isin(np.arange(STEPS), [4, 5], invert=True))
    env = simulator(scene(parked, car(-6, speed=10)), selection=Selection(), compat=compat)
    assert [k for k in range(1, 11) if coast(env).events[0, VEHICLE]] == hits
    assert env.everyone()[1][0] or compat is None  # and yet it is always there


def test_a_car_backs_out():
    """From rest at -1 m/s^2: 0.5 * t^2 back, at a speed of t; GPUDrive's rules have none of it."""
    env = simulator(scene(car()))
    for _ in range(10):
        env.step(torch.tensor([[-1.0, 0.0]]))
    np.testing.assert_allclose(env.states(), [[-0.5, 0, 0, -1, 0]], atol=1e-5)
    assert env.reset()[0, 0] == 0
    np.testing.assert_allclose(env.step(torch.tensor([[-4.0, 0.0]])).observation[0, 0], -0.4 / 20, atol=1e-6)
    with pytest.raises(
        ValueError, match=r"these actions know reverse, GPUDrive's vehicles do not; extract with --compat"
    ):
        Env(env.worlds, env.action_space, SimConfig.gpudrive())


def test_who_is_gone_in_gpudrive_sees_who_is_gone():
    """All at (-11000, -11000): partners at distance 0, no road, and nobody who still drives."""
    env = simulator(
        scene(car(speed=5), car(1, speed=5), car(50, speed=5)), on_collision="remove", compat="gpudrive",
        observation=ObservationConfig.gpudrive(),
    )  # fmt: skip
    for _ in range(2):
        observation = coast(env).observation
    ego, *others = env.observation_config.split(observation)
    assert env.everyone()[1].tolist() == [False, False, True]
    there = env.observation_config.present(*others)
    assert there[0].sum(dim=1).tolist() == [1, 1, 0]
    assert not others[0][:2, 0, 1:3].any()
    assert ego[0, 3:5].norm() * 1000 == pytest.approx(np.hypot(11005, 11000), rel=1e-4)


def test_the_goal_is_not_reached_by_standing_there_at_the_start():
    """GPUDrive looks for the goal after a step, not after a reset."""
    env = simulator(scene(car()), on_goal="remove")
    assert not env.events().any()
    assert env.alive().all()
    step = coast(env)
    assert step.events[:, GOAL].all()
    assert step.terminated.all()
    assert env.everyone()[1].all()


def test_a_car_that_stopped_at_its_goal_can_be_hit():
    env = simulator(scene(car(speed=1), car(-10, speed=15, role=LOGGED)), on_goal="stop", goal_radius=5.0)
    coast(env)
    assert env._done.tolist() == [True, False]
    hit = [bool(coast(env).events[0, VEHICLE]) for _ in range(9)]
    assert hit == [abs(-10 + 1.5 * k - 0.1) < 2.8 for k in range(2, 11)]


def test_the_goal_radius_counts():
    reached = {}
    for radius in (0.5, 5.5):
        env = simulator(TO_GOAL, goal_radius=radius)
        reached[radius] = sum(bool(coast(env).events[0, GOAL]) for _ in range(10))
    assert reached == {0.5: 1, 5.5: 6}


# Rewards


def test_the_sparse_reward_is_paid_at_the_goal():
    """Also at the start, where the goal does not yet count as reached; a removed car gets none."""
    env = simulator(scene(car(speed=10), car(0, 30)), on_goal="remove")
    paid = [env._reward.tolist()] + [coast(env).reward.tolist() for _ in range(10)]
    assert paid == [[0, 1]] + [[0, 1]] + [[0, 0]] * 7 + [[1, 0], [0, 0]]


@pytest.mark.parametrize(("kind", "weight"), [("sparse_on_goal_achieved", 1), ("weighted_combination", 7)])
def test_arriving_is_paid_once_to_who_stays_at_the_goal(kind, weight):
    """Six steps are within 5.5 m of it; the next episode pays again."""
    env = simulator(scene(car(speed=10)), reward=kind, goal_radius=5.5, goal_achieved_weight=7.0)
    for _ in range(2):
        env.reset()
        steps = [coast(env) for _ in range(10)]
        assert [bool(step.events[0, GOAL]) for step in steps] == [False] * 4 + [True] * 6
        assert [step.reward.item() for step in steps] == [0.0] * 4 + [weight] + [0.0] * 5


def test_the_weighted_reward_adds_up_the_flags():
    edge = (RoadType.ROAD_EDGE, 0, 0, 1, 0.1, 0)
    cars = [car(speed=1), car(0.5, speed=1), car(-0.5, type=AgentType.CYCLIST, speed=1), car(99, speed=1)]
    env = simulator(scene(*cars, segments=[edge]), reward="weighted_combination", goal_radius=1.05)
    assert coast(env).reward.tolist() == pytest.approx([-0.5 - 0.5 - 0.5 + 1, -0.5, -0.5 + 1, 1])


@pytest.mark.parametrize(
    "weights", [{"collision_weight": -2.0}, {"off_road_weight": -3.0}, {"goal_achieved_weight": 7.0}]
)
def test_the_weights_of_the_reward_count(weights):
    edge = (RoadType.ROAD_EDGE, 0, 0, 1, 0.1, 0)
    env = simulator(scene(car(), car(1), segments=[edge]), reward="weighted_combination", **weights)
    names = ("collision_weight", "goal_achieved_weight", "off_road_weight")
    assert coast(env).reward[0].item() == sum(weights.get(n, w) for n, w in zip(names, (-0.5, 1, -0.5), strict=True))


# When episodes end


def test_an_episode_ends_with_its_log_as_a_truncation():
    s = scene(car(speed=10, valid=valid_only(*range(7))), car(0, 30, speed=10), car(0, 60, valid=valid_only(0)))
    env = simulator(s)
    assert env.alive().tolist() == [True, True, False]  # a log of one step leaves nothing to do
    truncated = {}
    for k in range(1, 11):
        step = coast(env)
        truncated |= dict.fromkeys(step.truncated.nonzero().flatten().tolist(), k)
        assert not step.terminated.any()
        assert env.everyone()[1].tolist() == [k <= 6, True, False]
    assert truncated == {0: 6, 1: 10}


def test_logs_that_end_do_not_matter_on_request():
    s = scene(car(speed=10, valid=valid_only(*range(7))))
    env = simulator(s, end_with_log=False)
    truncated = [bool(coast(env).truncated) for _ in range(10)]
    assert truncated == [False] * 9 + [True]
    np.testing.assert_allclose(positions(env), [[10, 0]], atol=1e-5)


def test_a_collision_in_the_last_step_is_a_termination():
    s = scene(
        *(
            replace(a, valid=valid_only(*range(10), of=15))
            for a in (car(0, speed=10, steps=15), car(20, heading=np.pi, speed=10, steps=15))
        )
    )
    env = simulator(s, on_collision="stop")
    for _ in range(9):
        step = coast(env)
    assert step.terminated.all()
    assert not step.truncated.any()


@pytest.mark.parametrize(("horizon", "length"), [(None, 10), (3, 3), (1, 1)])
def test_the_horizon_truncates(horizon, length):
    env = simulator(scene(car(speed=10)), horizon=horizon)
    assert [bool(coast(env).truncated) for _ in range(length)] == [False] * (length - 1) + [True]
    assert not env.alive().any()


# Agents on their log


@pytest.mark.parametrize(("lag", "index"), [(False, [1, 2, 3]), (True, [0, 1, 2])])
def test_logged_agents_lag_on_request(lag, index):
    env = simulator(scene(car(speed=10, role=LOGGED), car(0, 9)), replay_lag=lag)
    seen = []
    for _ in range(3):
        coast(env)
        seen.append(positions(env)[0][0])
    np.testing.assert_allclose(seen, index, atol=1e-6)


def test_logged_agents_are_there_only_where_their_log_is():
    """They appear late, vanish in gaps and touch nobody meanwhile; parked cars ignore their log's jitter."""
    late = car(1, role=LOGGED, valid=valid_only(2, 3, 6))
    env = simulator(scene(car(), late), selection=EVERYONE)
    there = [1 in env.everyone()[1].nonzero()]
    touched = [bool(env.events()[0, VEHICLE])]
    for _ in range(10):
        touched.append(bool(coast(env).events[0, VEHICLE]))
        there.append(bool(env.everyone()[1][1]))
    assert there == touched == [k in (2, 3, 6) for k in range(11)]


def test_logged_agents_stay_where_their_log_ends():
    env = simulator(scene(car(speed=10, role=LOGGED), car(0, 9, speed=1)), horizon=13, end_with_log=False)
    seen = []
    for _ in range(13):
        coast(env)
        seen.append(positions(env)[0])
    np.testing.assert_allclose(seen[8:], [[9, 0], [10, 0], [10, 0], [10, 0], [10, 0]], atol=1e-6)


def test_parked_cars_stay_where_they_are():
    log = car().log
    log[1:-1, 0] = 0.1
    log[:, 3] = 0.5
    env = simulator(scene(Agent(log), car(0, 9, speed=3)), selection=Selection())
    coast(env)
    assert env.everyone()[0][0].tolist() == [0, 0, 0, 0, 0]


# Worlds and rules


def test_results_of_a_step_stay_when_the_next_one_is_taken():
    """All but the observation, whose memory is used again."""
    env = simulator(HEAD_ON, on_collision="remove")
    steps = [coast(env) for _ in range(10)]
    assert [s.terminated.tolist() for s in steps] == [[False] * 2] * 8 + [[True] * 2, [False] * 2]
    assert [s.alive.any().item() for s in steps] == [True] * 8 + [False] * 2
    assert [s.events[:, VEHICLE].any().item() for s in steps] == [False] * 8 + [True] * 2


def test_a_scene_without_controlled_agents_runs():
    env = simulator(scene(car(role=LOGGED, speed=1)))
    assert env.num_agents == 0
    assert coast(env).observation.shape == (0, env.observation_config.size)
    np.testing.assert_allclose(positions(env), [[0.1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"on_collision": "explode"}, "on_collision is 'explode'; it must be ignore, stop or remove"),
        ({"on_goal": ""}, "on_goal is ''"),
        ({"goal_radius": 0.0}, "goal_radius is 0.0; it must be positive"),
        ({"box_scale": -1.0}, "box_scale is -1.0; it must be positive"),
        ({"horizon": 0}, "horizon is 0; it must be positive"),
        ({"horizon": 1.5}, "horizon is 1.5; it must be a whole number"),
        ({"off_road_weight": float("nan")}, "off_road_weight is nan; it must be a finite number"),
        ({"off_road": "over"}, "off_road is 'over'; it must be touch or outside"),
        (
            {"reward": "distance_to_logs"},
            "reward is 'distance_to_logs'; it must be sparse_on_goal_achieved or weighted",
        ),
        ({"compat": "gpudrive", "on_goal": "stop"}, "on_goal is 'stop', but with compat=gpudrive it is 'remove'"),
        ({"compat": "gpudrive", "box_scale": 1.0}, "box_scale is 1.0, but with compat=gpudrive it is 0.7; leave it"),
        ({"compat": "gpudrive", "horizon": 40}, "horizon is 40, but with compat=gpudrive it is 91"),
    ],
)
def test_rules_without_sense_are_refused(rules, words):
    with pytest.raises(ValueError, match="SimConfig") as caught:
        SimConfig(**rules)
    assert words in explained(caught.value, SimConfig)


def test_compat_brings_gpudrives_rules_and_leaves_its_settings_free():
    rules = SimConfig(compat="gpudrive", on_collision="stop", goal_radius=3.0)
    assert rules.on_goal == "remove"
    assert (rules.replay_lag, rules.teleport, rules.end_with_log, rules.horizon) == (True, True, False, 91)
    assert (rules.on_collision, rules.goal_radius) == ("stop", 3.0)
    assert (
        replace(rules, on_collision="remove", goal_radius=2.0, selection=Selection(max_agents=64))
        == SimConfig.gpudrive()
    )


@pytest.mark.parametrize("worlds", [[True, False], np.array([True, False]), torch.tensor([True, False]), [0], (0,)])
def test_flags_and_numbers_name_worlds(worlds):
    """A list of flags is no list of the worlds 1 and 0."""
    env = simulator(scene(car(speed=5)), scene(car(speed=7)))
    coast(env)
    env.reset(worlds)
    np.testing.assert_allclose(positions(env), [[0, 0], [0.7, 0]], atol=1e-6)


def test_what_fits_no_world_or_agent_is_refused():
    env = simulator(scene(car(speed=5)), scene(car(speed=7)))
    with pytest.raises(ValueError, match=r"a mask of shape \(1,\) for 2 worlds; give one flag per world"):
        env.reset(torch.tensor([True]))
    with pytest.raises(IndexError):
        env.reset([2])
    for shape in ((2,), (1, 2), (2, 3)):
        with pytest.raises(ValueError, match=r"actions have the shape .*, not \(2, 2\): one row per agent"):
            env.step(torch.zeros(shape))
    np.testing.assert_allclose(positions(env), [[0, 0], [0, 0]])


def test_absolute_states_have_no_limit_but_stay_numbers():
    env = simulator(scene(car(), car(9)), dynamics="state")
    observation = env.step(torch.tensor([[1e30, -torch.inf, 1e20, torch.nan, 5], [50, 60, 0, 1, 2]])).observation
    assert observation.isfinite().all()
    assert env.states()[1].tolist() == [50, 60, 0, 1, 2]
