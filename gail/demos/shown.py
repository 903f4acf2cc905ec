"""Scenes as the worlds of a rollout show them: who is controlled, who begins elsewhere, who drives at another pace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.pipeline.experts.replay import demo_agents
from gail_cli.pipeline.experts.starts import begun_at
from gail_cli.pipeline.experts.timing import paces, retimed
from gail_cli.pipeline.records import Record
from gail_cli.sim.config import Selection
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import SelectedAgents, Worlds, make_worlds


@dataclass(frozen=True, eq=False)
class Variant:
    """A variant of a scene, in which there are one or several worlds."""

    record: Record
    """The scene and its demos, as the experts drive."""
    begin: NDArray[np.float32]
    """[A, 5] where each agent begins a rollout if it is controlled."""


@dataclass(frozen=True, eq=False)
class Shown:
    """One world: a scene, and who drives in it."""

    record: Record
    """The scene and its demos, as the experts drive."""
    start: Scene
    """The scene as a rollout begins in it: the same one, with the controlled agents elsewhere at the first step."""
    agents: SelectedAgents
    """Who exists, who is controlled."""


def controlled_agents(record: Record, selection: Selection) -> NDArray[np.int64]:
    """Rows of a scene's agents that have demos and that are controlled by this rule."""
    chosen = demo_agents(record, selection)
    return chosen.row[chosen.controlled]


def shown(variant: Variant, selection: Selection, only: int | None, retime: float, rng: np.random.Generator) -> Shown:
    """A world of a scene.

    Args:
        variant: the scene.
        selection: who is controlled.
        only: row of the scene's one agent that is controlled; None: all that the rule says.
        retime: see :attr:`~gail.demos.rules.DemoRules.retime`.
        rng: where the paces come from.
    """
    record = variant.record
    chosen = demo_agents(record, selection)
    if only is not None:
        chosen = replace(chosen, controlled=chosen.controlled & (chosen.row == only))
    if retime:
        pace, follows = paces(retime, record.scene.num_agents, rng), np.zeros(record.scene.num_agents, np.bool_)
        follows[chosen.row] = ~chosen.controlled & ~chosen.parked
        record = replace(record, scene=retimed(record.scene, np.where(follows, pace, 1.0)))
    driven = chosen.row[chosen.controlled]
    moved = not np.array_equal(variant.begin[driven], record.scene.log[driven, 0])
    start = begun_at(record, driven, variant.begin[driven]).scene if moved else record.scene
    return Shown(record, start, chosen)


def lone_rows(agents: Sequence[NDArray[np.int64]], share: float, rng: np.random.Generator) -> list[int | None]:
    """For each world, the agent that is its only controlled one, in as many worlds as a share of them is.

    Args:
        agents: rows of the agents that may be controlled, for each world.
        share: of the worlds.
        rng: where the choice comes from.
    """
    chosen = rng.permutation(len(agents)) < int(share * len(agents) + rng.random())
    place = rng.random(len(agents))
    pairs = zip(agents, chosen, place, strict=True)
    return [int(rows[int(at * len(rows))]) if alone and len(rows) else None for rows, alone, at in pairs]


def worlds_of(several: Sequence[Shown], device: torch.device) -> tuple[Worlds, Worlds]:
    """Worlds as rollouts begin in them, and as experts drive in them: of the same agents in the same order.

    All that both have in common they share. They are the same object where nobody begins elsewhere.
    """
    logged = make_worlds([one.record.scene for one in several], device, selected=[one.agents for one in several])
    if all(one.start is one.record.scene for one in several):
        return logged, logged
    begin = np.concatenate([one.start.log[one.agents.row[one.agents.controlled], 0] for one in several])
    log = logged.log.clone()
    log[logged.controlled, 0] = torch.from_numpy(begin).to(log.device)
    tensors = logged.tensors | {"log": log.view(-1, 5)}
    return replace(logged, scenes=tuple(one.start for one in several), tensors=tensors), logged
