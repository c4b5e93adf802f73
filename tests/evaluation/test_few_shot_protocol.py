"""Few-shot accuracy and Lake's runs of a learner."""

import pytest
import torch

from metarl.adaptation import GradientLearner
from metarl.errors import ContaminationError, SettingsError
from metarl.evaluation.few_shot_protocol import few_shot_curves, few_shot_table, lake_errors
from metarl.evaluation.lake import LakeRuns
from metarl.evaluation.statistics import summarise
from metarl.models import Conv4
from metarl.tasks import Glyphs
from tests.gradient_learners import MAML


@pytest.fixture
def learner(generator):
    return MAML(Conv4(20, generator, filters=4, pooling="stride"), 0.4)


@pytest.fixture
def runs(generator):
    """Two runs whose test images are the training images in another order."""
    training = torch.rand(2, 20, 1, 28, 28, generator=generator)
    answers = torch.rand(2, 20, generator=generator).argsort(1)
    test = torch.stack([training[r, answers[r]] for r in range(2)])
    return LakeRuns(training, test, answers, ("run01", "run02"))


def test_a_learner_on_lakes_runs(learner, runs):
    errors = lake_errors(learner, runs, ["Latin"], steps=50)
    assert errors["transductive"] < 60, "it was shown these very images: chance is 95"
    assert set(errors) == {"transductive", "non-transductive"}


def test_weights_that_have_seen_an_evaluation_alphabet_are_refused(learner, runs):
    with pytest.raises(ContaminationError, match="Tibetan"):
        lake_errors(learner, runs, ["Latin", "Tibetan"], steps=1)


def test_curves_of_both_kinds(generator):
    learner = MAML(Conv4(3, generator, filters=4, pooling="stride"), 0.4)
    test = Glyphs(3, 1, 2, alphabets=4, characters=4, drawings=6).split("test")
    curves = few_shot_curves(learner, test, num_tasks=5, steps=2)
    assert curves["transductive"].values.shape == (3, 5)
    assert curves["non-transductive"].values.shape == (1, 5)
    assert not curves["non-transductive"].transductive


def test_the_table_holds_percentages():
    summary = summarise(torch.full((10,), 0.5), torch.Generator())
    table = few_shot_table({"transductive": summary}, {"transductive": 38.0}, "5-way 1-shot")
    cells = [list(column.cells) for column in table.columns]
    assert cells == [["transductive"], ["50.0 [50.0, 50.0]"], ["38.0"]]


def test_runs_on_which_a_learner_diverges_are_named(learner, runs):
    runs.training[1, 0, 0, 0, 0] = float("nan")
    with pytest.warns(RuntimeWarning, match=r"accuracy of run 1 is NaN \(1 of 2"):
        errors = lake_errors(learner, runs, ["Latin"], steps=1)
    assert all(error != error for error in errors.values())  # NaN


def test_the_table_names_another_metric():
    summary = summarise(torch.full((10,), 0.5), torch.Generator())
    table = few_shot_table({"non-transductive": summary}, {}, "5-way 1-shot", "f1")
    assert table.columns[1].header == "f1"
    assert list(table.columns[1].cells) == ["0.500 [0.500, 0.500]"]


def test_errors_on_lakes_runs_are_those_of_the_accuracy(learner, runs):
    other = GradientLearner(learner.adaptation, metric="f1")
    with pytest.raises(SettingsError, match="1 - accuracy, and the metric is f1"):
        lake_errors(other, runs, ["Latin"], steps=1)
