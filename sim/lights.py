"""Traffic lights as kernels see them: where one must stop, which way the controlled lane goes, the state at each step.

A light belongs to a lane of the map (Waymo's ``TrafficSignalLaneState``). The direction of travel at its stop point is
that of the lane's nearest segment. A lane that the map does not have has no direction, and nobody runs its light.

Who runs a red light is Waymo's rule (Sim Agents challenge 2025): a vehicle whose nearest lane centre is that of the
light's lane passes the stop point along the lane, with its own centre, while the signal says stop. A flashing stop,
where one may go on after a stop, does not count.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gail_cli.sim.launch import wp
from gail_cli.sim.roads import Segment, along_segment
from gail_cli.sim.scenario import LightState, RoadType
from gail_cli.sim.scene import Scene

STATE_KINDS = ("stop", "caution", "go", "unknown")
"""What the states of a light come down to, in the order of :func:`kind_of_state`."""

SURFACE_STREET = 2
"""``map_element_id`` of lanes of streets, not of freeways or paths."""
_UNKNOWN = wp.constant(int(LightState.UNKNOWN))
_ARROW_STOP = wp.constant(int(LightState.ARROW_STOP))
_ARROW_GO = wp.constant(int(LightState.ARROW_GO))
_STOP = wp.constant(int(LightState.STOP))
_GO = wp.constant(int(LightState.GO))
_FLASHING_STOP = wp.constant(int(LightState.FLASHING_STOP))


@wp.struct
class Lights:
    """The lights of K maps, L in all, over T steps."""

    steps: int
    start: wp.array(dtype=wp.int32)
    """[K + 1] map k has the lights start[k] .. start[k + 1] - 1."""
    place: wp.array2d(dtype=wp.float32)
    """[L, 4] x and y of the stop point (m), cosine and sine of the lane's direction there, or twice 0."""
    lane: wp.array2d(dtype=wp.int32)
    """[L, 2] first segment of the controlled lane, and the one after its last; twice 0 if the map lacks it."""
    state: wp.array(dtype=wp.int32)
    """[L * T] :class:`~sim.scenario.LightState`."""
    street_start: wp.array(dtype=wp.int32)
    """[K + 1] map k, if it has lights, has the streets street_start[k] .. street_start[k + 1] - 1."""
    street: wp.array(dtype=wp.int32)
    """Segments that are lane centres of streets."""


def light_arrays(maps: Sequence[Scene], first_segment: Sequence[int]) -> dict[str, NDArray[Any]]:
    """The arrays of :class:`Lights`.

    Args:
        maps: K scenes with the same number of steps.
        first_segment: [K] number of the first segment of each.
    """
    lit = [(scene, first) for scene, first in zip(maps, first_segment, strict=True) if len(scene.light_lane)]
    tables = [_placed(scene, first) for scene, first in lit]
    streets = {id(scene): _streets(scene) + first for scene, first in lit}

    def joined(parts: Iterable[NDArray[Any]], *width: int, kind: Any = np.int32) -> NDArray[Any]:
        return np.concatenate([np.zeros((0, *width)), *parts]).astype(kind)

    return {
        "start": starts([len(scene.light_lane) for scene in maps]),
        "place": joined([place for place, _ in tables], 4, kind=np.float32),
        "lane": joined([lane for _, lane in tables], 2),
        "state": joined(_held(scene.light_state).ravel() for scene, _ in lit),
        "street_start": starts([len(streets.get(id(scene), ())) for scene in maps]),
        "street": joined(streets.values()),
    }


def starts(counts: Sequence[int]) -> NDArray[np.int32]:
    """[n + 1] where each of n runs begins."""
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)


