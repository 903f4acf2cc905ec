import builtins
import importlib.util
import json
import sys
import types

import pytest
import torch
from runs import after, metrics, trained

from gail_cli.gail.config.load import config_to_dict
from gail_cli.gail.config.schema import WandbConfig
from gail_cli.gail.learning.logger import MetricsLogger
from gail_cli.gail.learning.run import METRICS, RunError
from gail_cli.gail.learning.trainer import Trainer


class Run:
    """What stands for a run of Weights & Biases."""

    def __init__(self, **given):
        self.given, self.id = given, given["id"] or "k3x9"
        self.logged, self.defined, self.finished = [], [], 0

    def log(self, values):
        assert not self.finished
        self.logged.append(dict(values))

    def define_metric(self, name, step_metric):
        self.defined.append((name, step_metric))

    def finish(self):
        self.finished += 1


@pytest.fixture
def wandb(monkeypatch):
    """Puts a stand-in where Weights & Biases is imported from; the runs that were begun."""
    module, runs = types.ModuleType("wandb"), []
    module.init = lambda **given: runs.append(Run(**given)) or runs[-1]
    monkeypatch.setitem(sys.modules, "wandb", module)
    return runs


def settings(**wandb):
    return WandbConfig(**{"project": "driving", **wandb})


def names(lines):
    return [{name for name in line if name not in ("seconds", "iteration")} for line in lines]


def test_a_run_is_told_of_under_the_names_of_its_metrics_file(wandb, make_store, small, tmp_path):
    wanted = {"project": "driving", "entity": "team", "group": "ablation", "mode": "offline"}
    config = small(total_timesteps=10**9, wandb=wanted)
    trained(config, make_store(scenes=2), tmp_path / "run", stop=after(4 + 2))
    (run,) = wandb
    lines = metrics(tmp_path / "run")
    assert names(run.logged) == names(lines)
    assert [{**line, **told} for line, told in zip(lines, run.logged, strict=True)] == lines
    reference = {"discriminator/loss", "discriminator/expert_accuracy", "discriminator/policy_accuracy"}
    ppo = {"ppo/policy_loss", "ppo/critic_loss", "ppo/entropy", "ppo/approx_kl", "ppo/clip_fraction"}
    assert reference | ppo <= run.logged[-1].keys()
    assert run.finished == 1
    assert run.defined == [("*", "step")]
    told = run.given
    assert {name: told[name] for name in wanted} == wanted
    assert (told["name"], told["dir"], told["id"]) == ("run", tmp_path / "run", None)
    assert told["config"] == config_to_dict(config)


def test_a_run_that_goes_on_is_the_same_one(wandb, make_store, small, tmp_path):
    config = small(total_timesteps=10**9, wandb={"project": "driving"})
    for resume in (False, True):
        trained(config, make_store(scenes=2), tmp_path / "run", stop=after(4 + resume), resume=resume)
    first, second = wandb
    assert second.given["id"] == first.id
    assert second.given["resume"] == "allow"
    assert (first.finished, second.finished) == (1, 1)
    assert len(first.logged) + len(second.logged) == len(metrics(tmp_path / "run"))


def test_a_run_may_have_a_name(wandb, tmp_path):
    MetricsLogger(tmp_path, settings(name="third try"), {}, 0, 0).close()
    assert wandb[0].given["name"] == "third try"


def test_it_is_finished_when_a_run_fails(wandb, make_store, small, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("out of memory")

    config = small(total_timesteps=10**9, bc={"steps": 0}, wandb={"project": "driving"})
    trainer = Trainer(config, make_store(scenes=2).path, tmp_path / "run")
    monkeypatch.setattr(trainer, "_iterate", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert wandb[0].finished == 1


def test_without_a_project_there_is_none(wandb, tmp_path):
    logger = MetricsLogger(tmp_path, WandbConfig(), {}, 0, 0)
    logger.write({"rollout/goal": 0.5}, 3)
    logger.close()
    assert wandb == []
    assert not (tmp_path / "wandb-id.txt").exists()


def test_wandb_asked_for_and_not_installed_is_one_sentence(make_store, small, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    imported = builtins.__import__

    def without(name, *rest):
        if name == "wandb":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError) as caught:
        Trainer(small(wandb={"project": "driving"}), make_store(scenes=2).path, tmp_path / "run")
    told = "wandb.project is set, but wandb is not installed; `pip install 'gail-cli[wandb]'`, or leave it out"
    assert str(caught.value) == told


def test_lines_keep_what_is_of_the_file_alone(tmp_path):
    """Time and rollouts are no metrics."""
    logger = MetricsLogger(tmp_path, WandbConfig(), {}, 0, 0)
    logger.write({"bc/loss": 2.0}, 3, seconds=1.5, iteration=0)
    logger.write({"rollout/goal": 0.5}, 70, seconds=2.5, iteration=1)
    logger.histogram("discriminator/policy_estimates", torch.arange(4.0), 70)
    logger.close()
    lines = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert lines == [
        {"seconds": 1.5, "iteration": 0, "step": 3, "bc/loss": 2.0},
        {"seconds": 2.5, "iteration": 1, "step": 70, "rollout/goal": 0.5},
    ]


def test_tensorboard_has_the_same_names(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = MetricsLogger(tmp_path, WandbConfig(), {}, 0, 0)
    logger.write({"discriminator/loss": 0.25, "ppo/entropy": 2.0}, 70, seconds=2.5)
    logger.histogram("discriminator/policy_estimates", torch.arange(4.0), 70)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"discriminator/loss", "ppo/entropy"}
    assert [(event.step, event.value) for event in events.Scalars("discriminator/loss")] == [(70, 0.25)]
    assert events.Tags()["histograms"] == ["discriminator/policy_estimates"]


@pytest.mark.parametrize(
    ("cloned", "iteration", "kept"), [(0, 0, []), (200, 0, [0, 1]), (200, 1, [0, 1, 2]), (100, 9, [0, 2, 3])]
)
def test_only_what_counts_is_kept(tmp_path, cloned, iteration, kept):
    lines = [
        {"step": 100, "iteration": 0, "bc/loss": 3.0},
        {"step": 200, "iteration": 0, "bc/loss": 2.0},
        {"step": 150, "iteration": 1},
        {"step": 300, "iteration": 2},
    ]
    written = [json.dumps(line) + "\n" for line in lines]
    (tmp_path / METRICS).write_text("".join(written) + '{"step": 400, "iter')
    MetricsLogger(tmp_path, WandbConfig(), {}, cloned, iteration).close()
    assert (tmp_path / METRICS).read_text() == "".join(written[k] for k in kept)


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_the_real_one_takes_what_it_is_given(tmp_path, monkeypatch):
    """Offline; a run that goes on keeps its id."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    for _ in range(2):
        logger = MetricsLogger(tmp_path, settings(mode="offline", group="ablation"), {}, 0, 0)
        logger.write({"discriminator/loss": 0.5}, 70, iteration=0)
        logger.close()
        (name,) = {path.name.split("-")[-1] for path in (tmp_path / "wandb").glob("offline-run-*")}
    assert (tmp_path / "wandb-id.txt").read_text() == name
