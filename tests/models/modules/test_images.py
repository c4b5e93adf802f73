"""Convolutions and pooling by `vmap`: values and derivatives of torch, task by task."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.models import from_module
from tests.models.modules.nets import Case, initialised
from tests.models.modules.test_contract import check_against_plain_torch, draw_tasks


class Pooled(nn.Module):
    """Poolings with options, in functional form."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding="same", bias=False)
        self.narrow = nn.Conv2d(3, 3, (1, 2), stride=(2, 1), dilation=(1, 2), groups=3)
        self.head = nn.Linear(3, 3)

    def forward(self, images):
        hidden = F.max_pool2d(self.conv(images), 3, stride=2, padding=1, ceil_mode=True)
        hidden = torch.max_pool2d(self.narrow(hidden), (1, 2), dilation=(1, 1)).tanh()
        return self.head(F.adaptive_avg_pool2d(hidden, (1, 1)).flatten(1))


class Slope(nn.Module):
    """The gradient of convolutions along their inputs, by torch.func in the module."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)
        self.head = nn.Linear(2, 3)

    def forward(self, images):
        def energy(x):
            return F.max_pool2d(self.conv(x).square(), 2).sum()

        return self.head(torch.func.grad(energy)(images).tanh().mean((2, 3)))


class Nested(nn.Module):
    """Its images one by one, by another `vmap`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, images):
        def one(image):
            return F.max_pool2d(self.conv(image.unsqueeze(0)).tanh(), 2).mean((0, 2, 3))

        return torch.vmap(one)(images)


class Single(nn.Module):
    """Convolves images without a dimension of the batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)

    def forward(self, images):
        rows = [F.max_pool2d(self.conv(image), 2).mean((1, 2)) for image in images]
        return torch.stack(rows)


@pytest.mark.parametrize(
    "net", [Pooled(), Slope(), Nested(), Single()], ids=lambda n: type(n).__name__
)
def test_derivatives_by_vmap(net):
    net = initialised(net, torch.Generator().manual_seed(0)).double()
    model = from_module(net, way="vmap")
    check_against_plain_torch(net, draw_tasks(Case(net, (2, 6, 6), "vmap")), 2, model)
    assert "by vmap" in model.explain()
