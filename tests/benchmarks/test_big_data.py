import sys

import pytest

from benchmarks import big_data


@pytest.mark.parametrize("source", ["numpy", "arrow"])
def test_tasks_of_a_file_are_the_same_sampled_ahead(source, monkeypatch, capsys):
    if source == "arrow":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(big_data, "EXAMPLE_BYTES", 1 << 14)
    few = ("--gigabytes", "0.008", "--batches", "3", "--repeats", "0")
    monkeypatch.setattr(sys, "argv", ["big_data", "--source", source, *few])
    big_data.main()
    printed = capsys.readouterr().out
    assert "488 examples" in printed and "the tasks are the same" in printed
    assert printed.count("batches/s") == 3
