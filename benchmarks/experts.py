"""How well expert actions replay the log, for each dynamics model and each kind of action.

    python -m benchmarks.experts [SOURCES ...] [--lookahead N ...] [--json]

SOURCES are files or folders of logged scenes; without them, the committed sample. Experts of all vehicles are searched
for, parked ones included, and timed so; those that GPUDrive would control, of any number, drive through the simulator
(boxes of 0.7, done at the goal, removed by a collision), each until its demo ends. Distances and
heading errors are those of valid logged steps until then; jerk is the second difference of speed, chatter the share of
steps in which a component of the action changes sign. More than one look-ahead tells how far the search should look: 1
is greedy.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.simulator import load
from gail_cli.pipeline.experts.expert import demo_rows_of, has_action, replay_experts
from gail_cli.pipeline.experts.search import Search
from gail_cli.pipeline.readers.sources import SourceError
from gail_cli.pipeline.records import ABSENT, QUALITY, Demos
from gail_cli.sim.actions import ActionSpace
from gail_cli.sim.config import Selection, SimConfig
from gail_cli.sim.env import Env
from gail_cli.sim.kernels import Event
from gail_cli.sim.layout import ObservationConfig
from gail_cli.sim.scenario import DT
from gail_cli.sim.scene import Scene
from gail_cli.sim.worlds import make_worlds

SPACES = [
    ("delta_local", "continuous", ""),
    ("delta_local", "discrete", "fine"),
    ("delta_local", "discrete", "gpudrive"),
    ("classic", "continuous", ""),
    ("classic", "discrete", "fine"),
    ("classic", "discrete", "fine-0.5"),
    ("classic", "discrete", "gpudrive"),
    ("bicycle", "continuous", ""),
    ("bicycle", "discrete", "fine"),
    ("bicycle", "discrete", "gpudrive"),
]
COLUMNS = {
    "ade_m": "{:8.4f}", "fde_m": "{:8.4f}", "heading_error_rad": "{:9.4f}", "goal": "{:7.1%}", "collision": "{:11.1%}",
    "off_road": "{:10.1%}", "saturated": "{:11.1%}", "zero": "{:7.1%}", "quantisation_m": "{:10.4f}",
    "jerk_m_per_s3": "{:8.2f}", "chatter": "{:9.1%}", "search_ms_per_scene": "{:12.2f}",
}  # fmt: skip
"""What is reported, and how."""
_LITTLE = ObservationConfig(partners=1, road_segments=1, radius=1.0, lights=0)


def replay(scenes: Sequence[Scene], space: ActionSpace, search: Search) -> dict[str, float]:
    """Find the experts of all scenes, drive them through the simulator, and measure."""
    rows = [demo_rows_of(scene)[0] for scene in scenes]
    begun = time.process_time()
    demos = replay_experts(scenes, space, rows, search)
    seconds = time.process_time() - begun
    config = SimConfig(selection=Selection(), on_goal="remove", on_collision="remove")
    worlds = make_worlds(scenes, selection=config.selection)
    driving = [_of(found, s.row[s.controlled]) for found, s in zip(demos, worlds.selected, strict=True)]
    mark, action, quality = (np.concatenate([getattr(d, n) for d in driving]) for n in ("mark", "action", "quality"))
    track, driven, events = drive(Env(worlds, space, config, _LITTLE), action, mark)
    rows = worlds.controlled
    errors = _errors(track, worlds.log[rows].numpy(), driven & worlds.valid[rows].numpy())
    return {
        **dict(zip(("ade_m", "fde_m", "heading_error_rad"), errors, strict=True)),
        "goal": float(events[:, Event.GOAL].mean()),
        "collision": float(events[:, [Event.VEHICLE, Event.NON_VEHICLE]].any(axis=1).mean()),
        "off_road": float(events[:, Event.OFF_ROAD].mean()),
        **{name: float(quality[:, QUALITY.index(name)].mean()) for name in ("saturated", "zero", "quantisation_m")},
        "jerk_m_per_s3": _jerk(track, driven),
        "chatter": _chatter(space, action, mark),
        "search_ms_per_scene": 1e3 * seconds / len(scenes),
        "agents": len(mark),
    }


def drive(
    env: Env, action: NDArray[Any], mark: NDArray[np.uint8]
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Tracks [N, T, 5], where they were driven [N, T], and what happened on the way [N, 4].

    Args:
        env: with N controlled agents.
        action: [N, T, K] of their demos.
        mark: [N, T] likewise; what happens after a demo's end is no part of it.
    """
    there = mark != ABSENT
    idle = env.action_space.encode(torch.zeros(1, env.action_space.components)).numpy()
    action = np.where(has_action(mark)[..., None], action, idle).astype(action.dtype)
    env.reset()
    track, driven = [env.states().numpy()], [there[:, 0]]
    events = np.zeros((len(mark), len(Event)), np.bool_)
    for step in range(1, mark.shape[1]):
        acts = env.alive().numpy() & there[:, step]
        after = env.step(torch.from_numpy(action[:, step - 1]))
        events |= after.events.numpy() & acts[:, None]
        track.append(env.states().numpy())
        driven.append(acts & env.everyone()[1][env.worlds.controlled].numpy())  # removals show a step late
    return np.stack(track, axis=1), np.stack(driven, axis=1), events


