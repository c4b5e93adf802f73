import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from metarl.errors import SettingsError, ShapeError
from metarl.models import MLP, task_params

TASKS, EXAMPLES = 3, 5
SIZES = (2, 7, 6, 4)


@pytest.fixture(params=["relu", "tanh"])
def model(request, generator):
    return MLP(SIZES, generator, activation=request.param)


@pytest.fixture
def params(model, generator):
    """Weights and biases of every task's own."""
    return {
        n: torch.randn(TASKS, *p.shape, generator=generator) for n, p in model.named_parameters()
    }


@pytest.fixture
def inputs(generator):
    return torch.randn(TASKS, EXAMPLES, 2, generator=generator)


def by_torch(model, params, inputs):
    """The network of one task, from torch's layers."""
    activate = {"relu": F.relu, "tanh": F.tanh}[model.activation]
    hidden = inputs
    for i in range(3):
        hidden = F.linear(hidden, params[f"layers.{i}.weight"], params[f"layers.{i}.bias"])
        hidden = activate(hidden) if i < 2 else hidden
    return hidden


def test_names_and_layouts_are_those_of_torchs_linear(model):
    net = torch.nn.Module()
    net.layers = torch.nn.ModuleList(torch.nn.Linear(m, n) for m, n in itertools.pairwise(SIZES))
    net.load_state_dict(model.state_dict())
    shapes = {n: p.shape for n, p in model.named_parameters()}
    assert {n: p.shape for n, p in net.named_parameters()} == shapes


def test_each_task_runs_its_own_network(model, params, inputs):
    outputs = model(params, inputs)
    assert outputs.shape == (TASKS, EXAMPLES, 4)
    for t in range(TASKS):
        expected = by_torch(model, {n: p[t] for n, p in params.items()}, inputs[t])
        torch.testing.assert_close(outputs[t], expected, rtol=1e-5, atol=1e-5)


def test_shared_parameters_give_the_network_of_theta(model, inputs):
    theta = dict(model.named_parameters())
    expected = torch.stack([by_torch(model, theta, x) for x in inputs])
    torch.testing.assert_close(model(task_params(model, TASKS), inputs), expected)


def test_tasks_do_not_mix(model, params, inputs):
    together = model(params, inputs)
    for t in range(TASKS):
        alone = model({n: p[t : t + 1] for n, p in params.items()}, inputs[t : t + 1])
        torch.testing.assert_close(together[t : t + 1], alone)


def test_inputs_of_any_shape_are_flattened(generator):
    model = MLP((12, 3), generator)
    images = torch.randn(2, EXAMPLES, 3, 2, 2, generator=generator)
    params = task_params(model, 2)
    assert torch.equal(model(params, images), model(params, images.flatten(2)))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 5, 3), r"of 2 numbers each, got \(1, 5, 3\); set the first of `sizes` to 3"),
        ((1, 5, 2, 2), r"got \(1, 5, 2, 2\); set the first of `sizes` to 4"),
        ((1, 5), r"\[T, N, \*\] of 2 numbers each, got \(1, 5\); add a dimension for the examples"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_with_a_remedy(model, shape, message):
    with pytest.raises(ShapeError, match=message):
        model(task_params(model, 1), torch.zeros(shape))


@pytest.mark.parametrize(
    ("tasks", "dtype", "message"),
    [
        (3, torch.float32, r"as many tasks, got 3 tasks in layers\.0\.weight and 4 in inputs"),
        (1, torch.float32, "got 1 tasks"),
        (4, torch.float64, r"type torch\.float32, got torch\.float64.*inputs\.float\(\)"),
    ],
)
def test_parameters_that_do_not_fit_the_inputs_are_refused(model, tasks, dtype, message):
    with pytest.raises(ShapeError, match=message):
        model(task_params(model, tasks), torch.zeros(4, 5, 2, dtype=dtype))


def weights_and_biases(model):
    named = dict(model.named_parameters())
    ends = ("weight", "bias")
    return tuple([p.detach() for n, p in named.items() if n.endswith(end)] for end in ends)


def test_lecun_weights_have_a_variance_of_one_over_the_inputs(generator):
    weights, biases = weights_and_biases(MLP((50, 400, 100), generator))
    for weight, fan_in in zip(weights, (50, 400), strict=True):
        assert weight.mean().abs() < 4 * (fan_in * weight.numel()) ** -0.5
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.03)
        assert weight.abs().max() > 3 * fan_in**-0.5  # normal, not cut
    assert all((b == 0).all() for b in biases)


