"""Output of scripts and commands."""

import errno
import io
import os
import shlex
import subprocess
import sys

import pytest
from rich.table import Table

from metarl.console import OutputConsole, run_script


def printed(width):
    table = Table(title="returns")
    for name in ("steps", "test tasks", "published"):
        table.add_column(name, no_wrap=True)
    table.add_column("text that wraps")
    table.add_column("long words that may wrap", overflow="fold")
    table.add_row("1", "-12.57 ±12.15", "-11.68", "see doi:10.1109/TSMC.1983.6313077", "some words")
    file = io.StringIO()
    OutputConsole(file=file, width=width).print_whole(table)
    return file.getvalue()


def test_a_warning_is_a_message_without_code():
    program = (
        "import warnings\n"
        "from metarl.console import run_script\n"
        "run_script(lambda: warnings.warn('Take fewer steps.', RuntimeWarning))\n"
    )
    run = [sys.executable, "-c", program]
    shown = subprocess.run(run, capture_output=True, text=True, check=True).stderr
    assert shown == "RuntimeWarning: Take fewer steps. (<string>:3)\n"


@pytest.mark.parametrize("width", [10, 40, 80])
def test_a_table_keeps_its_digits_in_a_narrow_terminal(width):
    text = printed(width)
    assert "…" not in text
    for cell in ("-12.57 ±12.15", "-11.68", "doi:10.1109/TSMC.1983.6313077"):
        assert cell in text


def test_a_table_that_fits_is_no_wider_than_the_terminal():
    assert max(map(len, printed(100).splitlines())) <= 100


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "log"),
        OSError(errno.EROFS, "Read-only file system"),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_a_full_disk_is_a_message(error, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda: _raise(error))
    assert stopped.value.code == 1
    assert f"OSError: {error}. Free some space" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")],
)
def test_a_full_memory_is_a_message(error, capsys):
    error.add_note("The last good checkpoint is x.")
    with pytest.raises(SystemExit) as stopped:
        run_script(lambda: _raise(error))
    err = capsys.readouterr().err
    assert stopped.value.code == 1 and "The memory is too small" in err
    assert "The last good checkpoint is x." in err
    with pytest.raises(RuntimeError, match="another"):
        run_script(lambda: _raise(RuntimeError("another")))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_letters_that_an_output_lacks_are_replaced(encoding):
    code = "import metarl.console as c; c.run_script(lambda: print('\u03c6 \u00b1 \u6f22'))"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-c", code]
    printed = subprocess.run(command, env=environment, capture_output=True, check=True).stdout
    assert printed.decode(encoding).split() == ["?", "?" if encoding == "ascii" else "\xb1", "?"]


def test_other_errors_of_the_system_are_raised(capsys):
    with pytest.raises(FileNotFoundError):
        run_script(lambda: _raise(FileNotFoundError(errno.ENOENT, "no such file", "x")))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_an_output_that_a_full_disk_cuts_off_is_an_error(tmp_path):
    code = """
import resource, signal
from metarl.commands import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (3, 3))
main()
"""
    with (tmp_path / "out").open("w") as out:
        command = [sys.executable, "-c", code, "--version"]
        result = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr.startswith("OSError: [Errno 27] File too large. Free some space")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such shell")
@pytest.mark.parametrize(("options", "status"), [("--version", 0), ("--help", 0), ("--nope", 2)])
def test_a_command_whose_outputs_are_closed_runs(options, status):
    code = "from metarl.commands import main; main()"
    command = shlex.join([sys.executable, "-c", code, options])
    for closed in (">&-", "2>&-", ">&- 2>&-"):
        result = subprocess.run(f"{command} {closed}", shell=True, capture_output=True, text=True)
        assert result.returncode == status, (closed, result.stderr)
        assert "Traceback" not in result.stderr


def _raise(error):
    raise error
