"""Contacts by another measure than the rules of a run."""

import numpy as np
import pytest
import torch
from scenes import car, random_scene, real_scenes, scene

from sim.actions import ActionSpace
from sim.contacts import Contacts
from sim.env import Env, SimConfig
from sim.kernels import Event
from sim.scenario import RoadType
from sim.worlds import Selection, make_worlds

EVERYONE = Selection(init_mode="all_objects")


def test_the_same_measure_gives_the_simulators_own_events():
    """At each step of random driving, for everyone but the goal, which is counted from the first step on."""
    worlds = make_worlds([random_scene(seed, extent=30.0) for seed in range(3)], selection=EVERYONE)
    env = Env(worlds, ActionSpace.create("classic", "continuous"), SimConfig(selection=EVERYONE, box_scale=0.8))
    contacts = Contacts(worlds, box_scale=0.8, off_road="touch")
    generator = torch.Generator().manual_seed(0)
    seen = torch.zeros(4, dtype=torch.int64)
    for _ in range(10):
        events = env.step(torch.rand(env.num_agents, 2, generator=generator) - 0.5).events
        assert torch.equal(contacts.events(*env.everyone()), events)
        seen += events.sum(dim=0)
    assert (seen > 0).all()


def test_true_boxes_by_hand():
    """Cars of 4 x 2 m, side by side at 1.7 m: boxes x0.7 are 0.3 m apart, true ones overlap. The edge lies at y = -0.9:
    below it is no road, and the first car's side reaches to -1, while its box x0.7 ends at -0.7."""
    s = scene(car(), car(0, 1.7), car(0, 50), segments=[(RoadType.ROAD_EDGE, 0, -0.9, 80, 0.0, 0)])
    worlds = make_worlds([s], selection=EVERYONE)
    env = Env(worlds, ActionSpace.create("classic"), SimConfig(selection=EVERYONE))
    assert not env.events()[:, [Event.OFF_ROAD, Event.VEHICLE]].any()
    events = Contacts(worlds).events(*env.everyone())
    assert events[:, Event.VEHICLE].tolist() == [True, True, False]
    assert events[:, Event.OFF_ROAD].tolist() == [True, False, False]


def test_who_is_not_there_touches_nobody():
    worlds = make_worlds([scene(car(), car(1))], selection=EVERYONE)
    state = worlds.log[:, 0].contiguous()
    contacts = Contacts(worlds)
    for present in ([True, True], [True, False], [False, False], [True, True]):
        hit = contacts.events(state, torch.tensor(present))[:, Event.VEHICLE]
        assert hit.tolist() == [all(present)] * 2


@pytest.mark.parametrize(("measure", "most"), [({}, 0.05), ({"box_scale": 0.7, "off_road": "touch"}, 0.02)])
def test_people_hardly_touch_anything(measure, most):
    """Logs of real scenes, replayed: with true boxes a little more contact than with GPUDrive's."""
    worlds = make_worlds(real_scenes())
    contacts = Contacts(worlds, **measure)
    ever = torch.zeros(len(worlds.controlled), 4, dtype=torch.bool)
    for step in range(0, worlds.num_steps, 3):
        ever |= contacts.events(worlds.log[:, step], worlds.valid[:, step])
    share = ever.float().mean(dim=0).numpy()
    assert np.all(share[[Event.OFF_ROAD, Event.VEHICLE, Event.NON_VEHICLE]] <= most)
