"""Functions of tensors captured as CUDA graphs, replayed with one launch instead of thousands."""

from __future__ import annotations

import contextvars
import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from metarl.console import say
from metarl.flat_functions import FlatFunction
from metarl.trees import filled, tensors_of

WARM_UPS = 2
"""Calls before a capture: libraries allocate and choose their algorithms in the first ones."""
MOST_GRAPHS = 8
"""Structures of inputs that a function is captured for; others run eagerly."""
TOLERANCE = 1e-4
"""The largest difference of a replay from the function, relative to its largest value."""

T = TypeVar("T")
Replay = Callable[[], None]
Body = Callable[[], list[Tensor]]

_allowed = True
_capturing = contextvars.ContextVar("capturing", default=False)


class Driver(Protocol):
    """Interface of what captures the operations of a function."""

    def capture(
        self, body: Body, inputs: list[Tensor], generator: torch.Generator | None = None
    ) -> tuple[Replay, list[Tensor]]:
        """Captures the operations of `body` on the memory of `inputs`.

        Args:
            body: A function that reads only `inputs` and constants.
            inputs: Tensors whose values change between replays; none only with a generator.
            generator: What `body` draws from; its state is another one afterwards.

        Returns:
            What repeats the operations on the present values, and the tensors that it writes.

        Raises:
            RuntimeError: The function cannot be captured.
        """
        ...


class CudaDriver:
    """Captures with `torch.cuda.graph`.

    Other threads may use the GPU meanwhile: those that sample tasks ahead or adapt in the
    background, and NCCL's.
    """

    def capture(
        self, body: Body, inputs: list[Tensor], generator: torch.Generator | None = None
    ) -> tuple[Replay, list[Tensor]]:
        """See `Driver.capture`."""
        device = inputs[0].device if generator is None else generator.device
        stream, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                body()
        torch.cuda.current_stream(device).wait_stream(stream)
        if generator is not None:
            graph.register_generator_state(generator)
        capture = torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local")
        with torch.cuda.device(device), uncollected(), capture:
            outputs = body()
        return graph.replay, outputs


@dataclass(frozen=True)
class _Graph:
    replay: Replay
    inputs: list[Tensor]  # the memory that the graph reads
    outputs: list[Tensor]  # the memory that it writes
    template: Any


class Graphed:
    """A function of a module and of nested tensors, captured once per structure of its inputs.

    The first replay is compared with the function. A function that cannot be captured, or whose
    replay differs, runs as it is, and a line says why.

    Args:
        what: What is computed, for the messages: "rollouts".
        module: See `FlatFunction`.
        params: See `FlatFunction`.
        function: See `FlatFunction`. It must not wait for the device: a decision of the host on
            the values of tensors goes through `may_hold`. It draws no random numbers.
        driver: What captures; None for CUDA.

    Attributes:
        refused: Why the function runs without a graph; None if it has one, or was not called.
    """

    def __init__(
        self,
        what: str,
        module: nn.Module,
        params: list[nn.Parameter],
        function: Callable[..., Any],
        driver: Driver | None = None,
    ) -> None:
        self.what = what
        self._flat = FlatFunction(module, params, function)
        self._driver = driver or CudaDriver()
        self._graphs: dict[Any, _Graph] = {}
        self._lock = threading.Lock()
        self.refused: str | None = None

    def __call__(self, *inputs: Any) -> Any:
        """Returns the function's result for nested tensors, detached, in new memory."""
        tensors, key = self._flat.arguments(inputs)
        with torch.no_grad(), self._lock:
            graph = self._graphs.get(key)
            if graph is None:
                return self._first(inputs, tensors, key)
            torch._foreach_copy_(graph.inputs, tensors)
            graph.replay()
            return filled(graph.template, copied(graph.outputs))

    def _first(self, inputs: tuple[Any, ...], tensors: list[Tensor], key: Any) -> Any:
        """Computes the result eagerly, and captures the function for the next call."""
        flat, templates = self._flat.of(inputs)
        with capturing():
            expected = flat(*tensors)
        result = filled(templates[-1], expected)
        if self.refused is None and len(self._graphs) < MOST_GRAPHS:
            memory = [tensor.detach().clone() for tensor in tensors]
            try:
                with capturing():
                    replay, outputs = self._driver.capture(lambda: flat(*memory), memory)
                self._graphs[key] = _Graph(replay, memory, outputs, templates[-1])
                replay()
                self.refused = difference(outputs, expected)
            except RuntimeError as error:
                self.refused = str(error).partition("\n")[0]
            if self.refused is not None:
                self._graphs.clear()
                say(f"The {self.what} run without a CUDA graph: {self.refused}")
        return result


