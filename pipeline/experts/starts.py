"""Where rollouts begin, somewhat off the log, and demos that begin there too and are led back to their paths.

A policy that only ever saw experts on their paths has not seen how one returns to it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import ABSENT, Record
from gail_cli.sim.scenario import DT
from gail_cli.sim.scene import PARKED_DISTANCE

_DEVIATION = (0.5, 0.3, 0.03, 0.15)
"""Standard deviations: m ahead, m to the left, rad, share of the speed."""
_BACK_AFTER_METRES = 8.0
_BACK_AFTER_SECONDS = 2.5
"""Who is led back is on the path after so much of it, and no sooner than after so long."""
_BACKWARDS = 0.1
"""m that a way back may lead backwards where the path does not."""
_STANDS = 1.0
"""m/s below which the direction of a velocity tells little of a heading."""


def off_log(record: Record, size: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """[n, 5] states near the first of the logs of the n drivers of demos of moving vehicles (:attr:`Record.moving`).

    Who would count as parked there, next to the goal, begins on the log.

    Args:
        record: the scene and its demos.
        size: factor on :data:`_DEVIATION`.
        rng: where the numbers come from.
    """
    agents = record.demos.agent[record.moving]
    ahead, aside, turn, faster = size * np.array(_DEVIATION)[:, None] * rng.standard_normal((4, len(agents)))
    x, y, heading, vx, vy = record.scene.log[agents, 0].astype(np.float64).T
    c, s = np.cos(heading), np.sin(heading)
    speed = np.hypot(vx, vy) * np.maximum(0.0, 1 + faster)
    towards = np.arctan2(vy, vx) + turn
    place = x + c * ahead - s * aside, y + s * ahead + c * aside
    states = np.stack([*place, heading + turn, speed * np.cos(towards), speed * np.sin(towards)], axis=1)
    parked = np.linalg.norm(record.scene.goal[agents] - states[:, :2], axis=1) < PARKED_DISTANCE
    return np.where(parked[:, None], record.scene.log[agents, 0], states).astype(np.float32)


def begun_at(record: Record, agents: NDArray[np.integer], states: NDArray[np.float32]) -> Record:
    """The scene with some of its agents ([n] rows) in these states [n, 5] at the first step; demos stay."""
    log = record.scene.log.copy()
    log[agents, 0] = states
    return replace(record, scene=replace(record.scene, log=log))


def perturbed(record: Record, size: float, rng: np.random.Generator) -> Record:
    """The scene with the drivers of its demos of moving vehicles beginning somewhat off their logs: :func:`off_log`."""
    return begun_at(record, record.demos.agent[record.moving], off_log(record, size, rng))


def led_back(record: Record, start: NDArray[np.float32], chosen: NDArray[np.bool_]) -> Record:
    """The scene with some of its moving vehicles beginning elsewhere, their demos led back to their paths.

    The way back is the demo's own path plus an offset: the cubic Hermite curve from where and how fast the vehicle
    begins, relative to its path, to nothing, so that position and velocity go on without a jump at both ends. It is
    back after 8 m of path, but not before 2.5 s, or at the end of its demo. Who would have to drive backwards, as those
    who begin ahead of where they stand, stays on the log. Actions are those of before, which do not lead along the way;
    :func:`~pipeline.experts.augment.replayed` finds others.

    Args:
        record: the scene and its demos, which stay as they are.
        start: [n, 5] states, one for each demo of a moving vehicle, see :func:`off_log`.
        chosen: [n] whose demos.
    """
    demos = record.demos
    moving = np.flatnonzero(record.moving)
    state, led = demos.state.copy(), np.zeros(len(moving), np.bool_)
    for k in np.flatnonzero(chosen & (demos.mark[moving, 0] != ABSENT)):
        there = np.flatnonzero(demos.mark[moving[k]] != ABSENT)
        path = demos.state[moving[k], there].astype(np.float64)
        way = way_back(path, start[k].astype(np.float64))
        led[k] = _backwards(way) - _backwards(path) < _BACKWARDS
        if led[k]:
            state[moving[k], there] = way
    moved = replace(record, demos=replace(demos, state=state))
    return begun_at(moved, demos.agent[moving[led]], start[led])


def way_back(path: NDArray[np.float64], begin: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, 5] the way of :func:`led_back` from a state [5] to a path [n, 5], and along it."""
    steps = _steps_back(path)
    s = np.minimum(np.arange(len(path)) / steps, 1.0)[:, None]
    seconds = steps * DT
    offset, velocity = begin[:2] - path[0, :2], begin[3:] - path[0, 3:]
    stays, goes_on = (1 + 2 * s) * (1 - s) ** 2, s * (1 - s) ** 2
    stays_rate, goes_on_rate = 6 * s * (s - 1), (1 - s) * (1 - 3 * s)
    place = path[:, :2] + stays * offset + goes_on * seconds * velocity
    speed = path[:, 3:] + stays_rate * offset / seconds + goes_on_rate * velocity
    # a car points where it drives; where it hardly does, the turn that it began with fades
    slow = np.minimum(np.hypot(*path[:, 3:].T), np.hypot(*speed.T))
    drives = slow**2 / (slow**2 + _STANDS**2)
    across = path[:, 3] * speed[:, 1] - path[:, 4] * speed[:, 0]
    along = (path[:, 3:] * speed).sum(axis=1)
    turn = np.arctan2(np.sin(begin[2] - path[0, 2]), np.cos(begin[2] - path[0, 2]))
    heading = path[:, 2] + drives * np.arctan2(across, along) + (1 - drives) * turn * stays[:, 0]
    way = np.column_stack([place, heading, speed])
    way[0], way[steps:] = begin, path[steps:]
    return way


def _backwards(way: NDArray[np.float64]) -> float:
    """How far a way [n, 5] leads against its headings, m."""
    move, heading = np.diff(way[:, :2], axis=0), way[:-1, 2]
    along = move[:, 0] * np.cos(heading) + move[:, 1] * np.sin(heading)
    return float(np.maximum(-along, 0).sum())


def _steps_back(path: NDArray[np.float64]) -> int:
    """Steps after which :func:`way_back` is on the path [n, 5]."""
    driven = np.concatenate([[0.0], np.hypot(*np.diff(path[:, :2], axis=0).T).cumsum()])
    far = int(np.searchsorted(driven, _BACK_AFTER_METRES))
    return max(1, min(max(far, round(_BACK_AFTER_SECONDS / DT)), len(path) - 1))
