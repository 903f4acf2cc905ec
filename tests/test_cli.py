import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from strategies import gpudrive_scene, womd_message

from gail_cli import cli
from gail_cli.pipeline.readers.tfrecord import write_records
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import Dynamics

ROOT = Path(__file__).parents[1]
WOMD = ROOT.parent / "shared" / "womd"
needs_real = pytest.mark.skipif(not WOMD.exists(), reason=f"{WOMD} (Waymo data, not part of the project) is absent")


def run(*args):
    return CliRunner().invoke(cli.cli, [str(arg) for arg in args], prog_name="gail-cli")


def extract(*sources, store, **options):
    flags = [x for name, value in options.items() for x in (f"--{name}", value)]
    return run("extract-demos", *sources, "--store", store, "--workers", 1, *flags)


def errors(result):
    """Lines on stderr but those of progress."""
    progress = ("extracting: ", "validating: ", "merging: ", "splitting: ", "exporting: ")
    return [line for line in result.stderr.splitlines() if not line.startswith(progress)]


def write_scene(path, name="a", **changes):
    path.write_text(json.dumps(gpudrive_scene() | {"scenario_id": name} | changes))


@pytest.fixture
def good(tmp_path):
    write_scene(tmp_path / "good.json")
    return tmp_path / "good.json"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_scene(folder / "a.json")
    assert extract(folder / "a.json", store=folder / "store").exit_code == 0
    return folder / "store"


# help and usage


HEAVY = ["dask", "distributed", "matplotlib", "numpy", "rich", "tensorboard", "torch", "warp", "zarr"]
"""Packages that take long to import."""


def test_what_computes_nothing_imports_nothing_heavy(store, tmp_path):
    """The help, a configuration error, the JSON schema, and what is in a store, in one process."""
    (tmp_path / "run.yaml").write_text("ppo: {update_epochs: 0}")
    commands = [
        ["--help"],
        ["train", str(tmp_path / "run.yaml"), "--run", str(tmp_path / "run")],
        ["schema", "--out", str(tmp_path / "schema.json")],
        ["info", str(store), "--json"],
    ]
    code = (
        "import sys\n"
        "from gail_cli import cli\n"
        f"for command in {commands}:\n"
        "    try: cli.cli(command, standalone_mode=False)\n"
        "    except cli.click.UsageError as error: print(error.format_message())\n"
        f"    print('imported', *({{*{HEAVY}}} & {{*sys.modules}}))\n"
    )
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    found = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("imported")]
    assert [sorted(names) for names in found] == [[], [], [], ["numpy", "zarr"]]
    assert f"{tmp_path}/run.yaml: ppo.update_epochs is 0; it must be positive" in done.stdout
    assert '"transitions"' in done.stdout
    assert time.perf_counter() - begun < 5
    for command in cli.cli.commands:
        assert command in done.stdout


