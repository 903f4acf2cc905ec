"""What an agent sees: one kernel that makes observations from absolute states, for expert and policy alike.

The layouts are in :mod:`sim.layout`.
"""

# Warp reads annotations at run time, so this module must not postpone them.
import torch

from sim.dynamics import wrap
from sim.launch import launch, to_warp, wp
from sim.layout import ObservationConfig
from sim.scenario import DT
from sim.worlds import WorldArrays, Worlds


@wp.struct
class _Layout:
    """:class:`ObservationConfig` as a kernel sees it."""

    gpudrive: wp.bool
    partners: int
    roads: int
    radius: float
    nearest: wp.bool
    ego_fields: int
    partner_fields: int
    road_fields: int


@wp.struct
class States:
    """Absolute states of agents, addressed as ``row = base + agent * stride``; also tracks, with the step in base."""

    state: wp.array2d(dtype=wp.float32)
    present: wp.array(dtype=wp.bool)
    collided: wp.array(dtype=wp.bool)
    stride: int


@wp.func
def _sift_down(distance: wp.array2d(dtype=wp.float32), index: wp.array2d(dtype=wp.int32), q: int, n: int):
    """Restore the max-heap of row ``q``, n entries, whose root was replaced."""
    i = int(0)
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and distance[q, child + 1] > distance[q, child]:
            child += 1
        if distance[q, child] <= distance[q, i]:
            break
        d = distance[q, i]
        k = index[q, i]
        distance[q, i] = distance[q, child]
        index[q, i] = index[q, child]
        distance[q, child] = d
        index[q, child] = k
        i = int(child)


@wp.func
def _offer(
    distance: wp.array2d(dtype=wp.float32),
    index: wp.array2d(dtype=wp.int32),
    q: int,
    n: int,
    limit: int,
    d: float,
    k: int,
) -> int:
    """Offer an entry to the max-heap of the ``limit`` nearest in row ``q``; the new number of entries."""
    if n < limit:
        i = int(n)
        while i > 0:
            parent = (i - 1) / 2
            if distance[q, parent] >= d:
                break
            distance[q, i] = distance[q, parent]
            index[q, i] = index[q, parent]
            i = int(parent)
        distance[q, i] = d
        index[q, i] = k
        return n + 1
    if d < distance[q, 0]:
        distance[q, 0] = d
        index[q, 0] = k
        _sift_down(distance, index, q, n)
    return n


@wp.func
def _sort(distance: wp.array2d(dtype=wp.float32), index: wp.array2d(dtype=wp.int32), q: int, n: int):
    """Turn the max-heap of row ``q`` into ascending order."""
    last = int(n - 1)
    while last > 0:
        d = distance[q, 0]
        k = index[q, 0]
        distance[q, 0] = distance[q, last]
        index[q, 0] = index[q, last]
        distance[q, last] = d
        index[q, last] = k
        _sift_down(distance, index, q, last)
        last -= 1


@wp.func
def _nearest_on_segment(w: WorldArrays, s: int, x: float, y: float) -> float:
    """Signed arc length from the segment's midpoint to its point nearest to (x, y)."""
    along = (x - w.segment[s, 0]) * w.segment[s, 5] + (y - w.segment[s, 1]) * w.segment[s, 6]
    return wp.clamp(along, -w.segment[s, 2], w.segment[s, 2])


@wp.func
def _write_ego(
    w: WorldArrays,
    v: States,
    layout: _Layout,
    agent: int,
    row: int,
    time_left: float,
    out: wp.array2d(dtype=wp.float32),
    q: int,
):
    dx = w.goal[agent, 0] - v.state[row, 0]
    dy = w.goal[agent, 1] - v.state[row, 1]
    c = wp.cos(v.state[row, 2])
    s = wp.sin(v.state[row, 2])
    speed = wp.sqrt(v.state[row, 3] * v.state[row, 3] + v.state[row, 4] * v.state[row, 4])
    goal_x = c * dx + s * dy
    goal_y = c * dy - s * dx
    if layout.gpudrive:
        out[q, 0] = speed / 100.0
        out[q, 1] = 0.7 * w.size[agent, 0] / 30.0
        out[q, 2] = 0.7 * w.size[agent, 1] / 15.0
        out[q, 3] = goal_x / 1000.0
        out[q, 4] = goal_y / 1000.0
        out[q, 5] = wp.where(v.collided[agent], 1.0, 0.0)
    else:
        distance = wp.sqrt(dx * dx + dy * dy)
        out[q, 0] = speed / 20.0
        out[q, 1] = w.size[agent, 0] / 10.0
        out[q, 2] = w.size[agent, 1] / 5.0
        out[q, 3] = goal_x / 50.0
        out[q, 4] = goal_y / 50.0
        out[q, 5] = distance / 50.0
        out[q, 6] = wp.min(distance / wp.max(time_left, DT) / 20.0, 2.0)
        out[q, 7] = time_left / 9.0


