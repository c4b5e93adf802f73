"""The loops that MetaRL is measured against compute what MetaRL computes."""

import pytest
import torch

from benchmarks import loops, omniglot
from metarl.adaptation.algorithms.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.models import MLP
from metarl.models.conv4 import Conv4
from metarl.tasks import Examples, TaskBatch
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep
from tests.gradient_learners import MAML, LSTMMetaLearner, Reptile


@pytest.fixture
def tasks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tasks = [loops.sine_task(10, 10) for _ in range(5)]
    return [loops.Task(*(t.double() for t in task)) for task in tasks]


def mlp():
    return MLP((1, 20, 20, 1), torch.Generator().manual_seed(0)).double()


def check_gradients(learner, tasks, params):
    """Compares the gradients that a loop left in `params` with those of the meta-step."""
    batch = [torch.stack(tensors) for tensors in zip(*tasks, strict=True)]
    batch = TaskBatch(Examples(*batch[:2]), Examples(*batch[2:]))
    inputs = learner.collect(batch, torch.Generator(), 0)
    MetaStep(learner, TrainingSettings())(inputs, 0)
    expected = list(learner.parameters())
    assert len(expected) == len(params)
    for p, q in zip(expected, params, strict=True):
        size = q.grad.abs().max()
        assert size > 0
        torch.testing.assert_close(p.grad / size, q.grad / size, rtol=0, atol=1e-5)


@pytest.mark.parametrize("second_order", [True, False])
@pytest.mark.parametrize("steps", [1, 3])
def test_maml(second_order, steps, tasks):
    net = loops.sequential(mlp())
    loops.maml(net, 0.01, steps, second_order)(tasks, len(tasks))
    check_gradients(
        MAML(mlp(), 0.01, steps, first_order=not second_order), tasks, list(net.parameters())
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("make", [loops.maml_with_learn2learn, loops.maml_with_higher])
def test_maml_with_libraries(make, tasks):
    net = loops.sequential(mlp())
    gradient = make(net, 0.01, 3)
    if gradient is None:
        pytest.skip("the library is not at hand")
    gradient(tasks, len(tasks))
    check_gradients(MAML(mlp(), 0.01, 3), tasks, list(net.parameters()))


def test_reptile(tasks):
    # One task: the loop's inner Adam is kept from task to task, a batch's tasks start alike.
    net = loops.sequential(mlp())
    inner = torch.optim.Adam(net.parameters(), 0.01, betas=(0.0, 0.999), eps=1e-14)
    loops.reptile(net, inner, 4)(tasks[:1], 1)
    learner = Reptile(mlp(), 0.01, 4).double()
    learner.rule.epsilon = 1e-14  # torch's Adam adds it elsewhere
    check_gradients(learner, tasks[:1], list(net.parameters()))


def test_lstm_meta_learner(tasks):
    net, rule = (
        loops.sequential(mlp()),
        LSTMMetaLearnerRule(torch.Generator().manual_seed(1)).double(),
    )
    loops.lstm_meta_learner(net, rule, 3)(tasks, len(tasks))
    learner = LSTMMetaLearner(mlp(), torch.Generator().manual_seed(1), 3).double()
    check_gradients(learner, tasks, [*net.parameters(), *rule.parameters()])


def test_the_check_notices_another_step_count(tasks):
    net = loops.sequential(mlp())
    loops.maml(net, 0.01, 1)(tasks, len(tasks))
    with pytest.raises(AssertionError):
        check_gradients(MAML(mlp(), 0.01, 2), tasks, list(net.parameters()))


@pytest.mark.parametrize("first_order", [True, False])
def test_maml_on_images(first_order):
    generator = torch.Generator().manual_seed(0)
    batch = omniglot.RandomImages(omniglot.OmniglotBenchmark(way=3)).sample(2, generator)
    rows = [
        t.double() if t.is_floating_point() else t for t in (*batch.support[:2], *batch.query[:2])
    ]
    tasks = [loops.Task(*(t[i] for t in rows)) for i in range(2)]
    net = omniglot.sequential(Conv4(3, torch.Generator().manual_seed(0), filters=4)).double()
    loops.maml(net, 0.4, 1, not first_order)(tasks, 2)
    model = Conv4(3, torch.Generator().manual_seed(0), filters=4).double()
    check_gradients(MAML(model, 0.4, 1, first_order=first_order), tasks, list(net.parameters()))
