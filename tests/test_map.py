"""The map and its shapes."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from gail_cli.gail.figures.map import ASPHALT, PAPER, STOP_SIGN, Viewport, draw_map
from gail_cli.gail.figures.shapes import polylines, stripes
from gail_cli.sim.scenario import RoadType
from tests.episodes import pixel
from tests.scenes import car, scene


def test_segments_of_a_road_are_one_line():
    """A gap and another road begin a new one."""
    segment = np.array([[1, 0, 1, 0.1, 0], [3, 0, 1, 0.1, 0], [4, 1, 1, 0.1, np.pi / 2], [9, 0, 1, 0.1, 0],
                        [11, 0, 1, 0.1, 0]], np.float32)  # fmt: skip
    lines = polylines(segment, np.array([5, 5, 5, 5, 6]))
    expected = [[(0, 0), (2, 0), (4, 0), (4, 2)], [(8, 0), (10, 0)], [(10, 0), (12, 0)]]
    assert len(lines) == len(expected)
    for line, points in zip(lines, expected, strict=True):
        assert_allclose(line, points, atol=1e-6)
    assert polylines(segment[:0], np.zeros(0, np.int64)) == []


def test_a_crosswalk_has_bars_across():
    """6 x 2 m along y: five bars of 0.6 m, 1.2 m apart, as long as the crosswalk is wide."""
    bars = stripes(np.array([[10, 5, 3, 1, np.pi / 2]], np.float32), 1.2, 0.0)
    assert bars.shape == (5, 4, 2)
    assert_allclose(bars[..., 0].min(axis=1), 9, atol=1e-5)
    assert_allclose(bars[..., 0].max(axis=1), 11, atol=1e-5)
    assert_allclose(bars[..., 1].min(axis=1), 2.3 + 1.2 * np.arange(5), atol=1e-5)
    assert_allclose(np.ptp(bars[..., 1], axis=1), 0.6, atol=1e-5)


def test_slanting_bars_stay_within_their_box():
    bars = stripes(np.array([[0, 0, 3, 1, 0]], np.float32), 1.0, 0.5)
    assert_allclose([bars[..., 0].min(), bars[..., 0].max()], [-3, 3], atol=1e-5)


def test_lanes_are_as_wide_as_they_are():
    """3.7 m, and 1.6 m for bicycles; the axes show just what the view is of, 20 by 10 m."""
    lanes = [(RoadType.LANE, 0, y, 20, 0.1, 0.0) for y in (0, 5)]
    made = scene(car(), segments=[*lanes, (RoadType.STOP_SIGN, 5, -3, 0.2, 0.2, 0.0)])
    view = Viewport((-10, -3.5), (20, 10), 14.4)
    figure = Figure(figsize=view.inches, dpi=100)
    assert view.inches == pytest.approx((4, 2))
    canvas, axes = FigureCanvasAgg(figure), figure.add_axes((0, 0, 1, 1))
    draw_map(axes, replace(made, segment_map_type=np.array([2, 3, 0], np.int8)), view)
    canvas.draw()
    assert (axes.get_xlim(), axes.get_ylim()) == ((-10, 10), (-3.5, 6.5))
    for y, colour in {
        -2.0: PAPER, -1.7: ASPHALT, 1.7: ASPHALT, 2.0: PAPER, 4.05: PAPER, 4.35: ASPHALT, 5.65: ASPHALT, 5.95: PAPER,
    }.items():  # fmt: skip
        assert pixel(axes, np.asarray(canvas.buffer_rgba()), 0, y) == pytest.approx(to_rgb(colour), abs=0.01), y
    assert pixel(axes, np.asarray(canvas.buffer_rgba()), 5, -3) == pytest.approx(to_rgb(STOP_SIGN["mfc"]), abs=0.01)
