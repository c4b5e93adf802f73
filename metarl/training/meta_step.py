"""One meta-iteration: the meta-gradient of a batch of tasks and the outer update."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from metarl.adaptation.learner import Learner, MetaInputs, MetaLoss
from metarl.errors import SettingsError
from metarl.models.base import Params
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
        self._gradient = self._compiled if settings.compile else self._eager
        if settings.compile:
            self._gradient_function = torch.compile(self._functional, fullgraph=True)

    def __call__(self, inputs: MetaInputs, iteration: int) -> MetaResult:
        """Accumulates the meta-gradient of the chunks in their order, then updates once."""
        self._set_rate(iteration)
        self.optimizer.zero_grad()
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

    def _eager(self, inputs: MetaInputs, total: int) -> MetaLoss:
        result: MetaLoss = self.learner(inputs)
        (result.losses.sum() / total).backward()
        return result._replace(losses=result.losses.detach())

    def _compiled(self, inputs: MetaInputs, total: int) -> MetaLoss:
        params = dict(self.learner.named_parameters())
        values = {n: p.detach() for n, p in params.items()}
        grads, result = self._gradient_function(values, inputs, total)
        for name, p in params.items():
            if p.requires_grad:
                p.grad = grads[name] if p.grad is None else p.grad + grads[name]
        return result

    def _functional(
        self, params: Params, inputs: MetaInputs, total: int
    ) -> tuple[Params, MetaLoss]:
        # The inner gradients are taken by torch.func too: nested autograd.grad cannot be compiled.
        def objective(values: Params) -> tuple[Tensor, MetaLoss]:
            result: MetaLoss = functional_call(self.learner, values, (inputs,))
            return result.losses.sum() / total, result._replace(losses=result.losses.detach())

        return torch.func.grad(objective, has_aux=True)(params)

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
