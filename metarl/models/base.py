"""What a model is: a network that runs on the parameters of many tasks at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError

Params = dict[str, Tensor]
"""Parameters by name. Adapted ones have the tasks leading: name -> Tensor[T, *shape]."""


@dataclass
class Statistics:
    """Running batch-norm statistics of T tasks, reset for every episode.

    Without one, batch normalisation uses the statistics of the batch it sees, which makes
    predictions on several queries depend on each other ("transductive"). With one, a learner
    gathers the statistics of its support passes and predicts each query with those.

    Attributes:
        momentum: Weight of the newest batch in the running averages, in (0, 1].
        recording: True: normalise by the batch and record it. False: normalise by the record.
        values: Layer name -> (mean, variance), each [T, channels], detached.
    """

    momentum: float = 0.9
    recording: bool = True
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def record(self, layer: str, mean: Tensor, variance: Tensor) -> None:
        """Mixes the statistics of a batch, each [T, channels], into those of `layer`."""
        mean, variance = mean.detach(), variance.detach()
        if layer in self.values:
            old_mean, old_variance = self.values[layer]
            mean = torch.lerp(old_mean, mean, self.momentum)
            variance = torch.lerp(old_variance, variance, self.momentum)
        self.values[layer] = (mean, variance)


class Adaptable(nn.Module, ABC):
    """Interface of a network whose parameters tasks adapt: models and policies.

    It runs on the parameters of T tasks at once. Its own parameters, theta, are those of one
    network, without a task dimension.
    """

    @abstractmethod
    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        """Draws fresh parameters, as training starts from.

        Args:
            generator: The only source of randomness.
            num_tasks: Draws parameters for so many tasks, [T, *shape] each, and other ones for
                every task; None draws one network's, without a task dimension.
        """


class Model(Adaptable):
    """Interface of a network from inputs to outputs."""

    @abstractmethod
    def forward(
        self, params: Params, inputs: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Runs the network of each task on the inputs of that task.

        Args:
            params: A parameter [T, *shape] for every name of `named_parameters()`.
            inputs: Shape [T, N, *input], float32.
            statistics: Running statistics for the batch normalisation, if the network has any.

        Returns:
            Outputs, shape [T, N, *output].
        """


def task_params(model: nn.Module, num_tasks: int) -> Params:
    """Returns theta for every task: views [T, *shape] whose task stride is 0, no copies."""
    return {n: p.expand(num_tasks, *p.shape) for n, p in model.named_parameters()}


def task_shape(num_tasks: int | None) -> tuple[int, ...]:
    """Returns the leading dimensions of tensors for so many tasks: none for None."""
    return () if num_tasks is None else (num_tasks,)


class Fitting:
    """Explains an error of torch in its block, if parameters and inputs do not fit each other.

    It looks at them only then: on the way in and out it costs nothing worth counting.

    Args:
        params: The parameters, [T, *shape] per name.
        inputs: The inputs, [T, N, *input].

    Raises:
        ShapeError: From the exit, where they are of different types or numbers of tasks.
    """

    __slots__ = ("inputs", "params")

    def __init__(self, params: Params, inputs: Tensor) -> None:
        self.params = params
        self.inputs = inputs

    def __enter__(self) -> None:
        """Does nothing."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Explains a RuntimeError."""
        if not isinstance(error, RuntimeError):
            return
        inputs = self.inputs
        for name, p in self.params.items():
            if p.shape[0] != inputs.shape[0]:
                raise ShapeError(
                    f"Expected parameters and inputs of as many tasks, got {p.shape[0]} tasks in "
                    f"{name} and {inputs.shape[0]} in inputs {tuple(inputs.shape)}; `task_params` "
                    "gives theta for any number of tasks."
                ) from error
            if p.dtype != inputs.dtype:
                raise ShapeError(
                    f"Expected inputs of the parameters' type {p.dtype}, got {inputs.dtype}; "
                    "convert one of them: `inputs.float()`, or `model.double()`."
                ) from error


class Weights(nn.Module):
    """Holds the weight and bias of one layer under torch's usual names.

    Args:
        weight: Initial weight.
        bias: Initial bias, or None for a layer without one.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
