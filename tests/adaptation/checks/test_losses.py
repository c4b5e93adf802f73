"""Losses and metrics that confuse examples and classes, where there are as many of both."""

import re
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.adaptation import MAML, GradientLearner
from metarl.errors import SettingsError, ShapeError, TaskError
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


@pytest.mark.parametrize(
    "options",
    [
        {"ignore_index": -100},
        {"ignore_index": 2},
        {"weight": [1.0, 2.0, 0.5, 3.0, 1.5]},
        {"weight": [1.0, 2.0, 0.5, 3.0, 1.5], "ignore_index": -1},
    ],
)
@pytest.mark.parametrize("as_module", [True, False])
def test_means_of_cross_entropies_are_those_of_torch(options, as_module, generator):
    tasks = draw(generator, 2)
    ignored = options.get("ignore_index", -100)
    if "weight" in options:
        options = {**options, "weight": torch.tensor(options["weight"])}
    labels = tasks.query.targets.clone()
    labels[0, :3] = labels[1, 5] = ignored
    tasks = TaskBatch(tasks.support, tasks.query._replace(targets=labels))
    net = nn.Linear(4, CLASSES)
    if as_module:
        loss = nn.CrossEntropyLoss(reduction="none", **options)
    else:
        loss = partial(F.cross_entropy, reduction="none", **options)
    learner = GradientLearner(MAML(net, inner_lr=0.1, loss=loss, metric="loss"))
    found = learner(learner.collect(tasks, generator, 0)).losses
    for t in range(TASKS):
        entropy = F.cross_entropy(net(tasks.support.inputs[t]), tasks.support.targets[t], **options)
        grads = torch.autograd.grad(entropy, [net.weight, net.bias])
        weight, bias = (p - 0.1 * g for p, g in zip((net.weight, net.bias), grads, strict=True))
        outputs = F.linear(tasks.query.inputs[t], weight, bias)
        torch.testing.assert_close(found[t], F.cross_entropy(outputs, labels[t], **options))


@pytest.mark.parametrize("metric", [None, "accuracy", "f1"])
def test_metrics_of_classes_refuse_ignored_labels(metric, generator):
    tasks = draw(generator)
    tasks.query.targets[0, 0] = -100
    with pytest.raises(TaskError, match=r"got -100 to 4.* Or give a `metric=` that leaves such"):
        losses_of(nn.CrossEntropyLoss(reduction="none"), tasks, generator, metric=metric)


@pytest.mark.parametrize("soft", [False, True])
def test_the_default_metric_refuses_what_may_be_logits_of_probabilities(soft, generator):
    tasks = draw(generator)
    made = torch.rand(TASKS, CLASSES, CLASSES, generator=generator)
    targets = made.softmax(-1) if soft else (made > 0.5).to(made.dtype)
    tasks = TaskBatch(*(e._replace(targets=targets) for e in (tasks.support, tasks.query)))
    loss = nn.BCEWithLogitsLoss(reduction="none")
    with pytest.raises(SettingsError, match=r"that are 0 or 1, .* Give the argument `metric=`"):
        losses_of(loss, tasks, generator)
    for metric in ("binary_accuracy", "mse", "loss"):
        losses_of(loss, tasks, generator, metric=metric)
    losses_of(None, tasks, generator)  # the default loss is the squared error itself


@pytest.mark.parametrize("loss", [None, nn.MSELoss(reduction="none"), lambda o, y: (o - y) ** 2])
def test_targets_without_the_last_dimension_are_explained(loss, generator):
    tasks = draw(generator)
    tasks = TaskBatch(*(e._replace(targets=e.inputs[..., 0]) for e in (tasks.support, tasks.query)))
    with pytest.raises(ShapeError, match=r"targets\.unsqueeze\(-1\)"):
        losses_of(loss, tasks, generator, nn.Linear(4, 1))


