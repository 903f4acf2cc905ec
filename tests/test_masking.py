import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scenes import random_scene
from test_observation import observe

from gail_cli.gail.config.schema import MaskingConfig, NetworkConfig
from gail_cli.gail.networks.encoder import EntityEncoder
from gail_cli.gail.networks.masking import hidden, masked
from gail_cli.sim.layout import ROAD_TYPES, ObservationConfig

LAYOUTS = [
    ObservationConfig(partners=5, road_segments=7),
    ObservationConfig("gpudrive", partners=5, road_segments=7),
]
NOTHING = MaskingConfig(roads=0, all_roads=0, partners=0, all_partners=0)


def config(**settings):
    return MaskingConfig(**{"roads": 0, "all_roads": 0, "partners": 0, "all_partners": 0, **settings})


def observations(layout, size=64, seed=0):
    """Ego, partners and segments that are all there, with numbers that are not zero."""
    made = 0.1 + torch.rand(size, layout.size, generator=torch.Generator().manual_seed(seed))
    _, _, roads, _ = layout.split(made)
    roads[..., -ROAD_TYPES:] = 0.0
    roads[..., -ROAD_TYPES + 1] = 1.0
    return made


def there(layout, found):
    """Which partners [B, P] and which segments [B, R] are there."""
    _, *blocks = layout.split(found)
    return layout.present(*blocks)[:2]


def absent(layout, seen, partners, roads):
    """Observations as the simulator shows them where these partners [B, P] and segments [B, R] are not there."""
    seen = seen.clone()
    _, p, r, _ = layout.split(seen)
    p[partners] = 0.0
    r[roads] = 0.0
    r[..., -ROAD_TYPES][roads] = 1.0
    return seen


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_hidden_entity_looks_like_one_that_is_not_there(layout):
    """To the last bit, and so to every network; ego and what is left are as they were."""
    torch.manual_seed(1)
    seen = observations(layout)
    before = seen.clone()
    found = masked(seen, layout, MaskingConfig(roads=0.9, all_roads=0.2, partners=0.9, all_partners=0.2))
    partners, roads = there(layout, found)
    assert 0 < partners.float().mean() < 1
    assert 0 < roads.float().mean() < 1
    expected = absent(layout, seen, ~partners, ~roads)
    assert torch.equal(found, expected)
    assert torch.equal(seen, before)
    encoder = EntityEncoder(layout, NetworkConfig(entity_hidden=8, hidden=16))
    encoder.fit_normaliser(seen)
    code = encoder(found)
    assert torch.equal(code, encoder(expected))
    lacking = ~(partners.all(dim=1) & roads.all(dim=1))
    assert (code[lacking] != encoder(seen)[lacking]).any(dim=1).float().mean() > 0.9


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_hidden_does_not_count(layout):
    """The code is that of an observation with other numbers in the hidden places."""
    torch.manual_seed(1)
    encoder = EntityEncoder(layout, NetworkConfig(entity_hidden=8, hidden=16))
    seen, other = observations(layout), observations(layout, seed=1)
    ego = slice(0, len(layout.ego_fields))
    other[:, ego] = seen[:, ego]
    layout.split(other).lights[:] = layout.split(seen).lights
    everything = config(all_partners=1, all_roads=1)
    assert torch.equal(encoder(masked(seen, layout, everything)), encoder(masked(other, layout, everything)))


def test_hidden_entities_are_what_the_simulator_shows_of_absent_ones(make_store):
    """Observations of real worlds, where most have fewer partners than there is room for."""
    store = make_store(scenes=2)
    from gail_cli.gail.config.schema import TrainConfig
    from gail_cli.pipeline.experts.replay import demo_worlds
    from gail_cli.sim.env import Env

    layout = ObservationConfig(partners=16, road_segments=400)
    rules = TrainConfig().sim
    seen = Env(demo_worlds(list(store.read()), rules.selection, "cpu"), store.space, rules, layout).reset()
    partners, roads = there(layout, seen)
    assert (~partners).any()
    assert (~roads).any()
    assert torch.equal(absent(layout, seen, ~partners, ~roads), seen)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("kind", "other"), [("partners", "roads"), ("roads", "partners")])
