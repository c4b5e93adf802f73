"""Copies of a module to run with other tensors: no memory for weights, some layers replaced."""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import is_pruned

from metarl.errors import SettingsError
from metarl.models.modules import recurrent
from metarl.models.modules.normalisation import batch_norm, normalised

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
PLAIN = (bool, int, float, complex, str, bytes, np.generic, torch.dtype)
OF_MODULES = frozenset(nn.Module().__dict__)
"""Attributes that every module has: its mode, tensors, layers and hooks."""
MOST, DEEPEST = 4096, 8
"""Length of arrays, lists and dicts up to which changes in place are noticed, and their depth."""
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
HARMLESS = frozenset({
    "__init__", "reset_parameters", "extra_repr", "__doc__", "__annotations__", "__constants__",
    "__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__",
})  # fmt: skip
"""Attributes of a class that do not change what a layer computes."""
RECURRENT: dict[type[nn.Module], type[nn.Module]] = {
    nn.LSTM: recurrent.TaskLSTM,
    nn.GRU: recurrent.TaskGRU,
    nn.RNN: recurrent.TaskRNN,
    nn.LSTMCell: recurrent.TaskLSTMCell,
    nn.GRUCell: recurrent.TaskGRUCell,
}


class TaskBatchNorm(nn.modules.batchnorm._BatchNorm):
    """A batch normalisation that knows its name, and leaves its running statistics as they are."""

    name: str = ""

    def forward(self, input: Tensor) -> Tensor:
        """Normalises by the batch in training or without running statistics, else by these."""
        if by_batch(self):
            return batch_norm(input, self.weight, self.bias, self.eps, self.name)
        assert self.running_mean is not None and self.running_var is not None
        return normalised(
            input, self.running_mean, self.running_var, self.weight, self.bias, self.eps
        )

    def _check_input_dim(self, input: Tensor) -> None:
        del input


def kind_of(layer: nn.Module) -> type[nn.Module]:
    """Returns the class of torch that computes a layer's outputs, if its own class adds nothing."""
    for kind in type(layer).__mro__:
        if kind.__module__.startswith("torch.nn.modules."):
            own = "forward" in layer.__dict__
            return type(layer) if own or issubclass(kind, CONTAINERS) or kind is nn.Module else kind
        if not all(name in HARMLESS or isinstance(v, str) for name, v in vars(kind).items()):
            break
    return type(layer)


def parameters_of(net: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters under every name of a tied one; a layer used twice has one name."""
    return _held(net, "_parameters")


def buffers_of(net: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers, named like `parameters_of`."""
    return _held(net, "_buffers")


def _held(net: nn.Module, kind: str) -> dict[str, Tensor]:
    return {
        f"{path}.{name}" if path else name: tensor
        for path, layer in net.named_modules()
        for name, tensor in getattr(layer, kind).items() if tensor is not None
    }  # fmt: skip


def attribute_values(net: nn.Module) -> list[Any]:
    """Returns what the attributes of the modules hold, to compare with later ones.

    Numbers, texts, arrays and tensors, also those in lists, dicts and objects; functions, and the
    hooks of the modules.
    """
    layers = list(net.modules())
    trained = {id(t) for m in layers for t in (*m._parameters.values(), *m._buffers.values())}
    return [
        (name, value if isinstance(value, PLAIN) else _held_by(value, trained))
        for layer in layers
        for name, value in layer.__dict__.items()
        if name not in OF_MODULES or (value and name.endswith("_hooks"))
    ]


def _held_by(value: Any, trained: set[int], depth: int = 0) -> Any:
    """Returns a value that is equal as long as the attribute is; None for other kinds."""
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Tensor):  # a layer may list its parameters, which change by training
        return id(value), None if id(value) in trained else value._version
    if isinstance(value, np.ndarray) and value.dtype != object:
        return id(value), value.tobytes() if value.size <= MOST else None
    if isinstance(value, FunctionType | type | partial) or (
        callable(value) and not hasattr(value, "__dict__")
    ):
        return id(value)
    if is_dataclass(value) and not hasattr(value, "__dict__"):  # it has slots
        value = {name: getattr(value, name, None) for name in value.__dataclass_fields__}
    elif is_dataclass(value) or isinstance(value, SimpleNamespace):
        value = vars(value)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module) and depth < DEEPEST:
        value, depth = vars(value), DEEPEST  # other objects may hold anything
    if isinstance(value, Mapping):
        value = [*value, *value.values()]
    if not isinstance(value, list | tuple) or depth > DEEPEST:
        return None
    if len(value) > MOST:
        return id(value), len(value)
    return [_held_by(v, trained, depth + 1) for v in value]


