"""``gail-cli doctor``: what works is said to work, and what does not is found out by using it."""

import json
import subprocess
import sys

import gpudrive_standin
import pytest
import torch
from click.testing import CliRunner

from gail_cli import cli
from gail_cli.gail.commands import doctor
from gail_cli.gail.commands.doctor import CHECKS, Check, drive_gpudrive, run_check
from gail_cli.sim.env import Env
from gail_cli.sim.gpudrive import MODULE, GPUDriveEnv


def run(*args):
    return CliRunner().invoke(cli.cli, ["doctor", *args], prog_name="gail-cli")


def check(name):
    (found,) = (one for one in CHECKS if one.name == name)
    return found


def only(monkeypatch, *checks):
    monkeypatch.setattr(doctor, "CHECKS", checks)


def works():
    return "as it should"


def fails():
    raise ValueError("two and two\nare five")


def is_missing():
    raise doctor.Missing("pip install it")


def cannot_be_imported():
    raise ModuleNotFoundError("No module named 'it'")


def test_here_everything_needed_works(monkeypatch, tmp_path):
    monkeypatch.setenv("GAIL_CLI_CACHE", str(tmp_path / "cache"))
    result = run("--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["sound"]
    found = {one["name"]: one for one in report["findings"]}
    assert list(found) == [one.name for one in CHECKS]
    assert {one["state"] for one in found.values() if one["needed"]} <= {"ok", "missing"}
    assert found["torch"]["version"] == torch.__version__
    assert found["Warp"]["remark"].startswith("kernels compile and run on cpu")
    assert found["embedded simulator"]["remark"] == "steps a scene right on the CPU"
    assert found["scene cache"]["remark"] == str(tmp_path / "cache")
    if not torch.cuda.is_available():
        assert found["CUDA"]["state"] == "missing"


def test_one_line_a_thing_and_an_exit_code(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    only(
        monkeypatch,
        Check("good", "click", works, ""),
        Check("absent", "", is_missing, "", needed=False),
        Check("bad extra", "", fails, "mend it", needed=False),
    )
    result = run()
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()[1:]]
    assert lines[0].startswith("good 8.")
    assert lines[0].endswith("ok as it should")
    assert lines[1:] == [
        "absent missing (optional) pip install it",
        "bad extra broken ValueError: two and two are five; mend it",
    ]


@pytest.mark.parametrize("broken", [fails, cannot_be_imported])
def test_what_is_needed_and_does_not_work_fails(monkeypatch, broken):
    only(monkeypatch, Check("good", "", works, ""), Check("bad", "", broken, "install it anew"))
    assert run().exit_code == 1
    result = run("--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert not report["sound"]
    assert [(one["name"], one["state"]) for one in report["findings"]] == [("good", "ok"), ("bad", "broken")]
    assert report["findings"][1]["remark"].endswith("; install it anew")


def test_what_is_optional_and_absent_is_missing():
    told = run_check(Check("it", "it", cannot_be_imported, "pip install it", needed=False))
    assert (told.state, told.remark, told.version, told.fails) == ("missing", "pip install it", "", False)


def test_a_simulator_that_drives_wrong_is_found_out(monkeypatch):
    step = Env.step
    monkeypatch.setattr(Env, "step", lambda self, actions: step(self, actions + 10))
    told = run_check(check("embedded simulator"))
    assert told.fails
    assert "the way of a car in 0.1 s is [0." in told.remark


def test_a_package_that_cannot_be_imported_is_found_out(monkeypatch):
    for module in ("distributed", "s3fs"):
        monkeypatch.setitem(sys.modules, module, None)
    needed, optional = run_check(check("Dask")), run_check(check("s3"))
    assert (needed.state, needed.fails) == ("broken", True)
    assert needed.remark.startswith("ModuleNotFoundError: import of distributed halted")
    assert (optional.state, optional.remark) == ("missing", "for s3:// sources: pip install 'gail-cli[cloud]'")


def test_a_cache_that_cannot_be_written_is_found_out(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GAIL_CLI_CACHE", str(tmp_path / "file" / "below"))
    told = run_check(check("scene cache"))
    assert (told.state, told.fails) == ("broken", False)
    assert told.remark.endswith("set GAIL_CLI_CACHE to a folder that can be written")


# GPUDrive


@pytest.fixture
def standin(monkeypatch):
    module = gpudrive_standin.module()
    monkeypatch.setitem(sys.modules, MODULE, module)
    monkeypatch.setattr(doctor, "find_spec", lambda name: module)
    return module


def test_without_gpudrive_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    told = run_check(check("GPUDrive"))
    assert told.state == "missing"
    assert "https://github.com/Emerge-Lab/gpudrive" in told.remark


def test_gpudrive_is_driven_beside_the_embedded_simulator(standin, monkeypatch):
    drive_gpudrive()
    read = GPUDriveEnv.states
    monkeypatch.setattr(GPUDriveEnv, "states", lambda self: read(self) + 0.1)
    with pytest.raises(ValueError, match="GPUDrive's state is "):
        drive_gpudrive()


@pytest.mark.parametrize(
    ("ends", "state", "remark"),
    [
        (subprocess.CompletedProcess([], 0, "", ""), "ok", "steps a scene as the embedded simulator does"),
        (subprocess.CompletedProcess([], -6, "", "a\nterminate called"), "broken", "code -6 (terminate called)"),
        (subprocess.TimeoutExpired([], 180), "broken", "a step did not end within 180 s"),
    ],
    ids=["works", "aborts", "hangs"],
)
def test_gpudrive_is_tried_in_a_process_of_its_own(standin, monkeypatch, ends, state, remark):
    def spawn(command, **options):
        assert command[:2] == [sys.executable, "-c"]
        exec(command[2])
        assert options["timeout"] == 180
        if isinstance(ends, Exception):
            raise ends
        return ends

    monkeypatch.setattr(doctor.subprocess, "run", spawn)
    told = run_check(check("GPUDrive"))
    assert told.state == state
    assert remark in told.remark
    assert not told.fails


def test_an_old_build_of_gpudrive_is_broken(standin):
    standin.SimManager = type("Old", (), {})
    told = run_check(check("GPUDrive"))
    assert (told.state, told.fails) == ("broken", False)
    assert "is of another version" in told.remark
