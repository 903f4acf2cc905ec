"""Worlds with the demos of these very worlds."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from demos import LAYOUT, RULES, rules_of, scenes_of

from gail_cli.gail.config.load import ConfigError
from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.matched import demo_transitions
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.worlds import WorldStream
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.scene import Role

WILD = Augmentation(whole=0.3, stretch=1.25, perturb=0.7)


def batches(store, first=0, count=2, matched=True, size=4, seed=5, **rules):
    """Some batches of a stream's worlds."""
    stream = WorldStream(store, rules_of(**({"augment": WILD} | rules)), size, seed, first, matched=matched)
    try:
        return [stream.next() for _ in range(count)]
    finally:
        stream.close()


def begun(worlds):
    """[N, 5] where the controlled agents begin."""
    return worlds.log[worlds.controlled, 0]


def assert_experts_see_what_the_simulator_shows(experts, space, sim=RULES):
    """Let their actions drive in their worlds: that leads to their states, and what the simulator shows on the way is
    what their transitions hold."""
    layout = replace(LAYOUT, history=3)
    env = Env(experts.worlds, space, sim, layout)
    batch = demo_transitions(experts, layout, next_state=True)
    number = {tuple(t): k for k, t in enumerate(experts.transitions.tolist())}
    observation, seen = env.reset(), 0
    for step in range(env.horizon):
        alive = env.alive().nonzero().flatten()
        pick = torch.tensor([number[agent, step] for agent in alive.tolist()], dtype=int)
        here = observation[alive].clone()
        here[:, list(layout.hidden_from_discriminator)] = 0.0
        torch.testing.assert_close(batch.observation[pick], here, atol=1e-4, rtol=0)
        assert torch.equal(batch.action[pick], experts.action[alive, step])
        result = env.step(experts.action[:, step])
        observation = result.observation
        goes_on = torch.tensor([(agent, step + 1) in number for agent in alive.tolist()], dtype=torch.bool)
        assert torch.equal(batch.done[pick], ~goes_on)
        following = torch.tensor([number[agent, step + 1] for agent in alive[goes_on].tolist()], dtype=int)
        torch.testing.assert_close(batch.next_observation[pick[goes_on]], batch.observation[following])
        seen += len(alive)
    assert seen == len(batch) == len(number) > 0


def test_experts_are_of_the_same_scenes_variants_and_agents(make_store):
    store = make_store()
    plain = batches(store, matched=False)
    for batch, alone in zip(batches(store), plain, strict=True):
        worlds, experts = batch.worlds, batch.experts
        assert alone.experts is None
        assert scenes_of(worlds) == scenes_of(alone.worlds) == scenes_of(experts.worlds)
        assert worlds.controlled_agents() == experts.worlds.controlled_agents()
        for one, other, same in zip(worlds.scenes, experts.worlds.scenes, alone.worlds.scenes, strict=True):
            assert one.segment is other.segment
            assert np.array_equal(one.segment, same.segment)  # one variant, whether demos come along or not
            assert np.array_equal(one.log[:, 1:], other.log[:, 1:])
            assert np.array_equal(one.log[:, 1:], same.log[:, 1:])
        assert torch.equal(worlds.log[:, 1:], experts.worlds.log[:, 1:])
        assert torch.equal(experts.track[experts.worlds.controlled, 0], begun(experts.worlds))
        off = (begun(worlds) - begun(experts.worlds))[:, :2].norm(dim=1)
        assert (off > 0).all()
        assert 0.2 < off.mean() < 0.8  # 0.7 of 0.5 m ahead and 0.3 m aside
        logs = np.stack([w.scenes[k].log[row, 0] for w in [experts.worlds] for k, row in w.controlled_agents()])
        assert np.array_equal(begun(experts.worlds).numpy(), logs)
        logs = np.stack([worlds.scenes[k].log[row, 0] for k, row in worlds.controlled_agents()])
        assert np.array_equal(begun(worlds).numpy(), logs)


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"augment": Augmentation(variants=1)},
        {"single_agent": True, "retime": 0.3},
        {"augment": replace(WILD, recover=0.5), "retime": 0.2, "single_agent_share": 0.5},
    ],
)
def test_experts_drive_in_their_worlds(make_store, rules):
    store = make_store()
    for batch in batches(store, **rules):
        assert_experts_see_what_the_simulator_shows(batch.experts, store.space)


