"""Batches of transitions: what demos are drawn as, rollouts recorded as, and discriminators trained on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Transitions:
    """Transitions of experts or of a policy: observations and actions, and the optional columns that were asked for."""

    observation: Tensor
    """[B, D]."""
    action: Tensor
    """[B, K]."""
    next_observation: Tensor | None = None
    """[B, D] what the same agent sees one step later."""
    history: Tensor | None = None
    """[B, H, D] what it saw in the H steps before, in order of time; zeros before its demo began."""
    history_mask: Tensor | None = None
    """[B, H] bool: whether the demo had begun."""
    transition: Tensor | None = None
    """[B, 3] int64, of demos: index of the scene in the store, row of the scene's agents, step."""
    done: Tensor | None = None
    """[B] bool: the last transition of its demo, or of its agent's episode. Used only by ``compat: mlagents``."""
    absorbing: Tensor | None = None
    """[B] bool: the row is the absorbing state, which an agent that ended early stays in."""
    log_prob: Tensor | None = None
    """[B] log-probability of the action under the present policy. Used only by ``structure: airl``."""

    def __len__(self) -> int:
        """B."""
        return len(self.action)

    def take(self, rows: Tensor) -> Transitions:
        """Only these rows ([R] int64, or a mask [B] bool), with all columns that the transitions have."""
        there: dict[str, Tensor] = {name: x[rows] for name, x in vars(self).items() if x is not None}
        return Transitions(**there)
