"""The same numbers on a GPU as on a CPU, and steps that never wait for it; skipped where there is none."""

import pytest
import torch
from scenes import random_scene

from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.clearance import clearances
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.edges import edge_distances
from gail_cli.sim.env import Env
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import Observer
from gail_cli.sim.worlds import make_worlds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")

EVERYONE = Selection(init_mode="all_objects")
SCENES = [random_scene(seed, agents=20, segments=300, extent=60.0) for seed in range(6)]
RULES = [SimConfig(selection=EVERYONE, off_road="outside"), SimConfig.gpudrive("remove", EVERYONE)]
LAYOUTS = [ObservationConfig(), ObservationConfig.gpudrive(), ObservationConfig.gpudrive("nearest_midpoint")]


def environments(rules, layout, dynamics="classic"):
    space = ActionSpace.create(dynamics, "continuous", reverse=rules.compat is None)
    return [Env(make_worlds(SCENES, device, EVERYONE), space, rules, layout) for device in ("cpu", "cuda")]


def draws(env, steps):
    generator = torch.Generator().manual_seed(0)
    size = (steps, env.num_agents, env.action_space.components)
    return (torch.rand(size, generator=generator) - 0.5) * 4


@pytest.mark.parametrize("dynamics", ["classic", "bicycle", "delta_local", "state"])
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda c: f"{c.layout}-{c.road_order}")
@pytest.mark.parametrize("rules", RULES, ids=["corrected", "gpudrive"])
def test_an_episode_is_the_same_on_both(rules, layout, dynamics):
    """Several steps, so that the graph recorded at the second is played back; resets of single worlds within."""
    cpu, cuda = environments(rules, layout, dynamics)
    torch.testing.assert_close(cuda.reset().cpu(), cpu.reset(), atol=1e-4, rtol=0)
    for k, action in enumerate(draws(cpu, 10)):
        if k in (4, 7):
            cpu.reset([1, 3])
            cuda.reset(torch.tensor([False, True, False, True, False, False], device="cuda"))
        a, b = cpu.step(action), cuda.step(action.cuda())
        torch.testing.assert_close(cuda.everyone()[0].cpu(), cpu.everyone()[0], atol=1e-4, rtol=0)
        torch.testing.assert_close(b.observation.cpu(), a.observation, atol=1e-3, rtol=0)
        for name in ("reward", "terminated", "truncated", "events", "alive"):
            assert torch.equal(getattr(b, name).cpu(), getattr(a, name)), (k, name)
    other = make_worlds(SCENES[2:], "cuda", EVERYONE)
    expected = cpu.swap(make_worlds(SCENES[2:], "cpu", EVERYONE))
    torch.testing.assert_close(cuda.swap(other).cpu(), expected, atol=1e-4, rtol=0)


def test_a_step_does_not_wait_for_the_device():
    """Torch refuses what would; Warp's part is one graph."""
    _, env = environments(RULES[0], LAYOUTS[0])
    action = draws(env, 1)[0].cuda()
    mask = torch.ones(len(SCENES), dtype=torch.bool, device="cuda")
    for _ in range(3):
        env.step(action)
        env.reset(mask)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            env.step(action)
            env.reset(mask)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_gaps_and_tracks_are_the_same_on_both():
    cpu, cuda = (make_worlds(SCENES, device, EVERYONE) for device in ("cpu", "cuda"))
    found = []
    for w in (cpu, cuda):
        z, speed = w.tensors["log_z"].view(w.valid.shape), w.log[..., 3:].norm(dim=-1)
        found.append([*clearances(w, w.log, z, w.valid, speed), edge_distances(w, w.log, z, w.valid)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b.cpu(), a, atol=1e-3, rtol=0, equal_nan=True)
    rows = torch.arange(cpu.num_agents, dtype=torch.int32)
    seen = []
    for worlds in (cpu, cuda):
        agents, steps = rows.to(worlds.device), torch.full_like(rows, 3).to(worlds.device)
        left = torch.ones(len(rows), device=worlds.device)
        seen.append(Observer(worlds, LAYOUTS[0]).observe(worlds.log, worlds.valid, agents, left, step=steps).cpu())
    torch.testing.assert_close(seen[1], seen[0], atol=1e-4, rtol=0)
