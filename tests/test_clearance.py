"""Distances between boxes with rounded corners, and to leaders."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import car, real_scenes, scene

from gail_cli.sim.clearance import MAX_TTC, ROUNDING, clearances
from gail_cli.sim.config import Selection
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")


def worlds_of(*scenes):
    return make_worlds(scenes, selection=EVERYONE)


def measured(worlds, speed=None, theirs=False):
    """Gaps in the log."""
    speed = worlds.log[..., 3:].norm(dim=-1) if speed is None else speed
    z = worlds.tensors["log_z"].view(worlds.valid.shape)
    return clearances(worlds, worlds.log, z, worlds.valid, speed, theirs)


def outline(x, y, heading, length, width):
    """Many points of a box with rounded corners: straight sides, and quarters of circles."""
    r = ROUNDING * min(length, width) / 2
    a, b = length / 2 - r, width / 2 - r
    side = np.linspace(-1, 1, 200)
    points = [np.stack([np.full_like(side, s * (a + r)), side * b], axis=1) for s in (-1, 1)]
    points += [np.stack([side * a, np.full_like(side, s * (b + r))], axis=1) for s in (-1, 1)]
    angle = np.linspace(0, 2 * np.pi, 800)
    circle = r * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points.append(circle + np.stack([np.sign(np.cos(angle)) * a, np.sign(np.sin(angle)) * b], axis=1))
    turn = np.array([[math.cos(heading), math.sin(heading)], [-math.sin(heading), math.cos(heading)]])
    return np.concatenate(points) @ turn + [x, y]


def test_distances_by_hand():
    """Cars of 4 x 2 m, whose corners have a radius of 0.7 m: 3 m apart side by side; corner to corner, where sharp ones
    would be (3, 4) m apart, centres of circles are (4.4, 5.4) m apart; and 0.5 m deep in each other."""
    side = scene(car(0, 0), car(0, 5))
    diagonal = scene(car(0, 0), car(4 + 3, 2 + 4))
    deep = scene(car(0, 0), car(1, 1.5))
    alone = scene(car(0, 0))
    expected = ((side, 3), (diagonal, math.hypot(4.4, 5.4) - 1.4), (deep, -0.5), (alone, math.inf))
    for case, distance in expected:
        nearest, _ = measured(worlds_of(case))
        assert nearest.shape == (len(case.agent_id), 11)
        assert nearest.allclose(torch.tensor(float(distance)), atol=1e-5)


def test_rounded_corners_pass_where_sharp_ones_touch():
    """Cars whose corners overlap by 0.2 m both ways: circles in them are (1.2, 1.2) m apart, less their radii."""
    nearest, _ = measured(worlds_of(scene(car(0, 0), car(3.8, 1.8))))
    assert nearest[0, 0] == pytest.approx(1.2 * math.sqrt(2) - 1.4, abs=1e-5)
    assert nearest[0, 0] > 0


@given(st.floats(-12, 12), st.floats(-12, 12), st.floats(-3, 3), st.floats(-3, 3), st.floats(1, 9), st.floats(1, 4))
def test_distances_as_between_many_points(x, y, turn, own_turn, length, width):
    """Boxes apart: as the nearest of many points of the two outlines. Overlapping: no less deep than any of them."""
    case = scene(car(0, 0, own_turn), car(x, y, turn, size=(length, width, 1.5)))
    nearest = float(measured(worlds_of(case))[0][0, 0])
    apart = np.linalg.norm(
        outline(0.0, 0.0, own_turn, 4.0, 2.0)[:, None] - outline(x, y, turn, length, width)[None], axis=-1
    ).min()
    if nearest > 0:
        assert nearest == pytest.approx(apart, abs=0.05)
        assert nearest <= apart + 1e-4
    else:
        shift = np.array([x, y]) / max(math.hypot(x, y), 1e-9) * (0.05 - nearest)
        moved = scene(car(0, 0, own_turn), car(x + shift[0], y + shift[1], turn, size=(length, width, 1.5)))
        assert float(measured(worlds_of(moved))[0][0, 0]) <= nearest + float(np.hypot(*shift)) + 1e-4


def test_bridges_are_near_nobody_but_in_the_challenge():
    case = scene(car(0, 0), car(0, 1), car(0, 40, speed=0))
    case.log_z[1] = 6.0
    worlds = worlds_of(case)
    assert measured(worlds)[0][0, 0] == pytest.approx(38)
    assert measured(worlds, theirs=True)[0][0, 0] == pytest.approx(-1)


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


@pytest.mark.parametrize(("aside", "degrees", "follows"), [(1.0, 70, True), (2.2, 12, False), (1.7, 9, True)])
def test_who_is_hardly_in_the_way_must_head_the_same_way(aside, degrees, follows):
    """The rearmost corner of one that is turned by a; how much of it is in the way of a car 2 m wide follows from its
    half-width across, 2 sin a + cos a: above 0.5 m, or 10 degrees at most."""
    a = math.radians(degrees)
    across, rear = 2 * math.sin(a) + math.cos(a), 12 - 2 * math.cos(a) - math.sin(a)
    assert (1 + across - aside > 0.5 or degrees <= 10) == follows
    case = scene(car(0, 0, speed=10), car(12, aside, heading=a, speed=0))
    expected = (rear - 2) / 10 if follows else MAX_TTC
    assert float(measured(worlds_of(case))[1][0, 0]) == pytest.approx(expected, abs=1e-5)


def test_headings_beyond_half_a_turn():
    """One heads to 3.1 rad, the other to -3.1: the same way, but not in the challenge."""
    case = scene(car(0, 0, heading=3.1, speed=10), car(-10, 0.0, heading=-3.1, speed=0))
    worlds = worlds_of(case)
    assert float(measured(worlds)[1][0, 0]) < 1
    assert float(measured(worlds, theirs=True)[1][0, 0]) == MAX_TTC


def test_an_unknown_speed_is_no_danger():
    worlds = worlds_of(scene(car(0, 0, speed=10), car(10, 0, speed=6)))
    speed = torch.full((2, 11), 6.0)
    speed[0] = 10.0
    speed[0, 3] = speed[1, 5] = torch.nan
    ttc = measured(worlds, speed)[1]
    assert (ttc[0] == MAX_TTC).nonzero().flatten().tolist() == [3, 5]
    assert (ttc[1] == MAX_TTC).all()


def test_who_is_not_there_is_near_nobody():
    case = scene(car(), car(1))
    case.valid[1, 4] = False
    nearest, ttc = measured(worlds_of(case))
    assert nearest[0, 4] == math.inf
    assert nearest[0, 3] < 0
    assert all(x[1].isnan().nonzero().flatten().tolist() == [4] for x in (nearest, ttc))


def test_people_hardly_touch_anything():
    """Logs of real scenes, with boxes of true size."""
    nearest, _ = measured(make_worlds(real_scenes()))
    assert (nearest < 0).any(dim=1).float().mean() <= 0.05
