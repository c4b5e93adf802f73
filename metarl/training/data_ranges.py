"""The ranges of the numbers that a run is trained on, to detect later data in other units."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from metarl.errors import short_repr
from metarl.ranges import LARGEST
from metarl.rl.moments import Moments, merged
from metarl.tasks.scaling import Scaling

MOST_ENTRIES = 256
"""Examples with more numbers have one range for all of them, as images and sequences do."""

MOST_NUMBERS = 1 << 20
"""Numbers of a meta-iteration that are looked at; of more, every n-th example."""

MOST_SCALES = 1 << 16
"""Means and deviations that are recorded at most."""


class DataRanges:
    """Lowest and highest value, mean and deviation of each entry of inputs and observations.

    `see` costs little: it is called at the iterations that are logged.
    """

    def __init__(self) -> None:
        self._shapes: dict[str, Any] = {}
        self._ends: dict[str, tuple[Tensor, Tensor]] = {}
        self._moments: dict[str, Moments] = {}

    def name(self, tasks: Any) -> None:
        """Records the tasks' `columns` and `target_columns` that are tuples of strings."""
        for kind in ("columns", "target_columns"):
            names = getattr(tasks, kind, None)
            if isinstance(names, tuple) and _are_names([*names]):
                self._shapes[kind] = [*names]

    def scale(self, scaling: Any) -> None:
        """Records what examples were standardised by, a `Scaling`; ignores other values."""
        self._shapes.pop("scaling", None)
        if isinstance(scaling, Scaling) and sum(map(torch.numel, scaling)) <= MOST_SCALES:
            self._shapes["scaling"] = scaling.to_json()

    def see(self, inputs: Any, policy: Any = None) -> None:
        """Adds the data of one meta-iteration.

        Args:
            inputs: What a learner collected: with `tasks.support` and `tasks.query`, `experience`
                or `trials`.
            policy: The policy of a control learner, whose units the observations are in.
        """
        tasks = getattr(inputs, "tasks", None)
        if hasattr(inputs, "experience"):
            rollouts = inputs.experience[-1].rollouts
            self._add_observations(rollouts.observations, rollouts.mask, policy)
        elif hasattr(inputs, "trials"):
            trials = inputs.trials
            size = policy.observation_size
            self._add_observations(trials.record.inputs[..., :size], trials.mask, policy)
        elif hasattr(tasks, "support"):
            self._add_examples(tasks)

    @classmethod
    def joined(cls, parts: Sequence[DataRanges]) -> DataRanges:
        """Returns the ranges of what several processes have seen in their tasks."""
        ranges = cls()
        for part in parts:
            ranges._shapes |= part._shapes
            for name, ends in part._ends.items():
                ranges._merge(name, ends, part._moments[name])
        return ranges

    def to_json(self) -> dict[str, Any]:
        """Returns the ranges as JSON data."""
        found: dict[str, Any] = dict(self._shapes)
        for name, (low, high) in self._ends.items():
            moments = self._moments[name]
            deviation = (moments.squares / moments.count.clamp(min=1)).sqrt()
            numbers = {
                "count": [float(moments.count)],
                "low": low.tolist(), "high": high.tolist(),
                "mean": moments.mean.tolist(), "deviation": deviation.tolist(),
            }  # fmt: skip
            if all(math.isfinite(v) for values in numbers.values() for v in values):
                found[name] = numbers
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> DataRanges:
        """Returns the ranges of JSON data that `to_json` returned.

        Raises:
            ValueError: The data are of no ranges.
        """
        check_ranges(data)
        ranges = cls()
        for name, value in data.items():
            if not (isinstance(value, dict) and "low" in value):
                ranges._shapes[name] = value
                continue
            low, high, mean, deviation = (
                torch.tensor(value[n], dtype=torch.float64)
                for n in ("low", "high", "mean", "deviation")
            )
            count = torch.tensor(value["count"][0], dtype=torch.float64)
            ranges._ends[name] = (low, high)
            ranges._moments[name] = Moments(count, mean, deviation.square() * count)
        return ranges

    def _add_observations(self, observations: Tensor, mask: Tensor, policy: Any) -> None:
        step = _stride(observations)
        rows = observations.flatten(0, -2)[::step][mask.flatten()[::step] > 0]
        units = getattr(policy, "units", None)
        if units is not None:
            rows = units.raw_observations(rows)
        self._add("observations", rows)

    def _add_examples(self, tasks: Any) -> None:
        support = tasks.support
        targets = support.targets
        self._shapes |= {
            "input_shape": list(support.inputs.shape[2:]),
            "input_type": str(support.inputs.dtype).removeprefix("torch."),
            "target_shape": list(targets.shape[2:]),
            "labels": not targets.is_floating_point(),
            "support_examples": support.inputs.shape[1],
        }
        if support.mask is not None:
            self._shapes["masked"] = True
        if not targets.is_floating_point():
            most = int(targets.max()) + 1
            self._shapes["classes"] = max(most, self._shapes.get("classes", 0))
        for name, values in (("inputs", support.inputs), ("targets", targets)):
            if values.is_floating_point() and support.mask is None:
                self._add(name, _flat(values, support.weights))

    def _add(self, name: str, rows: Tensor) -> None:
        """Adds values [B, K]; with many entries they count as values of one."""
        rows = rows.detach().double().cpu()
        rows = rows if rows.shape[1] <= MOST_ENTRIES else rows.reshape(-1, 1)
        if not len(rows):
            return
        mean = rows.mean(0)
        count = torch.tensor(len(rows), dtype=torch.float64)
        moments = Moments(count, mean, (rows - mean).square().sum(0))
        self._merge(name, (rows.amin(0), rows.amax(0)), moments)

    def _merge(self, name: str, ends: tuple[Tensor, Tensor], moments: Moments) -> None:
        low, high = ends
        if name in self._ends and self._ends[name][0].shape == low.shape:
            low = torch.minimum(low, self._ends[name][0])
            high = torch.maximum(high, self._ends[name][1])
            pairs = zip(self._moments[name], moments, strict=True)
            moments = merged(Moments(*(torch.stack(pair) for pair in pairs)))
        self._ends[name], self._moments[name] = (low, high), moments


