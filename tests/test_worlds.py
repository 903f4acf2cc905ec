from collections import Counter

import pytest
from demos import LAYOUT, RULES, counted, drawn, rules_of, run_sampler, run_worlds, scenes_of

from gail_cli.gail.config.load import ConfigError
from gail_cli.gail.demos.prefetch import permuted
from gail_cli.gail.demos.shown import controlled_agents
from gail_cli.gail.demos.stores import Stores
from gail_cli.gail.demos.worlds import WorldStream
from gail_cli.pipeline.experts.replay import NoAgentsError, demo_agents
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.worlds import SelectedAgents


def test_worlds_come_in_an_order_of_the_seed_alone(make_store):
    store = make_store()
    ids = store.scene_ids()
    stream, later = WorldStream(store, rules_of(), 2, seed=3), WorldStream(store, rules_of(), 2, seed=3, start=4)
    batches = [scenes_of(stream.next().worlds) for _ in range(5)]
    assert scenes_of(later.next().worlds) == batches[4]
    for number, batch in enumerate(batches):
        (slices,) = stream.slices(number)
        assert sorted(batch) == sorted(ids[one.scene] for one in slices)
        assert [one.scene for one in slices] == [permuted(5, 3, 2 * number + k) for k in range(2)]
    assert Counter(x for batch in batches for x in batch) == dict.fromkeys(ids, 2)  # ten are two epochs of five
    other = WorldStream(store, rules_of(), 2, seed=4)
    assert [other.slices(k) for k in range(5)] != [stream.slices(k) for k in range(5)]
    for each in (stream, later, other):
        each.close()


def test_no_more_worlds_than_there_are(make_store):
    stream = WorldStream(make_store(), rules_of())
    assert stream.num_worlds == 5
    assert sorted(scenes_of(stream.next().worlds)) == sorted(make_store().scene_ids())
    stream.close()


def test_worlds_come_with_all_that_is_made_of_their_maps(make_store, monkeypatch):
    """So that the thread that steps has nothing to make when it goes on in them."""
    stream = WorldStream(make_store(), rules_of(), 2)
    first, second = stream.next().worlds, stream.next().worlds
    stream.close()
    monkeypatch.setattr("gail_cli.sim.worlds.road_grid", None)
    env = Env(first, make_store().space, RULES, LAYOUT)
    assert env.swap(second).shape == (len(second.controlled), LAYOUT.size)


def test_scenes_with_nobody_to_control_are_passed_over(make_store, sampler, monkeypatch):
    """They neither end a run nor are drawn: here a whole block, and one scene of another."""
    store = make_store()
    ids = store.scene_ids()
    idle = {ids[k] for k in store.part_scenes(0)} | {ids[-2]}

    def choose(record, selection):
        chosen = demo_agents(record, selection)
        able = chosen.controlled & (record.scene.id not in idle)
        return SelectedAgents(chosen.row, able, chosen.parked)

    for place in ("pipeline.experts.replay", "gail.demos.shown"):
        monkeypatch.setattr(f"gail_cli.{place}.demo_agents", choose)
    stream = WorldStream(store, rules_of(), 1, seed=1)
    assert {scenes_of(stream.next().worlds)[0] for _ in range(12)} == set(ids) - idle
    stream.close()
    source = sampler(store)
    assert sum(held is None for held in source._pool.tables[:-1]) == 1
    left = {ids[k] for k in source.sample(200).transition[:, 0]}
    assert left == set(ids) - idle

    idle |= set(ids)
    with pytest.raises(NoAgentsError, match=r"no agent of its 5 scene\(s\) has a demo, may be controlled and passes"):
        sampler(store).sample(8)
    empty = WorldStream(store, rules_of(), 2)
    with pytest.raises(NoAgentsError, match=r"nobody in it may be controlled; check sim\.selection"):
        empty.next()
    empty.close()


# A world for each agent


