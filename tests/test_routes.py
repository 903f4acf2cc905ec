"""Routes along lanes, on maps made by hand; that all rows show the same ones is tested where rows are compared."""

from dataclasses import replace

import numpy as np
import pytest
import sight
import torch
from demos import LAYOUT, RULES
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import car, moved, scene
from test_augment import SPACE, record_without_demos

from gail_cli.gail.demos.matched import demo_transitions
from gail_cli.pipeline.experts.augment import mirrored, piece, stretched
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.sim.fields import ROUTE
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.routes import LaneGraph
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.worlds import make_worlds

CONFIG = ObservationConfig(partners=1, road_segments=1, lights=0, near=False, rays=False, danger=False)


def with_lanes(*lanes, agents=(), kind=1):
    """A scene whose lanes are polylines [n, 2]."""
    segments, roads = [], []
    for number, points in enumerate(lanes):
        points = np.asarray(points, np.float64)
        middle, half = (points[1:] + points[:-1]) / 2, np.diff(points, axis=0) / 2
        segments += [
            (RoadType.LANE, *m, np.hypot(*h), 0.1, np.arctan2(*h[::-1])) for m, h in zip(middle, half, strict=True)
        ]
        roads += [number] * len(middle)
    s = scene(*(agents or [car()]), segments=segments)
    return replace(s, segment_road=np.array(roads), segment_map_type=np.full(len(roads), kind, np.int8))


def arc(x, y, radius, begin, end, n=9):
    angles = np.radians(np.linspace(begin, end, n))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


def junction(**rest):
    """From the west, left to the north or right to the south, on quarter circles of 10 and 6 m."""
    left, right = arc(0, 10, 10, -90, 0), arc(0, -6, 6, 90, 0)
    return with_lanes(
        [(-50, 0), (0, 0)], left, [(10, 10), (10, 60)], right, [(6, -6), (6, -60)], [(10, 60), (-50, 4)], **rest
    )


def route(s, start, goal):
    (found,) = LaneGraph(s).routes(np.array([start], np.float64), np.array([goal], np.float64))
    steps = np.hypot(*np.diff(found.points[:, :2], axis=0).T)
    assert found.spacing <= 2
    assert (steps <= found.spacing + 1e-9).all()  # chords
    np.testing.assert_allclose(found.points[-1, :2], goal, atol=1e-9)
    np.testing.assert_allclose(np.hypot(*found.points[:, 2:].T), 1)
    return found


def test_along_one_lane():
    found = route(with_lanes([(0, 0), (100, 0)]), (5, 0, 0), (60, 0))
    assert found.lane
    assert found.spacing == pytest.approx(55 / 28)
    np.testing.assert_allclose(found.points[:, 0], np.linspace(5, 60, 29))
    np.testing.assert_allclose(found.points[:, 1:], np.tile([0, 1, 0], (29, 1)), atol=1e-9)


@pytest.mark.parametrize(("goal", "middle"), [((10, 40), (10 * 0.5**0.5, 10 - 10 * 0.5**0.5)),
                                              ((6, -40), (6 * 0.5**0.5, 6 * 0.5**0.5 - 6))])  # fmt: skip
def test_turns_go_where_the_lanes_go(goal, middle):
    found = route(junction(), (-40, 0, 0), goal)
    assert found.lane
    place = found.points[:, :2]
    assert np.hypot(*(place - middle).T).min() < 1  # points are up to 2 m apart
    length = 40 + np.pi / 2 * abs(goal[0]) + 40 - abs(goal[0])
    assert found.spacing * (len(place) - 1) == pytest.approx(length, abs=0.3)
    np.testing.assert_allclose(found.points[-2, 2:], [0, np.sign(goal[1])], atol=1e-3)


def test_a_change_of_lanes_takes_30_m():
    """Somewhere on the way from one lane to another 3.5 m to the left, never back."""
    found = route(with_lanes([(0, 0), (200, 0)], [(0, 3.5), (200, 3.5)]), (10, 0, 0), (150, 3.5))
    assert found.lane
    aside = found.points[:, 1]
    assert (np.diff(aside) > -1e-9).all()
    assert aside[0] == pytest.approx(0, abs=1e-9)
    crossing = found.points[(aside > 1e-6) & (aside < 3.5 - 1e-6), 0]
    assert 24 < np.ptp(crossing) < 30.1
    assert found.points[:, 3].max() == pytest.approx(1.5 * 3.5 / 30, abs=0.02)  # steepest amid the cubic


def test_who_stays_beside_the_middle_of_its_lane():
    s = with_lanes([(0, 0), (100, 0)])
    np.testing.assert_allclose(route(s, (5, 1.5, 0), (80, 1.5)).points[:, 1], 1.5, atol=1e-9)
    assert route(s, (5, 1.5, 0), (80, 0.5)).points[0, 1] == pytest.approx(0.5)
    other = route(s, (5, 1.5, 0), (80, -2)).points  # in the middle, and over to the goal in the last 30 m
    np.testing.assert_allclose(other[other[:, 0] < 49.9, 1], 0, atol=1e-9)
    assert other[-1, 1] == -2


