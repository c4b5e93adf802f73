"""Update rules against hand computation and torch's own optimisers."""

import pytest
import torch

from metarl.adaptation.update_rules import (
    Adam,
    GradientDescent,
    PerParameterRates,
    PerStepRates,
)
from metarl.errors import SettingsError

SHAPES = {"layers.0.weight": (2, 3), "layers.0.bias": (2,)}


def zeros():
    return {n: torch.zeros(shape) for n, shape in SHAPES.items()}


@pytest.fixture
def batch(generator):
    """Parameters and gradients of four tasks."""
    params = {n: torch.randn(4, *shape, generator=generator) for n, shape in SHAPES.items()}
    grads = {n: torch.randn(4, *shape, generator=generator) for n, shape in SHAPES.items()}
    return params, grads


def run(rule, params, grads, steps):
    state = rule.init(params)
    for _ in range(steps):
        params, state = rule.update(grads, state, params, torch.zeros(4))
    return params, state


def test_gradient_descent(batch):
    params, grads = batch
    moved, _ = run(GradientDescent(0.1), params, grads, 1)
    for n, p in params.items():
        torch.testing.assert_close(moved[n], p - 0.1 * grads[n])


def test_rate_per_parameter(batch, generator):
    params, grads = batch
    rule = PerParameterRates(zeros(), generator, 0.005, 0.1)
    moved, _ = run(rule, params, grads, 1)
    rates = (params["layers.0.weight"] - moved["layers.0.weight"]) / grads["layers.0.weight"]
    assert rates.min() >= 0.005 and rates.max() <= 0.1
    assert rates.std(dim=0).max() < 1e-9, "tasks share the rates"
    assert rates[0].unique().numel() == 6, "each parameter has its own"


@pytest.mark.parametrize("name", ["keys", "values", "type", "training", "_keys"])
def test_parameters_with_names_of_attributes_have_rates(name, generator):
    params = {name: torch.ones(4, 2)}
    for rule in (
        PerParameterRates({name: torch.zeros(2)}, generator, 0.1, 0.1),
        PerStepRates({name: torch.zeros(2)}, 0.1, 2),
    ):
        moved, _ = run(rule, params, params, 1)
        torch.testing.assert_close(moved[name].detach(), torch.full((4, 2), 0.9))


def test_rate_per_step_and_the_last_one_beyond(batch):
    params, grads = batch
    rule = PerStepRates(zeros(), 0.1, 2)
    with torch.no_grad():
        rule.rates["layers/0/weight"][1] = 0.3
    moved, state = run(rule, params, grads, 4)
    n = "layers.0.weight"
    torch.testing.assert_close(moved[n], params[n] - (0.1 + 3 * 0.3) * grads[n])
    n = "layers.0.bias"
    torch.testing.assert_close(moved[n], params[n] - 4 * 0.1 * grads[n])
    assert state["step"] == 4


def test_later_steps_may_start_with_another_rate(batch):
    params, grads = batch
    rule = PerStepRates(zeros(), 0.1, 3, later=0.5)
    for moved, total in ((run(rule, params, grads, k)[0], 0.1 * (k + 1) / 2) for k in (1, 3, 4)):
        for n in params:
            torch.testing.assert_close(moved[n], params[n] - total * grads[n])
    with pytest.raises(SettingsError, match="later_rates"):
        PerStepRates(zeros(), 0.1, 3, later=0.0)


def test_adam_equals_torch_adam_without_momentum(batch):
    # torch adds epsilon after the bias correction, the rule before it, as Reptile's code does.
    params, grads = batch
    moved, _ = run(Adam(zeros(), 0.01, epsilon=0.0), params, grads, 3)
    for t in range(4):
        ours = {n: p[t].clone().requires_grad_() for n, p in params.items()}
        optimizer = torch.optim.Adam(ours.values(), 0.01, betas=(0.0, 0.999), eps=0.0)
        for _ in range(3):
            for n, p in ours.items():
                p.grad = grads[n][t]
            optimizer.step()
        for n, p in ours.items():
            torch.testing.assert_close(moved[n][t], p.detach())


def test_adam_carries_the_mean_moments_across_tasks(batch):
    params, grads = batch
    rule = Adam(zeros(), 0.01)
    _, state = run(rule, params, grads, 3)
    rule.carry(state)
    later = rule.init(params)
    n = "layers.0.weight"
    expected = (1 - 0.999**3) * grads[n].square().mean(0)
    torch.testing.assert_close(later["moments"][n], expected.expand(4, 2, 3))
    assert later["count"].tolist() == [3.0] * 4
    assert "count" in rule.state_dict() and len(rule.state_dict()) == 3, "the moments are saved"


@pytest.mark.parametrize(
    "make",
    [
        lambda: GradientDescent(0.0),
        lambda: GradientDescent(float("nan")),
        lambda: GradientDescent(float("inf")),
        lambda: PerParameterRates(zeros(), torch.Generator(), 0.1, 0.01),
        lambda: PerParameterRates(zeros(), torch.Generator(), 0.1, float("inf")),
        lambda: PerStepRates(zeros(), 0.1, 0),
        lambda: Adam(zeros(), -1.0),
    ],
)
def test_bad_rates_are_refused(make):
    with pytest.raises(SettingsError, match="Expected"):
        make()


def test_a_parameter_that_is_added_later_is_named(batch, generator):
    params, grads = batch
    more = {**params, "extra.scale": torch.zeros(4, 1)}
    rules = PerParameterRates(zeros(), generator), PerStepRates(zeros(), 0.1, 2), Adam(zeros(), 0.1)
    for rule in rules:
        with pytest.raises(SettingsError, match=r"got extra\.scale in addition, .* `frozen`"):
            run(rule, more, grads, 1)
        fewer = {"layers.0.bias": params["layers.0.bias"]}
        moved, _ = run(rule, fewer, grads, 1)
        assert moved.keys() == fewer.keys()