@pytest.mark.parametrize("command", sorted(cli.cli.commands))
def test_every_command_and_option_is_explained(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert all(isinstance(p, click.Argument) or p.help for p in cli.cli.commands[command].params)


def test_choices_are_those_of_the_simulator():
    option = next(p for p in cli.cli.commands["extract-demos"].params if p.name == "dynamics")
    assert list(option.type.choices) == [model.name.lower() for model in Dynamics]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["extract"], "No such command 'extract'"),
        (["extract-demos", "--store", "s"], "Missing argument 'SOURCES...'"),
        (["extract-demos", "a.json"], "Missing option '--store'"),
        (["extract-demos", "a.json", "--store", "s", "--dynamics", "clasic"], "'clasic' is not one of 'classic'"),
        (
            ["extract-demos", "a.json", "--store", "s", "--grid", "fin"],
            "grid 'fin' is unknown for dynamics 'classic'; use",
        ),
        (["extract-demos", "a.json", "--store", "s", "--dynamics", "state"], "use --actions continuous"),
        (["extract-demos", "a.json", "--store", "s", "--workers", "0"], "0 is not in the range x>=1"),
        (["extract-demos", "a.json", "--store", "s", "--workers", "2", "--scheduler", "x"], "exclude each other"),
        (["extract-demos", "a.json", "--store", "s", "--overwrite", "--no-resume"], "exclude each other"),
        (["extract-demos", "a.json", "--store", "s", "--split", "0.5,0.5"], "must be three numbers, as in 0.8,0.1,0.1"),
        (["extract-demos", "a.json", "--store", "s", "--split", "0.5,0.5,0.5"], "not negative and add up to 1"),
        (["extract-demos", "a.json", "--store", "s", "--split", "1.5,-0.5,0"], "not negative and add up to 1"),
        (["extract-demos", "a.json", "--store", "s", "--max-replay-error", "-1"], "-1 is no distance in m"),
        (["extract-demos", "a.json", "--store", "s", "--max-replay-error", "nan"], "nan is no distance in m"),
        (
            ["extract-demos", "a.json", "--store", "s", "--max-jump", "far"],
            "far is no distance in m; give a number, or",
        ),
        (["extract-demos", "a.json", "--store", "s", "--split", "nan,nan,nan"], "not negative and add up to 1"),
        (["merge", "/missing", "--store", "s"], "'/missing' does not exist"),
        (["split", "/missing", "--out", "s"], "'/missing' does not exist"),
        (["extract-demos", "a.json", "--store", "s", "--overwite"], "No such option"),
        (["extract-demos", "a.json", "--store", "s", "--report", f"{__file__}/r.json"], "cannot be made"),
        (["extract-demos", "a.json", "--store", "s", "--report", str(ROOT)], "is a folder"),
        (["validate"], "Missing argument 'STORE'"),
        (["validate", "/missing"], "'/missing' does not exist"),
        (["validate", str(ROOT), "--config", "/missing.yaml"], "File '/missing.yaml' does not exist"),
        (["info", "/missing"], "'/missing' does not exist"),
        (["make-scenarios", "x", "--scenes", "0"], "0 is not in the range x>=1"),
    ],
)
def test_wrong_usage_is_exit_code_2(args, told):
    result = run(*args)
    assert result.exit_code == 2
    assert told in result.stderr.splitlines()[-1]
    assert result.stdout == ""


# extract-demos


def test_extraction_tells_what_it_did(good, tmp_path):
    report = tmp_path / "new" / "folder" / "report.json"
    result = extract(good, store=tmp_path / "store", report=report)
    assert result.exit_code == 0
    assert f"{tmp_path / 'store'}: 1 of 1 scenes, 2 demos of moving vehicles, 0 of others, 58 tran" in result.stdout
    assert "100.0% reach their goal" in result.stdout
    assert result.stderr.splitlines() == ["extracting: 0 of 1 scenes", "extracting: 1 of 1 scenes"]
    assert json.loads(report.read_text())["demos"] == {"moving": 2, "vehicles": 2, "vru": 0}


def cut_tfrecord(path):
    write_records(str(path), [womd_message(steps=20).SerializeToString()] * 2)
    path.write_bytes(path.read_bytes()[:-9])


def flipped_tfrecord(path):
    write_records(str(path), [womd_message(steps=20).SerializeToString()] * 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 4] ^= 4
    path.write_bytes(data)


def json_without_key(path):
    data = gpudrive_scene()
    del data["objects"][0]["position"]
    path.write_text(json.dumps(data))


BAD = [
    ("cut.tfrecord", cut_tfrecord, "cut.tfrecord", 2),
    ("flipped.tfrecord", flipped_tfrecord, "flipped.tfrecord", 2),
    ("empty.tfrecord", Path.touch, "empty.tfrecord", 1),
    ("key.json", json_without_key, "'position'", 1),
    ("no.json", lambda path: path.write_text("{ no"), "no.json", 1),
]


@pytest.mark.parametrize(("name", "make", "told", "scenes"), BAD)
def test_good_scenes_beside_a_bad_one_are_extracted(good, tmp_path, name, make, told, scenes):
    make(tmp_path / name)
    result = extract(tmp_path, store=tmp_path / "store", **{"max-replay-error": "none"})  # no car drives as in these
    assert result.exit_code == 1
    (line,) = errors(result)
    assert line.startswith("Error: ")
    assert told in line
    assert name in line
    assert len(DemoStore(tmp_path / "store")) == scenes
    assert run("validate", tmp_path / "store").exit_code == 0


