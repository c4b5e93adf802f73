import numpy as np
import pytest

from metarl.errors import SettingsError
from metarl.plots.terminal_plot import TerminalPlot

LOW, HIGH = np.array([0.0, 0.0]), np.array([1.0, 1.0])


def rows(canvas):
    return canvas.text().plain.split("\n")


def test_an_empty_canvas_is_blank():
    assert rows(TerminalPlot(3, 2, LOW, HIGH)) == ["   ", "   "]


def test_lines_are_dots():
    canvas = TerminalPlot(2, 1, LOW, HIGH)
    canvas.line(np.array([[0.0, 0.0], [1.0, 0.0]]))
    assert rows(canvas) == ["⣀⣀"]
    canvas.line(np.array([[0.0, 0.0], [0.0, 1.0]]))
    assert rows(canvas) == ["⣇⣀"]


def test_up_is_up():
    canvas = TerminalPlot(4, 2, LOW, HIGH)
    canvas.line(np.array([[0.0, 0.0], [1.0, 1.0]]))
    top, bottom = rows(canvas)
    assert top[0] == bottom[-1] == " " and top[-1] != " " and bottom[0] != " "


def test_marks_hide_lines_and_styles_are_the_last_ones():
    canvas = TerminalPlot(3, 1, LOW, HIGH)
    canvas.mark(np.array([0.5, 0.5]), "x", "bold")
    canvas.line(np.array([[0.0, 0.5], [1.0, 0.5]]), "red")
    assert rows(canvas)[0][1] == "x"
    styles = {str(span.style) for span in canvas.text().spans}
    assert styles == {"bold", "red"}


def test_what_lies_outside_is_left_out():
    canvas = TerminalPlot(2, 1, LOW, HIGH)
    canvas.line(np.array([[-5.0, 9.0], [-1.0, 7.0]]))
    canvas.line(np.array([[np.nan, 0.0]]))
    canvas.mark(np.array([2.0, 2.0]), "x")
    assert rows(canvas) == ["  "]
    canvas.line(np.array([[-1e6, 0.0], [1e6, 0.0]]))
    assert len(rows(canvas)[0]) == 2


def test_a_steep_line_is_drawn_up_to_the_edge():
    canvas = TerminalPlot(2, 3, LOW, HIGH)
    canvas.line(np.array([[0.0, 0.0], [0.0, 1.0]]))
    steep = TerminalPlot(2, 3, LOW, HIGH)
    steep.line(np.array([[0.0, -1e5], [1e-3, 1e6]]))
    assert rows(steep) == rows(canvas) == ["⡇ "] * 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.7e308])
def test_a_line_has_a_gap_where_it_is_not_finite(bad):
    canvas = TerminalPlot(4, 1, LOW, HIGH)
    canvas.line(np.array([[0.0, 0.0], [0.3, 0.0], [0.5, bad], [0.7, 0.0], [1.0, 0.0]]))
    (row,) = rows(canvas)
    assert "⠀" not in row and row.strip(" ") == row and len(row) == 4
    canvas.line(np.array([[bad, bad], [bad, bad]]))
    assert rows(canvas) == [row]


@pytest.mark.parametrize("size", [(0, 1), (1, 0)])
def test_no_letters(size):
    with pytest.raises(SettingsError, match="letters"):
        TerminalPlot(size[0], size[1], LOW, HIGH)


def test_no_area():
    with pytest.raises(SettingsError, match="area"):
        TerminalPlot(2, 2, LOW, LOW)
