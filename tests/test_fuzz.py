"""Scenes that nobody would draw by hand: a clear refusal or a correct result, never a crash, a NaN or a hang."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scenes import STEPS, car, moved, random_scene, road, scenario, scene, valid_only

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import AgentType, RoadType, repaired
from gail_cli.sim.scene import Role, scene_from_scenario
from gail_cli.sim.worlds import REMOVED_POSITION, make_worlds

EVERYONE = Selection(init_mode="all_objects")
LOGGED = Role.MARK_AS_EXPERT
SELECTIONS = [Selection(), Selection(init_mode="all_valid", max_controlled=2), EVERYONE, Selection(max_agents=3)]
RULES = {
    "ignore": SimConfig(reward="weighted_combination"),
    "stop": SimConfig(on_collision="stop", on_goal="stop"),
    "remove": SimConfig(on_collision="remove", on_goal="remove", replay_lag=True),
    "outside": SimConfig(on_collision="remove", off_road="outside", box_scale=1.0, horizon=STEPS + 2),
    "gpudrive": SimConfig.gpudrive(),
    "gpudrive, stop": SimConfig.gpudrive("stop"),
}
LAYOUTS = {
    "entity": ObservationConfig(partners=3, road_segments=5, history=2),
    "entity, midpoints": ObservationConfig(partners=3, road_segments=5, road_order="nearest_midpoint", radius=1e5),
    "gpudrive": ObservationConfig("gpudrive", partners=3, road_segments=5, road_order="first", radius=30.0),
    "gpudrive, nearest": ObservationConfig("gpudrive", partners=3, road_segments=5),
}
SPACES = [
    *(ActionSpace.create(name, "continuous") for name in ("classic", "bicycle", "delta_local", "state")),
    *(ActionSpace.create(name, grid=grid) for name in ("classic", "delta_local") for grid in ("fine", "gpudrive")),
]
rules, layouts, selections = st.sampled_from(list(RULES)), st.sampled_from(list(LAYOUTS)), st.sampled_from(SELECTIONS)
spaces, seeds = st.sampled_from(SPACES), st.integers(0, 2**31)


# Scenes


def near(limit, *special):
    """Numbers of an interval, and some that are special."""
    return st.one_of(st.floats(-limit, limit), st.sampled_from([0.0, 1e-30, *special]))


places = near(40.0, 5.0, 5.0 + 2**-20, -1400.0, 1400.0)
headings = near(np.pi, np.pi, -np.pi, np.pi / 2)
lengths = st.one_of(st.floats(0.5, 6.0), st.sampled_from([1e-3, 4.0, 60.0]))
validity = st.one_of(
    st.just(np.ones(STEPS, bool)),
    st.sampled_from([valid_only(), valid_only(0), valid_only(STEPS - 1), valid_only(0, 5), valid_only(*range(4))]),
    hnp.arrays(np.bool_, STEPS),
)


@st.composite
def agents(draw):
    """An agent that stands, drives, or jumps about, at a place where others may be too."""
    size = draw(lengths), draw(lengths), 1.5
    kind, role = draw(st.sampled_from(AgentType)), draw(st.sampled_from([0, 0, LOGGED]))
    row = car(draw(places), draw(places), draw(headings), draw(st.sampled_from([0.0, 0.1, 10.0, 40.0])), size=size)
    if draw(st.booleans()):
        row.log[:, :2] += draw(hnp.arrays(np.float64, (STEPS, 2), elements=near(5.0)))
    return replace(row, type=kind, role=role, valid=draw(validity))


segments = st.tuples(
    st.integers(RoadType.ROAD_EDGE, RoadType.STOP_SIGN),
    places,
    places,
    st.one_of(st.floats(0, 30), st.sampled_from([0.0, 1e-6, 1000.0])),
    st.sampled_from([0.0, 0.1, 0.2, 8.0]),
    headings,
)
odd_scenes = st.builds(
    lambda rows, roads: scene(*rows, segments=roads),
    st.lists(agents(), min_size=1, max_size=6),
    st.lists(segments, max_size=8),
)


# Episodes


def simulator(scenes, how="ignore", layout="entity", space=SPACES[0], selection=EVERYONE):
    worlds = make_worlds(scenes, selection=selection)
    space = replace(space, reverse=space.reverse and RULES[how].compat is None)
    return Env(worlds, space, replace(RULES[how], selection=selection), LAYOUTS[layout])


def random_actions(env, seed, steps=STEPS, wild=True):
    """Actions [steps, N, K]; wild continuous ones are at the bounds, beyond them, or nothing a number can be."""
    space, generator = env.action_space, torch.Generator().manual_seed(seed)
    shape = steps, env.num_agents, space.components
    uniform = torch.rand(shape, generator=generator)
    if space.discrete:
        return (uniform * torch.tensor(space.sizes)).long()
    low, high = torch.tensor(space.bounds).clamp(-1e3, 1e3).T
    values = low + uniform * (high - low)
    if not wild:
        return values
    odd = torch.tensor([-1e6, 1e6, 0.0, 1e-40, torch.nan] + [-torch.inf, torch.inf] * bounded(space))
    chosen = odd[torch.randint(len(odd), shape, generator=generator)]
    return torch.where(torch.rand(shape, generator=generator) < 0.2, chosen, values)


def bounded(space):
    return bool(np.isfinite(space.bounds).all())


def seen_now(env, observation):
    """Everything that can be seen of the controlled agents at a moment, as copies."""
    return observation.clone(), env.states().clone(), env.events().clone(), env.alive().clone()


def seen_after(env, action):
    step = env.step(action)
    return *seen_now(env, step.observation), step.reward.clone(), step.terminated.clone(), step.truncated.clone()


def roll(env, actions):
    return [seen_now(env, env.reset()), *(seen_after(env, action) for action in actions)]


def rows_of(env):
    """The controlled agents of each world."""
    of = env.worlds.tensors["world"][env.worlds.controlled]
    return [(of == w).nonzero().flatten() for w in range(env.worlds.num_worlds)]


def of_agents(history, rows):
    return [[value[rows] for value in now] for now in history]


def assert_same(history, other):
    """To the last bit."""
    for now, then in zip(history, other, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(now, then, strict=True))


def check_episode(env, actions):
    """An episode with finite numbers and flags that fit each other; nobody acts after the end."""
    observation, _, events, alive = seen_now(env, env.reset())
    assert observation.isfinite().all()
    assert not events[:, Event.GOAL].any()
    for action in actions:
        step, acted = env.step(action), alive
        alive = env.alive()
        for numbers in (step.observation, step.reward, *env.everyone()):
            assert numbers.isfinite().all()
        assert not (step.terminated & step.truncated).any()
        assert torch.equal(acted & ~alive, step.terminated | step.truncated)
        assert torch.equal(step.alive, alive)
        assert not (alive & ~acted).any()
        assert step.events[step.terminated].any(dim=1).all()
        assert not (step.terminated.any() and env.config.on_collision == env.config.on_goal == "ignore")
        assert torch.equal(step.events, env.events())
    if len(actions) >= env.horizon:
        assert not alive.any()


# What is right


@settings(max_examples=30)
@given(scenes=st.lists(odd_scenes, min_size=1, max_size=3), how=rules, layout=layouts, selection=selections,
       space=spaces, seed=seeds)  # fmt: skip
def test_any_scene_gives_whole_episodes_of_finite_numbers(scenes, how, layout, selection, space, seed):
    env = simulator(scenes, how, layout, space, selection)
    check_episode(env, random_actions(env, seed, steps=env.horizon + 1))
    assert env.reset().isfinite().all()


def boxes(middle, heading, half):
    """Corners [n, 4, 2] and directions of the sides [n, 2, 2] of boxes, in float64."""
    c, s = np.cos(heading), np.sin(heading)
    sides = np.stack([np.stack([c, s], -1), np.stack([-s, c], -1)], 1)
    return middle[:, None] + np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * half[:, None] @ sides, sides


def gaps(a, b):
    """[n, m] widest gap (m) between boxes along one of their sides, negative where they overlap."""

    def along(a, b):
        mine = np.einsum("nsk,nck->nsc", a[1], a[0])[:, None]
        others = np.einsum("nsk,mck->nmsc", a[1], b[0])
        return np.maximum(others.min(-1) - mine.max(-1), mine.min(-1) - others.max(-1)).max(-1)

    return np.maximum(along(a, b), along(b, a).T)


def world_now(env, w):
    """What brute force needs of a world: rows of its agents, their states, and its segments, in float64."""
    tensors = env.worlds.tensors
    rows = (tensors["world"] == w).numpy()
    state, present = env.everyone()
    agents = {name: tensors[name].numpy()[rows] for name in ("size", "type", "parked", "slot")}
    s = env.worlds.scenes[w]
    return (
        agents,
        state.numpy()[rows].astype(np.float64),
        present.numpy()[rows],
        s.segment.astype(np.float64),
        s.segment_type,
    )


def expected_events(env, w):
    """Off-road, vehicle, other [n, 3] of the controlled agents of a world, and whether each is no close call."""
    agents, state, present, segment, kind = world_now(env, w)
    half = 0.5 * env.config.box_scale * agents["size"][:, :2].astype(np.float64)
    me = boxes(state[:, :2], state[:, 2], half)
    gap = gaps(me, me)
    gap[~present] = gap[:, ~present] = np.inf
    gap[agents["parked"][:, None] & agents["parked"]] = np.inf
    np.fill_diagonal(gap, np.inf)
    road = gaps(me, boxes(segment[:, :2], segment[:, 4], segment[:, 2:4]))
    is_vehicle = agents["type"] == AgentType.VEHICLE
    solid = (kind == RoadType.STOP_SIGN) | ((kind == RoadType.ROAD_EDGE) & is_vehicle[:, None])
    if env.config.compat:  # there, others than vehicles, pedestrians and cyclists touch all
        solid |= ~np.isin(agents["type"], [AgentType.VEHICLE, AgentType.PEDESTRIAN, AgentType.CYCLIST])[:, None]
    road[~solid | ~present[:, None] | agents["parked"][:, None]] = np.inf
    by_kind = [road, np.where(is_vehicle, gap, np.inf), np.where(is_vehicle, np.inf, gap)]
    nearest = np.stack([g.min(axis=1, initial=np.inf) for g in by_kind], -1)
    clear = (np.abs(nearest) > 2e-3).all(-1)
    own = agents["slot"] >= 0
    return nearest[own] < 0, clear[own]


def expected_distances(env, w, agent):
    """Distances of the partners and of the segments that an agent sees, in their order, and whether none is a close
    call. Of GPUDrive's layout the first ones, by their midpoints; of the other the nearest ones."""
    layout = env.observation_config
    agents, state, present, segment, _ = world_now(env, w)
    me = np.flatnonzero(agents["slot"] >= 0)[agent]
    if layout.layout == "gpudrive" and not present[me]:
        present = state[:, 0] == REMOVED_POSITION  # who is gone there sees the others who are
    present[me] = False
    away = np.hypot(*(state[present, :2] - state[me, :2]).T)
    to = segment[:, :2] - state[me, :2]
    if layout.layout == "entity":
        along = np.stack([np.cos(segment[:, 4]), np.sin(segment[:, 4])], -1)
        to -= np.clip((to * along).sum(-1), -segment[:, 2], segment[:, 2])[:, None] * along
    road = np.hypot(*to.T)
    clear = (np.abs(np.concatenate([away, road]) - layout.radius) > 0.01).all()
    seen = [d[d < layout.radius] for d in (away, road)]
    if layout.layout == "entity":
        seen = [np.sort(d) for d in seen]
    return seen[0][: layout.partners], seen[1][: layout.road_segments], clear