def test_labels_that_are_no_integers_are_explained(generator):
    tasks = draw(generator)
    sets = (e._replace(targets=e.targets.to(e.inputs.dtype)) for e in (tasks.support, tasks.query))
    with pytest.raises(ShapeError, match=r"targets\.long\(\)"):
        losses_of(None, TaskBatch(*sets), generator)


class Pixels(nn.Module):
    """A class for each pixel, in the layout of convolutions or with the classes last."""

    def __init__(self, classes, last):
        super().__init__()
        self.layer, self.last = nn.Conv2d(1, classes, 3, padding=1), last

    def forward(self, x):
        outputs = self.layer(x)
        return outputs.movedim(1, -1) if self.last else outputs


@pytest.mark.parametrize("last", [False, True])
def test_classes_of_pixels_where_all_sizes_are_equal(last, generator):
    x = torch.randn(TASKS, 4, 1, 5, 5, generator=generator)
    examples = Examples(x, torch.randint(5, (TASKS, 4, 5, 5), generator=generator))
    tasks = TaskBatch(examples, examples)
    with pytest.warns(RuntimeWarning, match="the last dimension is taken for the classes"):
        losses_of(None, tasks, generator, Pixels(5, last))
    losses_of(nn.CrossEntropyLoss(reduction="none"), tasks, generator, Pixels(5, True), "loss")
    losses_of(None, tasks, generator, Pixels(6, True))
    if not last:
        with pytest.raises(ShapeError, match=r"Expected logits.*return outputs.movedim\(1, -1\)"):
            losses_of(None, tasks, generator, Pixels(6, False))


def test_losses_of_torch_find_the_classes_of_pixels(generator):
    x = torch.randn(TASKS, 4, 1, 5, 6, generator=generator)
    labels = torch.randint(3, (TASKS, 4, 5, 6), generator=generator)
    examples = Examples(x, labels.masked_fill(labels == 2, -100))
    tasks = TaskBatch(examples, examples)
    for loss in (nn.CrossEntropyLoss(reduction="none"), partial(F.cross_entropy, reduction="none")):
        net, found = Pixels(3, False), []
        for net.last in (False, True):
            found.append(losses_of(loss, tasks, generator, net, "loss"))
        assert torch.equal(*found)
    shares = torch.rand(TASKS, 4, 3, 5, 6, generator=generator).softmax(2)
    examples = Examples(x, shares)
    with pytest.raises(ShapeError, match=r"add up to 1 over dimension 2\. Move it in both"):
        losses_of(loss, TaskBatch(examples, examples), generator, Pixels(3, False), "loss")
    examples = Examples(x, shares.movedim(2, -1))
    losses_of(loss, TaskBatch(examples, examples), generator, Pixels(3, True), "loss")


def test_advice_fits_the_types_of_a_loss(generator):
    x = torch.randn(TASKS, 6, 4, generator=generator)
    several = Examples(x, torch.randint(2, (TASKS, 6, 3), generator=generator))
    with pytest.raises(ShapeError, match=r"give targets\.to\(outputs\.dtype\)"):
        losses_of(
            nn.BCEWithLogitsLoss(reduction="none"), TaskBatch(several, several), generator,
            nn.Linear(4, 3), "binary_accuracy",
        )  # fmt: skip
    labelled = Examples(x.double(), several.targets[..., 0])
    weights = nn.CrossEntropyLoss(weight=torch.ones(3, dtype=torch.float32), reduction="none")
    with pytest.raises(ShapeError, match=r"the type of the network: loss\.double"):
        losses_of(weights, TaskBatch(labelled, labelled), generator, nn.Linear(4, 3).double())


