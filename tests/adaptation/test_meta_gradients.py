"""Meta-gradients against finite differences, explicit formulae and one task at a time."""

import pytest
import torch

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.clipping import clip_per_task
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.objectives import QueryLoss, ReptileDistance
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.models.base import task_params
from metarl.tasks.losses import task_loss
from metarl.training.compilation import CompiledGradient
from metarl.trees import take_tasks
from tests.gradient_learners import FOMAML, MAML, MAMLPlusPlus, MetaSGD


def meta_loss(learner, tasks, iteration=0):
    inputs = learner.collect(tasks, torch.Generator().manual_seed(1), iteration)
    return learner(inputs).losses.mean()


def meta_gradient(learner, tasks, iteration=0):
    learner.zero_grad()
    meta_loss(learner, tasks, iteration).backward()
    return {n: p.grad.clone() for n, p in learner.named_parameters()}


def check_against_finite_differences(learner, tasks, iteration=0, epsilon=1e-6):
    """Compares derivatives along random directions in each parameter tensor."""
    gradient = meta_gradient(learner, tasks, iteration)
    generator = torch.Generator().manual_seed(2)
    for name, p in learner.named_parameters():
        direction = torch.randn(p.shape, generator=generator)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                p.add_(sign * epsilon * direction)
            values.append(meta_loss(learner, tasks, iteration).item())
            with torch.no_grad():
                p.sub_(sign * epsilon * direction)
        numeric = (values[0] - values[1]) / (2 * epsilon)
        exact = (gradient[name] * direction).sum().item()
        assert exact == pytest.approx(numeric, rel=1e-5, abs=1e-8), name
        assert gradient[name].abs().max() > 0, f"{name} gets no gradient"


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_maml_matches_finite_differences(mlp, regression, steps):
    check_against_finite_differences(MAML(mlp, 0.1, steps), regression)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_maml_with_batch_norm_matches_finite_differences(conv, images, steps):
    check_against_finite_differences(MAML(conv, 0.1, steps), images, epsilon=1e-7)


def inner_norms(learner, tasks):
    """The norm of the gradient of each task at theta, [T]."""
    *_, first = inner_loop(
        lambda p, _: task_loss(learner.model(p, tasks.support.inputs), tasks.support.targets),
        GradientDescent(1.0), task_params(learner.model, 4), 1, first_order=True,
    )  # fmt: skip
    moves = (p.detach() - first.params[n].detach() for n, p in learner.model.named_parameters())
    return torch.cat([m.flatten(1) for m in moves], 1).norm(dim=1)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("build", [MAML, MetaSGD, MAMLPlusPlus])
def test_clipped_inner_gradients_match_finite_differences(mlp, regression, generator, build, steps):
    norms = inner_norms(MAML(mlp, 0.1), regression)
    middle = norms.sort().values[1:3].mean().item()  # two tasks are clipped, two are not
    options = {"steps": steps, "max_inner_grad_norm": middle}
    learner = build(mlp, *([generator] if build is MetaSGD else []), **options)
    check_against_finite_differences(learner, regression)


def test_each_task_is_clipped_to_the_norm_of_all_its_parameters(mlp, regression):
    norms = inner_norms(MAML(mlp, 0.1), regression)
    limit = norms.median().item()
    theta = task_params(mlp, 4)
    *_, step = inner_loop(
        lambda p, _: task_loss(mlp(p, regression.support.inputs), regression.support.targets),
        GradientDescent(1.0), theta, 1, first_order=True, max_grad_norm=limit,
    )  # fmt: skip
    moves = torch.cat([(theta[n] - p).flatten(1) for n, p in step.params.items()], 1).norm(dim=1)
    assert torch.allclose(moves, norms.clamp(max=limit), rtol=1e-12)


def test_a_limit_above_all_norms_changes_nothing(mlp, regression):
    free, clipped = MAML(mlp, 0.1, 3), MAML(mlp, 0.1, 3, max_inner_grad_norm=1e6)
    first, second = (meta_gradient(learner, regression) for learner in (free, clipped))
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], rtol=1e-12, atol=1e-15)


