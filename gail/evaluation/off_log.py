"""Driving from where no log was: scenes cut, mirrored, stretched and begun off the log (``evaluate --off-log``).

On the log a policy is judged in states that people brought about. Here it begins beside them, in worlds that differ
from all it has seen, as a policy does that has made a mistake.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from gail_cli.gail.evaluation.drivers import Lineup
from gail_cli.gail.evaluation.scene_scores import agent_scores, scene_of_agents
from gail_cli.gail.evaluation.summary import SceneScores, sums_of_agents
from gail_cli.pipeline.experts.augment import varied
from gail_cli.pipeline.experts.augmentation import Augmentation
from gail_cli.pipeline.experts.replay import demo_worlds
from gail_cli.pipeline.experts.starts import perturbed
from gail_cli.pipeline.records import Record
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection
from gail_cli.sim.env import Backend

VARIANTS = 2
"""Of each scene, where nothing else is asked for."""
DRIVES = 8
"""Most drives with drawn actions: rates need fewer than realism does, and variants are more than scenes."""
OFF_LOG = Augmentation(whole=0.05, shortest=20, mirror=0.5, stretch=1.5, perturb=1.0)
"""How scenes are varied: always like this, however a run was trained, so that runs are comparable."""


def off_log_variant(record: Record, space: ActionSpace, seed: int, number: int) -> Record:
    """A variant of a scene in which drivers begin off their logs.

    A pure function of the scene's id, the seed and the number, so neither other scenes nor their order matter.
    """
    word = int.from_bytes(hashlib.sha256(record.scene.id.encode()).digest()[:8])
    rng = np.random.default_rng([seed, number, word])
    return perturbed(varied(record, space, OFF_LOG, rng), OFF_LOG.perturb, rng)


def off_log_scores(
    lineup: Lineup,
    env: Backend,
    records: Sequence[Record],
    selection: Selection,
    *,
    variants: int,
    variants_seed: int,
    drives_seed: int,
) -> SceneScores:
    """What scenes contribute, each by all of its variants.

    Args:
        lineup: who drives.
        env: in which simulator; its worlds are exchanged.
        records: the scenes.
        selection: which agents are controlled.
        variants: of each scene.
        variants_seed: of the variants.
        drives_seed: of drawn actions.

    Raises:
        NoAgentsError: when nobody may be controlled in any variant.
    """
    space = env.action_space
    shown = [off_log_variant(record, space, variants_seed, k) for record in records for k in range(variants)]
    worlds = demo_worlds(shown, selection, env.worlds.device)
    env.swap(worlds)
    scene = scene_of_agents(worlds) // variants
    sums = {
        name: {key: sums_of_agents(x, scene, len(records)) for key, x in agent_scores(driven, worlds)[0].items()}
        for name, driven in lineup.drives(env, drives_seed).items()
    }
    return SceneScores([record.scene.id for record in records], sums, {})