def _flat(values: Tensor, weights: Tensor | None) -> Tensor:
    """Returns some of the values [T, N, *] of weight above 0 as [B, K]; of images, K = 1."""
    step = _stride(values)
    rows = values.flatten(0, 1)[::step]
    if weights is not None:
        rows = rows[weights.flatten()[::step] > 0]
    return rows.reshape(len(rows), -1) if rows.dim() < 3 else rows.reshape(-1, 1)


def _stride(values: Tensor) -> int:
    return max(1, values.numel() // MOST_NUMBERS)


def check_ranges(data: Any) -> None:
    """Checks the JSON data of ranges.

    Raises:
        ValueError: A part has another type than `DataRanges.to_json` gives it.
    """
    if not isinstance(data, dict):
        raise ValueError("the ranges of the data are no dict")
    for name, value in data.items():
        if name in _KINDS and not _KINDS[name](value):
            raise ValueError(f"the ranges of the data have {name!r} of {short_repr(value)}")


def _is_record(value: Any) -> bool:
    """Returns whether a value is of the lowest and highest numbers of some entries."""
    if not isinstance(value, dict):
        return False
    rows: list[Any] = [value.get(name) for name in ("count", "low", "high", "mean", "deviation")]
    if not all(isinstance(row, list) and row and all(map(_is_number, row)) for row in rows):
        return False
    return len(rows[0]) == 1 and len({len(row) for row in rows[1:]}) == 1


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= LARGEST


def _is_shape(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_count, value))


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_scaling(value: Any) -> bool:
    with suppress(ValueError):
        return isinstance(Scaling.from_json(value), Scaling)
    return False


_KINDS: dict[str, Callable[[Any], bool]] = {
    "input_shape": _is_shape,
    "target_shape": _is_shape,
    "input_type": lambda v: isinstance(v, str) and isinstance(getattr(torch, v, 0), torch.dtype),
    **dict.fromkeys(("columns", "target_columns"), _are_names),
    "scaling": _is_scaling,
    **dict.fromkeys(("labels", "masked"), lambda v: isinstance(v, bool)),
    "support_examples": _is_count,
    "classes": _is_count,
    **dict.fromkeys(("inputs", "targets", "observations"), _is_record),
}
"""Name of a part -> its check."""
