"""The time between a log's steps: whether it is the simulator's, and logs of other rates brought to it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.scenario import DT, Scenario, SceneError, Tracks, wrap_angles

STEP_TOLERANCE = 0.1
"""How far one step may be from 0.1 s, as a share (WOMD: 0.0005)."""
MEAN_TOLERANCE = 0.01
"""How far the mean step may be from 0.1 s, as a share (WOMD: 0.000005): this much faster do agents seem."""
PACE_TOLERANCE = 0.2
"""How far the way of a step may be from what the velocities say, as a share, over all steps of agents that move: it is
within 0.008 in each of 203 scenes, 187 of them real."""
_MOVING, _ENOUGH = 2.0, 50
"""Faster than this, m/s, an agent moves; with fewer of such steps nothing can be told."""
LONGEST = 1.0
"""Between samples that are further apart nothing is interpolated, s: a car can have turned off and back by then."""
_AT = 1e-3
"""A time so near to a sample's, as a share of the step between two, is the sample's."""
_DETOUR = 0.5
"""Velocities that lead so far from the next position, in m beside a fifth of the way, do not belong to it."""


def is_regular(timestamps: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[...] whether the steps of timestamps [..., T] are 0.1 s apart, as far as clocks are exact."""
    steps = np.diff(timestamps, axis=-1)
    if not steps.shape[-1]:
        return np.ones(timestamps.shape[:-1], np.bool_)
    each = (np.abs(steps - DT) <= STEP_TOLERANCE * DT).all(axis=-1)
    return np.asarray(each & (np.abs(steps.mean(axis=-1) - DT) <= MEAN_TOLERANCE * DT))


def require_regular(scenario: Scenario, steps: int) -> None:
    """Make sure that the first ``steps`` steps of a log are 0.1 s apart.

    Raises:
        SceneError: saying how far apart they are, or that they do not rise.
    """
    times = scenario.timestamps[:steps]
    if not is_regular(times):
        _require_rising(scenario)
        what = f"its steps are {_span(times)} s apart, not {DT:g} s"
        raise SceneError(f"scene {scenario.id!r}", what, "add --resample to interpolate, or leave it out")


def require_pace(scenario: Scenario, steps: int) -> None:
    """Make sure that agents come as far in the first ``steps`` steps as their velocities say: files without timestamps
    (GPUDrive's JSON) are taken to have steps of 0.1 s.

    Raises:
        SceneError: saying how far apart the steps seem to be.
    """
    tracks = scenario.tracks
    position, velocity, valid = tracks.position[:, :steps, :2], tracks.velocity[:, :steps], tracks.valid[:, :steps]
    way = np.linalg.norm(np.diff(position, axis=1), axis=-1)
    speed = np.linalg.norm(velocity[:, 1:] + velocity[:, :-1], axis=-1) / 2
    moving = valid[:, 1:] & valid[:, :-1] & (speed > _MOVING)
    if moving.sum() < _ENOUGH:
        return
    pace = float(np.median(way[moving] / speed[moving])) / DT
    if abs(pace - 1) > PACE_TOLERANCE:
        what = f"its agents come {pace:.2g} times as far in a step of {DT:g} s as their velocities say"
        fix = f"its steps may be {pace * DT:.2g} s apart: give it with timestamps, and --resample, or leave it out"
        raise SceneError(f"scene {scenario.id!r}", what, fix)


def _span(times: NDArray[np.float64]) -> str:
    low, high = (f"{x:.3g}" for x in (np.diff(times).min(), np.diff(times).max()))
    return low if low == high else f"{low} to {high}"


def _require_rising(scenario: Scenario) -> None:
    times = scenario.timestamps
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise SceneError(f"scene {scenario.id!r}", "its timestamps do not rise", "mend the file or leave it out")


