import io
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from click.testing import CliRunner

from gail_cli import cli
from gail_cli.gail.commands.console import stop_on_signal
from gail_cli.gail.config.load import config_to_dict
from gail_cli.gail.learning.ppo import cloning_loss
from gail_cli.gail.learning.run import CHECKPOINT, CLONED
from gail_cli.pipeline.readers.protos import sim_agents_submission_pb2
from gail_cli.pipeline.store.store import DemoStore

SAMPLE = Path(__file__).parents[1] / "data" / "sample"


def run(*args):
    return CliRunner().invoke(cli.cli, [str(arg) for arg in args], prog_name="gail-cli")


def progress_of(folder):
    """How far the checkpoint of a run is."""
    return torch.load(folder / CHECKPOINT, weights_only=True)["progress"]


def refusal(result, code=1):
    """The one sentence on stderr of a command that could not be done."""
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    return line


@pytest.fixture
def config(small, tmp_path):
    """A file with the settings of a short run."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_to_dict(small(total_timesteps=1))))
    return path


@pytest.fixture(scope="module")
def finished(make_store, small, tmp_path_factory):
    """A run, its store, and what the command printed."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(small(total_timesteps=5000))))
    store = make_store(scenes=2).path
    printed = run(
        "train", folder / "config.yaml", "--store", store, "--run", folder / "run",
        "--total-timesteps", 400, "--seed", 3, "--set", "reward.environment=1", "--set", "bc.steps=5",
    )  # fmt: skip
    return folder / "run", store, printed


@pytest.fixture
def no_curves(monkeypatch):
    """The picture of a run is an empty file, where it is not what is tested."""
    figure = SimpleNamespace(savefig=Path.touch)
    monkeypatch.setattr("gail_cli.gail.figures.curves.curves_figure", lambda folder: figure)


# train


def test_training(finished):
    folder, _, printed = finished
    assert printed.exit_code == 0
    assert f"see {folder}/curves.png" in printed.stdout
    assert {CHECKPOINT, "config.yaml", "curves.png"} <= {path.name for path in folder.iterdir()}
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    chosen = settings["total_timesteps"], settings["seed"], settings["reward"]["environment"], settings["bc"]["steps"]
    assert chosen == (400, 3, 1, 5)
    assert settings["policy"]["hidden"] == 16  # from the file
    cloning, *rollouts = printed.stderr.splitlines()
    assert cloning.startswith("cloning: step 5, loss ")
    progress = progress_of(folder)
    assert len(rollouts) == progress["iteration"] > 0
    assert rollouts[-1].startswith(f"{progress['timesteps']:,} steps: steps/s ")
    assert progress["timesteps"] >= 400


@pytest.mark.usefixtures("no_curves")
def test_a_run_can_go_on(finished, config, make_store, tmp_path):
    """Only when asked; with nothing left to do it ends at once."""
    command = ["train", config, "--store", make_store(scenes=2).path, "--run", tmp_path / "run"]
    assert run(*command).exit_code == 0
    assert refusal(run(*command)).endswith("there is a run already; add --resume to go on, or name another folder")
    done = progress_of(tmp_path / "run")
    assert run(*command, "--resume").stderr == ""
    assert run(*command, "--resume", "--total-timesteps", done["timesteps"] + 1).exit_code == 0
    went_on = progress_of(tmp_path / "run")
    assert went_on["iteration"] == done["iteration"] + 1


