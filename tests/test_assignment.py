"""Which latent code each driver of the demos drives by."""

import math

import numpy as np
import pytest
import torch
from demos import CPU, RULES, all_draws, pool_of, records
from runs import assert_equal, trained
from scenes import car, scene

from gail_cli.gail.config.schema import DemoFilter, LatentConfig, PolicyConfig
from gail_cli.gail.demos.matched import demo_transitions, matched_experts
from gail_cli.gail.demos.transitions import driver_key
from gail_cli.gail.learning.assignment import KEPT, ROWS, START, Assignment
from gail_cli.gail.learning.latent import Codes, Posterior
from gail_cli.gail.networks.policy import Policy
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

SPACE = ActionSpace.create("classic")
BLIND = ObservationConfig(partners=1, road_segments=1, goal="none", time_left=False)
"""Shows neither where an agent goes nor how soon, so that its pace is free."""
HESITANT, BRISK = 0.4, 1.6


def driver(code, row, codes=2):
    """A driver who seems to drive by this code at first, in this row of the table."""
    return row + ROWS * (code + 5 * codes)


def styled(speed, scale, steps=21):
    """A car that speeds up, the less the faster it is: a person's ``scale`` of 2 m/s^2 - 0.1/s v."""
    agent = car(y=400 * speed, speed=1.0, steps=steps)
    x, v = 0.0, speed
    for step in range(steps):
        agent.log[step, [0, 3]] = x, v
        gained = scale * (2 - 0.1 * v)
        x, v = x + 0.1 * v + 0.005 * gained, v + 0.1 * gained
    return agent


@pytest.fixture(scope="module")
def two_styles():
    """24 drivers, of each start a hesitant and a brisk one: all their transitions, and of each whether it is brisk."""
    speeds, scales = np.linspace(2, 8, 12), (HESITANT, BRISK)
    scenes = [scene(*(styled(v, scale) for v in speeds), name=str(scale)) for scale in scales]
    pool = pool_of(records(*scenes, space=SPACE), BLIND)
    demos = pool.batch(all_draws(pool))
    brisk = {driver_key(str(scale), row): scale == BRISK for scale in scales for row in range(len(speeds))}
    assert len(brisk) == 24
    return demos, torch.tensor([brisk[key] for key in demos.driver.tolist()])


# The E-step


def test_what_actions_tell_of_codes_by_hand():
    """The first driver begins with code 0, the second with code 1; the first acts twice in the batch, by code 1."""
    made = Assignment(2)
    drivers = torch.tensor([driver(0, 7), driver(1, 8), driver(0, 7)])
    log_prob = torch.tensor([[-3.0, -1.0], [-2.0, -2.0], [-5.0, -2.0]])
    likely = made.learn(log_prob, drivers)
    # nats for code 1: what its actions tell, less what is kept of the begin
    first, second = 2 + 3 - KEPT * START, KEPT * START
    expected = torch.tensor([first, second, first]).sigmoid()
    torch.testing.assert_close(likely[:, 1], expected)
    torch.testing.assert_close(likely.sum(dim=1), torch.ones(3))
    again = made.learn(torch.zeros(1, 2), torch.tensor([driver(1, 9)]))[0, 1]
    # code 1 was more frequent, so it is less likely now
    rarer = 0.1 * math.log(expected.mean() / (1 - expected.mean()))
    assert again == pytest.approx(1 / (1 + math.exp(rarer - KEPT * START)), abs=1e-5)


def test_codes_stay_in_use_though_all_actions_tell_of_one():
    made, drivers = Assignment(3), torch.tensor([driver(k % 3, k, 3) for k in range(60)])
    for _ in range(300):
        share = made.learn(torch.tensor([[0.0, -1.0, -2.0]]).expand(60, 3), drivers).mean(dim=0)
    torch.testing.assert_close(share, torch.full((3,), 1 / 3), atol=0.02, rtol=0)


