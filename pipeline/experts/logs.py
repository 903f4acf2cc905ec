"""What a log says of how its agent drives: where it is known, in which gear, and where it jumps as no car can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gail_cli.pipeline.records import ABSENT, BRIDGED, LOGGED
from gail_cli.sim.scenario import DT
from gail_cli.sim.scene import Scene

REVERSE_DISTANCE = 0.3
"""Who goes back by so much, m, drives backwards; standing agents go back and forth by less."""
REVERSE_STEPS = 3
"""Who goes back and forth in fewer steps than these jumps."""
MAX_ACCELERATION = 10.0
"""What tyres on dry asphalt can do, m/s^2; in a turn as well as in a stop."""
_MAX_TURN = 1.0
"""rad/s, of a car in a tight bend."""
_TURN_NOISE = 1.0
"""rad by which headings may be wrong; more is a box that was turned round."""


def marks_of(scene: Scene, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[D, T] marks: logged where valid, bridged between two valid steps, absent elsewhere."""
    valid = scene.valid[rows]
    begun = np.maximum.accumulate(valid, axis=1)
    goes_on = np.maximum.accumulate(valid[:, ::-1], axis=1)[:, ::-1]
    return np.where(valid, LOGGED, np.where(begun & goes_on, BRIDGED, ABSENT)).astype(np.uint8)


def bridged(scene: Scene, rows: NDArray[np.int64], mark: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[D, T, 5] logged states with gaps interpolated (headings along the shorter turn)."""
    log = scene.log[rows].copy()
    steps = np.arange(scene.num_steps)
    for d in np.flatnonzero((mark == BRIDGED).any(axis=1)):
        known = np.flatnonzero(mark[d] == LOGGED)
        gap = np.flatnonzero(mark[d] == BRIDGED)
        for k in (0, 1, 3, 4):
            log[d, gap, k] = np.interp(gap, known, log[d, known, k])
        heading = np.interp(steps, known, np.unwrap(log[d, known, 2]))
        log[d, gap, 2] = np.arctan2(np.sin(heading[gap]), np.cos(heading[gap]))
    return log


def gears(track: NDArray[np.float32], there: NDArray[np.bool_]) -> NDArray[np.int8]:
    """[B, T] 1 where tracks [B, T, 5] drive forwards or stand, -1 where they drive backwards for real.

    ``there`` [B, T] says where the tracks are; elsewhere nobody moves.

    An agent drives backwards between two points of its track where it goes back by :data:`REVERSE_DISTANCE` or more
    along its heading, all in all, without coming forward again by as much; less is noise of standing agents.
    """
    move = np.diff(track[..., :2].astype(np.float64), axis=1)
    heading = track[:, :-1, 2].astype(np.float64)
    along = (move * np.stack([np.cos(heading), np.sin(heading)], axis=-1)).sum(axis=-1)
    along[~(there[:, 1:] & there[:, :-1])] = 0
    way = np.concatenate([np.zeros((len(track), 1)), along.cumsum(axis=1)], axis=1)
    result = np.ones(track.shape[:2], np.int8)
    for b in np.flatnonzero((np.maximum.accumulate(way, axis=1) - way).max(axis=1) >= REVERSE_DISTANCE):
        result[b] = _gears(way[b].tolist())
    return result


def _gears(way: Sequence[float]) -> NDArray[np.int8]:
    """The gears of one agent that has come so far along its heading at each step: between its turning points."""
    result, gear, turning, begun = np.ones(len(way), np.int8), 1, 0, 0
    for step, at in enumerate(way):
        if gear * (at - way[turning]) >= 0:
            turning = step
        elif gear * (way[turning] - at) >= REVERSE_DISTANCE:
            gear = -gear
            if gear > 0 and turning - begun < REVERSE_STEPS:
                result[begun + 1 :] = 1  # a spike
            result[turning + 1 :] = gear
            begun = turning
            turning = step
    return result


def _gap(mark: NDArray[np.uint8]) -> NDArray[np.int64]:
    """[D, T - 1] steps between the logged points before and after each of these ways from step to step."""
    steps = np.arange(mark.shape[1])
    logged = mark == LOGGED
    before = np.maximum.accumulate(np.where(logged, steps, 0), axis=1)
    after = np.minimum.accumulate(np.where(logged, steps, steps[-1])[:, ::-1], axis=1)[:, ::-1]
    return np.asarray(np.maximum(after[:, 1:] - before[:, :-1], 1))


class Jumps(NamedTuple):
    """The worst jump of each of D logs."""

    size: NDArray[np.float64]
    """[D] how far it leads beyond where a car could be, m; infinite where the heading jumps; 0 without any."""
    step: NDArray[np.int64]
    """[D] the step from which it leads."""


def jumps_of(target: NDArray[np.float32], mark: NDArray[np.uint8]) -> Jumps:
    """Where logs jump: where they are faster between two steps than any car that was as fast as they just before.

    Mean velocities of the ways to a logged point and on from it differ by what accelerating by
    :data:`MAX_ACCELERATION` from the middle of the one to the middle of the other explains, or by errors of the
    point's position; the jump is the error that this takes. At the first point the logged velocity stands for the way
    to it, since that is what a simulated agent begins with. Across a gap, ways and times are longer.

    Args:
        target: [D, T, 5] logs with their gaps bridged, as :func:`bridged` does.
        mark: [D, T] of :func:`marks_of`.
    """
    there = (mark[:, 1:] != ABSENT) & (mark[:, :-1] != ABSENT)
    time = DT * _gap(mark)
    move = np.diff(target[..., :3].astype(np.float64), axis=1)
    velocity = np.where(there[..., None], move[..., :2] / DT, 0.0)
    change = np.concatenate([velocity[:, :1] - target[:, :1, 3:], np.diff(velocity, axis=1)], axis=1)
    before = np.concatenate([np.zeros((len(mark), 1)), time[:, :-1]], axis=1)
    excess = np.hypot(change[..., 0], change[..., 1]) - MAX_ACCELERATION * (before + time) / 2
    inverse = 1 / time + np.where(before > 0, 1 / np.maximum(before, DT), 0)
    turn = np.abs(np.arctan2(np.sin(move[..., 2]), np.cos(move[..., 2]))) * time / DT
    size = np.where(turn > _TURN_NOISE + _MAX_TURN * time, np.inf, excess / inverse)
    begun = np.concatenate([mark[:, :1] != ABSENT, there[:, :-1]], axis=1)
    size = np.where(there & begun & (mark[:, :-1] == LOGGED), np.maximum(size, 0.0), 0.0)
    step = size.argmax(axis=1)
    return Jumps(size[np.arange(len(mark)), step], step)
