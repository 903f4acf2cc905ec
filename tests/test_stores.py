"""Several stores as one, and stores that still grow."""

import gc
import shutil
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from demos import counted, drawn, rules_of, run_rules, run_sampler, run_worlds, same, scenes_of
from hypothesis import given
from hypothesis import strategies as st

from gail_cli.gail.demos.interleave import Interleave, WeightsError
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.demos.stores import MixedSampler, Stores
from gail_cli.gail.demos.worlds import WorldStream
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.store.growing import GrowingStore
from gail_cli.pipeline.store.schema import StoreError
from gail_cli.pipeline.store.storage import LocalFolder
from gail_cli.pipeline.store.store import DemoStore, manifest
from gail_cli.pipeline.store.writer import commit_part, create_store, finish_store, store_attributes

PLAIN = {"variants": 1}
"""Scenes as they are."""

# Turns


@given(
    st.lists(st.integers(1, 1000), min_size=1, max_size=6),
    st.integers(0, 200_000),
    st.integers(1, 5000),
)
def test_any_run_of_turns_holds_its_share_of_each(weights, first, count):
    interleave = Interleave(weights)
    turns = interleave.turns(first, first + count)
    each = np.bincount(turns, minlength=len(weights))
    assert (interleave.counts(first) + each == interleave.counts(first + count)).all()
    assert interleave.counts(first).sum() == first
    exact = np.array([float(Fraction(w * count, sum(weights))) for w in weights])
    assert np.abs(each - exact).max() < 2.5 + count / 8192  # weights are kept to a part in 65536


@pytest.mark.parametrize("weights", [[], [1, 0], [1, -1], [1, float("nan")], [float("inf"), 1]])
def test_weights_that_are_none(weights):
    with pytest.raises(ValueError, match="must be positive finite numbers, one per store"):
        Interleave(weights)


def test_a_store_of_tiny_weight_has_its_turn():
    assert Interleave([1e-12, 1]).counts(1 << 16).tolist() == [1, (1 << 16) - 1]


# Several stores


@pytest.fixture
def two(make_store):
    """Stores of five and of three scenes."""
    return make_store(), make_store(scenes=3)


@pytest.fixture
def config(small):
    def make(**data):
        return small(
            augment=PLAIN, sim={"horizon": None}, data={"pool_scenes": 3, "rows_per_scene": 30, **data}, seed=4
        )

    return make


def test_one_store_is_as_if_there_were_none_around_it(make_store, config):
    stores = Stores.open([make_store().path])
    alone = DemoSampler(make_store(), run_rules(config()), seed=4)
    source = run_sampler(stores, config())
    assert same(drawn(source, 9), drawn(alone, 9))
    assert source.state_dict() == {"seed": 4, "drawn": 9 * 32}
    resumed = run_sampler(stores, config(), drawn=5 * 32)
    assert same(drawn(resumed, 3), drawn(run_sampler(stores, config()), 9)[5:8])
    stream, other = run_worlds(stores, config()), WorldStream(make_store(), run_rules(config()), 2, seed=4)
    for _ in range(4):
        ours, theirs = stream.next().worlds, other.next().worlds
        assert scenes_of(ours) == scenes_of(theirs)
        assert torch.equal(ours.log, theirs.log)
    assert stores.location == make_store().location
    for each in (stream, other, alone, source, resumed):
        each.close()


def test_batches_hold_rows_of_each_store_by_weight(two, config):
    stores = Stores(two, [1, 3])
    source = run_sampler(stores, config(pool_scenes=4096))
    assert isinstance(source, MixedSampler)
    for batch in drawn(source, 5, 64):
        assert (batch.transition[:, 0] >= 5).sum() == 48
    batch = source.sample(4000, next_state=True, history=2)
    whole = {}
    for k, offset in ((0, 0), (1, 5)):
        single = run_sampler(Stores([two[k]]), config(pool_scenes=4096))
        for _ in range(4):
            rows = single.sample(4000, next_state=True, history=2)
            for row, (scene, agent, step) in enumerate(rows.transition.tolist()):
                whole[scene + offset, agent, step] = rows, row
    found = 0
    for row, key in enumerate(batch.transition.tolist()):
        if tuple(key) in whole:
            rows, other = whole[tuple(key)]
            for name in ("observation", "action", "next_observation", "history", "history_mask", "done"):
                assert torch.equal(getattr(batch, name)[row], getattr(rows, name)[other]), name
            found += 1
    assert found > 3000
    assert set(batch.transition[:, 0].tolist()) == set(range(8))


@pytest.mark.parametrize("pool_scenes", [2, 4096])
def test_several_stores_go_on_where_they_were(two, config, pool_scenes):
    settings = config(pool_scenes=pool_scenes)
    sizes = [16, 50, 1, 16, 120, 7]
    source = run_sampler(Stores(two, [0.3, 0.7]), settings)
    unbroken, states = [], []
    for size in sizes:
        states.append(source.state_dict())
        unbroken.append(source.sample(size))
    other = Stores(two, [0.3, 0.7]).sampler(run_rules(settings), seed=9)
    for start, state in enumerate(states):
        assert state == {"seed": 4, "drawn": sum(sizes[:start])}
        later = run_sampler(Stores(two, [0.3, 0.7]), settings, drawn=state["drawn"])
        other.load_state_dict(state)
        for each in (later, other):
            assert same([each.sample(size) for size in sizes[start:]], unbroken[start:]), start
        later.close()
    source.close()
    other.close()


