"""What pictures show."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal

from gail_cli.gail.figures import map as map_module
from gail_cli.gail.figures.episode import list_events
from gail_cli.gail.figures.episode_figure import (
    COLOURS,
    MARKERS,
    MOVING,
    PARKED,
    EpisodeFigure,
    event_markers,
    outlines,
    trails,
    viewport,
    whole_seconds,
)
from gail_cli.gail.figures.map import ASPHALT
from gail_cli.sim.scenario import AgentType
from gail_cli.sim.scene import Role
from tests.episodes import crash, episode, pixel, row_of
from tests.scenes import car, valid_only

PAPER = to_rgb(map_module.PAPER)

# what moves


def test_a_parked_car_is_a_box_of_its_size_and_heading():
    """4 x 2 m at (20, 3), turned by atan(3/4): half its length is (1.6, 1.2), half its width (-0.6, 0.8)."""
    shown = episode(car(speed=5), car(20, 3, heading=np.arctan2(3, 4)))
    (box,) = outlines(shown, np.array([row_of(shown, 1)]), np.array([0]))
    assert_allclose(box, [(21.0, 5.0), (22.2, 3.4), (19.0, 1.0), (17.8, 2.6)], atol=1e-5)


def test_pedestrians_and_cyclists_have_shapes_of_their_own():
    small = {"size": (1.0, 0.6, 1.7)}
    kinds = AgentType.PEDESTRIAN, AgentType.CYCLIST
    shown = episode(car(speed=5), *(car(0, 9, speed=1, type=kind, **small) for kind in kinds), everyone=True)
    shapes = outlines(shown, np.arange(3), np.full(3, 5))
    assert [len(shape) for shape in shapes] == [4, 20, 6]
    assert_allclose(shapes[1].max(axis=0) - shapes[1].min(axis=0), [1.0, 0.6], atol=1e-6)


def test_boxes_on_the_way_do_not_overlap():
    """Whole seconds, a length apart from each other and from the end."""
    fast, slow = car(speed=6, steps=41), car(0, 9, speed=3, steps=41)
    shown = episode(fast, slow)
    assert whole_seconds(shown, 0).tolist() == [0, 10, 20, 30]  # 6 m a second, 4 m long
    assert whole_seconds(shown, 1).tolist() == [0, 20]


def test_paths_end_where_agents_are():
    """And leave out where they are not there."""
    shown = episode(car(speed=10), car(0, 9, speed=5, role=Role.MARK_AS_EXPERT, valid=valid_only(0, 1, 5, 6)))
    driven, followed = trails(shown, np.array([0, 1]), 5).get_segments()
    assert_allclose(driven, [(k, 0) for k in range(6)], atol=1e-5)
    assert_allclose(followed, [(0, 9), (0.5, 9), (2.5, 9)], atol=1e-5)


def test_the_view_is_of_what_controlled_agents_do():
    """100 m along x, and 12 m around; nobody else counts. Narrow views are widened, small ones enlarged."""
    shown = episode(car(-50, 0, speed=100), car(0, 300), car(0, 9, speed=50, role=Role.MARK_AS_EXPERT))
    long = viewport(shown)
    assert long.low[0] == pytest.approx(-62)
    assert long.size == pytest.approx((124, 124 / 2.1))
    assert long.low[1] == pytest.approx(-124 / 2.1 / 2)
    assert long.inches == pytest.approx((10, 10 / 2.1))
    assert viewport(episode(car(0, 0, heading=np.pi / 2, speed=100))).size == pytest.approx((124 * 0.85, 124))
    assert viewport(episode(car(speed=1))).size[0] == 60


# the figure


def test_frames_show_agents_where_they_are():
    """At x = -1.5 to 2.5 and at 1.5 to 5.5: boxes have their agent's colour, parked ones theirs; elsewhere is road."""
    figure = EpisodeFigure(crash(), 60)
    first, third = figure.frame(0), figure.frame(3)
    for frame, here, there in ((first, -1.0, 4.8), (third, 4.8, -1.0)):
        assert pixel(figure.axes, frame, here, 0.6) == pytest.approx(to_rgb(COLOURS[0]), abs=0.01)
        assert pixel(figure.axes, frame, there, 0.6) == pytest.approx(to_rgb(ASPHALT), abs=0.01)
        assert pixel(figure.axes, frame, 8.7, 0.6) == pytest.approx(to_rgb(PARKED[0]), abs=0.01)
        assert pixel(figure.axes, frame, 20, -7) == pytest.approx(PAPER, abs=0.01)


