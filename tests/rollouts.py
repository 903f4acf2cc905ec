"""Rollouts for the tests of what learns from them, made by hand."""

import torch

from gail_cli.gail.learning.rollout import Rollout
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig

LAYOUT = ObservationConfig(partners=2, road_segments=2)
SPACE = ActionSpace.create("classic")
STEPS = 6


def rollout(*lives, seed=0, steps=STEPS, **fields):
    """Agents of whom each acts in some first steps, and how that ends: None, "terminated" or "truncated"."""
    generator = torch.Generator().manual_seed(seed)
    agents = len(lives)
    observation = torch.rand(steps + 1, agents, LAYOUT.size, generator=generator)
    action = torch.stack([torch.randint(n, (steps, agents), generator=generator) for n in SPACE.sizes], dim=-1)
    ends = {kind: torch.zeros(steps, agents, dtype=torch.bool) for kind in ("terminated", "truncated")}
    for agent, (length, kind) in enumerate(lives):
        if kind:
            ends[kind][length - 1, agent] = True
    made = {
        "observation": observation[:-1],
        "last_observation": observation[-1],
        "action": action,
        "log_prob": -1 - torch.rand(steps, agents, generator=generator),
        "alive": torch.arange(steps)[:, None] < torch.tensor([length for length, _ in lives]),
        "environment_reward": torch.zeros(steps, agents),
        "end": torch.full((agents,), steps),
        "happened": torch.zeros(steps, agents, len(Event), dtype=torch.bool),
        "fault": torch.ones(steps, agents),
        **ends,
    }
    if "events" in fields:  # of the first step, whenever it was
        made["happened"][0] = fields.pop("events")
    return Rollout(**made | fields)
