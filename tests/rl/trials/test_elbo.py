"""VariBAD's evidence lower bound, against a plain computation step by step in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from metarl.rl.distributions import Gaussian
from metarl.rl.trials.elbo import at, choose, divergences
from tests.rl.trials.test_varibad import FAMILIES, N, T, double, make, prepared

ALL = {"elbo_terms": None, "decoded_steps": None}


def likelihood(prediction, truth):
    """Log N(truth; prediction, I) without its constant."""
    return -0.5 * ((truth - prediction) ** 2).sum()


def reference(learner, inputs, t, n):
    """Minus the bound of one trial, a step at a time, divided by the square of its length."""
    policy, decoders, settings = learner.policy, learner.decoders, learner.settings
    more, mask = inputs.more, inputs.trials.mask[t, n]
    length = int(mask.sum())
    memory = policy.history.memory
    state = memory.begin(1)
    before = Normal(torch.zeros(policy.latent), torch.ones(policy.latent))
    steps = more.drawn.steps[t, n].tolist()
    total = 0.0
    for time in range(length):
        row = inputs.trials.record.inputs[t, n, time].unsqueeze(0)
        hidden, state = memory.step(policy.history.embed(row), state)
        outputs = (hidden @ policy.posterior.weight.T + policy.posterior.bias)[0]
        mean, log_variance = outputs[: policy.latent], outputs[policy.latent :]
        posterior = Normal(mean, torch.exp(0.5 * log_variance))
        latent = mean + torch.exp(0.5 * log_variance) * more.drawn.noise[t, n, time]
        bound = -settings.kl_weight * kl_divergence(posterior, before).sum()
        for place, step in enumerate(steps):
            if step >= length:
                continue
            one = [p[t, n, place].unsqueeze(0) for p in (more.before, more.actions, more.after)]
            reward, observation = decoders(latent.unsqueeze(0), *one)
            bound = bound + likelihood(reward[0, 0], more.rewards[t, n, place])
            if observation is not None:
                own = likelihood(observation[0, 0], more.observations[t, n, place])
                bound = bound + settings.observation_weight * own
        total = total - bound
        before = posterior
    return total / length**2


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"observation_weight": 0.7}], ids=["rewards", "both"])
def test_the_bound_is_that_of_a_loop_over_times_and_steps(name, settings):
    learner = make(FAMILIES[name], **ALL, **settings)
    inputs = double(prepared(learner))
    learner.double()
    found = learner.read(inputs).losses
    expected = torch.stack(
        [sum(reference(learner, inputs, t, n) for n in range(N)) / N for t in range(T)]
    )
    torch.testing.assert_close(found, learner.settings.elbo_weight * expected)


def test_divergences_are_those_of_successive_posteriors():
    generator = torch.Generator().manual_seed(0)
    mean, log_std = torch.randn(2, 2, 1, 4, 3, generator=generator)
    found = divergences(Gaussian(mean, log_std))[0, 0]
    successive = [Normal(torch.zeros(3), torch.ones(3))]
    successive += [Normal(mean[0, 0, t], log_std[0, 0, t].exp()) for t in range(4)]
    for t in range(4):
        expected = kl_divergence(successive[t + 1], successive[t]).sum()
        torch.testing.assert_close(found[t], expected)
    same = divergences(Gaussian(mean[:, :, :1].expand_as(mean), log_std[:, :, :1].expand_as(mean)))
    assert (same[0, :, 1:].abs() < 1e-5).all() and (same[:, :, 0] > 0).all()


def test_steps_are_chosen_without_repetition_and_none_after_the_end():
    mask = (torch.arange(9) < torch.tensor([[9], [5], [2]])).float().view(3, 1, 9)
    steps, weights = choose(mask, torch.rand(3, 1, 9, generator=torch.Generator()), 4)
    assert all(row.unique().numel() == 4 for row in steps.flatten(0, 1))
    lengths = mask.sum(2, keepdim=True)
    assert ((steps < lengths) == (weights > 0)).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(3, 1))
    assert (weights > 0).sum(2).tolist() == [[4], [4], [2]]


def test_a_choice_of_steps_has_the_mean_of_all():
    """20 000 choices of 3 of 7 steps; their mean is within 5 standard errors."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(7, generator=generator).expand(1, 20_000, 7)
    mask = (torch.arange(7) < 6).float().expand_as(values)
    steps, weights = choose(mask, torch.rand(values.shape, generator=generator), 3)
    means = (at(values, steps) * weights).sum(2)
    error = means.std() / math.sqrt(means.numel())
    assert (means.mean() - values[0, 0, :6].mean()).abs() < 5 * error


@pytest.mark.slow
def test_few_terms_estimate_the_bound_of_all():
    """Over 300 draws of times and steps, with the noise of the latent at 0."""
    family = FAMILIES["early ends"]
    whole, few = make(family, **ALL), make(family, elbo_terms=2, decoded_steps=3)
    for learner in (whole, few):
        prepared(learner)  # starts the statistics of its units
    inputs = quiet(prepared(whole))
    expected = whole.read(inputs).losses
    assert expected is not None
    found = []
    for seed in range(300):
        again = quiet(prepared(few, draws=seed))
        assert torch.equal(again.trials.rewards, inputs.trials.rewards)
        found.append(few.read(again).losses.detach())
    means = torch.stack(found)
    error = means.std(0) / math.sqrt(len(found))
    assert ((means.mean(0) - expected).abs() < 5 * error + 1e-6).all()


def quiet(inputs):
    """The same inputs, with the noise of the latents at 0."""
    drawn = inputs.more.drawn
    drawn = drawn._replace(noise=torch.zeros_like(drawn.noise))
    return replace(inputs, more=inputs.more._replace(drawn=drawn))
