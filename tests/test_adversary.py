import io
import math
from dataclasses import fields, replace

import pytest
import torch
from rollouts import SPACE, rollout
from runs import after, assert_equal, checkpoint, metrics, trained

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.adversary import Adversary, latest, with_absorbing
from gail_cli.gail.learning.provider import GAILRewardProvider
from gail_cli.gail.learning.run import load_run
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.gail.networks.factory import make_discriminator

WHOLE = [(6, "truncated")] * 5
"""Thirty transitions."""


def rows(first, last, **more):
    """Transitions whose observations and actions are numbered."""
    number = torch.arange(first, last)
    return Transitions(number.float()[:, None], number[:, None], **{name: number for name in more})


def numbers(samples):
    return samples.action.flatten().tolist()


def experts(count, next_state, seed=0, speed=1.0):
    """Demos that go faster than the policy of the tests."""
    what = rollout((6, "truncated"), *[(6, None)] * (count // 6), seed=seed).samples(next_state)
    batch = Transitions(**{name: x[:count] for name, x in vars(what).items() if x is not None})
    observation = batch.observation.clone()
    observation[:, 0] += speed
    return replace(batch, observation=observation)


def adversary(demos=experts, log_prob=lambda observation, action: torch.full((len(action),), -2.0), **settings):
    sizes = {"network": {"entity_hidden": 4, "hidden": 8}, "batch_size": 10, "updates": 3, "max_accuracy": 1.0}
    config = config_from_dict(
        {
            "observation": {"partners": 2, "road_segments": 2},
            "discriminator": {**sizes, "dropout": 0.0, **settings.pop("discriminator", {})},
            **settings,
        }
    )
    torch.manual_seed(0)
    gamma, generator = config.ppo.gamma, torch.Generator().manual_seed(0)
    network = make_discriminator(config.discriminator, config.observation, SPACE, gamma)
    return Adversary(network, config.discriminator, config.reward, gamma, demos, log_prob, generator)


@pytest.fixture
def shown(monkeypatch):
    """The batches that discriminators are updated with."""
    batches, update = [], GAILRewardProvider.update

    def spy(provider, batch):
        batches.append(batch)
        return update(provider, batch)

    monkeypatch.setattr(GAILRewardProvider, "update", spy)
    return batches


def weights(judge):
    return torch.cat([x.detach().flatten() for x in judge.provider.network.parameters()])


# What it learns from


@pytest.mark.parametrize(
    ("size", "kept"), [(2, [5, 6]), (3, [4, 5, 6]), (4, [3, 4, 5, 6]), (6, [1, 2, 3, 4, 5, 6]), (9, [0, *range(1, 7)])]
)
def test_the_newest_rows_of_two_batches_are_kept(size, kept):
    assert numbers(latest(rows(0, 4), rows(4, 7), size)) == kept
    found = latest(rows(0, 4), rows(4, 7), size).observation.flatten().tolist()
    assert found == kept


def test_of_a_single_batch_the_newest_rows_are_kept():
    assert numbers(latest(None, rows(0, 4), 3)) == [1, 2, 3]
    assert numbers(latest(None, rows(0, 4), 9)) == [0, 1, 2, 3]


def test_only_what_both_batches_have_is_kept():
    found = latest(rows(0, 2, done=True), rows(2, 4, done=True, log_prob=True), 3)
    assert found.done.tolist() == [1, 2, 3]
    assert found.log_prob is None
    assert latest(rows(0, 2, done=True), rows(2, 4), 3).done is None


def test_rows_become_the_absorbing_state_by_chance():
    """Each by itself; a hundred thousand of them to within five standard deviations."""
    size, share = 100_000, 0.3
    made = with_absorbing(rows(0, size), share, torch.Generator().manual_seed(0))
    assert abs(made.absorbing.float().mean() - share) < 5 * math.sqrt(share * (1 - share) / size)
    assert numbers(made) == list(range(size))
    assert not with_absorbing(rows(0, 99), 0.0, torch.Generator()).absorbing.any()
    assert with_absorbing(rows(0, 99), 1.0, torch.Generator()).absorbing.all()


def test_it_learns_from_transitions_that_were_acted_in(shown):
    what = rollout((6, "truncated"), (2, "terminated"), (0, None))
    judge = adversary(discriminator={"batch_size": 200, "updates": 1})
    judge.learn(what, 0, None)
    acted = {tuple(x.tolist()) for x in what.observation[what.alive]}
    assert len(acted) == 8
    assert {tuple(x.tolist()) for x in shown[0].observation} == acted


def test_it_learns_after_each_so_many_rollouts_alone(shown):
    judge = adversary(discriminator={"update_every": 3})
    told = [judge.learn(rollout(*WHOLE), number, None)["discriminator/updates"] for number in range(7)]
    assert told == [3, 0, 0, 3, 0, 0, 3]
    assert len(shown) == 9


def test_it_waits_until_there_is_enough_of_the_policy():
    """Thirty samples a rollout; what was waited with is learned from."""
    judge = adversary(discriminator={"min_policy_data": 61, "policy_buffer_size": 1000})
    before = weights(judge)
    waiting = [judge.learn(rollout(*WHOLE, seed=seed), seed, None) for seed in range(2)]
    assert waiting == [{"discriminator/updates": 0.0}] * 2
    assert torch.equal(weights(judge), before)
    assert judge.learn(rollout(*WHOLE, seed=2), 2, None)["discriminator/updates"] == 3
    assert not torch.equal(weights(judge), before)


def test_without_a_buffer_each_rollout_must_be_enough_by_itself():
    judge = adversary(discriminator={"min_policy_data": 30})
    assert judge.learn(rollout(*WHOLE[1:]), 0, None)["discriminator/updates"] == 0
    assert judge.learn(rollout(*WHOLE), 1, None)["discriminator/updates"] == 3


@pytest.mark.parametrize(("size", "of"), [(None, [2]), (30, [2]), (60, [1, 2]), (70, [0, 1, 2]), (1000, [0, 1, 2])])
def test_a_buffer_keeps_samples_of_earlier_rollouts(shown, size, of):
    """Each rollout is known by the first number of its observations."""
    judge = adversary(discriminator={"policy_buffer_size": size, "batch_size": 2000, "updates": 1})
    for number in range(3):
        what = rollout(*WHOLE)
        what.observation[..., 0] = number
        judge.learn(what, number, None)
    found = shown[-1].observation[:, 0]
    assert sorted(set(found.tolist())) == of
    if size == 70:  # ten rows are left of the first
        assert abs((found == 0).float().mean() - 1 / 7) < 5 * math.sqrt(6 / 49 / 2000)


@pytest.mark.parametrize(("epochs", "batch_size", "steps"), [(1, 30, 1), (1, 29, 2), (2, 10, 6), (5, 8, 20)])
def test_epochs_are_passes_over_a_rollout(shown, epochs, batch_size, steps):
    judge = adversary(discriminator={"epochs": epochs, "batch_size": batch_size, "policy_buffer_size": 1000})
    assert judge.learn(rollout(*WHOLE), 0, None)["discriminator/updates"] == steps
    assert [len(batch.action) for batch in shown] == [batch_size] * steps
    assert judge.learn(rollout(*WHOLE), 1, None)["discriminator/updates"] == steps  # of this one, not of the buffer


# When it rests, and what it tells


def test_accuracies_are_those_before_the_first_update_and_losses_the_mean(monkeypatch):
    judge, count = adversary(), iter(range(3))

    def update(batch):
        k = next(count)
        return {"loss": 1.0 + k, "expert_accuracy": 0.5 + 0.1 * k, "policy_accuracy": 0.4 + 0.1 * k, "updates": 1.0}

    monkeypatch.setattr(judge.provider, "update", update)
    assert judge.learn(rollout(*WHOLE), 0, None) == {
        "discriminator/loss": 2.0,
        "discriminator/expert_accuracy": 0.5,
        "discriminator/policy_accuracy": 0.4,
        "discriminator/updates": 3.0,
    }


def test_it_rests_from_the_first_update_that_the_gate_refuses(monkeypatch):
    judge, gate = adversary(), iter([1.0, 1.0, 0.0])
    monkeypatch.setattr(judge.provider, "update", lambda batch: {"expert_accuracy": 1.0, "policy_accuracy": 0.5,
                                                                 "loss": 4.0, "updates": next(gate)})  # fmt: skip
    told = judge.learn(rollout(*WHOLE), 0, None)
    assert (told["discriminator/updates"], told["discriminator/loss"]) == (2.0, 4.0)
    assert next(gate, "asked") == "asked"
    shut = adversary()
    monkeypatch.setattr(shut.provider, "update", lambda batch: {"expert_accuracy": 1.0, "policy_accuracy": 0.5,
                                                                "loss": 4.0, "updates": 0.0})  # fmt: skip
    assert shut.learn(rollout(*WHOLE), 0, None) == {
        "discriminator/loss": 4.0,
        "discriminator/expert_accuracy": 1.0,
        "discriminator/policy_accuracy": 0.5,
        "discriminator/updates": 0.0,
    }


@pytest.mark.parametrize(("compat", "gate"), [(None, True), ("mlagents", False)])
def test_demos_of_scenes_not_learned_from_can_shut_the_gate(monkeypatch, compat, gate):
    """Its claims: 0.75 of the held-out demos are experts, and 0.2 of the policy's samples are; so 0.775 on balance.

    ML-Agents has no gate.
    """
    line = 0.5 if compat else 0.0
    claims = {8: [0.1] * 6 + [0.0, -0.1], 30: [0.1] * 6 + [-0.1] * 23 + [0.0]}
    for most, updates in ((0.775 + 1e-6, 3), (0.77, 0 if gate else 3)):
        judge = adversary(discriminator={"compat": compat, "max_accuracy": most})
        monkeypatch.setattr(judge.provider, "estimate", lambda x: line + torch.tensor(claims[len(x.action)]))
        monkeypatch.setattr(judge.provider, "_may_learn", lambda accuracy: True)
        told = judge.learn(rollout(*WHOLE), 0, experts(8, False))
        assert told["discriminator/held_out_expert_accuracy"] == pytest.approx(0.75)
        assert told["discriminator/held_out_accuracy"] == pytest.approx((0.75 + 0.8) / 2)
        assert told["discriminator/updates"] == updates


def test_estimates_are_of_the_transitions_that_were_acted_in():
    judge, what = adversary(), rollout((6, None), (2, "terminated"))
    assert torch.equal(judge.estimates(what), judge.provider.estimate(what.samples()))
    assert judge.estimates(what).shape == (8,)


# What it pays


def test_a_reward_is_paid_where_an_agent_acted():
    judge, what = adversary(reward={"form": "gail"}), rollout((6, None), (2, "terminated"), (0, None))
    reward, told = judge.reward(what)
    assert torch.equal(reward[what.alive], judge.provider.evaluate(what.samples()))
    assert not reward[~what.alive].any()
    assert (reward[what.alive] > 0).all()
    assert told["reward/gail"] == pytest.approx(reward[what.alive].mean().item())


def test_an_end_is_paid_for_the_steps_that_were_left(monkeypatch):
    """Absorbing states pay 7, transitions 2, and gamma is a half.

    The first agent terminates in its second step out of six, so four are left: 7 (1/2 + 1/4 + 1/8 + 1/16) more. The
    second would have had to leave after four, so one step is left after its third: 7 / 2. A truncated one, and one that
    terminates in its last step, get nothing.
    """
    judge = adversary(discriminator={"absorbing": True}, ppo={"gamma": 0.5})

    def evaluate(batch):
        away = torch.zeros(len(batch.action), dtype=torch.bool) if batch.absorbing is None else batch.absorbing
        return torch.where(away, 7.0, 2.0)

    monkeypatch.setattr(judge.provider, "evaluate", evaluate)
    lives = [(2, "terminated"), (3, "terminated"), (4, "truncated"), (6, "terminated")]
    reward, told = judge.reward(rollout(*lives, end=torch.tensor([6, 4, 6, 6])))
    expected = 2.0 * (torch.arange(6)[:, None] < torch.tensor([2, 3, 4, 6]))
    expected[1, 0] += 7 * 15 / 16
    expected[2, 1] += 7 / 2
    torch.testing.assert_close(reward, expected)
    assert told["reward/gail"] == 2.0  # what its transitions are paid, as without absorbing states
    plain = adversary(ppo={"gamma": 0.5})
    monkeypatch.setattr(plain.provider, "evaluate", evaluate)
    assert plain.reward(rollout(*lives, end=torch.tensor([6, 4, 6, 6])))[0].sum() == 2 * 15


def test_the_absorbing_state_looks_the_same_whoever_is_in_it():
    judge, what = adversary(discriminator={"absorbing": True}), rollout(*WHOLE)
    away = replace(what.samples(), absorbing=torch.ones(30, dtype=torch.bool))
    paid = judge.provider.evaluate(away)
    torch.testing.assert_close(paid, paid[:1].expand_as(paid), atol=2e-7, rtol=0)  # rounding


def test_absorbing_states_are_shown_as_often_as_agents_are_in_them(shown):
    """Of the policy two steps out of eight: it ended after four of six. Of the experts as they say."""
    seen = []

    def demos(count, next_state):
        return experts(count, next_state)

    judge = adversary(demos, discriminator={"absorbing": True, "batch_size": 20_000, "updates": 1})
    judge.absorbing_share = 0.1
    network, loss = judge.provider.network, judge.provider.network.compute_loss
    network.compute_loss = lambda policy, expert: seen.append(expert) or loss(policy, expert)
    judge.learn(rollout((4, "terminated"), (2, "truncated")), 0, None)
    assert abs(shown[0].absorbing.float().mean() - 2 / 8) < 5 * math.sqrt(3 / 16 / 20_000)
    assert abs(seen[0].absorbing.float().mean() - 0.1) < 5 * math.sqrt(0.09 / 20_000)


def test_it_tells_what_agents_got_to_whom_something_happened():
    """Two agents arrive, of whom one has hit something; nobody leaves the road."""
    judge, what = adversary(), rollout((6, None), (2, "terminated"), (6, None))
    what.happened[0, :2, 3] = True
    what.happened[0, 1, 2] = True
    reward, told = judge.reward(what)
    each = reward.sum(dim=0) / torch.tensor([6, 2, 6])
    assert told["reward/of_goal"] == pytest.approx(each[:2].mean().item())
    assert told["reward/of_collision"] == pytest.approx(each[1].item())
    assert "reward/of_off_road" not in told


# Going on


def test_what_it_knows_is_saved_with_its_buffer():
    made = {"discriminator": {"policy_buffer_size": 50}}
    judge, twin = adversary(**made), adversary(**made)
    for number in range(2):
        judge.learn(rollout(*WHOLE, seed=number), number, None)
    file = io.BytesIO()
    torch.save(judge.state_dict(), file)
    file.seek(0)
    twin.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(weights(twin), weights(judge))
    twin._generator.set_state(judge._generator.get_state())
    told = [each.learn(rollout(*WHOLE, seed=2), 2, None) for each in (judge, twin)]
    assert told[0] == told[1]
    assert torch.equal(weights(twin), weights(judge))
    assert same(twin._buffer, judge._buffer)
    assert len(judge._buffer.action) == 50
    assert judge._buffer.done is not None


def test_without_a_buffer_nothing_of_a_rollout_is_saved():
    judge = adversary()
    judge.learn(rollout(*WHOLE), 0, None)
    assert judge.state_dict()["buffer"] == {}
    twin = adversary()
    twin.load_state_dict(judge.state_dict())
    assert twin._buffer is None


def same(a, b):
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Transitions)]
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


