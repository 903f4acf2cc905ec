"""Batches of expert samples from a store of any size, in bounded memory.

A demo is (scene, agent, step); its observation is made when it is drawn, by the simulator's own kernel from the
replayed states. Everything is a pure function of the seed and the number of rows drawn before, so these two numbers
are all of a sampler's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.config.schema import DataConfig
from gail_cli.gail.demos.pool import Block, Draws, Pool, load_block
from gail_cli.gail.demos.prefetch import Prefetch, permuted
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.pipeline.experts.augment import replayed, varied
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.store.growing import GrowingStore
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.config import SimConfig
from gail_cli.sim.launch import cpu_threads
from gail_cli.sim.layout import ObservationConfig

BLOCK_SCENES = 64
"""Most scenes that are read and replaced together."""
_FEWEST_BLOCKS = 8
"""A pool is of no fewer blocks than this, if need be of smaller ones."""


def chosen_scenes(store: DemoStore, split: str, most: int | None = None) -> NDArray[np.int64]:
    """Indices of the scenes of a split ("all" for all), of no more than the first ``most``.

    Raises:
        NoAgentsError: when there is none.
    """
    found = store.scenes_of(split)
    if not len(store):
        raise NoAgentsError(f"store {store.path}: it has no scene yet; wait until its extraction has finished a part")
    if not len(found):
        raise NoAgentsError(
            f"store {store.path}: no scene is in the split {split!r}; choose another one (data.split, or --split)"
        )
    return found[:most]


def blocks_of(scenes: NDArray[np.int64], part: NDArray[np.integer], most: int) -> list[NDArray[np.int64]]:
    """Runs of scenes of one part, of about the same length within a part, and of no more than ``most``."""
    runs = np.split(scenes, 1 + np.flatnonzero(np.diff(part[scenes])))
    return [piece for run in runs if len(run) for piece in np.array_split(run, -(-len(run) // most))]


@dataclass(frozen=True, eq=False)
class Variants:
    """A block: some scenes, each in its variant of this number."""

    number: int
    scenes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.scenes)


class DemoSampler:
    """Endless batches of expert samples.

    A pool holds some blocks of scenes; every batch is drawn uniformly, and independently, from all transitions in the
    pool. As rows are drawn, the oldest blocks make room for the next ones, which a thread has read meanwhile, in an
    order that goes through all blocks once an epoch, anew each epoch. When all scenes fit, nothing is replaced. (Blocks
    that a single batch larger than ``data.rows_per_scene`` times a block's scenes asks to replace are not drawn from.)

    Args:
        store: where the demos are.
        observation: the layout of observations.
        sim: which agents are controlled, and the horizon.
        device: where batches are made.
        data: which demos, and how many scenes at once for how long.
        seed: of the order of blocks and of the draws.
        drawn: rows drawn already (see :attr:`state`), to go on exactly there.
        shard: (index, count): draw from this one of ``count`` disjoint shares of the scenes, which together are all.
        scene_weights: of the store's scenes, as an array [S] or by index (1 for those not named): how often a
            transition (or a scene, if ``data.weights`` says so) is drawn compared with others in the pool; scenes of
            weight 0 are not read.
        alone: each expert drives in a world of its own, in which everyone else follows the log
            (``worlds.mode: single_agent``). Tracks take twice the memory, some 60 kB a scene more.
        only: draw from no other agents than these, rows of the scene's agents by the scene's index.
        augment: hold each scene in several variants (see :mod:`pipeline.experts.augment`), each counted as a scene.

    Raises:
        NoAgentsError: when there is nothing to draw from.
        ValueError: for a shard or weights that make no sense.
    """

    def __init__(
        self,
        store: DemoStore,
        observation: ObservationConfig,
        sim: SimConfig,
        device: torch.device | str = "cpu",
        data: DataConfig | None = None,
        seed: int = 0,
        drawn: int = 0,
        shard: tuple[int, int] = (0, 1),
        scene_weights: Mapping[int, float] | Sequence[float] | NDArray[np.floating] | None = None,
        alone: bool = False,
        only: Mapping[int, NDArray[np.integer]] | None = None,
        augment: Augmentation | None = None,
    ) -> None:
        self.store, self.drawn = store, drawn
        self._observation, self._sim, self._device, self._seed = observation, sim, torch.device(device), seed
        self._data, self._shard = data or DataConfig(), shard
        self._alone, self._only = alone, only
        self._augment = augment if augment is not None and augment.varies else Augmentation(variants=1)
        self._weight = _weights(scene_weights, len(store))
        scenes = self._scenes_from(0)
        if not len(scenes):
            raise NoAgentsError(f"store {store.path}: scene_weights are zero for all scenes; give some a weight")
        index, count = shard
        if not 0 <= index < count <= len(scenes):
            raise ValueError(f"shard {index} of {count} of {len(scenes)} scenes; use fewer, numbered from 0")
        pool_scenes = self._data.pool_scenes
        self._most = min(BLOCK_SCENES, max(1, pool_scenes // _FEWEST_BLOCKS))
        self._blocks = self._cut(scenes)
        mean = sum(map(len, self._blocks)) / len(self._blocks)
        grows = isinstance(store, GrowingStore)
        self._room = pool_scenes // self._most if grows else min(len(self._blocks), max(1, int(pool_scenes / mean)))
        self._places = min(len(self._blocks), self._room)
        self._turn(self._places, 0)
        self._next = self._wanted() - self._places
        self._pool = Pool(self._room + 1, observation, self._device)  # the last place: see _never_empty
        with ThreadPoolExecutor(cpu_threads()) as threads:
            numbers = range(self._next, self._next + self._places)
            for number, block in zip(numbers, threads.map(self._load, numbers), strict=True):
                self._pool.put(number % self._places, block)
        self._next += self._places
        self._prefetch = Prefetch(self._load, self._next) if self._rotates else None
        self._never_empty()
        self._weigh()

    @property
    def state(self) -> tuple[int, int]:
        """(seed, rows drawn), from which a sampler of the same store and settings goes on with the same batches."""
        return self._seed, self.drawn

    def sample(self, batch_size: int, next_state: bool = False, history: int = 0) -> Transitions:
        """A batch on the device. It stays as it is for as long as anything refers to it.

        Args:
            batch_size: B.
            next_state: with the observation of the next step too, which every transition has.
            history: with the observations of so many steps before, where the demo had begun.

        Raises:
            NoAgentsError: when there is nothing to draw in the whole store.
            ValueError: for a size that is none.
        """
        if batch_size < 1 or history < 0:
            raise ValueError(f"batch_size is {batch_size}, history {history}; they must be positive, and not negative")
        self._renew()
        if not len(self._ends):
            raise NoAgentsError(self._why_nobody())
        rng = np.random.default_rng([self._seed, self._shard[0], self.drawn])
        self.drawn += batch_size
        return self._pool.batch(self._pick(rng, batch_size), next_state, history)

    @property
    def absorbing_share(self) -> float:
        """Share of absorbing steps among all steps up to where the simulator cuts the agents off, over the demos held
        and by their weights: those after an arrival that ends an episode, so 0 where ``sim.on_goal`` is ``ignore``."""
        table = self._pool.table
        acting = self._demo_weight.sum()
        idle = (self._demo_weight / table.count * table.idle).sum()
        return float(idle / (acting + idle)) if idle else 0.0

    def extend(self) -> None:
        """Let scenes that joined a :class:`~pipeline.store.growing.GrowingStore` join the demos.

        As long as there is room they are held at once; otherwise they take their turns with all others. What is drawn
        from here on depends on when this is called, which :attr:`state` does not tell.
        """
        known = len(self._weight)
        self._weight = np.append(self._weight, np.ones(len(self.store) - known))
        blocks = self._cut(self._scenes_from(known))
        if not blocks:
            return
        self._blocks = self._blocks + blocks
        for block in [] if self._rotates else blocks[: self._room - self._places]:
            self._pool.put(self._places, self._read(block))
            self._places += 1
        if self._places < len(self._blocks):
            self.close()
            self._turn(self._next, self.drawn)
            self._prefetch = Prefetch(self._load, self._next)
        self._never_empty()
        self._weigh()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _pick(self, rng: np.random.Generator, size: int) -> Draws:
        """Independent draws by weight, sorted, each with a row of the batch in random order."""
        table = self._pool.table
        at = np.sort(rng.random(size)) * self._ends[-1]
        demo = np.minimum(np.searchsorted(self._ends, at, side="right"), len(table) - 1)
        inside = 1 - (self._ends[demo] - at) / self._demo_weight[demo]
        count = table.count[demo]
        step = table.first[demo] + np.clip((inside * count).astype(np.int32), 0, count - 1)
        return Draws(demo, step, rng.permutation(size))

    def _scenes_from(self, first: int) -> NDArray[np.int64]:
        """Scenes to read, from this index on."""
        scenes = chosen_scenes(self.store, self._data.split, self._data.max_scenes)
        scenes = scenes[(scenes >= first) & (self._weight[scenes] > 0)]
        return scenes if self._only is None else scenes[np.isin(scenes, list(self._only))]

    def _cut(self, scenes: NDArray[np.int64]) -> list[Variants]:
        """Blocks of this sampler's share of some scenes, in each variant."""
        index, count = self._shard
        blocks = blocks_of(np.array_split(scenes, count)[index], np.asarray(self.store.index.part), self._most)
        return [Variants(number, block) for number in range(self._augment.variants) for block in blocks]

    def _turn(self, loaded: int, since: int) -> None:
        """From ``since`` rows on, and ``loaded`` blocks, replace blocks as often as there are now."""
        self._rotates = self._places < len(self._blocks)
        self._loaded, self._since = loaded, since
        self._every = max(1, round(sum(map(len, self._blocks)) / len(self._blocks) * self._data.rows_per_scene))

    def _wanted(self) -> int:
        """How many blocks should have been loaded by now, of the endless order."""
        return self._loaded + ((self.drawn - self._since) // self._every if self._rotates else 0)

    def _renew(self) -> None:
        """Replace as many blocks as the rows drawn ask for."""
        wanted = self._wanted()
        if self._prefetch is None or self._next == wanted:
            return
        while self._next < wanted:
            self._pool.put(self._next % self._places, self._prefetch.next())
            self._next += 1
        self._never_empty()
        self._weigh()

    def _never_empty(self) -> None:
        """Where the blocks held have nothing to draw, hold the first one after them that has something, too."""
        found = None
        if self._rotates and not any(table is not None and len(table) for table in self._pool.tables[: self._places]):
            for number in range(self._next, self._next + len(self._blocks)):
                found = self._load(number)
                if found is not None and len(found.table):
                    break
        if found is not None or self._pool.tables[self._room] is not None:
            self._pool.put(self._room, found)

    def _why_nobody(self) -> str:
        """One sentence on what keeps everybody out."""
        scenes, data = len(np.unique(np.concatenate([block.scenes for block in self._blocks]))), self._data
        hint = "check sim.selection"
        if data.agents == "vru" and self._sim.selection.remove_non_vehicles:
            hint = "set sim.selection.remove_non_vehicles to false, since data.agents is vru"
        elif data.types or data.roles or data.without_roles or data.max_replay_error is not None:
            hint = "check data.types, data.roles, data.without_roles and data.max_replay_error, and sim.selection"
        what = f"no agent of its {scenes} scene(s) has a demo, may be controlled and passes the filter"
        return f"store {self.store.path}: {what}; {hint}"

    def _weigh(self) -> None:
        """How often each demo in the pool is drawn: running sums of the weights."""
        table = self._pool.table
        weight = self._weight[table.scene] * table.count
        if self._data.weights == "scene":
            scene, of = np.unique(table.scene, return_inverse=True)
            weight = weight / np.bincount(of, table.count, len(scene))[of]
        self._demo_weight, self._ends = weight, np.cumsum(weight)

    def _block(self, number: int) -> Variants:
        """The block of this number in the endless order."""
        return self._blocks[permuted(len(self._blocks), self._seed, number)]

    def _load(self, number: int) -> Block | None:
        """The block of this number; None when nobody in it may be controlled."""
        return self._read(self._block(number))

    def _read(self, block: Variants) -> Block | None:
        scenes = block.scenes.tolist()
        records = list(self.store.read(scenes))
        if self._augment.varies:
            records = [
                varied(
                    record, self.store.space, self._augment, np.random.default_rng([self._seed, scene, block.number])
                )
                for scene, record in zip(scenes, records, strict=True)
            ]
            if self._augment.stretch > 1:
                records = replayed(records, self.store.space)
        try:
            return load_block(
                records, scenes, self._sim, self._observation, self._data, self._device, self._alone, self._only
            )
        except NoAgentsError:
            return None


def _weights(
    given: Mapping[int, float] | Sequence[float] | NDArray[np.floating] | None, scenes: int
) -> NDArray[np.float64]:
    """[S] weights of a store's scenes."""
    weight = np.ones(scenes)
    if isinstance(given, Mapping):
        if unknown := [scene for scene in given if not 0 <= scene < scenes]:
            raise ValueError(f"scene_weights: scene {unknown[0]} is none of the store's, which are 0 to {scenes - 1}")
        for scene, value in given.items():
            weight[scene] = value
    elif given is not None:
        weight = np.asarray(given, np.float64)
    if weight.shape != (scenes,) or not np.isfinite(weight).all() or (weight < 0).any():
        raise ValueError(f"scene_weights: give {scenes} finite numbers, one a scene, of which none is negative")
    return weight
