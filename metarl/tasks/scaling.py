"""Standardisation of examples by the means and deviations of the training tasks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.tasks.pools import Source

CHUNK = 1 << 14
"""Rows that are read at once to compute means."""


class Scaling(NamedTuple):
    """Means and standard deviations of the examples of the training tasks.

    Attributes:
        input_mean: Shape [*input], or one that broadcasts to it, such as [channels].
        input_std: Like `input_mean`; 1 where the inputs are constant.
        target_mean: Shape [*target], or one that broadcasts to it.
        target_std: Like `target_mean`; 1 where the targets are constant.
    """

    input_mean: Tensor
    input_std: Tensor
    target_mean: Tensor
    target_std: Tensor

    def inputs(self, values: Tensor) -> Tensor:
        """Returns inputs [*, *input] as the learner gets them, (x - mean) / std."""
        return (values - self.input_mean) / self.input_std

    def targets(self, values: Tensor) -> Tensor:
        """Returns targets [*, *target] as the learner gets them, (y - mean) / std."""
        return (values - self.target_mean) / self.target_std

    def restore(self, outputs: Tensor) -> Tensor:
        """Returns outputs [*, *target] of a learner in the units of the data, std * y + mean."""
        return outputs * self.target_std + self.target_mean

    def to(self, device: torch.device | str) -> Scaling:
        """Returns the numbers on `device`."""
        return Scaling(*(values.to(device) for values in self))

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers as lists, by name."""
        return {name: values.tolist() for name, values in self._asdict().items()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Scaling:
        """Returns the numbers of what `to_json` returned.

        Raises:
            ValueError: They are of no scaling.
        """
        try:
            numbers = {name: torch.tensor(data[name], dtype=torch.float32) for name in cls._fields}
        except (KeyError, TypeError) as error:
            raise ValueError(f"the scaling is {short_repr(data)}") from error
        scaling = cls(**numbers)
        positive = all(bool((std > 0).all()) for std in (scaling.input_std, scaling.target_std))
        if not positive or not all(bool(values.isfinite().all()) for values in scaling):
            raise ValueError(f"the scaling is {short_repr(data)}")
        return scaling


def training_scaling(
    source: Source, values: Tensor, order: Tensor, counts: Tensor, groups: Tensor
) -> Scaling:
    """Computes means and standard deviations of the examples of training groups.

    Every example counts the same, so that large groups count more.

    Args:
        source: Reads the inputs.
        values: The targets, [M, *target].
        order: See `GroupTasks`, like `counts`.
        counts: Number of examples of each group.
        groups: Numbers of the training groups.

    Raises:
        SettingsError: The inputs are padded sequences or indices.
    """
    is_training = torch.zeros(len(counts), dtype=torch.bool)
    is_training[groups] = True
    rows = order[is_training.repeat_interleave(counts)]
    first = source.read(rows[:1])
    if first.mask is not None or not first.values.is_floating_point():
        raise SettingsError(
            "Standardisation is for inputs of numbers of one shape; sequences of unequal length "
            "and indices take standardise=False."
        )
    chunks = (source.read(rows[i : i + CHUNK]).values for i in range(0, len(rows), CHUNK))
    return Scaling(*_moments(chunks), *_moments([values[rows]]))


def _moments(chunks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of the rows of all chunks, float32 [*value]."""
    total, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for chunk in chunks:
        chunk = chunk.double()
        new, own = total + len(chunk), chunk.mean(0)
        change = own - mean
        # M = M_a + M_b + d^2 n_a n_b / n (Chan et al. 1983)
        squares = squares + (chunk - own).square().sum(0)
        squares = squares + change.square() * (total * len(chunk) / new)
        mean = mean + change * (len(chunk) / new)
        total = new
    std = (squares / total).sqrt()
    return mean.float(), one_where_constant(std, mean).float()


def one_where_constant(std: Tensor, mean: Tensor) -> Tensor:
    """Returns standard deviations, float64, with 1 where they are rounding of the mean."""
    return std.masked_fill(std <= 1e-7 * mean.abs().clamp(min=1e-30), 1.0)
