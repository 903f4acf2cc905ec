"""What the ego's near fields, rays, danger numbers and routes must be: in float64, by brute force and other formulas
than the kernel's (corners projected on axes, 2 x 2 systems solved for each ray and segment, arcs and routes as complex
numbers)."""

import numpy as np

from gail_cli.sim.fields import DIRECTIONS, ROUTE, ROUTE_AHEAD
from gail_cli.sim.routes import LaneGraph
from gail_cli.sim.scenario import RoadType

LEVEL, GRADE, JOINT = 2.4, 0.06, 0.01


def log_scale(d):
    return np.arcsinh(np.asarray(d, np.float64) / 0.5) / 3


def corners(x, y, heading, half_length, half_width):
    """[4, 2], around the box."""
    c, s = np.cos(heading), np.sin(heading)
    ends = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [half_length, half_width]
    return ends @ [[c, s], [-s, c]] + [x, y]


def separation(a, b, axes):
    """The largest gap of two sets of points along axes (rad)."""
    gaps = []
    for angle in axes:
        direction = [np.cos(angle), np.sin(angle)]
        p, q = a @ direction, b @ direction
        gaps.append(max(q.min() - p.max(), p.min() - q.max()))
    return max(gaps)


def nearest_on(begin, end, p):
    """The point of a segment that is nearest to p."""
    along = end - begin
    share = np.clip((p - begin) @ along / max(along @ along, 1e-12), 0, 1)
    return begin + share * along


def height_of_agent(s, i, xy):
    """That of the log where it came nearest."""
    away = np.where(s.valid[i], np.hypot(*(s.log[i, :, :2].astype(np.float64) - xy).T), np.inf)
    return float(s.log_z[i, away.argmin()])


class Around:
    """What is on the level of an agent and in sight: edges as ends [E, 2, 2], others as rows of states."""

    def __init__(self, s, states, present, me, radius):
        self.ego, self.size = states[me], s.agent_size[me].astype(np.float64)
        here = self.ego[:2]
        z = height_of_agent(s, me, here)
        self.edges, self.others, self.sizes = [], [], []
        for k in np.flatnonzero(s.segment_type == RoadType.ROAD_EDGE):
            x, y, half, _, heading = s.segment[k].astype(np.float64)
            ahead = half * np.array([np.cos(heading), np.sin(heading)])
            begin, end = np.array([x, y]) - ahead, np.array([x, y]) + ahead
            p = nearest_on(begin, end, here)
            share = np.hypot(*(p - begin)) / (2 * half) if half else 0.5
            level = s.segment_z[k, 0] + share * (s.segment_z[k, 1] - s.segment_z[k, 0])
            distance = np.hypot(*(p - here))
            if distance <= radius and abs(level - z + self.size[2] / 2) <= LEVEL + GRADE * distance:
                self.edges.append((begin, end))
        for j in range(len(states)):
            distance = np.hypot(*(states[j, :2] - here))
            if j == me or not present[j] or distance > radius:
                continue
            apart = (max(self.size[2], 1) + max(s.agent_size[j, 2], 1)) / 2
            if abs(height_of_agent(s, j, states[j, :2]) - z) <= apart + GRADE * distance:
                self.others.append(states[j])
                self.sizes.append(s.agent_size[j].astype(np.float64))


def ray_lengths(around, radius):
    """[2, 32] from the boundary of the own box to the nearest edge, and to the nearest other box."""
    x, y, heading = around.ego[:3]
    middle, angles = np.array([x, y]), heading + np.radians(DIRECTIONS)
    boxes = [
        corners(*other[:3], size[0] / 2, size[1] / 2) for other, size in zip(around.others, around.sizes, strict=True)
    ]
    turns = [other[2] for other in around.others]
    inside = any(separation(middle[None], box, [a, a + np.pi / 2]) <= 0 for box, a in zip(boxes, turns, strict=True))
    own = corners(x, y, heading, around.size[0] / 2, around.size[1] / 2)
    leaves = _meets(middle, angles, _sides(own))
    edge = _meets(middle, angles, [_longer(*edge) for edge in around.edges])
    box = _meets(middle, angles, [side for box in boxes for side in _sides(box)]) * (not inside)
    return np.minimum([edge - leaves, box - leaves], radius)


