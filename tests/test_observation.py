from dataclasses import replace

import numpy as np
import pytest
import sight
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import car, random_scene, scene, valid_only, wrapped

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.scenario import RoadType
from gail_cli.sim.scene import Role
from gail_cli.sim.worlds import make_worlds

EVERYONE = Selection(init_mode="all_objects")
LAYOUTS = [
    ObservationConfig(),
    ObservationConfig(partners=3, road_segments=5, radius=30.0, lights=9),
    ObservationConfig(partners=4, road_segments=10, radius=40.0, road_order="first", lights=0, near=False, route=False),
    ObservationConfig(partners=2, road_segments=9, road_order="ahead", rays=False, goal="none", time_left=False),
    ObservationConfig(partners=2, road_segments=3, goal="none", near=False, danger=False),
    ObservationConfig.gpudrive(),
    ObservationConfig(
        "gpudrive", partners=3, road_segments=7, radius=25.0, road_order="nearest", rays=True, danger=True
    ),
]


def name(config):
    shown = [name for name in ("near", "rays", "danger", "route") if getattr(config, name)]
    return "-".join([config.layout, str(config.partners), config.road_order, f"goal {config.goal}", *shown])


def in_frame_of(ego, x, y):
    """Vectors of the world in the frame of an agent that looks along its heading."""
    c, s = np.cos(ego[2]), np.sin(ego[2])
    return np.array([c * x + s * y, c * y - s * x])


def expected_observation(s, states, present, me, step, time_left, config, collided=False):
    """The layout in float64, with partners and segments found by brute force."""
    route = None if s.agent_role[me] & Role.MARK_AS_EXPERT else sight.route_of(s, me)
    ego, length, width = states[me], s.agent_size[:, 0], s.agent_size[:, 1]
    size = s.agent_size.astype(np.float64)
    gpudrive, radius = config.layout == "gpudrive", config.radius
    last = [np.flatnonzero(v).max(initial=0) for v in s.valid]
    goal = s.log[me, last[me], :2].astype(np.float64) - ego[:2]
    gx, gy = in_frame_of(ego, *goal)
    shown = (gx, gy) if config.goal == "point" else None
    speed, distance = np.hypot(states[:, 3], states[:, 4]), np.hypot(*goal)
    if gpudrive:
        first = [speed[me] / 100, 0.7 * length[me] / 30, 0.7 * width[me] / 15, gx / 1000, gy / 1000, collided]
    else:
        pace = min(distance / max(time_left, 0.1) / 20, 2)
        goal_fields = np.array([gx / 50, gy / 50, distance / 50, pace]) * (config.goal == "point")
        first = [speed[me] / 20, length[me] / 10, width[me] / 5, *goal_fields, time_left / 9]
        if not config.time_left:
            first[6:] = [0, 0]
        if config.near:
            first += sight.near_ego(shown, speed[me], time_left if config.time_left else None)
    around = sight.Around(s, states, present, me, radius)
    if config.rays:
        first = [*first, *sight.ray_fields(around, radius)]
    if config.danger:
        first = [*first, *sight.danger_fields(around, radius, shown)]
    if config.route:
        first = [*first, *sight.route_fields(route, ego)]

    partners = np.zeros((config.partners, len(config.partner_fields)))
    away = np.hypot(*(states[:, :2] - ego[:2]).T)
    seen = [j for j in range(len(states)) if j != me and present[j] and away[j] <= radius]
    if not gpudrive:
        seen.sort(key=lambda j: away[j])
    elif not present[me]:
        seen = []  # only those sent to the same far place as itself, see test_env.py
    for k, j in enumerate(seen[: config.partners]):
        x, y = in_frame_of(ego, *(states[j, :2] - ego[:2]))
        turn = states[j, 2] - ego[2]
        if gpudrive:
            turn = wrapped(turn) / 2 / np.pi
            partners[k] = [speed[j] / 100, x / 1000, y / 1000, turn, 0.7 * length[j] / 30, 0.7 * width[j] / 15]
        else:
            vx, vy = in_frame_of(ego, *(states[j, 3:] - ego[3:]))
            partners[k, :8] = [
                length[j] / 10, width[j] / 5, x / radius, y / radius, np.cos(turn), np.sin(turn), vx / 20, vy / 20,
            ]  # fmt: skip
            if config.near:
                near = sight.near_partner(np.array([x, y]), np.array([vx, vy]), turn, size[j], size[me])
                partners[k, 8:] = near

    roads = np.zeros((config.road_segments, len(config.road_fields)))
    found = []
    for number, (x, y, half, half_width, heading) in enumerate(s.segment.astype(np.float64)):
        direction = np.array([np.cos(heading), np.sin(heading)])
        to_middle = np.array([x, y]) - ego[:2]
        along = np.clip(-to_middle @ direction, -half, half)
        by = along if config.road_order in ("nearest", "ahead") else 0
        d = np.hypot(*(to_middle + by * direction))
        if d > radius:
            continue
        if config.road_order == "ahead":
            ahead, left = in_frame_of(ego, *(to_middle + by * direction))
            d = np.hypot(ahead / 3 if ahead > 0 else 2 * ahead, left)
        turn, kind = heading - ego[2], s.segment_type[number]
        if gpudrive:
            x, y = in_frame_of(ego, *to_middle)
            height = 1.0 if kind == RoadType.STOP_SIGN else 0.1
            fields = [x / 1000, y / 1000, half / 100, half_width / 100, height / 100, wrapped(turn) / 2 / np.pi]
        else:
            x, y = in_frame_of(ego, *(to_middle + along * direction))
            ahead, behind = (half - along) / radius, (half + along) / radius
            fields = [x / radius, y / radius, np.cos(turn), np.sin(turn), ahead, behind]
            fields += [*sight.near_road(np.array([x, y]), size[me])] if config.near else []
        found.append((d, [*fields, *np.eye(7)[kind]]))
    if config.road_order in ("nearest", "ahead"):
        found.sort(key=lambda pair: pair[0])
    roads[:, -7] = 1
    for k, (_, row) in enumerate(found[: config.road_segments]):
        roads[k] = row
    return np.concatenate([first, partners.ravel(), roads.ravel(), expected_lights(s, ego, step, config).ravel()])


