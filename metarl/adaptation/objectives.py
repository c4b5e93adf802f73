"""Outer objectives: what turns an adaptation into a loss for the outer loop."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.models.base import Params, task_rows
from metarl.ranges import NOT_NEGATIVE, check_fields


class Objective(ABC):
    """Interface: a weighted sum of query losses along the adaptation, and a distance.

    Attributes:
        trains_frozen: Whether it has a gradient for parameters that do not adapt. If not, these are
            trained by the query loss after the last step.
    """

    trains_frozen: ClassVar[bool] = True

    @abstractmethod
    def weights(self, iteration: int, steps: int) -> list[float]:
        """Returns the weight of the query loss after each of 0..steps steps."""

    def distance(self, start: Params, adapted: Params) -> Tensor | None:
        """Returns a loss [T] between initial and adapted parameters, or None."""
        del start, adapted
        return None


@dataclass(frozen=True)
class QueryLoss(Objective):
    """MAML's: the query loss after the last step (Finn et al. 2017, equation 1)."""

    def weights(self, iteration: int, steps: int) -> list[float]:
        del iteration
        return [0.0] * steps + [1.0]


@dataclass(frozen=True)
class MultiStepLoss(Objective):
    """MAML++'s: query losses after every step, moved linearly to the last one.

    Antoniou et al. 2019, section 4 ("multi-step loss"), with the annealing of the authors' code:
    equal weights at first; all but the last fall to `floor`/steps, then to nothing.

    Attributes:
        iterations: Meta-iterations until only the last step counts.
        floor: Lowest weight of the earlier steps while annealing, divided by the steps.
    """

    iterations: int
    floor: float = 0.03

    def __post_init__(self) -> None:
        """Checks the settings."""
        check_fields(self, floor=NOT_NEGATIVE)
        if self.iterations < 1:
            raise SettingsError(f"Expected at least 1 iteration, got {self.iterations}.")

    def weights(self, iteration: int, steps: int) -> list[float]:
        if iteration >= self.iterations or steps == 0:
            return [0.0] * steps + [1.0]
        # w_k = max((1 - i / I) / K, floor / K) for k < K;  w_K = 1 - sum of the others
        early = max((1 - iteration / self.iterations) / steps, self.floor / steps)
        return [0.0] + [early] * (steps - 1) + [1 - (steps - 1) * early]


@dataclass(frozen=True)
class EveryStepLoss(Objective):
    """The mean of the query losses after each step (Andrychowicz et al. 2016, equation 3)."""

    def weights(self, iteration: int, steps: int) -> list[float]:
        del iteration
        if steps == 0:
            return [1.0]
        return [0.0] + [1 / steps] * steps  # L(phi) = E[sum_t w_t f(theta_t)], w_t = 1 / K


@dataclass(frozen=True)
class ReptileDistance(Objective):
    """0.5 ||theta - stop_gradient(phi)||^2, whose gradient is theta - phi (Nichol et al. 2018).

    It is 0 for parameters that do not adapt.
    """

    trains_frozen: ClassVar[bool] = False

    def weights(self, iteration: int, steps: int) -> list[float]:
        """Returns zeros: no query loss counts."""
        del iteration
        return [0.0] * (steps + 1)

    def distance(self, start: Params, adapted: Params) -> Tensor:
        parts = [
            0.5 * task_rows((theta - adapted[n].detach()).abs().square()).sum(1)
            for n, theta in start.items()
        ]
        return sum(parts[1:], start=parts[0])


def weights_of(objective: Objective, iteration: int, steps: int) -> list[float]:
    """Returns the weights of an objective, checked.

    Raises:
        SettingsError: They are not one finite number for each of 0..steps steps.
    """
    weights = [float(weight) for weight in objective.weights(iteration, steps)]
    if len(weights) != steps + 1 or not all(map(math.isfinite, weights)):
        raise SettingsError(
            f"Expected {type(objective).__name__}.weights to return the weight of the query loss "
            f"after each of 0..{steps} steps, {steps + 1} finite numbers; it returned {weights}."
        )
    return weights


def distance_of(objective: Objective, start: Params, adapted: Params) -> Tensor | None:
    """Returns the distance of an objective, checked.

    Raises:
        ShapeError: It is not a number for each task.
    """
    distance = objective.distance(start, adapted)
    if distance is None:
        return None
    tasks = len(next(iter(start.values())))
    if distance.shape != (tasks,):
        raise ShapeError(
            f"Expected {type(objective).__name__}.distance to return a loss per task, [{tasks}], "
            f"got {list(distance.shape)}. Dimension 0 of all parameters is the task: sum over the "
            "other dimensions, such as by p.reshape(len(p), -1).sum(1)."
        )
    return distance


def no_loss(objective: Objective) -> SettingsError:
    """Returns the error of an objective without a loss."""
    return SettingsError(
        f"Expected a loss from {type(objective).__name__}: all its weights are 0, and its "
        "`distance` is None."
    )
