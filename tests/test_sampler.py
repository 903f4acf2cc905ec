from collections import Counter
from dataclasses import replace
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from conftest import SAMPLE
from demos import LAYOUT, RULES, counted, drawn, pool_of, records, rules_of, same, scenes_of
from scenes import random_scene

from gail_cli.gail.config.load import ConfigError, load_config
from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.prefetch import permuted
from gail_cli.gail.demos.sampler import DemoSampler, DemoWeights
from gail_cli.gail.demos.worlds import WorldStream
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.records import QUALITY
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.scene import Role
from gail_cli.sim.worlds import select_agents


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
    assert source._schedule.rotates
    counts = counted(drawn(source, 60, 1000 * len(source._schedule.blocks)))
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
    read = sorted(scene for block in as_array._schedule.blocks for scene in block.scenes)
    assert read == [0, 1, 2, 4]  # what is never drawn is not read
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
    weights = DemoWeights.of(pool.table, np.ones(200))
    draws = [weights.draw(np.random.default_rng(k), 1024) for k in range(20)]
    distinct = [len(np.unique(pool.table.scene[d.demo])) for d in draws]
    assert abs(np.mean(distinct) - expected) < 1
    assert all(sorted(d.row) == list(range(1024)) for d in draws)


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
    sizes = [16, 50, 1, 8, 60, 7]
    source = sampler(seed=1, **options)
    unbroken, states = [], []
    for size in sizes:
        states.append(source.state_dict())
        unbroken.append(source.sample(size))
    assert states[3] == {"seed": 1, "drawn": 67}
    other = sampler(seed=8, **options)  # is moved there and back
    for start, state in enumerate(states):
        later = sampler(**state, **options)
        other.load_state_dict(state)
        for each in (later, other):
            assert same([each.sample(size) for size in sizes[start:]], unbroken[start:]), start
            assert each.state_dict() == source.state_dict() == {"seed": 1, "drawn": sum(sizes)}
        later.close()


def test_a_state_is_loaded_without_reading_what_is_held(make_store, sampler, monkeypatch):
    """Where all scenes fit nothing is read again, whatever the rows drawn; with another seed variants may be others."""
    store = make_store()
    source, rotating = sampler(store), sampler(store, pool_scenes=2, rows_per_scene=64)
    first, second = drawn(source, 2), drawn(rotating, 2)
    rotating.close()
    monkeypatch.setattr(store, "read", lambda scenes: pytest.fail(f"read {scenes}"))
    source.load_state_dict({"seed": 0, "drawn": 32})
    rotating.load_state_dict({"seed": 0, "drawn": 32})
    assert same([source.sample(32)], first[1:])
    assert same([rotating.sample(32)], second[1:])
    with pytest.raises(pytest.fail.Exception, match="read"):
        source.load_state_dict({"seed": 1, "drawn": 32})


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


@pytest.mark.parametrize("count", [2, 3, 4])
def test_shards_have_as_many_scenes(make_store, sampler, count):
    shards = [sampler(make_store(), shard=(k, count)) for k in range(count)]
    sizes = [sum(map(len, shard._schedule.blocks)) for shard in shards]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == 5


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
    stream = WorldStream(mixed, rules_of(data=DataConfig(split=split)), 1)
    ids = mixed.scene_ids()
    assert {scenes_of(stream.next().worlds)[0] for _ in wanted} == {ids[k] for k in wanted}
    stream.close()


def test_a_split_without_scenes_is_told(make_store, sampler):
    message = r"no scene is in the split 'test'; choose another one"
    with pytest.raises(NoAgentsError, match=message):
        sampler(split="test")
    with pytest.raises(NoAgentsError, match=message):
        WorldStream(make_store(), rules_of(data=DataConfig(split="test")))


def test_filters_know_all_roles_and_types():
    hints = get_type_hints(DataConfig)
    assert set(get_args(get_args(hints["roles"])[0])) == {role.name.lower() for role in Role}
    assert set(get_args(get_args(get_args(hints["types"])[0])[0])) == {t.name.lower() for t in AgentType if t > 0}
    config = load_config(None, ["data.types=[vehicle]", "data.without_roles=[parked, sdc]"])
    assert (config.data.types, config.data.without_roles) == (("vehicle",), ("parked", "sdc"))
    with pytest.raises(ConfigError, match=r"data\.roles\[0\] is 'driver'; it must be sdc, "):
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


@pytest.mark.parametrize("weights", ["transition", "scene"])
@pytest.mark.parametrize("alone", [False, True])
def test_the_share_of_absorbing_steps(make_store, weights, alone):
    """By brute force over the demos of a store: whoever arrives is idle until its time or its log would run out."""
    store, near = make_store(), SimConfig(on_goal="stop", goal_radius=12.0, horizon=60)
    source = DemoSampler(store, rules_of(near, data=DataConfig(weights=weights), single_agent=alone))
    acting, idle, arrivals = [], [], 0
    for record in store.read():
        steps = np.arange(record.scene.num_steps)
        chosen = select_agents(record.scene, near.selection)
        counts = np.zeros(2)
        for agent, state, mark in zip(record.demos.agent, record.demos.state, record.demos.mark, strict=True):
            if agent not in chosen.row[chosen.controlled]:
                continue
            end = min(60, steps[mark > 0].max())
            offset = state[: end + 1, :2].astype(np.float64) - record.scene.goal[agent]
            at_goal = np.flatnonzero((np.hypot(*offset.T) < 12.0) & (steps[: end + 1] > 0))
            arrival = at_goal[0] if len(at_goal) else end
            arrivals += len(at_goal) > 0
            counts += [arrival, end - arrival]
        scale = counts[0] if weights == "scene" else 1.0
        acting.append(counts[0] / scale)
        idle.append(counts[1] / scale)
    assert arrivals > 3
    np.testing.assert_allclose(source.absorbing_share, sum(idle) / (sum(acting) + sum(idle)), rtol=1e-6)
    source.close()
    assert DemoSampler(store, rules_of(data=DataConfig())).absorbing_share == 0.0


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
