"""The code of docs/control.md runs, as the script that it describes, and its names are there."""

import re
import sys
from pathlib import Path

from metarl.commands import main
from metarl.lab.lookup import script_experiment

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "control.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
TINY = (
    "--training.iterations", "1", "--training.meta-batch-size", "2", "--training.eval-every", "0",
    "--gradients.trajectories", "2", "--test-tasks", "3",
)  # fmt: skip


def test_the_code_is_an_experiment_that_trains_and_plays(tmp_path, monkeypatch, capsys):
    script = tmp_path / "push.py"
    script.write_text("\n".join(BLOCKS), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["push.py", "--runs", str(tmp_path), *TINY])
    experiment = script_experiment(script)
    experiment.main()
    assert "maml on Push-v1" in capsys.readouterr().out
    (folder,) = (tmp_path / "push" / "maml").iterdir()
    for command in ("evaluate", "play"):
        monkeypatch.setattr(sys, "argv", ["metarl", command, str(folder)])
        main()
        assert "3" in capsys.readouterr().out


def test_its_algorithms_are_those_there_are():
    known = script_experiment(ROOT / "experiments" / "navigation2d.py").configs
    table = re.findall(r"^\| (`.*?) \|", PAGE, re.MULTILINE)[1:]
    assert {name for row in table for name in re.findall(r"`(.*?)`", row)} == set(known)


def test_its_links_and_commands_lead_somewhere():
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / "docs" / link).is_file(), link
    for script in re.findall(r"python (experiments/\w+\.py)", PAGE):
        assert (ROOT / script).is_file(), script