@wp.func
def _write_partner(
    w: WorldArrays,
    v: States,
    layout: _Layout,
    me: int,
    other: int,
    row: int,
    out: wp.array2d(dtype=wp.float32),
    q: int,
    col: int,
):
    dx = v.state[row, 0] - v.state[me, 0]
    dy = v.state[row, 1] - v.state[me, 1]
    c = wp.cos(v.state[me, 2])
    s = wp.sin(v.state[me, 2])
    x = c * dx + s * dy
    y = c * dy - s * dx
    turn = v.state[row, 2] - v.state[me, 2]
    if layout.gpudrive:
        vx = v.state[row, 3]
        vy = v.state[row, 4]
        out[q, col] = wp.sqrt(vx * vx + vy * vy) / 100.0
        out[q, col + 1] = x / 1000.0
        out[q, col + 2] = y / 1000.0
        out[q, col + 3] = wrap(turn) / (2.0 * wp.pi)
        out[q, col + 4] = 0.7 * w.size[other, 0] / 30.0
        out[q, col + 5] = 0.7 * w.size[other, 1] / 15.0
    else:
        vx = v.state[row, 3] - v.state[me, 3]
        vy = v.state[row, 4] - v.state[me, 4]
        out[q, col] = w.size[other, 0] / 10.0
        out[q, col + 1] = w.size[other, 1] / 5.0
        out[q, col + 2] = x / layout.radius
        out[q, col + 3] = y / layout.radius
        out[q, col + 4] = wp.cos(turn)
        out[q, col + 5] = wp.sin(turn)
        out[q, col + 6] = (c * vx + s * vy) / 20.0
        out[q, col + 7] = (c * vy - s * vx) / 20.0


@wp.func
def _write_road(
    w: WorldArrays,
    v: States,
    layout: _Layout,
    me: int,
    segment: int,
    out: wp.array2d(dtype=wp.float32),
    q: int,
    col: int,
):
    along = float(0.0)
    if not layout.gpudrive:
        along = _nearest_on_segment(w, segment, v.state[me, 0], v.state[me, 1])
    dx = w.segment[segment, 0] + along * w.segment[segment, 5] - v.state[me, 0]
    dy = w.segment[segment, 1] + along * w.segment[segment, 6] - v.state[me, 1]
    c = wp.cos(v.state[me, 2])
    s = wp.sin(v.state[me, 2])
    x = c * dx + s * dy
    y = c * dy - s * dx
    turn = w.segment[segment, 4] - v.state[me, 2]
    if layout.gpudrive:
        half_height = wp.where(w.segment_type[segment] == 6, 1.0, 0.1)
        out[q, col] = x / 1000.0
        out[q, col + 1] = y / 1000.0
        out[q, col + 2] = w.segment[segment, 2] / 100.0
        out[q, col + 3] = w.segment[segment, 3] / 100.0
        out[q, col + 4] = half_height / 100.0
        out[q, col + 5] = wrap(turn) / (2.0 * wp.pi)
    else:
        out[q, col] = x / layout.radius
        out[q, col + 1] = y / layout.radius
        out[q, col + 2] = wp.cos(turn)
        out[q, col + 3] = wp.sin(turn)
        out[q, col + 4] = (w.segment[segment, 2] - along) / layout.radius
        out[q, col + 5] = (w.segment[segment, 2] + along) / layout.radius
    out[q, col + 6 + w.segment_type[segment]] = 1.0


