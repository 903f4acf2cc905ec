from collections import Counter

import pytest
import torch
from demos import CPU, LAYOUT, RULES, all_draws, drawn, pool_of, records, rules_of, same
from scenes import car, random_scene, scene, valid_only

from gail_cli.gail.demos.pool import Pool, load_block
from gail_cli.pipeline.experts.replay import ExpertObserver, make_experts
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig


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
    samples = pool.batch(all_draws(pool), next_state=True)
    last = {}
    for k, (world, agent, step) in enumerate(samples.transition.tolist()):
        if step > last.get((world, agent), (-1,))[0]:
            last[world, agent] = step, k
    rows = torch.tensor([last[pair][1] for pair in experts.worlds.controlled_agents()])
    steps = torch.tensor([last[pair][0] + 1 for pair in experts.worlds.controlled_agents()])
    ends = ExpertObserver(experts, LAYOUT).observe(torch.arange(len(rows)), steps)
    assert torch.equal(samples.next_observation[rows], ends)


def test_done_marks_the_last_transition_of_a_demo():
    """One whose log ends early, one whose log goes on, by the rules of a run of 8 steps."""
    found = records(
        scene(car(speed=6), car(20, 3, speed=5, valid=valid_only(*range(6)))), space=ActionSpace.create("classic")
    )
    pool = pool_of(found, LAYOUT, SimConfig(horizon=8))
    samples = pool.batch(all_draws(pool))
    done = {tuple(t) for t, last in zip(samples.transition.tolist(), samples.done.tolist(), strict=True) if last}
    assert done == {(0, 0, 7), (0, 1, 4)}
    assert len(samples.done) == 8 + 5


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
    pool.put(0, load_block(few, [0], rules_of(layout=layout), CPU))
    before = pool.batch(all_draws(pool)).observation
    assert len(pool._batches) == 1
    pool.put(1, load_block(many, [1], rules_of(layout=layout), CPU))
    assert not pool._batches
    after = pool.batch(all_draws(pool))
    alone = pool_of(many, layout)
    rest = alone.batch(all_draws(alone)).observation
    of_many = after.transition[:, 0] == 1
    assert torch.equal(after.observation[of_many], rest)
    assert torch.equal(after.observation[~of_many], before)
    pool.put(1, None)
    assert torch.equal(pool.batch(all_draws(pool)).observation, before)