def test_truncated_weights_stay_within_two_deviations(generator):
    weights, biases = weights_and_biases(MLP((1, 400, 100), generator, init="truncated"))
    for weight in weights:
        assert 0.0199 < weight.abs().max() <= 0.02 or weight.numel() < 1000
        # A normal law cut at two deviations has 0.880 of its deviation.
        assert weight.std().item() == pytest.approx(0.00880, rel=0.1)
    assert all((b == 0).all() for b in biases)


@pytest.mark.parametrize("init", ["lecun", "truncated"])
def test_the_same_generator_state_gives_the_same_weights(init):
    first, same, other = (
        MLP(SIZES, torch.Generator().manual_seed(seed), init=init).state_dict()
        for seed in (1, 1, 2)
    )
    assert all(torch.equal(v, same[n]) for n, v in first.items())
    assert not any(torch.equal(v, other[n]) for n, v in first.items() if n.endswith("weight"))


@pytest.mark.parametrize("init", ["lecun", "truncated"])
def test_initial_draws_what_the_constructor_draws(init):
    model = MLP(SIZES, torch.Generator().manual_seed(1), init=init)
    drawn = model.initial(torch.Generator().manual_seed(1))
    assert list(drawn) == [n for n, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        assert torch.equal(drawn[name], parameter)
    assert not any(p.requires_grad for p in drawn.values())


def test_construction_leaves_the_global_generator_alone(generator):
    state = torch.get_rng_state()
    MLP(SIZES, generator, init="truncated").initial(generator)
    assert torch.equal(torch.get_rng_state(), state)


def test_task_params_are_views_that_share_their_weights(model):
    params = task_params(model, TASKS)
    assert list(params) == [n for n, _ in model.named_parameters()]
    for name, parameter in model.named_parameters():
        assert params[name].shape == (TASKS, *parameter.shape)
        assert params[name].stride(0) == 0
        assert params[name].data_ptr() == parameter.data_ptr()


def test_gradients_of_all_tasks_add_up_in_theta(model, inputs):
    model(task_params(model, TASKS), inputs).square().sum().backward()
    expected = [torch.zeros_like(p) for p in model.parameters()]
    for t in range(TASKS):
        loss = model(task_params(model, 1), inputs[t : t + 1]).square().sum()
        for total, g in zip(
            expected, torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            total += g
    for parameter, total in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0
        torch.testing.assert_close(parameter.grad, total, rtol=1e-4, atol=1e-5)


def test_task_params_see_what_functional_call_puts_in(model, inputs):
    class Learner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(task_params(self.model, TASKS), x)

    values = {f"model.{n}": torch.zeros_like(p) for n, p in model.named_parameters()}
    assert functional_call(Learner(), values, (inputs,)).abs().max() == 0
    assert Learner()(inputs).abs().max() > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": (3,)}, r"at least two sizes, got \(3,\)"),
        ({"sizes": (3, 0, 1)}, r"`sizes\[1\]` of at least 1, got 0"),
        ({"sizes": (3, 4.0, 1)}, r"an integer `sizes\[1\]` of at least 1, got 4\.0"),
        ({"sizes": 16}, r"the widths of layers, such as \(64, 64\), got 16"),
        ({"activation": "reul"}, "'reul'. Did you mean 'relu'.*relu, tanh"),
        ({"init": "truncate"}, "'truncate'. Did you mean 'truncated'.*lecun, truncated"),
    ],
)
def test_bad_settings(generator, settings, message):
    with pytest.raises(SettingsError, match=message):
        MLP(**({"sizes": SIZES, "generator": generator} | settings))


@pytest.mark.gpu
def test_weights_and_biases_are_on_the_generators_device():
    model = MLP(SIZES, torch.Generator("cuda"))
    assert {p.device.type for p in model.parameters()} == {"cuda"}


@pytest.mark.parametrize("init", ["lecun", "truncated"])
def test_initial_draws_other_parameters_for_every_task(init):
    model = MLP((50, 40, 60), torch.Generator().manual_seed(1), init=init, output_scale=0.5)
    drawn = model.initial(torch.Generator().manual_seed(2), num_tasks=3)
    assert {n: p.shape for n, p in drawn.items()} == {
        n: (3, *p.shape) for n, p in model.named_parameters()
    }
    for name, parameter in model.named_parameters():
        if name.endswith("weight"):
            assert (drawn[name][0] != drawn[name][1]).all()
            for own in drawn[name]:
                assert own.std().item() == pytest.approx(parameter.std().item(), rel=0.1)
