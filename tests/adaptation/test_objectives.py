"""Outer objectives: weights by hand."""

import pytest
import torch

from metarl.adaptation import Adaptation, GradientLearner
from metarl.adaptation.objectives import (
    EveryStepLoss,
    MultiStepLoss,
    Objective,
    QueryLoss,
    ReptileDistance,
)
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError, ShapeError


def test_the_last_step_counts_for_maml():
    assert QueryLoss().weights(7, 3) == [0, 0, 0, 1]
    assert QueryLoss().weights(0, 0) == [1]


def test_multi_step_weights_move_to_the_last_step():
    objective = MultiStepLoss(iterations=100)
    assert objective.weights(0, 4) == pytest.approx([0, 0.25, 0.25, 0.25, 0.25])
    assert objective.weights(50, 4) == pytest.approx([0, 0.125, 0.125, 0.125, 0.625])
    floor = 0.03 / 4
    assert objective.weights(99, 4) == pytest.approx([0, floor, floor, floor, 1 - 3 * floor])
    assert objective.weights(100, 4) == [0, 0, 0, 0, 1]


@pytest.mark.parametrize("iteration", [0, 13, 99, 100, 1000])
def test_multi_step_weights_sum_to_one(iteration):
    assert sum(MultiStepLoss(100).weights(iteration, 5)) == pytest.approx(1)


def test_every_step_counts_alike():
    assert EveryStepLoss().weights(0, 4) == [0, 0.25, 0.25, 0.25, 0.25]
    assert EveryStepLoss().weights(0, 0) == [1]


def test_reptiles_gradient_is_theta_minus_phi():
    theta = {"w": torch.tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)}
    phi = {"w": torch.tensor([[0.0, 1.0], [5.0, 4.0]], requires_grad=True)}
    distance = ReptileDistance().distance(theta, phi)
    assert distance.tolist() == [1.0, 2.0]
    distance.sum().backward()
    assert torch.equal(theta["w"].grad, (theta["w"] - phi["w"]).detach())
    assert phi["w"].grad is None


def test_annealing_needs_an_iteration():
    with pytest.raises(SettingsError, match="at least 1 iteration"):
        MultiStepLoss(0)


class Own(Objective):
    """Has given weights and a given distance."""

    def __init__(self, weights, distance=None):
        self._weights, self._distance = weights, distance

    def weights(self, iteration, steps):
        return self._weights

    def distance(self, start, adapted):
        return self._distance and self._distance(start, adapted)


def distance_of_all_tasks(start, adapted):
    return sum((adapted[n] - p).square().sum() for n, p in start.items())


def distance_of_each_task(start, adapted):
    return sum((adapted[n] - p).square().flatten(1).sum(1) for n, p in start.items())


def losses(objective, mlp, tasks, generator):
    learner = GradientLearner(Adaptation(mlp, GradientDescent(0.1), objective, steps=2))
    return learner(learner.collect(tasks, generator, 0)).losses


@pytest.mark.parametrize(
    ("objective", "error", "message"),
    [
        (
            Own([1.0]),
            SettingsError,
            r"each of 0\.\.2 steps, 3 finite numbers; it returned \[1\.0\]",
        ),
        (Own([0, 0, float("nan")]), SettingsError, "3 finite numbers"),
        (Own([0, 0, 0]), SettingsError, "all its weights are 0, and its `distance` is None"),
        (Own([0, 0, 1], distance_of_all_tasks), ShapeError, r"a loss per task, \[4\], got \[\]"),
    ],
)
def test_objectives_of_the_user_are_checked(objective, error, message, mlp, regression, generator):
    with pytest.raises(error, match=message):
        losses(objective, mlp, regression, generator)


def test_an_objective_of_the_user_adds_its_distance(mlp, regression, generator):
    plain = losses(Own(torch.tensor([0, 0, 1])), mlp, regression, generator)
    both = losses(Own([0, 0, 1], distance_of_each_task), mlp, regression, generator)
    alone = losses(Own([0, 0, 0], distance_of_each_task), mlp, regression, generator)
    torch.testing.assert_close(both, plain + alone)
    assert (alone > 0).all()


def test_parts_of_an_adaptation_are_instances(mlp):
    with pytest.raises(SettingsError, match=r"instance of Objective.*got the class QueryLoss"):
        Adaptation(mlp, GradientDescent(0.1), QueryLoss)
    with pytest.raises(SettingsError, match=r"instance of UpdateRule.*got the class SGD"):
        Adaptation(mlp, torch.optim.SGD, QueryLoss())
