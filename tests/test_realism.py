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
    assert bin_of(values, *BINS).tolist() == [0, 0, 0, 0, 1, 3, 3, 3, 3, 0, 3]


def test_histogram_likelihoods_by_hand():
    """Agent 0: 3 drawn values in bin 0 and 1 in bin 2; agent 1 has two undefined values, which are in the last bin, and
    two that do not count."""
    drawn = np.array([[[0.5, 0.5], [np.nan] * 2], [[0.1, 2.5], [np.nan, 0.5]]])
    there = np.array([[[True, True], [True, False]], [[True, True], [True, False]]])
    log = np.array([[0.2, 3.0], [1.0, np.nan]])
    found = np.exp(histogram_log_likelihood(log, drawn, BINS, there))
    np.testing.assert_allclose(found, [[3.1 / 4.4, 0.1 / 4.4], [0.1 / 2.4, np.nan]])
    twice = np.exp(histogram_log_likelihood(log, drawn, BINS, there, copies=2))
    np.testing.assert_allclose(twice, [[6.1 / 8.4, 0.1 / 8.4], [0.1 / 4.4, np.nan]])


def test_event_likelihoods_by_hand():
    drawn = np.array([[True, False, False], [False, False, False], [True, False, True]])
    found = np.exp(event_log_likelihood(np.array([True, False, True]), drawn))
    np.testing.assert_allclose(found, [2.001 / 3.002, 3.001 / 3.002, 1.001 / 3.002])
    np.testing.assert_allclose(np.exp(event_log_likelihood(np.array([True] * 3), drawn, 2))[0], 4.001 / 6.002)


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
        "red_light": torch.zeros(agents, steps, dtype=torch.bool),
        "valid": torch.ones(agents, steps, dtype=torch.bool),
    }  # fmt: skip


SCENE = np.array([0, 0, 0, 1, 1, 1])


def total(log, drives, rollouts=4):
    return realism(likelihoods(log, drives, SCENE, 2, rollouts), 2025).mean()


def test_the_log_itself_is_likely():
    """More than drives like it, which are more likely than others; and the best there is when every value is alike."""
    log = some_features(0)
    alike = [some_features(seed) for seed in range(1, 5)]
    other = [
        drive | {name: x + (6 if "speed" in name else 1) for name, x in drive.items() if x.is_floating_point()}
        for drive in alike
    ]
    assert total(log, [log] * 4) > total(log, [log, *alike[:3]]) > total(log, alike) > total(log, other)
    constant = {name: x[:1, :1].expand_as(x).clone() for name, x in log.items()}
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
    [
        ("collision", "distance_to_nearest_object", -0.1),
        ("off_road", "distance_to_road_edge", 0.1),
        ("traffic_light", "red_light", True),
    ],
)
def test_what_happens_in_drives_and_not_in_the_log_is_unlikely(event, feature, value):
    log = some_features(0)
    hit = {name: x.clone() for name, x in log.items()}
    hit[feature][0, 7] = value
    before, after = (likelihoods(log, drives, SCENE, 2, 4) for drives in ([log] * 4, [log, log, hit, hit]))
    np.testing.assert_allclose(before[event], 4.001 / 4.002)
    never, twice, always = 4.001 / 4.002, 2.001 / 4.002, 0.001 / 4.002
    np.testing.assert_allclose(after[event], [(never**2 * twice) ** (1 / 3), never])
    alone = likelihoods(log, [hit], SCENE, 2, 4)[event][0]
    assert alone == pytest.approx((never**2 * always) ** (1 / 3), rel=1e-4)


@pytest.mark.parametrize("event", ["collision", "off_road", "traffic_light"])
def test_events_count_where_the_log_is_valid(event):
    """What happens at step 7 to an agent that left its log at step 6 does not; also if nothing is left of it."""
    log, drive = some_features(0), some_features(0)
    drive["distance_to_nearest_object"][0, 7], drive["distance_to_road_edge"][0, 7] = -1, 1
    drive["red_light"][0, 7] = True
    short = log | {"valid": log["valid"].clone()}
    assert likelihoods(short, [drive] * 4, SCENE, 2, 4)[event][0] < 0.1
    short["valid"][0, 6:] = False
    assert likelihoods(short, [drive] * 4, SCENE, 2, 4)[event][0] == pytest.approx(4.001 / 4.002)
    short["valid"][0] = False
    assert likelihoods(short, [drive] * 4, SCENE, 2, 4)[event][0] == pytest.approx(4.001 / 4.002)


def test_without_edges_nobody_is_on_the_road():
    log = some_features(0)
    log["distance_to_road_edge"][3:] = torch.nan
    found = likelihoods(log, [log] * 2, SCENE, 2, 4)
    for name in ("off_road", "distance_to_road_edge"):
        assert np.isnan(found[name]).tolist() == [False, True]
    assert realism(found, 2025)[1] > 0.5


def test_undefined_drives_count_as_the_highest_value():
    """Speeds end a step before the drive does; here one of 30 steps of each drive."""
    log = some_features(0)
    log["linear_speed"][:] = 1.0
    drive = log | {"linear_speed": log["linear_speed"].clone()}
    drive["linear_speed"][:, -1] = torch.nan
    found = likelihoods(log, [drive] * 4, SCENE, 2, 4)["linear_speed"]
    np.testing.assert_allclose(found, (4 * 29 + 0.1) / (4 * 30 + 1))


def test_steps_that_the_log_does_not_have_do_not_count():
    log, drive = some_features(0), some_features(1)
    short = {name: x.clone() for name, x in log.items()}
    for x in short.values():
        x[:, 20:] = torch.nan if x.is_floating_point() else False
    found = likelihoods(short, [drive], SCENE, 2, 1)
    cut = {name: x[:, :20] for name, x in log.items()}
    for name, values in likelihoods(cut, [drive], SCENE, 2, 1).items():
        np.testing.assert_allclose(values, found[name], rtol=1e-12)
    assert (likelihoods(log, [drive], SCENE, 2, 1)["linear_speed"] != found["linear_speed"]).any()
