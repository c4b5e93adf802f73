"""Modules in the outer loop: workers, compilation, resuming, and every gradient algorithm."""

import pytest
import torch
from torch import nn

from metarl.adaptation import (
    ANIL,
    BOIL,
    FOMAML,
    MAML,
    GradientLearner,
    LearnedOptimizer,
    LSTMMetaLearner,
    MAMLPlusPlus,
    MetaSGD,
    Pretrained,
    Reptile,
    Scratch,
)
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from tests.models.modules.nets import Loops, Tied


def small(untraceable=False):
    torch.manual_seed(0)
    middle = Loops() if untraceable else Tied()
    return nn.Sequential(nn.Linear(1, 3), nn.Dropout(0.2), middle, nn.Linear(3, 1))


def train(folder, net, iterations=3, resume=None, **changes):
    settings = TrainingSettings(
        iterations=iterations, meta_batch_size=4, eval_every=0, device="cpu", **changes
    )
    loop = OuterLoop(MAML(net, inner_lr=0.01), Sine(4, 4), settings, folder, resume=resume)
    loop.run()
    return loop, {n: p.clone() for n, p in net.state_dict().items()}


@pytest.mark.parametrize("untraceable", [False, True])
def test_chunks_in_threads_change_the_order_of_sums_only(untraceable, tmp_path):
    _, weights = train(tmp_path / "a", small(untraceable))
    _, others = train(tmp_path / "b", small(untraceable), workers=2, task_chunk_size=1)
    for name, p in weights.items():
        torch.testing.assert_close(others[name], p, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("untraceable", [False, True])
def test_a_stopped_run_resumes_to_the_bit(untraceable, tmp_path, capsys):
    _, whole = train(tmp_path / "a", small(untraceable), iterations=4)
    loop, _ = train(tmp_path / "b", small(untraceable), iterations=2)
    checkpoint = loop.checkpoints.latest()
    loop.logger.close()
    _, resumed = train(tmp_path / "b", small(untraceable), iterations=4, resume=checkpoint)
    assert all(torch.equal(resumed[n], p) for n, p in whole.items())
    way = "by vmap, because torch.fx cannot trace it" if untraceable else "task-batched"
    assert capsys.readouterr().err.count(f"Sequential: {way}") == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("untraceable", [False, True])
def test_a_compiled_run_has_the_numbers_of_an_eager_one(untraceable, tmp_path):
    _, weights = train(tmp_path / "a", small(untraceable))
    _, others = train(tmp_path / "b", small(untraceable), compile=True)
    for name, p in weights.items():
        torch.testing.assert_close(others[name], p, rtol=1e-4, atol=1e-6)


SEEDED = (MetaSGD, LSTMMetaLearner, LearnedOptimizer)


@pytest.mark.parametrize(
    "algorithm",
    [MAML, FOMAML, ANIL, BOIL, MAMLPlusPlus, Reptile, Pretrained, Scratch, *SEEDED],
    ids=lambda a: getattr(a, "__name__", "FOMAML"),
)
def test_every_gradient_algorithm_takes_a_module(algorithm):
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 1))
    adaptation = algorithm(net, generator) if algorithm in SEEDED else algorithm(net)
    learner = GradientLearner(adaptation)
    tasks = Sine(4, 4).sample(3, generator)
    losses = learner(learner.collect(tasks, generator, 0)).losses
    assert losses.shape == (3,) and losses.isfinite().all()
    if algorithm is not Scratch:
        trained = [p for p in learner.parameters() if p.requires_grad]
        grads = torch.autograd.grad(losses.sum(), trained, allow_unused=True)
        assert any(g is not None and g.abs().sum() > 0 for g in grads)
    *_, adapted = learner.adapt(tasks.support, 2, generator)
    before, after = (
        learner.loss(learner.model(p, tasks.support.inputs), tasks.support.targets).mean()
        for p in (next(learner.adapt(tasks.support, 0, generator)).params, adapted.params)
    )
    assert (
        algorithm in (LSTMMetaLearner, LearnedOptimizer) or after < before or algorithm is Scratch
    )
