"""A working set of demos on a device, out of which batches of any transitions are made by one launch of a kernel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gail_cli.gail.config.schema import DemoFilter
from gail_cli.gail.demos.rules import AgentRows, DemoRules
from gail_cli.gail.demos.transitions import Transitions, driver_key
from gail_cli.pipeline.experts.replay import demo_rows, make_experts
from gail_cli.pipeline.records import QUALITY, Record
from gail_cli.sim.launch import Program, num_parts, split_evenly
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.observation import ObservationPool, ObservationSource
from gail_cli.sim.scenario import DT, AgentType
from gail_cli.sim.scene import Role

_IDLE_DRAWS = 256
"""Draws after which the memory of a batch is given back if no batch of its size was drawn."""


@dataclass(frozen=True, eq=False)
class Table:
    """The demos that are drawn, one a row, R in all; the transitions of a demo are an unbroken run of steps."""

    place: NDArray[np.int32]
    """[R] place of the demo's block in the pool."""
    agent: NDArray[np.int32]
    """[R] controlled agent in the block, 0 .. N-1."""
    row: NDArray[np.int32]
    """[R] agent row in the block's worlds."""
    scene: NDArray[np.int64]
    """[R] index of the scene in the store."""
    scene_agent: NDArray[np.int64]
    """[R] row of the scene's agents."""
    driver: NDArray[np.int64]
    """[R] whose demo it is (:func:`~gail_cli.gail.demos.transitions.driver_key`)."""
    first: NDArray[np.int32]
    """[R] step of the first transition."""
    count: NDArray[np.int32]
    """[R] transitions."""
    end: NDArray[np.int32]
    """[R] step at which the simulator cuts the agent off."""
    idle: NDArray[np.int32]
    """[R] steps from the arrival that ended the demo to ``end``; 0 where no arrival did."""

    @staticmethod
    def joined(tables: Sequence[Table]) -> Table:
        """The rows of some tables one after the other."""
        kinds = (*(np.int32,) * 3, *(np.int64,) * 3, *(np.int32,) * 4)
        columns = [[getattr(t, f.name) for t in tables] for f in fields(Table)]
        return Table(*(np.concatenate([*c, np.zeros(0, kind)]) for c, kind in zip(columns, kinds, strict=True)))

    def __len__(self) -> int:
        return len(self.count)


@dataclass(frozen=True, eq=False)
class Block:
    """Some scenes on a device: what is needed to make any of their demos' transitions, and no more."""

    source: ObservationSource
    """What observations are made from."""
    action: Tensor
    """[N, T, K] of the controlled agents."""
    table: Table
    """The demos that pass the filter; places are zero."""


def load_block(
    records: Sequence[Record],
    scenes: Sequence[int],
    rules: DemoRules,
    device: torch.device,
    allowed: AgentRows | None = None,
) -> Block:
    """Lay the demos of some scenes out on a device.

    Args:
        records: the scenes.
        scenes: their indices in the store.
        rules: which agents are controlled, which of their demos are drawn, and how they are observed.
        device: where.
        allowed: only demos of these agents are drawn; None: of all.

    Raises:
        NoAgentsError: when no agent of the scenes has a demo and may be controlled.
    """
    experts = make_experts(records, rules.sim, device, rules.single_agent)
    worlds = experts.worlds
    drivers = worlds.controlled_agents()
    keep = np.array(
        [
            passes(rules.data, records[w], agent, row) and (allowed is None or agent in allowed[scenes[w]])
            for (w, agent), (_, row) in zip(drivers, demo_rows(records, worlds), strict=True)
        ]
    )
    owner, step = experts.transitions.cpu().numpy().T
    count = np.bincount(owner, minlength=len(drivers)).astype(np.int32)
    begin = np.cumsum(count) - count
    chosen = np.flatnonzero(keep & (count > 0))
    first = step[begin[chosen]].astype(np.int32)
    end = experts.end.cpu().numpy()[chosen].astype(np.int32)
    table = Table(
        place=np.zeros(len(chosen), np.int32),
        agent=chosen.astype(np.int32),
        row=worlds.controlled.cpu().numpy()[chosen].astype(np.int32),
        scene=np.array([scenes[w] for w, _ in drivers], np.int64)[chosen],
        scene_agent=np.array([agent for _, agent in drivers], np.int64)[chosen],
        driver=np.array([driver_key(records[w].scene.id, agent) for w, agent in drivers], np.int64)[chosen],
        first=first,
        count=count[chosen],
        end=end,
        idle=np.where(experts.arrived.cpu().numpy()[chosen], end - first - count[chosen], 0).astype(np.int32),
    )
    source = ObservationSource.of(worlds, experts.own, experts.others, rules.observation)
    return Block(source, experts.action, table)


