"""Metrics of episodes besides the return, such as success: numbers of steps, reduced to one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from metarl.errors import SettingsError, short_repr
from metarl.registry import check_choice
from metarl.sim.results import measured_values

Reduction = Literal["any", "last", "mean"]
"""any: 1 if a step's number was above 0, else 0; last: the last number; mean: their mean."""
RESERVED = ("return", "mse", "accuracy")
LONGEST_NAME = 60


def check_metrics(metrics: Mapping[str, Reduction]) -> None:
    """Checks the metrics of a family.

    Raises:
        SettingsError: A name is reserved or cannot be a tag, or a reduction is unknown.
    """
    if not isinstance(metrics, Mapping):
        raise SettingsError(
            'Expected metrics as {"success": "any"}, names and how the steps of an episode become '
            f"one number ({', '.join(get_args(Reduction))}), got {short_repr(metrics)}."
        )
    for name, reduction in metrics.items():
        is_name = isinstance(name, str) and name.isprintable() and 0 < len(name) <= LONGEST_NAME
        if not is_name or "/" in name or name != name.strip() or name in RESERVED:
            raise SettingsError(
                f"Expected names of metrics of 1 to {LONGEST_NAME} printable characters without a "
                f"slash and spaces around, other than {', '.join(RESERVED)}, got "
                f"{short_repr(name)}. A wrapper may give the number in `info` another name."
            )
        check_choice(f"reduction of the metric {name!r}", reduction, get_args(Reduction))


class EpisodeMetrics:
    """The metrics of the running episodes of W worlds; never waits for the device.

    NaN is a number that a step does not report. A metric that no step of an episode reports is NaN.

    Args:
        reductions: How the numbers of an episode's steps become one, by name.
        num_envs: The number of worlds, W.
        device: The device of the tensors.

    Raises:
        SettingsError: A name or a reduction is not usable; see `check_metrics`.
    """

    def __init__(
        self, reductions: Mapping[str, Reduction], num_envs: int, device: torch.device
    ) -> None:
        check_metrics(reductions)
        self._reductions = dict(reductions)
        self._num_envs = num_envs
        zeros = torch.zeros(num_envs, device=device)
        self._sums = dict.fromkeys(reductions, zeros)  # of "last": the last number
        self._counts = dict.fromkeys(reductions, zeros)

    def begin(self, mask: Tensor | None) -> None:
        """Starts new episodes in the worlds of the mask, [W] bool; None for all."""
        for table in (self._sums, self._counts):
            for name, value in table.items():
                zeros = torch.zeros_like(value)
                table[name] = zeros if mask is None else value.masked_fill(mask, 0)

    def add_step(self, numbers: Mapping[str, Tensor], frozen: Tensor | None) -> None:
        """Adds the numbers of a step, [W] each, except of the frozen worlds, [W] bool.

        Raises:
            ShapeError: A name is missing, or has no tensor of W numbers.
        """
        numbers = measured_values(numbers, self._reductions, self._num_envs)
        for name, reduction in self._reductions.items():
            number = numbers[name]
            reported = ~number.isnan()
            if frozen is not None:
                reported = reported & ~frozen
            total = self._sums[name]
            if reduction == "last":
                self._sums[name] = torch.where(reported, number, total)
            elif reduction == "any":
                largest = torch.maximum(total, _above(number))
                self._sums[name] = torch.where(reported, largest, total)
            else:
                self._sums[name] = total + torch.where(reported, number, 0)
            self._counts[name] = self._counts[name] + reported

    def add_episode(self, numbers: Mapping[str, Tensor], over: Tensor) -> None:
        """Replaces all by whole episodes.

        Args:
            numbers: The numbers of each step, [W, H] per name.
            over: Which steps come after the end, [W, H] bool.
        """
        for name, reduction in self._reductions.items():
            reported = ~numbers[name].isnan() & ~over
            number = torch.where(reported, numbers[name].float(), 0)
            if reduction == "last":
                # The last reported step has the highest index.
                steps = torch.arange(1, number.shape[1] + 1, device=number.device)
                last = (reported * steps).argmax(1, keepdim=True)
                self._sums[name] = number.gather(1, last).squeeze(1)
            elif reduction == "any":
                self._sums[name] = _above(number).amax(1)
            else:
                self._sums[name] = number.sum(1)
            self._counts[name] = reported.sum(1).float()

    def values(self) -> dict[str, Tensor]:
        """Returns the metrics of the episodes so far, [W] float32 per name."""
        found = {}
        for name, reduction in self._reductions.items():
            count = self._counts[name]
            total = self._sums[name] / count if reduction == "mean" else self._sums[name]
            found[name] = total.masked_fill(count == 0, float("nan"))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Returns all values."""
        return {"sums": dict(self._sums), "counts": dict(self._counts)}

    def load_state_dict(self, values: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned."""
        for name, old in self._sums.items():
            self._sums[name] = values["sums"][name].to(old.device, copy=True)
            self._counts[name] = values["counts"][name].to(old.device, copy=True)


def _above(number: Tensor) -> Tensor:
    return (number > 0).float()
