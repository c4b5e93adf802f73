"""What less usual modules do beyond the contract: statistics, types, attributes, refusals."""

import copy
from collections import UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from metarl.adaptation import MAML, GradientLearner, MAMLPlusPlus, MetaSGD, Reptile
from metarl.errors import SettingsError, ShapeError
from metarl.models import from_module, task_params
from metarl.models.modules.skeleton import attribute_values
from metarl.tasks import Examples, TaskBatch
from tests.models.modules.odd_nets import Buffers, OwnNorm, ScaledNorm
from tests.models.modules.test_unsuitable_modules import Returns, WrongDoubleBackward

TASKS = 3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(generator, count=4, size=3):
    return torch.randn(TASKS, count, size, generator=generator)


# Statistics


@pytest.mark.parametrize("norm", [ScaledNorm, OwnNorm, nn.SyncBatchNorm])
def test_adapted_statistics_of_derived_norms(norm, generator):
    net = nn.Sequential(nn.Linear(3, 4), norm(4), nn.Tanh(), nn.Linear(4, 2))
    learner = GradientLearner(MAML(net, inner_lr=0.1))
    x = draw(generator, 6)
    labels = torch.arange(6).remainder(2).repeat(TASKS, 1)
    *_, adapted = learner.adapt(Examples(x, labels), 2, generator)
    plain = copy.deepcopy(net)
    plain.load_state_dict(learner.adapted_state(adapted, task=1))
    hidden = plain[0](x[1])
    torch.testing.assert_close(plain[1].running_mean, hidden.mean(0))
    torch.testing.assert_close(plain[1].running_var, hidden.var(0, correction=0))
    assert net[1].num_batches_tracked == 0


def test_instance_norms_with_running_statistics(generator):
    net = nn.Sequential(nn.Unflatten(1, (1, 3)), nn.InstanceNorm1d(1, track_running_stats=True))
    net.append(nn.Flatten()).append(nn.Linear(3, 2))
    with pytest.raises(SettingsError, match="1 updates running statistics"):
        from_module(net).prepare(draw(generator))
    net[1].eval()
    from_module(net).prepare(draw(generator))


def test_a_layer_that_is_used_twice_loads_into_the_module(generator):
    layer = nn.Linear(3, 3)
    net = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(3, 2))
    learner = GradientLearner(MAML(net, inner_lr=0.5))
    support = Examples(draw(generator), torch.arange(4).remainder(2).repeat(TASKS, 1))
    *_, adapted = learner.adapt(support, 1, generator)
    state = learner.adapted_state(adapted, task=2)
    assert list(state) == list(net.state_dict())
    plain = copy.deepcopy(net)
    plain.load_state_dict(state)
    expected = learner.predict(adapted, support.inputs)[2]
    torch.testing.assert_close(plain(support.inputs[2]), expected)
    assert not torch.equal(plain[0].weight, layer.weight)


# Types


class ComplexWeights(nn.Module):
    """A complex parameter next to real ones."""

    def __init__(self):
        super().__init__()
        self.mixing = nn.Parameter(torch.randn(3, 4, dtype=torch.complex64))
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((x.to(self.mixing.dtype) @ self.mixing).abs())


def test_complex_weights_adapt(generator):
    torch.manual_seed(0)
    net = ComplexWeights()
    learner = GradientLearner(MAML(net, inner_lr=0.1))
    x, labels = draw(generator), torch.arange(4).remainder(2).repeat(TASKS, 1)
    *_, adapted = learner.adapt(Examples(x, labels), 1, generator)
    for t in range(TASKS):
        loss = F.cross_entropy(net(x[t]), labels[t])
        (grad,) = torch.autograd.grad(loss, [net.mixing])
        torch.testing.assert_close(adapted.params["mixing"][t], net.mixing - 0.1 * grad)


