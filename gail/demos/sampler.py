"""Batches of expert samples from a store of any size, in bounded memory.

A demo is (scene, agent, step); its observation is made when it is drawn, by the simulator's own kernel from the
replayed states. Everything is a pure function of the seed and the number of rows drawn before, so these two numbers
are all of a sampler's state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.gail.demos.pool import Block, Draws, Pool, Table, load_block
from gail_cli.gail.demos.prefetch import Prefetch
from gail_cli.gail.demos.rules import AgentRows, DemoRules
from gail_cli.gail.demos.schedule import BlockSchedule, SceneBlock, block_size, scene_blocks
from gail_cli.gail.demos.transitions import Transitions
from gail_cli.pipeline.experts.augment import demo_variants
from gail_cli.pipeline.experts.replay import NoAgentsError
from gail_cli.pipeline.records import Record
from gail_cli.pipeline.store.growing import GrowingStore
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.launch import cpu_threads

SceneWeights = Mapping[int, float] | Sequence[float] | NDArray[np.floating]
"""Weights of a store's scenes: [S], or by the scene's index (1 for those not named)."""


def chosen_scenes(store: DemoStore, split: str, most: int | None = None) -> NDArray[np.int64]:
    """Indices of the scenes of a split ("all" for all), of no more than the first ``most``.

    Raises:
        NoAgentsError: when there is none.
    """
    where, found = f"store {store.path}", store.scenes_of(split)
    if not len(store):
        raise NoAgentsError(where, "it has no scene yet", "wait until its extraction has finished a part")
    if not len(found):
        raise NoAgentsError(where, f"no scene is in the split {split!r}", "choose another one (data.split, or --split)")
    return found[:most]


class DemoSampler:
    """Endless batches of expert samples, out of one store.

    A :class:`~gail.demos.pool.Pool` holds some blocks of scenes; every batch is drawn uniformly, and independently,
    from all transitions in the pool. As rows are drawn, the oldest blocks make room for the next ones, which a thread
    has read meanwhile, as a :class:`~gail.demos.schedule.BlockSchedule` says. When all scenes fit, nothing is replaced.
    (Blocks that a single batch larger than ``data.rows_per_scene`` times a block's scenes asks to replace are not drawn
    from.)

    Args:
        store: where the demos are.
        rules: which demos, how they are shown, and how many scenes are held for how long. Experts that drive in worlds
            of their own (``single_agent``) take twice the memory for tracks, some 60 kB more per scene.
        seed: of the order of blocks and of the draws.
        drawn: rows drawn already (see :meth:`state_dict`), to go on exactly there.
        device: where batches are made.
        shard: (index, count): draw from this one of ``count`` disjoint shares of the scenes, which together are all.
        scene_weights: how often a transition (or a scene, if ``data.weights`` says so) is drawn compared with others in
            the pool; scenes of weight 0 are not read.
        allowed: draw only from these agents; None: from all. ``rules.max_agents`` has no effect here.

    Raises:
        NoAgentsError: when there is nothing to draw from.
        ValueError: for a shard or weights that make no sense.
    """

    def __init__(
        self,
        store: DemoStore,
        rules: DemoRules | None = None,
        seed: int = 0,
        drawn: int = 0,
        device: torch.device | str = "cpu",
        shard: tuple[int, int] = (0, 1),
        scene_weights: SceneWeights | None = None,
        allowed: AgentRows | None = None,
    ) -> None:
        self.store, self.rules, self.drawn = store, rules or DemoRules(), drawn
        self._seed, self._device, self._shard, self._allowed = seed, torch.device(device), shard, allowed
        self._scene_weight = _scene_weight(scene_weights, len(store))
        self._schedule = self._plan(seed)
        self._prefetch: Prefetch[Block | None] | None = None
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """``seed`` and ``drawn``, the rows drawn so far; for :meth:`load_state_dict`."""
        return {"seed": self._seed, "drawn": self.drawn}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the sampler of this state was, with the same batches to the last bit.

        That is exact for a sampler of the same store, rules, shard, weights and allowed agents. It is not exact where
        the store has grown: then the sampler behaves as if all present scenes had been there from the start, because
        the state does not tell after how many rows each of them joined.

        Args:
            state: what :meth:`state_dict` returned.
        """
        seed, drawn = int(state["seed"]), int(state["drawn"])
        schedule = self._plan(seed)
        self.drawn = drawn
        if schedule != self._schedule or schedule.loaded(self.drawn) != self._next:
            self.close()
            self._seed, self._schedule = seed, schedule
            self._begin()

    def sample(self, batch_size: int, next_state: bool = False, history: int = 0) -> Transitions:
        """A batch on the device. It stays as it is for as long as anything refers to it.

        Args:
            batch_size: B.
            next_state: with the observation of the next step too, which every transition has.
            history: with the observations of so many steps before, where the demo had begun.

        Raises:
            NoAgentsError: when there is nothing to draw in the whole store.
            ValueError: for a batch size below 1, or a negative history.
        """
        if batch_size < 1 or history < 0:
            raise ValueError(f"batch_size is {batch_size}, history {history}; they must be positive, and not negative")
        self._renew()
        if not len(self._weights.table):
            raise self._no_agents()
        rng = np.random.default_rng([self._seed, self._shard[0], self.drawn])
        self.drawn += batch_size
        return self._pool.batch(self._weights.draw(rng, batch_size), next_state, history)

    @property
    def absorbing_share(self) -> float:
        """See :attr:`DemoWeights.absorbing_share`; of the demos held now."""
        return self._weights.absorbing_share

    def extend(self) -> None:
        """Draw also from scenes that joined a :class:`~pipeline.store.growing.GrowingStore`.

        As long as there is room they are held at once; otherwise they take their turns with all others. What is drawn
        from here on depends on when this is called, which :meth:`state_dict` does not tell.
        """
        blocks = self._cut(self._scenes(len(self._scene_weight)))
        if not blocks:
            return
        before = self._schedule
        self._schedule = before.extend(blocks, self._next, self.drawn)
        for block, place in zip(blocks, range(before.places, self._schedule.places), strict=False):
            self._pool.put(place, self._load_block(block))
        if self._schedule.rotates:
            self.close()
            self._prefetch = Prefetch(self._load, self._next)
        self._fill_spare_place()
        self._weigh()

    def close(self) -> None:
        """Stop reading ahead."""
        if self._prefetch is not None:
            self._prefetch.close()

    def _scenes(self, first: int = 0) -> NDArray[np.int64]:
        """Scenes to draw from, from this index on; those that joined the store have the weight 1."""
        joined = len(self.store) - len(self._scene_weight)
        self._scene_weight = np.append(self._scene_weight, np.ones(joined))
        scenes = chosen_scenes(self.store, self.rules.data.split, self.rules.data.max_scenes)
        scenes = scenes[(scenes >= first) & (self._scene_weight[scenes] > 0)]
        return scenes if self._allowed is None else scenes[np.isin(scenes, list(self._allowed))]

    def _cut(self, scenes: NDArray[np.int64]) -> tuple[SceneBlock, ...]:
        """Blocks of this sampler's share of some scenes, in each variant."""
        index, count = self._shard
        mine = np.array_split(scenes, count)[index]
        size = block_size(self.rules.data.pool_scenes)
        return scene_blocks(mine, np.asarray(self.store.index.part), size, self.rules.variants)

    def _plan(self, seed: int) -> BlockSchedule:
        """The schedule of all scenes that there are now."""
        scenes = self._scenes()
        if not len(scenes):
            raise NoAgentsError(
                f"store {self.store.path}", "scene_weights are zero for all scenes", "give some a weight"
            )
        index, count = self._shard
        if not 0 <= index < count <= len(scenes):
            raise ValueError(f"shard {index} of {count} of {len(scenes)} scenes; use fewer, numbered from 0")
        data, grows = self.rules.data, isinstance(self.store, GrowingStore)
        return BlockSchedule.plan(self._cut(scenes), data.pool_scenes, data.rows_per_scene, seed, grows)

    def _begin(self) -> None:
        """Fill a pool with what it holds after the rows drawn so far."""
        schedule = self._schedule
        held = schedule.held(self.drawn)
        self._next = held.stop
        # the last place is for _fill_spare_place
        self._pool = Pool(schedule.room + 1, self.rules.observation, self._device)
        with ThreadPoolExecutor(cpu_threads()) as threads:
            for number, block in zip(held, threads.map(self._load, held), strict=True):
                self._pool.put(schedule.place(number), block)
        self._prefetch = Prefetch(self._load, held.stop) if schedule.rotates else None
        self._fill_spare_place()
        self._weigh()

    def _renew(self) -> None:
        """Replace as many blocks as the rows drawn ask for."""
        loaded = self._schedule.loaded(self.drawn)
        if self._prefetch is None or self._next == loaded:
            return
        while self._next < loaded:
            self._pool.put(self._schedule.place(self._next), self._prefetch.next())
            self._next += 1
        self._fill_spare_place()
        self._weigh()

    def _fill_spare_place(self) -> None:
        """Where the blocks held have no demo to draw, also hold the first block after them that has one."""
        schedule, spare, found = self._schedule, self._schedule.room, None
        if schedule.rotates and not any(self._pool.num_demos(place) for place in range(schedule.places)):
            for number in range(self._next, self._next + len(schedule.blocks)):
                found = self._load(number)
                if found is not None and len(found.table):
                    break
        if found is not None or self._pool.tables[spare] is not None:
            self._pool.put(spare, found)

    def _weigh(self) -> None:
        """Weigh the demos held now."""
        per_scene = self.rules.data.weights == "scene"
        self._weights = DemoWeights.of(self._pool.table, self._scene_weight, per_scene)

    def _load(self, number: int) -> Block | None:
        """The block of this number in the schedule's order; None when no agent in it may be controlled."""
        return self._load_block(self._schedule.block(number))

    def _load_block(self, block: SceneBlock) -> Block | None:
        records = self._varied(list(self.store.read(list(block.scenes))), block)
        try:
            return load_block(records, block.scenes, self.rules, self._device, self._allowed)
        except NoAgentsError:
            return None

    def _varied(self, records: list[Record], block: SceneBlock) -> list[Record]:
        """The scenes of a block in its variant."""
        augment, space = self.rules.augment, self.store.space
        if not augment.varies:
            return records
        rngs = [np.random.default_rng([self._seed, scene, block.variant]) for scene in block.scenes]
        return demo_variants(records, space, augment, rngs)

    def _no_agents(self) -> NoAgentsError:
        """What keeps all agents out of the batches."""
        scenes = len({scene for block in self._schedule.blocks for scene in block.scenes})
        data, fix = self.rules.data, "check sim.selection"
        if data.agents == "vru" and self.rules.sim.selection.remove_non_vehicles:
            fix = "set sim.selection.remove_non_vehicles to false, since data.agents is vru"
        elif data.types or data.roles or data.without_roles or data.max_replay_error is not None:
            fix = "check data.types, data.roles, data.without_roles and data.max_replay_error, and sim.selection"
        what = f"no agent of its {scenes} scene(s) has a demo, may be controlled and passes the filter"
        return NoAgentsError(f"store {self.store.path}", what, fix)


