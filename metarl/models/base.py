"""Interface of task-batched networks, and helpers to implement them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import TracebackType

import torch
from torch import Tensor, nn

from metarl.errors import ShapeError

Params = dict[str, Tensor]
"""Parameter name -> tensor. Adapted parameters have a leading task dimension, [T, *shape]."""


@dataclass
class Statistics:
    """Running batch-norm statistics of T tasks, reset for every episode.

    Without running statistics, batch normalisation uses the statistics of the current batch, so
    that the predictions of different queries depend on each other (transductive setting). With
    them, a learner records the statistics of the support set and predicts each query with these.

    Attributes:
        momentum: Weight of the newest batch in the running averages, in (0, 1].
        recording: True: normalise by the statistics of the batch, and record them. False:
            normalise by the recorded statistics.
        values: Layer name -> (mean, variance), each [T, channels], detached.
    """

    momentum: float = 0.9
    recording: bool = True
    values: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def record(self, layer: str, mean: Tensor, variance: Tensor) -> None:
        """Updates the running statistics of `layer` with those of a batch, each [T, channels]."""
        mean, variance = mean.detach(), variance.detach()
        if layer in self.values:
            old_mean, old_variance = self.values[layer]
            # mean <- (1 - momentum) * old_mean + momentum * mean, and the same for the variance
            mean = torch.lerp(old_mean, mean, self.momentum)
            variance = torch.lerp(old_variance, variance, self.momentum)
        self.values[layer] = (mean, variance)


class Adaptable(nn.Module, ABC):
    """Interface of a network with parameters that are adapted to tasks: models and policies.

    It runs with the parameters of T tasks at once. Its own parameters, theta, are those of one
    network, without a task dimension.
    """

    @abstractmethod
    def initial(self, generator: torch.Generator, num_tasks: int | None = None) -> Params:
        """Samples initial parameters.

        Args:
            generator: The only source of randomness.
            num_tasks: Number of tasks T; each gets independent parameters. None samples the
                parameters of one network, without a task dimension.

        Returns:
            A parameter [T, *shape], or [*shape] without `num_tasks`, for every name of
            `named_parameters()`.
        """


class Model(Adaptable):
    """Interface of a network that maps inputs to outputs.

    Attributes:
        normalises_batches: Whether the output for an example depends on the other examples, through
            batch normalisation. If not, non-transductive predictions take one pass instead of one
            per query.
    """

    normalises_batches: bool = True

    @abstractmethod
    def forward(
        self, params: Params, inputs: Tensor, statistics: Statistics | None = None
    ) -> Tensor:
        """Runs the network of each task on the inputs of that task.

        Args:
            params: A parameter [T, *shape] for every name of `named_parameters()`.
            inputs: Shape [T, N, *input], float32.
            statistics: Running statistics of the batch normalisation; None normalises by the
                statistics of `inputs`. Networks without batch normalisation ignore it.

        Returns:
            Outputs, shape [T, N, *output].
        """

    def prepare(self, inputs: Tensor, mask: Tensor | None = None) -> None:
        """Prepares for inputs [T, N, *input] before training or adaptation; by default nothing.

        Args:
            inputs: Inputs as `forward` will receive them.
            mask: Mask as `forward` will receive it, or None.
        """
        del inputs, mask

    def activation_size(self, inputs: Tensor) -> int | None:
        """Returns how many numbers the largest activation of an example has; None if unknown.

        Args:
            inputs: Shape [T, N, *input].
        """
        del inputs
        return None

    def draw_noise(self, generator: torch.Generator, num_tasks: int) -> Tensor | None:
        """Draws what dropout needs in one meta-iteration, [T, *]; None for networks without.

        `forward` of a network that draws noise has a keyword argument `noise`: what `noise_of_pass`
        returns, or None for a pass without dropout.
        """
        del generator, num_tasks
        return None

    def noise_of_pass(self, noise: Tensor, number: int) -> Tensor:
        """Returns the noise of pass `number`, at least 0, through the network."""
        del number
        return noise


def task_params(model: nn.Module, num_tasks: int) -> Params:
    """Returns theta expanded to T tasks: views [T, *shape] with stride 0 over tasks, no copies."""
    return {n: p.expand(num_tasks, *p.shape) for n, p in model.named_parameters()}


def task_rows(tensor: Tensor) -> Tensor:
    """Returns the numbers of each task in a row, [T, P], of a tensor [T, *].

    Also those of parameters that are a single number, [T], or have none, [T, 0].
    """
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.unsqueeze(1)


def task_shape(num_tasks: int | None) -> tuple[int, ...]:
    """Returns the leading dimensions of task-batched tensors: (num_tasks,), or () for None."""
    return () if num_tasks is None else (num_tasks,)


class Fitting:
    """Context manager that explains torch's errors if parameters and inputs do not match.

    It checks them only after a RuntimeError in its block, so it has almost no cost otherwise.

    Args:
        params: The parameters, [T, *shape] per name.
        inputs: The inputs, [T, N, *input].

    Raises:
        ShapeError: On exit with a RuntimeError, if the dtypes or the numbers of tasks differ.
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
        """Raises a ShapeError from a RuntimeError if parameters and inputs do not match."""
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
            if p.is_floating_point() and p.dtype != inputs.dtype:
                raise ShapeError(
                    f"Expected inputs of the parameters' type {p.dtype}, got {inputs.dtype}; "
                    "convert one of them: `inputs.float()`, or `model.double()`."
                ) from error


class Weights(nn.Module):
    """The weight and bias of one layer, under torch's usual names.

    Args:
        weight: Initial weight.
        bias: Initial bias, or None for a layer without one.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)


def weights_of(params: Params, layer: str) -> Weights:
    """Returns the weight and bias of a layer from parameters without a task dimension, by name."""
    return Weights(params[f"{layer}.weight"], params.get(f"{layer}.bias"))