def test_parameters_of_one_number_or_none_are_clipped_with_the_others():
    grads = {"scale": torch.tensor([3.0, 0.0]), "empty": torch.ones(2, 0)}
    grads["weight"] = torch.tensor([[4.0], [0.5]])
    clipped = clip_per_task(grads, 1.0)
    assert torch.allclose(clipped["scale"], torch.tensor([0.6, 0.0]))
    assert torch.allclose(clipped["weight"], torch.tensor([[0.8], [0.5]]))
    assert clipped["empty"].shape == (2, 0)


def test_clipping_takes_zeros_and_huge_gradients():
    grads = {
        "a": torch.tensor([[0.0], [3e200], [0.3]], requires_grad=True),
        "b": torch.tensor([0.0, 4e200, 0.4], requires_grad=True),
    }
    clipped = clip_per_task(grads, 1.0)
    assert torch.allclose(clipped["a"], torch.tensor([[0.0], [0.6], [0.3]]))
    assert torch.allclose(clipped["b"], torch.tensor([0.0, 0.8, 0.4]))
    derivatives = torch.autograd.grad(clipped["a"].sum() + clipped["b"].sum(), list(grads.values()))
    assert all(d.isfinite().all() for d in derivatives)
    # No clipping: the derivative is 1.
    assert derivatives[0][[0, 2]].flatten().tolist() == [1, 1]


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_norms_that_clip_nothing_or_all_are_refused(mlp, norm):
    with pytest.raises(SettingsError, match="`max_inner_grad_norm`"):
        MAML(mlp, max_inner_grad_norm=norm)


@pytest.mark.parametrize("steps", [1, 2])
def test_meta_sgd_matches_finite_differences(conv, images, generator, steps):
    check_against_finite_differences(MetaSGD(conv, generator, steps), images, epsilon=1e-7)


@pytest.mark.parametrize("iteration", [0, 4, 10])
def test_learned_rates_and_multi_step_loss_match_finite_differences(conv, images, iteration):
    learner = MAMLPlusPlus(conv, 0.1, 2, multi_step_iterations=10)
    check_against_finite_differences(learner, images, iteration, epsilon=1e-7)


def test_the_check_notices_a_dropped_hessian(mlp, regression):
    with pytest.raises(AssertionError):
        check_against_finite_differences(FOMAML(mlp, 0.1, 1), regression)


def one_task_gradients(model, tasks, lr, steps, first_order):
    """Mean over tasks of d query loss / d theta, with torch's own autograd, a task at a time."""
    theta = dict(model.named_parameters())
    total = {n: torch.zeros_like(p) for n, p in theta.items()}
    for t in range(tasks.num_tasks):
        task = take_tasks(tasks, t, t + 1)
        params = {n: p.unsqueeze(0) for n, p in theta.items()}
        for _ in range(steps):
            loss = task_loss(model(params, task.support.inputs), task.support.targets).sum()
            grads = torch.autograd.grad(loss, list(params.values()), create_graph=not first_order)
            params = {n: p - lr * g for (n, p), g in zip(params.items(), grads, strict=True)}
        loss = task_loss(model(params, task.query.inputs), task.query.targets).sum()
        for n, g in zip(total, torch.autograd.grad(loss, list(theta.values())), strict=True):
            total[n] += g / tasks.num_tasks
    return total


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_batched_equals_one_task_at_a_time(conv, images, steps, first_order):
    batched = meta_gradient(MAML(conv, 0.1, steps, first_order=first_order), images)
    single = one_task_gradients(conv, images, 0.1, steps, first_order)
    for n, g in single.items():
        torch.testing.assert_close(batched[f"model.{n}"], g, rtol=1e-9, atol=1e-12)


