"""The comparison of recipes: its folds, how seeds become one, and its table. Its runs are those of the commands."""

import numpy as np
import pytest

from benchmarks.imitation import RECIPES, SETS, Job, differences, over_seeds, table, write_folds
from gail_cli.gail.config.load import load_config
from gail_cli.gail.evaluation.evaluate import pooled
from gail_cli.gail.evaluation.summary import DISTRIBUTIONS, SceneScores
from gail_cli.pipeline.store.store import DemoStore

TOLD = {"backend": "embedded", "box_scale": 0.7, "goal_radius_m": 2.0, "deterministic": True, "rollouts": 1, "seed": 0}


def test_every_scene_is_held_out_once(make_store, tmp_path):
    folds = [DemoStore(path) for path in write_folds(make_store(), tmp_path, 2)]
    ids = make_store().scene_ids()
    tests = [{ids[k] for k in store.scenes_of("test")} for store in folds]
    trains = [{ids[k] for k in store.scenes_of("train")} for store in folds]
    assert [len(t) for t in tests] == [3, 2]
    assert set.union(*tests) == set(ids)
    assert all(train == set(ids) - test for train, test in zip(trains, tests, strict=True))
    again = write_folds(make_store(), tmp_path, 2)  # they are there already
    assert [DemoStore(path).scene_ids() for path in again] == [ids, ids]
    (whole,) = write_folds(make_store(), tmp_path / "one", 1)
    assert len(DemoStore(whole).scenes_of("train")) == 5


def report(goals, counts=(2.0, 4.0)):
    """An evaluation of two scenes, in which these shares of their agents reached the goal."""
    pairs = np.stack([np.multiply(goals, counts), counts], axis=1)
    metrics = {name: pairs for name in ("goal", "safe_success", "ade", "realism_2025")}
    steps = {name: np.ones((2, bins)) for name, (_, _, bins) in DISTRIBUTIONS.items()}
    histograms = {who: steps for who in ("policy", "random", "log")}
    scores = SceneScores(["a", "b"], {"policy": metrics, "random": metrics}, histograms)
    return {**TOLD, "per_scene": scores.to_json()}


def test_seeds_count_alike():
    """Shares of 1 and 0.5 with one seed, 0 and 0.25 with another: (2 + 2 + 0 + 1) of 12 agents."""
    found = pooled([over_seeds([report([1.0, 0.5]), report([0.0, 0.25])])])
    assert found["results"]["policy"]["goal"] == pytest.approx(5 / 12)
    assert pooled([over_seeds([report([1.0, 0.5])])])["results"]["policy"]["goal"] == pytest.approx(4 / 6)


def test_the_table_has_a_row_a_recipe_and_an_anchor():
    results = {name: pooled([report([share, share])]) for name, share in (("bc", 0.25), ("bc+gail", 0.75))}
    head, _, *rows = table(results).splitlines()
    assert head.startswith("| recipe | goal |")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == ["bc", "bc+gail", "random"]
    assert "| 25.0 % (25 to 25) |" in rows[0]
    assert "| 0.75 (0.75 to 0.75) |" in rows[1]
    assert "| 0.750 (0.750 to 0.750) |" in rows[1]


def test_recipes_are_compared_in_the_same_scenes():
    """A quarter more of the agents in either scene: no interval, whatever the scenes drawn, though both differ."""
    results = {name: pooled([report(shares)]) for name, shares in (("a", [0.75, 0.5]), ("b", [0.5, 0.25]))}
    *_, row = differences(results, "b").splitlines()
    assert row == "| a | 25.0 % (25 to 25) | 0.250 (0.250 to 0.250) | 0.25 (0.25 to 0.25) |"


@pytest.mark.parametrize("what", SETS)
def test_all_settings_are_settings(what):
    for name, settings in SETS[what].items():
        assert load_config(None, settings) is not None, name


def test_recipes_that_clone_alike_share_a_clone(tmp_path):
    jobs = {name: Job(name, settings, 1, 0, tmp_path) for name, settings in RECIPES.items()}
    assert jobs["bc+gail"].clone == jobs["vail"].clone == jobs["bc"].run
    assert jobs["bc"].clone is jobs["gail"].clone is jobs["ppo"].clone is None
    assert len({job.run for job in jobs.values()}) == len(jobs)