@wp.kernel(enable_backward=False)
def _observe(
    first: int,
    w: WorldArrays,
    v: States,
    layout: _Layout,
    agents: wp.array(dtype=wp.int32),
    base: wp.array(dtype=wp.int32),
    time_left: wp.array(dtype=wp.float32),
    distance: wp.array2d(dtype=wp.float32),
    index: wp.array2d(dtype=wp.int32),
    out: wp.array2d(dtype=wp.float32),
):
    q = first + wp.tid()
    agent = agents[q]
    world = w.world[agent]
    me = base[q] + agent * v.stride
    for col in range(out.shape[1]):
        out[q, col] = 0.0
    _write_ego(w, v, layout, agent, me, time_left[q], out, q)
    x = v.state[me, 0]
    y = v.state[me, 1]
    reach = layout.radius * layout.radius

    n = int(0)
    for other in range(w.agent_start[world], w.agent_start[world + 1]):
        row = base[q] + other * v.stride
        if other != agent and v.present[row]:
            dx = v.state[row, 0] - x
            dy = v.state[row, 1] - y
            d = dx * dx + dy * dy
            if d <= reach:
                if not layout.gpudrive:
                    n = _offer(distance, index, q, n, layout.partners, d, other)
                elif n < layout.partners:
                    index[q, n] = other
                    n += 1
    if not layout.gpudrive:
        _sort(distance, index, q, n)
    for k in range(n):
        col = layout.ego_fields + k * layout.partner_fields
        _write_partner(w, v, layout, me, index[q, k], base[q] + index[q, k] * v.stride, out, q, col)

    n = int(0)
    for segment in range(w.segment_start[world], w.segment_start[world + 1]):
        along = float(0.0)
        if layout.nearest:
            along = _nearest_on_segment(w, segment, x, y)
        dx = w.segment[segment, 0] + along * w.segment[segment, 5] - x
        dy = w.segment[segment, 1] + along * w.segment[segment, 6] - y
        d = dx * dx + dy * dy
        if d <= reach:
            if layout.nearest:
                n = _offer(distance, index, q, n, layout.roads, d, segment)
            elif n < layout.roads:
                index[q, n] = segment
                n += 1
    if layout.nearest:
        _sort(distance, index, q, n)
    first_road = layout.ego_fields + layout.partners * layout.partner_fields
    for k in range(n):
        _write_road(w, v, layout, me, index[q, k], out, q, first_road + k * layout.road_fields)
    for k in range(n, layout.roads):
        out[q, first_road + k * layout.road_fields + 6] = 1.0


class Observer:
    """Makes observations of agents of some worlds from absolute states.

    Args:
        worlds: where the agents live.
        config: the layout.
        horizon: steps of an episode, for the time that is left.
    """

    def __init__(self, worlds: Worlds, config: ObservationConfig) -> None:
        self.worlds = worlds
        self.config = config
        self._arrays = worlds.arrays()
        self._layout = _Layout()
        self._layout.gpudrive = config.layout == "gpudrive"
        self._layout.partners = config.partners
        self._layout.roads = config.road_segments
        self._layout.radius = config.radius
        self._layout.nearest = config.road_order == "nearest"
        self._layout.ego_fields = len(config.ego_fields)
        self._layout.partner_fields = len(config.partner_fields)
        self._layout.road_fields = len(config.road_fields)
        self._scratch: tuple[torch.Tensor, torch.Tensor] | None = None

    def observe(
        self,
        state: torch.Tensor,
        present: torch.Tensor,
        agents: torch.Tensor,
        time_left: torch.Tensor,
        step: torch.Tensor | None = None,
        collided: torch.Tensor | None = None,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Observations of Q agents.

        Args:
            state: [M, 5] present states, or [M, T, 5] tracks.
            present: [M] or [M, T] bool, whether the agent is in the world.
            agents: [Q] int32 agent rows that look.
            time_left: [Q] seconds until the agent's episode ends.
            step: [Q] int32 step at which each looks; needed with tracks.
            collided: [M] bool, for the field of that name in the ``gpudrive`` layout; false when None.
            out: [Q, D] float32 to write into.

        Returns:
            [Q, D] float32.
        """
        queries, device = len(agents), self.worlds.device
        stride = state.shape[1] if state.dim() == 3 else 1
        views = States()
        views.state = to_warp(state.reshape(-1, 5))
        views.present = to_warp(present.reshape(-1))
        if collided is None:
            collided = torch.zeros(len(state), dtype=torch.bool, device=device)
        views.collided = to_warp(collided)
        views.stride = stride
        base = torch.zeros(queries, dtype=torch.int32, device=device) if step is None else step
        if out is None:
            out = torch.empty(queries, self.config.size, device=device)
        distance, index = self._heaps(queries)
        inputs = [self._arrays, views, self._layout, *map(to_warp, (agents, base, time_left, distance, index, out))]
        launch(_observe, queries, inputs, self.worlds.device)
        return out

    def _heaps(self, queries: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self._scratch is None or len(self._scratch[0]) < queries:
            shape = (queries, max(self.config.partners, self.config.road_segments))
            device = self.worlds.device
            self._scratch = (torch.empty(shape, device=device), torch.empty(shape, dtype=torch.int32, device=device))
        return self._scratch
