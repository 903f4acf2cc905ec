"""Road segments as kernels see them, and a grid over each map to look up which of them are near.

The segments of a map within reach of any point of a grid cell are listed once, in map order; a query looks at the list
of its own cell only. Worlds of the same scene share one map.
"""

# Warp reads annotations at run time, so this module must not postpone them.
from dataclasses import dataclass
from typing import Any

import torch

from gail_cli.sim.launch import launch, struct, to_warp, wp
from gail_cli.sim.scenario import RoadType

Segment: Any = wp.types.vector(length=8, dtype=wp.float32)
"""Midpoint x, y, half-length, half-width (m), heading (rad), its cosine and sine, and nothing (to fill 32 bytes)."""

ROAD_EDGE = wp.constant(int(RoadType.ROAD_EDGE))
STOP_SIGN = wp.constant(int(RoadType.STOP_SIGN))

_MOST_CELLS = 128
"""Most cells along one side of a map; the cells of very wide maps are larger instead."""


@wp.struct
class RoadGrid:
    """Grids of some maps: which segments are within reach of each cell."""

    x: wp.array(dtype=wp.float32)
    y: wp.array(dtype=wp.float32)
    size: wp.array(dtype=wp.float32)
    columns: wp.array(dtype=wp.int32)
    rows: wp.array(dtype=wp.int32)
    first: wp.array(dtype=wp.int32)
    start: wp.array(dtype=wp.int32)
    item: wp.array(dtype=wp.int32)


@dataclass(frozen=True, eq=False)
class Roads:
    """Segments of K maps one after the other, S in all."""

    start: torch.Tensor
    """[K + 1] int32: map k has the segments start[k] .. start[k + 1] - 1."""
    segment: torch.Tensor
    """[S, 8] float32, see :data:`Segment`."""
    type: torch.Tensor
    """[S] int32 :class:`~sim.scenario.RoadType`."""


@wp.func
def cell_at(g: RoadGrid, map: int, x: float, y: float) -> int:
    """The cell of a point, or -1 outside the grid, where no segment is within reach."""
    column = (x - g.x[map]) / g.size[map]
    row = (y - g.y[map]) / g.size[map]
    cell = int(-1)
    if column >= 0.0 and row >= 0.0 and column < float(g.columns[map]) and row < float(g.rows[map]):
        cell = g.first[map] + int(row) * g.columns[map] + int(column)
    return cell


@wp.func
def along_segment(s: Segment, x: float, y: float) -> float:
    """Signed arc length from a segment's midpoint to its point nearest to (x, y)."""
    return wp.clamp((x - s[0]) * s[5] + (y - s[1]) * s[6], -s[2], s[2])


@wp.kernel(enable_backward=False)
def _list(
    first: int,
    part: int,
    g: RoadGrid,
    map_start: wp.array(dtype=wp.int32),
    segment: wp.array(dtype=Segment),
    listed: wp.array(dtype=wp.bool),
    reach: float,
    count: wp.array(dtype=wp.int32),
    fill: wp.bool,
):
    """Count, or list, the segments of a map in all cells that are within reach of them."""
    map = first + wp.tid()
    size = g.size[map]
    columns = g.columns[map]
    rows = g.rows[map]
    for k in range(map_start[map], map_start[map + 1]):
        if listed[k] and columns > 0:
            s = segment[k]
            limit = reach + s[3] + 0.01  # room for rounding
            span_x = s[2] * wp.abs(s[5]) + limit
            span_y = s[2] * wp.abs(s[6]) + limit
            left = wp.clamp(int((s[0] - span_x - g.x[map]) / size), 0, columns - 1)
            right = wp.clamp(int((s[0] + span_x - g.x[map]) / size), 0, columns - 1)
            low = wp.clamp(int((s[1] - span_y - g.y[map]) / size), 0, rows - 1)
            high = wp.clamp(int((s[1] + span_y - g.y[map]) / size), 0, rows - 1)
            limit += 0.708 * size  # half a diagonal
            for row in range(low, high + 1):
                for column in range(left, right + 1):
                    x = g.x[map] + (float(column) + 0.5) * size
                    y = g.y[map] + (float(row) + 0.5) * size
                    along = along_segment(s, x, y)
                    dx = s[0] + along * s[5] - x
                    dy = s[1] + along * s[6] - y
                    if dx * dx + dy * dy <= limit * limit:
                        cell = g.first[map] + row * columns + column
                        if fill:
                            g.item[g.start[cell] + count[cell]] = k
                        count[cell] = count[cell] + 1


def road_grid(roads: Roads, reach: float, cell_size: float, listed: torch.Tensor) -> Any:
    """A :class:`RoadGrid` over all maps.

    Args:
        roads: the maps.
        reach: m; a segment is listed in a cell when a point of the cell is nearer to it than this.
        cell_size: side of a cell, m; more in maps wider than 128 cells.
        listed: [S] bool, which segments count at all.
    """
    device, maps = roads.start.device, len(roads.start) - 1
    of = torch.repeat_interleave(torch.arange(maps, device=device), roads.start.diff().long())
    middle = roads.segment[listed, :2]
    span = (roads.segment[listed, 2] + roads.segment[listed, 3] + reach)[:, None]
    index = of[listed][:, None].expand(-1, 2)
    low = torch.full((maps, 2), torch.inf, device=device).scatter_reduce(0, index, middle - span, "amin")
    high = torch.full((maps, 2), -torch.inf, device=device).scatter_reduce(0, index, middle + span, "amax")
    extent = (high - low).clamp(min=0)  # negative where a map has no segment
    size = (extent.amax(dim=1) / _MOST_CELLS).clamp(min=cell_size)
    shape = (extent / size[:, None]).ceil().int()
    shape *= shape.amin(dim=1, keepdim=True) > 0
    first = _starts(shape.prod(dim=1))
    count = torch.zeros(int(first[-1]), dtype=torch.int32, device=device)
    grid = {
        "x": low[:, 0].contiguous(), "y": low[:, 1].contiguous(), "size": size, "first": first,
        "columns": shape[:, 0].contiguous(), "rows": shape[:, 1].contiguous(),
        "start": _starts(count), "item": torch.zeros(1, dtype=torch.int32, device=device),
    }  # fmt: skip
    segments = [to_warp(roads.start), to_warp(roads.segment, Segment), to_warp(listed), reach]

    def pass_over(fill: bool) -> None:
        launch(_list, maps, [struct(RoadGrid, **grid), *segments, to_warp(count), fill], device)

    pass_over(fill=False)
    grid["start"] = _starts(count)
    grid["item"] = torch.zeros(max(1, int(grid["start"][-1])), dtype=torch.int32, device=device)
    count.zero_()
    pass_over(fill=True)
    return struct(RoadGrid, **grid)


def _starts(counts: torch.Tensor) -> torch.Tensor:
    """[n + 1] int32 where each of n runs begins."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
