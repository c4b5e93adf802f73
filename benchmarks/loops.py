"""Meta-learning as per-task Python loops, as a user would write it with learn2learn or higher.

Each follows the loop in the library's documentation for an `nn.Module`: for each task, clone the
module, adapt the clone with `autograd.grad` and backpropagate its query loss.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import math
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metarl.adaptation.algorithms.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.models import MLP


class Task(NamedTuple):
    """One task: inputs and targets of the support and of the query set, [N, *] each."""

    support_inputs: Tensor
    support_targets: Tensor
    query_inputs: Tensor
    query_targets: Tensor


Loss = Callable[[Tensor, Tensor], Tensor]
MetaGradient = Callable[[Iterable[Task], int], None]
"""Adds the mean meta-gradient of tasks, given with their number, to the `grad` of parameters."""


def loss_of(outputs: Tensor, targets: Tensor) -> Tensor:
    """Computes the mean squared error, or the cross-entropy for integer targets."""
    if targets.is_floating_point():
        return F.mse_loss(outputs, targets)
    return F.cross_entropy(outputs, targets)


def sine_task(shots: int, queries: int) -> Task:
    """Samples one sine task, y = A sin(x - phi), as a user would."""
    amplitude = 0.1 + 4.9 * torch.rand(1)
    phase = math.pi * torch.rand(1)
    x = 10 * torch.rand(shots + queries, 1) - 5
    y = amplitude * torch.sin(x - phase)
    return Task(x[:shots], y[:shots], x[shots:], y[shots:])


def sequential(model: MLP) -> nn.Sequential:
    """Returns an `nn.Sequential` with the sizes and weights of an `MLP`."""
    weights = list(model.parameters())
    layers: list[nn.Module] = []
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=weight.dtype)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def clone(module: nn.Module) -> Any:
    """Returns a copy of a module whose cloned parameters pass gradients to the original ones."""
    twin: Any = module.__new__(type(module))
    twin.__dict__ = module.__dict__.copy()
    twin._parameters = {n: None if p is None else p.clone() for n, p in module._parameters.items()}
    twin._modules = {n: None if m is None else clone(m) for n, m in module._modules.items()}
    return twin


def adapt(module: nn.Module, loss: Tensor, lr: float, second_order: bool) -> None:
    """Takes one gradient step on the parameters of a clone."""
    grads = iter(
        torch.autograd.grad(
            loss, list(module.parameters()), create_graph=second_order, retain_graph=second_order
        )
    )
    for part in list(module.modules()):
        for name, p in part._parameters.items():
            if p is not None:
                # phi = theta - alpha * grad L(theta)
                part._parameters[name] = p - lr * next(grads)  # pyright: ignore[reportArgumentType]


def maml(net: nn.Module, lr: float, steps: int, second_order: bool = True) -> MetaGradient:
    """Returns MAML's meta-gradient as in learn2learn: clone, adapt, query loss, backward."""

    def gradient(tasks: Iterable[Task], total: int) -> None:
        for task in tasks:
            learner = clone(net)
            for _ in range(steps):
                loss = loss_of(learner(task.support_inputs), task.support_targets)
                adapt(learner, loss, lr, second_order)
            loss = loss_of(learner(task.query_inputs), task.query_targets)
            (loss / total).backward()

    return gradient


def maml_with_learn2learn(net: nn.Module, lr: float, steps: int) -> MetaGradient | None:
    """Returns second-order MAML with learn2learn itself; None if it is not installed.

    Loads only its plain Python code and skips its `__init__`, which requires compiled data sets and
    gym. Version 0.2.0 does not build on Python 3.11: unpack the source archive and add it to
    PYTHONPATH.
    """
    found = importlib.util.find_spec("learn2learn")
    if found is None or found.origin is None:
        return None
    root = Path(found.origin).parent
    for name, folder in (("learn2learn", root), ("learn2learn.algorithms", root / "algorithms")):
        package = types.ModuleType(name)
        package.__path__ = [str(folder)]
        package.__spec__ = importlib.util.spec_from_file_location(name, root / "__init__.py")
        sys.modules.setdefault(name, package)
    maml_of = importlib.import_module("learn2learn.algorithms.maml").MAML(net, lr=lr)

    def gradient(tasks: Iterable[Task], total: int) -> None:
        for task in tasks:
            learner = maml_of.clone()
            for _ in range(steps):
                learner.adapt(loss_of(learner(task.support_inputs), task.support_targets))
            loss = loss_of(learner(task.query_inputs), task.query_targets)
            (loss / total).backward()

    return gradient


