import gc
import subprocess
import sys
import threading
import weakref
from collections import Counter
from dataclasses import fields, replace
from itertools import count, islice
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from scenes import car, random_scene, scene, shared, valid_only
from torch.utils.data import DataLoader

from gail.background import Prefetch, permuted
from gail.config import ConfigError, DataConfig, load_config
from gail.dataset import DemoDataset, current_rank
from gail.demos import DemoSampler, blocks_of
from gail.pool import Picks, Pool, load_block
from gail.worlds import WorldStream
from pipeline.build import ExtractConfig
from pipeline.expert import QUALITY, replay_experts
from pipeline.extract import ExtractOptions, extract
from pipeline.replay import ExpertObserver, NobodyError, demo_agents, make_experts
from pipeline.schema import Record, StoreError
from pipeline.store import DemoStore
from sim.actions import ActionSpace
from sim.env import Env, SimConfig
from sim.layout import ObservationConfig
from sim.scenario import AgentType
from sim.scene import Role
from sim.worlds import SelectedAgents, Selection, select_agents

LAYOUT = ObservationConfig(partners=4, road_segments=8)
RULES = SimConfig()
EVERYTHING = DataConfig(split="all")
CPU = torch.device("cpu")


def records(*scenes, space, selection=RULES.selection):
    chosen = [select_agents(scene, selection) for scene in scenes]
    demos = replay_experts(scenes, space, [agents.row[agents.controlled] for agents in chosen])
    return [Record(*pair) for pair in zip(scenes, demos, strict=True)]


def pool_of(records, layout, rules=RULES, data=EVERYTHING):
    """A pool that holds these scenes in its second place."""
    pool = Pool(2, layout, CPU)
    pool.put(1, load_block(records, range(len(records)), rules, layout, data, CPU))
    return pool


def all_picks(pool):
    """Every transition of a pool, each in the row of its number in reverse."""
    table = pool.table
    demo = np.repeat(np.arange(len(table)), table.count)
    step = np.concatenate([f + np.arange(n) for f, n in zip(table.first, table.count, strict=True)])
    return Picks(demo, step.astype(np.int32), np.arange(len(demo))[::-1].copy())


def assert_experts_see_what_the_simulator_shows(records, space, rules=RULES):
    """Let the experts drive; at each step compare what those alive see with the samples of the same transitions."""
    experts = make_experts(records, rules)
    rows = [(w, row) for w, row in experts.worlds.controlled_agents()]
    for layout in (LAYOUT, ObservationConfig.gpudrive()):
        env, pool = Env(experts.worlds, space, rules, layout), pool_of(records, layout, rules)
        samples = pool.batch(all_picks(pool))
        number = {tuple(t): k for k, t in enumerate(samples.transition.tolist())}
        observation, seen = env.reset(), 0
        for step in range(env.horizon):
            alive = env.alive().nonzero().flatten()
            pick = torch.tensor([number[(*rows[agent], step)] for agent in alive.tolist()], dtype=int)
            here = observation[alive].clone()
            here[:, list(layout.hidden_from_discriminator)] = 0.0
            assert torch.equal(samples.observation[pick], here), step
            assert torch.equal(ExpertObserver(experts, layout).observe(alive, torch.full_like(alive, step)), here)
            assert torch.equal(samples.action[pick], experts.action[alive, step])
            seen += len(alive)
            observation = env.step(experts.action[:, step]).observation
        assert seen == experts.num_transitions == len(number) > 0


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


@pytest.mark.parametrize("on_goal", ["stop", "remove"])
def test_samples_are_what_the_simulator_shows_after_arrivals(on_goal):
    """Who has arrived stands, or is gone, in everybody's eyes."""
    space = ActionSpace.create("classic")
    early = car(10, 3, speed=8, valid=valid_only(*range(6)))
    found = records(HARD, scene(car(speed=6), early, car(-8, -3, speed=9)), random_scene(3), space=space)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig(on_goal=on_goal, goal_radius=4.0))


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
    extract(
        [str(shared("womd", "scenes"))],
        str(tmp_path / "store"),
        ExtractConfig(space),
        options=ExtractOptions(workers=1),
        limit=3,
    )
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