def by_batch(layer: nn.Module) -> bool:
    """Returns whether a batch normalisation uses the statistics of the batch."""
    return layer.training or layer.running_mean is None


def is_batch_norm(layer: nn.Module) -> bool:
    """Returns whether a layer is one of torch's batch normalisations, or the copy of one."""
    return isinstance(layer, nn.modules.batchnorm._BatchNorm)


def copied(net: nn.Module) -> nn.Module:
    """Returns a deep copy.

    Raises:
        SettingsError: The module cannot be copied.
    """
    try:
        return copy.deepcopy(net)
    except Exception as error:
        if is_pruned(net):
            raise SettingsError(
                f"Expected a module without `torch.nn.utils.prune`, got a {type(net).__name__} "
                "whose hooks mask its weights, which cannot be copied. `prune.remove(layer, name)` "
                'makes a mask permanent (name: "weight"): pruned weights begin at 0, and are '
                "trained like all others."
            ) from error
        raise SettingsError(
            f"Expected a module that `copy.deepcopy` copies, got a {type(net).__name__} that does "
            f"not ({error}). Weights computed by hooks, such as those of the old "
            "`torch.nn.utils.weight_norm`, cannot be copied: use "
            "`torch.nn.utils.parametrizations`, and keep no tensors with a graph as attributes."
        ) from error


def skeleton_of(net: nn.Module, path: str = "") -> nn.Module:
    """Returns a copy without memory for its parameters, whose layers run under `vmap`.

    Batch normalisations and recurrent layers become those of this package. All parameters and
    buffers are on the device "meta": `torch.func.functional_call` replaces them.

    Args:
        net: The module.
        path: Its name, if it is a layer of another; names of batch normalisations begin with it.
    """
    skeleton = copied(net).to("meta")
    for name, layer in skeleton.named_modules():
        if kind_of(layer) in BATCH_NORMS:
            layer.__class__ = TaskBatchNorm
            layer.__dict__["name"] = ".".join(filter(None, (path, name)))
        elif kind_of(layer) in RECURRENT:
            layer.__class__ = RECURRENT[kind_of(layer)]
    return skeleton


class Skeletons:
    """A skeleton for each thread: `functional_call` changes a module while it runs.

    Args:
        net: The module to copy.
        path: See `skeleton_of`.
    """

    def __init__(self, net: nn.Module, path: str = "") -> None:
        self._first = skeleton_of(net, path)
        self._local = threading.local()

    def get(self) -> nn.Module:
        """Returns this thread's skeleton."""
        found: nn.Module | None = getattr(self._local, "skeleton", None)
        if found is None:
            found = self._local.skeleton = copy.deepcopy(self._first)
        return found


def call(skeleton: nn.Module, tensors: dict[str, Tensor], args: tuple[Any, ...], **kwargs: Any):  # noqa: ANN201
    """Calls a module with other parameters and buffers; a tied one is there under each name.

    `tensors` holds what the module assigns to them.
    """
    # Batch normalisations count their batches in place.
    tensors.update({n: t.clone() for n, t in tensors.items() if n.endswith("num_batches_tracked")})
    return torch.func.functional_call(skeleton, tensors, args, kwargs, tie_weights=False)
