"""First derivatives of the surrogates, and what masks, weights and old policies do to them."""

import pytest
import torch

from metarl.errors import UnknownNameError
from metarl.rl.exact import hessian
from metarl.rl.settings import PolicyGradientSettings
from metarl.rl.surrogates import SURROGATES, dice, exploration_term, logprob, ratio

NAMES = ["ratio", "dice", "logprob"]


@pytest.fixture
def batch(generator):
    """Log-probabilities, advantages and weights of episodes of several lengths, [2, 4, 6]."""
    shape = (2, 4, 6)
    log_prob = -torch.rand(shape, generator=generator, dtype=torch.double)
    advantages = torch.randn(shape, generator=generator, dtype=torch.double)
    mask = (torch.arange(6) < torch.tensor([6, 4, 1, 5]).unsqueeze(1)).expand(shape).double()
    return log_prob.requires_grad_(), advantages, mask / mask.sum((1, 2), keepdim=True)


def slope(loss, at):
    return torch.autograd.grad(loss.sum(), at)[0]


def test_all_are_found_by_name():
    assert SURROGATES.names() == NAMES
    with pytest.raises(UnknownNameError, match="Did you mean 'dice'"):
        SURROGATES.get("dicee")


@pytest.mark.parametrize("estimate", ["returns", "advantages"])
@pytest.mark.parametrize("which", ["problem", "discounted"])
@pytest.mark.parametrize("name", NAMES)
def test_each_has_the_policy_gradient_as_its_gradient(name, which, estimate, table, request):
    problem = request.getfixturevalue(which)
    table["logits"].requires_grad_()
    exact = slope(problem.exact_loss(table, 0), table["logits"])
    got = slope(problem.support_loss(name, estimate=estimate)(table, 0), table["logits"])
    torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_gradient_does_not_depend_on_dices_lambda(lam, batch):
    log_prob, advantages, weights = batch
    settings = PolicyGradientSettings(dice_lambda=lam)
    got = slope(dice(log_prob, advantages, weights, settings), log_prob)
    torch.testing.assert_close(got, -weights * advantages)


@pytest.mark.parametrize("name", NAMES)
def test_each_steps_gradient_is_its_weight_times_its_advantage(name, batch):
    log_prob, advantages, weights = batch
    got = slope(SURROGATES.get(name)(log_prob, advantages, weights), log_prob)
    torch.testing.assert_close(got, -weights * advantages)


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_per_task_and_ignore_what_has_no_weight(name, batch):
    log_prob, advantages, weights = batch
    surrogate = SURROGATES.get(name)
    loss = surrogate(log_prob, advantages, weights)
    assert loss.shape == (2,)
    dirty = torch.where(weights > 0, advantages, 1e3)
    torch.testing.assert_close(surrogate(log_prob, dirty, weights), loss)
    second = slope(slope_with_graph(surrogate(log_prob, dirty, weights), log_prob), log_prob)
    assert not second[weights == 0].any()
    one = surrogate(log_prob[1:], advantages[1:], weights[1:])
    torch.testing.assert_close(one, loss[1:])


def slope_with_graph(loss, at):
    (first,) = torch.autograd.grad(loss.sum(), at, create_graph=True)
    return first if first.requires_grad else first + 0 * at


@pytest.mark.parametrize("name", NAMES)
def test_advantages_are_constants(name, batch):
    log_prob, advantages, weights = batch
    advantages = advantages.requires_grad_()
    loss = SURROGATES.get(name)(log_prob, advantages, weights).sum()
    assert torch.autograd.grad(loss, advantages, allow_unused=True) == (None,)


def test_dice_with_lambda_0_is_the_ratio(problem, table):
    none = PolicyGradientSettings(dice_lambda=0.0)
    got = hessian(problem.support_loss("dice", none), table)
    torch.testing.assert_close(got, hessian(problem.support_loss("ratio"), table))


def test_dice_follows_its_algorithm(batch):
    # Farquhar et al. 2019, algorithm 1, word for word.
    log_prob, advantages, weights = batch
    lam = 0.7

    def magic(x):
        return torch.exp(x - x.detach())

    total, w = 0, 0
    for t in range(6):
        w = lam * w + log_prob[..., t]
        v = w - log_prob[..., t]
        total = total - (weights[..., t] * (magic(w) - magic(v)) * advantages[..., t]).sum(1)
    got = dice(log_prob, advantages, weights, PolicyGradientSettings(dice_lambda=lam))
    torch.testing.assert_close(got, total)
    first, expected = (slope_with_graph(x, log_prob) for x in (got, total))
    torch.testing.assert_close(first, expected)
    direction = torch.randn(first.shape, generator=torch.Generator().manual_seed(1)).double()
    seconds = [slope((x * direction).sum(), log_prob) for x in (first, expected)]
    torch.testing.assert_close(*seconds)


@pytest.mark.parametrize("name", ["ratio", "dice"])
def test_rollouts_of_an_old_policy_count_by_their_likelihood_ratio(name, problem, table):
    # lambda = 1 carries the whole trajectory's ratio: the exact return of another policy, up to a
    # constant; `ratio` carries one step's.
    new = {"logits": table["logits"] + 0.3 * torch.sin(torch.arange(18.0)).view(3, 3, 2)}
    new["logits"].requires_grad_()
    old = problem.trajectories(table)
    log_prob = problem.trajectories(new).log_prob
    weights = problem.weights(old.probabilities)
    loss = SURROGATES.get(name)(
        log_prob, old.returns, weights, PolicyGradientSettings(), old.log_prob
    )
    got = slope(loss, new["logits"])
    exact = slope(problem.exact_loss(new, 0), new["logits"])
    if name == "dice":
        torch.testing.assert_close(got, exact, rtol=1e-10, atol=1e-12)
    else:
        assert (got - exact).norm() > 0.01 * exact.norm()
    same = SURROGATES.get(name)(old.log_prob, old.returns, weights, old_log_prob=old.log_prob)
    without = SURROGATES.get(name)(old.log_prob, old.returns, weights)
    torch.testing.assert_close(same, without, rtol=0, atol=0)


def test_values_where_the_rollouts_were_made(batch):
    log_prob, advantages, weights = batch
    mean = (weights * advantages).sum((1, 2))
    torch.testing.assert_close(ratio(log_prob, advantages, weights), -mean)  # the ratio is 1
    torch.testing.assert_close(dice(log_prob, advantages, weights), torch.zeros_like(mean))
    expected = -(weights * log_prob * advantages).sum((1, 2))
    torch.testing.assert_close(logprob(log_prob, advantages, weights), expected)


def test_the_exploration_term_credits_every_step_of_its_task(batch):
    log_prob, _, weights = batch
    credit = torch.tensor([2.0, -3.0], dtype=torch.double, requires_grad=True)
    got = slope(exploration_term(log_prob, credit, weights > 0), log_prob)
    torch.testing.assert_close(got, -credit.detach().view(2, 1, 1) * (weights > 0))
    lost = exploration_term(torch.where(weights > 0, log_prob, torch.nan), credit, weights > 0)
    assert lost.isfinite().all()
