"""Distributions over actions against torch's own."""

import pytest
import torch
from torch import distributions as reference

from metarl.rl.distributions import Bernoulli, Categorical, Gaussian, Joint
from metarl.rl.fisher import fisher_product
from metarl.trees import map_tensors, take_tasks

SHAPE = (3, 4, 5)


@pytest.fixture
def gaussians(generator):
    """Two sets of distributions of 2 action dimensions; the deviations of the tasks."""
    means = torch.randn(2, *SHAPE, 2, generator=generator, dtype=torch.double)
    log_stds = 0.5 * torch.randn(2, 3, 1, 1, 2, generator=generator, dtype=torch.double)
    return Gaussian(means[0], log_stds[0]), Gaussian(means[1], log_stds[1])


@pytest.fixture
def categoricals(generator):
    logits = 2 * torch.randn(2, *SHAPE, 4, generator=generator, dtype=torch.double)
    return Categorical(logits[0]), Categorical(logits[1])


@pytest.fixture
def bernoullis(generator):
    logits = 2 * torch.randn(2, *SHAPE, 3, generator=generator, dtype=torch.double)
    return Bernoulli(logits[0]), Bernoulli(logits[1])


@pytest.fixture
def joints(gaussians, categoricals, bernoullis):
    """Actions of 2 numbers, a choice of 4, 3 switches and the choice once more."""
    pairs = zip(gaussians, categoricals, bernoullis, categoricals, strict=True)
    return tuple(map(Joint, pairs))


@pytest.fixture(params=["gaussians", "categoricals", "bernoullis"])
def pair(request):
    return request.getfixturevalue(request.param)


def torchs(distribution):
    if isinstance(distribution, Categorical):
        return reference.Categorical(logits=distribution.logits)
    if isinstance(distribution, Bernoulli):
        return reference.Independent(reference.Bernoulli(logits=distribution.logits), 1)
    std = distribution.log_std.exp().expand_as(distribution.mean)
    return reference.Independent(reference.Normal(distribution.mean, std), 1)


def test_densities_entropies_and_divergences_are_torchs(pair):
    own, other = pair
    actions = torchs(own).sample()
    torch.testing.assert_close(own.log_prob(actions), torchs(own).log_prob(actions))
    torch.testing.assert_close(other.log_prob(actions), torchs(other).log_prob(actions))
    torch.testing.assert_close(own.entropy(), torchs(own).entropy())
    expected = reference.kl_divergence(torchs(own), torchs(other))
    torch.testing.assert_close(own.kl(other), expected)
    assert own.kl(other).shape == own.entropy().shape == own.log_prob(actions).shape == SHAPE


def test_the_divergence_is_zero_and_flat_where_both_are_the_same(pair):
    own = map_tensors(lambda t: t.requires_grad_(), pair[0])
    old = map_tensors(torch.Tensor.detach, own)
    for divergence in (old.kl(own), own.kl(old)):
        torch.testing.assert_close(divergence, torch.zeros(SHAPE, dtype=torch.double))
        for slope in torch.autograd.grad(divergence.sum(), list(own)):
            torch.testing.assert_close(slope, torch.zeros_like(slope))


def test_the_divergence_is_from_the_first_to_the_second(pair):
    own, other = pair
    assert not torch.allclose(own.kl(other), other.kl(own))


def test_dimensions_of_an_action_are_independent(gaussians):
    own, _ = gaussians
    actions = own.mean + 0.3
    parts = [Gaussian(own.mean[..., [i]], own.log_std[..., [i]]) for i in range(2)]
    total = sum(part.log_prob(actions[..., [i]]) for i, part in enumerate(parts))
    torch.testing.assert_close(own.log_prob(actions), total)


def test_the_score_has_mean_zero_and_the_fishers_variance(generator):
    mean = torch.zeros(1, 100_000, 1, dtype=torch.double, requires_grad=True)
    own = Gaussian(mean, torch.full((1, 1, 1), 0.5, dtype=torch.double))
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.double)
    actions = own.sample(noise).detach()
    (score,) = torch.autograd.grad(own.log_prob(actions).sum(), mean)
    assert score.mean().abs() < 0.01
    assert score.var().item() == pytest.approx(torch.exp(torch.tensor(-1.0)).item(), rel=0.02)


def test_gaussian_samples_are_shifted_and_scaled_noise(gaussians, generator):
    own, _ = gaussians
    noise = torch.randn(*SHAPE, 2, generator=generator, dtype=torch.double)
    torch.testing.assert_close(own.sample(noise), own.mean + own.log_std.exp() * noise)
    torch.testing.assert_close(own.sample(torch.zeros_like(noise)), own.mode())


