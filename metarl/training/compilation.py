"""Functions of a learner as compiled code: the meta-gradient, and what trust regions compute.

What runs is captured operation by operation, derivatives of every order included, just as it runs
uncompiled; the compiler sees that straight list of tensor operations and never the Python code. It
is captured and compiled anew for each structure and shape of the inputs.
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
from torch.nn.utils import parameters_to_vector

from metarl.adaptation.learner import Learner, MetaInputs, MetaLoss
from metarl.errors import SettingsError
from metarl.training.graphs import split
from metarl.trees import map_tensors

NARROW = 16
"""Matrix products of fewer columns (than a vector register holds) are quicker transposed."""

Backend = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]
"""Compiles a graph for example inputs; what it returns gives a sequence of tensors."""


class Capture:
    """Captures functions of a learner's parameters and of nested tensors as graphs.

    Args:
        learner: It must be pure: tensors in, tensors out, no choice by their values.
        params: The parameters to take derivatives for; the others are constants.
        function: Called as function(leaves, *inputs) with gradients on, while the learner holds
            other tensors in place of its own: the leaves in place of `params`. Returns nested
            tensors.
        backend: Compiles a graph: inductor, with its C++ wrapper on the CPU.
    """

    def __init__(
        self,
        learner: Learner,
        params: list[nn.Parameter],
        function: Callable[..., Any],
        backend: Backend | None = None,
    ) -> None:
        self._bound = _Bound(learner, function)
        self._backend = backend or _inductor
        self._state = {**dict(self._bound.named_parameters()), **dict(self._bound.named_buffers())}
        self._trained = {id(p) for p in params}

    def arguments(self, inputs: tuple[Any, ...]) -> tuple[list[Tensor], Any]:
        """Returns the tensors that a graph takes, and what tells whether a graph fits them."""
        tensors, structure = list(self._state.values()), []
        _flatten(inputs, tensors, structure)
        return tensors, tuple(structure)

    def graph(
        self, inputs: tuple[Any, ...], tensors: list[Tensor]
    ) -> tuple[torch.fx.GraphModule, Any]:
        """Returns the graph, from tensors to tensors, and the structure of what comes out."""
        templates: list[Any] = []

        @torch.enable_grad()
        def flat(*values: Tensor) -> list[Tensor]:
            rest = iter(values)
            state, leaves = {}, []
            for name, tensor in self._state.items():
                state[name] = next(rest).detach()
                if id(tensor) in self._trained:
                    leaves.append(state[name].requires_grad_())
            given = map_tensors(lambda _: next(rest), inputs)
            result = functional_call(self._bound, state, (leaves, *given))
            detached = map_tensors(Tensor.detach, result)
            outputs: list[Tensor] = []
            _flatten(detached, outputs, [])
            templates.append(map_tensors(lambda t: t.new_empty(0), detached))
            return outputs

        return make_fx(flat, decomposition_table=PRODUCTS)(*tensors), templates[-1]

    def compiled(self, graph: torch.fx.GraphModule, tensors: list[Tensor]) -> Callable[..., Any]:
        """Compiles a graph for these tensors.

        Raises:
            SettingsError: There is no C++ compiler.
        """
        try:
            return self._backend(graph, tensors)
        except RuntimeError as error:
            if "InvalidCxxCompiler" not in str(error):
                raise
            raise SettingsError(
                "`compile` needs a C++ compiler, and none was found: install g++, name one in "
                "the environment variable CXX, or train without `compile`."
            ) from error


class CompiledFunction:
    """A function of a learner, compiled.

    Args:
        capture: What is compiled.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lock = threading.Lock()  # capturing swaps the learner's parameters for a while
        self._compiled: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Returns what the function returns for nested tensors, detached.

        Raises:
            SettingsError: There is no C++ compiler.
        """
        tensors, key = self._capture.arguments(inputs)
        with torch.no_grad():
            with self._lock:
                if key not in self._compiled:
                    graph, template = self._capture.graph(inputs, tensors)
                    self._compiled[key] = self._capture.compiled(graph, tensors), template
            function, template = self._compiled[key]
            outputs = iter(function(*tensors))
        return map_tensors(lambda _: next(outputs), template)


class CompiledGradient:
    """Computes a learner's meta-gradient with compiled code.

    Args:
        learner: See `Capture`.
        params: The parameters to take the gradient for.
        backend: See `Capture`.
    """

    def __init__(
        self, learner: Learner, params: list[nn.Parameter], backend: Backend | None = None
    ) -> None:
        def gradient(
            leaves: list[Tensor], inputs: MetaInputs, total: int
        ) -> tuple[list[Tensor | None], MetaLoss]:
            result: MetaLoss = learner(inputs)
            loss = result.losses.sum() / total
            return list(torch.autograd.grad(loss, leaves, allow_unused=True)), result

        self._gradient = CompiledFunction(Capture(learner, params, gradient, backend))

    def __call__(self, inputs: MetaInputs, total: int) -> tuple[list[Tensor | None], MetaLoss]:
        """Returns the gradient of the sum of the losses over `total`, and the rest, detached.

        A parameter that the losses do not depend on has None, as without compilation.

        Raises:
            SettingsError: There is no C++ compiler.
        """
        return self._gradient(inputs, total)


class CompiledProduct:
    """Products of vectors with a matrix that a learner and inputs give, compiled.

    What does not depend on the vector is computed once for many of them.

    Args:
        capture: Of a function of inputs and, at last, a vector; it returns a vector.
        params: P numbers in all, as many as the vectors have.
    """

    def __init__(self, capture: Capture, params: list[nn.Parameter]) -> None:
        self._capture = capture
        self._params = params
        self._lock = threading.Lock()
        self._compiled: dict[Any, tuple[Callable[..., Any], Callable[..., Any], list[int]]] = {}

    def __call__(self, *inputs: Any) -> Callable[[Tensor], Tensor]:
        """Returns the function from vectors [P] to vectors [P].

        Raises:
            SettingsError: There is no C++ compiler.
        """
        inputs = (*inputs, parameters_to_vector(self._params).detach())
        tensors, key = self._capture.arguments(inputs)
        with torch.no_grad():
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(inputs, tensors)
            early, late, direct = self._compiled[key]
            known = [*(tensors[i] for i in direct), *early(*tensors[:-1])]

        @torch.no_grad()
        def product(vector: Tensor) -> Tensor:
            return late(*known, vector)[0]

        return product

    def _compile(
        self, inputs: tuple[Any, ...], tensors: list[Tensor]
    ) -> tuple[Callable[..., Any], Callable[..., Any], list[int]]:
        graph, _ = self._capture.graph(inputs, tensors)
        first, second, direct = split(graph)
        early = self._capture.compiled(first, tensors[:-1])
        known = [*(tensors[i] for i in direct), *early(*tensors[:-1])]
        return early, self._capture.compiled(second, [*known, tensors[-1]]), direct


class _Bound(nn.Module):
    """The learner and a function of it, so that its parameters can be swapped."""

    def __init__(self, learner: Learner, function: Callable[..., Any]) -> None:
        super().__init__()
        self.learner = learner
        self._function = function

    def forward(self, *args: Any) -> Any:
        return self._function(*args)


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


def _baddbmm(added: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # apart, the sum is fused with what follows
    product = torch.bmm(a, b) if alpha == 1 else alpha * torch.bmm(a, b)
    return product + (added if beta == 1 else beta * added)


PRODUCTS = {torch.ops.aten.bmm.default: _bmm, torch.ops.aten.baddbmm.default: _baddbmm}
"""Forms of batched matrix products that are quicker than those that derivatives come in."""
