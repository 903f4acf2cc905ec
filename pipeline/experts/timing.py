"""Agents that follow their logs, a little earlier or later than they did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.scene import Scene


def paces(size: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """[n] random paces between 1 / (1 + size) and 1 + size, as often fast as slow."""
    return np.asarray((1 + size) ** rng.uniform(-1, 1, count))


def retimed(scene: Scene, pace: NDArray[np.floating]) -> Scene:
    """The scene with its agents driving their own paths at another pace; the scene itself if nobody's is another.

    An agent begins where its log begins. It is there where its log, at its pace, is there; whoever is at the end of the
    path before the log ended stands there as long. Who would count as parked, or no more, keeps the log.

    Args:
        scene: the scene, which stays as it is.
        pace: [A] how many times as fast.
    """
    changed = np.flatnonzero((pace != 1) & scene.valid.any(axis=1))
    if not len(changed):
        return scene
    log, log_z, valid = scene.log.copy(), scene.log_z.copy(), scene.valid.copy()
    steps = np.arange(scene.num_steps)
    for agent in changed:
        known = np.flatnonzero(scene.valid[agent])
        first, last = known[0], known[-1]
        when = first + float(pace[agent]) * (steps - first)
        at = np.clip(when, first, last)
        seen = scene.valid[agent, np.round(at).astype(np.int64)]
        valid[agent] = seen & (steps >= first) & ((when <= last) | (steps <= last))
        states, heights = scene.log[agent, known].astype(np.float64), scene.log_z[agent, known]
        states[:, 2] = np.unwrap(states[:, 2])
        new = np.column_stack([np.interp(at, known, column) for column in states.T])
        new[:, 3:] *= np.where(when > last, 0.0, pace[agent])[:, None]
        log[agent] = np.where(valid[agent, :, None], new, 0)
        log_z[agent] = np.where(valid[agent], np.interp(at, known, heights), 0)
    new_scene = replace(scene, log=log, log_z=log_z, valid=valid)
    kept = new_scene.parked != scene.parked
    if not kept.any():
        return new_scene
    return retimed(scene, np.where(kept, 1.0, pace))
