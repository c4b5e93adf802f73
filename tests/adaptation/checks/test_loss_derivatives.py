"""Losses without a second derivative, or with a wrong one."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd.function import once_differentiable

from metarl.adaptation import MAML, GradientLearner, Reptile
from metarl.errors import SettingsError
from metarl.tasks import Examples, TaskBatch

TASKS, COUNT, CLASSES = 2, 6, 3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def losses_of(algorithm, targets, generator, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, CLASSES))
    learner = GradientLearner(algorithm(net, metric="loss", **options))
    inputs = torch.randn(TASKS, COUNT, 4, generator=generator)
    tasks = TaskBatch(Examples(inputs, targets), Examples(inputs, targets))
    return learner(learner.collect(tasks, generator, 0)).losses


def margin(outputs, labels):
    values = F.multi_margin_loss(outputs.flatten(0, 1), labels.flatten(), reduction="none")
    return values.view(labels.shape)


def connectionist(outputs, labels):
    def one(logits, label):
        lengths = torch.tensor([COUNT]), torch.tensor([2])
        return F.ctc_loss(logits.log_softmax(-1), label[:2] % 2 + 1, *lengths, reduction="sum")

    return torch.stack([one(*task) for task in zip(outputs, labels, strict=True)])


@pytest.mark.parametrize("loss", [margin, connectionist])
def test_a_loss_without_a_second_derivative_is_refused(loss, generator):
    labels = torch.randint(CLASSES, (TASKS, COUNT), generator=generator)
    with pytest.raises(SettingsError, match=r"`loss` has no second derivative.*not implemented"):
        losses_of(MAML, labels, generator, loss=loss)
    losses_of(MAML, labels, generator, loss=loss, first_order=True)
    losses_of(Reptile, labels, generator, loss=loss)
    losses_of(MAML, labels, generator, loss=lambda o, y: F.cross_entropy(
        o.mT, y, reduction="none"), outer_loss=loss)  # fmt: skip


class Square(torch.autograd.Function):
    """The squared error, with a right second derivative."""

    @staticmethod
    def forward(ctx, outputs, targets):
        ctx.save_for_backward(outputs, targets)
        return (outputs - targets).square()

    @staticmethod
    def backward(ctx, gradient):
        outputs, targets = ctx.saved_tensors
        return 2 * (outputs - targets) * gradient, None


class ByNumPy(Square):
    """As losses whose gradient is another library's."""

    @staticmethod
    def backward(ctx, gradient):
        outputs, targets = (t.detach().numpy() for t in ctx.saved_tensors)
        return torch.from_numpy(2 * (outputs - targets)) * gradient, None


class Once(Square):
    """Its backward pass has no gradient."""

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        outputs, targets = ctx.saved_tensors
        return 2 * (outputs - targets) * gradient, None


@pytest.mark.parametrize("function", [ByNumPy, Once])
def test_a_backward_pass_that_has_no_gradient_warns(function, generator):
    targets = torch.randn(TASKS, COUNT, CLASSES, generator=generator)
    with pytest.warns(RuntimeWarning, match=r"differs from finite differences.*share of 1\.0e\+00"):
        losses_of(MAML, targets, generator, loss=function.apply)


def test_right_and_stopped_derivatives_do_not_warn(generator):
    targets = torch.randn(TASKS, COUNT, CLASSES, generator=generator)

    def weighed(outputs, targets):
        errors = (outputs - targets).square()
        return errors.detach().exp() * errors

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses_of(MAML, targets, generator, loss=Square.apply)
        losses_of(MAML, targets, generator, loss=weighed)
        losses_of(MAML, targets, generator, loss=ByNumPy.apply, first_order=True)
