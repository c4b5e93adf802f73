"""The meta-gradient of a batch of tasks, computed in chunks to limit memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from metarl import ranks
from metarl.adaptation.learner import Learner, MetaLoss
from metarl.chunks import FittingChunks
from metarl.cuda_graphs import Driver, Graphed, graphs_allowed
from metarl.devices import keep_freed_memory
from metarl.errors import SettingsError
from metarl.training.chunk_gradient import chunk_gradient, without_parameters
from metarl.training.compilation import CompiledGradient
from metarl.training.settings import TrainingSettings
from metarl.trees import concatenate_tasks, cut_tasks

C = TypeVar("C")
R = TypeVar("R")


class Gradient(NamedTuple):
    """The result of `MetaGradient`; the gradient itself is in the `grad` of the parameters.

    Attributes:
        result: The learner's output for all tasks, detached.
        norm: The Euclidean norm of the gradient.
        finite: Whether the losses and the norm are finite.
    """

    result: MetaLoss
    norm: Tensor
    finite: bool


class MetaGradient:
    """Computes meta-gradients, eagerly or compiled.

    Args:
        learner: The learner to train.
        settings: Chunk size, workers and compilation.
        driver: Captures the gradient of a chunk as a graph; None for CUDA, if the learner is on a
            GPU and its chunks are computed one after the other.

    Attributes:
        batch_size: Tasks of all ranks in one gradient.
        captures: Whether chunks are captured as graphs, where they can be.
        of_leaves: The function (leaves, inputs, total) -> (gradients, output) of a chunk that
            graphs capture.
    """

    def __init__(
        self, learner: Learner, settings: TrainingSettings, driver: Driver | None = None
    ) -> None:
        self.learner = learner
        self.settings = settings
        self.batch_size = settings.meta_batch_size
        self.params = [p for p in learner.parameters() if p.requires_grad]
        self._all = tuple(learner.parameters())
        self._flags = [p.requires_grad for p in self._all]
        self.fitting = FittingChunks("meta-gradients")
        self._gradient = (
            CompiledGradient(learner, self.params)
            if settings.compile
            else partial(chunk_gradient, learner, self.params)
        )
        self._driver = driver
        self.captures = True
        self.of_leaves = self._compiled if settings.compile else partial(chunk_gradient, learner)
        self.graphed = self.captured("meta-gradients", self.of_leaves)
        if any(p.device.type == "cpu" for p in self.params):
            keep_freed_memory()
        # Two small operations in parallel, on one thread each, are faster than one after the other
        # on two threads.
        if settings.workers > 1:
            torch.set_num_threads(1)  # applies to the whole process
        self._workers = (
            ThreadPoolExecutor(settings.workers, initializer=torch.set_num_threads, initargs=(1,))
            if settings.workers > 1
            else None
        )

    def __call__(self, inputs: Any) -> Gradient:
        """Computes the gradient of the mean loss of all tasks and stores it in `grad`.

        The gradients of the chunks are summed in the order of the chunks, then those of the ranks.

        Args:
            inputs: The inputs of the learner's `forward`, for all tasks; on several ranks, for
                those of this rank.

        Returns:
            The learner's output for all tasks and the norm of the gradient.

        Raises:
            SettingsError: `requires_grad` of a parameter has changed since the construction, or
                the loss depends on no parameter.
        """
        result, norm = self.on_device(inputs)
        return Gradient(result, norm, math.isfinite((result.losses.sum() + norm).item()))

    def on_device(self, inputs: Any) -> tuple[MetaLoss, Tensor]:
        """Computes the same without reading a value on the host; returns output and norm."""
        self.check()
        # grad = sum over chunks of d/d theta [sum_t loss_t / T]
        results = self.fitting(
            lambda size: self._sum_chunks(inputs, size),
            self.chunk_size(inputs),
            inputs.tasks.num_tasks,
        )
        result = results[0] if len(results) == 1 else concatenate_tasks(results)
        if ranks.count() > 1:
            self._add_ranks()
            result = ranks.gather(result, self.total_tasks(inputs))
        return result, norm_of([p.grad for p in self.params if p.grad is not None])

    def check(self) -> None:
        """Checks that there are parameters to train, the same as at the construction.

        Raises:
            SettingsError: The learner has none, or `requires_grad` of a parameter has changed.
        """
        if not self.params:
            raise SettingsError(
                f"Expected parameters to train, this {type(self.learner).__name__} has none: call "
                "`requires_grad_()` on those that the outer loop shall train, or train none "
                "(`iterations=0`)."
            )
        if [p.requires_grad for p in self._all] != self._flags:
            raise SettingsError(
                "Expected `requires_grad` of the parameters to stay as it was when the outer "
                "update was built, and it has changed. Freeze parameters before that, or build "
                "another OuterLoop (or MetaStep)."
            )

    def _sum_chunks(self, inputs: Any, size: int | None) -> list[MetaLoss]:
        """Sums the gradients of chunks of tasks in `grad`; returns the outputs of the chunks."""
        total = self.total_tasks(inputs)
        results: list[MetaLoss] = []
        for p in self.params:
            p.grad = None
        chunks = cut_tasks(inputs, size)
        for grads, part in self.map(lambda chunk: self._of_chunk(chunk, total), chunks):
            self._accumulate(grads)
            results.append(part)
        return results

    def captured(self, what: str, function: Callable[..., Any]) -> Graphed | None:
        """Returns a function of the parameters and of chunks of tasks, to be captured as a graph.

        Args:
            what: See `Graphed`.
            function: See `Graphed`.

        Returns:
            None on a CPU, and where workers compute chunks at the same time.
        """
        on_gpu = bool(self.params) and self.params[0].device.type == "cuda"
        if self._driver is None and not (on_gpu and self.settings.workers == 1):
            return None
        return Graphed(what, self.learner, self.params, function, self._driver)

    def total_tasks(self, inputs: Any) -> int:
        """Returns the number of tasks of all ranks."""
        return ranks.total_tasks(inputs.tasks.num_tasks, self.batch_size)

    def _add_ranks(self) -> None:
        """Replaces the gradients by their sums over the ranks."""
        trained = [p for p in self.params if p.grad is not None]
        sums = ranks.add_up([p.grad for p in trained if p.grad is not None])
        for p, grad in zip(trained, sums, strict=True):
            p.grad = laid_out(grad, p)

    def settings_chunk_size(self) -> int | None:
        """Returns the number of tasks per chunk in the settings, for the learner's device."""
        device = self.params[0].device if self.params else torch.device("cpu")
        return self.settings.chunk_size(device)

    def map(self, function: Callable[[C], R], chunks: Iterable[C]) -> Iterator[R]:
        """Applies a function to all chunks, in parallel if there are workers.

        Gradients are always enabled in the workers.

        Returns:
            The results, in the order of the chunks.
        """
        return (
            map(function, chunks) if self._workers is None else self._workers.map(function, chunks)
        )

    def chunk_size(self, inputs: Any) -> int | None:
        """Returns the number of tasks per chunk; None means all tasks.

        This is the size in the settings or else the learner's preferred size, reduced such that
        every worker has a chunk.
        """
        size, workers = self.settings_chunk_size(), self.settings.workers
        if size is not None:
            return size
        size, total = self.learner.preferred_chunk_size(inputs), inputs.tasks.num_tasks
        if size is not None and self.settings.compile and total % size:
            size = None  # a smaller last chunk would need a second compilation
        if workers == 1:
            return size
        share = -(-total // workers)
        size = share if size is None else min(size, share)
        # The size in (size / 2, size] with the fewest tasks per worker, counted in full chunks.
        sizes = range(size, size // 2, -1)
        return min(sizes, key=lambda s: -(-total // (s * workers)) * s)

    def _of_chunk(self, inputs: Any, total: int) -> tuple[Sequence[Tensor | None], MetaLoss]:
        if self.graphed is not None and self.captures and graphs_allowed():
            return self.graphed(inputs, total)
        return self._gradient(inputs, total)

    def _compiled(
        self, leaves: Sequence[Tensor], inputs: Any, total: int
    ) -> tuple[Sequence[Tensor | None], MetaLoss]:
        del leaves  # the compiled code reads the parameters themselves, whose memory stays
        return self._gradient(inputs, total)

    def _accumulate(self, grads: Sequence[Tensor | None]) -> None:
        for p, grad in zip(self.params, grads, strict=True):
            if grad is None:
                continue
            p.grad = laid_out(grad, p) if p.grad is None else p.grad + grad


def laid_out(grad: Tensor, p: Tensor) -> Tensor:
    """Returns a gradient in the memory layout of its parameter, which fused Adam requires."""
    return grad if p.stride() == grad.stride() else torch.empty_like(p).copy_(grad)


def norm_of(grads: list[Tensor]) -> Tensor:
    """Returns the norm of all gradients together.

    Faster than torch's function, which groups the gradients by device.

    Args:
        grads: The gradients; none if the loss depends on no parameter that is trained.
    """
    if not grads:
        raise without_parameters()
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
