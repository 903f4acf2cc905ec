"""What latent codes mean: how everyone drives by each alone."""

import json
import math

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from runs import trained
from scenes import car, scene
from toys import CONFIG, EDGE, SPACE, Toy, ToyStore, free

from gail_cli.cli import cli
from gail_cli.gail.evaluation.codes import drive_codes, gaps
from gail_cli.gail.evaluation.tables import print_codes
from gail_cli.gail.figures.codes_figure import codes_figure, shares
from gail_cli.gail.learning.run import RunError

PACE = (0.4, 0.6)
"""Metres in a step, by code; logs go 0.5."""


class Coded(Toy):
    """Drives straight on, at a pace that its code says."""

    def __init__(self):
        super().__init__(looks=False)
        self.codes, self.manager = 2, None

    def with_code(self, observations, code):
        return torch.cat([observations, code[:, None].float()], dim=1)

    def act(self, seen, deterministic=False):
        actions = torch.zeros(len(seen), SPACE.components)
        actions[:, 0] = torch.tensor(PACE)[seen[:, -1].long()]
        return actions, actions[:, 0]


def test_gaps_by_hand():
    """A car 4 m long and 2 m wide at the origin, heading along y."""
    up = math.pi / 2
    state = torch.tensor(
        [
            [0.0, 0.0, up],
            [1.9, 20.0, up + 0.9],  # ahead, at the side of the corridor, turned by less than 60 degrees
            [0.0, 12.0, up],  # nearer, but not there
            [0.0, 11.0, up],  # nearer, but in another world
            [2.1, 10.0, up],  # nearer, but beside
            [0.0, 9.0, -up],  # nearer, but comes towards it
            [0.0, -8.0, up],  # behind
        ]
    )
    state = torch.cat([state, torch.zeros(7, 2)], dim=1)
    size = torch.tensor([[4.0, 2.0, 1.5]] * 7)
    size[1, 0] = 6.0
    world = torch.tensor([0, 0, 0, 1, 0, 0, 0])
    there = torch.tensor([True, True, False, True, True, True, True])
    found = gaps(state, size, world, there, torch.tensor([0, 3, 6]))
    # 20 - (4 + 6) / 2; alone in its world; 8 - 4 to the first
    np.testing.assert_allclose(found, [15.0, np.nan, 4.0], atol=1e-5)
    state[1, 1] = 56.0
    assert gaps(state, size, world, there, torch.tensor([0])).isnan().all()


def test_codes_are_told_apart_by_hand():
    """One car that covers 5 m in 10 steps by its log, and one that stands 30 m ahead of it."""
    follower = scene(car(speed=5.0), car(30.0), segments=[EDGE], name="one")
    section, styles = drive_codes(Coded(), CONFIG, ToyStore(follower, free("two")))
    results = section["results"]
    assert list(results) == list(styles) == ["policy", "code 0", "code 1", "log"]
    assert (section["scenes"], section["agents"]) == (2, len(styles["log"].faster))
    assert results["code 0"]["speed_share"] == pytest.approx(0.8, abs=1e-3)
    assert results["code 1"]["speed_share"] == pytest.approx(1.2, abs=1e-3)
    assert results["log"]["speed_share"] == 1.0
    assert results["log"]["goal"] is None
    assert results["code 1"]["goal"] == 1.0
    for name, pace in (("code 0", 4.0), ("code 1", 6.0)):
        known = ~np.isnan(styles[name].faster[0])
        np.testing.assert_allclose(styles[name].faster[0][known], pace - 5, atol=1e-3)
        ahead = (pace - 5) * 0.1 * np.arange(1, known.sum() + 1)
        np.testing.assert_allclose(styles[name].ahead[0][known], ahead, atol=1e-2)
        gained = styles[name].acceleration[0]
        assert gained[1] == pytest.approx((pace - 5) / 0.1, abs=0.1)
        np.testing.assert_allclose(gained[2 : known.sum()], 0, atol=0.01)
        step = np.arange(known.sum() + 1)
        np.testing.assert_allclose(styles[name].gap[0][step], 30 - 4 - 0.1 * pace * step, atol=0.02)
    assert not np.nan_to_num(styles["log"].ahead).any()
    (apart,) = section["between"].values()
    assert apart["speed_share"]["mean"] == pytest.approx(0.4, abs=2e-3)
    low, high = apart["speed_share"]["interval"]
    assert 0.39 < low <= high < 0.41
    assert list(section["between"]) == ["code 1"]


def test_who_is_off_the_road_is_not_known_without_edges():
    section, _ = drive_codes(Coded(), CONFIG, ToyStore(scene(car(speed=5.0))))
    assert section["results"]["code 0"]["off_road"] is None
    assert section["intervals"]["code 0"]["goal"] is None


def test_shares_by_hand():
    """What lies beyond the bins is in the outermost; NaN is nowhere."""
    values = np.array([[-9.0, 0.5, 1.5], [1.6, 9.0, np.nan]], np.float32)
    np.testing.assert_allclose(shares(values, np.array([0.0, 1.0, 2.0])), [0.4, 0.6])
    assert shares(values[:0], np.array([0.0, 1.0])).tolist() == [0.0]


def test_the_figure_and_the_table_show_all(capsys):
    found = drive_codes(Coded(), CONFIG, ToyStore(free("one"), free("two")))
    figure = codes_figure({"validation": found})
    (part,) = figure.subfigs
    *panels, table = part.axes
    assert len(panels) == 4
    lines = {line.get_label(): line.get_ydata() for line in panels[-1].lines}
    assert lines["code 0"][-1] == pytest.approx(-1.0, abs=0.02)
    assert lines["code 1"][-1] == pytest.approx(1.0, abs=0.02)
    cells = {key: value.get_text().get_text() for key, value in table.tables[0].get_celld().items()}
    assert [cells[row, 0][:4] for row in (2, 3, 4)] == ["80.0", "120.", "100."]
    print_codes(found[0])
    shown = capsys.readouterr().out
    assert "by one latent code all the time: 2 agents in 2 scenes" in shown
    assert any(line.strip().startswith("code 1") and "120.0" in line for line in shown.splitlines())
    assert any(line.strip().startswith("code 1") and "+40.0 ±" in line and "*" in line for line in shown.splitlines())


def test_evaluate_draws_codes(make_store, small, tmp_path):
    store, report, figure = make_store(scenes=2), tmp_path / "report.json", tmp_path / "codes.png"
    trained(small(total_timesteps=1, latent={"codes": 2, "every": 5}), store, tmp_path / "run")
    command = ["evaluate", tmp_path / "run", "--store", store.path, "--rollouts", 1, "--report", report]
    done = CliRunner().invoke(cli, [str(x) for x in [*command, "--codes", figure]])
    assert done.exit_code == 0, done.output
    assert figure.read_bytes().startswith(b"\x89PNG")
    (split,) = json.loads(report.read_text())["splits"].values()
    assert split["codes"]["results"].keys() == {"policy", "code 0", "code 1", "log"}
    assert split["codes"]["results"]["policy"]["goal"] == split["results"]["policy"]["goal"]
    assert split["codes"]["agents"] == split["agents"]


def test_a_run_without_codes_is_refused():
    toy = Toy(looks=False)
    with pytest.raises(RunError, match="the run has no latent codes; train with"):
        drive_codes(toy, CONFIG, ToyStore(free("one")))