@pytest.mark.parametrize(("most", "everything"), [(0.9, 0.0), (0.0, 0.3), (0.6, 0.25), (1.0, 1.0)])
def test_rates_are_as_asked(layout, kind, other, most, everything):
    """Of a row with a share s of hidden entities, uniform from none to ``most``: their number is a mean of binomials.

    Means over 20,000 rows, to within five standard deviations; and of the other kind nothing is hidden.
    """
    torch.manual_seed(3)
    size = 20_000
    seen = observations(layout, size)
    partners, roads = there(layout, masked(seen, layout, config(**{kind: most, f"all_{kind}": everything})))
    hidden, untouched = (~partners, ~roads) if kind == "partners" else (~roads, ~partners)
    assert not untouched.any()
    n = hidden.shape[1]
    rate = everything + (1 - everything) * most / 2
    assert abs(hidden.float().mean() - rate) < 5 * math.sqrt(0.25 / size) + 1e-6
    # P(all) = e + (1 - e) E[s^n], P(none) = (1 - e) E[(1 - s)^n], with s uniform in [0, most]
    none_left = most**n / (n + 1)
    all_left = 1.0 if most == 0 else (1 - (1 - most) ** (n + 1)) / (most * (n + 1))
    for what, chance in ((hidden.all(dim=1), everything + (1 - everything) * none_left),
                         ((~hidden).all(dim=1), (1 - everything) * all_left)):  # fmt: skip
        assert abs(what.float().mean() - chance) < 5 * math.sqrt(0.25 / size) + 1e-6


def test_partners_and_roads_are_hidden_independently():
    torch.manual_seed(3)
    layout = LAYOUTS[0]
    found = masked(observations(layout, 20_000), layout, config(all_partners=0.5, all_roads=0.5))
    partners, roads = (x.any(dim=1) for x in there(layout, found))
    assert abs((partners & roads).float().mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 20_000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_to_hide_is_the_very_same_tensor(layout):
    """And draws nothing."""
    seen = observations(layout)
    state = torch.get_rng_state()
    assert masked(seen, layout, NOTHING) is seen
    assert torch.equal(torch.get_rng_state(), state)


def test_masks_are_drawn_from_the_generator_of_torch():
    layout, seen = LAYOUTS[0], observations(LAYOUTS[0])
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(masked(seen, layout, MaskingConfig()))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize("kind", ["entity", "gpudrive"])
@pytest.mark.parametrize(("partners", "roads"), [(True, False), (False, True), (True, True), (False, False)])
def test_without_others_and_without_roads(kind, partners, roads):
    """What is hidden from an observation is what the simulator shows where it is not there; but of a route nothing at
    all, not even the straight line."""
    layout = ObservationConfig(kind, partners=3, road_segments=9, rays=True, danger=True)
    full = random_scene(3)
    alone = replace(full, valid=full.valid & (np.arange(full.num_agents) == 0)[:, None])
    bare = {name: getattr(full, name)[:0] for name in vars(full) if name.startswith("segment")}
    there = observe(full, layout, 0)[:1]
    expected = replace(alone if partners else full, **(bare if roads else {}))
    found = hidden(there, layout, partners, roads)
    ego = slice(0, layout.size - layout.lights * len(layout.light_fields))  # lights refer to lanes
    shown = observe(expected, layout, 0)[:1]
    if layout.route and roads:
        shown[:, layout.first_route : len(layout.ego_fields)] = 0.0
    torch.testing.assert_close(found[:, ego], shown[:, ego], atol=1e-6, rtol=0)
    assert torch.equal(found, there) == (not partners and not roads)