# Discriminators that see more


def test_the_next_state_is_asked_for_where_it_is_seen(shown):
    asked = []

    def demos(count, next_state):
        asked.append(next_state)
        return experts(count, next_state)

    for inputs in ("state_action", "state_next_state"):
        adversary(demos, discriminator={"inputs": inputs, "updates": 1}).learn(rollout(*WHOLE), 0, None)
    assert asked == [False, True]
    assert shown[0].next_observation is None
    assert shown[1].next_observation is not None


def test_airl_judges_actions_by_the_present_policy(shown):
    """Its own by what it did, demos by asking it, and those of earlier policies by asking it again."""
    asked = []

    def log_prob(observation, action):
        asked.append(len(action))
        return torch.full((len(action),), -0.25)

    made = {"structure": "airl", "updates": 2, "batch_size": 10}
    judge = adversary(log_prob=log_prob, discriminator=made)
    what = rollout(*WHOLE)
    judge.learn(what, 0, experts(8, True))
    assert asked == [8, 10, 10]
    assert set(shown[0].log_prob.tolist()) <= set(what.log_prob.flatten().tolist())
    estimate = judge.estimates(what)
    other = judge.estimates(replace(what, log_prob=what.log_prob - 1))
    torch.testing.assert_close(other, estimate + 1)
    shown.clear()
    judge = adversary(log_prob=log_prob, discriminator={**made, "policy_buffer_size": 1000})
    judge.learn(what, 0, None)
    assert (shown[0].log_prob == -0.25).all()


