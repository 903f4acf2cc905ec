from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scenes import (
    STEPS,
    car,
    real_scenario,
    real_scenes,
    road,
    scenario,
    scene,
    scenes_equal,
    shared,
    valid_only,
    wrapped,
)
from strategies import scenarios

from gail_cli.sim.config import Selection
from gail_cli.sim.scenario import AgentType, LightState, RoadType, TrafficLights
from gail_cli.sim.scene import Role, scene_from_scenario
from gail_cli.sim.worlds import make_worlds, select_agents

AT_ORIGIN = [[[0.0, 0.0]]]
"""One agent over one step, so that the scene's frame is the log's."""


# Agents


def test_roles_tell_who_is_parked_and_who_comes_late():
    """0.19 m from start to goal is parked, 0.21 m is not; whoever is not there at the first step is late."""
    positions = np.zeros((4, 3, 2))
    positions[:, :, 0] = [[0, 0, 0.19], [0, 0, 0.21], [0, 5, 5], [0, 0, 9]]
    valid = np.ones((4, 3), bool)
    valid[2, 0] = valid[3, 2] = False
    role = scene_from_scenario(scenario(positions, valid=valid)).agent_role
    assert role.tolist() == [Role.PARKED, 0, Role.LATE, Role.PARKED]


def test_agents_come_in_gpudrives_order():
    """SDC, tracks to predict, objects of interest, the rest; each group as in the log, nobody twice."""
    logged = scenario(
        np.zeros((7, 1, 2)),
        sdc_index=3,
        tracks_to_predict=np.array([5, 1, 3]),
        difficulty=np.zeros(3, np.int64),
        objects_of_interest=np.array([104, 101, 100]),
        type=np.array([1, 2, 3, 4, 1, 2, 3], np.int8),
        mark_as_expert=np.arange(7) == 2,
    )
    result = scene_from_scenario(logged)
    assert result.agent_id.tolist() == [103, 101, 105, 100, 104, 102, 106]
    assert result.agent_type.tolist() == [4, 2, 2, 1, 1, 3, 3]
    predict, interest = Role.TRACK_TO_PREDICT, Role.OBJECT_OF_INTEREST
    assert (result.agent_role & ~np.uint8(Role.PARKED)).tolist() == [
        Role.SDC | predict, predict | interest, predict, interest, interest, Role.MARK_AS_EXPERT, 0,
    ]  # fmt: skip


def test_positions_are_relative_to_the_mean_of_valid_ones():
    far = 1e6 + np.array([[[1.001, 2.002], [3.003, 2.0]], [[0.25, 6.0], [77.0, 77.0]]])
    result = scene_from_scenario(scenario(far, valid=[[True, True], [True, False]]), steps=2)
    origin = 1e6 + np.array([4.254 / 3, 10.002 / 3])
    np.testing.assert_allclose(result.origin, origin, rtol=1e-12)
    np.testing.assert_allclose(result.log[0, :, :2], far[0] - origin, atol=1e-6)
    np.testing.assert_allclose(result.log[1, 0, :2], far[1, 0] - origin, atol=1e-6)
    assert not result.log[1, 1].any()
    np.testing.assert_allclose(result.goal, [far[0, 1] - origin, far[1, 0] - origin], atol=1e-6)
    assert result.last_valid.tolist() == [1, 0]


