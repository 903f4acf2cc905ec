"""Agents that follow their logs at another pace."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import car, scene, scenes_equal, valid_only

from gail_cli.pipeline.experts.timing import paces, retimed


def test_another_pace_by_hand():
    """A car at 10 m/s over 9 s, and a second one seen from step 20 to step 60."""
    first = car(speed=10, steps=91)
    second = car(0, 8, speed=5, steps=91, valid=valid_only(*range(20, 61), of=91))
    one = scene(first, second)
    begin = one.log[1, 20, 0]
    fast, slow = (retimed(one, np.array([pace, pace])) for pace in (1.25, 0.8))
    np.testing.assert_allclose(fast.log[0, 40, 0] - one.log[0, 0, 0], 50, atol=1e-3)
    np.testing.assert_allclose(slow.log[0, 40, 0] - one.log[0, 0, 0], 32, atol=1e-3)
    np.testing.assert_allclose([fast.log[0, 40, 3], slow.log[0, 40, 3]], [12.5, 8], atol=1e-4)
    # the second's path is 20 m long: faster, it is at the end after 32 steps and stands there for 8 more
    assert np.flatnonzero(fast.valid[1]).tolist() == list(range(20, 61))
    np.testing.assert_allclose(fast.log[1, [20, 52, 53, 60], 0] - begin, [0, 20, 20, 20], atol=1e-4)
    assert fast.log[1, 53:61, 3:].tolist() == [[0, 0]] * 8
    # slower, it needs 50 steps
    assert np.flatnonzero(slow.valid[1]).tolist() == list(range(20, 71))
    np.testing.assert_allclose(slow.log[1, 60, 0] - begin, 16, atol=1e-4)
    assert not slow.log[1, 71:].any()
    assert not fast.log[1, :20].any()


def test_the_pace_of_the_log_changes_nothing(make_store):
    for record in make_store().read([0, 1]):
        one = record.scene
        assert retimed(one, np.ones(one.num_agents)) is one
        pace = np.ones(one.num_agents)
        pace[0] = 1.1
        changed = retimed(one, pace)
        assert np.array_equal(changed.log[1:], one.log[1:])
        nearly = retimed(one, np.full(one.num_agents, 1 - 1e-12))
        assert np.array_equal(nearly.valid, one.valid)
        off = nearly.log.astype(np.float64) - one.log
        off[..., 2] = np.sin(off[..., 2])
        assert np.abs(off).max() < 1e-3
        assert changed.segment is one.segment
        same = {"log": one.log, "log_z": one.log_z, "valid": one.valid}
        assert scenes_equal(replace(changed, **same), one)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pace=st.floats(0.5, 2), index=st.integers(0, 4))
def test_nobody_leaves_the_path(make_store, pace, index):
    """Every position is between two of the log, in the log's order, nobody is where the log is not."""
    (record,) = make_store().read([index])
    one = record.scene
    new = retimed(one, np.full(one.num_agents, pace))
    assert new.valid.any(axis=1).tolist() == one.valid.any(axis=1).tolist()
    for agent in np.flatnonzero(one.valid.any(axis=1)):
        old, now = one.log[agent, one.valid[agent], :2].astype(np.float64), new.log[agent, new.valid[agent], :2]
        assert np.array_equal(old[0], now[0].astype(np.float64))
        if len(old) == 1:
            continue
        ways = np.diff(old, axis=0)
        along = np.einsum("pk,sk->ps", now, ways) - (old[:-1] * ways).sum(axis=1)
        share = np.clip(along / np.maximum((ways**2).sum(axis=1), 1e-12), 0, 1)
        nearest = old[:-1] + share[..., None] * ways
        assert np.linalg.norm(now[:, None] - nearest, axis=-1).min(axis=1).max() < 1e-3
        # no longer than the pace says
        assert np.linalg.norm(np.diff(now, axis=0), axis=1).sum() <= np.linalg.norm(ways, axis=1).sum() + 1e-3
    assert not new.log[~new.valid].any()


def test_paces_are_as_often_fast_as_slow():
    found = paces(0.2, 4000, np.random.default_rng(0))
    assert found.min() == pytest.approx(1 / 1.2, abs=1e-3)
    assert found.max() == pytest.approx(1.2, abs=1e-3)
    assert np.log(found).mean() == pytest.approx(0, abs=0.01)
    assert paces(0.0, 5, np.random.default_rng(0)).tolist() == [1] * 5


def test_who_moves_goes_on_to_count_as_moving():
    """A car that moves by 0.21 m in all: at half the pace it would count as parked."""
    one = scene(car(speed=0.21, steps=11), car(0, 8, speed=1.0, steps=11))
    new = retimed(one, np.array([0.5, 0.5]))
    assert np.array_equal(new.log[0], one.log[0])
    np.testing.assert_allclose(new.log[1, 10, 0], 0.5, atol=1e-5)
    assert np.array_equal(new.parked, one.parked)
