"""Sizes as NumPy's small integers, and splits that leave nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from metarl.adaptation import MAML
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.tasks import FewShotData, Forecasting, Glyphs, GroupedExamples
from metarl.tasks.data.labels import Labels, split_labels

LABELS = np.repeat(np.arange(2), 400)
X = np.random.default_rng(0).normal(size=(800, 2))
TABLE = {"g": LABELS, "x": X[:, 0], "y": X[:, 1]}


@pytest.mark.parametrize("small", [np.uint8, np.int16])
def test_sums_of_small_integers_do_not_overflow(small, generator):
    shots, queries, two = small(120), small(180), small(2)
    tasks = FewShotData(X, LABELS, two, shots, queries, fewest_shots=small(119))
    batch = tasks.sample(2, generator)
    assert batch.support.inputs.shape[:2] == (2, 240) and batch.query.inputs.shape[:2] == (2, 360)
    tasks = GroupedExamples(TABLE, "g", "x", "y", shots=shots, queries=queries)
    batch = tasks.sample(2, generator)
    assert batch.support.inputs.shape[:2] == (2, 120) and batch.query.inputs.shape[:2] == (2, 180)
    tasks = Forecasting(np.ones((3, 700)), history=shots, horizon=queries, shots=two, queries=two)
    assert tasks.sample(2, generator).query.targets.shape == (2, 2, 180)
    glyphs = Glyphs(way=two, shots=two, queries=two, alphabets=small(30), characters=small(20))
    assert glyphs.sample(1, generator).support.inputs.shape[1] == 4


def test_a_seed_of_numpy_is_that_of_python():
    first, second = (
        FewShotData(X, LABELS, 1, splits={"train": 0.5, "test": 0.5}, seed=seed).names
        for seed in (3, np.int64(3))
    )
    assert first == second


@pytest.mark.parametrize("splits", [{}, {"train": [], "test": []}, {"train": 0.0}])
def test_splits_without_members_are_refused(splits):
    for make in (
        lambda: FewShotData(X, LABELS, 1, splits=splits),
        lambda: GroupedExamples(TABLE, "g", "x", "y", splits=splits),
        lambda: Forecasting(np.ones((3, 70)), splits=splits),
    ):
        with pytest.raises(SettingsError, match="Expected a split with"):
            make()
    with pytest.raises(TaskError, match=r"The class \[0\] of the splits is not in the data"):
        FewShotData(X, LABELS, 1, splits={"train": [[0], [1]]})


def test_a_set_of_classes_has_the_order_of_the_data():
    """That of strings in a set differs between processes."""
    labels = np.repeat([f"c{k}" for k in range(10)], 8)
    x = np.arange(80.0)[:, None]
    for kind in (set, frozenset):
        tasks = FewShotData(x, labels, splits={"train": kind(labels)}, queries=3)
        assert tasks.splits["train"].tolist() == list(range(10))
    listed = FewShotData(x, labels, splits={"train": ["c7", "c1", "c3", "c2", "c5"]}, queries=3)
    assert listed.splits["train"].tolist() == [7, 1, 3, 2, 5]


def test_a_class_that_is_listed_twice_is_refused():
    labels = Labels(torch.arange(4), ("a", "b", "c", "d"))
    for splits in ({"train": ["a", "b", "a"]}, {"train": ["a", "b"], "test": ["c", "a"]}):
        with pytest.raises(TaskError, match="'a' is in two splits"):
            split_labels(labels, splits, 0)


def test_examples_of_several_classes_are_refused():
    with pytest.raises(ShapeError, match="one class for each example, got lists of several"):
        FewShotData(np.zeros((4, 2)), [[1, 2], [3], [1], [2, 3]])


def test_splits_are_read_in_any_case():
    names = np.repeat(["Train", "VAL", "test "], 80)
    x, labels = np.arange(240.0)[:, None], np.repeat(np.arange(30), 8)
    tasks = FewShotData(x, labels, splits=names, queries=3)
    assert {name: len(part) for name, part in tasks.splits.items()} == {
        "train": 10, "validation": 10, "test": 10,
    }  # fmt: skip


def test_steps_of_an_adaptation_are_integers_of_python():
    adaptation = MAML(nn.Linear(1, 1), steps=np.uint8(200))
    assert type(adaptation.steps) is int
