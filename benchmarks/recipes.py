"""The recipes that :mod:`benchmarks.imitation` compares, as data: settings over the defaults, by name.

To compare something else, add a line. A setting that is none is found by tests/test_imitation.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Settings = Sequence[str]
Recipes = Mapping[str, Settings]

CLONE, DEFAULT = "clone", "default"

RECIPES: Recipes = {
    CLONE: ("algorithm=bc",),
    "ppo": ("reward.gail=0", "reward.events=0", "reward.environment=1"),
    "events alone": ("reward.gail=0",),
    "gail alone": ("reward.events=0",),
    DEFAULT: (),
    "gail from nothing": ("algorithm=gail",),
    "ppo from nothing": ("algorithm=ppo", "sim.reward=sparse_on_goal_achieved"),
}
"""Ways to learn. All but the last two begin with the clone; ``ppo`` has the environment's reward only, ``default`` is
GAIL and events."""

ABLATIONS: Recipes = {
    CLONE: ("algorithm=bc",),
    DEFAULT: (),
    # eyes: each has a clone of its own
    "no rays": ("observation.rays=false",),
    "no danger numbers": ("observation.danger=false",),
    "no near field": ("observation.near=false",),
    "no route": ("observation.route=false",),
    # learning from driving
    "experts of a pool": ("discriminator.experts=pool",),
    "events not paid": ("reward.events=0",),
    "no discriminator": ("reward.gail=0",),
    "eyes learn on": ("ppo.train_encoder=0",),
    "masked rollouts": ("masking.rollouts=true",),
    "boxes as evaluated": ("events.box_scale=null",),
    "every contact alike": ("events.fault=1",),
    "rollouts less varied": ("worlds.augment.whole=0.3", "worlds.augment.stretch=1.25", "worlds.augment.perturb=0.7"),
    "begin on the log": ("augment.perturb=0",),
    "experts recover": ("augment.recover=0.5",),
    "no limit on KL": ("ppo.target_kl=null",),
    "learning rate stays": ("ppo.final_learning_rate=1",),
    "no cloning beside": ("ppo.bc_coef=0",),
    "less entropy": ("ppo.entropy_coef=0.001",),
    "cloned for longer": ("bc.steps=5000",),
}
"""Each lever of the default left out once, or one put in that is not part of it."""

TROUBLES: Recipes = {
    CLONE: ("algorithm=bc",),
    "healthy": (),
    "discriminator too strong": (
        "discriminator.learning_rate=0.003", "discriminator.updates=160", "discriminator.dropout=0",
        "discriminator.max_accuracy=1", "ppo.bc_coef=0", "reward.events=0",
    ),
    "policy too fast": ("ppo.learning_rate=0.01", "ppo.target_kl=null", "ppo.bc_coef=0"),
    "paid for being there": (
        "sim.on_goal=remove", "reward.form=gail", "reward.events=0", "ppo.bc_coef=0", "ppo.learning_rate=0.001",
    ),
}  # fmt: skip
"""Ways to go wrong, for the pictures of docs/recipes.md."""

SCENES = (12, 46, 92, 138)
"""Training scenes of the learning curve; the last are all that three folds of 184 scenes have."""


def with_scenes(recipes: Recipes, counts: Sequence[int]) -> dict[str, Settings]:
    """Each recipe once for each number of training scenes, by names that :func:`scenes_of` reads."""
    return {
        f"{name}, {n} scenes": (*settings, f"data.max_scenes={n}") for n in counts for name, settings in recipes.items()
    }


def scenes_of(name: str) -> tuple[str, int] | None:
    """The recipe, and the number of scenes, of a name of :func:`with_scenes`; None for others."""
    recipe, _, rest = name.rpartition(", ")
    count, _, word = rest.partition(" ")
    return (recipe, int(count)) if word == "scenes" and count.isdecimal() else None


@dataclass(frozen=True)
class Comparison:
    """Recipes, and the one that the others are compared with."""

    recipes: Recipes
    against: str


COMPARISONS: Mapping[str, Comparison] = {
    "recipes": Comparison(RECIPES, CLONE),
    "ablations": Comparison(ABLATIONS, DEFAULT),
    "scenes": Comparison(
        with_scenes({name: RECIPES[name] for name in (CLONE, DEFAULT)}, SCENES), f"{CLONE}, {SCENES[-1]} scenes"
    ),
    "troubles": Comparison(TROUBLES, "healthy"),
}

WITHOUT_GOAL: Settings = (
    "observation.goal=none", "observation.time_left=false", "events.goal=0", "reward.gail=1",
)  # fmt: skip
"""The setting in which nobody is told where its log ends, nor when: these come before a recipe's own settings."""

AFTER_CLONING = (
    "algorithm=", "reward.", "events.", "ppo.", "discriminator.", "worlds.", "latent.", "sim.", "masking.rollouts=",
    "total_timesteps=",
)  # fmt: skip
"""How settings begin on which no clone depends: recipes that differ in these only share one. (Experts that leave at
their goals, ``sim.on_goal``, would make another one; the recipes above share it all the same.)"""


def setting(settings: Settings, key: str, default: str) -> str:
    """The value of a setting, the last of which counts."""
    found = [value for name, _, value in (one.partition("=") for one in settings) if name == key]
    return found[-1] if found else default


def clone_settings(settings: Settings) -> tuple[str, ...] | None:
    """Settings of the clone that a recipe begins with, or is; None for one that begins with nothing.

    In alphabetical order, so that the same clone has the same ones.
    """
    if setting(settings, "algorithm", "bc+gail") not in ("bc", "bc+gail"):
        return None
    kept = {one.partition("=")[0]: one for one in settings if not one.startswith(AFTER_CLONING)}
    return ("algorithm=bc", *(kept[key] for key in sorted(kept)))
