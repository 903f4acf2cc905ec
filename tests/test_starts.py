"""Where rollouts begin, and demos that are led back from there."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.evaluation.drivers import drive, expert_driver
from gail_cli.pipeline.experts.augment import demo_variants, replayed
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.experts.starts import led_back, off_log, perturbed, way_back
from gail_cli.pipeline.records import ABSENT
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig

LAYOUT = ObservationConfig(partners=2, road_segments=4)
STEPS = 60


def straight(speed, steps=STEPS):
    """A path along x at one speed."""
    path = np.zeros((steps, 5))
    path[:, 0], path[:, 3] = 0.1 * speed * np.arange(steps), speed
    return path


def test_a_way_back_by_hand():
    """4 m/s along x: 8 m take 20 steps, so it takes 2.5 s. From 0.4 m aside, parallel to the path, half the way back is
    in the middle at the cubic's steepest, 1.5 x 0.4 m / 2.5 s."""
    path = straight(4.0)
    way = way_back(path, np.array([0.0, 0.4, 0.0, 4.0, 0.0]))
    np.testing.assert_allclose(way[:, 0], path[:, 0], atol=1e-12)
    assert way[25:].tolist() == path[25:].tolist()
    assert way[0].tolist() == [0, 0.4, 0, 4, 0]
    # s = 0.4: (1 + 0.8) 0.36 = 0.648; s = 0.6: 0.352
    np.testing.assert_allclose(way[[10, 15], 1], [0.4 * 0.648, 0.4 * 0.352], atol=1e-12)
    np.testing.assert_allclose(way[10, 4], -6 * 0.4 * 0.6 * 0.4 / 2.5, atol=1e-12)
    drives = 16 / 17  # at 4 m/s
    np.testing.assert_allclose(way[10, 2], drives * np.arctan2(way[10, 4], 4.0), atol=1e-12)


def test_how_long_a_way_back_is():
    """2 m/s: 8 m take 4 s. 10 m/s: 2.5 s. A path that ends before: to its end."""
    begin = np.array([0.3, 0.3, 0.0, 2.0, 0.0])
    for speed, steps in ((2.0, 40), (10.0, 25), (0.5, STEPS - 1)):
        off = np.abs(way_back(straight(speed), begin) - straight(speed))[:, :2].max(axis=1)
        assert np.flatnonzero(off > 0).tolist() == list(range(steps))


state = st.tuples(*(st.floats(-1, 1) for _ in range(5)))


@settings(max_examples=60)
@given(offset=state, speed=st.floats(3, 20), bend=st.floats(-0.3, 0.3))
def test_a_way_back_has_no_jump(offset, speed, bend):
    """Position, velocity and heading begin as told, end on the path, and positions change as velocities say."""
    step = np.arange(STEPS)
    heading = 0.1 * bend * step
    velocity = speed * np.stack([np.cos(heading), np.sin(heading)], axis=1)
    place = np.concatenate([np.zeros((1, 2)), 0.1 * np.cumsum((velocity[1:] + velocity[:-1]) / 2, axis=0)])
    path = np.column_stack([place, heading, velocity])
    begin = path[0] + np.array(offset) * [1, 1, 0.1, 0, 0]
    turn, faster = 0.1 * offset[2], 1 + 0.3 * offset[3]
    begin[3:] = faster * speed * np.array([np.cos(turn), np.sin(turn)])
    way = way_back(path, begin)
    np.testing.assert_allclose(way[0], begin, atol=1e-12)
    np.testing.assert_allclose(way[-1], path[-1], atol=1e-12)
    middle = (way[1:, 3:] + way[:-1, 3:]) / 2
    np.testing.assert_allclose(np.diff(way[:, :2], axis=0) / 0.1, middle, atol=0.03)
    assert np.abs(np.diff(way[:, 2])).max() < 0.1 * abs(bend) + 0.12
    if speed * faster > 3:
        towards = np.arctan2(way[:, 4], way[:, 3])
        assert np.abs(np.sin(way[:, 2] - towards)).max() < 0.1


def test_nobody_is_led_backwards(make_store):
    """Whoever stands and begins ahead stays on the log; whoever begins behind comes."""
    store = make_store()
    (record,) = store.read([0])
    demos = record.demos
    still = demos.state.copy()
    still[:] = demos.state[:, :1] * [1, 1, 1, 0, 0]
    record = replace(record, demos=replace(demos, state=np.where((demos.mark != ABSENT)[..., None], still, 0)))
    start = still[record.moving, 0].copy()
    for metres, led in ((0.5, False), (-0.5, True)):
        begin = start.copy()
        begin[:, 0] += metres * np.cos(start[:, 2])
        begin[:, 1] += metres * np.sin(start[:, 2])
        new = led_back(record, begin, np.ones(len(begin), np.bool_))
        assert (new.demos.state[record.moving, 0] != start).any(axis=1).all() == led


