"""What an agent sees of its own last steps, and of the last one of others."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from demos import assert_experts_see_what_the_simulator_shows, records
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import Agent, car, random_scene, scene, valid_only, wrapped

from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.networks.masking import hidden
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.gpudrive import GPUDriveEnv
from gail_cli.sim.history import motions
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.worlds import make_worlds

PLAIN = {"partners": 2, "road_segments": 1, "lights": 0, "near": False, "rays": False, "danger": False}
CONFIG = ObservationConfig(**PLAIN, history=3)
BICYCLE = ActionSpace.create("bicycle", "continuous")
EVERYONE = Selection(init_mode="all_objects")


def shown(observation, config=CONFIG):
    """[N, n, 2] the history of the ego, and [N, P, 2] of partners."""
    ego, partners, *_ = config.split(observation)
    return ego[:, -2 * config.history :].unflatten(1, (-1, 2)), partners[..., -2:]


def close(actual, expected):
    np.testing.assert_allclose(actual.numpy(), expected, atol=2e-5)


def two_cars():
    return scene(car(0, 0, 0.3, speed=10), car(0, 20, -0.5, speed=5))


def test_names_of_the_fields():
    config = ObservationConfig(history=2)
    assert config.ego_fields == (
        *ObservationConfig().ego_fields,
        "in step -1: acceleration/5, at most 2", "in step -1: yaw rate*2, at most 2",
        "in step -2: acceleration/5, at most 2", "in step -2: yaw rate*2, at most 2",
    )  # fmt: skip
    assert config.partner_fields == (*ObservationConfig().partner_fields, *config.ego_fields[-4:-2])
    assert config.size == ObservationConfig().size + 2 * 2 + 16 * 2
    assert ObservationConfig(history=10).ego_fields[-1] == "in step -10: yaw rate*2, at most 2"


def test_what_one_does_by_hand():
    """From 10 m/s with 2 m/s2 on a curve of 0.05/m: 1.01 m and 0.0505 rad in 0.1 s, then 1.03 m. The other brakes from
    5 m/s with 1 m/s2 and turns right by 0.02/m: 0.495 m and 0.0099 rad."""
    env = Env(make_worlds([two_cars()]), BICYCLE, SimConfig(), CONFIG)
    action = torch.tensor([[2.0, 0.05], [-1.0, -0.02]])
    one, other = [[0.4, 1.01], [0.4, 1.03], [0.4, 1.05], [0.4, 1.07]], [[-0.2, -0.198], [-0.2, -0.194], [-0.2, -0.19]]
    nothing = [0.0, 0.0]
    own, partners = shown(env.reset())
    assert not own.any()
    assert not partners.any()
    for step in range(1, 4):
        own, partners = shown(env.step(action).observation)
        for me, did, theirs in ((0, one, other), (1, other, one)):
            close(own[me], [did[step - 1 - k] if k < step else nothing for k in range(3)])
            close(partners[me], [theirs[step - 1], nothing])
    own, _ = shown(env.step(action).observation)
    close(own[0], [one[3], one[2], one[1]])


def test_the_past_ends_where_an_episode_begins():
    """Of one world of two, which is reset; the other goes on."""
    env = Env(make_worlds([two_cars(), two_cars()]), BICYCLE, SimConfig(), CONFIG)
    action = torch.tensor([[2.0, 0.05], [-1.0, -0.02]]).repeat(2, 1)
    for _ in range(4):
        before = env.step(action).observation.clone()
    own, partners = shown(env.reset([0]))
    assert not own[:2].any()
    assert not partners[:2].any()
    assert torch.equal(own[2:], shown(before)[0][2:])
    own, partners = shown(env.step(action).observation)
    close(own[0], [[0.4, 1.01], [0, 0], [0, 0]])
    close(own[2], [[0.4, 1.09], [0.4, 1.07], [0.4, 1.05]])
    close(partners[1, 0], [0.4, 1.01])


def test_limits_and_a_turn_across_pi():
    """A car that stops at once brakes with 50 m/s2; a heading that goes from 3.13 to -3.13 turned by 0.0232 rad."""
    stops, turns = car(speed=5), car(0, 9, 3.13, speed=4)
    stops.log[1:, 3:] = 0
    turns.log[1:, 2] = -3.13
    turns.log[1:, 3:] = 4 * np.array([np.cos(3.13), -np.sin(3.13)])
    worlds = make_worlds([scene(stops, turns)], selection=EVERYONE)
    found = motions(worlds.log, worlds.valid)
    close(found[1], [[-2, 0], [0, 2 * (2 * np.pi - 6.26) / 0.1]])
    stops.log[1:, 2] = [0.3, *[-0.3] * 9]
    found = motions(*(getattr(make_worlds([scene(stops)], selection=EVERYONE), name) for name in ("log", "valid")))
    close(found[1:4, 0, 1], [2, -2, 0])


def test_who_was_not_there_has_no_past():
    there = valid_only(0, 1, 4, 5, 6)
    late = car(0, 9, speed=4, valid=there)
    late.log[:, 3] += 0.1 * np.arange(11)
    worlds = make_worlds([scene(car(speed=3), late)], selection=EVERYONE)
    found = motions(worlds.log, worlds.valid)
    close(found[:, 1, 0], [0, 0.2, 0, 0, 0, 0.2, 0.2, 0, 0, 0, 0])
    step = torch.tensor([6, 4, 1], dtype=torch.int32)
    agents, left = torch.ones(3, dtype=torch.int32), torch.ones(3)
    own, partners = shown(Observer(worlds, CONFIG).observe(worlds.log, worlds.valid, agents, left, step=step))
    close(own[..., 0], [[0.2, 0.2, 0], [0, 0, 0], [0.2, 0, 0]])
    assert not partners.any()  # the other one drives evenly


@settings(max_examples=15)
@given(seed=st.integers(0, 999), n=st.integers(1, 10))
def test_agrees_with_float64(seed, n):
    """Of wild tracks with gaps, at all steps, by another formula: complex numbers."""
    rng = np.random.default_rng(seed)
    agents = [
        Agent(np.cumsum(rng.normal(0, [1, 1, 0.05, 0.3, 0.3], (11, 5)), axis=0), valid=rng.random(11) < 0.8)
        for _ in range(4)
    ]
    for agent in agents:
        agent.log[:, 2] = wrapped(agent.log[:, 2])
    s, config = scene(*agents), replace(CONFIG, history=n)
    log, valid = s.log.astype(np.float64), s.valid
    facing = np.exp(1j * log[..., 2])
    ahead = (np.conj(facing) * (log[..., 3] + 1j * log[..., 4])).real
    turn = np.angle(facing[:, 1:] / facing[:, :-1])
    did = np.clip(np.stack([np.diff(ahead) / 0.1 / 5, turn / 0.1 * 2], axis=-1), -2, 2)
    did *= (valid[:, 1:] & valid[:, :-1])[..., None]
    did = np.concatenate([np.zeros((4, n + 1, 2)), did], axis=1)  # what led to step t is in column t + n
    worlds = make_worlds([s], selection=EVERYONE)
    who, when = (x.ravel() for x in np.meshgrid(np.arange(worlds.num_agents), np.arange(11), indexing="ij"))
    rows = np.flatnonzero(valid.any(axis=1))
    query = [torch.from_numpy(x.astype(np.int32)) for x in (who, when)]
    seen = Observer(worlds, config).observe(worlds.log, worlds.valid, query[0], torch.ones(len(who)), step=query[1])
    own, partners = shown(seen, config)
    close(own, [did[rows[i], t + 1 : t + n + 1][::-1] for i, t in zip(who, when, strict=True)])
    for i, t, found in zip(who, when, partners, strict=True):
        away = np.hypot(*(log[:, t, :2] - log[rows[i], t, :2]).T)
        others = sorted((j for j in np.flatnonzero(valid[:, t]) if j != rows[i]), key=lambda j: away[j])[:2]
        close(found[: len(others)], np.array([did[j, t + n] for j in others]).reshape(-1, 2))
        assert not found[len(others) :].any()


def test_all_else_is_seen_as_without():
    worlds = make_worlds([random_scene(4)], selection=EVERYONE)
    agents, left = torch.arange(worlds.num_agents, dtype=torch.int32), torch.ones(worlds.num_agents)
    plain, config = ObservationConfig(), ObservationConfig(history=4)
    seen, more = (
        c.split(Observer(worlds, c).observe(worlds.log, worlds.valid, agents, left, step=torch.full_like(agents, 5)))
        for c in (plain, config)
    )
    assert torch.equal(more.ego[:, :-8], seen.ego)
    assert torch.equal(more.partners[..., :-2], seen.partners)
    assert torch.equal(more.roads, seen.roads)
    assert torch.equal(more.lights, seen.lights)
    assert config.nothing(True, True) == plain.nothing(True, True)
    blind = config.split(hidden(torch.cat([block.flatten(1) for block in more], dim=1), config, True, False))
    assert not blind.partners.any()
    assert torch.equal(blind.ego[:, -8:], more.ego[:, -8:])


def test_a_mirror_image_turns_the_other_way():
    flip = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0])
    worlds = make_worlds([random_scene(2)], selection=EVERYONE)
    state = worlds.log.clone()
    state[..., 2] += 0.1 * torch.arange(11) ** 2 / 20
    found = motions(state, worlds.valid)
    assert (found[2:, worlds.valid.all(dim=1), 1] > 0.01).all()
    close(motions(state * flip, worlds.valid), found * torch.tensor([1.0, -1.0]))


@pytest.mark.parametrize("alone", [False, True])
def test_experts_see_what_the_simulator_shows_under_gpudrives_rules(alone):
    """Logs a step late, agents that leave at their goals."""
    space = ActionSpace.create("classic", reverse=False)
    found, rules = records(random_scene(1, steps=91), space=space), SimConfig(compat="gpudrive")
    assert_experts_see_what_the_simulator_shows(found, space, rules, alone=alone)


def test_what_has_no_history_says_so():
    with pytest.raises(ValueError, match=r"observation: history is 2, but layout gpudrive has none; leave it out"):
        ObservationConfig("gpudrive", history=2)
    for wrong in (-1, 11):
        with pytest.raises(ValueError, match=r"for ObservationConfig\nhistory\n"):
            ObservationConfig(history=wrong)
    with pytest.raises(ValueError, match="backend gpudrive knows no history; leave out"):
        TrainConfig(backend="gpudrive", sim=SimConfig(compat="gpudrive"), observation=CONFIG)
    worlds = make_worlds([two_cars()])
    with pytest.raises(ValueError, match="the gpudrive backend knows no history"):
        GPUDriveEnv(worlds, ActionSpace.create("classic", reverse=False), SimConfig(compat="gpudrive"), CONFIG, None)
    with pytest.raises(ValueError, match="history is not known from present states"):
        Observer(worlds, CONFIG).observe(
            worlds.log[:, 0].contiguous(), worlds.valid[:, 0].contiguous(), torch.zeros(1, dtype=torch.int32),
            torch.ones(1),
        )  # fmt: skip
