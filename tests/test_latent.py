import math
from dataclasses import replace

import pytest
import torch
from rollouts import LAYOUT, SPACE, rollout
from runs import after, assert_equal, checkpoint, metrics, trained

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.config.schema import PolicyConfig
from gail_cli.gail.evaluation.drivers import policy_driver
from gail_cli.gail.evaluation.evaluate import evaluate
from gail_cli.gail.learning.latent import Codes, Posterior, information
from gail_cli.gail.learning.run import RunError, load_cloned, load_run
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.gail.networks.policy import Critic, Policy

SIZES = PolicyConfig(entity_hidden=4, hidden=8)
CPU = torch.device("cpu")


def codes(count=3, **settings):
    torch.manual_seed(0)
    config = config_from_dict(
        {
            "observation": {"partners": 2, "road_segments": 2},
            "policy": {"entity_hidden": 4, "hidden": 8},
            "latent": {"codes": count, "learning_rate": 1e-2, **settings},
        }
    )
    posterior = Posterior(config.observation, SPACE, config.policy, count)
    return Codes(config.latent, posterior, CPU, torch.Generator().manual_seed(0))


def told_by_actions(count, agents=60, seed=0):
    """A rollout in which the first component of an action is the agent's code."""
    code = torch.randint(count, (agents,), generator=torch.Generator().manual_seed(seed))
    made = rollout(*[(6, None), (2, "terminated")] * (agents // 2), seed=seed, code=code)
    made.action[..., 0] = code
    return made


# What a code is worth


def test_information_by_hand():
    """Three codes: certain of the right one, of a wrong one, in doubt, and half sure."""
    logits = torch.tensor([[50.0, 0.0, 0.0], [0.0, 50.0, 0.0], [7.0, 7.0, 7.0], [math.log(2), 0.0, 0.0]])
    found = information(logits, torch.tensor([0, 0, 2, 0]))
    torch.testing.assert_close(found, torch.tensor([math.log(3), math.log(3) - 50, 0.0, math.log(3 / 2)]))


def test_information_is_never_more_than_a_code_holds_and_nothing_by_chance():
    logits = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    each = torch.stack([information(logits, torch.full((1000,), c)) for c in range(4)])
    assert (each <= math.log(4)).all()
    # sum over codes of q(c) / (1 / C), which is exp(information), is C
    torch.testing.assert_close(each.exp().sum(dim=0), torch.full((1000,), 4.0))


def test_a_reward_is_paid_where_an_agent_acted(monkeypatch):
    made = codes(weight=0.25)
    what = told_by_actions(3, agents=4)
    reward = made.reward(what)
    assert not reward[~what.alive].any()
    for step, agent in what.alive.nonzero().tolist():
        logits = made.posterior(what.observation[step, agent][None], what.action[step, agent][None])
        expected = 0.25 * (logits.log_softmax(dim=1)[0, what.code[agent]] + math.log(3))
        torch.testing.assert_close(reward[step, agent], expected)
    monkeypatch.setattr("gail_cli.gail.learning.latent._CHUNK", 3)
    torch.testing.assert_close(made.reward(what), reward)


# Telling codes


def test_codes_that_actions_reveal_are_learned():
    """From chance to certainty, of agents that it has not learned from too; and then they are paid for in full."""
    made, seen, other = codes(), told_by_actions(3), told_by_actions(3, seed=1)
    first = made.update(seen, 200, 1)
    assert abs(first["latent/accuracy"] - 1 / 3) < 0.2
    assert abs(first["latent/loss"] - math.log(3)) < 0.3
    for _ in range(3):
        last = made.update(seen, 200, 20)
    assert last["latent/accuracy"] > 0.95
    assert last["latent/loss"] < 0.3
    paid = made.reward(other)[other.alive] / 0.05
    assert paid.mean() > 0.7 * math.log(3)
    found = made.infer(other.observation[other.alive], other.action[other.alive])
    truth = other.code.expand_as(other.alive)[other.alive]
    assert (found == truth).float().mean() > 0.8


def test_codes_that_nothing_reveals_are_not_learned():
    made = codes()
    for seed in range(20):
        code = torch.randint(3, (60,), generator=torch.Generator().manual_seed(seed))
        told = made.update(rollout(*[(6, None)] * 60, seed=seed, code=code), 200, 1)
    assert told["latent/loss"] > 0.95 * math.log(3)


def test_the_accuracy_is_that_before_the_updates():
    made, what = codes(), told_by_actions(3)
    observation, action = what.observation[what.alive], what.action[what.alive]
    logits = made.posterior(observation, action)
    right = (logits.argmax(dim=1) == what.code.expand_as(what.alive)[what.alive]).float().mean().item()
    assert made.update(what, 5000, 3)["latent/accuracy"] == pytest.approx(right, abs=0.04)


def test_what_agents_did_after_their_end_teaches_nothing():
    made, twin = codes(), codes()
    what = told_by_actions(3)
    junk = replace(what, action=what.action.clone(), observation=what.observation.clone())
    junk.action[~what.alive] = 0
    junk.observation[~what.alive] = 50.0
    for each, seen in ((made, what), (twin, junk)):
        each.update(seen, 50, 5)
    assert_equal(made.posterior.state_dict(), twin.posterior.state_dict())


def test_codes_are_drawn_alike():
    drawn = codes(4).draw(40_000)
    share = drawn.bincount(minlength=4) / 40_000
    assert (abs(share - 0.25) < 5 * math.sqrt(3 / 16 / 40_000)).all()


def test_codes_of_experts_are_drawn_by_how_likely_they_are(monkeypatch):
    made = codes()
    logits = torch.tensor([0.7, 0.2, 0.1]).log()
    monkeypatch.setattr(made.posterior, "forward", lambda observation, action: logits.expand(len(action), 3))
    found = made.infer(torch.zeros(20_000, LAYOUT.size), torch.zeros(20_000, 2, dtype=torch.int64))
    share = found.bincount(minlength=3) / 20_000
    assert (abs(share - logits.exp()) < 5 * math.sqrt(0.25 / 20_000)).all()


def test_going_on_takes_weights_and_state_and_a_new_rate():
    made, twin = codes(), codes(learning_rate=0.5)
    made.update(told_by_actions(3), 50, 5)
    twin.load_state_dict(made.state_dict())
    assert_equal(twin.posterior.state_dict(), made.posterior.state_dict())
    assert_equal(twin.optimiser.state_dict()["state"], made.optimiser.state_dict()["state"])
    assert [group["lr"] for group in twin.optimiser.param_groups] == [0.5]


# Acting by codes


def test_codes_reach_policy_and_critic():
    """Another code is another distribution and another value, and the same one is the same."""
    torch.manual_seed(0)
    policy, critic = Policy(LAYOUT, SPACE, SIZES, codes=3).eval(), Critic(LAYOUT, SIZES, codes=3)
    torch.nn.init.normal_(policy.actor.head.weight)
    observation = torch.rand(5, LAYOUT.size)

    def shown(code):
        seen = policy.with_code(observation, torch.full((5,), code))
        return torch.cat([d.logits for d in policy.distributions(seen)], dim=1), critic(seen)

    assert all(torch.equal(a, b) for a, b in zip(shown(1), shown(1), strict=True))
    for one, other in ((0, 1), (1, 2), (0, 2)):
        (logits, value), (other_logits, other_value) = shown(one), shown(other)
        assert ((logits - other_logits).abs().amax(dim=1) > 1e-3).all()
        assert ((value - other_value).abs() > 1e-4).all()


def test_a_code_goes_with_a_policy_that_has_some():
    policy, plain = Policy(LAYOUT, SPACE, SIZES, codes=3), Policy(LAYOUT, SPACE, SIZES)
    observation = torch.rand(2, LAYOUT.size)
    assert plain.with_code(observation, None) is observation
    assert policy.with_code(observation, torch.tensor([2, 0]))[:, -3:].tolist() == [[0, 0, 1], [1, 0, 0]]
    for who, code in ((policy, None), (plain, torch.tensor([0, 0]))):
        with pytest.raises(ValueError, match="latent codes; give one a row, or none if it has none"):
            who.with_code(observation, code)


def test_an_agent_keeps_its_code_for_a_drive():
    """And has another in some other drive."""
    torch.manual_seed(0)
    policy, kept = Policy(LAYOUT, SPACE, SIZES, codes=3).eval(), []
    policy.act = lambda seen, deterministic: (kept.append(seen[:, -3:].argmax(dim=1)), None)
    drive = policy_driver(policy, deterministic=True)
    for _ in range(2):
        for step in range(4):
            drive(None, torch.rand(50, LAYOUT.size), step)
    assert all(torch.equal(kept[0], code) for code in kept[:4])
    assert all(torch.equal(kept[4], code) for code in kept[4:])
    assert set(kept[0].tolist()) == {0, 1, 2}
    assert not torch.equal(kept[0], kept[4])


# A run


LATENT = {"codes": 3, "updates": 2, "batch_size": 64, "weight": 1.0}


def test_a_run_with_codes_trains_and_is_loaded(make_store, small, tmp_path):
    store = make_store(scenes=2)
    trainer = trained(small(total_timesteps=10**9, latent=LATENT), store, tmp_path / "run", stop=after(4 + 2))
    cloning, waiting, learning = metrics(tmp_path / "run")
    names = {"latent/accuracy", "latent/loss", "reward/latent"}
    assert not names & cloning.keys()
    assert names <= waiting.keys() & learning.keys()
    assert all(math.isfinite(value) for line in (cloning, waiting, learning) for value in line.values())
    config, policy = load_run(tmp_path / "run")
    assert config.latent.codes == policy.codes == 3
    assert_equal(policy.state_dict(), trainer.networks.policy.state_dict())
    cloned = load_cloned(tmp_path / "run")
    assert cloned.codes == 3
    few = {"scenes": [0], "rollouts": 1, "anchors": False}
    assert evaluate(policy, config, store, **few)["results"] == evaluate(policy, config, store, **few)["results"]


def test_a_run_with_codes_goes_on_as_if_nothing_had_happened(make_store, small, tmp_path):
    """Cut while cloning and after a rollout."""
    config, steps = small(total_timesteps=10**9, latent=LATENT), 4 + 2
    trained(config, make_store(scenes=2), tmp_path / "whole", stop=after(steps))
    assert "codes" in checkpoint(tmp_path / "whole")
    for cut in (2, 5):
        parts = tmp_path / f"cut after {cut}"
        trained(config, make_store(scenes=2), parts, stop=after(cut))
        torch.manual_seed(99)
        trained(config, make_store(scenes=2), parts, stop=after(steps - cut), resume=True)
        assert_equal(checkpoint(parts), checkpoint(tmp_path / "whole"))


def test_a_run_goes_on_with_as_many_codes_as_it_has(make_store, small, tmp_path):
    trained(small(total_timesteps=0, latent=LATENT), make_store(scenes=2), tmp_path / "run")
    for other in ({}, {"codes": 4}):
        with pytest.raises(RunError, match="its checkpoint is of other networks"):
            Trainer(small(latent=other), make_store(scenes=2).path, tmp_path / "run", resume=True)


def test_codes_are_paid_for_beside_the_discriminator(make_store, small, tmp_path):
    """By as much as ``latent.weight`` says; here the discriminator is paid nothing."""
    config = small(latent={**LATENT, "weight": 2.0}, reward={"events": 0.0})
    trainer = Trainer(config, make_store(scenes=2).path, tmp_path / "run")
    reward, seen = trainer._reward, []
    trainer._reward = lambda what: seen.append(what) or reward(what)
    trainer._iterate()
    trainer.close()
    trainer.reward_scale = lambda paid, alive, gamma: 0 * paid
    (what,) = seen
    paid, told = reward(what)
    acted = what.alive
    logits = trainer.codes.posterior(what.observation[acted], what.action[acted])
    expected = 2 * information(logits, what.code.expand_as(acted)[acted])
    torch.testing.assert_close(paid[acted], expected.detach())
    assert not paid[~acted].any()
    assert told["reward/latent"] == pytest.approx(expected.mean().item())


def test_a_posterior_pays_before_it_has_seen_a_rollout(make_store, small, tmp_path):
    """Or it would know agents again, and pay for codes that nothing they do tells."""
    trainer = Trainer(
        small(latent={**LATENT, "weight": 2.0, "updates": 50}), make_store(scenes=2).path, tmp_path / "run"
    )
    update, seen = trainer.codes.update, []
    trainer.codes.update = lambda what: seen.extend([what, trainer.codes.reward(what)]) or update(what)
    trainer._iterate()
    trainer.close()
    what, paid = seen
    (told,) = metrics(tmp_path / "run")
    assert told["reward/latent"] == pytest.approx(paid[what.alive].mean().item())
    assert told["reward/latent"] < trainer.codes.reward(what)[what.alive].mean() - 0.05