def _placed(scene: Scene, first: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rows [L, 4] of places and [L, 2] of lanes of a scene's lights."""
    count = len(scene.light_lane)
    place, lane = np.zeros((count, 4)), np.zeros((count, 2), np.int64)
    place[:, :2] = scene.light_stop_point
    centre = np.flatnonzero((scene.segment_type == RoadType.LANE) & np.isin(scene.segment_road, scene.light_lane))
    if not len(centre):
        return place, lane
    x, y, half, _, heading = scene.segment[centre].astype(np.float64).T
    c, s = np.cos(heading), np.sin(heading)
    dx, dy = place[:, :1] - x, place[:, 1:2] - y
    along = np.clip(dx * c + dy * s, -half, half)
    own = scene.light_lane[:, None] == scene.segment_road[centre]
    distance = np.where(own, np.hypot(dx - along * c, dy - along * s), np.inf)
    nearest, known = distance.argmin(axis=1), own.any(axis=1)
    place[known, 2], place[known, 3] = c[nearest[known]], s[nearest[known]]
    ends = centre[own.argmax(axis=1)], centre[len(centre) - 1 - own[:, ::-1].argmax(axis=1)] + 1
    lane[known] = first + np.stack(ends, axis=1)[known]
    return place, lane


def _streets(scene: Scene) -> NDArray[np.int64]:
    """Segments of the lanes of streets; of all lanes, where the map does not tell their kinds."""
    lanes = scene.segment_type == RoadType.LANE
    streets = lanes & (scene.segment_map_type == SURFACE_STREET)
    return np.flatnonzero(streets if streets.any() else lanes)


def _held(state: NDArray[np.int8]) -> NDArray[np.int8]:
    """States [L, T] that stay as they were last after the log's end, where no light has one."""
    last = int(np.where((state != LightState.ABSENT).any(axis=0), np.arange(state.shape[1]), 0).max(initial=0))
    return np.concatenate([state[:, : last + 1], np.repeat(state[:, last : last + 1], state.shape[1] - last - 1, 1)], 1)


@wp.func
def kind_of_state(state: int) -> int:
    """Which of :data:`STATE_KINDS` a state is."""
    kind = int(1)
    if state == _STOP or state == _ARROW_STOP or state == _FLASHING_STOP:
        kind = 0
    elif state == _GO or state == _ARROW_GO:
        kind = 2
    elif state == _UNKNOWN:
        kind = 3
    return kind


@wp.func
def state_at(lights: Lights, k: int, step: int) -> int:
    """State of light ``k`` at a step, that of the last one beyond."""
    return lights.state[k * lights.steps + wp.clamp(step, 0, lights.steps - 1)]


@wp.func
def on_lane(lights: Lights, segment: wp.array(dtype=Segment), map: int, k: int, p: wp.vec2) -> bool:
    """Whether the nearest lane centre to a point, among the streets of a map, is that of light ``k``."""
    best = float(1.0e30)
    nearest = int(-1)
    for item in range(lights.street_start[map], lights.street_start[map + 1]):
        id = lights.street[item]
        s = segment[id]
        along = along_segment(s, p[0], p[1])
        dx = p[0] - s[0] - along * s[5]
        dy = p[1] - s[1] - along * s[6]
        d = dx * dx + dy * dy
        if d < best:
            best = d
            nearest = id
    return nearest >= lights.lane[k, 0] and nearest < lights.lane[k, 1]


@wp.func
def runs_red_light(
    lights: Lights, segment: wp.array(dtype=Segment), map: int, step: int, before: wp.vec2, after: wp.vec2
) -> bool:
    """Whether who was at ``before`` one step earlier and is at ``after`` at ``step`` has run a red light in between.

    Args:
        lights: of the maps.
        segment: of the maps.
        map: where.
        step: the later one, whose state counts.
        before: centre of the vehicle, m.
        after: the same.
    """
    runs = bool(False)
    for k in range(lights.start[map], lights.start[map + 1]):
        state = state_at(lights, k, step)
        if not runs and (state == _STOP or state == _ARROW_STOP):
            c = lights.place[k, 2]
            s = lights.place[k, 3]
            x = lights.place[k, 0]
            y = lights.place[k, 1]
            was = (before[0] - x) * c + (before[1] - y) * s
            now = (after[0] - x) * c + (after[1] - y) * s
            if was < 0.0 and now > 0.0:
                runs = on_lane(lights, segment, map, k, after)
    return runs
