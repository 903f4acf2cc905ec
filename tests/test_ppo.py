import copy
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from gail_cli.gail.commands.console import _training_line
from gail_cli.gail.config.schema import PolicyConfig, PPOConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.ppo import AdvantageScale, advantages, clipped_loss, discounted_returns, minibatches, update
from gail_cli.gail.learning.progress import RunProgress
from gail_cli.gail.learning.rollout import Rollout, collect
from gail_cli.gail.networks.policy import Critic, Policy
from gail_cli.pipeline.experts.replay import demo_worlds
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.worlds import make_worlds
from tests.scenes import car, scene

LAYOUT = ObservationConfig(partners=2, road_segments=2)
SIZES = PolicyConfig(entity_hidden=4, hidden=8)
SPACE = ActionSpace.create("classic")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def advantages_by_definition(reward, value, next_value, terminated, done, gamma, gae_lambda):
    """One agent: the errors of one step, discounted by gamma lambda up to the next end."""
    errors = [r + gamma * n * (not t) - v for r, v, n, t in zip(reward, value, next_value, terminated, strict=True)]
    sums = []
    for start in range(len(errors)):
        total, weight = 0.0, 1.0
        for error, end in zip(errors[start:], done[start:], strict=True):
            total += weight * error
            if end:
                break
            weight *= gamma * gae_lambda
        sums.append(total)
    return sums


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.98, 0.95), (1.0, 1.0), (0.9, 0.0)])
def test_advantages_are_their_definition(gamma, gae_lambda):
    """Ends of both kinds fall anywhere, in the middle and at the last step."""
    steps, agents = 12, 40
    reward, value, next_value = torch.randn(3, steps, agents, generator=generator())
    end = torch.rand(2, steps, agents, generator=generator(1)) < 0.15
    terminated, done = end[0], end[0] | end[1]
    found, target = advantages(reward, value, next_value, terminated, done, gamma, gae_lambda)
    columns = [x.T.tolist() for x in (reward, value, next_value, terminated, done)]
    expected = [advantages_by_definition(*agent, gamma, gae_lambda) for agent in zip(*columns, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected).T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target, found + value)


def test_advantages_by_hand():
    """gamma 1/2, lambda 1: a truncated step counts its next value, a terminated one does not."""
    reward = torch.tensor([[1.0, 1.0, 1.0]] * 2)
    value, next_value = torch.full((2, 3), 2.0), torch.full((2, 3), 4.0)
    terminated = torch.tensor([[False, False, False], [True, False, False]])
    done = torch.tensor([[False, False, False], [True, True, False]])
    found, _ = advantages(reward, value, next_value, terminated, done, gamma=0.5, gae_lambda=1.0)
    assert found.tolist() == [[1 + 0.5 * -1, 1 + 0.5 * 1, 1 + 0.5 * 1], [-1, 1, 1]]


def test_discounted_returns_by_hand():
    found = discounted_returns(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 8.0]]), 0.5)
    assert found.tolist() == [[3.0, 2.0], [4.0, 4.0], [4.0, 8.0]]


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain"),
    [(1.1, 2, 2.2), (1.5, 2, 2.4), (0.5, 2, 1.0), (1.5, -2, -3.0), (0.5, -2, -1.6), (0.9, -2, -1.8)],
)
def test_clipped_loss_by_hand(ratio, advantage, gain):
    """Nothing is gained beyond 1 +- 0.2, but losses count in full."""
    old = torch.tensor([-1.0])
    loss = clipped_loss(old + math.log(ratio), old, torch.tensor([float(advantage)]), 0.2)
    assert loss.item() == pytest.approx(-gain)


def test_clipped_loss_is_a_mean():
    log_prob, advantage = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 3.0])
    assert clipped_loss(log_prob, log_prob, advantage, 0.2).item() == -2


