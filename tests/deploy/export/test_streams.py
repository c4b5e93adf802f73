"""Exported learners of streams read example after example as the learner does."""

import numpy as np
import pytest
import torch

import metarl
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import NonFiniteError, SettingsError, ShapeError
from metarl.learners import ImageShape, StreamReader, Thumbnail
from metarl.learners.memory.networks import (
    FeedforwardOptions,
    MemoryAugmentedOptions,
    RecurrentOptions,
)
from metarl.tasks.base import Examples, TaskBatch
from metarl.tasks.streams import LabelCode
from tests.deploy.export.test_adaptation import needs_onnx

LENGTH = 12
CODE = LabelCode(2, 3)
NETWORKS = {
    "lstm": RecurrentOptions(5),
    "mann": MemoryAugmentedOptions(units=6, slots=LENGTH, width=4, reads=2),
    "feedforward": FeedforwardOptions(6),
}


def stream(generator):
    images = torch.rand(1, LENGTH, 1, 6, 6, generator=generator)
    labels = torch.randint(0, CODE.size, (1, LENGTH), generator=generator)
    examples = Examples(images, labels)
    return TaskBatch(examples, examples)


def exported(name, folder):
    needs_onnx()
    generator = torch.Generator().manual_seed(0)
    embedding = Thumbnail(ImageShape(1, 6), 3)
    network = NETWORKS[name].make(embedding.features + CODE.width, CODE.width, generator)
    learner = StreamReader(embedding, network, CODE)
    assert export_adaptation(learner, folder, tasks=stream(generator)) < 1e-5
    return learner


@pytest.fixture(scope="module")
def lstm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lstm") / "out"
    return exported("lstm", folder), folder


def check_stream(learner, found, generator):
    """Compares the scores of two whole streams."""
    for _ in range(2):
        tasks = stream(generator)
        expected = learner.outputs(tasks.query)[0].detach()
        found.reset()
        label = None
        for image, after, wanted in zip(*(t[0] for t in tasks.query[:2]), expected, strict=True):
            scores = found.read(image.numpy(), label)
            np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
            label = int(after)


def test_a_stream_is_read_as_in_torch(lstm, generator):
    check_stream(lstm[0], OnnxAdaptation(lstm[1]), generator)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mann", "feedforward"])
def test_every_network_reads_streams(name, generator, tmp_path):
    learner = exported(name, tmp_path / "out")
    found = OnnxAdaptation(tmp_path / "out")
    check_stream(learner, found, generator)
    if name == "mann":
        with pytest.raises(SettingsError, match="at most 12 examples"):
            found.read(np.zeros((1, 6, 6), np.float32), 0)


def test_what_is_no_stream_is_refused(lstm):
    found, image = OnnxAdaptation(lstm[1]), np.zeros((1, 6, 6), np.float32)
    with pytest.raises(SettingsError, match="all examples but the first"):
        found.read(image, 1)
    with pytest.raises(NonFiniteError):
        found.read(image * np.nan)
    with pytest.raises(ShapeError, match="inputs of shape"):
        found.read(image[0])
    found.read(image)
    for label, error in ((None, SettingsError), (9, ShapeError), (0.5, ShapeError)):
        with pytest.raises(error, match="label"):
            found.read(image, label)
    for call in (lambda: found.adapt(inputs=image), lambda: found.act(image)):
        with pytest.raises(SettingsError, match="`read`"):
            call()
    with pytest.raises(SettingsError, match="reads streams"):
        metarl.load(lstm[1])
