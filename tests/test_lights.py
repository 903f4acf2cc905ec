"""Traffic lights: what is seen of them, and who runs a red one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from demos import assert_experts_see_what_the_simulator_shows, records
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import car, random_scene, scene, valid_only

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.evaluation.metrics import agent_metrics
from gail_cli.gail.learning.run import CHECKPOINT, CONFIG, RunFolder, load_run
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.augment import mirrored, piece, stretched
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.scenario import AgentType, LightState, RoadType
from gail_cli.sim.worlds import make_worlds

RED, YELLOW, GREEN, ABSENT = LightState.STOP, LightState.CAUTION, LightState.GO, LightState.ABSENT
LAYOUT = ObservationConfig(partners=1, road_segments=1, lights=3)
SPACE = ActionSpace.create("classic")
EAST = (RoadType.LANE, 30, 0, 10, 0.1, 0)
"""The lane from x = 20 to 40, which a light at (20, 0) controls."""
CROSSING = (RoadType.LANE, 30, -10, 10, 0.1, np.pi / 2)
"""Across it, from y = -20 to 0."""


def lights_seen(s, steps=(0,), config=LAYOUT):
    """[steps, L, 8] what the first agent of a scene sees at some steps of its log."""
    worlds = make_worlds([s], selection=Selection(init_mode="all_objects"))
    agents, step = torch.zeros(len(steps), dtype=torch.int32), torch.tensor(steps, dtype=torch.int32)
    seen = Observer(worlds, config).observe(worlds.log, worlds.valid, agents, torch.ones(len(steps)), step)
    return config.split(seen).lights


def ran_red(*agents, light=RED, segments=(EAST, CROSSING), at=(20, 0), steps=10, **rules):
    """[A, steps + 1] who runs a red light when, all following their logs."""
    s = scene(*agents, segments=segments, lights=[(0, *at, light)])
    config = SimConfig(**{"selection": Selection(max_controlled=0), **rules})
    space = ActionSpace.create("classic", reverse=config.compat is None)
    env = Env(make_worlds([s], selection=config.selection), space, config)
    events = [env._events[:, Event.RED_LIGHT].clone()]
    for _ in range(steps):
        env.step(torch.zeros(env.num_agents, 2, dtype=torch.int64))
        events.append(env._events[:, Event.RED_LIGHT].clone())
    return torch.stack(events, dim=1)


# What is seen


def test_a_light_is_seen_from_where_the_agent_is_at_each_step():
    """A car that drives east at 10 m/s, 30 m before the light of its own lane, which turns at step 4."""
    states = [RED] * 4 + [GREEN] * 7
    seen = lights_seen(scene(car(-10, 2, speed=10), segments=[EAST], lights=[(0, 20, 0, states)]), (0, 3, 4, 10))
    ahead = torch.tensor([30, 27, 26, 20]) / 50
    torch.testing.assert_close(seen[:, 0, 0], ahead)
    torch.testing.assert_close(seen[:, 0, 1:4], torch.tensor([[-2 / 50, 1.0, 0.0]]).expand(4, -1))
    assert seen[:, 0, 4:].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0]]
    assert not seen[:, 1:].any()


def test_the_frame_is_the_agents():
    """One that looks north sees the stop point on its right, and the lane go to the right."""
    seen = lights_seen(scene(car(0, 0, np.pi / 2), segments=[EAST], lights=[(0, 20, 10, RED)]))
    torch.testing.assert_close(seen[0, 0], torch.tensor([0.2, -0.4, 0, -1, 1, 0, 0, 0]))


@pytest.mark.parametrize(
    ("state", "kind"),
    [*[(s, 0) for s in (1, 4, 7)], *[(s, 1) for s in (2, 5, 8)], *[(s, 2) for s in (3, 6)], (0, 3), (-1, None)],
)
def test_states_come_down_to_four(state, kind):
    seen = lights_seen(scene(car(), segments=[EAST], lights=[(0, 20, 0, state)]))[0, 0]
    assert seen[4:].tolist() == [float(k == kind) for k in range(4)]
    assert seen.any() == (kind is not None)


def test_those_of_the_own_way_ahead_come_first():
    """Nearer ones behind, across, and of the opposite lane come later; what is out of reach, or absent, not at all."""
    back = (RoadType.LANE, 30, 4, 10, 0.1, np.pi)
    lights = [
        (1, 8, 0, RED), (2, 9, 4, RED), (0, -3, 0, RED), (0, 40, 0, GREEN), (0, 20, 0, YELLOW), (0, 51, 0, RED),
        (0, 5, 0, ABSENT), (77, 30, 0, RED),
    ]  # fmt: skip
    s = scene(car(), segments=[EAST, CROSSING, back], lights=lights)
    config = replace(LAYOUT, lights=8)
    seen = lights_seen(s, config=config)[0]
    torch.testing.assert_close(seen[:6, 0] * 50, torch.tensor([20.0, 30, 40, -3, 8, 9]))
    assert seen[1, 2:4].tolist() == [0, 0]  # its lane is not in the map
    assert not seen[6:].any()
    first = lights_seen(s, config=replace(LAYOUT, lights=2))[0]
    assert torch.equal(first, seen[:2])


@settings(max_examples=20)
@given(seed=st.integers(0, 99), order=st.permutations(range(12)), step=st.integers(0, 10))
def test_the_order_of_lights_in_the_log_does_not_matter(seed, order, step):
    s, order = random_scene(seed), np.array(order)
    other = replace(
        s, light_lane=s.light_lane[order], light_state=s.light_state[order], light_stop_point=s.light_stop_point[order]
    )
    assert torch.equal(lights_seen(s, (step,)), lights_seen(other, (step,)))


def test_after_the_logs_end_lights_stay_as_they_were():
    states = [GREEN] * 3 + [RED] + [ABSENT] * 7
    s = scene(
        car(), segments=[EAST], lights=[(0, 20, 0, states), (0, 21, 0, [GREEN, ABSENT, *[RED] * 2, *[ABSENT] * 7])]
    )
    seen = lights_seen(s, (1, 3, 10))
    assert seen[:, :2, 4].tolist() == [[0, 0], [1, 1], [1, 1]]
    assert seen[:, 0, 6].tolist() == [1, 0, 0]
    assert not seen[0, 1].any()  # it was not seen then


def test_experts_see_the_lights_that_the_simulator_shows():
    """To the last bit, in the pool and in the simulator, where lights change and vanish."""
    scenes = [random_scene(seed) for seed in (3, 4)]
    assert all(lights_seen(s, range(8), ObservationConfig()).any() for s in scenes)
    assert_experts_see_what_the_simulator_shows(records(*scenes, space=SPACE), SPACE)


def test_gpudrives_layout_has_none():
    assert ObservationConfig.gpudrive().lights == 0
    assert ObservationConfig("gpudrive", lights=0).size == ObservationConfig("gpudrive").size
    with pytest.raises(ValueError, match="lights is 3, but layout gpudrive has none"):
        ObservationConfig("gpudrive", lights=3)


@pytest.mark.parametrize(("goal", "was"), [("none", False), ("point", True)])
def test_a_run_of_an_earlier_version_sees_no_lights_and_nothing_near(tmp_path, goal, was):
    """Its config.yaml has no such keys, and its networks have no such inputs; its goal is true or false."""
    run = RunFolder(tmp_path)
    absent = {"lights": 0, "near": False, "rays": False, "danger": False, "route": False}
    config = config_from_dict({"observation": {"partners": 1, "goal": goal, **absent}, "policy": {"hidden": 8}})
    policy = Policy(config.observation, SPACE, config.policy)
    run.describe(config, SPACE, ["store"], [])
    run.write(CHECKPOINT, {"networks": {"policy": policy.state_dict()}})
    data = yaml.safe_load((tmp_path / CONFIG).read_text())
    for name in (*absent, "time_left"):
        del data["observation"][name]
    data["observation"]["goal"] = was
    (tmp_path / CONFIG).write_text(yaml.safe_dump(data))
    found, again = load_run(tmp_path, "cpu")
    assert found == config
    assert again.encoder.lights is None


# Variants of a scene


def test_variants_of_a_scene_show_their_lights():
    states = [RED] * 5 + [GREEN] * 6
    (record,) = records(scene(car(-10, 2, speed=10), segments=[EAST], lights=[(0, 20, 3, states)]), space=SPACE)
    plain = lights_seen(record.scene, range(11))
    image = lights_seen(mirrored(record, SPACE).scene, range(11))
    torch.testing.assert_close(image, plain * torch.tensor([1.0, -1, 1, -1, 1, 1, 1, 1]))
    assert torch.equal(lights_seen(piece(record, 3, 9).scene, range(7)), plain[3:10])
    wide = lights_seen(stretched(record, 0.0, 1.5, 0.5).scene, range(11))
    torch.testing.assert_close(wide, plain * torch.tensor([1.5, 0.5, 1, 1, 1, 1, 1, 1]))


# Who runs a red light


def test_a_red_light_is_run_in_the_step_in_which_the_centre_passes_the_stop_point():
    """At x = 17.5, 18.5, 19.5, 20.5: in step 3, and in no other."""
    events = ran_red(car(17.5, speed=10), car(17.5, 1.5, speed=10))
    assert events.nonzero().tolist() == [[0, 3], [1, 3]]
    assert not ran_red(car(10, speed=5)).any()  # it comes as far as 15 m
    assert not ran_red(car(21, speed=10)).any()


@pytest.mark.parametrize("state", LightState)
def test_stop_and_arrow_stop_are_red(state):
    assert ran_red(car(17.5, speed=10), light=state).any() == (state in (LightState.STOP, LightState.ARROW_STOP))


def test_the_state_after_the_step_counts():
    """As in Waymo's metric: it passes in step 3."""
    assert not ran_red(car(17.5, speed=10), light=[RED] * 3 + [GREEN] * 8).any()
    assert ran_red(car(17.5, speed=10), light=[GREEN] * 3 + [RED] * 8).any()