def resampled(scenario: Scenario) -> Scenario:
    """A log of any rate with steps of 0.1 s from its first on; one that has these is returned as it is.

    An agent is valid at the time of a valid sample, and between two samples that are both valid and at most
    :data:`LONGEST` apart: nothing is extrapolated, and gaps stay gaps. Between samples x and y follow the cubic through
    both positions with both velocities (Hermite), or a straight line where the velocities do not lead from one position
    to the other; z, velocities, and headings (along the shorter turn) change evenly. Lights are those of the last
    sample. Of every fifth step of 184 real logs all others come out 0.024 m from where they were on average, of
    every tenth 0.037 m; along straight lines alone 0.034 and 0.074 m.

    Raises:
        SceneError: when the timestamps do not rise.
    """
    times = scenario.timestamps
    if is_regular(times):
        return scenario
    _require_rising(scenario)
    grid = _Grid.over(times)
    note = f"steps of {_span(times)} s are resampled to {DT:g} s"
    return replace(
        scenario,
        tracks=_tracks(scenario.tracks, grid),
        lights=replace(scenario.lights, state=scenario.lights.state[:, grid.before]),
        timestamps=grid.time,
        current_index=int(np.abs(grid.time - times[: scenario.current_index + 1][-1]).argmin()),
        repairs=(*scenario.repairs, note),
    )


@dataclass(frozen=True)
class _Grid:
    """N times 0.1 s apart, among the samples of a log."""

    time: NDArray[np.float64]
    """[N] s."""
    before: NDArray[np.int64]
    """[N] the last sample at or before each."""
    after: NDArray[np.int64]
    """[N] the next one; the same at a sample's own time."""
    share: NDArray[np.float64]
    """[N] how much of the way between the two is done; 0 at a sample's own time."""
    step: NDArray[np.float64]
    """[N] s between the two."""

    @classmethod
    def over(cls, times: NDArray[np.float64]) -> _Grid:
        """From the first sample to the last."""
        slack = _AT * np.diff(times).min()
        grid = times[0] + DT * np.arange(int((times[-1] - times[0] + slack) / DT) + 1)
        before = np.searchsorted(times, grid + slack, side="right") - 1
        after = np.minimum(before + (grid - times[before] > slack), len(times) - 1)
        step = times[after] - times[before]
        share = np.where(step > 0, (grid - times[before]) / np.maximum(step, slack), 0.0)
        return cls(grid, before, after, share, step)


def _tracks(tracks: Tracks, grid: _Grid) -> Tracks:
    def ends(array: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return array[:, grid.before], array[:, grid.after]

    def even(array: NDArray[Any]) -> NDArray[np.float64]:
        a, b = (x.astype(np.float64) for x in ends(array))
        done: NDArray[np.float64] = a + (b - a) * grid.share[:, None]
        return done

    valid = np.logical_and(*ends(tracks.valid)) & (grid.step <= LONGEST)
    heading, later = (x.astype(np.float64) for x in ends(tracks.heading))
    turned = np.where(grid.share > 0, wrap_angles(heading + grid.share * wrap_angles(later - heading)), heading)
    position = even(tracks.position)
    position[..., :2] = _cubic(ends(tracks.position[..., :2]), ends(tracks.velocity), grid)
    return replace(
        tracks,
        position=np.where(valid[..., None], position, 0.0),
        heading=np.where(valid, turned, 0.0).astype(np.float32),
        velocity=np.where(valid[..., None], even(tracks.velocity), 0.0).astype(np.float32),
        valid=valid,
    )


def _cubic(
    position: tuple[NDArray[np.float64], NDArray[np.float64]],
    velocity: tuple[NDArray[np.float32], NDArray[np.float32]],
    grid: _Grid,
) -> NDArray[np.float64]:
    """[A, N, 2] Hermite's cubic between two positions with two velocities; a line where they do not fit each other."""
    (a, b), u, step = position, grid.share[:, None], grid.step[:, None]
    way, (go, come) = b - a, (v * step for v in velocity)
    length, detour = (np.linalg.norm(x, axis=-1, keepdims=True) for x in (way, (go + come) / 2 - way))
    bend = u * (1 - u) * ((1 - u) * (go - way) - u * (come - way))
    line = a + u * way
    return np.where(detour <= _DETOUR + length / 5, line + bend, line)