def test_complex_outputs_have_a_loss_of_the_user(generator):
    class Spectrum(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 4)

        def forward(self, x):
            return torch.fft.rfft(self.linear(x))

    def amplitudes(outputs, targets):
        return (outputs.abs() - targets).square()

    torch.manual_seed(0)
    net = Spectrum()
    learner = GradientLearner(MAML(net, inner_lr=0.1, loss=amplitudes, metric="loss"))
    x, y = draw(generator), torch.rand(TASKS, 4, 3, generator=generator)
    *_, adapted = learner.adapt(Examples(x, y), 1, generator)
    loss = amplitudes(net(x[1]), y[1]).mean()
    (grad,) = torch.autograd.grad(loss, [net.linear.weight])
    expected = net.linear.weight - 0.1 * grad
    torch.testing.assert_close(adapted.params["linear.weight"][1], expected)


def test_rules_for_real_numbers_refuse_complex_weights(generator):
    with pytest.raises(SettingsError, match=r"and mixing is complex\. Keep both parts"):
        MetaSGD(ComplexWeights(), generator)
    with pytest.raises(SettingsError, match="Adam adapts real parameters"):
        Reptile(ComplexWeights())
    MetaSGD(ComplexWeights(), generator, frozen=["mixing"])


@pytest.mark.parametrize(
    "make",
    [lambda net: MAML(net, max_inner_grad_norm=1e-3), lambda net: Reptile(net, frozen=["mixing"])],
)
def test_complex_weights_are_clipped_and_stay_as_they_are(make, generator):
    torch.manual_seed(0)
    learner = GradientLearner(make(ComplexWeights()))
    examples = Examples(draw(generator), torch.arange(4).remainder(2).repeat(TASKS, 1))
    loss = learner(learner.collect(TaskBatch(examples, examples), generator, 0)).losses
    assert loss.dtype == torch.float32
    loss.sum().backward()
    *_, adapted = learner.adapt(examples, 1, generator)
    theta = dict(learner.model.named_parameters())
    moves = [(adapted.params[n] - p).abs().square().flatten(1).sum(1) for n, p in theta.items()]
    if learner.adaptation.max_inner_grad_norm:  # the clipped norm times the rate
        torch.testing.assert_close(sum(moves).sqrt(), torch.full((TASKS,), 1e-3 * 0.01))


def test_parameters_of_integers_do_not_adapt(generator):
    for adaptation in (MetaSGD(Buffers(), generator), MAMLPlusPlus(Buffers())):
        learner = GradientLearner(adaptation)
        support = Examples(draw(generator), torch.arange(4).remainder(3).repeat(TASKS, 1))
        *_, adapted = learner.adapt(support, 2, generator)
        state = learner.adapted_state(adapted, task=0)
        assert state["order"].tolist() == [1, 0, 2]


def test_autocast_is_kept(generator):
    class Net(nn.Linear):
        def forward(self, input):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return super().forward(input).float()

    net = Net(3, 2, bias=False)
    model = from_module(net)
    x = draw(generator)
    outputs = model(task_params(model, TASKS), x)
    assert "autocast" in model.explain()
    torch.testing.assert_close(outputs[1], net(x[1]), rtol=0.02, atol=0.02)
    assert torch.equal(outputs, outputs.bfloat16().float())


# Attributes


class Bounded(nn.Module):
    """Calls functions of each number with further tensors, by position and by name."""

    def __init__(self):
        super().__init__()
        self.conv, self.linear = nn.Conv1d(1, 2, 2), nn.Linear(4, 3)
        self.low, self.share = nn.Parameter(torch.zeros(2, 1)), nn.Parameter(torch.zeros(3))

    def forward(self, x):
        hidden = self.conv(x.unsqueeze(1)).clamp(min=self.low).flatten(1)
        hidden = torch.clamp(self.linear(hidden), self.share - 0.1, self.share + 1)
        return torch.lerp(hidden, x, weight=self.share.sigmoid())


