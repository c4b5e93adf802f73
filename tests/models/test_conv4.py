"""Conv4: shapes, errors, and its meta-gradient against finite differences and torch's layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Statistics, task_params
from metarl.models.conv4 import Conv4

TASKS, IMAGES, WAYS, SIZE = 3, 4, 3, 16
INNER_LR = 0.05


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def make_model(generator, pooling):
    model = Conv4(WAYS, generator, 2, SIZE, filters=4, pooling=pooling).double()
    with torch.no_grad():  # a head of standard deviation 1 makes every gradient count
        model.head.weight.mul_(100)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
            if name.endswith("norm.weight"):  # signs of the scale move into the filters
                parameter[1] *= -1
    return model


@pytest.fixture(params=["max", "stride"])
def model(request, generator):
    return make_model(generator, request.param)


@pytest.fixture
def episodes(generator):
    shape = (2, TASKS, IMAGES, 2, SIZE, SIZE)
    images = torch.randn(shape, generator=generator, dtype=torch.double)
    labels = torch.randint(WAYS, shape[:3], generator=generator)
    return (images[0], labels[0]), (images[1], labels[1])


def loss_of(model, params, episode):
    images, labels = episode
    logits = model(params, images)
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum") / IMAGES


def meta_loss(model, theta, episodes, steps):
    params = {n: p.unsqueeze(0).expand(TASKS, *p.shape) for n, p in theta.items()}
    for _ in range(steps):
        loss = loss_of(model, params, episodes[0])
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {n: p - INNER_LR * g for (n, p), g in zip(params.items(), grads, strict=True)}
    return loss_of(model, params, episodes[1])


class TorchConv4(nn.Module):
    """The same network of one task, from torch's layers and with its parameter names."""

    def __init__(self, pooling):
        super().__init__()
        stride = 2 if pooling == "stride" else 1
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "conv": nn.Conv2d(2 if i == 0 else 4, 4, 3, stride, 1, bias=False),
                    "norm": nn.BatchNorm2d(4, track_running_stats=False),
                }
            )
            for i in range(4)
        )
        self.head = nn.Linear(4, WAYS)
        self.pool = nn.MaxPool2d(2) if pooling == "max" else nn.Identity()

    def forward(self, images):
        for block in self.blocks:
            assert isinstance(block, nn.ModuleDict)
            images = self.pool(torch.relu(block["norm"](block["conv"](images))))
        return self.head(images.mean((2, 3)))


def torch_meta_loss(net, theta, episodes, steps, task):
    (support, support_labels), (query, query_labels) = episodes
    params = dict(theta)
    for _ in range(steps):
        loss = F.cross_entropy(functional_call(net, params, support[task]), support_labels[task])
        grads = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        params = {n: p - INNER_LR * g for (n, p), g in zip(params.items(), grads, strict=True)}
    return F.cross_entropy(functional_call(net, params, query[task]), query_labels[task])


def test_names_and_layouts_are_those_of_torch(model):
    net = TorchConv4(model.pooling).double()
    net.load_state_dict(model.state_dict())
    shapes = {n: p.shape for n, p in model.named_parameters()}
    assert {n: p.shape for n, p in net.named_parameters()} == shapes


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_meta_gradient_equals_that_of_a_loop_over_torch_layers(model, episodes, steps):
    theta = dict(model.named_parameters())
    loss = meta_loss(model, theta, episodes, steps)
    grads = torch.autograd.grad(loss, list(theta.values()))
    net = TorchConv4(model.pooling).double()
    losses = [torch_meta_loss(net, theta, episodes, steps, t) for t in range(TASKS)]
    expected = torch.autograd.grad(torch.stack(losses).sum(), list(theta.values()))
    torch.testing.assert_close(loss, torch.stack(losses).sum())
    for got, want in zip(grads, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2])
def test_meta_gradient_equals_finite_differences(model, episodes, generator, steps):
    theta = dict(model.named_parameters())
    loss = meta_loss(model, theta, episodes, steps)
    grads = torch.autograd.grad(loss, list(theta.values()))
    # Steps small enough to meet no kink of ReLU or max-pool: 1e-6 is not.
    for (name, value), grad in zip(theta.items(), grads, strict=True):
        direction = torch.randn(value.shape, generator=generator, dtype=torch.double)
        ends = []
        for sign in (1, -1):
            moved = theta | {name: value + sign * 1e-7 * direction}
            ends.append(meta_loss(model, moved, episodes, steps).detach())
        slope = (ends[0] - ends[1]) / 2e-7
        torch.testing.assert_close((grad * direction).sum(), slope, rtol=1e-4, atol=1e-6)


