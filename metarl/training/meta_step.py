"""One meta-iteration: the meta-gradient of a batch of tasks and the outer update."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metarl.adaptation.learner import Learner, MetaInputs, MetaLoss
from metarl.errors import SettingsError
from metarl.training.compilation import CompiledGradient
from metarl.training.settings import TrainingSettings
from metarl.trees import concatenate_tasks, take_tasks


class MetaResult(NamedTuple):
    """What a meta-iteration gave.

    Attributes:
        losses: Outer objective per task, [T].
        metrics: TensorBoard tag -> value per task, [T].
        carry: What the learner's `finish` takes over.
        grad_norm: Norm of the meta-gradient before clipping.
        finite: False if a loss or the gradient norm was not finite: then nothing was updated.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    carry: dict[str, Any]
    grad_norm: Tensor
    finite: bool


class MetaStep:
    """Computes meta-gradients and applies the outer update.

    Args:
        learner: What is trained.
        settings: Outer optimiser, rate, schedule, clipping, chunks, compilation.
    """

    def __init__(self, learner: Learner, settings: TrainingSettings) -> None:
        self.learner = learner
        self.settings = settings
        self.params = [p for p in learner.parameters() if p.requires_grad]
        self.optimizer = _optimizer(self.params, settings)
        self._gradient = CompiledGradient(learner, self.params) if settings.compile else self._eager
        # Two small operations beside each other are quicker than each of them on two threads.
        if settings.workers > 1:
            torch.set_num_threads(1)  # of the whole process, whatever thread sets it
        self._workers = (
            ThreadPoolExecutor(settings.workers, initializer=torch.set_num_threads, initargs=(1,))
            if settings.workers > 1
            else None
        )

    def __call__(self, inputs: MetaInputs, iteration: int) -> MetaResult:
        """Adds up the meta-gradients of the chunks in their order, then updates once."""
        self._set_rate(iteration)
        total = inputs.tasks.num_tasks
        size = self.settings.task_chunk_size or total
        if size >= total:
            chunks = [inputs]
        else:
            starts = range(0, total, size)
            chunks = [take_tasks(inputs, start, min(start + size, total)) for start in starts]
        run = map if self._workers is None else self._workers.map
        results: list[MetaLoss] = []
        for p in self.params:
            p.grad = None
        for grads, part in run(lambda chunk: self._gradient(chunk, total), chunks):
            self._accumulate(grads)
            results.append(part)
        result = results[0] if len(results) == 1 else concatenate_tasks(results)
        norm = _norm([p.grad for p in self.params if p.grad is not None])
        finite = math.isfinite((result.losses.sum() + norm).item())
        if finite:
            if self.settings.max_grad_norm is not None:
                nn.utils.clip_grads_with_norm_(self.params, self.settings.max_grad_norm, norm)
            self.optimizer.step()
        return MetaResult(result.losses, result.metrics, result.carry, norm, finite)

    def load_optimizer(self, state: dict[str, Any]) -> None:
        """Loads the state of the outer optimiser.

        Raises:
            ValueError: It is that of another kind of optimiser.
        """
        known = set(self.optimizer.state_dict()["param_groups"][0])
        if known != set(state["param_groups"][0]):
            raise ValueError(f"its optimiser is not {self.settings.optimizer}")
        self.optimizer.load_state_dict(state)

    def _eager(self, inputs: MetaInputs, total: int) -> tuple[Sequence[Tensor | None], MetaLoss]:
        """Returns the gradient of the sum of a chunk's losses over `total`, and the rest."""
        result: MetaLoss = self.learner(inputs)
        loss = result.losses.sum() / total
        grads = torch.autograd.grad(loss, self.params, allow_unused=True)
        return grads, result._replace(losses=result.losses.detach())

    def _accumulate(self, grads: Sequence[Tensor | None]) -> None:
        for p, grad in zip(self.params, grads, strict=True):
            if grad is None:
                continue
            if p.grad is not None:
                p.grad = p.grad + grad
            elif p.stride() == grad.stride():
                p.grad = grad
            else:  # laid out in memory as the parameter, which fused Adam relies on
                p.grad = torch.empty_like(p).copy_(grad)

    def _set_rate(self, iteration: int) -> None:
        rate = outer_rate(self.settings, iteration)
        for group in self.optimizer.param_groups:
            group["lr"] = rate


def outer_rate(settings: TrainingSettings, iteration: int) -> float:
    """Returns the outer rate at an iteration, counted from 0."""
    s = settings
    if s.schedule == "constant":
        return s.outer_lr
    done = iteration / s.iterations
    left = 1 - done if s.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return s.final_lr + (s.outer_lr - s.final_lr) * left


def _norm(grads: list[Tensor]) -> Tensor:
    """Returns the norm of all gradients together; quicker than torch's, which groups devices."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))


def _optimizer(params: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(params, settings.outer_lr, fused=True)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(params, settings.outer_lr, fused=True)
    raise SettingsError(f"Unknown outer optimizer {settings.optimizer!r}; known: adam, sgd.")