@pytest.mark.parametrize("count", [1, 3, 4])  # TASKS of them broadcast to a wrong shape
def test_further_tensors_of_functions_broadcast_per_task(count, generator):
    torch.manual_seed(0)
    model, x = from_module(Bounded()), draw(generator, count)
    outputs = model(task_params(model, TASKS), x)
    assert "all its layers have a form" in model.explain()
    for t in range(TASKS):
        torch.testing.assert_close(outputs[t], model.net(x[t]))
    more = draw(generator, 5)
    torch.testing.assert_close(model(task_params(model, TASKS), more)[0], model.net(more[0]))


class Units(nn.Module):
    """Standardises by numbers of NumPy, which are float64."""

    mean: torch.Tensor

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.register_buffer("mean", torch.tensor(0.3, dtype=torch.float64))
        self.scale = torch.tensor(2.0, dtype=torch.float64)

    def forward(self, x):
        return self.linear(torch.where(x > self.mean, (x - self.mean) / self.scale, self.mean))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tensors_without_dimensions_do_not_promote_types(dtype, generator):
    net = Units()
    net.linear.to(dtype)
    model, x = from_module(net), draw(generator).to(dtype)
    outputs = model(task_params(model, TASKS), x)
    assert outputs.dtype == dtype and "all its layers have a form" in model.explain()
    torch.testing.assert_close(outputs[0], net(x[0]))


class Squeezes(nn.Module):
    """Removes the dimension of a single example, too."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        return self.linear(x).squeeze()


def test_outputs_without_a_row_per_example_are_refused(generator):
    model = from_module(Squeezes())
    params = task_params(model, TASKS)
    assert model(params, draw(generator)).shape == (TASKS, 4)
    with pytest.raises(
        ShapeError, match=r"batch of N = 1 examples, got \(\); if it calls `squeeze"
    ):
        model(params, draw(generator, 1))


def test_outputs_of_a_class_of_the_user_are_refused():
    class Structured(nn.Linear):
        def forward(self, x):
            return UserDict(logits=super().forward(x))

    with pytest.raises(ShapeError, match=r"tensors, got UserDict\. Leave out"):
        from_module(Structured(3, 2)).prepare(torch.randn(TASKS, 4, 3))


@pytest.mark.parametrize("way", ["task-batched", "vmap"])
def test_batch_normalisation_of_one_value_is_refused(way, generator):
    model = from_module(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), way=way)
    params = task_params(model, TASKS)
    with pytest.raises(ShapeError, match="more than one value per channel"):
        model(params, draw(generator, 1))
    model.eval()
    model(params, draw(generator, 1))


def test_outputs_are_containers_of_python():
    class Outputs(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return {"logits": self.linear(x), "hidden": [x, (x, {"x": x})]}

    model = from_module(Outputs())
    outputs = model(task_params(model, TASKS), torch.randn(TASKS, 4, 3))
    assert "all its layers have a form" in model.explain()
    assert type(outputs) is dict and type(outputs["hidden"]) is list
    assert type(outputs["hidden"][1][1]) is dict


class Named(nn.Module):
    """Has layers and parameters with the names of the model's own attributes."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 3)
        self.way = nn.Linear(3, 2)
        self.init = nn.Parameter(torch.ones(3))
        self.check_derivatives = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.way(self.net(x) * self.init) + self.check_derivatives


def test_names_of_layers_do_not_matter(generator):
    net = Named()
    model = from_module(net)
    x = draw(generator)
    outputs = model(task_params(model, TASKS), x)
    torch.testing.assert_close(outputs[1], net(x[1]))
    assert isinstance(net.init, nn.Parameter) and isinstance(net.way, nn.Linear)


