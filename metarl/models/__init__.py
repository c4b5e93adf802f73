"""Networks that run with the parameters of many tasks at once."""

from metarl.models.base import Adaptable, Model, Params, Statistics, task_params
from metarl.models.conv4 import Conv4
from metarl.models.mlp import MLP

__all__ = ["MLP", "Adaptable", "Conv4", "Model", "Params", "Statistics", "task_params"]
