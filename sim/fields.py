"""Names of the fields of an observation that are made by formula; imports neither torch nor Warp.

What they mean: :mod:`sim.near`, :mod:`sim.rays`, :mod:`sim.danger`, :mod:`sim.route_fields`, :mod:`sim.history`.
``log`` is :func:`sim.near.log_scale`.
"""

NEAR_EGO = (
    "goal x: log", "goal y: log", "speed: log", "acceleration that the goal needs/5, at most 2",
    "curvature that the goal needs*5, at most 1", "ln(1 + time left/s)/2",
)  # fmt: skip
"""Near fields of the ego."""
NEAR_PARTNER = (
    "x: log", "y: log", "gap along: log", "gap across: log", "relative vx: log", "relative vy: log",
    "time to contact/4 s, at most 2",
)  # fmt: skip
"""The same of a partner: gaps are those between the two boxes, along and across the own heading."""
NEAR_ROAD = (
    "nearest x: log", "nearest y: log", "nearest x - half own length: log", "nearest y - half own width: log",
    "clearance: log",
)  # fmt: skip
"""The same of a road segment: offsets of its nearest point, what is left of them beyond the own box, and the distance
of this point from the box (negative inside it)."""

_HALF = (2, 5, 9, 14, 20, 28, 38, 50, 65, 80, 95, 110, 130, 150, 165)
DIRECTIONS = (*(-a for a in reversed(_HALF)), 0, *_HALF, 180)
"""Degrees to the left of the own heading, from the right to the left: dense ahead, where one drives."""
KINDS = ("edge", "box")
RAYS = tuple(
    f"{kind} {abs(a)} deg{' left' if 0 < a < 180 else ' right' if a < 0 else ''}: {scale}"
    for kind in KINDS
    for scale in ("log", "1/(1 + d/m)")
    for a in DIRECTIONS
)
"""Rays."""

BOX_TIMES = (0.0, 0.5, 1.0, 1.5, 2.5)
"""When other boxes count, s."""
EDGE_TIMES = (0.0, 0.3, 0.7, 1.2, 2.0)
"""When road edges count, s."""
PATHS = ("straight", "arc")
SIDES = ("left", "right")
LEADER = ("leader gap: log", "leader closing speed/10, at most 2", "leader 1 s/time to contact, at most 2",
          "leader headway/4 s, at most 2")  # fmt: skip
DANGER = (
    *(
        f"box {where} in {t} s, {path}: separation/4"
        for t in BOX_TIMES
        for path in PATHS
        for where in ("ahead", "behind")
    ),
    *(f"edge {side} in {t} s, {path}: separation/4" for t in EDGE_TIMES for path in PATHS for side in SIDES),
    *LEADER,
)
"""Danger numbers."""
NO_HEADWAY = 2.0
"""The field of the headway when there is no leader: 8 s."""

ROUTE_AHEAD = (3, 6, 12, 20, 30, 45)
"""How far ahead on its route an agent looks, m."""
ROUTE = (
    "route offset: log", "route cos heading", "route sin heading",
    *(f"route in {d} m {what}" for d in ROUTE_AHEAD for what in ("x: log", "y: log", "sin heading")),
    "route to go: log", "route along lanes",
)  # fmt: skip
"""Fields of the route: how far to the left of it the agent is, where it leads, seen from the agent, and whether it
follows lanes."""

MOST_HISTORY = 10
"""Steps."""
HISTORY_EGO = tuple(
    f"{what}, at most 2"
    for k in range(1, MOST_HISTORY + 1)
    for what in (f"in step -{k}: acceleration/5", f"in step -{k}: yaw rate*2")
)
"""What the ego did in its last steps, step -1 being the one that led to the present state: two fields for each."""
HISTORY_PARTNER = HISTORY_EGO[:2]
"""The same of a partner."""
