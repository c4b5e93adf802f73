"""Meta-gradients captured as graphs equal those that are computed eagerly."""

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl import adaptation
from metarl.adaptation import MetaInputs, MetaLoss
from metarl.cuda_graphs import CudaDriver
from metarl.devices import seeded_generator
from metarl.errors import SettingsError, ShapeError
from metarl.models import MLP
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.tasks import Sine
from metarl.training import TrainingSettings
from metarl.training.meta_gradient import MetaGradient
from metarl.training.meta_step import MetaStep
from metarl.training.trust_region import TrustRegionSettings, TrustRegionUpdate
from tests.devices import on_cuda
from tests.gradient_learners import MAML, LSTMMetaLearner, MAMLPlusPlus, MetaSGD, Reptile
from tests.graph_recorder import Recorder

TASKS = 3


def network(seed=0):
    return MLP((1, 8, 1), torch.Generator().manual_seed(seed))


def lstm():
    return LSTMMetaLearner(network(), torch.Generator().manual_seed(1), steps=2)


LEARNERS = {
    "maml": lambda: MAML(network(), 0.05, 2),
    "maml++": lambda: MAMLPlusPlus(network(), steps=2),
    "meta-sgd": lambda: MetaSGD(network(), torch.Generator().manual_seed(1)),
    "reptile": lambda: Reptile(network(), steps=2),
    "lstm": lstm,
}


def compare(learner, tasks, settings, recorder=None, device="cpu"):
    """Trains a learner for three iterations; compares the gradients of each with a graph's."""
    generator, recorder = torch.Generator(device).manual_seed(2), recorder or Recorder()
    graphed = MetaGradient(learner, settings, recorder)
    eager, step = MetaGradient(learner, settings), MetaStep(learner, settings)
    for iteration in range(3):
        inputs = learner.collect(tasks.sample(TASKS, generator), generator, iteration)
        results = []
        for gradient in (graphed, eager):
            found = gradient(inputs)
            results.append(([p.grad for p in gradient.params], found.result, found.norm))
        torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)
        learner.after_update(step(inputs, iteration).carry)
    return recorder


@pytest.mark.parametrize("name", LEARNERS)
def test_supervised_learners(name):
    recorder = compare(LEARNERS[name](), Sine(), TrainingSettings(meta_batch_size=TASKS))
    assert recorder.captures == 1
    assert recorder.replays == 3


def test_chunks_of_two_sizes_have_a_graph_each():
    settings = TrainingSettings(meta_batch_size=TASKS, task_chunk_size=2)
    recorder = compare(LEARNERS["maml"](), Sine(), settings)
    assert recorder.captures == 2


def policy_learner(family):
    policy = policy_for(family, torch.Generator().manual_seed(0), hidden=(8,))
    settings = PolicyGradientSettings(trajectories=4)
    return PolicyLearner(adaptation.MAML(policy, 0.1), family, settings)


def test_policies():
    family = Navigation2D(horizon=5)
    learner = policy_learner(family)
    recorder = compare(learner, family, TrainingSettings(meta_batch_size=TASKS))
    assert recorder.captures == 1


@pytest.mark.parametrize("support", [2, None])
def test_trust_regions(support):
    family, training = Navigation2D(horizon=5), TrainingSettings(meta_batch_size=TASKS)
    settings = TrustRegionSettings(
        fisher_trajectories=2, fisher_support=support, damping=0.01, cg_iterations=4
    )
    parameters, recorder = [], Recorder()
    for driver in (recorder, None):
        learner = policy_learner(family)
        update = TrustRegionUpdate(learner, training, settings, driver)
        generator = torch.Generator().manual_seed(2)
        for iteration in range(3):
            inputs = learner.collect(family.sample(TASKS, generator), generator, iteration)
            result = update(inputs, iteration)
            assert result.metrics["meta/line_search/accepted"] == 1
        parameters.append(torch.cat([p.detach().flatten() for p in learner.parameters()]))
    assert torch.equal(*parameters)
    assert recorder.captures <= 2  # the step with its first try, a further try if needed


@pytest.mark.gpu
@pytest.mark.parametrize("name", LEARNERS)
def test_cuda_graphs_are_not_refused(name):
    learner = LEARNERS[name]().to(on_cuda())
    settings = TrainingSettings(meta_batch_size=TASKS, workers=2)  # the other side: no graph
    compare(learner, Sine(), settings, CudaDriver(), "cuda")
    gradient = MetaGradient(learner, TrainingSettings())
    generator = seeded_generator("cuda", 0)
    gradient(learner.collect(Sine().sample(TASKS, generator), generator, 0))
    assert gradient.graphed is not None
    assert gradient.graphed.refused is None


class Returning(torch.nn.Module):
    """A learner of which `forward` returns what a function makes of the losses."""

    def __init__(self, function):
        super().__init__()
        self.net, self.function = torch.nn.Linear(1, 1), function

    def forward(self, inputs):
        outputs = self.net(inputs.tasks.support.inputs)
        return self.function((outputs - inputs.tasks.support.targets).square())


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda squares: MetaLoss(squares.mean(), {}, {}), ShapeError, r"\[3\], got \[\]"),
        (lambda squares: MetaLoss(squares.mean(2), {}, {}), ShapeError, r"\[3\], got \[3, 10\]"),
        (lambda squares: squares.mean((1, 2)), SettingsError, "MetaLoss.*, got a Tensor"),
    ],
)
def test_learners_of_the_user_return_a_loss_per_task(function, error, message):
    tasks = Sine().sample(TASKS, torch.Generator().manual_seed(0))
    gradient = MetaGradient(Returning(function), TrainingSettings(task_chunk_size=100))
    with pytest.raises(error, match=f"Returning.*{message}"):
        gradient(MetaInputs(tasks))
