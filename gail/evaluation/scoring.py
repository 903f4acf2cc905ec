"""The score of a submission on scenes of files, as the challenge's scorer computes it, without TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.evaluation.challenge import (
    ROLLOUTS,
    Log,
    displacements,
    drive_features,
    log_features,
    scores,
)
from gail_cli.gail.evaluation.features import Features
from gail_cli.gail.evaluation.logged import NobodyScoredError, index_scenes, log_of_file, read_logged
from gail_cli.gail.evaluation.submitted import Rollouts, SubmissionError, read_submission, submission_files


def score_submission(
    submissions: Sequence[str],
    scenes: Sequence[str],
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Score a submission.

    Args:
        submissions: its files, or folders of them.
        scenes: files, folders, globs or URLs of the scenes; those that it does not simulate are left out.
        device: where features are measured.
        progress: called with scenes done and scenes in all, as far as the submission is read.

    Returns:
        ``scenes`` {id: {name: number or None}}, ``mean`` {name: number or None} over them, ``rollouts``, and ``notes``
        {id: what a scene's file does not tell}; scenes that name nobody to score are left out. Ready for JSON.

    Raises:
        SubmissionError: when the submission can not be read, or does not fit the scenes.
        UserError: when a scene can not be read, or none names anybody to score.
    """
    files = submission_files(submissions)
    places = index_scenes(scenes)
    found: dict[str, dict[str, float]] = {}
    notes: dict[str, list[str]] = {}
    nobody: NobodyScoredError | None = None
    for rollouts, total in read_submission(files):
        if rollouts.scene not in places:
            what = f"scene {rollouts.scene!r} is not among the {len(places)} scene(s) of the files"
            raise SubmissionError(rollouts.file, what, "give the files that hold the submission's scenes")
        logged = read_logged(places[rollouts.scene])
        try:
            log = log_of_file(logged, device)
        except NobodyScoredError as error:
            notes[rollouts.scene], nobody = [f"{error.what} and it is left out"], error
        else:
            found[rollouts.scene] = score_rollouts(rollouts, log)
            notes[rollouts.scene] = [*logged.notes, *_unknown(found[rollouts.scene])]
        progress(len(notes), total)
    if nobody is not None and not found:
        raise nobody
    names = next(iter(found.values()))
    return {
        "scenes": {scene: {name: _number(x) for name, x in row.items()} for scene, row in found.items()},
        "mean": {name: _mean([row[name] for row in found.values()]) for name in names},
        "rollouts": ROLLOUTS,
        "notes": {scene: text for scene, text in notes.items() if text},
    }


def score_rollouts(rollouts: Rollouts, log: Log) -> dict[str, float]:
    """The scores of one scene."""
    logged, drives = measure(rollouts, log)
    return scores(logged, drives, len(drives)) | displacements(log, _drives(rollouts, log))


def measure(rollouts: Rollouts, log: Log) -> tuple[Features, list[Features]]:
    """Features of the log and of each drive."""
    return log_features(log), [drive_features(log, *drive) for drive in _drives(rollouts, log)]


def _drives(rollouts: Rollouts, log: Log) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """States [M, 80, 5] and heights [M, 80] of each drive in the frame of the log."""
    scene = log.worlds.scenes[0]
    state: NDArray[np.float64] = rollouts.of(log.objects.tolist()).astype(np.float64)
    local = np.zeros((*state.shape[:-1], 5), np.float32)
    local[..., :2] = state[..., :2] - scene.origin[:2]
    local[..., 2] = state[..., 3]
    heights = (state[..., 2] - scene.origin_z).astype(np.float32)
    for xy, z in zip(local, heights, strict=True):
        yield torch.from_numpy(xy).to(log.worlds.device), torch.from_numpy(z).to(log.worlds.device)


def _unknown(found: dict[str, float]) -> list[str]:
    if np.isnan(found["likelihood_off_road"]):
        return ["its map has no road edges, so that nobody knows who is off the road, and realism is of all else"]
    return []


def _number(x: float) -> float | None:
    return float(x) if np.isfinite(x) else None


def _mean(values: Sequence[float]) -> float | None:
    """Mean of those that are defined."""
    there = [x for x in values if np.isfinite(x)]
    return float(np.mean(there)) if there else None
