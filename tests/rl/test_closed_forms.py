"""Bandits and a linear-quadratic problem, solved on paper."""

import math

import numpy as np
import pytest
import torch

from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.update_rules import GradientDescent
from metarl.rl.exact import TabularProblem, hessian, meta_gradient
from metarl.rl.policies import GaussianPolicy
from metarl.rl.surrogates import SURROGATES

# A bandit: one state, one step, softmax of the logits, J = sum p r.


@pytest.fixture
def bandit(generator):
    problem = TabularProblem.random(generator, num_tasks=2, states=1, actions=5, horizon=1)
    logits = torch.randn(2, 1, 5, generator=generator, dtype=torch.double)
    return problem, {"logits": logits}


def bandit_forms(rewards, logits):
    """J [T], its gradient p_i (r_i - J) and its Hessian."""
    p = logits.softmax(-1)
    mean = (p * rewards).sum(-1, keepdim=True)
    gradient = p * (rewards - mean)
    both = rewards.unsqueeze(-1) + rewards.unsqueeze(-2) - 2 * mean.unsqueeze(-1)
    outer = p.unsqueeze(-1) * p.unsqueeze(-2)
    return mean.squeeze(-1), gradient, torch.diag_embed(gradient) - outer * both


def test_the_bandits_return_and_derivatives(bandit):
    problem, table = bandit
    mean, gradient, curvature = bandit_forms(problem.rewards[:, 0], table["logits"][:, 0])
    torch.testing.assert_close(problem.expected_return(table), mean)
    for name in ("ratio", "dice"):  # a single step: nothing to leave out
        loss = problem.support_loss(name)
        torch.testing.assert_close(-hessian(loss, table), curvature)
        start = {"logits": table["logits"].clone().requires_grad_()}
        (slope,) = torch.autograd.grad(loss(start, 0).sum(), start["logits"])
        torch.testing.assert_close(-slope[:, 0], gradient)


@pytest.mark.parametrize("name", ["ratio", "dice"])
def test_the_bandits_meta_gradient(name, bandit):
    problem, table = bandit
    rewards, logits = problem.rewards[:, 0], table["logits"][:, 0]
    _, gradient, curvature = bandit_forms(rewards, logits)
    _, after, _ = bandit_forms(rewards, logits + 0.7 * gradient)
    expected = after + 0.7 * torch.einsum("tij,tj->ti", curvature, after)
    got = meta_gradient(problem, problem.support_loss(name), table, 0.7)
    torch.testing.assert_close(got[:, 0], expected)


# A Gaussian action a ~ N(mu, sigma^2), rewarded by -(a - g)^2: J = -(mu - g)^2 - sigma^2.

GOALS = torch.tensor([0.8, -1.5], dtype=torch.double)
LR = 0.1
NODES = 8


class Quadrature:
    """A `GaussianPolicy` that sees nothing, with expectations by Gauss-Hermite quadrature.

    The integrands are polynomials in the action, so those are exact.
    """

    def __init__(self, generator, mean, std):
        self.policy = GaussianPolicy(1, 1, generator, hidden=()).double()
        nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
        self.nodes = torch.tensor(nodes).view(1, NODES, 1, 1).expand(2, -1, -1, -1)
        self.weights = torch.tensor(weights / weights.sum()).view(1, NODES, 1).expand(2, -1, -1)
        self.theta = dict(self.policy.named_parameters())
        with torch.no_grad():
            self.theta["network.layers.0.bias"].fill_(mean)
            self.theta["log_std"].fill_(math.log(std))

    def loss(self, name, params):
        """A surrogate's loss for each goal, with actions of the policy at hand, [T]."""
        blind = torch.zeros(2, NODES, 1, 1, dtype=torch.double)
        distribution = self.policy.distribution(params, blind)
        actions = distribution.sample(self.nodes).detach()
        rewards = -(actions.squeeze(3) - GOALS.view(2, 1, 1)).square()
        return SURROGATES.get(name)(distribution.log_prob(actions), rewards, self.weights)

    def adapt(self, name, steps=1):
        """Parameters after adaptation, and J of each task with them, [T]."""
        start = {n: p.unsqueeze(0).expand(2, *p.shape) for n, p in self.theta.items()}
        rule = GradientDescent(LR)
        *_, last = inner_loop(lambda p, _: self.loss(name, p), rule, start, steps)
        mean = last.params["network.layers.0.bias"].squeeze(1)
        log_std = last.params["log_std"].squeeze(1)
        return mean, log_std, -(mean - GOALS).square() - (2 * log_std).exp()

    def meta_gradient(self, name, steps=1):
        """Derivatives of the sum of J by mean and log-deviation."""
        outer = self.adapt(name, steps)[2].sum()
        at = [self.theta["network.layers.0.bias"], self.theta["log_std"]]
        return [g.item() for g in torch.autograd.grad(outer, at)]


MEAN, STD = 0.3, 0.7


@pytest.mark.parametrize("name", ["ratio", "dice", "logprob"])
def test_the_inner_step(name, generator):
    mean, log_std, _ = Quadrature(generator, MEAN, STD).adapt(name)
    torch.testing.assert_close(mean.detach(), MEAN - 2 * LR * (MEAN - GOALS))
    expected = torch.full((2,), math.log(STD) - 2 * LR * STD**2, dtype=torch.double)
    torch.testing.assert_close(log_std.detach(), expected)


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["ratio", "dice"])
def test_the_meta_gradient(name, steps, generator):
    by_mean, by_log_std = Quadrature(generator, MEAN, STD).meta_gradient(name, steps)
    # mu_K - g = (1 - 2 lr)^K (mu - g);  s_{k+1} = s_k - 2 lr exp(2 s_k)
    expected = -2 * ((1 - 2 * LR) ** (2 * steps)) * (MEAN - GOALS).sum().item()
    assert by_mean == pytest.approx(expected, rel=1e-9)
    log_std, slope = math.log(STD), 1.0
    for _ in range(steps):
        slope *= 1 - 4 * LR * math.exp(2 * log_std)
        log_std -= 2 * LR * math.exp(2 * log_std)
    assert by_log_std == pytest.approx(-2 * 2 * math.exp(2 * log_std) * slope, rel=1e-9)


def test_after_one_step_the_worst_initial_deviation_is_that_of_variance_1_over_4_lr(generator):
    # More would overshoot to less noise than that: exploring a lot ends in a narrow policy.
    def slope(variance):
        return Quadrature(generator, MEAN, math.sqrt(variance)).meta_gradient("ratio")[1]

    assert slope(1 / (4 * LR)) == pytest.approx(0, abs=1e-12)
    assert slope(0.9 / (4 * LR)) < 0 < slope(1.1 / (4 * LR))


def test_the_log_probability_has_another_meta_gradient(generator):
    # E[(d2 log pi) r]: -E[r] / sigma^2 where the truth is -2.
    by_mean, _ = Quadrature(generator, MEAN, STD).meta_gradient("logprob")
    exact = -2 * (1 - 2 * LR) ** 2 * (MEAN - GOALS).sum().item()
    assert abs(by_mean - exact) > 0.1 * abs(exact)
