"""The code of docs/families.md runs, by the commands that the page gives."""

import re
import shlex
import sys
from pathlib import Path

import pytest

from metarl.commands import main
from metarl.lab.lookup import script_experiment
from metarl.runs.eval_file import read_curves
from metarl.sim import FAMILIES, make_family
from tests.docs.pages import python_blocks
from tests.experiments.test_control_scripts import TINY, leave_out_figures

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
BLOCKS = python_blocks(ROOT / "docs" / "families.md")
TITLES = {
    "pendulums": "Pendulum(g,m)-v1",
    "carts": "CartPole(force_mag)-v1",
    "motors": "Motor(target)-v1",
    "trucks": "Truck(load)-v1",
    "many_carts": "simulator(force)-v1",
    "hills": "Hill(tasks)-v1",
    "Carts": "Carts-v1",
}


@pytest.fixture
def my_tasks(tmp_path, monkeypatch):
    """The folder in which my_tasks.py is, which is the present one."""
    (tmp_path / "my_tasks.py").write_text("\n".join(BLOCKS), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    leave_out_figures(monkeypatch)
    monkeypatch.delitem(sys.modules, "my_tasks", raising=False)
    return tmp_path


@pytest.mark.parametrize("family", TITLES)
def test_the_families_train_and_have_cards(family, my_tasks, monkeypatch, capsys):
    arguments = ["--family", f"my_tasks:{family}", "--horizon", "5", *TINY]
    monkeypatch.setattr("sys.argv", ["custom.py", *arguments, "--training.iterations", "1"])
    script_experiment(ROOT / "experiments" / "custom.py").main()
    shown = capsys.readouterr().out
    assert TITLES[family] in shown
    (folder,) = (my_tasks / "runs" / "custom" / "maml").iterdir()
    line, *metrics = read_curves(folder)
    assert len(metrics) == (family == "motors")
    # Before and after a step, and to start the statistics of the observations.
    assert line["environment_steps"] == 3 * 2 * 2 * 5
    (play,) = re.findall(r"An adaptation: metarl (play .*)", shown)
    assert shlex.split(play) == ["play", str(folder.relative_to(my_tasks)), "--trust"]
    for command in (["list", "--card", f"my_tasks:{family}"], shlex.split(play)):
        monkeypatch.setattr("sys.argv", ["metarl", *command])
        main()
        assert TITLES[family] in capsys.readouterr().out or command[0] == "play"


def test_the_families_that_do_not_keep_their_units_are_named():
    own = [name for name in FAMILIES.names() if not make_family(name).published_units]
    named = re.findall(r"ship with MetaRL, all but `(.*?)`, keep the environment's units", PAGE)
    assert own == named


def test_its_commands_name_scripts_that_exist():
    for path in re.findall(r"(experiments/\w+\.py)", PAGE):
        assert (ROOT / path).is_file(), path


@pytest.mark.slow
def test_carts_learn_which_side_is_left(my_tasks, monkeypatch):
    (command,) = re.findall(r"metarl train custom (.*my_tasks:carts[^`]*?)\n\n", PAGE)
    arguments = shlex.split(command.replace("\\\n", " "))
    arguments += ["--training.eval-every", "0", "--test-tasks", "20"]
    monkeypatch.setattr("sys.argv", ["custom.py", *arguments])
    script_experiment(ROOT / "experiments" / "custom.py").main()
    (folder,) = (my_tasks / "runs" / "custom" / "maml").iterdir()
    (line,) = read_curves(folder)
    before, once, _, thrice = line["mean"]
    assert before < 30 and once > 50 and thrice > 70
