"""Finiteness that is read iterations later: the same error, state and checkpoint as at once."""

import math
import os
import signal
from pathlib import Path

import pytest
import torch
from torch import nn

from metarl.errors import NonFiniteError
from metarl.learners.metric.metric_learner import MetricLearner
from metarl.runs.checkpoints import load_checkpoint
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.late_results import (
    BETWEEN_READS,
    MOST_UNREAD,
    LateResults,
    read_means,
    store_if_finite,
)
from metarl.training.meta_step import MetaStep
from metarl.training.outer_update import MetaResult
from metarl.trees import map_tensors
from tests.devices import on_cuda
from tests.graph_recorder import CountedReads, Recorder
from tests.test_all_algorithms import build, tasks_of
from tests.training.test_captured_iteration import RATE, maml
from tests.training.test_loop import NotANumber, Tasks


def loop(folder, iterations=12, tasks=None, resume=None, late=True, learner=None, **changes):
    settings = TrainingSettings(
        **{
            "iterations": iterations, "meta_batch_size": 3, "outer_lr": RATE, "log_every": 100,
            "eval_every": 0, "checkpoint_every": 100, **changes,
        }
    )  # fmt: skip
    learner = learner or maml()
    update = MetaStep(learner, settings, driver=Recorder() if late else None)
    return OuterLoop(learner, tasks or Sine(6, 6), settings, folder, update=update, resume=resume)


def ends(run):
    """Returns the newest checkpoint, with its numbers only."""
    checkpoint = load_checkpoint(run.checkpoints.latest())
    state = {n: v for n, v in checkpoint.state.items() if n != "seconds"}
    return checkpoint.iteration, checkpoint.weights, map_tensors(torch.clone, state)


@pytest.mark.parametrize(
    "every",
    [pytest.param({}, marks=pytest.mark.slow), {"checkpoint_every": 4}, {"log_every": 8}],
)
def test_a_loss_that_is_not_finite_is_found_late_and_loses_nothing(every, tmp_path):
    found = []
    for late in (False, True):
        tasks = NotANumber()
        run = loop(tmp_path / str(late), tasks=tasks, late=late, **every)
        message = r"meta-iteration 5, task\(s\) 2\. .*step_000005.* last inner step diverges"
        with pytest.raises(NonFiniteError, match=message):
            run.run()
        assert run.iteration == 5
        assert tasks.count == (8 if every else 12) if late else 6  # iterations that were begun
        found.append(ends(run))
    torch.testing.assert_close(*found, rtol=0, atol=0)
    resumed = loop(tmp_path / "True", 8, resume=run.checkpoints.latest())
    assert resumed.run().finished


