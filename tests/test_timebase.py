"""Logs whose steps are not 0.1 s apart: told apart, and resampled."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import scenario
from strategies import scenarios

from gail_cli.pipeline.readers.timebase import is_regular, require_pace, require_regular, resampled
from gail_cli.sim.scenario import LightState, SceneError, TrafficLights


@pytest.mark.parametrize(
    ("timestamps", "expected"),
    [
        (np.arange(91) * 0.1, True),
        (np.array([0.0, 0.10005, 0.19995, 0.30001]) + 1e9, True),  # WOMD's jitter, at a clock's own time
        (np.array([0.0, 0.109, 0.2, 0.3]), True),
        (np.array([0.0, 0.111, 0.2, 0.3]), False),  # one step is 11 % off
        (np.arange(91) / 9.8, False),  # every step is 2 % off
        (np.arange(91) * 0.5, False),
        (np.arange(91) * 0.05, False),
        (np.zeros(5), False),
        (np.array([0.0, 0.1, np.nan]), False),
        (np.zeros(1), True),
        (np.zeros(0), True),
    ],
)
def test_steps_of_a_tenth_of_a_second(timestamps, expected):
    assert is_regular(timestamps) == expected


def test_several_scenes_at_once():
    assert is_regular(np.array([[0, 0.1, 0.2], [0, 0.5, 1.0]])).tolist() == [True, False]


def test_other_steps_are_refused_in_a_sentence():
    log = scenario(np.zeros((1, 4, 2)), timestamps=np.array([0.0, 0.5, 1.0, 1.5]))
    with pytest.raises(SceneError, match=r"^scene 'hand-made': its steps are 0.5 s apart, not 0.1 s; add --resample"):
        require_regular(log, 91)
    log = scenario(np.zeros((1, 4, 2)), timestamps=np.array([0.0, 0.1, 0.2, 0.5]))
    with pytest.raises(SceneError, match=r"its steps are 0.1 to 0.3 s apart"):
        require_regular(log, 4)
    require_regular(log, 3)  # of which the scene is made


# resampled


@given(scenarios())
@settings(max_examples=20)
def test_a_log_at_ten_hertz_stays_as_it_is(log):
    log = replace(log, timestamps=5.0 + np.arange(log.num_steps) * 0.1)
    assert resampled(log) is log


@given(
    st.lists(st.integers(1, 10), min_size=1, max_size=8),
    st.tuples(*[st.floats(-30, 30)] * 4),
)
def test_motion_on_a_line_is_exact(steps, numbers):
    """At any rate, even or not, on the grid of 0.1 s or off it."""
    times = 7.0 + np.cumsum([0, *steps]) * 0.093
    start, velocity = np.split(np.array(numbers), 2)
    log = scenario(
        (start + (times - 7.0)[:, None] * velocity)[None],
        velocity=np.broadcast_to(velocity.astype(np.float32), (1, len(times), 2)),
        timestamps=times,
    )
    got = resampled(log)
    expected = start + np.arange(got.num_steps)[:, None] * 0.1 * velocity
    assert got.tracks.valid.all()
    assert got.timestamps[-1] <= times[-1] + 1e-4
    assert got.timestamps[-1] > times[-1] - 0.1
    np.testing.assert_allclose(np.diff(got.timestamps), 0.1, rtol=1e-9)
    np.testing.assert_allclose(got.tracks.position[0, :, :2], expected, atol=1e-4)
    np.testing.assert_allclose(got.tracks.velocity[0], np.broadcast_to(velocity, expected.shape), atol=1e-5)


def test_positions_follow_the_velocities_on_a_bend():
    """Hermite's cubic at the middle: (a + b) / 2 + step * (v - w) / 8. Here (1.5, 0) + 1 * ((4, 0) - (2, 2)) / 8."""
    log = scenario([[[0, 0], [3, 0]]], velocity=np.float32([[[4, 1], [2, -1]]]), timestamps=np.array([0.0, 1.0]))
    got = resampled(log)
    assert got.num_steps == 11
    np.testing.assert_allclose(got.tracks.position[0, 5, :2], [1.5 + 0.25, 0.25], atol=1e-9)
    np.testing.assert_allclose(got.tracks.velocity[0, 5], [3, 0], atol=1e-6)
    assert got.tracks.position[0, [0, 10], :2].tolist() == [[0, 0], [3, 0]]


