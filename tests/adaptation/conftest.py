"""Small tasks and networks in float64, on which derivatives can be checked."""

import pytest
import torch

from metarl.models import MLP
from metarl.models.conv4 import Conv4
from metarl.tasks import Examples, TaskBatch


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def mlp(generator):
    return MLP((1, 6, 1), generator, activation="tanh")


@pytest.fixture
def conv(generator):
    return Conv4(3, generator, filters=3, image_size=16)


@pytest.fixture
def regression(generator):
    x = torch.randn(4, 10, 1, generator=generator)
    slope = torch.randn(4, 1, 1, generator=generator)
    y = slope * x + torch.randn(4, 10, 1, generator=generator)
    return TaskBatch(Examples(x[:, :5], y[:, :5]), Examples(x[:, 5:], y[:, 5:]))


@pytest.fixture
def images(generator):
    x = torch.rand(2, 12, 1, 16, 16, generator=generator)
    labels = torch.arange(3).repeat(2, 2)
    return TaskBatch(Examples(x[:, :6], labels), Examples(x[:, 6:], labels))
