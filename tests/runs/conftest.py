"""Fixtures for tests of runs."""

from datetime import datetime

import pytest
from tensorboard.summary.writer import event_file_writer

from metarl.runs.checkpoints import Checkpoints
from metarl.runs.run_folder import create_run_folder


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch):
    """Numbers event files from 0; TensorBoard reads 10 before 9 if both are of one second."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def at(second):
    return lambda: datetime(2026, 1, 2, 3, 4, second)


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(second, seed=0, iterations=()):
        folder = create_run_folder("runs", "sine", "maml", seed, {"a": 1}, at(second))
        for iteration in iterations:
            Checkpoints(folder / "checkpoints").save(iteration, {}, {})
        return folder

    return run
