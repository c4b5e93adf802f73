import numpy as np
import pytest

from metarl.errors import SettingsError, ShapeError
from metarl.plots.path_figure import Paths, paths_figure, square

START = np.zeros((1, 2))


def paths(goal=(0.5, 0.5), ends=((0.1, 0.0), (0.5, 0.5)), **changes):
    """One path per step, straight from the origin to an end."""
    steps = {k: [np.concatenate((START, np.array([end])))] for k, end in enumerate(ends)}
    return Paths(np.array(goal), steps, **changes)


def test_a_panel_per_task_and_step_with_start_goal_and_paths():
    figure = paths_figure([paths(returns={0: -3.25, 1: -0.5}, title="one"), paths(title="two")])
    axes = figure.axes
    assert len(axes) == 4
    assert [a.get_title() for a in axes] == ["before", "after 1 step", "", ""]
    assert [a.get_ylabel() for a in axes] == ["one", "", "two", ""]
    assert [t.get_text() for t in axes[0].texts] == ["return \N{MINUS SIGN}3.2"]
    line, end, start, goal = axes[1].lines
    np.testing.assert_allclose(np.asarray(line.get_xydata()), [[0, 0], [0.5, 0.5]])
    np.testing.assert_allclose(np.asarray(end.get_xydata()), [[0.5, 0.5]])
    np.testing.assert_allclose(np.asarray(start.get_xydata()), START)
    np.testing.assert_allclose(np.asarray(goal.get_xydata()), [[0.5, 0.5]])
    assert len({a.get_xlim() for a in axes}) == 1


def test_a_radius_is_a_circle_around_the_goal():
    (circle,) = paths_figure([paths(radius=0.2)]).axes[0].patches
    assert circle.center == (0.5, 0.5) and circle.radius == 0.2


def test_the_square_holds_starts_goals_and_paths():
    low, high = square([paths(), paths(goal=(-0.4, 0.2), ends=((0.2, -0.3),))])
    assert (low < (-0.4, -0.3)).all() and (high > 0.5).all()
    np.testing.assert_allclose(*(high - low), rtol=1e-12)


def test_a_path_that_leads_far_away_does_not_shrink_the_rest():
    low, high = square([paths(ends=((0.1, 0.0), (1000.0, 0.0)))])
    assert (high - low < 2).all() and (low < 0).all() and (high > 0.5).all()


def test_what_cannot_be_drawn_is_told():
    with pytest.raises(SettingsError, match="at least one task"):
        paths_figure([])
    with pytest.raises(SettingsError, match="with paths"):
        paths_figure([Paths(np.zeros(2), {0: []})])
    with pytest.raises(ShapeError, match="after \\[0, 1\\] steps"):
        paths_figure([paths(), paths(ends=((0.1, 0.0),))])
    with pytest.raises(ShapeError, match="goal \\[2\\]"):
        paths_figure([paths(goal=(0.0, 0.0, 0.0))])
