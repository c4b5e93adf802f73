"""The meta-step: chunks, compilation, clipping, schedules, losses that are not finite."""

import math

import pytest
import torch
from torch import nn

from metarl.adaptation import GradientLearner
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.models.conv4 import Conv4
from metarl.tasks import Examples, Sine, TaskBatch
from metarl.training import TrainingSettings, compilation
from metarl.training.compilation import CompiledGradient
from metarl.training.meta_gradient import MetaGradient
from metarl.training.meta_step import MetaStep
from metarl.training.rates import outer_rate
from metarl.trees import map_tensors
from tests.gradient_learners import MAML, LearnedOptimizer, MAMLPlusPlus, Reptile


def mlp():
    return MLP((1, 8, 8, 1), torch.Generator().manual_seed(0), activation="tanh")


def sine_inputs(learner, num_tasks=7, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    tasks = Sine(5, 5).sample(num_tasks, generator)
    tasks = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, tasks)
    inputs = learner.collect(tasks, generator, 0)
    return map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, inputs)


def values(learner):
    return [p.detach().clone() for p in learner.parameters()]


def gradients(learner, inputs, **settings):
    result = MetaStep(learner, TrainingSettings(**settings))(inputs, 0)
    return [p.grad for p in learner.parameters()], result


def uncompiled(graph, tensors):
    """Runs the captured operations as they are: what is compiled, without the compiler."""
    del tensors
    return graph


@pytest.mark.parametrize("size", [1, 3, 4, 7, 100])
def test_chunks_do_not_change_the_gradient(size):
    whole, chunked = MAML(mlp().double(), 0.1, 2), MAML(mlp().double(), 0.1, 2)
    inputs = sine_inputs(whole, dtype=torch.float64)
    expected, result = gradients(whole, inputs)
    got, parts = gradients(chunked, inputs, task_chunk_size=size)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(result.losses, parts.losses)
    for tag, metric in result.metrics.items():
        torch.testing.assert_close(metric, parts.metrics[tag])


@pytest.mark.parametrize(
    ("named", "suited", "workers", "sizes"),
    [(None, None, 1, [7]), (None, 3, 1, [3, 3, 1]), (2, 3, 1, [2, 2, 2, 1]),
     (None, None, 2, [4, 3]), (None, 3, 2, [2, 2, 2, 1]), (None, 6, 3, [3, 3, 1])],
)  # fmt: skip
def test_chunks_are_those_named_or_suit_the_learner_and_the_workers(
    named, suited, workers, sizes, monkeypatch
):
    learner = MAML(mlp(), 0.1, 1)
    monkeypatch.setattr(learner, "preferred_chunk_size", lambda inputs: suited)
    seen = []
    learner.register_forward_pre_hook(lambda _, given: seen.append(given[0].tasks.num_tasks))
    gradients(learner, sine_inputs(learner), task_chunk_size=named, workers=workers)
    assert sorted(seen, reverse=True) == sizes


@pytest.mark.parametrize(("suited", "size"), [(3, None), (7, 7)])
def test_compiled_chunks_are_all_of_one_size(suited, size, monkeypatch):
    learner = MAML(mlp(), 0.1, 1)
    monkeypatch.setattr(learner, "preferred_chunk_size", lambda inputs: suited)
    gradient = MetaGradient(learner, TrainingSettings(compile=True))
    assert gradient.chunk_size(sine_inputs(learner)) == size


