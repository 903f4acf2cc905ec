import threading
from collections import Counter
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch
from scenes import car, random_scene, scene, shared, valid_only

from gail.background import Prefetch
from gail.demos import DemoSampler, WorldStream, _samples, permuted
from pipeline.expert import replay_experts
from pipeline.extract import ExtractConfig, extract
from pipeline.replay import ExpertObserver, NobodyError, demo_agents, make_experts
from pipeline.store import DemoStore, Record, StoreError
from sim.actions import ActionSpace
from sim.env import Env, SimConfig
from sim.layout import ObservationConfig
from sim.worlds import SelectedAgents, Selection

LAYOUT = ObservationConfig(partners=4, road_segments=8)
RULES = SimConfig()


def records(*scenes, space, selection=RULES.selection):
    return [Record(*pair) for pair in zip(scenes, replay_experts(scenes, space, selection), strict=True)]


def assert_experts_see_what_the_simulator_shows(records, space, rules=RULES):
    """Let the experts drive; at each step compare what those alive see with the samples of the same transitions."""
    experts = make_experts(records, rules)
    number = {tuple(transition): k for k, transition in enumerate(experts.transitions.tolist())}
    for layout in (LAYOUT, ObservationConfig.gpudrive()):
        observer, env = ExpertObserver(experts, layout), Env(experts.worlds, space, rules, layout)
        observation, seen = env.reset(), 0
        for step in range(env.horizon):
            alive = env.alive().nonzero().flatten()
            samples = _samples(observer, torch.tensor([number[agent, step] for agent in alive.tolist()], dtype=int))
            here = observation[alive].clone()
            here[:, list(layout.hidden_from_discriminator)] = 0.0
            assert torch.equal(samples.observation, here), step
            assert torch.equal(samples.action, experts.action[alive, step])
            seen += len(alive)
            observation = env.step(experts.action[:, step]).observation
        assert seen == experts.num_transitions > 0


@pytest.mark.parametrize(
    ("dynamics", "kind"), [("classic", "discrete"), ("bicycle", "continuous"), ("delta_local", "discrete")]
)
def test_samples_are_what_the_simulator_shows(make_store, dynamics, kind):
    store = make_store(dynamics, kind, scenes=2)
    assert_experts_see_what_the_simulator_shows(list(store.read()), store.space)
    assert_experts_see_what_the_simulator_shows(list(store.read()), store.space, SimConfig(horizon=20))


def jittering(*args, **rest):
    """A parked car as real logs have it: never quite at rest."""
    agent = car(*args, **rest)
    agent.log[1:-1] += np.random.default_rng(0).normal(0, 0.05, agent.log[1:-1].shape)
    agent.log[:, 3:] += 0.05
    return agent


HARD = scene(
    car(speed=6),
    jittering(8, 4),
    jittering(12, -4, valid=valid_only(0, 1, 2, 7)),
    car(20, speed=5, valid=valid_only(0, 1, 5, 6, 7, 8, 9, 10)),
)
"""A parked car, one that vanishes and comes back, and a gap in a log."""


@pytest.mark.parametrize("selection", [Selection(), Selection("all_valid", False), Selection("all_objects", False)])
def test_samples_are_what_the_simulator_shows_of_difficult_logs(selection):
    """Those, and early ends, late agents, agents that follow their log."""
    space = ActionSpace.create("classic")
    found = records(HARD, random_scene(1), random_scene(2), space=space, selection=selection)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig(selection=selection))


def test_samples_are_what_the_simulator_shows_where_logs_do_not_end_episodes():
    """An agent whose log ends acts on in the simulator, without an expert, until time runs out."""
    space, short = ActionSpace.create("classic"), car(300, speed=5, valid=valid_only(0, 1, 2, 3, 4, 5))
    rules = SimConfig(end_with_log=False)
    assert_experts_see_what_the_simulator_shows(records(HARD, space=space), space, rules)
    experts = make_experts(records(scene(car(speed=6), short), space=space), rules)
    assert experts.end.tolist() == [10, 10]
    assert experts.transitions.tolist() == [[0, k] for k in range(10)] + [[1, k] for k in range(5)]


def test_samples_are_what_the_simulator_shows_of_real_logs(tmp_path):
    space = ActionSpace.create("classic")
    extract([str(shared("womd", "scenes"))], str(tmp_path / "store"), ExtractConfig(space), workers=1, limit=3)
    assert_experts_see_what_the_simulator_shows(list(DemoStore(tmp_path / "store").read()), space)


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
    with pytest.raises(NobodyError, match=r"check sim\.selection"):
        make_experts([record], SimConfig(selection=Selection(max_controlled=0)))


# The sampler


def sampler(store, **options):
    return DemoSampler(store, LAYOUT, RULES, **options)