def test_who_goes_another_way_does_not_run_it():
    against = car(22.5, heading=np.pi, speed=10)
    across = car(20.5, -3, np.pi / 2, speed=10)
    beside = car(17.5, 9, speed=10)  # its lane is another
    parallel = (RoadType.LANE, 20, 9, 20, 0.1, 0)
    assert not ran_red(against, across, beside, segments=[EAST, CROSSING, parallel]).any()
    assert ran_red(beside).any()  # for want of a nearer lane


def test_only_vehicles_that_are_there_run_it():
    walker = car(17.5, speed=10, type=AgentType.PEDESTRIAN)
    cyclist = car(17.5, speed=10, type=AgentType.CYCLIST)
    jump = car(17.5, speed=10, valid=valid_only(0, 1, 2, 4, 5))
    keep = Selection(max_controlled=0, remove_non_vehicles=False)
    assert not ran_red(walker, cyclist, jump, selection=keep).any()
    assert not ran_red(car(17.5, speed=10), segments=[CROSSING, CROSSING]).any()  # it would go along x


def test_gpudrive_knows_no_lights():
    assert not ran_red(car(17.5, speed=10), compat="gpudrive").any()


def test_running_a_red_light_ends_nothing_and_costs_what_it_is_said_to():
    s = scene(car(17.5, speed=10), segments=[EAST], lights=[(0, 20, 0, RED)])
    for weight in (0.0, -0.25):
        config = SimConfig(reward="weighted_combination", red_light_weight=weight)
        env = Env(make_worlds([s]), ActionSpace.create("classic", "continuous"), config)
        steps = [env.step(torch.zeros(1, 2)) for _ in range(9)]
        events = torch.stack([step.events[0] for step in steps])
        assert events[:, Event.RED_LIGHT].nonzero().tolist() == [[2]]
        assert not events[:, : Event.GOAL].any()
        assert all(step.alive for step in steps)
        assert [step.reward.item() for step in steps[:7]] == [0, 0, weight, 0, 0, 0, 0]
        assert env.reset() is not None
        assert not env.events().any()


def test_the_share_is_of_vehicles_where_there_are_lights():
    """NaN elsewhere, which is not 0."""
    track, events = torch.zeros(3, 4, 2), torch.zeros(3, len(Event), dtype=torch.bool)
    events[:2, Event.RED_LIGHT] = True
    nobody, everywhere = torch.zeros(3, dtype=torch.bool), torch.ones(3, 4, dtype=torch.bool)
    found = agent_metrics(track, track, everywhere, events, nobody, nobody, torch.tensor([True, False, True]))
    np.testing.assert_array_equal(found.red_light, [1, np.nan, 0])
    assert np.isnan(agent_metrics(track, track, everywhere, events, nobody, nobody).red_light).all()
