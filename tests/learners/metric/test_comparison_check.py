"""Embeddings and comparisons of the user: what is refused before training."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.errors import SettingsError, ShapeError
from metarl.learners import Embedding, MetricLearner, Prototypes
from metarl.tasks import Examples, TaskBatch

WAY = 3


class Own(Embedding):
    """Embeds vectors; normalises them as it is asked."""

    def __init__(self, normalise=None):
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 5), nn.BatchNorm1d(5)
        self.normalise = normalise

    def forward(self, images, moments):
        features = self.layer(images)
        return features if self.normalise is None else self.normalise(self, features)


def over_all_tasks(net, features):
    return net.norm(features.flatten(0, 1)).view(features.shape)


def within_each_task(net, features):
    return features - features.mean(1, keepdim=True)


class Scored(Prototypes):
    """Changes the queries, or the loss, of prototypical networks."""

    def __init__(self, change=None, loss=None):
        super().__init__()
        self.change, self.own_loss = change, loss

    def forward(self, reference, queries, moments):
        queries = queries if self.change is None else self.change(queries)
        return super().forward(reference, queries, moments)

    def loss(self, outputs, targets, weights=None):
        if self.own_loss is None:
            return super().loss(outputs, targets, weights)
        return self.own_loss(outputs, targets)


def entropy(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def entropy_of_each_task(outputs, targets):
    return F.cross_entropy(outputs.movedim(2, 1), targets, reduction="none").mean(1)


@pytest.fixture
def tasks(generator):
    labels = torch.arange(2 * WAY).remainder(WAY).expand(2, -1)
    inputs = torch.randn(2, 2, 2 * WAY, 4, generator=generator)
    return TaskBatch(Examples(inputs[0], labels), Examples(inputs[1], labels))


def collect(learner, tasks):
    return learner.collect(tasks, torch.Generator().manual_seed(0), 0)


def test_an_embedding_that_mixes_tasks_is_refused(tasks):
    learner = MetricLearner(Own(over_all_tasks), Prototypes())
    with pytest.raises(SettingsError, match="Own and Prototypes mix tasks: the loss of a task"):
        collect(learner, tasks)


def test_a_comparison_that_mixes_tasks_is_refused(tasks):
    scale = Scored(lambda queries: queries / queries.std())
    with pytest.raises(SettingsError, match="Own and Scored mix tasks"):
        collect(MetricLearner(Own(), scale), tasks)


def test_a_loss_of_all_tasks_is_refused(tasks):
    with pytest.raises(ShapeError, match=r"Scored.loss to return a value per task, .* got \[\]"):
        collect(MetricLearner(Own(), Scored(loss=entropy)), tasks)


def test_transductive_scores_warn(tasks):
    centred = Scored(lambda queries: queries - queries.mean(1, keepdim=True))
    for learner in (MetricLearner(Own(), centred), MetricLearner(Own(within_each_task), Scored())):
        with pytest.warns(RuntimeWarning, match="mix queries.*transductive"):
            collect(learner, tasks)


def test_right_ones_pass_and_are_checked_once(tasks, recwarn, monkeypatch):
    learner = MetricLearner(Own(), Scored(loss=entropy_of_each_task))
    buffers = {n: b.clone() for n, b in learner.named_buffers()}
    inputs = collect(learner, tasks)
    assert learner(inputs).losses.shape == (2,)
    assert all(torch.equal(b, buffers[n]) for n, b in learner.named_buffers())
    monkeypatch.setattr(learner, "forward", None)
    collect(learner, tasks)
    assert not recwarn.list