@pytest.mark.usefixtures("no_curves")
def test_what_a_run_goes_on_with_is_told(finished, tmp_path):
    """A line for each setting that was changed, on stderr; another algorithm is refused."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    more = ["train", "--run", folder, "--resume", "--set", "ppo.gamma=0.5"]
    told = run(*more)
    assert told.exit_code == 0
    assert told.stderr.splitlines()[0] == "From here on ppo.gamma=0.5 (before: 0.98)."
    assert "it began with algorithm=bc+gail, not ppo" in refusal(run(*more, "--algorithm", "ppo"))


def test_the_algorithm_is_chosen_once(config, make_store, tmp_path):
    for flag in ("--use-gail", "--no-use-gail"):
        args = ["train", config, "--store", make_store(scenes=2).path, "--run", tmp_path / "run", "--algorithm", "ppo"]
        told = run(*args, flag)
        assert told.exit_code == 2
        assert "--algorithm and --use-gail both choose the algorithm; leave out one of the two." in told.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("no_curves")
def test_a_run_goes_on_with_its_stores_and_its_settings(config, make_store, tmp_path):
    """When nothing is named but the run."""
    stores = [make_store(scenes=2).path, make_store().path]
    begun = run("train", config, *itertools.chain(*(("--store", path) for path in stores)), "--run", tmp_path / "run")
    assert begun.exit_code == 0
    done = progress_of(tmp_path / "run")
    more = run("train", "--run", tmp_path / "run", "--resume", "--total-timesteps", done["timesteps"] + 1)
    assert more.exit_code == 0
    assert progress_of(tmp_path / "run")["iteration"] == done["iteration"] + 1
    known = json.loads((tmp_path / "run" / "environment.json").read_text())["stores"]
    assert known == [str(path) for path in stores]


@pytest.mark.usefixtures("no_curves")
def test_stores_may_be_named_in_the_configuration(config, make_store, tmp_path):
    stores = [str(make_store(scenes=2).path)]
    settings = yaml.safe_load(config.read_text())
    settings["data"]["stores"] = stores
    config.write_text(yaml.safe_dump(settings))
    assert run("train", config, "--run", tmp_path / "run").exit_code == 0
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["stores"] == stores


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "no demo store is named; name one with --store, or in data.stores"),
        (["--store", Path(__file__).parent], "there is no demo store here"),
        (["--set", "data.stores=[/missing.zarr]"], "/missing.zarr"),
    ],
)
def test_a_run_needs_a_store(tmp_path, options, told):
    assert told in refusal(run("train", "--run", tmp_path / "run", *options))


@pytest.mark.parametrize(("algorithm", "cloned", "rollouts"), [("bc", True, 0), ("ppo", False, 1)])
def test_each_algorithm_tells_how_far_it_is(config, make_store, tmp_path, algorithm, cloned, rollouts):
    """Without a discriminator there is nothing to tell of one."""
    command = ["train", config, "--store", make_store(scenes=2).path, "--run", tmp_path / "run"]
    printed = run(*command, "--set", f"algorithm={algorithm}")
    assert printed.exit_code == 0
    lines = printed.stderr.splitlines()
    assert [line.startswith("cloning: ") for line in lines] == [True] * cloned + [False] * rollouts
    assert "D expert" not in printed.stderr
    assert (tmp_path / "run" / "curves.png").exists()


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("ppo: {gama: 0.9}", [], "config.yaml: unknown key ppo.gama; did you mean ppo.gamma?"),
        ("ppo: [", [], "config.yaml: is no valid YAML ("),
        ("seed: much", [], "config.yaml: seed is 'much'; it must be a whole number"),
        ("", ["--set", "reward.from=gail"], "unknown key reward.from; did you mean reward.form?"),
        ("", ["--set", "reward"], "--set reward: must look like section.key=value"),
        ("", ["--set", "ppo.entropy=.nan"], "ppo.entropy_coef is nan; it must be a finite number"),
        ("", ["--set", "seed=-1"], "seed is -1; it must not be negative"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_sentence(make_store, tmp_path, text, options, told):
    (tmp_path / "config.yaml").write_text(text)
    store = make_store(scenes=2).path
    result = run("train", tmp_path / "config.yaml", "--store", store, "--run", tmp_path / "run", *options)
    assert told in refusal(result, code=2)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("data.split=test", "0 scene(s) in the split test, but the run wants some"),
        ("data.agents=vru", "no demos of pedestrians and cyclists, but the run wants to learn from them"),
        ("sim.selection.max_controlled=0", "has a demo, may be controlled and passes the filter; check sim"),
        ("data.dynamics=bicycle", "dynamics classic, but the run wants bicycle; set classic in the run's"),
    ],
)
def test_a_store_that_does_not_fit_is_one_sentence(make_store, tmp_path, setting, told):
    result = run("train", "--store", make_store(scenes=2).path, "--run", tmp_path / "run", "--set", setting)
    assert told in refusal(result)


def test_folders_without_what_they_should_hold(config, finished, tmp_path):
    (tmp_path / "empty").mkdir()
    told = refusal(run("train", config, "--store", tmp_path / "empty", "--run", tmp_path / "run"))
    assert "there is no demo store here; make one with `gail-cli extract-demos" in told
    told = refusal(run("evaluate", tmp_path / "empty", "--store", finished[1]))
    assert told == f"Error: run {tmp_path / 'empty'}: config.yaml is missing; make a run with `gail-cli train`"
    told = refusal(run("evaluate", finished[0], "--store", tmp_path / "empty"))
    assert "there is no demo store here" in told


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["train"], "Missing option '--run'"),
        (["train", "--store", "/missing", "--run", "r"], "'/missing' does not exist"),
        (["train", "/missing.yaml", "--store", "/", "--run", "r"], "File '/missing.yaml' does not exist"),
        (["train", "--store", "/", "--run", "r", "--device", "gpu"], "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["train", "--store", "/", "--run", "r", "--total-timesteps", "-1"], "-1 is not in the range x>=0"),
        (["train", "--store", "/", "--run", __file__], "is a file"),
        (["evaluate", "/missing", "--store", "/"], "Directory '/missing' does not exist"),
        (["evaluate", "/", "--store", "/", "--box-scale", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_wrong_usage_is_exit_code_2(args, told):
    result = run(*args)
    assert result.exit_code == 2
    assert told in result.stderr.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there(finished, config, tmp_path):
    folder, store, _ = finished
    told = "Error: device cuda: no CUDA device is there, or torch is a CPU build; use --device cpu"
    training = ["train", config, "--store", store, "--run", tmp_path / "run", "--device", "cuda"]
    for command in (training, ["evaluate", folder, "--store", store, "--device", "cuda"]):
        assert refusal(run(*command)) == told


def test_ctrl_c_may_come_while_a_line_is_written(monkeypatch, capfd):
    """Python's streams cannot be written to by a signal that interrupts them."""

    class Interrupted(io.RawIOBase):
        def writable(self):
            return True

        def write(self, data):
            os.kill(os.getpid(), signal.SIGINT)
            return len(data)

    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Interrupted())))
    with stop_on_signal() as stop:
        print("a line of progress", file=sys.stderr, flush=True)
        assert stop()
    monkeypatch.undo()
    assert capfd.readouterr().err == "Stopping after this step; once more to stop at once.\n"


