import warnings

import numpy as np
import pytest
import torch

from metarl.errors import ShapeError, TaskError
from metarl.models import MLP
from metarl.tasks import Examples, TaskBatch
from metarl.tasks.batches import (
    check_inputs,
    check_labels,
    checked_examples,
    checked_tasks,
    join_inputs,
    label_range,
    parameter_type,
    warn_of_other_count,
)

LABELS = torch.tensor([[0, 1, 1], [1, 0, 0]])
FLOAT = torch.float32


def examples(targets, **options):
    return Examples(torch.zeros(2, 3, 1, **options), targets)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16, torch.bool]
)
def test_labels_become_int64(dtype):
    targets = checked_examples(examples(LABELS.to(dtype)), FLOAT).targets
    assert targets.dtype == torch.int64
    assert torch.equal(targets, LABELS)


def test_what_is_right_is_handed_on_as_it_is():
    given = examples(LABELS)
    assert checked_examples(given, FLOAT) is given
    tasks = TaskBatch(given, given, {"labels": LABELS})
    assert checked_tasks(tasks, FLOAT) is tasks
    changed = checked_tasks(TaskBatch(given, examples(LABELS.int()), tasks.info), FLOAT)
    assert changed.support is given and changed.info is tasks.info
    assert changed.query.targets.dtype == torch.int64


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_types_than_the_networks_are_refused(dtype):
    with pytest.raises(ShapeError, match=f"inputs of the parameters' type torch.float32.*{dtype}"):
        checked_examples(examples(LABELS, dtype=dtype), FLOAT)
    with pytest.raises(ShapeError, match="targets of the parameters' type"):
        checked_examples(examples(torch.zeros(2, 3, 1, dtype=dtype)), FLOAT)
    values = examples(torch.zeros(2, 3, 1, dtype=dtype), dtype=dtype)
    assert checked_examples(values, dtype) is values


def test_data_with_gradients_or_complex_numbers_is_refused():
    with pytest.raises(ShapeError, match=r"Expected inputs without gradients.*inputs\.detach\(\)"):
        check_inputs(torch.zeros(2, 3, 1, requires_grad=True), FLOAT)
    with pytest.raises(ShapeError, match="Expected targets without gradients"):
        checked_examples(examples(torch.zeros(2, 3, 1, requires_grad=True)), FLOAT)
    with pytest.raises(ShapeError, match=r"got torch\.complex64"):
        checked_examples(examples(torch.zeros(2, 3, 1, dtype=torch.complex64)), FLOAT)


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.zeros((2, 3, 1)), LABELS, "inputs as a tensor, got a ndarray"),
        (torch.zeros(2, 3, 1), LABELS.tolist(), r"targets as a tensor, got a list; `torch\.as_ten"),
        (torch.zeros(2, 3, 1).to_sparse(), LABELS, r"inputs as a dense tensor.*sparse_coo"),
        (torch.zeros(2, 3, 1), LABELS.to("meta"), "targets as a dense tensor.*meta device"),
        (torch.zeros(2, 3, 1, dtype=torch.complex64), LABELS, "real inputs"),
        (torch.zeros(2, 4, 1), LABELS, r"at least 1 of both; got \(2, 4, 1\) and \(2, 3\)"),
        (torch.zeros(1, 3, 1), LABELS, r"got \(1, 3, 1\) and \(2, 3\)"),
        (torch.zeros(2, 0, 1), LABELS[:, :0], r"at least 1 of both; got \(2, 0, 1\) and \(2, 0\)"),
        (torch.zeros(0, 3, 1), LABELS[:0], "at least 1 of both"),
        (torch.zeros(2), LABELS[:, 0], r"got \(2,\) and \(2,\)"),
    ],
    ids=range(10),
)
def test_what_is_no_batch_of_examples_is_refused(inputs, targets, message):
    with pytest.raises(ShapeError, match=message):
        checked_examples(Examples(inputs, targets), FLOAT)


def test_what_is_no_task_batch_is_refused():
    given = examples(LABELS)
    for tasks in ((given, given), [TaskBatch(given, given)]):
        with pytest.raises(ShapeError, match=rf"a TaskBatch.*got a {type(tasks).__name__}"):
            checked_tasks(tasks, FLOAT)
    for query in (None, tuple(given[:2])):
        with pytest.raises(ShapeError, match=rf"as Examples.*got a {type(query).__name__}"):
            checked_tasks(TaskBatch(given, query), FLOAT)


def test_sets_of_other_tasks_or_targets_are_refused():
    given = examples(LABELS)
    one = Examples(given.inputs[:1], LABELS[:1])
    for other in (one, examples(torch.zeros(2, 3, 1))):
        with pytest.raises(ShapeError, match="support and query sets of the same tasks"):
            checked_tasks(TaskBatch(given, other), FLOAT)
        with pytest.raises(ShapeError, match="support and query sets of the same tasks"):
            checked_tasks(TaskBatch(other, given), FLOAT)


def test_inputs_of_both_sets_are_joined():
    support, query = torch.zeros(2, 3, 1, 4), torch.ones(2, 1, 1, 4)
    joined = join_inputs(support, query)
    assert torch.equal(joined[:, :3], support) and torch.equal(joined[:, 3:], query)
    for other in (query[:1], query[..., :3], query[:, :, 0]):
        with pytest.raises(ShapeError, match=r"examples of one shape, got \(2, 3, 1, 4\) and "):
            join_inputs(support, other)


def test_the_type_is_that_of_the_parameters(generator):
    assert parameter_type(MLP((1, 2), generator)) == torch.float32
    assert parameter_type(MLP((1, 2), generator).double()) == torch.float64
    assert parameter_type(torch.nn.Identity()) is None
    check_inputs(torch.zeros(1, dtype=torch.float64), None)


def test_the_range_of_labels():
    assert label_range(LABELS, LABELS + 3) == (0, 4)
    check_labels((0, 4), 5)
    for bounds in ((-100, 4), (0, 5)):
        with pytest.raises(TaskError, match=f"labels from 0 to 4 for 5 outputs, got {bounds[0]} "):
            check_labels(bounds, 5)


@pytest.mark.parametrize(
    "info", [["a", "b"], np.arange(2), 0.5, torch.zeros(3), torch.tensor(0.0), {"x": 1}]
)
def test_info_that_has_no_tasks_leading_is_refused(info):
    x = torch.zeros(2, 3, 1)
    tasks = TaskBatch(Examples(x, x), Examples(x, x), {"place": info})
    with pytest.raises(ShapeError, match=r"info\['place'\] as a tensor with the 2 tasks leading"):
        checked_tasks(tasks, torch.float32)


def test_another_number_of_tasks_than_asked_for_warns():
    x = torch.zeros(3, 2, 1)
    tasks = TaskBatch(Examples(x, x), Examples(x, x))
    with pytest.warns(RuntimeWarning, match=r"sample\(25, generator\)` returned 3 tasks"):
        warn_of_other_count(tasks, 25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_count(tasks, 3)
