"""Networks that run with the parameters of many tasks at once."""

from metarl.models.base import Adaptable, Model, Params, Statistics, task_params
from metarl.models.conv4 import Conv4
from metarl.models.mlp import MLP
from metarl.models.modules import from_module, load_module, save_module
from metarl.models.resnet12 import ResNet12

__all__ = [
    "MLP",
    "Adaptable",
    "Conv4",
    "Model",
    "Params",
    "ResNet12",
    "Statistics",
    "from_module",
    "load_module",
    "save_module",
    "task_params",
]