def test_velocities_that_do_not_lead_to_the_next_position_are_no_guide():
    log = scenario([[[0, 0], [10, 0]]], velocity=np.zeros((1, 2, 2), np.float32), timestamps=np.array([0.0, 0.4]))
    np.testing.assert_allclose(resampled(log).tracks.position[0, :, 0], [0, 2.5, 5, 7.5, 10])


def test_headings_take_the_shorter_turn():
    turn = np.float32([[3.0, -3.0]])
    log = scenario(np.zeros((1, 2, 2)), heading=turn, timestamps=np.array([0.0, 0.2]))
    got = resampled(log).tracks.heading[0]
    assert got[[0, 2]].tolist() == turn[0].tolist()
    assert abs(abs(got[1]) - np.pi) < 1e-6


def test_nothing_is_made_up_where_an_agent_was_not_seen():
    """Seen at 0, 0.5 and 1.5 s of 0 to 2 s: valid from 0 to 0.5 s and at 1.5 s alone."""
    valid = np.array([[True, True, False, True, False]])
    log = scenario(np.zeros((1, 5, 2)) + 3, valid=valid, timestamps=np.arange(5) * 0.5)
    got = resampled(log).tracks
    assert np.flatnonzero(got.valid[0]).tolist() == [0, 1, 2, 3, 4, 5, 15]
    assert (got.position[0, :, 0] == 3 * got.valid[0]).all()


def test_samples_more_than_a_second_apart_are_a_gap():
    log = scenario(np.zeros((1, 3, 2)), timestamps=np.array([0.0, 0.2, 1.3]))
    assert np.flatnonzero(resampled(log).tracks.valid[0]).tolist() == [0, 1, 2, 13]


def test_lights_are_those_of_the_last_sample():
    state = np.array([[LightState.STOP, LightState.GO, LightState.ABSENT]], np.int8)
    lights = TrafficLights(np.array([7]), state, np.zeros((1, 3)))
    log = scenario(np.zeros((1, 3, 2)), lights=lights, timestamps=np.array([0.0, 0.25, 0.5]), current_index=1)
    got = resampled(log)
    assert got.lights.state[0].tolist() == [LightState.STOP] * 3 + [LightState.GO] * 2 + [LightState.ABSENT]
    assert got.current_index in (2, 3)
    assert got.repairs == ("steps of 0.25 s are resampled to 0.1 s",)


def test_a_log_of_a_higher_rate():
    times = np.arange(21) * 0.05
    log = scenario(np.stack([times, -times], axis=-1)[None], timestamps=times, current_index=20)
    got = resampled(log)
    assert got.num_steps == 11
    assert got.current_index == 10
    assert np.array_equal(got.tracks.position[0, :, :2], log.tracks.position[0, ::2, :2])


@pytest.mark.parametrize("timestamps", [[0.0, 0.5, 0.5], [0.0, 0.5, 0.4], [0.0, np.nan, 1.0]])
def test_time_must_rise(timestamps):
    with pytest.raises(SceneError, match="its timestamps do not rise"):
        resampled(scenario(np.zeros((1, 3, 2)), timestamps=np.array(timestamps)))


@pytest.mark.parametrize("timestamps", [[0.0] * 6, [0.0, 0.1, 0.2, -5.0, -4.9, -4.8]])
def test_times_that_do_not_rise_are_no_other_rate(timestamps):
    log = replace(scenario(np.zeros((1, 6, 2))), timestamps=np.array(timestamps))
    with pytest.raises(SceneError, match="its timestamps do not rise; mend the file or leave it out"):
        require_regular(log, 6)


@pytest.mark.parametrize(("every", "fits"), [(1, True), (2, False), (5, False)])
def test_the_pace_of_files_without_timestamps(every, fits):
    """Three cars at 10 m/s: at every fifth step of a log they come 5 m in what is taken for 0.1 s."""
    way = 10 * 0.1 * every * np.arange(30)
    position = np.stack([np.stack([way, np.full(30, 5.0 * k)], axis=-1) for k in range(3)])
    log = scenario(position, velocity=np.broadcast_to(np.float32([10, 0]), position.shape).astype(np.float32))
    if fits:
        require_pace(log, 30)
    else:
        with pytest.raises(SceneError, match=f"come {every} times as far in a step .* may be 0.{every} s apart"):
            require_pace(log, 30)


def test_little_motion_says_nothing_of_the_pace():
    require_pace(scenario(np.zeros((3, 30, 2))), 30)