@pytest.fixture
def sampler(make_store):
    """Makes samplers of the store of five scenes, in blocks of one or two."""
    made = []

    def make(store=None, seed=0, drawn=0, shard=(0, 1), scene_weights=None, **data):
        options = {"seed": seed, "drawn": drawn, "shard": shard, "scene_weights": scene_weights}
        made.append(DemoSampler(store or make_store(), LAYOUT, RULES, data=DataConfig(**data), **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def drawn(source, batches, size=32, **options):
    return [source.sample(size, **options) for _ in range(batches)]


def same(some, others):
    """Whether batches are equal to the last bit."""
    return all(
        torch.equal(getattr(a, f.name), getattr(b, f.name))
        for a, b in zip(some, others, strict=True)
        for f in fields(a)
        if getattr(a, f.name) is not None
    )


def transitions(store, rules=RULES):
    """Every (scene, agent, step) of a store in which an expert acts, by brute force, with its action."""
    found = {}
    for scene_number, record in enumerate(store.read()):
        chosen = select_agents(record.scene, rules.selection)
        controlled = set(chosen.row[chosen.controlled].tolist())
        for agent, mark, action in zip(record.demos.agent, record.demos.mark, record.demos.action, strict=True):
            if int(agent) in controlled:
                for step in np.flatnonzero(mark[:-1] * mark[1:]).tolist():
                    found[scene_number, int(agent), step] = action[step].tolist()
    return found


def counted(batches):
    return Counter(tuple(t) for batch in batches for t in batch.transition.tolist())


def chi_square(counts, expected):
    """By how many standard deviations the statistic exceeds its mean."""
    observed = np.array([counts[key] for key in expected])
    wanted = np.array(list(expected.values()), float)
    assert wanted.min() > 5
    assert counts.total() == observed.sum()
    np.testing.assert_allclose(wanted.sum(), observed.sum())
    freedom = len(wanted) - 1
    return (((observed - wanted) ** 2 / wanted).sum() - freedom) / np.sqrt(2 * freedom)


def summed(counts, *columns):
    """Counts by some of scene, agent and step."""
    total = Counter()
    for key, n in counts.items():
        total[tuple(key[c] for c in columns)] += n
    return total


def test_draws_are_uniform_over_scenes_agents_steps_and_transitions(make_store, sampler):
    truth = transitions(make_store())
    batches = drawn(sampler(), 20, len(truth))
    counts = counted(batches)
    for columns in ((0,), (0, 1), (2,), (0, 1, 2)):
        expected = summed(dict.fromkeys(truth, 20), *columns)
        assert abs(chi_square(summed(counts, *columns), expected)) < 4, columns
    for batch in batches[:2]:
        same_agent = (batch.transition[1:, :2] == batch.transition[:-1, :2]).all(dim=1)
        assert same_agent.float().mean() < 0.2  # rows are in random order, neighbours do not belong together
        assert [truth[tuple(t)] for t in batch.transition.tolist()] == batch.action.tolist()


def test_draws_are_uniform_over_an_epoch_of_a_pool_that_turns(make_store, sampler):
    """Blocks are of unlike size and share the pool with unlike others, which tilts draws by some percent."""
    store = make_store()
    truth = transitions(store)
    source = sampler(pool_scenes=3, rows_per_scene=3000)
    assert source._rotates
    counts = counted(drawn(source, 60, 1000 * len(source._blocks)))
    assert counts.keys() == truth.keys()
    shares = np.array([counts[key] for key in truth]) / counts.total() * len(truth)
    assert abs(shares - 1).mean() < 0.15


@pytest.mark.parametrize("weights", ["transition", "scene"])
def test_weights(make_store, sampler, weights):
    truth = transitions(make_store())
    per_scene = summed(dict.fromkeys(truth, 1), 0)
    given = {0: 2.0, 3: 0.0, 4: 0.5}
    rows = 40_000
    share = {
        key: given.get(key[0], 1.0) / (per_scene[key[0],] if weights == "scene" else 1) for key in truth if key[0] != 3
    }
    expected = {key: rows * s / sum(share.values()) for key, s in share.items()}
    by_name = drawn(sampler(weights=weights, scene_weights=given), 4, rows // 4)
    for columns in ((0,), (0, 1), (0, 1, 2)):
        assert abs(chi_square(summed(counted(by_name), *columns), summed(expected, *columns))) < 4, columns
    as_array = sampler(weights=weights, scene_weights=[2, 1, 1, 0, 0.5])
    assert sorted(np.concatenate(as_array._blocks).tolist()) == [0, 1, 2, 4]  # what is never drawn is not read
    assert same(by_name, drawn(as_array, 4, rows // 4))
    for bad in ([1, 1], [1, 1, 1, 1, -1], [1, 1, 1, 1, np.nan]):
        with pytest.raises(ValueError, match="give 5 finite numbers, one a scene, of which none is negative"):
            sampler(scene_weights=bad)


def test_a_batch_holds_as_many_scenes_as_independent_draws_would(tmp_path):
    """200 scenes of unlike size: sum of 1 - (1 - p)^B over scenes with the share p of all transitions."""
    space = ActionSpace.create("delta_local", "continuous")
    scenes = [random_scene(seed, agents=1 + seed % 4, segments=2) for seed in range(200)]
    found = records(*scenes, space=space)
    pool = pool_of(found, LAYOUT)
    share = np.bincount(pool.table.scene, pool.table.count) / pool.table.count.sum()
    expected = (1 - (1 - share) ** 1024).sum()
    source = DemoSampler.__new__(DemoSampler)
    source._pool, source._weight, source._data = pool, np.ones(200), EVERYTHING
    source._weigh()
    picks = [source._pick(np.random.default_rng(k), 1024) for k in range(20)]
    distinct = [len(np.unique(pool.table.scene[p.demo])) for p in picks]
    assert abs(np.mean(distinct) - expected) < 1
    assert all(sorted(p.row) == list(range(1024)) for p in picks)


@pytest.mark.parametrize("pool_scenes", [1, 3, 4096])
def test_the_same_seed_gives_the_same_batches(sampler, pool_scenes):
    options = {"pool_scenes": pool_scenes, "rows_per_scene": 20}
    first, again, other = (drawn(sampler(seed=seed, **options), 9) for seed in (3, 3, 4))
    assert same(first, again)
    assert not same(first, other)
    assert len({batch.observation.numpy().tobytes() for batch in first}) == 9


@pytest.mark.parametrize("pool_scenes", [1, 3, 4096])
def test_a_sampler_goes_on_where_another_stopped(sampler, pool_scenes):
    """Wherever it stopped: before, at, and after a block is replaced, in a later epoch, with batches of any size."""
    options = {"pool_scenes": pool_scenes, "rows_per_scene": 25}
    sizes = [16, 50, 1, 16, 120, 16, 16, 30, 300, 7]
    source = sampler(seed=1, **options)
    unbroken, states = [], []
    for size in sizes:
        states.append(source.state)
        unbroken.append(source.sample(size))
    assert states[3] == (1, 67)
    for start, (seed, rows) in enumerate(states):
        later = sampler(seed=seed, drawn=rows, **options)
        assert same([later.sample(size) for size in sizes[start:]], unbroken[start:]), start
        assert later.state == source.state == (1, sum(sizes))
        later.close()


def test_the_pool_is_bounded_and_passes_over_every_block_each_epoch(make_store, sampler, monkeypatch):
    store, read = make_store(), []
    whole = store.read
    monkeypatch.setattr(store, "read", lambda scenes: read.append(list(scenes)) or whole(scenes))
    source = sampler(store, pool_scenes=2, rows_per_scene=64, seed=5)
    order = [permuted(5, 5, number) for number in range(12)]
    for number, batch in enumerate(drawn(source, 10, 64)):
        assert set(batch.transition[:, 0].tolist()) == set(order[number : number + 2])
        assert sum(table is not None for table in source._pool.tables) == 2
    source.close()
    assert sorted(read[:2]) == sorted([[order[0]], [order[1]]])
    assert [scene for (scene,) in read[2:]] == [permuted(5, 5, k) for k in range(2, len(read))]
    assert 11 <= len(read) <= 14  # two held, nine replaced; one may wait, and one may be in the making


def test_blocks_are_runs_of_one_part():
    part = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    cut = [b.tolist() for b in blocks_of(np.array([0, 1, 2, 3, 4, 5, 6, 7]), part, 3)]
    assert cut == [[0, 1, 2], [3, 4], [5, 6], [7]]
    assert [b.tolist() for b in blocks_of(np.array([1, 4, 6]), part, 9)] == [[1, 4], [6]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shards_are_disjoint_and_cover_everything(make_store, sampler, count):
    for pool_scenes in (1, 4096):
        shards = [sampler(shard=(k, count), pool_scenes=pool_scenes, rows_per_scene=100) for k in range(count)]
        seen = [set(counted(drawn(s, 12, 100))) for s in shards]
        scenes = [{scene for scene, _, _ in found} for found in seen]
        assert sorted(scene for found in scenes for scene in found) == list(range(5))
        assert len({shard.sample(8).observation.numpy().tobytes() for shard in shards}) == count
    with pytest.raises(ValueError, match="shard 6 of 6 of 5 scenes; use fewer, numbered from 0"):
        sampler(shard=(6, 6))


# Filters


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A store of ten scenes in three splits."""
    path = tmp_path_factory.mktemp("mixed") / "store"
    config = ExtractConfig(ActionSpace.create("classic"), scenes_per_part=4, split=(0.5, 0.3, 0.2))
    extract([str(SAMPLE)], str(path), config, options=ExtractOptions(workers=1), limit=10)
    return DemoStore(path)


@pytest.mark.parametrize("split", ["train", "validation", "test", "all"])
def test_scenes_of_other_splits_are_not_read(mixed, sampler, monkeypatch, split):
    wanted = [k for k, r in enumerate(mixed.read()) if split in (["train", "validation", "test"][r.split], "all")]
    assert 0 < len(wanted) < 10 or split == "all"
    read, whole = [], mixed.read
    monkeypatch.setattr(mixed, "read", lambda scenes: read.extend(scenes) or whole(scenes))
    seen = drawn(sampler(mixed, split=split), 1, 2000)[0].transition[:, 0]
    assert sorted(read) == wanted == seen.unique().tolist()
    stream = WorldStream(mixed, RULES, LAYOUT, 1, split=split)
    ids = mixed.scene_ids()
    assert {scenes_of(stream.next())[0] for _ in wanted} == {ids[k] for k in wanted}
    stream.close()


def test_a_split_without_scenes_is_told(make_store, sampler):
    message = r"no scene is in the split 'test'; choose another one"
    with pytest.raises(NobodyError, match=message):
        sampler(split="test")
    with pytest.raises(NobodyError, match=message):
        WorldStream(make_store(), RULES, LAYOUT, split="test")


def test_filters_know_all_roles_and_types():
    hints = get_type_hints(DataConfig)
    assert set(get_args(get_args(hints["roles"])[0])) == {role.name.lower() for role in Role}
    assert set(get_args(get_args(get_args(hints["types"])[0])[0])) == {t.name.lower() for t in AgentType if t > 0}
    config = load_config(None, ["data.types=[vehicle]", "data.without_roles=[parked, sdc]"])
    assert (config.data.types, config.data.without_roles) == (("vehicle",), ("parked", "sdc"))
    with pytest.raises(ConfigError, match=r"data\.roles\.0: Input should be 'sdc', "):
        load_config(None, ["data.roles=[driver]"])


FILTERS = [
    ({"types": ("vehicle",)}, lambda r, a, d: r.scene.agent_type[a] == AgentType.VEHICLE),
    ({"types": ("cyclist", "other")}, lambda r, a, d: r.scene.agent_type[a] in (AgentType.CYCLIST, AgentType.OTHER)),
    ({"roles": ("sdc",)}, lambda r, a, d: r.scene.agent_role[a] & Role.SDC),
    ({"roles": ("sdc", "track_to_predict")}, lambda r, a, d: r.scene.agent_role[a] & 3 == 3),
    ({"without_roles": ("sdc", "object_of_interest")}, lambda r, a, d: not r.scene.agent_role[a] & 5),
    ({"max_replay_error": 2e-6}, lambda r, a, d: r.demos.quality[d, QUALITY.index("ade_m")] <= np.float32(2e-6)),
]


@pytest.mark.parametrize(("data", "passes"), FILTERS, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_filters(data, passes):
    """Of random scenes with all roles and types, whoever is there is controlled: brute force over their demos."""
    everyone = SimConfig(selection=Selection("all_objects"))
    rng, scenes = np.random.default_rng(0), []
    for seed in range(4):
        s = random_scene(seed)
        scenes.append(replace(s, agent_role=rng.integers(0, 8, s.num_agents).astype(np.uint8)))
    found = records(*scenes, space=ActionSpace.create("classic"), selection=everyone.selection)
    expected = {
        (k, int(agent))
        for k, r in enumerate(found)
        for d, agent in enumerate(r.demos.agent)
        if passes(r, agent, d) and r.demos.mark[d].sum() > 1
    }
    table = pool_of(found, LAYOUT, everyone, DataConfig(**data)).table
    drawn_from = set(zip(table.scene.tolist(), table.scene_agent.tolist(), strict=True))
    assert drawn_from == expected
    assert 0 < len(expected) < sum(len(r.demos.agent) for r in found)


# What comes before and after


def test_next_states_and_history_are_the_observations_of_those_steps(make_store, sampler):
    source = sampler()
    everything = {}
    for batch in drawn(sampler(seed=9), 10, 3000):
        for t, row in zip(batch.transition.tolist(), batch.observation, strict=True):
            everything[tuple(t)] = row
    plain, full = source.sample(64), sampler().sample(64, next_state=True, history=3)
    assert same([plain], [full])
    assert full.history.shape == (64, 3, LAYOUT.size)
    found = Counter()
    for k, (number, agent, step) in enumerate(full.transition.tolist()):
        following = everything.get((number, agent, step + 1))
        if following is not None:
            assert torch.equal(full.next_observation[k], following)
            found["next"] += 1
        for h in range(3):
            before = step - 3 + h
            assert full.history_mask[k, h] == (before >= 0)
            if before < 0:
                assert not full.history[k, h].any()
            elif (number, agent, before) in everything:
                assert torch.equal(full.history[k, h], everything[number, agent, before])
                found["history"] += 1
    assert found["next"] > 55
    assert found["history"] > 150
    assert plain.next_observation is plain.history is plain.history_mask is None
    # the last transition of a demo leads to the state in which it ends
    pool = pool_of(list(make_store().read()), LAYOUT)
    experts = make_experts(list(make_store().read()), RULES)
    samples = pool.batch(all_picks(pool), next_state=True)
    last = {}
    for k, (world, agent, step) in enumerate(samples.transition.tolist()):
        if step > last.get((world, agent), (-1,))[0]:
            last[world, agent] = step, k
    rows = torch.tensor([last[pair][1] for pair in experts.worlds.controlled_agents()])
    steps = torch.tensor([last[pair][0] + 1 for pair in experts.worlds.controlled_agents()])
    ends = ExpertObserver(experts, LAYOUT).observe(torch.arange(len(rows)), steps)
    assert torch.equal(samples.next_observation[rows], ends)


# Memory


def test_memory_is_used_again_once_a_batch_is_forgotten(sampler):
    source = sampler()
    where = source.sample(32).observation.data_ptr()
    assert [source.sample(32).observation.data_ptr() for _ in range(5)] == [where] * 5
    assert len(source._pool._batches) == 1


WEIGHT = torch.ones(LAYOUT.size, requires_grad=True)


@pytest.mark.parametrize(
    ("hold", "read"),
    [
        (lambda x: x, lambda held: held),
        (lambda x: x[3:4], lambda held: held),
        (lambda x: x.numpy()[1:], torch.from_numpy),
        (lambda x: (x * WEIGHT).sum(), lambda held: torch.autograd.grad(held, WEIGHT, retain_graph=True)[0]),
    ],
    ids=["tensor", "view", "array", "autograd"],
)
def test_a_batch_that_is_held_never_changes(sampler, hold, read):
    """Whatever it is that still refers to it."""
    source, expected = sampler(), [read(hold(batch.observation)) for batch in drawn(sampler(), 4)]
    held = [hold(source.sample(32).observation) for _ in range(4)]
    source.sample(32)
    assert all(torch.equal(read(one), other) for one, other in zip(held, expected, strict=True))
    assert len(source._pool._batches) == 5
    held.clear()
    where = {source.sample(32).observation.data_ptr() for _ in range(9)}
    assert len(where) == 1
    assert len(source._pool._batches) == 5


def test_memory_of_sizes_out_of_use_is_given_back(sampler):
    source = sampler()
    kept = source.sample(100)
    copy = kept.observation.clone()
    for _ in range(300):
        source.sample(2)
    assert [batch.size for batch in source._pool._batches] == [2]
    assert torch.equal(kept.observation, copy)


def test_larger_worlds_need_larger_scratch_memory():
    """Blocks that come later may have more agents and longer lists of segments than those before."""
    space, layout = ActionSpace.create("classic"), ObservationConfig()
    few = records(random_scene(0, agents=6, segments=5), space=space)
    many = records(random_scene(1, agents=60, segments=900), space=space)
    pool = Pool(2, layout, CPU)
    pool.put(0, load_block(few, [0], RULES, layout, EVERYTHING, CPU))
    before = pool.batch(all_picks(pool)).observation
    assert len(pool._batches) == 1
    pool.put(1, load_block(many, [1], RULES, layout, EVERYTHING, CPU))
    assert not pool._batches
    after = pool.batch(all_picks(pool))
    alone = pool_of(many, layout)
    rest = alone.batch(all_picks(alone)).observation
    of_many = after.transition[:, 0] == 1
    assert torch.equal(after.observation[of_many], rest)
    assert torch.equal(after.observation[~of_many], before)
    pool.put(1, None)
    assert torch.equal(pool.batch(all_picks(pool)).observation, before)


# As a data set


def dataset(store, **options):
    return DemoDataset(store, LAYOUT, RULES, 16, data=DataConfig(rows_per_scene=40, pool_scenes=2), **options)


def equal(some, others):
    """Whether batches in dictionaries are equal."""
    return all(
        a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a) for a, b in zip(some, others, strict=True)
    )


def loaded(data, batches, workers=0, **options):
    loader = DataLoader(data, batch_size=None, num_workers=workers, **options)
    batch = iter(loader)
    return [{name: x.clone() for name, x in next(batch).items()} for _ in range(batches)]


def test_a_data_set_is_the_sampler(make_store, sampler):
    batches = loaded(dataset(make_store(), seed=2), 6)
    expected = drawn(sampler(seed=2, rows_per_scene=40, pool_scenes=2), 6, 16)
    assert equal(batches, as_dicts(expected))
    more = loaded(dataset(make_store(), next_state=True, history=2), 1)[0]
    assert more.keys() == {f.name for f in fields(expected[0])}


def shares(store, seed, workers, ranks=1, rank=0):
    """The batches that each worker of a rank should make."""
    data = DataConfig(rows_per_scene=40, pool_scenes=2)
    for worker in range(workers):
        shard = rank * workers + worker, ranks * workers
        source = DemoSampler(store, LAYOUT, RULES, data=data, seed=seed, shard=shard)
        yield drawn(source, 4, 16)
        source.close()


def as_dicts(samples):
    return [{name: x for name, x in vars(s).items() if x is not None} for s in samples]


def test_workers_draw_from_shares_of_their_own_and_go_on_where_they_were(make_store):
    store, options = make_store(), {"workers": 2, "multiprocessing_context": "fork"}
    batches = loaded(dataset(store, seed=1), 5, **options)
    first, second = shares(store, 1, 2)
    expected = as_dicts(s for pair in zip(first, second, strict=True) for s in pair)
    assert equal(batches, expected[:5])
    assert equal(loaded(dataset(store, seed=1, start=3), 2, **options), expected[3:5])


def test_workers_may_be_fresh_processes(make_store):
    batches = loaded(dataset(make_store(), seed=1), 2, workers=1, multiprocessing_context="spawn")
    assert equal(batches, as_dicts(next(shares(make_store(), 1, 1))[:2]))


def test_ranks_draw_from_shares_of_their_own(make_store, monkeypatch):
    store = make_store()
    scenes = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        assert current_rank() == (rank, 2)
        batches = islice(dataset(store), 12)
        scenes.append({int(t[0]) for batch in batches for t in batch["transition"]})
    assert not scenes[0] & scenes[1]
    assert scenes[0] | scenes[1] == set(range(5))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    assert current_rank() == (0, 1)
    assert dataset(store, rank=(3, 4)).rank == (3, 4)


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


def test_scenes_with_nobody_to_control_are_passed_over(make_store, sampler, monkeypatch):
    """They neither end a run nor are drawn: here a whole block, and one scene of another."""
    store = make_store()
    ids = store.scene_ids()
    idle = {ids[k] for k in store.part_scenes(0)} | {ids[-2]}

    def choose(record, selection):
        chosen = demo_agents(record, selection)
        able = chosen.controlled & (record.scene.id not in idle)
        return SelectedAgents(chosen.row, able, chosen.parked)

    monkeypatch.setattr("pipeline.replay.demo_agents", choose)
    stream = WorldStream(store, RULES, LAYOUT, 1, seed=1)
    assert {scenes_of(stream.next())[0] for _ in range(12)} == set(ids) - idle
    stream.close()
    source = sampler(store)
    assert sum(held is None for held in source._pool.tables[:-1]) == 1
    left = {ids[k] for k in source.sample(200).transition[:, 0]}
    assert left == set(ids) - idle

    idle |= set(ids)
    with pytest.raises(NobodyError, match=r"no agent of its 5 scene\(s\) has a demo, may be controlled and passes"):
        sampler(store).sample(8)
    empty = WorldStream(store, RULES, LAYOUT, 2)
    with pytest.raises(NobodyError, match=r"nobody in it may be controlled; check sim\.selection"):
        empty.next()
    empty.close()


def test_blocks_without_anything_to_draw_are_passed_over(make_store, sampler):
    """One scene of five has a demo that passes; a pool of one scene finds it, again and again, wherever it goes on."""
    store = make_store()
    nearest = [record.demos.quality[record.moving, QUALITY.index("ade_m")].min() for record in store.read()]
    limit = float(np.sort(nearest)[:2].mean())
    scene = int(np.argmin(nearest))
    settings = {"pool_scenes": 1, "rows_per_scene": 16, "max_replay_error": limit}
    source = sampler(store, **settings)
    batches = [source.sample(16) for _ in range(12)]
    assert {k for batch in batches for k in batch.transition[:, 0].tolist()} == {scene}
    again = sampler(store, **settings, drawn=7 * 16)
    for batch in batches[7:]:
        assert torch.equal(again.sample(16).transition, batch.transition)
    source.close()
    again.close()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shards_have_as_many_scenes(make_store, sampler, count):
    shards = [sampler(make_store(), shard=(k, count)) for k in range(count)]
    sizes = [sum(map(len, shard._blocks)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == 5


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda sampler, store: sampler(store, scene_weights=[0.0] * 5), "scene_weights are zero for all scenes"),
        (
            lambda sampler, store: sampler(store, scene_weights={5: 1.0}),
            "scene 5 is none of the store's",
        ),
        (lambda sampler, store: sampler(store, scene_weights={-1: 1.0}), "scene -1 is none of the store's"),
        (lambda sampler, store: sampler(store).sample(0), "batch_size is 0"),
        (lambda sampler, store: sampler(store).sample(1, history=-1), "history -1"),
        (lambda sampler, store: sampler(store, types=("pedestrian",)).sample(1), "check data.types, data.roles"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(make_store, sampler, make, told):
    with pytest.raises(ValueError, match=told):
        make(sampler, make_store())


# In the background


def test_what_went_wrong_in_the_background_is_told_each_time():
    def fail(number):
        raise StoreError(f"number {number}")

    ahead = Prefetch(fail)
    for _ in range(3):
        with pytest.raises(StoreError, match="number 0"):
            ahead.next()
    ahead.close()
    closed = Prefetch(lambda number: number)
    closed.close()
    closed.close()
    with pytest.raises(RuntimeError, match="was closed; make a new sampler or stream"):
        closed.next()


def test_threads_end_with_whom_they_work_for(make_store, sampler):
    source = DemoSampler(make_store(), LAYOUT, RULES, data=DataConfig(pool_scenes=1, rows_per_scene=8))
    source.sample(8)
    thread = source._prefetch._thread
    gone = weakref.ref(source)
    del source
    gc.collect()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert gone() is None


def test_a_program_ends_well_with_samplers_that_nobody_closed(make_store):
    code = (
        "from gail.config import DataConfig; from gail.demos import DemoSampler; from pipeline.store import DemoStore\n"
        "from sim.env import SimConfig; from sim.layout import ObservationConfig\n"
        f"s = DemoSampler(DemoStore({str(make_store().path)!r}), ObservationConfig(), SimConfig(),"
        " data=DataConfig(pool_scenes=2, rows_per_scene=8))\n"
        "for _ in range(9): s.sample(8)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_of_the_background_surface(make_store, sampler, monkeypatch):
    store = make_store()
    source = sampler(store, pool_scenes=1, rows_per_scene=1)
    source.sample(1)
    source._prefetch.close()

    def damaged(scenes):
        raise StoreError(f"scenes {scenes}: damaged")

    monkeypatch.setattr(store, "read", damaged)
    broken = WorldStream(store, RULES, LAYOUT, 2)
    with pytest.raises(StoreError, match="damaged"):
        broken.next()
    broken.close()
    source._prefetch = Prefetch(source._load, 1)
    with pytest.raises(StoreError, match="damaged"):
        source.sample(4)


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
