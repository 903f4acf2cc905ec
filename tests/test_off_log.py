"""Driving in variants of scenes that begin off the log."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from scenes import scenes_equal
from toys import CONFIG, Toy, ToyStore, far, free

from gail_cli.cli import cli
from gail_cli.gail.evaluation import drivers
from gail_cli.gail.evaluation.evaluate import evaluate, pooled
from gail_cli.gail.evaluation.off_log import off_log_variant
from gail_cli.gail.evaluation.tables import WIDTH, print_evaluation


@pytest.fixture(scope="module")
def store():
    """One scene of three is out of reach for who drives."""
    return ToyStore(free("a"), free("b"), far("c"))


@pytest.fixture(scope="module")
def result(store):
    return evaluate(Toy(looks=False), CONFIG, store, rollouts=1, off_log=2)


def test_variants_of_a_scene_are_one_scene(result):
    """Six drives of which two miss their goal, both in one scene. Of 27 equally likely resamples of three scenes one
    has that scene only, more than the 2.5 % left out at either end; six independent drives would all miss in 0.1 %."""
    section = result["off_log"]
    assert (section["variants"], section["agents"], result["agents"]) == (2, 6, 3)
    assert section["per_scene"]["scenes"] == ["a", "b", "c"]
    assert section["per_scene"]["sums"]["policy"]["goal"] == [[2.0, 2.0], [2.0, 2.0], [0.0, 2.0]]
    assert section["results"]["policy"]["goal"] == pytest.approx(2 / 3)
    assert section["intervals"]["policy"]["goal"] == [0.0, 1.0]


def test_who_drives_there(result):
    """Experts are bound to where their logs begin."""
    section = result["off_log"]
    assert list(section["results"]) == ["policy", "constant velocity", "random"]
    assert list(section["differences"]) == ["constant velocity", "random"]
    assert {"safe_success", "full_safe_success", "drawn_safe_success", "drawn_full_safe_success", "collision",
            "off_road"} <= section["results"]["policy"].keys()  # fmt: skip
    assert json.loads(json.dumps(section)) == section


def test_the_log_itself_is_driven_as_ever(result, store):
    plain = evaluate(Toy(looks=False), CONFIG, store, rollouts=1)
    assert {name: value for name, value in result.items() if name != "off_log"} == plain


def test_rates_need_few_drawn_drives(store, monkeypatch):
    """One by the likeliest actions and three by drawn ones on the log, one and two off it."""
    drives = []
    monkeypatch.setattr(drivers, "drive", lambda *given, drive=drivers.drive: drives.append(1) or drive(*given))
    monkeypatch.setattr("gail_cli.gail.evaluation.evaluate.DRIVES", 2)
    found = evaluate(Toy(looks=False), CONFIG, store, anchors=False, rollouts=3, off_log=1)
    assert (found["rollouts"], found["off_log"]["rollouts"]) == (3, 2)
    assert len(drives) == 1 + 3 + 1 + 2


def test_several_evaluations_are_one(result, store):
    policy = Toy(looks=False)
    folds = [evaluate(policy, CONFIG, store, scenes=s, rollouts=1, off_log=2) for s in ([0, 1], [2])]
    together = pooled(folds)["off_log"]
    assert together["results"]["policy"] == result["off_log"]["results"]["policy"]
    assert together["intervals"]["policy"] == result["off_log"]["intervals"]["policy"]
    assert (together["variants"], together["agents"]) == (2, 6)


def test_variants_are_drawn_by_scene_seed_and_number(make_store):
    store = make_store()
    record, other = store.read([0, 1])
    again = off_log_variant(record, store.space, 3, 1)
    assert scenes_equal(off_log_variant(record, store.space, 3, 1).scene, again.scene)
    for seed, number in ((3, 0), (4, 1)):
        assert not scenes_equal(off_log_variant(record, store.space, seed, number).scene, again.scene)
    renamed = replace(record, scene=replace(record.scene, id=other.scene.id))
    assert not np.array_equal(off_log_variant(renamed, store.space, 3, 1).scene.log, again.scene.log)


def test_everybody_begins_off_the_log(make_store):
    """By 0.5 m along and 0.3 m across, which are standard deviations: 0.58 m (the root of the mean square)."""
    store, offs = make_store(), []
    for record in store.read():
        for k in range(8):
            shown = off_log_variant(record, store.space, 0, k)
            rows = shown.demos.agent[shown.moving]
            rows = rows[shown.scene.valid[rows, 2]]
            first, second, third = (shown.scene.log[rows, step, :2] for step in range(3))
            offs.append(first - (2 * second - third))  # where the log would have been, going on as it does after
    off = np.concatenate(offs)
    assert np.sqrt((off**2).sum(axis=1).mean()) == pytest.approx(np.hypot(0.5, 0.3), rel=0.15)


def test_the_tables_show_it(result):
    screen = Console(width=WIDTH, file=io.StringIO())
    print_evaluation(result, console=screen)
    text = screen.file.getvalue()
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "…" not in text
    assert text.count("begun off the log: 2 variants of each scene, 6 agents, %") == 2
    rows = [line.split() for line in text.split("begun off the log")[1].splitlines() if line.strip().startswith("pol")]
    assert rows[0][1::2] == ["66.7", "0.0", "0.0", "66.7", "66.7"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--variants=3"], "--variants is about --off-log; add that."),
        (["--protocol=wosac", "--off-log"], "are not for --protocol wosac"),
        (["--protocol=wosac", "--blind"], "are not for --protocol wosac"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, words):
    done = CliRunner().invoke(cli, ["evaluate", str(tmp_path), "--store", str(tmp_path), *options])
    assert done.exit_code == 2
    assert words in " ".join(done.output.split())
