"""How likely the motion of pedestrians, cyclists and vehicles in real scenes is under gail.evaluation.road_users.

    python -m benchmarks.road_users SCENES... [--search]

For each kind: likelihood of the four components of motion (32 drives an object, as in the challenge) at constant
velocity, and with the habits that are stated; with --search also those that a coordinate search finds from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import click
import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.evaluation import road_users
from gail_cli.gail.evaluation.challenge import ROLLOUTS, START, STEPS
from gail_cli.gail.evaluation.features import central_difference
from gail_cli.gail.evaluation.realism import COMPONENTS, histogram_log_likelihood
from gail_cli.gail.evaluation.submission import from_step
from gail_cli.pipeline.readers.sources import list_scenes, read_scenes, resolve
from gail_cli.sim.scenario import Scenario
from gail_cli.sim.scene import Scene, scene_from_scenario

KINDS = ("PEDESTRIAN", "STANDING_PEDESTRIAN", "CYCLIST", "VEHICLE")
_MOST = 150
"""Objects of a kind, of which more would only take longer."""
_WORTH = 0.003
"""Gain in log-likelihood for which the search goes on."""


@dataclass(frozen=True, eq=False)
class Objects:
    """N objects of one kind: their logs, and scenes of one of them each that start at step 10."""

    log: list[NDArray[np.float64]]
    """[91, 3] x, y, heading each."""
    start: list[Scene]


def objects_of(sources: Sequence[str]) -> dict[str, Objects]:
    """Those that are valid from step 8 to the end, by kind."""
    found = {kind: Objects([], []) for kind in KINDS}
    for scenario in _scenarios(sources):
        scene = scene_from_scenario(scenario)
        for row in np.flatnonzero(scene.valid[:, START - 2 :].all(axis=1)):
            speed = float(np.hypot(*scene.log[row, START, 3:]))
            habits = road_users.habits_of(int(scene.agent_type[row]), speed)
            kind = next((kind for kind in KINDS if getattr(road_users, kind) is habits), None)
            if kind is not None:
                only = np.arange(scene.num_agents) == row
                alone = replace(scene, valid=scene.valid & only[:, None])
                found[kind].log.append(scene.log[row, :, :3].astype(np.float64))
                found[kind].start.append(from_step(alone, START, STEPS + 1))
    order = np.random.default_rng(0)
    for kind, objects in found.items():
        chosen = order.permutation(len(objects.log))[:_MOST]
        found[kind] = Objects([objects.log[k] for k in chosen], [objects.start[k] for k in chosen])
    return found


def _scenarios(sources: Sequence[str]) -> Iterator[Scenario]:
    for path in resolve(sources):
        for _, scenario in read_scenes(list_scenes(path)[0]):
            if isinstance(scenario, Scenario) and scenario.num_steps == START + STEPS + 1:
                yield scenario


def motion(track: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """The four components [N, 80] of tracks [N, 91, 3]."""
    x = torch.from_numpy(track)
    there = torch.ones(x.shape[:2], dtype=torch.bool)
    speed = central_difference(x[..., :2], there).norm(dim=-1, keepdim=True)
    turning = central_difference(x[..., 2:], there, circular=True)
    values = {
        "linear_speed": speed,
        "linear_acceleration": central_difference(speed, ~speed[..., 0].isnan()),
        "angular_speed": turning,
        "angular_acceleration": central_difference(turning, ~turning[..., 0].isnan()),
    }
    return {name: value[:, START + 1 :, 0].numpy() for name, value in values.items()}


def likelihood(objects: Objects, steady: bool = False) -> dict[str, float]:
    """exp of the mean log-likelihood of each component over all objects and steps."""
    log = np.stack(objects.log)
    drives = []
    for k in range(ROLLOUTS):
        ahead = [
            _straight(scene)
            if steady
            else road_users.go_on(scene, np.zeros(1, np.int64), np.random.default_rng((n, k)))
            for n, scene in enumerate(objects.start)
        ]
        drives.append(motion(np.concatenate([log[:, : START + 1], np.concatenate(ahead)[:, 1:, :3]], axis=1)))
    found = {}
    logged = motion(log)
    for component in COMPONENTS[:4]:
        name = component.name
        edge = 1 if name.endswith("speed") else 2
        logged[name][:, :edge] = np.nan
        drawn = np.stack([drive[name] for drive in drives])
        assert component.bins is not None
        values = histogram_log_likelihood(logged[name], drawn, component.bins, np.ones(drawn.shape, np.bool_))
        found[name] = float(np.exp(np.nanmean(values)))
    return found


def _straight(scene: Scene) -> NDArray[np.float32]:
    track = np.repeat(scene.log[:, :1], STEPS + 1, axis=1)
    track[..., :2] += track[..., 3:] * (np.arange(STEPS + 1) * 0.1).astype(np.float32)[:, None]
    return track


def search(kind: str, objects: Objects) -> road_users.Habits:
    """The habits that a coordinate search finds: factors of 1.3 up and down, as long as the likelihood gains."""

    def value(habits: road_users.Habits) -> float:
        setattr(road_users, kind, habits)
        return float(np.log(list(likelihood(objects).values())).sum())

    best = getattr(road_users, kind)
    gained = value(best)
    for name in ("turning", "heading_noise", "place_noise", "speeding", "spread") * 2:
        for factor in (1.3, 1 / 1.3):
            while (now := value(other := replace(best, **{name: getattr(best, name) * factor}))) > gained + _WORTH:
                best, gained = other, now
    setattr(road_users, kind, best)
    return best


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--search", "searched", is_flag=True, help="Search for better habits.")
def main(sources: tuple[str, ...], searched: bool) -> None:
    """Print the likelihoods of each kind."""
    for kind, objects in objects_of(sources).items():
        if not objects.log:
            continue
        rows = {"constant velocity": likelihood(objects, steady=True), "as stated": likelihood(objects)}
        if searched:
            rows[str(search(kind, objects))] = likelihood(objects)
        click.echo(f"{kind.lower().replace('_', ' ')}: {len(objects.log)} objects")
        for title, row in rows.items():
            click.echo(f"  {title}: " + ", ".join(f"{name.replace('_', ' ')} {x:.3f}" for name, x in row.items()))


if __name__ == "__main__":
    main()
