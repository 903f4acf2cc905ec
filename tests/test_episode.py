"""Driving one scene, and what happened."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.evaluation.evaluate import evaluate
from gail_cli.gail.figures.episode import (
    EpisodeEvent,
    contact,
    count_text,
    drive_scene,
    event_counts,
    known_counts,
    list_events,
)
from gail_cli.gail.learning.run import RunError
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.kernels import Event
from gail_cli.sim.scenario import AgentType, RoadType
from gail_cli.sim.scene import Role, scene_from_scenario
from tests.episodes import CLASSIC, ROAD, episode, record, row_of
from tests.scenes import STEPS, car, real_scenario, shared, valid_only

# driving


def test_the_log_is_driven_as_logged():
    """A gap of a controlled agent is bridged; where it is not logged it is not there; parked ones stay."""
    driven = car(0, 0, heading=0.3, speed=8, valid=valid_only(0, 1, 2, 5, 6, 7))
    other = car(0, 9, speed=5, role=Role.MARK_AS_EXPERT, valid=valid_only(*range(6)))
    shown = episode(driven, other, car(20, 3, heading=1.0))
    logged = shown.scene
    assert_array_equal(shown.row, [0, 1, 2])
    assert_array_equal(shown.controlled, [0])
    assert_array_equal(shown.present[0], np.arange(STEPS) <= 7)
    assert_array_equal(shown.present[1], np.arange(STEPS) <= 5)
    for agent in range(3):
        at = logged.valid[agent]
        assert_array_equal(shown.state[agent][at], logged.log[agent][at])
    middle = logged.log[0, 2, :2] + (logged.log[0, 5, :2] - logged.log[0, 2, :2]) / 3
    assert_allclose(shown.state[0, 3, :2], middle, atol=1e-6)
    assert_array_equal(shown.parked, [False, False, True])


def test_controlled_agents_are_not_parked_where_they_stand():
    """It starts from rest, and keeps its velocity."""
    starts = car(0, 0, speed=10)
    starts.log[0, 3:] = 0
    shown = episode(starts, who="constant-velocity")
    assert_array_equal(shown.state[0, :, :2], np.zeros((STEPS, 2)))
    assert_array_equal(shown.parked, [False])


def test_a_real_log_is_driven_as_logged():
    file = min(shared("womd", "scenes").glob("*.json.gz"))
    real = scene_from_scenario(real_scenario(file.name))
    shown = drive_scene(
        Record(real, replay_experts([real], CLASSIC, [demo_rows_of(real)[0]])[0]), TrainConfig(), CLASSIC, "log"
    )
    rows = shown.row[shown.controlled]
    there = real.valid[rows]
    assert len(rows) > 0
    assert shown.present[shown.controlled][there].all()
    assert_array_equal(shown.state[shown.controlled][there], real.log[rows][there])


def test_counts_are_those_of_evaluation(make_store, small):
    """Every driver, in the same scene, by the same rules."""
    store = make_store(scenes=2)
    config = small()
    policy = Policy(config.observation, store.space, config.policy)
    for index in range(2):
        measured = evaluate(policy, config, store, scenes=[index], seed=4)["results"]
        (stored,) = store.read([index])
        for who, name in {
            "policy": "policy",
            "expert": "expert replayed",
            "constant-velocity": "constant velocity",
            "random": "random",
        }.items():
            shown = drive_scene(stored, config, store.space, who, policy=policy, seed=4)
            assert shown.steps == 21  # as configured
            share = {kind: count / len(shown.controlled) for kind, count in event_counts(list_events(shown)).items()}
            expected = {kind: measured[name][kind.replace("-", "_")] for kind in ("goal", "collision", "off-road")}
            assert share == pytest.approx(expected), (index, who)


def test_drawn_actions_are_those_of_the_seed(make_store, small):
    store, config = make_store(scenes=2), small()
    policy = Policy(config.observation, store.space, config.policy)
    (stored,) = store.read([0])

    def state(seed, **options):
        return drive_scene(stored, config, store.space, "policy", policy=policy, seed=seed, **options).state

    first, again, other = (state(seed, deterministic=False) for seed in (0, 0, 1))
    assert_array_equal(first, again)
    assert (first != other).any()
    assert_array_equal(state(0), state(1))


def test_a_policy_drives_only_what_it_was_made_for(small):
    config = small()
    policy = Policy(config.observation, ActionSpace.create("bicycle"), config.policy)
    with pytest.raises(RunError, match="actions are not those of the run; extract with the same settings"):
        drive_scene(record(car(speed=5)), config, CLASSIC, "policy", policy=policy)


def test_a_space_of_states_has_neither_constant_velocity_nor_random_actions():
    space = ActionSpace.create("state", "continuous")
    states = record(car(speed=5), space=space)
    for who in ("constant-velocity", "random"):
        with pytest.raises(RunError, match="actions are states"):
            drive_scene(states, TrainConfig(), space, who)
    assert_array_equal(drive_scene(states, TrainConfig(), space, "expert").state[0], states.scene.log[0])


def test_pedestrians_are_there_when_asked_for():
    """They follow their log, from where it begins."""
    cast = car(speed=5), car(0, 9, speed=1, type=AgentType.PEDESTRIAN, valid=valid_only(*range(3, STEPS)))
    assert_array_equal(episode(*cast).row, [0])
    shown = episode(*cast, everyone=True)
    assert_array_equal(shown.row, [0, 1])
    assert_array_equal(shown.controlled, [0])
    assert_array_equal(shown.present[1], np.arange(STEPS) >= 3)


# what happened


def test_a_collision_is_marked_where_the_boxes_overlap():
    """1 m a step from x = 0.5 towards a parked car whose box begins at x = 8: at step 6 its front is at 8.5."""
    shown = episode(car(0.5, speed=10), car(10.0, 0.5), who="constant-velocity")
    (collision,) = [event for event in list_events(shown) if event.kind == "collision"]
    assert (collision.agent, collision.step) == (0, 6)
    assert collision.place == pytest.approx((8.25, 0.25), abs=0.06)


def test_smaller_boxes_collide_later():
    """Boxes x 0.5: the car's front, 1 m ahead of its middle, must come to x = 10, where those of 8 m begin."""
    shown = episode(car(0.5, speed=10), car(12.0, size=(8, 2, 3)), who="constant-velocity", box_scale=0.5)
    (collision,) = [event for event in list_events(shown) if event.kind == "collision"]
    assert collision.step == 9
    assert collision.place == pytest.approx((10.25, 0.0), abs=0.06)


