"""The simulator as Gymnasium sees it."""

import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.utils.passive_env_checker import check_obs, check_space
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import ClipReward, DictInfoToList, RecordEpisodeStatistics
from scenes import car, random_scene, scene, valid_only

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.gymnasium import GymnasiumEnv
from gail_cli.sim.worlds import make_worlds

ROOT = Path(__file__).parents[1]
EVERYONE = Selection(init_mode="all_objects")
ONE_EACH = Selection(init_mode="all_objects", max_controlled=1)
COAST = np.zeros(2, np.float32)
STRAIGHT_ON = np.array(ActionSpace.create("classic").sizes) // 2
"""The same, as indices into the grid."""
STOPS = {"on_collision": "stop", "on_goal": "stop"}


def backend(*scenes, dynamics="classic", actions="continuous", selection=EVERYONE, **rules):
    worlds = make_worlds(scenes, selection=selection)
    return Env(worlds, ActionSpace.create(dynamics, actions), SimConfig(selection=selection, **rules))


def drivers(*ends):
    """Cars side by side at 10 m/s whose logs, and with them their episodes, end after so many steps."""
    return scene(*(car(0, 20 * i, speed=10, valid=valid_only(*range(end + 1))) for i, end in enumerate(ends)))


class OneWorld(gymnasium.Env):
    """One world with one controlled agent, as one would write it by hand after Gymnasium's own documentation."""

    def __init__(self, backend):
        self.backend = backend
        self.observation_space = Box(-np.inf, np.inf, (backend.observation_config.size,), np.float32)
        self.action_space = MultiDiscrete(np.array(backend.action_space.sizes))

    def infos(self):
        return {"events": self.backend.events()[0].numpy().copy(), "alive": bool(self.backend.alive()[0])}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.backend.reset()[0].numpy().copy(), self.infos()

    def step(self, action):
        step = self.backend.step(torch.from_numpy(action)[None])
        return (
            step.observation[0].numpy().copy(),
            float(step.reward),
            bool(step.terminated),
            bool(step.truncated),
            self.infos(),
        )


def test_with_one_agent_a_world_it_is_what_gymnasium_makes_of_single_environments():
    """The same data as SyncVectorEnv with resets in the same step, over several episodes of several lengths."""
    scenes = [drivers(4), drivers(10), *(random_scene(seed, extent=30.0) for seed in (0, 1, 3))]
    kwargs = {"actions": "discrete", "selection": ONE_EACH, **STOPS}
    ours = GymnasiumEnv(backend(*scenes, **kwargs))
    theirs = SyncVectorEnv(
        [lambda s=s: OneWorld(backend(s, **kwargs)) for s in scenes], autoreset_mode=AutoresetMode.SAME_STEP
    )
    assert ours.num_envs == theirs.num_envs == 5
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(theirs, space)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    assert all(map(data_equivalence, ours.reset(seed=5), theirs.reset(seed=5)))
    ours.action_space.seed(0)
    ends = np.zeros((2, 5), int)
    for _ in range(40):
        actions = ours.action_space.sample()
        (*data, infos), (*wanted, expected_infos) = ours.step(actions), theirs.step(actions)
        for ours_now, theirs_now in zip(data, wanted, strict=True):
            np.testing.assert_array_equal(ours_now, theirs_now)
        final, wanted = infos.pop("final_info", {}), expected_infos.pop("final_info", {})
        assert data_equivalence(final.get("events"), wanted.get("events"))
        assert infos.keys() == expected_infos.keys()
        assert all(data_equivalence(list(infos[key]), list(expected_infos[key])) for key in infos)
        ends += data[2:4]
    assert (ends.sum(0) >= 4).all()
    assert (ends.sum(1) > 0).all()