def _sides(box):
    return list(zip(box, np.roll(box, -1, axis=0), strict=True))


def _longer(begin, end):
    ahead = (end - begin) / max(np.hypot(*(end - begin)), 1e-12)
    return begin - JOINT * ahead, end + JOINT * ahead


def _meets(middle, angles, segments):
    """[R] how far along rays the first of some segments is (Cramer's rule); 1e9: none."""
    if not segments:
        return np.full(len(angles), 1e9)
    begin, end = np.array(segments).transpose(1, 2, 0)
    (ux, uy), (px, py) = end - begin, begin - middle[:, None]
    rx, ry = np.cos(angles)[:, None], np.sin(angles)[:, None]
    determinant = ry * ux - rx * uy
    crosses = np.abs(determinant) > 1e-9
    determinant = np.where(crosses, determinant, 1)
    t, share = (py * ux - px * uy) / determinant, (rx * py - ry * px) / determinant
    meets = crosses & (t >= 0) & (share >= -1e-9) & (share <= 1 + 1e-9)
    return np.where(meets, t, 1e9).min(axis=1)


def ray_fields(around, radius):
    """[128]."""
    edge, box = ray_lengths(around, radius)
    return np.concatenate([f(d) for d in (edge, box) for f in (log_scale, lambda d: 1 / (1 + np.maximum(d, 0)))])


def curvature_to(x, y):
    return np.clip(2 * y / max(x * x + y * y, 1), -0.2, 0.2)


def pose(ego, speed, curvature, t):
    """x, y, heading at a time: the middle of a chord bisects its arc's turn."""
    turn = curvature * speed * t
    chord = speed * t * np.sinc(turn / 2 / np.pi) * np.exp(1j * (ego[2] + turn / 2))
    return ego[0] + chord.real, ego[1] + chord.imag, ego[2] + turn


def danger_fields(around, radius, goal):
    """[44]; the goal in the own frame, or None."""
    ego, (length, width) = around.ego, around.size[:2] / 2
    forward = np.array([np.cos(ego[2]), np.sin(ego[2])])
    speed = np.hypot(*ego[3:]) * (1 if ego[3:] @ forward >= 0 else -1)
    bend = 0.0 if goal is None else curvature_to(*goal)
    boxes, edges = np.full((5, 2, 2), 4.0), np.full((5, 2, 2), 4.0)
    for k, t in enumerate((0, 0.5, 1, 1.5, 2.5)):
        for path, curvature in enumerate((0.0, bend)):
            x, y, heading = pose(ego, speed, curvature, t)
            own = corners(x, y, heading, length, width)
            for o, size in zip(around.others, around.sizes, strict=True):
                box = corners(o[0] + o[3] * t, o[1] + o[4] * t, o[2], size[0] / 2, size[1] / 2)
                gap = separation(own, box, [heading, heading + np.pi / 2, o[2], o[2] + np.pi / 2])
                side = 0 if (o[:2] - ego[:2]) @ forward >= 0 else 1
                boxes[k, path, side] = min(boxes[k, path, side], gap)
    for k, t in enumerate((0, 0.3, 0.7, 1.2, 2)):
        for path, curvature in enumerate((0.0, bend)):
            x, y, heading = pose(ego, speed, curvature, t)
            own = corners(x, y, heading, length, width)
            for begin, end in around.edges:
                along = np.arctan2(*(end - begin)[::-1])
                gap = separation(own, np.stack([begin, end]), [heading, heading + np.pi / 2, along, along + np.pi / 2])
                p = nearest_on(begin, end, np.array([x, y])) - [x, y]
                side = 0 if np.cos(heading) * p[1] - np.sin(heading) * p[0] >= 0 else 1
                edges[k, path, side] = min(edges[k, path, side], gap)
    parts = [np.clip(x, -1.5, 4).ravel() / 4 for x in (boxes, edges)]
    return np.concatenate([*parts, leader(around, radius, speed, bend)])


