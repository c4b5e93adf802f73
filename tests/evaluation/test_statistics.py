import math
import time
from dataclasses import asdict

import numpy as np
import pytest
import torch

from metarl.errors import SettingsError, ShapeError
from metarl.evaluation.statistics import (
    iqm,
    mean,
    median,
    summarise,
    summarise_curve,
    summarise_seeds,
)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def test_statistics_by_hand():
    values = torch.tensor([[8.0, 1.0, 3.0, 100.0, 2.0, 4.0, 6.0, 5.0], [0.0] * 8])
    assert mean(values).tolist() == [16.125, 0.0]
    assert median(values).tolist() == [4.5, 0.0]
    assert iqm(values).tolist() == [4.5, 0.0]  # of 1 2 | 3 4 5 6 | 8 100
    assert median(torch.tensor([3.0, 1.0, 2.0])).item() == 2.0
    assert iqm(torch.tensor([9.0, 1.0, 2.0])).item() == 4.0  # floor(3 / 4) = 0 are cut
    assert iqm(torch.tensor([9.0, 1.0, 2.0, 4.0, 5.0])).item() == pytest.approx(11 / 3)


def test_a_summary_holds_them(generator):
    summary = summarise(torch.tensor([8.0, 1.0, 3.0, 100.0, 2.0, 4.0, 6.0, 5.0]), generator)
    assert (summary.mean, summary.median, summary.iqm, summary.count) == (16.125, 4.5, 4.5, 8)
    assert summary.mean_low <= summary.mean <= summary.mean_high
    assert summary.iqm_low <= summary.iqm <= summary.iqm_high
    assert summary.iqm_high < summary.mean_high  # the outlier weighs less


def test_equal_values_have_an_interval_of_no_width(generator):
    summary = summarise(torch.full((10,), 0.7, dtype=torch.float64), generator)
    for name in ("mean_low", "mean_high", "iqm_low", "iqm_high"):
        assert getattr(summary, name) == pytest.approx(0.7, abs=1e-12)


def test_two_values_by_hand(generator):
    # Resamples of (0, 1) have means 0, 1/2, 1 with chances 1/4, 1/2, 1/4.
    values = torch.tensor([0.0, 1.0])
    summary = summarise(values, generator, confidence=0.6)  # tails of 0.2 reach the ends
    assert (summary.mean_low, summary.mean_high) == (0.0, 1.0)
    summary = summarise(values, generator, confidence=0.4)  # tails of 0.3 do not
    assert (summary.mean_low, summary.mean_high) == (0.5, 0.5)


def test_the_interval_of_the_mean_is_the_normal_one_for_many_tasks(generator):
    values = torch.randn(400, generator=generator, dtype=torch.float64)
    summary = summarise(values, generator, resamples=20_000)
    half = 1.96 * values.std(correction=0).item() / math.sqrt(400)
    assert summary.mean_low == pytest.approx(values.mean().item() - half, abs=0.05 * half)
    assert summary.mean_high == pytest.approx(values.mean().item() + half, abs=0.05 * half)


@pytest.mark.parametrize("tasks", [3, 7, 8, 41])
def test_the_bootstrap_agrees_with_a_plain_one(generator, tasks):
    """The same draws, each resample sorted and cut by itself."""
    values = torch.randn(tasks, generator=generator, dtype=torch.float64)
    values[1] = values[0]  # a tie
    draws = torch.randint(
        tasks, (500, tasks), generator=torch.Generator().manual_seed(3)
    )  # as summarise draws
    plain = iqm(values[draws]), mean(values[draws])
    summary = summarise(values, torch.Generator().manual_seed(3), resamples=500)
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    for (low, high), statistic in zip(
        [(summary.iqm_low, summary.iqm_high), (summary.mean_low, summary.mean_high)],
        plain,
        strict=True,
    ):
        assert [low, high] == pytest.approx(torch.quantile(statistic, tails).tolist(), abs=1e-12)


def test_seeds_are_strata(generator):
    # All tasks of a seed alike: resampling within the seeds changes nothing.
    values = torch.tensor([[0.0] * 20, [1.0] * 20])
    stratified = summarise(values, generator, shared_tasks=False)
    pooled = summarise(values.flatten(), generator)
    assert (stratified.mean_low, stratified.mean, stratified.mean_high) == (0.5, 0.5, 0.5)
    assert pooled.mean_high - pooled.mean_low > 0.2
    assert stratified.count == 40


def test_tasks_that_seeds_share_are_resampled_together(generator):
    # Three equal seeds hold no more information than one.
    values = torch.rand(40, generator=generator)
    one = summarise(values, torch.Generator().manual_seed(1))
    three = summarise(values.expand(3, 40), torch.Generator().manual_seed(1))
    assert (three.mean_low, three.mean_high) == pytest.approx((one.mean_low, one.mean_high))
    assert three.count == 120
    apart = summarise(values.expand(3, 40), generator, shared_tasks=False)
    ratio = (one.mean_high - one.mean_low) / (apart.mean_high - apart.mean_low)
    assert ratio == pytest.approx(math.sqrt(3), rel=0.1)


