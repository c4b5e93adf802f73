"""The lock on a run folder: between processes, forks and crashes, and where there are no locks."""

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys

import pytest

from metarl.errors import CheckpointError
from metarl.runs import lock as module
from metarl.runs.lock import LOCK_FILE, RunLock, is_locked

HOLD = """
import sys, time
from metarl.runs.lock import RunLock
lock = RunLock(sys.argv[1])
print("locked", flush=True)
time.sleep(60)
"""
TRY = "import sys; from metarl.runs.lock import RunLock; RunLock(sys.argv[1])"


@contextlib.contextmanager
def other_process(folder):
    """Another process that holds the lock until it is killed."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "locked\n"
            yield process
        finally:
            process.kill()


def is_free(folder):
    """Returns whether another process can lock the folder."""
    command = [sys.executable, "-c", TRY, str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    with other_process(tmp_path) as process:
        with pytest.raises(CheckpointError, match=rf"process {process.pid} on .*Ctrl-C saves"):
            RunLock(tmp_path)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with RunLock(tmp_path):
            assert not is_free(tmp_path)
    assert is_free(tmp_path)
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    run.mkdir()
    other.write_text("mine")
    (run / LOCK_FILE).symlink_to(other)
    with pytest.raises(CheckpointError, match=r"\.lock is a link, .* Delete it"):
        RunLock(run)
    assert other.read_text() == "mine"


def test_a_process_may_lock_a_folder_twice(tmp_path):
    first, second = RunLock(tmp_path), RunLock(tmp_path / ".." / tmp_path.name)
    first.release()
    first.release()
    assert not is_free(tmp_path)
    second.release()
    assert is_free(tmp_path)


def test_a_lock_that_is_forgotten_is_released(tmp_path):
    RunLock(tmp_path)
    assert is_free(tmp_path)


def test_a_folder_that_is_deleted_and_made_again_is_locked_again(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    first = RunLock(folder)
    shutil.rmtree(folder)
    folder.mkdir()
    with RunLock(folder):
        assert not is_free(folder)
        first.release()
        assert not is_free(folder)


def test_a_forked_child_neither_holds_nor_releases_it(tmp_path):
    code = f"""
import os, signal, time
from metarl.runs.lock import RunLock
lock = RunLock({str(tmp_path)!r})
child = os.fork()
if child == 0:
    lock.release()
    time.sleep(60)
    os._exit(0)
print(child, flush=True)
time.sleep(60)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as process:
        child = int(process.stdout.readline())
        try:
            assert not is_free(tmp_path)
            process.kill()
            process.wait()
            assert is_free(tmp_path), "the orphan must not hold it"
        finally:
            os.kill(child, signal.SIGKILL)


def test_file_systems_without_locks_get_a_warning(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(module.fcntl, "flock", unsupported)
    with pytest.warns(RuntimeWarning, match="cannot be locked .*second process"):
        RunLock(tmp_path)


def test_without_fcntl_and_msvcrt_there_is_no_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "fcntl", None)
    with other_process(tmp_path):
        assert (tmp_path / LOCK_FILE).exists(), "another process holds the lock"
        with RunLock(tmp_path) as lock:
            assert lock.release.alive


def test_windows_locks_by_msvcrt(tmp_path, monkeypatch):
    class Msvcrt:
        LK_NBLCK = 2
        calls = 0

        def locking(self, descriptor, mode, size):
            Msvcrt.calls += 1
            assert (mode, size) == (self.LK_NBLCK, 1)
            assert os.lseek(descriptor, 0, os.SEEK_CUR) > 1000  # the text stays readable
            if Msvcrt.calls > 1:
                raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(module, "fcntl", None)
    monkeypatch.setattr(module, "msvcrt", Msvcrt())
    with RunLock(tmp_path):
        assert f"process {os.getpid()} " in (tmp_path / LOCK_FILE).read_text()
        monkeypatch.setattr(module, "_LOCKS", {})  # as another process sees it
        with pytest.raises(CheckpointError, match=f"process {os.getpid()} on"):
            RunLock(tmp_path)
        monkeypatch.undo()


def test_a_read_only_file_system_is_named_with_a_way_out(tmp_path, monkeypatch):
    original = os.open

    def read_only(path, flags, *rest):
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return original(path, flags, *rest)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(CheckpointError, match=r"Read-only file system.*--resume COPY"):
        RunLock(tmp_path)


def test_a_lock_that_is_a_fifo_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / LOCK_FILE)
    assert not is_locked(tmp_path)
    with RunLock(tmp_path):
        pass
