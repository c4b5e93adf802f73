"""Ordinary `nn.Module`s as models: task-batched, by `vmap`, or task by task."""

from metarl.models.modules.stored import (
    is_network_file,
    load_module,
    network_file,
    save_module,
)
from metarl.models.modules.wrapped import Init, ModuleModel, as_adaptable, from_module

__all__ = [
    "Init",
    "ModuleModel",
    "as_adaptable",
    "from_module",
    "is_network_file",
    "load_module",
    "network_file",
    "save_module",
]
