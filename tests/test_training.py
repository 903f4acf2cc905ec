import copy
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from runs import after, assert_equal, checkpoint, metrics, trained

from gail_cli.gail.config.load import config_from_dict
from gail_cli.gail.evaluation.drivers import drive, drivers, make_env
from gail_cli.gail.evaluation.evaluate import evaluate
from gail_cli.gail.figures.scene_figure import draw_scene
from gail_cli.gail.learning.adversary import RewardScale
from gail_cli.gail.learning.events import event_reward
from gail_cli.gail.learning.ppo import update
from gail_cli.gail.learning.requirements import check_fit
from gail_cli.gail.learning.run import CHECKPOINT, CLONED, RunError, chosen_stores, load_cloned, load_run
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.errors import UserError
from gail_cli.sim.scenario import DT, AgentType

LONG = 10**9
SAMPLE = Path(__file__).parents[1] / "data" / "sample"
METRICS = {
    "seconds", "step", "iteration",
    "rollout/length", "rollout/goal", "rollout/collision", "rollout/off_road",
    "discriminator/loss", "discriminator/expert_accuracy", "discriminator/policy_accuracy", "discriminator/updates",
    "discriminator/expert_estimate", "discriminator/policy_estimate",
    "reward/gail", "reward/environment", "reward/events",
    "ppo/critic_loss", "ppo/explained_variance", "time/steps_per_s",
}  # fmt: skip
POLICY_METRICS = {"ppo/policy_loss", "ppo/entropy", "ppo/clip_fraction", "ppo/approx_kl", "ppo/bc_loss"}


@pytest.fixture(scope="module")
def tiny_run(make_store, tmp_path_factory, small):
    """Two rollouts after a few steps of cloning."""
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    trainer = trained(small(total_timesteps=LONG), make_store(), folder, stop=after(4 + 2))
    return trainer, folder


# A run and its folder


def test_a_run_is_a_folder(tiny_run):
    trainer, folder = tiny_run
    names = {path.name for path in folder.iterdir()}
    assert names == {"config.yaml", "environment.json", "metrics.jsonl", CHECKPOINT, CLONED, "tensorboard"}
    assert config_from_dict(yaml.safe_load((folder / "config.yaml").read_text())) == trainer.config
    environment = json.loads((folder / "environment.json").read_text())
    assert ActionSpace.from_json(environment["action_space"]) == trainer.stores.space
    assert any((folder / "tensorboard").iterdir())


def test_metrics_of_a_run(tiny_run):
    trainer, folder = tiny_run
    cloning, waiting, learning = metrics(folder)
    assert (cloning["step"], cloning.keys()) == (4, {"seconds", "step", "iteration", "bc/loss"})
    by_event = {name for line in (waiting, learning) for name in line if name.startswith("reward/of_")}
    assert by_event <= {"reward/of_goal", "reward/of_collision", "reward/of_off_road"}
    assert waiting.keys() - by_event == METRICS
    assert learning.keys() - by_event == METRICS | POLICY_METRICS
    assert all(math.isfinite(value) for line in (cloning, waiting, learning) for value in line.values())
    assert [line["iteration"] for line in (cloning, waiting, learning)] == [0, 1, 2]
    assert 0 == cloning["iteration"] < waiting["step"] < learning["step"] == trainer.progress.timesteps
    assert cloning["seconds"] < waiting["seconds"] < learning["seconds"]
    shares = [f"discriminator/{side}_accuracy" for side in ("expert", "policy")]
    shares += [f"rollout/{what}" for what in ("goal", "collision", "off_road")]
    assert all(0 <= line[share] <= 1 for line in (waiting, learning) for share in shares)
    assert waiting["discriminator/updates"] == 3
    assert 1 < waiting["rollout/length"] <= 20
    assert -1.5 <= learning["reward/environment"] <= 1  # sums of the weights of what may happen in a step


def test_the_first_rollouts_leave_the_policy_alone(make_store, small, tmp_path):
    """One is for critic and discriminator alone; but a policy that was not cloned learns at once."""

    def changed(steps):
        trainer = Trainer(small(bc={"steps": steps}), make_store().path, tmp_path / f"cloned {steps}")
        trainer._clone(lambda: False)

        def parts():
            return trainer.networks.policy, trainer.networks.critic, trainer.adversary.provider.network

        before = copy.deepcopy(parts())
        trainer._iterate()
        trainer.close()
        pairs = [(a.parameters(), b.parameters()) for a, b in zip(before, parts(), strict=True)]
        return [not all(torch.equal(*both) for both in zip(*pair, strict=True)) for pair in pairs]

    assert changed(1) == [False, True, True]
    assert changed(0) == [True, True, True]


