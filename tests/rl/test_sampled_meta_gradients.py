"""Meta-gradients of sampled trajectories: E-MAML's exploration term, and what sampling costs."""

import pytest
import torch

from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.update_rules import GradientDescent
from metarl.rl.exact import TabularProblem, meta_gradient, relative_error
from metarl.rl.surrogates import SURROGATES, exploration_term
from metarl.trees import map_tensors
from tests.rl.differences import central_differences

LR = 1.0

# Objective II: the expected return after adapting on sampled trajectories (Stadie et al. 2018).


class SampledAdaptation:
    """Adaptation of one policy on each choice of `samples` of all trajectories, a task each."""

    def __init__(self, generator, samples):
        self.problem = TabularProblem.random(generator, states=2, horizon=2)
        self.logits = torch.randn(1, 2, 2, generator=generator, dtype=torch.double)
        count = self.problem.trajectories({"logits": self.logits}).probabilities.shape[1]
        numbers = torch.arange(count)
        self.choices = torch.cartesian_prod(*[numbers] * samples).view(-1, samples)

    def adapt(self, logits, surrogate, lr):
        """Returns J after adaptation, log-probabilities and probability of every choice."""
        start = {"logits": logits.expand(len(self.choices), 2, 2)}
        seen = self.problem.trajectories({"logits": logits})
        returns = seen.returns[0, self.choices]
        weights = torch.full_like(returns, 1 / self.choices.shape[1])

        def support_loss(params, step):
            del step
            return SURROGATES.get(surrogate)(self.log_prob(params), returns, weights)

        *_, last = inner_loop(support_loss, GradientDescent(lr), start, 1)
        chances = seen.probabilities[0, self.choices].prod(1)
        return self.problem.expected_return(last.params), self.log_prob(start), chances

    def log_prob(self, params):
        """Log-probabilities of each choice under the parameters of its task, [T, N, H]."""
        every = self.problem.trajectories(params).log_prob
        return every[torch.arange(len(self.choices)).unsqueeze(1), self.choices]

    def objective(self, logits, lr):
        """The expectation over all choices, [1]."""
        after, _, chances = self.adapt(logits, "logprob", lr)
        return (after * chances).sum().view(1)

    def gradient(self, surrogate, lr, exploration, baseline=0.0):
        """Mean over all choices of the meta-gradient that each gives."""
        logits = self.logits.clone().requires_grad_()
        after, log_prob, chances = self.adapt(logits, surrogate, lr)
        loss = -after
        if exploration:
            loss = loss + exploration_term(log_prob, after - baseline, torch.ones_like(log_prob))
        return -torch.autograd.grad((loss * chances).sum(), logits)[0]


@pytest.mark.parametrize("baseline", [0.0, 5.0])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_exploration_term_makes_the_gradient_of_objective_ii(samples, baseline, generator):
    sampled = SampledAdaptation(generator, samples)
    numeric = central_differences(lambda logits: sampled.objective(logits, LR), sampled.logits)
    with_term = sampled.gradient("logprob", LR, True, baseline)
    assert relative_error(with_term, numeric).max() < 1e-7
    for surrogate in ("logprob", "ratio", "dice"):
        assert relative_error(sampled.gradient(surrogate, LR, False), numeric).max() > 1e-3
    for surrogate in ("ratio", "dice"):
        assert relative_error(sampled.gradient(surrogate, LR, True), numeric).max() > 1e-3


@pytest.mark.parametrize("samples", [1, 2])
def test_dice_holds_the_exploration_term_to_first_order_in_the_rate(samples, generator):
    sampled = SampledAdaptation(generator, samples)

    def error(surrogate, lr):
        numeric = central_differences(lambda logits: sampled.objective(logits, lr), sampled.logits)
        return (sampled.gradient(surrogate, lr, False) - numeric).norm().item()

    # halving the rate: a quarter of an error of second order, half of one of first
    assert error("dice", 0.02) / error("dice", 0.01) == pytest.approx(4, rel=0.05)
    assert error("logprob", 0.02) / error("logprob", 0.01) == pytest.approx(2, rel=0.05)


# Sampled rollouts: the error falls as one over the root of their number.


def root_mean_square(repeated, surrogate, samples, generator):
    """Relative error of the meta-gradient of `samples` trajectories, each task a repetition."""
    problem, table = repeated
    loss = problem.support_loss(surrogate, samples=samples, generator=generator)
    exact = meta_gradient(problem, problem.exact_loss, table, 0.3)
    return relative_error(meta_gradient(problem, loss, table, 0.3), exact).square().mean().sqrt()


@pytest.fixture
def repeated(generator):
    """One problem and policy as 64 tasks."""
    problem = TabularProblem.random(generator)
    table = {"logits": torch.randn(1, 3, 2, generator=generator, dtype=torch.double)}
    return map_tensors(lambda t: t.expand(64, *t.shape[1:]), (problem, table))


def test_the_sampled_meta_gradient_converges_as_the_root_of_the_samples(repeated, generator):
    errors = [
        root_mean_square(repeated, "dice", samples, generator) for samples in (1600, 6400, 25600)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.25)
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.25)


def test_the_ratios_error_stops_falling_at_its_bias(repeated, generator):
    bias = root_mean_square(repeated, "ratio", None, generator)
    sampled = root_mean_square(repeated, "ratio", 100_000, generator)
    assert bias > 0.02
    assert sampled == pytest.approx(bias.item(), rel=0.2)


def test_a_hundred_thousand_samples_point_the_right_way(problem, table, generator):
    loss = problem.support_loss("dice", samples=100_000, generator=generator)
    got = meta_gradient(problem, loss, table, LR, 2).flatten(1)
    exact = meta_gradient(problem, problem.exact_loss, table, LR, 2).flatten(1)
    assert torch.nn.functional.cosine_similarity(got, exact).min() > 0.99
