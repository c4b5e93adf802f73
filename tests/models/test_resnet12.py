"""ResNet-12: sizes of the paper, initial weights, and how it runs for many tasks."""

import pytest
import torch

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import SettingsError
from metarl.models import ResNet12, from_module, task_params
from metarl.tasks import Glyphs


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_its_size_is_that_of_the_paper(generator):
    net = ResNet12(0, generator)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(12.4e6, rel=0.01)
    assert not list(net.head.parameters())


def test_its_outputs_and_initial_weights(generator):
    net = ResNet12(5, generator, in_channels=1, widths=(8, 10, 12, 14))
    weight = dict(net.named_parameters())["blocks.3.convolutions.1.weight"]
    assert weight.std().item() == pytest.approx((2 / (1.01 * 14 * 9)) ** 0.5, rel=0.05)
    variance = dict(net.named_buffers())["blocks.0.norms.0.running_var"]
    assert torch.equal(variance, torch.ones(8))
    assert net(torch.randn(3, 1, 28, 28, generator=generator)).shape == (3, 5)
    again = ResNet12(5, torch.Generator().manual_seed(0), in_channels=1, widths=(8, 10, 12, 14))
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))
    with pytest.raises(SettingsError, match="positive in_channels and widths"):
        ResNet12(5, generator, widths=(8, 0, 8, 8))


def test_it_runs_for_all_tasks_at_once(generator):
    net = ResNet12(3, generator, in_channels=1, widths=(2, 3, 4, 5), dropout=0.1)
    tasks = Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6).sample(2, generator)
    model = from_module(net)
    outputs = model(task_params(model, 2), tasks.query.inputs)
    assert "task-batched, all its layers" in model.explain()
    net.blocks.requires_grad_(False)
    for block in net.blocks:
        block.dropout.eval()
    torch.testing.assert_close(outputs[1], net(tasks.query.inputs[1]), rtol=1e-4, atol=1e-5)
    net.requires_grad_()
    learner = GradientLearner(MAML(net, inner_lr=0.1))
    assert learner(learner.collect(tasks, generator, 0)).losses.isfinite().all()
