"""Several runs of sine together: an interval over the tasks that they share."""

from pathlib import Path

import torch

from benchmarks.sine_seeds import errors, main, summarise_runs

RUN = Path("tests/lab/runs_of_0_1/sine/maml")


def test_equal_runs_have_the_interval_of_one(capsys):
    values = errors((RUN, RUN), 6)
    assert values.shape == (11, 2, 6) and torch.equal(values[:, 0], values[:, 1])
    one, _, together = (summaries[1] for summaries in summarise_runs(values).values())
    assert (together.mean_low, together.mean_high) == (one.mean_low, one.mean_high)
    main((RUN, RUN), 6)
    table = capsys.readouterr().out
    assert "run 1" in table and f"{one.mean:.2f} [{one.mean_low:.2f}" in table
