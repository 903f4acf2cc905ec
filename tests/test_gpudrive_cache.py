"""The files that GPUDrive reads: they give the scene back, fit the reader, and are made once."""

import re
from dataclasses import replace

import numpy as np
import pytest
from scenes import car, real_scenes, road, scenario, scene, wrapped

from gail_cli.pipeline.export.gpudrive_cache import MAX_POINTS, SceneCache, cache_folder, gpudrive_scenario, misfits
from gail_cli.pipeline.readers import gpudrive_json
from gail_cli.sim.config import Selection
from gail_cli.sim.scenario import AgentType, RoadType, SceneError
from gail_cli.sim.scene import Role, scene_from_scenario
from gail_cli.sim.worlds import select_agents


@pytest.fixture
def cache(tmp_path):
    return SceneCache(tmp_path / "scenes")


def turned(points, angle):
    c, s = np.cos(angle), np.sin(angle)
    return np.asarray(points) @ np.array([[c, s], [-s, c]])


def winding(points, x=0.0):
    t = np.arange(points) * 0.5
    return np.stack([x + t, 8 * np.sin(t / 5)], axis=1)


def rectangle(length, width, angle, x, y):
    return turned([[0, 0], [length, 0], [length, width], [0, width]], angle) + np.array([x, y])


LONG = winding(2 * MAX_POINTS, -900)
ROADS = [
    road(RoadType.ROAD_EDGE, winding(40), 7),
    road(RoadType.ROAD_EDGE, winding(40)[-1] + [[0, 0], [3, 1]], 8),  # begins where the one before ends
    road(RoadType.LANE, [[0, 5], [10, 5], [10, 5], [20, 6]], 9),  # with a point that is there twice
    road(RoadType.LANE, [[40, 5], [50, 5]], 9),  # the same number again, elsewhere
    road(RoadType.ROAD_LINE, LONG, -3),
    road(RoadType.CROSSWALK, rectangle(12, 3, 0.7, 5, -20), 10),
    road(RoadType.CROSSWALK, rectangle(5, 5, 0.2, 25, -20), 11),
    road(RoadType.SPEED_BUMP, rectangle(2, 0.5, -2.0, 60, 0), 12),
    road(RoadType.STOP_SIGN, [[15, 15]], 13),
    *(road(RoadType.CROSSWALK, rectangle(5, 5, angle, -300, 9 * angle), 14) for angle in np.linspace(-3, 3, 20)),
]


FEW_ROADS = [r for r in ROADS if len(r.points) < 100 and r.id != 14]


def far_scene(origin=(8500.0, -12300.0), roads=ROADS):
    """Every kind of road and of agent, far from the origin of the log."""
    t = np.arange(91) * 0.1
    starts = ((0, 0, 5), (20, 3, 0), (40, -3, 9), (60, 3, 7))
    straight = [np.stack([x + v * t, np.full(91, y)], 1) for x, y, v in starts]
    valid = np.ones((4, 91), bool)
    valid[2, 30:40] = False
    logged = scenario(
        np.array(straight) + np.array(origin),
        [replace(r, points=r.points + np.array([*origin, 2.0])) for r in roads],
        valid,
        heading=np.full((4, 91), 0.1, np.float32),
        velocity=np.tile(np.float32([5, 0.5]), (4, 91, 1)),
        mark_as_expert=np.array([False, False, True, True]),
        type=np.array([AgentType.VEHICLE, AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.VEHICLE], np.int8),
        sdc_index=3,
        tracks_to_predict=np.array([0]),
        difficulty=np.array([1]),
        objects_of_interest=np.array([102]),
    )
    return scene_from_scenario(logged, simplify=0)


def assert_gives_the_scene_back(original, chosen, cache, metres=1e-4):
    """Whoever reads the file makes the same segments, tracks, roles and selection of it, in the scene's own frame."""
    logged = gpudrive_json.read(str(cache(original, chosen)))
    assert logged.repairs == ()
    again = scene_from_scenario(logged, simplify=0)
    rows = chosen.row
    assert np.array_equal(again.agent_id, np.arange(len(rows)))  # the order of the simulator is that of the file
    for name in ("agent_type", "agent_size", "valid"):
        assert np.array_equal(getattr(again, name), getattr(original, name)[rows]), name
    log = again.log.astype(np.float64)
    log[again.valid, :2] += again.origin
    assert np.abs(log - original.log[rows]).max() < metres / 10
    kept = Role.SDC | Role.TRACK_TO_PREDICT | Role.OBJECT_OF_INTEREST
    assert np.array_equal(again.agent_role & kept, original.agent_role[rows] & kept)
    marked = again.agent_role & Role.MARK_AS_EXPERT > 0
    assert np.array_equal(marked, ~chosen.controlled & ~chosen.parked)

    for name in ("segment_type", "segment_map_type"):
        assert np.array_equal(getattr(again, name), getattr(original, name)), name
    assert np.array_equal(again.segment_road, original.segment_road % 2**32)
    segment = again.segment.astype(np.float64)
    segment[:, :2] += again.origin
    assert np.abs(segment - original.segment)[:, :4].max() < 2 * metres
    ends = np.abs(wrapped(segment[:, 4] - original.segment[:, 4])) * original.segment[:, 2]
    assert ends.max() < metres


