"""What a drive is like, step by step: motion, neighbours, the road's edge, red lights, to compare it with the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gail_cli.gail.evaluation.red_light import Lanes, Signals, lanes_of, runs_red_light, signals_of
from gail_cli.sim.clearance import clearances
from gail_cli.sim.edges import edge_distances
from gail_cli.sim.scenario import DT, AgentType
from gail_cli.sim.worlds import Worlds

Features = dict[str, Tensor]
"""By name [N, T] of the controlled agents; the names are WOSAC's (Montali et al. 2023).

``linear_speed`` (m/s, in space), ``linear_acceleration`` (m/s^2), ``angular_speed`` (rad/s), ``angular_acceleration``
(rad/s^2), ``distance_to_nearest_object`` (m), ``time_to_collision`` (s, vehicles only), ``distance_to_road_edge`` (m;
NaN where the map has no edges), ``red_light`` (bool), and ``valid`` (bool): the steps that count. NaN where a value is
undefined, and, but for speeds and accelerations, where a step does not count.
"""


Streets = Sequence[tuple[Lanes, Signals] | None]
"""By world, its lanes and its lights; None where it has no light."""


@dataclass(frozen=True)
class Theirs:
    """To read features as the challenge's scorer (waymo-open-dataset 1.6.7) does, to the last oddity.

    Everything is on one level; headings that differ by 6 rad are not alike; of closed road edges only the longest are
    closed; speeds are made of states of invalid steps too.
    """

    streets: Streets
    """Lanes and lights as it reads them."""


def features(
    worlds: Worlds, track: Tensor, z: Tensor, present: Tensor, counted: Tensor, theirs: Theirs | None = None
) -> Features:
    """The features of one drive, or of the log.

    Motion comes from positions and headings by central differences, velocities are not read: so the log's noise in
    them makes no difference, and all dynamics models are measured alike.

    Args:
        worlds: where the agents are.
        track: [M, T, 5] x, y, heading, vx, vy of all agents.
        z: [M, T] m, heights of their centres.
        present: [M, T] bool, who is in its world when.
        counted: [N, T] bool, the steps of the controlled agents that are asked for.
        theirs: reads them as the challenge's scorer.
    """
    own, streets = worlds.controlled, streets_of(worlds) if theirs is None else theirs.streets
    known = present if theirs is None else torch.ones_like(present)
    flat = central_difference(track[..., :2], known).norm(dim=-1)
    speed = central_difference(torch.cat([track[own, :, :2], z[own, :, None]], dim=-1), known[own]).norm(dim=-1)
    turning = central_difference(track[own, :, 2:3], known[own], circular=True)[..., 0]
    nearest, ttc = clearances(worlds, track, z, present, flat, theirs=theirs is not None)
    vehicle = (worlds.tensors["type"][own] == AgentType.VEHICLE)[:, None]
    moving = {
        "linear_speed": speed,
        "linear_acceleration": central_difference(speed[..., None], ~speed.isnan())[..., 0],
        "angular_speed": turning,
        "angular_acceleration": central_difference(turning[..., None], ~turning.isnan())[..., 0],
    }
    around = {
        "distance_to_nearest_object": nearest,
        "time_to_collision": torch.where(vehicle, ttc, torch.nan),
        "distance_to_road_edge": edge_distances(worlds, track, z, present, longest_only=theirs is not None),
    }
    found = moving | {name: torch.where(counted, value, torch.nan) for name, value in around.items()}
    return found | {"red_light": _red_lights(worlds, track, streets) & vehicle & counted, "valid": counted}


def central_difference(x: Tensor, valid: Tensor, circular: bool = False) -> Tensor:
    """Change per second of [A, T, D], (x[t + 1] - x[t - 1]) / 0.2 s.

    Args:
        x: [A, T, D].
        valid: [A, T] bool; NaN where one of the two neighbours of a step is not.
        circular: whether x are angles in rad, whose smaller difference counts.
    """
    change = x[:, 2:] - x[:, :-2]
    if circular:
        change = torch.atan2(change.sin(), change.cos())
    known = valid[:, 2:] & valid[:, :-2]
    result = torch.full_like(x, torch.nan)
    result[:, 1:-1] = torch.where(known[..., None], change / (2 * DT), torch.nan)
    return result


def streets_of(worlds: Worlds) -> Streets:
    """Lanes and lights of each world's scene."""
    found: dict[int, tuple[Lanes, Signals] | None] = {}
    for scene in worlds.scenes:
        if id(scene) not in found:
            found[id(scene)] = (lanes_of(scene), signals_of(scene)) if len(scene.light_lane) else None
    return [found[id(scene)] for scene in worlds.scenes]


def _red_lights(worlds: Worlds, track: Tensor, streets: Streets) -> Tensor:
    """[N, T] bool who runs a red light when; beyond the lights' last step nobody does."""
    own, steps = worlds.controlled, track.shape[1]
    found = np.zeros((len(own), steps), np.bool_)
    if any(street is not None for street in streets):
        world, xy = worlds.tensors["world"][own].cpu().numpy(), track[own, :, :2].cpu().numpy()
        for number, street in enumerate(streets):
            if street is not None and (world == number).any():
                rows, until = world == number, min(steps, street[1].stops.shape[1])
                found[rows, :until] = runs_red_light(xy[rows, :until], street[0], street[1].until(until))
    return torch.from_numpy(found).to(own.device)


def only_valid(found: Features) -> Features:
    """Features of a log with NaN also where a speed has a neighbour (an acceleration a neighbour's) that is not valid,
    or comes before the steps that count."""
    moving = _neighbours(found["valid"])
    masks = {name: moving for name in found if name.endswith("speed")}
    masks |= {name: _neighbours(moving) for name in found if name.endswith("acceleration")}
    return found | {name: torch.where(mask, found[name], torch.nan) for name, mask in masks.items()}


def _neighbours(valid: Tensor) -> Tensor:
    """[N, T] whether the steps before and after both are valid."""
    result = torch.zeros_like(valid)
    result[:, 1:-1] = valid[:, 2:] & valid[:, :-2]
    return result


def touches(found: Features) -> Tensor:
    """[N, T] bool: its box with rounded corners is in another agent's, at a step that counts."""
    return found["distance_to_nearest_object"] < 0


def leaves_road(found: Features) -> Tensor:
    """[N, T] bool: a corner of its box is beyond the nearest road edge, at a step that counts."""
    return found["distance_to_road_edge"] > 0


def road_known(found: Features) -> Tensor:
    """[N] bool: whether its map has edges, so that it can be off the road."""
    edge = found["distance_to_road_edge"]
    return ~(edge.isnan() & found["valid"]).any(dim=1)
