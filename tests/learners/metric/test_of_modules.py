"""Metric learners on the features of ordinary modules."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.learners import (
    EpisodeReader,
    Feedforward,
    ImageShape,
    Matching,
    MetricLearner,
    ModuleEmbedding,
    NearestNeighbours,
    Prototypes,
    Prototypical,
    ReconstructionNetwork,
    RelationNetwork,
    Siamese,
    StreamReader,
    ZeroShotPrototypes,
)
from metarl.learners.images.views import AveragedViews
from metarl.learners.metric.classifier import FeatureClassifier
from metarl.tasks import Examples, Glyphs, TaskBatch
from metarl.tasks.distortions import Distortion
from metarl.tasks.streams import LabelCode
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors

TASKS, WAY = 3, 3


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.fixture
def tasks(generator):
    return Glyphs(WAY, 2, 2, alphabets=4, characters=4, drawings=6).sample(TASKS, generator)


def convolutions(dropout=0.0):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout),
        nn.Flatten(), nn.Linear(4 * 7 * 7, 6),
    )  # fmt: skip


def test_prototypical_losses_are_those_of_each_task_alone(tasks, generator):
    net = convolutions()
    learner = Prototypical(net)
    losses = learner(learner.collect(tasks, generator, 0)).losses
    grads = torch.autograd.grad(losses.mean(), list(net.parameters()), allow_unused=True)
    expected = []
    for t in range(TASKS):
        count = tasks.support.targets.shape[1]
        features = net(torch.cat((tasks.support.inputs[t], tasks.query.inputs[t])))
        labels = tasks.support.targets[t]
        prototypes = torch.stack([features[:count][labels == k].mean(0) for k in range(WAY)])
        distances = torch.cdist(features[count:], prototypes).square()
        expected.append(F.cross_entropy(-distances, tasks.query.targets[t]))
    torch.testing.assert_close(losses, torch.stack(expected), rtol=1e-4, atol=1e-5)
    plain = torch.autograd.grad(torch.stack(expected).mean(), list(net.parameters()))
    for grad, p, other in zip(grads, net.parameters(), plain, strict=True):
        grad = torch.zeros_like(p) if grad is None else grad
        torch.testing.assert_close(grad, other, rtol=1e-3, atol=1e-4)


def test_they_are_evaluated_in_inference_mode(tasks, generator):
    expected = list(Prototypical(convolutions()).evaluate(tasks, 0, generator))
    learner = Prototypical(convolutions())
    with torch.inference_mode():
        found = list(learner.evaluate(tasks, 0, generator))
    torch.testing.assert_close(found, expected)


def test_running_statistics_follow_the_tasks_and_are_used(tasks, generator):
    net = convolutions()
    learner = Prototypical(net)
    learner.after_update(learner(learner.collect(tasks, generator, 0)).carry)
    hidden = net[0](torch.cat((tasks.support.inputs, tasks.query.inputs), 1).flatten(0, 1))
    means = hidden.unflatten(0, (TASKS, -1)).mean((0, 1, 3, 4))
    torch.testing.assert_close(net[1].running_mean, 0.1 * means, rtol=1e-4, atol=1e-6)
    (adapted,) = learner.adapt(tasks.support, 0, generator)
    together = learner.predict(adapted, tasks.query.inputs)
    alone = learner.predict(adapted, tasks.query.inputs[:, :1])
    torch.testing.assert_close(together[:, :1], alone)
    features = copy.deepcopy(net).eval()(tasks.query.inputs[0])
    torch.testing.assert_close(learner.embedding(tasks.query.inputs, None)[0], features)


def test_a_normalisation_that_is_called_twice_follows_both_calls(generator):
    norm = nn.BatchNorm1d(3, momentum=0.5)
    net = nn.Sequential(norm, nn.Linear(3, 3), nn.Tanh(), norm)
    x = 3 + torch.randn(2, 8, 3, generator=generator)
    examples = Examples(x, torch.arange(8).remainder(2).expand(2, 8))
    learner = Prototypical(net)
    losses = learner(learner.collect(TaskBatch(examples, examples), generator, 0))
    batches = torch.cat((x, x), 1)
    hidden = torch.stack([net[:3](batch) for batch in batches])
    norm.reset_running_stats()
    learner.after_update(losses.carry)
    means = (batches.mean((0, 1)) + hidden.mean((0, 1))) / 2
    torch.testing.assert_close(norm.running_mean, 0.5 * means)


@pytest.mark.parametrize(
    "build",
    [
        Prototypical,
        Matching,
        lambda net: Matching(net, "euclidean"),
        lambda net: Matching(
            net, context_steps=2, features=6, generator=torch.Generator().manual_seed(0)
        ),
        lambda net: Siamese(net, 6, torch.Generator().manual_seed(0)),
        NearestNeighbours,
    ],
)
def test_they_train(build, tasks, generator):
    learner = build(convolutions(dropout=0.1))
    step = MetaStep(learner, TrainingSettings(outer_lr=0.01))
    losses = []
    for i in range(8):
        inputs = learner.collect(tasks, torch.Generator().manual_seed(1), i)
        assert torch.equal(learner(inputs).losses, learner(inputs).losses)  # the same masks
        result = step(inputs, i)
        learner.after_update(result.carry)
        losses.append(result.losses.mean().item())
    assert losses[-1] < losses[0]
    (note,) = learner.notes()
    assert "task-batched" in note
    for copied in (copy.deepcopy(learner), pickle.loads(pickle.dumps(learner))):
        assert torch.equal(copied(inputs).losses, learner(inputs).losses)


def test_relation_and_reconstruction_networks_compare_maps(tasks, generator):
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU())
    for learner in (RelationNetwork(net, 4, 7, generator), ReconstructionNetwork(net)):
        assert learner(learner.collect(tasks, generator, 0)).losses.shape == (TASKS,)
    flat = ReconstructionNetwork(nn.Sequential(net, nn.Flatten()))
    with pytest.raises(ShapeError, match="expected an embedding with feature maps"):
        flat(flat.collect(tasks, generator, 0))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_comparisons_have_the_type_of_the_network(dtype, tasks, generator):
    net, maps = convolutions().to(dtype), nn.Conv2d(1, 4, 3, stride=4).to(dtype)
    tasks = map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, tasks)
    for learner in (
        Matching(net),
        Matching(net, context_steps=2, features=6, generator=generator),
        Siamese(net, 6, generator),
        RelationNetwork(maps, 4, 7, generator),
        ReconstructionNetwork(maps),
    ):
        learner(learner.collect(tasks, generator, 0)).losses.sum().backward()
        (accuracies,) = learner.evaluate(tasks, 0, generator)
        assert accuracies.isfinite().all()


def test_vectors_and_the_inputs_themselves(generator):
    x = torch.randn(2, 4, 5, generator=generator)
    support = Examples(x, torch.arange(4).expand(2, -1))
    learner = NearestNeighbours()
    (adapted,) = learner.adapt(support, 0, generator)
    outputs = learner.predict(adapted, x + 0.01)
    assert torch.equal(outputs.argmax(2), support.targets)
    assert Prototypical(nn.Linear(5, 3)).evaluate(TaskBatch(support, support), 0, generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tokens_take_the_type_of_the_network(dtype, generator):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(7, 4), nn.Flatten()).to(dtype)
    labels = torch.arange(6).remainder(WAY).expand(TASKS, -1)
    x, q = (torch.randint(7, (TASKS, 6, 2), generator=generator) for _ in range(2))
    learner = Prototypical(net)
    tokens = TaskBatch(Examples(x, labels), Examples(q, labels))
    losses = learner(learner.collect(tokens, generator, 0)).losses
    for t in range(TASKS):
        prototypes = torch.stack([net(x[t])[labels[t] == k].mean(0) for k in range(WAY)])
        distances = (net(q[t]).unsqueeze(1) - prototypes).square().sum(2)
        torch.testing.assert_close(losses[t], F.cross_entropy(-distances, labels[t]))
    assert next(iter(learner.evaluate(tokens, 0, generator))).shape == (TASKS,)


def test_features_that_are_no_real_numbers_are_refused(generator):
    labels = torch.arange(6).remainder(WAY).expand(TASKS, -1)
    pixels = torch.randint(255, (TASKS, 6, 4), generator=generator).to(torch.uint8)
    examples = Examples(pixels, labels)
    with pytest.raises(ShapeError, match=r"real numbers, got torch\.uint8"):
        list(NearestNeighbours().evaluate(TaskBatch(examples, examples), 0, generator))


def test_what_is_refused(tasks, generator):
    tuples = nn.Module()
    tuples.forward = lambda x: (x, x)  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ShapeError, match="returns one tensor of features"):
        Prototypical(tuples).embedding(tasks.query.inputs, {})
    grouped = nn.Sequential(nn.Flatten(), nn.Unflatten(1, (7, -1)))  # [N, 7, 112]
    with pytest.raises(ShapeError, match="returns one tensor of features"):
        Prototypical(grouped).embedding(tasks.query.inputs, {})
    norm = nn.BatchNorm2d(1, track_running_stats=False)
    with pytest.raises(SettingsError, match="track_running_stats=True"):
        Prototypical(norm).embedding(tasks.query.inputs, None)
    with pytest.raises(SettingsError, match="have further weights"):
        Matching(norm, context_steps=1)


class MixesExamples(nn.Module):
    """Attention over the examples of a batch."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(self.embed(x).unsqueeze(0)).squeeze(0)


