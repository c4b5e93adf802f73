"""Chunks of tasks that do not fit into a GPU's memory: halved once, said once."""

import pytest
import torch
from metarl_envs.navigation import Navigation2D

from metarl.adaptation.algorithms import MAML
from metarl.chunks import FittingChunks, is_out_of_memory
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.models import MLP
from metarl.rl.policies import policy_for
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.settings import PolicyGradientSettings
from metarl.tasks import Sine
from metarl.training.meta_gradient import MetaGradient
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.training.trust_region import TrustRegionSettings
from tests import gradient_learners
from tests.graph_recorder import Recorder


def too_big(most, error=torch.OutOfMemoryError):
    """A computation that has room for `most` tasks of 10."""
    sizes = []

    def compute(size):
        sizes.append(size)
        if (size or 10) > most:
            raise error("CUDA out of memory. Tried to allocate 2 GiB.")
        return size

    return compute, sizes


def test_what_fits_is_computed_as_it_was_asked(capsys):
    fitting = FittingChunks("rollouts")
    assert fitting(lambda size: size, None, 10) is None
    assert fitting(lambda size: size, 4, 10) == 4
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("size", "half"), [(None, 5), (9, 5), (6, 3), (40, 5)])
def test_the_chunk_is_halved_once_and_stays_so(size, half, capsys):
    fitting = FittingChunks("rollouts")
    compute, sizes = too_big(5)
    assert fitting(compute, size, 10) == half
    printed = capsys.readouterr().err
    assert f"do not fit into the memory; going on with {half} at once" in printed
    assert fitting(compute, size, 10) == half
    assert fitting(compute, 2, 10) == 2
    assert sizes == [size, half, half, 2]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("most", "size"), [(4, None), (0, 1)])
def test_what_does_not_fit_then_is_an_error(most, size):
    with pytest.raises(SettingsError, match=r"task-chunk-size. \(CUDA out of memory"):
        FittingChunks("rollouts")(too_big(most)[0], size, 10)


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="shape"):
        FittingChunks("rollouts")(lambda size: (_ for _ in ()).throw(RuntimeError("shape")), 2, 4)
    warps = RuntimeError("Failed to allocate 80 bytes on device 'cuda:0'")
    assert is_out_of_memory(warps) and not is_out_of_memory(RuntimeError("shape"))


@pytest.fixture
def memory(monkeypatch):
    """Lets `room(module, name, most)` limit how many tasks a method computes at once."""

    def room(owner, name, most, tasks):
        original, seen = getattr(owner, name), []

        def limited(*args, **kwargs):
            seen.append(tasks(*args))
            if seen[-1] > most:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, limited)
        return seen

    return room


def test_a_meta_gradient_is_the_same_in_halves(memory, capsys):
    generator = torch.Generator().manual_seed(0)
    learner = gradient_learners.MAML(MLP((1, 8, 1), generator), 0.01)
    tasks = Sine(4, 4).sample(6, torch.Generator().manual_seed(1))
    inputs = learner.collect(tasks, generator, 0)
    found = []
    for most in (6, 3):
        gradient = MetaGradient(learner, TrainingSettings(task_chunk_size=6))
        seen = memory(gradient, "_gradient", most, lambda chunk, total: chunk.tasks.num_tasks)
        result = gradient(inputs)
        found.append([result.result.losses, *(p.grad.clone() for p in gradient.params)])
    assert seen == [6, 3, 3]
    for value, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert "meta-gradients of 6 tasks at once" in capsys.readouterr().err


def test_a_captured_iteration_falls_back_to_halves(memory, capsys):
    trained = []
    for most in (6, 3):
        learner = gradient_learners.MAML(MLP((1, 8, 1), torch.Generator().manual_seed(0)), 0.01)
        step = MetaStep(learner, TrainingSettings(optimizer="sgd"), driver=Recorder())
        seen = memory(learner, "forward", most, lambda inputs: inputs.tasks.num_tasks)
        for iteration in range(3):
            tasks = Sine(4, 4).sample(6, torch.Generator().manual_seed(iteration))
            assert step(learner.collect(tasks, torch.Generator(), iteration), iteration).finite
        trained.append([p.detach().clone() for p in learner.parameters()])
    assert seen[:2] == [6, 3] and 6 not in seen[1:]
    torch.testing.assert_close(*trained)
    assert "meta-gradients of 6 tasks at once" in capsys.readouterr().err


def policy_learner():
    generator = torch.Generator().manual_seed(0)
    family = Navigation2D(horizon=5)
    adaptation = MAML(policy_for(family, generator, (8,)), 0.1)
    return PolicyLearner(adaptation, family, PolicyGradientSettings(3))


def test_rollouts_are_the_same_in_halves(memory, monkeypatch, capsys):
    found = []
    for most in (4, 2):
        learner = policy_learner()
        seen = memory(learner, "_path_of", most, lambda tasks, *_: tasks.num_tasks)
        tasks = learner.family.sample(4, torch.Generator().manual_seed(1))
        inputs = learner.collect(tasks, torch.Generator().manual_seed(2), 0)
        found.append([e.rollouts.rewards for e in inputs.experience])
    assert seen == [4, 2, 2]
    for value, expected in zip(found[1], found[0], strict=True):
        torch.testing.assert_close(value, expected)
    assert "rollouts of 4 tasks at once" in capsys.readouterr().err


def test_a_trust_region_moves_the_same_in_halves(memory, capsys):
    moved = []
    for most in (4, 2):
        learner = policy_learner()
        tasks = learner.family.sample(4, torch.Generator().manual_seed(1))
        inputs = learner.collect(tasks, torch.Generator().manual_seed(2), 0)
        update = TrustRegionSettings(damping=0.1).build(learner, TrainingSettings())
        seen = memory(
            update, "_chunk_fisher_product", most, lambda _, chunk, total: chunk.tasks.num_tasks
        )
        update._fisher_of_chunk = lambda *args, u=update: u._chunk_fisher_product(u.params, *args)
        update(inputs, 0)
        moved.append([p.detach().clone() for p in update.params])
    assert seen[0] == 4 and set(seen[1:]) == {2}
    for value, expected in zip(moved[1], moved[0], strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert "going on with 2 at once" in capsys.readouterr().err


def test_an_evaluation_starts_again_in_halves(memory, capsys):
    learner = gradient_learners.MAML(MLP((1, 8, 1), torch.Generator().manual_seed(0)), 0.01)
    found = []
    for most in (6, 3):
        seen = memory(learner, "evaluate_metrics", most, lambda tasks, *_: tasks.num_tasks)
        generator = torch.Generator().manual_seed(1)
        curve = adaptation_curve(learner, Sine(), num_tasks=6, steps=2, generator=generator)
        found.append(curve.values)
    assert seen == [6, 3, 3]
    torch.testing.assert_close(found[1], found[0])
    assert "evaluations of 6 tasks at once" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "cpu", "cuda"),
    [({}, None, None), ({"cpu_chunk_size": 4}, 4, None), ({"task_chunk_size": 3}, 3, 3),
     ({"task_chunk_size": 3, "cpu_chunk_size": 4}, 3, 3)],
)  # fmt: skip
def test_the_default_is_that_of_the_device(settings, cpu, cuda):
    settings = TrainingSettings(**settings)
    assert settings.chunk_size(torch.device("cpu")) == cpu
    assert settings.chunk_size(torch.device("cuda:0")) == cuda
