"""The experiment on the half cheetah as a user runs it, with a tiny budget."""

import pytest

from metarl.training.logger import read_curves
from metarl.training.saved_run import script_experiment
from tests.experiments.test_control_scripts import EXPERIMENTS, TINY


@pytest.mark.parametrize("task", ["velocity", "direction"])
def test_the_half_cheetah_runs(task, tmp_path, monkeypatch, capsys):
    arguments = ["--runs", str(tmp_path), *TINY, "--training.iterations", "1", "--horizon", "5"]
    monkeypatch.setattr("sys.argv", ["half_cheetah", *arguments, "--task", task])
    script_experiment(EXPERIMENTS / "half_cheetah.py").main()
    assert f"HalfCheetah{task.title()}-v1:" in capsys.readouterr().out
    (folder,) = (tmp_path / "half_cheetah" / "maml").iterdir()
    (line,) = read_curves(folder)
    assert line["environment_steps"] == 2 * 2 * 2 * 5
    assert len(line["mean"]) == 3
