import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scenes import car, real_scenes, scene, scenes_equal

from gail_cli.gail.demos.rules import DemoRules
from gail_cli.gail.demos.sampler import DemoSampler
from gail_cli.gail.evaluation.drivers import drive, expert_driver
from gail_cli.pipeline.experts.augment import (
    mirrored,
    mirrored_actions,
    piece,
    replayed,
    stretched,
    varied,
)
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.pipeline.experts.replay import make_experts
from gail_cli.pipeline.experts.starts import perturbed
from gail_cli.pipeline.export.gpudrive_cache import _num_roads
from gail_cli.pipeline.records import ABSENT, Demos, Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Role

LAYOUT = ObservationConfig(partners=4, road_segments=12)
SPACE = ActionSpace.create("classic")
KINDS = [("classic", "discrete"), ("bicycle", "continuous"), ("delta_local", "discrete")]


def record_of(store, scene=0):
    (record,) = store.read([scene])
    return record


def record_without_demos(scene):
    steps, none = scene.num_steps, np.zeros(0, np.int64)
    shapes = ((steps,), np.uint8), ((steps, 5), np.float32), ((steps, SPACE.components), np.int16), ((7,), np.float32)
    return Record(scene, Demos(none, *(np.zeros((0, *shape), kind) for shape, kind in shapes)))


def driven_by(record, space):
    """What the simulator makes of the recorded actions: tracks [N, T, 5], where driven [N, T], and the experts."""
    experts = make_experts([record], SimConfig())
    result = drive(Env(experts.worlds, space, SimConfig(), LAYOUT), expert_driver(experts))
    return result.track, result.driven, experts


def observed(record, space):
    """[N, D] what agents see at the start."""
    experts = make_experts([record], SimConfig())
    return Env(experts.worlds, space, SimConfig(), LAYOUT).reset().clone()


@pytest.mark.parametrize("kind", KINDS)
def test_mirrored_actions_drive_mirrored_tracks(make_store, kind):
    store = make_store(*kind, scenes=3)
    for index in range(3):
        record = record_of(store, index)
        track, driven, _ = driven_by(record, store.space)
        image, driven_too, experts = driven_by(mirrored(record, store.space), store.space)
        assert torch.equal(driven, driven_too)
        flipped = track * torch.tensor([1.0, -1, -1, 1, -1])
        assert (image - flipped)[driven][:, :2].norm(dim=1).max() < 1e-3
        state = experts.track[experts.worlds.controlled]
        assert (image - state)[driven][:, :2].norm(dim=1).max() < 1e-3


