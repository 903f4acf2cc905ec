"""Danger numbers, by hand; by brute force they are tested in test_observation.py."""

import math

import numpy as np
import pytest
from scenes import STEPS, car, scene
from test_observation import observe

from gail_cli.sim.fields import DANGER
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import RoadType

CONFIG = ObservationConfig(partners=1, road_segments=1, near=False, rays=False, route=False)
NOTHING = dict.fromkeys(DANGER, 1.0)
NOTHING |= {name: value for name, value in zip(DANGER[-4:], (math.asinh(100) / 3, 0, 0, 2), strict=True)}


def danger(s, me=0, config=CONFIG):
    """The danger numbers by name."""
    seen = observe(s, config, 0)[me, config.first_danger :][: len(DANGER)]
    return dict(zip(DANGER, seen.tolist(), strict=True))


def metres(found, name):
    return 4 * found[f"{name}: separation/4"]


def edge(x, y, half, heading):
    return (RoadType.ROAD_EDGE, x, y, half, 0.1, heading)


def test_nothing_there():
    assert len(DANGER) == 44
    assert danger(scene(car(speed=10))) == pytest.approx(NOTHING, abs=1e-6)


def test_a_slower_car_ahead():
    """At 10 m/s, 12 m behind one at 4 m/s: 8 m between bumpers, 6 m less each second; after 2.5 s 3 m past it."""
    found = danger(scene(car(speed=10), car(12, 0, speed=4)))
    for time, gap in ((0.0, 4), (0.5, 4), (1.0, 2), (1.5, -1), (2.5, -1)):
        for path in ("straight", "arc"):  # the goal is straight ahead
            assert metres(found, f"box ahead in {time} s, {path}") == pytest.approx(gap, abs=1e-5)
            assert metres(found, f"box behind in {time} s, {path}") == 4
    expected = [math.asinh(8 / 0.5) / 3, 0.6, 6 / 8, 0.8 / 4]
    assert list(found.values())[-4:] == pytest.approx(expected, abs=1e-5)


def test_a_faster_car_behind():
    found = danger(scene(car(speed=2), car(-8, 0, speed=5)))
    for time, gap in ((0.0, 4), (0.5, 2.5), (1.0, 1), (1.5, -0.5), (2.5, -1.5)):
        assert metres(found, f"box behind in {time} s, straight") == pytest.approx(gap, abs=1e-5)
        assert metres(found, f"box ahead in {time} s, straight") == 4
    assert list(found.values())[-4:] == pytest.approx(list(NOTHING.values())[-4:], abs=1e-6)


def test_edges_left_and_right():
    """Half the box is 1 m wide: 0.5 m are left on one side, 2 m on the other; the road ends 10 m ahead."""
    sides = [edge(0, 1.5, 40, 0), edge(0, -3, 40, 0)]
    found = danger(scene(car(speed=5), segments=sides))
    for time in (0.0, 0.3, 0.7, 1.2, 2.0):
        assert metres(found, f"edge left in {time} s, straight") == pytest.approx(0.5, abs=1e-5)
        assert metres(found, f"edge right in {time} s, arc") == pytest.approx(2, abs=1e-5)
    found = danger(scene(car(speed=5), segments=[edge(10, 2, 1, math.pi / 2)]))
    for time, gap in ((0.0, 4), (0.3, 4), (0.7, 4), (1.2, 2), (2.0, 0)):  # its lower end is 1 m to the left
        assert metres(found, f"edge left in {time} s, straight") == pytest.approx(gap, abs=1e-5)
        assert metres(found, f"edge right in {time} s, straight") == 4


def turning():
    """At 5 m/s, with a goal at (10, 10): a quarter of a circle of 10 m radius, 15.7 m long, at 5 rad / 10 s."""
    me = car(speed=5)
    me.log[-1, :2] = [10, 10]
    return me


def test_the_arc_to_the_goal():
    """A post stands 0.3 m to the left of where the car will be on the arc after 2 s, at an angle of 1 rad."""
    x, y = 9.7 * math.sin(1), 10 - 9.7 * math.cos(1)
    found = danger(scene(turning(), segments=[edge(x, y, 0, 0)]))
    assert metres(found, "edge left in 2.0 s, arc") == pytest.approx(0.3 - 1, abs=1e-4)
    assert metres(found, "edge left in 2.0 s, straight") == pytest.approx(y - 1, abs=1e-4)


def test_the_leader_is_the_one_in_the_arc():
    """One that drives along the arc 1 rad ahead leads, one straight ahead does not."""
    angle = 1.0
    leading = car(10 * math.sin(angle), 10 * (1 - math.cos(angle)), angle, speed=3)
    found = danger(scene(turning(), leading, car(20, 0, speed=1)))
    expected = [math.asinh(6 / 0.5) / 3, 0.2, 2 / 6, 6 / 5 / 4]
    assert list(found.values())[-4:] == pytest.approx(expected, abs=1e-5)
    blind = ObservationConfig(goal="none", near=False, rays=False)
    straight = danger(scene(turning(), leading, car(20, 0, speed=1)), config=blind)
    expected = [math.asinh(16 / 0.5) / 3, 0.4, 4 / 16, 16 / 5 / 4]
    assert list(straight.values())[-4:] == pytest.approx(expected, abs=1e-5)


def test_a_car_on_a_bridge_does_not_lead():
    for z, seen in ((5.75, False), (0.75, True)):
        found = danger(scene(car(speed=5, z=np.full(STEPS, 0.75)), car(10, 0, z=np.full(STEPS, z))))
        assert (found != pytest.approx(NOTHING, abs=1e-6)) == seen


def test_backing_off():
    """Who drives backwards comes nearer to what is behind."""
    me = car(speed=-4)
    found = danger(scene(me, car(-8, 0)))
    assert metres(found, "box behind in 0.0 s, straight") == 4
    assert metres(found, "box behind in 0.5 s, straight") == pytest.approx(2, abs=1e-5)


def test_separations_are_by_the_axes_of_both_boxes():
    """A box turned by 45 degrees, with a corner 1 m from the own flank; and one with its flank 1 m from the own corner.

    In the first the other's axes show less, in the second the own.
    """
    reach = (2 + 1) * math.sqrt(0.5)
    apart = (reach + 1 + 1) * math.sqrt(0.5)
    for other in (car(0.1, 1 + 1 + reach, math.pi / 4), car(apart, apart, -math.pi / 4)):
        found = danger(scene(car(), other))
        assert metres(found, "box ahead in 0.0 s, straight") == pytest.approx(1, abs=1e-5)
