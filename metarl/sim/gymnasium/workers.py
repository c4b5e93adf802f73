"""Processes that step gymnasium environments, many in each; no one of them outlives its parent."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from collections.abc import Sequence
from multiprocessing import (
    connection,
    forkserver,
    get_all_start_methods,
    get_context,
    parent_process,
    resource_tracker,
    util,
)
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from gymnasium.vector.utils import CloudpickleWrapper

from metarl.errors import SettingsError
from metarl.sim.gymnasium.environments import Environments, Rows, TaskRows, WorldError
from metarl.sim.gymnasium.family import GymFamily

# A server imports what all workers need once and forks them from there: seconds less for each. It
# has no threads and no CUDA, whose locks and state a fork of this process would copy.
METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # which the parent deals with
START_SECONDS = 120.0  # that a process may take to import what it needs, beside the time limit
GRACE_SECONDS = 3.0  # that one may take to close its environments
UNGUARDED = ' A script that starts workers needs `if __name__ == "__main__":` around what it does.'


class Workers:
    """A `Host` of k processes, each stepping its share of the worlds.

    Rows are in memory that all share, commands and tasks go through pipes. An environment that
    raises, a process that dies and one that takes too long end all of them. So does the end of
    this object or of this process, however it comes about; interrupts are for this process to
    deal with, workers ignore them.

    Args:
        family: What the worlds are.
        worlds: Their number, W.
        count: The number of processes, 1 to W.

    Raises:
        SettingsError: The family cannot be sent to another process.
        WorldError: A process could not start.
    """

    def __init__(self, family: GymFamily, worlds: int, count: int) -> None:
        context: Any = get_context(METHOD)
        shared: dict[str, Any] = {}
        self.rows = _shared_rows(family, worlds, context, shared)
        self._limit = family.time_limit
        self._bounds = np.linspace(0, worlds, count + 1).astype(int).tolist()
        self._links: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # As multiprocessing's own pools do it: before it waits for daemons when Python ends.
        self._end = util.Finalize(
            self, _end, (self._processes, self._links), {"grace": GRACE_SECONDS}, exitpriority=15
        )
        payload = _pickled(family)
        if METHOD == "forkserver":
            _start_server()
        for low, high in zip(self._bounds, self._bounds[1:], strict=False):
            link, other = context.Pipe()
            process = context.Process(
                target=_work, args=(payload, shared, low, high, other), daemon=True
            )
            process.start()
            other.close()  # or this end would keep the pipe open after the worker's death
            self._links.append(link)
            self._processes.append(process)
        self._ready = False
        self._answers(START_SECONDS + self._limit)
        self._ready = True

    def start(self, tasks: TaskRows | None) -> None:
        """See `Host.start`; raises for processes that die or take too long too."""
        parts = [
            None if tasks is None else {name: rows[low:high] for name, rows in tasks.items()}
            for low, high in zip(self._bounds, self._bounds[1:], strict=False)
        ]
        self._ask([("start", part) for part in parts])

    def step(self) -> None:
        """See `Host.step`; raises for processes that die or take too long too."""
        self._ask([("step", None)] * len(self._links))

    def close(self) -> None:
        """See `Host.close`; processes that do not end by themselves are killed."""
        self._end()

    def _ask(self, messages: Sequence[tuple[str, TaskRows | None]]) -> None:
        for number, (link, message) in enumerate(zip(self._links, messages, strict=True)):
            try:
                link.send(message)
            except OSError as error:
                raise self._died(number) from error
        self._answers(self._limit)

    def _answers(self, limit: float) -> None:
        """Waits until all workers have answered, and ends them if one did not do its work."""
        waiting = {link: number for number, link in enumerate(self._links)}
        deadline = time.monotonic() + limit
        try:
            while waiting:
                ready = connection.wait(list(waiting), max(deadline - time.monotonic(), 0.0))
                if not ready:
                    raise self._late(next(iter(waiting.values())), limit)
                for link in ready:
                    assert isinstance(link, Connection)
                    self._take(link, waiting.pop(link))
        except WorldError:
            self._end()
            raise
        except BaseException:  # an interrupt: answers that still come would be taken for others
            _end(self._processes, self._links, grace=0.0)
            raise

    def _take(self, link: Connection, number: int) -> None:
        try:
            failure = link.recv()
        except (EOFError, OSError) as error:
            raise self._died(number) from error
        if failure is not None:
            world, what = failure
            raise WorldError(self._bounds[number] + world, what)

    def _late(self, number: int, limit: float) -> WorldError:
        world = self._at(number)
        self._processes[number].kill()
        return WorldError(
            world,
            f"was being worked at when {self._name(number)} had not answered for {limit:g} s; it "
            "was ended. Raise the family's `time_limit` if its environments are slow.",
        )

    def _died(self, number: int) -> WorldError:
        process = self._processes[number]
        process.join(GRACE_SECONDS)
        hint = "" if self._ready else UNGUARDED
        return WorldError(
            self._at(number),
            f"was being worked at when {self._name(number)} ended with exit code "
            f"{process.exitcode}.{hint}",
        )

    def _at(self, number: int) -> int:
        low = self._bounds[number]
        return low + int(self.rows.at[low])

    def _name(self, number: int) -> str:
        low, high = self._bounds[number : number + 2]
        return f"worker {number} of {len(self._processes)}, with the worlds {low} to {high - 1},"


def _shared_rows(family: GymFamily, worlds: int, context: Any, shared: dict[str, Any]) -> Rows:
    """Makes rows in shared memory, and notes in `shared` what a process needs to find them."""
    made: list[tuple[np.ndarray, Any]] = []

    def allocate(shape: tuple[int, ...], kind: Any) -> np.ndarray:
        count = int(np.prod(shape))
        # Of multiprocessing's own: it has no name, so nothing is left of it whoever dies when.
        raw = context.RawArray("b", max(count * np.dtype(kind).itemsize, 1))
        rows = np.frombuffer(raw, kind, count).reshape(shape)
        made.append((rows, raw))
        return rows

    rows = Rows.of(family, worlds, allocate)
    for name, value in vars(rows).items():
        raw = next(r for array, r in made if array is value)
        shared[name] = (raw, value.shape, value.dtype)
    return rows


def _start_server() -> None:
    """Starts the server of workers. It imports for a while, which a Ctrl-C is not to end."""
    resource_tracker.ensure_running()  # the server would start it, and that unblocks signals
    forkserver.set_forkserver_preload(["__main__", __name__, f"{__package__}.preloaded"])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # the server inherits it
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pickled(family: GymFamily) -> bytes:
    try:
        return pickle.dumps(CloudpickleWrapper(lambda: family))  # pyright: ignore[reportArgumentType]
    except Exception as error:
        raise SettingsError(
            f"{family.name} cannot be sent to worker processes: {type(error).__name__}: {error}. "
            "Choose workers=0, or build it of parts that can be pickled."
        ) from error


def _end(processes: list[BaseProcess], links: list[Connection], grace: float) -> None:
    """Ends processes: those that do not close by themselves within `grace` seconds, by force."""
    for link in links:
        try:
            if grace:
                link.send(("close", None))
        except OSError:  # it is dead already, or the pipe is closed
            continue
    deadline = time.monotonic() + grace
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.0))
        if process.is_alive():
            process.kill()
            process.join()
    for link in links:
        link.close()


# In the other process


def _work(payload: bytes, shared: dict[str, Any], low: int, high: int, link: Connection) -> None:
    """What a worker does until it is told to close or its parent is gone."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    torch.set_num_threads(1)  # the workers are the threads
    worlds: Environments | None = None
    try:
        family: GymFamily = pickle.loads(payload)()
        rows = Rows(
            **{
                name: np.frombuffer(raw, kind, int(np.prod(shape))).reshape(shape)
                for name, (raw, shape, kind) in shared.items()
            }
        )
        worlds = Environments(family, rows.cut(low, high))
        link.send(None)
        while _served(worlds, link):
            pass
    except (EOFError, OSError):  # the parent is gone
        pass
    except Exception as error:
        link.send((0, f"cannot be built in a worker process: {type(error).__name__}: {error}"))
    finally:
        if worlds is not None:
            worlds.close()


def _served(worlds: Environments, link: Connection) -> bool:
    """Does what the next message says; tells whether others may follow."""
    command, tasks = link.recv()
    if command == "close":
        return False
    failure = None
    try:
        if command == "start":
            worlds.start(tasks)
        else:
            worlds.step()
    except WorldError as error:
        failure = (error.world, error.what)
    link.send(failure)
    return True


def _end_with_parent() -> None:
    """Has this process end when its parent does, whatever it is doing then."""
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel  # a pipe, whose other end closes with the parent
    if hasattr(os, "O_ASYNC"):
        import fcntl  # not everywhere

        # By the system, which a main thread that is stuck with Python's lock cannot hold up.
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def end() -> None:
        connection.wait([sentinel])
        os._exit(1)  # the main thread may be in an environment that never returns

    threading.Thread(target=end, daemon=True).start()
