"""Tasks drawn by a graph are those that the distribution samples, from the same generator."""

import pytest
import torch

from metarl.cuda_graphs import allow_graphs
from metarl.devices import seeded_generator
from metarl.models import MLP
from metarl.tasks import Examples, Sine, TaskBatch
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.captured_tasks import CapturedTasks
from tests.devices import deterministic_algorithms, on_cuda
from tests.gradient_learners import MAML
from tests.graph_recorder import Refusing


class Repeating:
    """A `Driver` that repeats a function which draws; generators cannot be traced."""

    def __init__(self):
        self.replays = 0

    def capture(self, body, inputs, generator=None):
        """Keeps the outputs of a call, which replays overwrite."""
        assert not inputs and generator is not None
        outputs = [t.clone() for t in body()]

        def replay():
            self.replays += 1
            for output, value in zip(outputs, body(), strict=True):
                output.copy_(value)

        return replay, outputs


def compare(tasks, driver, generator, other, calls=4):
    """Draws tasks on both sides; returns what drew them."""
    draw = CapturedTasks(driver)
    batches = [draw(tasks, 3, generator) for _ in range(calls)]
    for batch in batches:  # later draws leave earlier ones as they are
        expected = tasks.sample(3, other)
        torch.testing.assert_close(
            (*batch.support[:2], *batch.query[:2], batch.info),
            (*expected.support[:2], *expected.query[:2], expected.info),
        )
    assert torch.equal(generator.get_state(), other.get_state())
    return draw


def generators(device="cpu"):
    return [seeded_generator(device, 0) for _ in range(2)]


def test_a_graph_draws_what_the_distribution_samples():
    driver = Repeating()
    assert compare(Sine(4, 4), driver, *generators()).refused is None
    assert driver.replays == 4  # one of them to compare


class Counting:
    """Claims to need nothing but its arguments, and counts its calls."""

    samples_on_device = True

    def __init__(self):
        self.calls = 0

    def sample(self, num_tasks, generator):
        self.calls += 1
        inputs = torch.rand(num_tasks, self.calls % 2 + 1, 1, generator=generator)
        inputs = inputs[:, :1] + self.calls
        return TaskBatch(Examples(inputs, inputs), Examples(inputs, inputs))


def test_what_differs_is_sampled_as_it_is(capsys):
    draw, tasks = CapturedTasks(Repeating()), Counting()
    generator = seeded_generator("cpu", 0)
    draw(tasks, 2, generator)
    assert draw.refused is not None and "without a CUDA graph" in capsys.readouterr().err
    calls = tasks.calls
    draw(tasks, 2, generator)
    assert tasks.calls == calls + 1


@pytest.mark.parametrize("reason", ["driver", "not allowed", "no claim"])
def test_others_are_sampled_as_they_are(reason, capsys):
    driver = Refusing() if reason == "driver" else Repeating()
    tasks = Sine(4, 4)
    if reason == "no claim":
        object.__setattr__(tasks, "samples_on_device", False)
    allow_graphs(reason != "not allowed")
    try:
        draw = compare(tasks, driver, *generators())
    finally:
        allow_graphs(True)
    assert (draw.refused is not None) == (reason == "driver")


def test_another_distribution_or_number_is_captured_again():
    generator, other = generators()
    draw, sine = CapturedTasks(Repeating()), Sine(4, 4)
    for tasks, number in ((sine, 3), (sine, 2), (Sine(3, 3), 2), (sine, 2)):
        ours, expected = draw(tasks, number, generator), tasks.sample(number, other)
        assert torch.equal(ours.support.inputs, expected.support.inputs)


@pytest.mark.gpu
def test_cuda_draws_the_same_tasks():
    assert compare(Sine(4, 4), None, *generators(on_cuda())).refused is None


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
def test_graphs_and_operations_train_the_same_on_cuda(tmp_path):
    ends = []
    with deterministic_algorithms():
        for graphs in (True, False):
            settings = TrainingSettings(
                iterations=5, meta_batch_size=3, eval_every=0, graphs=graphs,
                device=str(on_cuda()), deterministic=True,
            )  # fmt: skip
            learner = MAML(MLP((1, 8, 1), torch.Generator().manual_seed(0)), 0.01)
            run = OuterLoop(learner, Sine(), settings, tmp_path / str(graphs))
            run.run()
            ends.append((run.learner.state_dict(), run.generator.get_state()))
    allow_graphs(True)
    torch.testing.assert_close(ends[0], ends[1])


def test_another_number_of_tasks_than_asked_for_warns():
    class Fixed:
        def sample(self, num_tasks, generator):
            return Sine().sample(3, generator)

    with pytest.warns(RuntimeWarning, match=r"`sample\(5, generator\)` returned 3 tasks"):
        CapturedTasks()(Fixed(), 5, torch.Generator())
