"""Geometry again on a scale that resolves decimetres: the near fields of the ``entity`` layout, for kernels.

Fields that are scaled by tens of metres hardly show a clearance. These show lengths and speeds through
:func:`log_scale`, which is linear up to half a metre and logarithmic beyond.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from gail_cli.sim.launch import wp

MOST_CURVATURE = wp.constant(wp.float32(0.2))
"""Of the arc to a goal, 1/m: a car turns about a circle of 5 m radius."""
_MOST_ACCELERATION = wp.constant(wp.float32(10.0))
_LONGEST_CONTACT = wp.constant(wp.float32(8.0))
"""Later contacts count as this late, s."""
_LEAST_TIME = wp.constant(wp.float32(0.1))


LOG_SCALE = """
    const auto scaled = [](float x) -> float {
        const float a = 2.0f * (x < 0.0f ? -x : x);
        union { float f; int i; } v;
        v.f = a + sqrtf(a * a + 1.0f);  // asinh is its logarithm: v = m 2^e, m from sqrt(1/2) to sqrt(2)
        const int e = (v.i - 0x3f3504f3) >> 23;
        v.i -= e << 23;
        const float s = (v.f - 1.0f) / (v.f + 1.0f), q = s * s;  // ln m = 2 artanh s, with s up to 0.172
        const float m = s * (2.0f + q * (0.66666667f + q * (0.4f + q * (0.28571429f + q * 0.22222222f))));
        const float r = 0.33333333f * ((float)e * 0.69314718f + m);
        return x < 0.0f ? -r : r;
    };
"""
"""The scale in C++, for the native functions of observations: no call and no branch, so that compilers take several
numbers at a time."""


@wp.func_native(LOG_SCALE + "return scaled(x);")
def log_scale(x: float) -> float:  # type: ignore[empty-body]
    """asinh(x / 0.5) / 3, of metres or m/s: 0.29 at 0.5, 1.2 at 10 and 1.8 at 50."""
    ...


@wp.func
def curvature_to(x: float, y: float) -> float:
    """Curvature (1/m) of the arc that leaves along the own heading and goes through a place in the own frame."""
    return wp.clamp(2.0 * y / wp.max(x * x + y * y, 1.0), -MOST_CURVATURE, MOST_CURVATURE)


@wp.func
def write_near_ego(
    goal: wp.vec2, speed: float, time_left: float, sees_goal: wp.bool, sees_time: wp.bool,
    out: wp.array(dtype=wp.float32), col: int,
):  # fmt: skip
    """The near fields of the ego, from its goal in its own frame; what it does not see is zero."""
    for k in range(6):
        out[col + k] = 0.0
    out[col + 2] = log_scale(speed)
    if sees_goal:
        out[col] = log_scale(goal[0])
        out[col + 1] = log_scale(goal[1])
        out[col + 4] = 5.0 * curvature_to(goal[0], goal[1])
    if sees_time:
        out[col + 5] = 0.5 * wp.log(1.0 + time_left)
    if sees_goal and sees_time:
        t = wp.max(time_left, _LEAST_TIME)
        needed = 2.0 * (wp.length(goal) - speed * t) / (t * t)
        out[col + 3] = 0.2 * wp.clamp(needed, -_MOST_ACCELERATION, _MOST_ACCELERATION)


@wp.func
def write_near_partner(
    p: wp.vec2, velocity: wp.vec2, c: float, s: float, half: wp.vec2, own: wp.vec2,
    out: wp.array(dtype=wp.float32), col: int,
):  # fmt: skip
    """The near fields of a partner.

    Args:
        p, velocity: relative to the ego, in its frame.
        c, s: cosine and sine of its heading there.
        half, own: half length and half width of its box and of the ego's.
        out, col: where they go.
    """
    along = wp.abs(p[0]) - own[0] - half[0] * wp.abs(c) - half[1] * wp.abs(s)
    across = wp.abs(p[1]) - own[1] - half[0] * wp.abs(s) - half[1] * wp.abs(c)
    distance = wp.max(wp.length(p), 1.0e-3)
    closing = -wp.dot(p, velocity) / distance
    contact = float(_LONGEST_CONTACT)
    gap = wp.max(wp.max(along, across), 0.0)
    if gap < _LONGEST_CONTACT * closing:
        contact = gap / closing
    _store_scaled(out, col, p[0], p[1], along, across, velocity[0], velocity[1])
    out[col + 6] = 0.25 * contact


@wp.func_native(
    LOG_SCALE
    + """
    const float v[8] = {a, b, c, d, e, f, 0.0f, 0.0f};
    float r[8];
    for (int k = 0; k < 8; ++k) r[k] = scaled(v[k]);
    for (int k = 0; k < 6; ++k) out.data[col + k] = r[k];
"""
)
def _store_scaled(
    out: wp.array(dtype=wp.float32), col: int, a: float, b: float, c: float, d: float, e: float, f: float
):
    """Write six numbers by :func:`log_scale`."""
    ...


@wp.func_native(
    LOG_SCALE
    + """
    const float ahead = (x < 0.0f ? -x : x) - length, left = (y < 0.0f ? -y : y) - width;
    const float more = ahead > left ? ahead : left;
    const float clear = ahead > 0.0f && left > 0.0f ? sqrtf(ahead * ahead + left * left) : more;
    const float v[8] = {x, y, ahead, left, clear, 0.0f, 0.0f, 0.0f};
    float r[8];
    for (int k = 0; k < 8; ++k) r[k] = scaled(v[k]);
    for (int k = 0; k < 5; ++k) out.data[col + k] = r[k];
"""
)
def write_near_road(out: wp.array(dtype=wp.float32), col: int, x: float, y: float, length: float, width: float):
    """The near fields of a segment, from its nearest point in the own frame and half the own box."""
    ...
