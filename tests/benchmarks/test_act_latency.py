"""The benchmark of latency runs, and acting takes nowhere near the time of a control step."""

import numpy as np

from benchmarks.act_latency import report


def test_it_prints_a_table(capsys):
    found = report(200)
    printed = capsys.readouterr().out
    assert "p50" in printed and "an adaptation step on 20 x 200 transitions" in printed
    assert np.percentile(found["MLP 2x100, sampled"], 50) < 1000  # microseconds