def test_a_mirror_image_is_seen_the_other_way_round(make_store):
    """y, what bends to the left and the sine of headings change their signs, what is to the left is to the right, road
    edges are seen turned round; all else stays."""
    store = make_store()
    record = record_of(store)
    seen, image = observed(record, store.space), observed(mirrored(record, store.space), store.space)
    (ego, partners, roads, _), (ego_, partners_, roads_, _) = LAYOUT.split(seen), LAYOUT.split(image)
    signed = {"goal y/50", "y/radius", "sin heading", "relative vy/20", "nearest y/radius", "goal y: log", "y: log",
              "curvature that the goal needs*5, at most 1", "relative vy: log", "nearest y: log"}  # fmt: skip
    other = {"left": "right", "right": "left"}

    def factors(names):
        return torch.tensor(
            [-1.0 if name in signed or re.match("route (offset|(in .*)?(y|sin))", name) else 1.0 for name in names]
        )

    sides = [re.sub("(?<!time )left|right", lambda side: other[side[0]], name) for name in LAYOUT.ego_fields]
    swapped = ego[:, [LAYOUT.ego_fields.index(name) for name in sides]]
    torch.testing.assert_close(ego_, swapped * factors(LAYOUT.ego_fields), atol=1e-4, rtol=0)
    torch.testing.assert_close(partners_, partners * factors(LAYOUT.partner_fields), atol=1e-5, rtol=0)
    edge = roads[..., LAYOUT.road_fields.index("road edge")] == 1
    there = roads[..., LAYOUT.road_fields.index("none")] == 0
    plain = there & ~edge
    assert edge.any()
    assert plain.any()
    torch.testing.assert_close(roads_[plain], (roads * factors(LAYOUT.road_fields))[plain], atol=1e-4, rtol=0)
    turned = roads[edge] * factors(LAYOUT.road_fields)
    names = list(LAYOUT.road_fields)
    cos, sin, ahead, behind = (names.index(n) for n in ("cos heading", "sin heading", "ahead/radius", "behind/radius"))
    turned[:, [cos, sin]] *= -1
    turned[:, [ahead, behind]] = turned[:, [behind, ahead]]
    torch.testing.assert_close(roads_[edge], turned, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mirror_image_of_a_mirror_image_is_the_thing(make_store, kind):
    store = make_store(*kind, scenes=3)
    record = record_of(store)
    again = mirrored(mirrored(record, store.space), store.space)
    turns = (again.scene.segment[:, 4] - record.scene.segment[:, 4]) / (2 * np.pi)
    np.testing.assert_allclose(turns, np.round(turns), atol=1e-6)
    same = replace(again.scene, segment=record.scene.segment)
    assert scenes_equal(same, record.scene)
    here = record.demos.mark != ABSENT
    assert np.array_equal(again.demos.action[here], record.demos.action[here])
    assert np.array_equal(again.demos.state, record.demos.state)


def test_an_uneven_grid_has_no_mirror_image():
    space = ActionSpace(ActionSpace.create("classic").dynamics, ((-1.0, 0.0, 1.0), (-0.1, 0.0, 0.3)))
    with pytest.raises(ValueError, match=r"the grid of steering .* is not symmetric; set augment\.mirror to 0"):
        mirrored_actions(np.zeros((1, 2), np.int64), space)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 80), length=st.integers(1, 40))
def test_a_piece_is_what_happened_then(make_store, first, length):
    store = make_store()
    record = record_of(store)
    last = min(first + length, store.steps - 1)
    part = piece(record, first, last)
    n = last - first + 1
    assert np.array_equal(part.scene.log[:, :n], record.scene.log[:, first : last + 1])
    assert not part.scene.valid[:, n:].any()
    assert part.scene.last_valid.max() <= n - 1
    where = {int(agent): row for row, agent in enumerate(record.demos.agent)}
    for row, agent in enumerate(part.demos.agent):
        old = where[int(agent)]
        assert np.array_equal(part.demos.state[row, :n], record.demos.state[old, first : last + 1])
        there = np.flatnonzero(part.demos.mark[row])
        assert there[0] == 0
        assert np.array_equal(part.demos.action[row, : there[-1]], record.demos.action[old, first : first + there[-1]])
        assert not part.demos.action[row, there[-1] :].any()
    still = np.linalg.norm(part.scene.goal - part.scene.log[:, 0, :2], axis=1) < 0.2  # PARKED_DISTANCE of GPUDrive
    assert np.array_equal(part.scene.agent_role & Role.PARKED > 0, still & part.scene.valid[:, 0])
    assert np.array_equal(part.scene.agent_role & Role.LATE > 0, ~part.scene.valid[:, 0])


def test_experts_drive_a_piece_as_they_drove_the_whole(make_store):
    """They begin on the log instead of where the replay was then, centimetres away."""
    store = make_store()
    track, driven, experts = driven_by(piece(record_of(store), 30, 70), store.space)
    assert driven.sum(dim=1).max() == 41
    state = experts.track[experts.worlds.controlled]
    assert (track - state)[driven][:, :2].norm(dim=1).mean() < 0.3


def test_steps_that_are_no_piece_are_refused(make_store):
    record = record_of(make_store())
    for first, last in ((5, 5), (-1, 5), (0, 91)):
        with pytest.raises(ValueError, match="are no piece of its 91"):
            piece(record, first, last)


