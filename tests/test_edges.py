"""Distances to the edge of the road: at corners, on levels, around closed edges."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import car, random_scene, real_scenes, scene

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.edges import edge_distances, edge_links
from gail_cli.sim.env import Env
from gail_cli.sim.heights import heights
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")
POINT = (0.02, 0.02, 0.02)


def worlds_of(*scenes):
    return make_worlds(scenes, selection=EVERYONE)


def measured(worlds, **rest):
    """In the log."""
    return edge_distances(worlds, worlds.log, worlds.tensors["log_z"].view(worlds.valid.shape), worlds.valid, **rest)


def edge(*points, number=0):
    """Segments of a road edge through these points."""
    ends = np.array(points, float)
    reach = np.diff(ends, axis=0) / 2
    middle, half, heading = ends[:-1] + reach, np.hypot(*reach.T), np.arctan2(reach[:, 1], reach[:, 0])
    return [(RoadType.ROAD_EDGE, *m, h, 0.1, a) for m, h, a in zip(middle, half, heading, strict=True)], [number] * len(
        half
    )


def with_edges(case, *edges):
    roads = np.concatenate([numbers for _, numbers in edges])
    whole = scene(*case, segments=[s for segments, _ in edges for s in segments])
    return replace(whole, segment_road=roads)


def points_at(*places):
    """Agents that are hardly larger than a point."""
    return [car(x, y, size=POINT) for x, y in places]


def test_the_edge_by_hand():
    """The edge lies at y = -0.9, the road above it: the side of a car 2 m wide at y = 0 is 0.1 m beyond."""
    line = (RoadType.ROAD_EDGE, 0, -0.9, 80, 0.1, 0)
    case = scene(car(0, 0), car(0, 50), car(5, -3, type=AgentType.PEDESTRIAN), segments=[line])
    distance = measured(worlds_of(case))
    assert distance[0].allclose(torch.tensor(0.1), atol=1e-5)
    assert distance[1].allclose(torch.tensor(-49.9), atol=1e-4)
    assert distance[2].allclose(torch.tensor(3.1), atol=1e-5)
    assert measured(worlds_of(scene(car()))).isnan().all()


def test_outside_of_a_corner():
    """A road that turns left around (0, 0): what is right of one of the two edges is off the road. A road that turns
    right: only what is right of both."""
    left = edge((-10, 0), (0, 0), (0, 10))
    found = measured(worlds_of(with_edges(points_at((3, -4), (-3, 4), (-2, -1)), left)))[:, 0]
    assert found.tolist() == pytest.approx([5, -3, 1], abs=0.02)
    right = edge((-10, 0), (0, 0), (0, -10))
    found = measured(worlds_of(with_edges(points_at((3, 4), (-3, -4), (3, -4)), right)))[:, 0]
    assert found.tolist() == pytest.approx([-5, 3, -3], abs=0.02)


def test_a_sharp_bend_is_judged_by_both_sides():
    """At the tip of a wedge of road that turns left by 150 degrees: ahead of it one is off the road, though to the left
    of one of its edges."""
    tip = edge((-10, 0), (0, 0), (-10 * math.cos(math.radians(30)), 10 * math.sin(math.radians(30))))
    found = measured(worlds_of(with_edges(points_at((1, 0.1), (1, -0.1)), tip)))[:, 0]
    assert found.tolist() == pytest.approx([math.hypot(1, 0.1)] * 2, abs=0.02)
    apart = with_edges(points_at((1, 0.1)), edge(*((-10, 0), (0, 0))), edge((0, 0), (-8.66, 5), number=1))
    assert measured(worlds_of(apart))[0, 0] == pytest.approx(-math.hypot(1, 0.1), abs=0.02)  # nobody joins them


def test_links_by_hand():
    """An edge of three segments that ends where it starts, one of two that does not, and a gap in a third."""
    square = edge((0, 0), (10, 0), (10, 10), (0, 0.5))
    open_one = edge((20, 0), (30, 0), (40, 0), number=1)
    broken = edge((0, 50), (5, 50), number=2)[0] + edge((7, 50), (9, 50), number=2)[0]
    case = with_edges([car()], square, open_one, (broken, [2, 2]))
    ends = [[2, 1], [0, 2], [1, 0], [-1, 4], [3, -1], [-1, -1], [-1, -1]]
    assert edge_links(case).tolist() == ends
    assert edge_links(case, longest_only=True).tolist() == ends
    longer = edge((0, 90), (1, 90), (2, 90), (3, 90), (4, 90), number=3)
    assert edge_links(with_edges([car()], square, longer))[:3].tolist() == [[2, 1], [0, 2], [1, 0]]
    assert edge_links(with_edges([car()], square, longer), longest_only=True)[:3].tolist() == [[-1, 1], [0, 2], [1, -1]]


def test_where_a_closed_edge_closes():
    """An island, which one must not drive on: its edge turns right all around, so what is inside is off the road. At
    the place where it closes, outside, one is on the road, though to the right of its first segment; the challenge's
    scorer does not see that where another edge has more points."""
    island, longer = edge((0, 0), (-2, 8), (6, 8), (0, 0)), edge(*((x, 90) for x in range(6)), number=1)
    case = worlds_of(with_edges(points_at((0.5, -1), (1, 5)), island, longer))
    inside = 18 / math.hypot(2, 8)
    assert measured(case)[:, 0].tolist() == pytest.approx([-math.hypot(0.5, 1), inside], abs=0.02)
    assert measured(case, longest_only=True)[:, 0].tolist() == pytest.approx([math.hypot(0.5, 1), inside], abs=0.02)


def test_levels():
    """Two edges above each other, 8 m apart: the one of the own level counts, though farther away in the plane."""
    below, above = edge((-50, -3), (50, -3)), edge((50, 1.5), (-50, 1.5), number=1)
    case = with_edges([car(0, 0), car(0, 0)], below, above)
    case.segment_z[1] = 8.0
    case.log_z[0], case.log_z[1] = 0.75, 8.75  # boxes are 1.5 m high
    assert measured(worlds_of(case))[:, 0].tolist() == pytest.approx([-2, -0.5])
    case.log_z[0] = 0.75 + 8 * 0.5 + 0.3
    assert measured(worlds_of(case))[0, 0] == pytest.approx(-0.5)


@pytest.mark.parametrize("segments", [40, 800])
def test_near_and_far_edges_against_all_of_them(segments):
    """The distance of one corner, found in float64 among all segments; far ones are in no cell of the grid."""
    case = random_scene(3, extent=120.0, segments=segments)
    worlds = worlds_of(case)
    found = measured(worlds)
    x, y, half, _, heading = case.segment[case.segment_type == RoadType.ROAD_EDGE].astype(np.float64).T
    ahead = np.stack([np.cos(heading), np.sin(heading)], axis=1)
    largest = 0.0
    for row, agent in enumerate(worlds.controlled.tolist()):
        for step in np.flatnonzero(case.valid[agent])[::5]:
            px, py, turn = case.log[agent, step, :3].astype(np.float64)
            length, width = case.agent_size[agent, :2]
            c, s = math.cos(turn), math.sin(turn)
            box = np.array([
                [px + (c * a * length - s * b * width) / 2, py + (s * a * length + c * b * width) / 2]
                for a in (-1, 1) for b in (-1, 1)
            ])  # fmt: skip
            offset = box[:, None] - np.stack([x, y], axis=1)
            along = np.clip((offset * ahead).sum(axis=-1), -half, half)
            distance = np.linalg.norm(offset - along[..., None] * ahead, axis=-1).min(axis=1)
            assert np.abs(abs(float(found[row, step])) - distance).min() < 1e-3
            largest = max(largest, distance.max())
    assert (largest > 20) == (segments == 40)


def test_a_simulator_of_true_boxes_sees_the_same():
    """At each step of random driving of vehicles: who is off the road."""
    worlds = worlds_of(*(random_scene(seed, extent=30.0, lights=0) for seed in range(3)))
    env = Env(
        worlds,
        ActionSpace.create("classic", "continuous"),
        SimConfig(selection=EVERYONE, box_scale=1.0, off_road="outside"),
    )
    vehicle = worlds.tensors["type"][worlds.controlled] == AgentType.VEHICLE
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for _ in range(10):
        events = env.step(torch.rand(env.num_agents, 2, generator=generator) - 0.5).events
        state, present = env.everyone()
        off = edge_distances(worlds, state[:, None], heights(worlds, state[:, None]), present[:, None])[:, 0] > 0
        assert torch.equal(off & vehicle, events[:, Event.OFF_ROAD])
        seen += int(events[:, Event.OFF_ROAD].sum())
    assert seen > 0


def test_people_hardly_leave_the_road():
    """Vehicles in logs of real scenes, with boxes of true size."""
    worlds = make_worlds(real_scenes())
    vehicle = worlds.tensors["type"][worlds.controlled] == AgentType.VEHICLE
    assert (measured(worlds)[vehicle] > 0).any(dim=1).float().mean() <= 0.05