def test_advantages_are_standardised_but_noise_is_not_blown_up():
    """Variances 1, then 0.01 (0.505 on average), then 25 (8.67 on average)."""
    scale = AdvantageScale()
    torch.testing.assert_close(scale(torch.tensor([4.0, 5.0, 6.0])), torch.tensor([-1.0, 0.0, 1.0]))
    quiet = torch.tensor([-0.1, 0.0, 0.1])
    torch.testing.assert_close(scale(quiet + 7), quiet / math.sqrt(0.505))
    torch.testing.assert_close(scale(torch.tensor([-5.0, 0.0, 5.0])), torch.tensor([-1.0, 0.0, 1.0]))
    assert scale.variance == pytest.approx(26.01 / 3)
    assert AdvantageScale()(torch.ones(3)).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("n", "size", "count"), [(100, 10, 10), (103, 10, 10), (5, 100, 1), (10, 4, 2)])
def test_minibatches_are_a_partition(n, size, count):
    batches = list(minibatches(n, size, generator()))
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert len(batches) == count
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    again, other = (torch.cat(list(minibatches(n, size, generator(seed)))) for seed in (0, 1))
    assert torch.equal(torch.cat(batches), again)
    assert not torch.equal(again, other)


# One update


LIVES = [(6, None), (3, "terminated"), (2, "truncated"), (6, "truncated"), (0, None)]
"""Of each agent: the steps in which it acts, and how that ends."""


def rollout(seed=0):
    """Six steps of agents that end early, late, both ways, or never begin."""
    steps, agents = 6, len(LIVES)
    observation = torch.rand(steps + 1, agents, LAYOUT.size, generator=generator(seed))
    ends = {kind: torch.zeros(steps, agents, dtype=torch.bool) for kind in ("terminated", "truncated")}
    for agent, (length, kind) in enumerate(LIVES):
        if kind:
            ends[kind][length - 1, agent] = True
    return Rollout(
        observation=observation[:-1],
        last_observation=observation[-1],
        action=torch.randint(0, 15, (steps, agents, 2), generator=generator(seed)),
        log_prob=torch.full((steps, agents), -5.0),
        alive=torch.arange(steps)[:, None] < torch.tensor([length for length, _ in LIVES]),
        environment_reward=torch.zeros(steps, agents),
        end=torch.full((agents,), steps),
        happened=torch.zeros(steps, agents, 5, dtype=torch.bool),
        fault=torch.ones(steps, agents),
        **ends,
    )


def improve(policy, critic, optimisers, what, reward, expert=None, train_policy=True, **settings):
    config, scale = PPOConfig(**{"target_kl": None} | settings), AdvantageScale()
    return update(policy, critic, optimisers, what, reward, config, expert, scale, generator(), train_policy)


def learned(what, reward, seed=0, **settings):
    """Parameters of a policy and a critic after one update on a rollout, and its metrics."""
    torch.manual_seed(seed)
    policy, critic = Policy(LAYOUT, SPACE, SIZES), Critic(LAYOUT, SIZES)
    optimisers = tuple(torch.optim.SGD(module.parameters(), lr=0.1) for module in (policy, critic))
    before = copy.deepcopy([policy.state_dict(), critic.state_dict()])
    metrics = improve(policy, critic, optimisers, what, reward, minibatch_size=6, update_epochs=2, **settings)
    return before, [policy.state_dict(), critic.state_dict()], metrics


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_agents_that_do_not_act_have_no_influence():
    """But the state right after a truncation has: the future is valued there."""
    original, reward = rollout(), torch.randn(6, len(LIVES), generator=generator(7))
    _, expected, metrics = learned(original, reward)
    dead = ~original.alive
    behind_truncation = torch.zeros_like(dead)
    behind_truncation[1:] = original.truncated[:-1]
    unseen = dead & ~behind_truncation

    def junk_at(where):
        junk = {f.name: getattr(original, f.name) for f in fields(Rollout)}
        junk = {name: value if value is None else value.clone() for name, value in junk.items()}
        junk["observation"][where] = 50.0
        for name in ("action", "log_prob", "environment_reward"):
            junk[name][dead] = 3
        return learned(Rollout(**junk), torch.where(dead, 1000.0, reward))

    _, found, junk_metrics = junk_at(unseen)
    assert same(found[0], expected[0])
    assert same(found[1], expected[1])
    assert junk_metrics == metrics
    assert not same(junk_at(behind_truncation)[1][1], expected[1])


