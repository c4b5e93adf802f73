"""Outer objectives: weights by hand."""

import pytest
import torch

from metarl.adaptation.objectives import EveryStepLoss, MultiStepLoss, QueryLoss, ReptileDistance
from metarl.errors import SettingsError


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
