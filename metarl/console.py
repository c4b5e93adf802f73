"""Scripts and commands: an error or a signal ends them with a message, without a traceback."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table

from metarl.errors import MetarlError, short_repr
from metarl.startup import INTERRUPTED, accept_interrupts

READER_CLOSED = 141  # as shells count: 128 + SIGPIPE
_FULL = {errno.ENOSPC, errno.EFBIG, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
_OUT_OF_MEMORY = re.compile("allocate memory|out of memory", re.IGNORECASE)
_NO_MEMORY = (
    "MemoryError: The memory is too small. Lower the tasks of a batch or of a chunk "
    "(--training.meta-batch-size, --training.task-chunk-size), or the sizes of networks and data."
)
_FREE_SPACE = (
    "Free some space, make the folder writable, or name folders on another disk: --runs, --out, "
    "the environment variable TMPDIR for temporary files."
)


class OutputConsole(Console):
    """A console that raises BrokenPipeError where rich's ends the process."""

    def on_broken_pipe(self) -> None:
        """Raises the BrokenPipeError that is being handled."""
        raise

    def print_whole(self, table: RenderableType) -> None:
        """Prints a table with all its digits; a narrow terminal wraps its lines.

        What is no table is printed as it is.
        """
        if not isinstance(table, Table):
            self.print(table)
            return
        least, widths = self._column_widths(table)
        caption, table.min_width = table.min_width, None
        around = self._measured(table).maximum - sum(widths)
        table.min_width = caption
        # By itself, rich shortens words while other columns have room.
        while sum(widths) + around > self.width and widths != least:
            wider = [i for i, width in enumerate(widths) if width > least[i]]
            widths[max(wider, key=widths.__getitem__)] -= 1
        for column, width in zip(table.columns, widths, strict=True):
            column.width = width
        width = max(self.width, sum(widths) + around)
        OutputConsole(file=self.file, width=width).print(table)

    def _column_widths(self, table: Table) -> tuple[list[int], list[int]]:
        """Returns the widths of the columns of a table that cut no word, and that wrap no line."""
        least, most = [], []
        for column in table.columns:
            sizes = [self._measured(cell) for cell in (column.header, *column.cells)]
            most.append(max(size.maximum for size in sizes))
            least.append(most[-1] if column.no_wrap else max(size.minimum for size in sizes))
        return least, most

    def _measured(self, value: RenderableType) -> Measurement:
        return Measurement.get(self, self.options.update(max_width=sys.maxsize), value)


def run_script(main: Callable[[], None]) -> None:
    """Runs a script's `main`, and ends without a traceback.

    An error of MetaRL, a full disk and a full memory are printed and exit with 1. Ctrl-C exits with
    130, a closed pipe (`metarl list | head -1`) with 141.
    """
    _open_streams()
    try:
        try:
            accept_interrupts()
            with _readable_warnings():
                main()
        finally:
            sys.stdout.flush()  # a closed pipe shows here, not at the exit of Python
    except MetarlError as error:
        _print_error(f"{type(error).__name__}: {' '.join((str(error), *_notes(error)))}")
        sys.exit(1)
    except KeyboardInterrupt as interrupt:
        with _uninterrupted():
            _print_error(" ".join(("Interrupted.", *_notes(interrupt))))
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        if not (_reader_closed(sys.stdout) or _reader_closed(sys.stderr)):
            raise  # another pipe, such as one of a user's environment
        sys.exit(READER_CLOSED)
    except OSError as error:
        if not _is_full_disk(error):
            raise
        for stream in (sys.stdout, sys.stderr):
            _discard_unwritable(stream)
        _print_error(" ".join((f"OSError: {error}. {_FREE_SPACE}", *_notes(error))))
        sys.exit(1)
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error))):
            raise
        _print_error(" ".join((f"{_NO_MEMORY} ({short_repr(str(error), 200)})", *_notes(error))))
        sys.exit(1)


def _open_streams() -> None:
    """Opens the null device for standard output or errors that the caller closed (`>&-`).

    Letters that the encoding of a stream lacks, as that of a pipe on Windows, become "?".
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
        elif getattr(stream, "errors", None) == "strict" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


@contextlib.contextmanager
def _readable_warnings() -> Iterator[None]:
    """Prints warnings as messages: the place in the code comes last, its source line not at all."""
    previous = warnings.formatwarning
    warnings.formatwarning = _warning_line
    try:
        yield
    finally:
        warnings.formatwarning = previous


def _warning_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    line: str | None = None,
) -> str:  # fmt: skip
    return f"{category.__name__}: {message} ({short_path(Path(filename))}:{lineno})\n"


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ignores further SIGINTs in the block; after it, one ends a program without a word.

    In a notebook, where further code runs, the handler is restored.
    """
    try:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    is_program = hasattr(sys.modules.get("__main__"), "__file__")
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if is_program else previous)


def say(*parts: str) -> None:
    """Prints a line on standard error, if that can still be written; on the first rank only."""
    if _rank_name():
        return
    with contextlib.suppress(OSError):
        OutputConsole(stderr=True).print(*parts, markup=False, highlight=False, soft_wrap=True)


def _rank_name() -> str:
    """Returns "rank N" in each of several processes but the first, else an empty string."""
    several = (os.environ.get("WORLD_SIZE") or "1") != "1"
    number = os.environ.get("RANK") or "0"
    return f"rank {number}" if several and number != "0" else ""


def _notes(error: BaseException) -> list[str]:
    return list(getattr(error, "__notes__", ()))


def _print_error(message: str) -> None:
    message = f"[{_rank_name()}] {message}" if _rank_name() else message
    with contextlib.suppress(OSError):
        OutputConsole(stderr=True).print(
            message, style="red", markup=False, highlight=False, soft_wrap=True
        )


def _reader_closed(stream: TextIO) -> bool:
    """Returns whether a stream goes to a pipe that nobody reads; such a stream is discarded."""
    try:
        stream.flush()
        descriptor = stream.fileno()
        poll = getattr(select, "poll", None)  # not on Windows
        if poll is None:
            return False
        poller = poll()
        poller.register(descriptor, 0)  # errors are always reported
        closed = any(event & select.POLLERR for _, event in poller.poll(0))
    except BrokenPipeError:
        closed = True
    except (OSError, ValueError, AttributeError):  # a replaced or closed stream
        return False
    if closed:
        _discard(stream)
    return closed


def short_path(path: Path) -> str:
    """Returns a path as a user writes it: relative to the working folder, if it is in there."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):  # elsewhere, or the working folder is gone
        return str(path)


def _is_full_disk(error: OSError) -> bool:
    """Returns whether a disk is full or cannot be written, that of temporary files among them."""
    return error.errno in _FULL or "No usable temporary directory" in str(error)


def _discard_unwritable(stream: TextIO) -> None:
    try:
        stream.flush()
    except OSError:
        _discard(stream)
    except (ValueError, AttributeError):  # a replaced or closed stream
        return


def _discard(stream: TextIO) -> None:
    """Keeps Python from writing to a stream at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