@pytest.mark.parametrize(
    "settings",
    [
        {"structure": "airl", "policy_buffer_size": 500},
        {"inputs": "state_next_state", "epochs": 1},
        {"absorbing": True, "policy_buffer_size": 500, "epochs": 1},
        {"compat": "mlagents", "mlagents": {"use_actions": True, "use_vail": True}},
    ],
)
def test_each_kind_of_discriminator_trains_in_a_run(make_store, small, tmp_path, settings):
    """Two rollouts, in one go or resumed; where ends come early, absorbing states count."""
    config = small(
        total_timesteps=10**9,
        bc={"steps": 0},
        discriminator=settings,
        sim={"on_goal": "remove", "on_collision": "remove"},
    )
    store = make_store(scenes=2)
    trainer = Trainer(config, store.path, tmp_path / "run")
    before = weights(trainer.adversary)
    if config.discriminator.absorbing:
        assert 0 < trainer.adversary.absorbing_share < 1
    trainer.run(after(2))
    assert not torch.equal(weights(trainer.adversary), before)
    lines = metrics(tmp_path / "run")
    assert [line["discriminator/updates"] > 0 for line in lines] == [True, True]
    assert all(math.isfinite(value) for line in lines for value in line.values())
    load_run(tmp_path / "run")
    trained(config, store, tmp_path / "cut", stop=after(1))
    torch.manual_seed(99)
    trained(config, store, tmp_path / "cut", stop=after(1), resume=True)
    assert_equal(checkpoint(tmp_path / "cut"), checkpoint(tmp_path / "run"))
