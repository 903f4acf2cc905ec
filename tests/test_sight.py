"""Who looks at what in rollouts: features while the eyes stay as they were, observations when they learn."""

import copy
from dataclasses import replace

import pytest
import torch
from runs import after, assert_equal, checkpoint, trained

from gail_cli.gail.config.schema import PolicyConfig, TrainConfig
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.gail.learning.sight import Sight
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.gail.networks.actor_critic import Networks
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.layout import ObservationConfig

LONG = 10**9
CPU = torch.device("cpu")
SPACE = ActionSpace.create("classic")
SIZES = PolicyConfig(entity_hidden=4, hidden=8)


def sight(timesteps, train_encoder, layout=None, **changes):
    config = TrainConfig(
        observation=layout or ObservationConfig(partners=2, road_segments=3), policy=SIZES,
        ppo={"train_encoder": train_encoder}, **changes,
    )  # fmt: skip
    networks = Networks.create(config.observation, SPACE, SIZES, 0, CPU, config.shares_eyes)
    torch.nn.init.normal_(networks.policy.eval().actor.head.weight)
    made = Sight(config, networks)
    made.begin(timesteps)
    return made, networks


def seen(layout, rows=20):
    return torch.rand(rows, layout.size, generator=torch.Generator().manual_seed(1))


def test_the_actor_does_by_features_what_the_policy_does_by_observations():
    found, networks = sight(0, None)
    observation = seen(found._config.observation)
    features = found.show(observation)
    assert features.shape == (20, networks.policy.encoder.features)
    both = networks.policy.distributions(observation), found.actor.distributions(features)
    for of_policy, of_actor in zip(*both, strict=True):
        torch.testing.assert_close(of_policy.logits, of_actor.logits)
    assert found.judged(features) is features


@pytest.mark.parametrize(
    ("timesteps", "train_encoder", "learns"),
    [(0, None, False), (LONG, None, False), (0, 0, True), (499, 500, False), (500, 500, True)],
)
def test_eyes_learn_from_their_step_on(timesteps, train_encoder, learns):
    found, networks = sight(timesteps, train_encoder)
    observation = seen(found._config.observation)
    assert found.learns is learns
    assert (found.actor is networks.policy) is learns
    assert (found.show(observation) is observation) is learns


def test_critic_and_discriminator_go_on_with_features_when_eyes_learn():
    """Of observations, and of the same observations seen by the eyes as they are; no gradient reaches the eyes."""
    found, networks = sight(500, 500)
    observation = seen(found._config.observation)
    features = networks.policy.encoder(observation)
    torch.testing.assert_close(found.judged(observation), features)
    torch.testing.assert_close(found.judged(observation.view(4, 5, -1)), features.view(4, 5, -1))
    value = found.critic(observation)
    torch.testing.assert_close(value, networks.critic(features))
    value.sum().backward()
    assert all(p.grad is None for p in networks.policy.parameters())
    assert all(p.grad is not None for p in networks.critic.parameters())
    demos = found.judged_demos(Transitions(observation, torch.zeros(20, 2), observation.flip(0)))
    torch.testing.assert_close(demos.observation, features)
    torch.testing.assert_close(demos.next_observation, features.flip(0))


def test_critics_with_eyes_of_their_own_look_at_observations():
    found, networks = sight(0, 0)
    observation = seen(found._config.observation)
    assert found.critic is networks.critic
    assert found.judged(observation) is observation


def test_the_collided_flag_is_in_no_feature():
    layout = ObservationConfig("gpudrive", partners=2, road_segments=3)
    found, networks = sight(0, None, layout)
    observation = seen(layout)
    flagged = observation.clone()
    flagged[:, layout.ego_fields.index("collided")] = 1.0
    torch.testing.assert_close(found.show(observation), found.show(flagged), rtol=0, atol=0)
    logits = [networks.policy.distributions(x)[0].logits for x in (observation, flagged)]
    assert torch.equal(*logits)  # nor does it change what the policy does anywhere else
    _, networks = sight(0, 0, layout)
    assert not torch.equal(*(networks.policy.distributions(x)[0].logits for x in (observation, flagged)))


