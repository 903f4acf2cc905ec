"""Films and pictures as files, and the command that writes them."""

import json

import imageio_ffmpeg
import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from matplotlib.colors import to_rgb
from PIL import Image

from gail_cli import cli
from gail_cli.gail.config.load import config_to_dict
from gail_cli.gail.figures.episode_figure import EpisodeFigure
from gail_cli.gail.figures.map import ASPHALT, PAPER, STOP_SIGN
from gail_cli.gail.figures.render import render
from gail_cli.gail.learning.run import RunError
from gail_cli.pipeline.store.store import sealed
from tests.episodes import crash, pixel
from tests.scenes import STEPS

# files


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_every_kind_of_picture_can_be_written(tmp_path, suffix):
    file = tmp_path / f"a{suffix}"
    render(crash(), file, dpi=20)
    assert file.read_bytes()[:4] == {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xm"}[suffix]
    assert list(tmp_path.iterdir()) == [file]


def test_a_picture_is_as_large_as_dpi_says(tmp_path):
    render(crash(), tmp_path / "a.png", dpi=60)
    width, height = EpisodeFigure(crash(), 60).figure.get_size_inches()
    assert Image.open(tmp_path / "a.png").size == (int(width * 60), int(height * 60))


@pytest.mark.parametrize(("fps", "lengths"), [(10, [100] * 10), (30, [30, 40, 30] * 3 + [30])])
def test_a_gif_has_a_frame_a_step_in_real_time(tmp_path, fps, lengths):
    told = []
    render(crash(), tmp_path / "a.gif", fps, 30, lambda done, total: told.append((done, total)))
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == STEPS
        assert gif.info["loop"] == 0
        durations = []
        for k in range(gif.n_frames):
            gif.seek(k)
            durations.append(gif.info["duration"])
    assert durations == [*lengths, 1500]
    assert told == [(k + 1, STEPS) for k in range(STEPS)]


def test_a_gif_shows_the_frames(tmp_path):
    """Colours almost exactly, of what is large as the paper or small as the middle of a stop sign."""
    render(crash(), tmp_path / "a.gif", dpi=60)
    figure = EpisodeFigure(crash(), 60)
    with Image.open(tmp_path / "a.gif") as gif:
        for step in (0, 6, 10):
            gif.seek(step)
            shown, frame = np.asarray(gif.convert("RGB"), np.float64), figure.frame(step)
            assert np.abs(shown - frame).mean() < 1
            for colour in (PAPER, ASPHALT):
                flat = (frame == np.round(255 * np.array(to_rgb(colour)))).all(axis=-1)
                assert flat.any()
                assert np.abs(shown[flat] - frame[flat]).max() <= 4
            assert pixel(figure.axes, shown, -5, 5) == pytest.approx(to_rgb(STOP_SIGN["mfc"]), abs=0.02)


def test_an_mp4_has_a_frame_a_step_in_real_time(tmp_path):
    """Its sizes are even, as H.264 wants them, whatever those of the picture are; its frames are those drawn."""
    dpi = next(d for d in range(50, 80) if all(n % 2 for n in EpisodeFigure(crash(), d).frame(0).shape[:2]))
    render(crash(), tmp_path / "a.mp4", dpi=dpi)
    assert imageio_ffmpeg.count_frames_and_secs(tmp_path / "a.mp4") == (STEPS, pytest.approx(STEPS / 10))
    reader = imageio_ffmpeg.read_frames(tmp_path / "a.mp4")
    about = next(reader)
    figure = EpisodeFigure(crash(), dpi)
    drawn = figure.frame(0)
    assert about["size"] == (drawn.shape[1] - 1, drawn.shape[0] - 1)
    assert about["fps"] == 10
    film = [np.frombuffer(data, np.uint8).reshape(*about["size"][::-1], 3) for data in reader]
    for step in (0, 10):
        assert np.abs(film[step] - figure.frame(step)[:-1, :-1].astype(float)).mean() < 3
    assert np.abs(film[0] - film[10].astype(float)).mean() > 0.5


@pytest.mark.parametrize("what", ["fails", "is absent"])
def test_an_encoder_that_does_not_work_leaves_the_old_file(tmp_path, monkeypatch, what):
    def absent():
        raise RuntimeError("No ffmpeg exe could be found.")

    program = tmp_path / "an encoder"
    program.write_text('#!/bin/sh\nfor file; do :; done\necho half > "$file"\necho no space left >&2\nexit 1\n')
    program.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", absent if what == "is absent" else lambda: str(program))
    film = tmp_path / "a.mp4"
    film.write_bytes(b"before")
    told = "there is no ffmpeg for this machine" if what == "is absent" else r"ffmpeg failed \(no space left\)"
    with pytest.raises(RunError, match=told):
        render(crash(), film, dpi=30)
    assert film.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"a.mp4", "an encoder"}


# the command


def run(*args):
    return CliRunner().invoke(cli.cli, [str(arg) for arg in args], prog_name="gail-cli")


