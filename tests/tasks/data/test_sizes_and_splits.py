"""Sizes as NumPy's small integers, and splits that leave nothing."""

import numpy as np
import pytest
from torch import nn

from metarl.adaptation import MAML
from metarl.errors import SettingsError, TaskError
from metarl.tasks import FewShotData, Forecasting, Glyphs, GroupedExamples

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


def test_steps_of_an_adaptation_are_integers_of_python():
    adaptation = MAML(nn.Linear(1, 1), steps=np.uint8(200))
    assert type(adaptation.steps) is int