@dataclass(frozen=True, eq=False)
class DemoWeights:
    """How often each of R demos is drawn compared with the others, and draws by these weights."""

    table: Table
    """The demos."""
    weight: NDArray[np.float64]
    """[R] weight of all transitions of a demo together."""
    ends: NDArray[np.float64]
    """[R] running sums of the weights."""

    @classmethod
    def of(cls, table: Table, scene_weight: NDArray[np.float64], per_scene: bool = False) -> DemoWeights:
        """The weights of some demos.

        Args:
            table: the demos.
            scene_weight: [S] weights of the store's scenes.
            per_scene: a scene has its weight as a whole, however many transitions it has; otherwise each of its
                transitions has it.
        """
        weight = scene_weight[table.scene] * table.count
        if per_scene:
            scene, inverse = np.unique(table.scene, return_inverse=True)
            weight = weight / np.bincount(inverse, table.count, len(scene))[inverse]
        return cls(table, weight, np.cumsum(weight))

    def draw(self, rng: np.random.Generator, size: int) -> Draws:
        """Independent draws by weight, sorted, each with a row of the batch in random order."""
        at = np.sort(rng.random(size)) * self.ends[-1]
        demo = np.minimum(np.searchsorted(self.ends, at, side="right"), len(self.table) - 1)
        inside = 1 - (self.ends[demo] - at) / self.weight[demo]
        count = self.table.count[demo]
        step = self.table.first[demo] + np.clip((inside * count).astype(np.int32), 0, count - 1)
        return Draws(demo, step, rng.permutation(size))

    @property
    def absorbing_share(self) -> float:
        """Share of absorbing steps among all steps up to where the simulator cuts the agents off, over the demos by
        their weights: those after an arrival that ends an episode, so 0 where ``sim.on_goal`` is ``ignore``."""
        acting = self.weight.sum()
        idle = (self.weight / self.table.count * self.table.idle).sum()
        return float(idle / (acting + idle)) if idle else 0.0


def _scene_weight(given: SceneWeights | None, scenes: int) -> NDArray[np.float64]:
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
