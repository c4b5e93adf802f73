"""Losses and metrics that confuse examples and classes, where there are as many of both."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import SettingsError
from metarl.tasks import Examples, TaskBatch

TASKS, CLASSES = 3, 5


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def draw(generator, shots=1):
    """Five classes, sorted."""
    labels = torch.arange(CLASSES).repeat(TASKS, shots)
    sets = (torch.randn(TASKS, CLASSES * shots, 4, generator=generator) for _ in range(2))
    return TaskBatch(*(Examples(x, labels) for x in sets))


def losses_of(loss, tasks, generator, network=None, metric=None):
    torch.manual_seed(0)
    network = network or nn.Linear(4, CLASSES)
    learner = GradientLearner(MAML(network, inner_lr=0.1, loss=loss, metric=metric))
    return learner(learner.collect(tasks, generator, 0)).losses


@pytest.mark.parametrize("shots", [1, 2])
@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(reduction="none"),
        partial(F.cross_entropy, reduction="none"),
        lambda outputs, labels: F.cross_entropy(outputs.mT, labels, reduction="none"),
    ],
)
def test_cross_entropies_of_torch_are_those_of_each_example(loss, shots, generator):
    tasks = draw(generator, shots)
    expected = losses_of(None, tasks, generator)
    torch.testing.assert_close(losses_of(loss, tasks, generator), expected)


def test_soft_labels(generator):
    tasks = draw(generator)
    soft = [
        e._replace(targets=F.one_hot(e.targets).to(e.inputs.dtype))
        for e in (tasks.support, tasks.query)
    ]
    loss = nn.CrossEntropyLoss(reduction="none")
    found = losses_of(loss, TaskBatch(*soft), generator, metric="loss")
    torch.testing.assert_close(found, losses_of(None, tasks, generator))


def first_of_classes(outputs, labels):
    return F.nll_loss(outputs.log_softmax(1), labels, reduction="none")


def similarity(outputs, labels):
    return 1 - F.cosine_similarity(outputs, F.one_hot(labels, CLASSES).to(outputs.dtype), dim=1)


def pairs(outputs, labels):
    """The distances to all others: it may depend on them."""
    return (outputs.unsqueeze(1) - outputs.unsqueeze(2)).square().sum((2, 3))


@pytest.mark.parametrize("loss", [first_of_classes, similarity])
def test_losses_of_the_wrong_dimension(loss, generator):
    with pytest.raises(SettingsError, match="to take dimension 1 for the classes"):
        losses_of(loss, draw(generator), generator)
    zero = nn.Linear(4, CLASSES)
    nn.init.zeros_(zero.weight)
    nn.init.zeros_(zero.bias)
    with pytest.raises(SettingsError, match="to take dimension 1 for the classes"):
        losses_of(loss, draw(generator), generator, zero)


class Named(nn.Linear):
    """Returns its logits by a name."""

    def forward(self, input):
        return {"logits": super().forward(input)}


def test_outputs_in_a_dict(generator):
    def wrong(outputs, labels):
        return F.cross_entropy(outputs["logits"], labels, reduction="none")

    def right(outputs, labels):
        return F.cross_entropy(outputs["logits"].mT, labels, reduction="none")

    net = Named(4, CLASSES)
    with pytest.raises(SettingsError, match="to take dimension 1 for the classes"):
        losses_of(wrong, draw(generator), generator, net, "loss")
    losses_of(right, draw(generator), generator, net, "loss")


def test_metrics_of_the_wrong_dimension(generator):
    def wrong(outputs, labels):
        return (outputs.argmax(1) == labels).float()

    with pytest.raises(SettingsError, match=r"`metric` .* the prediction is outputs.argmax\(-1\)"):
        losses_of(None, draw(generator), generator, metric=wrong)


def test_losses_of_sets_of_examples_are_taken(generator):
    assert losses_of(pairs, draw(generator), generator).isfinite().all()
    losses_of(lambda o, y: pairs(o, y)[:, 0], draw(generator), generator)
