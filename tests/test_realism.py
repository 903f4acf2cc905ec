"""WOSAC-style realism: tiny cases by hand, and what any such measure must do."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gail_cli.gail.evaluation.realism import (
    COMPONENTS,
    bin_of,
    event_log_likelihood,
    histogram_log_likelihood,
    likelihoods,
    realism,
    scene_likelihood,
)

BINS = (0.0, 4.0, 4)


def test_weights():
    for year in (2024, 2025):
        assert sum(getattr(component, f"weight_{year}") for component in COMPONENTS) == pytest.approx(1)
    weights = {component.name: (component.weight_2024, component.weight_2025) for component in COMPONENTS}
    assert weights["distance_to_road_edge"] == (0.10, 0.05)
    assert weights["traffic_light"] == (0, 0.05)
    assert weights["collision"] == weights["off_road"] == (0.25, 0.25)


def test_bins():
    values = np.array([-9, -0.1, 0, 0.99, 1, 3.99, 4, 99, np.inf, -np.inf, np.nan])
    assert bin_of(values, *BINS).tolist() == [0, 0, 0, 0, 1, 3, 3, 3, 3, 0, 0]


def test_histogram_likelihoods_by_hand():
    """Agent 0: 3 drawn values in bin 0 and 1 in bin 2; agent 1 was never seen."""
    drawn = np.array([[[0.5, 0.5], [np.nan] * 2], [[0.1, 2.5], [np.nan] * 2]])
    log = np.array([[0.2, 3.0], [1.0, np.nan]])
    found = np.exp(histogram_log_likelihood(log, drawn, BINS))
    np.testing.assert_allclose(found, [[3.1 / 4.4, 0.1 / 4.4], [0.25, np.nan]])
    twice = np.exp(histogram_log_likelihood(log, drawn, BINS, copies=2))
    np.testing.assert_allclose(twice, [[6.1 / 8.4, 0.1 / 8.4], [0.25, np.nan]])


def test_event_likelihoods_by_hand():
    drawn = np.array([[True, False, False], [False, False, False], [True, False, True]])
    found = np.exp(event_log_likelihood(np.array([True, False, True]), drawn))
    np.testing.assert_allclose(found, [2.1 / 3.2, 3.1 / 3.2, 1.1 / 3.2])
    np.testing.assert_allclose(np.exp(event_log_likelihood(np.array([True] * 3), drawn, 2))[0], 4.1 / 6.2)


def test_scenes_are_geometric_means():
    values = np.log([[0.5, 0.125], [0.25, np.nan], [0.9, 0.9]])
    found = scene_likelihood(values, np.array([0, 0, 2]), 3)
    np.testing.assert_allclose(found, [(0.5 * 0.125 * 0.25) ** (1 / 3), np.nan, 0.9])
    np.testing.assert_allclose(scene_likelihood(np.log([0.5, 0.125]), np.array([0, 0]), 1), [0.25])


def test_the_weighted_mean_is_over_what_is_defined():
    found = {component.name: np.array([0.5, 1.0, math.nan]) for component in COMPONENTS}
    found["collision"] = np.array([1.0, math.nan, math.nan])
    np.testing.assert_allclose(realism(found, 2025), [0.625, 1.0, math.nan])


def some_features(seed, agents=6, steps=30):
    """Made-up features of smooth driving."""
    generator = torch.Generator().manual_seed(seed)

    def walk(start, size):
        change = torch.randn(agents, steps, generator=generator) * size
        return start + change.cumsum(dim=1) / steps

    return {
        "linear_speed": walk(8.0, 2.0), "linear_acceleration": walk(0.0, 2.0), "angular_speed": walk(0.0, 0.1),
        "angular_acceleration": walk(0.0, 0.3), "distance_to_nearest_object": walk(9.0, 3.0),
        "time_to_collision": walk(3.0, 1.0), "distance_to_road_edge": walk(-4.0, 1.0),
    }  # fmt: skip


SCENE = np.array([0, 0, 0, 1, 1, 1])


def total(log, drives, rollouts=4):
    return realism(likelihoods(log, drives, SCENE, 2, rollouts), 2025).mean()


def test_the_log_itself_is_likely():
    """More than drives like it, which are more likely than others; and the best there is when every value is alike."""
    log = some_features(0)
    alike = [some_features(seed) for seed in range(1, 5)]
    other = [{name: x + (6 if "speed" in name else 1) for name, x in drive.items()} for drive in alike]
    assert total(log, [log] * 4) > total(log, [log, *alike[:3]]) > total(log, alike) > total(log, other)
    constant = {name: torch.full_like(x, x[0, 0]) for name, x in log.items()}
    assert total(constant, [constant], rollouts=10**6) == pytest.approx(1, abs=1e-5)


def test_one_drive_stands_for_as_many_as_the_others_made():
    log, drive = some_features(0), some_features(1)
    assert total(log, [drive], 4) == pytest.approx(total(log, [drive] * 4, 4), abs=1e-12)


SHIFTS = {
    "linear_speed": 12.0, "linear_acceleration": 9.0, "angular_speed": 0.5, "angular_acceleration": 2.5,
    "distance_to_nearest_object": 20.0, "time_to_collision": -2.5, "distance_to_road_edge": -14.0,
}  # fmt: skip


@given(st.sampled_from(sorted(SHIFTS)), st.integers(0, 99))
def test_moving_a_feature_away_lowers_its_likelihood_alone(name, seed):
    log = some_features(seed)
    before = likelihoods(log, [log], SCENE, 2, 8)
    after = likelihoods(log, [log | {name: log[name] + SHIFTS[name]}], SCENE, 2, 8)
    assert (after[name] < before[name]).all()
    others = [component.name for component in COMPONENTS if component.name != name]
    assert all((after[other] == before[other]).all() for other in others)


@pytest.mark.parametrize(
    ("event", "feature", "value"),
    [("collision", "distance_to_nearest_object", -0.1), ("off_road", "distance_to_road_edge", 0.1)],
)
def test_what_happens_in_drives_and_not_in_the_log_is_unlikely(event, feature, value):
    log = some_features(0)
    hit = {name: x.clone() for name, x in log.items()}
    hit[feature][0, 7] = value
    before, after = (likelihoods(log, drives, SCENE, 2, 4) for drives in ([log] * 4, [log, log, hit, hit]))
    np.testing.assert_allclose(before[event], 4.1 / 4.2)
    np.testing.assert_allclose(after[event], [((4.1 / 4.2) ** 2 * (2.1 / 4.2)) ** (1 / 3), 4.1 / 4.2])
    assert likelihoods(log, [hit], SCENE, 2, 4)[event][0] == pytest.approx(((4.1 / 4.2) ** 2 * (0.1 / 4.2)) ** (1 / 3))


def test_steps_that_the_log_does_not_have_do_not_count():
    log, drive = some_features(0), some_features(1)
    short = {name: x.clone() for name, x in log.items()}
    for x in short.values():
        x[:, 20:] = torch.nan
    found = likelihoods(short, [drive], SCENE, 2, 1)
    junk = {name: torch.where(x.isnan(), torch.nan, x) for name, x in short.items()}
    for name, values in likelihoods(junk, [drive], SCENE, 2, 1).items():
        np.testing.assert_array_equal(values, found[name])
    assert (likelihoods(log, [drive], SCENE, 2, 1)["linear_speed"] != found["linear_speed"]).any()
