"""Compiled functions of a learner: the meta-gradient and the computations of trust regions.

A function is traced into a graph of tensor operations, which contains the derivatives of every
order; the compiler sees only this graph and no Python code. Each new structure or shape of the
inputs is traced and compiled separately.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import parameters_to_vector

from metarl.adaptation.learner import Learner, MetaLoss
from metarl.errors import SettingsError, short_repr
from metarl.flat_functions import FlatFunction
from metarl.training.chunk_gradient import chunk_gradient
from metarl.training.graph_split import split
from metarl.trees import filled

NARROW = 16
"""Matrix products with fewer columns are transposed, which is faster: the columns would not fill a
vector register."""

Backend = Callable[[torch.fx.GraphModule, list[Tensor]], Callable[..., Any]]
"""Compiles a graph for example inputs, into a function that returns a sequence of tensors."""


class Capture:
    """Traces a function of a learner's parameters and of nested tensors into graphs.

    Args:
        learner: The learner. Its `forward` must be pure: a function of tensors to tensors without
            side effects and without control flow that depends on tensor values.
        params: The parameters to differentiate with respect to; the others are constants.
        function: See `FlatFunction`.
        backend: Compiles a graph. None: inductor, with its C++ wrapper on the CPU.
    """

    def __init__(
        self,
        learner: Learner,
        params: list[nn.Parameter],
        function: Callable[..., Any],
        backend: Backend | None = None,
    ) -> None:
        self._function = FlatFunction(learner, params, function)
        self._backend = backend or _inductor
        self.arguments = self._function.arguments

    def graph(
        self, inputs: tuple[Any, ...], tensors: list[Tensor]
    ) -> tuple[torch.fx.GraphModule, Any]:
        """Traces the function for these inputs.

        Args:
            inputs: The nested inputs of the function.
            tensors: The input tensors of the graph, from `arguments`.

        Returns:
            The graph, from tensors to tensors, and the nested result with empty tensors, as a
            template of its structure.

        Raises:
            SettingsError: The function depends on the value of a tensor in Python.
        """
        flat, templates = self._function.of(inputs)
        try:
            return make_fx(flat, decomposition_table=PRODUCTS)(*tensors), templates[-1]
        except RuntimeError as error:
            if "tracing tensor" not in str(error):
                raise
            raise SettingsError(
                "`compile` captures tensor operations, and a loss, metric or network reads the "
                "value of a tensor in Python (`item`, `if`, `max()` of numbers). Use operations "
                "such as `torch.where`, or train without `compile`."
            ) from error

    def compiled(self, graph: torch.fx.GraphModule, tensors: list[Tensor]) -> Callable[..., Any]:
        """Compiles a graph for these input tensors.

        Raises:
            SettingsError: No C++ compiler was found, or torch cannot compile the graph.
        """
        try:
            return self._backend(graph, tensors)
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # torch's compiler raises anything
            if "InvalidCxxCompiler" not in str(error):
                reason = short_repr(str(error).strip().partition("\n")[0], 200)
                raise SettingsError(
                    f"torch cannot compile the operations of this learner: {type(error).__name__}: "
                    f"{reason}. Train without `compile`."
                ) from error
            raise SettingsError(
                "`compile` needs a C++ compiler, and none was found: install g++, name one in "
                "the environment variable CXX, or train without `compile`."
            ) from error


class CompiledFunction:
    """A compiled function of a learner.

    Args:
        capture: Traces and compiles the function.
    """

    def __init__(self, capture: Capture) -> None:
        self._capture = capture
        self._lock = threading.Lock()  # tracing replaces the learner's parameters temporarily
        self._compiled: dict[Any, tuple[Callable[..., Any], Any]] = {}

    def __call__(self, *inputs: Any) -> Any:
        """Returns the function's result for nested tensors, detached.

        Raises:
            SettingsError: No C++ compiler was found.
        """
        tensors, key = self._capture.arguments(inputs)
        with torch.no_grad():
            with self._lock:
                if key not in self._compiled:
                    graph, template = self._capture.graph(inputs, tensors)
                    self._compiled[key] = self._capture.compiled(graph, tensors), template
            function, template = self._compiled[key]
            outputs = function(*tensors)
        return filled(template, outputs)


class CompiledGradient:
    """Computes a learner's meta-gradient with compiled code.

    Args:
        learner: See `Capture`.
        params: The parameters to differentiate with respect to.
        backend: See `Capture`.
    """

    def __init__(
        self, learner: Learner, params: list[nn.Parameter], backend: Backend | None = None
    ) -> None:
        gradient = partial(chunk_gradient, learner)
        self._gradient = CompiledFunction(Capture(learner, params, gradient, backend))

    def __call__(self, inputs: Any, total: int) -> tuple[Sequence[Tensor | None], MetaLoss]:
        """Computes the gradient of the summed losses, divided by `total`.

        Args:
            inputs: The inputs of the learner's `forward`.
            total: The number of tasks in all chunks.

        Returns:
            The gradient of each parameter, None if the losses do not depend on it (as in eager
            mode), and the learner's output, detached.

        Raises:
            SettingsError: No C++ compiler was found.
        """
        return self._gradient(inputs, total)


class CompiledProduct:
    """Compiled matrix-vector products, with a matrix that depends on a learner and its inputs.

    The part of the computation that does not depend on the vector runs once for all vectors.

    Args:
        capture: Traces a function of the inputs and, as its last argument, a vector [P]; it returns
            a vector [P].
        params: The learner's parameters, with P elements in total.
    """

    def __init__(self, capture: Capture, params: list[nn.Parameter]) -> None:
        self._capture = capture
        self._params = params
        self._lock = threading.Lock()
        self._compiled: dict[Any, tuple[Callable[..., Any], Callable[..., Any], list[int]]] = {}

    def __call__(self, *inputs: Any) -> Callable[[Tensor], Tensor]:
        """Returns the product for these inputs, a function from vectors [P] to vectors [P].

        Raises:
            SettingsError: No C++ compiler was found.
        """
        inputs = (*inputs, parameters_to_vector(self._params).detach())
        tensors, key = self._capture.arguments(inputs)
        with torch.no_grad():
            with self._lock:
                if key not in self._compiled:
                    self._compiled[key] = self._compile(inputs, tensors)
            early, late, direct = self._compiled[key]
            constants = [*(tensors[i] for i in direct), *early(*tensors[:-1])]

        @torch.no_grad()
        def product(vector: Tensor) -> Tensor:
            return late(*constants, vector)[0]

        return product

    def _compile(
        self, inputs: tuple[Any, ...], tensors: list[Tensor]
    ) -> tuple[Callable[..., Any], Callable[..., Any], list[int]]:
        """Returns the compiled parts of the graph and the input indices, as `split` does."""
        graph, _ = self._capture.graph(inputs, tensors)
        first, second, direct = split(graph)
        early = self._capture.compiled(first, tensors[:-1])
        constants = [*(tensors[i] for i in direct), *early(*tensors[:-1])]
        return early, self._capture.compiled(second, [*constants, tensors[-1]]), direct


def _inductor(graph: torch.fx.GraphModule, tensors: list[Tensor]) -> Callable[..., Any]:
    from torch._inductor import standalone_compile  # takes a second to import, so only if needed

    patches = {"cpp_wrapper": tensors[0].device.type == "cpu"}
    return standalone_compile(
        graph,
        list(tensors),
        dynamic_shapes="from_example_inputs",
        options={"config_patches": patches},
    )


def _bmm(a: Tensor, b: Tensor) -> Tensor:
    """Computes a batched matrix product [T, n, k] @ [T, k, m] in the form that is fastest."""
    if a.shape[2] == 1:  # an outer product: elementwise, so it can be fused with later operations
        return a * b
    if b.stride(0) == 0 and b.shape[0] > 1:  # all tasks share b: one large matrix product
        return torch.mm(a.flatten(0, 1), b[0]).unflatten(0, a.shape[:2])
    if 1 < b.shape[2] < min(NARROW, a.shape[1]):
        return torch.bmm(b.mT, a.mT).mT
    return NotImplemented


def _baddbmm(added: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    # Separated from the product, the sum can be fused with later operations.
    product = torch.bmm(a, b) if alpha == 1 else alpha * torch.bmm(a, b)
    return product + (added if beta == 1 else beta * added)


PRODUCTS = {torch.ops.aten.bmm.default: _bmm, torch.ops.aten.baddbmm.default: _baddbmm}
"""Replacements for batched matrix products, faster than the forms that autograd produces."""
