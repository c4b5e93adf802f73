"""What holds for every learner of episodes that remembers: what it may see, what it refuses."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.evaluation.few_shot_protocol import few_shot_curves
from metarl.learners.images.embeddings import ImageShape, Thumbnail
from metarl.learners.memory import algorithms as m
from metarl.learners.memory.episode_reader import EpisodeReader
from metarl.learners.memory.meta_network import MetaNetwork
from metarl.learners.memory.networks import MemoryAugmentedOptions, RecurrentOptions
from metarl.learners.metric.classifier import FeatureClassifier
from metarl.runs.checkpoints import load_checkpoint
from metarl.tasks import Examples, Glyphs, Sine
from metarl.training.loop import OuterLoop
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from tests.image_problems import image_problem

SMALL = MemoryAugmentedOptions(units=8, slots=8, width=6, reads=2)
LEARNERS = {
    "mann": m.MANNAlgorithm(SMALL, "convolutions"),
    "mann-pixels": m.MANNAlgorithm(SMALL),
    "lstm": m.MANNAlgorithm(RecurrentOptions(8)),
    "metanet": m.MetaNetAlgorithm(features=6),
}


@pytest.fixture(params=LEARNERS)
def name(request):
    return request.param


@pytest.fixture(params=[1, 2])
def tasks(request, glyphs, generator):
    return dataclasses.replace(glyphs, shots=request.param).sample(3, generator)


def build(name):
    return LEARNERS[name].build(image_problem(torch.Generator().manual_seed(0)))


@pytest.fixture
def learner(name, glyphs):
    """A learner after two meta-iterations."""
    generator, learner = torch.Generator().manual_seed(0), build(name)
    step = MetaStep(learner, TrainingSettings())
    for i in range(2):
        inputs = learner.collect(glyphs.sample(2, generator), generator, i)
        learner.after_update(step(inputs, i).carry)
    return learner


def outputs_of(learner, support, queries):
    (adapted,) = learner.adapt(support, 0, torch.Generator().manual_seed(5))
    return learner.predict(adapted, queries)


def taken(examples, index):
    return Examples(examples.inputs[:, index], examples.targets[:, index])


def test_no_prediction_sees_the_labels_of_queries(learner, tasks, monkeypatch):
    outputs = []
    answer = learner._query_logits
    monkeypatch.setattr(
        learner, "_query_logits", lambda *a: outputs.append(answer(*a)) or outputs[-1]
    )
    for shift in (0, 1):
        targets = (tasks.query.targets + shift) % 3
        changed = dataclasses.replace(tasks, query=Examples(tasks.query.inputs, targets))
        learner(learner.collect(changed, torch.Generator().manual_seed(1), 0))
    assert torch.equal(outputs[0], outputs[1])


def test_it_sees_the_labels_of_the_support(learner, tasks):
    before = outputs_of(learner, tasks.support, tasks.query.inputs)
    other = tasks.support._replace(targets=(tasks.support.targets + 1) % 3)
    assert not torch.allclose(before, outputs_of(learner, other, tasks.query.inputs))


def test_a_query_is_predicted_on_its_own_and_changes_nothing(learner, tasks):
    (adapted,) = learner.adapt(tasks.support, 0, torch.Generator().manual_seed(5))
    together = learner.predict(adapted, tasks.query.inputs)
    assert torch.equal(learner.predict(adapted, tasks.query.inputs, False), together)
    for j in range(tasks.query.inputs.shape[1]):
        alone = learner.predict(adapted, tasks.query.inputs[:, j : j + 1])
        torch.testing.assert_close(alone[:, 0], together[:, j], rtol=1e-4, atol=1e-5)


def test_training_predicts_as_evaluation_does(name, tasks, generator):
    """But for batch normalisation, which only training takes from the episode."""
    learner = build(name)
    if name == "mann":
        return
    inputs = learner.collect(tasks, torch.Generator().manual_seed(5), 0)
    outputs = outputs_of(learner, tasks.support, tasks.query.inputs)
    right = (outputs.argmax(2) == tasks.query.targets).float().mean(1)
    torch.testing.assert_close(learner(inputs).metrics["train/accuracy"], right)


def test_the_loss_of_a_reader_counts_every_step(tasks, generator):
    """Each query ends another sequence; the support's steps are guessed before their label."""
    learner = build("mann-pixels")
    inputs = learner.collect(tasks, generator, 0)
    for t, loss in enumerate(learner(inputs).losses):
        order = inputs.order[t]
        images, labels = (part[t, order] for part in tasks.support[:2])
        before = torch.cat((torch.zeros(1, 3), F.one_hot(labels, 3).float()))
        entropies = []
        for image, label in zip(tasks.query.inputs[t], tasks.query.targets[t], strict=True):
            features = learner.embedding(torch.cat((images, image.unsqueeze(0)))[None], None)[0]
            outputs, _ = learner.network.run(torch.cat((features, before), 1).unsqueeze(0))
            every = F.cross_entropy(
                outputs[0], torch.cat((labels, label.view(1))), reduction="none"
            )
            entropies.append(every[-1])
        expected = torch.cat((every[:-1], torch.stack(entropies))).mean()
        torch.testing.assert_close(loss, expected)


