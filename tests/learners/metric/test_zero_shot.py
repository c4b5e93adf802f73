"""Zero-shot prototypes against plain torch, and that they learn to read descriptions."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.learners import Embedding, ZeroShotPrototypes
from metarl.tasks import Examples, TaskBatch
from metarl.tasks.metrics import generalised_accuracy
from metarl.training import TrainingSettings
from metarl.training.meta_step import MetaStep
from metarl.trees import take_tasks

WAY, SIZE, WIDTH, FEATURES = 4, 6, 3, 5


class Linear(Embedding):
    """A layer of vectors."""

    respects_weights = True

    def __init__(self, generator):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(FEATURES, SIZE, generator=generator))

    def forward(self, images, moments):
        """Embeds vectors."""
        return images @ self.weight.mT


def build(generator, **options):
    describe = nn.Linear(WIDTH, FEATURES).double()
    for p in describe.parameters():
        nn.init.normal_(p, generator=generator)
    return ZeroShotPrototypes(Linear(generator).double(), describe, **options).double()


def tasks_of(generator, labels, described=None):
    count = len(labels)
    descriptions = torch.randn(2, WAY, WIDTH, generator=generator).double()
    x = torch.randn(2, count, SIZE, generator=generator).double()
    z = torch.randn(2, 7, SIZE, generator=generator).double()
    targets = torch.randint(WAY, (2, 7), generator=generator)
    support = Examples(x, torch.tensor([labels] * 2, dtype=torch.int64))
    info = {"descriptions": descriptions}
    if described is not None:
        info["described"] = torch.tensor([described] * 2)
    return TaskBatch(support, Examples(z, targets), info)


def by_hand(learner, tasks, task):
    """Returns the logits of the queries of one task."""
    f = learner.embedding.weight
    described = tasks.info.get("described")
    prototypes = []
    for k in range(WAY):
        total, count = torch.zeros(FEATURES), torch.zeros(())
        if described is None or described[task, k]:
            g = learner.describe(tasks.info["descriptions"][task, k])
            n = learner.log_count.exp()
            total, count = total + n * g / g.norm(), count + n
        for x, y in zip(tasks.support.inputs[task], tasks.support.targets[task], strict=True):
            if y == k:
                total, count = total + f @ x, count + 1
        prototypes.append(total / count)
    queries = tasks.query.inputs[task]
    return torch.stack([-(q @ f.T - torch.stack(prototypes)).square().sum(1) for q in queries])


@pytest.mark.parametrize(
    ("labels", "described"),
    [
        ([], None),
        ([0, 0, 1], None),
        ([0, 1, 1, 2, 3, 3], [True, False, True, False]),
        ([1, 3], [True, False, True, False]),
    ],
    ids=["descriptions", "some examples", "every combination", "either"],
)
def test_prototypes_are_those_of_plain_torch(labels, described, generator):
    learner = build(generator, count=2.0)
    tasks = tasks_of(generator, labels, described)
    result = learner(learner.collect(tasks, generator, 0))
    *_, adapted = learner.adapt_to(tasks, 1, generator)
    outputs = learner.predict(adapted, tasks.query.inputs)
    losses = []
    for t in range(2):
        logits = by_hand(learner, tasks, t)
        torch.testing.assert_close(outputs[t], logits)
        losses.append(F.cross_entropy(logits, tasks.query.targets[t]))
        right = (logits.argmax(1) == tasks.query.targets[t]).double().mean()
        torch.testing.assert_close(result.metrics["train/accuracy"][t], right)
    losses = torch.stack(losses)
    torch.testing.assert_close(result.losses, losses)
    params = list(learner.parameters())
    ours, theirs = (
        torch.autograd.grad(v.sum(), params, allow_unused=True) for v in (result.losses, losses)
    )
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b)
    *_, value = learner.evaluate(tasks, 1, generator)
    torch.testing.assert_close(value, result.metrics["train/accuracy"])


def test_tasks_of_different_supports_give_what_they_give_alone(generator):
    learner = build(generator)
    tasks = tasks_of(generator, [0, 1, 2, 3, 1])
    weights = torch.ones(2, 5).double()
    weights[0, 2:], weights[1] = 0, 0  # the second task has no examples
    padded = replace(tasks, support=tasks.support._replace(weights=weights))
    whole = learner(learner.collect(padded, generator, 0)).losses
    for t, count in ((0, 2), (1, 0)):
        one = take_tasks(tasks, t, t + 1)
        support = Examples(one.support.inputs[:, :count], one.support.targets[:, :count])
        alone = learner(learner.collect(replace(one, support=support), generator, 0)).losses
        torch.testing.assert_close(whole[t], alone[0])


def test_generalised_accuracy_by_hand():
    logits = F.one_hot(torch.tensor([[0, 0, 1, 2, 2, 3], [0, 0, 0, 0, 0, 0]]), 4).float()
    targets = torch.tensor([[0, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 1]])
    support = Examples(torch.zeros(2, 2, 1), torch.tensor([[0, 1]] * 2))
    # Task 0: seen 0 and 1: (1 + 1/2) / 2; unseen 2: 2/3.  Task 1 has no unseen query.
    value = generalised_accuracy(logits, targets, support=support)
    assert value[0].item() == pytest.approx(2 * 0.75 * (2 / 3) / (0.75 + 2 / 3))
    assert value[1].isnan()
    seen = torch.tensor([[True, False, True, True], [True, False, False, False]])
    value = generalised_accuracy(logits, targets, support=support, info={"seen": seen})
    # Task 0: seen (1 + 2/3) / 2, unseen 1/2.  Task 1: seen 1, unseen 0.
    assert value[0].item() == pytest.approx(2 * (5 / 6) * 0.5 / (5 / 6 + 0.5))
    assert value[1] == 0
    weights = torch.tensor([[1.0, 0, 1, 1, 1, 0], [1.0] * 6])
    value = generalised_accuracy(logits, targets, weights, support=support)
    assert value[0] == 1
    with pytest.raises(TaskError, match=r"info\['seen'\]"):
        generalised_accuracy(logits, targets)


class Attributes:
    """Classes of which attributes are known: an example is a linear map of them, with noise."""

    def __init__(self, shots):
        self.shots = shots
        self.map = torch.randn(WIDTH, SIZE, generator=torch.Generator().manual_seed(5)).double()

    def sample(self, num_tasks, generator):
        """Samples classes; those of label 0 and 1 have examples, if there are any."""
        codes = torch.randn(num_tasks, WAY, WIDTH, generator=generator).double()
        means = codes @ self.map
        sets = []
        for labels in (torch.arange(2).repeat(self.shots), torch.arange(WAY).repeat(4)):
            labels = labels.expand(num_tasks, -1)
            noise = torch.randn(*labels.shape, SIZE, generator=generator).double()
            rows = labels.unsqueeze(2).expand(-1, -1, SIZE)
            sets.append(Examples(means.gather(1, rows) + 0.3 * noise, labels))
        return TaskBatch(sets[0], sets[1], {"descriptions": codes})


@pytest.mark.parametrize("shots", [0, 2])
def test_it_learns_to_read_descriptions_of_new_classes(shots, generator):
    learner = build(generator, metric="generalised_accuracy" if shots else None, unit_length=False)
    tasks = Attributes(shots)
    step = MetaStep(learner, TrainingSettings(outer_lr=0.02))
    for i in range(150):
        step(learner.collect(tasks.sample(10, generator), generator, i), i)
    *_, value = learner.evaluate(tasks.sample(50, generator), 0, generator)
    assert value.mean() > 0.9
    assert learner.metric(tasks.sample(1, generator)) == (
        "generalised_accuracy" if shots else "accuracy"
    )


def test_what_is_not_usable_is_refused(generator):
    learner, tasks = build(generator), tasks_of(generator, [0, 1])
    long = replace(tasks, info={"descriptions": tasks.info["descriptions"][:, :2]})
    for given, error, message in (
        (replace(tasks, info={}), TaskError, r"info\['descriptions'\], a description of each"),
        (replace(long, query=tasks.query), TaskError, "labels from 0 to 1 for 2 outputs"),
        (
            replace(tasks, info={"descriptions": torch.zeros(3, WAY, 2)}),
            ShapeError, r"descriptions'\] as a tensor with the 2 tasks leading",
        ),
        (
            replace(tasks, info={"descriptions": torch.zeros(2, WAY)}),
            ShapeError, r"descriptions \[2, way, D\]",
        ),
        (
            replace(tasks, info={**tasks.info, "described": torch.ones(2, WAY)}),
            ShapeError, r"info\['described'\], bool",
        ),
        (
            tasks_of(generator, [0, 1], [True, True, False, True]),
            TaskError, "Class 2 of task 0 has neither",
        ),
        (
            replace(tasks, query=Examples(tasks.query.inputs, tasks.query.inputs)),
            ShapeError, "the same kind of targets",
        ),
    ):  # fmt: skip
        with pytest.raises(error, match=message):
            learner.collect(given, generator, 0)
    with pytest.raises(TaskError, match="a description of each"):
        next(iter(learner.adapt(tasks.support, 0, generator)))
    mixing = nn.Sequential(nn.Linear(WIDTH, FEATURES), nn.BatchNorm1d(FEATURES, affine=False))
    with pytest.raises(ShapeError, match="map each description alone"):
        ZeroShotPrototypes(Linear(generator), mixing).double().collect(tasks, generator, 0)
    narrow = ZeroShotPrototypes(Linear(generator), nn.Linear(WIDTH, 2)).double()
    with pytest.raises(ShapeError, match="as many features as the embedding, 5, got 2"):
        narrow(narrow.collect(tasks, generator, 0))
    with pytest.raises(SettingsError, match="finite `count` above 0"):
        build(generator, count=0.0)