def expected_lights(s, ego, step, config):
    """The block of lights: those ahead for the agent's way by their distance, then the others."""
    found, kinds = [], {1: 0, 4: 0, 7: 0, 2: 1, 5: 1, 8: 1, 3: 2, 6: 2, 0: 3}
    for lane, states, stop in zip(s.light_lane, s.light_state, s.light_stop_point.astype(np.float64), strict=True):
        x, y = in_frame_of(ego, *(stop - ego[:2]))
        if states[step] < 0 or np.hypot(x, y) > config.radius:
            continue
        known = lane < len(s.segment) and s.segment_type[lane] == RoadType.LANE
        turn = s.segment[lane, 4] - ego[2] if known else None
        direction = [np.cos(turn), np.sin(turn)] if known else [0, 0]
        first = x >= 0 and (not known or np.cos(turn) > 0.5)
        row = [x / config.radius, y / config.radius, *direction, *np.eye(4)[kinds[states[step]]]]
        found.append(((not first, np.hypot(x, y)), row))
    found.sort(key=lambda pair: pair[0])
    lights = np.zeros((config.lights, len(config.light_fields)))
    for k, (_, row) in enumerate(found[: config.lights]):
        lights[k] = row
    return lights


def observe(s, config, step, collided=None):
    """What all agents of a scene see at a step of their log, one second before the end."""
    worlds = make_worlds([s], selection=EVERYONE)
    agents = torch.arange(worlds.num_agents, dtype=torch.int32)
    left = torch.ones(worlds.num_agents)
    return Observer(worlds, config).observe(
        worlds.log[:, step].contiguous(), worlds.valid[:, step].contiguous(), agents, left,
        torch.full_like(agents, step), collided,
    )  # fmt: skip


@pytest.mark.parametrize("config", LAYOUTS, ids=name)
@settings(max_examples=8)
@given(seed=st.integers(0, 99), step=st.integers(0, 10))  # none of them has two segments that rounding could swap
def test_agrees_with_brute_force_in_float64(config, seed, step):
    s = random_scene(seed)
    collided = torch.arange(s.num_agents) % 2 == 0
    actual = observe(s, config, step, collided).numpy()
    states = s.log[:, step].astype(np.float64)
    for me in range(s.num_agents):
        expected = expected_observation(s, states, s.valid[:, step], me, step, 1.0, config, me % 2 == 0)
        np.testing.assert_allclose(actual[me], expected, atol=1e-5, err_msg=f"agent {me}")