def seen_distances(layout, observation):
    """The same, as it stands in an observation [D]."""
    _, *blocks = layout.split(observation)
    scale = layout.radius if layout.layout == "entity" else 1000.0
    column = layout.partner_fields.index("x/radius" if layout.layout == "entity" else "x/1000")
    places = blocks[0][:, column : column + 2], blocks[1][:, :2]
    present = layout.present(*blocks)[:2]
    return [place[there].norm(dim=-1) * scale for place, there in zip(places, present, strict=True)]


@settings(max_examples=40)
@given(scenes=st.lists(odd_scenes, min_size=1, max_size=3), layout=st.sampled_from(["entity", "gpudrive"]),
       selection=selections, space=spaces, seed=seeds, when=st.integers(0, STEPS - 1))  # fmt: skip
def test_agents_touch_and_see_what_brute_force_finds(scenes, layout, selection, space, seed, when):
    env = simulator(scenes, "ignore", layout, space, selection)
    observation = env.reset()
    for action in random_actions(env, seed, steps=when, wild=False):
        observation = env.step(action).observation
    for w, rows in enumerate(rows_of(env)):
        expected, clear = expected_events(env, w)
        assert env.events()[rows].numpy()[clear, : Event.GOAL].tolist() == expected[clear].tolist()
        for agent, row in enumerate(rows.tolist()):
            *distances, clear = expected_distances(env, w, agent)
            if clear:
                for seen, wanted in zip(
                    seen_distances(env.observation_config, observation[row]), distances, strict=True
                ):
                    np.testing.assert_allclose(seen, wanted, atol=5e-3, rtol=1e-5)


