"""What is above or below an agent is not there for it: bridges, by hand and on a real overpass."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scenarionet import OVERPASS, scenario_of
from scenes import STEPS, car, scene

from gail_cli.gail.evaluation.drivers import drive, expert_driver
from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.heights import heights
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import scene_from_scenario
from gail_cli.sim.worlds import make_worlds

CLASSIC = ActionSpace.create("classic", "discrete", reverse=False)
ALL_VALID = Selection(init_mode="all_valid")


def level(z, steps=STEPS):
    return np.full(steps, float(z))


def events(one, **rules):
    """Whether anything but the goal was ever flagged, of any agent, while all keep speed and heading."""
    env = Env(make_worlds([one], selection=ALL_VALID), CLASSIC, SimConfig(selection=ALL_VALID, **rules))
    seen = env.events()
    middle = torch.tensor([[values.index(0.0) for values in CLASSIC.grid]]).expand(env.num_agents, -1)
    for _ in range(env.horizon):
        seen = seen | env.step(middle).events
    return seen[:, [Event.OFF_ROAD, Event.VEHICLE, Event.NON_VEHICLE]].any(dim=0).tolist()


def bridge(above):
    """Two cars that meet where their roads cross, one of them so much higher, each road with an edge on its right."""
    edges = [(RoadType.ROAD_EDGE, 0, -3, 60, 0.1, 0), (RoadType.ROAD_EDGE, 3, 0, 60, 0.1, np.pi / 2)]
    cars = car(-5, 0, speed=5, z=level(0.75)), car(0, -5, np.pi / 2, speed=5, z=level(above + 0.75))
    return scene(*cars, segments=edges, segment_z=[[0, 0], [above, above]])


@pytest.mark.parametrize("off_road", ["touch", "outside"])
def test_on_a_bridge_nothing_happens(off_road):
    assert events(bridge(8.0), off_road=off_road) == [False, False, False]


@pytest.mark.parametrize("off_road", ["touch", "outside"])
def test_on_one_level_they_meet(off_road):
    assert events(bridge(0.0), off_road=off_road) == [True, True, False]


def test_without_heights_and_by_gpudrives_rules_they_meet_on_the_bridge_too():
    assert events(bridge(8.0), heights=False) == [True, True, False]
    assert events(bridge(8.0), compat="gpudrive") == [True, True, False]


@pytest.mark.parametrize(("apart", "hit"), [(1.4, True), (1.6, False)])
def test_boxes_meet_where_their_heights_do(apart, hit):
    """Both are 1.5 m high."""
    cars = car(-5, 0, speed=5, z=level(0)), car(5, 0, np.pi, speed=5, z=level(apart))
    assert events(scene(*cars))[1] is hit


@pytest.mark.parametrize(("z", "off"), [(2.3, True), (2.5, False), (-2.3, True), (-2.5, False)])
def test_edges_count_on_their_level_only(z, off):
    """A car whose wheels are at 0 drives through an edge that crosses its lane."""
    one = scene(
        car(-4, 0, speed=6, z=level(0.75)), segments=[(RoadType.ROAD_EDGE, 0, 0, 9, 0.1, 1.57)], segment_z=[[z, z]]
    )
    assert events(one)[0] is off


def test_the_height_of_an_edge_changes_along_it():
    """One that climbs from 0 to 10 m over 20 m is 1 m high at x = -8 and 9 m at x = 8; cars drive along y."""
    edge = (RoadType.ROAD_EDGE, 0, 0, 10, 0.1, 0)
    for x, off in ((-8, True), (8, False)):
        one = scene(car(x, -4, np.pi / 2, speed=8, z=level(0.75)), segments=[edge], segment_z=[[0, 10]])
        assert events(one)[0] is off


def test_an_agent_is_as_high_as_its_log_where_it_came_nearest():
    """It climbs by 0.1 m a metre; 3 m beside the way and 2 m behind its log it is as high as there."""
    climbing = car(0, 0, speed=10, z=0.1 * np.arange(STEPS))
    late = car(0, 50, speed=10, valid=np.arange(STEPS) > 3, z=level(7))
    worlds = make_worlds([scene(climbing, late)], selection=Selection(init_mode="all_objects"))
    track = worlds.log.clone()
    track[0, :, 0] -= 2.0
    track[0, :, 1] += 3.0
    expected = 0.1 * np.maximum(np.arange(STEPS) - 2, 0)
    assert heights(worlds, track)[0].numpy() == pytest.approx(expected)
    assert (heights(worlds, track)[1] == 7).all()


@given(st.lists(st.floats(-50, 50), min_size=STEPS, max_size=STEPS))
def test_on_its_log_an_agent_has_the_heights_of_its_log(z):
    worlds = make_worlds([scene(car(0, 0, speed=10, z=np.array(z)))], selection=ALL_VALID)
    assert heights(worlds, worlds.log)[0].tolist() == np.float32(z).tolist()


@pytest.mark.skipif(not OVERPASS.exists(), reason="needs ../shared/formats")
def test_on_a_real_overpass_no_expert_leaves_the_road():
    """Without heights, 5 of its 22 experts touch edges of the other level."""
    log = scenario_of(OVERPASS)
    world = scene_from_scenario(log, steps=log.num_steps)
    (demos,) = replay_experts([world], CLASSIC, [demo_rows_of(world)[0]])
    off = {}
    for known in (True, False):
        rules = SimConfig(heights=known)
        experts = make_experts([Record(world, demos, None)], rules, torch.device("cpu"))
        found = drive(Env(experts.worlds, CLASSIC, rules), expert_driver(experts)).events
        off[known] = found[:, Event.OFF_ROAD].sum().item(), len(found)
    assert off == {True: (0, 22), False: (5, 22)}
