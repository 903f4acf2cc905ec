"""What an agent sees of its route: where it is beside it, and how it goes on ahead, in kernels.

The routes themselves are found by :mod:`sim.routes`. Where an agent is on its route is the nearest point of it; from
there on it looks ahead along the route, no further than the goal.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from gail_cli.sim.fields import ROUTE, ROUTE_AHEAD
from gail_cli.sim.geometry import in_frame
from gail_cli.sim.launch import wp
from gail_cli.sim.near import log_scale

_COUNT = wp.constant(len(ROUTE))
_PLACES = wp.constant(len(ROUTE_AHEAD))
_AHEAD = wp.constant(wp.types.vector(length=len(ROUTE_AHEAD), dtype=wp.float32)(*ROUTE_AHEAD))


@wp.struct
class Routes:
    """Routes of the agents of some worlds."""

    start: wp.array(dtype=wp.int32)
    """[M + 1]: agent m has the points start[m] .. start[m + 1] - 1; none if it has no route."""
    point: wp.array(dtype=wp.vec4)
    """x, y, and cosine and sine of the direction there, at even distances; the last is the goal."""
    spacing: wp.array(dtype=wp.float32)
    """[M] m from one point to the next."""
    lane: wp.array(dtype=wp.float32)
    """[M] 1 where the route follows lanes, 0 where it is a straight line."""


@wp.func
def _nearest(r: Routes, first: int, last: int, x: float, y: float) -> float:
    """Where on a route, counted in points, a place is nearest."""
    least = float(1.0e30)
    found = float(0.0)
    for k in range(first, last):
        a = r.point[k]
        b = r.point[k + 1]
        ux = b[0] - a[0]
        uy = b[1] - a[1]
        dx = x - a[0]
        dy = y - a[1]
        share = wp.clamp((dx * ux + dy * uy) / wp.max(ux * ux + uy * uy, 1.0e-9), 0.0, 1.0)
        dx -= share * ux
        dy -= share * uy
        square = dx * dx + dy * dy
        if square < least:
            least = square
            found = float(k - first) + share
    return found


@wp.func
def _at(r: Routes, first: int, last: int, place: float) -> wp.vec4:
    """The place and the direction so many points along a route."""
    k = wp.min(first + int(place), last - 1)
    share = wp.min(place - float(k - first), 1.0)
    p = (1.0 - share) * r.point[k] + share * r.point[k + 1]
    size = wp.max(wp.sqrt(p[2] * p[2] + p[3] * p[3]), 1.0e-6)
    return wp.vec4(p[0], p[1], p[2] / size, p[3] / size)


@wp.func
def write_route(
    r: Routes, agent: int, x: float, y: float, c: float, s: float, out: wp.array(dtype=wp.float32), col: int
):
    """The fields of an agent's route, zeros if it has none.

    Args:
        r: the routes.
        agent: row of the agent.
        x, y, c, s: where it is, and cosine and sine of its heading.
        out, col: where they go.
    """
    first = r.start[agent]
    last = r.start[agent + 1] - 1
    if last <= first:
        for k in range(_COUNT):
            out[col + k] = 0.0
    else:
        place = _nearest(r, first, last, x, y)
        here = _at(r, first, last, place)
        along = in_frame(c, s, here[2], here[3])
        out[col] = log_scale(here[2] * (y - here[1]) - here[3] * (x - here[0]))
        out[col + 1] = along[0]
        out[col + 2] = along[1]
        end = float(last - first)
        for k in range(_PLACES):
            there = _at(r, first, last, wp.min(place + _AHEAD[k] / wp.max(r.spacing[agent], 1.0e-6), end))
            p = in_frame(c, s, there[0] - x, there[1] - y)
            turn = in_frame(c, s, there[2], there[3])
            out[col + 3 + 3 * k] = log_scale(p[0])
            out[col + 4 + 3 * k] = log_scale(p[1])
            out[col + 5 + 3 * k] = turn[1]
        out[col + _COUNT - 2] = log_scale((end - place) * r.spacing[agent])
        out[col + _COUNT - 1] = r.lane[agent]
