"""The benchmark of robots on a GPU: it runs without one, and says so."""

import re

from benchmarks.locomotion_gpu import GPUBenchmark, main
from tests.sim.warp.devices import prepare_warp


def test_it_prints_rates_and_that_no_gpu_is_there(capsys):
    prepare_warp("cpu")
    small = {"worlds": (4,), "cpu_worlds": 4, "threads": 1, "steps": 3, "rounds": 2, "seconds": 0.0}
    main(GPUBenchmark(families=("tests.sim.families:Cart",), device="cpu", **small))
    printed = capsys.readouterr().out
    assert "No CUDA device is here" in printed
    assert "Cart, Warp on the CPU" in printed
    assert re.search(r"\n\s+4\s+[\d,]+\s+\d+%\s+\d+\.\d\d\s*\n", printed)
