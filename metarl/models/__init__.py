"""Networks that run on the parameters of many tasks at once."""

from metarl.models.base import Model, Params, Statistics, task_params
from metarl.models.mlp import MLP

__all__ = ["MLP", "Model", "Params", "Statistics", "task_params"]
