"""Tasks from arrays, tables, data sets and sequences."""

from metarl.tasks.data.characters import Characters
from metarl.tasks.data.few_shot_data import FewShotData
from metarl.tasks.data.sources import TensorSource

__all__ = ["Characters", "FewShotData", "TensorSource"]
