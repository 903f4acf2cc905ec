"""Rays, by hand; by brute force they are tested in test_observation.py."""

import math

import numpy as np
import pytest
import torch
from scenes import STEPS, car, moved, random_scene, scene
from test_observation import observe

from gail_cli.sim.fields import DIRECTIONS, RAYS
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import RoadType

CONFIG = ObservationConfig(partners=1, road_segments=1, near=False, danger=False, route=False)
FIRST = CONFIG.first_ray
ROOT = math.sqrt(0.5)


def edge(x, y, half, heading):
    return (RoadType.ROAD_EDGE, x, y, half, 0.1, heading)


def lengths(s, me=0, step=0, config=CONFIG):
    """Metres to the nearest edge and the nearest box, by degrees to the left."""
    seen = observe(s, config, step)[me, config.first_ray :][: len(RAYS)].double().view(2, 2, len(DIRECTIONS))
    metres = torch.sinh(3 * seen[:, 0]) / 2
    torch.testing.assert_close(seen[:, 1], 1 / (1 + metres.clamp(min=0)), atol=1e-5, rtol=0)
    return [dict(zip(DIRECTIONS, row.tolist(), strict=True)) for row in metres]


def test_names_and_directions():
    assert len(RAYS) == 128
    assert tuple(sorted(DIRECTIONS)) == DIRECTIONS
    assert {-a for a in DIRECTIONS if a != 180} | {180} == set(DIRECTIONS)
    assert RAYS[:2] == ("edge 165 deg right: log", "edge 150 deg right: log")
    assert RAYS[32 + 15] == "edge 0 deg: 1/(1 + d/m)"
    assert RAYS[64 + 31] == "box 180 deg: log"
    assert CONFIG.ego_fields[FIRST : FIRST + 128] == RAYS


def test_edges_by_hand():
    """A car of 4 x 2 m looks along +y at (10, 0): an edge across the way 22 m ahead, one 3 m to the left."""
    ahead, left = edge(10, 22, 30, 0), edge(7, 0, 100, math.pi / 2)
    edges, boxes = lengths(scene(car(10, 0, math.pi / 2), segments=[ahead, left]))
    assert edges[0] == pytest.approx(20, abs=1e-4)  # from the front bumper
    assert edges[-20] == pytest.approx((22 - 2) / math.cos(math.radians(20)), abs=1e-4)  # through the front too
    for degrees in (65, 80, 95, 110):  # through the left side
        assert edges[degrees] == pytest.approx((3 - 1) / math.sin(math.radians(degrees)), abs=1e-4)
    assert edges[165] == pytest.approx(3 / math.sin(math.radians(165)) - 2 / math.cos(math.radians(15)), abs=1e-4)
    assert edges[180] == edges[-95] == pytest.approx(50, abs=1e-3)
    assert all(d == pytest.approx(50, abs=1e-3) for d in boxes.values())


def test_boxes_by_hand():
    """One 10 m ahead, turned a quarter, hides one behind it; one stands 5 m to the right."""
    s = scene(car(), car(10, 0, math.pi / 2), car(20, 0), car(0, -5), segments=[edge(5, 0, 1, math.pi / 2)])
    edges, boxes = lengths(s)
    assert boxes[0] == pytest.approx(10 - 2 - 1, abs=1e-4)
    assert boxes[9] == pytest.approx((9 - 2) / math.cos(math.radians(9)), abs=1e-4)  # 9 tan(9 deg) = 1.4 m: still on it
    assert boxes[14] == pytest.approx(50, abs=1e-3)  # 2.2 m: past it; beyond, at 18 m, 4.5 m: past the other one too
    assert boxes[-80] == pytest.approx((4 - 1) / math.sin(math.radians(80)), abs=1e-4)
    assert boxes[80] == boxes[180] == pytest.approx(50, abs=1e-3)
    assert edges[0] == pytest.approx(3, abs=1e-4)  # boxes hide no edges, nor edges boxes


