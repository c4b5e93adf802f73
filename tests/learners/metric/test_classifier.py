"""The classifier of all training classes: its loss, its neighbours, and what it cannot take."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from metarl.errors import SettingsError, TaskError
from metarl.learners.images.layers import Moments
from metarl.learners.metric.algorithms import FeatureClassifierAlgorithm
from metarl.tasks import Glyphs
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from tests.image_problems import image_problem

GLYPHS = Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)


@pytest.fixture
def learner(generator):
    settings = FeatureClassifierAlgorithm()
    return settings.build(image_problem(generator, classes=GLYPHS.num_classes))


def test_each_image_is_told_from_all_training_classes(learner, generator):
    tasks = GLYPHS.sample(2, generator)
    result = learner(learner.collect(tasks, generator, 0))
    for task in range(2):
        images = torch.cat((tasks.support.inputs[task], tasks.query.inputs[task]))
        known = tasks.info["labels"][task]
        labels = torch.cat((known.repeat_interleave(2), known.repeat_interleave(2)))
        outputs = learner.head(learner.neighbours.embedding(images[None], Moments()))[0]
        assert outputs.shape == (12, GLYPHS.num_classes)
        torch.testing.assert_close(result.losses[task], F.cross_entropy(outputs, labels))


def test_it_learns_the_classes_and_judges_by_neighbours(learner):
    generator = torch.Generator().manual_seed(0)
    step = MetaStep(learner, TrainingSettings(outer_lr=3e-3))
    losses = []
    for i in range(30):
        result = step(learner.collect(GLYPHS.sample(4, generator), generator, i), i)
        learner.after_update(result.carry)
        losses.append(result.losses.mean().item())
    assert losses[-1] < 0.8 * losses[0]
    tasks = GLYPHS.split("test").sample(2, generator)
    (reference,) = learner.adapt(tasks.support, 0, generator)
    scores = learner.predict(reference, tasks.query.inputs)
    features = [
        F.normalize(learner.neighbours.embedding(x.inputs, None), dim=2)
        for x in (tasks.query, tasks.support)
    ]
    nearest = (features[0] @ features[1].mT).argmax(2)
    assert torch.equal(scores.argmax(2), tasks.support.targets.gather(1, nearest))


def test_the_scale_of_its_cosines_is_not_trained(learner):
    trained = {name for name, p in learner.named_parameters() if p.requires_grad}
    assert "head.weight" in trained and not any("log_scale" in name for name in trained)


def test_tasks_that_do_not_tell_their_classes(learner, generator):
    tasks = GLYPHS.sample(2, generator)
    with pytest.raises(TaskError, match=r"needs info\['labels'\]"):
        learner.collect(replace(tasks, info={}), generator, 0)
    few = {"labels": tasks.info["labels"][:, :2]}
    with pytest.raises(TaskError, match=r"each of the 3 classes of an episode.*got \[2, 2\]"):
        learner.collect(replace(tasks, info=few), generator, 0)
    more = replace(GLYPHS, rotations="reflected").sample(9, generator)
    with pytest.raises(TaskError, match="labels of the 8 training classes"):
        learner.collect(more, generator, 0)


def test_one_class_is_too_few(generator):
    with pytest.raises(SettingsError, match="at least 2 training classes, got 1"):
        FeatureClassifierAlgorithm().build(image_problem(generator, classes=1))


def test_labels_of_any_integer_type_and_of_no_other_range(learner, generator):
    tasks = GLYPHS.sample(2, generator)
    support, query = (
        e._replace(targets=e.targets.to(torch.uint8)) for e in (tasks.support, tasks.query)
    )
    info = {"labels": tasks.info["labels"].int()}
    other = learner.collect(replace(tasks, support=support, query=query, info=info), generator, 0)
    assert torch.equal(other.labels, learner.collect(tasks, generator, 0).labels)
    tasks.query.targets[0, 0] = -100
    with pytest.raises(TaskError, match="class labels from 0, got -100"):
        learner.collect(tasks, generator, 0)
    tasks = GLYPHS.sample(2, generator)
    tasks.info["labels"][0, 0] = -1
    with pytest.raises(TaskError, match="8 training classes, got -1 to"):
        learner.collect(tasks, generator, 0)