@pytest.mark.parametrize(
    ("s", "start", "goal"),
    [
        (scene(car()), (0, 0, 0), (30, 40)),
        (with_lanes([(0, 0), (100, 0)], kind=3), (5, 0, 0), (60, 0)),  # for bicycles
        (with_lanes([(0, 0), (100, 0)]), (5, 9, 0), (60, 0)),  # 9 m away
        (with_lanes([(0, 0), (100, 0)]), (50, 0, 0), (20, 0)),  # goal behind
        (with_lanes([(0, 0), (200, 0), (200, 9), (0, 9)]), (10, 0, 0), (10, 9)),  # 399 m round, for 9 m
        (with_lanes([(0, 0), (40, 0)], [(42, 0), (100, 0)]), (5, 0, 0), (60, 0)),  # a gap of 2 m
    ],
    ids=["no lane", "bicycles", "far", "behind", "detour", "gap"],
)
def test_without_a_way_along_lanes_it_is_the_straight_line(s, start, goal):
    found = route(s, start, goal)
    assert not found.lane
    away = np.array(goal) - start[:2]
    length = np.hypot(*away)
    np.testing.assert_allclose(found.points[:, :2], start[:2] + np.linspace(0, 1, len(found.points))[:, None] * away)
    np.testing.assert_allclose(found.points[:, 2:], np.tile(away / length, (len(found.points), 1)))


def test_who_is_at_its_goal_looks_ahead():
    found = route(scene(car()), (3, 4, np.pi / 2), (3, 4))
    assert found.spacing == 0
    np.testing.assert_allclose(found.points, [[3, 4, 0, 1]] * 2, atol=1e-12)


def test_lanes_in_other_segments_are_the_same_lanes():
    whole = route(with_lanes([(0, 0), (100, 0)]), (7, 1, 0.1), (80, -1))
    parts = route(with_lanes([(x, 0) for x in (0, 3, 30, 41, 80.5, 100)]), (7, 1, 0.1), (80, -1))
    np.testing.assert_allclose(whole.points, parts.points, atol=1e-6)


@pytest.mark.parametrize("x", [48.0, 50.0, 52.5, 54.9])
def test_lanes_fork_and_merge_anywhere(x):
    """A lane that begins, or ends, beside the middle of another, wherever that is cut into pieces."""
    main = [(0, 0), (100, 0)]
    off = route(with_lanes(main, [(x, 0), (x + 30, 20)]), (10, 0, 0), (x + 24, 16))
    onto = route(with_lanes(main, [(x - 30, 20), (x, 0)]), (x - 24, 16, -0.6), (90, 0))
    assert off.lane
    assert onto.lane
    assert np.abs(off.points[off.points[:, 0] < x - 16, 1]).max() < 0.1
    assert np.abs(onto.points[onto.points[:, 0] > x + 16, 1]).max() < 0.1


@settings(max_examples=15)
@given(st.floats(-3, 3), st.floats(-0.6, 0.6), st.booleans(), st.floats(-2, 2), st.floats(-3, 3))
def test_turned_and_mirrored_maps_have_turned_and_mirrored_routes(aside, turn, left, off, angle):
    goal = (10 + off, 40) if left else (6 + off, -40)
    start = np.array([-30, aside, turn])
    s = junction(agents=[car(*start[:2], start[2])])
    expected = route(s, start, goal).points

    image = mirrored(record_without_demos(s), SPACE).scene
    flip = np.array([1, -1, 1, -1])
    np.testing.assert_allclose(route(image, start * [1, -1, -1], goal * flip[:2]).points, expected * flip, atol=1e-6)

    c, n = np.cos(angle), np.sin(angle)
    matrix, shift = np.array([[c, n], [-n, c]]), np.array([5.0, -9])
    there = moved(s, angle, shift)
    found = route(there, (*(start[:2] @ matrix + shift), turn + angle), goal @ matrix + shift)
    assert found.lane
    np.testing.assert_allclose(found.points[:, :2], expected[:, :2] @ matrix + shift, atol=1e-3)


def test_stretched_maps_keep_their_lanes():
    s = stretched(record_without_demos(junction()), 0.7, 1.5, 1 / 1.5).scene
    c, n = np.cos(0.7), np.sin(0.7)
    turn = np.array([[c, -n], [n, c]])
    matrix = turn @ np.diag([1.5, 1 / 1.5]) @ turn.T
    (x, y), ahead = np.array([-40, 0]) @ matrix, np.array([1, 0]) @ matrix
    assert route(s, (x, y, np.arctan2(*ahead[::-1])), np.array([10, 40]) @ matrix).lane


