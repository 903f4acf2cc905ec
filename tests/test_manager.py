import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from rollouts import LAYOUT, SPACE, rollout
from runs import after, assert_equal, checkpoint, metrics, trained

from gail_cli.gail.config.load import ConfigError, config_from_dict
from gail_cli.gail.evaluation.drivers import policy_driver
from gail_cli.gail.evaluation.evaluate import evaluate
from gail_cli.gail.learning.manager import ManagerLearner, cut_short, segment_rewards, segments
from gail_cli.gail.learning.rollout import collect
from gail_cli.gail.learning.run import RunError, load_cloned, load_run
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.gail.networks.manager import Manager, make_manager
from gail_cli.gail.networks.policy import Critic, Policy

SIZES = {"entity_hidden": 4, "hidden": 8}
LATENT = {"codes": 3, "updates": 2, "batch_size": 64, "every": 2}


def config(**latent):
    return config_from_dict(
        {
            "observation": {"partners": 2, "road_segments": 2},
            "policy": SIZES,
            "ppo": {"gamma": 0.5, "minibatch_size": 64},
            "latent": {"codes": 3, "every": 4, **latent},
        }
    )


def learner(seen, settings):
    torch.manual_seed(0)
    return ManagerLearner(
        settings, Manager(seen, settings), Critic(seen, settings.policy), torch.Generator().manual_seed(0)
    )


LIVES = [
    (6, "truncated"),
    (5, "terminated"),
    (5, "truncated"),
    (2, "truncated"),
    (4, "truncated"),
    (0, None),
    (6, None),
]
"""Of agents in six steps, which a manager that chooses every 4 steps sees as two: cut off at the end, and ended in the
middle of the second segment; cut off in the middle of either, and between both; never there; not ended at all."""


def coded(seed=0, **fields):
    return rollout(*LIVES, seed=seed, code=torch.arange(6 * len(LIVES)).view(6, -1) % 3, **fields)


# A rollout as the manager sees it


def test_rewards_of_a_segment_by_hand():
    """Discount 1/2, three steps a segment; the second agent ends within the first, the third within the second."""
    reward = torch.tensor([[1.0, 8.0, 2.0], [2.0, 4.0, 2.0], [4.0, 99.0, 4.0], [8.0, 99.0, 16.0], [16.0, 99.0, 99.0]])
    alive = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 1], [1, 0, 1], [1, 0, 0]]).bool()
    # 1 + 2/2 + 4/4 = 3, then 8 + 16/2; 8 + 4/2, then nothing; 2 + 2/2 + 4/4, then 16
    expected = torch.tensor([[3.0, 10.0, 4.0], [16.0, 0.0, 16.0]])
    torch.testing.assert_close(segment_rewards(reward, alive, 3, 0.5), expected)


def test_segments_by_hand():
    what = coded()
    found = segments(what, 4)
    assert found.alive.tolist() == [[True] * 5 + [False, True], [True] * 3 + [False] * 3 + [True]]
    assert torch.equal(found.action.squeeze(2), what.code[[0, 4]])
    assert found.terminated.nonzero().tolist() == [[1, 1]]
    assert found.truncated.nonzero().tolist() == [[0, 3], [0, 4], [1, 0], [1, 2]]
    assert found.end.tolist() == [2] * len(LIVES)
    assert torch.equal(found.observation[0], what.observation[0])
    # who was cut off leaves there what it saw then
    for agent, step in ((0, 4), (1, 4), (2, 4), (3, 2), (4, 4), (6, 4)):
        assert torch.equal(found.observation[1, agent], what.observation[step, agent])
    for agent in (0, 1, 6):
        assert torch.equal(found.last_observation[agent], what.last_observation[agent])
    assert torch.equal(found.last_observation[2], what.observation[5, 2])


@pytest.mark.parametrize("bootstrap", [True, False])
def test_advantages_by_hand(monkeypatch, bootstrap):
    """Rewards 1, the value is the first number seen, discount 1/2, lambda 1: each segment's advantage is its rewards,
    and the value of what came after as many steps as the agent lived, less its own; the trace goes on."""
    what, settings = coded(), config()
    what.observation[..., 0] = 0.0
    what.last_observation[:, 0] = 64.0
    for agent, (length, _) in enumerate(LIVES):
        if 0 < length < 6:
            what.observation[length, agent, 0] = 64.0
    what.observation[4, 0, 0] = 32.0
    settings = replace(settings, ppo=replace(settings.ppo, gae_lambda=1.0, bootstrap_truncation=bootstrap))
    made, seen = learner(settings.observation, settings), {}
    monkeypatch.setattr(made.value, "forward", lambda x: x[:, 0] + 0 * sum(p.sum() for p in made.value.parameters()))
    made.scale = lambda advantage: seen.update(found=advantage) or advantage
    made.learn(what, torch.ones(6, len(LIVES)))
    whole, half, more = 1 + 1 / 2 + 1 / 4 + 1 / 8, 1 + 1 / 2, 64 * bootstrap
    expected = [
        whole + (half + more / 4) / 16,  # agent 0, then 32 at its second choice, which the trace leaves out
        whole + 1 / 16,  # ended after one more step
        whole + (1 + more / 2) / 16,  # cut off then
        half + more / 4,  # cut off after two steps
        whole + more / 16,  # cut off after four
        whole + (half + 64 / 4) / 16,  # time ran out, which nobody calls an end
        half + more / 4 - 32,
        1.0,
        1 + more / 2,
        half + 64 / 4,
    ]
    torch.testing.assert_close(seen["found"], torch.tensor(expected))


