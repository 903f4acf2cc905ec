"""Demos as tests make and compare them."""

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import torch
from scenes import car, scene, valid_only

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.pool import Draws, Pool, load_block
from gail_cli.gail.demos.rules import DemoRules
from gail_cli.pipeline.experts.expert import replay_experts
from gail_cli.pipeline.experts.replay import ExpertObserver, make_experts, single_agent_worlds
from gail_cli.pipeline.records import Record
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import select_agents

LAYOUT = ObservationConfig(partners=4, road_segments=8)
RULES = SimConfig()
EVERYTHING = DataConfig(split="all")
CPU = torch.device("cpu")


def records(*scenes, space, selection=RULES.selection):
    chosen = [select_agents(scene, selection) for scene in scenes]
    demos = replay_experts(scenes, space, [agents.row[agents.controlled] for agents in chosen])
    return [Record(*pair) for pair in zip(scenes, demos, strict=True)]


def rules_of(sim=RULES, layout=LAYOUT, data=EVERYTHING, **rules):
    """Rules for demos and worlds: the tests' own, all scenes, but for what is given."""
    return DemoRules(sim, layout, data, **rules)


def run_rules(config):
    """The rules of a run's configuration."""
    return DemoRules.from_config(config.data, config.worlds, config.sim, config.observation, config.augment)


def run_sampler(stores, config, drawn=0):
    """The batches that a run learns from, as the trainer makes them."""
    return stores.sampler(run_rules(config), config.seed, drawn)


def run_worlds(stores, config):
    """The worlds that a run drives in, likewise."""
    return stores.worlds(run_rules(config), config.worlds.num_worlds, config.seed)


def pool_of(records, layout, sim=RULES, data=EVERYTHING, alone=False):
    """A pool that holds these scenes in its second place."""
    pool = Pool(2, layout, CPU)
    rules = rules_of(sim, layout, data, single_agent=alone)
    pool.put(1, load_block(records, range(len(records)), rules, CPU))
    return pool


def all_draws(pool):
    """Every transition of a pool, each in the row of its number in reverse."""
    table = pool.table
    demo = np.repeat(np.arange(len(table)), table.count)
    step = np.concatenate([f + np.arange(n) for f, n in zip(table.first, table.count, strict=True)])
    return Draws(demo, step.astype(np.int32), np.arange(len(demo))[::-1].copy())


def assert_experts_see_what_the_simulator_shows(records, space, rules=RULES, alone=False):
    """Let the experts drive; at each step compare what those alive see with the samples of the same transitions.

    ``alone``: each in a world of its own.
    """
    experts = make_experts(records, rules, single_agent=alone)
    rows = [(w, row) for w, row in experts.worlds.controlled_agents()]
    worlds = experts.worlds
    if alone:
        worlds = single_agent_worlds([(r, np.arange(r.scene.num_agents)) for r in records], rules.selection, CPU)
    for layout in (replace(LAYOUT, history=3), ObservationConfig.gpudrive()):
        env, pool = Env(worlds, space, rules, layout), pool_of(records, layout, rules, alone=alone)
        samples = pool.batch(all_draws(pool))
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
        assert seen == len(experts.transitions) == len(number) > 0


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


def counted(batches):
    return Counter(tuple(t) for batch in batches for t in batch.transition.tolist())


def scenes_of(worlds):
    return [scene.id for scene in worlds.scenes]


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
