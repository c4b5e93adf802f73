"""Small runs of the library alone, without an experiment."""

from types import SimpleNamespace

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation import MAML, GradientLearner
from metarl.models import MLP
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl.problem import ControlProblem
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.rl.trials.varibad import VariBADAlgorithm
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings

SHORT = TrainingSettings(
    iterations=2, meta_batch_size=2, log_every=1, eval_every=0, checkpoint_every=1, threads=1
)


def train(learner, tasks, folder):
    """Trains for two iterations; returns the learner and the run folder."""
    loop = OuterLoop(learner, tasks, SHORT, folder)
    loop.run()
    loop.logger.close()
    return learner, folder


def make_policy_learner(family, algorithm=MAML, trajectories=3, hidden=(8,), **options):
    generator = torch.Generator().manual_seed(0)
    policy = policy_for(family, generator, hidden, **options)
    settings = PolicyGradientSettings(trajectories)
    return PolicyLearner(algorithm(policy, inner_lr=0.1), family, settings)


@pytest.fixture(scope="session")
def sine_run(tmp_path_factory):
    network = MLP((1, 8, 1), torch.Generator().manual_seed(0))
    learner = GradientLearner(MAML(network, inner_lr=0.01))
    return train(learner, Sine(5, 5), tmp_path_factory.mktemp("sine_run"))


@pytest.fixture(scope="session")
def point_run(tmp_path_factory):
    learner = make_policy_learner(Navigation2D(horizon=6))
    return train(learner, Navigation2D(horizon=6), tmp_path_factory.mktemp("point_run"))


def train_trials(algorithm, folder):
    """Trains an algorithm with a memory of trials."""
    family, generator = Navigation2D(horizon=6), torch.Generator().manual_seed(0)
    gradients = PolicyGradientSettings(trajectories=1, clip=0.2)
    learner = algorithm.build(ControlProblem(family, generator, gradients, ()))
    return train(learner, family, folder)


@pytest.fixture(scope="session")
def memory_run(tmp_path_factory):
    return train_trials(RL2Algorithm(2, 6), tmp_path_factory.mktemp("memory_run"))


@pytest.fixture(scope="session")
def belief_run(tmp_path_factory):
    algorithm = VariBADAlgorithm(2, 6, latent=3, decoder=(4,), observation_weight=0.5)
    return train_trials(algorithm, tmp_path_factory.mktemp("belief_run"))


HORIZON = 6


def exported_policy(family, folder, **settings):
    """A policy that adapts by gradients, and the folder of its export."""
    from metarl.deploy.export.adaptation import export_adaptation
    from tests.deploy.export.test_adaptation import RULES, needs_onnx, policy_learner

    needs_onnx()
    generator = torch.Generator().manual_seed(0)
    learner = policy_learner(family, RULES["maml"], generator, **settings)
    learner.collect(family.sample(1, generator), generator, 0)  # starts running statistics
    export_adaptation(learner, folder)
    return SimpleNamespace(learner=learner, folder=folder)


@pytest.fixture(scope="session")
def robot(tmp_path_factory):
    """A policy with own units, whose episodes may end early, and its export."""
    from tests.deploy.export.test_adaptation import OwnUnits

    return exported_policy(OwnUnits(horizon=HORIZON), tmp_path_factory.mktemp("robot") / "out")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run of an installed experiment."""
    from tests.commands.conftest import train as trained_by

    return {"sine": trained_by("sine", tmp_path_factory.mktemp("sine"))}
