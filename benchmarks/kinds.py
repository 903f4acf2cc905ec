"""How well expert actions replay logs of each kind: U-turns, reversing, logs that jump, and all others.

    python -m benchmarks.kinds [SOURCES ...] [--json]

SOURCES are files or folders of logged scenes; without them, the committed sample. The agents are the vehicles that a
policy controls by default: there at the first step, not parked, not bound to their logs. Nothing is left out; the last
columns say what an extraction with the default options would leave out, and what the rest is like. Kinds are told from
the log alone, each agent being of the first that fits:

* jump: the log is faster between two steps than any car (:func:`pipeline.experts.logs.jumps_of`, more than 0.5 m);
* U-turn: its heading at the end is turned by more than 120 degrees from that at the start;
* reversing: it drives backwards (:func:`pipeline.experts.logs.gears`) for ten steps or more;
* others.

At the goal is who ends within 2 m of where its log ends; ADE is the mean distance from the log over all its valid
steps, in metres. The search drives with the simulator's own motion functions, and tests hold that the simulator replays
its actions to the last bit, so these are the distances of replays.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulator import load
from gail_cli.pipeline.experts.expert import demo_rows_of, replay_experts
from gail_cli.pipeline.experts.logs import bridged, gears, jumps_of, marks_of
from gail_cli.pipeline.extract.build import ExtractConfig
from gail_cli.pipeline.readers.sources import SourceError
from gail_cli.pipeline.records import ABSENT, LOGGED, QUALITY
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.scene import Role, Scene

KINDS = ("jump", "U-turn", "reversing", "others")
TURN, REVERSING_STEPS = np.radians(120), 10
SPACES = {
    "classic fine, the default": ("classic", "discrete", "fine", True),
    "classic fine, no reverse": ("classic", "discrete", "fine", False),
    "classic fine-0.5": ("classic", "discrete", "fine-0.5", True),
    "classic fine-0.5, no reverse (former default)": ("classic", "discrete", "fine-0.5", False),
    "classic gpudrive, no reverse": ("classic", "discrete", "gpudrive", False),
    "classic continuous": ("classic", "continuous", "", True),
    "bicycle fine": ("bicycle", "discrete", "fine", True),
    "bicycle fine, no reverse": ("bicycle", "discrete", "fine", False),
}
"""Names, and what :meth:`~gail_cli.sim.actions.ActionSpace.create` is given."""


def driving(scene: Scene) -> NDArray[np.int64]:
    """Rows of the vehicles that a policy controls by default."""
    rows, _ = demo_rows_of(scene)
    return rows[~scene.parked[rows] & (scene.agent_role[rows] & Role.MARK_AS_EXPERT == 0)]


def kinds_of(scene: Scene, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """[D] of each agent the index in :data:`KINDS`."""
    mark = marks_of(scene, rows)
    log = bridged(scene, rows, mark)
    size, _ = jumps_of(log, mark)
    heading = np.unwrap(log[..., 2].astype(np.float64), axis=1)
    last = mark.shape[1] - 1 - (mark == LOGGED)[:, ::-1].argmax(axis=1)
    turn = np.abs(heading[np.arange(len(rows)), last] - heading[:, 0])
    back = ((gears(log, mark != ABSENT) < 0) & (mark == LOGGED)).sum(axis=1)
    return np.select([size > (ExtractConfig.max_jump or np.inf), turn > TURN, back >= REVERSING_STEPS], [0, 1, 2], 3)


def measure(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """One row an action space."""
    rows = [driving(scene) for scene in scenes]
    kind = np.concatenate([kinds_of(scene, r) for scene, r in zip(scenes, rows, strict=True)])
    results = []
    for name, (dynamics, actions, grid, reverse) in SPACES.items():
        space = ActionSpace.create(dynamics, actions, grid, reverse=reverse)
        quality = np.concatenate([demos.quality for demos in replay_experts(scenes, space, rows)])
        ade, goal = (quality[:, QUALITY.index(column)] for column in ("ade_m", "goal"))
        kept = (kind != KINDS.index("jump")) & (ade <= (ExtractConfig.max_replay_error or np.inf))
        groups = {"all": np.ones(len(kind), np.bool_)} | {k: kind == i for i, k in enumerate(KINDS)} | {"kept": kept}
        results.append({"space": name} | {k: _mean(ade, goal, which) for k, which in groups.items()})
    return results


def _mean(ade: NDArray[np.float32], goal: NDArray[np.float32], which: NDArray[np.bool_]) -> dict[str, float]:
    if not which.any():
        return {"agents": 0, "goal": float("nan"), "ade_m": float("nan")}
    return {"agents": int(which.sum()), "goal": float(goal[which].mean()), "ade_m": float(ade[which].mean())}


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", help="scene files or folders; the committed sample when left out")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    try:
        scenes = load(given.sources, None)
        if not scenes:
            parser.error("no scene in these files can be read; gail-cli extract-demos tells why")
    except (SourceError, ValueError) as error:
        parser.error(str(error))
    results = measure(scenes)
    if given.json:
        print(json.dumps({"scenes": len(scenes), "results": results}))
        return
    groups = [name for name in results[0] if name != "space"]
    print(f"{len(scenes)} scenes; at the goal, and ADE in m, of vehicles that drive")
    print(f"{'':46s}" + "".join(f"{g:>19s}" for g in groups))
    for row in results:
        cells = (f"{row[g]['agents']:5d} {row[g]['goal']:6.1%} {row[g]['ade_m']:6.3f}" for g in groups)
        print(f"{row['space']:46s}" + "".join(f"{cell:>19s}" for cell in cells))


if __name__ == "__main__":
    main()
