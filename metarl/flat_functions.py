"""A function of a module and nested inputs, as a function from tensors to tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarl.trees import map_tensors, tensors_of

Flat = Callable[..., list[Tensor]]
"""A function from tensors to tensors, without nesting."""


class FlatFunction:
    """A function of a module and of nested tensors, for what captures functions of tensors.

    The parameters and buffers of the module are inputs as well.

    Args:
        module: The module. What the function calls of it must be pure: a function of tensors to
            tensors without side effects.
        params: The parameters to differentiate with respect to; the others are constants.
        function: Called as function(leaves, *inputs) with gradients enabled, while the parameters
            and buffers of the module are replaced by the inputs; `leaves` replace `params`. Must
            return nested tensors.
    """

    def __init__(
        self, module: nn.Module, params: list[nn.Parameter], function: Callable[..., Any]
    ) -> None:
        self._bound = Bound(module, function)
        state = {**dict(self._bound.named_parameters()), **dict(self._bound.named_buffers())}
        trained = {id(p) for p in params}
        self._trained = {name: id(tensor) in trained for name, tensor in state.items()}
        self._places = [_place(self._bound, name) for name in state]

    def trained(self) -> list[int]:
        """Returns the places of `params` among the tensors of `arguments`, in their order."""
        return [place for place, trained in enumerate(self._trained.values()) if trained]

    def of_module(self) -> list[Tensor]:
        """Returns the parameters and buffers of the module, the first tensors of `arguments`."""
        return [tensors[key] for tensors, key in self._places]

    def arguments(self, inputs: tuple[Any, ...]) -> tuple[list[Tensor], Any]:
        """Returns the tensors of the module and of the inputs, and a key of their structure.

        The key contains the structure of the inputs, the shape, strides, dtype and device of their
        tensors, and the values of everything that is not a tensor.
        """
        tensors, structure = self.of_module(), []
        flatten(inputs, tensors, structure)
        return tensors, tuple(structure)

    def of(self, inputs: tuple[Any, ...]) -> tuple[Flat, list[Any]]:
        """Returns the function of tensors in the order of `arguments`, for this structure.

        Returns:
            The function, and a list: each call appends its nested result with empty tensors, a
            template of its structure.
        """
        templates: list[Any] = []

        @torch.enable_grad()
        def flat(*values: Tensor) -> list[Tensor]:
            rest = iter(values)
            state, leaves = {}, []
            for name, trained in self._trained.items():
                state[name] = next(rest).detach()
                if trained:
                    leaves.append(state[name].requires_grad_())
            given = map_tensors(lambda _: next(rest), inputs)
            result = functional_call(self._bound, state, (leaves, *given))
            detached = map_tensors(Tensor.detach, result)
            outputs = tensors_of(detached)
            templates.append(map_tensors(lambda t: t.new_empty(0), detached))
            return outputs

        return flat, templates


def _place(module: nn.Module, name: str) -> tuple[dict[str, Any], str]:
    """Returns where a module keeps a parameter or buffer: a move to a device replaces buffers."""
    path, _, key = name.rpartition(".")
    owner = module.get_submodule(path)
    return (owner._parameters if key in owner._parameters else owner._buffers), key


class Bound(nn.Module):
    """A module that calls a function of another, `module`, for use with `functional_call`."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


def flatten(value: Any, tensors: list[Tensor], structure: list[Any]) -> None:
    """Appends the tensors of a nested value to `tensors`, in the order of `map_tensors`.

    Appends to `structure` everything that a graph depends on besides the values of the tensors.
    """
    if isinstance(value, Tensor):
        tensors.append(value)
        structure.append((value.shape, value.stride(), value.dtype, value.device))
    elif isinstance(value, dict):
        structure.append(tuple(value))
        for item in value.values():
            flatten(item, tensors, structure)
    elif isinstance(value, list | tuple):
        structure.append(len(value))
        for item in value:
            flatten(item, tensors, structure)
    elif dataclasses.is_dataclass(value):
        for item in vars(value).values():
            flatten(item, tensors, structure)
    else:
        structure.append(value)
