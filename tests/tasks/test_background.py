import copy
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks import Background, Sine, check_task_distribution


class Counted:
    """Sine tasks that count the batches, and fail at one of them."""

    def __init__(self, fails_at=None, error=None):
        self.tasks, self.count = Sine(3, 2), 0
        self.fails_at, self.error = fails_at, error
        self.threads = set()
        self.began = threading.Semaphore(0)

    def sample(self, num_tasks, generator):
        """Samples and counts."""
        self.count += 1
        self.threads.add(threading.current_thread().name)
        self.began.release()
        if self.error is not None and self.count == self.fails_at:
            raise self.error
        return self.tasks.sample(num_tasks, generator)

    def split(self, name):
        """Returns itself: no test needs splits."""
        return self


def batches(tasks, count, draws=0, num_tasks=4, seed=3):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for _ in range(count):
        result.append(tasks.sample(num_tasks, generator).support.targets)
        torch.rand(draws, generator=generator)
    return torch.stack(result), generator.get_state()


def workers():
    return [t for t in threading.enumerate() if t.name == "metarl-tasks"]


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_the_tasks_and_the_generator_are_those_without_it(ahead):
    background = Background(Counted(), ahead)
    expected, state = batches(Sine(3, 2), 20)
    tasks, background_state = batches(background, 20)
    assert torch.equal(tasks, expected) and torch.equal(background_state, state)
    assert background.tasks.threads >= {"metarl-tasks"}
    background.close()
    assert background.tasks.count <= 20 + ahead


def test_it_looks_ahead_no_further_than_asked():
    background = Background(Counted(), 3)
    background.sample(2, torch.Generator())
    for _ in range(4):
        assert background.tasks.began.acquire(timeout=60)
    time.sleep(0.05)
    assert background.tasks.count == 4
    background.close()


def test_reading_and_training_overlap():
    background = Background(Counted(), ahead=1)
    generator = torch.Generator()
    for _ in range(6):
        background.sample(2, generator)
        assert background.tasks.began.acquire(timeout=60)
    # The next batch is read although none asks for it.
    assert background.tasks.began.acquire(timeout=60)
    background.close()


def test_a_learner_that_draws_in_between_gets_the_same_tasks_and_a_warning():
    expected, state = batches(Sine(3, 2), 12, draws=7)
    background = Background(Counted())
    with pytest.warns(RuntimeWarning, match="no longer sampled ahead"):
        tasks, background_state = batches(background, 12, draws=7)
    assert torch.equal(tasks, expected) and torch.equal(background_state, state)
    assert not workers()


def test_other_generators_and_sizes_are_no_reason_to_give_up():
    background = Background(Counted())
    for seed in range(8):
        for num_tasks in (2, 5):
            expected, _ = batches(Sine(3, 2), 2, num_tasks=num_tasks, seed=seed)
            assert torch.equal(batches(background, 2, num_tasks=num_tasks, seed=seed)[0], expected)
    assert len(workers()) == 1
    background.close()
    assert not workers()


@pytest.mark.parametrize("error", [RuntimeError("the disk is gone"), KeyboardInterrupt("stop")])
def test_an_error_is_raised_by_the_call_that_needs_the_batch(error):
    background = Background(Counted(4, error))
    generator = torch.Generator()
    for _ in range(3):
        background.sample(2, generator)
    before = generator.get_state()
    with pytest.raises(type(error), match=str(error)) as raised:
        background.sample(2, generator)
    assert "thread that samples tasks ahead" in raised.value.__notes__[0]
    assert torch.equal(generator.get_state(), before)
    background.sample(2, generator)  # it can be tried again
    background.close()


def test_it_is_a_task_distribution_that_can_be_copied():
    background = Background(Sine())
    check_task_distribution(background)
    assert background.shots == 10
    for other in (copy.deepcopy(background), pickle.loads(pickle.dumps(background))):
        assert torch.equal(batches(other, 3)[0], batches(background, 3)[0])
        other.close()
    assert isinstance(background.split("train"), Background)
    assert background.split("test") == Sine(part="test")
    background.close()


def test_the_thread_ends_with_its_object():
    background = Background(Sine())
    background.sample(2, torch.Generator())
    assert workers()
    del background
    gc.collect()
    assert not workers()


@pytest.mark.parametrize("ahead", [0, 1.5, True])
def test_bad_settings(ahead):
    with pytest.raises(SettingsError, match="ahead"):
        Background(Sine(), ahead)
    with pytest.raises(SettingsError, match="already"):
        Background(Background(Sine()))


SCRIPT = """
import signal, sys, time, torch
signal.signal(signal.SIGINT, signal.default_int_handler)
from metarl.tasks import Background, Sine
class Slow(Sine):
    def sample(self, num_tasks, generator):
        print("sampling", flush=True)
        time.sleep(0.2 if sys.argv[1] == "exit" else 300 * (Slow.count > 0))
        Slow.count += 1
        return super().sample(num_tasks, generator)
Slow.count = 0
tasks = Background(Slow())
generator = torch.Generator()
tasks.sample(2, generator)
if sys.argv[1] == "exit":
    sys.exit(5)
tasks.sample(2, generator)
"""


def start(mode):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, mode]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def test_the_program_ends_while_a_batch_is_read():
    process = start("exit")
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 5 and not errors


@pytest.mark.slow
def test_an_interrupt_ends_the_program_while_a_batch_is_read():
    process = start("wait")
    for _ in range(2):  # the second batch is being read
        assert process.stdout.readline() == "sampling\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert "KeyboardInterrupt" in errors
