"""Danger numbers: how close an agent will come to others and to road edges if it goes on as it does, in kernels.

The own box is put where it will be at some times, straight on and on the arc to the goal, at its present speed; others
go straight on at their present velocity. Of each pose the least separation of the own box from any other counts: the
largest gap along the axes of the two boxes, negative where they overlap.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from gail_cli.sim.geometry import Box
from gail_cli.sim.launch import wp
from gail_cli.sim.near import log_scale

CLOSE, FAR = -1.5, 4.0
"""Separations are clipped to this, m."""
FIRST_EDGE = wp.constant(20)
FIRST_LEADER = wp.constant(40)
SCRATCH = 84
"""Floats of the poses of the own box: for each time straight on and on the arc x, y, cosine and sine of the heading,
ten poses for boxes and ten for edges; then the least and the largest x, and y, that are near any of those for edges."""

_FAR = wp.constant(wp.float32(FAR))
_CLOSE = wp.constant(wp.float32(CLOSE))
_STRAIGHT = wp.constant(wp.float32(1.0e-4))
"""Arcs with less curvature are taken as straight, 1/m."""
_QUARTER_TURN = wp.constant(wp.float32(1.5707964))
_LEAST_SPEED = wp.constant(wp.float32(0.5))
_LEAST_GAP = wp.constant(wp.float32(0.5))
_LONGEST_HEADWAY = wp.constant(wp.float32(8.0))


@wp.func
def near_limit(radius: float) -> float:
    """What is farther from the middle of a box than this has at least a separation of 4 m, if ``radius`` is the sum of
    the half diagonals: of a distance, the axes show 1/sqrt(2) at least."""
    return 1.4142136 * (radius + _FAR)


@wp.func
def _time_of(k: int) -> float:
    """Seconds until the k-th pair of poses."""
    box = wp.where(k == 0, 0.0, wp.where(k == 1, 0.5, wp.where(k == 2, 1.0, wp.where(k == 3, 1.5, 2.5))))
    edge = wp.where(k == 5, 0.0, wp.where(k == 6, 0.3, wp.where(k == 7, 0.7, wp.where(k == 8, 1.2, 2.0))))
    return wp.where(k < 5, box, edge)


@wp.func
def start_danger(
    own: wp.vec3, curvature: float, poses: wp.array(dtype=wp.float32), out: wp.array(dtype=wp.float32), col: int
):
    """Write the own poses into ``poses`` [84], and the fields as if nothing were near; see :func:`approach_box`."""
    near = near_limit(wp.length(wp.vec2(own[0], own[1])))
    for k in range(4):
        poses[80 + k] = 0.0
    for k in range(10):
        s = own[2] * _time_of(k)
        turn = curvature * s
        sine = wp.sin(turn)
        cosine = wp.cos(turn)
        x = s
        y = 0.5 * turn * s
        if wp.abs(turn) > 1.0e-3:
            x = sine / curvature
            y = (1.0 - cosine) / curvature
        p = 8 * k
        poses[p] = s
        poses[p + 1] = 0.0
        poses[p + 2] = 1.0
        poses[p + 3] = 0.0
        poses[p + 4] = x
        poses[p + 5] = y
        poses[p + 6] = cosine
        poses[p + 7] = sine
        if k >= 5:
            poses[80] = wp.min(poses[80], wp.min(s, x))
            poses[81] = wp.max(poses[81], wp.max(s, x))
            poses[82] = wp.min(poses[82], y)
            poses[83] = wp.max(poses[83], y)
    for k in range(2):
        poses[80 + 2 * k] = poses[80 + 2 * k] - near
        poses[81 + 2 * k] = poses[81 + 2 * k] + near
    for k in range(FIRST_LEADER):
        out[col + k] = _FAR
    out[col + FIRST_LEADER] = 1.0e9
    out[col + FIRST_LEADER + 1] = 0.0


# The next two are written in C++: they run for each edge and each agent in sight, on plain pointers. The arc's first
# pose is the straight one's, so it is left out.
_SEPARATION = """
        const float dx = X - q[0], dy = Y - q[1];
        const float x = q[2] * dx + q[3] * dy, y = q[2] * dy - q[3] * dx;  // in the pose's frame
        const float c = q[2] * ux + q[3] * uy, s = q[2] * uy - q[3] * ux;
        const float ac = c < 0 ? -c : c, as = s < 0 ? -s : s;
        const float along = c * x + s * y, across = c * y - s * x;
        const float g0 = (x < 0 ? -x : x) - length - half * ac - wide * as;
        const float g1 = (y < 0 ? -y : y) - width - half * as - wide * ac;
        const float g2 = (along < 0 ? -along : along) - half - length * ac - width * as;
        const float g3 = (across < 0 ? -across : across) - wide - length * as - width * ac;
        const float g01 = g0 > g1 ? g0 : g1, g23 = g2 > g3 ? g2 : g3;
        const float g = g01 > g23 ? g01 : g23;
"""


@wp.func_native(
    """
    const float wide = 0.0f, X = mx, Y = my;
    const float px = half * (ux < 0 ? -ux : ux), py = half * (uy < 0 ? -uy : uy);
    const float* all = poses.data + 80;
    if (mx + px < all[0] || mx - px > all[1] || my + py < all[2] || my - py > all[3]) return;
    for (int p = 0; p < 10; ++p) {
        if (p == 1) continue;
        const float* q = poses.data + 40 + 4 * p;
        const float rx = q[0] - mx, ry = q[1] - my;
        float t = rx * ux + ry * uy;
        t = t < -half ? -half : (t > half ? half : t);
        const float nx = t * ux - rx, ny = t * uy - ry;
        if (nx * nx + ny * ny > limit * limit) continue;
"""
    + _SEPARATION
    + """
        const float side = q[2] * ny - q[3] * nx;
        float* o = out.data + col + 20 + 2 * p;
        if (side >= 0 && g < o[0]) o[0] = g;
        if (side <= 0 && g < o[1]) o[1] = g;
    }
