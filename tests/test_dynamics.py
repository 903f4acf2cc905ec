import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import wrapped

from gail_cli.sim.actions import Dynamics
from gail_cli.sim.dynamics import Action, State, advance, delta_local_inverse
from gail_cli.sim.launch import wp

DT = 0.1


@wp.kernel(enable_backward=False)
def _advance(model: int, reverse: bool, s: State, u: Action, length: float, out: wp.array(dtype=State)):
    out[0] = advance(model, reverse, s, u, length)


@wp.kernel(enable_backward=False)
def _invert(s: State, target: State, out: wp.array(dtype=Action)):
    out[0] = delta_local_inverse(s, target)


def _call(kernel, kind, *inputs):
    out = wp.zeros(1, dtype=kind, device="cpu")
    wp.launch(kernel, dim=1, inputs=[*inputs, out], device="cpu")
    return out.numpy()[0].astype(np.float64)


def step(model, state, action, length=4.0, reverse=False):
    action = [*action, *[0.0] * (5 - len(action))]
    return _call(_advance, State, int(model), reverse, State(*state), Action(*action), length)


def expected_step(model, state, action, length=4.0):
    """The facts about GPUDrive, restated in float64."""
    x, y, heading, vx, vy = map(float, state)
    speed = np.hypot(vx, vy)
    match model:
        case Dynamics.CLASSIC:
            a, steering = action
            v, beta = speed + 0.5 * a * DT, np.arctan(0.5 * np.tan(steering))
            x, y = x + v * np.cos(heading + beta) * DT, y + v * np.sin(heading + beta) * DT
            heading = wrapped(heading + v * np.cos(beta) * np.tan(steering) / length * DT)
            v_next = speed + a * DT
            return np.array([x, y, heading, v_next * np.cos(heading), v_next * np.sin(heading)])
        case Dynamics.BICYCLE:
            a, curvature = np.clip(action, [-6, -3], [6, 3])
            x, y = x + vx * DT + 0.5 * a * np.cos(heading) * DT**2, y + vy * DT + 0.5 * a * np.sin(heading) * DT**2
            heading = wrapped(heading + curvature * (speed * DT + 0.5 * a * DT**2))
            v_next = speed + a * DT
            return np.array([x, y, heading, v_next * np.cos(heading), v_next * np.sin(heading)])
        case Dynamics.DELTA_LOCAL:
            dx, dy, turn = action
            gx, gy = np.cos(heading) * dx - np.sin(heading) * dy, np.sin(heading) * dx + np.cos(heading) * dy
            return np.array([x + gx, y + gy, wrapped(heading + turn), gx / DT, gy / DT])
        case Dynamics.STATE:
            return np.array(action, np.float64)


def assert_same_state(actual, expected, atol=2e-4):
    assert wrapped(actual[2] - expected[2]) == pytest.approx(0, abs=atol)
    np.testing.assert_allclose(np.delete(actual, 2), np.delete(expected, 2), atol=atol, rtol=1e-5)


def floats(low, high):
    return st.floats(low, high, width=32)


angles = floats(-3.125, 3.125)
states = st.tuples(floats(-200, 200), floats(-200, 200), angles, floats(-40, 40), floats(-40, 40))
ACTIONS = {
    Dynamics.CLASSIC: st.tuples(floats(-20, 20), floats(-1.25, 1.25)),
    Dynamics.BICYCLE: st.tuples(floats(-20, 20), floats(-6, 6)),
    Dynamics.DELTA_LOCAL: st.tuples(floats(-20, 20), floats(-20, 20), angles),
    Dynamics.STATE: states,
}


@pytest.mark.parametrize("model", Dynamics)
@given(data=st.data())
def test_agrees_with_the_formulas_in_float64(model, data):
    state, action, length = data.draw(states), data.draw(ACTIONS[model]), data.draw(floats(1, 20))
    assert_same_state(step(model, state, action, length), expected_step(model, state, action, length))


@pytest.mark.parametrize(
    ("model", "state", "action", "expected"),
    [
        # 10 m/s, +2 m/s^2: 10.1 m/s on average, 10.2 m/s in the end
        (Dynamics.CLASSIC, (0, 0, 0, 10, 0), (2, 0), (1.01, 0, 0, 10.2, 0)),
        # no clipping of classic actions
        (Dynamics.CLASSIC, (0, 0, 0, 0, 0), (100, 0), (0.5, 0, 0, 10, 0)),
        # tan(steering) = 1: slip angle atan(1/2), yaw rate 10 * 2/sqrt(5) / 4
        (
            Dynamics.CLASSIC,
            (0, 0, 0, 10, 0),
            (0, np.pi / 4),
            (0.8944272, 0.4472136, 0.2236068, 9.7510405, 2.2174807),
        ),
        (Dynamics.BICYCLE, (5, 5, np.pi / 2, 0, 10), (2, 0), (5, 6.01, np.pi / 2, 0, 10.2)),
        # acceleration is clipped at 6 m/s^2 and curvature at 3 1/m, on both sides
        (Dynamics.BICYCLE, (0, 0, 0, 0, 0), (60, 30), (0.03, 0, 0.09, 0.6 * np.cos(0.09), 0.6 * np.sin(0.09))),
        (Dynamics.BICYCLE, (0, 0, 0, 1, 0), (-60, -30), (0.07, 0, -0.21, 0.4 * np.cos(0.21), -0.4 * np.sin(0.21))),
        # bicycle moves along its velocity, even where that is not its heading
        (Dynamics.BICYCLE, (0, 0, 0, 0, 10), (0, 0), (0, 1, 0, 10, 0)),
        (Dynamics.DELTA_LOCAL, (1, 2, np.pi / 2, 9, 9), (1, 0.5, 0.25), (0.5, 3, np.pi / 2 + 0.25, -5, 10)),
        (Dynamics.STATE, (1, 2, 3, 4, 5), (6, 7, 0.5, 9, 10), (6, 7, 0.5, 9, 10)),
    ],
)
def test_agrees_with_numbers_worked_by_hand(model, state, action, expected):
    np.testing.assert_allclose(step(model, state, action), expected, atol=2e-6)


