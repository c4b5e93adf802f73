import io

import numpy as np
import torch
from rich.console import Console

from metarl.console import OutputConsole
from metarl.evaluation.curves import AdaptationCurve
from metarl.plots.figures import SinePanel
from metarl.plots.path_figure import Paths
from metarl.plots.pictures import curve_picture, paths_picture, sine_picture, step_table


def printed(picture, width=120):
    console = Console(file=io.StringIO(), width=width)
    console.print(picture.drawing)
    return console.file.getvalue()


def test_paths_stand_beside_each_other_with_their_returns():
    straight = np.linspace((0.0, 0.0), (0.8, 0.8), 9)
    steps = {0: [straight[:1]], 1: [straight]}
    picture = paths_picture([Paths(np.array([0.8, 0.8]), steps, {0: -9.0, 1: -1.5}, 0.0, "goal 1")])
    text = printed(picture)
    assert picture.name == "paths" and len(picture.figure.axes) == 2
    for part in ("goal 1", "before", "after 1 step", "return -9.0", "return -1.5", "o start"):
        assert part in text, part
    dots = [sum("\u2800" < c <= "\u28ff" for c in line) for line in text.splitlines()]
    assert sum(dots) >= 5 and max(dots) <= 3  # one diagonal, in one of the columns


def test_fits_and_their_truth():
    x = np.linspace(-5, 5, 50)
    panel = SinePanel(x, np.sin(x), x[::10], np.sin(x[::10]), {0: 0 * x, 1: np.sin(x)}, "A = 1")
    text = printed(sine_picture([panel]))
    assert "A = 1" in text and "after 1 step" in text
    assert sum(line.count("o") for line in text.splitlines()[4:-2]) == 2 * 5


def test_steps_that_do_not_fit_into_the_width_come_below():
    x = np.linspace(-5, 5, 50)
    fits = {0: 0 * x, 1: np.sin(x), 10: np.sin(x)}
    panel = SinePanel(x, np.sin(x), x[::10], np.sin(x[::10]), fits, "A = 1")
    for width, below in ((40, 3), (60, 2), (100, 1)):
        text = printed(sine_picture([panel]), width)
        assert "…" not in text and max(map(len, text.splitlines())) <= width
        assert text.count("A = 1") == below
        assert [f"after {n} step" in text for n in (1, 10)] == [True, True]


def test_a_column_per_task_and_their_mean():
    curve = AdaptationCurve("return", torch.tensor([[1.0, 3.0], [5.0, 6.0]]), True)
    text = printed(curve_picture(curve)).splitlines()
    (last,) = [line.split() for line in text if line.split()[:1] == ["1"]]
    assert last == ["1", "5.00", "6.00", "5.50"]


def test_brackets_in_names_are_printed():
    console = OutputConsole(file=io.StringIO(), width=100)
    console.print_whole(step_table({"arm [left]": [1.0, 0.5]}, "error [m]"))
    text = console.file.getvalue()
    assert "arm [left]" in text and "error [m]" in text