def test_a_run_ends_after_its_steps(make_store, small, tmp_path):
    trainer = trained(small(total_timesteps=1), make_store(), tmp_path / "one")
    assert trainer.progress.iteration == 1
    trainer = trained(small(total_timesteps=0), make_store(), tmp_path / "cloned")
    assert (trainer.progress.iteration, trainer.progress.cloned) == (0, 4)
    assert checkpoint(tmp_path / "cloned")["progress"]["cloned"] == 4


def test_the_discriminator_rests_while_it_is_too_good(make_store, small, tmp_path):
    config = small(total_timesteps=1, discriminator={"max_accuracy": 0.0})
    trained(config, make_store(), tmp_path / "run")
    assert metrics(tmp_path / "run")[-1]["discriminator/updates"] == 0


def test_the_discriminator_learns_to_tell_random_driving_from_experts(make_store, small, tmp_path):
    """Within one rollout of a policy that knows nothing; rewards of its doings fall below nothing."""
    settings = {"updates": 40, "learning_rate": 1e-3, "max_accuracy": 1.0}
    trainer = Trainer(small(bc={"steps": 0}, discriminator=settings), make_store().path, tmp_path / "run")
    for _ in range(3):
        trainer._iterate()
    trainer.save()
    trainer.close()
    first, _, last = metrics(tmp_path / "run")
    accuracies = [sum(line[f"discriminator/{s}_accuracy"] for s in ("expert", "policy")) / 2 for line in (first, last)]
    assert abs(accuracies[0] - 0.5) < 0.2
    assert accuracies[1] > 0.8
    assert last["discriminator/policy_estimate"] < -0.5


@pytest.mark.parametrize(
    ("algorithm", "cloned", "learned"),
    [
        ("bc+gail", {"policy"}, {"policy", "critic", "discriminator"}),
        ("gail", set(), {"policy", "critic", "discriminator"}),
        ("bc", {"policy"}, set()),
        ("ppo", set(), {"policy", "critic"}),
    ],
)
def test_each_algorithm_is_a_way_through_one_trainer(make_store, small, tmp_path, algorithm, cloned, learned):
    """Which networks its cloning and its rollouts change, and what it measures."""
    config = small(algorithm=algorithm, total_timesteps=1, ppo={"warmup_iterations": 0})
    trainer = Trainer(config, make_store(scenes=2).path, tmp_path / "run")

    def parts():
        found = {"policy": trainer.networks.policy, "critic": trainer.networks.critic}
        judge = {} if trainer.adversary is None else {"discriminator": trainer.adversary.provider.network}
        return {name: [x.clone() for x in part.parameters()] for name, part in (found | judge).items()}

    def changed(before):
        now = parts()
        return {name for name, x in before.items() if not all(map(torch.equal, x, now[name]))}

    begun = parts()
    trainer._clone(lambda: False)
    assert changed(begun) == cloned
    begun = parts()
    trainer.run()
    assert changed(begun) == learned
    assert ("discriminator" in begun) == (trainer.adversary is not None) == ("gail" in algorithm)
    lines = metrics(tmp_path / "run")
    groups = {name.split("/")[0] for line in lines for name in line if "/" in name}
    expected = {"bc"} if cloned else set()
    expected |= {"rollout", "ppo", "reward", "time"} if learned else set()
    expected |= {"discriminator"} if "discriminator" in learned else set()
    assert groups == expected
    named = {name for line in lines for name in line}
    assert ("reward/gail" in named) == ("gail" in algorithm)
    assert ("ppo/bc_loss" in named) == (algorithm == "bc+gail")
    assert (tmp_path / "run" / CLONED).exists() == bool(cloned)
    assert trainer.progress.iteration == bool(learned)
    twin = Trainer(config, make_store(scenes=2).path, tmp_path / "run", resume=True)
    twin.run()
    assert trainer.progress == twin.progress
    load_run(tmp_path / "run")


