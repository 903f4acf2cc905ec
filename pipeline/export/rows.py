"""Demos one after the other, each with the observations that a policy would have had: the input of every writer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gail_cli.pipeline.experts.replay import ExpertObserver, demo_agents, demo_rows, make_experts
from gail_cli.pipeline.records import Record, Split
from gail_cli.pipeline.store.store import DemoStore
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import DT, AgentType
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import SelectedAgents

FORMAT = "gail-cli export"
VERSION = (1, 0)
"""(major, minor) of the layouts that ``docs/export.md`` describes."""
STATE_FIELDS = ("x (m)", "y (m)", "heading (rad)", "vx (m/s)", "vy (m/s)")
SPLITS = tuple(split.name.lower() for split in Split)
"""Names of :class:`~pipeline.records.Split`."""

_SCENES_PER_BLOCK = 16


@dataclass(frozen=True, eq=False)
class DemoEpisode:
    """One demo: T actions, and the T + 1 states and observations around them."""

    scene: Scene
    scene_index: int
    """The scene's index in the store."""
    split: str
    """One of :data:`SPLITS`."""
    agent: int
    """Row of the scene's agents."""
    first_step: int
    """Step of the scene at which the first action is taken."""
    state: NDArray[np.float32]
    """[T + 1, 5] replayed x, y, heading, vx, vy, relative to the scene's origin."""
    mark: NDArray[np.uint8]
    """[T + 1] 1 logged, 2 bridged gap of the log."""
    stored_action: NDArray[np.int16] | NDArray[np.float32]
    """[T, K] as the store holds it: grid indices, or values."""
    action: NDArray[np.float32]
    """[T, K] values."""
    observe: Callable[[], NDArray[np.float32]]
    """[T + 1, D] the agent's observations; made anew at each call."""

    @property
    def num_actions(self) -> int:
        """T."""
        return len(self.action)

    @property
    def agent_id(self) -> int:
        """The agent's number in the log."""
        return int(self.scene.agent_id[self.agent])

    @property
    def agent_type(self) -> str:
        """The type in words: vehicle, pedestrian, cyclist or other."""
        return AgentType(int(self.scene.agent_type[self.agent])).name.lower()

    @property
    def agent_size(self) -> NDArray[np.float32]:
        """[3] length, width, height, m."""
        size: NDArray[np.float32] = self.scene.agent_size[self.agent]
        return size


@dataclass(frozen=True, eq=False)
class SceneDemos:
    """The demos of one scene that a run with these rules would learn from."""

    index: int
    """The scene's index in the store."""
    split: str
    scene: Scene
    chosen: SelectedAgents
    """The agents that exist, and which of them have a demo here."""
    episodes: tuple[DemoEpisode, ...]


def scene_demos(
    records: Iterable[tuple[int, Record]], space: ActionSpace, observation: ObservationConfig, sim: SimConfig
) -> Iterator[SceneDemos]:
    """The scenes in their order, some at a time in memory; without episodes where the rules let no agent be controlled.

    Args:
        records: index in the store, and content of each scene.
        space: of the stored actions.
        observation: layout of the observations.
        sim: rules, which say which agents are controlled, which are seen when, and where an episode ends.
    """
    records = iter(records)
    while block := list(islice(records, _SCENES_PER_BLOCK)):
        yield from _block(block, space, observation, sim)


def _block(
    block: Sequence[tuple[int, Record]], space: ActionSpace, observation: ObservationConfig, sim: SimConfig
) -> Iterator[SceneDemos]:
    chosen = [demo_agents(record, sim.selection) for _, record in block]
    some = [item for item, agents in zip(block, chosen, strict=True) if agents.controlled.any()]
    episodes: dict[int, list[DemoEpisode]] = {index: [] for index, _ in block}
    for episode in _episodes(some, space, observation, sim) if some else ():
        episodes[episode.scene_index].append(episode)
    for (index, record), agents in zip(block, chosen, strict=True):
        yield SceneDemos(index, SPLITS[record.split], record.scene, agents, tuple(episodes[index]))


def _episodes(
    block: Sequence[tuple[int, Record]], space: ActionSpace, observation: ObservationConfig, sim: SimConfig
) -> Iterator[DemoEpisode]:
    """Episodes of all controlled agents that act at all, in the simulator's order."""
    records = [record for _, record in block]
    experts = make_experts(records, sim)
    observer = ExpertObserver(experts, observation)
    rows = demo_rows(records, experts.worlds)
    agents, steps = experts.transitions.numpy().T
    counts = np.bincount(agents, minlength=len(rows))
    firsts = np.append(steps, 0)[np.cumsum(counts) - counts]  # transitions are sorted by agent, then step
    for agent, ((world, row), first, count) in enumerate(zip(rows, firsts.tolist(), counts.tolist(), strict=True)):
        if not count:
            continue
        index, record = block[world]
        demos, last = record.demos, first + count
        stored = demos.action[row, first:last]
        yield DemoEpisode(
            scene=record.scene,
            scene_index=index,
            split=SPLITS[record.split],
            agent=int(demos.agent[row]),
            first_step=first,
            state=demos.state[row, first : last + 1],
            mark=demos.mark[row, first : last + 1],
            stored_action=stored,
            action=space.decode(torch.from_numpy(np.ascontiguousarray(stored))).numpy(),
            observe=_observation(observer, agent, first, last),
        )


def _observation(observer: ExpertObserver, agent: int, first: int, last: int) -> Callable[[], NDArray[np.float32]]:
    def observe() -> NDArray[np.float32]:
        step = torch.arange(first, last + 1)
        seen: NDArray[np.float32] = observer.observe(torch.full_like(step, agent), step).numpy()
        return seen

    return observe


def describe_export(store: DemoStore, observation: ObservationConfig, sim: SimConfig) -> dict[str, Any]:
    """The meaning of the numbers of an export, ready for JSON."""
    return {
        "format": FORMAT,
        "version": list(VERSION),
        "dt_s": DT,
        "observation": {
            "size": observation.size,
            "settings": asdict(observation),
            "blocks": [
                {"entity": name, "count": count, "fields": list(fields)} for name, count, fields in observation.entities
            ],
        },
        "action": store.space.to_json(),
        "state": {"fields": list(STATE_FIELDS), "frame": "relative to the scene's origin"},
        "mark": {"1": "logged", "2": "gap of the log, bridged"},
        "reward": "0 everywhere: logs hold no reward",
        "end": "each demo ends by truncation, where its log or its episode ends; none terminates",
        "sim": asdict(sim),
        "store": {key: store.attributes[key] for key in ("plan", "settings", "software") if key in store.attributes},
        "software": f"gail-cli {version('gail-cli')}",
    }
