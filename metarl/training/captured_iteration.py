"""A meta-iteration of a supervised learner as one CUDA graph: gradient, clipping, optimiser."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.adaptation.learner import MetaLoss
from metarl.console import say
from metarl.cuda_graphs import (
    MOST_GRAPHS,
    CudaDriver,
    Driver,
    Replay,
    capturing,
    copied,
    difference,
    graphs_allowed,
)
from metarl.flat_functions import FlatFunction
from metarl.training.masked_step import MaskedStep, StepMemory
from metarl.training.meta_gradient import MetaGradient, laid_out
from metarl.trees import filled, map_tensors, tensors_of


class Update(NamedTuple):
    """The result of an iteration, in memory that later ones leave as it is.

    Attributes:
        result: The learner's output for all tasks.
        norm: Norm of the meta-gradient before clipping, [].
        finite: Whether all losses and gradients so far are finite, [] bool.
    """

    result: MetaLoss
    norm: Tensor
    finite: Tensor


@dataclass(frozen=True)
class _Graph:
    replay: Replay
    places: list[int]  # addresses of what it reads and changes in place
    inputs: list[Tensor]  # the memory of its other inputs
    grads: list[Tensor | None]
    outputs: list[Tensor]  # the memory that it writes, without the gradients
    template: Any


class CapturedIteration:
    """Computes the meta-gradient and takes the step; one launch where a graph holds both.

    The graph reads and changes the parameters and the state of the optimiser where they are. It is
    captured in the first iteration with inputs of a given structure, and its first replay is
    compared with the result of that iteration. Where the tasks do not fit into one chunk, or
    nothing can be captured, the same operations are launched one by one.

    Args:
        gradient: Computes the meta-gradient.
        step: Takes the step.
        driver: What captures; None for CUDA.

    Attributes:
        refused: Why iterations run without a graph; None if they have one, or none was run.
    """

    def __init__(
        self, gradient: MetaGradient, step: MaskedStep, driver: Driver | None = None
    ) -> None:
        self._gradient = gradient
        self._step = step
        self._driver = driver or CudaDriver()
        self._flat = FlatFunction(gradient.learner, gradient.params, gradient.of_leaves)
        self._graphs: dict[Any, _Graph] = {}
        self.refused: str | None = None

    def __call__(self, inputs: Any) -> Update:
        """Takes a step for the tasks of these inputs.

        The gradient is then in the `grad` of the parameters, until the next iteration.

        Raises:
            MissingStateError: See `MaskedStep`.
            SettingsError: See `MetaGradient`.
        """
        self._gradient.check()
        gradient, tasks = self._gradient, inputs.tasks.num_tasks

        def compute(size: int | None) -> Update:
            if self.refused is None and graphs_allowed() and (size is None or size >= tasks):
                return self._of_all(inputs, gradient.total_tasks(inputs))
            return self._by_parts(inputs)

        size = gradient.fitting.limited(gradient.chunk_size(inputs), tasks)
        if size is not None and size < tasks:
            return self._by_parts(inputs)
        return gradient.fitting(compute, size, tasks)

    def _by_parts(self, inputs: Any) -> Update:
        self._gradient.captures = True
        result, norm = self._gradient.on_device(inputs)
        grads = [p.grad for p in self._gradient.params]
        norm, finite = self._step(self._step.memory(), grads, result.losses, norm)
        return Update(result, norm, finite)

    def _of_all(self, inputs: Any, total: int) -> Update:
        memory = self._step.memory()
        tensors, structure = self._flat.arguments((inputs, total))
        own = self._flat.of_module()
        places = [t.data_ptr() for t in own]
        places += [t.data_ptr() for state in memory.states for t in state.values()]
        key = (structure, self._step.constants())
        graph = self._graphs.get(key)
        if graph is None or graph.places != places:
            return self._first(_Run(self._flat, self._step, (inputs, total), memory), key, places)
        torch._foreach_copy_(graph.inputs, tensors[len(own) :])
        graph.replay()
        self._keep(graph.grads)
        return filled(graph.template, copied(graph.outputs))

    @torch.no_grad()
    def _first(self, run: _Run, key: Any, places: list[int]) -> Update:
        """Takes a step without a graph, and captures it for the next iterations."""
        before = _clones(run.changed)
        with capturing():
            expected = run()
        after, (grads, outputs) = _clones(run.changed), run.parted(expected)
        update = filled(run.template, copied(outputs))  # a carry may be a view of the inputs
        if key in self._graphs or len(self._graphs) < MOST_GRAPHS:
            self._capture(run, before, expected, key, places)
            torch._foreach_copy_(run.changed, after)
        if self.refused is not None:
            self._graphs.clear()
            say(f"The meta-iterations run without a CUDA graph: {self.refused}")
        self._keep(grads)
        return update

    def _capture(
        self, run: _Run, before: list[Tensor], expected: list[Tensor], key: Any, places: list[int]
    ) -> None:
        """Captures the run as a graph; `refused` then says why it cannot be used."""
        try:
            torch._foreach_copy_(run.changed, before)
            with capturing():
                replay, written = self._driver.capture(run, run.values)
            torch._foreach_copy_(run.changed, before)
            replay()
        except RuntimeError as error:
            self.refused = str(error).partition("\n")[0]
            return
        grads, outputs = run.parted(written)
        replayed = _clones(run.changed)
        # An optimiser magnifies rounding: its step is compared for the same gradients.
        torch._foreach_copy_(run.changed, before)
        run.step_again(grads, outputs)
        self.refused = difference([*written, *replayed], [*expected, *run.changed])
        self._graphs[key] = _Graph(replay, places, run.inputs, grads, outputs, run.template)

    def _keep(self, grads: list[Tensor | None]) -> None:
        for p, grad in zip(self._gradient.params, grads, strict=True):
            if p.grad is not grad:
                p.grad = grad


class _Run:
    """The operations of an iteration, on the memory of `values`.

    Attributes:
        values: The module's tensors, the other inputs, the optimiser's tensors.
        inputs: The memory of the other inputs.
        changed: What a run changes in place.
        template: An `Update` with empty tensors, after the first run.
    """

    def __init__(
        self, flat: FlatFunction, step: MaskedStep, inputs: tuple[Any, ...], memory: StepMemory
    ) -> None:
        self._function, self._templates = flat.of(inputs)
        self._step, self._memory = step, memory
        self._trained = flat.trained()
        own = flat.of_module()
        self.inputs = _clones(flat.arguments(inputs)[0][len(own) :])
        self._count = len(own) + len(self.inputs)
        self.values = [*own, *self.inputs, *tensors_of(memory[1:])]
        self.changed = [*(own[k] for k in self._trained), *tensors_of((memory.states, memory.bad))]
        self.template: Any = None
        self._grads: list[Tensor | None] = []

    def __call__(self) -> list[Tensor]:
        """Runs the operations; returns the gradients that are not None, then the outputs."""
        outputs = self._function(*self.values[: self._count])
        grads, result = filled(self._templates[-1], outputs)
        params = [self.values[k] for k in self._trained]
        memory = StepMemory(params, *filled(self._memory[1:], self.values[self._count :]))
        grads = [g if g is None else laid_out(g, p) for g, p in zip(grads, params, strict=True)]
        norm, finite = self._step(memory, grads, result.losses)
        update = Update(result, norm, finite)
        self._grads = grads
        self.template = map_tensors(lambda t: t.new_empty(0), update)
        return [*(g for g in grads if g is not None), *tensors_of(update)]

    def parted(self, written: list[Tensor]) -> tuple[list[Tensor | None], list[Tensor]]:
        """Returns the gradient of each parameter, and the other tensors that a run returns."""
        rest = iter(written)
        grads = [None if grad is None else next(rest) for grad in self._grads]
        return grads, list(rest)

    def step_again(self, grads: list[Tensor | None], outputs: list[Tensor]) -> None:
        """Takes the step for clipped gradients and outputs of a run."""
        update = filled(self.template, outputs)
        self._step(self._memory, grads, update.result.losses, update.norm, clip=False)


def _clones(tensors: list[Tensor]) -> list[Tensor]:
    return [t.detach().clone() for t in tensors]
