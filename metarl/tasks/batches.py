"""Checks of the batches that learners receive: types of the tensors and ranges of the labels."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError, TaskError
from metarl.tasks.base import Examples, TaskBatch
from metarl.trees import map_tensors


def parameter_type(network: nn.Module) -> torch.dtype | None:
    """Returns the type of the first floating-point parameter; None without one."""
    return next((p.dtype for p in network.parameters() if p.is_floating_point()), None)


def checked_tasks(
    tasks: TaskBatch, dtype: torch.dtype | None, *, may_be_empty: bool = False
) -> TaskBatch:
    """Returns the tasks with checked support and query sets; see `checked_examples`.

    `may_be_empty` allows support sets of weight 0 throughout.

    Raises:
        ShapeError: In addition, if it is no `TaskBatch`, or the two sets are of different numbers
            of tasks, on different devices, or have different kinds of targets, or if `info` holds
            something else than tensors [T, ...].
    """
    if not isinstance(tasks, TaskBatch):
        raise ShapeError(
            f"Expected tasks as a TaskBatch(support, query), got a {type(tasks).__name__}. Its "
            "tensors hold all tasks: support = Examples(inputs, targets), [T, N, *] each."
        )
    support = checked_examples(tasks.support, dtype, may_be_empty=may_be_empty)
    query = support if tasks.query is tasks.support else checked_examples(tasks.query, dtype)
    a, b = support.inputs, query.inputs
    same_kind = support.targets.dtype == query.targets.dtype
    if a.shape[0] != b.shape[0] or a.device != b.device or not same_kind:
        raise ShapeError(
            "Expected support and query sets of the same tasks, on one device, with the same kind "
            f"of targets; got {_described(support)} and {_described(query)}."
        )
    for name, value in (tasks.info or {}).items():
        _check_info(name, value, a.shape[0])
    if support is tasks.support and query is tasks.query:
        return tasks
    return replace(tasks, support=support, query=query)


def warn_of_other_count(tasks: Any, asked: int) -> None:
    """Warns if a distribution returned another number of tasks than it was asked for."""
    count = getattr(tasks, "num_tasks", asked)
    if count != asked:
        warnings.warn(
            f"`sample({asked}, generator)` returned {count} tasks: all numbers are of {count} "
            "tasks a batch. The first dimension of every tensor is the task, the second the "
            "example, [T, N, *]. If the number of tasks is fixed, ask for as many "
            f"(`meta_batch_size={count}`, `eval_tasks={count}`).",
            RuntimeWarning,
            stacklevel=3,
        )


def checked_examples(
    examples: Examples, dtype: torch.dtype | None, *, may_be_empty: bool = False
) -> Examples:
    """Returns the examples with labels as int64; checks shapes and types without a device sync.

    Tensors of `torch.inference_mode`, such as the features of a fixed network, are copied: autograd
    cannot save them.

    Weights and masks are checked with one device sync each. The mask of a row of weight 0 gets a
    first real element, because attention over no element is not a number.

    Args:
        examples: Labels of any integer type or bool, or values of the parameters' type.
        dtype: Type of the learner's parameters, from `parameter_type`; None for any.
        may_be_empty: Whether a set may have no examples, or weights of 0 throughout.

    Raises:
        ShapeError: They are no `Examples`; a task has none, or not as many inputs as targets; a
            tensor has another floating-point type than the parameters, is complex, sparse or no
            tensor, requires gradients, or has another shape than `Examples` says.
        TaskError: A weight is negative or not finite, all weights of a task are 0, or a sequence
            has no real element.
    """
    if not isinstance(examples, Examples):
        raise ShapeError(
            "Expected support and query sets as Examples(inputs, targets), got a "
            f"{type(examples).__name__}."
        )
    _check_tensor("targets", examples.targets)
    check_inputs(examples.inputs, dtype)
    if any(t is not None and t.is_inference() for t in examples):
        examples = map_tensors(torch.clone, examples)
    inputs, targets, weights, mask = examples
    counts = inputs.shape[:2]
    empty = 0 in counts[:1] if may_be_empty else 0 in counts
    if counts != targets.shape[:2] or len(counts) < 2 or empty:
        raise ShapeError(
            "Expected inputs [T, N, *] and targets [T, N] or [T, N, *] of T tasks with N examples "
            f"each, at least 1 of both; got {tuple(inputs.shape)} and {tuple(targets.shape)}."
        )
    if inputs.device != targets.device:
        raise ShapeError(
            f"Expected inputs and targets on one device, got {inputs.device} and {targets.device}."
        )
    if weights is not None:
        _check_weights(weights, inputs, dtype, may_be_empty)
    if mask is not None:
        examples = examples._replace(mask=_checked_mask(mask, inputs, weights))
    if targets.dtype == torch.int64:
        return examples
    if targets.is_floating_point():
        _check_values("targets", targets, dtype)
        return examples
    if targets.is_complex():
        raise ShapeError(
            f"Expected labels or real targets, got {targets.dtype}; give their real and imaginary "
            "parts, torch.view_as_real(targets), also of the outputs."
        )
    return examples._replace(targets=targets.long())


def join_inputs(support: Tensor, query: Tensor) -> Tensor:
    """Returns the inputs of both sets, [T, N, *] and [T, M, *], as [T, N + M, *].

    Raises:
        ShapeError: Their tasks or examples have other shapes.
    """
    if support.shape[:1] != query.shape[:1] or support.shape[2:] != query.shape[2:]:
        raise ShapeError(
            "Expected support and query inputs of the same tasks, with examples of one shape, got "
            f"{tuple(support.shape)} and {tuple(query.shape)}."
        )
    return torch.cat((support, query), dim=1)


def check_inputs(inputs: Tensor, dtype: torch.dtype | None) -> None:
    """Checks the type of inputs; integers are left to the network.

    Raises:
        ShapeError: They have another floating-point type than `dtype`, are complex, sparse or no
            tensor, or require gradients.
    """
    _check_tensor("inputs", inputs)
    if inputs.is_floating_point():
        _check_values("inputs", inputs, dtype)
    elif inputs.is_complex():
        raise ShapeError(f"Expected real inputs, got {inputs.dtype}; pass both parts as numbers.")


def check_queries(inputs: Tensor, dtype: torch.dtype | None) -> None:
    """Checks the inputs of queries, [T, N, *input]; see `check_inputs`.

    Raises:
        ShapeError: In addition, if there is no query.
    """
    check_inputs(inputs, dtype)
    if inputs.dim() < 2 or 0 in inputs.shape[:2]:
        raise ShapeError(
            f"Expected the inputs of at least one query per task, [T, N, *input], got "
            f"{tuple(inputs.shape)}."
        )


def check_labels(bounds: tuple[int, int], classes: int) -> None:
    """Checks the range of labels.

    Args:
        bounds: The smallest and the largest label, from `label_range`.
        classes: Number of outputs of the network.

    Raises:
        TaskError: A label is below 0, or not below `classes`.
    """
    low, high = bounds
    if low < 0 or high >= classes:
        raise TaskError(
            f"Expected labels from 0 to {classes - 1} for {classes} outputs, got {low} to {high}. "
            "Number the classes of each task from 0 (no label marks an example as ignored: leave "
            "such examples out), and give the network an output per class."
        )


def label_range(*targets: Tensor) -> tuple[int, int]:
    """Returns the smallest and the largest label of all int64 tensors, with one device sync."""
    bounds = torch.stack([bound for labels in targets for bound in torch.aminmax(labels)]).tolist()
    return min(bounds), max(bounds)


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"Expected {name} as a tensor, got a {type(value).__name__}; `torch.as_tensor` makes "
            "one of arrays and lists."
        )
    if value.layout is not torch.strided or value.is_meta:
        what = "on the meta device" if value.is_meta else f"in the layout {value.layout}"
        raise ShapeError(f"Expected {name} as a dense tensor with data, got one {what}.")


def _check_info(name: str, value: Any, num_tasks: int) -> None:
    """Raises ShapeError unless a value of `TaskBatch.info` is a tensor [T, ...]."""
    if isinstance(value, Tensor) and value.shape[:1] == (num_tasks,):
        return
    if isinstance(value, Tensor):
        got = f"a tensor {list(value.shape)}"
    else:
        got = f"a {type(value).__name__}"
    raise ShapeError(
        f"Expected TaskBatch.info[{name!r}] as a tensor with the {num_tasks} tasks leading, got "
        f"{got}: batches are cut and joined along the tasks. Give numbers by `torch.as_tensor`, "
        "texts as their places in a list of yours, and what all tasks share to the distribution."
    )


def _described(examples: Examples) -> str:
    inputs, targets = examples.inputs, examples.targets
    return f"{tuple(inputs.shape)} on {inputs.device} with targets of {targets.dtype}"


def _check_weights(
    weights: Tensor, inputs: Tensor, dtype: torch.dtype | None, may_be_empty: bool
) -> None:
    if weights.shape != inputs.shape[:2]:
        raise ShapeError(
            f"Expected a weight per example, {list(inputs.shape[:2])}, got weights "
            f"{list(weights.shape)}."
        )
    if not weights.is_floating_point():
        raise ShapeError(
            f"Expected weights of the parameters' type {dtype}, got {weights.dtype}; convert them: "
            f"`weights.to({dtype})`."
        )
    _check_values("weights", weights, dtype)
    bad = ~weights.isfinite().all(1) | (weights < 0).any(1)
    if not may_be_empty:
        bad = bad | (weights.sum(1) == 0)
    if bad.any():
        task = int(bad.nonzero()[0])
        raise TaskError(
            f"Expected finite weights of at least 0, not all of them 0, in every task; task {task} "
            f"has weights from {float(weights[task].min())} to {float(weights[task].max())}. A "
            "task needs an example: leave tasks without any out."
        )


def _checked_mask(mask: Tensor, inputs: Tensor, weights: Tensor | None) -> Tensor:
    """Returns the mask with a real element in each row of weight 0."""
    if mask.dtype != torch.bool or mask.shape != inputs.shape[:3] or inputs.dim() < 3:
        raise ShapeError(
            f"Expected a bool mask [T, N, L] for inputs [T, N, L, ...], got {mask.dtype} "
            f"{list(mask.shape)} for inputs {list(inputs.shape)}."
        )
    if weights is not None:
        first = torch.arange(mask.shape[2], device=mask.device) == 0
        mask = mask | ((weights == 0).unsqueeze(2) & first)
    empty = (~mask.any(2)).nonzero()
    if len(empty):
        task, row = empty[0].tolist()
        raise TaskError(
            f"Expected a real element in every sequence; example {row} of task {task} has none. "
            "Leave it out, or give it the weight 0."
        )
    return mask


def _check_values(name: str, values: Tensor, dtype: torch.dtype | None) -> None:
    if values.requires_grad:
        raise ShapeError(
            f"Expected {name} without gradients, got a tensor that requires them: the outer loop "
            f"trains the parameters of the learner only. Pass `{name}.detach()`, or make what "
            "computes them a part of the network."
        )
    if values.dtype != dtype and dtype is not None:
        raise ShapeError(
            f"Expected {name} of the parameters' type {dtype}, got {values.dtype}; convert one of "
            f"them: `{name}.to({dtype})`, or the network by `network.to({values.dtype})`."
        )