@pytest.mark.parametrize(("name", "make", "told", "scenes"), [bad for bad in BAD if bad[3] == 1])
def test_a_bad_file_alone_makes_no_store(tmp_path, name, make, told, scenes):
    make(tmp_path / name)
    result = extract(tmp_path / name, store=tmp_path / "store")
    assert result.exit_code == 1
    (line,) = errors(result)
    assert line.startswith("Error: ")
    assert told in line
    assert name in line
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("sources", "place", "told"),
    [
        ("empty", "store", "empty holds no scene file"),
        ("missing.json", "store", "missing.json does not exist"),
        ("no*.json", "store", "no*.json holds no scene file"),
        ("good.json", "good.json", "a file is there; choose another place"),
        ("good.json", "good.json/store", "cannot be written (File exists); choose another place"),
        ("good.json", "full", "the folder holds other things than a demo store; choose another place"),
    ],
)
def test_what_cannot_be_started_is_one_sentence(good, tmp_path, sources, place, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").touch()
    result = extract(tmp_path / sources, store=tmp_path / place)
    assert result.exit_code == 1
    (line,) = errors(result)
    assert line.startswith("Error: ")
    assert told in line
    assert result.stdout == ""


def test_a_store_is_replaced_only_when_asked(good, tmp_path):
    assert extract(good, store=tmp_path / "store").exit_code == 0
    result = extract(good, store=tmp_path / "store")
    assert result.exit_code == 1
    assert errors(result) == [f"Error: store {tmp_path / 'store'}: it exists already; add --overwrite to replace it"]
    assert run("extract-demos", good, "--store", tmp_path / "store", "--overwrite").exit_code == 0


def test_scenes_left_out_by_rule_are_counted_and_no_error(good, tmp_path):
    parked = gpudrive_scene()["objects"]
    for car in parked:
        car["position"], car["velocity"] = [car["position"][0]] * 30, [{"x": 0.0, "y": 0.0}] * 30
    write_scene(tmp_path / "parked.json", "parked", objects=parked)
    result = extract(tmp_path, store=tmp_path / "store")
    assert result.exit_code == 0
    assert "1 scene(s) left out: no agent is there for a policy to control" in result.stdout


def test_an_interruption_is_told_with_the_way_on(good, tmp_path, monkeypatch):
    way_on = "Interrupted: what is done is kept, and running the same command{} goes on from there."

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("gail_cli.pipeline.extract.extract.build", interrupt)
        result = extract(good, store=tmp_path / "store")
        again = run("extract-demos", good, "--store", tmp_path / "store", "--overwrite")
    assert result.exit_code == again.exit_code == cli.INTERRUPTED
    assert errors(result) == [way_on.format("")]
    assert errors(again) == [way_on.format(" without --overwrite")]
    assert extract(good, store=tmp_path / "store").exit_code == 0


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ModuleNotFoundError("No module named 'zarr'", name="zarr"), "'zarr' is missing; install"),
        (ImportError("one sentence with the command"), "Error: one sentence with the command"),
        (
            OSError(28, "No space left on device", "/x"),
            "cannot be written (No space left on device); mend that, and the same command goes on",
        ),
    ],
)
def test_foreseen_errors_of_the_machine_are_one_sentence(good, tmp_path, monkeypatch, error, told):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("gail_cli.pipeline.extract.extract.write", fail)
    result = extract(good, store=tmp_path / "store")
    assert result.exit_code == 1
    (line,) = errors(result)
    assert told in line


def test_bugs_keep_their_traceback(good, tmp_path, monkeypatch):
    monkeypatch.setattr("gail_cli.pipeline.extract.extract.write", lambda *_: [].index(1))
    assert isinstance(extract(good, store=tmp_path / "store").exception, ValueError)


# validate and info


def test_a_sound_store(store, tmp_path):
    result = run("validate", store, "--report", tmp_path / "report.json")
    assert (result.exit_code, result.stdout) == (0, f"{store}: sound\n")
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "store": str(store), "sound": True, "problems": [], "warnings": [],
    }  # fmt: skip