def test_a_stream_that_goes_on_gives_the_same(make_store):
    rules = {"augment": replace(WILD, recover=0.5), "retime": 0.2, "single_agent_share": 0.5}
    *_, before = batches(make_store(), count=4, **rules)
    (after,) = batches(make_store(), first=3, count=1, **rules)
    for one, other in ((before.worlds, after.worlds), (before.experts.worlds, after.experts.worlds)):
        assert all(torch.equal(x, other.tensors[name]) for name, x in one.tensors.items())
    for name in ("action", "track", "end", "transitions"):
        assert torch.equal(getattr(before.experts, name), getattr(after.experts, name))
    (other,) = batches(make_store(), first=3, count=1, seed=6, **rules)
    assert other.worlds.log.shape != after.worlds.log.shape or not torch.equal(other.worlds.log, after.worlds.log)


def test_whose_demo_no_car_could_follow_is_driven_by_nobody(make_store):
    """In neither of both: an agent of a scene stretched by up to 3 is bound to its log."""
    augment = replace(WILD, whole=0.0, stretch=3.0)
    lost = 0
    plain = batches(make_store(), count=4, matched=False, augment=augment)
    for batch, alone in zip(batches(make_store(), count=4, augment=augment), plain, strict=True):
        agents, before = set(batch.worlds.controlled_agents()), set(alone.worlds.controlled_agents())
        assert agents <= before
        assert agents == set(batch.experts.worlds.controlled_agents())
        lost += len(before - agents)
    assert lost > 0


def test_only_demos_that_pass_the_filter_are_learned_from(make_store):
    """All drive along."""
    store = make_store()
    (everyone,) = batches(store, count=1)
    for data, passes in (
        (DataConfig(roles=("track_to_predict",)), lambda scene, row: scene.agent_role[row] & Role.TRACK_TO_PREDICT > 0),
        (DataConfig(max_replay_error=0.0), lambda scene, row: False),
    ):
        (batch,) = batches(store, count=1, data=data)
        agents, scenes = batch.worlds.controlled_agents(), batch.worlds.scenes
        assert agents == everyone.worlds.controlled_agents()
        wanted = {n for n, (w, row) in enumerate(agents) if passes(scenes[w], row)}
        assert set(batch.experts.transitions[:, 0].tolist()) == wanted
        assert len(wanted) < len(agents)
        assert len(demo_transitions(batch.experts, LAYOUT)) == len(batch.experts.transitions)


def test_some_rows_are_those_of_all(make_store):
    (batch,) = batches(make_store(), count=1)
    everything = demo_transitions(batch.experts, LAYOUT, next_state=True)
    rows = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0))[:50]
    some = demo_transitions(batch.experts, LAYOUT, next_state=True, rows=rows)
    for name in ("observation", "action", "next_observation", "done"):
        assert torch.equal(getattr(some, name), getattr(everything, name)[rows])
    assert demo_transitions(batch.experts, LAYOUT).next_observation is None


def test_experts_that_recover_begin_where_the_rollout_does(make_store):
    store = make_store()
    found = {}
    for share in (0.0, 0.5, 1.0):
        several = batches(store, augment=replace(WILD, recover=share))
        states = [(begun(b.experts.worlds), begun(b.worlds), b.experts.track[b.experts.worlds.controlled, 0])
                  for b in several]  # fmt: skip
        same = torch.cat([(expert == rollout).all(dim=1) for expert, rollout, _ in states])
        assert all(torch.equal(expert, track) for expert, _, track in states)
        found[share] = same.float().mean().item()
    assert found[0.0] == 0
    assert 0.3 < found[0.5] < 0.7
    assert found[1.0] > 0.85  # the others would have to drive backwards


