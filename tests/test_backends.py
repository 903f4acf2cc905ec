"""Which simulator a run drives in, and experts beside agents as GPUDrive has them.

GPUDrive's compiled module is a stand-in (gpudrive_standin.py).
"""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from demos import assert_experts_see_what_the_simulator_shows, records
from scenes import car, random_scene, real_scenes, scene

from gail_cli import cli
from gail_cli.gail.config.load import ConfigError, config_to_dict, load_config
from gail_cli.gail.evaluation.evaluate import evaluate
from gail_cli.gail.learning.backends import check_backend, make_backend, with_backend
from gail_cli.gail.learning.run import RunError, load_run
from gail_cli.gail.learning.trainer import Trainer
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scene import Role
from gail_cli.sim.worlds import make_worlds

SAMPLE = Path(__file__).parents[1] / "data" / "sample"
SMALL = [random_scene(seed, steps=91) for seed in range(3)]
CLASSIC = ActionSpace.create("classic", "continuous", reverse=False)


# --- training and evaluation ---------------------------------------------------------------------------------------


@pytest.fixture
def in_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GAIL_CLI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gpudrive"


def rules(**more):
    return {"backend": "gpudrive", "sim": {"compat": "gpudrive", **more}}


def test_configurations(small):
    config = load_config(None, ["backend=gpudrive", "sim.compat=gpudrive"])
    assert (config.sim.selection.max_agents, config.sim.horizon, config.sim.replay_lag) == (64, 91, True)
    assert load_config(None, ["sim.compat=gpudrive"]).sim.selection.max_agents is None
    few = load_config(None, ["backend=gpudrive", "sim.compat=gpudrive", "sim.selection.max_agents=8"])
    assert few.sim.selection.max_agents == 8
    with pytest.raises(ConfigError, match=r"set sim\.compat to gpudrive too"):
        load_config(None, ["backend=gpudrive"])
    with pytest.raises(ConfigError, match=r"holds 64 agents per world; lower sim\.selection\.max_agents \(65\)"):
        load_config(None, ["backend=gpudrive", "sim.compat=gpudrive", "sim.selection.max_agents=65"])
    assert with_backend(load_config(), "gpudrive") == config
    assert with_backend(config, "embedded").sim == config.sim
    with pytest.raises(RunError, match="--backend gpudrive: simulator: horizon is 20, but"):
        with_backend(small(), "gpudrive")


@pytest.mark.parametrize("layout", ["entity", "gpudrive"])
def test_the_cli_trains_and_evaluates_in_gpudrive(make_store, small, gpudrive, in_cache, tmp_path, monkeypatch, layout):
    """The default recipe, also with GPUDrive's own layout, to which rays and danger numbers are added."""
    gpudrive()
    figure = SimpleNamespace(savefig=Path.touch)
    monkeypatch.setattr("gail_cli.gail.figures.curves.curves_figure", lambda folder: figure)
    sees = {"layout": layout, "rays": True, "danger": True}
    settings = config_to_dict(small(total_timesteps=300, sim={"horizon": None}, observation=sees))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    store, folder = make_store(scenes=2, reverse=False), tmp_path / "run"

    def run(*args):
        result = CliRunner().invoke(cli.cli, [str(arg) for arg in args], prog_name="gail-cli")
        assert result.exit_code == 0, result.output
        return result

    common = ("--store", store.path, "--backend", "gpudrive")
    run("train", tmp_path / "config.yaml", "--run", folder, *common, "--total-timesteps", 300)
    config, policy = load_run(folder, "cpu")
    assert (config.backend, config.sim.compat) == ("gpudrive", "gpudrive")
    assert len(list(in_cache.glob("*.json"))) == 2
    run("evaluate", folder, *common, "--rollouts", 1, "--report", tmp_path / "report.json")
    report = json.loads((tmp_path / "report.json").read_text())["splits"]["all"]
    assert report["backend"] == "gpudrive"
    embedded = evaluate(policy, with_backend(config, "embedded"), store, rollouts=1)
    for driver, means in embedded["results"].items():
        assert means == pytest.approx(report["results"][driver], abs=2e-3), driver
    assert embedded["results"]["expert replayed"]["goal"] > 0.9
    assert len(list(in_cache.glob("*.json"))) == 2  # the same files


def test_rollouts_in_gpudrive_have_variants_and_their_experts(make_store, small, gpudrive, in_cache, tmp_path):
    """Off the log, cut, mirrored and stretched, with boxes of GPUDrive's size."""
    gpudrive()
    sections = {"observation": {"layout": "gpudrive", "rays": True}, "augment": {"variants": 4, "recover": 0.5}}
    config = small(**rules(horizon=None), **sections, total_timesteps=300)
    assert config.rollout_sim.box_scale == 0.7
    trainer = Trainer(config, make_store(scenes=2, reverse=False).path, tmp_path / "run")
    trainer.run()
    assert trainer.progress.timesteps >= 300
    assert len(list(in_cache.glob("*.json"))) >= 2


