"""The comparison of recipes: its folds, how seeds become one, its tables and figures, and a run of it."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from benchmarks import imitation
from benchmarks.folds import folds_by_log, write_folds
from benchmarks.imitation import Plan, chosen_recipes
from benchmarks.imitation_figures import forest, learning_curves
from benchmarks.imitation_jobs import Job, OtherSettingsError, train
from benchmarks.imitation_tables import Column, blind_table, differences, over_seeds, table, together
from benchmarks.recipes import CLONE, COMPARISONS, DEFAULT, WITHOUT_GOAL, clone_settings, scenes_of
from gail_cli.gail.config.load import load_config
from gail_cli.gail.evaluation.evaluate import pooled
from gail_cli.gail.evaluation.summary import DISTRIBUTIONS, SceneScores
from gail_cli.pipeline.store.store import DemoStore

TOLD = {"backend": "embedded", "box_scale": 0.7, "goal_radius_m": 2.0, "deterministic": True, "rollouts": 1, "seed": 0}
COLUMNS = (Column("goal", "goal"), Column("ade", "ADE (m)", 2), Column("goal", "off log: goal", off_log=True))


# Folds


def test_every_scene_is_held_out_once(make_store, tmp_path):
    folds = [DemoStore(path) for path in write_folds(make_store(), tmp_path, 2).values()]
    ids = make_store().scene_ids()
    tests = [{ids[k] for k in store.scenes_of("test")} for store in folds]
    trains = [{ids[k] for k in store.scenes_of("train")} for store in folds]
    assert [len(t) for t in tests] == [3, 2]
    assert set.union(*tests) == set(ids)
    assert all(train == set(ids) - test for train, test in zip(trains, tests, strict=True))
    again = write_folds(make_store(), tmp_path, 2, [1])  # it is there already
    assert [DemoStore(path).scene_ids() for path in again.values()] == [ids]
    (whole,) = write_folds(make_store(), tmp_path / "one", 1).values()
    assert len(DemoStore(whole).scenes_of("train")) == 5


@given(st.lists(st.integers(0, 12), min_size=1, max_size=40), st.integers(1, 6))
def test_scenes_of_a_log_are_on_one_side(logs, folds):
    """Whatever the logs; and no fold has more scenes than another by more than the largest log has."""
    first = {log: logs.index(log) for log in logs}
    group = np.array([first[log] for log in logs])
    fold = folds_by_log(group, folds)
    assert all(len(set(fold[group == log])) == 1 for log in group)
    sizes = np.bincount(fold, minlength=folds)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= np.bincount(group).max()


def test_folds_by_hand():
    """The log of three scenes comes first, then that of two, then single ones, each where fewest are."""
    assert folds_by_log(np.array([0, 1, 1, 3, 4, 3, 3]), 2).tolist() == [1, 1, 1, 0, 0, 0, 0]


# Tables


def report(goals, counts=(2.0, 4.0), off=None):
    """An evaluation of two scenes, in which these shares of their agents reached the goal."""
    pairs = np.stack([np.multiply(goals, counts), counts], axis=1)
    metrics = {name: pairs for name in ("goal", "safe_success", "ade", "realism_2025")}
    steps = {name: np.ones((2, bins)) for name, (_, _, bins) in DISTRIBUTIONS.items()}
    histograms = {who: steps for who in ("policy", "random", "log")}
    scores = SceneScores(["a", "b"], {"policy": metrics, "random": metrics}, histograms)
    made = {**TOLD, "per_scene": scores.to_json()}
    if off is not None:
        scores = SceneScores(["a", "b"], {"policy": {"goal": np.stack([np.multiply(off, counts), counts], axis=1)}}, {})
        made["off_log"] = {"variants": 2, "per_scene": scores.to_json()}
    return made


def test_seeds_count_alike():
    """Shares of 1 and 0.5 with one seed, 0 and 0.25 with another: (2 + 2 + 0 + 1) of 12 agents; off the log
    (0 + 4 + 0 + 0) of 12."""
    seeds = [report([1.0, 0.5], off=[0.0, 1.0]), report([0.0, 0.25], off=[0.0, 0.0])]
    found = pooled([over_seeds(seeds)])
    assert found["results"]["policy"]["goal"] == pytest.approx(5 / 12)
    assert found["off_log"]["results"]["policy"]["goal"] == pytest.approx(4 / 12)
    assert pooled([over_seeds(seeds[:1])])["results"]["policy"]["goal"] == pytest.approx(4 / 6)
    assert together({(0, 0): seeds[0], (0, 1): seeds[1]})["results"] == found["results"]


def test_the_table_has_a_row_a_recipe_and_an_anchor():
    results = {name: pooled([report([share, share], off=[0.5, 0.5])]) for name, share in (("a", 0.25), ("b", 0.75))}
    results["b"]["seconds"] = {"wall": 90.0, "cpu": 150.0}
    head, _, *rows = table(results, COLUMNS, results["a"]).splitlines()
    assert head == "| recipe | goal | ADE (m) | off log: goal | minutes | CPU minutes |"
    assert rows == [
        "| a | 25.0 [25.0, 25.0] | 0.25 [0.25, 0.25] | 50.0 [50.0, 50.0] |  |  |",
        "| b | 75.0 [75.0, 75.0] | 0.75 [0.75, 0.75] | 50.0 [50.0, 50.0] | 1.5 | 2.5 |",
        "| random | 25.0 [25.0, 25.0] | 0.25 [0.25, 0.25] |  |  |  |",
    ]


def test_recipes_are_compared_in_the_same_scenes():
    """A quarter more of the agents in either scene: no interval, whatever the scenes drawn, though both differ. Off the
    log a half more in one scene and a half less in the other: by 2 and 4 agents that is -1/6, and nothing is sure."""
    results = {
        "a": pooled([report([0.75, 0.5], off=[0.5, 0.0])]),
        "b": pooled([report([0.5, 0.25], off=[0.0, 0.5])]),
    }
    *_, row = differences(results, COLUMNS, {"a": "b"}).splitlines()
    assert row == "| a - b | +25.0* [25.0, 25.0] | +0.25* [0.25, 0.25] | -16.7 [-50.0, 50.0] |"
    other = {**results["b"], "per_scene": {**results["b"]["per_scene"], "scenes": ["a", "c"]}}
    with pytest.raises(ValueError, match="of other scenes"):
        differences({"a": results["a"], "b": other}, COLUMNS, {"a": "b"})


def test_what_recipes_gain_by_seeing():
    gain, nothing = {"mean": 0.02, "interval": [0.01, 0.03]}, {"mean": 0.0, "interval": [0.0, 0.0]}
    metrics = {name: gain for name in ("drawn_safe_success", "drawn_collision")}
    none = {name: nothing for name in ("drawn_safe_success", "drawn_off_road")}
    result = {"blind": {"differences": {"without others": metrics, "without roads": none}}}
    *_, row = blind_table({"a": result}).splitlines()
    assert row == "| a | +2.0* [1.0, 3.0] | +2.0* [1.0, 3.0] | +0.0 [0.0, 0.0] | +0.0 [0.0, 0.0] |"


def test_figures_show_means_intervals_and_what_is_sure():
    results = {name: pooled([report(goals)]) for name, goals in (("a", [0.75, 0.5]), ("b", [0.5, 0.25]))}
    (axis,) = forest(results, COLUMNS[:1], {"a": "b"}).axes
    assert [np.asarray(line.get_xdata()).tolist() for line in axis.lines[1:]] == [
        pytest.approx([25.0, 25.0]),
        pytest.approx([25.0]),
    ]
    (axis,) = learning_curves({"a": {12: results["b"], 46: results["a"]}}, COLUMNS[:1], "scenes", {}).axes
    x, y = axis.lines[0].get_data()
    assert (x.tolist(), y.tolist()) == ([12, 46], pytest.approx([100 * 2 / 6, 100 * 3.5 / 6]))


# Recipes


@pytest.mark.parametrize("what", COMPARISONS)
def test_all_settings_are_settings(what):
    for name, settings in COMPARISONS[what].recipes.items():
        for begin in ((), WITHOUT_GOAL):
            assert load_config(None, (*begin, *settings)) is not None, name
    assert COMPARISONS[what].against in COMPARISONS[what].recipes


def test_without_goal_nobody_sees_one():
    config = load_config(None, WITHOUT_GOAL)
    assert (config.observation.goal, config.observation.time_left, config.events.goal) == ("none", False, 0)


def test_names_tell_the_number_of_scenes():
    assert scenes_of("default, 46 scenes") == ("default", 46)
    assert scenes_of("gail from nothing") is None


@pytest.mark.parametrize(
    ("settings", "clone"),
    [
        ((), ("algorithm=bc",)),
        (("reward.gail=0", "masking.rollouts=true", "ppo.lr=1"), ("algorithm=bc",)),
        (("observation.rays=false", "augment.recover=0", "augment.recover=0.5"),
         ("algorithm=bc", "augment.recover=0.5", "observation.rays=false")),
        (("algorithm=gail", "observation.rays=false"), None),
        (("algorithm=ppo",), None),
    ],
)  # fmt: skip
def test_what_a_clone_depends_on(settings, clone):
    assert clone_settings(settings) == clone


def plan_of(tmp_path, recipes, **options):
    given = {"without_goal": False, "common": (), "seeds": (0,), "steps": (), **options}
    return Plan(recipes, out=tmp_path, stores={0: tmp_path / "fold0of1"}, **given)


def test_recipes_that_clone_alike_share_a_clone(tmp_path):
    names = [CLONE, DEFAULT, "no rays", "no discriminator"]
    ablations = chosen_recipes(COMPARISONS["ablations"], ";".join(names), None)
    for without_goal in (False, True):
        jobs = plan_of(tmp_path, ablations, without_goal=without_goal).jobs()
        by_name = {job.recipe: job for job in jobs if job.recipe in names}
        blind = [job for job in jobs if job.recipe not in names]
        assert [job.clones_only for job in jobs] == [True, True, False, False, False]
        assert by_name[DEFAULT].clone.run == by_name["no discriminator"].clone.run == by_name[CLONE].run
        assert [by_name["no rays"].clone.run] == [job.run for job in blind]
        assert len({job.run for job in jobs}) == len(jobs)
    scenes = plan_of(tmp_path, COMPARISONS["scenes"]).jobs()
    assert [job.clones_only for job in scenes] == [True] * 4 + [False] * 4
    assert [job.clone.recipe for job in scenes[:4]] == [f"clone, {n} scenes" for n in (12, 46, 92, 138)]
    assert [a.clone.run for a in scenes[4:]] == [b.run for b in scenes[:4]]


def test_runs_with_other_settings_are_not_taken(tmp_path):
    job = Job("default", (), ("bc.steps=1",), 0, 0, tmp_path, tmp_path)
    job.run.mkdir(parents=True)
    (job.run / "settings.json").write_text(json.dumps(["seed=0"]))
    with pytest.raises(OtherSettingsError, match="made with other settings"):
        train(job, 1)


# A run of it

TINY = (
    "bc.steps=2", "bc.batch_size=32", "policy.hidden=16", "policy.entity_hidden=8", "discriminator.network.hidden=16",
    "discriminator.network.entity_hidden=8", "discriminator.updates=1", "discriminator.batch_size=64",
    "worlds.num_worlds=1", "sim.horizon=20", "observation.partners=4", "observation.road_segments=8",
    "ppo.update_epochs=1", "augment.variants=1", "device=cpu", "ppo.warmup_iterations=0",
)  # fmt: skip


class Here:
    """Runs what a pool of processes would, in this one."""

    def __init__(self, *args, **options):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, work, *args):
        return Done(work(*args))


class Done:
    def __init__(self, result):
        self._result = result

    def result(self):
        return self._result


def test_a_comparison_from_end_to_end(make_store, tmp_path, monkeypatch):
    monkeypatch.setattr(imitation, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(imitation, "as_completed", list)
    monkeypatch.setattr(imitation.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(imitation.os, "environ", {})
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: Path(file).touch())  # drawing takes most of the time
    options = [f"--set={setting}" for setting in TINY]
    arguments = [
        str(make_store(scenes=3).path), str(tmp_path / "out"), "--folds=3", "--only-folds=1", "--recipes=default",
        "--total-timesteps=300", "--at=100", "--rollouts=1", "--blind", *options,
    ]  # fmt: skip
    first = CliRunner().invoke(imitation.main, arguments, catch_exceptions=False)
    assert first.exit_code == 0, first.output
    out = tmp_path / "out"
    names = {path.name for path in out.iterdir()}
    assert names >= {
        "recipes.md",
        "recipes.json",
        "recipes-differences.png",
        "recipes-steps.png",
        "recipes-minutes.png",
    }
    assert {path.name for path in (out / "runs").iterdir()} == {"bc-fold1of3-seed0", "default-fold1of3-seed0"}
    text = (out / "recipes.md").read_text()
    assert [row.split(" | ")[0].strip("| ") for row in text.splitlines() if row and "---" not in row] == [
        "recipe", "clone", "default", "expert replayed", "constant velocity", "random",
        "difference", "default - clone", "gained by seeing", "clone", "default",
        "recipe", "default, 100 steps", f"default, {last_step(out):,} steps",
    ]  # fmt: skip
    run = out / "runs" / "default-fold1of3-seed0"
    spent = [json.loads((folder / "seconds.json").read_text()) for folder in (run / "at-100", run)]
    assert all(a["cpu"] < b["cpu"] for a, b in pairwise(spent))
    done = {path: path.stat().st_mtime_ns for path in out.rglob("evaluation.json")}
    assert len(done) == 3
    assert CliRunner().invoke(imitation.main, arguments).output.endswith(first.output[-200:])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("evaluation.json")} == done


def last_step(out: Path):
    lines = (out / "runs" / "default-fold1of3-seed0" / "metrics.jsonl").read_text().splitlines()
    return json.loads(lines[-1])["step"]