def test_others_at_another_pace(make_store):
    """Only those that follow their logs, in both; paths are theirs, and so are the first states."""
    sim = SimConfig(selection=Selection(max_controlled=2))
    rules = {"sim": sim, "augment": replace(WILD, whole=1.0, mirror=0.5)}
    plain, changed = (batches(make_store(), retime=retime, **rules) for retime in (0.0, 0.3))
    moved = 0
    for before, batch in zip(plain, changed, strict=True):
        for one, other in ((before.worlds, batch.worlds), (before.experts.worlds, batch.experts.worlds)):
            follows = (other.tensors["slot"] < 0) & ~other.tensors["parked"]
            assert torch.equal(one.log[~follows], other.log[~follows])
            assert torch.equal(one.log[:, 0, :3], other.log[:, 0, :3])
            assert torch.equal(one.tensors["parked"], other.tensors["parked"])
            moved += int((one.log[follows] != other.log[follows]).any(dim=(1, 2)).sum())
        assert torch.equal(batch.worlds.log[:, 1:], batch.experts.worlds.log[:, 1:])
        follows = (batch.worlds.tensors["slot"] < 0) & ~batch.worlds.tensors["parked"]
        assert torch.equal(batch.experts.track[follows], batch.experts.worlds.log[follows])
    assert moved > 10


@pytest.mark.parametrize("matched", [False, True])
def test_some_worlds_have_one_driver(make_store, matched):
    size = 8
    for share, alone in ((0.0, 0), (0.25, 2), (1.0, 8)):
        counts = []
        for batch in batches(make_store(), size=size, matched=matched, single_agent_share=share):
            worlds = batch.worlds
            drivers = torch.bincount(worlds.tensors["world"][worlds.controlled].long(), minlength=size)
            counts.append(int((drivers == 1).sum()))
        assert min(counts) >= alone
        assert max(counts) < size or share == 1


def test_worlds_of_one_scene_share_its_map_whoever_begins_where(make_store):
    (batch,) = batches(make_store(), count=1, single_agent=True, retime=0.2)
    worlds = batch.worlds
    assert len({id(scene) for scene in worlds.scenes}) == worlds.num_worlds > 2
    assert len(worlds.roads.start) - 1 == len({id(scene.segment) for scene in worlds.scenes}) < worlds.num_worlds
    off = (worlds.log - batch.experts.worlds.log).abs().amax(dim=(1, 2)) > 0
    assert torch.equal(off.nonzero().flatten(), worlds.controlled)  # nobody else begins off the log


def test_what_a_run_asks_for(small):
    """Matched experts come of scenes that are varied less; a pool's not differently from what is cloned."""

    def rules(config):
        sections = config.data, config.worlds, config.sim, config.observation, config.augment
        return DemoRules.from_config(*sections, matched=config.matched)

    wild = {"variants": 64, "whole": 0.05, "stretch": 1.5, "perturb": 1.0}
    matched = rules(small(augment=wild))
    assert matched.augment.whole == 0.05
    assert (matched.world_augment.whole, matched.world_augment.stretch, matched.world_augment.perturb) == (
        0.3,
        1.25,
        0.7,
    )
    tame = rules(small(augment={"variants": 64, "whole": 0.5, "stretch": 1.0, "perturb": 0.1, "recover": 0.2}))
    assert tame.world_augment == tame.augment
    for other in ({"discriminator": {"experts": "pool"}}, {"algorithm": "ppo"}, {"algorithm": "bc"}):
        assert rules(small(augment=wild, **other)).world_augment is None
    asked = rules(small(augment=wild, worlds={"augment": {"stretch": 1.1}, "retime": 0.2, "single_agent_share": 0.25}))
    assert asked.world_augment == Augmentation(stretch=1.1)
    assert (asked.retime, asked.single_agent_share) == (0.2, 0.25)
    with pytest.raises(ConfigError, match=r"pool rollouts are varied as demos are.*; leave out worlds\.augment$"):
        small(discriminator={"experts": "pool"}, worlds={"augment": {}})
    with pytest.raises(ConfigError, match=r"single_agent_share needs worlds\.mode multi_agent"):
        small(worlds={"mode": "single_agent", "single_agent_share": 0.5})
    with pytest.raises(ConfigError, match=r"worlds\.augment\.strech; did you mean worlds\.augment\.stretch"):
        small(worlds={"augment": {"strech": 1.1}})
    with pytest.raises(ConfigError, match=r"worlds\.augment\.stretch is 9; it must be in \[1, 3\]"):
        small(worlds={"augment": {"stretch": 9}})