@pytest.mark.parametrize(("weight", "factor"), [(None, 1.0), (0.25, 0.25)])
def test_ppo_alone_is_paid_what_the_environment_pays(make_store, small, tmp_path, monkeypatch, weight, factor):
    """Mixed with nothing."""
    seen, sim = [], {"reward": "weighted_combination", "box_scale": 2.0}
    monkeypatch.setattr(
        "gail_cli.gail.learning.trainer.update", lambda *args, **more: seen.append(args) or update(*args, **more)
    )
    config = small(algorithm="ppo", total_timesteps=1, sim=sim, reward={"environment": weight})
    trained(config, make_store(scenes=2), tmp_path / "run")
    ((_, _, _, rollout, reward, _, demos, *_),) = seen
    assert torch.equal(reward, factor * rollout.environment_reward)
    assert reward.any()
    assert demos is None
    (line,) = metrics(tmp_path / "run")
    paid = rollout.environment_reward[rollout.alive].mean().item()
    assert line["reward/environment"] == pytest.approx(paid)


def test_the_environment_may_pay_beside_the_discriminator(make_store, small, tmp_path):
    """By its weight, on top of the discriminator's reward after scaling, and of what is paid for events."""
    reward = {"environment": 0.25, "gail": 3.0, "events": 2.0}
    sim, events = {"reward": "weighted_combination", "box_scale": 0.1}, {"box_scale": 2.0, "goal": 7.0}
    config = small(sim=sim, reward=reward, events=events)
    trainer = Trainer(config, make_store(scenes=2).path, tmp_path / "run")
    reward, seen = trainer._reward, []
    trainer._reward = lambda rollout: seen.append(rollout) or reward(rollout)
    trainer._iterate()
    trainer.close()
    trainer.reward_scale = lambda paid, alive, gamma: paid / 5
    (rollout,) = seen
    expected = 3 * trainer.adversary.reward(rollout)[0] / 5 + 0.25 * rollout.environment_reward
    paid = event_reward(rollout.happened, rollout.fault, rollout.alive, config.events)
    torch.testing.assert_close(reward(rollout)[0], expected + 2 * paid)
    assert rollout.environment_reward.any()
    assert paid.min() < -1
    assert paid.max() == 7


def test_a_run_may_learn_from_several_stores(make_store, small, tmp_path):
    """In proportion to their weights; it goes on with the same ones alone."""
    config = small(total_timesteps=1, data={"store_weights": [1, 3]})
    paths = [make_store(scenes=2).path, make_store().path]
    trainer = Trainer(config, paths, tmp_path / "run")
    trainer.run()
    scene = trainer.sampler.sample(4000).transition[:, 0]
    assert (scene < 2).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["stores"] == [str(p) for p in paths]
    with pytest.raises(RunError, match="resume with that store"):
        Trainer(config, paths[::-1], tmp_path / "run", resume=True)
    for wrong, told in (
        ([1], r"1 weight\(s\) for 2 store\(s\); give one per store"),
        ([1, 0], "must be positive finite"),
    ):
        with pytest.raises(UserError, match=f"^data.store_weights: .*{told}"):
            Trainer(small(data={"store_weights": wrong}), paths, tmp_path / "other")


def test_which_stores_a_run_learns_from(small, tmp_path):
    """Those that are named, or those of the run that goes on, or the configuration's, or ML-Agents' demos."""
    empty, demos = small(), small(discriminator={"mlagents": {"demo_path": "d"}})
    both = replace(demos, data=replace(demos.data, stores=("a", "b")))
    (tmp_path / "environment.json").write_text('{"stores": ["r"]}')
    assert chosen_stores(both, ["x", "y"], tmp_path) == ["x", "y"]
    assert chosen_stores(both, [], tmp_path) == ["r"]
    assert chosen_stores(both, [], tmp_path / "nowhere") == ["a", "b"]
    assert chosen_stores(both) == ["a", "b"]
    assert chosen_stores(demos) == ["d"]
    with pytest.raises(RunError, match=r"no demo store is named; name one with --store, or in data.stores"):
        chosen_stores(empty)


@pytest.mark.parametrize(
    ("dynamics", "kind"), [("bicycle", "continuous"), ("delta_local", "discrete"), ("delta_local", "continuous")]
)
def test_every_kind_of_actions_trains(make_store, small, tmp_path, dynamics, kind):
    store = make_store(dynamics, kind, scenes=2)
    trainer = trained(small(total_timesteps=LONG), store, tmp_path / "run", stop=after(4 + 2))
    assert trainer.progress.iteration == 2
    assert all(math.isfinite(value) for line in metrics(tmp_path / "run") for value in line.values())
    config, policy = load_run(tmp_path / "run")
    assert evaluate(policy, config, store, scenes=[0], rollouts=1)["results"].keys() > {"policy"}