def maml_with_higher(net: nn.Module, lr: float, steps: int) -> MetaGradient | None:
    """Returns MAML with higher's `innerloop_ctx`; None if higher is not installed."""
    try:
        higher = importlib.import_module("higher")
    except ImportError:
        return None
    inner = torch.optim.SGD(net.parameters(), lr)

    def gradient(tasks: Iterable[Task], total: int) -> None:
        for task in tasks:
            with higher.innerloop_ctx(net, inner, copy_initial_weights=False) as (
                learner,
                optimizer,
            ):
                for _ in range(steps):
                    loss = loss_of(learner(task.support_inputs), task.support_targets)
                    optimizer.step(loss)
                loss = loss_of(learner(task.query_inputs), task.query_targets)
                (loss / total).backward()

    return gradient


def reptile(net: nn.Module, inner: torch.optim.Optimizer, steps: int) -> MetaGradient:
    """Returns Reptile's meta-gradient: for each task, trains the module and restores its weights.

    The inner optimizer keeps its state from task to task, as in the paper's code.
    """

    def gradient(tasks: Iterable[Task], total: int) -> None:
        start = copy.deepcopy(net.state_dict())
        sums = [torch.zeros_like(p) for p in net.parameters()]
        for task in tasks:
            for _ in range(steps):
                inner.zero_grad()
                loss_of(net(task.support_inputs), task.support_targets).backward()
                inner.step()
            for row, theta, p in zip(sums, start.values(), net.parameters(), strict=True):
                row += (theta - p.detach()) / total  # mean of theta - phi  (Nichol et al. 2018)
            net.load_state_dict(start)
        for row, p in zip(sums, net.parameters(), strict=True):
            p.grad = row

    return gradient


def lstm_meta_learner(net: nn.Module, rule: LSTMMetaLearnerRule, steps: int) -> MetaGradient:
    """Returns the LSTM meta-learner's meta-gradient, task by task, with batches of one task."""

    def gradient(tasks: Iterable[Task], total: int) -> None:
        for task in tasks:
            params = {n: p.unsqueeze(0) for n, p in net.named_parameters()}
            state = rule.init(params)
            for _ in range(steps):
                constant = {n: p[0].detach().requires_grad_() for n, p in params.items()}
                outputs = torch.func.functional_call(net, constant, (task.support_inputs,))
                loss = loss_of(outputs, task.support_targets)
                grads = torch.autograd.grad(loss, list(constant.values()))
                rows = {n: g.unsqueeze(0) for n, g in zip(params, grads, strict=True)}
                params, state = rule.update(rows, state, params, loss.detach().view(1))
            outputs = torch.func.functional_call(
                net, {n: p[0] for n, p in params.items()}, (task.query_inputs,)
            )
            (loss_of(outputs, task.query_targets) / total).backward()

    return gradient


class LoopIteration:
    """A meta-iteration: samples tasks one by one, adapts to them and updates the parameters.

    Args:
        gradient: Computes the meta-gradient.
        optimizer: The outer optimizer.
        draw: Samples a task.
        total: Tasks per meta-iteration.
    """

    def __init__(
        self,
        gradient: MetaGradient,
        optimizer: torch.optim.Optimizer,
        draw: Callable[[], Task],
        total: int,
    ) -> None:
        self.gradient = gradient
        self.optimizer = optimizer
        self.draw = draw
        self.total = total

    def __call__(self) -> None:
        """Runs the meta-iteration."""
        self.optimizer.zero_grad()
        self.gradient((self.draw() for _ in range(self.total)), self.total)
        self.optimizer.step()
