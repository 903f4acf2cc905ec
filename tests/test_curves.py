"""The curves of a run: what they ask for is what runs write."""

from pathlib import Path

import pytest

from gail_cli.gail.figures.curves import PANELS, curves_figure
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.extract.extract import ExtractOptions, extract
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from tests.runs import metrics, trained


@pytest.fixture(scope="module")
def runs(make_store, small, tmp_path_factory):
    """Folders of tiny runs; the first one's store has scenes that are held out, the others' has none."""
    folder = tmp_path_factory.mktemp("runs")
    halves = ExtractConfig(ActionSpace.create("classic"), split=(0.5, 0.5, 0.0))
    sample = str(Path(__file__).parents[1] / "data" / "sample")
    extract([sample], str(folder / "store"), halves, options=ExtractOptions(workers=1), limit=5)
    common = {"total_timesteps": 1, "sim": {"horizon": 6}, "ppo": {"warmup_iterations": 0}}
    mlagents = {"compat": "mlagents", "mlagents": {"use_vail": True}}
    configs = {
        "bc+gail": small(algorithm="bc+gail", **common),
        "ppo": small(algorithm="ppo", **common),
        "mlagents": small(algorithm="gail", discriminator=mlagents, **common),
    }
    stores = {"bc+gail": DemoStore(folder / "store")}
    for name, config in configs.items():
        trained(config, stores.get(name, make_store()), folder / name)
    return {name: folder / name for name in configs}


def written(run):
    return {name for line in metrics(run) for name in line}


def drawn(run):
    """By title of a panel, the names in its legend."""
    return {axes.get_title(): axes.get_legend_handles_labels()[1] for axes in curves_figure(run).axes}


def test_no_panel_asks_for_what_no_run_writes(runs):
    known = set.union(*map(written, runs.values()))
    assert {name for panel in PANELS for name in panel.metrics} <= known


def test_a_run_with_held_out_scenes_has_every_curve(runs):
    """The reward of the environment beside that of the discriminator, and the accuracy that the gate is asked with."""
    curves = drawn(runs["bc+gail"])
    assert curves["reward per step"] == ["gail", "environment"]
    assert curves["discriminator accuracy"] == ["expert accuracy", "policy accuracy", "held out accuracy"]
    for panel in PANELS:
        assert len(curves[panel.title]) == len(panel.metrics)


def test_what_a_run_does_not_write_is_left_out(runs):
    curves = drawn(runs["ppo"])
    assert curves["reward per step"] == ["environment"]
    assert curves["discriminator accuracy"] == curves["warm start: -log pi(expert action)"] == []
    assert drawn(runs["mlagents"])["discriminator accuracy"] == ["expert accuracy", "policy accuracy"]
