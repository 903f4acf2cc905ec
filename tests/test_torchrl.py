"""The simulator as TorchRL sees it."""

import numpy as np
import pytest
import torch
from scenes import car, random_scene, scene, valid_only
from tensordict.nn import TensorDictModule
from torchrl.collectors import Collector
from torchrl.data import Bounded, MultiCategorical, Unbounded
from torchrl.envs import RewardSum, TransformedEnv, check_env_specs
from torchrl.objectives.value import GAE

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.torchrl import TorchRLEnv
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")
LOG_ENDS = {0: [4], 1: [2, 8, 5], 2: [10, 10]}
"""Of each world: the step at which each car's log, and with it its episode, ends."""


def drivers(world):
    """Cars side by side whose logs end as in LOG_ENDS; each is at its goal (2 m before it) when it gets there."""
    ends = LOG_ENDS[world]
    return scene(*(car(0, 20 * i, speed=10 + world, valid=valid_only(*range(end + 1))) for i, end in enumerate(ends)))


def backend(*scenes, dynamics="classic", actions="continuous", selection=EVERYONE, **rules):
    worlds = make_worlds(scenes, selection=selection)
    return Env(worlds, ActionSpace.create(dynamics, actions), SimConfig(selection=selection, **rules))


def coast(tensordict):
    """The policy that keeps speed and heading (classic, continuous)."""
    return tensordict.set(("agents", "action"), torch.zeros(*tensordict["agents", "mask"].shape, 2))


@pytest.fixture
def env():
    return TorchRLEnv(backend(*map(drivers, LOG_ENDS)))


@pytest.mark.parametrize(
    ("dynamics", "actions", "spec"),
    [
        ("classic", "discrete", MultiCategorical),
        ("delta_local", "discrete", MultiCategorical),
        ("bicycle", "continuous", Bounded),
        ("state", "continuous", Unbounded),
    ],
)
def test_torchrl_finds_nothing_to_complain_of(dynamics, actions, spec):
    scenes = [random_scene(seed, agents=3 + 2 * seed) for seed in range(3)]
    env = TorchRLEnv(backend(*scenes, dynamics=dynamics, actions=actions, on_collision="remove"))
    assert isinstance(env.full_action_spec["agents", "action"], spec)
    check_env_specs(env, break_when_any_done="both")
    check_env_specs(env, seed=1)


def test_random_actions_are_those_of_the_space():
    env = TorchRLEnv(backend(*map(drivers, LOG_ENDS), actions="discrete"))
    action = env.rollout(50, break_when_any_done=False)["agents", "action"]
    assert action.dtype == torch.int64
    assert action.amin((0, 1, 2)).tolist() == [0, 0]
    assert (action.amax((0, 1, 2)) + 1).tolist() == list(env.backend.action_space.sizes)


def test_agents_stand_at_their_places_and_end_one_by_one(env):
    """The same as the flat interface gives, world by world, with zeros where nobody is."""
    flat, now, paid = backend(*map(drivers, LOG_ENDS)), env.reset(), {}
    places = [(w, i) for w, ends in LOG_ENDS.items() for i in range(len(ends))]
    observation = flat.reset()
    for k in range(1, 11):
        assert [(w, i) for w, i in now["agents", "mask"].nonzero().tolist()] == [
            (w, i) for w, i in places if LOG_ENDS[w][i] >= k
        ]
        for (w, i), row in zip(places, observation, strict=True):
            assert torch.equal(now["agents", "observation"][w, i], row * (LOG_ENDS[w][i] >= k - 1))
        done = env.step(coast(now))["next"]
        step = flat.step(torch.zeros(6, 2))
        observation = step.observation
        for n, (w, i) in enumerate(places):
            end = LOG_ENDS[w][i]
            assert done["agents", "truncated"][w, i].item() == (k >= end)
            assert done["agents", "done"][w, i].item() == (k >= end)
            assert done["agents", "events"][w, i].tolist() == step.events[n].tolist()
            if k <= end:
                assert done["agents", "reward"][w, i] == step.reward[n]
                paid[w, i] = paid.get((w, i), 0.0) + done["agents", "reward"][w, i].item()
            else:
                assert done["agents", "reward"][w, i] == 0
        assert not done["agents", "terminated"].any()
        assert not done["terminated"].any()
        assert done["done"].flatten().tolist() == [k >= max(ends) for ends in LOG_ENDS.values()]
        padding = done["agents"][[0, 0, 2], [1, 2, 2]]
        assert not any(value.any() for value in padding.values())
        now = done
    assert set(paid.values()) == {1.0}  # each arrived at its goal


def test_worlds_that_are_done_begin_anew_and_leave_the_others_alone(env):
    """World 0 ends every 4 steps, world 1 every 8, world 2 every 10; every episode is the first one again."""
    length = {0: 4, 1: 8, 2: 10}
    history = env.rollout(25, coast, break_when_any_done=False)
    seen, after = history["agents", "observation"], history["next", "agents", "observation"]
    alone = [TorchRLEnv(backend(drivers(w))).rollout(10, coast) for w in LOG_ENDS]
    for w, episode in length.items():
        steps = torch.arange(25) % episode
        assert history["next", "done"][w].flatten().tolist() == (steps == episode - 1).tolist()
        assert not history["done"][w].any()
        agents = len(LOG_ENDS[w])
        assert len(alone[w][0]) == episode
        assert torch.equal(seen[w, :, :agents], alone[w]["agents", "observation"][0, steps])
        assert torch.equal(after[w, :, :agents], alone[w]["next", "agents", "observation"][0, steps])
        masks = alone[w]["agents", "mask"][0, steps]
        assert torch.equal(history["agents", "mask"][w, :, :agents], masks)