def test_tasks_do_not_mix(model, episodes):
    images = episodes[0][0]
    params = task_params(model, TASKS)
    together = model(params, images)
    alone = torch.cat([model(task_params(model, 1), images[t : t + 1]) for t in range(TASKS)])
    torch.testing.assert_close(together, alone)


def test_recorded_statistics_make_queries_independent(model, episodes):
    params = task_params(model, TASKS)
    statistics = Statistics(momentum=1.0)
    recorded = model(params, episodes[0][0], statistics)
    torch.testing.assert_close(recorded, model(params, episodes[0][0]))
    assert sorted(statistics.values) == [f"blocks.{i}.norm" for i in range(4)]
    assert all(v.shape == (TASKS, 4) for pair in statistics.values.values() for v in pair)
    statistics.recording = False
    queries = episodes[1][0]
    together = model(params, queries, statistics)
    alone = torch.cat([model(params, queries[:, n : n + 1], statistics) for n in range(IMAGES)], 1)
    torch.testing.assert_close(together, alone)
    assert not torch.allclose(together, model(params, queries))
    torch.testing.assert_close(model(params, episodes[0][0], statistics), recorded)


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    first, same, other = (
        Conv4(5, torch.Generator().manual_seed(seed)).state_dict() for seed in (1, 1, 2)
    )
    for name, value in first.items():
        assert torch.equal(value, same[name])
    assert not torch.equal(first["blocks.3.conv.weight"], other["blocks.3.conv.weight"])


def test_initial_matches_the_parameters(generator):
    model = Conv4(5, generator, in_channels=3, image_size=84, filters=32)
    drawn = model.initial(generator)
    shapes = {n: p.shape for n, p in model.named_parameters()}
    assert {n: p.shape for n, p in drawn.items()} == shapes
    assert shapes["head.weight"] == (5, 32 * 25)
    assert model(task_params(model, 2), torch.zeros(2, 1, 3, 84, 84)).shape == (2, 1, 5)


def test_initial_draws_other_parameters_for_every_task(generator):
    model = Conv4(5, generator, in_channels=3, image_size=16)
    drawn = model.initial(generator, num_tasks=2)
    for name, parameter in model.named_parameters():
        assert drawn[name].shape == (2, *parameter.shape), name
        if "norm" not in name and "bias" not in name:
            first, second = drawn[name]
            assert first.stride() == parameter.stride() and (first != second).all()
            assert first.std().item() == pytest.approx(parameter.std().item(), rel=0.15), name
        else:
            assert torch.equal(drawn[name], parameter.expand(2, *parameter.shape))
    assert model(drawn, torch.zeros(2, 1, 3, 16, 16)).shape == (2, 1, 5)


@pytest.mark.parametrize(("tasks", "dtype"), [(1, torch.float64), (2, torch.float64), (4, None)])
def test_parameters_that_do_not_fit_the_images_are_refused(model, tasks, dtype):
    with pytest.raises(ShapeError, match=f"got {tasks} tasks|got torch.float32"):
        model(task_params(model, tasks), torch.zeros(4, 2, 2, SIZE, SIZE, dtype=dtype))


@pytest.mark.parametrize("shape", [(1, 2, 3, 16, 16), (1, 2, 2, 20, 16), (2, 2, 16, 16)])
def test_wrong_images_are_refused_with_a_remedy(model, shape):
    with pytest.raises(ShapeError, match="build Conv4 with"):
        model(task_params(model, 1), torch.zeros(shape, dtype=torch.double))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pooling": "mean"}, "pooling"),
        ({"image_size": 15}, "at least 16"),
        ({"filters": 0}, "positive"),
        ({"eps": 0.0}, "positive"),
    ],
)
def test_impossible_settings_are_refused(generator, settings, message):
    with pytest.raises(SettingsError, match=message):
        Conv4(5, generator, **settings)


def test_autocast_leaves_convolutions_in_the_type_of_the_weights(generator):
    model = Conv4(WAYS, generator, 1, SIZE, filters=4)
    params = task_params(model, TASKS)
    images = torch.randn(TASKS, IMAGES, 1, SIZE, SIZE, generator=generator)
    expected = model(params, images)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = model(params, images)
    torch.testing.assert_close(outputs.float(), expected, rtol=0.05, atol=0.01)
    outputs.float().square().sum().backward()
    assert model.head.weight.grad is not None