def test_chunks_carry_the_inner_optimizers_state():
    whole, chunked = Reptile(mlp(), 0.01, 3), Reptile(mlp(), 0.01, 3)
    inputs = sine_inputs(whole)
    for learner, size in ((whole, None), (chunked, 3)):
        _, result = gradients(learner, inputs, task_chunk_size=size, optimizer="sgd")
        learner.after_update(result.carry)
    for a, b in zip(whole.buffers(), chunked.buffers(), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("first_order", [False, True])
def test_the_captured_gradient_is_that_of_autograd(first_order):
    learner = MAML(mlp().double(), 0.1, 3, first_order=first_order)
    inputs = sine_inputs(learner, dtype=torch.float64)
    expected, result = gradients(learner, inputs)
    captured = MAML(mlp().double(), 0.1, 3, first_order=first_order)
    gradient = CompiledGradient(captured, list(captured.parameters()), uncompiled)
    got, loss = gradient(inputs, inputs.tasks.num_tasks)
    for a, b in zip(expected, got, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.losses, result.losses)
    assert list(loss.metrics) == list(result.metrics)


def test_the_captured_gradient_of_conv4():
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 12, 1, 16, 16, generator=generator).double()
    labels = torch.arange(3).repeat(2, 2)
    tasks = TaskBatch(Examples(images[:, :6], labels), Examples(images[:, 6:], labels))
    learner = MAML(Conv4(3, generator, filters=3, image_size=16), 0.1, 2).double()
    inputs = learner.collect(tasks, generator, 0)
    gradient = CompiledGradient(learner, list(learner.parameters()), uncompiled)
    got, _ = gradient(inputs, 2)
    (learner(inputs).losses.sum() / 2).backward()
    for p, g in zip(learner.parameters(), got, strict=True):
        torch.testing.assert_close(p.grad, g, rtol=1e-9, atol=1e-12)


def test_the_captured_gradient_sees_changed_parameters_buffers_and_tasks():
    learner = Reptile(mlp(), 0.01, 3)
    inputs = sine_inputs(learner)
    gradient = CompiledGradient(learner, list(learner.model.parameters()), uncompiled)
    for _ in range(3):
        learner.zero_grad()
        (learner(inputs).losses.sum() / 7).backward()
        got, loss = gradient(inputs, 7)
        for p, g in zip(learner.model.parameters(), got, strict=True):
            torch.testing.assert_close(p.grad, g)
            assert g is not None
            p.data -= 0.1 * g
        learner.after_update(loss.carry)
        inputs = sine_inputs(learner)
    assert len(gradient._gradient._compiled) == 1, "captured once"


def test_rates_that_are_not_learned_stay_and_give_the_gradient_of_maml(generator):
    learner = MAMLPlusPlus(mlp(), 0.1, 2, learned_rates=False)
    inputs = sine_inputs(learner)
    expected, _ = gradients(MAML(mlp(), 0.1, 2), inputs)
    rates = values(learner.rule)
    MetaStep(learner, TrainingSettings(outer_lr=0.1))(inputs, 0)
    for p, grad in zip(learner.model.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)
    for before, rate in zip(rates, learner.rule.parameters(), strict=True):
        assert rate.grad is None and torch.equal(before, rate)


def test_it_is_captured_again_where_other_steps_are_judged(generator):
    learner = MAMLPlusPlus(mlp(), 0.1, 2, multi_step_iterations=2)
    tasks = Sine(5, 5).sample(4, generator)
    gradient = CompiledGradient(learner, list(learner.parameters()), uncompiled)
    for iteration in range(3):
        inputs = learner.collect(tasks, generator, iteration)
        _, loss = gradient(inputs, 4)
        torch.testing.assert_close(loss.losses, learner(inputs).losses.detach())
    assert len(gradient._gradient._compiled) == 2


