"""How experiments end."""

import signal

import pytest

from metarl.lab.experiment import print_stopped
from metarl.training.loop import TrainingResult


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGPIPE, 141)],
)
def test_a_stopped_run_ends_with_the_signals_status(number, status, capsys):
    with pytest.raises(SystemExit) as end:
        print_stopped(TrainingResult(7, False, 1.0, number.name), "Go on with [this].")
    assert end.value.code == status
    printed = capsys.readouterr().out
    assert printed == "Stopped after 7 meta-iterations, all saved. Go on with [this].\n"