class Spoiled(Tasks):
    """Tasks with a support set that is not a number in task 2 of the sixth batch."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks = tasks

    def sample(self, num_tasks, generator):
        self.count += 1
        tasks = self.tasks.sample(num_tasks, generator)
        if self.count == 6:
            tasks.support.inputs.view(num_tasks, -1)[2] = math.nan
        return tasks


@pytest.mark.parametrize(
    "name",
    ["reptile", *(pytest.param(n, marks=pytest.mark.slow) for n in ("prototypical", "mann"))],
)
def test_what_learners_carry_on_is_taken_back_late(name, tmp_path):
    found, problem = [], "sine" if name == "reptile" else "glyphs"
    settings = {"optimizer": "sgd", "outer_lr": 0.5} if name == "reptile" else {}
    for late in (False, True):
        learner, tasks = build(name, problem)[0], Spoiled(tasks_of(problem))
        run = loop(tmp_path / str(late), 9, tasks, late=late, learner=learner, **settings)
        with pytest.raises(NonFiniteError, match=r"meta-iteration 5, task\(s\) 2\. .*step_000005"):
            run.run()
        assert tasks.count == (9 if late else 6)  # iterations that were begun
        found.append(ends(run))
    torch.testing.assert_close(*found)


class Storing(MetricLearner):
    """Stores in buffers: in the memory of one, in place of another."""

    changed: torch.Tensor
    replaced: torch.Tensor

    def __init__(self):
        nn.Module.__init__(self)
        self.register_buffer("changed", torch.ones(2))
        self.register_buffer("replaced", torch.zeros((), dtype=torch.int64))

    def after_update(self, carry):
        self.changed.lerp_(carry["x"].mean(0), 0.5)
        self.replaced = self.replaced + 1


def test_what_is_not_finite_is_not_stored():
    learner, carried = (
        Storing(),
        result(torch.tensor(True))._replace(carry={"x": torch.zeros(3, 2)}),
    )
    spoiled = carried._replace(
        finite=torch.tensor(False), carry={"x": torch.full((3, 2), math.nan)}
    )
    for each, stored in (
        (spoiled, 0),
        (carried, 1),
        (spoiled, 1),
        (carried._replace(finite=True), 2),
    ):
        store_if_finite(learner, each)
        assert learner.changed.tolist() == [0.5**stored] * 2
        assert int(learner.replaced) == stored


def test_means_are_read_together():
    generator = torch.Generator().manual_seed(0)
    values = {f"v{k}": torch.randn(7, generator=generator) for k in range(5)}
    values |= {"one": torch.tensor(0.1), "double": torch.tensor([0.1, 0.7], dtype=torch.double)}
    with CountedReads() as reads:
        found = read_means(values)
    assert reads.count == 1
    assert found == {tag: value.mean().item() for tag, value in values.items()}
    assert list(found) == list(values)
    assert read_means({}) == {}


class Failing(NotANumber):
    """Fails when sampled for the ninth time, after a loss that is not finite."""

    def after(self, count):
        if count == 9:
            raise RuntimeError("no more tasks")


def test_an_error_of_the_tasks_does_not_hide_it(tmp_path):
    run = loop(tmp_path, tasks=Failing())
    with pytest.raises(RuntimeError, match="no more tasks") as error:
        run.run()
    (note,) = error.value.__notes__
    assert "not finite at meta-iteration 5, task(s) 2." in note
    assert load_checkpoint(run.checkpoints.latest()).iteration == 5


def test_late_runs_resume_to_the_bit(tmp_path):
    whole = loop(tmp_path / "whole", 9, schedule="cosine")
    whole.run()
    first = loop(tmp_path / "cut", 9, tasks=Stopping(), schedule="cosine")
    first.run()
    second = loop(tmp_path / "cut", 9, resume=first.checkpoints.latest(), schedule="cosine")
    assert second.iteration == 4
    second.run()
    torch.testing.assert_close(ends(second), ends(whole), rtol=0, atol=0)


class Stopping(Tasks):
    """Asks the process to stop in the fourth iteration."""

    def after(self, count):
        if count == 4:
            os.kill(os.getpid(), signal.SIGTERM)


def result(finite):
    return MetaResult(torch.zeros(2), {}, {}, torch.zeros(()), finite)


def test_results_are_read_in_their_order_and_no_more_than_needed():
    results, state = LateResults(), torch.zeros(1)
    for number, finite in enumerate((True, True, False, False)):
        results.add(number, state, result(torch.tensor(finite)))
    assert results.first_bad(wait=False) is None  # none has arrived
    bad = results.first_bad(wait=True)
    assert bad is not None and bad.iteration == 2
    assert results.first_bad(wait=True) is None
    results.add(0, state, result(False))
    assert results.first_bad(wait=False) is not None
    for number in range(MOST_UNREAD + 1):
        results.add(number, state, result(torch.tensor(number < 9)))
    bad = results.first_bad(wait=False)  # too many wait
    assert bad is not None and bad.iteration == 9


class Event:
    """Stands for an event on a GPU, which has happened or not."""

    def __init__(self, happened):
        self.happened = happened

    def query(self):
        return self.happened


def test_a_result_is_read_when_it_is_computed(monkeypatch):
    results, events = LateResults(), [Event(False) for _ in range(3)]
    for number in range(3 * BETWEEN_READS):
        place = len(results._unread)
        last = place % BETWEEN_READS == BETWEEN_READS - 1
        event = events[place // BETWEEN_READS] if last else None
        monkeypatch.setattr(results, "_event", lambda finite, event=event: event)
        results.add(number, torch.zeros(1), result(torch.tensor(number < BETWEEN_READS + 3)))
    assert results.first_bad(wait=False) is None and len(results._unread) == 3 * BETWEEN_READS
    events[0].happened = True
    assert results.first_bad(wait=False) is None and len(results._unread) == 2 * BETWEEN_READS
    events[1].happened = True
    bad = results.first_bad(wait=False)
    assert bad is not None and bad.iteration == BETWEEN_READS + 3


@pytest.mark.gpu
def test_results_of_a_gpu_are_read_without_waiting_for_later_ones():
    device = on_cuda()
    results, slow = LateResults(), torch.rand(4096, 4096, device=device)
    flags = [torch.tensor(True, device=device) for _ in range(BETWEEN_READS + 1)]
    for number, flag in enumerate(flags):
        results.add(number, torch.zeros(1), result(flag))
    torch.cuda.synchronize(device)
    end = torch.cuda.Event()
    for _ in range(200):
        torch.mm(slow, slow)
    end.record(torch.cuda.current_stream(device))
    assert results.first_bad(wait=False) is None
    assert len(results._unread) == 1 and not end.query()
    assert results.first_bad(wait=True) is None and not results._unread


@pytest.mark.gpu
def test_a_run_on_a_gpu_stops_before_what_is_not_finite(tmp_path):
    settings = TrainingSettings(
        iterations=40, meta_batch_size=3, log_every=100, eval_every=0, device=str(on_cuda())
    )
    run = OuterLoop(maml(), OnDevice(), settings, Path(tmp_path))
    assert isinstance(run.update, MetaStep) and run.update.captured is not None
    with pytest.raises(NonFiniteError, match=r"meta-iteration 5, task\(s\) 2\b.*step_000005"):
        run.run()
    assert run.update.captured.refused is None
    weights = load_checkpoint(run.checkpoints.latest()).weights
    assert all(w.isfinite().all() for w in weights.values())


class OnDevice(NotANumber):
    """The same on a GPU, where targets are drawn."""

    def spoil(self, tasks):
        if self.count == 6:
            tasks.query.targets[2, 0] = math.nan
        return tasks
