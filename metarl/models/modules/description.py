"""Describes an ordinary module as data: its layers, the graph of its calls, and its constants.

`stored` builds a module from such a description without the code of the first one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from metarl.errors import SettingsError
from metarl.models.modules import layers
from metarl.models.modules.checks import takes_mask
from metarl.models.modules.skeleton import copied, kind_of
from metarl.models.modules.tracing import NotTraceable, constants_of, path_of, traced
from metarl.models.modules.vocabulary import ATTRIBUTES, METHODS, NAMES, READ, is_layer_class

DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})
"""Attributes of recurrent layers that follow from their parameters."""


class NotStored(SettingsError):  # noqa: N818
    """The structure of a module cannot be described; the message is the reason."""


@dataclass
class Description:
    """A module as data.

    Attributes:
        structure: Values of JSON: the tree of layers, and a graph per mode and argument.
        constants: Tensors that are neither parameters nor buffers, by the number of their node.
    """

    structure: dict[str, Any]
    constants: dict[str, Tensor] = field(default_factory=dict)


def describe(net: nn.Module) -> Description:
    """Describes a module.

    Its layers must be those of `torch.nn`, and its own `forward` one that `torch.fx` traces into
    functions of torch that only compute.

    Raises:
        NotStored: It is another module.
    """
    found = Description({"class": type(net).__name__, "tree": _Tree().part(net)})
    if is_layer_class(type(net)) and not _is_container(net):
        return found
    graphs = _graphs(net, found.constants)
    other = copied(net).train(not net.training)
    try:
        others = _graphs(other, found.constants)
    except NotStored:
        others = {}
    modes = ["training", "evaluation"] if net.training else ["evaluation", "training"]
    found.structure["graphs"] = dict(zip(modes, (graphs, others), strict=True))
    return found


class _Tree:
    """Describes the tree of modules; what is there twice refers to the first."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def part(self, module: nn.Module, path: str = "") -> dict[str, Any]:
        """Describes a module and those in it."""
        if id(module) in self._paths:
            return {"same": self._paths[id(module)]}
        self._paths[id(module)] = path
        is_layer = is_layer_class(kind_of(module))
        for name in layers.HOOKS:
            if getattr(module, name):
                raise NotStored(f"{path or 'it'} has hooks")
        described: dict[str, Any] = {"training": module.training}
        if is_layer:
            described["layer"] = kind_of(module).__name__
            described["attributes"] = _attributes(module, path)
        described["tensors"] = {
            name: self._tensor(tensor, _join(path, name), name in module._buffers, module)
            for name, tensor in (*module._parameters.items(), *module._buffers.items())
        }
        described["modules"] = {
            name: None if child is None else self.part(child, _join(path, name))
            for name, child in module._modules.items()
        }
        return described

    def _tensor(
        self, tensor: Tensor | None, path: str, is_buffer: bool, module: nn.Module
    ) -> dict[str, Any]:
        name = path.rpartition(".")[2]
        kept: dict[str, Any] = {"buffer": is_buffer}
        if is_buffer:
            kept["persistent"] = name not in module._non_persistent_buffers_set
        if tensor is None:
            return {**kept, "none": True}
        if id(tensor) in self._paths:
            return {**kept, "same": self._paths[id(tensor)]}
        self._paths[id(tensor)] = path
        dtype = str(tensor.dtype).removeprefix("torch.")
        return {**kept, "shape": list(tensor.shape), "dtype": dtype,
                "requires_grad": tensor.requires_grad}  # fmt: skip


def _attributes(layer: nn.Module, path: str) -> dict[str, Any]:
    """Returns the options of one of torch's layers, which are plain attributes."""
    own = set(layer.__dict__) - set(nn.Module().__dict__) - DERIVED
    try:
        return {name: encoded(layer.__dict__[name]) for name in sorted(own)}
    except NotStored as error:
        raise NotStored(f"the options of {path or 'the layer'} hold {error}") from error


def _graphs(net: nn.Module, constants: dict[str, Tensor]) -> dict[str, Any]:
    """Describes the graph of the calls with inputs, and that with inputs and a mask."""
    found = {"inputs": _graph(net, False, constants)}
    if takes_mask(net):
        found["mask"] = _graph(net, True, constants)
    return found


def _graph(net: nn.Module, with_mask: bool, constants: dict[str, Tensor]) -> dict[str, Any]:
    try:
        graph, root = traced(net, with_mask)
    except NotTraceable as error:
        raise NotStored(str(error)) from error
    if root.contexts:
        raise NotStored(f"it computes under {root.contexts}")
    own = constants_of(root, graph)
    steps, output = [], None
    for node in graph.nodes:
        if node.op == "output":
            output = encoded(node.args[0])
        elif node.op != "placeholder":
            steps.append(_step(node, root, own, constants))
    inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
    return {"inputs": inputs, "steps": steps, "output": output}


def _step(
    node: fx.Node, root: nn.Module, own: dict[str, Any], constants: dict[str, Tensor]
) -> list[Any]:
    """Describes a node: its name, what it does, with what, and its arguments."""
    target = str(node.target)
    if node.op == "get_attr":
        if target not in own:
            return [node.name, "tensor", path_of(target)]
        if not isinstance(own[target], Tensor):
            return [node.name, "value", encoded(own[target])]
        key = _constant(own[target], constants)
        return [node.name, "constant", key]
    arguments = [encoded(list(node.args)), encoded(dict(node.kwargs))]
    if node.op == "call_module":
        layer = root.get_submodule(target)
        if not is_layer_class(kind_of(layer)):
            raise NotStored(f"{path_of(target)} ({type(layer).__name__}) is no layer of torch.nn")
        return [node.name, "layer", path_of(target), *arguments]
    if node.op == "call_method":
        if target not in METHODS:
            raise NotStored(f"it calls the method `{target}`")
        return [node.name, "method", target, *arguments]
    name = _function_name(node.target)
    if name == READ and node.args[1] not in ATTRIBUTES:
        raise NotStored(f"it reads the attribute `{node.args[1]}`")
    return [node.name, "function", name, *arguments]


def _constant(tensor: Tensor, constants: dict[str, Tensor]) -> str:
    """Keeps a tensor, and returns its key."""
    if tensor.is_meta:
        raise NotStored("it makes a tensor of the values of others while it is traced")
    for key, kept in constants.items():
        if kept is tensor or (kept.dtype == tensor.dtype and torch.equal(kept, tensor)):
            return key
    constants[str(len(constants))] = tensor
    return str(len(constants) - 1)


def _function_name(function: Any) -> str:
    try:
        return NAMES[function]
    except (KeyError, TypeError):
        name = getattr(function, "__name__", str(function))
        raise NotStored(f"it calls `{name}`") from None


def encoded(value: Any) -> Any:
    """Returns a value as one of JSON.

    Raises:
        NotStored: It is neither a number, string, collection nor another argument of torch.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple) and not hasattr(value, "_fields"):
        return {"tuple": [encoded(v) for v in value]}
    if isinstance(value, list):
        return [encoded(v) for v in value]
    if isinstance(value, dict) and all(isinstance(k, str) for k in value):
        return {"dict": {k: encoded(v) for k, v in value.items()}}
    if isinstance(value, slice):
        return {"slice": [encoded(v) for v in (value.start, value.stop, value.step)]}
    if value is Ellipsis:
        return {"ellipsis": True}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if callable(value) and value is not getattr:
        return {"function": _function_name(value)}
    raise NotStored(f"a {type(value).__name__}")


def _is_container(net: nn.Module) -> bool:
    """Returns whether a layer of torch is traced into, not called."""
    return isinstance(net, nn.Sequential)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
