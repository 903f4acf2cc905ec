from dataclasses import replace

import numpy as np
import pytest
from demos import (
    HARD,
    LAYOUT,
    RULES,
    all_draws,
    assert_experts_see_what_the_simulator_shows,
    pool_of,
    records,
)
from scenes import car, random_scene, scene, shared, valid_only

from gail_cli.pipeline.experts.replay import NoAgentsError, make_experts
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.records import Record
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.scenario import AgentType


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize(
    ("dynamics", "kind"), [("classic", "discrete"), ("bicycle", "continuous"), ("delta_local", "discrete")]
)
def test_samples_are_what_the_simulator_shows(make_store, dynamics, kind, alone):
    store = make_store(dynamics, kind, scenes=2)
    assert_experts_see_what_the_simulator_shows(list(store.read()), store.space, alone=alone)
    assert_experts_see_what_the_simulator_shows(list(store.read()), store.space, SimConfig(horizon=20), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("selection", [Selection(), Selection("all_valid", False), Selection("all_objects", False)])
def test_samples_are_what_the_simulator_shows_of_difficult_logs(selection, alone):
    """Those, and early ends, late agents, agents that follow their log."""
    space = ActionSpace.create("classic")
    found = records(HARD, random_scene(1), random_scene(2), space=space, selection=selection)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig(selection=selection), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("on_goal", ["stop", "remove"])
def test_samples_are_what_the_simulator_shows_after_arrivals(on_goal, alone):
    """Who has arrived stands, or is gone, in everybody's eyes."""
    space = ActionSpace.create("classic")
    early = car(10, 3, speed=8, valid=valid_only(*range(6)))
    found = records(HARD, scene(car(speed=6), early, car(-8, -3, speed=9)), random_scene(3), space=space)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig(on_goal=on_goal, goal_radius=4.0), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
def test_samples_are_what_the_simulator_shows_where_logs_do_not_end_episodes(alone):
    """An agent whose log ends acts on in the simulator, without an expert, until time runs out."""
    space, short = ActionSpace.create("classic"), car(300, speed=5, valid=valid_only(0, 1, 2, 3, 4, 5))
    rules = SimConfig(end_with_log=False)
    assert_experts_see_what_the_simulator_shows(records(HARD, space=space), space, rules, alone=alone)
    experts = make_experts(records(scene(car(speed=6), short), space=space), rules)
    assert experts.end.tolist() == [10, 10]
    assert experts.transitions.tolist() == [[0, k] for k in range(10)] + [[1, k] for k in range(5)]


def test_samples_are_what_the_simulator_shows_of_real_logs(tmp_path):
    space, store, options = ActionSpace.create("classic"), str(tmp_path / "store"), ExtractOptions(workers=1)
    extract([str(shared("womd", "scenes"))], store, ExtractConfig(space), options=options, limit=2)
    for alone in (False, True):
        assert_experts_see_what_the_simulator_shows(list(DemoStore(store).read()), space, alone=alone)


def test_who_drives_alone_is_among_others_on_their_logs():
    """The nearest vehicle that each sample shows, by hand from the log; the expert itself is where its actions led."""
    space = ActionSpace.create("classic")
    found = records(HARD, scene(*(car(8 * k, 3.1 * k, speed=4 + k) for k in range(5))), space=space)
    for record in found:
        record.demos.state[..., 1] += 1.0  # as if experts drove a metre beside their logs
    pool = pool_of(found, LAYOUT, alone=True)
    draws = all_draws(pool)
    samples = pool.batch(draws)
    assert len(samples.action) > 50
    seen = 0
    for (world, agent, step), observation in zip(samples.transition.tolist(), samples.observation.numpy(), strict=True):
        record = found[world]
        log, there = record.scene.log.astype(np.float64), record.scene.valid[:, step].copy()
        there &= (record.scene.agent_type == AgentType.VEHICLE) & record.scene.valid[:, 0]
        parked = record.scene.parked
        there[parked] = step <= record.scene.last_valid[parked]
        there[agent] = False
        (demo,) = np.flatnonzero(record.demos.agent == agent)
        x, y, heading = record.demos.state[demo, step, :3].astype(np.float64)
        where = np.where(parked[:, None], log[:, 0, :2], log[:, step, :2]) - [x, y]
        distance = np.where(there, np.hypot(*where.T), np.inf)
        nearest = int(distance.argmin())
        turn = np.array([[np.cos(heading), np.sin(heading)], [-np.sin(heading), np.cos(heading)]])
        expected = turn @ where[nearest] / LAYOUT.radius if distance[nearest] < LAYOUT.radius else np.zeros(2)
        first = len(LAYOUT.ego_fields) + 2
        np.testing.assert_allclose(observation[first : first + 2], expected, atol=1e-5)
        seen += distance[nearest] < LAYOUT.radius
    assert seen > 50


def test_agents_without_demos_are_not_controlled(make_store):
    """Whoever the rule of the run would control beyond those of the store goes along with the log."""
    store = make_store(scenes=2)
    (record, _) = store.read()
    fewer = replace(record.demos, **{name: x[1:] for name, x in vars(record.demos).items()})
    for demos, agents in ((record.demos, record.demos.agent), (fewer, record.demos.agent[1:])):
        experts = make_experts([Record(record.scene, demos)], RULES)
        assert [agent for _, agent in experts.worlds.controlled_agents()] == agents.tolist()
    one = make_experts([record], SimConfig(selection=Selection(max_controlled=1)))
    assert len(one.end) == 1
    with pytest.raises(NoAgentsError, match=r"check sim\.selection"):
        make_experts([record], SimConfig(selection=Selection(max_controlled=0)))
