import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gail_cli.sim.actions import GRIDS, ActionSpace, Dynamics

SPACES = [ActionSpace(model, grid) for (model, _), grid in GRIDS.items()] + [ActionSpace(model) for model in Dynamics]
DISCRETE = [space for space in SPACES if space.discrete]
CONTINUOUS = [space for space in SPACES if not space.discrete]


def name(space):
    return f"{space.dynamics.name.lower()}-{'x'.join(map(str, space.sizes)) or 'continuous'}"


def all_indices(space):
    return torch.cartesian_prod(*(torch.arange(n) for n in space.sizes))


@pytest.mark.parametrize("space", DISCRETE, ids=name)
def test_every_grid_action_survives_decode_and_encode(space):
    indices = all_indices(space)
    values = space.decode(indices)
    assert values.dtype == torch.float32
    assert values.shape == (np.prod(space.sizes), space.components)
    assert torch.equal(space.encode(values), indices)


@pytest.mark.parametrize("space", DISCRETE, ids=name)
@given(seed=st.integers(0, 2**32 - 1))
def test_encode_chooses_the_nearest_value_of_each_component(space, seed):
    values = np.random.default_rng(seed).uniform(-7, 7, (50, space.components)).astype(np.float32)
    chosen = space.decode(space.encode(torch.from_numpy(values))).numpy()
    for k, grid in enumerate(space.grid):
        nearest = np.abs(values[:, k, None] - np.array(grid)).min(axis=1)
        np.testing.assert_allclose(np.abs(values[:, k] - chosen[:, k]), nearest, atol=1e-5)


@pytest.mark.parametrize("space", DISCRETE, ids=name)
def test_grids_ascend_and_bounds_are_their_ends(space):
    assert all((np.diff(np.float32(grid)) > 0).all() for grid in space.grid)
    assert space.bounds == tuple((min(grid), max(grid)) for grid in space.grid)


@pytest.mark.parametrize("model", [Dynamics.CLASSIC, Dynamics.BICYCLE, Dynamics.DELTA_LOCAL])
def test_fine_grids_hold_an_exact_zero_and_lie_within_continuous_bounds(model):
    space = ActionSpace.create(model.name.lower())
    assert all(0.0 in grid for grid in space.grid)
    (low, high), (limit_low, limit_high) = (
        np.transpose(x.bounds) for x in (space, ActionSpace.create(model.name.lower(), "continuous"))
    )
    assert (low >= limit_low).all()
    assert (high <= limit_high).all()


def test_gpudrive_grids_are_its_defaults():
    classic = ActionSpace.create("classic", grid="gpudrive")
    assert classic.sizes == (7, 13)
    # index 30 of GPUDrive's 91 is acceleration 30 // 13 = 2, steering 30 % 13 = 4
    torch.testing.assert_close(all_indices(classic)[30], torch.tensor([2, 4]))
    # rounded to three decimals, as recorded; tan(1.571) has the other sign than tan(pi / 2 - 1e-6)
    torch.testing.assert_close(
        classic.decode(torch.tensor([[2, 4], [0, 9]])), torch.tensor([[-1.333, -1.047], [-4, 1.571]])
    )
    delta = ActionSpace.create("delta_local", grid="gpudrive")
    assert delta.sizes == (20, 20, 20)
    assert delta.bounds == ((-2, 2), (-2, 2), (-3.14, 3.14))
    assert delta.grid[2][1] == round(-3.14 + 6.28 / 19, 3)


def test_indices_are_whole_numbers_within_the_grid():
    space = ActionSpace.create("classic", grid="gpudrive")
    with pytest.raises(ValueError, match=r"integer indices, not torch\.float32"):
        space.decode(torch.zeros(1, 2))
    for index in ([7, 0], [0, 13], [-1, 0]):
        with pytest.raises(ValueError, match=r"beyond the grid, whose sizes are \(7, 13\)"):
            space.decode(torch.tensor([index]))


@pytest.mark.parametrize("space", CONTINUOUS, ids=name)
def test_continuous_actions_are_clipped_to_the_bounds(space):
    values = torch.tensor([[-1e3], [0.125], [1e3]]).expand(3, space.components)
    low, high = np.float32(space.bounds).T
    expected = np.clip(values.numpy(), low, high)
    np.testing.assert_array_equal(space.decode(values), expected)
    np.testing.assert_array_equal(space.encode(values), expected)


def test_state_actions_are_unbounded():
    values = torch.tensor([[-12345.0, 1e5, 3.0, -90.0, 90.0]])
    assert torch.equal(ActionSpace.create("state", "continuous").decode(values), values)


def test_reverse_is_part_of_a_space_of_vehicles():
    with_it, without = ActionSpace.create("classic"), ActionSpace.create("classic", reverse=False)
    assert with_it != without
    assert with_it.to_json() == without.to_json() | {"reverse": True}
    assert "reverse" not in without.to_json()  # so stores and runs from before it are what they were
    assert not any(ActionSpace.create(name, "continuous").reverse for name in ("delta_local", "state"))


def test_the_former_grid_is_there_by_name():
    old, new = (ActionSpace.create("classic", grid=grid) for grid in ("fine-0.5", "fine"))
    assert (old.grid_name, new.grid_name) == ("fine-0.5", "fine")
    assert (old.sizes, new.sizes) == ((15, 21), (15, 25))
    assert new.grid[0] == old.grid[0]
    assert new.grid[1] == (-1.0, -0.7, *old.grid[1], 0.7, 1.0)
    assert ActionSpace(new.dynamics, ((0.0, 1.0), (0.0, 1.0))).grid_name is None


@pytest.mark.parametrize("space", SPACES, ids=name)
def test_survives_json(space):
    assert ActionSpace.from_json(json.loads(json.dumps(space.to_json()))) == space


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("car",), "dynamics 'car' is unknown; use one of classic, bicycle, delta_local, state"),
        (("classic", "smooth"), "actions 'smooth' is unknown; use discrete or continuous"),
        (("bicycle", "discrete", "huge"), "action grid 'huge' is unknown for dynamics 'bicycle'; use one of fine, gp"),
        (("state",), "dynamics 'state' has no discrete actions; use --actions continuous"),
    ],
)
def test_unknown_names_are_refused_with_those_that_exist(arguments, words):
    with pytest.raises(ValueError, match="^" + words):
        ActionSpace.create(*arguments)
