"""Windows of one log are known as such, by positions alone, and share one split."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import scenario

from gail_cli.pipeline.logs import SHARED, common, fingerprint, groups, splits
from gail_cli.pipeline.records import SAMPLES, Split, split_of

HALVES = (0.5, 0.5, 0.0)


def drive(seed, steps, agents=4, speed=8.0):
    """Agents on straight tracks; [agents, steps, 2] positions and velocities."""
    rng = np.random.default_rng(seed)
    velocity = rng.uniform(0.5, 1, (agents, 1, 2)) * speed
    position = rng.uniform(-100, 100, (agents, 1, 2)) + velocity * 0.1 * np.arange(steps)[:, None]
    return position, np.broadcast_to(velocity, position.shape).astype(np.float32)


def window(log, first, steps, agents=slice(None)):
    position, velocity = (x[agents, first : first + steps] for x in log)
    return scenario(position, velocity=velocity)


def shared(a, b):
    return len({*fingerprint(a).tolist()} & {*fingerprint(b).tolist()} - {0})


@pytest.mark.parametrize("overlap", [91, 60, 9, 2, 1, 0])
def test_a_hash_is_shared_for_each_step_that_windows_have_in_common(overlap):
    log = drive(0, 182)
    assert shared(window(log, 0, 91), window(log, 91 - overlap, 91)) == overlap


def test_it_is_the_positions_that_count():
    """Not the order or the ids of agents, nor those whose states are not valid; a last bit is a difference."""
    log = drive(1, 30)
    whole = window(log, 0, 30)
    assert np.array_equal(fingerprint(window(log, 0, 30, [2, 0, 3, 1])), fingerprint(whole))
    hidden = np.ones((5, 30), bool)
    hidden[4] = False
    more = [np.concatenate([x, y[:1]]) for x, y in zip(log, drive(2, 30), strict=True)]
    assert np.array_equal(fingerprint(scenario(more[0], velocity=more[1], valid=hidden)), fingerprint(whole))
    assert shared(scenario(np.nextafter(log[0], 1e9), velocity=log[1]), whole) == 0
    assert shared(scenario(log[0][..., ::-1], velocity=log[1]), whole) == 0  # x and y are not the same


def test_agents_that_others_do_not_see_take_few_hashes_away():
    """With one more agent in four, four fifths of the steps are expected to keep their smallest hash."""
    log = drive(3, 91, agents=5)
    assert 91 * 0.6 < shared(window(log, 0, 91), window(log, 0, 91, slice(4))) < 91


def test_what_stands_still_is_no_sign():
    position, velocity = drive(4, 40)
    assert not fingerprint(scenario(position, velocity=velocity * 0)).any()
    parked = np.concatenate([position[:, :1]] * 40, axis=1)
    trembling = scenario(
        np.concatenate([position[:1], parked]), velocity=np.concatenate([velocity[:1], velocity * 0.01])
    )
    assert np.array_equal(fingerprint(trembling), fingerprint(window((position, velocity), 0, 40, slice(1))))
    creeping = fingerprint(scenario(position, velocity=velocity * 0.01))
    assert np.array_equal(creeping, fingerprint(scenario(position, velocity=velocity)))


def test_a_long_log_keeps_its_smallest_hashes():
    log = drive(5, 300)
    long = fingerprint(window(log, 0, 300))
    steps = sorted(int(fingerprint(window(log, t, 1))[0]) for t in range(300))
    assert long.tolist() == steps[:SAMPLES]
    assert long.max() < 2**40
    assert long.dtype == np.uint64


# groups of made-up fingerprints


def rows(*samples):
    return np.array([sorted(each) + [0] * (6 - len(each)) for each in samples], np.uint64)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([[1, 2, 3], [4, 5], [2, 3, 9]], [0, 1, 0]),
        ([[1, 2, 3], [4, 5], [3, 9]], [0, 1, 2]),  # one in common may be chance
        ([[5, 6], [1, 2], [2, 3, 1], [3, 4, 2], [4, 7, 3]], [0, 1, 1, 1, 1]),  # a chain
        ([[1, 2], [3, 4], [1, 2, 3, 4]], [0, 0, 0]),
        ([[1, 9], [1, 5], [1, 9]], [0, 1, 0]),  # the one between shares less
        ([[], [], [7]], [0, 1, 2]),  # none is no sign
        ([[1, 2]] * 40, [0] * 40),
        ([], []),
    ],
)
def test_groups(samples, expected):
    assert groups(rows(*samples).reshape(-1, 6)).tolist() == expected


def by_hand(fingerprints):
    """Pair by pair."""
    sets = [{*row[row > 0].tolist()} for row in fingerprints]
    group = list(range(len(sets)))
    for _ in sets:
        for a, one in enumerate(sets):
            for b, other in enumerate(sets):
                if len(one & other) >= SHARED:
                    group[a] = group[b] = min(group[a], group[b])
    return group


@given(st.lists(st.sets(st.integers(1, 24), max_size=5), max_size=12))
def test_groups_are_those_found_pair_by_pair(samples):
    fingerprints = rows(*map(list, samples)).reshape(-1, 6)
    assert groups(fingerprints).tolist() == by_hand(fingerprints)


def test_scenes_of_one_log_in_two_sets():
    ours, theirs = rows([1, 2], [5, 6], [8, 9], [2, 3, 1]), rows([7], [9, 8, 4], [2, 1], [2, 3])
    mine, others = common(ours, theirs)
    assert (mine.tolist(), others.tolist()) == ([0, 2, 3], [2, 1, 2])
    assert [x.tolist() for x in common(ours, theirs, 1)] == [[0, 2, 3], [2, 1, 2]]
    assert [x.tolist() for x in common(ours, theirs, 3)] == [[], []]
    assert [x.tolist() for x in common(ours[:0], theirs)] == [[], []]
    assert [x.tolist() for x in common(ours, theirs[:0])] == [[], []]


def test_all_scenes_of_a_log_go_where_its_first_id_goes():
    ids = ["d", "b", "a", "c", "e"]
    sides = {name: split_of(name, HALVES) for name in ids}
    assert set(sides.values()) == {Split.TRAIN, Split.VALIDATION}
    assert splits(ids, np.arange(5), HALVES).tolist() == [sides[name] for name in ids]
    got = splits(ids, np.array([0, 1, 0, 1, 4]), HALVES)
    assert got.tolist() == [sides["a"], sides["b"], sides["a"], sides["b"], sides["e"]]
    assert splits([], np.zeros(0, np.int64), HALVES).tolist() == []


@given(st.permutations(range(7)), st.integers(0, 1000))
def test_splits_do_not_depend_on_the_order(order, seed):
    log, other = drive(seed, 199), drive(seed + 5000, 199)
    windows = [(f"{seed}-{k}", fingerprint(window(log if k < 5 else other, 18 * k, 91))) for k in range(7)]
    told = []
    for numbers in (range(7), order):
        ids, samples = zip(*(windows[k] for k in numbers), strict=True)
        found = splits(ids, groups(np.array(samples)), HALVES)
        told.append(dict(zip(ids, found.tolist(), strict=True)))
    assert told[0] == told[1]
    assert len({told[0][f"{seed}-{k}"] for k in range(5)}) == 1
    assert told[0][f"{seed}-5"] == told[0][f"{seed}-6"]


def test_shares_are_those_asked_for_whatever_the_size_of_logs():
    """With the smallest of seven hashes instead of the hash of the first id, all logs would be in train."""
    ids = [f"{k * 7919 % 7000:04d}" for k in range(7000)]
    found = splits(ids, np.repeat(np.arange(0, 7000, 7), 7), (0.8, 0.1, 0.1))
    np.testing.assert_allclose(np.bincount(found[::7]) / 1000, [0.8, 0.1, 0.1], atol=0.04)