class ConstantCritic(Critic):
    """Values every observation by its first number alone."""

    def forward(self, observations):
        return observations[:, 0] + 0 * super().forward(observations)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_ends_are_valued_as_they_should(monkeypatch, bootstrap):
    """Rewards 0, values 0 but where each agent goes last: what reaches the advantages is gamma times that value."""
    what = rollout()
    observation, last = what.observation.clone(), what.last_observation.clone()
    observation[..., 0] = 0.0
    last[:, 0] = torch.tensor([10.0, 20.0, 30.0, 40.0, 50.0])
    for agent, (length, _) in enumerate(LIVES):
        if 0 < length < 6:
            observation[length, agent, 0] = 10.0 * (agent + 1)
    what = replace(what, observation=observation, last_observation=last)
    seen = {}

    def spy(reward, value, next_value, terminated, done, *rest):
        seen["advantage"], _ = result = advantages(reward, value, next_value, terminated, done, *rest)
        return result

    monkeypatch.setattr("gail_cli.gail.learning.ppo.advantages", spy)
    policy, critic = Policy(LAYOUT, SPACE, SIZES), ConstantCritic(LAYOUT, SIZES)
    optimisers = tuple(torch.optim.SGD(module.parameters(), lr=0.1) for module in (policy, critic))
    reward = torch.zeros(6, len(LIVES))
    improve(policy, critic, optimisers, what, reward, gamma=0.5, bootstrap_truncation=bootstrap)
    # The agents: goes on; terminated at step 2; truncated at step 1; truncated at the last step.
    expected = torch.tensor([5.0, 0.0, 15.0 * bootstrap, 20.0 * bootstrap])
    at_the_end = seen["advantage"][[5, 2, 1, 5], torch.arange(4)]
    torch.testing.assert_close(at_the_end, expected)


def test_only_the_critic_learns_where_the_policy_waits():
    before, after, metrics = learned(rollout(), torch.ones(6, len(LIVES)), train_policy=False)
    assert same(before[0], after[0])
    assert not same(before[1], after[1])
    assert metrics.keys() == {"critic_loss", "explained_variance"}


def test_the_policy_learns_what_pays():
    """Actions that paid more than was expected become likelier, others less likely."""
    what = rollout()
    paid = torch.where(what.action[..., 0] < 8, 1.0, -1.0)
    torch.manual_seed(0)
    policy = Policy(LAYOUT, SPACE, SIZES)
    critic = Critic(LAYOUT, SIZES)
    flat, action = what.observation[what.alive], what.action[what.alive]
    log_prob = torch.zeros(6, len(LIVES))
    old = policy.evaluate(flat, action)[0].detach()
    log_prob[what.alive] = old
    optimisers = (torch.optim.Adam(policy.parameters(), lr=3e-3), torch.optim.SGD(critic.parameters(), lr=0.0))
    what = replace(what, log_prob=log_prob)
    improve(policy, critic, optimisers, what, paid, gae_lambda=0.0, gamma=0.01, update_epochs=5, minibatch_size=100)
    change = policy.evaluate(flat, action)[0] - old
    good = paid[what.alive] > 0
    assert change[good].mean() > 0.01
    assert change[~good].mean() < -0.01


def test_the_critic_learns_the_returns():
    what = rollout()
    torch.manual_seed(0)
    policy, critic = Policy(LAYOUT, SPACE, SIZES), Critic(LAYOUT, SIZES)
    optimisers = tuple(torch.optim.Adam(module.parameters(), lr=1e-2) for module in (policy, critic))
    reward = what.observation[..., 0]
    metrics = improve(policy, critic, optimisers, what, reward, train_policy=False, gamma=0.01, update_epochs=150)
    error = critic(what.observation[what.alive]) - reward[what.alive]
    assert error.square().mean() < 0.01
    assert metrics["explained_variance"] < 0.5  # of the values before


def test_experts_are_cloned_beside():
    flat = rollout().observation[0]
    batch = Transitions(flat, torch.full((len(LIVES), 2), 2))
    sizes = []

    def expert(size):
        sizes.append(size)
        return batch

    reward = torch.zeros(6, len(LIVES))
    _, _, metrics = learned(rollout(), reward, expert=expert, bc_coef=1e-9, bc_batch_size=5)
    uniform = sum(math.log(n) for n in SPACE.sizes)
    assert metrics["bc_loss"] == pytest.approx(uniform, rel=0.01)
    assert set(sizes) == {5}
    assert learned(rollout(), reward, expert=expert, bc_coef=1.0)[2]["bc_loss"] < metrics["bc_loss"] - 0.1
    assert "bc_loss" not in learned(rollout(), reward, expert=expert, bc_coef=0.0)[2]
    assert "bc_loss" not in learned(rollout(), reward, expert=None, bc_coef=0.5)[2]