class Temperature(nn.Module):
    """Divides by a number that a user changes."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.temperature = 1.0

    def forward(self, x):
        return self.linear(x) / self.temperature


def test_a_number_that_changes_is_seen(generator):
    net = Temperature()
    learner = GradientLearner(MAML(net, inner_lr=0.1))
    x = draw(generator)
    support = Examples(x, torch.arange(4).remainder(2).repeat(TASKS, 1))
    first, *_ = learner.adapt(support, 0, generator)
    before = learner.predict(first, x)
    net.temperature = 2.0
    first, *_ = learner.adapt(support, 0, generator)
    torch.testing.assert_close(learner.predict(first, x), before / 2)


@dataclass
class Settings:
    """Options of a module."""

    scales: list[float]


@dataclass(slots=True)
class Slots:
    """Options without a dict."""

    scales: list[float]


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ([2.0, 3.0], lambda o: o.__setitem__(0, 5.0)),
        ({"a": 2.0, "b": [3.0]}, lambda o: o["b"].__setitem__(0, 5.0)),
        (np.array([2.0, 3.0]), lambda o: o.__setitem__(0, 5.0)),
        (Settings([2.0, 3.0]), lambda o: o.scales.append(5.0)),
        (Slots([2.0, 3.0]), lambda o: o.scales.append(5.0)),
        ({"a": torch.ones(2)}, lambda o: o["a"].mul_(4)),
    ],
)
def test_changes_inside_of_attributes_are_seen(options, change, generator):
    def total(value):
        value = value.scales if isinstance(value, Settings | Slots) else value
        value = [*value.values()] if isinstance(value, dict) else value
        return (
            sum(map(total, value))
            if isinstance(value, list)
            else float(value.sum() if hasattr(value, "sum") else value)
        )

    class Scaled(Temperature):
        def forward(self, x):
            return self.linear(x) * total(self.options)

    net = Scaled()
    net.options = options
    model, x = from_module(net), draw(generator)
    params = task_params(model, TASKS)
    model.prepare(x)
    kept = model._choices.copy()
    model.prepare(x)
    assert model._choices == kept
    before = model(params, x)
    change(options)
    model.prepare(x)
    assert (model(params, x) - before).abs().max() > 1e-3
    torch.testing.assert_close(model(params, x)[0], net(x[0]))


class Plain:
    """An object of a class of the user's, which may be called."""

    scale = 2.0

    def __call__(self, x):
        return self.scale * x


@pytest.mark.parametrize(
    "change",
    [
        lambda net: setattr(net, "function", torch.relu),
        lambda net: setattr(net.plain, "scale", 5.0),
        lambda net: net.linear.register_forward_hook(lambda layer, given, output: 2 * output),
        lambda net: net.register_forward_pre_hook(lambda layer, given: (2 * given[0],)),
    ],
)
def test_other_functions_objects_and_hooks_are_seen(change, generator):
    class Changing(Temperature):
        def __init__(self):
            super().__init__()
            self.function, self.plain = torch.tanh, Plain()

        def forward(self, x):
            return self.plain(self.function(self.linear(x)))

    net = Changing()
    model, x = from_module(net), draw(generator)
    params = task_params(model, TASKS)
    model.prepare(x)
    kept = model._choices.copy()
    model.prepare(x)
    assert model._choices == kept
    change(net)
    model.prepare(x)
    torch.testing.assert_close(model(params, x)[0], net(x[0]))


def test_layers_that_list_their_parameters_are_not_traced_again(generator):
    net = nn.Sequential(nn.GRU(3, 4, batch_first=True))
    values = attribute_values(net)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(1)
    assert attribute_values(net) == values


# What is checked and refused


class StopsAndSquares(nn.Module):
    """Detaches one part, and has a wrong second derivative in another by `vmap` alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        hidden = self.linear(x)
        return hidden + hidden.detach() * len(x)


def test_a_stopped_gradient_is_as_in_plain_torch(generator):
    model = from_module(StopsAndSquares())
    model.prepare(draw(generator))
    assert "by vmap" in model.explain()


def test_a_wrong_second_derivative_next_to_float32(generator):
    def change(y):
        return WrongDoubleBackward.apply(y.float().to(y.dtype)) if len(y) else y

    torch.manual_seed(0)

    with pytest.raises(SettingsError, match="second derivative of Returns is wrong"):
        from_module(Returns(change)).prepare(draw(generator))


def test_outputs_that_are_not_finite_are_compared_too(generator):
    model = from_module(Returns(torch.sqrt))
    model.prepare(draw(generator))
    assert "task-batched" in model.explain()


class Checkpointed(nn.Module):
    """Computes a layer again in the backward pass, the old way."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        hidden = checkpoint(lambda y: torch.tanh(self.first(y)), x, use_reentrant=True)
        return self.second(hidden)


