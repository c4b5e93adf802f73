import math

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import ShapeError
from metarl.tasks.losses import (
    accuracy,
    cross_entropy,
    evaluation_metric,
    mean_squared_error,
    metric_name,
    task_loss,
    task_metric,
)

LABELS = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1], [1, 0, 0, 2]])


@pytest.fixture
def logits(generator):
    return torch.randn(3, 4, 5, generator=generator)


def test_squared_errors_by_hand():
    outputs = torch.tensor([[[1.0], [2.0]], [[0.0], [0.0]]])
    targets = torch.tensor([[[0.0], [4.0]], [[3.0], [0.0]]])
    assert mean_squared_error(outputs, targets).tolist() == [2.5, 4.5]


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 1), (3, 4, 2, 5)])
def test_squared_error_of_a_task_is_torchs(shape, generator):
    outputs, targets = torch.randn(2, *shape, generator=generator)
    expected = torch.stack([F.mse_loss(o, t) for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(mean_squared_error(outputs, targets), expected)


def test_squared_error_refuses_to_broadcast():
    with pytest.raises(ShapeError, match=r"got \(3, 4, 1\) and \(3, 4\)"):
        mean_squared_error(torch.zeros(3, 4, 1), torch.zeros(3, 4))


def test_cross_entropy_of_a_task_is_torchs(logits):
    expected = torch.stack([F.cross_entropy(o, t) for o, t in zip(logits, LABELS, strict=True)])
    torch.testing.assert_close(cross_entropy(logits, LABELS), expected)


def test_cross_entropy_of_no_knowledge_is_the_logarithm_of_the_classes():
    losses = cross_entropy(torch.zeros(3, 4, 5), LABELS)
    assert losses.tolist() == pytest.approx([math.log(5)] * 3)


def test_targets_may_be_views(logits):
    views = LABELS.T.contiguous().T
    assert not views.is_contiguous()
    assert torch.equal(cross_entropy(logits, views), cross_entropy(logits, LABELS))


def test_accuracy_by_hand():
    logits = F.one_hot(LABELS, 3).float()
    wrong = LABELS.clone()
    wrong[0, 0], wrong[2] = 1, (wrong[2] + 1) % 3
    assert accuracy(logits, wrong).tolist() == [0.75, 1.0, 0.0]


@pytest.mark.parametrize("loss", [cross_entropy, accuracy])
@pytest.mark.parametrize("shape", [(3, 4), (3, 5, 5), (12, 5), (3, 4, 5, 1)])
def test_logits_that_do_not_fit_are_refused(loss, shape):
    with pytest.raises(ShapeError, match=r"Expected logits \[T, N, classes\]"):
        loss(torch.zeros(shape), LABELS)


def test_the_type_of_the_targets_chooses(logits):
    values = torch.zeros_like(logits)
    assert torch.equal(task_loss(logits, values), mean_squared_error(logits, values))
    assert torch.equal(task_metric(logits, values), mean_squared_error(logits, values))
    assert metric_name(values) == "mse"
    assert torch.equal(task_loss(logits, LABELS), cross_entropy(logits, LABELS))
    assert torch.equal(task_metric(logits, LABELS), accuracy(logits, LABELS))
    assert metric_name(LABELS) == "accuracy"


@pytest.mark.parametrize("integers", [False, True])
def test_a_loss_reaches_its_own_task_only(logits, integers):
    targets = LABELS if integers else torch.zeros_like(logits)
    logits.requires_grad_()
    (grad,) = torch.autograd.grad(task_loss(logits, targets)[1], logits)
    assert grad[1].abs().min() > 0
    assert grad[[0, 2]].abs().max() == 0


def test_a_label_without_a_logit_is_named():
    with pytest.raises(ShapeError, match="labels from 0 to 2 for 3 logits, got 0 to 3"):
        cross_entropy(torch.zeros(1, 4, 3), torch.arange(4).unsqueeze(0))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.bool])
def test_labels_of_any_integer_type_are_those_of_int64(logits, dtype):
    labels = LABELS.clamp(max=1) if dtype == torch.bool else LABELS
    assert torch.equal(cross_entropy(logits, labels.to(dtype)), cross_entropy(logits, labels))
    assert torch.equal(accuracy(logits, labels.to(dtype)), accuracy(logits, labels))


@pytest.mark.parametrize("label", [-100, -1, 5])
def test_no_label_is_ignored(logits, label):
    labels = LABELS.clone()
    labels[1, 2] = label
    with pytest.raises(ShapeError, match="Expected labels from 0 to 4"):
        cross_entropy(logits, labels)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_accuracy_of_outputs_that_are_not_finite_is_nan(value):
    logits = F.one_hot(LABELS, 3).float()
    logits[1, 3, 0] = value
    assert torch.equal(accuracy(logits, LABELS).isnan(), torch.tensor([False, True, False]))
    logits[2] = -math.inf
    assert torch.equal(accuracy(logits, LABELS).isnan(), torch.tensor([False, True, True]))


def test_a_class_of_probability_0_is_a_prediction():
    logits = F.one_hot(LABELS, 3).float().log()  # 0 and -inf
    assert accuracy(logits, LABELS).tolist() == [1.0, 1.0, 1.0]
    assert evaluation_metric(logits, LABELS).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_give_nan_in_an_evaluation(value):
    outputs, targets = torch.ones(3, 4, 1), torch.zeros(3, 4, 1)
    assert evaluation_metric(outputs, targets).tolist() == [1.0, 1.0, 1.0]
    outputs[0, 2], targets[2, 1] = value, value
    metric = evaluation_metric(outputs, targets)
    assert torch.equal(metric.isnan(), torch.tensor([True, False, True]))
    large = torch.full((1, 1, 1), 1e30)
    assert evaluation_metric(large, -large).tolist() == [math.inf], "finite, but too large a square"


def test_an_evaluation_does_not_read_what_has_the_weight_0():
    outputs, targets = torch.ones(3, 4, 2), torch.zeros(3, 4, 2)
    outputs[0, 3], outputs[1, 0] = math.nan, math.nan
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0]).repeat(3, 1)
    metric = evaluation_metric(outputs, targets, weights)
    assert torch.equal(metric.isnan(), torch.tensor([False, True, False]))
    mask = torch.ones(3, 4, 2, dtype=torch.bool)
    mask[1, 0] = False
    assert evaluation_metric(outputs, targets, weights, mask).tolist() == [1.0, 1.0, 1.0]
