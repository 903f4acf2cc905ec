"""Which demos a run learns from and which worlds it drives in: one object for all that reads scenes from stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gail_cli.gail.config.schema import DataConfig, WorldsConfig
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.sim.config import SimConfig
from gail_cli.sim.layout import ObservationConfig

AgentRows = Mapping[int, NDArray[np.integer]]
"""Some agents of a store: rows of a scene's agents, by the scene's index in the store."""


def _as_recorded() -> Augmentation:
    return Augmentation(variants=1)


@dataclass(frozen=True)
class DemoRules:
    """Everything that decides what is made of a store's scenes, apart from the seed.

    Samplers make batches of transitions by these rules, streams batches of worlds. By default scenes are shown as they
    were recorded; a run's configuration varies them.

    Raises:
        ValueError: for ``max_agents`` without ``single_agent``.
    """

    sim: SimConfig = field(default_factory=SimConfig)
    """Which agents are controlled, the horizon, and what happens at goals."""
    observation: ObservationConfig = field(default_factory=ObservationConfig)
    """The layout of observations."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which scenes and demos are used, and how many scenes are held for how long."""
    augment: Augmentation = field(default_factory=_as_recorded)
    """How scenes are varied; each variant that demos are drawn from counts as a scene."""
    single_agent: bool = False
    """Each controlled agent has a world of its own, in which all others follow the log. Otherwise a world is a scene,
    in which all controlled agents drive together."""
    max_agents: int | None = None
    """With ``single_agent``: only so many agents are used, over all stores; None for all. See
    :class:`~gail.demos.worlds.FirstAgents`."""
    world_augment: Augmentation | None = None
    """How the scenes of worlds are varied; None: as those of demos, :attr:`augment`."""
    retime: float = 0.0
    """See ``worlds.retime``: agents that follow their logs in a world do so at another pace."""
    single_agent_share: float = 0.0
    """Share of the worlds that have one controlled agent, where the others have all of a scene."""

    def __post_init__(self) -> None:
        if self.max_agents is not None and not self.single_agent:
            raise ValueError("max_agents needs single_agent; set that, or leave it out")

    @classmethod
    def from_config(
        cls,
        data: DataConfig,
        worlds: WorldsConfig,
        sim: SimConfig,
        observation: ObservationConfig,
        augment: Augmentation,
    ) -> DemoRules:
        """The rules that these sections of a run's configuration make."""
        return cls(
            sim, observation, data, augment, worlds.mode == "single_agent",
            worlds.max_single_agent_envs, worlds.augment, worlds.retime, worlds.single_agent_share,
        )  # fmt: skip

    @property
    def variants(self) -> int:
        """Variants of each scene that demos are drawn from; 1 where scenes are shown as they were recorded."""
        return self.augment.variants if self.augment.varies else 1

    def held_out(self, split: Literal["train", "validation", "test", "all"], pool_scenes: int) -> DemoRules:
        """The rules for demos of another split that a run is measured against: all of them, as they were recorded.

        Args:
            split: which scenes.
            pool_scenes: most scenes held at a time, if these rules do not have fewer.
        """
        few = min(pool_scenes, self.data.pool_scenes)
        data = replace(self.data, split=split, pool_scenes=few, max_scenes=None)
        return replace(self, data=data, augment=_as_recorded(), max_agents=None)