def test_gpudrive_layout_and_state_only_discriminators_train(make_store, small, tmp_path):
    observation = {"layout": "gpudrive", "road_order": "first"}
    discriminator = {"inputs": "state", "gradient_penalty": 1.0, "label_smoothing": 0.1}
    config = small(total_timesteps=1, observation=observation, discriminator=discriminator, reward={"form": "gail"})
    trained(config, make_store(scenes=2), tmp_path / "run")
    (*_, line) = metrics(tmp_path / "run")
    assert line["discriminator/gradient_penalty"] > 0
    assert line["reward/gail"] > 0


def test_a_cloned_policy_is_taken_over(tiny_run, make_store, small, tmp_path):
    _, folder = tiny_run
    trained(small(total_timesteps=0, seed=1, bc={"run": str(folder)}), make_store(), tmp_path / "run")
    _, theirs = load_run(folder)
    cloned = load_cloned(folder).state_dict()
    assert all(torch.equal(x, cloned[name]) for name, x in load_run(tmp_path / "run")[1].state_dict().items())
    assert not all(torch.equal(x, cloned[name]) for name, x in theirs.state_dict().items())
    assert (tmp_path / "run" / CLONED).exists()
    trained(small(total_timesteps=1, bc={"run": str(folder)}), make_store(), tmp_path / "run", resume=True)
    assert all(torch.equal(x, cloned[name]) for name, x in load_cloned(tmp_path / "run").state_dict().items())
    with pytest.raises(RunError, match="its policy is another network than this run's; set policy and"):
        trained(small(bc={"run": str(folder)}, policy={"hidden": 24}), make_store(), tmp_path / "other")
    sees = {"partners": 4, "road_segments": 8}
    for change, told in (
        ({"radius": 10}, "radius=50.0, not 10.0"),
        ({"goal": "none"}, "goal=point, not none"),
        ({"history": 3}, "history=0, not 3"),
    ):
        with pytest.raises(RunError, match=f"its policy was cloned with observation.{told}; set observation"):
            trained(small(bc={"run": str(folder)}, observation=sees | change), make_store(), tmp_path / "other")
    assert not (tmp_path / "other").exists()
    trained(small(algorithm="ppo", total_timesteps=0), make_store(), tmp_path / "ppo")
    with pytest.raises(RunError, match="it has no cloned policy; name one that cloned"):
        trained(small(bc={"run": str(tmp_path / "ppo")}), make_store(), tmp_path / "another")


# Going on


def test_a_run_goes_on_as_if_nothing_had_happened(make_store, small, tmp_path):
    """Cut while cloning, and after one and two rollouts, which share their worlds."""
    data = {"pool_scenes": 2, "rows_per_scene": 64}
    config = small(total_timesteps=LONG, worlds={"rollouts_per_batch": 2}, data=data)
    store, whole, steps = make_store(scenes=3), tmp_path / "whole", 4 + 3
    trained(config, store, whole, stop=after(steps))

    def lasting(folder):
        timed = {"seconds", "time/steps_per_s"}
        return [{name: value for name, value in line.items() if name not in timed} for line in metrics(folder)]

    for cut in (2, 5, 6):
        parts = tmp_path / f"cut after {cut}"
        trained(config, store, parts, stop=after(cut))
        torch.manual_seed(99)  # whatever the generator of another process may hold
        trained(config, store, parts, stop=after(steps - cut), resume=True)
        assert_equal(checkpoint(parts), checkpoint(whole))
        assert lasting(parts) == lasting(whole)


def test_a_finished_run_stays_finished(make_store, small, tmp_path):
    config = small(total_timesteps=1)
    trained(config, make_store(), tmp_path / "run")
    before = checkpoint(tmp_path / "run")
    trained(config, make_store(), tmp_path / "run", resume=True)
    assert_equal(checkpoint(tmp_path / "run"), before)


def test_a_resumed_run_takes_new_rates(tiny_run, small, make_store, tmp_path):
    twin = copied(tiny_run[1], tmp_path / "twin")
    trainer = Trainer(small(ppo={"learning_rate": 0.125}), make_store().path, twin, resume=True)
    trainer.close()
    assert [group["lr"] for group in trainer.networks.policy_optimiser.param_groups] == [0.125]


