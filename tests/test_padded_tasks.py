"""Tasks of different sizes in one batch, by weights: each gives what it gives alone."""

from dataclasses import replace

import pytest
import torch

from metarl.adaptation import GradientLearner
from metarl.adaptation import algorithms as s
from metarl.adaptation.support_batches import draw_batches, select
from metarl.errors import ShapeError, TaskError
from metarl.learners.memory import algorithms as memory
from metarl.learners.metric import algorithms as m
from metarl.models import MLP, Conv4
from metarl.tasks import Examples, Glyphs, TaskBatch
from metarl.trees import take_tasks
from tests.image_problems import image_problem

GRADIENT = {
    "maml": s.MAMLAlgorithm(0.1, steps=3),
    "clipped": s.MAMLAlgorithm(0.1, steps=2, max_inner_grad_norm=0.3),
    "fomaml": s.MAMLAlgorithm(0.1, steps=2, first_order=True),
    "metasgd": s.MetaSGDAlgorithm(),
    "mamlplusplus": s.MAMLPlusPlusAlgorithm(0.1, steps=2, multi_step_iterations=5),
    "reptile": s.ReptileAlgorithm(0.01, steps=2, batch_size=None),
    "lstm": s.LSTMMetaLearnerAlgorithm(steps=2),
    "learned-optimizer": s.LearnedOptimizerAlgorithm(steps=2, unroll=2),
    "pretrained": s.PretrainedAlgorithm(),
    "anil": s.ANILAlgorithm(0.1),
    "boil": s.BOILAlgorithm(0.1),
}
METRIC = {
    "prototypical": m.PrototypicalAlgorithm(),
    "pyramid": m.PrototypicalAlgorithm(m.EmbeddingSettings("pyramid")),
    "reconstruction": m.ReconstructionAlgorithm(),
    "matching": m.MatchingAlgorithm(),
    "matching-euclidean": m.MatchingAlgorithm("euclidean"),
    "matching-context": m.MatchingAlgorithm(context_steps=2),
    "relation": m.RelationAlgorithm(),
    "siamese": m.SiameseAlgorithm(units=8, distortions=False),
    "nearest-neighbour": m.NearestNeighbourAlgorithm(),
    "classifier": m.FeatureClassifierAlgorithm(),
}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def padded(parts, size):
    """Fills up single tasks to `size` examples, the padding first, last and in between."""
    rows = []
    for i, part in enumerate(parts):
        count = part.targets.shape[1]
        place = torch.randperm(size, generator=torch.Generator().manual_seed(i))[:count].sort()[0]
        inputs = torch.zeros(size, *part.inputs.shape[2:])
        targets = torch.zeros(size, *part.targets.shape[2:], dtype=part.targets.dtype)
        weights = torch.zeros(size)
        inputs[place], targets[place], weights[place] = part.inputs[0], part.targets[0], 1.0
        rows.append((inputs, targets, weights))
    return Examples(*(torch.stack(column) for column in zip(*rows, strict=True)))


def batch(alone):
    """Puts single tasks into one batch."""
    info = {n: torch.cat([t.info[n] for t in alone]) for n in alone[0].info}
    support, query = ([getattr(t, part) for t in alone] for part in ("support", "query"))
    return TaskBatch(padded(support, 9), padded(query, 7), info)


def regressions(generator):
    tasks = []
    for count, queries in ((3, 7), (9, 2), (5, 4)):
        x, z = (torch.randn(1, n, 2, generator=generator) for n in (count, queries))
        tasks.append(TaskBatch(Examples(x, x.sin()[..., :1]), Examples(z, z.sin()[..., :1])))
    return tasks


def episodes(generator):
    tasks = []
    for support, query in (([0, 1, 2], [0, 1, 1, 2]), ([0, 0, 1, 1, 1, 2, 0], [2, 0, 1])):
        pictures = Glyphs(3, 7, 2, alphabets=4, characters=4, drawings=9).sample(1, generator)
        every = torch.cat((pictures.support.inputs, pictures.query.inputs), 1).double()
        labels = torch.cat((pictures.support.targets, pictures.query.targets), 1)
        taken = [
            [
                int((labels[0] == k).nonzero()[places[:i].count(k) + start])
                for i, k in enumerate(places)
            ]
            for places, start in ((support, 0), (query, 4))
        ]
        both = [Examples(every[:, rows], labels[:, rows]) for rows in taken]
        tasks.append(TaskBatch(both[0], both[1], pictures.info))
    return tasks


