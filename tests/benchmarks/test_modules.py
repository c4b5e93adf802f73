"""The forms of the benchmark of modules compute the same meta-gradient."""

import pytest
import torch

from benchmarks import modules
from benchmarks.modules import ModulesBenchmark, build
from metarl.adaptation import MAML, GradientLearner
from metarl.models import from_module

SETTINGS = ModulesBenchmark(tasks=2, filters=4)


@pytest.mark.parametrize("form", ["own", "module", "vmap", "loop"])
def test_an_iteration_of_every_form_trains_conv4(form, monkeypatch):
    built = []
    for name in ("own", "network"):
        make = getattr(modules, name)
        monkeypatch.setattr(
            modules, name, lambda *a, make=make: built.append(make(*a)) or built[-1]
        )
    iteration = build(SETTINGS, "conv4", form)
    before = [p.detach().clone() for p in built[-1].parameters()]
    iteration()
    assert any(not torch.equal(b, p) for b, p in zip(before, built[-1].parameters(), strict=True))


@pytest.mark.parametrize("name", ["conv4", "resnet", "vit", "lstm"])
def test_the_ways_give_the_same_losses(name):
    tasks = modules.RandomExamples(modules.SHAPES[name]).sample(2, torch.Generator().manual_seed(0))
    losses = []
    for way in (None, "vmap"):
        net = from_module(modules.network(name, 4), way=way)
        learner = GradientLearner(MAML(net, 0.1))
        losses.append(learner(learner.collect(tasks, torch.Generator(), 0)).losses)
        assert (": task-batched" in net.explain()) == (way is None)
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)