def drawn(source, batches, size=32):
    return [source.sample(size) for _ in range(batches)]


def same(some, others):
    pairs = zip(some, others, strict=True)
    return all(torch.equal(a.observation, b.observation) and torch.equal(a.action, b.action) for a, b in pairs)


def keys(samples):
    """What tells one transition from another."""
    return [row.numpy().tobytes() for row in samples.observation]


def test_draws_are_uniform_over_all_transitions(make_store):
    """Chi-square over every transition of three parts: within five deviations of its mean, the degrees of freedom."""
    store = make_store()
    parts = [ExpertObserver(make_experts(store.read_part(part), RULES), LAYOUT) for part in store.parts]
    everything = [_samples(part, torch.arange(part.experts.num_transitions)) for part in parts]
    actions = {k: a.tolist() for part in everything for k, a in zip(keys(part), part.action, strict=True)}
    total = sum(part.experts.num_transitions for part in parts)
    assert len(actions) == total
    assert len({part.experts.num_transitions for part in parts}) > 1
    source, found = sampler(store), Counter()
    for batch in drawn(source, 10, 3 * total):
        found.update(keys(batch))
        assert [actions[key] for key in keys(batch)[::97]] == batch.action[::97].tolist()
    assert found.keys() <= actions.keys()
    counts = np.array([found[key] for key in actions])
    expected = 30.0
    freedom = total - 1
    assert abs(((counts - expected) ** 2 / expected).sum() - freedom) < 5 * np.sqrt(2 * freedom)
    assert counts.sum() == 30 * total


@pytest.mark.parametrize("pool_parts", [1, 2, 8])
def test_the_same_seed_gives_the_same_batches(make_store, pool_parts):
    first, again, other = (
        drawn(sampler(make_store(), pool_parts=pool_parts, batches_per_part=2, seed=seed), 9) for seed in (3, 3, 4)
    )
    assert same(first, again)
    assert not same(first, other)
    assert len({keys(batch)[0] for batch in first}) > 1


@pytest.mark.parametrize("pool_parts", [1, 2, 8])
def test_a_sampler_goes_on_where_another_stopped(make_store, pool_parts):
    """Wherever it stopped: before, at, and after a part is replaced, and in a later epoch."""
    options = {"pool_parts": pool_parts, "batches_per_part": 2, "seed": 1}
    unbroken = drawn(sampler(make_store(), **options), 9)
    for start in range(9):
        source = sampler(make_store(), drawn=start, **options)
        assert same(drawn(source, 9 - start), unbroken[start:]), start
        assert source.drawn == 9
        source.close()


def test_the_pool_is_bounded_and_passes_over_every_part_each_epoch(make_store):
    store = make_store()
    scenes = {key: part for part in store.parts for key in part_keys(store, part)}
    source = sampler(store, pool_parts=2, batches_per_part=1, seed=5)
    seen = []
    for batch in drawn(source, 9, 256):
        seen.append({scenes[key] for key in keys(batch)})
        assert len(source._pool) == 2
    source.close()
    order = [store.parts[permuted(3, 5, number)] for number in range(10)]
    assert seen == [set(order[k : k + 2]) for k in range(9)]
    for epoch in range(3):
        assert set.union(*seen[3 * epoch : 3 * epoch + 3]) == set(store.parts)


def part_keys(store, part):
    observer = ExpertObserver(make_experts(store.read_part(part), RULES), LAYOUT)
    return keys(_samples(observer, torch.arange(observer.experts.num_transitions)))


# The order of things


