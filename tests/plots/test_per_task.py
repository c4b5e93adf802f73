"""What is told of single tasks: a file of rows, a figure over their range."""

import csv

import pytest
import torch

from metarl.errors import SettingsError
from metarl.evaluation.curves import AdaptationCurve
from metarl.plots.per_task import tasks_figure, tasks_table, write_tasks


def curve(tasks, steps=2):
    count = len(next(iter(tasks.values()))) if tasks else 3
    values = torch.arange(float((steps + 1) * count)).view(steps + 1, count)
    return AdaptationCurve("return", values, True, tasks)


def test_a_row_per_task_tells_what_it_is_and_how_it_went(tmp_path):
    tasks = {"goal": torch.tensor([[1.0, 2.0], [3.0, 4.5]]), "speed": torch.tensor([7.0, -8.25])}
    write_tasks(curve(tasks), tmp_path / "tasks.csv")
    with (tmp_path / "tasks.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["goal 0", "goal 1", "speed", "return_0", "return_1", "return_2"]
    assert [float(x) for x in rows[2]] == [3.0, 4.5, -8.25, 1.0, 3.0, 5.0]
    table = tasks_table(tmp_path / "tasks.csv")
    assert table.row_count == 2 and len(table.columns) == 6


def test_tasks_of_many_numbers_are_cut(tmp_path):
    write_tasks(curve({"p": torch.rand(2, 5, 4)}), tmp_path / "tasks.csv")
    assert len((tmp_path / "tasks.csv").read_text().splitlines()[0].split(",")) == 8 + 3


def test_one_number_gives_lines_two_a_map_per_number_of_steps():
    lines = tasks_figure(curve({"velocity": torch.tensor([2.0, 0.5, 1.0])}))
    (axes,) = lines.axes
    assert axes.get_xlabel() == "Velocity" and len(axes.lines) == 3
    assert axes.lines[1].get_xdata().tolist() == [0.5, 1.0, 2.0]
    assert axes.lines[1].get_ydata().tolist() == [4.0, 5.0, 3.0]
    maps = tasks_figure(curve({"goal": torch.rand(9, 2, generator=torch.Generator())}), "a title")
    assert [a.get_title() for a in maps.axes[:3]] == ["before", "after 1 step", "after 2 steps"]
    maps.canvas.draw()


@pytest.mark.parametrize(
    "tasks",
    [
        {"direction": torch.tensor([1.0, -1.0, 1.0])},
        {"goal": torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])},
        {"p": torch.rand(4, 3)},
    ],
)
def test_where_there_is_no_range_there_is_no_figure(tasks):
    assert tasks_figure(curve(tasks)) is None


def test_curves_that_know_no_tasks_and_missing_files_are_told(tmp_path):
    with pytest.raises(SettingsError, match="has `tasks`"):
        write_tasks(curve(None), tmp_path / "tasks.csv")
    with pytest.raises(SettingsError, match="single tasks"):
        tasks_table(tmp_path / "tasks.csv")
