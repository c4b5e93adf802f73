"""A module that is built from its description: it computes the graph that the file holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.errors import SettingsError
from metarl.models.modules.vocabulary import (
    ATTRIBUTES,
    FUNCTIONS,
    METHODS,
    READ,
    has_members,
    is_option,
    layer_class,
)

MOST_DIMENSIONS = 16


class Damaged(ValueError):  # noqa: N818
    """A description is not one that `describe` made."""


class Reference(NamedTuple):
    """The value of an earlier step."""

    name: str


class Step(NamedTuple):
    """A call in a graph.

    Attributes:
        name: Of its value.
        kind: "layer", "function", "method", "tensor", "constant" or "value".
        target: What is called or read.
        args: Positional arguments, with references.
        kwargs: Arguments by name, with references.
    """

    name: str
    kind: str
    target: Any
    args: Any = ()
    kwargs: Any = ()


class Graph(NamedTuple):
    """The calls of a module in one mode: names of its inputs, steps, and the output."""

    inputs: list[str]
    steps: list[Step]
    output: Any


class Part(nn.Module):
    """Holds the parameters, buffers and layers of a module whose calls are in the graph."""


class StoredModule(Part):
    """A module that computes a stored graph.

    Attributes:
        described: The name of the class that was stored.
    """

    described: str
    constants: dict[str, Tensor]
    graphs: dict[tuple[bool, bool], Graph]
    """(training, with a mask) -> the graph."""

    def forward(self, inputs: Tensor) -> Any:
        """Returns what the stored module returns for inputs [N, *]."""
        return self.run([inputs])

    def run(self, given: list[Tensor]) -> Any:
        """Computes the graph of the mode.

        Raises:
            SettingsError: The graph of this mode could not be stored.
        """
        graph = self.graphs.get((self.training, len(given) > 1))
        if graph is None:
            mode = "training" if self.training else "evaluation"
            raise SettingsError(
                f"The stored {self.described} has no graph for the {mode} mode: torch.fx could not "
                f"trace it. Call .{'eval' if self.training else 'train'}(), or build the module "
                "with its own class."
            )
        values: dict[str, Any] = dict(zip(graph.inputs, given, strict=True))
        for step in graph.steps:
            values[step.name] = self._value(step, values)
        return _resolved(graph.output, values)

    def _value(self, step: Step, values: dict[str, Any]) -> Any:
        if step.kind == "tensor":
            owner, _, name = step.target.rpartition(".")
            return getattr(self.get_submodule(owner), name)
        if step.kind == "constant":
            return self.constants[step.target]
        if step.kind == "value":
            return step.target
        args, kwargs = (_resolved(a, values) for a in (step.args, step.kwargs))
        if step.kind == "layer":
            return self.get_submodule(step.target)(*args, **kwargs)
        if step.kind == "method":
            return self._member(step.target, args[0])(*args[1:], **kwargs)
        if step.target == READ:
            return self._member(args[1], args[0])
        return FUNCTIONS[step.target](*args, **kwargs)

    def _member(self, name: str, value: Any) -> Any:
        """Returns a method or attribute of a tensor; those of other objects may reach code."""
        if not has_members(value):
            raise SettingsError(
                f"The stored {self.described} reads {name!r} of a {type(value).__name__}, expected "
                "of a tensor: its file is damaged or was altered."
            )
        return getattr(value, name)


class StoredMaskedModule(StoredModule):
    """A stored module that takes the mask of padded sequences."""

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns what the stored module returns for inputs [N, *] and a mask [N, L]."""
        return self.run([inputs] if mask is None else [inputs, mask])