def test_spaces_and_data_pass_gymnasiums_checks():
    for dynamics, actions in (("classic", "discrete"), ("delta_local", "continuous"), ("state", "continuous")):
        env = GymnasiumEnv(backend(drivers(4, 8), drivers(3), dynamics=dynamics, actions=actions))
        check_space(env.single_observation_space, "observation", lambda *_: None)
        check_space(env.single_action_space, "action", lambda *_: None)
        observation, _ = env.reset(seed=0)
        check_obs(observation, env.observation_space, "reset")
        for _ in range(10):
            assert env.single_action_space.shape == (env.backend.action_space.components,)
            observation, reward, terminated, truncated, infos = env.step(env.action_space.sample())
            check_obs(observation, env.observation_space, "step")
            assert reward.shape == terminated.shape == truncated.shape == infos["alive"].shape == (3,)
            assert infos["events"].shape == (3, 5)
    assert (env.single_action_space.low == -np.inf).all()


def test_agents_wait_for_the_last_of_their_world():
    """Logs of 2 and 5 steps in one world, 3 in the other: done once each, and the world with the last of them."""
    env = GymnasiumEnv(backend(drivers(2, 5), drivers(3), actions="discrete"))
    first, infos = env.reset()
    assert infos["alive"].all()
    done, alive = [], []
    for k in range(1, 11):
        actions = np.where(infos["alive"][:, None], STRAIGHT_ON, -99)  # of those who wait, no index at all
        observation, reward, terminated, truncated, infos = env.step(actions)
        assert not terminated.any()
        done.append(truncated.tolist())
        alive.append(infos["alive"].tolist())
        waits = ~infos["alive"] & ~truncated
        assert not observation[waits].any()
        assert not reward[waits].any()
        assert observation[~waits].any(axis=1).all()
        begins = np.array([k % 5 == 0, k % 5 == 0, k % 3 == 0])
        np.testing.assert_array_equal(observation[begins], first[begins])
        assert [x is not None for x in infos.get("final_obs", [None] * 3)] == done[-1]
    assert done == [[k % 5 == 2, k % 5 == 0, k % 3 == 0] for k in range(1, 11)]
    assert alive == [[k % 5 in (0, 1), True, True] for k in range(1, 11)]


def test_what_is_final_is_told_apart_from_what_comes_next():
    """A car at 10 m/s with a log of 3 steps ends at its goal, and its next episode begins 3 m before it."""
    env = GymnasiumEnv(backend(drivers(3), drivers(9)))
    env.reset()
    paid = []
    for _ in range(3):
        observation, reward, _, truncated, infos = env.step(np.tile(COAST, (2, 1)))
        paid.append(reward.tolist())
    column = env.backend.observation_config.ego_fields.index("goal distance/50")
    assert truncated.tolist() == [True, False]
    assert paid == [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]  # for arriving, a metre before the end
    np.testing.assert_allclose(observation[:, column] * 50, [3, 6], atol=1e-5)
    np.testing.assert_allclose(infos["final_obs"][0][column] * 50, 0, atol=1e-5)
    assert infos["_final_obs"].tolist() == infos["_final_info"].tolist() == [True, False]
    assert infos["final_info"]["events"].tolist() == [[False, False, False, True, False], [False] * 5]
    assert not infos["events"].any()


def test_statistics_and_other_wrappers_work():
    """Lengths of episodes are those of the logs, and the return is the arrival within 2 m of the goal."""
    env = RecordEpisodeStatistics(GymnasiumEnv(backend(drivers(4), drivers(9), selection=ONE_EACH)))
    env = DictInfoToList(ClipReward(env, max_reward=0.5))
    env.reset(seed=0)
    episodes = []
    for _ in range(20):
        _, reward, *_, infos = env.step(np.tile(COAST, (2, 1)))
        assert reward.max() <= 0.5
        episodes += [
            (i, int(e["episode"]["l"]), float(e["episode"]["r"])) for i, e in enumerate(infos) if "episode" in e
        ]
    assert episodes == [(0, 4, 1.0), (0, 4, 1.0), (1, 9, 1.0), (0, 4, 1.0), (0, 4, 1.0), (1, 9, 1.0), (0, 4, 1.0)]