class Unweighted(Conv4):
    """A network with batch normalisation that takes no weights."""

    def forward(self, params, inputs, statistics=None):
        """Runs Conv4."""
        return super().forward(params, inputs, statistics)


def results(learner, inputs):
    """Returns the losses, and the gradient of their sum by parameter."""
    result = learner(inputs)
    params = [p for p in learner.parameters() if p.requires_grad]
    grads = torch.autograd.grad(result.losses.sum(), params, allow_unused=True)
    grads = [torch.zeros_like(p) if g is None else g for p, g in zip(params, grads, strict=True)]
    return result, grads


def check_alone(learner, tasks, inputs_of):
    """Compares a batch with each of its tasks alone."""
    whole, grads = results(learner, inputs_of(batch(tasks), None))
    total = [torch.zeros_like(g) for g in grads]
    for t, task in enumerate(tasks):
        alone, parts = results(learner, inputs_of(task, t))
        torch.testing.assert_close(whole.losses[t], alone.losses[0], rtol=1e-9, atol=1e-10)
        for tag, value in alone.metrics.items():
            torch.testing.assert_close(whole.metrics[tag][t], value[0], rtol=1e-9, atol=1e-10)
        for name, (mean, variance) in alone.carry.items() if "state" not in alone.carry else ():
            torch.testing.assert_close(whole.carry[name][0][t], mean[0])
            torch.testing.assert_close(whole.carry[name][1][t], variance[0])
        total = [a + b for a, b in zip(total, parts, strict=True)]
    for a, b in zip(grads, total, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def check_predictions(learner, tasks, steps, transductive=False):
    whole = batch(tasks)
    rows = list(learner.evaluate(whole, steps, torch.Generator(), transductive=transductive))
    for t, task in enumerate(tasks):
        alone = learner.evaluate(task, steps, torch.Generator(), transductive=transductive)
        for row, value in zip(rows, alone, strict=True):
            torch.testing.assert_close(row[t], value[0], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", GRADIENT)
def test_a_gradient_learner_of_values(name, generator):
    network = MLP((2, 5, 1), generator, activation="tanh")
    learner = GradientLearner(GRADIENT[name].clipped_adaptation(network, generator))
    tasks = regressions(generator)
    check_alone(learner, tasks, lambda given, _: learner.collect(given, generator, 1))
    check_predictions(learner, tasks, 2)


@pytest.mark.parametrize("pooling", ["max", "stride"])
@pytest.mark.parametrize("name", ["maml", "lstm", "reptile"])
def test_a_gradient_learner_of_images_with_batch_normalisation(name, pooling, generator):
    network = Conv4(3, generator, filters=3, pooling=pooling)
    learner = GradientLearner(GRADIENT[name].clipped_adaptation(network, generator))
    tasks = episodes(generator)
    check_alone(learner, tasks, lambda given, _: learner.collect(given, generator, 1))
    check_predictions(learner, tasks, 1)
    check_predictions(learner, tasks, 1, transductive=True)


@pytest.mark.parametrize("name", METRIC)
def test_a_metric_learner(name, generator):
    problem = image_problem(generator)
    learner = METRIC[name].build(replace(problem, classes=16)).double()
    tasks = episodes(generator)

    def inputs_of(given, t):
        inputs = learner.collect(given, torch.Generator().manual_seed(1), 0)
        if t is None or getattr(inputs, "order", None) is None:
            return inputs
        whole = learner.collect(batch(tasks), torch.Generator().manual_seed(1), 0)
        real = whole.tasks.support.weights[t] > 0
        number = real.cumsum(0) - 1  # of the row among the real ones
        order = whole.order[t]
        return replace(inputs, order=number[order[real[order]]].unsqueeze(0))

    check_alone(learner, tasks, inputs_of)
    if name != "matching-context":  # reads the support set in another order
        check_predictions(learner, tasks, 0)


def test_a_weight_counts_as_so_many_examples(generator):
    """An example of weight 2 is that example twice, in what has no batch statistics."""
    x, y = torch.randn(1, 4, 2, generator=generator), torch.tensor([[0, 1, 0, 1]])
    twice = [0, 0, 1, 2, 3]
    query = Examples(torch.randn(1, 5, 2, generator=generator), torch.tensor([[0, 1, 1, 0, 1]]))
    weighted = TaskBatch(Examples(x, y, torch.tensor([[2.0, 1, 1, 1]])), query)
    repeated = TaskBatch(Examples(x[:, twice], y[:, twice]), query)
    learner = GradientLearner(s.MAML(MLP((2, 5, 2), generator), 0.1, 2))
    losses = [learner(learner.collect(t, generator, 0)).losses for t in (weighted, repeated)]
    torch.testing.assert_close(*losses)


def test_batches_are_drawn_among_the_real_examples(generator):
    weights = torch.tensor([[1.0, 0, 1, 1, 0, 1, 1], [1, 0, 0, 0, 1, 0, 0], [1] * 7])
    support = Examples(torch.randn(3, 7, 1, generator=generator), torch.zeros(3, 7, 1), weights)
    index = draw_batches(support, 3, 5, generator)
    assert index.shape == (3, 5, 3)
    first = index[0].flatten().tolist()
    assert all(sorted(first[k : k + 5]) == [0, 2, 3, 5, 6] for k in (0, 5, 10))
    for step in index[1].tolist():  # fewer examples than a batch: all of them in each step
        assert {0, 4} < set(step)
    chosen = select(support, index[:, 0])
    assert chosen.weights[1].sum() == 2 and chosen.weights[0].sum() == 3
    assert sorted(index[2].flatten().tolist()[:7]) == list(range(7))


def test_a_small_batch_of_padded_tasks_gives_what_its_rows_give(generator):
    learner = GradientLearner(s.Reptile(MLP((2, 5, 1), generator), 0.01, 2, batch_size=2))
    tasks = regressions(generator)
    inputs = learner.collect(batch(tasks), generator, 0)
    whole = learner(inputs).losses
    for t, task in enumerate(tasks):
        weights = inputs.tasks.support.weights[t]
        number = (weights > 0).cumsum(0) - 1
        alone = replace(
            learner.collect(task, generator, 0), batches=number[inputs.batches[t]][None]
        )
        torch.testing.assert_close(learner(alone).losses[0], whole[t])


def test_memory_learners_refuse_weights(generator):
    tasks = batch(episodes(generator))
    for algorithm in (memory.MANNAlgorithm(), memory.MetaNetAlgorithm(features=6)):
        learner = algorithm.build(image_problem(generator)).double()
        with pytest.raises(ShapeError, match=r"have weights, and .* reads every example"):
            learner.collect(tasks, generator, 0)
        with pytest.raises(ShapeError, match="have weights"):
            next(iter(learner.adapt(tasks.support, 0, generator)))


def test_a_network_whose_batch_statistics_would_count_the_padding_is_refused(generator):
    network = Unweighted(3, generator, filters=3)
    learner = GradientLearner(s.MAML(network))
    with pytest.raises(ShapeError, match="batch normalisation of Unweighted would count"):
        learner.collect(batch(episodes(generator)), generator, 0)


def test_a_class_of_padding_only_is_missing(generator):
    tasks = batch(episodes(generator))
    support = tasks.support
    weights = support.weights.masked_fill(support.targets == 2, 0.0)
    learner = m.PrototypicalAlgorithm().build(image_problem(generator)).double()
    with pytest.raises(TaskError, match="has none of class 2"):
        learner.collect(replace(tasks, support=support._replace(weights=weights)), generator, 0)


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (torch.ones(2, 8), ShapeError, r"a weight per example, \[2, 9\]"),
        (torch.ones(2, 9, dtype=torch.float32), ShapeError, "weights of the parameters' type"),
        (torch.ones(2, 9, dtype=torch.int64), ShapeError, "weights of the parameters' type"),
        (
            torch.tensor([[1.0] * 9, [0.0] * 9]).double(),
            TaskError,
            r"task 1 has weights from 0\.0 to 0\.0",
        ),
        (torch.tensor([[1.0] * 8 + [-1.0], [1.0] * 9]).double(), TaskError, r"task 0 .* -1\.0"),
        (torch.full((2, 9), torch.nan).double(), TaskError, "finite weights"),
    ],
)
def test_weights_that_are_none_are_refused(weights, error, message, generator):
    tasks = take_tasks(batch(regressions(generator)), 0, 2)
    tasks = replace(tasks, support=tasks.support._replace(weights=weights))
    learner = GradientLearner(s.MAML(MLP((2, 5, 1), generator)))
    with pytest.raises(error, match=message):
        learner.collect(tasks, generator, 0)
