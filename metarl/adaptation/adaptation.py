"""How a network adapts: the immutable object that every gradient algorithm returns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import nn

from metarl.adaptation.objectives import Objective

# Algorithms of users import the first three from this module.
from metarl.adaptation.parameter_names import adapted_params as adapted_params
from metarl.adaptation.parameter_names import all_but as all_but
from metarl.adaptation.parameter_names import last_layer as last_layer
from metarl.adaptation.parameter_names import matching_names, names_of
from metarl.adaptation.update_rules import GradientDescent, UpdateRule
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Params, task_params
from metarl.models.modules import as_adaptable
from metarl.ranges import COUNT, NOT_NEGATIVE, Range, check_ints, check_number
from metarl.tasks.losses import TaskLoss
from metarl.tasks.metrics import MetricFunction

LEARNER_METHODS = frozenset({
    "adapt", "clone", "collect", "eval", "evaluate", "forward", "load_state_dict",
    "named_parameters", "parameters", "predict", "state_dict", "to", "train", "zero_grad",
})  # fmt: skip
"""Methods that learners have, here and in other libraries."""


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A network, the rule that adapts it, and the objective of the outer loop.

    `GradientLearner` trains it on supervised tasks, `PolicyLearner` on control tasks.

    Attributes:
        network: The network; its parameters are the initialisation theta. An ordinary `nn.Module`
            becomes a model by `metarl.models.from_module`.
        rule: The update rule of the inner loop.
        objective: What the outer loop minimises.
        steps: Adaptation steps in training, at least 0 (0: the objective trains theta directly).
        first_order: Drops the second derivatives of the inner loop.
        batch_size: Support examples per step, drawn without replacement and reshuffled each pass;
            None takes the whole support set each step.
        frozen: Name patterns of parameters that the inner loop does not change (`blocks.*.norm.*`),
            or modules of the network; the outer loop trains them. Each pattern must match. Neither
            loop changes parameters with `requires_grad_(False)`.
        unroll: Truncates the unroll: each meta-iteration runs this many of the `steps`, and the
            next one continues from its parameters and state. None: all steps.
        fresh_start: Adapts from random initial parameters, drawn for each task, instead of theta;
            theta is then not trained.
        statistics_momentum: Keeps running batch-norm statistics of each episode with this weight
            of the newest batch, in (0, 1], for predictions on single queries; None keeps none.
        max_inner_grad_norm: Clips the gradient of each task in each inner step to this norm, over
            all parameters that adapt; above 0. None does not clip.
        loss: The loss of supervised tasks, see `LossFunction`; None for the default.
        outer_loss: The loss of the queries; None for `loss`.
        metric: The metric: a name of `METRICS`, "loss" for the outer loss, or a function; None for
            the default.
        algorithm: The options of the algorithm that made it, which a run stores; None if you
            construct an `Adaptation` yourself.

    Raises:
        SettingsError: A number is out of its range, or a pattern matches no parameter.
    """

    network: Adaptable
    rule: UpdateRule
    objective: Objective
    steps: int = 1
    first_order: bool = False
    batch_size: int | None = None
    frozen: Sequence[str | nn.Module] = ()
    unroll: int | None = None
    fresh_start: bool = False
    statistics_momentum: float | None = None
    max_inner_grad_norm: float | None = None
    loss: TaskLoss | None = None
    outer_loss: TaskLoss | None = None
    metric: str | MetricFunction | None = None
    algorithm: object = None

    def __post_init__(self) -> None:
        """Checks the arguments, and makes an ordinary module a model."""
        object.__setattr__(self, "network", as_adaptable(self.network))
        _check_part("rule", self.rule, UpdateRule, "GradientDescent(0.01)")
        _check_part("objective", self.objective, Objective, "QueryLoss()")
        if next(self.network.parameters(), None) is None:
            name = type(getattr(self.network, "net", self.network)).__name__
            raise SettingsError(
                f"Expected a network with parameters to adapt, {name} has "
                "none. `NearestNeighbours` and other metric learners take such."
            )
        object.__setattr__(self, "frozen", names_of(self.network, self.frozen))
        momentum, unroll = self.statistics_momentum, self.unroll
        check_ints(self, NOT_NEGATIVE, "steps")
        if self.batch_size is not None:
            check_ints(self, COUNT, "batch_size")
        if momentum is not None:
            check_number("statistics_momentum", momentum, Range(0, 1, includes_low=False))
        if unroll is not None and not (0 < unroll <= self.steps and self.steps % unroll == 0):
            raise SettingsError(
                f"Expected `unroll` to divide the {self.steps} steps, got {unroll}."
            )
        check_max_norm(self.max_inner_grad_norm)
        self._check_complex()
        if (unroll or self.fresh_start) and self._differentiates_gradient:
            raise SettingsError(
                "Truncated unrolls and fresh starts suit rules that take gradients as constants, "
                f"not {type(self.rule).__name__}; set `first_order` or leave them out."
            )

    def _check_complex(self) -> None:
        """Raises SettingsError if complex parameters adapt by a rule for real numbers."""
        if isinstance(self.rule, GradientDescent):
            return
        frozen = self.frozen_names
        for name, p in self.network.named_parameters():
            if p.is_complex() and name not in frozen:
                raise SettingsError(
                    f"{type(self.rule).__name__} adapts real parameters, and {name} is complex. "
                    "Keep both parts in a parameter [..., 2] and use torch.view_as_complex of it, "
                    "freeze it, or use gradient descent (MAML)."
                )

    def __getattr__(self, name: str) -> NoReturn:
        """Explains where the methods of a learner are.

        Raises:
            AttributeError: Always.
        """
        hint = ""
        if name in LEARNER_METHODS:
            hint = (
                " An Adaptation is a plain value; `GradientLearner(adaptation)` or "
                "`PolicyLearner(adaptation, family)` adapts, predicts and evaluates."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}.{hint}")

    @property
    def second_order(self) -> bool:
        """Whether the meta-gradient contains second derivatives of the inner loss."""
        return self._differentiates_gradient and self.steps > 0

    @property
    def frozen_names(self) -> frozenset[str]:
        """Names of the parameters that the inner loop does not change."""
        return matching_names(self.network, self._patterns) | self._constants

    @property
    def outer_names(self) -> frozenset[str]:
        """Names of the parameters that the inner loop leaves and the outer loop trains."""
        return matching_names(self.network, self._patterns) - self._constants

    @property
    def _differentiates_gradient(self) -> bool:
        """Whether steps are differentiated through the gradients that the rule gets."""
        return self.rule.differentiates_gradient and not self.first_order

    @property
    def _patterns(self) -> list[str]:
        """The patterns of `frozen`; `__post_init__` has replaced modules by names."""
        return [pattern for pattern in self.frozen if isinstance(pattern, str)]

    @property
    def _constants(self) -> frozenset[str]:
        """Names of the parameters with `requires_grad_(False)`.

        Learners with a fresh start set it for all parameters; then none counts.
        """
        params = dict(self.network.named_parameters())
        names = frozenset(n for n, p in params.items() if not p.requires_grad)
        return frozenset() if self.fresh_start and len(names) == len(params) else names