def test_results_stay_as_they_were():
    env = GymnasiumEnv(backend(drivers(2, 5), drivers(3)))
    kept = [env.reset()]
    kept += [env.step(np.tile(COAST, (3, 1))) for _ in range(5)]
    again = GymnasiumEnv(backend(drivers(2, 5), drivers(3)))
    assert data_equivalence(kept[0], again.reset())
    for step in kept[1:]:
        now = again.step(np.tile(COAST, (3, 1)))
        for a, b in zip(step[:4], now[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        assert all(np.array_equal(step[4][key], now[4][key]) for key in ("alive", "events"))


def test_who_waits_at_its_goal_earns_nothing():
    """A car that stops 1 m before its goal, at step 3, is paid once, while the other drives on to step 9."""
    cars = car(speed=10, valid=valid_only(*range(5))), car(0, 30, speed=10)
    env = GymnasiumEnv(backend(scene(*cars), on_goal="stop"))
    env.reset()
    rewards = np.array([env.step(np.tile(COAST, (2, 1)))[1] for _ in range(9)])
    assert np.argwhere(rewards).tolist() == [[2, 0], [8, 1]]


def test_worlds_where_nobody_acts_do_not_disturb(monkeypatch):
    env = GymnasiumEnv(backend(drivers(0), scene(car(valid=valid_only(5))), drivers(2)))
    env.reset()
    resets, reset = [], env.backend.reset
    monkeypatch.setattr(env.backend, "reset", lambda worlds: resets.append(worlds.tolist()) or reset(worlds))
    done = []
    for _ in range(4):
        _, _, _, truncated, infos = env.step(np.tile(COAST, (2, 1)))
        done.append(truncated.tolist())
        assert infos["alive"].tolist() == [False, True]
    assert done == [[False, False], [False, True]] * 2
    assert resets == [[False, False, True]] * 2


def test_some_worlds_are_reset_by_a_mask():
    env = GymnasiumEnv(backend(drivers(9, 9), drivers(9)))
    first, _ = env.reset()
    env.step(np.tile(COAST, (3, 1)))
    second, *_ = env.step(np.tile(COAST, (3, 1)))
    observation, infos = env.reset(options={"reset_mask": np.array([True, True, False])})
    np.testing.assert_array_equal(observation, np.concatenate([first[:2], second[2:]]))
    assert infos["alive"].all()


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (np.array([True, False, False]), r"names a part of world 0; name all of its agents or none$"),
        (np.array([True, True]), r"must be a NumPy array of 3 bool, one per agent$"),
        (np.array([1, 1, 0]), r"must be a NumPy array of 3 bool, one per agent$"),
        ([True, True, False], r"must be a NumPy array of 3 bool, one per agent$"),
    ],
)
def test_masks_that_can_not_be_are_refused(mask, words):
    env = GymnasiumEnv(backend(drivers(9, 9), drivers(9)))
    with pytest.raises(ValueError, match=r"^gymnasium: reset_mask " + words):
        env.reset(options={"reset_mask": mask})


def test_what_can_not_work_is_refused():
    with pytest.raises(ValueError, match=r"^gymnasium: no world has a controlled agent; choose other scenes"):
        GymnasiumEnv(backend(scene(car(valid=valid_only(5)))))
    env = GymnasiumEnv(backend(drivers(2)))
    env.backend.worlds = make_worlds([drivers(3)], selection=EVERYONE)
    for call in (env.reset, lambda: env.step(COAST[None])):
        with pytest.raises(RuntimeError, match=r"other worlds than when this was made; make a new GymnasiumEnv$"):
            call()


def test_a_seed_is_of_the_random_numbers_and_not_of_the_worlds():
    env = GymnasiumEnv(backend(drivers(4, 8)))
    resets = [(env.reset(seed=seed)[0], env.np_random.integers(1000)) for seed in (0, 1, 0)]
    np.testing.assert_array_equal(resets[0][0], resets[1][0])
    assert resets[0][1] == resets[2][1] != resets[1][1]


def test_the_documentation_runs(monkeypatch, capsys):
    """The code blocks of docs/ecosystem.md, one after the other, from the root of the project."""
    monkeypatch.chdir(ROOT)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "docs/ecosystem.md").read_text(), re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out
    assert re.search(r"return of an agent tensor\(\d", printed)
    assert len(re.findall(r"agent [012] return [\d.]+ events \[", printed)) >= 3
