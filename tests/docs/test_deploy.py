"""The code of docs/deploy.md runs, from a finished run to an adapted policy."""

import re
import sys
import warnings
from pathlib import Path

import pytest

from metarl.commands import main
from metarl.lab.lookup import script_experiment
from tests.docs.pages import python_blocks

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(ROOT / "docs" / "deploy.md")
TINY = (
    "--training.iterations", "1", "--training.meta-batch-size", "2", "--training.eval-every", "0",
    "--gradients.trajectories", "3", "--test-tasks", "2", "--test-steps", "1", "--hidden", "8",
)  # fmt: skip


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cart_pole.py", *TINY])
    script_experiment(ROOT / "experiments" / "cart_pole.py").main()
    return tmp_path


def test_its_code_runs(run, capsys):
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a tiny training's ranges
        for block in BLOCKS:
            exec(compile(block, "docs/deploy.md", "exec"), namespace)
    assert "seconds on the robot" in capsys.readouterr().out
    assert (run / "adapted.safetensors").is_file()
    assert namespace["pending"].done() and namespace["report"].steps == 5


def test_its_commands_run(run, monkeypatch, capsys):
    (command,) = re.findall(r"^    metarl (adapt latest .*)$", PAGE, re.MULTILINE)
    monkeypatch.setattr(sys, "argv", ["metarl", *command.split(), "--test-episodes", "2"])
    main()
    assert "s of the robot's time" in capsys.readouterr().out
    assert (run / "adapted" / "adapted.safetensors").is_file()


def test_its_options_are_those_of_the_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["metarl", "adapt", "--help"])
    with pytest.raises(SystemExit):
        main()
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    commands = re.findall(r"^    metarl adapt (.*?)(?:#|$)", PAGE, re.MULTILINE)
    used = {option for command in commands for option in re.findall(r"--[a-z-]+", command)}
    assert len(commands) == 4 and used <= known
