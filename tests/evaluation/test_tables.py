"""Tables of reports, and what watches an evaluation."""

import io
import math
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from metarl_envs.protocols import icml_navigation
from rich.console import Console

from metarl.adaptation import MAML, GradientLearner
from metarl.evaluation.control_protocol import return_table, trial_protocols
from metarl.evaluation.curves import adaptation_curve
from metarl.evaluation.sine_protocol import SHOTS, sine_curves, sine_table
from metarl.evaluation.statistics import summarise_curve
from metarl.evaluation.tables import interval_cell, number_cell, report_table
from metarl.models import MLP
from metarl.tasks import Sine


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_the_title_of_a_narrow_table_does_not_break():
    title, caption = "maml on a family with a long name: return [±]", "mean ± half of the interval"
    table = report_table(title, caption)
    table.add_column("a")
    table.add_row("1")
    lines = printed(table)
    assert lines[0] == title and lines[-1] == caption
    assert all(len(line) <= 30 for line in printed(table, 30)), "but not beyond the terminal"


@pytest.mark.parametrize(
    ("value", "text"), [(0.346, "0.35"), (-123456.0, "-123456.00"), (1.557e12, "1.56e+12")]
)
def test_long_numbers_have_an_exponent(value, text):
    assert number_cell(value) == text


def test_a_cell_without_an_interval_has_no_brackets():
    summary = summarise_curve(torch.tensor([[1.0, 3.0]]), torch.Generator())[0]
    assert interval_cell(summary) == "2.00 [1.00, 3.00]"
    assert interval_cell(replace(summary, mean_low=math.nan)) == "2.00"
    assert interval_cell(replace(summary, mean=math.inf, mean_high=math.inf)) == "inf"


def test_the_table_of_sine_has_published_values_only_where_there_are_some():
    curves = {5: summarise_curve(torch.tensor([[1.0, 3.0]]), torch.Generator())}
    without, with_some = (printed(sine_table(curves, p, "mse")) for p in ({}, {0: 0.5}))
    assert not any("paper" in line for line in without)
    assert any("0.50" in line for line in with_some) and "paper" in with_some[-1]


def test_the_columns_of_protocols_are_explained_and_their_cells_stay_whole():
    halved, fewer, kept = protocols = icml_navigation()
    assert halved.explained() == (
        "icml2017: the tasks of Finn et al. 2017, 3 steps of 40 rollouts per task, inner rate "
        "times 0.5 after step 1"
    )
    assert "20 rollouts" in fewer.explained() and "rate" not in kept.explained().partition(":")[2]
    assert replace(halved, scales=(1.0, 0.5, 0.1)).explained().endswith("rate times 1, 0.5, 0.1")
    values = torch.linspace(-60, -20, 4 * 40).view(4, 40)
    summaries = summarise_curve(values, torch.Generator().manual_seed(0))
    rows = {name: summaries for name in ("test tasks", *(p.name for p in protocols))}
    published = {halved.name: {k: -40.0 for k in range(4)}}
    table = return_table(rows, published, "maml on Navigation2D-v1", protocols=protocols)
    lines = printed(table)
    cell = f"{summaries[0].mean:.2f} ±"
    assert any(line.count(cell) == 4 for line in lines), "a row is one line in 80 letters"
    text = " ".join(lines)
    assert "(n): n tasks" in text and "icml2017 rate kept: the tasks" in text


def test_trials_have_neither_rates_nor_several_rollouts():
    (only,) = trial_protocols(icml_navigation())
    assert only.explained() == "icml2017: the tasks of Finn et al. 2017, 4 episodes of a trial"
    assert only.published["maml"][1] == -11.68


@pytest.fixture
def learner():
    net = MLP((1, 4, 1), torch.Generator().manual_seed(0))
    return GradientLearner(MAML(net, inner_lr=0.01, steps=1))


def watching(seen):
    @contextmanager
    def watch(name, total):
        counts = []
        seen[name] = (total, counts)
        yield counts.append

    return watch


def test_an_evaluation_is_watched_and_its_values_stay_the_same(learner):
    def curve(**options):
        generator = torch.Generator().manual_seed(1)
        return adaptation_curve(
            learner, Sine(5), num_tasks=5, steps=2, generator=generator, chunk_size=3, **options
        ).values

    seen = {}
    assert torch.equal(curve(), curve(watch=watching(seen), name="mine"))
    assert seen == {"mine": (15, [3, 3, 3, 2, 2, 2])}
    curve(watch=watching(seen), last_only=True)
    assert seen["test tasks"] == (5, [3, 2])


def test_each_curve_of_a_protocol_is_watched(learner):
    seen = {}
    sine_curves(learner, num_tasks=3, steps=1, watch=watching(seen))
    assert seen == {f"test tasks, K={shots}": (6, [3, 3]) for shots in SHOTS}