def test_a_run_is_resumed_only_where_there_is_one_and_with_its_store(tiny_run, small, make_store, tmp_path):
    twin = copied(tiny_run[1], tmp_path / "twin")
    with pytest.raises(RunError, match="resume with that store"):
        Trainer(small(), make_store(scenes=2).path, twin, resume=True)
    with pytest.raises(RunError, match="there is no checkpoint to go on from; leave --resume out"):
        Trainer(small(), make_store().path, tmp_path / "new", resume=True)
    for place in (make_store().path, make_store().path / "run"):
        with pytest.raises(RunError, match="it would lie inside the store"):
            Trainer(small(), make_store().path, place)


@pytest.mark.parametrize("horizon", [5, 91, 120])
def test_episodes_may_be_shorter_or_longer_than_the_log(tiny_run, make_store, horizon):
    trainer, _ = tiny_run
    config = replace(trainer.config, sim=replace(trainer.config.sim, horizon=horizon, end_with_log=False))
    means = evaluate(trainer.networks.policy, config, make_store(scenes=2), rollouts=1)["results"]["expert replayed"]
    assert means["ade"] < 0.1


@pytest.mark.parametrize(
    ("scale", "rule"), [(-1.0, "positive"), (math.nan, "a finite number"), (math.inf, "a finite number")]
)
def test_boxes_that_have_no_size_are_refused(tiny_run, make_store, scale, rule):
    trainer, _ = tiny_run
    with pytest.raises(RunError, match=f"box_scale is {scale}; it must be {rule}$"):
        evaluate(trainer.networks.policy, trainer.config, make_store(), box_scale=scale)


def test_what_a_killed_run_measured_after_its_checkpoint_is_forgotten(tiny_run, make_store, tmp_path):
    trainer, folder = tiny_run
    copy_of = copied(folder, tmp_path / "run")
    before = (copy_of / "metrics.jsonl").read_text()
    with (copy_of / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 9, "iteration": 3, "rollout/goal": 1.0}) + "\n")
        file.write(json.dumps({"step": 9, "iteration": 0, "bc/loss": 1.0}) + "\n" + '{"step"')
    Trainer(trainer.config, make_store().path, copy_of, resume=True).close()
    assert (copy_of / "metrics.jsonl").read_text() == before


def test_a_run_is_not_overwritten(tiny_run):
    trainer, folder = tiny_run
    with pytest.raises(RunError, match="there is a run already; add --resume"):
        Trainer(trainer.config, trainer.stores.stores[0].path, folder)


def test_checkpoints_come_while_it_runs_and_are_whole(make_store, small, tmp_path, monkeypatch):
    """A write that fails half-way leaves the last checkpoint as it was."""
    config = small(total_timesteps=LONG, bc={"steps": 0}, checkpoint_every=2)
    folder, iterations = tmp_path / "run", []
    trainer = Trainer(config, make_store(scenes=2).path, folder, report=lambda *_: iterations.append(found(folder)))

    def found(folder):
        return checkpoint(folder)["progress"]["iteration"] if (folder / CHECKPOINT).exists() else None

    trainer.run(after(5))
    assert iterations == [None, None, 2, 2, 4]
    assert found(folder) == 5

    def half(state, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("gail_cli.gail.learning.trainer.torch.save", half)
    trainer.progress.iteration = 6
    with pytest.raises(OSError, match="disk full"):
        trainer.save()
    assert found(folder) == 5


def test_an_error_leaves_a_checkpoint_and_no_thread(make_store, small, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    trainer = Trainer(small(total_timesteps=LONG), make_store().path, tmp_path / "run")
    monkeypatch.setattr(trainer, "_iterate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert checkpoint(tmp_path / "run")["progress"]["cloned"] == 4
    assert not trainer.stream._prefetch._thread.is_alive()


def copied(folder, to):
    """The files of a run that decide how it goes on."""
    to.mkdir()
    for name in ("config.yaml", "environment.json", "metrics.jsonl", CHECKPOINT):
        (to / name).write_bytes((folder / name).read_bytes())
    return to


def test_a_run_goes_on_with_its_own_networks_only(tiny_run, small, tmp_path):
    """And a refused attempt changes nothing."""
    trainer, folder = tiny_run
    twin = copied(folder, tmp_path / "twin")
    with pytest.raises(RunError, match="its checkpoint is of other networks; resume with the configuration it began"):
        Trainer(small(policy={"hidden": 24}), trainer.stores.stores[0].path, twin, resume=True)
    config, _ = load_run(twin)
    assert config == trainer.config


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"algorithm": "ppo"}, "it began with algorithm=bc+gail, not ppo; resume with that, or train anew"),
        ({"observation": {"radius": 20.0}}, "it began with observation.radius=50.0, not 20.0; resume with that"),
        ({"observation": {"history": 2}}, "it began with observation.history=0, not 2; resume with that"),
    ],
)
def test_a_run_keeps_what_it_is_about(tiny_run, small, tmp_path, changes, told):
    """Its checkpoint and its configuration are as before."""
    trainer, folder = tiny_run
    twin = copied(folder, tmp_path / "twin")
    with pytest.raises(RunError, match=re.escape(told)):
        Trainer(small(**changes), trainer.stores.stores[0].path, twin, resume=True)
    assert all((twin / f.name).read_bytes() == f.read_bytes() for f in folder.iterdir() if (twin / f.name).exists())


