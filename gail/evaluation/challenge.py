"""The challenge's protocol: who takes part and who is scored, from step 10 on; for a store's scenes and for files.

A drive is joined to the log's first 11 steps; all objects that are valid at step 10 take part, and the recording car
and the tracks to predict are scored (waymo-open-dataset 1.6.7, docs/evaluation.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.evaluation.features import Features, Theirs, features
from gail_cli.gail.evaluation.realism import COMPONENTS, happens, likelihoods, realism
from gail_cli.gail.evaluation.red_light import lanes_of, signals_of
from gail_cli.sim.scene import Role, Scene
from gail_cli.sim.worlds import SelectedAgents, Worlds, make_worlds

START, STEPS, ROLLOUTS = 10, 80, 32
"""The last logged step, how many are simulated after it, and how often (Montali et al. 2023)."""
OFFICIAL_NAMES = {
    "collision": "collision_indication",
    "off_road": "offroad_indication",
    "traffic_light": "traffic_light_violation",
}
"""What the challenge's scorer calls those components that have another name here."""


@dataclass(frozen=True, eq=False)
class Log:
    """One scene as its log has it, of the M objects that take part; N of them, the controlled ones, are scored."""

    worlds: Worlds
    track: torch.Tensor
    """[M, 91, 5] x, y, heading, vx, vy."""
    z: torch.Tensor
    """[M, 91] m, heights of the centres."""
    valid: torch.Tensor
    """[M, 91] bool."""
    theirs: Theirs

    @property
    def objects(self) -> NDArray[np.int64]:
        """[M] ids."""
        return np.asarray(self.worlds.scenes[0].agent_id[self.worlds.selected[0].row])


def takes_part(scene: Scene) -> SelectedAgents:
    """Who takes part in a scene, and who is scored: those are the controlled ones."""
    rows = np.flatnonzero(scene.valid[:, START])
    scored = (scene.agent_role[rows] & (Role.SDC | Role.TRACK_TO_PREDICT)) > 0
    return SelectedAgents(rows, scored, np.zeros(len(rows), np.bool_))


def log_of(scene: Scene, device: torch.device | str = "cpu") -> Log:
    """The log of a store's scene of 91 steps. Lanes are simplified there, so the nearest one is searched truly."""
    worlds = make_worlds([scene], device, selected=[takes_part(scene)])
    zero = torch.zeros_like(worlds.log)
    zero[..., :2] = torch.from_numpy(-scene.origin[:2])  # where invalid steps are in Waymo's files
    track = as_written(torch.where(worlds.valid[..., None], worlds.log, zero), scene.origin)
    street = (lanes_of(scene), signals_of(scene)) if len(scene.light_lane) else None
    z = worlds.tensors["log_z"].view(track.shape[:2])
    return Log(worlds, track, z, worlds.valid, Theirs([street]))


def as_written(track: torch.Tensor, origin: NDArray[np.float64]) -> torch.Tensor:
    """Tracks [..., 5] with places as files have them: float32 in the log's frame, which at 10 km is half a millimetre.

    Args:
        track: in the scene's frame.
        origin: [2] of that.
    """
    base = torch.from_numpy(origin[:2].copy()).to(track.device)
    place = ((track[..., :2].double() + base).float().double() - base).float()
    return torch.cat([place, track[..., 2:]], dim=-1)


def log_features(log: Log) -> Features:
    """Features [N, 80] of the log after step 10."""
    counted = log.valid[log.worlds.controlled]
    return _future(features(log.worlds, log.track, log.z, log.valid, counted, log.theirs))


def drive_features(log: Log, future: torch.Tensor, z: torch.Tensor) -> Features:
    """Features [N, 80] of a drive.

    Args:
        log: what it starts from.
        future: [M, 80, 5] x, y, heading, and what is not read.
        z: [M, 80] m.
    """
    track = torch.cat([log.track[:, : START + 1], future], dim=1)
    heights = torch.cat([log.z[:, : START + 1], z], dim=1)
    present = log.valid.clone()
    present[:, START + 1 :] = True
    return _future(features(log.worlds, track, heights, present, present[log.worlds.controlled], log.theirs))


def _future(found: Features) -> Features:
    return {name: values[:, START + 1 :] for name, values in found.items()}


def scores(log: Features, drives: Sequence[Features], rollouts: int = ROLLOUTS) -> dict[str, float]:
    """Realism, likelihoods, and how often something happens in the drives, of one scene; NaN where undefined.

    Args:
        log: its features.
        drives: theirs.
        rollouts: K; fewer drives than this stand for K of them.
    """
    likely = likelihoods(log, drives, np.zeros(len(log["valid"]), np.int64), 1, rollouts)
    found = {f"realism_{year}": float(realism(likely, year)[0]) for year in (2025, 2024)}
    found |= {f"likelihood_{c.name}": float(likely[c.name][0]) for c in COMPONENTS}
    for event in ("collision", "off_road", "traffic_light"):
        share = float(np.mean([happens(event, drive, log) for drive in drives]))
        found[f"simulated_{event}"] = np.nan if event == "off_road" and np.isnan(likely[event][0]) else share
    return found


def displacements(log: Log, drives: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """ADE (m) in space, mean and least over drives ([M, 80, 5] and [M, 80] z each), as the challenge's scorer has it:
    per object over all its valid steps, the eleven before the drive too."""
    own = log.worlds.controlled
    valid = log.valid[own]
    means = []
    for future, z in drives:
        flat = future[own, :, :2] - log.track[own, START + 1 :, :2]
        apart = torch.cat([flat, (z - log.z[:, START + 1 :])[own, :, None]], dim=-1).norm(dim=-1)
        means.append(float(((apart * valid[:, START + 1 :]).sum(dim=1) / valid.sum(dim=1)).mean()))
    return {"ade": float(np.mean(means)), "min_ade": float(np.min(means))}