def capture_in_place(
    what: str, function: Callable[[T], None], memory: T, driver: Driver | None = None
) -> tuple[Replay, str | None]:
    """Captures a function that reads and changes memory in place.

    The first replay is compared with the function; the memory is left as it was.

    Args:
        what: See `Graphed`.
        function: Called with `memory`. It must not wait for the device.
        memory: Nested tensors, all that the function reads and changes.
        driver: What captures; None for CUDA.

    Returns:
        What repeats the function on `memory`, and why it is no graph, None if it is one.
    """
    tensors = tensors_of(memory)
    before = [tensor.clone() for tensor in tensors]

    def body() -> list[Tensor]:
        function(filled(memory, tensors))
        return []

    def changed(run: Callable[[], object]) -> list[Tensor]:
        run()
        after = [tensor.clone() for tensor in tensors]
        torch._foreach_copy_(tensors, before)
        return after

    with torch.no_grad(), capturing():
        expected = changed(body)
        try:
            replay, _ = (driver or CudaDriver()).capture(body, tensors)
            torch._foreach_copy_(tensors, before)
            refused = difference(changed(replay), expected)
        except RuntimeError as error:
            refused = str(error).partition("\n")[0]
            torch._foreach_copy_(tensors, before)
    if refused is None:
        return replay, None
    say(f"The {what} run without a CUDA graph: {refused}")

    def run() -> None:
        with torch.no_grad():
            function(memory)

    return run, refused


def allow_graphs(allowed: bool) -> None:
    """Sets whether rollouts and meta-gradients are captured on a GPU, for the whole process."""
    global _allowed
    _allowed = allowed


def graphs_allowed() -> bool:
    """Returns what `allow_graphs` set; true at first."""
    return _allowed


@contextmanager
def uncollected() -> Iterator[None]:
    """Pauses Python's garbage collection: what it frees during a capture, the graph would free."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def capturing() -> Iterator[None]:
    """Makes `may_hold` decide without the device."""
    token = _capturing.set(True)
    try:
        yield
    finally:
        _capturing.reset(token)


def is_capturing() -> bool:
    """Returns whether operations are captured, so that the host must not read values."""
    return _capturing.get()


def may_hold(flags: Tensor) -> bool:
    """Returns whether any of some flags is true, without reading them while they are captured.

    It guards computations that change nothing where no flag is true.

    Args:
        flags: Any shape, bool.

    Returns:
        Whether a flag is true; True while operations are captured.
    """
    return _capturing.get() or bool(flags.any())


def copied(outputs: list[Tensor]) -> list[Tensor]:
    """Returns what a replay wrote, in memory that the next one leaves as it is."""
    results = [torch.empty_like(output) for output in outputs]
    for dtype in {output.dtype for output in outputs}:  # one launch for all of a type
        places = [place for place, output in enumerate(outputs) if output.dtype == dtype]
        torch._foreach_copy_([results[p] for p in places], [outputs[p] for p in places])
    return results


def difference(outputs: list[Tensor], expected: list[Tensor]) -> str | None:
    """Returns how a replay differs from the function; None if it does by rounding only."""
    for actual, wanted in zip(outputs, expected, strict=True):
        if actual.is_floating_point():
            largest = wanted.abs().nan_to_num(posinf=0.0).amax() if wanted.numel() else 0.0
            close = torch.isclose(
                actual, wanted, rtol=TOLERANCE, atol=TOLERANCE * float(largest), equal_nan=True
            )
        else:
            close = actual == wanted
        if not bool(close.all()):
            return f"a replay differs from it in {int((~close).sum())} of {close.numel()} numbers."
    return None