def test_a_collision_has_a_sign_that_stays():
    (collision,) = [event for event in list_events(crash()) if event.kind == "collision"]
    figure = EpisodeFigure(crash(), 60)
    red = pytest.approx(to_rgb(MARKERS["collision"]["mfc"]), abs=0.02)
    seen = [pixel(figure.axes, figure.frame(step), *collision.place) == red for step in range(crash().steps)]
    assert seen == [step >= collision.step for step in range(crash().steps)]


def test_a_goal_that_is_reached_is_filled_and_ticked():
    """Beside the car on it, and the sign beside both."""
    shown = episode(car(0, 0, speed=10), segments=[])
    figure = EpisodeFigure(shown, 60)
    full = to_rgb(COLOURS[0])
    before, after = (pixel(figure.axes, figure.frame(step), 9.5, 1.4) for step in (8, 9))
    assert np.abs(np.subtract(before, PAPER)).max() < 0.2 < np.abs(np.subtract(after, PAPER)).max()
    assert after == pytest.approx(full, abs=0.15)
    sign, tick = event_markers(shown, list_events(shown), figure.viewport)[:2]
    (place,) = sign.get_xydata()
    assert_array_equal(tick.get_xydata(), [place])
    radius = sign.get_markersize() / 2 / figure.viewport.points
    assert np.hypot(*(place - [10, 0])) == pytest.approx(shown.goal_radius + radius)
    assert pixel(figure.axes, figure.frame(8), *place) == pytest.approx(PAPER, abs=0.01)
    assert pixel(figure.axes, figure.frame(9), *place) != pytest.approx(PAPER, abs=0.2)


def test_a_frame_leaves_nothing_behind():
    figure = EpisodeFigure(crash(), 30)
    before = figure.frame(2)
    kept = len(figure.axes.get_children()), len(figure.figure.get_children())
    figure.frame(10)
    assert_array_equal(figure.frame(2), before)
    assert (len(figure.axes.get_children()), len(figure.figure.get_children())) == kept


def test_nobody_is_drawn_where_it_is_not():
    """Logs of agents that come and go, or stay away for a while."""
    late = car(0, 9, speed=5, role=Role.MARK_AS_EXPERT, valid=valid_only(*range(4, 8)))
    shown = episode(car(speed=5), late, everyone=True)
    figure = EpisodeFigure(shown, 60)
    for step in (0, 5, 9):
        x = late.log[step, 0]
        drawn = pixel(figure.axes, figure.frame(step), x - 1.3, 9.6) == pytest.approx(to_rgb(MOVING[0]), abs=0.01)
        assert drawn == (4 <= step < 8)


def test_the_picture_of_an_episode():
    """The last boxes are solid, earlier ones pale."""
    figure = EpisodeFigure(crash(), 60)
    canvas = figure.whole().canvas
    canvas.draw()
    frame = np.asarray(canvas.buffer_rgba())
    x = crash().state[0, -1, 0]
    assert pixel(figure.axes, frame, x + 0.2, 0.7) == pytest.approx(to_rgb(COLOURS[0]), abs=0.01)
    start = pixel(figure.axes, frame, -1.0, 0.7)
    assert start != pytest.approx(to_rgb(COLOURS[0]), abs=0.2)  # pale
    assert start != pytest.approx(to_rgb(ASPHALT), abs=0.02)