@pytest.mark.parametrize("length", [1, 5, 100])
def test_each_epoch_is_a_permutation_of_its_own(length):
    epochs = [tuple(permuted(length, 7, length * epoch + k) for k in range(length)) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len(set(epochs)) == (1 if length == 1 else 4)
    assert epochs[0] != tuple(permuted(length, 8, k) for k in range(length)) or length == 1


def scenes_of(worlds):
    return [scene.id for scene in worlds.scenes]


def test_worlds_come_in_an_order_of_the_seed_alone(make_store):
    store = make_store()
    ids = store.scene_ids()
    stream, later = WorldStream(store, RULES, LAYOUT, 2, seed=3), WorldStream(store, RULES, LAYOUT, 2, seed=3, start=4)
    batches = [scenes_of(stream.next()) for _ in range(5)]
    assert scenes_of(later.next()) == batches[4]
    for number, batch in enumerate(batches):
        assert sorted(batch) == sorted(ids[k] for k in stream.scenes(number))
        assert [stream.scenes(number)] == [[permuted(5, 3, 2 * number + k) for k in range(2)]]
    assert Counter(x for batch in batches for x in batch) == dict.fromkeys(ids, 2)  # ten are two epochs of five
    other = WorldStream(store, RULES, LAYOUT, 2, seed=4)
    assert [other.scenes(k) for k in range(5)] != [stream.scenes(k) for k in range(5)]
    for each in (stream, later, other):
        each.close()


def test_no_more_worlds_than_there_are(make_store):
    stream = WorldStream(make_store(), RULES, LAYOUT)
    assert stream.num_worlds == 5
    assert sorted(scenes_of(stream.next())) == sorted(make_store().scene_ids())
    stream.close()


def test_worlds_come_with_all_that_is_made_of_their_maps(make_store, monkeypatch):
    """So that the thread that steps has nothing to make when it goes on in them."""
    stream = WorldStream(make_store(), RULES, LAYOUT, 2)
    first, second = stream.next(), stream.next()
    stream.close()
    monkeypatch.setattr("sim.worlds.road_grid", None)
    env = Env(first, make_store().space, RULES, LAYOUT)
    assert env.swap(second).shape == (len(second.controlled), LAYOUT.size)


def test_scenes_with_nobody_to_control_are_passed_over(make_store, monkeypatch):
    """They neither end a run nor are drawn: here a whole part, and one scene of another."""
    store = make_store()
    ids, parts = store.scene_ids(), [part for part, _ in store.places()]
    idle = {ids[k] for k in range(len(ids)) if parts[k] == store.parts[0]} | {ids[-2]}

    def choose(record, selection):
        chosen = demo_agents(record, selection)
        able = chosen.controlled & (record.scene.id not in idle)
        return SelectedAgents(chosen.row, able, chosen.parked)

    monkeypatch.setattr("gail.demos.demo_agents", choose)
    stream = WorldStream(store, RULES, LAYOUT, 1, seed=1)
    assert {scenes_of(stream.next())[0] for _ in range(12)} == set(ids) - idle
    stream.close()
    source = sampler(store)
    assert sum(held is None for held in source._pool) == 1
    assert len(source.sample(8).action) == 8

    idle |= set(ids)
    with pytest.raises(NobodyError, match=r"no agent of the 3 part\(s\) held has a demo and may be controlled"):
        sampler(store).sample(8)
    empty = WorldStream(store, RULES, LAYOUT, 2)
    with pytest.raises(NobodyError, match=r"nobody in it may be controlled; check sim\.selection"):
        empty.next()
    empty.close()


# In the background


def test_errors_of_the_background_surface(make_store, monkeypatch):
    store = make_store()
    source = sampler(store, pool_parts=1, batches_per_part=1)
    source.sample(4)
    source._prefetch.close()

    def damaged(part):
        raise StoreError(f"part {part}: damaged")

    monkeypatch.setattr(store, "read_part", damaged)
    broken = WorldStream(store, RULES, LAYOUT, 2)
    with pytest.raises(StoreError, match="damaged"):
        broken.next()
    broken.close()
    source._prefetch = Prefetch(source._load, 1)
    with pytest.raises(StoreError, match="damaged"):
        source.sample(4)
    source.close()


def test_items_come_in_order_and_no_further_ahead_than_told():
    made, enough = [], threading.Event()

    def make(number):
        made.append(number)
        if number == 3:
            enough.set()
        return number

    ahead = Prefetch(make, start=2, ahead=1)
    assert enough.wait(timeout=10)  # 2 waits, 3 is held
    assert made == [2, 3]
    assert [ahead.next() for _ in range(5)] == [2, 3, 4, 5, 6]
    ahead.close()
    assert made == [*range(2, 2 + len(made))]
    assert 5 <= len(made) <= 7  # one may wait, and one may be in the making
    assert not ahead._thread.is_alive()


def test_what_was_made_before_an_error_is_handed_out_first():
    numbers = iter([10, 20])
    ahead = Prefetch(lambda number: next(numbers), ahead=5)
    assert [ahead.next(), ahead.next()] == [10, 20]
    with pytest.raises(StopIteration):
        ahead.next()
    ahead.close()


@pytest.mark.parametrize("ahead", [1, 3])
def test_closing_ends_the_thread_whatever_it_is_at(ahead):
    for taken in range(3):
        source = Prefetch(lambda number: number, ahead=ahead)
        assert [source.next() for _ in range(taken)] == list(range(taken))
        source.close()
        assert not source._thread.is_alive()
        source.close()


def test_closing_waits_for_the_item_being_made():
    begun, may_end, done = threading.Event(), threading.Event(), count()

    def make(number):
        begun.set()
        may_end.wait(timeout=10)
        return next(done)

    source = Prefetch(make)
    begun.wait(timeout=10)
    closing = threading.Thread(target=source.close)
    closing.start()
    assert closing.is_alive()
    may_end.set()
    closing.join(timeout=10)
    assert not closing.is_alive()
    assert not source._thread.is_alive()
    assert next(done) <= 2
