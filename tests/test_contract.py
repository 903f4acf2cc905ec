"""What every backend promises to training and evaluation (:class:`sim.env.Backend`), asked of each one.

GPUDrive is asked itself where it is installed, else through a stand-in for its compiled module.
"""

import sys
from dataclasses import replace
from importlib.util import find_spec

import gpudrive_standin
import numpy as np
import pytest
import torch
from scenes import random_scene

from gail_cli.pipeline.export.gpudrive_cache import SceneCache
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.gpudrive import MODULE, GPUDriveEnv
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.scenario import DT
from gail_cli.sim.worlds import make_worlds

LAYOUT = ObservationConfig(partners=4, road_segments=8)
SCENES = [random_scene(seed, steps=91) for seed in range(4)]
CONTINUOUS = ActionSpace.create("classic", "continuous", reverse=False)
INSTALLED = find_spec(MODULE) is not None


@pytest.fixture(params=["embedded", "embedded with GPUDrive's rules", "gpudrive"])
def make(request, monkeypatch, tmp_path):
    """Makes a backend in the worlds of some scenes."""

    def make(scenes=SCENES[:2], space=CONTINUOUS, layout=LAYOUT):
        worlds = make_worlds(scenes)
        if request.param == "embedded":
            return Env(worlds, space, SimConfig(on_goal="remove"), layout)
        rules, space = SimConfig.gpudrive("ignore"), replace(space, reverse=False)
        if request.param != "gpudrive":
            return Env(worlds, space, rules, layout)
        if not INSTALLED:
            monkeypatch.setitem(sys.modules, MODULE, gpudrive_standin.module())
        return GPUDriveEnv(worlds, space, rules, layout, SceneCache(tmp_path))

    return make


