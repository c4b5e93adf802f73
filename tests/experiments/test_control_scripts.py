"""The experiments on control tasks as a user runs them, with tiny budgets."""

import sys
from pathlib import Path

import numpy as np
import pytest

from metarl.errors import SettingsError
from metarl.lab.lookup import script_experiment
from metarl.runs.eval_file import read_curves

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TINY = (
    "--training.meta-batch-size", "2", "--training.log-every", "1", "--training.eval-every", "0",
    "--gradients.trajectories", "2", "--hidden", "4", "--test-tasks", "3", "--test-steps", "2",
)  # fmt: skip
UNTRAINED = ("random", "scratch", "ppo")
ALGORITHMS = list(script_experiment(EXPERIMENTS / "navigation2d.py").configs)


def leave_out_figures(monkeypatch):
    """Drawing takes most of the time: it is left out where figures are not looked at."""
    blank = np.zeros((1, 1, 3), np.uint8)
    monkeypatch.setattr("metarl.plots.figures.figure_pixels", lambda figure: blank)
    monkeypatch.setattr("metarl.plots.figures.save_figure", lambda figure, path: None)


def run(script, algorithm, runs, monkeypatch, drawn=False):
    """Runs a script's main() in this process and returns the run folder."""
    if not drawn:
        leave_out_figures(monkeypatch)
    iterations = "0" if algorithm in UNTRAINED else "1"
    arguments = ["--runs", str(runs), "--algorithm", algorithm, *TINY]
    arguments += ["--training.iterations", iterations]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    script_experiment(EXPERIMENTS / f"{script}.py").main()
    (folder,) = (runs / script / algorithm).iterdir()
    return folder


@pytest.mark.parametrize("algorithm", ["maml", "scratch"])
def test_navigation_leaves_what_it_promises(algorithm, tmp_path, monkeypatch, capsys):
    folder = run("navigation2d", algorithm, tmp_path, monkeypatch, drawn=True)
    assert "Navigation2D-v1:" in capsys.readouterr().out
    for name in ("adaptation.png", "paths.png"):
        assert (folder / name).stat().st_size > 0, name
    curves = {line["split"]: line for line in read_curves(folder)}
    assert len(curves["test"]["mean"]) == 3 and curves["test"]["tasks"] == 3
    assert len(curves["icml2017"]["mean"]) == 4 and curves["icml2017"]["tasks"] == 40


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_bandit_runs_every_algorithm(algorithm, tmp_path, monkeypatch, capsys):
    folder = run("bandit", algorithm, tmp_path, monkeypatch)
    assert "Bandit-v1:" in capsys.readouterr().out
    (line,) = read_curves(folder)
    assert (line["environment_steps"] == 0) == (algorithm in UNTRAINED)
    assert len(line["mean"]) == 3


def test_the_tabular_mdp_runs(tmp_path, monkeypatch, capsys):
    run("tabular_mdp", "maml", tmp_path, monkeypatch)
    assert "TabularMDP-v1:" in capsys.readouterr().out


def test_training_what_has_nothing_to_train_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.experiments.test_control_scripts.UNTRAINED", ())
    with pytest.raises(SettingsError, match="iterations 0"):
        run("bandit", "scratch", tmp_path, monkeypatch)