@pytest.mark.parametrize("alone", [False, True])
def test_worlds_come_from_each_store_by_weight(two, alone):
    stream = WorldStream(two, rules_of(single_agent=alone), 4, seed=1, weights=[1, 3])
    ids = [set(store.scene_ids()) for store in two]
    assert ids[1] < ids[0]  # the second is of the first three scenes
    for number in range(20):
        slices = stream.slices(number)
        assert [sum(s.last - s.first for s in each) for each in slices] == [1, 3]
        assert stream.next().worlds.num_worlds == 4
    later = WorldStream(two, rules_of(single_agent=alone), 4, seed=1, weights=[1, 3], start=20)
    assert scenes_of(later.next().worlds) == scenes_of(stream.next().worlds)
    visited = Counter(s.scene for number in range(20) for s in stream.slices(number)[0])
    if not alone:
        assert visited == dict.fromkeys(range(5), 4)
    stream.close()
    later.close()


def test_the_share_of_absorbing_steps_is_that_of_the_mixture(two, small):
    config = small(augment=PLAIN, sim={"on_goal": "stop", "goal_radius": 12.0, "horizon": 60})
    one, other = (run_sampler(Stores([store]), config).absorbing_share for store in two)
    assert one != other
    idle = 0.25 * one / (1 - one) + 0.75 * other / (1 - other)
    assert run_sampler(Stores(two, [1, 3]), config).absorbing_share == pytest.approx(idle / (1 + idle), rel=1e-4)


def test_stores_that_do_not_go_together(make_store, two, tmp_path):
    other = make_store("bicycle", "continuous", scenes=2)
    with pytest.raises(StoreError, match=r"its actions are not those of .*; extract both with the same settings"):
        Stores([two[0], other])
    short = DemoStore(two[1].path)
    short.steps = 20
    with pytest.raises(StoreError, match="its steps are not those of"):
        Stores([two[0], short])
    for given_weights, what, fix in (
        ([1.0], "1 weight(s) for 2 store(s)", "give one per store"),
        ([1, -1], "[1, -1]: they must be positive finite numbers, one per store", ""),
    ):
        with pytest.raises(WeightsError) as caught:
            Stores(two, given_weights)
        assert (caught.value.where, caught.value.what, caught.value.fix) == ("data.store_weights", what, fix)
    with pytest.raises(StoreError, match=r"^no store; name at least one$"):
        Stores([])
    assert Stores(two).location == f"{two[0].location} (weight 1), {two[1].location} (weight 1)"


def test_demos_of_another_split_come_out_of_a_small_pool(make_store, config):
    stores = Stores([make_store()])
    assert stores.held_out(run_rules(config())) is None  # all scenes are of the training split
    source = stores.held_out(run_rules(config(pool_scenes=4096)), split="train")
    assert source.rules.data.pool_scenes == 64
    assert len(source.sample(16).action) == 16


# A store that grows


@pytest.fixture
def growing(make_store, tmp_path):
    """The beginning of a store, and a function that commits its next part; the last time it finishes it."""
    whole = make_store()
    storage, entries = LocalFolder(tmp_path / "growing"), manifest(LocalFolder(whole.path))
    create_store(storage, store_attributes(whole.own_space, whole.steps, plan="p"))
    order = iter([2, 0, 1])  # parts are finished in any order

    def commit():
        part = next(order, None)
        if part is None:
            finish_store(storage, {})
            return
        name = f"parts/{whole.parts[part]}"
        shutil.copytree(whole.path / name, tmp_path / "growing" / name)
        commit_part(storage, entries[part])

    return tmp_path / "growing", commit


def open_growing(path):
    return Stores.open([path], grows=True)


def test_an_unfinished_store_is_refused_unless_it_may_grow(growing, config):
    path, _ = growing
    with pytest.raises(StoreError, match="its extraction did not finish; run the same command again"):
        Stores.open([path])
    with pytest.raises(NoAgentsError, match="it has no scene yet; wait until its extraction has finished a part"):
        run_sampler(open_growing(path), config())
    with pytest.raises(NoAgentsError, match="it has no scene yet"):
        run_worlds(open_growing(path), config())