"""
)
def approach_edge(
    poses: wp.array(dtype=wp.float32), length: float, width: float, limit: float,
    mx: float, my: float, ux: float, uy: float, half: float, out: wp.array(dtype=wp.float32), col: int,
):  # fmt: skip
    """Lessen the separations from edges, on the side where the edge's nearest point lies as seen from the pose.

    Args:
        poses: of the own box, of half sides ``length`` and ``width``.
        limit: how far the edge may be from the middle of a pose, m.
        mx, my, ux, uy, half: midpoint, direction and half-length of an edge in the own frame.
        out, col: the danger fields.
    """
    ...


@wp.func_native(
    """
    const float T[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.5f};
    for (int p = 0; p < 10; ++p) {
        if (p == 1) continue;
        const float* q = poses.data + 4 * p;
        const float X = mx + T[p / 2] * vx, Y = my + T[p / 2] * vy;
        if ((X - q[0]) * (X - q[0]) + (Y - q[1]) * (Y - q[1]) > limit * limit) continue;
"""
    + _SEPARATION
    + """
        float* o = out.data + col + 2 * p;
        if (mx >= 0 && g < o[0]) o[0] = g;
        if (mx <= 0 && g < o[1]) o[1] = g;
    }
"""
)
def _approach(
    poses: wp.array(dtype=wp.float32), length: float, width: float, limit: float, mx: float, my: float,
    vx: float, vy: float, ux: float, uy: float, half: float, wide: float, out: wp.array(dtype=wp.float32), col: int,
):  # fmt: skip
    """As :func:`approach_edge`, of another box that is ahead or behind now."""
    ...


@wp.func
def _follow(
    own: wp.vec3, curvature: float, box: Box, velocity: wp.vec2, out: wp.array(dtype=wp.float32), col: int
):  # fmt: skip
    """Note the gap and the closing speed of a box in the corridor of the arc, if none is nearer.

    Args:
        own: half length, half width, speed.
        curvature: of the arc.
        box, velocity: in the own frame.
        out, col: the fields of the leader.
    """
    turn = 0.0
    s = box.x
    aside = box.y
    if box.x > 0.0 and wp.abs(curvature) > _STRAIGHT:
        r = 1.0 / wp.abs(curvature)
        left = wp.sign(curvature) * box.y  # to the side where the arc turns
        angle = wp.atan2(box.x, r - left)
        aside = r - wp.length(wp.vec2(box.x, r - left))
        s = r * angle
        turn = wp.sign(curvature) * angle
    if s > 0.0 and wp.abs(turn) < _QUARTER_TURN:
        c = wp.cos(turn)
        n = wp.sin(turn)
        along = wp.abs(c * box.c + n * box.s)
        across = wp.abs(c * box.s - n * box.c)
        gap = s - own[0] - box.length * along - box.width * across
        if wp.abs(aside) <= own[1] + box.length * across + box.width * along and gap < out[col]:
            out[col] = gap
            out[col + 1] = own[2] - c * velocity[0] - n * velocity[1]


@wp.func
def approach_box(
    poses: wp.array(dtype=wp.float32), own: wp.vec3, curvature: float, box: Box, velocity: wp.vec2,
    out: wp.array(dtype=wp.float32), col: int,
):  # fmt: skip
    """Lessen the separations from other boxes, and see whether this one leads.

    Args:
        poses: of the own box.
        own: half length, half width, speed.
        curvature: of the arc to the goal.
        box, velocity: the other's, in the own frame.
        out, col: the danger fields.
    """
    limit = near_limit(wp.length(wp.vec2(own[0], own[1])) + wp.length(wp.vec2(box.length, box.width)))
    _approach(
        poses, own[0], own[1], limit, box.x, box.y, velocity[0], velocity[1], box.c, box.s, box.length, box.width,
        out, col,
    )  # fmt: skip
    _follow(own, curvature, box, velocity, out, col + FIRST_LEADER)


@wp.func
def write_danger(out: wp.array(dtype=wp.float32), col: int, speed: float, reach: float):
    """The fields, from separations and the leader's gap and closing speed."""
    for first in range(2):  # the arc begins where the straight way does
        for k in range(2):
            out[col + first * FIRST_EDGE + 2 + k] = out[col + first * FIRST_EDGE + k]
    for k in range(FIRST_LEADER):
        out[col + k] = wp.max(out[col + k], _CLOSE) / _FAR
    lead = col + FIRST_LEADER
    gap = wp.clamp(out[lead], _CLOSE, reach)
    closing = out[lead + 1]
    led = out[lead] < 1.0e8
    headway = float(_LONGEST_HEADWAY)
    if led:
        headway = wp.min(wp.max(gap, 0.0) / wp.max(speed, _LEAST_SPEED), _LONGEST_HEADWAY)
    out[lead] = log_scale(gap)
    out[lead + 1] = wp.clamp(0.1 * closing, -2.0, 2.0)
    out[lead + 2] = wp.clamp(closing / wp.max(gap, _LEAST_GAP), -2.0, 2.0)
    out[lead + 3] = 0.25 * headway