def test_what_a_run_goes_on_with_is_written_down(tiny_run, tmp_path):
    """Nothing where nothing that it learns from was changed; and what is cloned is not cloned again over GAIL."""
    trainer, folder = tiny_run
    twin = copied(folder, tmp_path / "twin")
    store, config = trainer.stores.stores[0].path, replace(trainer.config, total_timesteps=LONG)
    same = Trainer(config, store, twin, resume=True)
    same.close()
    assert (same.changed, json.loads((twin / "environment.json").read_text())["resumed"]) == ({}, [])
    other = replace(config, bc=replace(config.bc, steps=9), reward=replace(config.reward, environment=0.5))
    changed = Trainer(other, store, twin, resume=True)
    policy = copy.deepcopy(changed.networks.policy.state_dict())
    changed._clone(lambda: False)
    changed.close()
    assert_equal(policy, changed.networks.policy.state_dict())
    assert changed.changed == {"bc.steps": (4, 9), "reward.environment": (None, 0.5)}
    (told,) = json.loads((twin / "environment.json").read_text())["resumed"]
    assert told == {
        "step": trainer.progress.timesteps,
        "changed": {"bc.steps": [4, 9], "reward.environment": [None, 0.5]},
    }


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("environment.json", "{"),
        ("environment.json", "{}"),
        ("environment.json", None),
        ("config.yaml", "{"),
        ("config.yaml", None),
    ],
)
def test_a_run_does_not_go_on_without_its_files(tiny_run, tmp_path, name, content):
    trainer, folder = tiny_run
    twin = copied(folder, tmp_path / "twin")
    (twin / name).unlink()
    if content is not None:
        (twin / name).write_text(content)
    what = "is missing" if content is None else "is damaged"
    with pytest.raises(RunError, match=f"run {twin}: {name} {what}; train again in another folder"):
        Trainer(trainer.config, trainer.stores.stores[0].path, twin, resume=True)
    if name == "environment.json":
        with pytest.raises(RunError, match=f"{name} {what}"):
            chosen_stores(trainer.config, [], twin)


@pytest.mark.parametrize("content", [b"", b"junk", "cut"])
def test_damaged_checkpoints_are_one_sentence(tiny_run, tmp_path, content):
    trainer, folder = tiny_run
    twin = copied(folder, tmp_path / "twin")
    file = twin / CHECKPOINT
    file.write_bytes(file.read_bytes()[:-3000] if content == "cut" else content)
    with pytest.raises(RunError, match=r"checkpoint.pt is damaged; train again in another folder"):
        load_run(twin)
    with pytest.raises(RunError, match=r"checkpoint.pt is damaged; train again in another folder"):
        Trainer(trainer.config, trainer.stores.stores[0].path, twin, resume=True)


@pytest.mark.parametrize("name", ["config.yaml", "environment.json", CHECKPOINT])
def test_missing_and_damaged_files_are_named(tiny_run, tmp_path, name):
    twin = copied(tiny_run[1], tmp_path / "twin")
    (twin / name).write_text("{]")
    with pytest.raises(RunError, match=f"run {twin}: .*; train again"):
        load_run(twin)
    (twin / name).unlink()
    with pytest.raises(RunError, match=f"run {twin}: {name} is missing; make a run with"):
        load_run(twin)


