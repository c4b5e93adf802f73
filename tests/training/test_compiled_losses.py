"""Captured meta-gradients with losses and metrics of the user, and with weights."""

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, Adaptation, GradientLearner
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.learners.metric.algorithms import (
    MatchingAlgorithm,
    ReconstructionAlgorithm,
    RelationAlgorithm,
)
from metarl.models import MLP
from metarl.tasks import Examples, Glyphs, TaskBatch
from metarl.training.compilation import CompiledGradient
from tests.image_problems import image_problem


def as_it_is(graph, tensors):
    """Runs the captured operations, without the compiler."""
    return graph


def proximal(outputs, targets, *, weights, params, start):
    distance = sum((p - start[n]).square().flatten(1).sum(1) for n, p in params.items())
    losses = (outputs - targets).square().mean(2)
    return (weights * losses).sum(1) / weights.sum(1) + distance


def tasks_of(seed):
    generator = torch.Generator().manual_seed(seed)
    x, z = torch.randn(2, 3, 6, 2, generator=generator)
    weights = (torch.rand(2, 3, 6, generator=generator) > 0.4).float()
    weights[..., :2] = 1
    support = Examples(x, x.sin()[..., :1], weights[0])
    return TaskBatch(support, Examples(z, z.sin()[..., :1], weights[1]))


@pytest.mark.parametrize(
    ("loss", "metric", "batch_size"),
    [(proximal, "r2", None), (nn.L1Loss(reduction="none"), "loss", 3), (None, "mae", None)],
)
def test_it_is_the_gradient_of_eager_mode(loss, metric, batch_size):
    generator = torch.Generator().manual_seed(0)
    network = MLP((2, 8, 1), generator)
    learner = GradientLearner(
        Adaptation(network, GradientDescent(0.1), QueryLoss(), 2, batch_size=batch_size),
        loss=loss, metric=metric,
    )  # fmt: skip
    params = list(learner.parameters())
    compiled = CompiledGradient(learner, params, as_it_is)
    for seed in (1, 2):  # captured for the first tasks, run on the second
        inputs = learner.collect(tasks_of(seed), generator, 0)
        grads, result = compiled(inputs, 3)
        eager = learner(inputs)
        torch.testing.assert_close(result.losses, eager.losses)
        expected = torch.autograd.grad(eager.losses.mean(), params)
        for a, b in zip(grads, expected, strict=True):
            torch.testing.assert_close(a, b)
        for tag, value in eager.metrics.items():
            torch.testing.assert_close(result.metrics[tag], value)


@pytest.mark.parametrize(
    "algorithm",
    [MatchingAlgorithm(), RelationAlgorithm(), ReconstructionAlgorithm()],
    ids=["matching", "relation", "reconstruction"],
)
def test_weights_of_a_metric_learner_are_inputs_of_the_graph(algorithm):
    generator = torch.Generator().manual_seed(0)
    learner = algorithm.build(image_problem(generator, filters=2))
    params = [p for p in learner.parameters() if p.requires_grad]
    compiled = CompiledGradient(learner, params, as_it_is)
    for seed in (1, 2):
        tasks = Glyphs(3, 3, 2, alphabets=4, characters=4, drawings=6).sample(2, generator)
        weights = torch.ones(2, 9)
        weights[0, seed] = weights[1, [4, 7 - seed]] = 0.0  # another place and number
        tasks = TaskBatch(tasks.support._replace(weights=weights), tasks.query, tasks.info)
        inputs = learner.collect(tasks, generator, 0)
        _, result = compiled(inputs, 2)
        torch.testing.assert_close(result.losses, learner(inputs).losses)


def test_a_loss_that_reads_values_in_python_is_refused():
    generator = torch.Generator().manual_seed(0)

    def loss(outputs, targets):
        error = (outputs - targets).square()
        return error if error.max() < 100 else error.clamp(max=100)

    learner = GradientLearner(MAML(MLP((2, 8, 1), generator), loss=loss))
    tasks = tasks_of(0)
    compiled = CompiledGradient(learner, list(learner.parameters()), as_it_is)
    inputs = learner.collect(tasks, generator, 0)
    with pytest.raises(SettingsError, match=r"reads the value of a tensor in Python.*torch\.where"):
        compiled(inputs, 3)
