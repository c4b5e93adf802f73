"""Task distributions whose batches are sampled ahead by a thread."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.ranges import check_int
from metarl.tasks.base import Split, TaskBatch, TaskDistribution

MOST_MISSES = 3
"""Batches in a row that were sampled ahead in vain, after which none is."""
PATIENCE = 30.0
"""Seconds that the end of the program waits for a batch that is being read: a thread that is cut
off within torch's code would end the program with an error."""


@dataclass
class _Job:
    """A batch that is sampled ahead.

    Attributes:
        num_tasks: Number of tasks.
        before: State of the generator before the batch is sampled.
        after: State of the generator after it; None while it is being sampled.
        tasks: The batch.
        error: What sampling raised.
    """

    num_tasks: int
    before: Tensor
    after: Tensor | None = None
    tasks: TaskBatch | None = None
    error: BaseException | None = None


@dataclass
class _Shared:
    """What a thread and its owner share; all access is under `changed`.

    Attributes:
        tasks: The distribution.
        ahead: Number of batches that are sampled ahead.
        device: The generator's device.
        jobs: Batches in the order of sampling; the last one may be in work.
        stopped: Whether the thread has to end.
    """

    tasks: Any
    ahead: int
    device: torch.device
    jobs: deque[_Job] = field(default_factory=deque)
    stopped: bool = False
    changed: threading.Condition = field(default_factory=threading.Condition)


class Background:
    """A `TaskDistribution` whose batches are the same, sampled ahead by a thread.

    It is for data that do not fit into the memory: reading and training then overlap. At most
    `ahead` batches are held. The thread samples the next batches with copies of the generator. A
    batch is used if the generator is in the state that the thread had foreseen, which holds as long
    as nothing else draws from it between two batches; otherwise it is sampled again. Therefore the
    tasks, and a run that is resumed, are those of the distribution itself to the bit. If a learner
    draws between the batches (minibatches of the inner loop, dropout), reading ahead is of no use:
    after three batches in vain it ends, with a warning.

    An error in the thread is raised by the `sample` that needed the batch. The thread ends with the
    program, with `close`, or when the object is not used any more.

    Args:
        tasks: The distribution; only the thread reads its data, except for batches in vain.
        ahead: Number of batches that are sampled ahead, at least 1.

    Raises:
        SettingsError: `ahead` is below 1.
    """

    def __init__(self, tasks: TaskDistribution, ahead: int = 2) -> None:
        self.tasks = tasks
        self.ahead = check_int("ahead", ahead)
        if isinstance(tasks, Background):
            raise SettingsError("The tasks are sampled in the background already.")
        self._shared: _Shared | None = None
        self._finalizer: weakref.finalize | None = None
        self._last: tuple[torch.Generator, int] | None = None
        self._misses = 0
        self._gave_up = False

    def split(self, name: Split) -> Background | TaskDistribution:
        """Returns the distribution over the tasks of one split.

        Those of validation and test are sampled when they are needed: an evaluation takes one
        batch, from another generator.
        """
        tasks = self.tasks.split(name)
        return Background(tasks, self.ahead) if name == "train" else tasks

    def to(self, device: torch.device | str) -> Background:
        """Returns the distribution with what it holds in memory on `device`."""
        move = getattr(self.tasks, "to", None)
        return self if move is None else Background(move(device), self.ahead)

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of the distribution, such as `names` or `way`."""
        if name.startswith("_") or name == "tasks":
            raise AttributeError(name)
        return getattr(self.tasks, name)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the settings; a copy starts another thread."""
        return {"tasks": self.tasks, "ahead": self.ahead}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Sets the settings of a copy."""
        self.__init__(**state)

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of tasks, the same as the distribution itself.

        Raises:
            BaseException: What the distribution raises, with a note that the thread raised it.
        """
        if self._gave_up:
            return self.tasks.sample(num_tasks, generator)
        job = self._take(num_tasks, generator)
        if job is None:
            tasks = self.tasks.sample(num_tasks, generator)
        else:
            if job.error is not None:
                self.close()
                job.error.add_note("It was raised by the thread that samples tasks ahead.")
                raise job.error
            assert job.tasks is not None and job.after is not None
            generator.set_state(job.after)
            tasks = job.tasks
        self._look_ahead(num_tasks, generator)
        self._last = (generator, num_tasks)
        return tasks

    def close(self) -> None:
        """Ends the thread; the next `sample` starts another one."""
        if self._finalizer is not None:
            self._finalizer()
        self._shared = self._finalizer = None

    def _take(self, num_tasks: int, generator: torch.Generator) -> _Job | None:
        """Returns the batch of this call if it was foreseen, once it is sampled."""
        shared = self._shared
        if shared is None:
            return None
        with shared.changed:
            job = shared.jobs[0] if shared.jobs else None
            foreseen = (
                job is not None
                and shared.device == generator.device
                and job.num_tasks == num_tasks
                and torch.equal(job.before, generator.get_state())
            )
            if job is not None and foreseen:
                while job.after is None and job.error is None:
                    shared.changed.wait()
                shared.jobs.popleft()
                shared.changed.notify_all()
                self._misses = 0
                return job
        self.close()
        if self._last == (generator, num_tasks):  # not another evaluation or size of batches
            self._misses += 1
        if self._misses >= MOST_MISSES:
            self._gave_up = True
            warnings.warn(
                "Tasks are no longer sampled ahead: the learner draws from the same generator "
                "between two batches, so that the next tasks cannot be foreseen.",
                RuntimeWarning,
                stacklevel=4,
            )
        return None

    def _look_ahead(self, num_tasks: int, generator: torch.Generator) -> None:
        """Starts the thread at the state of the generator, unless it is at work."""
        if self._shared is not None or self._gave_up:
            return
        shared = _Shared(self.tasks, self.ahead, generator.device)
        shared.jobs.append(_Job(num_tasks, generator.get_state()))
        thread = threading.Thread(target=_work, args=(shared,), name="metarl-tasks", daemon=True)
        self._shared = shared
        # It runs when this object is collected and before the interpreter ends.
        self._finalizer = weakref.finalize(self, _stop, shared, thread)
        thread.start()


def _work(shared: _Shared) -> None:
    """Samples batches, each from the state of the generator after the one before it."""
    generator = torch.Generator(shared.device)
    while True:
        with shared.changed:
            while not shared.stopped and not _has_work(shared):
                shared.changed.wait()
            if shared.stopped:
                return
            job = shared.jobs[-1]
        generator.set_state(job.before)
        try:
            tasks = shared.tasks.sample(job.num_tasks, generator)
        except BaseException as error:
            with shared.changed:
                job.error = error
                shared.changed.notify_all()
            return
        with shared.changed:
            job.tasks, job.after = tasks, generator.get_state()
            shared.jobs.append(_Job(job.num_tasks, job.after))
            shared.changed.notify_all()


def _has_work(shared: _Shared) -> bool:
    """Returns whether fewer than `ahead` batches are sampled; the last job is the next one."""
    return len(shared.jobs) <= shared.ahead


def _stop(shared: _Shared, thread: threading.Thread) -> None:
    """Ends a thread; waits for a batch that is being read, but not for ever."""
    with shared.changed:
        shared.stopped = True
        shared.changed.notify_all()
    if thread is not threading.current_thread():
        thread.join(PATIENCE)