def test_sizes_and_names_fit_the_vector():
    assert ObservationConfig.gpudrive().size == 2984
    for config in LAYOUTS:
        ego, partners, roads, lights = config.split(torch.arange(config.size))
        assert ego.shape == (len(config.ego_fields),)
        assert partners.shape == (config.partners, len(config.partner_fields))
        assert roads.shape == (config.road_segments, len(config.road_fields))
        assert lights.shape == (config.lights, len(config.light_fields))
        blocks = [ego, partners.flatten(), roads.flatten(), lights.flatten()]
        assert torch.cat(blocks).tolist() == list(range(config.size))


def test_entity_layout_by_hand():
    """A car at (10, 0) looks along +y at 5 m/s; one beside it to the right, an edge ahead, a lane too far away."""
    me = car(10, 0, np.pi / 2, speed=5)
    other = car(14, 0, np.pi, speed=2, size=(5, 2.5, 2))
    edge, lane = (RoadType.ROAD_EDGE, 10, 20, 4, 0.1, 0), (RoadType.LANE, 10, 70, 9, 0.1, np.pi / 2)
    config = ObservationConfig(partners=2, road_segments=2, lights=2, near=False, rays=False, danger=False, route=False)
    ego, *blocks = config.split(observe(scene(me, other, segments=[edge, lane]), config, 0)[0])
    partners, roads, lights = blocks
    torch.testing.assert_close(ego, torch.tensor([0.25, 0.4, 0.4, 0.1, 0, 0.1, 0.25, 1 / 9]))
    # its heading is a quarter turn to the left; it comes nearer by 2 m/s and falls back by 5 m/s
    torch.testing.assert_close(partners[0], torch.tensor([0.5, 0.5, 0, -0.08, 0, 1, -0.25, 0.1]))
    torch.testing.assert_close(roads[0], torch.tensor([0.4, 0, 0, -1, 0.08, 0.08, 0, 1, 0, 0, 0, 0, 0]))
    assert not partners[1].any()
    torch.testing.assert_close(roads[1], torch.eye(13)[6])
    assert not lights.any()
    assert [x.tolist() for x in config.present(*blocks)] == [[True, False], [True, False], [False, False]]


def test_gpudrive_layout_by_hand():
    me, sign = car(10, 0, np.pi / 2, speed=5), (RoadType.STOP_SIGN, 10, 20, 0.2, 0.2, 0)
    config = ObservationConfig.gpudrive()
    collided = torch.tensor([True, False])
    observation = observe(scene(me, car(14, 0, np.pi, speed=2), segments=[sign]), config, 0, collided)
    ego, partners, roads, lights = config.split(observation[0])
    torch.testing.assert_close(ego, torch.tensor([0.05, 2.8 / 30, 1.4 / 15, 0.005, 0, 1]))
    torch.testing.assert_close(partners[0], torch.tensor([0.02, 0, -0.004, 0.25, 2.8 / 30, 1.4 / 15]))
    sign = torch.tensor([0.02, 0, 0.002, 0.002, 0.01, -0.25, 0, 0, 0, 0, 0, 0, 1])
    torch.testing.assert_close(roads[0], sign)
    assert config.hidden_from_discriminator == (5,)
    assert [int(x.sum()) for x in config.present(partners, roads, lights)] == [1, 1, 0]


def test_first_order_takes_the_map_order_and_nearest_the_nearest():
    far, near = (RoadType.LANE, 30, 0, 1, 0.1, 0), (RoadType.ROAD_EDGE, 5, 0, 1, 0.1, 0)
    s = scene(car(), segments=[far, near])
    for order, kind in (("first", RoadType.LANE), ("nearest", RoadType.ROAD_EDGE)):
        config = ObservationConfig(road_segments=1, road_order=order)
        assert config.split(observe(s, config, 0))[2][0, 0, -7:].argmax() == kind


