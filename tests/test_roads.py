"""The grid over a map, and what lies beyond its edges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.path import Path
from scenes import car, random_scene, real_scenes, scene

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.worlds import make_worlds

ALL_VALID = Selection(init_mode="all_valid", remove_non_vehicles=False)


def listed_at(grid, number, x, y):
    """Segments that the grid of map ``number`` lists at a point."""
    column, row = np.floor([(x - grid.x.numpy()[number]), (y - grid.y.numpy()[number])] / grid.size.numpy()[number])
    columns, rows = grid.columns.numpy()[number], grid.rows.numpy()[number]
    if not (0 <= column < columns and 0 <= row < rows):
        return []
    cell = grid.first.numpy()[number] + int(row) * columns + int(column)
    return grid.item.numpy()[slice(*grid.start.numpy()[cell : cell + 2])].tolist()


def distances(segment, x, y):
    """From a point to segments [S, 5], all along their middle lines."""
    direction = np.stack([np.cos(segment[:, 4]), np.sin(segment[:, 4])], axis=1)
    away = [x, y] - segment[:, :2].astype(np.float64)
    along = np.clip((away * direction).sum(axis=1), -segment[:, 2], segment[:, 2])
    return np.hypot(*(away - along[:, None] * direction).T)


@given(seed=st.integers(0, 999), reach=st.floats(0.5, 60), solid=st.booleans())
def test_a_cell_lists_every_segment_within_reach_in_map_order(seed, reach, solid):
    worlds = make_worlds([random_scene(seed), random_scene(seed + 1, segments=7, extent=500.0)])
    grid = worlds.grid(reach, solid)
    rng = np.random.default_rng(seed)
    for number, s in enumerate(worlds.scenes):
        counts = np.isin(s.segment_type, [RoadType.ROAD_EDGE, RoadType.STOP_SIGN]) | (not solid)
        before = len(worlds.scenes[0].segment) * number
        for x, y in rng.uniform(-600, 600, (20, 2)) * rng.uniform(0, 1, (20, 1)):
            listed = np.array(listed_at(grid, number, x, y), int) - before
            near = np.flatnonzero(counts & (distances(s.segment, x, y) <= reach))
            assert (np.diff(listed) > 0).all()
            assert set(near) <= set(listed)
            assert counts[listed].all()
            assert distances(s.segment[listed], x, y).max(initial=0) <= 3 * reach + 20  # and not the whole map


def test_worlds_of_one_scene_share_its_map():
    once, other = random_scene(1), random_scene(2)
    worlds = make_worlds([once, other, once, once])
    assert worlds.tensors["map"].tolist() == [0, 1, 0, 0]
    assert len(worlds.roads.type) == len(once.segment) + len(other.segment)


@pytest.mark.parametrize("segments", [[], [(RoadType.LANE, 5, 5, 3, 0.1, 0)]])
def test_a_map_with_nothing_to_hit_has_an_empty_grid(segments):
    grid = make_worlds([scene(car(), segments=segments)]).grid(5.0, solid=True)
    assert grid.columns.numpy().tolist() == [0]
    assert listed_at(grid, 0, 5.0, 5.0) == []


def test_segments_far_apart_do_not_make_millions_of_cells():
    segments = [(RoadType.ROAD_EDGE, x, 0, 1, 0.1, 0) for x in (-1e6, 0, 1e6)]
    grid = make_worlds([scene(car(), segments=segments)]).grid(5.0)
    assert grid.first.numpy()[-1] <= 129
    assert 1 in listed_at(grid, 0, 0.0, 0.0)


# Signed distance


def off_road(*cars, segments, **rules):
    worlds = make_worlds([scene(c, segments=segments) for c in cars], selection=ALL_VALID)
    rules = SimConfig(selection=ALL_VALID, off_road="outside", **rules)
    return Env(worlds, ActionSpace.create("classic"), rules).events()[:, Event.OFF_ROAD].tolist()


EDGE = (RoadType.ROAD_EDGE, 0, 0, 50, 0.1, 0)
"""Along x; the road is on its left, where y is positive."""


def test_beyond_an_edge_is_off_the_road_at_any_distance():
    """A car of 4 x 2 m (boxes of true size) is off the road when its side lies beyond the edge."""
    cars = [car(0, y) for y in (30, 1.01, 0.99, 0, -3, -30)]
    assert off_road(*cars, segments=[EDGE], box_scale=1.0) == [False, False, True, True, True, True]
    assert off_road(*cars, segments=[EDGE], box_scale=0.5) == [False, False, False, True, True, True]


def test_only_edges_bound_the_road_and_only_for_vehicles():
    kinds = [k for k in range(RoadType.ROAD_EDGE, RoadType.DRIVEWAY) if k != RoadType.ROAD_EDGE]
    assert off_road(car(0, -3), car(0, 0), segments=[(k, 0, 0, 50, 0.1, 0) for k in kinds]) == [False, False]
    assert off_road(car(0, -3, type=2), segments=[EDGE]) == [False]
    assert off_road(car(0, -3), segments=[]) == [False]


def polygon(seed, corners):
    """A star-shaped polygon with sharp corners, counterclockwise: the road is inside."""
    rng = np.random.default_rng(seed)
    angle = 2 * np.pi * (np.arange(corners) + rng.uniform(0, 0.9, corners)) / corners
    return rng.uniform(10, 60, corners)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def edges_of(points):
    side = np.roll(points, -1, axis=0) - points
    middle = points + side / 2
    return [
        (RoadType.ROAD_EDGE, *m, np.hypot(*s) / 2, 0.1, np.arctan2(s[1], s[0]))
        for m, s in zip(middle, side, strict=True)
    ]


@given(seed=st.integers(0, 10**6), corners=st.integers(8, 20))
def test_inside_a_polygon_of_edges_is_on_the_road(seed, corners):
    """Convex and concave corners, and places whose nearest edge point is a corner."""
    points = polygon(seed, corners)
    rng = np.random.default_rng(seed)
    places = rng.uniform(-70, 70, (30, 2))
    table = np.array([e[1:] for e in edges_of(points)])
    places = [p for p in places if distances(table, *p).min() > 0.05]
    actual = off_road(*(car(*p, size=(0.02, 0.02, 1)) for p in places), segments=edges_of(points), box_scale=1.0)
    assert actual == (~Path(points).contains_points(places)).tolist()


def test_people_drive_on_the_road():
    """The side that counts as road is Waymo's: moving cars of real logs are on it, and would not be on the other."""
    worlds = make_worlds(real_scenes())
    rules = SimConfig(off_road="outside")
    right = Env(worlds, ActionSpace.create("classic"), rules).events()[:, Event.OFF_ROAD]
    assert right.float().mean() < 0.05
    worlds.tensors["segment"][:, 5:7] *= -1  # every edge turned round
    wrong = Env(worlds, ActionSpace.create("classic"), rules).events()[:, Event.OFF_ROAD]
    assert wrong.float().mean() > 0.9
    assert torch.equal(right | wrong, torch.ones_like(right))
