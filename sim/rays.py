"""Rays from the middle of an agent's box: how far the nearest road edge and the nearest other box are, in kernels.

What is there is cast one segment after the other (:func:`cast`), each only onto the rays that it can touch;
:func:`write_rays` makes the fields of the distances.
"""

# Warp reads annotations at run time, so this module must not postpone them.
import math

from gail_cli.sim.fields import DIRECTIONS, KINDS
from gail_cli.sim.geometry import Box
from gail_cli.sim.launch import wp
from gail_cli.sim.near import LOG_SCALE

_COUNT = wp.constant(len(DIRECTIONS))


def _turned(degrees: float) -> tuple[float, float]:
    """Cosine and sine, exact along the axes."""
    return (round(math.cos(math.radians(degrees)), 15), round(math.sin(math.radians(degrees)), 15))


def _order(x: float, y: float) -> float:
    """What stands for a direction's angle: it grows from -2 to 2 as the angle grows from -pi to pi."""
    g = y / (abs(x) + abs(y))
    return g if x >= 0 else (2 - g if y >= 0 else -2 - g)


def _table(name: str, values: list[float]) -> str:
    return f"const float {name}[] = {{{', '.join(f'{v!r}f' for v in map(float, values))}}};"


_TURNED = [_turned(a) for a in DIRECTIONS]
_TABLES = "".join(
    (
        _table("X", [x for x, _ in _TURNED]),
        _table("Y", [y for _, y in _TURNED]),
        _table("P", [_order(x, y) for x, y in _TURNED]),
        # a ray leaves a box of half sides a and b after min(a U, b V)
        _table("U", [1 / abs(x) if x else 1e9 for x, _ in _TURNED]),
        _table("V", [1 / abs(y) if y else 1e9 for _, y in _TURNED]),
        f"const int n = {len(DIRECTIONS)};",
    )
)
# where to begin to look for the first ray that is not before an angle, for each 1/64 of the range of angles
_BEGIN = [sum(_order(x, y) < -2 + k / 16 - 1e-6 for x, y in _TURNED) for k in range(65)]


# Written in C++: it runs for each edge in sight and walks over plain tables.
@wp.func_native(
    _TABLES
    + f"const int B[] = {{{', '.join(map(str, _BEGIN))}}};"
    + """
    float* o = out.data + col;
    const float ax = mx - half * ux, ay = my - half * uy, bx = mx + half * ux, by = my + half * uy;
    const float fa = ay / ((ax < 0 ? -ax : ax) + (ay < 0 ? -ay : ay) + 1e-30f);
    const float fb = by / ((bx < 0 ? -bx : bx) + (by < 0 ? -by : by) + 1e-30f);
    const float pa = ax >= 0 ? fa : (ay >= 0 ? 2.0f - fa : -2.0f - fa);
    const float pb = bx >= 0 ? fb : (by >= 0 ? 2.0f - fb : -2.0f - fb);
    const float low = pa < pb ? pa : pb, high = pa < pb ? pb : pa;
    const float h = mx * uy - my * ux;
    const bool behind = high - low > 2.0f;  // more than half a turn: it lies across the back
    int k = 0;
    if (!behind) {
        const int bin = (int)((low + 2.0f) * 16.0f);
        k = B[bin < 0 ? 0 : (bin > 64 ? 64 : bin)];
        while (P[k] < low) ++k;
    }
    for (; k < n && (behind || P[k] <= high); ++k) {
        if (behind && P[k] > low && P[k] < high) continue;
        const float den = X[k] * uy - Y[k] * ux;
        float t = (den > 1e-6f || den < -1e-6f) ? h / den : nearest;
        t = t > nearest ? t : nearest;
        o[k] = t < o[k] ? t : o[k];
    }
"""
)
def cast(
    out: wp.array(dtype=wp.float32), col: int, mx: float, my: float, ux: float, uy: float, half: float, nearest: float
):
    """Shorten the rays ``out[col ...]`` (m from the middle) to where they meet a segment.

    Args:
        out, col: the rays, in the order of :data:`DIRECTIONS`.
        mx, my, ux, uy, half: midpoint, direction and half-length of the segment in the own frame.
        nearest: no point of it is nearer to the middle, m.
    """
    ...


@wp.func
def cast_side(
    out: wp.array(dtype=wp.float32), col: int, box: Box, nx: float, ny: float, depth: float, half: float
) -> bool:
    """Cast the side of a box (in the own frame) with this outward normal; whether it faces the middle of the frame."""
    mx = box.x + depth * nx
    my = box.y + depth * ny
    apart = -(mx * nx + my * ny)
    faces = apart > 0.0
    if faces:
        along = wp.clamp(mx * ny - my * nx, -half, half)
        cast(out, col, mx, my, -ny, nx, half, wp.length(wp.vec2(mx - along * ny, my + along * nx)))
    return faces


@wp.func
def cast_box(out: wp.array(dtype=wp.float32), col: int, box: Box):
    """Shorten rays to where they enter a box, which is given in the own frame; to 0 where they begin in it."""
    front = cast_side(out, col, box, box.c, box.s, box.length, box.width)
    rear = cast_side(out, col, box, -box.c, -box.s, box.length, box.width)
    left = cast_side(out, col, box, -box.s, box.c, box.width, box.length)
    right = cast_side(out, col, box, box.s, -box.c, box.width, box.length)
    if not (front or rear or left or right):
        for k in range(_COUNT):
            out[col + k] = 0.0


@wp.func_native(
    _TABLES
    + LOG_SCALE
    + """
    for (float* o = out.data + first; o <= out.data + first + 2 * n; o += 2 * n) {
        for (int k = 0; k < n; ++k) {
            const float a = length * U[k], b = width * V[k];
            const float beyond = o[k] - (a < b ? a : b), d = beyond < reach ? beyond : reach;
            o[k] = scaled(d);
            o[n + k] = 1.0f / (1.0f + (d > 0.0f ? d : 0.0f));
        }
    }
"""
)
def write_rays(out: wp.array(dtype=wp.float32), first: int, length: float, width: float, reach: float):
    """The fields, from rays of edges and, two blocks further on, of boxes, which were cast from the middle of the own
    box with these half sides."""
    ...


@wp.func_native(f"for (int k = 0; k < {2 * len(KINDS) * len(DIRECTIONS)}; ++k) out.data[first + k] = 1e9f;")
def start_rays(out: wp.array(dtype=wp.float32), first: int):
    """Rays that meet nothing yet."""
    ...