def test_fomaml_is_maml_without_the_inner_hessian(mlp, regression):
    # MAML, one step: (I - lr H) v with v = d query loss / d theta'. Without H: v itself.
    names = [n for n, _ in mlp.named_parameters()]
    theta = torch.cat([p.detach().flatten() for p in mlp.parameters()])
    sizes, shapes = zip(*[(p.numel(), p.shape) for p in mlp.parameters()], strict=True)

    def loss(row, examples):
        parts = row.split(sizes)
        params = {n: c.view(1, *s) for n, c, s in zip(names, parts, shapes, strict=True)}
        return task_loss(mlp(params, examples.inputs), examples.targets).sum()

    first, second = torch.zeros_like(theta), torch.zeros_like(theta)
    for t in range(regression.num_tasks):
        task = take_tasks(regression, t, t + 1)
        adapted = theta - 0.1 * torch.func.grad(loss)(theta, task.support)
        v = torch.func.grad(loss)(adapted, task.query)
        hessian = torch.func.jacrev(torch.func.grad(loss))(theta, task.support)
        first += v / regression.num_tasks
        second += (v - 0.1 * hessian @ v) / regression.num_tasks
    for learner, expected in ((FOMAML(mlp, 0.1), first), (MAML(mlp, 0.1), second)):
        got = torch.cat([g.flatten() for g in meta_gradient(learner, regression).values()])
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


class ScaledByLoss(GradientDescent):
    """theta <- theta - lr * loss * grad."""

    def update(self, grads, state, params, loss):
        scaled = {n: g * loss.view(-1, *[1] * (g.dim() - 1)) for n, g in grads.items()}
        return super().update(scaled, state, params, loss)


def test_the_loss_that_a_rule_reads_is_a_constant_without_second_derivatives(mlp, regression):
    adaptation = Adaptation(mlp, ScaledByLoss(0.1), QueryLoss(), first_order=True)
    found = meta_gradient(GradientLearner(adaptation), regression)
    theta = {n: p.detach().requires_grad_() for n, p in task_params(mlp, 4).items()}
    support, query = regression.support, regression.query
    loss = task_loss(mlp(theta, support.inputs), support.targets)
    grads = torch.autograd.grad(loss.sum(), list(theta.values()))
    with torch.no_grad():
        pairs = zip(theta.items(), grads, strict=True)
        phi = {n: p - 0.1 * loss.view(-1, *[1] * (p.dim() - 1)) * g for (n, p), g in pairs}
    phi = {n: p.requires_grad_() for n, p in phi.items()}
    total = task_loss(mlp(phi, query.inputs), query.targets).mean()
    for (n, _), grad in zip(
        phi.items(), torch.autograd.grad(total, list(phi.values())), strict=True
    ):
        torch.testing.assert_close(found[f"model.{n}"], grad.sum(0))
    check_against_finite_differences(
        GradientLearner(Adaptation(mlp, ScaledByLoss(0.1), QueryLoss())), regression
    )


def test_reptile_with_one_inner_step_follows_joint_training(mlp, regression):
    learner = GradientLearner(Adaptation(mlp, GradientDescent(0.1), ReptileDistance(), steps=1))
    reptile = meta_gradient(learner, regression)
    params = {n: p.unsqueeze(0).expand(4, *p.shape) for n, p in mlp.named_parameters()}
    support = regression.support
    task_loss(mlp(params, support.inputs), support.targets).mean().backward()
    for n, p in mlp.named_parameters():
        joint = p.grad - reptile[f"model.{n}"]  # backward added to the gradient of before
        torch.testing.assert_close(reptile[f"model.{n}"], 0.1 * joint, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("make", [MAML, FOMAML, MAMLPlusPlus], ids=lambda f: f.__name__)
def test_the_captured_graph_gives_the_same_gradient(make, conv, images):
    # What --compile compiles, not compiled: quick, and without further rounding.
    learner = make(conv, 0.1, 2)
    expected = meta_gradient(learner, images)
    captured = CompiledGradient(learner, list(learner.parameters()), backend=lambda graph, _: graph)
    generator = torch.Generator().manual_seed(1)
    for tasks in (images, take_tasks(images, 0, 1), images):
        grads, result = captured(learner.collect(tasks, generator, 0), tasks.num_tasks)
    torch.testing.assert_close(result.losses.mean(), meta_loss(learner, images).detach())
    for n, g in zip(expected, grads, strict=True):
        torch.testing.assert_close(g, expected[n], rtol=1e-9, atol=1e-12)
