"""Intervals over scenes, against the known distribution of means and against a loop over resamples."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gail_cli.gail.evaluation.bootstrap import interval, resampled_sums
from gail_cli.gail.evaluation.summary import (
    DISTRIBUTIONS,
    LOG,
    SceneScores,
    concatenated,
    summarise,
    sums_of_agents,
    sums_of_scenes,
    wasserstein,
)


def test_resampled_sums_are_sums_of_scenes_drawn_with_replacement():
    sums = resampled_sums(np.array([[1.0, 1.0], [10.0, 1.0], [100.0, 1.0]]), 500)
    assert sums.shape == (500, 2)
    assert (sums[:, 1] == 3).all()
    drawn = {tuple(sorted(f"{int(x):03d}")) for x in sums[:, 0]}
    assert len({int(x) for x in sums[:, 0]}) == 10  # all multisets of three
    assert all(sum(map(int, digits)) == 3 for digits in drawn)


def test_resamples_are_the_same_for_all_values_and_of_a_seed():
    a, b = np.arange(8.0)[:, None], np.arange(8.0)[:, None] ** 2
    both = resampled_sums(np.concatenate([a, b], axis=1), 50, seed=3)
    assert np.array_equal(both[:, :1], resampled_sums(a, 50, seed=3))
    assert not np.array_equal(both[:, :1], resampled_sums(a, 50, seed=4))


def test_intervals_cover_as_often_as_they_say():
    """The interval of a mean of 60 normal values holds the true mean about 95 times in 100."""
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        low, high = interval(resampled_sums(rng.normal(2, 1, (60, 1)), 400)[:, 0] / 60)
        hits += low <= 2 <= high
        assert (high - low) / 2 == pytest.approx(1.96 / np.sqrt(60), rel=0.45)
    assert 0.89 <= hits / 300 <= 0.99


def test_intervals_by_hand():
    assert interval(np.arange(0.0, 1001)) == [25, 975]
    assert interval(np.array([np.nan, 3, np.nan])) == [3, 3]
    assert interval(np.array([np.nan])) is None


def test_sums_by_hand():
    values = np.array([1.0, np.nan, 0.0, 4.0])
    assert sums_of_agents(values, np.array([0, 0, 2, 2]), 4).tolist() == [[1, 1], [0, 0], [4, 2], [0, 0]]
    assert sums_of_agents(np.array([True, False]), np.array([1, 1]), 2).tolist() == [[0, 0], [1, 2]]
    assert sums_of_scenes(np.array([0.5, np.nan])).tolist() == [[0.5, 1], [0, 0]]


@given(st.lists(st.integers(0, 19), min_size=1, max_size=30), st.integers(-9, 9))
def test_wasserstein_is_the_mean_distance_of_sorted_values(cells, shift):
    """Of as many values each: the distance between the values of the same rank."""
    first = np.array(cells)
    second = np.clip(first + shift, 0, 19)
    p, q = (np.bincount(x, minlength=20).astype(float) for x in (first, second))
    expected = 0.25 * np.abs(np.sort(first) - np.sort(second)).mean()
    assert wasserstein(p, q, 0.25) == pytest.approx(expected, abs=1e-12)
    assert wasserstein(3 * p, q, 0.25) == pytest.approx(expected, abs=1e-12)


def scores(seed=0, scenes=12, drivers=("policy", "random"), better=0.5):
    rng = np.random.default_rng(seed)
    base = rng.uniform(0, 1, scenes)
    sums = {}
    for k, driver in enumerate(drivers):
        agents = np.arange(1, scenes + 1) % 4
        sums[driver] = {
            "goal": np.stack([agents * (base - k * better), agents], axis=1),
            "ade": np.stack([agents * (base + k * better), agents], axis=1),
            "never": np.zeros((scenes, 2)),
        }
    histograms = {
        driver: {name: rng.integers(0, 9, (scenes, bins)).astype(float) for name, (_, _, bins) in DISTRIBUTIONS.items()}
        for driver in (*drivers, LOG)
    }
    return SceneScores([f"s{seed}-{k}" for k in range(scenes)], sums, histograms)


def test_means_are_over_agents_and_intervals_over_scenes():
    """Against a loop over the same resamples."""
    given_scores = scores()
    found = summarise(given_scores, resamples=200, seed=5)
    sums = given_scores.sums["policy"]["goal"]
    assert found["results"]["policy"]["goal"] == pytest.approx(sums[:, 0].sum() / sums[:, 1].sum())
    rng = np.random.default_rng(5)
    counts = rng.multinomial(12, np.full(12, 1 / 12), 200)
    means = [(count @ sums)[0] / (count @ sums)[1] for count in counts]
    assert found["intervals"]["policy"]["goal"] == pytest.approx(np.percentile(means, [2.5, 97.5]).tolist())
    assert (found["results"]["policy"]["never"], found["intervals"]["policy"]["never"]) == (None, None)


def test_differences_are_paired():
    """The policy is better by 0.5 in every scene: certain, although scenes differ more than that."""
    found = summarise(scores())
    low, high = found["intervals"]["policy"]["goal"]
    assert high - low > 0.3
    for name, difference in (("goal", 0.5), ("ade", -0.5)):
        told = found["differences"]["random"][name]
        assert told["mean"] == pytest.approx(difference)
        assert told["interval"] == pytest.approx([difference] * 2)
    assert set(found["differences"]) == {"random"}


def test_distributions_are_pooled_over_scenes():
    given_scores = scores()
    name, (low, high, bins) = next(iter(DISTRIBUTIONS.items()))
    ours, log = (given_scores.histograms[driver][name].sum(axis=0) for driver in ("policy", LOG))
    found = summarise(given_scores)
    expected = wasserstein(ours, log, (high - low) / bins)
    assert found["results"]["policy"][f"distance_{name}"] == pytest.approx(expected)
    assert "log" not in found["results"]


def test_one_scene_has_no_interval():
    found = summarise(scores(scenes=1))
    assert found["intervals"]["policy"]["goal"] is None
    assert found["differences"]["random"]["goal"]["interval"] is None


def test_folds_are_pooled_and_scores_survive_json():
    folds = [scores(1, 5), scores(2, 7)]
    texts = [json.dumps(fold.to_json()) for fold in folds]
    together = concatenated([SceneScores.from_json(json.loads(text)) for text in texts])
    assert together.scenes == folds[0].scenes + folds[1].scenes
    assert summarise(together) == summarise(concatenated(folds))
    sums = np.concatenate([fold.sums["policy"]["ade"] for fold in folds]).sum(axis=0)
    assert summarise(together)["results"]["policy"]["ade"] == pytest.approx(sums[0] / sums[1])


def test_only_drivers_of_all_parts_are_pooled():
    together = concatenated([scores(1), scores(2, drivers=("policy", "behaviour cloning", "random"))])
    assert list(together.sums) == ["policy", "random"]


def test_what_one_scene_alone_tells_has_no_interval_either():
    """A metric that is defined in one of twelve scenes, and one of which only the anchor has two."""
    given_scores = scores()
    for driver in ("policy", "random"):
        one = np.zeros((12, 2))
        one[: 1 if driver == "policy" else 2] = [1.0, 2.0]
        given_scores.sums[driver]["off_road"] = one
        for table in given_scores.histograms[driver].values():
            table[1:] = 0
    found = summarise(given_scores)
    assert found["results"]["policy"]["off_road"] == 0.5
    assert found["intervals"]["policy"]["off_road"] is None
    assert found["intervals"]["random"]["off_road"] == [0.5, 0.5]
    assert found["differences"]["random"]["off_road"] == {"mean": 0.0, "interval": None}
    assert {found["intervals"]["policy"][f"distance_{name}"] for name in DISTRIBUTIONS} == {None}
    assert found["intervals"]["policy"]["goal"] is not None