def test_nothing_is_missing_of_whole_segments():
    what = rollout((6, "truncated"), (3, "truncated"), (6, None), code=torch.zeros(6, 3, dtype=torch.int64))
    missing = cut_short(lambda seen: torch.ones(len(seen)), segments(what, 3), what.alive, 3, 0.5, True)
    assert not missing.any()


def test_what_agents_did_after_their_end_teaches_nothing():
    settings, what, reward = config(), coded(), torch.randn(6, len(LIVES), generator=torch.Generator().manual_seed(1))
    junk = replace(what, observation=what.observation.clone(), code=what.code.clone())
    behind = torch.zeros_like(what.alive)
    behind[1:] = what.truncated[:-1]
    junk.observation[~what.alive & ~behind] = 50.0
    junk.code[~what.alive] = 1
    one, other = (learner(settings.observation, settings) for _ in range(2))
    told = one.learn(what, reward)
    assert other.learn(junk, torch.where(what.alive, reward, 1000.0)) == told
    assert_equal(one.state_dict(), other.state_dict())
    assert told.keys() >= {"entropy", "critic_loss", "switched"}


def test_switched_by_hand():
    """Of four agents who choose twice, the second code is another of all but one."""
    code = torch.tensor([[0, 1, 2, 0]] * 4 + [[0, 2, 0, 1]] * 2)
    what = rollout(*[(6, "truncated")] * 4, (3, "truncated"), code=torch.cat([code, code[:, :1] + 1], dim=1))
    settings = config()
    assert learner(settings.observation, settings).learn(what, torch.zeros(6, 5))["switched"] == 0.75


