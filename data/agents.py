"""Who is in a scene: drivers and cyclists on the routes, parked cars, pedestrians; and when the way is closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gail_cli.data.geometry import Array, Path, unit
from gail_cli.data.roads import Control, RoadMap
from gail_cli.data.traffic import Fleet, Mask, drive, speed_profile
from gail_cli.sim.scenario import DT, AgentType, LightState

STEPS = 91
WARM_UP = 20
"""Steps of traffic before the log starts, so that gaps and speeds have settled."""
YELLOW, ALL_RED = 3.0, 1.5
"""Duration of the signal phases between two greens, s."""


@dataclass(frozen=True, eq=False)
class Agent:
    """One road user over the log."""

    type: AgentType
    size: Array
    """Length, width, height in m."""
    position: Array
    """[STEPS, 2] box centre."""
    heading: Array
    """[STEPS] rad."""
    speed: Array
    """[STEPS] along the heading, m/s."""
    present: Mask
    """[STEPS] false once it has left the map."""


def _walk(path: Path, start: float, speed: Array, rng: np.random.Generator) -> Agent:
    """A pedestrian who follows a path, from ``start`` metres, with the given speed at each step."""
    s = start + np.concatenate([[0.0], np.cumsum((speed[1:] + speed[:-1]) / 2)]) * DT
    size = np.array([rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.8), rng.uniform(1.55, 1.9)])
    return Agent(AgentType.PEDESTRIAN, size, path.position(s), path.direction(s), speed, s < path.length)


def strollers(road: RoadMap, rng: np.random.Generator) -> list[Agent]:
    """Pedestrians on the sidewalks, in both directions."""
    agents = []
    for _ in range(int(rng.integers(0, 4)) if road.sidewalks else 0):
        points = road.sidewalks[rng.integers(len(road.sidewalks))].points
        path = Path.through(points[:: rng.choice([-1, 1])])
        pace, period, phase = rng.uniform(0.9, 1.7), rng.uniform(3, 8), rng.uniform(0, 6)
        speed = pace * (1 + 0.1 * np.sin(np.arange(STEPS) * DT * 2 * np.pi / period + phase))
        agents.append(_walk(path, float(rng.uniform(5, path.length - 20)), speed, rng))
    return agents


def crossers(road: RoadMap, rng: np.random.Generator) -> tuple[list[Agent], Mask]:
    """Pedestrians who cross the road, and [T, R] which routes they close, from well before until after."""
    agents = []
    time = np.arange(-WARM_UP, STEPS) * DT
    closed = np.zeros((len(time), len(road.routes)), dtype=bool)
    for index in range(len(road.crosswalks)):
        if rng.random() > (0.75 if road.control is Control.NONE else 0.12):
            continue
        a, b, c, d = road.crosswalks[index]
        ends = np.stack([(a + b) / 2, (c + d) / 2])[:: rng.choice([-1, 1])]
        out = unit(float(np.arctan2(*(ends[1] - ends[0])[::-1]))) * 1.5
        path = Path.through(np.stack([ends[0] - out, ends[1] + 6 * out]))
        pace, begin = rng.uniform(1.1, 1.7), rng.uniform(-1.0, 6.0)
        speed = pace * np.clip((time[WARM_UP:] - begin) / 0.8, 0.0, 1.0)
        agents.append(_walk(path, 0.0, speed, rng))
        across = begin + 0.8 + (path.length - 6 * 1.5) / pace
        busy = (time > begin - 4.0) & (time < across)
        uses = np.array([index in route.crosswalks for route in road.routes])
        closed |= busy[:, None] & uses
    return agents, closed


def parked_cars(road: RoadMap, rng: np.random.Generator) -> list[Agent]:
    """Cars that stand at the kerb throughout."""
    agents = []
    for kerb in road.kerbs:
        s = float(rng.uniform(10, 50))
        while s < kerb.length - 6 and rng.random() < 0.55:
            at = np.full(STEPS, s)
            size = np.array([rng.uniform(4.0, 4.9), rng.uniform(1.75, 1.9), rng.uniform(1.4, 1.7)])
            still, always = np.zeros(STEPS), np.ones(STEPS, dtype=bool)
            agents.append(Agent(AgentType.VEHICLE, size, kerb.position(at), kerb.direction(at), still, always))
            s += float(rng.uniform(6.5, 40))
    return agents


def signals(road: RoadMap, rng: np.random.Generator) -> NDArray[np.int8]:
    """[T, R] light of each route; opposite arms share a phase, and one change of phase comes now or later."""
    time = np.arange(-WARM_UP, STEPS) * DT
    change, first = rng.uniform(-3.0, 9.0), rng.integers(2)
    lights = np.full((len(time), len(road.routes)), LightState.STOP, dtype=np.int8)
    for r, route in enumerate(road.routes):
        if route.stream % 2 == first:
            lights[time < change + YELLOW, r] = LightState.CAUTION
            lights[time < change, r] = LightState.GO
        else:
            lights[time >= change + YELLOW + ALL_RED, r] = LightState.GO
    return lights


def drivers(road: RoadMap, closed: Mask, rng: np.random.Generator) -> list[Agent]:
    """Vehicles and cyclists in traffic, from before the log to its end."""
    fleet, heights = _fleet(road, closed[0], rng)
    s, speed, present = drive(road, fleet, closed)
    agents = []
    for i, r in enumerate(fleet.route):
        path = road.routes[r].path
        size = np.array([fleet.length[i], fleet.width[i], heights[i]])
        kind = AgentType.CYCLIST if fleet.width[i] < 1 else AgentType.VEHICLE
        log = slice(WARM_UP, None)
        at = s[log, i]
        agents.append(Agent(kind, size, path.position(at), path.direction(at), speed[log, i], present[log, i]))
    return agents


def _spots(road: RoadMap, rng: np.random.Generator) -> list[tuple[int, float]]:
    """Route and place along it of every vehicle at the start, each at a distance from the others.

    The streams are filled from the front backwards: from the stop line, or else from a place early on the route.
    Where routes have a junction behind them, another vehicle may be leaving it.
    """
    spots = []
    streams = sorted({route.stream for route in road.routes})
    share = rng.uniform(6, 12) / sum(not all(r.bicycle for r in road.routes if r.stream == k) for k in streams)
    for stream in streams:
        choices = [r for r, route in enumerate(road.routes) if route.stream == stream]
        route = road.routes[choices[0]]
        if route.bicycle:
            if rng.random() < 0.5:
                spots.append((choices[0], float(rng.uniform(20, 120))))
            continue
        s = min(route.stop, 0.5 * route.path.length) - float(rng.uniform(4, 25))
        for _ in range(int(share + rng.random())):
            if s < 6.0:
                break
            spots.append((int(rng.choice(choices)), s))
            s -= 9.0 + float(rng.uniform(0.5, 1.5)) * float(route.limit.max())
    for lane in sorted({route.lanes[-1] for route in road.routes if np.isfinite(route.exit)}):
        r = int(rng.choice([r for r, route in enumerate(road.routes) if route.lanes[-1] == lane]))
        if rng.random() < 0.4:
            spots.append((r, road.routes[r].exit + float(rng.uniform(3, 20))))
    return spots


def _fleet(road: RoadMap, closed: Mask, rng: np.random.Generator) -> tuple[Fleet, Array]:
    """Draw the drivers with their vehicles; returns also the heights of these."""
    spots = _spots(road, rng)
    count = len(spots)
    routes, s = np.array([r for r, _ in spots]), np.array([at for _, at in spots])
    cycle = np.array([road.routes[r].bicycle for r in routes])
    cycle |= (rng.random(count) < 0.08) & (road.control is not Control.NONE)
    large = (rng.random(count) < 0.1) & (road.control is Control.NONE)

    def size(bicycle: tuple[float, float], truck: tuple[float, float], car: tuple[float, float]) -> Array:
        bounds = np.where(cycle[:, None], bicycle, np.where(large[:, None], truck, car))
        return rng.uniform(bounds[:, 0], bounds[:, 1])

    length, width = size((1.7, 1.9), (7.0, 11.0), (4.2, 5.3)), size((0.6, 0.8), (2.3, 2.5), (1.8, 2.05))
    height = size((1.6, 1.9), (2.6, 3.4), (1.4, 1.9))
    pace = np.where(cycle, rng.uniform(0.35, 0.6, count), rng.uniform(0.75, 1.1, count))
    lateral, brake = rng.uniform(1.3, 2.0, count), rng.uniform(1.6, 2.6, count)
    speed = np.zeros(count)
    for i, r in enumerate(routes):
        route = road.routes[r]
        profile = speed_profile(route, float(pace[i]), float(lateral[i]), float(brake[i]))
        speed[i] = np.interp(s[i], route.path.s, profile) * rng.uniform(0.7, 1)
        room = route.stop - s[i] - length[i] / 2
        if room > 0 and (closed[r] or road.control is Control.STOP_SIGNS):
            speed[i] = min(speed[i], np.sqrt(2.4 * max(room - 2.0, 0.0)))
    fleet = Fleet(
        route=routes,
        s=s,
        speed=speed,
        length=length,
        width=width,
        pace=pace,
        headway=rng.uniform(0.9, 1.7, count),
        accel=np.where(cycle, 0.8, rng.uniform(1.2, 2.4, count)),
        brake=brake,
        lateral=lateral,
        dwell=rng.uniform(0.3, 1.2, count),
        sway=np.stack([rng.uniform(5, 12, count), rng.uniform(0, 6, count)], axis=-1),
        lull=np.where(rng.random(count) < 0.25, rng.uniform(2.0, 10.0, count), np.inf),
    )
    return fleet, height