def test_folders_that_cannot_be_written(make_store, small, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"cannot be written \(Not a directory\); choose another folder"):
        Trainer(small(), make_store().path, tmp_path / "file" / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"dynamics": "bicycle"}}, "dynamics classic, but the run wants bicycle; set classic in the run's"),
        ({"data": {"actions": "continuous"}}, "actions discrete, but the run wants continuous; set discrete"),
        ({"data": {"grid": "gpudrive"}}, "its action grid is not the grid 'gpudrive' that the run wants"),
        ({"data": {"split": "test"}}, r"0 scene\(s\) in the split test, but the run wants some; set data.split, or"),
    ],
)
def test_stores_that_do_not_fit(make_store, small, changes, told):
    with pytest.raises(RunError, match=told):
        check_fit(small(**changes).data, make_store())


def test_stores_that_fit(make_store, small):
    wanted = {"dynamics": "classic", "actions": "discrete", "grid": "fine"}
    check_fit(small(data=wanted, worlds={"num_worlds": 5}).data, make_store())


def test_absolute_states_can_not_be_learned(make_store, small):
    with pytest.raises(RunError, match="which no policy can choose"):
        check_fit(small(worlds={"num_worlds": 1}).data, make_store("state", "continuous", scenes=1))


# Rewards


def test_rewards_are_divided_by_the_root_mean_square_of_returns():
    """gamma 1/2: returns 3 + 4/2, 4 and, of the other agent, 2 alone; then a rollout of zeros halves the mean."""
    scale, reward = RewardScale(), torch.tensor([[3.0, 2.0], [4.0, 77.0]])
    alive = torch.tensor([[True, True], [True, False]])
    square = (25 + 16 + 4) / 3
    torch.testing.assert_close(scale(reward, alive, 0.5), reward / math.sqrt(square))
    torch.testing.assert_close(scale(-reward, alive, 0.5), -reward / math.sqrt(square))
    scale(torch.zeros(2, 2), torch.ones(2, 2, dtype=torch.bool), 0.5)
    assert (scale.square, scale.count) == (pytest.approx(square * 6 / 10), 10)


# What cloning and evaluation are worth


def test_a_cloned_policy_drives_better_than_without_looking(make_store, small, tmp_path):
    """A few hundred steps are enough to beat constant velocity and random actions on the same scenes."""
    store = make_store(scenes=2)
    cloning = {"steps": 300, "batch_size": 256, "learning_rate": 3e-3}
    config = small(total_timesteps=0, sim={"horizon": None}, bc=cloning, policy={"hidden": 64})
    trained(config, store, tmp_path / "run")
    losses = [line["bc/loss"] for line in metrics(tmp_path / "run")]
    assert len(losses) == 3
    assert losses[0] > losses[1] > losses[2]
    assert losses[2] < 0.6 * sum(math.log(n) for n in store.space.sizes)
    config, policy = load_run(tmp_path / "run")
    done = []
    result = evaluate(policy, config, store, rollouts=2, progress=lambda *place: done.append(place))
    ade = {name: means["ade"] for name, means in result["results"].items()}
    assert ade["expert replayed"] < 0.1 < ade["policy"] < 0.7 * ade["constant velocity"] < 0.7 * ade["random"]
    assert result["results"]["expert replayed"]["goal"] == 1
    assert (result["scenes"], result["box_scale"], done) == (2, 0.7, [(2, 2)])
    assert result["agents"] == sum(record.demos.num_demos for record in store.read())
    few = {"rollouts": 1, "scenes": [1]}
    first = evaluate(policy, config, store, **few)["results"]
    assert evaluate(policy, config, store, **few)["results"] == first
    drawn = evaluate(policy, config, store, deterministic=False, **few)["results"]
    assert drawn["policy"] != first["policy"]
    assert evaluate(policy, config, store, box_scale=1.0, **few)["box_scale"] == 1.0
    assert draw_scene(policy, config, store, 0).axes


def test_replayed_experts_end_where_their_demos_end(make_store, small):
    """The episode that evaluation drives is the one that the store tells of; errors are as measured when extracting."""
    store = make_store()
    records = list(store.read())
    config = small(sim={"horizon": None})
    env, experts = make_env(records, config, store.space, torch.device("cpu"))
    result = drive(env, drivers(None, experts, True, torch.Generator())["expert replayed"])
    replayed = make_experts(records, config.sim).track[experts.worlds.controlled]
    mark = torch.from_numpy(np.concatenate([record.demos.mark[record.moving] for record in records])) != 0
    assert torch.equal(result.driven, mark)
    assert torch.equal(result.track[mark], replayed[mark])


