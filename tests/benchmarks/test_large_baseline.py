"""The baseline of large observations against a value network."""

import pytest
import torch

from benchmarks.large_baseline import LargeBaselineBenchmark, explained, main
from metarl.rl import baseline


@pytest.mark.slow
def test_it_prints_what_each_explains(monkeypatch, capsys):
    monkeypatch.setattr(baseline, "PROJECTIONS", baseline.PROJECTIONS)
    main(LargeBaselineBenchmark(tasks=1, trajectories=2))
    baseline._projection.cache_clear()
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows[1:4]] == ["32", "128", "512"]
    assert float(rows[2].split()[3]) > 0.9  # more features than steps


def test_the_share_that_is_explained():
    returns = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    assert explained(returns, returns) == 1
    assert abs(explained(torch.zeros(3, 4, 5), returns)) < 1e-6