def test_variants_are_as_often_whole_and_mirrored_as_asked(make_store):
    store = make_store()
    record, rng = record_of(store), np.random.default_rng(0)
    many = [varied(record, store.space, Augmentation(whole=0.25, stretch=1), rng).scene for _ in range(400)]
    whole = [np.array_equal(scene.valid, record.scene.valid) for scene in many]
    lane = record.scene.segment_type != RoadType.ROAD_EDGE  # edges change their order in the mirror
    flipped = [np.array_equal(scene.segment[lane, 1], -record.scene.segment[lane, 1]) for scene in many]
    assert abs(np.mean(whole) - 0.25) < 0.07
    assert abs(np.mean(flipped) - 0.5) < 0.08
    lengths = np.array([scene.last_valid.max() for scene, w in zip(many, whole, strict=True) if not w])
    assert lengths.min() >= 20
    assert lengths.max() <= 90
    plain = varied(record, store.space, Augmentation(whole=1, mirror=0), rng)
    assert plain is record


def test_variants_are_stretched_as_far_as_asked(make_store):
    """The map's two principal factors, from how its segments' middles moved, lie between the bounds, and near both
    of them at times; the whole scene keeps its map."""
    store = make_store()
    record, rng = record_of(store), np.random.default_rng(0)
    lane = record.scene.segment_type != RoadType.ROAD_EDGE
    before = record.scene.segment[lane, :2].astype(np.float64)
    factors = []
    for _ in range(200):
        scene = varied(record, store.space, Augmentation(whole=0.1, stretch=1.5), rng).scene
        matrix, *_ = np.linalg.lstsq(before, scene.segment[lane, :2].astype(np.float64), rcond=None)
        factors.append(np.linalg.svd(matrix, compute_uv=False))
        whole = np.array_equal(scene.valid, record.scene.valid)
        assert whole == np.allclose(factors[-1], 1, atol=1e-5)
    low, high = np.min(factors), np.max(factors)
    assert 1 / 1.5 - 1e-4 < low < 0.7
    assert 1.43 < high < 1.5 + 1e-4
    assert abs(np.mean(np.log(factors))) < 0.04


def test_stretching_by_hand(make_store):
    """Twice as far along x, half as far along y."""
    record = record_of(make_store())
    scene, image = record.scene, stretched(record, 0.0, 2.0, 0.5).scene
    x, y, heading, vx, vy = scene.log[scene.valid].T
    tangent = np.arctan2(0.5 * np.sin(heading), 2 * np.cos(heading))
    expected = np.stack([2 * x, y / 2, tangent, 2 * vx, vy / 2], axis=1)
    np.testing.assert_allclose(image.log[scene.valid], expected, rtol=1e-5, atol=1e-5)
    assert not image.log[~scene.valid].any()
    assert np.array_equal(image.agent_size, scene.agent_size)
    assert np.array_equal(image.segment[:, 3], scene.segment[:, 3])
    for sign in (-1, 1):  # both ends of all segments
        np.testing.assert_allclose(end(image, sign), end(scene, sign) * [2, 0.5], rtol=1e-4, atol=1e-3)


def end(scene, sign):
    """[S, 2] an end of each segment."""
    x, y, half, _, heading = scene.segment.astype(np.float64).T
    return np.stack([x + sign * half * np.cos(heading), y + sign * half * np.sin(heading)], axis=1)


