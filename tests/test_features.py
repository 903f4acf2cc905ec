import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenes import car, scene

from gail_cli.gail.evaluation.features import (
    Theirs,
    central_difference,
    features,
    leaves_road,
    only_valid,
    road_known,
    touches,
)
from gail_cli.sim.config import Selection
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")


def found_in(case, counted=None, theirs=None):
    worlds = make_worlds([case], selection=EVERYONE)
    z = worlds.tensors["log_z"].view(worlds.valid.shape)
    return features(worlds, worlds.log, z, worlds.valid, worlds.valid if counted is None else counted, theirs)


def test_central_differences_by_hand():
    x = torch.tensor([[0.0, 1.0, 4.0, 9.0, 16.0]])[..., None]
    valid = torch.ones(1, 5, dtype=torch.bool)
    torch.testing.assert_close(
        central_difference(x, valid)[0, :, 0], torch.tensor([math.nan, 20, 40, 60, math.nan]), equal_nan=True
    )
    valid[0, 3] = False
    assert central_difference(x, valid)[0, :, 0].isnan().tolist() == [True, False, True, False, True]


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


def test_climbing_counts():
    """3 m/s ahead and 4 m/s up are 5 m/s."""
    case = scene(car(speed=3))
    case.log_z[0] = 0.4 * np.arange(11)
    torch.testing.assert_close(found_in(case)["linear_speed"][0, 1:-1], torch.full((9,), 5.0))


def test_only_what_is_counted_is_told():
    """But for motion, which is undefined only at the ends."""
    counted = torch.zeros(1, 11, dtype=torch.bool)
    counted[0, 4] = True
    found = found_in(scene(car(speed=3), segments=[(RoadType.ROAD_EDGE, 0, -3, 80, 0.1, 0)]), counted)
    for name in ("distance_to_nearest_object", "time_to_collision", "distance_to_road_edge"):
        assert found[name].isnan().tolist() == (~counted).tolist(), name
    assert found["linear_speed"].isnan().sum() == 2
    assert found["angular_acceleration"].isnan().sum() == 4
    assert found["valid"].equal(counted)


def test_speeds_of_logs_need_neighbours_that_count():
    """Steps 1 and 7 are missing. Speeds: both neighbours; accelerations: both neighbours' speeds."""
    case = scene(car(speed=3))
    case.valid[0, [1, 7]] = False
    found = only_valid(found_in(case, torch.from_numpy(case.valid)))
    assert (~found["linear_speed"][0].isnan()).nonzero().flatten().tolist() == [1, 3, 4, 5, 7, 9]
    assert (~found["angular_speed"][0].isnan()).nonzero().flatten().tolist() == [1, 3, 4, 5, 7, 9]
    assert (~found["linear_acceleration"][0].isnan()).nonzero().flatten().tolist() == [2, 4, 6, 8]


def test_pedestrians_have_edges_and_no_time_to_collision():
    edge = (RoadType.ROAD_EDGE, 0, -0.9, 80, 0.1, 0)
    found = found_in(scene(car(speed=9, type=AgentType.PEDESTRIAN), car(5, 0), segments=[edge]))
    assert found["time_to_collision"][0].isnan().all()
    assert found["time_to_collision"][1].isfinite().all()
    assert leaves_road(found).all()
    assert road_known(found).tolist() == [True, True]


def test_roads_without_edges_are_not_known():
    found = found_in(scene(car(), segments=[(RoadType.LANE, 0, 0, 80, 0.1, 0)]))
    assert road_known(found).tolist() == [False]
    assert not leaves_road(found).any()


def test_contacts_by_hand():
    edge = (RoadType.ROAD_EDGE, 0, -0.9, 80, 0.1, 0)
    found = found_in(scene(car(), car(0, 1.7), car(0, 50), segments=[edge]))
    assert touches(found).all(dim=1).tolist() == [True, True, False]
    assert leaves_road(found).all(dim=1).tolist() == [True, False, False]


def test_states_of_invalid_steps_make_speeds_in_the_challenge():
    """A car at (100, 0) whose step 5 is missing, which Waymo's files put at their origin: so it falls back 100 m."""
    case = scene(car(100), car(95, speed=9))
    case.valid[0, 5] = False
    case.log[0, 5] = 0
    theirs = found_in(case, theirs=Theirs([None]))
    assert theirs["linear_speed"][0, [4, 6]].tolist() == [500, 500]
    ours = found_in(case)
    assert ours["linear_speed"][0, [4, 6]].isnan().all()
    assert ours["time_to_collision"][1, 4] == 5
