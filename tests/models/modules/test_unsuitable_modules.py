"""Modules that cannot run for many tasks, or would not train as their user expects."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from metarl.adaptation import MAML
from metarl.errors import SettingsError, ShapeError
from metarl.models import from_module
from metarl.models.base import task_params

TASKS = 3


@pytest.fixture(autouse=True)
def same_weights():
    """Initial weights do not depend on the tests that ran before."""
    torch.manual_seed(0)


class InPlace(nn.Module):
    """Changes its input, a buffer, or a parameter."""

    def __init__(self, what):
        super().__init__()
        self.what = what
        self.linear = nn.Linear(3, 2)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if self.what == "inputs":
            x.mul_(2)
        elif self.what == "buffer":
            self.count += x.mean()
        elif self.what == "assigned":
            self.count = self.count + 1
        return self.linear(x) + self.count


class Returns(nn.Module):
    """Returns a function of its layer's outputs."""

    def __init__(self, change):
        super().__init__()
        self.change = change
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        return self.change(self.linear(x))


class Remembers(nn.Module):
    """Keeps a state between calls."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return self.linear(x) * self.calls


@pytest.mark.parametrize(
    ("net", "error", "match"),
    [
        (InPlace("inputs"), SettingsError, "leaves its inputs as they are"),
        (InPlace("buffer"), SettingsError, "changes count"),
        (InPlace("assigned"), SettingsError, "changes count"),
        (Remembers(), SettingsError, "outputs depend on its inputs only"),
        (Returns(lambda y: y + torch.randn(2)), SettingsError, "it calls `randn`"),
        (Returns(lambda y: {"a": y, "b": 3}), ShapeError, "dict of int"),
        (Returns(lambda y: None), ShapeError, "got NoneType"),
        (Returns(lambda y: y.mean()), ShapeError, r"for a batch of N = 4 examples, got \(\)"),
        (Returns(lambda y: y.mT), ShapeError, r"got \(2, 4\)"),
        (Returns(lambda y: y.view(4, 2)), SettingsError, "runs on 4 and not on 3"),
        (nn.Linear(5, 2), SettingsError, r"Linear does not run on a batch of shape \(4, 3\)"),
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 2)), SettingsError, "spectral_norm"),
        (nn.Sequential(nn.Linear(3, 2), nn.RReLU()), SettingsError, "random numbers"),
    ],
)
def test_modules_that_cannot_run_for_many_tasks(net, error, match, generator):
    model = from_module(net)
    with pytest.raises(error, match=match):
        model.prepare(torch.randn(TASKS, 4, 3, generator=generator))


def test_parameters_without_values():
    with pytest.raises(SettingsError, match=r"the shape of 0.weight is not known yet"):
        from_module(nn.Sequential(nn.LazyLinear(3)))
    with pytest.raises(SettingsError, match='weight is on the device "meta"'):
        from_module(nn.Linear(3, 2, device="meta"))
    with pytest.raises(SettingsError, match="does not run with one argument"):
        from_module(nn.Bilinear(2, 2, 2))
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        traced = torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(SettingsError, match="Pass the module that it was made from"):
        from_module(traced)
    with pytest.raises(SettingsError, match=r"Pass `net\._orig_mod`"):
        from_module(torch.compile(nn.Linear(2, 2), backend="eager"))
    with pytest.raises(SettingsError, match=r"Pass `net\.module`"):
        from_module(nn.DataParallel(nn.Linear(2, 2)))
    with torch.inference_mode():
        made_inside = nn.Linear(2, 2)
    with pytest.raises(SettingsError, match=r"outside of `torch\.inference_mode\(\)`, and weight"):
        from_module(made_inside)
    with pytest.raises(SettingsError, match="dense gradients, and 0 has sparse ones"):
        from_module(nn.Sequential(nn.Embedding(7, 4, sparse=True)))
    with pytest.raises(SettingsError, match="with parameters to adapt, Flatten has none"):
        MAML(nn.Flatten())
    with pytest.raises(SettingsError, match=r"Expected a torch.nn.Module as network, got type"):
        MAML(nn.Linear)


class WrongDoubleBackward(torch.autograd.Function):
    """The square, whose second derivative is left out."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.square()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 2 * x.detach()


def squared(y):
    """The square; fx cannot trace the length, and would trace into the function."""
    return WrongDoubleBackward.apply(y) if len(y) else y


def test_a_wrong_second_derivative_is_found(generator):
    x = torch.randn(TASKS, 4, 3, generator=generator)
    with pytest.raises(SettingsError, match="second derivative of Returns is wrong"):
        from_module(Returns(squared)).prepare(x)
    model = from_module(Returns(squared), check_derivatives=False)
    model.prepare(x)
    assert "Returns" in model.explain()


def test_inputs_that_are_too_large_for_differences_are_named(generator):
    """The differences of a right module are rounding on some processors, here they are wrong."""
    x = torch.randn(2, 6, 3, generator=generator)
    for scale, advice in ((1.0, False), (1e18, True)):
        with pytest.raises(SettingsError, match="is wrong by a share") as caught:
            from_module(Returns(squared)).prepare(scale * x)
        assert ("standardise the inputs: they reach" in str(caught.value)) == advice


class Holds(nn.Linear):
    """A layer with something in an attribute."""

    def __init__(self, held):
        super().__init__(4, 3)
        self.held = held


@pytest.mark.parametrize(
    "held",
    [
        [nn.Linear(4, 4)],
        {"scales": [nn.Parameter(torch.ones(2))]},
        torch.ones(2, requires_grad=True),
    ],
)
def test_weights_that_no_loop_would_train_warn(held):
    net = nn.Sequential(Holds(held))
    with pytest.warns(RuntimeWarning, match=r"weights in 0\.held that are not .* nn\.ModuleList"):
        from_module(net)


def test_attributes_without_lost_weights_do_not_warn():
    layer = nn.Linear(4, 4)
    around = [1.0, torch.ones(2), nn.Linear(4, 4).requires_grad_(False), layer]
    around.append(around)  # pyright: ignore[reportArgumentType]
    recurrent = nn.utils.parametrizations.weight_norm(
        nn.GRU(4, 4, batch_first=True), "weight_hh_l0"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_module(nn.Sequential(layer, Holds(around)))
        from_module(recurrent)


def test_pruned_layers_are_named_and_permanent_masks_run(generator):
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    prune.l1_unstructured(net[0], "weight", 0.5)
    model = from_module(net)
    x = torch.randn(TASKS, 5, 3, generator=generator)
    with pytest.raises(SettingsError, match=r"without `torch.nn.utils.prune`.*`prune.remove\("):
        model(task_params(model, TASKS), x)
    prune.remove(net[0], "weight")
    model = from_module(net)
    torch.testing.assert_close(model(task_params(model, TASKS), x)[0], net(x[0]))


@pytest.mark.parametrize(
    ("net", "inputs", "advice"),
    [
        (nn.Linear(1, 1), torch.randn(10, 1), r"those of one task inputs\.unsqueeze\(0\)"),
        (
            nn.Conv2d(1, 4, 3),
            torch.zeros(2, 6, 1, 8, 8, dtype=torch.uint8),
            r"give inputs\.float\(\), of images divided by 255",
        ),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half()),
            torch.randn(2, 6, 2),
            r"Give all of its parameters the type of the inputs: \.to\(torch\.float32\)",
        ),
    ],
)
def test_inputs_that_do_not_suit_the_module(net, inputs, advice):
    with pytest.raises(SettingsError, match=f"does not run on a batch of shape .*{advice}"):
        from_module(net).prepare(inputs)
