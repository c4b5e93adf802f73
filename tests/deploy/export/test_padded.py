"""Adapters and exports of learners of padded sequences take their mask."""

import numpy as np
import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.adaptation_run import export_network
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.deploy.loading import adapter_of
from metarl.errors import ShapeError
from metarl.learners import Matching
from metarl.tasks.base import Examples, TaskBatch
from tests.deploy.export.test_adaptation import assert_same, needs_onnx

WAY = 3


class Reader(nn.Module):
    """Averages the real elements of sequences."""

    def __init__(self, outputs=5):
        super().__init__()
        self.layer = nn.Linear(2, outputs)

    def forward(self, sequences, mask=None):
        values = torch.tanh(self.layer(sequences))
        if mask is None:
            return values.mean(1)
        weights = mask.to(values.dtype).unsqueeze(2)
        return (values * weights).sum(1) / weights.sum(1)


@pytest.fixture
def examples(generator):
    """Sequences of up to seven elements; the last example is padding as a whole."""
    lengths = torch.tensor([3, 7, 5, 1, 7, 2, 0])
    mask = (torch.arange(7) < lengths.unsqueeze(1)).unsqueeze(0)
    inputs = torch.randn(1, 7, 7, 2, generator=generator) * mask.unsqueeze(3)
    labels = torch.arange(7)[None] % WAY
    return Examples(inputs, labels, (lengths > 0).float()[None], mask)


def without_padding(examples):
    return Examples(*(t[:, :6] for t in examples[:2]), mask=examples.mask[:, :6])


def as_rows(examples):
    return {"inputs": examples.inputs[0].numpy(), "mask": examples.mask[0].numpy()}


def test_an_adapter_takes_the_mask_and_the_weights(examples, generator):
    torch.manual_seed(0)
    learner = GradientLearner(MAML(Reader(WAY), inner_lr=0.5))
    adapter, real = adapter_of(learner), without_padding(examples)
    *_, adapted = learner.adapt(real, 3, generator)
    expected = learner.predict(adapted, real.inputs, mask=real.mask)[0].numpy()
    inputs, mask, targets = real.inputs[0].numpy(), real.mask[0].numpy(), real.targets[0].numpy()
    adapter.adapt(inputs, targets, mask=mask, steps=3)
    np.testing.assert_allclose(adapter.outputs(inputs, mask=mask), expected, rtol=1e-5, atol=1e-6)
    assert (adapter.predict(inputs, mask=mask) == expected.argmax(1)).all()
    adapter.adapt(examples, steps=3)  # the last example has no weight
    outputs = adapter.outputs(real.inputs, mask=real.mask)[0]
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    refused = [(mask[:, :3], "a mask of the shape"), (mask * 2, "a mask of the shape")]
    for wrong, message in [*refused, (mask & False, "a real element")]:
        with pytest.raises(ShapeError, match=message):
            adapter.adapt(inputs, targets, mask=wrong)


@pytest.mark.slow
def test_a_metric_learner_takes_the_mask(examples, generator, tmp_path):
    needs_onnx()
    torch.manual_seed(0)
    learner = Matching(Reader())
    export_adaptation(learner, tmp_path / "out", tasks=TaskBatch(examples, examples))
    found, real = OnnxAdaptation(tmp_path / "out"), without_padding(examples)
    *_, adapted = learner.adapt(real, 0, generator)
    expected = learner.predict(adapted, real.inputs, mask=real.mask)[0]
    rows = as_rows(real)
    found.adapt(targets=real.targets[0].numpy(), **rows)
    np.testing.assert_allclose(found.predict(**rows), expected, rtol=1e-5, atol=1e-5)
    rows["inputs"] = np.where(rows["mask"][..., None], rows["inputs"], 9.0)  # padding is not read
    np.testing.assert_allclose(found.predict(**rows), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(ShapeError, match="Expected mask"):
        found.predict(rows["inputs"])


@pytest.mark.slow
def test_a_gradient_learner_takes_the_mask(examples, generator, tmp_path):
    needs_onnx()
    torch.manual_seed(0)
    learner = GradientLearner(MAML(Reader(WAY), inner_lr=0.5))
    tasks = TaskBatch(examples, examples)
    export_adaptation(learner, tmp_path / "out", tasks=tasks)
    found, real = OnnxAdaptation(tmp_path / "out"), without_padding(examples)
    *_, adapted = learner.adapt(real, 3, generator)
    rows = as_rows(real)
    for _ in range(3):
        found.adapt(targets=real.targets[0].numpy(), **rows)
    assert_same(found.theta, adapted.params)
    expected = learner.predict(adapted, real.inputs, mask=real.mask)[0]
    np.testing.assert_allclose(found.predict(**rows), expected, rtol=1e-5, atol=1e-5)
    export_network(learner, tmp_path / "net.pt2", "torch", lambda: tasks, 3, 0)
    network = torch.export.load(tmp_path / "net.pt2").module()
    outputs = network(real.inputs[0], real.mask[0])[0]
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