def test_no_result_counts_as_transductive_and_every_step_gives_the_same(learner, glyphs, generator):
    assert list(few_shot_curves(learner, glyphs, num_tasks=2, steps=0)) == ["non-transductive"]
    states = list(learner.adapt(glyphs.sample(2, generator).support, 3, generator))
    assert len(states) == 4 and all(state is states[0] for state in states)


def test_the_order_in_which_the_support_is_given_tells_nothing(learner, tasks):
    """It is read in another order: with that one undone, all is as before."""
    order = torch.randperm(tasks.support.targets.shape[1], generator=torch.Generator())
    before = outputs_of(learner, tasks.support, tasks.query.inputs)
    drawn = learner._draw_order if hasattr(learner, "_draw_order") else learner._draw_examples
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order)))
    name = drawn.__name__
    setattr(learner, name, lambda _, *others: place[drawn(tasks.support, *others)])
    after = outputs_of(learner, taken(tasks.support, order), tasks.query.inputs)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)


def test_unequal_shots_are_refused(learner, glyphs, generator):
    tasks = glyphs.sample(3, generator)
    message = "2 support examples of every class.*task 0 has 1 of class 1"
    unequal = taken(tasks.support, [0, 1, 2, 4, 5])
    with pytest.raises(TaskError, match=message):
        next(learner.adapt(unequal, 0, generator))
    with pytest.raises(TaskError, match=message):
        learner.collect(dataclasses.replace(tasks, support=unequal), generator, 0)
    mixed = tasks.support._replace(targets=tasks.support.targets.clone())
    mixed.targets[2] = torch.tensor([0, 0, 1, 2, 2, 2])
    with pytest.raises(TaskError, match="task 2 has 1 of class 1"):
        next(learner.adapt(mixed, 0, generator))


def test_a_support_that_lacks_a_class_is_refused(learner, glyphs, generator):
    tasks = glyphs.sample(3, generator)
    lacking = taken(tasks.support, [0, 1, 4, 5])
    with pytest.raises(TaskError, match="task 0 has none of class 1"):
        next(learner.adapt(lacking, 0, generator))
    with pytest.raises(TaskError, match="none of class 2"):
        last = dataclasses.replace(tasks, support=taken(tasks.support, [0, 1, 2, 3]))
        learner.collect(last, generator, 0)


@pytest.mark.parametrize("way", [2, 4])
def test_another_number_of_classes_is_refused(way, learner, glyphs, generator):
    tasks = dataclasses.replace(glyphs, way=way).sample(2, generator)
    with pytest.raises(TaskError, match=f"Expected 3 classes.*got {way}"):
        learner.collect(tasks, generator, 0)
    with pytest.raises(TaskError, match=f"Expected 3 classes.*got {way}"):
        next(learner.adapt(tasks.support, 0, generator))


def test_values_in_place_of_labels_are_refused(learner, generator):
    with pytest.raises(TaskError, match="Expected integer class labels"):
        learner.collect(Sine(4, 4).sample(2, generator), generator, 0)


def test_images_of_another_size_are_refused(learner, tasks):
    small = tasks.support._replace(inputs=tasks.support.inputs[..., :20, :20])
    with pytest.raises(ShapeError, match="20"):
        outputs_of(learner, small, tasks.query.inputs)