def vectors(generator, weights=None):
    x = torch.randn(TASKS, 6, 3, generator=generator)
    labels = torch.arange(WAY).repeat(TASKS, 2)
    return TaskBatch(Examples(x, labels, weights), Examples(x.flip(1), labels.flip(1)))


def test_modules_that_mix_examples_are_refused(generator):
    tasks = vectors(generator)
    for net in (MixesExamples(), nn.Sequential(nn.Linear(3, 4), nn.Softmax(0))):
        learner = Prototypical(net)
        with pytest.raises(SettingsError, match="features of each example by itself"):
            learner(learner.collect(tasks, generator, 0))
        with pytest.raises(SettingsError, match="features of each example by itself"):
            list(learner.adapt(tasks.support, 0, generator))


def test_weights_are_for_modules_without_batch_normalisation(generator):
    weights = torch.ones(TASKS, 6)
    weights[0, 3:] = 0
    tasks = vectors(generator, weights)
    learner = Prototypical(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)))
    losses = learner(learner.collect(tasks, generator, 0)).losses
    alone = TaskBatch(
        Examples(tasks.support.inputs[:1, :3], tasks.support.targets[:1, :3]),
        Examples(tasks.query.inputs[:1], tasks.query.targets[:1]),
    )
    torch.testing.assert_close(losses[:1], learner(learner.collect(alone, generator, 0)).losses)
    learner = Prototypical(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    with pytest.raises(ShapeError, match="The examples have weights"):
        learner.collect(tasks, generator, 0)


def test_tasks_of_one_batch_have_as_many_classes_each(generator):
    tasks = vectors(generator)
    fewer = tasks.support.targets.clone()
    fewer[1] = fewer[1] % (WAY - 1)
    tasks = TaskBatch(tasks.support._replace(targets=fewer), tasks.query)
    learner = Prototypical(nn.Linear(3, 4))
    with pytest.raises(TaskError, match="task 1 has none of class 2"):
        learner.collect(tasks, generator, 0)


def test_tasks_of_one_class_are_for_evaluation_alone(generator):
    tasks = Glyphs(1, 2, 2, alphabets=4, characters=4, drawings=6).sample(TASKS, generator)
    learner = Prototypical(convolutions())
    with pytest.raises(TaskError, match="at least 2 classes for training, got 1"):
        learner.collect(tasks, generator, 0)
    (accuracies,) = learner.evaluate(tasks, 0, generator)
    assert accuracies.tolist() == [1.0] * TASKS


def test_features_that_a_comparison_was_not_built_for_are_refused(tasks, generator):
    vectors, maps = convolutions(), convolutions()[:3]  # 4 x 7 x 7 numbers
    for learner, message in (
        (Prototypical(maps), r"Prototypes compares vectors.*got \(3, 6, 4, 7, 7\).*nn.Flatten"),
        (Matching(maps), "Attention compares vectors"),
        (Matching(maps, context_steps=1, features=4, generator=generator), "compares vectors"),
        (NearestNeighbours(maps), "NearestNeighbour compares vectors"),
        (Siamese(maps, 4, generator), "WeightedDifference compares vectors"),
        (Siamese(vectors, 9, generator), "built for 9 features.*returns 6: .*`features=6`"),
        (
            Matching(vectors, context_steps=1, features=9, generator=generator),
            "ContextAttention was built for 9 features",
        ),
        (RelationNetwork(vectors, 4, 7, generator), r"maps \[T, N, 4, H, W\] of 4 to 7 pixels"),
        (RelationNetwork(maps, 8, 7, generator), r"maps \[T, N, 8, H, W\]"),
        (RelationNetwork(maps, 4, 8, generator), "of 8 to 11 pixels, got features"),
    ):
        with pytest.raises(ShapeError, match=message):
            learner(learner.collect(tasks, generator, 0))


def test_copies_keep_the_modes_of_layers():
    net = convolutions(dropout=0.1)
    net[1].eval()
    for copied in (copy.deepcopy(Prototypical(net)), pickle.loads(pickle.dumps(Prototypical(net)))):
        assert [layer.training for layer in copied.embedding.net.children()] == [
            i != 1 for i in range(6)
        ]


def test_running_statistics_may_be_the_mean_of_all_batches(tasks, generator):
    net = convolutions()
    net[1].momentum = None
    learner = Prototypical(net)
    means = []
    for scale in (1.0, 2.0, 4.0):
        sets = (e._replace(inputs=scale * e.inputs) for e in (tasks.support, tasks.query))
        carry = learner(learner.collect(TaskBatch(*sets), generator, 0)).carry
        learner.after_update(carry)
        means.append(next(iter(carry.values()))[0].mean(0))
    torch.testing.assert_close(net[1].running_mean, torch.stack(means).mean(0))


def with_dropout():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 32), nn.ReLU(), nn.Dropout(0.5))
    return ModuleEmbedding(net)


LEARNERS = {
    "classifier": lambda g: FeatureClassifier(with_dropout(), 32, 100, g),
    "zero-shot": lambda g: ZeroShotPrototypes(with_dropout(), nn.Linear(2, 32)),
    "episode reader": lambda g: EpisodeReader(with_dropout(), Feedforward(32 + WAY, WAY, g), WAY),
    "stream reader": lambda g: StreamReader(
        with_dropout(), Feedforward(32 + WAY, WAY, g), LabelCode(1, WAY)
    ),
    "views": lambda g: MetricLearner(
        AveragedViews(with_dropout(), 2, Distortion(tilt=5), ImageShape(), g), Prototypes()
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_dropout_is_active_in_every_learner_with_an_embedding(name, tasks, generator):
    learner = LEARNERS[name](generator)
    tasks = replace(tasks, info={**tasks.info, "descriptions": torch.ones(TASKS, WAY, 2)})
    inputs = learner.collect(tasks, generator, 0)
    other = replace(inputs, noise=learner.collect(tasks, generator, 0).noise)
    losses = learner(inputs).losses
    assert not torch.allclose(losses, learner(other).losses)
    torch.testing.assert_close(losses, learner(inputs).losses)
