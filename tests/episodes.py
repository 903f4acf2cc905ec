"""Episodes for the tests of pictures."""

from functools import cache

import numpy as np

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.figures.episode import drive_scene, with_rules
from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scenario import RoadType
from tests.scenes import car, scene

CLASSIC = ActionSpace.create("classic")
ROAD = [(RoadType.LANE, 0, 0, 60, 0.1, 0.0), (RoadType.ROAD_EDGE, 0, 20, 60, 0.1, 0.0)]


def record(*agents, segments=ROAD, space=CLASSIC):
    made = scene(*agents, segments=segments)
    return Record(made, replay_experts([made], space, [demo_rows_of(made)[0]])[0])


def episode(*agents, who="log", segments=ROAD, box_scale=1.0, everyone=False):
    config = with_rules(TrainConfig(), box_scale, everyone)
    return drive_scene(record(*agents, segments=segments), config, CLASSIC, who)


def row_of(shown, agent):
    """Where an agent of the scene stands in an episode."""
    return int(np.flatnonzero(shown.row == agent)[0])


@cache
def crash():
    """A car that drives 1 m a step through a parked one, 10 m ahead, and over the edge of the road."""
    return episode(car(0.5, speed=10), car(10.0), car(0, -8, speed=3), who="constant-velocity",
                   segments=[*ROAD, (RoadType.STOP_SIGN, -5, 5, 0.2, 0.2, 0.0)])  # fmt: skip


def pixel(axes, frame, x, y):
    """Colour at a place in the world, 0 to 1."""
    column, up = axes.transData.transform((x, y))
    return tuple(frame[frame.shape[0] - 1 - round(up), round(column), :3] / 255)
