"""Fixtures for tests of runs."""

import pytest
from tensorboard.summary.writer import event_file_writer


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch):
    """Numbers event files from 0; TensorBoard reads 10 before 9 if both are of one second."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))
