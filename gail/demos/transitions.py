"""Batches of transitions: what demos are drawn as, rollouts recorded as, and discriminators trained on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor


def driver_key(scene: str, agent: int) -> int:
    """A number for the driver of some demos, the same in each variant of its scene and in each store: 64 bits, signed.

    Args:
        scene: id of the scene.
        agent: row of its agents.
    """
    digest = hashlib.blake2b(f"{agent} {scene}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


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
    driver: Tensor | None = None
    """[B] int64, of demos: whose it is (:func:`driver_key`)."""
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