def lone(worlds):
    """(scene, agent row) of each world's one agent."""
    assert len(worlds.controlled) == worlds.num_worlds
    return [(worlds.scenes[w].id, row) for w, row in worlds.controlled_agents()]


def agents_of(store, selection=RULES.selection):
    return {(r.scene.id, int(row)) for r in store.read() for row in controlled_agents(r, selection)}


@pytest.mark.parametrize("size", [1, 4, 7])
def test_every_agent_has_a_world_once_an_epoch(make_store, size):
    store = make_store()
    truth = agents_of(store)
    stream = WorldStream(store, rules_of(single_agent=True), size, seed=2)
    epochs = size  # so that batches and epochs end together
    batches = [stream.next().worlds for _ in range(epochs * len(truth) // size)]
    assert [w.num_worlds for w in batches] == [size] * len(batches)
    assert Counter(x for w in batches for x in lone(w)) == dict.fromkeys(truth, epochs)
    assert [len(w.roads.start) - 1 for w in batches] == [len({id(s) for s in w.scenes}) for w in batches]
    again = WorldStream(store, rules_of(single_agent=True), size, seed=2, start=5)
    assert lone(again.next().worlds) == lone(batches[5])
    stream.close()
    again.close()


def test_worlds_of_one_scene_share_its_map_and_differ_in_who_drives(make_store):
    store = make_store()
    stream = WorldStream(store, rules_of(single_agent=True), 4)
    worlds = next(b.worlds for b in iter(stream.next, None) if len({s.id for s in b.worlds.scenes}) == 1)
    stream.close()
    assert len(worlds.roads.start) == 2
    assert worlds.tensors["map"].tolist() == [0, 0, 0, 0]
    assert len({row for _, row in worlds.controlled_agents()}) == 4
    rows = [chosen.row.tolist() for chosen in worlds.selected]
    assert rows == [rows[0]] * 4  # everyone is in every world


@pytest.mark.parametrize("rules", [SimConfig(selection=Selection("all_valid")),
                                   SimConfig(selection=Selection(max_controlled=2))])  # fmt: skip
def test_every_agent_has_a_world_also_where_there_are_more_or_fewer_than_usual(make_store, rules):
    store = make_store()
    truth = agents_of(store, rules.selection)
    usual = int(store.index.demos.sum())
    stream = WorldStream(store, rules_of(rules, single_agent=True), 1)
    found = Counter()
    for number in range(usual):
        for variant, *which in stream._read(0, stream.slices(number)[0], number):
            record = variant.record
            found.update((record.scene.id, row) for row in stream._drivers(record, *which))
    stream.close()
    assert found == dict.fromkeys(truth, 1)


def test_a_run_may_know_few_agents_alone(make_store, small):
    """Worlds and demos are of the same agents, which are the first in an order of the seed."""
    store = make_store()
    for seed, most in ((0, 1), (0, 6), (1, 6), (0, 10_000)):
        config = small(
            seed=seed,
            augment={"variants": 1},
            worlds={"num_worlds": 3, "mode": "single_agent", "max_single_agent_envs": most},
        )
        stores = Stores([store])
        stream, source = run_worlds(stores, config), run_sampler(stores, config)
        number = {name: k for k, name in enumerate(store.scene_ids())}
        batches = range(2 + most // 3 if most < 99 else 0)
        visited = {(number[s], row) for _ in batches for s, row in lone(stream.next().worlds)}
        seen = {(scene, agent) for scene, agent, _ in counted(drawn(source, 1, 4000))}
        order = [permuted(5, seed, k) for k in range(5)]
        records = list(store.read())
        everyone = [(k, int(row)) for k in order for row in controlled_agents(records[k], config.sim.selection)]
        assert seen == set(everyone[:most])
        assert visited == (seen if batches else set())
        stream.close()
        source.close()
    with pytest.raises(ConfigError, match=r"needs worlds\.mode single_agent"):
        small(worlds={"max_single_agent_envs": 6})
