"""The outer loop, its command line, run folders, checkpoints and logs."""

from metarl.devices import resolve_device
from metarl.lab.command_line import parse_settings, run_script
from metarl.lab.experiment import Components, Experiment
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.settings import TrainingSettings

__all__ = [
    "Components",
    "Experiment",
    "OuterLoop",
    "TrainingResult",
    "TrainingSettings",
    "parse_settings",
    "resolve_device",
    "run_script",
]
