import numpy as np
import pytest
import torch

from gail.metrics import AgentMetrics, agent_metrics, concatenate, displacement_errors, means
from sim.kernels import Event


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


NONE = torch.zeros(1, 4, dtype=bool)


def test_the_first_step_is_not_counted():
    """It is given, not driven: 0, 2, 4 m are 3 m on average."""
    position = torch.tensor([[[0.0, 0], [2, 0], [4, 0]]])
    metrics = agent_metrics(position, torch.zeros(1, 3, 2), torch.ones(1, 3, dtype=bool), NONE, NONE)
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
    metrics = agent_metrics(track, track, torch.ones(1, 2, dtype=bool), events, NONE)
    assert (metrics.full_collision.item(), metrics.full_off_road.item()) == (False, False)
    assert metrics.full_safe_success.item() is (Event.GOAL in happened)
    full = agent_metrics(track, track, torch.ones(1, 2, dtype=bool), NONE, events)  # its goal is not read
    assert (full.full_collision.item(), full.full_off_road.item()) == (collision, Event.OFF_ROAD in happened)
    assert not full.full_safe_success.item()
    assert metrics.safe_success.item() is safe
    assert metrics.collision.item() is collision
    assert metrics.off_road.item() is (Event.OFF_ROAD in happened)
    assert metrics.goal.item() is (Event.GOAL in happened)


def test_means_are_over_agents_not_over_batches():
    def batch(goals):
        flags, errors = np.array(goals, bool), np.array(goals, np.float32)
        return AgentMetrics(flags, ~flags, flags, flags, 10 * errors, errors, ~flags, flags, ~flags)

    joined = means(concatenate([batch([1]), batch([0, 0, 1])]))
    expected = {"goal": 0.5, "collision": 0.5, "off_road": 0.5, "safe_success": 0.5, "ade": 5, "fde": 0.5}
    expected |= {"full_collision": 0.5, "full_off_road": 0.5, "full_safe_success": 0.5}
    assert joined == expected