def test_categorical_samples_come_as_often_as_they_are_likely(generator):
    logits = torch.tensor([[0.0, 1.0, -1.0, 2.0], [3.0, 0.0, 0.0, 0.0]])
    noise = torch.rand(2, 100_000, generator=generator)
    drawn = Categorical(logits.unsqueeze(1)).sample(noise)
    assert drawn.dtype == torch.int64
    shares = torch.stack([(drawn == i).float().mean(1) for i in range(4)], 1)
    torch.testing.assert_close(shares, logits.softmax(1), rtol=0, atol=0.005)


def test_categorical_sampling_inverts_the_cumulative_probabilities():
    own = Categorical(torch.tensor([0.25, 0.5, 0.25]).log().expand(4, 3))
    noise = torch.tensor([0.0, 0.2499, 0.2501, 0.7501])
    assert own.sample(noise).tolist() == [0, 0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_actions_of_probability_zero_are_never_drawn(dtype):
    least, most = 0.0, 1 - torch.finfo(dtype).eps / 2
    noise = torch.tensor([least, most], dtype=dtype)
    for seed in range(200):
        logits = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=dtype)
        logits[[0, 4]] = -torch.inf
        drawn = Categorical(logits.expand(2, 5)).sample(noise)
        assert ((drawn > 0) & (drawn < 4)).all()


def test_the_mode_is_the_likeliest(pair):
    own, _ = pair
    best = own.log_prob(own.mode())
    assert (best >= own.log_prob(torchs(own).sample())).all()


def test_tasks_are_cut_out_of_a_distribution(pair):
    own, _ = pair
    actions = own.mode()
    cut = take_tasks(own, 1, 3)
    torch.testing.assert_close(cut.log_prob(actions[1:3]), own.log_prob(actions)[1:3])


def test_switches_are_sampled_as_often_as_they_are_likely(generator):
    own = Bernoulli(torch.tensor([[-2.0, 0.0, 3.0]]))
    actions = own.sample(torch.rand(20_000, 3, generator=generator))
    torch.testing.assert_close(actions.mean(0), own.logits.sigmoid()[0], atol=0.01, rtol=0)
    assert own.mode().tolist() == [[0, 0, 1]]


def test_a_joint_is_the_sum_of_its_parts(joints, generator):
    own, other = joints
    noise = torch.rand(*SHAPE, 7, generator=generator, dtype=torch.double)
    actions = own.sample(noise)
    assert actions.shape == (*SHAPE, 7)
    places = (slice(0, 2), 2, slice(3, 6), 6)
    for part, place in zip(own.parts, places, strict=True):
        torch.testing.assert_close(actions[..., place], part.sample(noise[..., place]).double())
    expected = sum(
        torchs(part).log_prob(actions[..., place].double())
        for part, place in zip(own.parts, places, strict=True)
    )
    torch.testing.assert_close(own.log_prob(actions), expected)
    torch.testing.assert_close(own.entropy(), sum(torchs(p).entropy() for p in own.parts))
    divergence = sum(
        reference.kl_divergence(torchs(p), torchs(q))
        for p, q in zip(own.parts, other.parts, strict=True)
    )
    torch.testing.assert_close(own.kl(other), divergence)
    assert own.mode()[..., 2].equal(own.parts[1].mode().double())
    assert take_tasks(own, 1, 3).log_prob(actions[1:3]).equal(own.log_prob(actions)[1:3])


def test_the_fisher_product_of_a_joint_is_the_hessian_of_its_divergence(generator):
    theta = torch.randn(9, generator=generator, dtype=torch.double, requires_grad=True)
    features = torch.randn(5, 2, 9, generator=generator, dtype=torch.double)

    def joint(theta):
        gaussian = Gaussian((features * theta).sum(-1, keepdim=True), theta[:1].view(1, 1, 1))
        choice = Categorical(theta[:3] * features[..., :3])
        return Joint((gaussian, choice, Bernoulli(torch.sin(theta[3:5]) + features[..., 3:5])))

    weights = torch.full((5, 2), 0.1, dtype=torch.double)
    old = map_tensors(torch.Tensor.detach, joint(theta))
    hessian = torch.autograd.functional.hessian(
        lambda t: (old.kl(joint(t)) * weights).sum(), theta.detach()
    )
    product = fisher_product(joint(theta), weights, [theta])
    vector = torch.randn(9, generator=generator, dtype=torch.double)
    torch.testing.assert_close(product(vector), hessian @ vector)


def test_the_score_of_a_joint_has_mean_zero(generator):
    logits = torch.zeros(1, 3).requires_grad_()
    rows = logits.expand(50_000, 3)
    own = Joint((Categorical(rows), Bernoulli(rows[:, :2]), Gaussian(rows, rows)))
    noise = torch.cat(
        (torch.rand(50_000, 3, generator=generator), torch.randn(50_000, 3, generator=generator)), 1
    )
    actions = own.sample(noise).detach()
    (score,) = torch.autograd.grad(own.log_prob(actions).mean(), logits)
    torch.testing.assert_close(score, torch.zeros_like(score), atol=0.03, rtol=0)
