import io
import math

import numpy as np
import pytest
import torch
from rich.console import Console

from metarl.evaluation import sine_protocol
from metarl.evaluation.sine_protocol import PUBLISHED, SHOTS, sine_curves, sine_panels, sine_table
from metarl.evaluation.statistics import summarise_curve
from metarl.models import MLP
from metarl.plots.figures import sine_figure
from metarl.tasks.disjoint_splits import CELLS_PER_SPLIT
from tests.gradient_learners import MAML, Reptile


@pytest.fixture
def learner(generator):
    return MAML(MLP((1, 20, 1), generator), 0.02)


@pytest.fixture
def seen(learner, monkeypatch):
    """The support sets that a learner was adapted on."""
    supports, adapt = [], learner.adapt

    def recording(support, steps, generator):
        supports.append(support)
        return adapt(support, steps, generator)

    monkeypatch.setattr(learner, "adapt", recording)
    return supports


@pytest.fixture
def phases(monkeypatch):
    """The phases of all tasks that were sampled."""
    noted, sample = [], sine_protocol.Sine.sample

    def noting(self, num_tasks, generator):
        tasks = sample(self, num_tasks, generator)
        noted.append(tasks.info["phase"])
        return tasks

    monkeypatch.setattr(sine_protocol.Sine, "sample", noting)
    return noted


@pytest.fixture
def summaries(learner):
    curves = sine_curves(learner, queries=10, num_tasks=20, steps=5)
    generator = torch.Generator().manual_seed(0)
    return {k: summarise_curve(c.values, generator, resamples=50) for k, c in curves.items()}


def test_curves_are_those_of_the_paper(learner, seen):
    curves = sine_curves(learner, queries=10, num_tasks=12, steps=3)
    assert list(curves) == [5, 10, 20] == list(SHOTS)
    assert [s.inputs.shape for s in seen] == [(12, k, 1) for k in SHOTS]
    for curve in curves.values():
        assert curve.metric == "mse"
        assert curve.values.shape == (4, 12)


def test_defaults_are_those_of_the_paper(learner, seen):
    with pytest.warns(RuntimeWarning, match="mse of task"):  # an untrained network may diverge
        curves = sine_curves(learner, queries=1)
    assert {c.values.shape for c in curves.values()} == {(11, 600)}


def test_a_learner_that_predicts_0_errs_by_the_mean_square_of_the_targets(generator):
    model = MLP((1, 20, 1), generator)
    for p in model.parameters():
        p.data.zero_()
    curve = sine_curves(MAML(model), num_tasks=600, steps=0)[5]
    assert curve.values.mean().item() == pytest.approx(4.25, rel=0.1)


def test_every_learner_meets_the_same_tasks(learner, generator):
    other = MAML(MLP((1, 20, 1), generator), 0.02)
    settings = {"queries": 10, "num_tasks": 5, "steps": 1}
    curves = [sine_curves(x, **settings) for x in (learner, learner, other)]
    for shots in SHOTS:
        assert torch.equal(curves[0][shots].values, curves[1][shots].values)
        assert not torch.equal(curves[0][shots].values, curves[2][shots].values)


def test_learners_that_draw_batches_meet_the_same_tasks_too(learner, generator, phases):
    settings = {"queries": 1, "num_tasks": 150, "steps": 1}
    sine_curves(learner, **settings)
    sine_curves(Reptile(MLP((1, 20, 1), generator), batch_size=3), **settings)
    first, second = torch.cat(phases).chunk(2)
    assert torch.equal(first, second)


def test_tasks_are_those_of_the_test_split(learner, phases):
    sine_curves(learner, queries=1, num_tasks=50, steps=0)
    sine_panels(learner, steps=(0,))
    cells = (torch.cat(phases).double() / math.pi * 3 * CELLS_PER_SPLIT).floor().long() % 3
    assert len(cells) == 3 * 50 + 6
    assert (cells == 2).all()


def printed(table):
    console = Console(file=io.StringIO(), width=120, no_color=True)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_has_a_row_per_step_beside_the_published_values(summaries):
    table = sine_table(summaries, PUBLISHED["maml"])
    assert [c.header for c in table.columns] == ["steps", "K=5", "K=10", "K=20", "paper"]
    assert table.row_count == 6
    rows = {r[0]: r for r in ([list(c.cells)[i] for c in table.columns] for i in range(6))}
    assert [rows[str(k)][-1] for k in range(6)] == ["", "0.67", "", "", "", "0.38"]
    third = summaries[10][3]
    expected = f"{third.mean:.2f} [{third.mean_low:.2f}, {third.mean_high:.2f}]"
    assert rows["3"][2] == expected
    text = printed(table)
    assert "20 test tasks" in text
    assert expected in text


def test_panels_show_the_fit_of_a_task(learner):
    panels = sine_panels(learner, shots=5, steps=(0, 1, 10), num_tasks=4)
    assert len(panels) == 4
    for panel in panels:
        assert list(panel.predictions) == [0, 1, 10]
        assert panel.inputs[0] == -5 and panel.inputs[-1] == 5
        assert (np.diff(panel.inputs) > 0).all()
        # The support points lie on the true curve.
        on_curve = np.interp(panel.support_inputs, panel.inputs, panel.target)
        np.testing.assert_allclose(panel.support_targets, on_curve, atol=0.01)
        errors = [
            np.abs(np.interp(panel.support_inputs, panel.inputs, fit) - panel.support_targets)
            for fit in panel.predictions.values()
        ]
        assert (errors[2] ** 2).mean() < (errors[0] ** 2).mean()
    assert len({p.title for p in panels}) == 4
    assert panels[0].title.startswith("A = ")


def test_panels_can_be_drawn_and_are_the_same_each_time(learner):
    first, again = (sine_panels(learner, steps=(0, 1), num_tasks=2) for _ in range(2))
    np.testing.assert_array_equal(first[1].predictions[1], again[1].predictions[1])
    assert len(sine_figure(first).axes) == 2


def test_the_table_names_another_metric(summaries):
    assert sine_table(summaries, {}, "mae").title.startswith("mae on 20 test tasks")
