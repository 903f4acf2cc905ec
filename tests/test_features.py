import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import car, scene

from gail_cli.gail.evaluation.features import central_difference, features, leaves_road, touches
from gail_cli.sim.config import Selection
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")


def found_in(case, counted=None):
    worlds = make_worlds([case], selection=EVERYONE)
    return features(worlds, worlds.log, worlds.valid, worlds.valid if counted is None else counted)


def test_central_differences_by_hand():
    x = torch.tensor([[0.0, 1.0, 4.0, 9.0, 16.0]])[..., None]
    valid = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        central_difference(x, valid)[0, :, 0], torch.tensor([math.nan, 20, 40, 60, math.nan]), equal_nan=True
    )
    valid[0, 3] = False
    assert central_difference(x, valid)[0, :, 0].isnan().tolist() == [True, False, True, True, True]


def test_angles_take_the_shorter_way():
    x = torch.tensor([[3.0, math.pi, -3.0]])[..., None]
    turn = 2 * math.pi - 6
    found = central_difference(x, torch.ones(1, 3, dtype=torch.bool), circular=True)[0, 1, 0]
    torch.testing.assert_close(found, torch.tensor(turn / 0.2), rtol=1e-4, atol=0)


@given(st.floats(1, 20), st.floats(-0.5, 0.5), st.floats(-3, 3), st.floats(-3, 3))
def test_motion_on_a_circle(speed, turning, heading, acceleration):
    """Speed, yaw rate and their changes of an agent that turns evenly while it gains speed evenly."""
    t = np.arange(11) * 0.1
    angle = heading + turning * t
    v = speed + acceleration * t
    agent = car()
    fine = np.linspace(0, 1, 10001)
    direction = np.stack([np.cos(heading + turning * fine), np.sin(heading + turning * fine)], axis=1)
    path = np.cumsum((speed + acceleration * fine)[:, None] * direction, axis=0) * (fine[1] - fine[0])
    agent.log[:, :2] = path[::1000]
    agent.log[:, 2] = np.arctan2(np.sin(angle), np.cos(angle))
    agent.log[:, 3:] = 77.0  # not read
    found = {name: x[0].numpy() for name, x in found_in(scene(agent)).items()}
    np.testing.assert_allclose(found["linear_speed"][1:-1], np.abs(v[1:-1]), atol=0.05)
    np.testing.assert_allclose(found["angular_speed"][1:-1], turning, atol=1e-3)
    np.testing.assert_allclose(found["angular_acceleration"][2:-2], 0, atol=1e-2)
    if (v > 0.2).all():
        np.testing.assert_allclose(found["linear_acceleration"][2:-2], acceleration, atol=0.05)
    assert all(np.isnan(found[name][[0, -1]]).all() for name in ("linear_speed", "linear_acceleration"))


def test_only_what_is_counted_is_told():
    counted = torch.zeros(1, 11, dtype=torch.bool)
    counted[0, 4] = True
    for name, values in found_in(scene(car(speed=3)), counted).items():
        assert values.isnan().sum() == 10, name
        assert not values[0, 4].isnan()


def test_contacts_by_hand():
    edge = (RoadType.ROAD_EDGE, 0, -0.9, 80, 0.1, 0)
    found = found_in(scene(car(), car(0, 1.7), car(0, 50), segments=[edge]))
    assert touches(found).tolist() == [True, True, False]
    assert leaves_road(found).tolist() == [True, False, False]