def test_shared_tasks_by_hand(generator):
    # The mean over seeds of the tasks is (0, 2): resamples have means 0, 1, 2, never others.
    values = torch.tensor([[0.0, 1.0], [0.0, 3.0]])
    summary = summarise(values, generator, confidence=0.6)
    assert (summary.mean_low, summary.mean_high) == (0.0, 2.0)
    apart = summarise(values, generator, confidence=0.55, shared_tasks=False)
    assert (apart.mean_low, apart.mean_high) == (0.5, 1.5)


def test_the_nominal_interval_covers_the_true_mean_as_often_as_it_says(generator):
    """Errors of three seeds on the same 50 tasks, whose true mean is 0."""
    runs, seeds, tasks = 400, 3, 50
    difficulty = torch.randn(runs, 1, tasks, generator=generator)
    values = difficulty + 0.5 * torch.randn(runs, seeds, tasks, generator=generator)
    coverage = {}
    for shared in (True, False):
        # The runs as the steps of a curve: one call for all.
        summaries = summarise_curve(values, generator, resamples=400, shared_tasks=shared)
        coverage[shared] = sum(s.mean_low <= 0 <= s.mean_high for s in summaries) / runs
    assert 0.91 < coverage[True] < 0.97, "nominally .95"
    assert coverage[False] < 0.83, "tasks are not independent between the seeds"


def test_a_curve_is_summarised_step_by_step(generator):
    values = torch.rand(3, 30, generator=generator)
    together = summarise_curve(values, torch.Generator().manual_seed(1))
    alone = [summarise(v, torch.Generator().manual_seed(1)) for v in values]
    assert together == alone
    seeds = values.view(3, 5, 6)
    assert summarise_curve(seeds, torch.Generator().manual_seed(1))[2] == summarise(
        seeds[2], torch.Generator().manual_seed(1)
    )


def test_the_same_generator_gives_the_same_interval():
    values = torch.rand(50, generator=torch.Generator().manual_seed(9))
    first = summarise(values, torch.Generator().manual_seed(1))
    assert first == summarise(values, torch.Generator().manual_seed(1))
    assert first != summarise(values, torch.Generator().manual_seed(2))


@pytest.mark.parametrize("where", [0, 50, 99])
def test_a_diverged_task_spoils_all_statistics(where, generator):
    values = torch.arange(100.0)
    values[where] = math.nan
    summary = summarise(values, generator)
    statistics = [v for name, v in asdict(summary).items() if name != "count"]
    assert all(math.isnan(value) for value in statistics)


def test_an_infinite_loss_spoils_the_mean_but_not_the_iqm(generator):
    values = torch.arange(100.0)
    values[99] = math.inf
    summary = summarise(values, generator)
    assert summary.mean == math.inf
    assert math.isnan(summary.mean_high)
    assert summary.iqm == 49.5
    assert 30 < summary.iqm_low < 49.5 < summary.iqm_high < 70


def test_bad_input_is_refused(generator):
    with pytest.raises(ShapeError, match="none of them 0"):
        summarise(torch.zeros(0), generator)
    with pytest.raises(ShapeError, match=r"got \[2, 3, 4\]"):
        summarise(torch.zeros(2, 3, 4), generator)
    with pytest.raises(ShapeError, match=r"got \[3\]"):
        summarise_curve(torch.zeros(3), generator)
    with pytest.raises(SettingsError, match="resamples >= 1"):
        summarise(torch.zeros(3), generator, resamples=0)
    with pytest.raises(SettingsError, match="confidence in"):
        summarise(torch.zeros(3), generator, confidence=1.0)


def test_it_is_fast(generator):
    values = torch.rand(11, 600, generator=generator)
    started = time.perf_counter()
    summarise_curve(values, generator)
    assert time.perf_counter() - started < 5  # 0.3 s here


def test_arrays_and_lists_are_summarised_as_tensors():
    values = [1.0, 4.0, 2.0, 8.0]
    summaries = [
        summarise(kind(values), torch.Generator().manual_seed(0))
        for kind in (torch.tensor, np.array, list)
    ]
    assert summaries[0] == summaries[1] == summaries[2]


def test_students_interval_over_seeds():
    """Of 1, 2, 3 and 6: mean 3, standard deviation 2.1602, t(.975, 3) = 3.182."""
    generator = torch.Generator().manual_seed(0)
    seeds = [summarise(torch.tensor([k - 1.0, k, k + 1.0]), generator) for k in (1, 2, 3, 6)]
    s = summarise_seeds(seeds)
    assert (s.mean, s.median, s.iqm, s.lowest_tenth, s.count) == (3.0, 3.0, 3.0, 2.0, 4)
    half = 3.182 * math.sqrt(14 / 3) / 2
    assert (s.mean_low, s.mean_high) == pytest.approx((3 - half, 3 + half))
    many = summarise_seeds([seeds[0], seeds[1]] * 20)
    assert many.mean_high - 1.5 == pytest.approx(1.96 * math.sqrt(10 / 39) / math.sqrt(40))
    assert math.isnan(summarise_seeds(seeds[:1]).mean_low)
