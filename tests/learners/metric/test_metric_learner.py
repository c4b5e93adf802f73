"""What holds for every metric learner: what it may see, what order changes, what it refuses."""

import dataclasses

import pytest
import torch

from metarl.adaptation.algorithms import MAMLAlgorithm
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.evaluation.curves import adaptation_curve
from metarl.evaluation.few_shot_protocol import few_shot_curves
from metarl.learners.images.layers import SharedNorm
from metarl.learners.metric import algorithms as m
from metarl.runs.checkpoints import load_checkpoint
from metarl.tasks import Examples, Sine
from metarl.training.compilation import CompiledGradient
from metarl.training.loop import OuterLoop
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors
from tests.image_problems import image_problem

LEARNERS = {
    "prototypical": m.PrototypicalAlgorithm(),
    "matching": m.MatchingAlgorithm(),
    "matching-euclidean": m.MatchingAlgorithm("euclidean"),
    "matching-context": m.MatchingAlgorithm(context_steps=2),
    "matching-pyramid": m.MatchingAlgorithm(
        embedding=m.EmbeddingSettings("pyramid", bfloat16=True)
    ),
    "reconstruction": m.ReconstructionAlgorithm(),
    "reconstruction-views": m.ReconstructionAlgorithm(bfloat16=True, views=3),
    "relation": m.RelationAlgorithm(),
    "siamese": m.SiameseAlgorithm(units=8),
    "nearest-neighbour": m.NearestNeighbourAlgorithm(),
}
NORMALISED = {
    "ConvEmbedding",
    "PyramidEmbedding",
    "MapEmbedding",
    "AveragedViews",
    "RelationEmbedding",
}
ORDERED = {"matching-context"}  # those that read the support set as a sequence


@pytest.fixture(params=LEARNERS)
def name(request):
    return request.param


@pytest.fixture
def learner(name, glyphs):
    """A learner after two meta-iterations, so that its running moments mean something."""
    generator = torch.Generator().manual_seed(0)
    learner = LEARNERS[name].build(image_problem(generator))
    step = MetaStep(learner, TrainingSettings())
    for i in range(2):
        inputs = learner.collect(glyphs.sample(2, generator), generator, i)
        learner.after_update(step(inputs, i).carry)
    return learner


@pytest.fixture
def tasks(glyphs, generator):
    return glyphs.sample(3, generator)


def scores(learner, support, queries, transductive=True):
    (adapted,) = learner.adapt(support, 0, torch.Generator().manual_seed(5))
    return learner.predict(adapted, queries, transductive)


def taken(examples, index):
    return Examples(examples.inputs[:, index], examples.targets[:, index])


def test_no_prediction_sees_the_labels_of_queries(learner, tasks):
    """What training computes before the loss and the accuracy is the same for any labels."""
    outputs = []
    learner.comparison.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    for shift in (0, 1):
        targets = (tasks.query.targets + shift) % 3
        changed = dataclasses.replace(tasks, query=Examples(tasks.query.inputs, targets))
        learner(learner.collect(changed, torch.Generator().manual_seed(1), 0))
    assert torch.equal(outputs[0], outputs[1])


def test_a_query_is_predicted_on_its_own(learner, tasks):
    together = [scores(learner, tasks.support, tasks.query.inputs, t) for t in (True, False)]
    assert torch.equal(together[0], together[1])
    for j in range(tasks.query.inputs.shape[1]):
        alone = scores(learner, tasks.support, tasks.query.inputs[:, j : j + 1])
        torch.testing.assert_close(alone[:, 0], together[0][:, j], rtol=1e-4, atol=1e-5)


def test_no_result_counts_as_transductive(learner, glyphs, generator):
    curve = adaptation_curve(learner, glyphs, num_tasks=2, steps=0, generator=generator)
    assert not curve.transductive
    assert list(few_shot_curves(learner, glyphs, num_tasks=2, steps=0)) == ["non-transductive"]


def test_every_step_gives_the_same(learner, tasks, generator):
    states = list(learner.adapt(tasks.support, 3, generator))
    assert len(states) == 4 and all(state is states[0] for state in states)


def test_the_order_of_the_support_changes_nothing(name, learner, tasks):
    order = torch.tensor([4, 1, 5, 0, 3, 2])
    before = scores(learner, tasks.support, tasks.query.inputs)
    after = scores(learner, taken(tasks.support, order), tasks.query.inputs)
    same = torch.allclose(before, after, rtol=1e-4, atol=1e-5)
    assert same == (name not in ORDERED)


def test_the_order_of_the_classes_reorders_the_scores(learner, tasks):
    support, renamed = tasks.support, torch.tensor([2, 0, 1])
    before = scores(learner, support, tasks.query.inputs)
    other = Examples(support.inputs, renamed[support.targets])
    after = scores(learner, other, tasks.query.inputs)
    torch.testing.assert_close(after[:, :, renamed], before, rtol=1e-4, atol=1e-5)