def test_segments_equally_far_come_in_map_order():
    """Four around a car at 8 m, on which nothing is rounded, and two nearer ones."""
    kinds = [RoadType.LANE, RoadType.CROSSWALK, RoadType.ROAD_EDGE, RoadType.ROAD_LINE]
    around = [(k, *xy, 0, 0.1, 0) for k, xy in zip(kinds, [(8, 0), (-8, 0), (0, 8), (0, -8)], strict=True)]
    nearer = [(RoadType.SPEED_BUMP, 0, 4, 0, 0.1, 0), (RoadType.STOP_SIGN, 2, 0, 0, 0.1, 0)]
    for order in ("nearest", "nearest_midpoint"):
        config = ObservationConfig(road_segments=5, road_order=order)
        roads = config.split(observe(scene(car(), segments=[*around, *nearer]), config, 0))[2][0]
        assert roads[:, -7:].argmax(dim=1).tolist() == [RoadType.STOP_SIGN, RoadType.SPEED_BUMP, *kinds[:3]]


def test_the_radius_counts_a_long_segment_by_its_nearest_point():
    """Midpoint 60 m away, end 40 m away: ``nearest`` sees it, GPUDrive's rule does not."""
    s = scene(car(), segments=[(RoadType.LANE, 60, 0, 20, 0.1, 0)])
    for order, seen in (("first", False), ("nearest", True)):
        config = ObservationConfig(road_order=order)
        _, *blocks = config.split(observe(s, config, 0))
        assert config.present(*blocks)[1].any() == seen


@pytest.mark.parametrize("config", LAYOUTS, ids=name)
def test_tracks_at_a_step_look_as_the_simulator_does_there(config):
    """The sampler's path: with every agent driven along its log, expert and policy see the same bits."""
    worlds = make_worlds([random_scene(seed) for seed in range(3)], selection=EVERYONE)
    env = Env(worlds, ActionSpace.create("state", "continuous"), SimConfig(selection=EVERYONE), config)
    observer = Observer(worlds, config)
    agents = worlds.controlled.to(torch.int32)
    ends = worlds.tensors["last_valid"][worlds.controlled]
    driving = [i for i in range(config.size) if i not in config.hidden_from_discriminator]
    for step in range(worlds.num_steps):
        acted = env.alive()
        observation = env.step(worlds.log[worlds.controlled, step]).observation if step else env.reset()
        left = (ends - step).clamp(min=0) * 0.1
        steps = torch.full_like(agents, step)
        sampled = observer.observe(worlds.log, worlds.valid, agents, left, step=steps)
        assert acted.any()
        assert torch.equal(sampled[acted][:, driving], observation[acted][:, driving])


def test_an_absent_agent_is_not_seen():
    s = scene(car(), car(5, 0, valid=valid_only(0, 2)))
    config = ObservationConfig(partners=1)
    for step, there in enumerate([True, False, True]):
        partners = config.split(observe(s, config, step)[0]).partners
        assert partners.any() == there


@pytest.mark.parametrize(
    "arguments",
    [{"partners": 0}, {"road_segments": 0}, {"radius": 0.0}, {"radius": np.nan}, {"layout": "x"}, {"road_order": "x"}],
    ids=str,
)
def test_settings_without_sense_are_refused(arguments):
    with pytest.raises(ValueError, match=f"for ObservationConfig\n{next(iter(arguments))}\n"):
        ObservationConfig(**arguments)


