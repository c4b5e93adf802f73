import pytest
import torch

from metarl.rl.distributions import Categorical, Gaussian
from metarl.rl.fisher import fisher_product, flatten, unflatten

INPUTS = torch.linspace(-1, 1, 12, dtype=torch.float64).view(2, 6)  # 2 tasks, 6 places


def gaussian(theta):
    """Means and deviations after one gradient step per task, from parameters of 4 numbers."""
    weight, bias, log_std = theta[0], theta[1:3], theta[3]
    hidden = torch.tanh(INPUTS * weight + bias[0])
    slope = torch.autograd.grad(
        (hidden.square() - bias[1]).square().sum(), weight, create_graph=True
    )
    mean = torch.tanh(INPUTS * (weight - 0.1 * slope[0]) + bias[0]) * bias[1]
    return Gaussian(mean.unsqueeze(-1), (log_std * weight).view(1, 1, 1))


def categorical(theta):
    features = torch.stack(
        (INPUTS.sin() * theta[0] * theta[1], INPUTS * theta[2], theta[3] ** 2 * INPUTS), -1
    )
    return Categorical(features)


@pytest.mark.parametrize("make", [gaussian, categorical])
def test_the_product_is_that_of_the_dense_hessian_of_the_divergence(make, generator):
    theta = torch.tensor([0.7, -0.4, 1.3, -0.2], dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 6, generator=generator, dtype=torch.float64)
    old = type(make(theta))(*(t.detach() for t in make(theta)))
    dense = torch.autograd.functional.hessian(
        lambda point: (old.kl(make(point)) * weights).sum(), theta.detach()
    )
    product = fisher_product(make(theta), weights, [theta])
    columns = torch.stack([product(e) for e in torch.eye(4, dtype=torch.float64)], 1)
    torch.testing.assert_close(columns, dense, rtol=1e-8, atol=1e-10)
    assert torch.linalg.eigvalsh(dense).max() > 0.1  # not a comparison of zeros


def test_parameters_that_play_no_part_get_zeros(generator):
    theta = torch.tensor([0.7, -0.4, 1.3, -0.2], dtype=torch.float64, requires_grad=True)
    idle = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    product = fisher_product(gaussian(theta), torch.ones(2, 6, dtype=torch.float64), [theta, idle])
    result = product(torch.ones(6, dtype=torch.float64))
    assert torch.equal(result[4:], torch.zeros(2, dtype=torch.float64))
    assert result[:4].abs().min() > 0


def test_vectors_are_cut_as_they_were_joined(generator):
    tensors = [torch.randn(2, 3, generator=generator), torch.randn(4, generator=generator)]
    back = unflatten(flatten(tensors), tensors)
    assert all(torch.equal(a, b) for a, b in zip(tensors, back, strict=True))
