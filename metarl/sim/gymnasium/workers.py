"""Worker processes that step gymnasium environments and end with their parent process."""

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

# The forkserver imports the packages once and forks the workers, which saves seconds per worker. It
# has no threads and no CUDA context; a fork of this process would copy their locks and state.
METHOD = "forkserver" if "forkserver" in get_all_start_methods() else "spawn"
SIGNALS = tuple(  # handled by the parent process; Windows has the first two
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
    if hasattr(signal, name)
)
START_SECONDS = 120.0  # for imports in a worker, in addition to the time limit
GRACE_SECONDS = 3.0  # for closing the environments of a worker
UNGUARDED = ' A script that starts workers needs `if __name__ == "__main__":` around what it does.'


class Workers:
    """A `Host` of several worker processes, each of which steps a part of the worlds.

    The rows are in shared memory; commands and tasks are sent through pipes. All workers end when
    an environment raises, when a worker dies or exceeds the time limit, when this object is
    garbage collected and when this process ends in any way. Workers ignore SIGINT, SIGTERM and
    SIGHUP; this process handles them.

    Args:
        family: The family of the worlds.
        worlds: The number of worlds, W.
        count: The number of processes, 1 to W.

    Raises:
        SettingsError: The family cannot be pickled.
        WorldError: A worker could not start.
    """

    def __init__(self, family: GymFamily, worlds: int, count: int) -> None:
        context: Any = get_context(METHOD)
        shared: dict[str, Any] = {}
        self.rows = _shared_rows(family, worlds, context, shared)
        self._limit = family.time_limit
        self._bounds = np.linspace(0, worlds, count + 1).astype(int).tolist()
        self._links: list[Connection] = []
        self._processes: list[BaseProcess] = []
        # The priority of multiprocessing.Pool: at exit it runs before the daemons are joined.
        self._close = util.Finalize(
            self,
            _end_processes,
            (self._processes, self._links),
            {"grace": GRACE_SECONDS},
            exitpriority=15,
        )
        payload = _pickle_family(family)
        if METHOD == "forkserver":
            _start_server()
        for low, high in zip(self._bounds, self._bounds[1:], strict=False):
            link, other = context.Pipe()
            process = context.Process(
                target=_run_worker, args=(payload, shared, low, high, other), daemon=True
            )
            process.start()
            other.close()  # otherwise the pipe would stay open after the death of the worker
            self._links.append(link)
            self._processes.append(process)
        self._ready = False
        self._wait_for_replies(START_SECONDS + self._limit)
        self._ready = True

    def start(self, tasks: TaskRows | None) -> None:
        """Also raises WorldError for a worker that dies or exceeds the time limit."""
        parts = [
            None if tasks is None else {name: rows[low:high] for name, rows in tasks.items()}
            for low, high in zip(self._bounds, self._bounds[1:], strict=False)
        ]
        self._send([("start", part) for part in parts])

    def step(self) -> None:
        """Also raises WorldError for a worker that dies or exceeds the time limit."""
        self._send([("step", None)] * len(self._links))

    def close(self) -> None:
        """Kills workers that do not end within 3 s."""
        self._close()

    def _send(self, messages: Sequence[tuple[str, TaskRows | None]]) -> None:
        """Sends one message to each worker and waits for the replies."""
        for number, (link, message) in enumerate(zip(self._links, messages, strict=True)):
            try:
                link.send(message)
            except OSError as error:
                raise self._exit_error(number) from error
        self._wait_for_replies(self._limit)

    def _wait_for_replies(self, limit: float) -> None:
        """Waits for all workers; ends them if one fails or does not reply in `limit` seconds."""
        pending = {link: number for number, link in enumerate(self._links)}
        deadline = time.monotonic() + limit
        try:
            while pending:
                ready = connection.wait(list(pending), max(deadline - time.monotonic(), 0.0))
                if not ready:
                    raise self._timeout_error(next(iter(pending.values())), limit)
                for link in ready:
                    assert isinstance(link, Connection)
                    self._receive(link, pending.pop(link))
        except WorldError:
            self._close()
            raise
        except BaseException:  # e.g. an interrupt: late replies would be taken for later ones
            _end_processes(self._processes, self._links, grace=0.0)
            raise

    def _receive(self, link: Connection, number: int) -> None:
        """Reads the reply of a worker: None, or the world and the message of a failure."""
        try:
            failure = link.recv()
        except (EOFError, OSError) as error:
            raise self._exit_error(number) from error
        if failure is not None:
            world, what = failure
            raise WorldError(self._bounds[number] + world, what)

    def _timeout_error(self, number: int, limit: float) -> WorldError:
        """Kills a worker that has not replied and returns the error."""
        world = self._current_world(number)
        self._processes[number].kill()
        return WorldError(
            world,
            f"was being processed when {self._name(number)} had not answered for {limit:g} s; it "
            "was ended. Raise the family's `time_limit` if its environments are slow.",
        )

    def _exit_error(self, number: int) -> WorldError:
        """Returns the error for a worker that has ended unexpectedly."""
        process = self._processes[number]
        process.join(GRACE_SECONDS)
        hint = "" if self._ready else UNGUARDED
        return WorldError(
            self._current_world(number),
            f"was being processed when {self._name(number)} ended with exit code "
            f"{process.exitcode}.{hint}",
        )

    def _current_world(self, number: int) -> int:
        """Returns the index of the world that a worker resets or steps."""
        low = self._bounds[number]
        return low + int(self.rows.at[low])

    def _name(self, number: int) -> str:
        low, high = self._bounds[number : number + 2]
        return f"worker {number} of {len(self._processes)}, with the worlds {low} to {high - 1},"