def test_gpudrives_frame_is_rounded_before_its_float32_mean_is_subtracted():
    """At 4,096 m float32 numbers lie 2^-11 m apart (0.49 mm): what is less is lost, in the mean too."""
    far, step = 4096.0, 2.0**-11
    position = far + np.array([[[0, 0], [10 * step, 0.4 * step], [3 * step, 0]]])
    driveway = road(RoadType.DRIVEWAY, far + np.array([[7 * step, 8 * step]]))  # counts, though it makes no segment
    crosswalk = road(RoadType.CROSSWALK, far + np.array([[0, 0], [4, 0], [4, 2], [0.6 * step, 2]]))
    logged = scenario(position, [driveway, crosswalk])
    mean = np.zeros(2, np.float32)
    points = [*position[0], *driveway.points[:, :2], *crosswalk.points[:, :2]]
    for n, point in enumerate(points, start=1):
        mean = mean + (np.float32(point) - mean) / np.float32(n)
    result = scene_from_scenario(logged, compat="gpudrive")
    assert result.origin.tolist() == mean.astype(float).tolist()
    rounded = far + np.array([[0, 0], [10 * step, 0], [3 * step, 0]])
    assert result.log[0, :3, :2].tolist() == (rounded - result.origin).tolist()
    assert result.segment[0, :2].tolist() == (far + np.array([2, 1]) - result.origin).tolist()
    plain = scene_from_scenario(logged)
    assert plain.log[0, 1, 1] - plain.log[0, 0, 1] == pytest.approx(0.4 * step, rel=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_gpudrives_mean_depends_on_the_order_of_agents_and_roads(seed):
    """Float32 forgets: agent by agent along its valid steps, then road by road, each with the last digits it had."""
    rng = np.random.default_rng(seed)
    position, valid = rng.uniform(5000, 6000, (4, 9, 2)), rng.random((4, 9)) < 0.8
    roads = [road(kind, rng.uniform(5000, 6000, (20, 2))) for kind in (2, 1, 7)]
    points = [*position[valid], *(p[:2] for r in roads for p in r.points)]
    means = []
    for order in (points, points[::-1]):
        mean = np.zeros(2, np.float32)
        for n, point in enumerate(order, start=1):
            mean = mean + (np.float32(point) - mean) / np.float32(n)
        means.append(mean.astype(float).tolist())
    assert means[0] != means[1]
    assert scene_from_scenario(scenario(position, roads, valid), compat="gpudrive").origin.tolist() == means[0]


def test_a_long_log_is_cut_and_roles_and_origin_follow():
    position = np.stack([np.arange(6.0), np.zeros(6)], axis=-1)[None]
    lights = TrafficLights(np.array([7]), np.full((1, 6), LightState.GO, np.int8), np.array([[4.0, 1.0, 9.0]]))
    result = scene_from_scenario(scenario(position, lights=lights), steps=3)
    assert result.valid.tolist() == [[True] * 3]
    assert result.log[0, :, 0].tolist() == [-1, 0, 1]
    assert result.light_state.tolist() == [[6, 6, 6]]
    assert result.light_stop_point.tolist() == [[3, 1]]
    assert result.timestamp.tolist() == [0, 0.1, 0.2]


def test_a_short_log_ends_with_invalid_steps():
    lights = TrafficLights(np.array([7]), np.full((1, 2), LightState.STOP, np.int8), np.zeros((1, 3)))
    logged = scenario([[[1.0, 0.0], [3.0, 0.0]]], lights=lights, timestamps=np.array([5.0, 5.1]))
    result = scene_from_scenario(logged, steps=4)
    assert result.valid.tolist() == [[True, True, False, False]]
    assert result.log[0, :, 0].tolist() == [-1, 1, 0, 0]
    assert result.light_state.tolist() == [[4, 4, -1, -1]]
    np.testing.assert_allclose(result.timestamp, [5.0, 5.1, 5.2, 5.3])
    assert result.goal.tolist() == [[1, 0]]


def test_a_scene_without_a_valid_kept_step_is_refused():
    logged = scenario(np.zeros((1, 3, 2)), valid=[[False, False, True]])
    with pytest.raises(ValueError, match=r"scene 'hand-made': no track is valid in its first 2 steps; leave it out"):
        scene_from_scenario(logged, steps=2)


@pytest.mark.parametrize("field", ["position", "heading", "velocity", "size"])
def test_a_valid_number_that_is_not_finite_is_refused(field):
    logged = scenario(np.zeros((2, 3, 2)))
    getattr(logged.tracks, field)[1, 1] = np.nan
    with pytest.raises(ValueError, match=r"scene 'hand-made': a.* not finite; mend the file or leave the scene out"):
        scene_from_scenario(logged)


def test_a_position_that_is_no_place_in_the_scene_is_refused():
    logged = scenario(np.zeros((3, 3, 2)))
    logged.tracks.position[1, 1, 0] = 1499
    scene_from_scenario(logged)
    logged.tracks.position[1, 1, 0] = 1e30
    with pytest.raises(ValueError, match=r"a valid position is 1e\+30 m from the others, more than 1500 m"):
        scene_from_scenario(logged)


def test_numbers_of_invalid_steps_do_not_matter():
    logged = scenario(np.zeros((1, 2, 2)), valid=[[True, False]])
    logged.tracks.position[0, 1] = np.nan
    logged.tracks.heading[0, 1] = np.inf
    assert np.isfinite(scene_from_scenario(logged).log).all()


@given(logged=scenarios(), steps=st.integers(1, 6))
def test_every_readable_scene_keeps_its_agents(logged, steps):
    kept = min(steps, logged.num_steps)
    if not logged.tracks.valid[:, :kept].any():
        return
    result = scene_from_scenario(logged, steps)
    assert scenes_equal(result, scene_from_scenario(logged, steps))
    assert sorted(result.agent_id) == sorted(logged.tracks.id)
    row = [logged.tracks.id.tolist().index(i) for i in result.agent_id]
    valid = logged.tracks.valid[row][:, :kept]
    np.testing.assert_array_equal(result.valid[:, :kept], valid)
    assert not result.valid[:, kept:].any()
    position = result.log[:, :kept, :2] + result.origin
    np.testing.assert_allclose(position[valid], logged.tracks.position[row][:, :kept, :2][valid], atol=0.02)
    np.testing.assert_array_equal(result.log[:, :kept, 2][valid], logged.tracks.heading[row][:, :kept][valid])
    assert not result.log[~result.valid].any()


# Roads


def polyline_points(table):
    """The points of a polyline's segments [n, 5], joined."""
    reach = table[:, 2:3] * np.stack([np.cos(table[:, 4]), np.sin(table[:, 4])], axis=1)
    return np.concatenate([table[:1, :2] - reach[:1], table[:, :2] + reach])


def reduced(points, area):
    """GPUDrive's sweeps, from the facts about it, on lists."""
    if len(points) < 11:
        return points
    changed = True
    while changed:
        changed, at = False, 0
        while at + 2 < len(points):
            (ax, ay), (bx, by), (cx, cy) = points[at : at + 3]
            if abs((bx - ax) * (cy - ay) - (cx - ax) * (by - ay)) / 2 < area:
                points = points[: at + 1] + points[at + 2 :]
                changed = True
            at += 1  # the next point left, whether the one between was kept or not
    return points


eighths = st.integers(-64, 64).map(lambda n: n / 8)  # so that areas are exact and no call is close
walks = st.lists(st.tuples(eighths, eighths), min_size=2, max_size=40)
smooth_walks = st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1)), min_size=11, max_size=40).map(
    lambda steps: [(x / 8, y / 8) for x, y in np.cumsum(steps, axis=0).tolist()]
)


