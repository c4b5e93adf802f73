"""Ordinary `nn.Module`s as models: task-batched, by `vmap`, or task by task."""

from metarl.models.modules.stored import load_module, save_module
from metarl.models.modules.wrapped import Init, ModuleModel, as_adaptable, from_module

__all__ = ["Init", "ModuleModel", "as_adaptable", "from_module", "load_module", "save_module"]
