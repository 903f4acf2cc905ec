import numpy as np
import pytest
from scenes import Agent, car, scene, valid_only

from gail_cli.pipeline.experts.logs import bridged, gears, jumps_of, marks_of

EVERYONE = np.array([0])


def driving(*way, heading=0.0):
    """A car that has come so far along its heading at each step."""
    way = np.array(way, np.float64)
    log = np.zeros((len(way), 5))
    log[:, 0], log[:, 1], log[:, 2] = way * np.cos(heading), way * np.sin(heading), heading
    return Agent(log)


@pytest.mark.parametrize(
    ("way", "expected"),
    [
        ([0, 1, 2, 3], [1, 1, 1, 1]),
        ([0, 0.1, -0.1, 0.15, -0.1], [1] * 5),  # noise: never 0.3 m back
        ([0, 0.1, 0, -0.1, -0.25], [1, 1, -1, -1, -1]),  # 0.35 m back from step 1 on
        ([0, -1, -2, -2.1, -2, -1], [1, -1, -1, -1, 1, 1]),  # out, and off
        ([0, -1, -2, -1.8, -2.2, -3], [1] + [-1] * 5),  # a little forward in between
        ([0, 0, -0.1, -0.2, -0.29], [1] * 5),
        ([0, 1, 0.5, 1, 2], [1] * 5),  # a spike of one step
    ],
)
def test_the_gear_of_a_log(way, expected):
    """Who stands before backing off has no gear, so that either will do at step 1 of the second-last."""
    agent = driving(*way, heading=2.5)
    made = scene(agent)
    assert gears(made.log, made.valid).tolist() == [expected]
    longer = np.concatenate([made.log, np.zeros_like(made.log)], axis=1)  # what is beyond the end does not count
    there = np.concatenate([made.valid, ~made.valid], axis=1)
    assert gears(longer, there)[0, : len(way)].tolist() == expected


def jump_of(agent):
    made = scene(agent)
    mark = marks_of(made, EVERYONE)
    size, step = jumps_of(bridged(made, EVERYONE, mark), mark)
    return size[0], step[0]


def test_a_steady_log_does_not_jump():
    assert jump_of(car(speed=30)) == (0, 0)
    assert jump_of(car(speed=30, valid=valid_only(0, 1, 4, 5, 10)))[0] == 0


def test_jumps_by_hand():
    """10 m/s on the whole, but 1 m more in the step from 5 to 6: 10 m/s of change, 1 m/s of it by acceleration in the
    0.1 s from the middle of one step to that of the next, and the rest by an error of (10 - 1) / (1/0.1 + 1/0.1) m."""
    agent = car(speed=10)
    agent.log[6:, 0] += 1
    np.testing.assert_allclose(jump_of(agent), (0.45, 5), atol=1e-5)
    # once over a gap of 3 steps, 3.3 m/s of change, 2 m/s of it by acceleration, errors count 1/0.1 + 1/0.3
    agent = car(speed=10, valid=valid_only(0, 1, 2, 3, 6, 7, 8))
    agent.log[6:, 0] += 1
    np.testing.assert_allclose(jump_of(agent)[0], (10 / 3 - 2) / (10 + 10 / 3), atol=1e-5)
    # at the first step the logged velocity counts: 8 m/s instead of 10, 0.5 m/s of it by acceleration
    agent = car(speed=10)
    agent.log[0, 3] = 8
    np.testing.assert_allclose(jump_of(agent), (1.5 / 10, 0), atol=1e-5)


def test_a_box_that_is_turned_round_is_a_jump():
    agent = car(speed=1)
    agent.log[4:, 2] += 2
    assert jump_of(agent) == (np.inf, 3)
    agent.log[4:, 2] -= 1
    assert jump_of(agent)[0] == 0