@given(
    points=walks | smooth_walks,
    kind=st.sampled_from([RoadType.ROAD_EDGE, RoadType.ROAD_LINE, RoadType.LANE]),
    area=st.sampled_from([0.1, 0.03, 1.3]),
)
def test_polylines_are_reduced_as_by_the_plain_algorithm(points, kind, area):
    result = scene_from_scenario(scenario(AT_ORIGIN, [road(kind, points)]), simplify=area)
    np.testing.assert_allclose(polyline_points(result.segment), reduced(points, area), atol=1e-5)
    assert (result.segment_type == kind).all()
    assert (result.segment[:, 3] == np.float32(0.1)).all()


@pytest.mark.parametrize(
    ("points", "simplify", "segments"), [(10, 0.1, 9), (11, 0.1, 1), (12, 0.1, 1), (12, 0.0, 11), (1, 0.1, 0)]
)
def test_only_polylines_of_ten_segments_are_reduced(points, simplify, segments):
    straight = np.stack([np.arange(points), np.zeros(points)], axis=1)
    assert len(scene_from_scenario(scenario(AT_ORIGIN, [road(3, straight)]), simplify=simplify).segment) == segments


def test_segments_by_hand():
    """In the order of the map features; the origin (10, 20) is subtracted; what has too few points is left out."""
    shift = np.array([10.0, 20.0])

    def at(*points):
        return np.array(points) + shift

    slanted = np.array([[0, 0], [4, 3], [2.5, 5], [-1.5, 2]])  # 5 m along (4, 3), 2.5 m across
    roads = [
        road(RoadType.ROAD_EDGE, at([0, 0], [3, 4], [3, 4], [0, 4]), 5),
        road(RoadType.DRIVEWAY, at([0, 0], [1, 0], [1, 1], [0, 1])),
        road(RoadType.CROSSWALK, at(*slanted, [99, 99]), 6),
        road(RoadType.SPEED_BUMP, at(*slanted[:3])),
        road(RoadType.NONE, at([0, 0], [1, 0])),
        road(RoadType.STOP_SIGN, at([1, 2]), 7),
        road(RoadType.SPEED_BUMP, at(*np.roll(slanted, 1, axis=0)), 8),
    ]
    result = scene_from_scenario(scenario([[shift]], roads))
    along = np.arctan2(3, 4)
    expected = [
        [1.5, 2, 2.5, 0.1, np.arctan2(4, 3)],
        [3, 4, 0, 0.1, 0],
        [1.5, 4, 1.5, 0.1, np.pi],
        [1.25, 2.5, 2.5, 1.25, along],
        [1, 2, 0.2, 0.2, 0],
        [1.25, 2.5, 2.5, 1.25, along],
    ]
    np.testing.assert_allclose(result.segment, expected, atol=1e-6)
    assert result.segment_type.tolist() == [1, 1, 1, 4, 6, 5]
    assert result.segment_road.tolist() == [5, 5, 5, 6, 7, 8]


def test_a_scene_may_have_no_roads():
    result = scene_from_scenario(scenario(AT_ORIGIN))
    assert result.segment.shape == (0, 5)
    assert len(result.segment_type) == len(result.segment_map_type) == len(result.segment_road) == 0


