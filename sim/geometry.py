"""Plane geometry of kernels: directions in an agent's frame, and oriented boxes."""

# Warp reads annotations at run time, so this module must not postpone them.
from gail_cli.sim.launch import wp


@wp.func
def in_frame(c: float, s: float, dx: float, dy: float) -> wp.vec2:
    """An offset in the frame of an agent whose heading has the cosine ``c`` and the sine ``s``: ahead, to the left."""
    return wp.vec2(c * dx + s * dy, c * dy - s * dx)


@wp.struct
class Box:
    """An oriented box: centre, cosine and sine of its heading, half its length and half its width."""

    x: float
    y: float
    c: float
    s: float
    length: float
    width: float


@wp.func
def corner_of(box: Box, k: int) -> wp.vec2:
    """The k-th corner, 0 to 3: front left, front right, rear left, rear right."""
    ahead = wp.where(k < 2, box.length, -box.length)
    left = wp.where(k % 2 == 0, box.width, -box.width)
    return wp.vec2(box.x + ahead * box.c - left * box.s, box.y + ahead * box.s + left * box.c)


@wp.func
def overlap(a: Box, b: Box) -> bool:
    """Whether two boxes touch; separating axis test.

    Not ``separation(a, b) <= 0``, which rounds differently: the sums here decide which collisions happen.
    """
    d = in_frame(a.c, a.s, b.x - a.x, b.y - a.y)
    e = in_frame(b.c, b.s, b.x - a.x, b.y - a.y)
    c = wp.abs(a.c * b.c + a.s * b.s)
    s = wp.abs(a.c * b.s - a.s * b.c)
    return (
        wp.abs(d[0]) <= a.length + b.length * c + b.width * s
        and wp.abs(d[1]) <= a.width + b.length * s + b.width * c
        and wp.abs(e[0]) <= b.length + a.length * c + a.width * s
        and wp.abs(e[1]) <= b.width + a.length * s + a.width * c
    )


@wp.func
def separation(a: Box, b: Box) -> float:
    """The largest distance of two boxes along the normals of their sides, m; negative: how deep they overlap."""
    d = in_frame(a.c, a.s, b.x - a.x, b.y - a.y)
    e = in_frame(b.c, b.s, b.x - a.x, b.y - a.y)
    c = wp.abs(a.c * b.c + a.s * b.s)
    s = wp.abs(a.c * b.s - a.s * b.c)
    of_a = wp.max(
        wp.abs(d[0]) - a.length - b.length * c - b.width * s,
        wp.abs(d[1]) - a.width - b.length * s - b.width * c,
    )
    of_b = wp.max(
        wp.abs(e[0]) - b.length - a.length * c - a.width * s,
        wp.abs(e[1]) - b.width - a.length * s - a.width * c,
    )
    return wp.max(of_a, of_b)
