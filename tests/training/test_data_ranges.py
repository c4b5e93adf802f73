"""The record of the training data: merged over iterations, and small for large data."""

from types import SimpleNamespace

import pytest
import torch

from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.scaling import Scaling
from metarl.training import data_ranges
from metarl.training.data_ranges import DataRanges


class Inputs:
    """What a supervised learner collects, as far as the record reads it."""

    def __init__(self, inputs, targets, weights=None):
        examples = Examples(inputs, targets, weights)
        self.tasks = TaskBatch(examples, examples)


def test_iterations_are_merged_and_read_again():
    generator = torch.Generator().manual_seed(0)
    parts = [3 * torch.randn(2, 5, 2, generator=generator) + 1 for _ in range(4)]
    ranges = DataRanges()
    for part in parts[:2]:
        ranges.see(Inputs(part, part))
    ranges = DataRanges.from_json(ranges.to_json())
    for part in parts[2:]:
        ranges.see(Inputs(part, part))
    whole = torch.stack(parts).flatten(0, 2).double()
    found = ranges.to_json()["inputs"]
    assert found["count"] == [40.0]
    assert found["low"] == pytest.approx(whole.amin(0).tolist())
    assert found["high"] == pytest.approx(whole.amax(0).tolist())
    assert found["mean"] == pytest.approx(whole.mean(0).tolist())
    assert found["deviation"] == pytest.approx(whole.std(0, correction=0).tolist())


def test_padding_does_not_count():
    values = torch.tensor([[[1.0], [2.0], [99.0]]])
    ranges = DataRanges()
    ranges.see(Inputs(values, values, torch.tensor([[1.0, 1.0, 0.0]])))
    assert ranges.to_json()["inputs"]["high"] == [2.0]


def test_images_have_one_range_and_of_many_some_are_looked_at(monkeypatch):
    monkeypatch.setattr(data_ranges, "MOST_NUMBERS", 100)
    images = torch.rand(2, 8, 1, 5, 5)
    ranges = DataRanges()
    ranges.see(Inputs(images, torch.zeros(2, 8, dtype=torch.int64)))
    found = ranges.to_json()
    assert found["input_shape"] == [1, 5, 5] and found["classes"] == 1 and found["labels"]
    assert len(found["inputs"]["low"]) == 1 and found["inputs"]["count"] == [100.0]


def test_numbers_that_are_not_finite_are_left_out():
    values = torch.full((1, 2, 1), torch.nan)
    ranges = DataRanges()
    ranges.see(Inputs(values, values))
    assert "inputs" not in ranges.to_json()


def test_names_of_columns_are_recorded_and_nothing_else():
    ranges = DataRanges()
    for columns in (None, 3, "ab", ("a", 1), property(lambda self: ("a",))):
        ranges.name(SimpleNamespace(columns=columns, target_columns=columns))
        ranges.name(columns)
        assert not ranges.to_json()
    ranges.name(SimpleNamespace(columns=("a", "b"), target_columns=("y", "z")))
    found = DataRanges.from_json(ranges.to_json()).to_json()
    assert found == {"columns": ["a", "b"], "target_columns": ["y", "z"]}
    for kind in found:
        with pytest.raises(ValueError, match=f"'{kind}'"):
            DataRanges.from_json({kind: "ab"})


def test_what_standardised_the_examples_is_recorded_until_nothing_does():
    ranges = DataRanges()
    numbers = torch.tensor([1.0, 2.0])
    ranges.scale(Scaling(numbers, numbers, numbers[0], numbers[1]))
    found = DataRanges.from_json(ranges.to_json()).to_json()["scaling"]
    assert found["input_mean"] == [1, 2] and found["target_std"] == 2
    for none in (None, 3.0, (1.0, 2.0)):
        ranges.scale(none)
        assert "scaling" not in ranges.to_json()
    with pytest.raises(ValueError, match="'scaling'"):
        DataRanges.from_json({"scaling": {**found, "input_std": [0, 1]}})