class Frozen:
    """The parameters that the inner loop of a learner does not change.

    Args:
        adaptation: The learner's adaptation.

    Attributes:
        names: Their names: those that match `Adaptation.frozen`, and those with
            `requires_grad_(False)`.
        outer: The names of those that the outer loop trains.
    """

    def __init__(self, adaptation: Adaptation) -> None:
        self._adaptation = adaptation
        self._params = tuple(adaptation.network.parameters())
        self._flags: list[bool] = []
        self.names = self.outer = frozenset[str]()
        self._update()

    @property
    def dtype(self) -> torch.dtype | None:
        """The type of the first parameter of real numbers; None if there is none."""
        return next((p.dtype for p in self._params if p.is_floating_point()), None)

    def refresh(self) -> None:
        """Looks for calls of `requires_grad_` since the last time.

        A fresh start sets `requires_grad` itself: then those of the construction count.
        """
        if not self._adaptation.fresh_start and self._current_flags() != self._flags:
            self._update()

    def fresh_start(self, generator: torch.Generator, num_tasks: int) -> Params | None:
        """Draws initial parameters of each task, if the adaptation does not start from theta.

        Parameters with `requires_grad_(False)` keep their values.
        """
        if not self._adaptation.fresh_start:
            return None
        network = self._adaptation.network
        start, constants = network.initial(generator, num_tasks), self.names - self.outer
        theta = task_params(network, num_tasks)
        return {n: theta[n] if n in constants else p.to(theta[n].dtype) for n, p in start.items()}

    def _update(self) -> None:
        adaptation = self._adaptation
        self._flags = self._current_flags()
        self.names, self.outer = adaptation.frozen_names, adaptation.outer_names

    def _current_flags(self) -> list[bool]:
        return [p.requires_grad for p in self._params]


def check_adaptation(adaptation: object) -> None:
    """Raises SettingsError unless a learner is given an adaptation."""
    if not isinstance(adaptation, Adaptation):
        kind = type(adaptation).__name__
        raise SettingsError(
            f"Expected an adaptation, which an algorithm makes of a network, such as MAML(net); "
            f"got {'a class' if isinstance(adaptation, type) else kind}."
        )


def _check_part(name: str, part: object, kind: type, example: str) -> None:
    if not isinstance(part, kind):
        given = f"the class {part.__name__}" if isinstance(part, type) else type(part).__name__
        raise SettingsError(
            f"Expected `{name}` to be an instance of {kind.__name__}, such as {example}, got "
            f"{given}."
        )


def check_max_norm(max_norm: float | None) -> None:
    """Raises SettingsError unless the norm is None, or finite and above 0."""
    if max_norm is not None and not 0 < max_norm < math.inf:
        raise SettingsError(
            f"Expected a finite `max_inner_grad_norm` above 0, or None, got {max_norm}."
        )