@pytest.mark.parametrize("argument", ["loss", "metric"])
@pytest.mark.parametrize(
    "function",
    [
        lambda outputs, targets: (outputs - targets.clamp_(min=0)).square(),
        lambda outputs, targets: outputs.sub_(targets).square(),
        lambda outputs, targets, *, inputs: (outputs - targets).square() + 0 * inputs.mul_(2).sum(),
    ],
)
def test_functions_that_change_what_they_are_given_are_refused(function, argument, generator):
    x, y = (torch.randn(TASKS, 6, 4, generator=generator) for _ in range(2))
    tasks = TaskBatch(Examples(x, y), Examples(x, y))
    given = {"loss": None, argument: function}
    with pytest.raises(SettingsError, match=f"`{argument}` changes its outputs, targets"):
        losses_of(tasks=tasks, generator=generator, network=nn.Linear(4, 4), **given)


def yes_or_no(generator):
    """Tasks of two labels, 0 or 1, for each example."""
    inputs = torch.randn(2, TASKS, CLASSES, 4, generator=generator)
    answers = (inputs[..., :2] > 0).to(inputs.dtype)
    return TaskBatch(*(Examples(x, y) for x, y in zip(inputs, answers, strict=True)))


BCE = nn.BCEWithLogitsLoss(reduction="none")
NLL = nn.NLLLoss(reduction="none")


@pytest.mark.parametrize(
    ("loss", "metric", "end", "message"),
    [
        (None, None, nn.Softmax(-1), "`loss` takes the outputs for logits.*Leave out the softmax"),
        (nn.CrossEntropyLoss(reduction="none"), None, nn.Softmax(-1), "`loss` takes the outputs"),
        (partial(F.cross_entropy, reduction="none"), None, nn.Softmax(-1), "for logits"),
        (NLL, None, nn.LogSoftmax(-1), ""),
        (None, None, nn.LogSoftmax(-1), ""),
        (NLL, None, nn.Softmax(-1), "for log-probabilities, and .* End it with a log_softmax"),
        (NLL, None, nn.Identity(), "for log-probabilities, and the network returns other numbers"),
        (NLL, "nll", nn.LogSoftmax(-1), ""),
        (None, "nll", nn.Softmax(-1), "`metric` takes .* its values would be wrong"),
    ],
)
def test_probabilities_in_place_of_logits_warn(loss, metric, end, message, generator):
    network = nn.Sequential(nn.Linear(4, CLASSES), end)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses_of(loss, draw(generator), generator, network, metric)
    found = [str(w.message) for w in caught if "takes the outputs for" in str(w.message)]
    assert bool(found) == bool(message)
    assert not message or any(re.search(message, text) for text in found)


@pytest.mark.parametrize("loss", [BCE, F.binary_cross_entropy_with_logits])
def test_the_logits_of_a_sigmoid_warn(loss, generator):
    network = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())
    if loss is not BCE:
        loss = partial(loss, reduction="none")
    with pytest.warns(RuntimeWarning, match="`loss` takes the outputs for logits.*the sigmoid"):
        losses_of(loss, yes_or_no(generator), generator, network, "loss")


def test_the_binary_accuracy_of_a_sigmoid_is_refused(generator):
    network = nn.Sequential(nn.Linear(4, 2), nn.Sigmoid())
    loss = nn.BCELoss(reduction="none")
    with pytest.raises(SettingsError, match=r"`metric`; all outputs .* would count as yes"):
        losses_of(loss, yes_or_no(generator), generator, network, "binary_accuracy")


@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_logits_that_happen_to_be_small_are_taken(bias, generator):
    """All are 0, or between 0 and 1, at the start."""
    network = nn.Linear(4, 2)
    nn.init.zeros_(network.weight)
    nn.init.constant_(network.bias, bias)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses_of(BCE, yes_or_no(generator), generator, network, "binary_accuracy")


def test_labels_of_one_class_are_refused(generator):
    """The cross-entropy is always 0."""
    drawn = draw(generator)
    tasks = TaskBatch(*(e._replace(targets=0 * e.targets) for e in (drawn.support, drawn.query)))
    with pytest.raises(ShapeError, match=r"always 0, and nothing would be learned.*`loss=`"):
        losses_of(None, tasks, generator, nn.Linear(4, 1))
