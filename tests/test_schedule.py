"""The rotation of blocks through a pool, without a store."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gail_cli.gail.config.schema import DataConfig, WorldsConfig
from gail_cli.gail.demos.prefetch import permuted
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.schedule import BlockSchedule, SceneBlock, block_size, scene_blocks
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig


def blocks(*sizes, first=0):
    """Blocks of so many scenes each, numbered through from ``first`` on."""
    ends = (first + np.cumsum(sizes)).tolist()
    return tuple(SceneBlock(tuple(range(end - n, end))) for n, end in zip(sizes, ends, strict=True))


def test_blocks_are_runs_of_one_part():
    part = np.array([0, 0, 0, 0, 0, 1, 1, 2])
    cut = [list(block.scenes) for block in scene_blocks(np.arange(8), part, 3)]
    assert cut == [[0, 1, 2], [3, 4], [5, 6], [7]]
    assert [block.scenes for block in scene_blocks(np.array([1, 4, 6]), part, 9)] == [(1, 4), (6,)]
    assert scene_blocks(np.arange(0), part, 9) == ()
    varied = scene_blocks(np.array([1, 6]), part, 9, variants=2)
    assert varied == (SceneBlock((1,), 0), SceneBlock((6,), 0), SceneBlock((1,), 1), SceneBlock((6,), 1))


@pytest.mark.parametrize(("pool_scenes", "size"), [(1, 1), (15, 1), (16, 2), (100, 12), (512, 64), (4096, 64)])
def test_a_pool_has_room_for_eight_blocks(pool_scenes, size):
    assert block_size(pool_scenes) == size


def test_a_block_is_replaced_each_time_its_rows_are_drawn():
    """Four blocks of 3, 3, 2 and 2 scenes, 2.5 on average; a pool of 5 scenes holds two, each for 2.5 x 4 rows."""
    schedule = BlockSchedule.plan(blocks(3, 3, 2, 2), pool_scenes=5, rows_per_scene=4, seed=7)
    assert (schedule.room, schedule.places, schedule.rotates, schedule.rows_per_block) == (2, 2, True, 10)
    loaded = {0: 2, 9: 2, 10: 3, 19: 3, 20: 4, 35: 5, 1000: 102}
    assert {drawn: schedule.loaded(drawn) for drawn in loaded} == loaded
    assert schedule.held(0) == range(2)
    assert schedule.held(35) == range(3, 5)
    assert [schedule.place(number) for number in range(5)] == [0, 1, 0, 1, 0]
    for epoch in range(3):
        order = [schedule.block(4 * epoch + k) for k in range(4)]
        assert sorted(block.scenes for block in order) == [(0, 1, 2), (3, 4, 5), (6, 7), (8, 9)]
        assert order == [schedule.blocks[permuted(4, 7, 4 * epoch + k)] for k in range(4)]


def test_nothing_is_replaced_where_all_blocks_fit():
    schedule = BlockSchedule.plan(blocks(3, 3, 2, 2), pool_scenes=10, rows_per_scene=1, seed=7)
    assert (schedule.places, schedule.rotates) == (4, False)
    assert schedule.held(0) == schedule.held(10**9) == range(4)


def test_at_least_one_block_is_held_for_at_least_one_row():
    schedule = BlockSchedule.plan(blocks(3, 3), pool_scenes=1, rows_per_scene=1, seed=0)
    assert (schedule.places, schedule.rows_per_block) == (1, 3)
    assert BlockSchedule.plan(blocks(1, 1), pool_scenes=1, rows_per_scene=0, seed=0).rows_per_block == 1


def test_blocks_that_join_are_held_while_there_is_room_and_take_turns_after_that():
    """A growing store's pool of 16 scenes has room for 8 blocks of up to 2, however few there are at first."""
    first = BlockSchedule.plan(blocks(2, 2), pool_scenes=16, rows_per_scene=5, seed=3, grows=True)
    assert (first.room, first.places, first.rotates) == (8, 2, False)
    more = first.extend(blocks(2, 2, 2, 2, 2, 2, first=4), loaded=2, drawn=100)
    assert (more.places, more.rotates, more.loaded(10_000)) == (8, False, 2)
    full = more.extend(blocks(2, 2, first=16), loaded=2, drawn=205)
    assert (full.places, full.rotates, len(full.blocks), full.rows_per_block) == (8, True, 10, 10)
    assert [full.loaded(drawn) for drawn in (205, 214, 215, 225)] == [2, 2, 3, 4]  # counted from 205 on
    assert sorted(scene for number in range(10, 20) for scene in full.block(number).scenes) == list(range(20))
    again = full.extend(blocks(1, first=20), loaded=4, drawn=230)
    assert (again.rows_per_block, again.loaded(230), again.loaded(239), again.loaded(240)) == (10, 4, 4, 5)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.integers(1, 40),
    st.integers(1, 30),
    st.integers(0, 5000),
    st.integers(0, 5000),
)
def test_the_blocks_held_are_a_window_that_only_moves_on(sizes, pool_scenes, rows_per_scene, drawn, further):
    schedule = BlockSchedule.plan(blocks(*sizes), pool_scenes, rows_per_scene, seed=0)
    now, later = schedule.held(drawn), schedule.held(drawn + further)
    assert len(now) == len(later) == schedule.places <= len(sizes)
    assert {schedule.place(number) for number in now} == set(range(schedule.places))
    assert 0 <= later.stop - now.stop <= 1 + further // schedule.rows_per_block
    if not schedule.rotates:
        assert {schedule.block(number) for number in now} == set(schedule.blocks)


def test_the_same_plan_is_equal():
    """By which a sampler knows that it need not load anything anew."""
    one, other = (BlockSchedule.plan(blocks(3, 2), 3, 4, seed=1) for _ in range(2))
    assert one == other
    assert one != BlockSchedule.plan(blocks(3, 2), 3, 4, seed=2)
    assert one != one.extend(blocks(1), loaded=1, drawn=0)


# Rules


def test_rules_are_made_of_sections():
    data, sim, layout, augment = DataConfig(pool_scenes=100), SimConfig(horizon=9), ObservationConfig(), Augmentation()
    rules = DemoRules.from_config(data, WorldsConfig("single_agent", 4, 7), sim, layout, augment)
    assert (rules.data, rules.sim, rules.observation, rules.augment) == (data, sim, layout, augment)
    assert (rules.single_agent, rules.max_agents) == (True, 7)
    rules = DemoRules.from_config(data, WorldsConfig(), sim, layout, augment)
    assert (rules.single_agent, rules.max_agents) == (False, None)
    with pytest.raises(ValueError, match="max_agents needs single_agent"):
        DemoRules(max_agents=3)


def test_each_variant_counts_unless_nothing_is_varied():
    assert DemoRules().variants == 1
    assert DemoRules(augment=Augmentation(variants=5)).variants == 5
    assert DemoRules(augment=Augmentation(variants=5, whole=1, mirror=0)).variants == 1


def test_held_out_demos_are_all_of_another_split_as_recorded():
    data = DataConfig(max_scenes=3, types=("vehicle",), pool_scenes=4096)
    held_out = DemoRules(
        data=data, augment=Augmentation(), single_agent=True, max_agents=2, sim=SimConfig(horizon=9)
    ).held_out("test", 64)
    assert held_out.data == DataConfig(split="test", types=("vehicle",), pool_scenes=64)
    assert (held_out.variants, held_out.single_agent, held_out.max_agents) == (1, True, None)
    assert held_out.sim == SimConfig(horizon=9)
    assert DemoRules(data=DataConfig(pool_scenes=5)).held_out("all", 64).data.pool_scenes == 5
