"""Checks of an embedding or a comparison of the user's, before training."""

from __future__ import annotations

import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor

from metarl.adaptation.checks.network import SHRINK, alike
from metarl.adaptation.learner import SupervisedLearner
from metarl.errors import SettingsError, ShapeError
from metarl.learners.images.embeddings import Embedding
from metarl.learners.metric.comparisons import Comparison
from metarl.trees import map_tensors, take_tasks

T = TypeVar("T")


@torch.no_grad()
def check_comparison(
    learner: SupervisedLearner, embedding: Embedding, comparison: Comparison, inputs: Any
) -> None:
    """Checks that tasks are kept apart; the embeddings and comparisons of MetaRL do so.

    Scores of a query that change with the other queries are warned of: they may be meant.

    Args:
        learner: The learner of both; its buffers stay as they are.
        embedding: Its embedding.
        comparison: Its comparison.
        inputs: The inputs of an iteration.

    Raises:
        ShapeError: There is not one loss per task.
        SettingsError: The loss of a task changes with the other tasks of the batch.
    """
    parts = (embedding, comparison)
    if all(type(part).__module__.startswith("metarl.") for part in parts):
        return
    names = " and ".join(type(part).__name__ for part in parts)
    before = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    first = take_tasks(inputs, 0, 1)
    both = map_tensors(lambda *tensors: torch.cat(tensors), first, _varied(first))
    alone, together = learner(first).losses, learner(both).losses
    if alone.shape != (1,) or together.shape != (2,):
        raise ShapeError(
            f"Expected {type(comparison).__name__}.loss to return a value per task, [T], "
            f"got {list(together.shape)} for 2 tasks. Reduce over the queries only, such as by "
            "losses.mean(1)."
        )
    if not alike(alone, together[:1]):
        raise SettingsError(
            f"{names} mix tasks: the loss of a task changed from {alone.item():.6g} to "
            f"{together[0].item():.6g} when another one was in the batch. Dimension 0 is the task: "
            "reduce over the other dimensions only, and normalise each task by itself, such as by "
            "`moments` (an ordinary module does so: Prototypical(net))."
        )
    _compare_queries(learner, first, names)
    for name, buffer in learner.named_buffers():
        buffer.copy_(before[name])


def _compare_queries(learner: SupervisedLearner, first: Any, names: str) -> None:
    """Warns if a query has other scores alone than next to others."""
    support, query = first.tasks.support, first.tasks.query
    reference = next(learner.adapt(support, 0, torch.Generator(support.inputs.device)))
    whole = learner.predict(reference, query.inputs, mask=query.mask)
    mask = None if query.mask is None else query.mask[:, :1]
    if not alike(whole[:, :1], learner.predict(reference, query.inputs[:, :1], mask=mask)):
        warnings.warn(
            f"{names} mix queries: in evaluation, the scores of a query changed with the others. "
            "Such results are transductive, and are not compared with those of one query by "
            "itself.",
            RuntimeWarning,
            stacklevel=3,
        )


def _varied(inputs: T) -> T:
    """Returns another task: its examples in another order, with smaller numbers."""

    def changed(tensor: Tensor) -> Tensor:
        flipped = tensor.flip(1) if tensor.dim() > 1 else tensor
        return flipped * SHRINK if tensor.is_floating_point() and tensor.dim() > 2 else flipped

    return map_tensors(changed, inputs)
