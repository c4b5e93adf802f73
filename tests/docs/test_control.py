"""The code of docs/control.md runs, as the script that it describes, and its names exist."""

import re
import shlex
import sys
from pathlib import Path

from metarl.commands import main
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment, script_experiment
from metarl.rl.trials.strategies import StrategyAlgorithm

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
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["metarl", "train", "push.py", "--algorithm", "anil", *TINY])
    main()
    shown = capsys.readouterr().out
    assert "anil on Push-v1" in shown
    (play,) = re.findall(r"An adaptation: metarl play \S+(.*)", shown)
    assert shlex.split(play) == ["--script", str(script)]
    for command in ("evaluate", "play"):
        monkeypatch.setattr(sys, "argv", ["metarl", command, "latest", "--script", "push.py"])
        main()
        assert "3" in capsys.readouterr().out


def test_its_algorithms_are_those_of_the_experiment():
    navigation = script_experiment(ROOT / "experiments" / "navigation2d.py").configs
    table = re.findall(r"^\| (`.*?) \|", PAGE.partition("## Read")[0], re.MULTILINE)[1:]
    assert {name for row in table for name in re.findall(r"`(.*?)`", row)} == set(navigation)


def test_its_strategies_are_those_of_the_experiments():
    (sentence,) = re.findall(r"nothing to train: (.*?);\s+(.*?)\.\n", PAGE, re.DOTALL)
    for experiment, names in zip(("bandit", "tabular_mdp"), sentence, strict=True):
        strategies = set(re.findall(r"`([\w-]+)`", names))
        configs = find_experiment(experiment).configs
        assert strategies == {
            name for name, c in configs.items() if isinstance(c.learner, StrategyAlgorithm)
        }


def test_its_commands_name_experiments_and_scripts_that_exist():
    for script in re.findall(r"python\s+(experiments/\w+\.py)", PAGE):
        assert (ROOT / script).is_file(), script
    names = re.findall(r"^    metarl train (\w+) ", PAGE, re.MULTILINE)
    assert set(names) <= set(EXPERIMENTS.names())
