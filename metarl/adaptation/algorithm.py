"""What an algorithm is: its options, defined once, and the learner that they build.

An algorithm is a frozen dataclass. Its fields are the options of the command line and what
`config.json` stores; `as_function` derives the user's call from it: `MAML(net, inner_lr=0.1)`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import nn

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.learner import Learner
from metarl.adaptation.parameter_names import names_of
from metarl.devices import check_generator
from metarl.models.base import Adaptable
from metarl.models.modules import as_adaptable
from metarl.ranges import COUNT, NOT_NEGATIVE, POSITIVE, WIDTH, Range, check_fields
from metarl.registry import check_choice
from metarl.tasks.losses import TaskLoss
from metarl.tasks.metrics import MetricFunction

P = ParamSpec("P")
L = TypeVar("L", bound=Learner)
L_co = TypeVar("L_co", bound=Learner, covariant=True)


class Problem(Protocol[L_co]):
    """What a gradient algorithm needs to know about the tasks that it is built for."""

    @property
    def generator(self) -> torch.Generator:
        """Source of all initial weights."""
        ...

    def network(self) -> Adaptable:
        """Builds the network that adapts."""
        ...

    def learner(self, adaptation: Adaptation) -> L_co:
        """Builds the learner that trains an adaptation on these tasks."""
        ...


FROM_PYTHON = {"from_python": True}
"""Metadata of fields that hold functions: the command line does not show them."""


@dataclass(frozen=True)
class GradientAlgorithm(ABC):
    """Interface of algorithms that adapt by an update rule, for supervised and control tasks.

    Attributes:
        meta_trains: Whether there is anything to meta-train.
        unused: Settings of an experiment that have no effect, which its command line refuses.
        ranges: The ranges of options by name, checked on construction. A number without a range may
            have any finite value.

    Raises:
        SettingsError: An option has another type or is out of its range.
    """

    meta_trains: ClassVar[bool] = True
    unused: ClassVar[tuple[str, ...]] = ()
    ranges: ClassVar[Mapping[str, Range]] = {
        "inner_lr": POSITIVE, "steps": NOT_NEGATIVE, "batch_size": COUNT, "units": WIDTH,
        "max_inner_grad_norm": POSITIVE,
    }  # fmt: skip

    frozen: tuple[str, ...] = field(default=(), kw_only=True)
    """Name patterns of parameters that the inner loop does not change."""
    max_inner_grad_norm: float | None = field(default=None, kw_only=True)
    """Clips each task's gradient in each inner step to this norm, above 0. None: no clipping."""
    loss: TaskLoss | None = field(default=None, kw_only=True, metadata=FROM_PYTHON)
    """Loss of supervised tasks, a function of outputs and targets; see `LossFunction`. None:
    cross-entropy for labels, squared error for the rest."""
    outer_loss: TaskLoss | None = field(default=None, kw_only=True, metadata=FROM_PYTHON)
    """Loss of the queries. None: that of the support set."""
    metric: str | MetricFunction | None = field(default=None, kw_only=True, metadata=FROM_PYTHON)
    """Metric of curves and tables: a name of `METRICS`, "loss" for the outer loss, or a function.
    None: accuracy for labels, squared error for the rest."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, **self.ranges)

    @abstractmethod
    def adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        """Makes the adaptation of a network.

        Args:
            network: The network; its parameters are the initialisation.
            generator: Source of the initial values of what the rule itself learns.
        """

    def clipped_adaptation(self, network: Adaptable, generator: torch.Generator) -> Adaptation:
        """Makes the adaptation of a network, with the options of all algorithms.

        These are the clipping, the losses and the metric; see `adaptation`.
        """
        adaptation = self.adaptation(network, generator)
        names = ("max_inner_grad_norm", "loss", "outer_loss", "metric")
        given = {n: getattr(self, n) for n in names if getattr(self, n) is not None}
        return replace(adaptation, **given, algorithm=self)

    def build(self, problem: Problem[L], /) -> L:
        """Builds the problem's network, its adaptation and the learner.

        Args:
            problem: The network or policy, the kind of tasks and the source of initial weights.

        Raises:
            SettingsError: The algorithm does not suit the problem.
        """
        return problem.learner(self.clipped_adaptation(problem.network(), problem.generator))


def as_function(
    algorithm: Callable[P, GradientAlgorithm],
) -> Callable[Concatenate[nn.Module, P], Adaptation]:
    """Returns the user's function: it takes a network and options and makes the adaptation.

    Args:
        algorithm: An algorithm whose rule has no initial values to draw.
    """

    def function(network: nn.Module, *args: P.args, **kwargs: P.kwargs) -> Adaptation:
        _check_options(function, kwargs)
        kwargs.update(_named(network, kwargs))
        options = algorithm(*args, **kwargs)
        return options.clipped_adaptation(as_adaptable(network), torch.Generator())

    _document(function, algorithm, ["network"])
    return function


def as_seeded_function(
    algorithm: Callable[P, GradientAlgorithm],
) -> Callable[Concatenate[nn.Module, torch.Generator, P], Adaptation]:
    """Returns the user's function: it takes a network, a generator and options.

    Args:
        algorithm: An algorithm whose rule draws its initial values from the generator.
    """

    def function(
        network: nn.Module, generator: torch.Generator, *args: P.args, **kwargs: P.kwargs
    ) -> Adaptation:
        check_generator(generator)
        _check_options(function, kwargs)
        kwargs.update(_named(network, kwargs))
        options = algorithm(*args, **kwargs)
        return options.clipped_adaptation(as_adaptable(network), generator)

    _document(function, algorithm, ["network", "generator"])
    return function


def _check_options(function: Any, given: Mapping[str, Any]) -> None:
    """Raises SettingsError if an algorithm has no option of a name that was given."""
    known = inspect.signature(function).parameters
    for name in given:
        check_choice(f"option of {function.__name__}", name, known)


def _named(network: nn.Module, options: dict[str, Any]) -> dict[str, Any]:
    """Returns the options `frozen` and `adapts` with modules as names of parameters."""
    parts = {
        n: v for n, v in options.items()
        if n in ("frozen", "adapts") and isinstance(v, tuple | list)
    }  # fmt: skip
    return {n: names_of(network, tuple(v)) for n, v in parts.items()}


def _document(function: Any, algorithm: Any, first: list[str]) -> None:
    """Gives a function the name, documentation and signature of an algorithm's options."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    options = inspect.signature(algorithm).parameters.values()
    parameters = [*(inspect.Parameter(name, kind) for name in first), *options]
    function.__name__ = function.__qualname__ = algorithm.__name__.removesuffix("Algorithm")
    function.__module__ = algorithm.__module__
    function.__signature__ = inspect.Signature(parameters, return_annotation="Adaptation")
    function.__doc__ = f"""{algorithm.__doc__.rstrip()}

    Args:
        {", ".join(first)}: See `GradientAlgorithm.adaptation`.
        *args, **kwargs: The options of `{algorithm.__name__}`, where each is documented.
    """