@contextmanager
def interrupted_at_the_first_line():
    """Send SIGINT when there is something on the stderr of this process; what there is in the end."""
    lines, kept = [], os.dup(2)
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def listen():
        with open(reading) as told:
            lines.append(told.readline())
            os.kill(os.getpid(), signal.SIGINT)
            lines.extend(told)

    listener = threading.Thread(target=listen)
    listener.start()
    try:
        with open(2, "w", buffering=1, closefd=False) as stderr, redirect_stderr(stderr):
            yield lines
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        listener.join()


@pytest.mark.usefixtures("no_curves")
def test_ctrl_c_ends_with_a_checkpoint_to_go_on_from(config, make_store, tmp_path, monkeypatch):
    """At the first line of progress; then the same command goes on."""
    folder = tmp_path / "run"
    args = ["train", config, "--store", make_store(scenes=2).path, "--run", folder, "--set", "bc.steps=0"]
    monkeypatch.setattr(sys, "argv", ["gail-cli", *map(str, args), "--total-timesteps", str(10**9)])
    with interrupted_at_the_first_line() as lines, pytest.raises(SystemExit) as ended:
        cli.main()
    assert " steps: steps/s " in lines[0]
    assert ended.value.code == cli.INTERRUPTED
    assert "Stopping after this step; once more to stop at once.\n" in lines
    assert lines[-1] == "Interrupted: the same command with --resume goes on from here.\n"
    saved = progress_of(folder)
    assert saved["iteration"] == sum(" steps: steps/s " in line for line in lines) > 0
    assert run(*args, "--resume", "--total-timesteps", saved["timesteps"] + 1).exit_code == 0
    assert progress_of(folder)["iteration"] == saved["iteration"] + 1


