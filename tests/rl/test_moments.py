"""Moments of batches: those of numpy, in any order and grouping, also far from zero."""

import numpy as np
import torch

from metarl.rl.moments import Moments, merged, merged_steps, moments_of


def batch(generator, shift=0.0):
    values = shift + torch.randn(3, 4, 5, 2, generator=generator, dtype=torch.double)
    mask = (torch.rand(3, 4, 5, generator=generator) < 0.6).float()
    return values, mask


def check(moments, values, tolerance=1e-12):
    np.testing.assert_allclose(moments.count, len(values))
    np.testing.assert_allclose(moments.mean, values.mean(0), rtol=tolerance)
    np.testing.assert_allclose(moments.squares, values.var(0) * len(values), rtol=1e-9)


def test_each_tasks_moments_are_numpys_of_the_steps_that_count(generator):
    values, mask = batch(generator)
    found = moments_of(values, mask)
    for task in range(3):
        check(Moments(*(m[task] for m in found)), values[task][mask[task] > 0].numpy())


def test_merged_moments_are_those_of_all_values_even_far_from_zero(generator):
    for shift in (0.0, 1e6):
        values, mask = batch(generator, shift)
        check(merged(moments_of(values, mask)), values[mask > 0].numpy())


def test_steps_are_merged_task_by_task(generator):
    first, second = batch(generator), batch(generator, 3.0)
    found = merged_steps([{"o": moments_of(*first)}, None, {"o": moments_of(*second)}])
    assert found is not None
    both = torch.cat((first[0][1][first[1][1] > 0], second[0][1][second[1][1] > 0])).numpy()
    check(Moments(*(m[1] for m in found["o"])), both)
    assert merged_steps([None]) is None