def test_inside_another_box_and_over_an_edge():
    """What is inside the own box is less than nothing away: rays end before they leave it."""
    edges, boxes = lengths(scene(car(), car(0.5, 0.5, 0.3), segments=[edge(0.5, 0, 5, math.pi / 2)]))
    assert boxes[0] == boxes[180] == pytest.approx(-2, abs=1e-5)
    assert boxes[95] == pytest.approx(-1 / math.sin(math.radians(95)), abs=1e-5)
    assert edges[0] == pytest.approx(0.5 - 2, abs=1e-5)
    assert edges[65] == pytest.approx(0.5 / math.cos(math.radians(65)) - 1 / math.sin(math.radians(65)), abs=1e-5)
    assert edges[95] == pytest.approx(50, abs=1e-3)


def test_an_edge_across_the_back():
    """It is seen on both sides of straight back, and not ahead."""
    edges, _ = lengths(scene(car(), segments=[edge(-7, 0, 30, math.pi / 2)]))
    assert edges[180] == pytest.approx(5, abs=1e-4)
    for degrees in (110, 130, 150, 165):
        straight = 7 / -math.cos(math.radians(degrees))
        leaves = min(2 / -math.cos(math.radians(degrees)), 1 / math.sin(math.radians(degrees)))
        assert [edges[degrees], edges[-degrees]] == pytest.approx([straight - leaves] * 2, abs=1e-3)
    assert edges[0] == edges[80] == pytest.approx(50, abs=1e-3)


def test_no_ray_slips_through_a_joint():
    """Two edges meet exactly ahead, each a hair too short."""
    edges, _ = lengths(scene(car(), segments=[edge(10, 3, 2.999, math.pi / 2), edge(10, -3, 2.999, math.pi / 2)]))
    assert edges[0] == pytest.approx(8, abs=1e-4)


def test_only_road_edges_are_edges_and_all_of_the_map_are():
    """Also those that are not among the segments that are listed; nothing beyond the radius."""
    kinds = [kind for kind in RoadType if 1 < kind < 7]
    others = [(kind, 5 + k / 10, 0, 1, 0.1, math.pi / 2) for k, kind in enumerate(kinds)]
    edges, _ = lengths(scene(car(), segments=[*others, edge(30, 0, 5, math.pi / 2), edge(0, 51, 9, 0)]))
    assert edges[0] == pytest.approx(28, abs=1e-3)
    assert edges[95] == edges[80] == pytest.approx(50, abs=1e-3)


def test_a_bridge_above_is_not_seen():
    """Edges and vehicles 5 m higher are, once they are on the own level."""
    wall, up = edge(10, 0, 5, math.pi / 2), np.full(STEPS, 5.75)
    ground = {"z": np.full(STEPS, 0.75)}
    for height, seen in ((5, False), (0, True)):
        z = up if height else ground["z"]
        s = scene(car(**ground), car(0, 8, z=z), segments=[wall], segment_z=height)
        edges, boxes = lengths(s)
        assert (edges[0] < 49) == (boxes[95] < 49) == seen


def test_a_road_may_rise():
    """3.3 m higher is another level at 10 m, and 6 % of 40 m more is not."""
    for x, seen in ((10, False), (40, True)):
        s = scene(car(z=np.full(STEPS, 0.75)), segments=[edge(x, 0, 5, math.pi / 2)], segment_z=3.3)
        assert (lengths(s)[0][0] < 45) == seen


@pytest.mark.parametrize("seed", range(3))
def test_turned_and_shifted_scenes_look_the_same(seed):
    """All the ego sees, in both layouts."""
    original = random_scene(seed)
    for layout in (ObservationConfig(), ObservationConfig("gpudrive", partners=2, rays=True, danger=True)):
        before, after = (
            observe(s, layout, 3)[original.valid[:, 3], : len(layout.ego_fields)]
            for s in (original, moved(original, 2.5, [3.0, -7.0]))
        )
        torch.testing.assert_close(before, after, atol=2e-4, rtol=1e-4)


def test_both_layouts_see_the_same():
    s = random_scene(4)
    layouts = [ObservationConfig(layout, rays=True, danger=True, route=False) for layout in ("entity", "gpudrive")]
    entity, gpudrive = (observe(s, x, 2)[:, x.first_ray : len(x.ego_fields)][s.valid[:, 2]] for x in layouts)
    assert entity.shape[1] == 172
    assert torch.equal(entity, gpudrive)