# Rollouts


def test_off_road_is_a_share_of_agents_whose_map_has_edges():
    """Two cars over an edge and beside it, and one over a stop sign's post on a map without edges."""
    post, edge = ((kind, 0, 0, 10, 0.1, np.pi / 2) for kind in (RoadType.STOP_SIGN, RoadType.ROAD_EDGE))
    bare, edged = scene(car(0, 0), segments=[post]), scene(car(0, 0), car(0, 40), segments=[edge])
    space = ActionSpace.create("classic")
    policy = Policy(LAYOUT, space, SIZES)
    selection = Selection(init_mode="all_valid")
    found = []
    for scenes in ([bare, edged, bare], [bare]):
        worlds = make_worlds(scenes, selection=selection)
        rules = SimConfig(selection=selection, horizon=2)
        found.append(collect(Env(worlds, space, rules, LAYOUT), policy, torch.clone))
        assert worlds.edged.tolist() == [s is edged for s in scenes]
    assert found[0][0].events[:, Event.OFF_ROAD].tolist() == [True, True, False, True]
    assert found[0][1]["rollout/off_road"] == 0.5
    assert "rollout/off_road" not in found[1][1]
    lines = [_training_line(RunProgress(), metrics) for _, metrics in found]
    assert [line.rsplit(", ", 1)[1] for line in lines] == ["off-road 0.50", "off-road -"]


def test_a_rollout_is_what_the_simulator_did(make_store):
    store = make_store(scenes=2)
    worlds = demo_worlds(list(store.read()), SimConfig().selection, "cpu")
    pay = {"collision_weight": -10.0, "goal_achieved_weight": 100.0, "off_road_weight": -1.0}
    rules = SimConfig(on_collision="remove", horizon=30, reward="weighted_combination", **pay)
    torch.manual_seed(0)
    policy = Policy(LAYOUT, store.space, SIZES)
    what, metrics = collect(Env(worlds, store.space, rules, LAYOUT), policy, torch.clone)
    env = Env(worlds, store.space, rules, LAYOUT)
    observation, alive, arrived = env.reset().clone(), env.alive().clone(), torch.zeros(env.num_agents, dtype=bool)
    assert what.observation.shape == (30, env.num_agents, LAYOUT.size)
    for k in range(30):
        assert torch.equal(what.observation[k], observation)
        assert torch.equal(what.alive[k], alive)
        torch.testing.assert_close(what.log_prob[k], policy.evaluate(observation, what.action[k])[0])
        step = env.step(what.action[k])
        assert torch.equal(what.terminated[k], step.terminated)
        assert torch.equal(what.truncated[k], step.truncated)
        hit = step.events[:, Event.VEHICLE].float() + step.events[:, Event.NON_VEHICLE].float()
        first = step.events[:, Event.GOAL] & ~arrived
        paid = 100.0 * first - 10.0 * hit - 1.0 * step.events[:, Event.OFF_ROAD]
        assert torch.equal(what.environment_reward[k], paid * alive)
        arrived |= step.events[:, Event.GOAL] & alive
        observation, alive = step.observation.clone(), step.alive.clone()
    assert torch.equal(what.last_observation, observation)
    last_logged = env.worlds.tensors["last_valid"][env.worlds.controlled]
    assert torch.equal(what.end, last_logged.clamp(max=30))
    left = what.absorbing_steps
    assert torch.equal(left > 0, what.terminated & (torch.arange(1, 31)[:, None] < what.end))
    assert torch.equal((left + what.alive.sum(dim=0))[what.terminated], what.end.expand(30, -1)[what.terminated])
    assert metrics["rollout/length"] == pytest.approx(what.num_steps / env.num_agents)
    assert metrics["rollout/goal"] == pytest.approx(arrived.float().mean().item())
    assert what.terminated.any()
    assert (what.terminated | what.truncated).sum(dim=0).tolist() == [1] * env.num_agents
