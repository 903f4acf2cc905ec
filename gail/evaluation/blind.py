"""Does a policy look? What it loses where other agents, roads, or both are hidden from it (``evaluate --blind``).

A clone that is told its goal can drive well with its eyes shut, since goal and time explain nearly all of the next
step. Who loses nothing without others in sight cannot avoid them.
"""

from __future__ import annotations

from typing import Any

from gail_cli.gail.evaluation.summary import POLICY, SceneScores, summarise

BLIND: dict[str, tuple[bool, bool]] = {
    "without others": (True, False),
    "without roads": (False, True),
    "without either": (True, True),
}
"""By the name of the driver: whether other agents, and road segments, are hidden from the policy."""
JUDGED = "drawn_safe_success"
"""What tells whether a policy looks: of the measures of safe success the one that chance moves least."""
_SEEN = {"without others": "other agents", "without roads": "roads"}
_METRICS = ("goal", "collision", "off_road", "safe_success", "full_collision", "full_off_road", "full_safe_success")
METRICS = (*_METRICS, *(f"drawn_{name}" for name in _METRICS), "ade", "drawn_ade", "realism_2025")
"""What is told of each."""


def blind_section(scores: SceneScores, seed: int) -> dict[str, Any]:
    """What a report says of the policy that sees and of the same policy that does not.

    Args:
        scores: of the policy and of the drivers of :data:`BLIND`; others are left out.
        seed: for resampling the scenes.

    Returns:
        ``results``, ``intervals`` and ``differences`` (seeing minus blind) as of
        :func:`~gail_cli.gail.evaluation.summary.summarise`; ``verdict``: for "other agents" and "roads" the ``mean``
        and ``interval`` of what safe success (drawn actions) loses without them, and whether the policy ``looks``,
        that is, whether the interval is above 0; ``sentence``, the same in words; ``per_scene``.
    """
    chosen = SceneScores(
        scores.scenes,
        {who: {name: scores.sums[who][name] for name in METRICS} for who in (POLICY, *BLIND)},
        {},
    )
    found = summarise(chosen, seed=seed)
    verdict = {what: _judged(found["differences"][who][JUDGED]) for who, what in _SEEN.items()}
    return {**found, "verdict": verdict, "sentence": _sentence(verdict), "per_scene": chosen.to_json()}


def _judged(loss: dict[str, Any]) -> dict[str, Any]:
    """A loss with what it says."""
    return {**loss, "looks": loss["interval"] is not None and loss["interval"][0] > 0}


def _sentence(verdict: dict[str, dict[str, Any]]) -> str:
    clauses = []
    for what, loss in verdict.items():
        if loss["mean"] is None:
            clauses.append(f"whether it looks at {what} is not known")
            continue
        points = f"{'loses' if loss['mean'] >= 0 else 'gains'} {100 * abs(loss['mean']):.1f} points of safe success"
        if loss["interval"] is not None:
            points += " ({:.1f} to {:.1f})".format(*(100 * x for x in loss["interval"]))
        claim = f"it looks at {what}" if loss["looks"] else f"that it looks at {what} is not shown"
        clauses.append(f"{claim}: without them in sight it {points}")
    return "; ".join(clauses).capitalize() + "."