def test_a_reset_by_mask_is_of_these_worlds(env):
    first = env.reset().clone()
    now = env.rollout(3, coast)[:, -1]["next"].exclude(("agents", "reward"))
    before = now.clone()
    again = env.reset(now.set("_reset", torch.tensor([[False], [True], [False]])))
    for w in range(3):
        assert all((first if w == 1 else before)[w][key].equal(again[w][key]) for key in first.keys(True, True))
    after = env.step(coast(again))["next"]
    assert after["done"].flatten().tolist() == [True, False, False]
    assert after["agents", "done"][1].flatten().tolist() == [False, False, False]


def test_a_world_is_terminated_when_all_of_its_agents_are():
    """Two cars meet head-on; in the second world a third one drives on to the end of the log."""
    crash = car(0, speed=10), car(9, heading=np.pi, speed=10)
    env = TorchRLEnv(backend(scene(*crash), scene(*crash, car(0, 30, speed=10)), on_collision="stop"))
    last = env.rollout(30, coast, break_when_any_done=False, break_when_all_done=True)["next"]
    ends = last["done"].int().argmax(1).flatten().tolist()
    assert ends == [3, 9]
    assert [last["terminated"][w, ends[w]].item() for w in (0, 1)] == [True, False]
    assert [last["truncated"][w, ends[w]].item() for w in (0, 1)] == [False, True]
    assert last["agents", "terminated"][1, 9].flatten().tolist() == [True, True, False]


def test_who_waits_at_its_goal_earns_nothing():
    """A car that stops 1 m before its goal, at step 3, is paid once, while the other drives on to step 10."""
    env = TorchRLEnv(backend(scene(car(speed=10, valid=valid_only(*range(5))), car(0, 30, speed=10)), on_goal="stop"))
    reward = env.rollout(20, coast)["next", "agents", "reward"][0, ..., 0]
    assert reward.nonzero().tolist() == [[2, 0], [8, 1]]


def test_what_is_told_to_padding_and_to_those_who_wait_means_nothing():
    env = TorchRLEnv(backend(*map(drivers, LOG_ENDS), actions="discrete"))

    middle = torch.tensor(env.backend.action_space.sizes) // 2

    def history(otherwise):
        def straight_on(tensordict):
            mask = tensordict["agents", "mask"][..., None]
            return tensordict.set(("agents", "action"), torch.where(mask, middle, otherwise))

        return env.rollout(12, straight_on, break_when_any_done=False)["next"]

    assert (history(7) == history(-99)).all()


def test_worlds_where_nobody_acts_are_never_done():
    """No agent at all, or one whose log ends where it begins."""
    nobody, at_once = scene(car(valid=valid_only(5))), scene(car(valid=valid_only(0)))
    env = TorchRLEnv(backend(drivers(0), nobody, at_once))
    check_env_specs(env)
    history = env.rollout(9, coast, break_when_any_done=False)
    assert history["next", "done"].sum(1).flatten().tolist() == [2, 0, 0]
    assert history["agents", "mask"].sum((1, 2)).tolist() == [9, 0, 0]


def test_a_collector_and_an_advantage_estimate_work_with_it(env):
    """Returns begin anew with the world; an agent's own end cuts its future off, others' ends do not."""
    summed = RewardSum(in_keys=[("agents", "reward")], out_keys=[("agents", "episode_reward")])
    collector = Collector(TransformedEnv(env, summed), coast, frames_per_batch=3 * 40, total_frames=3 * 80)
    batches = list(collector)
    collector.shutdown()
    assert [tuple(batch.shape) for batch in batches] == [(3, 40), (3, 40)]
    batch = batches[0]
    arrived = {0: [1, 0, 0], 1: [1, 1, 1], 2: [1, 1, 0]}
    for w, ends in LOG_ENDS.items():
        done = batch["next", "done"][w].flatten()
        assert done.nonzero().flatten().tolist() == list(range(max(ends) - 1, 40, max(ends)))
        assert batch["next", "agents", "episode_reward"][w, done].flatten(1).unique(dim=0).tolist() == [arrived[w]]

    def nothing(mask):
        return torch.zeros(*mask.shape, 1)

    value = TensorDictModule(nothing, in_keys=[("agents", "mask")], out_keys=[("agents", "state_value")])
    estimate = GAE(gamma=1.0, lmbda=1.0, value_network=value)
    keys = {name: ("agents", name) for name in ("reward", "done", "terminated", "advantage", "value_target")}
    estimate.set_keys(value=("agents", "state_value"), **keys)
    advantage = estimate(batch)["agents", "advantage"][..., 0]
    assert advantage[1, :8, 1].tolist() == [1.0] * 7 + [0.0]
    assert advantage[1, 8:10, 0].tolist() == [1.0, 0.0]


def test_a_seed_changes_nothing(env):
    def first():
        return env.rollout(5, coast)

    env.set_seed(0)
    zero = first()
    env.set_seed(1)
    assert (zero == first()).all()


def test_what_can_not_work_is_refused(env):
    with pytest.raises(ValueError, match=r"^torchrl: no world has a controlled agent; choose other scenes"):
        TorchRLEnv(backend(scene(car(valid=valid_only(5)))))
    env.backend.worlds = make_worlds([drivers(0)], selection=EVERYONE)
    for call in (env.reset, lambda: env.step(coast(env.fake_tensordict()))):
        with pytest.raises(RuntimeError, match=r"other worlds than when this was made; make a new TorchRLEnv$"):
            call()