def test_entities_are_hidden_from_rollouts_only_if_they_shall_be():
    layout = ObservationConfig(partners=2, road_segments=3)
    masking = {"roads": 0, "all_roads": 1, "partners": 0, "all_partners": 1}
    observation = seen(layout)
    hidden, _ = sight(0, 0, layout, masking={**masking, "rollouts": True})
    shown, _ = sight(0, 0, layout, masking=masking)
    _, partners, roads, _ = layout.split(hidden.show(observation))
    assert not partners.any()
    assert (roads[..., -7] == 1).all()
    assert torch.equal(shown.show(observation), observation)


@pytest.mark.parametrize(
    ("settings", "begin"),
    [
        ({}, None),
        ({"algorithm": "gail"}, 0),
        ({"algorithm": "ppo"}, 0),
        ({"bc": {"steps": 0}}, 0),
        ({"bc": {"steps": 0, "run": "a"}}, None),
        ({"ppo": {"train_encoder": 7}}, 7),
        ({"discriminator": {"structure": "split"}}, 0),
        ({"discriminator": {"compat": "mlagents"}}, 0),
    ],
)
def test_when_eyes_learn_by_default(settings, begin):
    config = TrainConfig(**settings)
    assert config.eyes_learn_from == begin
    assert config.shares_eyes == (begin != 0)


@pytest.mark.parametrize("kind", [{"structure": "split"}, {"compat": "mlagents"}])
def test_discriminators_of_single_entities_cannot_share_eyes(kind):
    with pytest.raises(ValueError, match="it looks at single entities; set ppo"):
        TrainConfig(discriminator=kind, ppo={"train_encoder": 5})


# In a run


def weights(trainer):
    policy = trainer.networks.policy
    return [copy.deepcopy(part.state_dict()) for part in (policy.encoder, policy.actor, trainer.networks.critic)]


@pytest.mark.parametrize(("train_encoder", "learn"), [(None, [False, False]), (1, [False, True]), (0, [True, True])])
def test_rollouts_teach_eyes_when_they_shall(make_store, small, tmp_path, train_encoder, learn):
    """In the first rollout after step 0, and in the second; actor and critic learn in both."""
    config = small(ppo={"train_encoder": train_encoder, "warmup_iterations": 0}, total_timesteps=LONG)
    trainer = Trainer(config, make_store().path, tmp_path / "run")
    trainer._clone(lambda: False)
    found = []
    for _ in learn:
        before = weights(trainer)
        trainer._iterate()
        pairs = zip(before, weights(trainer), strict=True)
        found.append([any(not torch.equal(a[k], b[k]) for k in a) for a, b in pairs])
    trainer.close()
    assert found == [[eyes, True, True] for eyes in learn]


@pytest.mark.parametrize("train_encoder", [None, 1])
def test_a_run_with_shared_eyes_goes_on_as_if_nothing_had_happened(make_store, small, tmp_path, train_encoder):
    config = small(ppo={"train_encoder": train_encoder}, total_timesteps=LONG)
    trained(config, make_store(), tmp_path / "whole", stop=after(4 + 3))
    trained(config, make_store(), tmp_path / "parts", stop=after(4 + 1))
    trained(config, make_store(), tmp_path / "parts", stop=after(2), resume=True)
    assert_equal(*(checkpoint(tmp_path / name) for name in ("whole", "parts")))


def test_the_learning_rate_falls_along_a_line():
    _, networks = sight(0, None)
    ppo = replace(TrainConfig().ppo, learning_rate=0.5, final_learning_rate=0.2)
    rates = []
    for done in (-1.0, 0.0, 0.5, 1.0, 1.5):
        networks.anneal(ppo, done)
        rates += [group["lr"] for group in networks.policy_optimiser.param_groups]
    assert rates == pytest.approx([0.5, 0.5, 0.3, 0.1, 0.1])
