"""Who runs a red light, on two lanes by hand."""

import numpy as np
import pytest
from scenes import car, scene

from gail_cli.gail.evaluation.red_light import Lanes, Signals, lanes_of, runs_red_light, signals_of
from gail_cli.sim.scenario import LightState, RoadType

STEPS = 11
EAST, NORTH = 7, 8
"""Lanes along y = 0 and along x = 10, in pieces of 1 m."""


def lanes(mirrored=False, piece=1.0):
    along = np.arange(-20, 40, piece)
    zero = np.zeros_like(along)
    start = np.concatenate([np.stack([along, zero], axis=1), np.stack([zero + 10, along], axis=1)])
    step = np.repeat([[piece, 0], [0, piece]], len(along), axis=0)
    return Lanes(start, start + step, np.repeat([EAST, NORTH], len(along)), mirrored)


def light(stops=True, x=5.0, lane=EAST):
    """A light whose stop point lies on the lane along y = 0."""
    stop = np.broadcast_to(np.asarray(stops), STEPS)[None]
    return Signals(np.array([lane]), stop, np.broadcast_to([x, 0.3], (1, STEPS, 2)).astype(float))


def path(x, y=0.0, speed=10.0):
    """[1, T, 2] along the lane, 1 m a step."""
    t = np.arange(STEPS) * 0.1
    return np.stack([x + speed * t, np.full(STEPS, y)], axis=1)[None]


@pytest.mark.parametrize("mirrored", [False, True])
def test_passing_the_stop_point(mirrored):
    """From 2.5 m behind it, at 1 m a step: between steps 2 and 3."""
    assert runs_red_light(path(2.5), lanes(mirrored), light())[0].nonzero()[0].tolist() == [3]
    assert not runs_red_light(path(2.5, speed=2), lanes(mirrored), light()).any()
    assert not runs_red_light(path(5.5), lanes(mirrored), light()).any()
    assert not runs_red_light(path(7.5, speed=-10), lanes(mirrored), light()).any()  # backwards


def test_the_light_counts_when_the_stop_point_is_passed():
    red = np.arange(STEPS) != 3
    assert not runs_red_light(path(2.5), lanes(), light(red)).any()
    assert runs_red_light(path(2.5), lanes(), light(np.arange(STEPS) == 3)).any()


def test_only_on_its_own_lane():
    """On another one that is nearer, or beside, it is no violation; a light of no lane here has none."""
    across = path(2.5)[..., ::-1] + [10, 0]
    assert not runs_red_light(across, lanes(), light()).any()
    assert not runs_red_light(path(2.5), lanes(), light(lane=9)).any()
    here, aside = lanes(), np.array([0, 3])
    start, end = (np.concatenate([x, x[:60] + aside]) for x in (here.start, here.end))
    beside = Lanes(start, end, np.append(here.id, [9] * 60))
    assert not runs_red_light(path(2.5, y=2), beside, light()).any()
    assert runs_red_light(path(2.5, y=1), beside, light()).any()


def test_long_segments_need_true_distances():
    """Mirrored, the middle of a segment of 20 m is up to 20 m away from itself."""
    assert runs_red_light(path(2.5), lanes(piece=20.0), light()).any()
    assert not runs_red_light(path(11.1, speed=8), lanes(True, piece=20.0), light(x=14.0)).any()
    assert runs_red_light(path(11.1, speed=8), lanes(False, piece=20.0), light(x=14.0)).any()


def test_lanes_and_lights_of_a_scene():
    states = [LightState.STOP] * 4 + [LightState.ARROW_STOP, LightState.FLASHING_STOP, LightState.GO] + [-1] * 4
    segments = [(RoadType.LANE, x + 0.5, 0, 0.5, 0.1, 0) for x in range(3)]
    segments += [(RoadType.LANE, 0, 9, 1, 0.1, np.pi / 2), (RoadType.ROAD_EDGE, 0, 5, 9, 0.1, 0)]
    case = scene(car(), segments=segments, lights=[(0, 1.0, 0.0, states)])
    case.segment_map_type[:4] = [2, 2, 2, 2]
    case.segment_road[:4] = [1, 1, 1, 2]
    found = lanes_of(case)
    np.testing.assert_allclose(found.start, [[0, 0], [1, 0], [2, 0], [0, 8]], atol=1e-6)
    np.testing.assert_allclose(found.end, [[1, 0], [2, 0], [3, 0], [0, 10]], atol=1e-6)
    assert (found.id.tolist(), found.mirrored) == ([1, 1, 1, 2], False)
    padded = lanes_of(case, padding=np.array([-7.0, -8.0]))
    np.testing.assert_allclose([padded.start[-1], padded.end[-1]], [[0, 10], [-7, -8]], atol=1e-6)
    assert (padded.id.tolist(), padded.mirrored) == ([1, 1, 1, 2, 2], True)
    case.segment_map_type[3] = 1  # a freeway
    assert lanes_of(case).id.tolist() == [1, 1, 1]
    signals = signals_of(case)
    assert signals.stops[0].nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    assert signals.until(3).stop_point.tolist() == [[[1, 0]] * 3]