def test_what_overlaps_only_at_the_start_does_not_collide():
    """As in evaluation: nothing happens before the first step."""
    assert event_counts(list_events(episode(car(0, speed=100), car(1, 0))))["collision"] == 0


def test_an_agent_that_acts_no_more_collides_no_more():
    """The first stops at its goal, x = 9, at step 9; one step later another, 3 m a step, drives into it."""
    config = TrainConfig(sim=SimConfig(on_goal="stop", box_scale=1.0))
    made = record(car(0, speed=10), car(-22.5, speed=30), segments=[])
    shown = drive_scene(made, config, CLASSIC, "constant-velocity")
    happened = [(event.kind, event.agent, event.step) for event in list_events(shown)]
    assert happened == [("goal", 0, 9), ("goal", 1, 10), ("collision", 1, 10)]
    assert shown.state[0, 10, 0] == shown.state[0, 9, 0]


def test_a_contact_is_with_the_agent_that_is_overlapped_most():
    shown = episode(car(0, 0, speed=1), car(3.5, 0), car(0, 1.2), car(40, 0), segments=[])
    assert_allclose(contact(shown, 0, 0), [0.0, 0.6], atol=0.06)
    assert_allclose(contact(shown, row_of(shown, 3), 0), [40, 0])  # alone


def test_the_goal_and_the_edge_of_the_road_are_marked():
    """The goal, 10 m ahead, at the first step nearer than 2 m; the edge when the front, 2 m ahead, meets it."""
    edge = [(RoadType.ROAD_EDGE, 5.5, 0, 10, 0.1, np.pi / 2)]
    shown = episode(car(0, 0, speed=10), segments=edge)
    assert list_events(shown) == [EpisodeEvent("off-road", 0, 4, (4.0, 0.0)), EpisodeEvent("goal", 0, 9, (10.0, 0.0))]
    assert event_counts(list_events(shown)) == {"goal": 1, "collision": 0, "off-road": 1}


def test_nobody_is_known_to_be_off_a_road_without_edges():
    """A stop sign's post is touched at the same step."""
    post = (RoadType.STOP_SIGN, 5.5, 0, 10, 0.1, np.pi / 2)
    shown, edged = (episode(car(0, 0, speed=10), segments=[post, *more]) for more in ([], ROAD))
    assert shown.events[0, :, Event.OFF_ROAD].any()
    assert {event.kind for event in list_events(shown)} == {"goal"}
    assert known_counts(shown, list_events(shown)) == {"goal": 1, "collision": 0, "off-road": None}
    assert known_counts(edged, list_events(edged)) == {"goal": 1, "collision": 0, "off-road": 1}


def test_what_flickers_in_one_place_is_one_mark():
    """Contacts that begin at x = 1, 3, 7 and 9: those within 4 m of an earlier event are not told again."""
    shown = episode(car(0, 0, speed=10))
    events = np.zeros_like(shown.events)
    events[0, [1, 3, 4, 7, 9], Event.OFF_ROAD] = True
    assert [event.place[0] for event in list_events(replace(shown, events=events))] == [1.0, 7.0]
    events[0, [0, 10], Event.GOAL] = True
    assert [event.step for event in list_events(replace(shown, events=events)) if event.kind == "goal"] == [0]


def test_counts_in_words():
    assert count_text("goal", 3, 5) == "3 of 5 at the goal"
    assert [count_text("collision", n, 5) for n in (0, 1, 2)] == ["0 collisions", "1 collision", "2 collisions"]
    assert count_text("off-road", 2, 5) == "2 off-road"
    assert count_text("off-road", None, 5) == "off-road -"