def test_scenes_keep_their_numbers_while_others_join(growing, make_store):
    path, commit = growing
    commit()
    store = GrowingStore(path)
    whole = make_store()
    ids = whole.scene_ids()
    known = [ids[4]]
    assert store.scene_ids() == known
    assert store.refresh() == 0
    for joined in ([ids[0], ids[1]], [ids[2], ids[3]], []):
        commit()
        assert store.refresh() == len(joined)
        known += joined
        assert store.scene_ids() == known
        assert [r.scene.id for r in store.read()] == known
        assert [r.scene.id for r in store.read([0, 1])] == known[:2]
        assert store.totals["scenes"] == len(store) == len(known)
    finished = DemoStore(path)
    assert finished.scene_ids() == ids
    assert store.totals == finished.totals == whole.totals
    assert store.index.demos.sum() == whole.index.demos.sum()
    assert len(GrowingStore(whole.path)) == 5
    assert GrowingStore(whole.path).scene_ids() == ids


def test_looking_for_parts_reads_no_file_when_there_are_none(growing, monkeypatch):
    path, commit = growing
    commit()
    stores = open_growing(path)
    monkeypatch.setattr(LocalFolder, "read", lambda self, names: [] if not names else pytest.fail(f"read {names}"))
    assert stores.refresh() == 0


@pytest.mark.parametrize("pool_scenes", [2, 4096])
@pytest.mark.parametrize("mode", ["multi_agent", "single_agent"])
def test_training_goes_on_while_a_store_grows(growing, make_store, small, pool_scenes, mode):
    """As the trainer has it: a rollout's worlds and batches, then a look; in the end all demos are drawn, evenly."""
    path, commit = growing
    config = small(
        augment=PLAIN,
        sim={"horizon": 10},
        data={"pool_scenes": pool_scenes, "rows_per_scene": 256},
        worlds={"num_worlds": 4, "mode": mode},
    )
    commit()
    stores = open_growing(path)
    source, stream = run_sampler(stores, config), run_worlds(stores, config)
    joined, visited = [], set()
    for rollout in range(24):
        visited |= set(scenes_of(stream.next().worlds))
        batch = source.sample(256)
        assert batch.transition[:, 0].max() < len(stores)
        if rollout in (3, 4, 6):
            commit()
        joined.append(stores.refresh())
    assert {k: n for k, n in enumerate(joined) if n} == {3: 2, 4: 2}
    assert visited == set(make_store().scene_ids())
    counts = counted(drawn(source, 20, 500))
    assert {scene for scene, _, _ in counts} == set(range(5))
    names = stores.stores[0].scene_ids()
    whole = run_sampler(Stores([make_store()]), small(augment=PLAIN, sim={"horizon": 10}))
    reference = counted(drawn(whole, 5, 2000))
    ids = make_store().scene_ids()
    assert {(names[s], a, t) for s, a, t in counts} == {(ids[s], a, t) for s, a, t in reference}
    if pool_scenes == 4096:  # everything is held: draws are uniform
        share = np.array(list(counts.values())) / counts.total() * len(counts)
        assert share.std() < 1.2 * np.sqrt(len(counts) / counts.total())
    assert sum(table is not None and len(table) > 0 for table in source._pool.tables) <= max(5, pool_scenes)
    source.close()
    stream.close()


@pytest.mark.parametrize("pool_scenes", [2, 4096])
def test_a_state_is_loaded_as_if_all_scenes_had_been_there_from_the_start(growing, config, pool_scenes):
    path, commit = growing
    commit()
    stores = open_growing(path)
    source = run_sampler(stores, config(pool_scenes=pool_scenes))
    early = source.state_dict()
    drawn(source, 3)
    commit()
    stores.refresh()
    drawn(source, 3)
    for state in (early, source.state_dict()):
        source.load_state_dict(state)
        fresh = run_sampler(stores, config(pool_scenes=pool_scenes), drawn=state["drawn"])
        assert same(drawn(source, 4), drawn(fresh, 4))
        fresh.close()
    source.close()


def test_agents_are_limited_in_a_store_that_grows_too(growing, small):
    path, commit = growing
    commit()
    stores = open_growing(path)
    most = int(stores.stores[0].index.demos.sum()) + 3
    config = small(augment=PLAIN, worlds={"num_worlds": 2, "mode": "single_agent", "max_single_agent_envs": most})
    source, stream = run_sampler(stores, config), run_worlds(stores, config)
    before = {t[:2] for t in counted(drawn(source, 1, 3000))}
    commit()
    commit()
    stores.refresh()
    after = {t[:2] for t in counted(drawn(source, 1, 3000))}
    assert before < after
    assert len(before) == most - 3
    assert len(after) == most
    source.close()
    stream.close()


def test_a_store_that_another_one_replaced_is_told(growing):
    path, commit = growing
    commit()
    stores = open_growing(path)
    storage = LocalFolder(path)
    entries = manifest(storage)
    whole = stores.stores[0]
    create_store(storage, store_attributes(whole.own_space, whole.steps, plan="another"))
    commit_part(storage, {**entries[0], "part": "00000"})
    with pytest.raises(StoreError, match="another one took its place; begin a new run"):
        stores.refresh()


def test_what_nobody_uses_any_more_is_not_kept(make_store, config):
    stores = Stores([make_store()])
    source = run_sampler(stores, config())
    assert len(stores._readers) == 1
    source.close()
    del source
    gc.collect()
    assert len(stores._readers) == 0
