"""How those go on whom no policy drives."""

from dataclasses import replace

import numpy as np
import pytest
from scenes import car, scene

from gail_cli.gail.evaluation import road_users
from gail_cli.gail.evaluation.road_users import (
    CYCLIST,
    PEDESTRIAN,
    STANDING_PEDESTRIAN,
    STILL,
    VEHICLE,
    go_on,
    habits_of,
)
from gail_cli.sim.scenario import AgentType

MANY = 400


def crowd(speed, kind, steps=81):
    return scene(*(car(0, 0, heading=0.5, speed=speed, steps=steps, type=kind) for _ in range(MANY)))


def gone(speed=1.4, kind=AgentType.PEDESTRIAN, seed=0):
    return go_on(crowd(speed, kind), np.arange(MANY), np.random.default_rng(seed))


def test_who_has_which_habits():
    expected = {
        (AgentType.PEDESTRIAN, 1.0): PEDESTRIAN, (AgentType.PEDESTRIAN, 0.1): STANDING_PEDESTRIAN,
        (AgentType.CYCLIST, 0.0): CYCLIST, (AgentType.VEHICLE, 9.0): VEHICLE, (AgentType.VEHICLE, 0.2): STILL,
        (AgentType.OTHER, 0.0): STILL,
    }  # fmt: skip
    for (kind, speed), habits in expected.items():
        assert habits_of(kind, speed) is habits


def test_without_unsteadiness_they_go_straight_on(monkeypatch):
    monkeypatch.setattr(road_users, "PEDESTRIAN", replace(STILL, speeding=1e-9))
    track = gone()
    t = np.arange(81)[:, None] * 0.1
    np.testing.assert_allclose(track[7, :, :2], 1.4 * t * [np.cos(0.5), np.sin(0.5)], atol=1e-4)
    np.testing.assert_allclose(track[..., 2], 0.5, atol=1e-5)


def test_standing_vehicles_stand():
    track = gone(0.2, AgentType.VEHICLE)
    assert (track[..., :3] == track[:, :1, :3]).all()
    assert (track[..., 3:] == 0).all()


def test_how_unsteady_they_are(monkeypatch):
    """Many pedestrians whose factor is 1: after 8 s the speed has spread by 0.23 x root 8; the yaw rate has its
    standard deviation, and is correlated as stated; noise of headings is what remains of it from step to step."""
    monkeypatch.setattr(road_users, "PEDESTRIAN", replace(PEDESTRIAN, spread=0.0))
    track = gone().astype(np.float64)
    speed = np.hypot(track[..., 3], track[..., 4])
    assert (speed[:, -1] - 1.4).std() == pytest.approx(0.23 * np.sqrt(8), rel=0.1)
    course = np.unwrap(np.arctan2(track[..., 4], track[..., 3]), axis=1)[speed.min(axis=1) > 0.1]
    turning = np.diff(course, axis=1)[:, 20:] / 0.1
    assert turning.std() == pytest.approx(0.127, rel=0.05)
    correlation = (turning[:, :-10] * turning[:, 10:]).mean() / (turning**2).mean()
    assert correlation == pytest.approx(0.94**10, abs=0.06)
    noise = track[..., 2][speed.min(axis=1) > 0.1] - course
    assert noise[:, 1:].std() == pytest.approx(0.0058, rel=0.05)


def test_the_future_of_the_log_is_not_read():
    case = crowd(1.4, AgentType.CYCLIST)
    other = replace(case, log=case.log.copy())
    other.log[:, 1:] = 99.0
    found = [go_on(x, np.array([1, 3]), np.random.default_rng(1)) for x in (case, other)]
    assert np.array_equal(*found)
    assert not np.array_equal(found[0], go_on(case, np.array([1, 3]), np.random.default_rng(2)))
    assert np.array_equal(found[0][:, 0], case.log[[1, 3], 0])
