"""The benchmark on Meta-World runs."""

import pytest
from metarl_envs.metaworld_package import is_installed

from benchmarks.metaworld import MetaWorldBenchmark, main


@pytest.mark.skipif(not is_installed(), reason="Meta-World is not installed")
def test_it_prints_every_candidate(capsys):
    main(MetaWorldBenchmark(worlds=(2,), tasks=("reach",), steps=2, rounds=2))
    printed = capsys.readouterr().out
    for name in ("Meta-World", "physics, 2 worlds", "MetaRL, 2 worlds", "steps a second"):
        assert name in printed
