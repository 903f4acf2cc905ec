"""How far a run is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class RunProgress:
    """How far a run is."""

    iteration: int = 0
    """Rollouts done."""
    timesteps: int = 0
    """Steps of controlled agents in them."""
    seconds: float = 0.0
    cloned: int = 0
    """Behaviour-cloning steps done."""
    unreported: int = 0
    """The last ones of these, whose loss is in no report yet."""
    cloning_loss: float = 0.0
    """The sum of their losses."""
