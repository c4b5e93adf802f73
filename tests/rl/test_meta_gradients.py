"""Meta-gradients of every surrogate, all trajectories enumerated, against exact ones."""

import itertools

import pytest
import torch

from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.update_rules import GradientDescent
from metarl.rl.exact import hessian, meta_gradient, relative_error
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import SURROGATES
from metarl.trees import take_tasks
from tests.rl.differences import central_differences

LR = 1.0


def composed(problem, logits, steps):
    """J [T] after gradient ascent on J itself, written without the library's inner loop."""
    for _ in range(steps):
        gain = problem.expected_return({"logits": logits}).sum()
        logits = logits + LR * torch.autograd.grad(gain, logits, create_graph=True)[0]
    return problem.expected_return({"logits": logits})


def exact_meta_gradient(problem, table, steps):
    logits = table["logits"].clone().requires_grad_()
    return torch.autograd.grad(composed(problem, logits, steps).sum(), logits)[0]


def hessian_parts(problem, table):
    """H1 = E sum s s^T Q and H2 = E sum (d2 log pi) Q of J, the softmax differentiated by hand."""
    tasks, states, actions = table["logits"].shape
    policy = table["logits"].softmax(-1)
    seen = problem.trajectories(table)
    weights = problem.weights(seen.probabilities) * seen.returns
    first, second = torch.zeros(2, tasks, states, actions, states, actions, dtype=torch.double)
    visited, chosen = problem._visits
    for s in range(states):
        curvature = policy[:, s, :, None] * policy[:, s, None, :] - torch.diag_embed(policy[:, s])
        for a in range(actions):
            score = -policy[:, s]
            score[:, a] += 1
            total = (weights * ((visited == s) & (chosen == a))).sum((1, 2)).view(-1, 1, 1)
            first[:, s, :, s] += total * score[:, :, None] * score[:, None, :]
            second[:, s, :, s] += total * curvature
    return first.flatten(1, 2).flatten(2), second.flatten(1, 2).flatten(2)


# The Hessian of the inner loss.


@pytest.mark.parametrize("which", ["problem", "discounted"])
@pytest.mark.parametrize("estimate", ["returns", "advantages"])
def test_dice_has_the_exact_hessian(which, estimate, table, request):
    problem = request.getfixturevalue(which)
    exact = hessian(problem.exact_loss, table)
    got = hessian(problem.support_loss("dice", estimate=estimate), table)
    assert relative_error(got, exact).max() < 1e-12


@pytest.mark.parametrize("which", ["problem", "discounted"])
def test_the_ratio_and_the_log_probability_leave_parts_of_it_out(which, table, request):
    problem = request.getfixturevalue(which)
    exact = -hessian(problem.exact_loss, table)
    first, second = hessian_parts(problem, table)
    ratio = -hessian(problem.support_loss("ratio"), table)
    logprob = -hessian(problem.support_loss("logprob"), table)
    assert relative_error(ratio, first + second).max() < 1e-12
    assert relative_error(logprob, second).max() < 1e-12
    assert relative_error(ratio, exact).min() > 0.1
    assert relative_error(logprob, exact).min() > 0.5


def test_a_perfect_baseline_leaves_nothing_of_the_log_probabilitys_hessian(problem, table):
    got = hessian(problem.support_loss("logprob", estimate="advantages"), table)
    assert got.abs().max() < 1e-12


def test_lambda_leads_from_the_ratio_to_the_exact_hessian(problem, table):
    exact = hessian(problem.exact_loss, table)
    errors = [
        relative_error(hessian(problem.support_loss("dice", lam), table), exact)
        for lam in (PolicyGradientSettings(dice_lambda=x) for x in (0, 0.3, 0.6, 0.9, 1.0))
    ]
    assert all((more > less).all() for more, less in itertools.pairwise(errors))


# The meta-gradient after one, two and three inner steps.


@pytest.mark.parametrize("estimate", ["returns", "advantages"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_dice_has_the_exact_meta_gradient(steps, estimate, problem, table):
    loss = problem.support_loss("dice", estimate=estimate)
    got = meta_gradient(problem, loss, table, LR, steps)
    assert relative_error(got, exact_meta_gradient(problem, table, steps)).max() < 1e-12


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_dice_matches_finite_differences_of_the_exact_composition(steps, problem, table):
    got = meta_gradient(problem, problem.support_loss("dice"), table, LR, steps)
    numeric = central_differences(lambda logits: composed(problem, logits, steps), table["logits"])
    assert relative_error(got, numeric).max() < 1e-6


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["ratio", "logprob"])
def test_the_biased_ones_are_off_at_every_number_of_steps(name, steps, problem, table):
    exact = exact_meta_gradient(problem, table, steps)
    got = meta_gradient(problem, problem.support_loss(name), table, LR, steps)
    assert relative_error(got, exact).min() > 1e-3


@pytest.mark.parametrize("name", ["ratio", "dice", "logprob"])
@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_takes_the_inner_jacobian_for_the_identity(name, steps, problem, table):
    loss = problem.support_loss(name)
    got = meta_gradient(problem, loss, table, LR, steps, first_order=True)
    *_, last = inner_loop(loss, GradientDescent(LR), dict(table), steps, first_order=True)
    adapted = last.params["logits"].requires_grad_()
    gain = problem.expected_return({"logits": adapted}).sum()
    torch.testing.assert_close(got, torch.autograd.grad(gain, adapted)[0])
    assert relative_error(got, exact_meta_gradient(problem, table, steps)).min() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_with_a_perfect_baseline_the_log_probability_is_first_order(steps, problem, table):
    loss = problem.support_loss("logprob", estimate="advantages")
    second = meta_gradient(problem, loss, table, LR, steps)
    first = meta_gradient(problem, loss, table, LR, steps, first_order=True)
    torch.testing.assert_close(second, first)


def test_one_step_by_the_formula(problem, table):
    # d J(theta') / d theta = (I + lr H) grad J(theta'), with the Hessian of what was descended.
    for name in SURROGATES.names():
        loss = problem.support_loss(name)
        first = meta_gradient(problem, loss, table, LR, first_order=True).flatten(1)
        product = torch.einsum("tij,tj->ti", hessian(loss, table), first)
        got = meta_gradient(problem, loss, table, LR).flatten(1)
        torch.testing.assert_close(got, first - LR * product)


def test_tasks_adapt_apart_from_each_other(problem, table):
    # Every task continues from its own parameters after the first of several steps.
    loss = problem.support_loss("dice")
    *_, last = inner_loop(loss, GradientDescent(LR), dict(table), 3, first_order=True)
    for t in range(3):
        one, start = take_tasks((problem, table), t, t + 1)
        single = one.support_loss("dice")
        *_, alone = inner_loop(single, GradientDescent(LR), start, 3, first_order=True)
        torch.testing.assert_close(last.params["logits"][t : t + 1], alone.params["logits"])
        got = meta_gradient(problem, loss, table, LR, 2)[t : t + 1]
        torch.testing.assert_close(got, meta_gradient(one, single, start, LR, 2))
