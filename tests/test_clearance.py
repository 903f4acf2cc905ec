"""Distances between boxes, to leaders, and to the edge of the road."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import car, random_scene, real_scenes, scene

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.clearance import MAX_TTC, clearances
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")


def worlds_of(*scenes):
    return make_worlds(scenes, selection=EVERYONE)


def measured(worlds, speed=None):
    """Gaps in the log."""
    return clearances(worlds, worlds.log, worlds.valid, worlds.log[..., 3:].norm(dim=-1) if speed is None else speed)


def corners(x, y, heading, length, width, factor=1.0):
    c, s = math.cos(heading), math.sin(heading)
    halves = [(length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2)]
    return np.array([[x + factor * (c * a - s * b), y + factor * (s * a + c * b)] for a, b in halves])


def test_distances_by_hand():
    """Cars of 4 x 2 m: 3 m apart side by side, corner to corner over (3, 4) m, and 0.5 m deep in each other."""
    side = scene(car(0, 0), car(0, 5))
    diagonal = scene(car(0, 0), car(4 + 3, 2 + 4))
    deep = scene(car(0, 0), car(3, 1.5))
    alone = scene(car(0, 0))
    for case, distance in ((side, 3), (diagonal, 5), (deep, -0.5), (alone, math.inf)):
        nearest, _, _ = measured(worlds_of(case))
        assert nearest.shape == (len(case.agent_id), 11)
        assert nearest.allclose(torch.tensor(float(distance)), atol=1e-5)


@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(-3, 3), st.floats(-3, 3), st.floats(1, 9), st.floats(1, 4))
def test_distances_as_between_many_points(x, y, turn, own_turn, length, width):
    """Boxes apart: as the nearest of many points of the two outlines. Overlapping: moving by the depth parts them."""
    a, b = (0.0, 0.0, own_turn, 4.0, 2.0), (x, y, turn, length, width)
    case = scene(car(0, 0, own_turn), car(x, y, turn, size=(length, width, 1.5)))
    nearest = float(measured(worlds_of(case))[0][0, 0])

    def outline(box):
        points = corners(*box)
        return np.concatenate(
            [np.linspace(p, q, 200) for p, q in zip(points, np.roll(points, -1, axis=0), strict=True)]
        )

    if nearest > 0:
        apart = np.linalg.norm(outline(a)[:, None] - outline(b)[None], axis=-1).min()
        assert nearest == pytest.approx(apart, abs=0.05)
        assert nearest <= apart + 1e-4
    else:
        axes = [turn, turn + math.pi / 2, own_turn, own_turn + math.pi / 2]
        depths = []
        for angle in axes:
            d = np.array([math.cos(angle), math.sin(angle)])
            p, q = corners(*a) @ d, corners(*b) @ d
            depths.append(min(p.max() - q.min(), q.max() - p.min()))
        assert nearest == pytest.approx(-min(depths), abs=1e-4)


def test_time_to_collision_by_hand():
    """At 10 m/s, 6 m behind one with 6 m/s: 1.5 s. Who drives off, is beside, or heads across is not followed."""
    follows = scene(car(0, 0, speed=10), car(10, 1, speed=6), car(30, 0, speed=1))
    beside = scene(car(0, 0, speed=10), car(10, 2.1, speed=6))
    across = scene(car(0, 0, speed=10), car(12, -3, heading=math.radians(76), speed=0))
    leaves = scene(car(0, 0, speed=5), car(10, 0, speed=6))
    slow = scene(car(0, 0, speed=5), car(30, 0, speed=0))
    expected = ((follows, 1.5), (beside, MAX_TTC), (across, MAX_TTC), (leaves, MAX_TTC), (slow, MAX_TTC))
    for case, seconds in expected:
        assert float(measured(worlds_of(case))[1][0, 0]) == pytest.approx(seconds)
    assert float(measured(worlds_of(follows))[1][1, 0]) == pytest.approx(16 / 5)


def test_times_to_collision_need_both_speeds():
    worlds = worlds_of(scene(car(0, 0, speed=10), car(10, 0, speed=6)))
    speed = torch.full((2, 11), 6.0)
    speed[0] = 10.0
    speed[0, 3] = speed[1, 5] = torch.nan
    ttc = measured(worlds, speed)[1]
    assert ttc[0].isnan().nonzero().flatten().tolist() == [3, 5]
    assert ttc[1].isnan().nonzero().flatten().tolist() == [5]


def test_the_edge_by_hand():
    """The edge lies at y = -0.9, the road above it: the side of a car 2 m wide at y = 0 is 0.1 m beyond."""
    edge = (RoadType.ROAD_EDGE, 0, -0.9, 80, 0.1, 0)
    case = scene(car(0, 0), car(0, 50), car(5, 5, type=AgentType.PEDESTRIAN), segments=[edge])
    _, ttc, distance = measured(worlds_of(case))
    assert distance[0].allclose(torch.tensor(0.1), atol=1e-5)
    assert distance[1].allclose(torch.tensor(-49.9), atol=1e-4)
    assert distance[2].isnan().all()
    assert ttc[2].isnan().all()


@pytest.mark.parametrize("segments", [40, 800])
def test_near_and_far_edges_against_all_of_them(segments):
    """The distance of one corner, found in float64 among all segments; far ones are in no cell of the grid."""
    case = random_scene(3, extent=120.0, segments=segments)
    worlds = worlds_of(case)
    _, _, edge = measured(worlds)
    x, y, half, _, heading = case.segment[case.segment_type == RoadType.ROAD_EDGE].astype(np.float64).T
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    largest = 0.0
    for row, agent in enumerate(worlds.controlled.tolist()):
        for step in np.flatnonzero(case.valid[agent] & (case.agent_type[agent] == AgentType.VEHICLE))[::5]:
            box = corners(*case.log[agent, step, :3].astype(np.float64), *case.agent_size[agent, :2])
            offset = box[:, None] - np.stack([x, y], axis=1)
            along = np.clip((offset * ahead).sum(axis=-1), -half, half)
            distance = np.linalg.norm(offset - along[..., None] * ahead, axis=-1).min(axis=1)
            assert np.abs(abs(float(edge[row, step])) - distance).min() < 1e-3
            largest = max(largest, distance.max())
    assert (largest > 20) == (segments == 40)


def test_a_simulator_of_true_boxes_sees_the_same():
    """At each step of random driving: who touches whom, and who is off the road."""
    worlds = worlds_of(*(random_scene(seed, extent=30.0) for seed in range(3)))
    rules = SimConfig(selection=EVERYONE, box_scale=1.0, off_road="outside")
    env = Env(worlds, ActionSpace.create("classic", "continuous"), rules)
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(4, dtype=torch.int64)
    for _ in range(10):
        events = env.step(torch.rand(env.num_agents, 2, generator=generator) - 0.5).events
        state, present = env.everyone()
        nearest, _, edge = clearances(worlds, state[:, None], present[:, None], torch.zeros(len(state), 1))
        assert torch.equal(nearest[:, 0] <= 0, events[:, Event.VEHICLE] | events[:, Event.NON_VEHICLE])
        assert torch.equal(edge[:, 0] > 0, events[:, Event.OFF_ROAD])
        seen += events.sum(dim=0)
    assert (seen[: Event.GOAL] > 0).all()


def test_who_is_not_there_is_near_nobody():
    worlds = worlds_of(scene(car(), car(1)))
    present = worlds.valid.clone()
    present[1, 4] = False
    nearest, ttc, edge = clearances(worlds, worlds.log, present, torch.zeros(2, 11))
    assert nearest[0, 4] == math.inf
    assert nearest[0, 3] < 0
    assert all(x[1].isnan().nonzero().flatten().tolist() == [4] for x in (nearest, ttc, edge))


def test_people_hardly_touch_anything():
    """Logs of real scenes, with boxes of true size."""
    worlds = make_worlds(real_scenes())
    nearest, _, edge = measured(worlds)
    assert (nearest <= 0).any(dim=1).float().mean() <= 0.05
    assert (edge > 0).any(dim=1).float().mean() <= 0.05
