"""Experiments in separate processes end without a traceback, and with their work saved."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metarl.runs.checkpoints import Checkpoints, load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
SINE = [sys.executable, str(ROOT / "experiments" / "sine.py")]
LONG = (
    "--training.iterations", "1000000", "--training.eval-every", "0",
    "--training.checkpoint-every", "50", "--learner.steps", "1",
)  # fmt: skip
REPORTING = """
import sys, time
from dataclasses import replace
from metarl.lab.lookup import script_experiment
from pathlib import Path
experiment = script_experiment(Path(sys.argv.pop(1)))
build = experiment.build
def slow(loop):
    print("reporting", flush=True)
    time.sleep(60)
replace(experiment, build=lambda s: replace(build(s), report=slow), script="x.py").run()
"""
IMPORTING = """
import os, signal, sys
module, sys.argv[0] = sys.argv.pop(1), sys.argv.pop(1)
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from metarl.commands import main
main()
"""
TWICE = """
import os, signal, metarl.console
def interrupt(*_):
    os.kill(os.getpid(), signal.SIGINT)
metarl.console._print_error = interrupt  # the second one arrives while the first is answered
metarl.console.run_script(interrupt)
"""


@pytest.fixture(autouse=True)
def default_interrupts():
    """Lets processes be interrupted: shells make the jobs in their background ignore SIGINT."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


def start(*command, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen([*command], text=True, **options)


def only_run(runs):
    (folder,) = runs.glob("sine/maml/*")
    return folder


def wait_for_checkpoint(process, runs, pattern="step_*[1-9]*"):
    deadline = time.monotonic() + 60
    while not list(runs.glob(f"sine/maml/*/checkpoints/{pattern}")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.01)


def end(process):
    """Waits for the end; returns the exit status and the output, which has no traceback."""
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in (out or "") + (err or ""), err
    assert "Exception ignored" not in (err or ""), err
    return process.returncode, (out or ""), (err or "")


def test_two_processes_and_one_run_folder(tmp_path):
    first = start(*SINE, *LONG, "--runs", str(tmp_path))
    wait_for_checkpoint(first, tmp_path)
    config = only_run(tmp_path) / "config.json"
    before = config.stat()
    second = start(*SINE, *LONG, "--runs", str(tmp_path), "--resume", "latest", "--shots", "9")
    status, _, err = end(second)
    assert status == 1 and f"process {first.pid} on" in err
    assert os.path.samestat(before, config.stat())
    first.send_signal(signal.SIGHUP)
    status, out, _ = end(first)
    assert status == 129 and f"--resume {only_run(tmp_path)}." in out


def test_an_interrupted_report_says_that_training_is_saved(tmp_path):
    process = start(
        sys.executable, "-c", REPORTING, SINE[1], "--runs", str(tmp_path),
        "--training.iterations", "2", "--training.eval-every", "0",
    )  # fmt: skip
    assert process.stdout.readline() == "reporting\n"
    process.send_signal(signal.SIGINT)
    status, _, err = end(process)
    assert status == 130
    assert f"Interrupted. The training is finished and saved in {only_run(tmp_path)}" in err


@pytest.mark.parametrize(
    ("module", "program"),
    [("gymnasium", "bin/metarl"), ("numpy", "metarl.exe"), ("tyro", "program.py")],
)
def test_an_interrupt_at_the_start_ends_quietly(module, program):
    process = start(sys.executable, "-c", IMPORTING, module, program, "list")
    assert end(process) == (130, "", "")


def test_programs_that_are_not_the_command_are_interrupted_as_ever():
    process = start(sys.executable, "-c", IMPORTING, "gymnasium", "program.py", "list")
    assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]


def test_a_second_interrupt_ends_quietly():
    assert end(start(sys.executable, "-c", TWICE)) == (130, "", "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_closed_pipe_ends_quietly(tmp_path, stream):
    small = ("--training.iterations", "3", "--training.eval-every", "0", "--test-tasks", "3")
    read, write = os.pipe()
    os.close(read)
    process = start(*SINE, *small, "--runs", str(tmp_path), **{stream: write})
    os.close(write)
    status, _, _ = end(process)
    assert status in ((141,) if stream == "stdout" else (0, 141))
    good = Checkpoints(only_run(tmp_path) / "checkpoints").newest_good()
    assert load_checkpoint(good).iteration == 3


@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["train", "--help"], ["--version"]])
def test_commands_end_quietly_at_a_closed_pipe(arguments):
    read, write = os.pipe()
    os.close(read)
    code = "from metarl.commands import main; main()"
    process = start(sys.executable, "-c", code, *arguments, stdout=write)
    os.close(write)
    status, _, err = end(process)
    assert status == 141 and not err