def test_chunks_beside_each_other_are_captured_once(monkeypatch):
    monkeypatch.setattr(compilation, "_inductor", uncompiled)
    results = []
    for settings in ({}, {"compile": True, "task_chunk_size": 2, "workers": 3}):
        learner = MAML(mlp(), 0.1, 2)
        got, _ = gradients(learner, sine_inputs(learner, num_tasks=8), **settings)
        results.append(got)
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("steps", [1, 3])
def test_compiled_training_follows_the_uncompiled_one(steps):
    runs = []
    for compiled in (False, True):
        learner = MAML(mlp(), 0.1, steps)
        step = MetaStep(learner, TrainingSettings(compile=compiled, task_chunk_size=3))
        for iteration in range(5):
            result = step(sine_inputs(learner), iteration)
        runs.append([*values(learner), result.losses])
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("error", "match"),
    [
        (RuntimeError("InvalidCxxCompiler: No working C++ compiler found"), r"install g\+\+"),
        (AssertionError("strides"), r"AssertionError: 'strides'. Train without `compile`"),
    ],
)
def test_what_cannot_be_compiled_is_named(error, match, monkeypatch):
    def backend(graph, tensors):
        raise error

    monkeypatch.setattr(compilation, "_inductor", backend)
    learner = MAML(mlp())
    step = MetaStep(learner, TrainingSettings(compile=True))
    with pytest.raises(SettingsError, match=match):
        step(sine_inputs(learner), 0)


def test_clipping_scales_the_gradient_to_the_norm():
    free, clipped = MAML(mlp()), MAML(mlp())
    inputs = sine_inputs(free)
    expected, result = gradients(free, inputs)
    norm = torch.cat([g.flatten() for g in expected]).norm()
    torch.testing.assert_close(result.grad_norm, norm)
    got, result = gradients(clipped, inputs, max_grad_norm=0.5 * norm.item())
    torch.testing.assert_close(result.grad_norm, norm)
    for a, b in zip(expected, got, strict=True):
        assert a is not None
        torch.testing.assert_close(0.5 * a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "middle"), [("constant", 1e-2), ("linear", 6e-3), ("cosine", 6e-3)]
)
def test_schedules_go_from_the_rate_to_the_final_one(schedule, middle):
    settings = TrainingSettings(iterations=100, outer_lr=1e-2, final_lr=2e-3, schedule=schedule)
    assert outer_rate(settings, 0) == pytest.approx(1e-2)
    assert outer_rate(settings, 50) == pytest.approx(middle)
    assert outer_rate(settings, 100) == pytest.approx(1e-2 if schedule == "constant" else 2e-3)


def test_the_cosine_schedule_is_flat_at_its_ends():
    settings = TrainingSettings(iterations=1000, outer_lr=1.0, schedule="cosine")
    assert outer_rate(settings, 10) == pytest.approx(1 - (math.pi * 0.01) ** 2 / 4, rel=1e-6)
    assert outer_rate(settings, 990) < 1e-3


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("max_grad_norm", [None, 1.0])
def test_a_loss_that_is_not_finite_changes_nothing(bad, max_grad_norm):
    learner = MAML(mlp())
    step = MetaStep(learner, TrainingSettings(max_grad_norm=max_grad_norm))
    inputs = sine_inputs(learner)
    assert step(inputs, 0).finite
    before = values(learner)
    state = map_tensors(torch.clone, step.optimizer.state_dict()["state"])
    inputs.tasks.query.targets[2, 1] = bad
    result = step(inputs, 1)
    assert not result.finite
    assert (~torch.isfinite(result.losses)).nonzero().flatten().tolist() == [2]
    for a, b in zip(before, values(learner), strict=True):
        assert torch.equal(a, b)
    for i, entry in step.optimizer.state_dict()["state"].items():
        assert all(torch.equal(state[i][name], value) for name, value in entry.items())