def test_problems_are_a_line_each(store, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", store, copy], check=True)
    chunk = copy / "parts/00000/demos/agent/c/0"
    chunk.write_bytes(chunk.read_bytes()[::-1])
    result = run("validate", copy, "--report", tmp_path / "report.json")
    assert result.exit_code == 1
    assert result.stdout == f"{copy}: 2 problem(s)\n"
    assert all(line.startswith(f"store {copy}, part 00000") for line in errors(result))
    report = json.loads((tmp_path / "report.json").read_text())
    assert [sorted(problem) for problem in report["problems"]] == [["fix", "what", "where"]] * 2
    assert not report["sound"]


def test_a_folder_without_a_store_is_a_problem(tmp_path):
    for command in ("validate", "info"):
        result = run(command, tmp_path)
        assert result.exit_code == 1
        (line,) = errors(result)
        assert f"store {tmp_path}: there is no demo store here; make one with `gail-cli extract-demos" in line


def test_info(store):
    result = run("info", store)
    assert result.exit_code == 0
    for told in ("2 vehicle", "classic, discrete, grid fine", "1 stop sign", "58", "bytes per transition", "numpy"):
        assert told in result.stdout
    data = json.loads(run("info", store, "--json").stdout)
    assert (data["scenes"], data["transitions"]) == (1, 58)
    assert data["demos"] == {"moving": 2, "vehicles": 2, "vru": 0}
    assert data["splits"] == {"train": 1, "validation": 0, "test": 0}
    assert data["roles"] == {"sdc": 1, "track_to_predict": 1, "object_of_interest": 1}
    assert data["agents"] == {"vehicle": 2}
    assert data["actions"]["components"][0] == {"name": "acceleration (m/s^2)", "values": 15, "low": -6.0, "high": 6.0}


@needs_real
def test_the_real_scenes(tmp_path):
    """All 17 are taken and sound; GPUDrive's rules control 172 vehicles in the 16 JSON scenes (counted apart)."""
    everything = {"max-replay-error": "none", "max-jump": "none"}
    result = extract(WOMD / "scenes", WOMD / "tfrecord", store=tmp_path / "store", **everything)
    assert result.exit_code == 0
    assert "17 of 17 scenes" in result.stdout
    assert run("validate", tmp_path / "store").exit_code == 0
    data = json.loads(run("info", tmp_path / "store", "--json").stdout)
    *json_scenes, tfrecord = DemoStore(tmp_path / "store").read()
    assert len(tfrecord.scene.light_lane) > 0
    assert sum(record.moving.sum() for record in json_scenes) == 172
    assert data["demos"]["moving"] == 172 + tfrecord.moving.sum()
    assert data["replay"]["goal_rate"] > 0.98
    assert data["replay"]["ade_m"] < 0.06
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    shared = sum(path.stat().st_size for path in files if path.name == "zarr.json")  # by 256 scenes, here by 17
    assert (data["bytes"] - shared) / 17 < 50_000


def test_sigterm_ends_as_ctrl_c_does(good, tmp_path, monkeypatch):
    """A job that is taken off a cluster gives its lock back."""
    monkeypatch.setattr("gail_cli.pipeline.extract.extract.write", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    result = extract(good, store=tmp_path / "store")
    assert result.exit_code == cli.INTERRUPTED
    assert "goes on from there" in result.stderr
    monkeypatch.undo()
    assert extract(good, store=tmp_path / "store").exit_code == 0


# merge, split


def test_a_store_is_packed_split_and_put_together_again(good, tmp_path):
    for k, name in enumerate("bcdef"):  # elsewhere each, as scenes of other logs are
        objects = gpudrive_scene()["objects"]
        for item in objects:
            item["position"] = [{**point, "x": point["x"] + 50.0 * (k + 1)} for point in item["position"]]
        write_scene(tmp_path / f"{name}.json", name, objects=objects)
    made = extract(tmp_path / "*.json", store=tmp_path / "store", split="0.5,0.25,0.25")
    assert made.exit_code == 0, made.output
    assert "6 of 6 scenes" in run("merge", tmp_path / "store", "--store", tmp_path / "store.zip").stdout
    assert run("validate", tmp_path / "store.zip").stdout == f"{tmp_path / 'store.zip'}: sound\n"
    result = run("split", tmp_path / "store.zip", "--out", tmp_path / "parts")
    assert result.exit_code == 0
    found = sorted(p.name for p in (tmp_path / "parts").iterdir())
    assert len(found) == len(result.stdout.splitlines()) > 1
    again = run("merge", *(tmp_path / "parts" / name for name in found), "--store", tmp_path / "again")
    assert again.exit_code == 0
    ids = [sorted(DemoStore(tmp_path / name).scene_ids()) for name in ("again", "store")]
    assert ids[0] == ids[1]
    anew = run("split", tmp_path / "store", "--out", tmp_path / "anew", "--fractions", "0,0,1")
    assert [p.name for p in (tmp_path / "anew").iterdir()] == ["test"], anew.output
    refused = run("merge", tmp_path / "store", "--store", tmp_path / "again")
    assert refused.exit_code == 1
    assert "something is there already; choose another place" in refused.stderr


# make-scenarios


def test_synthetic_scenes_go_all_the_way(tmp_path):
    result = run("make-scenarios", tmp_path / "scenes", "--scenes", 2, "--seed", 3)
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'scenes'}: 2 scene(s) in 1 file(s)\n")
    assert extract(tmp_path / "scenes", store=tmp_path / "store").exit_code == 0
    assert run("validate", tmp_path / "store").exit_code == 0
