import json
from pathlib import Path

import pytest
import torch

from gail_cli.gail.config.load import ConfigError, config_from_dict
from gail_cli.gail.config.schema import TrainConfig
from gail_cli.gail.learning.run import CHECKPOINT, CLONED, CONFIG, ENVIRONMENT, RunError, RunFolder
from gail_cli.gail.networks.policy import Policy
from gail_cli.sim.actions import ActionSpace

CPU = torch.device("cpu")
SPACE = ActionSpace.create("classic")
SMALL = {"observation": {"partners": 1, "road_segments": 1}, "policy": {"entity_hidden": 4, "hidden": 8}}
STORES = ["/data/store"]


def fields(error):
    return error.value.where, error.value.what, error.value.fix


@pytest.fixture
def run(tmp_path):
    """A run that was saved once, with an untrained policy."""
    folder, config = RunFolder(tmp_path / "run"), config_from_dict(SMALL)
    policy = Policy(config.observation, SPACE, config.policy)
    folder.describe(config, SPACE, STORES, [])
    folder.save({"networks": {"policy": policy.state_dict()}, "step": 3})
    return folder


def test_what_is_described_is_read(run):
    assert run.config() == config_from_dict(SMALL)
    assert run.space() == SPACE
    assert run.stores() == STORES
    assert run.checkpoint(CPU)["step"] == 3
    assert run.cloned(CPU) is None
    run.write(CLONED, {"x": torch.ones(2)})
    assert run.cloned(CPU)["x"].tolist() == [1.0, 1.0]
    assert {file.name for file in run.path.iterdir()} == {CONFIG, ENVIRONMENT, CHECKPOINT, CLONED}


def test_a_new_run_needs_a_folder_of_its_own(run, tmp_path):
    with pytest.raises(RunError) as error:
        run.begin(STORES)
    where, fix = f"run {run.path}", "add --resume to go on, or name another folder"
    assert fields(error) == (where, "there is a run already", fix)
    fresh = RunFolder(tmp_path / "store" / "deep" / "run")
    fresh.begin(STORES)
    with pytest.raises(RunError) as error:
        fresh.begin([str(tmp_path / "store")])
    assert fields(error) == (f"run {fresh.path}", "it would lie inside the store", "name another folder")
    assert not fresh.path.exists()


def test_a_run_goes_on_from_what_it_was(run):
    """With settings that may change; those that cost nothing are not worth mentioning."""
    earlier = [{"step": 1, "changed": {"seed": [1, 0]}}]
    run.describe(run.config(), SPACE, STORES, earlier)
    now = config_from_dict({**SMALL, "ppo": {"gamma": 0.5}, "total_timesteps": 7})
    past = run.restore(now, STORES, CPU)
    assert (past.checkpoint["step"], past.changed, past.resumed) == (3, {"ppo.gamma": (0.98, 0.5)}, earlier)
    for config, stores, what, fix in (
        (now, ["/b", "/c"], "it learned from /data/store, not /b, /c", "resume with that store"),
        (TrainConfig(algorithm="bc"), STORES, "it began with algorithm=bc+gail, not bc", "resume with that, or train"),
    ):
        with pytest.raises(RunError) as error:
            run.restore(config, stores, CPU)
        assert fields(error)[:2] == (f"run {run.path}", what)
        assert fields(error)[2].startswith(fix)
    with pytest.raises(RunError, match="there is no checkpoint to go on from; leave --resume out to begin"):
        RunFolder(run.path / "other").restore(now, STORES, CPU)


def test_what_a_run_of_an_earlier_version_did_not_write_is_not_missed(run):
    """Which stores, and what it was resumed with."""
    (run.path / ENVIRONMENT).write_text(json.dumps({"action_space": SPACE.to_json()}))
    assert run.space() == SPACE
    with pytest.raises(RunError, match=r"environment.json is damaged; train again in another folder"):
        run.stores()
    (run.path / ENVIRONMENT).write_text(json.dumps({"stores": STORES}))
    assert run.stores() == STORES
    assert run.restore(run.config(), STORES, CPU).resumed == []


@pytest.mark.parametrize(
    ("name", "read"),
    [
        (CONFIG, RunFolder.config),
        (ENVIRONMENT, RunFolder.space),
        (ENVIRONMENT, RunFolder.stores),
        (CHECKPOINT, lambda run: run.checkpoint(CPU)),
        (CLONED, lambda run: run.cloned(CPU)),
    ],
)
@pytest.mark.parametrize("content", [b"{]", b"\xff\xfe", b"\x00"])
def test_damaged_files_are_named(run, name, read, content):
    (run.path / name).write_bytes(content)
    with pytest.raises(RunError) as error:
        read(run)
    assert fields(error) == (f"run {run.path}", f"{name} is damaged", "train again in another folder")


def test_settings_that_nobody_knows_are_not_damage(run):
    (run.path / CONFIG).write_text("colour: red")
    with pytest.raises(ConfigError, match="unknown key colour"):
        run.config()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        (CONFIG, lambda run: run.describe(TrainConfig(), SPACE, [], [])),
        (ENVIRONMENT, lambda run: run.describe(TrainConfig(), SPACE, [], [])),
        (CHECKPOINT, lambda run: run.save({})),
    ],
)
def test_files_are_written_whole_or_not_at_all(run, name, write, monkeypatch):
    """When the disk is full half-way, what was there before stays."""
    before = (run.path / name).read_bytes()
    write_text = Path.write_text

    def half(file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", lambda state, file: half(file))
    monkeypatch.setattr(
        Path, "write_text", lambda file, text: half(file) if name in str(file) else write_text(file, text)
    )
    with pytest.raises(RunError) as error, run.writing():
        write(run)
    assert fields(error)[1:] == ("cannot be written (No space left on device)", "choose another folder")
    assert (run.path / name).read_bytes() == before