def test_a_support_longer_than_the_memory_is_refused(glyphs, generator):
    support = dataclasses.replace(glyphs, shots=3).sample(2, generator).support
    with pytest.raises(TaskError, match=r"at most 8 steps.*got 10"):  # a query comes last
        next(build("mann").adapt(support, 0, generator))


def test_training_tasks_may_have_fewer_classes_than_test_tasks(glyphs, generator):
    """Every output of Meta Networks learns, each class of a task on another one."""
    learner = LEARNERS["metanet"].build(image_problem(generator, train_way=2))
    tasks = dataclasses.replace(glyphs, way=2).sample(30, generator)
    drawn = learner.collect(tasks, generator, 0).tasks
    for part, given in ((drawn.support, tasks.support), (drawn.query, tasks.query)):
        outputs = [part.targets[t][given.targets[t] == 1].unique().tolist() for t in range(30)]
        others = [part.targets[t][given.targets[t] == 0].unique().tolist() for t in range(30)]
        assert all(len(a) == len(b) == 1 and a != b for a, b in zip(outputs, others, strict=True))
        assert {output for (output,) in outputs} == {0, 1, 2}
    assert torch.equal(drawn.support.targets[:, :1], drawn.query.targets[:, :1])
    found = learner.forward(learner.collect(tasks, generator, 0))
    assert found.losses.shape == (30,)
    with pytest.raises(TaskError, match=r"Expected 2 classes.*got 3"):
        learner.collect(glyphs.sample(2, generator), generator, 0)
    support, query = (getattr(glyphs.sample(2, generator), part) for part in ("support", "query"))
    assert outputs_of(learner, support, query.inputs).shape[2] == 3


def test_settings_that_cannot_work_are_refused(glyphs, generator):
    with pytest.raises(SettingsError, match="Did you mean 'pixels'"):
        m.MANNAlgorithm(features="pixel").build(image_problem(generator))
    with pytest.raises(SettingsError, match="a feature for each of 3 classes at least, got 2"):
        m.MetaNetAlgorithm(features=2).build(image_problem(generator))
    with pytest.raises(SettingsError, match="train_way of 3, got 20"):
        m.MANNAlgorithm().build(image_problem(generator, train_way=20))
    with pytest.raises(SettingsError, match=r"`train_way` in \[1, 3\], got 20"):
        m.MetaNetAlgorithm().build(image_problem(generator, train_way=20))


def test_a_stopped_run_resumes_to_the_bit(name, glyphs, tmp_path):
    def train(folder, iterations, resume=None):
        settings = TrainingSettings(iterations, meta_batch_size=3)
        loop = OuterLoop(build(name), glyphs, settings, folder, resume=resume)
        loop.run()
        loop.logger.close()
        return load_checkpoint(loop.checkpoints.latest()).weights, loop.checkpoints.latest()

    _, half = train(tmp_path / "cut", 2)
    resumed, _ = train(tmp_path / "cut", 4, half)
    whole, _ = train(tmp_path / "whole", 4)
    for key, value in whole.items():
        assert torch.equal(resumed[key], value), key


def test_a_metric_of_the_user(generator):
    def hits(outputs, targets):
        return (outputs.argmax(-1) == targets).float() * 2

    tasks = Glyphs(3, 1, 2, alphabets=4, characters=4, drawings=4).sample(2, generator)
    images = ImageShape()
    embedding = Thumbnail(images, 8)
    network = MemoryAugmentedOptions().make(embedding.features + 3, 3, generator)
    learners = [
        EpisodeReader(embedding, network, 3, metric=hits),
        MetaNetwork(images, 3, generator, filters=4, metric=hits),
        FeatureClassifier(embedding, embedding.features, 32, generator, metric=hits),
    ]
    for learner in learners:
        assert learner.metric(tasks) == "hits"
        values = next(learner.evaluate(tasks, 0, torch.Generator().manual_seed(0)))
        state = next(learner.adapt(tasks.support, 0, torch.Generator().manual_seed(0)))
        outputs = learner.predict(state, tasks.query.inputs)
        expected = 2 * (outputs.argmax(-1) == tasks.query.targets).float().mean(1)
        torch.testing.assert_close(values, expected)
    result = learners[0](learners[0].collect(tasks, generator, 0))
    assert list(result.metrics) == ["train/hits"]
