"""Mean, median and interquartile mean over tasks, with bootstrap confidence intervals.

References:
    Agarwal et al. 2021, Deep Reinforcement Learning at the Edge of the Statistical Precipice
    (arXiv:2108.13264): interquartile mean and stratified bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.errors import SettingsError, ShapeError

T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
    2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""Student's t, .975, for 1, 2, ... degrees of freedom."""
NORMAL_95 = 1.960
_CHUNK = 1 << 21  # values per chunk of resamples; bounds the memory to about 50 MB


@dataclass(frozen=True)
class Summary:
    """Statistics of a metric over `count` values; low and high bound confidence intervals.

    The lowest and highest tenths are the means of the n / 10 lowest and highest values, rounded up:
    of a return, the lowest tenth is how good the learner is on its worst tasks.
    """

    mean: float
    mean_low: float
    mean_high: float
    median: float
    iqm: float
    iqm_low: float
    iqm_high: float
    count: int
    lowest_tenth: float = math.nan
    highest_tenth: float = math.nan


def mean(values: Tensor) -> Tensor:
    """Returns the mean over the last dimension, float64."""
    return values.double().mean(-1)


def median(values: Tensor) -> Tensor:
    """Returns the median over the last dimension, float64; the mean of two middle values.

    It is NaN if a value is: whether that one would be the best or the worst is not known.
    """
    ordered, n = _ordered(values), values.shape[-1]
    return (ordered[..., (n - 1) // 2] + ordered[..., n // 2]) / 2


def iqm(values: Tensor) -> Tensor:
    """Returns the interquartile mean over the last dimension, float64.

    It is the mean of n values without the floor(n / 4) smallest and the floor(n / 4) largest. It is
    NaN if a value is.
    """
    ordered, n = _ordered(values), values.shape[-1]
    # IQM = mean of x_(k + 1), ..., x_(n - k) with k = floor(n / 4)  (Agarwal et al. 2021)
    return ordered[..., n // 4 : n - n // 4].mean(-1)


def tenths(values: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the means of the lowest and of the highest tenth over the last dimension, float64.

    They are NaN if a value is.
    """
    ordered, n = _ordered(values), values.shape[-1]
    count = -(-n // 10)
    return ordered[..., :count].mean(-1), ordered[..., n - count :].mean(-1)


def _ordered(values: Tensor) -> Tensor:
    """Returns values in ascending order along the last dimension, float64; NaN if one is NaN."""
    ordered = values.double().sort(-1).values  # NaN comes last
    return torch.where(ordered[..., -1:].isnan(), ordered[..., -1:], ordered)


def summarise(
    values: Tensor | np.ndarray | Sequence[Any],
    generator: torch.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    shared_tasks: bool = True,
) -> Summary:
    """Summarises the metric of many tasks.

    The intervals cover the choice of the test tasks only, for these trained learners. They do not
    cover the choice of the training seeds. Tasks count as independent draws: where all tasks come
    from a few groups (drawings of 3 alphabets, 10 pairs of people), the intervals do not cover the
    choice of the groups. To include it, pass the mean of each group as one value.

    Args:
        values: A tensor, array or list, [tasks], or [seeds, tasks] for several training seeds. NaN,
            such as the metric of a learner that has diverged, makes every statistic NaN: it has no
            rank among the others. Infinity has one, and the interquartile mean may exclude it.
        generator: Source of the resamples, on the CPU.
        resamples: Number of bootstrap resamples.
        confidence: Confidence level of the percentile intervals, in (0, 1).
        shared_tasks: With seeds: whether column t of `values` is the same test task for every
            seed. If so, a resample takes the same tasks for all seeds, as their errors on a task
            are correlated. False: each seed has other test tasks, which are resampled
            within the seed (stratified bootstrap).

    Raises:
        ShapeError: If `values` has other dimensions, or is empty.
        SettingsError: If `resamples` is below 1 or `confidence` outside (0, 1).
    """
    values = torch.as_tensor(values)
    if values.dim() not in (1, 2):
        raise ShapeError(f"Expected values [tasks] or [seeds, tasks], got {list(values.shape)}.")
    curve = values.unsqueeze(0)
    return summarise_curve(
        curve, generator, resamples=resamples, confidence=confidence, shared_tasks=shared_tasks
    )[0]


def summarise_curve(
    values: Tensor | np.ndarray | Sequence[Any],
    generator: torch.Generator,
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    shared_tasks: bool = True,
) -> list[Summary]:
    """Summarises each step of an adaptation curve; all steps use the same resampled tasks.

    Args:
        values: Of shape [steps + 1, tasks], or [steps + 1, seeds, tasks]; see `summarise`.
        generator: Source of the resamples, on the CPU.
        resamples: Number of bootstrap resamples.
        confidence: Confidence level of the percentile intervals, in (0, 1).
        shared_tasks: See `summarise`.

    Returns:
        One summary per step.

    Raises:
        ShapeError: If `values` has other dimensions, or is empty.
        SettingsError: If `resamples` is below 1 or `confidence` outside (0, 1).
    """
    values = torch.as_tensor(values)
    if values.dim() not in (2, 3) or values.numel() == 0:
        raise ShapeError(
            "Expected values [steps + 1, tasks] or [steps + 1, seeds, tasks], none of them 0; "
            f"got {list(values.shape)}."
        )
    if resamples < 1 or not 0 < confidence < 1:
        raise SettingsError(
            f"Expected resamples >= 1 and a confidence in (0, 1), got {resamples} and {confidence}."
        )
    seeds = values.shape[1] if values.dim() == 3 else 1
    flat = values.detach().double().cpu().flatten(1)
    tasks = values.shape[-1]
    counts = _resampled_counts(seeds, tasks, resamples, generator, shared_tasks=shared_tasks)
    means, iqms = _bootstrap(flat, counts)
    tail = (1 - confidence) / 2
    iqms = torch.where(iqm(flat).isnan().unsqueeze(1), torch.nan, iqms)
    quantiles = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    mean_bounds = torch.quantile(means, quantiles, dim=1)
    iqm_bounds = torch.quantile(iqms, quantiles, dim=1)
    columns = [mean(flat), *mean_bounds, median(flat), iqm(flat), *iqm_bounds]
    rows = torch.stack(columns, dim=1).tolist()
    ends = torch.stack(tenths(flat), dim=1).tolist()
    return [
        Summary(*row, count=flat.shape[1], lowest_tenth=low, highest_tenth=high)
        for row, (low, high) in zip(rows, ends, strict=True)
    ]


def summarise_seeds(seeds: Sequence[Summary]) -> Summary:
    """Summarises the results of several training seeds.

    The mean is that of the seeds' means, and its 95 % interval is Student's: it covers the choice
    of the seeds, and with three of them it is wide. The median, the interquartile mean and the
    tenths are means over the seeds, without intervals.

    Args:
        seeds: The summary of each seed, at least one. With one alone, the bounds are NaN.

    Returns:
        The summary, whose `count` is the number of seeds.
    """
    n = len(seeds)
    columns = {f.name: [getattr(s, f.name) for s in seeds] for f in fields(Summary)}
    values = {name: float(np.mean(column)) for name, column in columns.items()}
    half = math.nan
    if n > 1:
        # half of the interval: t_(.975, n - 1) s / sqrt(n), with s^2 = sum (x_i - mean)^2 / (n - 1)
        quantile = T_95[n - 2] if n - 2 < len(T_95) else NORMAL_95
        half = quantile * float(np.std(columns["mean"], ddof=1)) / math.sqrt(n)
    bounds = {"mean_low": values["mean"] - half, "mean_high": values["mean"] + half}
    unknown = {"iqm_low": math.nan, "iqm_high": math.nan}
    return Summary(**{**values, **bounds, **unknown, "count": n})


def _bootstrap(values: Tensor, resampled_counts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Computes the means and interquartile means of the resamples, each [steps, resamples].

    A resample is represented by the number of times it contains each value. With the values
    sorted, the cumulative sum of these counts is the rank of each value in the sorted resample,
    so that the resamples need not be sorted.
    """
    n = values.shape[1]
    ordered, order = values.sort(dim=1)
    means, iqms = [], []
    for counts in resampled_counts:
        for row, ranks in zip(ordered, order, strict=True):
            sorted_counts = counts[:, ranks]
            # The interquartile mean has the ranks [n // 4, n - n // 4) of a sorted resample.
            rank_ends = sorted_counts.cumsum(1).clamp_(n // 4, n - n // 4)
            first = torch.full_like(rank_ends[:, :1], n // 4)
            middle_counts = torch.diff(rank_ends, dim=1, prepend=first)
            means.append(_weighted_mean(sorted_counts, row))
            iqms.append(_weighted_mean(middle_counts, row))
    steps = values.shape[0]
    return _by_step(means, steps), _by_step(iqms, steps)


def _by_step(chunks: list[Tensor], steps: int) -> Tensor:
    """Joins chunks of resamples, ordered by chunk and then step, to [steps, resamples]."""
    return torch.stack([torch.cat(chunks[step::steps]) for step in range(steps)])


def _resampled_counts(
    seeds: int, tasks: int, resamples: int, generator: torch.Generator, *, shared_tasks: bool
) -> Iterator[Tensor]:
    """Yields the counts of each value in the resamples: chunks [chunk, seeds * tasks], float64."""
    n = seeds * tasks
    strata = 1 if shared_tasks else seeds
    offsets = (torch.arange(strata) * tasks).repeat_interleave(tasks)
    size = max(1, _CHUNK // n)
    for start in range(0, resamples, size):
        chunk, drawn = min(size, resamples - start), strata * tasks
        indices = torch.randint(tasks, (chunk, drawn), generator=generator) + offsets
        ones = torch.ones((), dtype=torch.float64).expand(chunk, drawn)
        counts = torch.zeros(chunk, drawn, dtype=torch.float64).scatter_add_(1, indices, ones)
        yield counts.repeat(1, seeds) if shared_tasks else counts


def _weighted_mean(weights: Tensor, values: Tensor) -> Tensor:
    """Returns the weighted means [chunk] of values [n], with weights [chunk, n].

    A mean is NaN if a value that is not finite has a weight above 0.
    """
    finite = torch.isfinite(values)
    result = weights @ torch.where(finite, values, 0.0) / weights.sum(1)
    if bool(finite.all()):
        return result
    return result.masked_fill((weights[:, ~finite] > 0).any(1), float("nan"))


def telling_steps(last: int, most: int = 12) -> list[int]:
    """Selects the numbers of adaptation steps to show in a table, from 0 to `last`.

    They are all of 0, ..., `last` if `most` are enough, else 0, 1, 2, 5, 10, 20, 50, ..., `last`.

    Args:
        last: The largest number of steps.
        most: The largest number of entries, at least 2; a longer series is thinned out.
    """
    if last < most:
        return list(range(last + 1))
    series = [m * 10**e for e in range(len(str(last))) for m in (1, 2, 5)]
    steps = [0, *(k for k in series if k < last), last]
    if len(steps) <= most:
        return steps
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]
