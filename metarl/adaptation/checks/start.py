"""What a gradient learner checks of the losses and the metric before it trains."""

from __future__ import annotations

from collections.abc import Collection
from typing import TypeVar

import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.checks.loss_weights import warn_of_other_weights
from metarl.adaptation.checks.losses import check_logits_of, check_loss
from metarl.adaptation.loss_function import LossFunction, Outputs
from metarl.adaptation.metric import Metric
from metarl.adaptation.network_call import NetworkCall
from metarl.errors import SettingsError
from metarl.models.base import task_params
from metarl.tasks.base import TaskBatch
from metarl.tasks.losses import TaskLoss
from metarl.trees import take_tasks

FEW = 2
"""Tasks that the checks take."""
LARGE = 100.0
"""Factor of the weights that moves logits away from 0..1."""

T = TypeVar("T")


def chosen(name: str, given: T | None, adapted: T | None) -> T | None:
    """Returns the argument of a learner, or else that of its adaptation.

    Raises:
        SettingsError: They differ.
    """
    if given is not None and adapted is not None and given is not adapted and given != adapted:
        raise SettingsError(
            f"Expected one `{name}`, got one from the learner's argument and another from the "
            "adaptation; give it once."
        )
    return adapted if given is None else given


def outer_loss_of(
    inner: LossFunction, outer: TaskLoss | None, adaptation: Adaptation
) -> LossFunction:
    """Returns the loss of the queries: `outer`, or else that of the support set.

    Raises:
        SettingsError: An outer loss is given, and the objective has no query loss; or a loss
            measures the distance to the start of an adaptation that is unrolled in pieces.
    """
    objective = adaptation.objective
    uses_queries = any(objective.weights(0, adaptation.steps))
    trains_rest = bool(adaptation.outer_names) and not objective.trains_frozen
    if outer is not None and not (uses_queries or trains_rest):
        raise SettingsError(
            f"`outer_loss` has no effect: the objective {type(objective).__name__} has no loss of "
            "queries. Leave it out, or use an algorithm such as MAML."
        )
    function = inner if outer is None else LossFunction(outer, "outer_loss")
    if adaptation.unroll is not None and "start" in (*inner.declared, *function.declared):
        raise SettingsError(
            "A loss that declares `start` needs the whole adaptation in one meta-iteration; "
            "set `unroll` to None."
        )
    return function


@torch.no_grad()
def check_start(
    network: NetworkCall,
    inner: LossFunction,
    outer: LossFunction | None,
    metric: Metric | None,
    tasks: TaskBatch,
    second_order: bool = False,
    adapting: Collection[str] = (),
) -> None:
    """Checks losses and metric on the first two tasks with the parameters theta.

    Args:
        network: The network.
        inner: The loss of the support set.
        outer: The loss of the queries; None leaves it out.
        metric: The metric; None leaves it out.
        tasks: Checked tasks.
        second_order: Whether the meta-gradient contains second derivatives of the inner loss.
        adapting: Names of the parameters that the inner loop adapts.

    Raises:
        ShapeError: A function does not suit outputs and targets.
        SettingsError: A function mixes tasks, or a loss has no gradient, or the inner loss no
            second derivative.
        NonFiniteError: A loss is not finite for finite outputs.
    """
    few = take_tasks(tasks, 0, FEW)
    theta = task_params(network.network, few.num_tasks)
    values = {"params": theta, "start": theta}
    outputs = network.examples(theta, few.support, None)
    check_loss(inner, outputs, few.support, values, second_order)
    warn_of_other_weights(inner, outputs, few.support, values, network.network, adapting)
    if outer is None or metric is None:
        return
    outputs = network.examples(theta, few.query, None)

    def scaled() -> Outputs:
        return network.examples({n: LARGE * p for n, p in theta.items()}, few.query, None)

    functions = {id(f.function): f for f in (metric.function, outer, inner)}
    for function in functions.values():
        check_logits_of(function, outputs, few.query.targets, scaled)
    check_loss(outer, outputs, few.query, values)
    if outer is not inner:
        warn_of_other_weights(outer, outputs, few.query, values, network.network)
    metric.check(outputs, few.query, few)
