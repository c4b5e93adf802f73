import math
from dataclasses import replace

import pytest
import torch

from metarl.errors import SettingsError
from metarl.tasks.base import SPLITS
from metarl.tasks.disjoint_splits import CELLS_PER_SPLIT
from metarl.tasks.sine import Sine

TASKS = 20_000


def draw(sine, num_tasks=TASKS, seed=0):
    return sine.sample(num_tasks, torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def many():
    return draw(Sine(shots=2, queries=3))


def kolmogorov_smirnov(values, low, high):
    """The largest distance between the distribution of `values` and U[low, high], times sqrt(n)."""
    share = ((values.flatten().double() - low) / (high - low)).sort().values
    ranks = torch.arange(len(share) + 1, dtype=torch.double) / len(share)
    gap = torch.maximum(ranks[1:] - share, share - ranks[:-1]).max()
    return (gap * math.sqrt(len(share))).item()


UNLIKELY = 1.95  # exceeded with probability 0.001 by uniform draws


def test_shapes_and_types():
    tasks = draw(Sine(shots=5, queries=7), 4)
    assert tasks.num_tasks == 4
    assert [t.shape for t in tasks.support[:2]] == [(4, 5, 1)] * 2
    assert [t.shape for t in tasks.query[:2]] == [(4, 7, 1)] * 2
    assert {n: v.shape for n, v in tasks.info.items()} == {"amplitude": (4,), "phase": (4,)}
    assert {t.dtype for t in (*tasks.support[:2], *tasks.query[:2])} == {torch.float32}


def test_amplitudes_phases_and_inputs_are_uniform_over_the_papers_ranges(many):
    inputs = torch.cat([many.support.inputs, many.query.inputs], dim=1)
    ranges = (
        (many.info["amplitude"], 0.1, 5.0),
        (many.info["phase"], 0.0, math.pi),
        (inputs, -5.0, 5.0),
    )
    for values, low, high in ranges:
        assert low <= values.min() < values.max() <= high
        assert kolmogorov_smirnov(values, low, high) < UNLIKELY
        half = (high - low) / math.sqrt(12)  # standard deviation of the uniform law
        error = half / math.sqrt(TASKS)
        assert values.mean().item() == pytest.approx((low + high) / 2, abs=4 * error)
        assert values.std().item() == pytest.approx(half, rel=0.03)


def test_the_bound_notices_another_law():
    wrong = torch.rand(TASKS, generator=torch.Generator().manual_seed(0)) ** 1.05
    assert kolmogorov_smirnov(wrong, 0.0, 1.0) > UNLIKELY


def test_draws_of_a_task_are_independent(many):
    columns = (
        many.info["amplitude"],
        many.info["phase"],
        many.support.inputs[:, 0, 0],
        many.support.inputs[:, 1, 0],
        many.query.inputs[:, 0, 0],
    )
    correlations = torch.corrcoef(torch.stack(columns)) - torch.eye(len(columns))
    assert correlations.abs().max() < 4 / math.sqrt(TASKS)


def test_targets_are_the_sine_of_the_task(many):
    amplitude, phase = (many.info[n].view(-1, 1, 1) for n in ("amplitude", "phase"))
    for inputs, targets, *_ in (many.support, many.query):
        expected = amplitude * torch.sin(inputs - phase)
        torch.testing.assert_close(targets, expected)


def test_the_mean_squared_target_is_that_of_the_paper(many):
    # E[sin^2(x - phi)] = 1/2 as phi covers half a turn: E[y^2] = E[A^2] / 2.
    expected = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert expected == pytest.approx(4.25, abs=0.01)
    assert many.query.targets.square().mean().item() == pytest.approx(expected, rel=0.03)


def phase_cells(tasks):
    return (tasks.info["phase"].double() / math.pi * CELLS_PER_SPLIT * len(SPLITS)).floor().long()


def test_splits_share_no_phase_and_each_covers_the_whole_range():
    cells = []
    for seed, name in enumerate(SPLITS):
        tasks = draw(Sine(1, 1).split(name), seed=seed)
        assert kolmogorov_smirnov(tasks.info["phase"], 0.0, math.pi) < UNLIKELY
        cells.append(set(phase_cells(tasks).tolist()))
    assert [len(c) for c in cells] == [CELLS_PER_SPLIT] * 3  # of 20 000 draws none is left out
    assert len(set.union(*cells)) == 3 * CELLS_PER_SPLIT


def test_the_same_seed_gives_the_same_tasks():
    first, same, other = (draw(Sine(), 3, seed) for seed in (1, 1, 2))
    assert torch.equal(first.query.targets, same.query.targets)
    assert not torch.equal(first.query.targets, other.query.targets)


def test_split_changes_only_the_part():
    sine = Sine(shots=3, queries=4)
    assert sine.split("test") == Sine(3, 4, "test")
    assert sine.part == "train"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shots": 0}, "at least 1 shot and 1 query, got 0 and 10"),
        ({"queries": -1}, "got 10 and -1"),
        ({"part": "tets"}, "Did you mean 'test'"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(SettingsError, match=message):
        replace(Sine(), **settings)
