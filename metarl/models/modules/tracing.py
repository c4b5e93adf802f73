"""Traces a module into a graph of layers and functions, none of which changes its arguments."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn

from metarl.errors import MetarlError
from metarl.models.modules import functions, layers
from metarl.models.modules.interception import RandomRefusal
from metarl.models.modules.observed import Watch
from metarl.models.modules.skeleton import buffers_of, copied, kind_of, parameters_of

ROOT = "net"
LAYERS = (nn.modules.batchnorm._NormBase, nn.RNNBase, nn.RNNCellBase)
"""Layers whose forward `torch.fx` does not trace, also where a class is derived from them."""


class NotTraceable(Exception):  # noqa: N818
    """A module has no graph; the message is the reason."""


class Root(nn.Module):
    """A module around the one to trace, so that layers of torch are leaves wherever they are."""

    contexts: str = ""
    """Contexts that the module computes under, which the graph leaves out: "torch.no_grad"."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class InputRoot(Root):
    """The root of a module of inputs."""

    def forward(self, inputs: Tensor) -> Any:
        """Calls the module."""
        return self.net(inputs)


class MaskRoot(Root):
    """The root of a module of inputs and a mask."""

    def forward(self, inputs: Tensor, mask: Tensor) -> Any:
        """Calls the module."""
        return self.net(inputs, mask=mask)


class LayerTracer(fx.Tracer):
    """Keeps torch's layers as nodes, also derived ones, and those of a user that have hooks."""

    proxy_buffer_attributes = True

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Returns whether a module is a node, not traced into."""
        hooked = any(getattr(m, name) for name in layers.HOOKS)
        is_derived = kind_of(m) is not type(m) or isinstance(m, LAYERS)
        return hooked or is_derived or super().is_leaf_module(m, module_qualified_name)


def traced(net: nn.Module, with_mask: bool) -> tuple[fx.Graph, Root]:
    """Traces a copy of a module.

    Returns:
        The graph, and the copy as the root of its nodes.

    Raises:
        NotTraceable: The module's forward depends on values, or does what fx cannot trace.
        SettingsError: The module draws random numbers.
    """
    root = (MaskRoot if with_mask else InputRoot)(copied(net).to("meta"))
    tracer = LayerTracer()
    try:
        with torch.enable_grad(), RandomRefusal(), Watch() as watch:
            graph = tracer.trace(root)
    except MetarlError:
        raise
    except Exception as error:  # a module raises anything on stand-ins for tensors
        reason = str(error).partition("\n")[0]
        raise NotTraceable(f"torch.fx cannot trace it ({reason})") from error
    root.contexts = watch.contexts
    _remove_in_place(graph, root)
    for node in reversed(list(graph.nodes)):  # nothing changes in place any more
        if not node.users and node.op not in ("placeholder", "output"):
            graph.erase_node(node)
    return graph, root


def path_of(target: str) -> str:
    """Returns the name of a layer in the traced module."""
    return target.removeprefix(ROOT).removeprefix(".")


def _remove_in_place(graph: fx.Graph, root: nn.Module) -> None:
    """Replaces functions that change their argument in place by those that do not.

    Raises:
        NotTraceable: Another node reads the changed argument, or may read it: a change whose result
            is not used is meant for another name of the same numbers, such as a view.
    """
    modules = dict(root.named_modules())
    for node in graph.nodes:
        layer = modules.get(node.target) if node.op == "call_module" else None
        called = node.op in ("call_function", "call_method")
        changes = called and (node.target in functions.IN_PLACE or _changes(node.target))
        changes |= bool(node.kwargs.get("inplace"))
        changes |= bool(getattr(layer, "inplace", False))
        if not changes:
            continue
        changed = node.args[0] if node.args else None
        if not node.users or (isinstance(changed, fx.Node) and len(changed.users) > 1):
            raise NotTraceable(f"it changes in place what it uses again ({node})")
        if called and node.target in functions.IN_PLACE:
            node.target = functions.IN_PLACE[node.target]
        if "inplace" in node.kwargs:
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "inplace"}
        if layer is not None:
            setattr(layer, "inplace", False)  # noqa: B010


def _changes(function: Any) -> bool:
    """Returns whether a function or method changes an argument, by torch's rule for its name."""
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    is_operator = getattr(function, "__module__", "") == "_operator"  # such as `and_`
    return name.endswith("_") and not name.endswith("__") and not is_operator


def constants_of(root: nn.Module, graph: fx.Graph) -> dict[str, Any]:
    """Returns the values of the nodes that read something other than a parameter or buffer."""
    known = {*parameters_of(root), *buffers_of(root)}
    constants = {}
    for node in graph.nodes:
        if node.op == "get_attr" and node.target not in known:
            value: Any = root
            for part in node.target.split("."):
                value = getattr(value, part)
            constants[node.target] = value
    return constants
