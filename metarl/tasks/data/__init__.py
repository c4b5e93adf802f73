"""Tasks from arrays, tables, data sets and sequences."""

from metarl.tasks.data.characters import Characters
from metarl.tasks.data.descriptions import with_descriptions
from metarl.tasks.data.few_shot_data import FewShotData
from metarl.tasks.data.forecasting import Forecasting
from metarl.tasks.data.grouped_examples import GroupedExamples
from metarl.tasks.data.sources import TensorSource

__all__ = [
    "Characters",
    "FewShotData",
    "Forecasting",
    "GroupedExamples",
    "TensorSource",
    "with_descriptions",
]