def _shared_rows(family: GymFamily, worlds: int, context: Any, shared: dict[str, Any]) -> Rows:
    """Allocates rows in shared memory; adds (buffer, shape, dtype) of each field to `shared`."""
    buffers: list[tuple[np.ndarray, Any]] = []

    def allocate(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        count = int(np.prod(shape))
        # This shared memory has no name, so it cannot leak when a process is killed.
        raw = context.RawArray("b", max(count * np.dtype(dtype).itemsize, 1))
        rows = np.frombuffer(raw, dtype, count).reshape(shape)
        buffers.append((rows, raw))
        return rows

    rows = Rows.of(family, worlds, allocate)
    for name, value in vars(rows).items():
        raw = next(r for array, r in buffers if array is value)
        shared[name] = (raw, value.shape, value.dtype)
    return rows


def _start_server() -> None:
    """Starts the forkserver with signals blocked, so that Ctrl-C does not interrupt its imports."""
    resource_tracker.ensure_running()  # otherwise the server starts it, which unblocks signals
    forkserver.set_forkserver_preload(["__main__", __name__, f"{__package__}.preloaded"])
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # inherited by the server
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _pickle_family(family: GymFamily) -> bytes:
    try:
        return pickle.dumps(CloudpickleWrapper(lambda: family))  # pyright: ignore[reportArgumentType]
    except Exception as error:
        raise SettingsError(
            f"{family.name} cannot be sent to worker processes: {type(error).__name__}: {error}. "
            "Choose workers=0, or build it of parts that can be pickled."
        ) from error


def _end_processes(processes: list[BaseProcess], links: list[Connection], grace: float) -> None:
    """Asks the workers to close; kills those that have not ended after `grace` seconds."""
    for link in links:
        try:
            if grace:
                link.send(("close", None))
        except OSError:  # the worker is dead or the pipe is closed
            continue
    deadline = time.monotonic() + grace
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0.0))
        if process.is_alive():
            process.kill()
            process.join()
    for link in links:
        link.close()


# In the worker process


def _run_worker(
    payload: bytes, shared: dict[str, Any], low: int, high: int, link: Connection
) -> None:
    """Main function of a worker: handles messages until "close" or the end of the parent.

    Args:
        payload: The pickled family.
        shared: (buffer, shape, dtype) of each field of the rows.
        low: The first world of this worker.
        high: One past its last world.
        link: This worker's end of the pipe.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    _end_with_parent()
    torch.set_num_threads(1)  # the workers already use the cores
    worlds: Environments | None = None
    try:
        family: GymFamily = pickle.loads(payload)()
        rows = Rows(
            **{
                name: np.frombuffer(raw, dtype, int(np.prod(shape))).reshape(shape)
                for name, (raw, shape, dtype) in shared.items()
            }
        )
        worlds = Environments(family, rows.cut(low, high))
        link.send(None)
        while _handle_message(worlds, link):
            pass
    except (EOFError, OSError):  # the parent is gone
        pass
    except Exception as error:
        link.send((0, f"cannot be built in a worker process: {type(error).__name__}: {error}"))
    finally:
        if worlds is not None:
            worlds.close()


def _handle_message(worlds: Environments, link: Connection) -> bool:
    """Executes the next command and replies; returns False for "close"."""
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
    """Makes this process end when its parent ends, even inside a blocking call."""
    parent = parent_process()
    assert parent is not None
    sentinel = parent.sentinel  # a pipe whose other end closes with the parent
    if hasattr(os, "O_ASYNC"):
        import fcntl  # not available on all platforms

        # The kernel sends SIGIO, which works even if a thread holds the interpreter lock forever.
        signal.signal(signal.SIGIO, signal.SIG_DFL)
        fcntl.fcntl(sentinel, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(sentinel, fcntl.F_SETFL, fcntl.fcntl(sentinel, fcntl.F_GETFL) | os.O_ASYNC)

    def end() -> None:
        connection.wait([sentinel])
        os._exit(1)  # the main thread may be in a call that never returns

    threading.Thread(target=end, daemon=True).start()
