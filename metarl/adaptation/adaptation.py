"""How a network adapts: the plain value that every gradient-based algorithm makes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from metarl.adaptation.objectives import Objective
from metarl.adaptation.update_rules import UpdateRule
from metarl.errors import SettingsError
from metarl.models.base import Adaptable, Params
from metarl.registry import did_you_mean


@dataclass(frozen=True, eq=False)
class Adaptation:
    """A network, the rule that adapts it, and the objective of the outer loop.

    `GradientLearner` trains it on supervised tasks, `PolicyLearner` on control tasks.

    Attributes:
        network: The network; its parameters are the initialisation theta.
        rule: The update rule of the inner loop.
        objective: What the outer loop minimises.
        steps: Adaptation steps in training, at least 0 (0: the objective trains theta directly).
        first_order: Drops the second derivatives of the inner loop.
        batch_size: Support examples per step, drawn without replacement and reshuffled each pass;
            None takes the whole support set each step.
        frozen: Patterns of names of parameters that the inner loop leaves as they are
            (`blocks.*.norm.*`), each of which must match; the outer loop trains them.
        unroll: Truncates the unroll: each meta-iteration runs this many of the `steps` and
            carries parameters and state to the next; None unrolls all.
        fresh_start: Adapts from random initial parameters, drawn for each task, instead of theta;
            theta is then not trained.
        statistics_momentum: Keeps running batch-norm statistics of each episode with this weight
            of the newest batch, in (0, 1], for predictions on single queries; None keeps none.
        max_inner_grad_norm: Clips the gradient of each task in each inner step to this norm, over
            all parameters that adapt; above 0. None does not clip.

    Raises:
        SettingsError: A number is out of its range, or a pattern matches no parameter.
    """

    network: Adaptable
    rule: UpdateRule
    objective: Objective
    steps: int = 1
    first_order: bool = False
    batch_size: int | None = None
    frozen: Sequence[str] = ()
    unroll: int | None = None
    fresh_start: bool = False
    statistics_momentum: float | None = None
    max_inner_grad_norm: float | None = None

    def __post_init__(self) -> None:
        """Checks the arguments."""
        if self.steps < 0:
            raise SettingsError(f"Expected at least 0 adaptation steps, got {self.steps}.")
        if self.batch_size is not None and self.batch_size < 1:
            raise SettingsError(f"Expected at least 1 example per step, got {self.batch_size}.")
        momentum, unroll = self.statistics_momentum, self.unroll
        if momentum is not None and not 0 < momentum <= 1:
            raise SettingsError(f"Expected `statistics_momentum` in (0, 1], got {momentum}.")
        if unroll is not None and not (0 < unroll <= self.steps and self.steps % unroll == 0):
            raise SettingsError(
                f"Expected `unroll` to divide the {self.steps} steps, got {unroll}."
            )
        check_max_norm(self.max_inner_grad_norm)
        second_order = self.rule.differentiates_gradient and not self.first_order
        if (unroll or self.fresh_start) and second_order:
            raise SettingsError(
                "Truncated unrolls and fresh starts suit rules that take gradients as constants, "
                f"not {type(self.rule).__name__}; set `first_order` or leave them out."
            )
        matching_names(self.network, self.frozen)

    @property
    def frozen_names(self) -> frozenset[str]:
        """Names of the parameters that the inner loop leaves as they are."""
        return matching_names(self.network, self.frozen)


def check_max_norm(max_norm: float | None) -> None:
    """Raises SettingsError unless the norm is None, or finite and above 0."""
    if max_norm is not None and not 0 < max_norm < math.inf:
        raise SettingsError(
            f"Expected a finite `max_inner_grad_norm` above 0, or None, got {max_norm}."
        )


def matching_names(network: Adaptable, patterns: Sequence[str]) -> frozenset[str]:
    """Returns the names of the parameters that match at least one pattern.

    Args:
        network: The network.
        patterns: Patterns of `fnmatch`: `blocks.*.norm.*`.

    Raises:
        SettingsError: A pattern matches no parameter.
    """
    names = [name for name, _ in network.named_parameters()]
    matches: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, pattern)}
        if not found:
            raise SettingsError(
                f"The pattern {pattern!r} matches no parameter."
                f"{did_you_mean(pattern, names)} Known: {', '.join(names)}."
            )
        matches |= found
    return frozenset(matches)


def adapted_params(network: Adaptable, frozen: Sequence[str] = ()) -> Params:
    """Returns the parameters that adapt, detached, without a task dimension.

    Args:
        network: The network.
        frozen: Patterns of the names of those that do not adapt.
    """
    names = matching_names(network, frozen)
    return {n: p.detach() for n, p in network.named_parameters() if n not in names}


def all_but(network: Adaptable, patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of the parameters that match none of the patterns.

    As `frozen`, they leave the inner loop those that match: `frozen=all_but(net, ["head.*"])`.

    Raises:
        SettingsError: A pattern matches no parameter.
    """
    names = matching_names(network, patterns)
    return tuple(name for name, _ in network.named_parameters() if name not in names)
