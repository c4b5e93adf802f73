"""Forecasting tasks: each time series is a task, adapted to on its past, evaluated later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from metarl.errors import SettingsError, TaskError
from metarl.ranges import COUNT, check_ints
from metarl.registry import check_choice
from metarl.tasks.base import Examples, Split, TaskBatch, check_sampling, check_split
from metarl.tasks.scaling import Scaling
from metarl.tasks.unequal import draw_rows

SHORT = ("refuse", "drop")


@dataclass(frozen=True, eq=False)
class SeriesTasks:
    """A `TaskDistribution` of time series; see `Forecasting`.

    A task is a series, sampled uniformly from those of the split, and a time at which it is cut.
    An example is a window: `history` values as input, and the following `horizon` values as target.
    Windows of the support set lie before the cut, those of the query set after it. They are sampled
    without replacement; windows of one set may overlap.

    Attributes:
        values: All series one after the other, shape [sum of lengths, C], float32.
        lengths: Length of each series, shape [K], int64.
        pool_names: The name of each series.
        splits: Numbers of the series of each split, int64.
        history: Values before the time of the forecast.
        horizon: Values to forecast.
        targets: The channels to forecast, indices below C.
        shots: Support windows of a task.
        queries: Query windows of a task.
        part: The split that series are sampled from.
        short_series: Series that are too short for the windows: "refuse": an error that names one;
            "drop": they are left out.
        mean: What was subtracted from the values of each channel, shape [C].
        std: What they were divided by, shape [C].
    """

    values: Tensor = field(repr=False)
    lengths: Tensor = field(repr=False)
    pool_names: tuple[str, ...] = field(repr=False)
    splits: Mapping[Split, Tensor] = field(repr=False)
    history: int
    horizon: int
    targets: tuple[int, ...]
    shots: int = 10
    queries: int = 10
    part: Split = "train"
    short_series: str = "refuse"
    mean: Tensor | None = field(default=None, repr=False)
    std: Tensor | None = field(default=None, repr=False)
    _series: Tensor = field(init=False, repr=False)
    _longest: int = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Checks the settings against the series of the split."""
        check_split(self.part)
        check_ints(self, COUNT, "history", "horizon", "shots", "queries")
        check_choice("short_series", self.short_series, SHORT)
        series = self.splits.get(self.part, torch.empty(0, dtype=torch.int64))
        lengths = self.lengths[series.to(self.lengths.device)].to(series.device)
        kept = lengths >= self.fewest_values
        if self.short_series == "refuse" and not kept.all():
            first = int(series[~kept][0])
            raise SettingsError(
                f"{self.shots} support and {self.queries} query windows of {self.window} values "
                f"need a series of {self.fewest_values}; {self.pool_names[first]!r} of the "
                f"{self.part} split has {int(self.lengths[first])}. Lower them, or leave short "
                "series out with short_series='drop'."
            )
        if not kept.any():
            lacks = f" of at least {self.fewest_values} values" if len(series) else "; give it some"
            raise TaskError(f"The {self.part} split has no series{lacks}.")
        object.__setattr__(self, "_series", series[kept])
        object.__setattr__(self, "_longest", int(lengths[kept].max()))

    @property
    def window(self) -> int:
        """The length of a window, history and horizon."""
        return self.history + self.horizon

    @property
    def fewest_values(self) -> int:
        """The length of the shortest series that has all windows of a task."""
        return 2 * self.window + self.shots + self.queries - 2

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the series of this split."""
        return tuple(self.pool_names[i] for i in self._series.tolist())

    def split(self, name: Split) -> SeriesTasks:
        """Returns the distribution over the tasks of one split."""
        return replace(self, part=check_split(name))

    def to(self, device: torch.device | str) -> SeriesTasks:
        """Returns the same distribution with its values on `device`."""
        splits = {name: series.to(device) for name, series in self.splits.items()}
        moved = {name: getattr(self, name) for name in ("values", "lengths", "mean", "std")}
        tensors = {name: None if t is None else t.to(device) for name, t in moved.items()}
        return replace(self, splits=splits, **tensors)

    @property
    def scaling(self) -> Scaling | None:
        """What the values of windows were standardised by; None: they are as in the data."""
        if self.mean is None or self.std is None:
            return None
        channels = list(self.targets)
        mean, std = self.mean[channels], self.std[channels]
        if len(channels) == 1:
            mean, std = mean.squeeze(0), std.squeeze(0)
        return Scaling(self.mean, self.std, mean, std)

    def restore(self, outputs: Tensor) -> Tensor:
        """Returns forecasts [*, horizon] or [*, horizon, targets] in the units of the data."""
        scaling = self.scaling
        return outputs if scaling is None else scaling.to(outputs.device).restore(outputs)

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Samples a batch of tasks.

        Returns:
            Inputs [T, N, history, C] and targets [T, N, horizon], or [T, N, horizon, targets] if
            several channels are forecast, float32. `info` has the number of each task's series,
            "series", and the time of its cut, "cuts", both [T], int64.
        """
        check_sampling(num_tasks, generator)
        device = generator.device
        options = {"generator": generator, "device": device}
        chosen = torch.randint(len(self._series), (num_tasks,), **options)
        series = self._series.to(device)[chosen]
        lengths = self.lengths.to(device)
        size = lengths[series]
        # The cut leaves shots windows before it and queries windows after it.
        low, high = self.window + self.shots - 1, size - (self.window + self.queries - 1)
        share = torch.rand(num_tasks, dtype=torch.float64, **options)
        cuts = torch.minimum(low + (share * (high - low + 1)).long(), high)
        starts = (lengths.cumsum(0) - lengths)[series]
        support = self._windows(starts, cuts - self.window + 1, self.shots, generator)
        query = self._windows(starts + cuts, size - cuts - self.window + 1, self.queries, generator)
        return TaskBatch(support, query, {"series": series, "cuts": cuts})

    def _windows(
        self, starts: Tensor, counts: Tensor, number: int, generator: torch.Generator
    ) -> Examples:
        """Samples windows of each task.

        Args:
            starts: Index of the first window of each task, [T].
            counts: Number of windows to choose from, [T].
            number: Windows to sample.
            generator: The only source of randomness.
        """
        most = max(self._longest, number)
        first = draw_rows(counts.unsqueeze(1), most, number, generator) + starts.unsqueeze(1)
        index = first.unsqueeze(2) + torch.arange(self.window, device=first.device)
        windows = self.values[index.to(self.values.device)].to(first.device)
        targets = windows[:, :, self.history :][..., list(self.targets)]
        if len(self.targets) == 1:
            targets = targets.squeeze(-1)
        return Examples(windows[:, :, : self.history], targets)