@pytest.fixture(scope="module")
def finished(make_store, small, tmp_path_factory):
    """A run of an instant, with a horizon of 20 steps."""
    folder = tmp_path_factory.mktemp("render")
    (folder / "config.yaml").write_text(yaml.safe_dump(config_to_dict(small(total_timesteps=1))))
    store = make_store(scenes=2).path
    assert run("train", folder / "config.yaml", "--store", store, "--run", folder / "run").exit_code == 0
    return folder / "run"


def test_a_picture_of_the_first_scene(make_store, tmp_path):
    store = make_store(scenes=2)
    file = tmp_path / "new" / "a.png"
    result = run("simulate", store.path, "--out", file, "--dpi", 20)
    assert (result.exit_code, result.stderr) == (0, "")
    (stored,) = store.read([0])
    agents = len(stored.demos.agent)
    start = f"{file}: scene {stored.scene.id}, expert replayed: {agents} of {agents} at the goal, "
    assert result.stdout.startswith(start)
    assert file.exists()


def test_a_scene_has_an_id_and_an_index(make_store, tmp_path):
    store = make_store(scenes=2)
    told = []
    for named in (store.scene_ids()[1], 1):
        command = "simulate", store.path, "--out", tmp_path / "a.png", "--scene", named, "--policy", "log"
        told.append(run(*command, "--dpi", 20).stdout)
    assert told[0] == told[1]
    assert f"scene {store.scene_ids()[1]}, log: " in told[0]


def test_a_run_drives_by_its_own_rules(make_store, finished, tmp_path):
    """20 steps long, as configured."""
    file = tmp_path / "a.gif"
    result = run("simulate", make_store(scenes=2).path, "--out", file, "--run", finished, "--dpi", 20)
    assert ", policy: " in result.stdout
    assert result.stderr.splitlines()[-1] == "drawing: 21 of 21 frames"
    with Image.open(file) as gif:
        assert gif.n_frames == 21


def test_options_are_taken(make_store, finished, tmp_path):
    """Each of them makes another picture; the same ones make the same."""

    def picture(*options):
        command = "simulate", make_store(scenes=2).path, "--run", finished, "--out", tmp_path / "a.png", "--dpi", 20
        assert run(*command, *options).exit_code == 0
        return (tmp_path / "a.png").read_bytes()

    sampled, random, rules = ["--sampled"], ["--policy", "random"], ["--box-scale", 9, "--everyone"]
    choices = [], sampled, [*sampled, "--seed", 1], random, [*random, "--seed", 1], rules[:2], rules[2:]
    pictures = [picture(*options) for options in choices]
    assert len(set(pictures)) == len(pictures)
    assert picture(*sampled) == pictures[1]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 2, "Missing option '--out'"),
        (["--out", "{tmp}/a.avi"], 2, "a.avi: films end in .mp4 or .gif, pictures in .png, .pdf or .svg."),
        (["--out", "{tmp}"], 2, ": films end in"),
        (["--out", "{tmp}/file/a.gif"], 2, "/file: cannot be made (File exists)."),
        (["--out", "{tmp}/a.gif", "--scene", "nowhere"], 1, "there is no scene 'nowhere'; it has "),
        (["--out", "{tmp}/a.gif", "--scene", "2"], 1, "there is no scene '2'; it has "),
        (["--out", "{tmp}/a.gif", "--policy", "me"], 2, "'me' is not one of 'expert', 'log', 'constant-velocity', "),
        (["--out", "{tmp}/a.gif", "--policy", "policy"], 2, "--policy policy needs the run that it comes from: --run"),
        (["--out", "{tmp}/a.gif", "--run", "{tmp}"], 1, "config.yaml is missing; make a run with `gail-cli train`"),
        (["--out", "{tmp}/a.gif", "--box-scale", "nan"], 1, "box_scale is nan; it must be a finite number"),
        (["--out", "{tmp}/a.gif", "--fps", "0"], 2, "0 is not in the range 1<=x<=50"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(make_store, tmp_path, options, code, message):
    (tmp_path / "file").write_text("")
    result = run("simulate", make_store(scenes=2).path, *(option.format(tmp=tmp_path) for option in options))
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.splitlines()[-1].startswith("Error: ")
    assert message in result.stderr.splitlines()[-1]
    assert not (tmp_path / "a.gif").exists()


def test_a_folder_that_is_no_store(tmp_path):
    result = run("simulate", tmp_path, "--out", tmp_path / "a.gif")
    assert (result.exit_code, len(result.stderr.splitlines())) == (1, 1)
    assert "there is no demo store here" in result.stderr


def test_a_store_without_scenes(make_store, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    attributes = make_store(scenes=2).attributes
    root = sealed({**attributes, "totals": {**attributes["totals"], "scenes": 0}})
    (empty / "zarr.json").write_text(json.dumps({"attributes": root}))
    result = run("simulate", empty, "--out", tmp_path / "a.gif")
    assert (result.exit_code, result.stderr) == (1, f"Error: store {empty}: it has no scene; extract some\n")
