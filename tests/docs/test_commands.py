"""The commands of the documents are understood: experiments, options and their values."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest

from metarl.adaptation.algorithms import GRADIENT_ALGORITHMS
from metarl.lab.command_line import parse_settings
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment
from metarl.rl.trials.recurrent_learner import RL2Algorithm
from metarl.rl.trials.varibad import VariBADAlgorithm
from tests.docs import pages

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", *pages.PAGES)
BLOCK = re.compile(r"^    (metarl train (?:.*\\\n)*.*)$", re.MULTILINE)
CHOSEN_BY_THE_READER = ("--help", "--resume", "--family my_tasks", "my.py", "push.py")


def commands():
    """The `metarl train` commands in the blocks of the pages, without their comments."""
    for page in PAGES:
        for command in BLOCK.findall(page.read_text(encoding="utf-8")):
            command = command.replace("\\\n", " ").partition("#")[0]
            if not any(word in command for word in CHOSEN_BY_THE_READER):
                yield " ".join(command.split())


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_its_options_are_understood(command):
    _, _, experiment, *options = shlex.split(command)
    assert experiment in EXPERIMENTS.names()
    parse_settings(find_experiment(experiment).configs, experiment, options)


def test_the_options_of_algorithms_are_their_fields():
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    algorithms = {name: GRADIENT_ALGORITHMS.get(name) for name in GRADIENT_ALGORITHMS.names()}
    algorithms |= {"fomaml": algorithms["maml"], "rl2": RL2Algorithm}
    algorithms |= {"varibad": VariBADAlgorithm}
    rows = re.findall(r"^\| (`--learner.*?) \| (.*?) \|", page, re.MULTILINE)
    assert rows
    for options, names in rows:
        for option in re.findall(r"`--learner\.([\w-]+)`", options):
            for name in re.findall(r"`([\w-]+)`", names) or GRADIENT_ALGORITHMS.names():
                known = {field.name.replace("_", "-") for field in fields(algorithms[name])}
                if "all gradient" in names and option == "steps" and option not in known:
                    assert name in ("pretrained", "scratch")
                    continue
                assert option in known, (name, option)


@pytest.mark.parametrize("experiment", ["sine", "omniglot", "half_cheetah"])
def test_experiments_have_the_options_of_the_algorithm(experiment):
    configs = find_experiment(experiment).configs
    settings, _ = parse_settings(configs, experiment, ["--learner.steps", "4"])
    assert settings.learner.steps == 4