def test_what_is_known_goes_on():
    made, twin = Assignment(2), Assignment(2)
    drivers = torch.tensor([driver(0, 3), driver(1, 4)])
    made.learn(torch.randn(2, 2), drivers)
    twin.learn(torch.randn(1, 2), torch.tensor([driver(1, 99)]))
    assert made.state_dict()["row"].tolist() == [3, 4]
    twin.load_state_dict(made.state_dict())
    assert_equal(twin.state_dict(), made.state_dict())
    more = torch.randn(2, 2)
    assert torch.equal(made.learn(more, drivers), twin.learn(more, drivers))


# Both steps


def test_hidden_styles_are_found_and_driven_by(two_styles):
    """Nobody says who is brisk, nor what that is."""
    torch.manual_seed(0)
    demos, brisk = two_styles
    policy = Policy(BLIND, SPACE, PolicyConfig(entity_hidden=8, hidden=16, dropout=0), codes=2)
    policy.fit_normaliser(demos.observation, demos.action)
    generator = torch.Generator().manual_seed(0)
    posterior = Posterior(BLIND, SPACE, policy_sizes(), 2)
    codes = Codes(LatentConfig(codes=2), posterior, CPU, generator)
    optimiser = torch.optim.Adam(policy.parameters(), lr=1e-2)
    for _ in range(150):
        batch = demos.take(torch.randint(len(demos), (96,), generator=generator))
        seen = policy.with_code(batch.observation, codes.assign(policy, batch))
        loss = -policy.evaluate(seen, batch.action)[0].mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    likely = codes.assignment(policy, demos)
    found = likely.argmax(dim=1)
    one = int(found[brisk].float().mean().round())
    assert (found == torch.where(brisk, one, 1 - one)).float().mean() == 1.0
    assert likely.amax(dim=1).min() > 0.99
    pace = torch.tensor(SPACE.grid[0])
    by_code = [
        policy.distributions(policy.with_code(demos.observation, torch.full((len(demos),), code)))[0].probs @ pace
        for code in (1 - one, one)
    ]
    logged = pace[demos.action[:, 0].long()]
    for driven, who in zip(by_code, (~brisk, brisk), strict=True):
        assert driven[who].mean().item() == pytest.approx(logged[who].mean().item(), abs=0.2)
    assert (by_code[1] > by_code[0] + 0.3).float().mean() > 0.95


def policy_sizes():
    return PolicyConfig(entity_hidden=4, hidden=8)


# Whose demos they are


def test_pool_and_worlds_name_the_same_drivers():
    scenes = [scene(car(speed=5.0), car(20.0, speed=5.0), name="a"), scene(car(speed=6.0), name="b")]
    made = records(*scenes, space=SPACE)
    pool = pool_of(made, BLIND)
    drawn = pool.batch(all_draws(pool))
    names = {driver_key(name, row) for name, row in (("a", 0), ("a", 1), ("b", 0))}
    assert len(names) == 3
    worlds = make_experts(made, RULES, CPU).worlds
    matched = demo_transitions(matched_experts(worlds, made, RULES, DemoFilter()), BLIND)
    for samples in (drawn, matched):
        assert set(samples.driver.tolist()) == names
    by_name = {(int(s), int(a)): int(d) for (s, a, _), d in zip(drawn.transition, drawn.driver, strict=True)}
    assert by_name == {(0, 0): driver_key("a", 0), (0, 1): driver_key("a", 1), (1, 0): driver_key("b", 0)}


def test_cloning_learns_codes_of_the_demos_it_clones(make_store, small, tmp_path):
    trainer = trained(small(algorithm="bc", latent={"codes": 2}), make_store(scenes=2), tmp_path / "run")
    known = set(trainer.codes.assignment.state_dict()["row"].tolist())
    demos = trainer.stores.sampler(trainer._rules, 0).sample(4096)
    assert known
    assert known <= {key & (ROWS - 1) for key in demos.driver.tolist()}


def test_codes_of_earlier_versions_know_nothing_of_demos(make_store, small, tmp_path):
    trainer = trained(small(total_timesteps=0, latent={"codes": 2}), make_store(scenes=2), tmp_path / "run")
    state = trainer.learners.state_dict()
    assert len(trainer.codes.assignment.state_dict()["row"])
    del state["codes"]["assignment"]
    trainer.codes.assignment = Assignment(2)
    trainer.learners.load_state_dict(state)
    assert not len(trainer.codes.assignment.state_dict()["row"])