# In worlds


def worlds_of(*agents):
    return make_worlds([junction(agents=agents)])


def observed(worlds, states):
    """[N, 23] the routes' fields of the controlled agents in these states."""
    agents = worlds.controlled.int()
    seen = Observer(worlds, CONFIG).observe(states, torch.ones(len(states), dtype=torch.bool), agents, states[:, 0])
    return seen[:, CONFIG.first_route :][:, : len(ROUTE)]


def test_fields_by_hand():
    """5 m/s for 1 s along the lane, of which a car is 1 m to the left and an eighth turned to the right."""
    s = with_lanes([(-50, 0), (100, 0)], agents=[car(speed=5), car(0, 40, 0, 5)])
    states = torch.tensor([[1.0, 1, -np.pi / 4, 0, 0], [0, 39, 0, 0, 0]])
    log, half = sight.log_scale, 0.5**0.5
    on, off = observed(make_worlds([s]), states).tolist()
    ahead = [value for d in (3, 4, 4, 4, 4, 4) for value in (log(half * (d + 1)), log(half * (d - 1)), half)]
    assert on == pytest.approx([log(1), half, half, *ahead, log(4), 1], abs=1e-5)
    ahead = [value for d in (3, 5, 5, 5, 5, 5) for value in (log(d), log(1), 0)]
    assert off == pytest.approx([log(-1), 1, 0, *ahead, log(5), 0], abs=1e-5)


@settings(max_examples=20)
@given(st.floats(-45, 25), st.floats(-45, 45), st.floats(-4, 4), st.booleans())
def test_fields_at_any_place_are_those_of_the_formula(x, y, heading, left):
    s = junction(agents=[car(-35, 1, 0, 40)])
    log = s.log.copy()
    log[:, -1, :2] = (10.5, 40) if left else (6, -50)
    s = replace(s, log=log)
    state = np.float32([x, y, heading, 0, 0])
    found = observed(make_worlds([s]), torch.from_numpy(state)[None])[0]
    np.testing.assert_allclose(found, sight.route_fields(sight.route_of(s, 0), state.astype(np.float64)), atol=2e-4)


def test_each_agent_has_its_own_whoever_else_is_there():
    cars = [car(-40, 0, 0, 30), car(-30, 0.5, 0, 25), car(-30, 30, 1, 9)]
    together, apart = worlds_of(*cars), [worlds_of(one) for one in cars]
    states = together.log[:, 3].contiguous()
    alone = [observed(worlds, states[[k]]) for k, worlds in enumerate(apart)]
    assert torch.equal(observed(together, states), torch.cat(alone))
    twice = make_worlds([junction(agents=cars)] * 2)
    assert torch.equal(observed(twice, states.repeat(2, 1)), observed(together, states).repeat(2, 1))


def test_worlds_that_begin_elsewhere_have_routes_of_their_own():
    worlds = worlds_of(car(-40, 0, 0, 30))
    state = worlds.log[:, 5].contiguous()
    before = observed(worlds, state)
    assert worlds.routes() is worlds.routes()
    goal = worlds.tensors["goal"] + torch.tensor([0.0, 3.0])
    after = observed(replace(worlds, tensors=worlds.tensors | {"goal": goal}), state)
    assert not torch.equal(before, after)
    assert torch.equal(before, observed(worlds, state))


def test_a_piece_has_a_route_from_its_start_to_its_goal():
    s = junction(agents=[car(-40, 0, 0, 30)])
    part = piece(record_without_demos(s), 2, 8).scene
    (found,) = [sight.route_of(part, 0)]
    np.testing.assert_allclose(found.points[[0, -1], :2], [[-34, 0], [-16, 0]], atol=1e-5)


def test_rows_that_are_compared_elsewhere_have_ways_along_lanes(make_store):
    """Most of those with which test_pool.py and test_matched.py see that demos and rollouts show the same."""
    seen = demo_transitions(make_experts(list(make_store().read()), RULES), LAYOUT).observation
    of_route = seen[:, LAYOUT.first_route :][:, : len(ROUTE)]
    assert of_route[:, -1].mean() > 0.7
    assert (of_route[:, 0].abs() < sight.log_scale(2)).float().mean() > 0.9  # who drives it is on it


def test_who_is_not_controlled_has_none():
    s = junction(agents=[car(-40, 0, 0, 30), car(5, 5)])  # the second is parked
    worlds = make_worlds([s])
    assert worlds.controlled.tolist() == [0]
    seen = Observer(worlds, CONFIG).observe(
        worlds.log[:, 0].contiguous(), worlds.valid[:, 0].contiguous(), torch.arange(2, dtype=torch.int32),
        torch.ones(2),
    )  # fmt: skip
    of_route = seen[:, CONFIG.first_route :][:, : len(ROUTE)]
    assert of_route[0].any()
    assert not of_route[1].any()
