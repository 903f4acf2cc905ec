"""The rotation of a store's scenes through a pool: which blocks of scenes are held, in which order, for how long."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gail_cli.gail.demos.prefetch import permuted

BLOCK_SCENES = 64
"""Most scenes in a block."""
_MIN_BLOCKS = 8
"""A pool has room for at least this many blocks, which are smaller where necessary."""


@dataclass(frozen=True)
class SceneBlock:
    """Scenes of one part of a store that are read, held and replaced together."""

    scenes: tuple[int, ...]
    """Indices in the store."""
    variant: int = 0
    """Which of its variants each scene is shown in."""

    def __len__(self) -> int:
        return len(self.scenes)


def block_size(pool_scenes: int) -> int:
    """Most scenes in a block of a pool of so many scenes."""
    return min(BLOCK_SCENES, max(1, pool_scenes // _MIN_BLOCKS))


def scene_blocks(
    scenes: NDArray[np.integer], part: NDArray[np.integer], size: int, variants: int = 1
) -> tuple[SceneBlock, ...]:
    """Blocks of scenes in each of their variants; blocks of one part are of about the same length.

    Args:
        scenes: [n] indices in the store, ascending.
        part: [S] the part of each scene of the store.
        size: most scenes in a block.
        variants: of each scene.
    """
    runs = np.split(scenes, 1 + np.flatnonzero(np.diff(part[scenes])))
    pieces = [piece for run in runs if len(run) for piece in np.array_split(run, -(-len(run) // size))]
    return tuple(SceneBlock(tuple(piece.tolist()), variant) for variant in range(variants) for piece in pieces)


@dataclass(frozen=True)
class BlockSchedule:
    """Which blocks a pool should have loaded after so many rows were drawn from it.

    Blocks are numbered in an endless order, which goes through all of them once per epoch, in a new random order each
    epoch. The pool holds :attr:`places` blocks: a new one takes the place of the oldest each time that
    :attr:`rows_per_block` rows have been drawn. Where all blocks fit, nothing is replaced. All of it is a pure function
    of the fields and the rows drawn.
    """

    blocks: tuple[SceneBlock, ...]
    """At least one."""
    room: int
    """Most blocks held at a time."""
    rows_per_scene: int
    """Rows drawn per scene, on average, before it is replaced."""
    seed: int
    """Seed of the order."""
    since: int = 0
    """Rows that had been drawn when the blocks became these."""
    loaded_before: int | None = None
    """Blocks of the order that had been loaded then; None where a pool begins with these blocks."""

    @classmethod
    def plan(
        cls, blocks: Sequence[SceneBlock], pool_scenes: int, rows_per_scene: int, seed: int, grows: bool = False
    ) -> BlockSchedule:
        """The schedule of a pool that begins with these blocks.

        Args:
            blocks: at least one.
            pool_scenes: scenes that the pool has room for, on average.
            rows_per_scene: see the class.
            seed: see the class.
            grows: leave room for blocks that :meth:`extend` adds, also where these few all fit.
        """
        if grows:
            room = pool_scenes // block_size(pool_scenes)
        else:
            room = min(len(blocks), max(1, int(pool_scenes / _mean_length(blocks))))
        return cls(tuple(blocks), room, rows_per_scene, seed)

    @property
    def places(self) -> int:
        """Blocks held at a time."""
        return min(len(self.blocks), self.room)

    @property
    def rotates(self) -> bool:
        """Whether blocks are replaced, because not all of them fit."""
        return self.places < len(self.blocks)

    @cached_property
    def rows_per_block(self) -> int:
        """Rows drawn from one replacement to the next."""
        return max(1, round(_mean_length(self.blocks) * self.rows_per_scene))

    def loaded(self, drawn: int) -> int:
        """How many blocks of the order should have been loaded after so many rows, the first ones included."""
        before = self.places if self.loaded_before is None else self.loaded_before
        return before + ((drawn - self.since) // self.rows_per_block if self.rotates else 0)

    def held(self, drawn: int) -> range:
        """Numbers of the blocks in a pool that began with these blocks, after so many rows."""
        loaded = self.loaded(drawn)
        return range(loaded - self.places, loaded)

    def block(self, number: int) -> SceneBlock:
        """The block of this number in the endless order."""
        return self.blocks[permuted(len(self.blocks), self.seed, number)]

    def place(self, number: int) -> int:
        """The place of the pool that the block of this number is held in."""
        return number % self.places

    def extend(self, blocks: Sequence[SceneBlock], loaded: int, drawn: int) -> BlockSchedule:
        """The schedule from now on, with more blocks, in an order of all of them.

        As long as there is room, the pool holds new blocks at once, in the places from ``self.places`` on.

        Args:
            blocks: those that joined.
            loaded: blocks of the order loaded so far, other than those that joined at once.
            drawn: rows drawn so far.
        """
        return replace(self, blocks=(*self.blocks, *blocks), since=drawn, loaded_before=loaded)


def _mean_length(blocks: Sequence[SceneBlock]) -> float:
    return sum(map(len, blocks)) / len(blocks)