def interrupting(monkeypatch, calls):
    """Send SIGINT in the given cloning steps."""
    count = itertools.count(1)

    def interrupted(*args):
        if next(count) in calls:
            signal.raise_signal(signal.SIGINT)
        return cloning_loss(*args)

    monkeypatch.setattr("gail_cli.gail.learning.cloning.cloning_loss", interrupted)


@pytest.mark.filterwarnings("error::UserWarning")
def test_ctrl_c_before_anything_is_reported(config, make_store, tmp_path, monkeypatch):
    """The handlers of before are back afterwards."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    interrupting(monkeypatch, calls={3})
    result = run("train", config, "--store", make_store(scenes=2).path, "--run", tmp_path / "run")
    assert result.exit_code == cli.INTERRUPTED
    assert result.stderr == "Interrupted: the same command with --resume goes on from here.\n"
    assert progress_of(tmp_path / "run")["cloned"] == 3
    assert (tmp_path / "run" / "curves.png").exists()
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_ctrl_c_twice_stops_at_once_with_a_checkpoint(config, make_store, tmp_path, monkeypatch):
    monkeypatch.setattr("gail_cli.gail.commands.train.stop_on_signal", never_asked(stop_on_signal))
    interrupting(monkeypatch, calls={2, 3})
    result = run("train", config, "--store", make_store(scenes=2).path, "--run", tmp_path / "run")
    assert result.exit_code != 0
    assert progress_of(tmp_path / "run")["cloned"] == 2


def never_asked(stop_on_signal):
    """As if the step that a first signal waits for took for ever."""

    @contextmanager
    def patched():
        with stop_on_signal():
            yield lambda: False

    return patched


# evaluate


def test_evaluation(finished, tmp_path):
    folder, store, _ = finished
    report, picture, figure = tmp_path / "new" / "report.json", tmp_path / "scene.png", tmp_path / "figure.png"
    options = ["--report", report, "--picture", picture, "--figure", figure, "--box-scale", 1, "--rollouts", 2]
    result = run("evaluate", folder, "--store", store, *options)
    assert result.exit_code == 0
    assert "agents in 2 scenes" in result.stdout
    assert "boxes x1, off the road at the touch of an edge" in result.stdout
    told = json.loads(report.read_text())
    assert (told["run"], told["store"], list(told["splits"])) == (str(folder), str(store), ["all"])
    told = told["splits"]["all"]
    assert (told["scenes"], told["box_scale"], told["rollouts"]) == (2, 1.0, 2)
    drivers = ["policy", "behaviour cloning", "expert replayed", "constant velocity", "random"]
    assert list(told["results"]) == drivers
    for driver, means in told["results"].items():
        row, *_ = [line for line in result.stdout.splitlines() if line.strip().startswith(driver)]
        shares = [f"{100 * means[name]:.1f}" for name in ("goal", "collision", "off_road", "safe_success")]
        assert row.split(driver)[1].replace("*", " ").split()[:7:2] == shares
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert result.stderr.splitlines() == ["evaluating: 2 of 2 scenes"]


def test_evaluation_is_repeatable_and_can_draw_actions(finished, make_store, tmp_path):
    folder, store = finished[0], make_store(scenes=1).path

    def results(*options):
        common = ["--store", store, "--report", tmp_path / "r.json", "--rollouts", 1]
        assert run("evaluate", folder, *common, *options).exit_code == 0
        return json.loads((tmp_path / "r.json").read_text())["splits"]["all"]["results"]

    first, again, other, drawn = results(), results(), results("--seed", 1), results("--sampled")
    assert first == again
    assert other["policy"]["ade"] == first["policy"]["ade"]
    assert other["random"]["ade"] != first["random"]["ade"]
    assert drawn["policy"]["ade"] != first["policy"]["ade"]


def test_evaluation_of_splits(finished, tmp_path):
    """Each split that has scenes is told of apart, or those that are asked for."""
    folder, *_ = finished
    options = ["--split", "0.5,0.25,0.25", "--workers", 1, "--limit", 5]
    split = run("extract-demos", SAMPLE, "--store", tmp_path / "store", *options)
    assert split.exit_code == 0
    there = {kind: len(DemoStore(tmp_path / "store").scenes_of(kind)) for kind in ("train", "validation", "test")}
    assert there["train"] > 0 < there["validation"]
    for options, kinds in (([], [kind for kind, n in there.items() if n]), (["--split", "validation"], ["validation"])):
        command = ["--store", tmp_path / "store", "--report", tmp_path / "r.json", "--rollouts", 1, *options]
        result = run("evaluate", folder, *command)
        told = json.loads((tmp_path / "r.json").read_text())["splits"]
        assert {kind: part["scenes"] for kind, part in told.items()} == {kind: there[kind] for kind in kinds}
        words = {kind: f"agents in {there[kind]} {kind} scene{'s' * (there[kind] != 1)}" for kind in kinds}
        assert all(words[kind] in result.stdout for kind in kinds), result.stdout


def test_the_clone_of_another_run_and_of_none(finished, make_store, tmp_path):
    folder, store = finished[0], make_store(scenes=1).path
    other = tmp_path / "run"
    shutil.copytree(folder, other)
    (other / CLONED).unlink()
    result = run("evaluate", other, "--store", store, "--rollouts", 1)
    assert "behaviour cloning   " not in result.stdout
    assert f"run {other} keeps no policy from behaviour cloning, so that anchor is left out" in result.stdout
    result = run("evaluate", other, "--store", store, "--rollouts", 1, "--bc", folder)
    assert "behaviour cloning   " in result.stdout


def test_submissions(finished, make_store, tmp_path):
    folder, store = finished[0], make_store(scenes=1).path
    file = tmp_path / "rollouts.binproto"
    options = ["--rollouts", 1, "--submission", file]
    info = ["--submission-info", "unique_method_name=a=b", "--submission-source", SAMPLE]
    result = run("evaluate", folder, "--store", store, *options, *info)
    assert result.exit_code == 0
    assert f"submission: {file}\n" in result.stdout
    assert f"--submission-source is not needed: store {store} keeps the heights of its scenes\n" in result.stdout
    message = sim_agents_submission_pb2.SimAgentsChallengeSubmission.FromString(file.read_bytes())
    assert message.unique_method_name == "a=b"
    assert [len(scene.joint_scenes) for scene in message.scenario_rollouts] == [32]
    told = refusal(run("evaluate", folder, "--store", store, *options, "--submission-info", "athors=me"))
    assert "a submission has no field 'athors'; did you mean authors?" in told
    result = run("evaluate", folder, "--store", store, *options, "--submission-info", "authors")
    assert (result.exit_code, "must have the form KEY=VALUE" in result.stderr) == (2, True)


def test_what_cannot_be_evaluated_is_one_sentence(finished, make_store, tmp_path):
    folder, store, _ = finished
    other = make_store("bicycle", "continuous", scenes=2).path
    told = refusal(run("evaluate", folder, "--store", other))
    assert told == f"Error: store {other}: its actions are not those of the run; extract with the same settings"
    result = run("evaluate", folder, "--store", store, "--picture", tmp_path / "p.png", "--scene", "nowhere")
    assert result.exit_code == 1
    assert "there is no scene 'nowhere'; it has " in result.stderr.splitlines()[-1]