@pytest.mark.parametrize(
    ("name", "recording"),
    [
        ("tfrecord-00000-of-01000_4.json.gz", "classic_random__scene1.npz"),
        ("tfrecord-00002-of-01000_407.json.gz", "classic_random__scene3.npz"),
    ],
)
def test_segments_of_real_scenes_are_gpudrives(name, recording):
    golden = np.load(shared("golden", recording))
    x, y, half_length, half_width, _, heading, kind, road_id, map_type = golden["roadgraph"].T
    result = scene_from_scenario(real_scenario(name))
    assert result.segment_type.tolist() == kind.tolist()
    assert result.segment_road.tolist() == road_id.tolist()
    assert result.segment_map_type.tolist() == map_type.tolist()
    table = result.segment.astype(np.float64)
    table[:, :2] += result.origin - golden["world_mean"][:2]
    np.testing.assert_allclose(table[:, :4].T, [x, y, half_length, half_width], atol=1e-3)
    turn = wrapped(table[:, 4] - heading)
    assert np.abs(turn * half_length).max() < 1e-3  # a short segment's heading hangs on the rounding of its ends


# Which agents exist and which are controlled


MIXED = scene(
    car(0, 0, speed=10),
    car(0, 10),  # parked
    car(0, 20, speed=10, role=Role.MARK_AS_EXPERT | Role.TRACK_TO_PREDICT),
    car(0, 30, speed=10, type=AgentType.PEDESTRIAN, role=Role.TRACK_TO_PREDICT),
    car(0, 40, speed=10, type=AgentType.CYCLIST),
    car(0, 50, speed=10, valid=valid_only(5, 6), role=Role.TRACK_TO_PREDICT),  # appears later
    car(0, 60, speed=10, type=AgentType.OTHER),
    car(0, 70, speed=0.19, role=Role.TRACK_TO_PREDICT),  # 0.19 m in a second: parked
    car(0, 80, speed=0.21, role=Role.TRACK_TO_PREDICT),
    car(0, 90, valid=valid_only()),  # never there
)


@pytest.mark.parametrize(
    ("selection", "exist", "controlled", "parked"),
    [
        (Selection(), [0, 1, 2, 6, 7, 8], [0, 6, 8], [1, 7]),
        (Selection(init_mode="all_valid"), [0, 1, 2, 6, 7, 8], [0, 1, 6, 7, 8], []),
        (Selection(remove_non_vehicles=False), [0, 1, 2, 3, 4, 6, 7, 8], [0, 3, 4, 6, 8], [1, 7]),
        # as recorded from GPUDrive: every type, parked ones too, whatever remove_non_vehicles says
        (Selection(init_mode="all_objects"), [0, 1, 2, 3, 4, 5, 6, 7, 8], [0, 1, 3, 4, 6, 7, 8], []),
        # exactly the tracks to predict that are there at the start, of whatever type, parked, or marked as expert
        (Selection(init_mode="womd_tracks_to_predict"), [0, 1, 2, 3, 6, 7, 8], [2, 3, 7, 8], [1]),
        (Selection(max_agents=4), [0, 1, 2, 6], [0, 6], [1]),
        (Selection(max_controlled=2), [0, 1, 2, 6, 7, 8], [0, 6], [1, 7]),
    ],
    ids=str,
)
def test_selection_of_agents(selection, exist, controlled, parked):
    chosen = select_agents(MIXED, selection)
    assert chosen.row.tolist() == exist
    assert chosen.row[chosen.controlled].tolist() == controlled
    assert chosen.row[chosen.parked].tolist() == parked


def test_worlds_name_their_controlled_agents():
    other = scene(car(0, 0), car(0, 10, speed=5))
    worlds = make_worlds([MIXED, other])
    assert worlds.num_agents == 8
    assert worlds.controlled.tolist() == [0, 3, 5, 7]
    assert worlds.controlled_agents() == [(0, 0), (0, 6), (0, 8), (1, 1)]


def test_worlds_need_scenes_of_one_length():
    with pytest.raises(ValueError, match="no scene to simulate"):
        make_worlds([])
    with pytest.raises(ValueError, match="different numbers of steps"):
        make_worlds([MIXED, scene(car(steps=STEPS + 1))])


def test_real_scenes_have_the_known_number_of_controlled_vehicles():
    assert sum(select_agents(s, Selection()).controlled.sum() for s in real_scenes()) == 172


def test_scenes_equal_sees_a_single_bit():
    segment = MIXED.segment
    assert scenes_equal(MIXED, replace(MIXED, segment=segment.copy()))
    log = MIXED.log.copy()
    log[3, 2, 1] = np.nextafter(log[3, 2, 1], np.float32(99))
    assert not scenes_equal(MIXED, replace(MIXED, log=log))