@pytest.mark.parametrize("mode", ["all_non_trivial", "all_objects"])
def test_a_file_gives_its_scene_back(mode, cache):
    original = far_scene()
    chosen = select_agents(original, Selection(mode))
    assert len(chosen.row) == {"all_non_trivial": 3, "all_objects": 4}[mode]
    assert_gives_the_scene_back(original, chosen, cache)
    few = replace(chosen, controlled=np.zeros_like(chosen.controlled))
    assert_gives_the_scene_back(original, few, cache)


def test_files_of_real_scenes_give_them_back(cache):
    for original in real_scenes():
        assert_gives_the_scene_back(original, select_agents(original, Selection(max_agents=64)), cache)


def test_polylines_are_whole_unless_too_long():
    roads = gpudrive_scenario(far_scene(), select_agents(far_scene(), Selection())).roads
    assert [len(r.points) for r in roads] == [40, 2, 4, 2, MAX_POINTS, MAX_POINTS, 2, 4, 4, 4, 1] + 20 * [4]
    np.testing.assert_allclose(np.diff(roads[0].points[:, :2], axis=0), np.diff(winding(40), axis=0), atol=1e-4)
    assert [r.id for r in roads[4:7]] == [2**32 - 3] * 3


def test_a_file_is_made_once_and_named_by_what_is_in_it(cache):
    original = far_scene()
    chosen = select_agents(original, Selection())
    path = cache(original, chosen)
    path.write_text("kept")
    assert cache(original, chosen) == path
    assert path.read_text() == "kept"
    others = [
        (original, select_agents(original, Selection("all_objects"))),
        (original, replace(chosen, controlled=~chosen.controlled)),
        (replace(original, id="other"), chosen),
        (replace(original, log=original.log + np.float32(1e-5)), chosen),
        (replace(original, segment=original.segment + np.float32(1e-5)), chosen),
    ]
    assert len({path, *(cache(*other) for other in others)}) == 6
    assert len(list(cache.folder.iterdir())) == 6


def test_a_file_that_could_not_be_written_leaves_nothing(cache, monkeypatch):
    def full(scenario, path):
        (cache.folder / path).write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gpudrive_json, "write", full)
    with pytest.raises(OSError, match="No space"):
        cache(far_scene(), select_agents(far_scene(), Selection()))
    assert list(cache.folder.iterdir()) == []


def test_the_cache_lies_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GAIL_CLI_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "gail-cli"
    monkeypatch.setenv("XDG_CACHE_HOME", "/a")
    assert str(cache_folder()) == "/a/gail-cli"
    monkeypatch.setenv("GAIL_CLI_CACHE", "/b")
    assert str(cache_folder()) == "/b"


def many(count, steps=91, segments=((RoadType.LANE, 0, 0, 1, 0.1, 0),)):
    return scene(*(car(0, 10.0 * i, speed=5, steps=steps) for i in range(count)), segments=segments, name="big")


def segments(count, kind=RoadType.LANE):
    """As many map features of one segment, all apart from each other."""
    return [(kind, 0, 10.0 * i, 1, 0.1, 0) for i in range(count)]


def one_road(count):
    long = many(1, segments=[(RoadType.LANE, 2.0 * i, 0, 1, 0.1, 0) for i in range(count)])
    return replace(long, segment_road=np.zeros(count, np.int64))


@pytest.mark.parametrize(
    ("original", "reason"),
    [
        (many(65), "65 agents exist, at least 1 and at most 64 can"),
        (many(1, segments=segments(957)), "957 map features, more than 956"),
        (many(1, steps=90), "it has 90 steps, not 91"),
        (many(1, segments=()), "0 road segments, at least 1 and at most 10000 can be"),
        (one_road(10_001), "10001 road segments, at least 1 and at most 10000 can be"),
    ],
    ids=["agents", "roads", "steps", "no road", "segments"],
)
def test_what_the_reader_cannot_hold_is_refused_before(original, reason, cache):
    chosen = select_agents(original, Selection())
    assert reason in " ".join(misfits(original, chosen))
    with pytest.raises(SceneError, match=re.escape(f"scene 'big': GPUDrive cannot hold it: {reason}")):
        cache(original, chosen)
    assert not cache.folder.exists()


def test_what_the_reader_can_just_hold_is_not_refused():
    fits = many(64, segments=segments(956))
    assert misfits(fits, select_agents(fits, Selection())) == []
    assert misfits(one_road(10_000), select_agents(one_road(10_000), Selection())) == []
