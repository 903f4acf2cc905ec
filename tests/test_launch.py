"""How kernels are started: over parts and threads, in order, and as code for CUDA."""

import pytest
import torch
from scenes import random_scene

from gail_cli.sim import kernels, observation_kernels, roads
from gail_cli.sim import launch as launching
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.launch import Program, Stage, launch, num_parts, split_evenly, struct, to_warp, wp
from gail_cli.sim.roads import RoadGrid
from gail_cli.sim.worlds import make_worlds

CPU = torch.device("cpu")


@wp.kernel(enable_backward=False)
def _append(first: int, part: int, digit: int, values: wp.array(dtype=wp.int32), parts: wp.array(dtype=wp.int32)):
    i = first + wp.tid()
    values[i] = 10 * values[i] + digit
    parts[i] = part


@pytest.mark.parametrize(("items", "parts"), [(0, 1), (1, 1), (7, 3), (1000, 8), (3, 5)])
def test_every_item_goes_through_all_stages_in_order_in_its_part(items, parts):
    values, owner = (torch.zeros(items, dtype=torch.int32) for _ in range(2))
    bounds = split_evenly(items, parts)
    stages = [Stage(_append, bounds, [digit, to_warp(values), to_warp(owner)]) for digit in (1, 2, 3)]
    program = Program(stages, CPU)
    program.run()
    assert values.tolist() == [123] * items
    program.run()
    assert values.tolist() == [123123] * items
    assert owner.tolist() == [next(p for p in range(parts) if bounds[p] <= i < bounds[p + 1]) for i in range(items)]


def test_launch_covers_all_items_whatever_the_threads(monkeypatch):
    for threads in (1, 2, 7):
        monkeypatch.setattr(launching, "cpu_threads", lambda threads=threads: threads)
        values, parts = (torch.zeros(900, dtype=torch.int32) for _ in range(2))
        launch(_append, 900, [4, to_warp(values), to_warp(parts)], CPU)
        assert values.tolist() == [4] * 900
        assert parts.max() + 1 == num_parts(900, CPU) == min(9, 4 * threads if threads > 1 else 1)


def test_few_items_are_not_split(monkeypatch):
    monkeypatch.setattr(launching, "cpu_threads", lambda: 8)
    assert [num_parts(items, CPU) for items in (0, 1, 191, 192, 10_000)] == [1, 1, 1, 2, 32]
    assert num_parts(10_000, torch.device("cuda")) == 1


def test_the_number_of_threads_changes_nothing(monkeypatch):
    """Nor does which worlds share a part."""
    histories = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(launching, "cpu_threads", lambda threads=threads: threads)
        everyone = Selection(init_mode="all_objects")
        worlds = make_worlds(
            [random_scene(seed, agents=20 + 30 * (seed % 4)) for seed in range(12)], selection=everyone
        )
        env = Env(worlds, ActionSpace.create("classic"), SimConfig(selection=everyone, on_collision="stop"))
        generator = torch.Generator().manual_seed(1)
        draws = torch.randint(0, 15, (10, env.num_agents, 2), generator=generator)
        histories.append(torch.stack([env.step(draw).observation.clone() for draw in draws]))
    assert torch.equal(histories[0], histories[1])
    assert torch.equal(histories[0], histories[2])


def test_a_struct_is_filled_by_name():
    grid = struct(RoadGrid, x=torch.tensor([1.5, 2.5]))
    assert grid.x.numpy().tolist() == [1.5, 2.5]


@pytest.mark.parametrize("module", [kernels, observation_kernels, roads], ids=lambda m: m.__name__)
def test_kernels_compile_for_cuda(module, tmp_path):
    """Without a GPU at hand: NVIDIA's run-time compiler comes with Warp."""
    if not wp.get_cuda_supported_archs():
        pytest.skip("this build of Warp has no CUDA compiler")
    wp.compile_aot_module(module, arch=90, module_dir=str(tmp_path))
    assert list(tmp_path.glob("*.cubin"))