class InPlaceWeight(nn.Module):
    """Normalises its weight in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.div_(self.linear.weight.norm())
        return self.linear(x)


class HoldsItself(nn.Module):
    """Has a function that holds the module, of which copies keep the original."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.functions = {"linear": lambda x: self.linear(x)}

    def forward(self, x):
        return self.functions["linear"](x)


class Own:
    """A class of outputs that torch does not know."""

    def __init__(self, logits):
        self.logits = logits


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize(
    ("net", "error", "match"),
    [
        (Checkpointed(), SettingsError, "second derivative of Checkpointed is wrong"),
        (InPlaceWeight(), SettingsError, r"InPlaceWeight changes linear\.weight"),
        (HoldsItself(), SettingsError, r"with linear\.weight, linear\.bias in another"),
        (Returns(Own), ShapeError, "classes of your own as a dict"),
        (Returns(lambda y: F.rrelu(y, training=True)), SettingsError, "it calls `rrelu`"),
    ],
)
def test_refused(net, error, match, generator):
    with pytest.raises(error, match=match):
        from_module(net).prepare(draw(generator))


def test_a_scripted_layer_is_named():
    with pytest.warns(DeprecationWarning, match="torch.jit"):
        layer = torch.jit.script(nn.Linear(3, 2))
    with pytest.raises(SettingsError, match="and 0 is a scripted"):
        from_module(nn.Sequential(layer))


def test_packed_sequences_are_refused(generator):
    class Packs(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.LSTM(3, 2, batch_first=True)

        def forward(self, x):
            x = x.unsqueeze(1).expand(-1, 2, -1)
            lengths = torch.full((x.shape[0],), 2)
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            return self.layer(packed)[1][0][-1]

    with pytest.raises(SettingsError, match="input of LSTM, got PackedSequence"):
        from_module(Packs()).prepare(draw(generator))


@pytest.mark.parametrize("mode", ["mean", "sum", "max"])
def test_functions_without_a_second_derivative_are_composed(mode, generator):
    class Bags(nn.Module):
        def __init__(self):
            super().__init__()
            self.bag = nn.EmbeddingBag(7, 4, mode=mode, padding_idx=0)
            self.centres = nn.Parameter(torch.randn(3, 4))

        def forward(self, x):
            return torch.cdist(self.bag(x), self.centres)

    torch.manual_seed(0)
    net = Bags().double()
    model = from_module(net)
    x = torch.randint(7, (TASKS, 4, 5), generator=generator)
    x[:, 0] = 0  # a bag of padding only
    torch.testing.assert_close(model(task_params(model, TASKS), x)[1], net(x[1]))
    assert "EmbeddingBag" in model.explain()  # and its second derivative was checked


class Gate(nn.Module):
    """A layer, a function and a layer."""

    def __init__(self, gate):
        super().__init__()
        self.layer, self.gate, self.head = nn.Linear(3, 8), gate, nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.gate(4 * self.layer(x)))


@pytest.mark.parametrize("way", ["task-batched", "vmap", "task by task"])
@pytest.mark.parametrize("gate", [nn.Hardsigmoid(inplace=True), F.hardsigmoid])
def test_hardsigmoid_has_a_second_derivative(gate, way, generator):
    x, labels = draw(generator).double(), torch.randint(3, (TASKS, 4), generator=generator)
    tasks = TaskBatch(Examples(x, labels), Examples(x.flip(1), labels.flip(1)))
    gradients = []
    for function, kind in ((gate, way), (lambda y: (y + 3).clamp(0, 6) / 6, "task by task")):
        torch.manual_seed(0)
        net = Gate(function).double()
        learner = GradientLearner(MAML(from_module(net, way=kind), inner_lr=0.5))
        losses = learner(learner.collect(tasks, generator, 0)).losses
        gradients.append(torch.autograd.grad(losses.sum(), list(net.parameters())))
    for found, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