def test_nobody_begins_so_near_the_goal_that_it_counts_as_parked(make_store):
    """Drivers with 0.3 m to go, as pieces of logs have them; GPUDrive would take them for parked."""
    (record,) = make_store().read([0])
    log, agents = record.scene.log.copy(), record.demos.agent[record.moving]
    log[agents] = log[agents, :1]
    log[agents, -1, 0] += 0.3
    record = replace(record, scene=replace(record.scene, log=log, valid=np.ones_like(record.scene.valid)))
    rng, kept = np.random.default_rng(0), 0
    for _ in range(50):
        new = perturbed(record, 1.0, rng)
        assert not new.scene.parked[agents].any()
        kept += (new.scene.log[agents, 0] == log[agents, 0]).all(axis=1).sum()
    assert 0.05 < kept / (50 * len(agents)) < 0.3


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000))
def test_recovering_demos_are_driven_from_off_the_log_to_its_end(make_store, seed):
    """In the simulator, which they begin in where a rollout would; the others stay on the log."""
    store, rng = make_store(), np.random.default_rng(seed)
    records, asked_all, recover = list(store.read([0, 1, 2])), 0, 0
    for record in records:
        start = off_log(record, 1.0, rng)
        chosen = rng.random(len(start)) < 0.5
        (new,) = replayed([led_back(record, start, chosen)], store.space)
        experts = make_experts([new], SimConfig())
        result = drive(Env(experts.worlds, store.space, SimConfig(), LAYOUT), expert_driver(experts))
        track, driven = result.track.numpy(), result.driven.numpy()
        begun = {int(a): (s, c) for a, s, c in zip(record.demos.agent[record.moving], start, chosen, strict=True)}
        away = []
        for n, (_, agent) in enumerate(experts.worlds.controlled_agents()):
            log, steps = record.scene.log[agent], np.flatnonzero(driven[n])
            recovers = bool(np.abs(new.scene.log[agent, 0] - log[0]).max() > 0)
            begin, asked = begun[agent]
            assert asked or not recovers
            np.testing.assert_allclose(track[n, 0], begin if recovers else log[0], atol=1e-5)
            last = steps[-1]
            if record.scene.valid[agent, last] and last > 45:
                away.append(np.hypot(*(track[n, last, :2] - log[last, :2])))
            recover += recovers
        assert np.median(away) < 0.1
        assert np.sort(away)[-1] < 0.5
        assert (np.sort(away)[:-1] < 0.3).all()
        asked_all += chosen.sum()
    assert recover >= 0.7 * asked_all - 1


def test_as_many_demos_recover_as_asked(make_store):
    store = make_store()
    records = list(store.read([0, 1, 2]))
    for share in (0.0, 0.4, 1.0):
        found, asked = 0, 0
        for seed in range(6):
            augment = Augmentation(whole=1, mirror=0.01, stretch=1, recover=share)
            rngs = [np.random.default_rng([seed, k]) for k in range(3)]
            for old, new in zip(records, demo_variants(records, store.space, augment, rngs), strict=True):
                if np.array_equal(old.scene.segment, new.scene.segment):
                    moved = (new.scene.log[:, 0] != old.scene.log[:, 0]).any(axis=1)
                    found, asked = found + moved.sum(), asked + old.moving.sum()
        assert found / asked == pytest.approx(share, abs=0.1)  # some would have to drive backwards


def test_batches_of_demos_have_those_that_recover(make_store):
    """At the first step they are not where they would be without."""
    draws = []
    for recover in (0.0, 1.0):
        augment = Augmentation(variants=2, whole=1, mirror=0.5, stretch=1, recover=recover)
        source = DemoSampler(make_store(), DemoRules(observation=LAYOUT, augment=augment), seed=3)
        batch = source.sample(3000)
        source.close()
        speed = LAYOUT.ego_fields.index("speed/20")
        first = batch.transition[:, 2] == 0
        which, seen = batch.transition[first].tolist(), batch.observation[first, speed].tolist()
        draws.append(dict(zip(map(tuple, which), seen, strict=True)))
    both = draws[0].keys() & draws[1].keys()
    assert len(both) > 10
    assert np.mean([abs(draws[0][t] - draws[1][t]) > 1e-4 for t in both]) > 0.8