def check(config, store, scenes=None):
    check_backend(config.backend, store, config.sim.selection, scenes)


def test_a_store_that_gpudrive_cannot_hold_is_refused_at_once(make_store, small, gpudrive, tmp_path):
    store, config = make_store(scenes=2, reverse=False), small(**rules(horizon=None))
    check(small(), store)
    with pytest.raises(ImportError, match="GPUDrive is not installed"):
        check(config, store)
    gpudrive()
    check(config, store)
    crowded = small(**rules(horizon=None, selection={"max_agents": 1}))
    check(crowded, store)
    short = tmp_path / "short"
    extract([str(SAMPLE)], str(short), ExtractConfig(store.space, steps=50), options=ExtractOptions(workers=1), limit=1)
    with pytest.raises(
        RunError, match="its vehicles know reverse, GPUDrive's do not; extract with --compat gpudrive, or"
    ):
        check(config, make_store(scenes=2))
    with pytest.raises(RunError, match="its scenes have 50 steps, GPUDrive's 91; extract with --steps 91"):
        check(config, DemoStore(short))


def test_the_refusal_names_scenes_and_reasons(make_store, small, gpudrive, monkeypatch):
    gpudrive()
    store = make_store(scenes=5, reverse=False)
    monkeypatch.setattr("gail_cli.pipeline.export.gpudrive_cache.MAX_SEGMENTS", 10)
    with pytest.raises(RunError) as error:
        check(small(**rules(horizon=None)), store)
    ids = store.scene_ids()
    assert f"GPUDrive cannot hold 5 of its scenes: {ids[0]!r} (" in str(error.value)
    assert str(error.value).endswith(", ...; extract without them, or drive embedded (--backend embedded)")
    assert ids[2] in str(error.value)
    assert ids[3] not in str(error.value)
    with pytest.raises(RunError, match=f"cannot hold 1 of its scenes: {ids[4]!r}"):
        check(small(**rules(horizon=None)), store, [4])


def test_without_gpudrive_the_cli_says_how_to_get_it(make_store, tmp_path):
    args = [
        "train",
        "--store",
        str(make_store(scenes=2, reverse=False).path),
        "--run",
        str(tmp_path / "run"),
        "--backend",
        "gpudrive",
    ]
    result = CliRunner().invoke(cli.cli, args)
    assert result.exit_code == 1
    assert "GPUDrive is not installed" in result.stderr
    assert "https://github.com/Emerge-Lab/gpudrive" in result.stderr
    assert not (tmp_path / "run").exists()


def test_embedded_is_what_runs_have_unless_told(make_store, small):
    worlds = make_worlds(SMALL[:1])
    assert isinstance(make_backend("embedded", SimConfig(), ObservationConfig(), worlds, CLASSIC), Env)


# --- experts beside agents that lag --------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("mode", ["all_non_trivial", "all_valid", "all_objects"])
def test_experts_see_what_the_simulator_shows_with_its_rules(mode, alone):
    """Neighbours a step late; whoever comes to a goal is gone a step later; 91 steps to go."""
    space = ActionSpace.create("classic", reverse=False)
    selection = Selection(mode)
    found = records(*SMALL, space=space, selection=selection)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig.gpudrive("ignore", selection), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
def test_experts_see_what_the_simulator_shows_of_real_logs_with_its_rules(alone):
    space = ActionSpace.create("classic", reverse=False)
    found = records(*real_scenes()[4:7], space=space)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig.gpudrive("ignore"), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("ends", [False, True])
def test_experts_see_neighbours_late_where_they_are(lag, ends, alone):
    """Each switch by itself: the lag, and logs that end episodes or do not."""
    space = ActionSpace.create("classic", reverse=False)
    follower = car(30, 4, speed=8, steps=91, role=Role.MARK_AS_EXPERT, valid=np.arange(91) < 60)
    found = records(scene(car(speed=6, steps=91), follower, name="two"), space=space)
    assert_experts_see_what_the_simulator_shows(found, space, SimConfig(replay_lag=lag, end_with_log=ends), alone=alone)


@pytest.mark.parametrize("alone", [False, True])
def test_experts_that_start_at_their_goals_act_once(alone):
    """And are gone in the step after, also for those that follow their log."""
    space = ActionSpace.create("classic", reverse=False)
    agents = [
        car(speed=6, steps=91),
        car(10, 3, speed=0.1, steps=91),
        car(20, 3, speed=0.1, steps=91, role=Role.MARK_AS_EXPERT),
    ]
    found = records(scene(*agents, name="three"), space=space)
    rules = SimConfig.gpudrive("ignore")
    assert_experts_see_what_the_simulator_shows(found, space, rules, alone=alone)
    experts = make_experts(found, rules)
    assert experts.transitions[:, 0].bincount().tolist()[1] == 1
    assert experts.present[1:, :4].tolist() == [[True, True, False, False]] * 2