def rebuilt(structure: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Builds a module from its description.

    Args:
        structure: `Description.structure`.
        name: The name of the module in the file, before the names of its tensors.
        tensors: The tensors of the file.

    Raises:
        Damaged: The description is not one.
    """
    graphs = structure.get("graphs")
    kinds = [g for mode in (graphs or {}).values() for g in mode]
    root: nn.Module | None = None
    if graphs is not None:
        root = StoredMaskedModule() if "mask" in kinds else StoredModule()
    module = _Builder(name, tensors).part(structure["tree"], "", root)
    if not isinstance(module, StoredModule):
        return module
    module.described = str(structure["class"])
    module.constants = {
        key.removeprefix(f"{name}#"): t for key, t in tensors.items() if key.startswith(f"{name}#")
    }
    module.graphs = {
        (mode == "training", kind == "mask"): _graph(graph, module)
        for mode, kinds in (graphs or {}).items() for kind, graph in kinds.items()
    }  # fmt: skip
    return module


class _Builder:
    """Builds the tree of modules."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self._prefix = f"{name}." if name else ""
        self._given = tensors
        self._modules: dict[str, nn.Module] = {}
        self._tensors: dict[str, Tensor] = {}

    def part(self, described: Mapping[str, Any], path: str, module: nn.Module | None) -> nn.Module:
        """Builds a module and those in it."""
        if "same" in described:
            return self._modules[described["same"]]
        if module is None:
            module = _layer(described) if "layer" in described else Part()
        self._modules[path] = module
        for name, tensor in described["tensors"].items():
            name = _option_name(type(module), name)
            self._add_tensor(module, name, tensor, f"{path}.{name}".lstrip("."))
        for name, child in described["modules"].items():
            if "." in name or hasattr(nn.Module, name):
                raise Damaged(f"a layer cannot be named {name!r}")
            inner = f"{path}.{name}".lstrip(".")
            module._modules[name] = None if child is None else self.part(child, inner, None)
        module.training = bool(described["training"])
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
        return module

    def _add_tensor(
        self, module: nn.Module, name: str, described: Mapping[str, Any], path: str
    ) -> None:
        tensor = None if "none" in described else self._tensor(described, path)
        if not described["buffer"]:
            module.register_parameter(name, tensor)  # pyright: ignore[reportArgumentType]
            return
        module.register_buffer(name, tensor, persistent=bool(described["persistent"]))

    def _tensor(self, described: Mapping[str, Any], path: str) -> Tensor:
        if "same" in described:
            return self._tensors[described["same"]]
        shape, dtype = described["shape"], _dtype(described["dtype"])
        if len(shape) > MOST_DIMENSIONS or not all(type(s) is int and s >= 0 for s in shape):
            raise Damaged(f"{path} has the shape {shape}")
        tensor = self._given.get(self._prefix + path)
        if tensor is None:
            tensor = torch.zeros(shape, dtype=dtype)
        elif list(tensor.shape) != shape or tensor.dtype != dtype:
            raise Damaged(f"{path} is {tuple(tensor.shape)} {tensor.dtype}, not {shape} {dtype}")
        if not described["buffer"]:
            tensor = nn.Parameter(tensor, bool(described["requires_grad"]))
        self._tensors[path] = tensor
        return tensor


def _layer(described: Mapping[str, Any]) -> nn.Module:
    """Returns one of torch's layers with its options, without parameters."""
    kind = layer_class(described["layer"])
    if kind is None:
        raise Damaged(f"torch.nn has no layer {described['layer']!r}")
    layer = kind.__new__(kind)
    nn.Module.__init__(layer)
    for name, value in described["attributes"].items():
        layer.__dict__[_option_name(kind, name)] = _decoded(value)
    return layer


def _option_name(kind: type[nn.Module], name: str) -> str:
    """Returns a name that no method or internal of a module has."""
    if not is_option(kind, name):
        raise Damaged(f"an attribute of a {kind.__name__} cannot be named {name!r}")
    return name


def _graph(described: Mapping[str, Any], module: StoredModule) -> Graph:
    """Returns a graph, whose steps read only earlier values and call only what is allowed."""
    known = set(described["inputs"])

    def decoded(value: Any) -> Any:
        return _decoded(value, known)

    steps = []
    for name, kind, target, *arguments in described["steps"]:
        _check_target(kind, target, module)
        if kind == "value":
            step = Step(name, kind, decoded(target))
        else:
            step = Step(name, kind, target, *map(decoded, arguments))
        if kind == "function" and target == READ:
            _check_attribute(step)
        steps.append(step)
        known.add(name)
    return Graph(list(described["inputs"]), steps, decoded(described["output"]))


def _check_target(kind: str, target: Any, module: StoredModule) -> None:
    checks: dict[str, Callable[[], bool]] = {
        "layer": lambda: layer_class(type(module.get_submodule(target)).__name__) is not None,
        "tensor": lambda: target in dict(_named_tensors(module)),
        "constant": lambda: target in module.constants,
        "value": lambda: True,
        "method": lambda: target in METHODS,
        "function": lambda: target in FUNCTIONS or target == READ,
    }
    if kind not in checks or not checks[kind]():
        raise Damaged(f"it calls the {kind} {target!r}")


def _check_attribute(step: Step) -> None:
    if len(step.args) != 2 or step.args[1] not in ATTRIBUTES or step.kwargs:
        raise Damaged(f"it reads the attribute {step.args[1:]!r}")


def _named_tensors(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    ]


def _decoded(value: Any, known: set[str] | None = None) -> Any:
    """Returns the value that JSON stands for; `known` are the names that it may refer to."""
    if isinstance(value, list):
        return [_decoded(v, known) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "node":
        if known is None or content not in known:
            raise Damaged(f"it reads {content!r}, which is not computed before")
        return Reference(content)
    if kind == "tuple":
        return tuple(_decoded(v, known) for v in content)
    if kind == "dict":
        return {str(k): _decoded(v, known) for k, v in content.items()}
    if kind == "slice":
        return slice(*(_decoded(v, known) for v in content))
    if kind == "ellipsis":
        return Ellipsis
    if kind == "dtype":
        return _dtype(content)
    if kind == "device":
        return torch.device(content)
    if kind == "function":
        return FUNCTIONS[content]
    raise Damaged(f"it holds a {kind!r}")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise Damaged(f"there is no type {name!r}")
    return found


def _resolved(value: Any, values: Mapping[str, Any]) -> Any:
    """Returns a value with references replaced by what they refer to."""
    if isinstance(value, Reference):
        return values[value.name]
    if isinstance(value, list):
        return [_resolved(v, values) for v in value]
    if isinstance(value, tuple):
        return tuple(_resolved(v, values) for v in value)
    if isinstance(value, dict):
        return {k: _resolved(v, values) for k, v in value.items()}
    if isinstance(value, slice):
        return slice(*(_resolved(v, values) for v in (value.start, value.stop, value.step)))
    return value
