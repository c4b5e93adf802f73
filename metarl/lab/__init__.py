"""What an experiment is: its settings, command line, reports and saved runs."""

from metarl.lab.command_line import parse_settings, run_script
from metarl.lab.experiment import Components, Experiment

__all__ = ["Components", "Experiment", "parse_settings", "run_script"]
