"""One meta-iteration: the meta-gradient of a batch of tasks and the outer update."""

from __future__ import annotations

import math
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
        grad_norm: Norm of the meta-gradient before clipping, where it is clipped.
        finite: False if a loss or the gradient norm was not finite: then nothing was updated.
    """

    losses: Tensor
    metrics: dict[str, Tensor]
    carry: dict[str, Any]
    grad_norm: Tensor | None
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
        self._compiled = CompiledGradient(learner, self.params) if settings.compile else None

    def __call__(self, inputs: MetaInputs, iteration: int) -> MetaResult:
        """Accumulates the meta-gradient of the chunks in their order, then updates once."""
        self._set_rate(iteration)
        for p in self.params:
            p.grad = None
        total = inputs.tasks.num_tasks
        size = self.settings.task_chunk_size or total
        parts: list[MetaLoss] = []
        for start in range(0, total, size):
            whole = size >= total
            chunk = inputs if whole else take_tasks(inputs, start, min(start + size, total))
            parts.append(self._gradient(chunk, total))
        result = parts[0] if len(parts) == 1 else concatenate_tasks(parts)
        norm = self._clip()
        total_loss = result.losses.sum() if norm is None else result.losses.sum() + norm
        finite = bool(torch.isfinite(total_loss))
        if finite:
            self.optimizer.step()
        return MetaResult(result.losses, result.metrics, result.carry, norm, finite)

    def _gradient(self, inputs: MetaInputs, total: int) -> MetaLoss:
        """Adds the gradient of a chunk of the `total` tasks to that of the parameters."""
        if self._compiled is None:
            result: MetaLoss = self.learner(inputs)
            (result.losses.sum() / total).backward()
            return result._replace(losses=result.losses.detach())
        grads, result = self._compiled(inputs, total)
        for p, grad in zip(self.params, grads, strict=True):
            if p.grad is None:  # laid out in memory as the parameter, which Adam relies on
                p.grad = torch.empty_like(p).copy_(grad) if p.stride() != grad.stride() else grad
            else:
                p.grad += grad
        return result

    def _clip(self) -> Tensor | None:
        if self.settings.max_grad_norm is None:
            return None
        return nn.utils.clip_grad_norm_(self.params, self.settings.max_grad_norm)

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


def _optimizer(params: list[nn.Parameter], settings: TrainingSettings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(params, settings.outer_lr, fused=True)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(params, settings.outer_lr, fused=True)
    raise SettingsError(f"Unknown outer optimizer {settings.optimizer!r}; known: adam, sgd.")
