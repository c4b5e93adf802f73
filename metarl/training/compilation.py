"""The meta-gradient as one compiled function.

What a learner computes is captured operation by operation, derivatives of every order included,
just as it runs uncompiled; the compiler sees that straight list of tensor operations and never the
Python code. It is captured and compiled anew for each structure and shape of the inputs.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from metarl.adaptation.learner import Learner, MetaInputs, MetaLoss
from metarl.errors import SettingsError
from metarl.trees import map_tensors

NARROW = 16
"""Matrix products of fewer columns (than a vector register holds) are quicker transposed."""


class CompiledGradient:
    """Computes a learner's meta-gradient with compiled code.

    Args:
        learner: Its `forward` must be pure: tensors in, tensors out, no choice by their values.
        params: The parameters to take the gradient for.
        backend: Compiles a graph for example inputs: inductor, with its C++ wrapper on the CPU.
    """

    def __init__(
        self,
        learner: Learner,
        params: list[nn.Parameter],
        backend: Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]] | None = None,
    ) -> None:
        self._learner = learner
        self._params = params
        self._backend = backend or _inductor
        self._state = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
        self._lock = threading.Lock()  # capturing swaps the learner's parameters for a while
        self._compiled: dict[Any, tuple[Callable[..., Any], list[bool], MetaLoss]] = {}

    def __call__(self, inputs: MetaInputs, total: int) -> tuple[list[Tensor | None], MetaLoss]:
        """Returns the gradient of the sum of the losses over `total`, and the rest, detached.

        A parameter that the losses do not depend on has None, as without compilation.

        Raises:
            SettingsError: There is no C++ compiler.
        """
        tensors = list(self._state.values())
        structure: list[Any] = [total]
        _flatten(inputs, tensors, structure)
        key = tuple(structure)
        with torch.no_grad():
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(inputs, tensors, total)
            function, used, template = self._compiled[key]
            outputs = iter(function(*tensors))
        grads = [next(outputs) if u else None for u in used]
        return grads, map_tensors(lambda _: next(outputs), template)

    def _compile(
        self, inputs: MetaInputs, tensors: list[Tensor], total: int
    ) -> tuple[Callable[..., Any], list[bool], MetaLoss]:
        results: list[MetaLoss] = []
        used: list[list[bool]] = []
        trained = {id(p) for p in self._params}

        @torch.enable_grad()
        def gradient(*values: Tensor) -> list[Tensor]:
            rest = iter(values)
            state, leaves = {}, []
            for name, tensor in self._state.items():
                state[name] = next(rest).detach()
                if id(tensor) in trained:
                    leaves.append(state[name].requires_grad_())
            chunk = map_tensors(lambda _: next(rest), inputs)
            result: MetaLoss = functional_call(self._learner, state, (chunk,))
            grads = torch.autograd.grad(result.losses.sum() / total, leaves, allow_unused=True)
            used.append([grad is not None for grad in grads])
            detached = map_tensors(Tensor.detach, result)
            outputs: list[Tensor] = []
            _flatten(detached, outputs, [])
            results.append(map_tensors(lambda t: t.new_empty(0), detached))
            return [*(grad for grad in grads if grad is not None), *outputs]

        graph = make_fx(gradient, decomposition_table=PRODUCTS)(*tensors)
        try:
            return self._backend(graph, tensors), used[-1], results[-1]
        except RuntimeError as error:
            if "InvalidCxxCompiler" not in str(error):
                raise
            raise SettingsError(
                "`compile` needs a C++ compiler, and none was found: install g++, name one in "
                "the environment variable CXX, or train without `compile`."
            ) from error


def _inductor(graph: torch.fx.GraphModule, tensors: list[Tensor]) -> Callable[..., Any]:
    from torch._inductor import standalone_compile  # a second to import, for few runs

    patches = {"cpp_wrapper": tensors[0].device.type == "cpu"}
    return standalone_compile(
        graph,
        list(tensors),
        dynamic_shapes="from_example_inputs",
        options={"config_patches": patches},
    )


def _flatten(value: Any, tensors: list[Tensor], structure: list[Any]) -> None:
    """Appends the tensors of a nested value in `map_tensors`' order, and all else that matters."""
    if isinstance(value, Tensor):
        tensors.append(value)
        structure.append((value.shape, value.stride(), value.dtype, value.device))
    elif isinstance(value, dict):
        structure.append(tuple(value))
        for item in value.values():
            _flatten(item, tensors, structure)
    elif isinstance(value, list | tuple):
        structure.append(len(value))
        for item in value:
            _flatten(item, tensors, structure)
    elif dataclasses.is_dataclass(value):
        for item in vars(value).values():
            _flatten(item, tensors, structure)
    else:
        structure.append(value)


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    if a.shape[2] == 1:  # an outer product, which is fused with what follows
        return a * b
    if b.stride(0) == 0 and b.shape[0] > 1:  # all tasks share the factor: one product for all
        return torch.mm(a.flatten(0, 1), b[0]).unflatten(0, a.shape[:2])
    if 1 < b.shape[2] < min(NARROW, a.shape[1]):
        return torch.bmm(b.mT, a.mT).mT
    return NotImplemented


def _baddbmm(added: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b) + added  # apart, the sum is fused with what follows


PRODUCTS = {torch.ops.aten.bmm.default: _bmm, torch.ops.aten.baddbmm.default: _baddbmm}
"""Forms of batched matrix products that are quicker than those that derivatives come in."""
