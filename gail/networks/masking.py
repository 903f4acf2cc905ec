"""Entities hidden from observations while a policy learns, so that it does not learn a map by heart.

A policy that has seen few maps tells them apart by their segments and drives from memory, which fails on any other
map. One that often sees only some of the segments and some of the partners has to make do with what every scene has in
common. It is dropout (Srivastava et al. 2014) of whole entities instead of units; an entity that is hidden looks like
one that is not there. Rollouts, and the demos beside them, are masked only if ``masking.rollouts`` says so, both
alike. Lights are not hidden: they are few, what they show changes, and who does not see them cannot obey.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gail_cli.gail.config.schema import MaskingConfig
from gail_cli.sim.layout import ROAD_TYPES, ObservationConfig


def masked(observations: Tensor, layout: ObservationConfig, config: MaskingConfig) -> Tensor:
    """Observations [B, D] with entities hidden at random, from torch's own generator; the very same if none are to be.

    Each row has its own share of entities that are hidden, uniform from none to ``roads`` and ``partners``, and a
    chance ``all_roads`` and ``all_partners`` that none is left.
    """
    if not config.hides:
        return observations
    result = observations.clone()
    _, partners, roads, _ = layout.split(result)
    partners[_hidden(partners, config.partners, config.all_partners)] = 0.0
    roads[_hidden(roads, config.roads, config.all_roads)] = _no_segment(roads)
    return result


def hidden(observations: Tensor, layout: ObservationConfig, partners: bool, roads: bool) -> Tensor:
    """Observations [B, D] as they were if there were no other agents, or no roads, or neither.

    The ego's rays, danger numbers and route show none, either. What else follows from them stays, such as lights.
    """
    result = observations.clone()
    _, others, segments, _ = layout.split(result)
    if partners:
        others[:] = 0.0
    if roads:
        segments[:] = _no_segment(segments)
    for column, value in layout.nothing(boxes=partners, edges=roads).items():
        result[..., column] = value
    return result


def _no_segment(roads: Tensor) -> Tensor:
    """[F] the row of a segment that is not there, like the rows of segments [B, n, F]."""
    nothing = roads.new_zeros(roads.shape[-1])
    nothing[-ROAD_TYPES] = 1.0
    return nothing


def _hidden(entities: Tensor, most: float, everything: float) -> Tensor:
    """[B, n] bool: which entities [B, n, F] are hidden."""
    size, count, _ = entities.shape
    share, gone, each = (torch.rand(size, n, device=entities.device) for n in (1, 1, count))
    return (each < most * share) | (gone < everything)