def test_demos_that_no_car_could_follow_are_left_out(make_store):
    """Five times as far in the same time asks for five times the acceleration, more than the 4 m/s^2 there are; on the
    other hand, whoever drives at one speed can still be followed."""
    store = make_store(scenes=3)
    records = [stretched(record, 0.0, 5.0, 5.0) for record in store.read()]
    asked = left = 0
    for record, new in zip(records, replayed(records, store.space), strict=True):
        row = {int(agent): k for k, agent in enumerate(record.demos.agent)}
        kept = [row[int(agent)] for agent in new.demos.agent]
        there = new.demos.mark != ABSENT
        off = np.linalg.norm(new.demos.state[..., :2] - record.demos.state[kept][..., :2], axis=-1)
        assert ((off * there).sum(axis=1) / there.sum(axis=1)).max() <= 0.5
        lost = np.setdiff1d(np.arange(len(record.demos.agent)), kept)
        assert record.moving[lost].all()
        hardest = np.abs(np.diff(np.linalg.norm(record.demos.state[..., 3:], axis=-1), axis=1)) / 0.1
        hardest = np.where((record.demos.mark[:, 1:] & record.demos.mark[:, :-1]) > 0, hardest, 0)
        assert (np.sort(hardest[lost], axis=1)[:, -10:].mean(axis=1) > 4).all()
        asked, left = asked + record.moving.sum(), left + len(lost)
    assert 0 < left < asked


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(direction=st.floats(0, np.pi), along=st.floats(0.5, 2), across=st.floats(0.5, 2))
def test_stretching_and_squeezing_cancel(make_store, direction, along, across):
    record = record_of(make_store())
    back = stretched(stretched(record, direction, along, across), direction, 1 / along, 1 / across)
    for name in ("log", "segment", "light_stop_point"):
        before, after = (getattr(one.scene, name).astype(np.float64) for one in (record, back))
        turns = {"log": 2, "segment": 4}.get(name)
        if turns is not None:  # an angle may come back a whole turn away
            off = after[..., turns] - before[..., turns]
            assert np.abs(np.sin(off / 2)).max() < 1e-3
            before, after = np.delete(before, turns, -1), np.delete(after, turns, -1)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_demos_of_a_stretched_scene_are_driven_in_it(make_store, kind):
    """Their actions lead to their states, close to the stretched log; those of before lead elsewhere."""
    store = make_store(*kind, scenes=3)
    records = [stretched(record, 0.7, 1.4, 0.8) for record in store.read()]
    for record, new in zip(records, replayed(records, store.space), strict=True):
        assert not new.scene.log[~new.scene.valid].any()
        assert not record.demos.state[record.demos.mark == ABSENT].any()
        track, driven, experts = driven_by(new, store.space)
        controlled = experts.worlds.controlled
        state, log = experts.track[controlled], experts.worlds.log[controlled]
        there = driven & experts.worlds.valid[controlled]
        assert (track - state)[driven][:, :2].norm(dim=1).max() < 1e-3
        assert (track - log)[there][:, :2].norm(dim=1).mean() < 0.2
        stale, *_ = driven_by(record, store.space)
        assert (stale - log)[there][:, :2].norm(dim=1).mean() > 1
        assert np.array_equal(new.demos.quality, record.demos.quality)
        still = ~new.moving
        assert np.array_equal(new.demos.action[still], record.demos.action[still])


def test_who_begins_off_the_log(make_store):
    """Deviations are as large as told, ahead and aside of each agent's own heading; experts and others stay."""
    store, rng = make_store(), np.random.default_rng(0)
    record = record_of(store)
    agents = record.demos.agent[record.moving]
    many = [perturbed(record, 2.0, rng) for _ in range(2000)]
    begun = np.stack([one.scene.log[agents, 0] for one in many]).astype(np.float64)
    x, y, heading, vx, vy = record.scene.log[agents, 0].astype(np.float64).T
    dx, dy = begun[..., 0] - x, begun[..., 1] - y
    ahead, aside = np.cos(heading) * dx + np.sin(heading) * dy, np.cos(heading) * dy - np.sin(heading) * dx
    speed = np.hypot(vx, vy)
    fast = speed > 1
    faster = np.hypot(begun[..., 3], begun[..., 4])[:, fast] / speed[fast] - 1
    for found, size in ((ahead, 1.0), (aside, 0.6), (begun[..., 2] - heading, 0.06), (faster, 0.3)):
        np.testing.assert_allclose(found.std(axis=0), size, rtol=0.1)
        np.testing.assert_allclose(found.mean(axis=0), 0, atol=size / 8)
    others = np.setdiff1d(np.arange(record.scene.num_agents), agents)
    assert all(np.array_equal(one.scene.log[others], record.scene.log[others]) for one in many[:5])
    assert all(np.array_equal(one.scene.log[:, 1:], record.scene.log[:, 1:]) for one in many[:5])
    assert all(one.demos is record.demos for one in many[:5])
    assert np.array_equal(perturbed(record, 0.0, rng).scene.log[..., :3], record.scene.log[..., :3])