def passes(wanted: DemoFilter, record: Record, agent: int, row: int) -> bool:
    """Whether a demo is one to draw: ``agent`` is a row of the scene's agents, ``row`` one of its demos."""
    role = int(record.scene.agent_role[agent])
    if any(not role & Role[name.upper()] for name in wanted.roles):
        return False
    if any(role & Role[name.upper()] for name in wanted.without_roles):
        return False
    if wanted.types is not None and AgentType(record.scene.agent_type[agent]).name.lower() not in wanted.types:
        return False
    error = wanted.max_replay_error
    return error is None or bool(record.demos.quality[row, QUALITY.index("ade_m")] <= error)


@dataclass(frozen=True, eq=False)
class Draws:
    """Transitions drawn, B in all, in the order of the pool's memory."""

    demo: NDArray[np.int64]
    """[B] rows of the pool's table."""
    step: NDArray[np.int32]
    """[B]."""
    row: NDArray[np.int64]
    """[B] rows of the batch that they go to."""


class Pool:
    """Blocks in numbered places, and batches of their transitions.

    On a CPU the memory of a batch is used again once nothing refers to it any more, as fresh memory takes two to three
    times as long to fill; a batch that is still referred to never changes.

    Args:
        places: how many blocks there is room for.
        observation: the layout.
        device: where they are.
    """

    def __init__(self, places: int, observation: ObservationConfig, device: torch.device) -> None:
        self.tables: list[Table | None] = [None] * places
        """The demos of the block in each place; None where there is no block."""
        self._table: Table | None = None
        self._device = device
        self._observations = ObservationPool(places, observation, device)
        self._action: Tensor | None = None
        self._batches: list[_Batch] = []
        self._draws = 0

    def put(self, place: int, block: Block | None) -> None:
        """Hold a block in a place, instead of the one that was there; None empties the place."""
        self.tables[place] = (
            None if block is None else replace(block.table, place=np.full(len(block.table), place, np.int32))
        )
        self._table = None
        scratch = self._observations.scratch
        self._observations.put(place, None if block is None else block.source)
        if self._observations.scratch > scratch:
            self._batches.clear()
        if block is not None:
            self._keep_actions(place, block.action)

    def num_demos(self, place: int) -> int:
        """How many demos the block in a place has; 0 where there is no block."""
        table = self.tables[place]
        return 0 if table is None else len(table)

    @property
    def table(self) -> Table:
        """The demos of all blocks held."""
        if self._table is None:
            self._table = Table.joined([table for table in self.tables if table is not None])
        return self._table

    def batch(self, draws: Draws, next_state: bool = False, history: int = 0) -> Transitions:
        """The batch of these transitions.

        Args:
            draws: which ones.
            next_state: with the observations of one step later.
            history: with the observations of so many steps before.
        """
        assert self._action is not None
        table, demo, step = self.table, draws.demo, draws.step
        views: list[tuple[int, ...]] = [(0,)]
        if next_state:
            views.append((1,))
        if history:
            views.append(tuple(range(-history, 0)))
        batch = self._free_batch(len(demo), tuple(views))
        batch.fill(table, draws)
        observations = iter(batch.observations())
        observation = next(observations)[:, 0]
        following = next(observations)[:, 0] if next_state else None
        device, row = self._device, torch.from_numpy(draws.row)
        where = [torch.from_numpy(x.astype(np.int64)).to(device) for x in (table.place[demo], table.agent[demo], step)]
        transition = np.stack([table.scene[demo], table.scene_agent[demo], step], axis=1)
        mask = None
        if history:
            begun = step[:, None] + np.arange(-history, 0) >= table.first[demo, None]
            mask = _in_rows(torch.from_numpy(begun), row).to(device)
        done = torch.from_numpy(step == table.first[demo] + table.count[demo] - 1)
        return Transitions(
            observation,
            _in_rows(self._action[tuple(where)], row.to(device)),
            following,
            next(observations) if history else None,
            mask,
            _in_rows(torch.from_numpy(transition), row).to(device),
            _in_rows(torch.from_numpy(table.driver[demo]), row).to(device),
            _in_rows(done, row).to(device),
        )

    def _keep_actions(self, place: int, action: Tensor) -> None:
        """All actions lie in one tensor [places, most agents of a block, T, K]."""
        old = self._action
        if old is None or old.shape[1] < len(action):
            shape = (len(self.tables), len(action) * 5 // 4 + 1, *action.shape[1:])
            self._action = torch.zeros(shape, dtype=action.dtype, device=self._device)
            if old is not None:
                self._action[:, : old.shape[1]] = old
        assert self._action is not None
        self._action[place, : len(action)] = action

    def _free_batch(self, size: int, views: tuple[tuple[int, ...], ...]) -> _Batch:
        """Memory for a batch, none that an earlier batch is still held in."""
        self._draws += 1
        if self._device.type == "cuda":  # torch's own allocator takes care
            return _Batch(self._observations, size, views)
        self._batches = [b for b in self._batches if self._draws - b.last_draw <= _IDLE_DRAWS]
        for batch in self._batches:
            if batch.size == size and batch.views == views and batch.free():
                break
        else:
            batch = _Batch(self._observations, size, views)
            self._batches.append(batch)
        batch.last_draw = self._draws
        return batch


class _Batch:
    """Memory for a batch, with kernels prepared to fill it.

    Args:
        pool: where the agents are.
        size: B.
        views: for each tensor of observations the steps, relative to a transition's.
    """

    def __init__(self, pool: ObservationPool, size: int, views: tuple[tuple[int, ...], ...]) -> None:
        self.size, self.views, self.last_draw = size, views, 0
        self._device, self._width = pool.device, pool.config.size
        rows = [size * len(steps) for steps in views]
        parts = num_parts(sum(rows), self._device)
        self._query = [torch.empty(n, 4, dtype=torch.int32, device=self._device) for n in rows]
        self._time_left = [torch.empty(n, device=self._device) for n in rows]
        self._memory = [self._empty(n) for n in rows]
        stages = [
            pool.stage(split_evenly(n, parts), query, time_left, _tensor(memory))
            for n, query, time_left, memory in zip(rows, self._query, self._time_left, self._memory, strict=True)
        ]
        self._program = Program(stages, self._device)
        self._unused = self._references()

    def free(self) -> bool:
        """Whether nothing refers to the observations handed out."""
        return self._references() == self._unused

    def observations(self) -> list[Tensor]:
        """[B, steps, D] of each view."""
        return [
            _tensor(memory).view(self.size, len(steps), self._width)
            for memory, steps in zip(self._memory, self.views, strict=True)
        ]

    def fill(self, table: Table, draws: Draws) -> None:
        """Make the observations of these transitions."""
        for steps, query, time_left in zip(self.views, self._query, self._time_left, strict=True):
            offset, many = np.array(steps, np.int32), len(steps)
            step = draws.step[:, None] + offset
            query_rows = np.empty((self.size, many, 4), np.int32)
            query_rows[..., 0] = table.place[draws.demo, None]
            query_rows[..., 1] = table.row[draws.demo, None]
            query_rows[..., 2] = np.where(step < table.first[draws.demo, None], -1, step)
            query_rows[..., 3] = draws.row[:, None] * many + np.arange(many)
            query.copy_(torch.from_numpy(query_rows.reshape(-1, 4)))
            seconds = (table.end[draws.demo, None] - step).astype(np.float32) * np.float32(DT)
            time_left.copy_(torch.from_numpy(seconds.reshape(-1)))
        self._program.run()

    def _empty(self, rows: int) -> NDArray[np.float32] | Tensor:
        """Memory [rows, D]: on a CPU NumPy's, every tensor over which holds a reference that can be counted."""
        if self._device.type == "cuda":
            return torch.empty(rows, self._width, device=self._device)
        return np.empty((rows, self._width), np.float32)

    def _references(self) -> list[int]:
        return [sys.getrefcount(memory) for memory in self._memory]


def _tensor(memory: NDArray[np.float32] | Tensor) -> Tensor:
    """A tensor over this memory."""
    return memory if isinstance(memory, Tensor) else torch.from_numpy(memory)


def _in_rows(values: Tensor, row: Tensor) -> Tensor:
    """[B, ...] with ``values[k]`` in row ``row[k]``."""
    return torch.empty_like(values).index_copy_(0, row, values)
