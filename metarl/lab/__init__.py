"""What an experiment is: its settings, command line, reports and saved runs."""

from metarl.console import run_script
from metarl.lab.command_line import parse_settings
from metarl.lab.experiment import Components, Experiment
from metarl.lab.installed import EXPERIMENTS
from metarl.lab.lookup import find_experiment

__all__ = [
    "EXPERIMENTS",
    "Components",
    "Experiment",
    "find_experiment",
    "parse_settings",
    "run_script",
]
