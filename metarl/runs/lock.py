"""A lock on a run folder: one process at a time writes into it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import warnings
import weakref
from dataclasses import dataclass
from pathlib import Path

from metarl.errors import CheckpointError
from metarl.tasks.files import read_text

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
try:
    import msvcrt
except ImportError:  # everything else
    msvcrt = None

LOCK_FILE = ".lock"
_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)  # for the writer of a FIFO
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # not on Windows
_MOST_BYTES = 1000  # of the text in the file
_LOCKED_BYTE = 1 << 20  # Windows does not let others read a locked byte: it lies after the text


class RunLock:
    """Keeps other processes from writing into a run folder.

    The kernel releases the lock when this process ends in any way, `kill -9` included. Within a
    process, several objects may lock the same folder (the command, the outer loop, a logger); the
    lock is released with the last of them. Forked children do not hold it.

    Args:
        folder: The run folder, which must exist.

    Raises:
        CheckpointError: Another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path | str) -> None:
        key = Path(folder).resolve()
        with _MUTEX:
            _acquire(key)
        self.release = weakref.finalize(self, _release, key, os.getpid())
        """Releases the lock; repeated calls have no effect."""

    def __enter__(self) -> RunLock:
        """Returns the lock."""
        return self

    def __exit__(self, *_: object) -> None:
        """Releases the lock."""
        self.release()


@dataclass
class _Lock:
    """The lock of this process on one folder, and the number of objects that hold it."""

    descriptor: int
    count: int = 0


_LOCKS: dict[Path, _Lock] = {}
_MUTEX = threading.RLock()  # a finalizer may run while its own thread holds it


def is_locked(folder: Path | str) -> bool:
    """Returns whether a process writes into a run folder; it is False where locks do not work."""
    path = Path(folder) / LOCK_FILE
    if Path(folder).resolve() in _LOCKS:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY | _NO_WAITING)
    except OSError:  # no process holds a lock without its file
        return False
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        return error.errno in _HELD_BY_ANOTHER
    finally:
        os.close(descriptor)  # releases the lock, if the file was not locked
    return False


def _acquire(folder: Path) -> None:
    lock = _LOCKS.get(folder)
    if lock is None:
        lock = _LOCKS[folder] = _Lock(_open_locked(folder))
    elif not _is_file(lock.descriptor, folder / LOCK_FILE):  # the folder was deleted and made again
        descriptor = _open_locked(folder)
        os.close(lock.descriptor)
        lock.descriptor = descriptor
    lock.count += 1


def _release(folder: Path, process: int) -> None:
    if process != os.getpid():  # in a forked child; the parent still holds the lock
        return
    with _MUTEX:
        lock = _LOCKS[folder]
        lock.count -= 1
        if lock.count:
            return
        del _LOCKS[folder]
        path = folder / LOCK_FILE
        with contextlib.suppress(OSError):  # Windows does not delete open files
            if _is_file(lock.descriptor, path):
                path.unlink()
        os.close(lock.descriptor)


def _open_locked(folder: Path) -> int:
    """Returns the descriptor of the folder's lock file, locked."""
    path = folder / LOCK_FILE
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NO_LINKS | _NO_WAITING, 0o666)
        except OSError as error:
            if path.is_symlink():
                raise CheckpointError(
                    f"{path} is a link, which would be written through. Delete it."
                ) from error
            raise _unwritable(folder, error) from error
        if not _lock(descriptor, path):
            os.close(descriptor)
            raise CheckpointError(
                f"Another process writes into the run folder {folder}{_holder(path)}. Wait for its "
                "end or stop it (Ctrl-C saves), or choose another run or folder."
            )
        if _is_file(descriptor, path):
            _write_holder(descriptor)
            return descriptor
        os.close(descriptor)  # the former holder deleted the file after it was opened here


def _lock(descriptor: int, path: Path) -> bool:
    """Locks a file; returns False if another process has locked it."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif msvcrt is not None:
            os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore[reportAttributeAccessIssue]
    except OSError as error:
        if error.errno in _HELD_BY_ANOTHER:
            return False
        warnings.warn(  # such as a network file system without locks
            f"{path.parent} cannot be locked ({error}): take care that no second process writes "
            "into it.",
            RuntimeWarning,
            stacklevel=2,
        )
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Returns whether a descriptor is that of the file which now has this path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def _write_holder(descriptor: int) -> None:
    """Writes which process holds the lock, for the error messages of others."""
    with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())


def _holder(path: Path) -> str:
    try:
        text = read_text(path, _MOST_BYTES)
    except (OSError, ValueError):
        return ""
    return f" ({text})" if text else ""


def _unwritable(folder: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"Cannot write to the run folder {folder}: {error}. Make it writable, or copy the run to a "
        "folder that is, and name the copy: --resume COPY. To evaluate a run, `metarl evaluate` "
        "does not write into it."
    )


def _forget_locks() -> None:
    """Closes a forked child's copies, so that the lock does not outlive the parent process."""
    for lock in _LOCKS.values():
        os.close(lock.descriptor)
    _LOCKS.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)