def _of(demos: Demos, rows: NDArray[np.int64]) -> Demos:
    """The demos of some agents, in the order of the demos."""
    chosen = np.isin(demos.agent, rows)
    return Demos(*(values[chosen] for values in vars(demos).values()))


def _errors(track: NDArray[Any], log: NDArray[Any], compared: NDArray[np.bool_]) -> list[float]:
    """Means over agents of the mean distance, the final distance, and the mean heading error."""
    off = (track - log).astype(np.float64)
    distance = np.hypot(off[..., 0], off[..., 1])
    turn = np.abs(np.arctan2(np.sin(off[..., 2]), np.cos(off[..., 2])))
    last = compared.shape[1] - 1 - compared[:, ::-1].argmax(axis=1)
    means = [np.where(compared, x, 0).sum(axis=1) / compared.sum(axis=1) for x in (distance, turn)]
    return [float(x.mean()) for x in (means[0], distance[np.arange(len(last)), last], means[1])]


def _jerk(track: NDArray[Any], driven: NDArray[np.bool_]) -> float:
    """Mean size of the second difference of speed, m/s^3."""
    speed = np.hypot(track[..., 3], track[..., 4])
    unbroken = driven[:, 2:] & driven[:, 1:-1] & driven[:, :-2]
    return float(np.abs(np.diff(speed, 2, axis=1))[unbroken].mean() / DT**2)


def _chatter(space: ActionSpace, action: NDArray[Any], mark: NDArray[np.uint8]) -> float:
    """Share of steps in which a component of the action has another sign than one step before."""
    values = space.decode(torch.from_numpy(action.reshape(-1, space.components))).numpy().reshape(action.shape)
    acts = has_action(mark)
    both = acts[:, 1:] & acts[:, :-1]
    return float((values[:, 1:] * values[:, :-1] < 0).any(axis=-1)[both].mean())


def measure(scenes: Sequence[Scene], lookaheads: Sequence[int]) -> list[dict[str, Any]]:
    """One row a look-ahead and space."""
    replay(scenes[:1], ActionSpace.create("classic"), Search())  # compiles the kernels
    results = []
    for lookahead in lookaheads:
        for dynamics, actions, grid in SPACES:
            if dynamics == "delta_local" and lookahead != lookaheads[0]:
                continue  # has an exact inverse and does not look ahead
            space = ActionSpace.create(dynamics, actions, grid or "fine", reverse=grid != "gpudrive")
            row = {"dynamics": dynamics, "actions": actions, "grid": grid, "lookahead": lookahead}
            results.append({**row, **replay(scenes, space, Search(lookahead=lookahead))})
    return results


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.experts", description=__doc__.split("\n")[0])
    parser.add_argument("sources", nargs="*", help="scene files or folders; the committed sample when left out")
    parser.add_argument("--lookahead", type=int, nargs="+", default=[Search().lookahead], help="steps")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = parser.parse_args()
    try:
        scenes = load(given.sources, None)
        if not scenes:
            parser.error("no scene in these files can be read; gail-cli extract-demos tells why")
        results = measure(scenes, given.lookahead)
    except (SourceError, ValueError) as error:
        parser.error(str(error))
    if given.json:
        print(json.dumps({"scenes": len(scenes), "results": results}))
        return
    print(f"{len(scenes)} scenes, {results[0]['agents']} agents that drive")
    widths = {name: len(form.format(0.0)) for name, form in COLUMNS.items()}
    names = {"heading_error_rad": "heading", "quantisation_m": "quantis.", "search_ms_per_scene": "ms a scene"}
    heads = [names.get(n, n.split("_m")[0].replace("_", "-")).rjust(w) for n, w in widths.items()]
    print(f"{'':32s}ahead" + "".join(heads))
    for row in results:
        space = " ".join((row["dynamics"], row["actions"], row["grid"]))
        print(f"{space:32s}{row['lookahead']:5d}" + "".join(form.format(row[n]) for n, form in COLUMNS.items()))


if __name__ == "__main__":
    main()