def test_a_code_is_kept_from_one_choice_to_the_next():
    """A choice depends on what is seen then, and is of many codes."""
    settings = config()
    made = learner(settings.observation, settings)
    looked = []
    codes = made.manage(lambda seen: looked.append(seen) or seen)
    shown = torch.rand(11, 50, LAYOUT.size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = torch.stack([codes(shown[k], k) for k in range(11)])
    assert [int((x == shown).flatten(1).all(1).nonzero()) for x in looked] == [0, 4, 8]
    changes = (found[1:] != found[:-1]).any(dim=1).nonzero().flatten().tolist()
    assert changes == [3, 7]
    assert set(found[0].tolist()) == {0, 1, 2}


class Scripted:
    """As much of a simulator as a rollout needs: two agents, five steps, and nothing happens."""

    horizon, num_agents = 5, 2

    def __init__(self):
        self.config = SimpleNamespace(end_with_log=False)
        self.worlds = SimpleNamespace(
            device="cpu", controlled=torch.tensor([0, 1]), edged=torch.tensor([False]),
            tensors={"world": torch.zeros(2, dtype=torch.int64)},
        )  # fmt: skip
        self.now = 0

    def reset(self):
        self.now = 0
        return torch.full((2, LAYOUT.size), 0.0)

    def alive(self):
        return torch.ones(2, dtype=torch.bool)

    def step(self, action):
        self.now += 1
        no = torch.zeros(2, dtype=torch.bool)
        return SimpleNamespace(
            observation=torch.full((2, LAYOUT.size), float(self.now)), reward=torch.zeros(2), alive=~no,
            terminated=no, truncated=no | (self.now == 5), events=torch.zeros(2, 5, dtype=torch.bool),
            fault=torch.ones(2),
        )  # fmt: skip


def test_a_rollout_holds_the_codes_that_were_chosen_by_what_it_holds():
    """The actor acts by them, and after the last step the critic is shown the one chosen then."""
    policy, acted = Policy(LAYOUT, SPACE, config().policy, 12).eval(), []
    act = policy.act
    policy.act = lambda seen: acted.append(seen[:, LAYOUT.size :].argmax(dim=1).tolist()) or act(seen)

    def choose(seen, step):
        assert (seen == 2.0 * step).all()
        return torch.tensor([step, step + 6])

    what, _ = collect(Scripted(), policy, lambda observation: 2 * observation, choose)
    assert what.code.tolist() == acted == [[k, k + 6] for k in range(5)]
    last = what.last_seen(policy)
    assert last[:, : LAYOUT.size].unique().tolist() == [10.0]
    assert last[:, LAYOUT.size :].argmax(dim=1).tolist() == [5, 11]
    where = torch.zeros(5, 2, dtype=torch.bool)
    where[3, 1] = where[4, 0] = True
    assert what.seen(policy, where)[:, LAYOUT.size :].argmax(dim=1).tolist() == [9, 4]


# Learning to choose


@pytest.mark.parametrize("features", [True, False])
def test_the_manager_learns_which_code_pays(features):
    """Code 2 where the first number seen is 1, code 0 where it is 0; code 1 never. Of features, and of observations."""
    settings = config(manager_entropy_coef=0.0, manager_learning_rate=1e-2)
    seen, size = (5, 5) if features else (LAYOUT, LAYOUT.size)
    made = learner(seen, settings)
    generator = torch.Generator().manual_seed(0)

    def episode():
        pays = torch.randint(2, (60,), generator=generator)
        observation = torch.zeros(7, 60, size)
        observation[..., 0] = pays
        return 2 * pays, observation

    pays, observation = episode()
    made.fit_normaliser(observation[0])
    for _ in range(25):
        pays, observation = episode()
        choose = made.manage(lambda x: x)
        with torch.no_grad():
            code = torch.stack([choose(x, k) for k, x in enumerate(observation[:-1])])
        what = rollout(*[(6, "truncated")] * 60, code=code)
        what = replace(what, observation=observation[:-1], last_observation=observation[-1])
        told = made.learn(what, (code == pays).float())
    pays, observation = episode()
    with torch.no_grad():
        chosen = made.manager.choose(observation[0], deterministic=True)
        drawn = made.manager.choose(observation[0])
    assert (chosen == pays).float().mean() == 1.0
    assert (drawn == pays).float().mean() > 0.9
    assert told["entropy"] < 0.5


def test_entropy_keeps_codes_in_use():
    """Where all codes pay alike, a bonus leads back to using all, from a manager that uses one."""
    settings = config(manager_entropy_coef=1.0, manager_learning_rate=1e-2)
    made = learner(settings.observation, settings)
    torch.nn.init.zeros_(made.manager.head.weight)
    made.manager.head.bias.data = torch.tensor([0.0, 3.0, 0.0])
    for seed in range(20):
        told = made.learn(coded(seed=seed), torch.zeros(6, len(LIVES)))
    assert told["entropy"] > 0.98 * math.log(3)


def test_only_the_value_learns_where_the_policy_waits():
    settings = config()
    made = learner(settings.observation, settings)
    manager, value = ({k: v.clone() for k, v in x.state_dict().items()} for x in (made.manager, made.value))
    made.learn(coded(), torch.ones(6, len(LIVES)), train_policy=False)
    assert_equal(made.manager.state_dict(), manager)
    assert any(not torch.equal(v, value[k]) for k, v in made.value.state_dict().items())


# Driving


@pytest.mark.parametrize("train_encoder", [None, 0])
def test_drivers_ask_the_manager(train_encoder):
    """Every fourth step, the likeliest code or a drawn one, by features or observations; without one, codes are drawn
    for the drive; and everyone drives by a given one."""
    torch.manual_seed(0)
    settings = config()
    settings = replace(settings, ppo=replace(settings.ppo, train_encoder=train_encoder))
    policy = Policy(settings.observation, SPACE, settings.policy, 3).eval()
    policy.manager = make_manager(settings, policy).eval()
    assert policy.manager.through_eyes is (train_encoder is None)
    torch.nn.init.normal_(policy.manager.head.weight)
    kept, shown = [], 3 * torch.randn(9, 60, LAYOUT.size)
    policy.act = lambda seen, deterministic: (kept.append(seen[:, -3:].argmax(dim=1)), None)

    def driven(deterministic, code=None):
        kept.clear()
        drive = policy_driver(policy, deterministic, code)
        for step in range(9):
            drive(None, shown[step], step)
        return torch.stack(kept)

    with torch.no_grad():
        looked = [policy.encoder(x) if train_encoder is None else x for x in shown]
        likeliest = [policy.manager.distributions(looked[k])[0].probs.argmax(dim=1) for k in (0, 4, 8)]
    found = driven(True)
    assert torch.equal(found, torch.stack([*[likeliest[0]] * 4, *[likeliest[1]] * 4, likeliest[2]]))
    assert len(set(found.flatten().tolist())) > 1
    drawn = driven(False)
    assert (drawn[1:] != drawn[:-1]).any(dim=1).nonzero().flatten().tolist() == [3, 7]
    assert not torch.equal(drawn[0], driven(False)[0])
    assert (driven(True, code=2) == 2).all()
    policy.manager = None
    alone = driven(True)
    assert (alone == alone[0]).all()
    assert set(alone[0].tolist()) == {0, 1, 2}


# A run


def test_a_manager_needs_codes():
    with pytest.raises(ConfigError, match=r"latent\.every says when a code is chosen, but there are none"):
        config_from_dict({"latent": {"every": 10}})


@pytest.mark.parametrize("train_encoder", [None, 0, 20])
def test_a_run_with_a_manager_trains_and_is_evaluated(make_store, small, tmp_path, train_encoder):
    """With frozen eyes, with eyes that learn, and with eyes that begin to."""
    store, seen = make_store(scenes=2), []
    settings = small(total_timesteps=10**9, latent=LATENT, ppo={"train_encoder": train_encoder})
    trainer = Trainer(settings, store.path, tmp_path / "run")
    learn = trainer.learners.manager.learn
    trainer.learners.manager.learn = lambda what, *rest: seen.append(what) or learn(what, *rest)
    trainer.run(after(4 + 2))
    for what in seen:
        assert what.code.shape == what.alive.shape
        changes = (what.code[1:] != what.code[:-1]).any(dim=1)
        assert not changes[::2].any()
        assert changes[1::2].float().mean() > 0.5
    _, waiting, learning = metrics(tmp_path / "run")
    assert {"manager/critic_loss", "manager/switched", "latent/accuracy"} <= waiting.keys()
    assert {"manager/entropy", "manager/approx_kl"} <= learning.keys() - waiting.keys()
    assert all(math.isfinite(x) for x in learning.values())
    loaded, policy = load_run(tmp_path / "run")
    assert loaded.latent.every == policy.manager.every == 2
    assert_equal(policy.manager.state_dict(), trainer.learners.manager.manager.state_dict())
    assert load_cloned(tmp_path / "run").manager is None
    few = {"scenes": [0], "rollouts": 1, "anchors": False}
    assert evaluate(policy, loaded, store, **few)["results"] == evaluate(policy, loaded, store, **few)["results"]


def test_a_run_with_a_manager_goes_on_as_if_nothing_had_happened(make_store, small, tmp_path):
    """Cut after two rollouts, in the first of which the manager waited as the policy does."""
    settings, steps = small(total_timesteps=10**9, latent=LATENT), 4 + 3
    trained(settings, make_store(scenes=2), tmp_path / "whole", stop=after(steps))
    assert checkpoint(tmp_path / "whole")["manager"]["scale"]["count"] == 3
    trained(settings, make_store(scenes=2), tmp_path / "parts", stop=after(6))
    torch.manual_seed(99)
    trained(settings, make_store(scenes=2), tmp_path / "parts", stop=after(steps - 6), resume=True)
    assert_equal(checkpoint(tmp_path / "parts"), checkpoint(tmp_path / "whole"))


def test_a_run_goes_on_with_the_manager_that_it_has(make_store, small, tmp_path):
    plain = {name: value for name, value in LATENT.items() if name != "every"}
    for name, first, then in (("with", LATENT, plain), ("without", plain, LATENT)):
        trained(small(total_timesteps=0, latent=first), make_store(scenes=2), tmp_path / name)
        with pytest.raises(RunError, match="its checkpoint is of other networks"):
            Trainer(small(latent=then), make_store(scenes=2).path, tmp_path / name, resume=True)


def test_going_on_takes_new_rates():
    settings = config()
    made, twin = learner(LAYOUT, settings), learner(LAYOUT, config(manager_learning_rate=0.5))
    made.learn(coded(), torch.ones(6, len(LIVES)))
    twin.load_state_dict(made.state_dict())
    assert [group["lr"] for optimiser in twin.optimisers for group in optimiser.param_groups] == [0.5, 0.5]
    assert twin.scale == made.scale


def test_a_manager_is_paid_for_driving_and_not_for_telling_its_code(make_store, small, tmp_path):
    """What the policy is paid, less the nats of the code; the easiest code to tell is always the same."""
    settings = small(latent={**LATENT, "weight": 5.0})
    trainer = Trainer(settings, make_store(scenes=2).path, tmp_path / "run")
    learn, reward, seen = trainer.learners.manager.learn, trainer._reward, []
    trainer._reward = lambda what: seen.append(reward(what)) or seen[0]
    trainer.learners.manager.learn = lambda what, paid, *rest: (
        seen.extend([what, paid, trainer.codes.reward(what)]) or learn(what, paid, *rest)
    )
    trainer._iterate()
    trainer.close()
    (of_policy, _), what, of_manager, nats = seen
    torch.testing.assert_close(of_manager, of_policy - nats)
    assert nats[what.alive].abs().min() > 0
