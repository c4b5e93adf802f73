"""From a run to an export: both adapt to a user's arrays, and predict the same."""

import numpy as np
import pytest
import torch
from torch import nn

import metarl
from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.export.adaptation import export_adaptation
from metarl.learners import Prototypical
from metarl.tasks import FewShotData, GroupedExamples, Sine
from tests.deploy.conftest import train
from tests.deploy.export.test_adaptation import needs_onnx

pytestmark = pytest.mark.slow


def sine():
    """Returns a learner, its tasks, and inputs, targets and queries of a task of a user's."""
    net = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    x = np.linspace(-4, 4, 10, dtype=np.float32)[:, None]
    return GradientLearner(MAML(net, inner_lr=0.01)), Sine(10, 5), (x, np.sin(x + 1), x + 0.3)


def digits():
    data = pytest.importorskip("sklearn.datasets").load_digits()
    images, labels = data.images.astype(np.float32)[:, None] / 16, data.target
    tasks = FewShotData(
        images, labels, way=3, shots=2, queries=3,
        splits={"train": list(range(7)), "test": [7, 8, 9]},
    )  # fmt: skip
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 16))
    rows = [np.flatnonzero(labels == digit)[:5] for digit in (7, 8, 9)]
    support, query = np.concatenate([r[:2] for r in rows]), np.concatenate([r[2:] for r in rows])
    return Prototypical(net), tasks, (images[support], labels[support], images[query])


def groups():
    generator = np.random.default_rng(0)
    robot, x = np.arange(240) % 8, generator.normal(size=(240, 2)).astype(np.float32)
    table = {"robot": robot, "a": x[:, 0], "b": x[:, 1], "y": robot * x[:, 0] + x[:, 1]}
    tasks = GroupedExamples(table, group="robot", inputs=["a", "b"], targets=["y"])
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))
    x = x[:8]
    return GradientLearner(MAML(net, inner_lr=0.05)), tasks, (x, 9 * x[:, :1] + x[:, 1:], x + 1)


@pytest.mark.parametrize("case", [sine, digits, groups])
def test_run_and_export_predict_the_same(case, tmp_path):
    needs_onnx()
    learner, tasks, (inputs, targets, queries) = case()
    learner, run = train(learner, tasks, tmp_path / "run")
    export_adaptation(learner, tmp_path / "out", tasks=tasks.sample(2, torch.Generator()))
    own, exported = metarl.load(run), metarl.load(tmp_path / "out")
    own.adapt(inputs, targets)
    expected = np.asarray(own.predict(queries))
    if case is digits:  # an export numbers the classes, and gives their scores
        names, targets = np.unique(targets, return_inverse=True)
        exported.adapt(inputs, targets)
        np.testing.assert_array_equal(names[exported.predict(queries).argmax(-1)], expected)
    else:
        exported.adapt(inputs, targets)
        np.testing.assert_allclose(exported.predict(queries), expected, rtol=1e-5, atol=1e-5)