def some_actions(env, steps, seed=0):
    """Random but gentle [steps, N, K]."""
    draws = torch.rand(steps, env.num_agents, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return draws * torch.tensor([2.0, 0.05])


def drive(env, actions):
    """States before and after each step, and the steps."""
    states, steps = [env.states().clone()], []
    for action in actions:
        step = env.step(action)
        steps.append(replace(step, observation=step.observation.clone()))
        states.append(env.states().clone())
    return torch.stack(states), steps


def same(some, others):
    return all(torch.equal(getattr(a, f), getattr(b, f)) for a, b in zip(some, others, strict=True) for f in vars(a))


def test_it_tells_what_it_is(make):
    env = make()
    n = sum(int(chosen.controlled.sum()) for chosen in env.worlds.selected)
    assert env.num_agents == n > 2
    assert env.action_space == CONTINUOUS
    assert env.observation_config == LAYOUT
    assert env.horizon == (env.config.horizon or 90)
    assert env.worlds.num_worlds == 2


def test_shapes_and_types(make):
    env = make()
    n, m = env.num_agents, env.worlds.num_agents
    expected = {
        "observation": ((n, LAYOUT.size), torch.float32), "reward": ((n,), torch.float32),
        "terminated": ((n,), torch.bool), "truncated": ((n,), torch.bool), "events": ((n, 5), torch.bool),
        "alive": ((n,), torch.bool), "fault": ((n,), torch.float32),
    }  # fmt: skip
    step = env.step(some_actions(env, 1)[0])
    found = {name: (tuple(x.shape), x.dtype) for name, x in vars(step).items()}
    assert found == expected
    states, present = env.everyone()
    again = env.reset()
    tensors = [*vars(step).values(), states, present, env.states(), env.alive(), env.events(), again]
    assert {x.device for x in tensors} == {env.worlds.device}
    assert (states.shape, present.shape, present.dtype) == ((m, 5), (m,), torch.bool)
    assert (env.states().shape, env.events().shape, again.shape) == ((n, 5), (n, 5), (n, LAYOUT.size))


def test_episodes_start_where_the_logs_do(make):
    """In the scenes' own frames, wherever the simulator keeps its origin."""
    env = make()
    for _ in range(2):
        states, present = env.everyone()
        worlds, parked = env.worlds, env.worlds.tensors["parked"]
        assert torch.equal(present, worlds.valid[:, 0])
        expected = worlds.log[:, 0].clone()
        expected[parked, 3:] = 0.0
        torch.testing.assert_close(states[present], expected[present], atol=2e-5, rtol=0)
        torch.testing.assert_close(env.states(), expected[worlds.controlled], atol=2e-5, rtol=0)
        assert env.alive().all()
        drive(env, some_actions(env, 3))
        env.reset()


def test_every_agent_ends_once(make):
    env = make(SCENES)
    alive = env.alive()
    ends = torch.zeros(env.num_agents)
    _, steps = drive(env, some_actions(env, env.horizon))
    for step in steps:
        assert not (step.terminated & step.truncated).any()
        ended = step.terminated | step.truncated
        assert not (ended & ~alive).any()
        assert torch.equal(step.alive, alive & ~ended)
        ends += ended
        alive = step.alive
    assert (ends == 1).all()
    assert not env.alive().any()
    assert any(step.terminated.any() for step in steps)
    assert any(step.truncated.any() for step in steps)


def test_what_was_given_stays_as_it_was(make):
    """Results are no views of what the next step writes to; observations may be."""
    env = make()
    step = env.step(some_actions(env, 1)[0])
    kept = {name: x for name, x in vars(step).items() if name != "observation"}
    kept |= {"states": env.states(), "now alive": env.alive(), "now events": env.events()}
    before = {name: x.clone() for name, x in kept.items()}
    drive(env, some_actions(env, 60, seed=1))
    env.reset()
    assert all(torch.equal(kept[name], before[name]) for name in kept)


def test_the_same_actions_lead_the_same_way(make):
    env, other = make(), make()
    actions = some_actions(env, 91)[: env.horizon]
    states, steps = drive(env, actions)
    for again in (other, env):
        again.reset()
        found, repeated = drive(again, actions)
        assert torch.equal(found, states)
        assert same(steps, repeated)


@pytest.mark.parametrize("which", [[1], torch.tensor([False, True, False])], ids=["indices", "flags"])
def test_one_world_starts_anew_and_the_others_go_on(make, which):
    scenes, cut = SCENES[:3], 20
    env, undisturbed = make(scenes), make(scenes)
    own = env.worlds.tensors["world"][env.worlds.controlled] == 1
    actions, later = some_actions(env, cut), some_actions(env, 30, seed=1)
    first, _ = drive(env, actions)
    drive(undisturbed, actions)
    before = {"states": env.states(), "alive": env.alive(), "events": env.events()}
    seen = env.reset(which).clone()
    after = {"states": env.states(), "alive": env.alive(), "events": env.events()}
    assert all(torch.equal(before[name][~own], after[name][~own]) for name in before)
    torch.testing.assert_close(after["states"][own], first[0][own], atol=0, rtol=0)
    assert after["alive"][own].all()

    _, steps = drive(env, later)
    _, expected = drive(undisturbed, later)
    fresh = make(scenes)
    assert torch.equal(seen[own], fresh.reset()[own])
    _, anew = drive(fresh, later)
    for step, goes_on, starts in zip(steps, expected, anew, strict=True):
        for name in vars(step):
            assert torch.equal(getattr(step, name)[~own], getattr(goes_on, name)[~own]), name
            assert torch.equal(getattr(step, name)[own], getattr(starts, name)[own]), name


@pytest.mark.parametrize("scenes", [SCENES[2:4], SCENES[1:4]], ids=["as many", "more"])
def test_worlds_are_exchanged(make, scenes):
    env, fresh = make(SCENES[:2]), make(scenes)
    drive(env, some_actions(env, 5))
    seen = env.swap(make_worlds(scenes)).clone()
    assert [scene.id for scene in env.worlds.scenes] == [scene.id for scene in scenes]
    assert torch.equal(seen, fresh.reset())
    actions = some_actions(env, 40)
    states, steps = drive(env, actions)
    expected, anew = drive(fresh, actions)
    assert torch.equal(states, expected)
    assert same(steps, anew)


def test_what_the_dead_do_means_nothing(make):
    env, other = make(), make()
    actions = some_actions(env, 90)
    alive = env.alive()
    for action in actions:
        garbage = torch.where(alive[:, None], action, torch.tensor([6.0, 0.6]))
        step, expected = env.step(garbage), other.step(action)
        alive = step.alive
        assert torch.equal(alive, expected.alive)
        assert torch.equal(step.observation[alive], expected.observation[alive])
        assert torch.equal(step.events[alive], expected.events[alive])


def test_indices_mean_the_values_of_the_grid(make):
    discrete = ActionSpace.create("classic", grid="fine-0.5", reverse=False)
    env, other = make(space=discrete), make(space=CONTINUOUS)
    rng = np.random.default_rng(0)
    for _ in range(20):
        pick = torch.from_numpy(rng.integers(0, discrete.sizes, (env.num_agents, 2)))
        values = torch.stack([torch.tensor(discrete.grid[k])[pick[:, k]] for k in range(2)], dim=1)
        assert torch.equal(env.step(pick).observation, other.step(values).observation)


@pytest.mark.parametrize("layout", [LAYOUT, ObservationConfig.gpudrive()], ids=["entity", "gpudrive"])
def test_observations_are_the_kernels(make, layout):
    """From the states that everyone has, whoever moved them; what is left of time counts down to the horizon."""
    env = make(layout=layout)
    observer = Observer(env.worlds, layout)
    rows = env.worlds.controlled
    last_valid = env.worlds.tensors["last_valid"][rows]
    end = last_valid.clamp(max=env.horizon) if env.config.end_with_log else torch.full_like(last_valid, env.horizon)
    observation = env.reset()
    for k, action in enumerate(some_actions(env, 30)):
        states, present = env.everyone()
        collided = torch.zeros(len(states), dtype=torch.bool)
        collided[rows] = env.events()[:, :3].any(dim=1)  # of this step alone, since on_collision is ignore
        left = (end - k).clamp(min=0).float() * DT
        step = torch.full((len(rows),), k, dtype=torch.int32)
        expected = observer.observe(states, present, rows.int(), left, step, collided)
        alive = env.alive()
        torch.testing.assert_close(observation[alive], expected[alive], atol=1e-6, rtol=0)
        observation = env.step(action).observation