def test_near_fields_by_hand():
    """The scene of the layout's test again: 50 m/10 m ahead would be 5 m/s on average, which it has."""
    me = car(10, 0, np.pi / 2, speed=5)
    other = car(14, 0, np.pi, speed=2, size=(5, 2.5, 2))
    config = ObservationConfig(partners=1, road_segments=1, lights=0, rays=False, danger=False, route=False)
    edge = (RoadType.ROAD_EDGE, 10, 20, 4, 0.1, 0)
    ego, partners, roads, _ = config.split(observe(scene(me, other, segments=[edge]), config, 0)[0])
    log = sight.log_scale
    # its goal is 5 m ahead in 1 s at 5 m/s: no acceleration, no curvature
    expected = [log(5), 0, log(5), 0, 0, np.log(2) / 2]
    torch.testing.assert_close(ego[8:], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)
    # 4 m to the right, 5 m long across: 4 - 1 - 2.5; it comes nearer by 2 m/s and falls back by 5 m/s
    expected = [0, log(-4), log(0 - 2 - 1.25), log(4 - 1 - 2.5), log(-5), log(2), 0.5 / 2 / 4]
    torch.testing.assert_close(partners[0, 8:], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)
    expected = [log(20), 0, log(18), log(-1), log(18)]
    torch.testing.assert_close(roads[0, 6:11], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


@pytest.mark.parametrize("hidden", ["goal", "time left"])
def test_what_is_hidden_is_nowhere(hidden):
    """Another goal, or another time left, changes an observation that shows it, and none that does not."""
    s = random_scene(5)
    worlds = make_worlds([s], selection=EVERYONE)
    agents, state, present = torch.arange(s.num_agents, dtype=torch.int32), worlds.log[:, 0].clone(), worlds.valid[:, 0]

    def seen(config, left):
        return Observer(worlds, config).observe(state, present.clone(), agents, torch.full((len(agents),), left))

    plain = ObservationConfig()
    config = ObservationConfig(goal="none") if hidden == "goal" else ObservationConfig(time_left=False)
    before = [seen(c, 2.0) for c in (plain, config)]
    if hidden == "goal":
        elsewhere = worlds.tensors["goal"] + torch.tensor([5.0, -30.0])
        worlds = replace(worlds, tensors=worlds.tensors | {"goal": elsewhere})
    after = [seen(c, 2.0 if hidden == "goal" else 7.0) for c in (plain, config)]
    changed = before[0] != after[0]
    names = [name for k, name in enumerate(plain.ego_fields) if changed[:, k].any()]
    follows = ("arc", "lead", "route")  # from the goal, beyond what is named after it
    assert {name for name in names if not any(word in name for word in follows)} == {
        name
        for name in plain.ego_fields
        if hidden in name or name.startswith(("mean speed to the goal", "acceleration that the goal needs"))
    }
    assert any("arc" in name for name in names) == any("route" in name for name in names) == (hidden == "goal")
    assert not changed[:, len(plain.ego_fields) :].any()
    assert torch.equal(before[1], after[1])
    shown = config.ego_fields
    zeros = [k for k, name in enumerate(shown) if name in names and not any(word in name for word in follows)]
    assert zeros
    assert not after[1][:, zeros].any()


def test_settings_of_the_layout_and_of_earlier_versions():
    entity, gpudrive = ObservationConfig(), ObservationConfig("gpudrive")
    assert (entity.near, entity.rays, entity.danger, entity.route) == (True, True, True, True)
    assert (gpudrive.near, gpudrive.rays, gpudrive.danger, gpudrive.route) == (False, False, False, False)
    assert not any(ObservationConfig(goal="none", route=route).route for route in (None, True, False))
    assert [ObservationConfig(goal=goal).goal for goal in (True, False)] == ["point", "none"]
    with pytest.raises(ValueError, match="goal is none, but layout gpudrive always has it"):
        ObservationConfig("gpudrive", goal=False)
    with pytest.raises(ValueError, match="near is true, but layout gpudrive has no near fields"):
        ObservationConfig("gpudrive", near=True)
    with pytest.raises(ValueError, match="route is true, but layout gpudrive has no route"):
        ObservationConfig("gpudrive", route=True)
    assert ObservationConfig(near=False, rays=False, danger=False, route=False).size == 8 + 16 * 8 + 64 * 13 + 4 * 8
    assert len(entity.ego_fields) == 8 + 6 + 128 + 44 + 23
    assert len(set(entity.ego_fields)) == len(entity.ego_fields)


def test_ahead_sees_farther_where_one_goes():
    """27 m ahead counts 9 m, 4.4 m behind 8.8 m, 8 m to the side 8 m."""
    places = [(27, 0), (-4.4, 0), (0, 8)]
    segments = [(RoadType.LANE, x, y, 0, 0.1, 0) for x, y in places]
    for speed, ranks in ((5, [2, 1, 0]), (-5, [1, 2, 0])):  # backwards: 1.5 m behind, 54 m ahead
        config = ObservationConfig(road_segments=3, road_order="ahead", near=False)
        roads = config.split(observe(scene(car(speed=speed), segments=segments), config, 0))[2][0]
        expected = torch.tensor(places)[ranks] / 50
        torch.testing.assert_close(roads[:, :2], expected, atol=1e-6, rtol=0)