@pytest.mark.parametrize("model", [Dynamics.CLASSIC, Dynamics.BICYCLE])
def test_a_car_braked_below_zero_does_not_reverse(model):
    """Speed is the length of the velocity: what brakes to -0.5 m/s drives at 0.5 m/s a step later, as in GPUDrive."""
    braked = step(model, (0, 0, 0, 0.1, 0), (-6, 0))
    assert braked[3] == pytest.approx(-0.5)
    assert step(model, braked, (0, 0))[3] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("model", "state", "action", "expected"),
    [
        # from rest at -2 m/s^2, and on
        (Dynamics.CLASSIC, (0, 0, 0, 0, 0), (-2, 0), (-0.01, 0, 0, -0.2, 0)),
        (Dynamics.CLASSIC, (0, 0, 0, -0.2, 0), (0, 0), (-0.02, 0, 0, -0.2, 0)),
        # braking from reverse: forward acceleration
        (Dynamics.CLASSIC, (0, 0, np.pi / 2, 0, -1), (2, 0), (0, -0.09, np.pi / 2, 0, -0.8)),
        # the mirror image of a bend forwards: wheels to the left, and the tail goes left
        (
            Dynamics.CLASSIC,
            (0, 0, 0, -10, 0),
            (0, np.pi / 4),
            (-0.8944272, -0.4472136, -0.2236068, -9.7510405, 2.2174807),
        ),
        (
            Dynamics.BICYCLE,
            (0, 0, 0, -1, 0),
            (-1, 0.5),
            (-0.105, 0, -0.0525, -1.1 * np.cos(0.0525), 1.1 * np.sin(0.0525)),
        ),
        # a velocity across the heading is no reverse
        (Dynamics.BICYCLE, (0, 0, 0, 0, 10), (0, 0), (0, 1, 0, 10, 0)),
        (Dynamics.DELTA_LOCAL, (0, 0, 0, -1, 0), (0.1, 0, 0), (0.1, 0, 0, 1, 0)),
    ],
)
def test_reverse_worked_by_hand(model, state, action, expected):
    np.testing.assert_allclose(step(model, state, action, reverse=True), expected, atol=2e-6)


@pytest.mark.parametrize("model", Dynamics)
@given(data=st.data())
def test_forwards_it_makes_no_difference_whether_a_model_knows_reverse(model, data):
    x, y, heading, vx, vy = data.draw(states)
    if np.float32(np.cos(heading)) * vx + np.float32(np.sin(heading)) * vy < 1e-3:
        vx, vy = 3 * np.cos(heading), 3 * np.sin(heading)
    args = model, (x, y, heading, vx, vy), data.draw(ACTIONS[model])
    np.testing.assert_array_equal(step(*args, reverse=True), step(*args))


@given(state=states, action=ACTIONS[Dynamics.CLASSIC])
def test_a_longer_car_turns_less(state, action):
    """The yaw rate is inverse to the length; nothing else depends on it but the direction of the new velocity."""
    short, long = (step(Dynamics.CLASSIC, state, action, length) for length in (2.0, 200.0))
    np.testing.assert_array_equal(short[:2], long[:2])
    turn = 0.1 * abs(np.hypot(*state[3:]) + 0.05 * action[0]) * abs(np.tan(action[1])) / 200
    assert abs(wrapped(long[2] - state[2])) <= turn + 1e-5


@pytest.mark.parametrize("model", [Dynamics.CLASSIC, Dynamics.BICYCLE, Dynamics.DELTA_LOCAL])
@given(data=st.data())
def test_headings_stay_wrapped(model, data):
    heading = step(model, data.draw(states), data.draw(ACTIONS[model]))[2]
    assert abs(heading) <= np.float32(np.pi)


@given(state=states, action=ACTIONS[Dynamics.DELTA_LOCAL])
def test_delta_local_inverse_finds_the_action_taken(state, action):
    found = _call(_invert, Action, State(*state), State(*step(Dynamics.DELTA_LOCAL, state, action)))
    np.testing.assert_allclose(found[:2], action[:2], atol=2e-4)
    assert wrapped(found[2] - action[2]) == pytest.approx(0, abs=1e-5)


@given(state=states, target=states)
def test_delta_local_inverse_reaches_any_pose(state, target):
    reached = step(Dynamics.DELTA_LOCAL, state, _call(_invert, Action, State(*state), State(*target))[:3])
    np.testing.assert_allclose(reached[:2], target[:2], atol=2e-4)
    assert wrapped(reached[2] - target[2]) == pytest.approx(0, abs=1e-5)