def test_the_update_is_that_of_torchs_adam():
    learner, reference = MAML(mlp()), MAML(mlp())
    step = MetaStep(learner, TrainingSettings(outer_lr=0.01))
    adam = torch.optim.Adam(reference.parameters(), 0.01, fused=True)
    inputs = sine_inputs(learner)
    for iteration in range(3):
        assert step(inputs, iteration).finite
        adam.zero_grad()
        reference(inputs).losses.mean().backward()
        adam.step()
    for a, b in zip(learner.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_sgd_performs_reptiles_update():
    # theta + eps (phi - theta), phi the mean of the adapted parameters (Nichol et al. 2018)
    learner = Reptile(mlp().double(), 0.05, 4).double()
    inputs = sine_inputs(learner, dtype=torch.float64)
    theta = values(learner)
    *_, adapted = learner.adapt(inputs.tasks.support, 4, torch.Generator())
    MetaStep(learner, TrainingSettings(optimizer="sgd", outer_lr=0.3))(inputs, 0)
    for before, phi, after in zip(
        theta, adapted.params.values(), learner.parameters(), strict=True
    ):
        expected = before + 0.3 * (phi.mean(0) - before)
        torch.testing.assert_close(after.detach(), expected, rtol=1e-12, atol=1e-14)


def test_parameters_that_do_not_count_have_no_gradient_in_the_captured_form_either():
    # The second unroll starts from carried parameters: theta has no part in it.
    generator = torch.Generator().manual_seed(0)
    learner = LearnedOptimizer(mlp(), generator, steps=4, unroll=2)
    gradient = CompiledGradient(learner, list(learner.parameters()), uncompiled)
    names = [n for n, _ in learner.named_parameters()]
    for unroll in range(2):
        grads, result = gradient(sine_inputs(learner), 7)
        learner.after_update(result.carry)
        without = {n for n, g in zip(names, grads, strict=True) if g is None}
        assert without == ({n for n in names if n.startswith("model.")} if unroll else set())


def test_a_gradient_that_is_not_finite_changes_nothing():
    factor = torch.ones(())

    def bad(outputs, targets):  # finite, with a gradient that is not: sqrt at 0
        return (factor * outputs).square().sum((1, 2)).sqrt() + 1.0

    learner = GradientLearner(
        Adaptation(mlp(), GradientDescent(0.1), QueryLoss(), steps=0), loss=bad
    )
    before = [p.clone() for p in learner.parameters()]
    inputs = sine_inputs(learner)
    factor.zero_()  # after the check of the loss
    result = MetaStep(learner, TrainingSettings())(inputs, 0)
    assert torch.isfinite(result.losses).all() and not result.finite
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters(), strict=True))


class Detached(MLP):
    """Uses its parameters without derivatives."""

    def forward(self, params, inputs, statistics=None):
        return super().forward({n: p.detach() for n, p in params.items()}, inputs, statistics)


@pytest.mark.parametrize("compiles", [False, True])
def test_a_loss_that_depends_on_no_parameter_is_refused(compiles, monkeypatch):
    monkeypatch.setattr(compilation, "_inductor", uncompiled)
    learner = MAML(Detached((1, 4, 1), torch.Generator().manual_seed(0)), 0.1, 0)
    with pytest.raises(SettingsError, match="outer loss that depends on the parameters to train"):
        gradients(learner, sine_inputs(learner), compile=compiles)


def test_an_inner_loss_that_depends_on_no_parameter_is_refused():
    learner = MAML(Detached((1, 4, 1), torch.Generator().manual_seed(0)), 0.1, 1)
    with pytest.raises(SettingsError, match=r"depends on none of layers\.0\.weight, .*detaches"):
        gradients(learner, sine_inputs(learner))


def test_parameters_without_any_gradient_are_refused():
    unused = mlp()
    unused.register_parameter("extra", nn.Parameter(torch.zeros(2)))
    for name, p in unused.named_parameters():
        p.requires_grad_(name == "extra")
    with pytest.raises(SettingsError, match="depends on"):
        learner = MAML(unused, 0.1, 0)
        gradients(learner, sine_inputs(learner))


@pytest.mark.parametrize("compiles", [False, True])
def test_learners_without_a_parameter_to_train_are_refused(compiles):
    learner = MAML(mlp()).requires_grad_(False)
    with pytest.raises(SettingsError, match="Expected parameters to train, this GradientLearner"):
        MetaStep(learner, TrainingSettings(compile=compiles))