def test_constant_velocity_is_constant_velocity(make_store, small):
    for dynamics, kind in (("classic", "discrete"), ("delta_local", "continuous")):
        store = make_store(dynamics, kind, scenes=2)
        env, experts = make_env(list(store.read()), small(), store.space, torch.device("cpu"))
        result = drive(env, drivers(None, experts, True, torch.Generator())["constant velocity"])
        start, speed = result.track[:, 0], result.track[:, 0, 3:].norm(dim=1)
        ahead = torch.stack([start[:, 2].cos(), start[:, 2].sin()], dim=1)
        expected = start[:, :2] + ahead * speed[:, None] * DT * 10
        torch.testing.assert_close(result.track[:, 10, :2], expected, rtol=0, atol=0.05)


def test_random_actions_cover_the_space(make_store, small):
    for dynamics, kind in (("classic", "discrete"), ("bicycle", "continuous")):
        store = make_store(dynamics, kind, scenes=2)
        env, experts = make_env(list(store.read()), small(), store.space, torch.device("cpu"))
        driver = drivers(None, experts, True, torch.Generator().manual_seed(0))["random"]
        values = store.space.decode(torch.cat([driver(env, env.reset(), k) for k in range(300)]))
        low, high = torch.tensor(store.space.bounds).T
        span = high - low
        assert (values.amin(dim=0) - low <= 0.01 * span).all()
        assert (high - values.amax(dim=0) <= 0.01 * span).all()
        assert (values >= low).all()
        assert (values <= high).all()


def test_policies_of_another_action_space_are_refused(tiny_run, make_store):
    config, policy = load_run(tiny_run[1])
    with pytest.raises(RunError, match="its actions are not those of the run; extract with the same settings"):
        evaluate(policy, config, make_store("bicycle", "continuous", scenes=2))


def test_pedestrians_and_cyclists_can_be_learned_from(small, tmp_path):
    """They are the ones controlled, by displacements; vehicles follow their logs."""
    config = ExtractConfig(ActionSpace.create("classic"), agents="all")
    extract([str(SAMPLE)], str(tmp_path / "store"), config, ExtractOptions(workers=1), limit=4)
    store = DemoStore(tmp_path / "store", agents="vru")
    chosen = small(data={"agents": "vru"}, sim={"selection": {"remove_non_vehicles": False}, "horizon": 20})
    trainer = trained(replace(chosen, total_timesteps=1), store, tmp_path / "run")
    scenes = trainer._env.worlds.scenes
    kinds = {int(scenes[w].agent_type[row]) for w, row in trainer._env.worlds.controlled_agents()}
    assert kinds <= {AgentType.PEDESTRIAN, AgentType.CYCLIST}
    assert kinds
    loaded, policy = load_run(tmp_path / "run", "cpu")
    assert policy.space == store.space
    result = evaluate(policy, loaded, store, scenes=range(4), rollouts=1)
    assert result["results"]["expert replayed"]["ade"] < 0.01
    with pytest.raises(RunError, match="no demos of pedestrians and cyclists"):
        check_fit(loaded.data, make_vehicles_only(tmp_path / "vehicles"))


def make_vehicles_only(path):
    extract([str(SAMPLE)], str(path), ExtractConfig(ActionSpace.create("classic")), ExtractOptions(workers=1), limit=2)
    return DemoStore(path, agents="vru")


def test_a_run_learns_from_its_split_alone(small, tmp_path):
    config = ExtractConfig(ActionSpace.create("classic"), split=(0.5, 0.5, 0))
    extract([str(SAMPLE)], str(tmp_path / "store"), config, ExtractOptions(workers=1), limit=6)
    store = DemoStore(tmp_path / "store")
    splits = store.index.split.tolist()
    assert len(set(splits)) == 2
    trainer = trained(replace(small(data={"split": "validation"}), total_timesteps=1), store, tmp_path / "run")
    held = {store.scene_ids().index(scene.id) for scene in trainer._env.worlds.scenes}
    drawn = set(trainer.sampler.sample(4096).transition[:, 0].tolist())
    wanted = {k for k, split in enumerate(splits) if split == 1}
    assert held <= wanted
    assert drawn == wanted
