"""The outer loop and the outer updates."""

from metarl.devices import resolve_device
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.settings import TrainingSettings

__all__ = ["OuterLoop", "TrainingResult", "TrainingSettings", "resolve_device"]
