import numpy as np
import pytest
import torch
from scenes import car, scene, valid_only

from gail_cli.gail.evaluation.drivers import drive
from gail_cli.gail.evaluation.metrics import (
    AgentMetrics,
    agent_metrics,
    displacement_errors,
    infeasibility,
    over_rollouts,
)
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import SelectedAgents, make_worlds


def test_displacement_errors_by_hand():
    """Distances 3, 5, 10, 1 m: the mean of those that count, and the last of those that count."""
    log = torch.zeros(3, 4, 2) + 100
    position = log + torch.tensor([[0, 3], [3, 4], [6, 8], [1, 0]]).float()
    valid = torch.tensor([[True] * 4, [True, True, False, False], [False, True, True, False]])
    ade, fde = displacement_errors(position, log, valid)
    assert ade.tolist() == [4.75, 4, 7.5]
    assert fde.tolist() == [1, 5, 10]


def test_junk_where_nothing_is_logged_counts_for_nothing():
    position, log = torch.zeros(1, 3, 2), torch.zeros(1, 3, 2)
    log[0, 1] = -11000.0
    ade, fde = displacement_errors(position, log, torch.tensor([[True, False, True]]))
    assert (ade.item(), fde.item()) == (0, 0)


NONE, NO = torch.zeros(1, 4, dtype=bool), torch.zeros(1, dtype=bool)


def test_the_first_step_is_not_counted():
    """It is given, not driven: 0, 2, 4 m are 3 m on average."""
    position = torch.tensor([[[0.0, 0], [2, 0], [4, 0]]])
    metrics = agent_metrics(position, torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=bool), NONE, NO, NO)
    assert (metrics.ade.item(), metrics.fde.item()) == (3, 4)


@pytest.mark.parametrize(
    ("happened", "safe", "collision"),
    [
        ([Event.GOAL], True, False),
        ([], False, False),
        ([Event.GOAL, Event.VEHICLE], False, True),
        ([Event.GOAL, Event.NON_VEHICLE], False, True),
        ([Event.GOAL, Event.OFF_ROAD], False, False),
        ([Event.VEHICLE, Event.NON_VEHICLE, Event.OFF_ROAD], False, True),
    ],
)
def test_safe_success_is_the_goal_and_nothing_else(happened, safe, collision):
    events = torch.tensor([[event in happened for event in Event]])
    track = torch.zeros(1, 2, 2)
    metrics = agent_metrics(track, track, torch.ones(1, 2, dtype=bool), events, NO, NO)
    assert (metrics.full_collision.item(), metrics.full_off_road.item()) == (False, False)
    assert metrics.full_safe_success.item() is (Event.GOAL in happened)
    for hit in (torch.tensor([collision]), torch.tensor([Event.OFF_ROAD in happened])):
        full = agent_metrics(track, track, torch.ones(1, 2, dtype=bool), NONE, hit, NO)
        assert (full.full_collision.item(), full.full_off_road.item()) == (hit.item(), False)
        full = agent_metrics(track, track, torch.ones(1, 2, dtype=bool), events, NO, hit)
        assert (full.full_collision.item(), full.full_off_road.item()) == (False, hit.item())
        assert full.full_safe_success.item() is (Event.GOAL in happened and not hit.item())
    assert metrics.safe_success.item() is safe
    assert metrics.collision.item() is collision
    assert metrics.off_road.item() is (Event.OFF_ROAD in happened)
    assert metrics.goal.item() is (Event.GOAL in happened)


def test_over_rollouts_by_hand():
    """Two agents, three drives: the best error of each agent, whichever drive it is from; means of all."""

    def drive(goals, errors):
        flags, errors = np.array(goals, bool), np.array(errors, np.float32)
        return AgentMetrics(flags, ~flags, flags, flags, errors, 2 * errors, ~flags, flags, ~flags, 0 * errors)

    found = over_rollouts([drive([1, 0], [4, 1]), drive([1, 0], [2, 5]), drive([0, 0], [3, 3])])
    assert (found["min_ade"].tolist(), found["min_fde"].tolist()) == ([2, 1], [4, 2])
    assert found["drawn_ade"].tolist() == [3, 3]
    np.testing.assert_allclose(found["drawn_goal"], [2 / 3, 0])
    np.testing.assert_allclose(found["drawn_collision"], [1 / 3, 1])


def test_infeasible_steps_by_hand():
    """8.5 m/s^2 is too much along; 10 m/s at 0.9 rad/s across; 0.5 rad/s at 1 m/s too sharp, but not at 2 m/s; turning
    by noise in place is none; unknown steps, and agents that are no vehicles, do not count."""
    nan = torch.nan
    rows = torch.tensor([
        # speed, acceleration, yaw rate
        [nan, nan, nan], [10, 8.5, 0], [10, -8.5, 0], [10, 7.5, 0.7], [10, 0, -0.9], [1, 0, 0.5], [2, 0, 0.5],
        [0, 0, 0.09], [10, nan, 0],
    ])  # fmt: skip
    names = ("linear_speed", "linear_acceleration", "angular_speed")
    features = {name: rows[:, k].repeat(2, 1) for k, name in enumerate(names)}
    found = infeasibility(features, torch.tensor([True, False]))
    expected = {"infeasible": 4, "infeasible_acceleration": 2, "infeasible_lateral": 1, "infeasible_curvature": 1}
    assert {name: share[0] for name, share in found.items()} == {name: count / 8 for name, count in expected.items()}
    assert all(np.isnan(share[1]) for share in found.values())


STANDING = {
    "creeps": car(speed=0.5),
    "ends after a step": car(speed=0.5, valid=valid_only(0, 1)),
    "has a gap": car(speed=0.5, valid=valid_only(0, 5, 10)),
    "is not seen between its ends": car(speed=0.9, valid=valid_only(0, 10)),
}
"""Logs that end less than a metre from where they begin."""


@pytest.mark.parametrize("log", STANDING)
@pytest.mark.parametrize("does", ["stays", "goes on", "drives away"])
def test_who_stands_near_its_goal_is_at_its_goal(log, does):
    """By the goal radius of 2 m it is there in its first step, whatever it does, and if that is its only one."""
    one = scene(STANDING[log])
    chosen = SelectedAgents(np.array([0]), np.array([True]), np.array([False]))
    space = ActionSpace.create("delta_local", "continuous")
    env = Env(make_worlds([one], selected=[chosen]), space, SimConfig(), ObservationConfig())
    away = torch.zeros(1, 3)
    away[0, 0] = {"stays": 0.0, "goes on": 0.05, "drives away": -1.0}[does]
    result = drive(env, lambda env, observation, step: away)
    assert result.events[0, Event.GOAL]
    assert result.driven[0].sum() == one.last_valid[0] + 1
