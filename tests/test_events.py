"""What events cost, by hand; and whose fault a contact is, in the simulator."""

from dataclasses import replace

import pytest
import torch

from gail_cli.gail.config.schema import EventsConfig
from gail_cli.gail.learning.events import event_reward
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.worlds import make_worlds
from tests.scenes import car, scene

PRICES = EventsConfig(onset=-1.0, again=-0.25, each_step=-0.125, fault=0.5, goal=4.0)


def paid(steps, *events, fault=1.0, alive=None, prices=PRICES):
    """Rewards of one agent over some steps, to which events happened: (step, event)."""
    happened = torch.zeros(steps, 1, len(Event), dtype=torch.bool)
    for step, event in events:
        happened[step, 0, event] = True
    acts = torch.ones(steps, 1, dtype=torch.bool)
    acts[steps if alive is None else alive :] = False
    return event_reward(happened, torch.full((steps, 1), fault), acts, prices)[:, 0].tolist()


def test_nothing_costs_nothing():
    assert paid(3) == [0.0, 0.0, 0.0]


def test_the_first_contact_costs_most_and_later_ones_less():
    """Steps 1 and 2 are one contact, 4 is another, of another kind of agent."""
    contact = [(1, Event.VEHICLE), (2, Event.VEHICLE), (4, Event.NON_VEHICLE)]
    assert paid(6, *contact) == [0.0, -1.125, -0.125, 0.0, -0.375, 0.0]


def test_hitting_two_at_once_is_one_contact():
    assert paid(2, (0, Event.VEHICLE), (0, Event.NON_VEHICLE)) == [-1.125, 0.0]


def test_leaving_the_road_is_counted_by_itself_and_is_nobody_elses_fault():
    both = [(0, Event.VEHICLE), (1, Event.OFF_ROAD), (2, Event.OFF_ROAD)]
    assert paid(3, *both, fault=0.0) == [-0.5625, -1.125, -0.125]


@pytest.mark.parametrize(("fault", "share"), [(0.0, 0.5), (0.5, 0.5), (0.75, 0.75), (1.0, 1.0)])
def test_a_contact_counts_by_fault_but_never_little(fault, share):
    assert paid(1, (0, Event.VEHICLE), fault=fault) == [-1.125 * share]


def test_the_goal_is_paid_once_at_the_end():
    """However often, and whenever, it was reached while the agent acted."""
    assert paid(5, (1, Event.GOAL), (2, Event.GOAL), alive=4) == [0.0, 0.0, 0.0, 4.0, 0.0]
    assert paid(5, (4, Event.GOAL), alive=4) == [0.0] * 5


def test_red_lights_cost_what_they_shall():
    assert paid(2, (0, Event.RED_LIGHT)) == [0.0, 0.0]
    prices = replace(PRICES, red_light=-2.0)
    assert paid(3, (0, Event.RED_LIGHT), (2, Event.RED_LIGHT), prices=prices, fault=0.0) == [-2.0, 0.0, -2.0]


def test_agents_are_paid_for_their_own_events():
    happened = torch.zeros(1, 3, len(Event), dtype=torch.bool)
    happened[0, 1, Event.OFF_ROAD] = True
    ones = torch.ones(1, 3)
    assert event_reward(happened, ones, ones.bool(), PRICES).tolist() == [[0.0, -1.125, 0.0]]


# Whose fault a contact is


def faults(*cars):
    """Of cars in one world, after a step straight on."""
    space = ActionSpace.create("classic")
    env = Env(make_worlds([scene(*cars)]), space, SimConfig(box_scale=1.0, end_with_log=False))
    straight = space.encode(torch.zeros(env.num_agents, space.components))
    step = env.step(straight)
    return step.events[:, Event.VEHICLE].tolist(), step.fault.tolist()


def test_who_drives_into_a_slower_car_is_at_fault():
    """5 m between centres of cars 4 m long: after a step at 15 and 5 m/s, 4 m. Both move on towards +x: the one
    behind comes nearer by 15 m/s, the other moves away."""
    hit, fault = faults(car(0, 0, speed=15), car(5, 0, speed=5))
    assert hit == [True, True]
    assert fault == pytest.approx([1.0, 0.0])


def test_who_meets_head_on_shares_the_fault_by_speed():
    hit, fault = faults(car(0, 0, speed=15), car(6, 0, 3.14159265, speed=5))
    assert hit == [True, True]
    assert fault == pytest.approx([0.75, 0.25], abs=1e-4)


def test_without_a_contact_there_is_no_fault():
    assert faults(car(0, 0, speed=15), car(50, 0, speed=5)) == ([False, False], [0.0, 0.0])
