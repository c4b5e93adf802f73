"""Small runs of the experiment scripts, and the command on them."""

import shutil
import sys
from pathlib import Path

import pytest

from metarl.commands import main
from metarl.lab.lookup import script_experiment

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TINY = (
    "--training.iterations", "2", "--training.meta-batch-size", "2", "--training.log-every", "1",
    "--training.checkpoint-every", "1", "--training.eval-every", "2", "--training.eval-tasks", "2",
    "--training.eval-steps", "1", "--test-tasks", "3",
)  # fmt: skip


def train(script, runs, *arguments):
    """Runs a script with a tiny budget and returns the run folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [script, "--runs", str(runs), *TINY, *arguments])
        script_experiment(EXPERIMENTS / f"{script}.py").main()
    (folder,) = (runs / script).glob("*/*")
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Run folders by experiment; tests that change one take a copy."""
    small = ("--gradients.trajectories", "2", "--hidden", "4", "--test-steps", "2")
    return {
        "bandit": train("bandit", tmp_path_factory.mktemp("bandit"), *small),
        "navigation2d": train(
            "navigation2d", tmp_path_factory.mktemp("navigation"), *small,
            "--update.fisher-trajectories", "1",
        ),
        "sine": train("sine", tmp_path_factory.mktemp("sine")),
    }  # fmt: skip


@pytest.fixture
def copied(trained, tmp_path):
    """Returns a function that copies a run folder."""
    return lambda name: Path(shutil.copytree(trained[name], tmp_path / "copied" / name))


@pytest.fixture
def metarl(monkeypatch, capsys):
    """Runs the command in this process; returns its exit status and what it printed."""

    def run(*arguments, columns=160):
        monkeypatch.setattr(sys, "argv", ["metarl", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        capsys.readouterr()
        status = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr()

    return run
