"""The outer loop and the outer updates.

`OuterLoop` trains a learner on a distribution of tasks, and writes a run folder.
`TrainingSettings` has its settings.
"""

from metarl.devices import resolve_device
from metarl.training.loop import OuterLoop, TrainingResult
from metarl.training.settings import TrainingSettings

__all__ = ["OuterLoop", "TrainingResult", "TrainingSettings", "resolve_device"]
