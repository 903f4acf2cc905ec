"""How those go on whom no policy drives: at their velocity, unsteadily, as such road users do and logs show them.

Nothing of the log after the first step is used. Turning is a mean-reverting (Ornstein-Uhlenbeck) process, speed a
random walk, and a log's measurement adds white noise to places and headings. How unsteady an object is differs from one
to the next by a log-normal factor, which is drawn in each drive.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.scenario import DT, AgentType
from gail_cli.sim.scene import Scene

KEEPS_TURNING = 0.94
"""Correlation of turning from one step to the next."""
STANDING = 0.3
"""Below this speed an object stands, m/s."""


@dataclass(frozen=True)
class Habits:
    """How a kind of road user goes on. The numbers are those with which the motion of 183 walking and 38 standing
    pedestrians and 11 cyclists in 184 real scenes is likeliest (benchmarks.road_users), and medians of 728 vehicles."""

    turning: float
    """Standard deviation of the yaw rate, without the noise of headings, rad/s."""
    speeding: float
    """How much the speed changes within a second, m/s; over t seconds it is the root of t times that."""
    heading_noise: float
    """rad."""
    place_noise: float
    """m, along each axis."""
    spread: float
    """Standard deviation of the logarithm of the factor by which turning and both kinds of noise differ."""


PEDESTRIAN = Habits(0.127, 0.23, 0.0058, 0.0050, 0.7)
STANDING_PEDESTRIAN = Habits(0.115, 0.05, 0.038, 0.005, 0.9)
CYCLIST = Habits(0.085, 0.5, 0.0059, 0.025, 0.35)
VEHICLE = Habits(0.010, 1.0, 0.0015, 0.015, 0.9)
"""Of moving ones. What they turn on curves is no habit; so here stands what they turn on straight roads."""
STILL = Habits(0.0, 0.0, 0.0, 0.0, 0.0)
"""Of standing vehicles: in logs they do not move at all (2,263 of 2,385 in eight seconds)."""


def habits_of(kind: int, speed: float) -> Habits:
    """How a road user of a kind (:class:`~sim.scenario.AgentType`) goes on that has some speed, m/s."""
    if kind == AgentType.PEDESTRIAN:
        return PEDESTRIAN if speed >= STANDING else STANDING_PEDESTRIAN
    if kind == AgentType.CYCLIST:
        return CYCLIST
    return VEHICLE if speed >= STANDING else STILL


def go_on(scene: Scene, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    """[R, T, 5] how some agents go on from the scene's first step, at which they are valid.

    Args:
        scene: with A agents over T steps.
        rows: [R] of them.
        rng: what all noise is drawn from.
    """
    start = scene.log[rows, 0].astype(np.float64)
    speed = np.hypot(start[:, 3], start[:, 4])
    habits = [habits_of(int(kind), v) for kind, v in zip(scene.agent_type[rows], speed, strict=True)]
    count, steps = len(rows), scene.num_steps - 1

    def of(name: str) -> NDArray[np.float64]:
        return np.array([getattr(habit, name) for habit in habits]).reshape(-1, 1)

    factor = np.exp(of("spread") * rng.standard_normal((count, 1)))
    turning = _reverting(rng, count, steps) * of("turning") * factor
    change = rng.standard_normal((count, steps)) * of("speeding") * np.sqrt(DT)
    still = of("speeding") == 0
    speeds = np.where(still, 0.0, np.abs(speed[:, None] + np.cumsum(change, axis=1)))
    turned = np.cumsum(turning, axis=1) * DT
    course = np.where(speed > 0, np.arctan2(start[:, 4], start[:, 3]), start[:, 2])[:, None] + turned
    velocity = speeds[..., None] * np.stack([np.cos(course), np.sin(course)], axis=-1)
    result = np.repeat(start[:, None], steps + 1, axis=1)
    result[:, 1:, :2] += np.cumsum(velocity, axis=1) * DT
    result[:, 1:, :2] += rng.standard_normal((count, steps, 2)) * (of("place_noise") * factor)[..., None]
    result[:, 1:, 2] += turned + rng.standard_normal((count, steps)) * of("heading_noise") * factor
    result[:, 1:, 3:] = velocity
    result[:, 0, 3:] = np.where(still, 0.0, start[:, 3:])
    return result.astype(np.float32)


def _reverting(rng: np.random.Generator, count: int, steps: int) -> NDArray[np.float64]:
    """[count, steps] of a mean-reverting process with standard deviation 1 that starts at 0."""
    noise = rng.standard_normal((count, steps)) * np.sqrt(1 - KEEPS_TURNING**2)
    result = np.zeros((count, steps))
    last = np.zeros(count)
    for t in range(steps):
        last = KEEPS_TURNING * last + noise[:, t]
        result[:, t] = last
    return result