BAD = [
    ("perturb", -1.0),
    ("stretch", 0.9),
    ("stretch", 4.0),
    ("variants", 0),
    ("shortest", 0),
    ("whole", 1.5),
    ("mirror", -0.1),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_bad_settings_are_told(key, value):
    with pytest.raises(ValueError, match=f"for Augmentation\n{key}\n"):
        Augmentation(**{key: value})


def test_road_edges_keep_their_drivable_side(make_store):
    """In the mirror, a point to the left of an edge's direction is still to its left."""
    store = make_store()
    record = record_of(store)
    edge = record.scene.segment_type == RoadType.ROAD_EDGE

    def side(scene, points):
        x, y, _, _, heading = scene.segment[edge].T
        return np.sign(np.cos(heading) * (points[:, 1] - y) - np.sin(heading) * (points[:, 0] - x))

    points = record.scene.segment[edge][:, :2] + np.array([0.7, 1.9], np.float32)
    image = mirrored(record, store.space).scene
    rows = [np.flatnonzero(np.isclose(image.segment[edge, 0], x) & np.isclose(image.segment[edge, 1], -y)).tolist()
            for x, y in record.scene.segment[edge, :2]]  # fmt: skip
    there = np.array([row[0] for row in rows])
    moved = points[np.argsort(there)] * np.array([1, -1], np.float32)
    assert np.array_equal(side(record.scene, points)[np.argsort(there)], side(image, moved))


def test_road_edges_go_on_and_rise_in_the_mirror_as_they_did():
    """Two roads of three segments each along x, the first rising from 0 to 3 m; a line between them keeps its order."""
    pieces = [(RoadType.ROAD_EDGE, x, 1, 0.5, 0.1, 0.0) for x in (0, 1, 2)]
    line = [(RoadType.LANE, x, 2, 0.5, 0.1, 0.0) for x in (0, 1)]
    heights = np.array([[0, 1], [1, 2], [2, 3], [5, 6], [6, 7]], np.float32)
    plain = scene(car(speed=5), segments=[*pieces, *line], segment_z=heights)
    plain = replace(plain, segment_road=np.array([7, 7, 7, 8, 8]))
    image = mirrored(record_without_demos(plain), SPACE).scene
    assert image.segment[:, 0].tolist() == [2, 1, 0, 0, 1]
    assert image.segment[:, 1].tolist() == [-1, -1, -1, -2, -2]
    assert image.segment_z.tolist() == [[3, 2], [2, 1], [1, 0], [5, 6], [6, 7]]
    ahead = np.cos(image.segment[:, 4]) * image.segment[:, 2]
    ends, begins = image.segment[:, 0] + ahead, image.segment[:, 0] - ahead
    np.testing.assert_allclose(begins[1:3], ends[:2], atol=1e-6)


def test_a_mirror_image_has_as_many_map_features_in_gpudrive():
    for real in real_scenes()[:4]:
        assert _num_roads(mirrored(record_without_demos(real), SPACE).scene) == _num_roads(real)


def test_actions_drawn_from_variants_lead_to_what_is_seen_next(make_store):
    """In the classic model the speed a step later is v + a dt."""
    store = make_store()
    augment = Augmentation(variants=6, whole=0.2, stretch=1.5)
    sampler = DemoSampler(store, DemoRules(observation=LAYOUT, augment=augment), seed=3)
    try:
        batch = sampler.sample(2000, next_state=True)
    finally:
        sampler.close()
    k = LAYOUT.ego_fields.index("speed/20")
    speed, then = 20 * batch.observation[:, k], 20 * batch.next_observation[:, k]
    acceleration = torch.tensor(store.space.grid[0])[batch.action[:, 0].long()]
    onward = (speed > 1) & (batch.next_observation.abs().sum(dim=1) > 0) & ~batch.done
    assert onward.float().mean() > 0.5
    assert acceleration[onward].abs().max() > 1
    torch.testing.assert_close(then[onward], (speed + 0.1 * acceleration)[onward].float(), atol=2e-3, rtol=0)
