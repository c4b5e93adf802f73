"""The commands of compose.yaml as processes: SIGTERM saves, the same command resumes."""

import os
import re
import signal
import socket
import subprocess
import sys
import time

import pytest

from metarl.runs.run_state import run_state
from tests.docker.compose import command, health_check, services

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="signals"),
]
SMALL = (
    "--training.meta-batch-size", "2", "--training.checkpoint-every", "50", "--training.log-every",
    "10", "--training.eval-every", "0", "--test-tasks", "3",
)  # fmt: skip
SECONDS = 120


def wait_for(condition, process):
    """Waits until a condition holds; fails if the process ends before."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.1)


def start(arguments, folder):
    return subprocess.Popen(
        arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def healthy(service, folder):
    return subprocess.run(health_check(service), cwd=folder, capture_output=True).returncode == 0


def test_a_restart_goes_on_where_sigterm_saved(tmp_path):
    """The working directory stands for /srv/metarl, its folder runs for the volume."""
    service = services()["train"]
    train = [*command(service), *SMALL, "--training.iterations"]
    first = start([*train, "1000000"], tmp_path)
    wait_for(lambda: list(tmp_path.glob("runs/sine/maml/*/checkpoints/step_*")), first)
    assert healthy(service, tmp_path)
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=SECONDS)
    stopped = int(re.search(r"Stopped after (\d+)", printed)[1])
    assert first.returncode == 128 + signal.SIGTERM
    assert not healthy(service, tmp_path)
    (folder,) = tmp_path.glob("runs/sine/maml/*")
    assert (run_state(folder).state, run_state(folder).iteration) == ("stopped", stopped)

    second = start([*train, str(stopped + 20)], tmp_path)
    printed, errors = second.communicate(timeout=SECONDS)
    assert second.returncode == 0, errors
    assert "is resumed with other settings" in errors
    assert list(tmp_path.glob("runs/sine/maml/*")) == [folder], "no second run begins"
    assert (run_state(folder).state, run_state(folder).iteration) == ("finished", stopped + 20)


def test_tensorboard_serves_and_its_health_check_notices(tmp_path):
    (tmp_path / "runs").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    service = services()["tensorboard"]
    arguments = [a.replace("6006", port).replace("0.0.0.0", "127.0.0.1") for a in command(service)]
    *check, code = health_check(service)
    check = [*check, code.replace("6006", port)]
    assert subprocess.run(check, capture_output=True).returncode != 0
    board = start(arguments, tmp_path)
    try:
        wait_for(lambda: subprocess.run(check, capture_output=True).returncode == 0, board)
    finally:
        board.terminate()
        board.communicate(timeout=SECONDS)
    assert subprocess.run(check, capture_output=True).returncode != 0
