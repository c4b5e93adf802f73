"""The outer loop, its command line, run folders, checkpoints and logs."""

from metarl.devices import resolve_device
from metarl.training.command_line import parse_settings, run_script
from metarl.training.experiment import Experiment, Parts
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.settings import TrainingSettings

__all__ = [
    "Experiment",
    "OuterLoop",
    "Parts",
    "TrainingResult",
    "TrainingSettings",
    "parse_settings",
    "resolve_device",
    "run_script",
]