def leader(around, radius, speed, bend):
    """[4]: the nearest in the corridor of the arc."""
    found, closing = np.inf, 0.0
    x0, y0, heading = around.ego[:3]
    for o, size in zip(around.others, around.sizes, strict=True):
        place = complex(o[0] - x0, o[1] - y0) * np.exp(-1j * heading)
        if abs(bend) > 1e-4:
            centre = 1j / bend
            turn = np.angle((place - centre) / -centre)
            way, aside = turn / bend, abs(centre) - abs(place - centre)
        else:
            turn, way, aside = 0.0, place.real, place.imag
        if way <= 0 or abs(turn) >= np.pi / 2:
            continue
        box = corners(0, 0, o[2] - heading - turn, size[0] / 2, size[1] / 2)
        gap = way - around.size[0] / 2 - box[:, 0].max()
        if abs(aside) <= around.size[1] / 2 + box[:, 1].max() and gap < found:
            found = gap
            closing = speed - (complex(o[3], o[4]) * np.exp(-1j * (heading + turn))).real
    gap = np.clip(found, -1.5, radius)
    headway = 8.0 if np.isinf(found) else min(max(gap, 0) / max(speed, 0.5), 8)
    return [log_scale(gap), np.clip(closing / 10, -2, 2), np.clip(closing / max(gap, 0.5), -2, 2), headway / 4]


def near_ego(goal, speed, time_left):
    """[6]; goal and time left may be None."""
    pulls = goal is not None and time_left is not None
    t = max(time_left, 0.1) if pulls else 1.0
    return [
        *(log_scale(goal) if goal is not None else (0, 0)),
        log_scale(speed),
        np.clip(2 * (np.hypot(*goal) - speed * t) / t**2 / 5, -2, 2) if pulls else 0,
        5 * curvature_to(*goal) if goal is not None else 0,
        np.log1p(time_left) / 2 if time_left is not None else 0,
    ]


def near_partner(p, velocity, turn, size, own_size):
    """[7], of offset and relative velocity in the own frame."""
    box = corners(0, 0, turn, size[0] / 2, size[1] / 2).max(axis=0)
    gaps = np.abs(p) - own_size[:2] / 2 - box
    closing = -(p @ velocity) / max(np.hypot(*p), 1e-3)
    contact = min(max(gaps.max(), 0) / closing, 8) if closing > 0 else 8
    return [*log_scale([*p, *gaps, *velocity]), contact / 4]


def near_road(p, own_size):
    """[5], of the nearest point in the own frame."""
    left = np.abs(p) - own_size[:2] / 2
    outside = np.hypot(*np.maximum(left, 0)) if (left > 0).any() else left.max()
    return log_scale([*p, *left, outside])


def route_of(s, me):
    """The route of an agent that is there at the start; None of one that is not."""
    if not s.valid[me, 0]:
        return None
    return LaneGraph(s).routes(s.log[[me], 0, :3].astype(np.float64), s.goal[[me]].astype(np.float64))[0]


def route_fields(route, ego):
    """[23]: points as complex numbers, each leg a straight line whose direction turns evenly."""
    if route is None:
        return np.zeros(len(ROUTE))
    z, towards = route.points[:, 0] + 1j * route.points[:, 1], route.points[:, 2] + 1j * route.points[:, 3]
    here, forward = complex(*ego[:2]), np.exp(1j * ego[2])
    leg = np.diff(z)
    share = np.clip(((here - z[:-1]) * leg.conj()).real / np.maximum(np.abs(leg) ** 2, 1e-9), 0, 1)
    k = np.abs(z[:-1] + share * leg - here).argmin()

    def at(place):
        return np.interp(place, range(len(z)), z), np.exp(1j * np.angle(np.interp(place, range(len(z)), towards)))

    begin, last = k + share[k], len(z) - 1
    place, direction = at(begin)
    fields = [log_scale((direction.conj() * (here - place)).imag), *_parts(direction / forward)]
    for metres in ROUTE_AHEAD:
        place, direction = at(min(begin + metres / max(route.spacing, 1e-6), last))
        fields += [*log_scale(_parts((place - here) / forward)), (direction / forward).imag]
    return np.array([*fields, log_scale((last - begin) * route.spacing), float(route.lane)])


def _parts(number):
    return [number.real, number.imag]
