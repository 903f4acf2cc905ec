"""Worlds together with the demos of exactly these worlds: the same scenes, in the same variants, of the same agents."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gail_cli.gail.config.schema import DemoFilter
from gail_cli.gail.demos.pool import passes
from gail_cli.gail.demos.transitions import Transitions, driver_key
from gail_cli.pipeline.experts.replay import ExpertObserver, Experts, demo_rows, experts_in
from gail_cli.pipeline.records import Record
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.worlds import Worlds


@dataclass(frozen=True, eq=False)
class WorldBatch:
    """Worlds of a rollout, and what experts do in them."""

    worlds: Worlds
    """As the rollout begins in them."""
    experts: Experts | None = None
    """The demos of these worlds: controlled agent n is the same in both. ``experts.worlds`` begins where the log does
    (an expert that recovers, where the rollout does). Its ``transitions`` are those of demos that pass the filter. None
    where they were not asked for."""


def matched_experts(worlds: Worlds, records: list[Record], sim: SimConfig, wanted: DemoFilter) -> Experts:
    """The demos of some worlds' controlled agents.

    Args:
        worlds: as the experts drive in them.
        records: one for each world, whose scene it is.
        sim: the rules.
        wanted: only transitions of these demos are used; the others drive along.
    """
    experts = experts_in(worlds, records, sim)
    pairs = zip(worlds.controlled_agents(), demo_rows(records, worlds), strict=True)
    keep = torch.tensor([passes(wanted, records[w], agent, row) for (w, agent), (_, row) in pairs], dtype=torch.bool)
    rows = experts.transitions
    return replace(experts, transitions=rows[keep.to(rows.device)[rows[:, 0]]])


def demo_transitions(
    experts: Experts, observation: ObservationConfig, next_state: bool = False, rows: Tensor | None = None
) -> Transitions:
    """Transitions of experts, made by the simulator's own kernel in one launch.

    Args:
        experts: the demos.
        observation: the layout.
        next_state: with the observations of one step later.
        rows: [B] which of ``experts.transitions``, B rows in their order; all when None.
    """
    ends = torch.ones(len(experts.transitions), dtype=torch.bool, device=experts.transitions.device)
    ends[:-1] = experts.transitions[1:, 0] != experts.transitions[:-1, 0]
    chosen = experts.transitions if rows is None else experts.transitions[rows]
    agent, step = chosen.T
    observer = ExpertObserver(experts, observation)
    if next_state:
        both = observer.observe(agent.repeat(2), torch.cat([step, step + 1]))
        now, following = both[: len(agent)], both[len(agent) :]
    else:
        now, following = observer.observe(agent, step), None
    worlds = experts.worlds
    drivers = [driver_key(worlds.scenes[w].id, row) for w, row in worlds.controlled_agents()]
    keys = torch.tensor(drivers, dtype=torch.int64, device=agent.device)
    done = ends if rows is None else ends[rows]
    return Transitions(now, experts.action[agent, step], following, driver=keys[agent], done=done)
