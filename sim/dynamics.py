"""How agents move: GPUDrive's four dynamics models as Warp functions, forward and, where exact, inverse.

The state of an agent is ``(x, y, heading, vx, vy)`` in m, rad, m/s. Every function here serves the simulator, the
search for expert actions and the replay check alike, so that all three agree to the last bit. Formulas:
GPUDrive, ``src/dynamics.hpp`` (classic after Kong et al. 2015, bicycle after Waymax's InvertibleBicycleModel).

In GPUDrive the speed of the two vehicle models is the length of the velocity, so that they know no reverse: what brakes
to -0.5 m/s drives on at 0.5 m/s. With ``reverse`` the speed is negative where the velocity points against the heading;
for all others the formulas are the same.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from typing import Any

from gail_cli.sim.actions import BICYCLE_MAX_ACCEL, Dynamics
from gail_cli.sim.launch import wp
from gail_cli.sim.scenario import DT

State: Any = wp.types.vector(length=5, dtype=wp.float32)
Action: Any = wp.types.vector(length=5, dtype=wp.float32)

_DT = wp.constant(wp.float32(DT))
_BICYCLE_MAX_ACCEL = wp.constant(wp.float32(BICYCLE_MAX_ACCEL))
_BICYCLE_MAX_CURVATURE = wp.constant(wp.float32(3.0))

CLASSIC = wp.constant(int(Dynamics.CLASSIC))
BICYCLE = wp.constant(int(Dynamics.BICYCLE))
DELTA_LOCAL = wp.constant(int(Dynamics.DELTA_LOCAL))


@wp.func
def wrap(angle: float) -> float:
    """An angle brought into [-pi, pi]."""
    return wp.atan2(wp.sin(angle), wp.cos(angle))


@wp.func
def speed_of(c: float, s: float, vx: float, vy: float, reverse: bool) -> float:
    """Length of a velocity; with ``reverse`` below zero where it points against the heading, of cosine and sine."""
    speed = wp.sqrt(vx * vx + vy * vy)
    if reverse and c * vx + s * vy < 0.0:
        speed = -speed
    return speed


@wp.func
def classic(s: State, accel: float, steering: float, length: float, reverse: bool) -> State:
    """Kinematic bicycle with the reference point at the centre and the wheelbase equal to the length."""
    speed = speed_of(wp.cos(s[2]), wp.sin(s[2]), s[3], s[4], reverse)
    v = speed + 0.5 * accel * _DT
    tan_steering = wp.tan(steering)
    beta = wp.atan(0.5 * tan_steering)
    yaw_rate = v * wp.cos(beta) * tan_steering / length
    x = s[0] + v * wp.cos(s[2] + beta) * _DT
    y = s[1] + v * wp.sin(s[2] + beta) * _DT
    heading = wrap(s[2] + yaw_rate * _DT)
    v_next = speed + accel * _DT
    return State(x, y, heading, v_next * wp.cos(heading), v_next * wp.sin(heading))


@wp.func
def bicycle(s: State, accel: float, curvature: float, reverse: bool) -> State:
    """Waymax's invertible bicycle: acceleration and path curvature, both clipped."""
    a = wp.clamp(accel, -_BICYCLE_MAX_ACCEL, _BICYCLE_MAX_ACCEL)
    k = wp.clamp(curvature, -_BICYCLE_MAX_CURVATURE, _BICYCLE_MAX_CURVATURE)
    c = wp.cos(s[2])
    si = wp.sin(s[2])
    speed = speed_of(c, si, s[3], s[4], reverse)
    x = s[0] + s[3] * _DT + 0.5 * a * c * _DT * _DT
    y = s[1] + s[4] * _DT + 0.5 * a * si * _DT * _DT
    heading = wrap(s[2] + k * (speed * _DT + 0.5 * a * _DT * _DT))
    v_next = speed + a * _DT
    return State(x, y, heading, v_next * wp.cos(heading), v_next * wp.sin(heading))


@wp.func
def delta_local(s: State, dx: float, dy: float, dheading: float) -> State:
    """A displacement in the agent's own frame, and a turn."""
    c = wp.cos(s[2])
    si = wp.sin(s[2])
    gx = c * dx - si * dy
    gy = si * dx + c * dy
    return State(s[0] + gx, s[1] + gy, wrap(s[2] + dheading), gx / _DT, gy / _DT)


@wp.func
def delta_local_inverse(s: State, target: State) -> Action:
    """The ``delta_local`` action that takes ``s`` exactly to the target's position and heading."""
    c = wp.cos(s[2])
    si = wp.sin(s[2])
    gx = target[0] - s[0]
    gy = target[1] - s[1]
    return Action(c * gx + si * gy, c * gy - si * gx, wrap(target[2] - s[2]), 0.0, 0.0)


@wp.func
def advance(dynamics: int, reverse: bool, s: State, a: Action, length: float) -> State:
    """The state one step (0.1 s) after ``s`` under action ``a`` of the given model, which may know reverse."""
    result = State(a[0], a[1], a[2], a[3], a[4])  # the state model: an action is the next state
    if dynamics == CLASSIC:
        result = classic(s, a[0], a[1], length, reverse)
    elif dynamics == BICYCLE:
        result = bicycle(s, a[0], a[1], reverse)
    elif dynamics == DELTA_LOCAL:
        result = delta_local(s, a[0], a[1], a[2])
    return result
