"""Policies that are easy to foresee, and a store for them to drive in."""

import torch
from demos import records
from scenes import car, scene

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import RoadType

SPACE = ActionSpace.create("delta_local", "continuous")
LAYOUT = ObservationConfig(partners=4, road_segments=8, lights=0, near=False, rays=False, danger=False, route=False)
CONFIG = TrainConfig(observation=LAYOUT)
EDGE = (RoadType.ROAD_EDGE, 0.0, -10.0, 100.0, 0.1, 0.0)
"""10 m to the right of who drives along the x axis."""
CLEAR = 4.5
"""Toys that look stop this far before another agent, m between centres: 0.5 m between boxes of true size."""
STEP = 0.5
"""How far they go in a step, m."""


class Toy(torch.nn.Module):
    """Goes straight on, but not where it looks and another agent is ahead."""

    def __init__(self, looks):
        super().__init__()
        self.looks, self.space, self.codes = looks, SPACE, 0
        self.encoder = torch.nn.Identity()
        self.encoder.observation = LAYOUT
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def with_code(self, observations, code):
        return observations

    def act(self, observations, deterministic=False):
        _, *blocks = LAYOUT.split(observations)
        here = LAYOUT.present(*blocks)[0]
        ahead = blocks[0][..., LAYOUT.partner_fields.index("x/radius")] * LAYOUT.radius
        blocked = (here & (ahead > 0) & (ahead < CLEAR)).any(dim=1) & self.looks
        actions = torch.zeros(len(observations), SPACE.components)
        actions[:, 0] = torch.where(blocked, 0.0, STEP)
        return actions, actions[:, 0]


def free(name):
    """A car whose goal is 5 m ahead, after 10 steps."""
    return scene(car(speed=5.0), segments=[EDGE], name=name)


def blocked(name):
    """The same with a parked car that stands 2.6 m beyond the goal: who goes all the way touches it."""
    return scene(car(speed=5.0), car(7.6), segments=[EDGE], name=name)


def far(name):
    """A car whose goal is out of reach for a toy."""
    return scene(car(speed=30.0), segments=[EDGE], name=name)


class ToyStore:
    """What an evaluation needs of a store."""

    path, space = "toys", SPACE

    def __init__(self, *scenes):
        self._records = records(*scenes, space=SPACE)

    def __len__(self):
        return len(self._records)

    def read(self, indices):
        return iter([self._records[k] for k in indices])