def test_unequal_shots_are_welcome(learner, tasks):
    outputs = scores(learner, taken(tasks.support, [0, 1, 2, 4]), tasks.query.inputs)
    assert outputs.shape == (3, 6, 3) and torch.isfinite(outputs).all()
    mixed = Examples(tasks.support.inputs, tasks.support.targets.clone())
    mixed.targets[1] = torch.tensor([0, 1, 1, 1, 1, 2])  # other shots in another task
    outputs = scores(learner, mixed, tasks.query.inputs)
    alone = scores(learner, Examples(*(t[1:2] for t in mixed[:2])), tasks.query.inputs[1:2])
    if learner.comparison.ordered:
        return  # the two drew other orders
    torch.testing.assert_close(outputs[1:2], alone, rtol=1e-4, atol=1e-5)


def test_more_ways_in_training_than_in_the_test(learner, glyphs, generator):
    assert glyphs.way == 3, "it was trained with"
    for way in (2, 5):
        tasks = dataclasses.replace(glyphs, way=way).sample(2, generator)
        assert scores(learner, tasks.support, tasks.query.inputs).shape == (2, 2 * way, way)


def test_a_support_that_lacks_a_class_is_refused(learner, tasks, generator):
    message = "task 0 has none of class 1"
    lacking = taken(tasks.support, [0, 1, 4, 5])
    with pytest.raises(TaskError, match=message):
        next(learner.adapt(lacking, 0, generator))
    with pytest.raises(TaskError, match=message):
        learner.collect(dataclasses.replace(tasks, support=lacking), generator, 0)
    with pytest.raises(TaskError, match="none of class 2"):  # only queries have it
        last = taken(tasks.support, [0, 1, 2, 3])
        learner.collect(dataclasses.replace(tasks, support=last), generator, 0)


def test_values_in_place_of_labels_are_refused(learner, generator):
    tasks = Sine(4, 4).sample(2, generator)
    with pytest.raises(TaskError, match="Expected integer class labels"):
        learner.collect(tasks, generator, 0)


def test_images_of_another_size_are_refused(name, learner, tasks, generator):
    small = Examples(tasks.support.inputs[..., :20, :20], tasks.support.targets)
    with pytest.raises(ShapeError, match="20"):
        scores(learner, small, tasks.query.inputs)


def test_a_stopped_run_resumes_to_the_bit(name, glyphs, tmp_path):
    def train(folder, iterations, resume=None):
        settings = TrainingSettings(iterations, meta_batch_size=3)
        generator = torch.Generator().manual_seed(0)
        learner = LEARNERS[name].build(image_problem(generator))
        loop = OuterLoop(learner, glyphs, settings, folder, resume=resume)
        loop.run()
        loop.logger.close()
        return load_checkpoint(loop.checkpoints.latest()).weights, loop.checkpoints.latest()

    _, half = train(tmp_path / "cut", 3)
    resumed, _ = train(tmp_path / "cut", 6, half)
    whole, _ = train(tmp_path / "whole", 6)
    assert resumed.keys() == whole.keys()
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_gradient_learners_take_no_other_way_in_training(generator):
    with pytest.raises(SettingsError, match="train_way of 3, got 20"):
        MAMLAlgorithm().build(image_problem(generator, train_way=20))


def test_training_moves_the_running_moments(learner):
    norms = [module for module in learner.modules() if isinstance(module, SharedNorm)]
    assert bool(norms) == (learner.embedding.__class__.__name__ in NORMALISED)
    for norm in norms:
        assert not torch.equal(norm.mean, torch.zeros_like(norm.mean))
        assert not torch.equal(norm.variance, torch.ones_like(norm.variance))


@pytest.mark.parametrize("name", ["prototypical", "relation"])
def test_its_captured_gradient_is_that_of_autograd(learner, tasks, generator):
    params = [p for p in learner.parameters() if p.requires_grad]
    inputs = learner.collect(tasks, generator, 0)
    gradient = CompiledGradient(learner, params, lambda graph, tensors: graph)
    captured, result = gradient(inputs, len(tasks.support.targets))
    loss = learner(inputs)
    expected = torch.autograd.grad(loss.losses.mean(), params, allow_unused=True)
    for a, b in zip(expected, captured, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(result.carry, loss.carry)


@pytest.mark.parametrize("name", ["prototypical"])
def test_few_large_or_many_small_episodes_go_through_at_once(learner, tasks, generator):
    inputs = learner.collect(tasks, generator, 0)
    assert learner.preferred_chunk_size(inputs) == 16  # of 6 + 6 images
    large = map_tensors(lambda t: t.repeat_interleave(20, 1), tasks)
    assert learner.preferred_chunk_size(learner.collect(large, generator, 0)) == 1