def test_hundreds_of_agents_each_meet_their_neighbour():
    """Cars 1 m apart in pairs, pairs 20 m apart: everyone touches one other, but for the last one, who is alone."""
    env = simulator([scene(*(car(20 * (i // 2) + i % 2, speed=1) for i in range(401)))])
    assert env.events()[:, Event.VEHICLE].tolist() == [True] * 400 + [False]


CROWD = [random_scene(1, agents=1), random_scene(0, agents=500, segments=500, extent=150.0), scene(car(role=LOGGED))]
"""One agent, five hundred, and one that is not controlled."""


@pytest.mark.parametrize(("how", "layout"), [*zip(RULES, [*LAYOUTS, "entity", "gpudrive"], strict=True)])
def test_five_hundred_agents_live_beside_worlds_with_one_and_with_none(how, layout):
    env = simulator(CROWD, how, layout)
    rows = rows_of(env)
    assert [len(r) for r in rows] == [1, 300, 0]
    if env.config.off_road == "touch":
        expected, clear = expected_events(env, 1)
        assert clear.mean() > 0.95
        assert env.events()[rows[1]].numpy()[clear, : Event.GOAL].tolist() == expected[clear].tolist()
    check_episode(env, random_actions(env, 0, steps=env.horizon))


# What does not matter


@settings(max_examples=20)
@given(scenes=st.lists(odd_scenes, min_size=2, max_size=4), how=rules, layout=layouts, space=spaces, seed=seeds)
def test_a_world_does_not_depend_on_its_batch(scenes, how, layout, space, seed):
    """The same bits again, in another order of worlds, and alone."""
    env = simulator(scenes, how, layout, space)
    actions = random_actions(env, seed)
    history = roll(env, actions)
    assert_same(history, roll(env, actions))

    backwards = torch.cat(rows_of(env)[::-1])
    reordered = simulator(scenes[::-1], how, layout, space)
    assert_same(of_agents(history, backwards), roll(reordered, actions[:, backwards]))

    for s, rows in zip(scenes, rows_of(env), strict=True):
        alone = simulator([s], how, layout, space)
        assert_same(of_agents(history, rows), roll(alone, actions[:, rows]))


@settings(max_examples=20)
@given(scenes=st.lists(odd_scenes, min_size=1, max_size=3), how=rules, layout=layouts, space=spaces, seed=seeds)
def test_what_agents_that_ended_are_told_does_not_matter(scenes, how, layout, space, seed):
    env = simulator(scenes, how, layout, space)
    actions, others = random_actions(env, seed), random_actions(env, seed + 1)
    history = roll(env, actions)
    env.reset()
    for action, other, expected in zip(actions, others, history[1:], strict=True):
        assert_same([expected], [seen_after(env, torch.where(env.alive()[:, None], action, other))])


@settings(max_examples=20)
@given(scenes=st.lists(odd_scenes, min_size=2, max_size=4), how=rules, layout=layouts, space=spaces, seed=seeds,
       data=st.data())  # fmt: skip
def test_worlds_are_reset_at_any_time_without_the_others_noticing(scenes, how, layout, space, seed, data):
    """Each world lives its own episode over and over; named by a list or by a mask is the same."""
    by_list, by_mask = (simulator(scenes, how, layout, space) for _ in range(2))
    actions = random_actions(by_list, seed)
    history, rows, age = roll(by_list, actions), rows_of(by_list), np.zeros(len(scenes), int)
    by_list.reset()
    for _ in range(8):
        again = np.array(data.draw(st.lists(st.booleans(), min_size=len(scenes), max_size=len(scenes))))
        now = [
            seen_now(env, env.reset(which))
            for env, which in ((by_list, np.flatnonzero(again).tolist()), (by_mask, torch.from_numpy(again)))
        ]
        age[again] = 0
        action = torch.zeros_like(actions[0])
        for w, own in enumerate(rows):
            action[own] = actions[age[w], own]
            for seen in now:
                assert_same(of_agents([history[age[w]][:4]], own), of_agents([seen], own))
        age += 1
        after = [seen_after(env, action) for env in (by_list, by_mask)]
        assert_same([by_list.everyone()], [by_mask.everyone()])
        for w, own in enumerate(rows):
            for seen in after:
                assert_same(of_agents([history[age[w]]], own), of_agents([seen], own))
        if age.max() == STEPS:
            break


@settings(max_examples=10)
@given(before=odd_scenes, scenes=st.lists(odd_scenes, min_size=1, max_size=3), how=rules, layout=layouts, space=spaces,
       seed=seeds)  # fmt: skip
def test_swapped_worlds_are_as_in_a_new_environment(before, scenes, how, layout, space, seed):
    swapped, new = simulator([before], how, layout, space), simulator(scenes, how, layout, space)
    swapped.step(random_actions(swapped, seed)[0])
    assert torch.equal(swapped.swap(make_worlds(scenes, selection=EVERYONE)), new.reset())
    actions = random_actions(new, seed)
    assert_same(roll(swapped, actions), roll(new, actions))


SPARSE = [random_scene(seed, segments=12, extent=40.0) for seed in range(4)]
"""Too few segments and agents for two of them to be so equally far from an agent that rounding swaps them."""


@settings(max_examples=30)
@given(number=st.integers(0, 3), angle=st.floats(-3.14, 3.14), x=st.floats(-300, 300), y=st.floats(-300, 300),
       how=rules, layout=layouts)  # fmt: skip
def test_a_rigid_motion_of_the_scene_changes_nothing(number, angle, x, y, how, layout):
    """Agents see, and meet, the same wherever their scene lies and however it is turned."""
    here = SPARSE[number]
    original, turned = (simulator([s], how, layout) for s in (here, moved(here, angle, np.array([x, y]))))
    actions = random_actions(original, number, steps=5, wild=False)
    for before, after in zip(roll(original, actions), roll(turned, actions), strict=True):
        acting = before[3]
        seen, seen_after_motion = (as_directions(h[0][acting], original.observation_config) for h in (before, after))
        torch.testing.assert_close(seen_after_motion, seen, atol=5e-4, rtol=0)
        assert_same([before[2:]], [after[2:]])


def as_directions(observation, config):
    """Headings of GPUDrive's layout jump by a turn at pi, which no rigid motion spares: compare their sines.

    The acceleration that a goal needs, 0.4 (d - v t) / t^2, multiplies what places 300 m away are rounded by (3e-5 m)
    by 40 in the last step (t = 0.1 s): a quarter of it is compared. So does the arc to a goal that is near, for what is
    2.5 s ahead: half of these separations are.
    """
    if config.layout == "entity":
        exact = torch.ones(config.size)
        exact[[k for k, name in enumerate(config.ego_fields) if name.startswith("acceleration that")]] = 0.25
        exact[[k for k, name in enumerate(config.ego_fields) if "arc: separation" in name]] = 0.5
        return observation * exact
    ego, *entities, _ = config.split(observation)
    for block, names in zip(entities, (config.partner_fields, config.road_fields), strict=True):
        column = names.index("relative heading/2pi")
        block[..., column] = torch.sin(2 * torch.pi * block[..., column])
    return torch.cat([ego, *(block.flatten(1) for block in entities)], dim=1)


# Numbers that can not be


NUMBERS = [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e-30, 1e4, 1e7, 3e38]


def spoilt(draw, arrays):
    """Put such numbers into up to three arrays, in place; often where an agent starts."""
    for array in draw(st.lists(st.sampled_from(arrays), max_size=3)):
        place = draw(st.integers(0, 4) | st.integers(0, array.size - 1))
        array.flat[place] = draw(st.sampled_from(NUMBERS))


@st.composite
def broken_files(draw):
    """A scene as a reader finds it: tracks with gaps, roads with points twice, and numbers that can not be."""
    rng = np.random.default_rng(draw(seeds))
    position = rng.uniform(-40, 40, (4, 1, 2)) + rng.uniform(-1, 1, (4, STEPS, 2)).cumsum(1)
    valid = rng.random((4, STEPS)) < draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))
    points = st.tuples(near(50.0, 1e5), near(50.0, 1e5)) | st.just((np.nan, 0.0))
    kinds = st.integers(RoadType.NONE, RoadType.DRIVEWAY)
    roads = draw(st.lists(st.builds(road, kinds, st.lists(points, min_size=1, max_size=14)), max_size=3))
    found = scenario(position, roads, valid, type=rng.integers(0, 5, 4).astype(np.int8))
    spoilt(draw, [found.tracks.position, found.tracks.velocity, found.tracks.heading, found.tracks.size])
    return found


@st.composite
def broken_scenes(draw):
    """A scene made by hand, whose numbers no reader has seen."""
    made = random_scene(draw(seeds), agents=3, segments=4)
    spoilt(draw, [made.log, made.agent_size, made.segment])
    return made


def refusal_or_episode(name, make, seed):
    """Refused by a sentence that names the scene and says what to do, or good for an episode."""
    try:
        env = make()
    except ValueError as refusal:
        return re.fullmatch(f"scene '{name}'.*(; |leave it out).*", str(refusal)) is not None
    check_episode(env, random_actions(env, seed, steps=env.horizon))
    return True


def fast_file():
    """Two cars of a file, the first of them faster than a float can tell."""
    found = scenario(np.zeros((2, STEPS, 2)))
    found.tracks.velocity[0, 0] = 3e38
    return found


AT_FIRST = {"how": "ignore", "layout": "entity", "space": SPACES[0], "seed": 0}


@settings(max_examples=30)
@example(found=fast_file(), **AT_FIRST)
@given(found=broken_files(), how=rules, layout=layouts, space=spaces, seed=seeds)
def test_a_broken_file_is_refused_in_a_sentence_or_drives(found, how, layout, space, seed):
    def make():
        return simulator([scene_from_scenario(repaired(found), steps=STEPS)], how, layout, space)

    assert refusal_or_episode(found.id, make, seed)


@settings(max_examples=30)
@example(broken=scene(car(x=np.nan, speed=5)), **AT_FIRST)
@example(broken=scene(car(speed=5, size=(0.0, 2.0, 1.0))), **AT_FIRST)
@given(broken=broken_scenes(), how=rules, layout=layouts, space=spaces, seed=seeds)
def test_a_broken_scene_is_refused_in_a_sentence_or_drives(broken, how, layout, space, seed):
    assert refusal_or_episode(broken.id, lambda: simulator([random_scene(0), broken], how, layout, space), seed)


@given(space=st.sampled_from([s for s in SPACES if s.discrete]), index=st.integers(-40, 100), k=st.integers(0, 1))
def test_an_index_beyond_its_grid_is_refused_or_at_least_of_this_grid(space, index, k):
    action = torch.zeros(1, space.components, dtype=torch.int64)
    action[0, k] = index
    try:
        value = space.decode(action)[0, k]
    except (IndexError, ValueError):
        assert not 0 <= index < space.sizes[k]
    else:
        assert value in torch.tensor(space.grid[k])
