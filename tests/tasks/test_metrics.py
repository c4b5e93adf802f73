"""Metrics by name, against plain formulas, with weights and masks."""

import math

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import ShapeError, UnknownNameError
from metarl.tasks.losses import weighted_mean
from metarl.tasks.metrics import METRICS, binary_accuracy, macro_f1, r_squared

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 6, 3, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 2, 0, 1, 2], [0, 0, 1, 1, 0, 0]])
VALUES = torch.randn(2, 6, 3, generator=GENERATOR, dtype=torch.float64)
WEIGHTS = torch.tensor([[1.0, 1, 0, 1, 1, 0], [1, 1, 1, 1, 1, 1]]).double()
NAMES = ["accuracy", "f1", "nll", "mse", "rmse", "mae", "r2"]


def f1_of(predictions, labels):
    """The F1 score of one task, over the classes that occur."""
    scores = []
    for k in set(predictions.tolist()) | set(labels.tolist()):
        hits = ((predictions == k) & (labels == k)).sum().item()
        wrong = ((predictions == k) != (labels == k)).sum().item()
        scores.append(2 * hits / (2 * hits + wrong))
    return sum(scores) / len(scores)


def r2_of(outputs, targets):
    """R^2 of one task: the mean over the columns."""
    residual = (targets - outputs).square().sum(0)
    return (1 - residual / (targets - targets.mean(0)).square().sum(0)).mean().item()


PLAIN = {
    "accuracy": lambda o, t: (o.argmax(1) == t).double().mean().item(),
    "f1": lambda o, t: f1_of(o.argmax(1), t),
    "nll": lambda o, t: F.cross_entropy(o, t).item(),
    "mse": lambda o, t: F.mse_loss(o, t).item(),
    "rmse": lambda o, t: math.sqrt(F.mse_loss(o, t).item()),
    "mae": lambda o, t: F.l1_loss(o, t).item(),
    "r2": r2_of,
}


def targets_of(name):
    return LABELS if name in ("accuracy", "f1", "nll") else VALUES


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_metric_is_that_of_each_task_alone(name, weighted):
    targets = targets_of(name)
    weights = WEIGHTS if weighted else None
    found = METRICS.get(name)(LOGITS, targets, weights)
    for t in range(2):
        real = WEIGHTS[t] > 0 if weighted else slice(None)
        assert found[t].item() == pytest.approx(PLAIN[name](LOGITS[t][real], targets[t][real]))


@pytest.mark.parametrize("name", NAMES)
def test_masked_elements_do_not_count(name):
    logits = torch.randn(1, 3, 4, 5, generator=GENERATOR, dtype=torch.float64)
    labels = torch.randint(5, (1, 3, 4), generator=GENERATOR)
    targets = labels if name in ("accuracy", "f1", "nll") else logits.sin()
    mask = torch.tensor([[[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]]).bool()
    found = METRICS.get(name)(logits, targets, None, mask)
    assert found.item() == pytest.approx(PLAIN[name](logits[mask], targets[mask]))
    weights = torch.tensor([[1.0, 0.0, 1.0]]).double()
    found = METRICS.get(name)(logits, targets, weights, mask)
    real = mask & (weights > 0).unsqueeze(2)
    assert found.item() == pytest.approx(PLAIN[name](logits[real], targets[real]))


def test_yes_or_no():
    logits = torch.tensor([[[1.0], [-2.0], [3.0], [-1.0]]])
    answers = torch.tensor([[1, 0, 0, 0]])
    assert binary_accuracy(logits, answers).item() == 0.75
    assert binary_accuracy(logits, answers, torch.tensor([[1.0, 1, 0, 1]])).item() == 1.0
    several = logits.expand(1, 4, 2)
    assert binary_accuracy(several, (several > 0).float()).item() == 1.0
    assert binary_accuracy(logits * math.nan, answers).isnan().all()
    with pytest.raises(ShapeError, match="logits and targets of one shape"):
        binary_accuracy(several, answers)


def test_outputs_that_are_no_numbers_have_no_score():
    broken = LOGITS.clone()
    broken[0, 1] = math.nan
    assert macro_f1(broken, LABELS).isnan().tolist() == [True, False]
    assert METRICS.get("accuracy")(broken, LABELS).isnan().tolist() == [True, False]
    assert not r_squared(VALUES, VALUES * 0).isfinite().any(), "constant targets"


def test_a_mean_does_not_read_what_has_the_weight_0():
    values = torch.tensor([[1.0, math.inf, 3.0]])
    assert weighted_mean(values, torch.tensor([[1.0, 0.0, 3.0]])).item() == 2.5
    values = torch.tensor([[[1.0, math.nan], [2.0, 6.0]]])
    mask = torch.tensor([[[True, False], [True, True]]])
    assert weighted_mean(values, None, mask).item() == 3.0
    assert weighted_mean(values, torch.tensor([[2.0, 1.0]]), mask).item() == 2.5
    assert weighted_mean(torch.ones(1, 2), None, mask).item() == 1.0, "a value per example"


def test_the_names():
    assert {*NAMES, "binary_accuracy", "generalised_accuracy"} == set(METRICS.names())
    with pytest.raises(UnknownNameError, match="mean 'accuracy'"):
        METRICS.get("acuracy")
