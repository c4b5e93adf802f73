"""Exported metric and memory learners do what the learners do, in ONNX Runtime alone."""

import numpy as np
import pytest
import torch
from torch import nn

import metarl
from metarl.deploy.export.adaptation import export_adaptation
from metarl.deploy.export.adaptation_run import export_network
from metarl.deploy.exported.runtime import OnnxAdaptation
from metarl.errors import CheckpointError, NonFiniteError, SettingsError, ShapeError
from metarl.learners import Prototypical, ZeroShotPrototypes
from metarl.learners.memory.algorithms import MANNAlgorithm, MetaNetAlgorithm
from metarl.learners.memory.networks import MemoryAugmentedOptions, RecurrentOptions
from metarl.learners.metric.algorithms import (
    EmbeddingSettings,
    FeatureClassifierAlgorithm,
    MatchingAlgorithm,
    NearestNeighbourAlgorithm,
    PrototypicalAlgorithm,
    ReconstructionAlgorithm,
    RelationAlgorithm,
    SiameseAlgorithm,
)
from metarl.learners.metric.of_modules import embedding_of
from metarl.tasks.base import Examples, TaskBatch
from tests.deploy.export.test_adaptation import needs_onnx
from tests.image_problems import image_problem

WAY = 3
EMBEDDING, DESCRIBE = 6, 3
MEMORY = MemoryAugmentedOptions(units=10, slots=16, width=5, reads=2)
ANY_SIZE = {
    "prototypical": PrototypicalAlgorithm(),
    "pyramid": PrototypicalAlgorithm(EmbeddingSettings("pyramid")),
    "matching": MatchingAlgorithm(),
    "euclidean": MatchingAlgorithm("euclidean"),
    "relation": RelationAlgorithm(),
    "reconstruction": ReconstructionAlgorithm(views=2),
    "siamese": SiameseAlgorithm(16, distortions=False),
    "neighbours": NearestNeighbourAlgorithm(),
    "classifier": FeatureClassifierAlgorithm(),
}
FIXED_SIZE = {
    "context": (MatchingAlgorithm(context_steps=2), 2),
    "mann": (MANNAlgorithm(MEMORY), 2),
    "lstm": (MANNAlgorithm(RecurrentOptions(10)), 1),
    "metanet": (MetaNetAlgorithm(8, 5), 1),
    "metanet-pairs": (MetaNetAlgorithm(8, 5), 2),
}


def image_tasks(generator, shots, way=WAY):
    """A task of random images; the support set is in a random order."""

    def examples(count):
        labels = torch.randperm(count * way, generator=generator) % way
        return Examples(torch.rand(1, count * way, 1, 28, 28, generator=generator), labels[None])

    return TaskBatch(examples(shots), examples(2))


def vector_tasks(generator, shots, way=WAY, size=4):
    labels = torch.arange(shots * way)[None] % way
    inputs = torch.randn(1, shots * way, size, generator=generator)
    return TaskBatch(Examples(inputs, labels), Examples(inputs + 0.1, labels))


def assert_scores(learner, found, tasks, tolerance=1e-5, **drawn):
    """Compares an export's scores of the queries with the learner's."""
    *_, adapted = learner.adapt(tasks.support, 1, torch.Generator().manual_seed(3))
    expected = learner.predict(adapted, tasks.query.inputs)[0]
    inputs, targets = (t[0].numpy() for t in tasks.support[:2])
    assert found.adapt(inputs=inputs, targets=targets, **drawn) is None
    scores = found.predict(tasks.query.inputs[0].numpy())
    np.testing.assert_allclose(scores, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(scope="module")
def prototypes(tmp_path_factory):
    """Prototypical networks of vectors, and their export."""
    needs_onnx()
    generator = torch.Generator().manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6))
    learner = Prototypical(net)
    folder = tmp_path_factory.mktemp("prototypes") / "out"
    assert export_adaptation(learner, folder, tasks=vector_tasks(generator, 2)) < 1e-5
    return learner, folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ANY_SIZE)
def test_any_number_of_examples_and_classes_gives_the_scores(name, generator, tmp_path):
    needs_onnx()
    learner = ANY_SIZE[name].build(image_problem(generator)).eval()
    assert export_adaptation(learner, tmp_path / "out", tasks=image_tasks(generator, 1)) < 1e-5
    found = OnnxAdaptation(tmp_path / "out")
    for shots, way in ((1, 3), (2, 5), (4, 2)):
        assert_scores(learner, found, image_tasks(generator, shots, way))


class Solves(nn.Module):
    """Features from inverses of matrices [N, 4, 4] whose first pivot is 0, and of a constant."""

    def __init__(self):
        super().__init__()
        self.swap = nn.Parameter(torch.eye(4).roll(1, 0) + 0.1)

    def forward(self, x):
        off = torch.ones(4, 4) - torch.eye(4)
        matrices = self.swap + x.unsqueeze(2) * off * x.unsqueeze(1)
        matrices = matrices - torch.diag_embed(matrices.diagonal(dim1=1, dim2=2))
        fixed = x @ torch.linalg.inv_ex(self.swap).inverse
        return torch.linalg.inv_ex(matrices).inverse.flatten(1) + fixed.repeat(1, 4)


def test_inverses_are_those_of_torch(generator, tmp_path):
    needs_onnx()
    learner = Prototypical(Solves())
    tasks = vector_tasks(generator, 2)
    assert export_adaptation(learner, tmp_path / "out", tasks=tasks) < 1e-4
    assert_scores(learner, OnnxAdaptation(tmp_path / "out"), vector_tasks(generator, 3), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED_SIZE)
def test_a_learner_that_steps_through_its_examples_gives_the_scores(name, generator, tmp_path):
    needs_onnx()
    algorithm, shots = FIXED_SIZE[name]
    learner = algorithm.build(image_problem(generator)).eval()
    export_adaptation(learner, tmp_path / "out", tasks=image_tasks(generator, shots))
    found = OnnxAdaptation(tmp_path / "out")
    way = (learner.way,) if "metanet" in name else ()
    draw = learner._draw_examples if way else learner._draw_order
    for _ in range(3):
        tasks = image_tasks(generator, shots)
        chosen = draw(tasks.support, *way, torch.Generator().manual_seed(3))[0]
        pairs = name == "metanet-pairs"
        drawn = {"pairs": chosen} if pairs else {"order": chosen.view(-1)}
        tolerance = 1e-3 if "metanet" in name else 1e-5
        drawn = {n: t.numpy() for n, t in drawn.items()}
        assert_scores(learner, found, tasks, tolerance, **drawn)
    # What is drawn for the user is a valid choice, the same for the same generator.
    inputs, targets = (t[0].numpy() for t in tasks.support[:2])
    scores = []
    for seed in (0, 0, 1):
        found.adapt(inputs=inputs, targets=targets, generator=np.random.default_rng(seed))
        scores.append(found.predict(tasks.query.inputs[0].numpy()))
    assert (scores[0] == scores[1]).all() and (scores[0] != scores[2]).any()
    more = image_tasks(generator, shots + 1).support
    with pytest.raises(ShapeError, match=r"Expected (inputs|targets) of shape"):
        found.adapt(inputs=more.inputs[0].numpy(), targets=more.targets[0].numpy())


@pytest.mark.slow
def test_what_float32_loses_in_meta_networks_is_there_in_float64(generator, tmp_path):
    learner = MetaNetAlgorithm(8, 5).build(image_problem(generator)).double()
    support, query = (
        Examples(e.inputs.double(), e.targets)
        for e in (image_tasks(generator, 2).support, image_tasks(generator, 2).query)
    )
    tasks = TaskBatch(support, query)
    assert export_adaptation(learner, tmp_path / "out", "torch", tasks=tasks) < 1e-10


def test_prototypes_are_the_learners_and_a_run_opens_them(prototypes, generator, tmp_path):
    learner, folder = prototypes
    found, adapter = OnnxAdaptation(folder), metarl.load(folder)
    for shots, way in ((1, 3), (5, 7)):
        tasks = vector_tasks(generator, shots, way)
        assert_scores(learner, found, tasks)
        *_, adapted = learner.adapt(tasks.support, 1, generator)
        state = found.state["state.features"]
        np.testing.assert_allclose(state, adapted.features[0], rtol=1e-5, atol=1e-5)
        inputs, targets = (t[0].numpy() for t in tasks.support[:2])
        report = adapter.adapt(inputs, targets)
        assert (report.steps, report.examples, report.loss_before) == (1, shots * way, None)
        query = tasks.query.inputs[0].numpy()
        assert (adapter.predict(query) == found.predict(query)).all()
    adapter.save(tmp_path / "state.safetensors")
    other = metarl.load(folder)
    other.restore(tmp_path / "state.safetensors")
    assert (other.predict(query) == found.predict(query)).all()
    other.reset()
    for call in (lambda: other.predict(query), other.state):
        with pytest.raises(SettingsError, match="call `adapt"):
            call()
    with pytest.raises(CheckpointError, match="no state of this learner"):
        other.load_state({"features": torch.zeros(3, 6)})


def test_unsuitable_support_sets_are_refused(prototypes):
    found = OnnxAdaptation(prototypes[1])
    inputs = np.zeros((4, 4), np.float32)
    cases = [
        ([0, 1, 3, 3], "without gaps"),
        ([1, 2, 2, 1], "without gaps"),
        ([0.0, 1.0, 0.0, 1.0], "whole numbers"),
        ([0, 1, 1], "as many examples"),
    ]
    for targets, message in cases:
        with pytest.raises(ShapeError, match=message):
            found.adapt(inputs=inputs, targets=np.array(targets))
    with pytest.raises(ShapeError, match="labels of the support examples"):
        found.adapt(inputs=inputs)
    assert not found.state


def test_a_program_of_torch_and_a_network_alone_score_as_the_learner(
    prototypes, generator, tmp_path
):
    learner, _ = prototypes
    tasks = vector_tasks(generator, 2)
    export_adaptation(learner, tmp_path / "out", "torch", tasks=tasks)
    adapt, predict = (
        torch.export.load(tmp_path / "out" / f"{name}.pt2").module()
        for name in ("adapt", "predict")
    )
    state = adapt(tasks.support.inputs[0], tasks.support.targets[0], torch.arange(WAY))
    export_network(learner, tmp_path / "network.pt2", "torch", lambda: tasks, 0, 0)
    network = torch.export.load(tmp_path / "network.pt2").module()
    *_, adapted = learner.adapt(tasks.support, 0, generator)
    query = tasks.query.inputs
    expected = learner.predict(adapted, query)[0]
    for outputs in (predict(*state, query[0]), network(query[0])):
        torch.testing.assert_close(outputs[0], expected, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """Prototypes of descriptions, a task without examples, and their export."""
    needs_onnx()
    torch.manual_seed(0)
    embedding = embedding_of(nn.Sequential(nn.Linear(4, EMBEDDING), nn.ReLU()))
    learner = ZeroShotPrototypes(embedding, nn.Linear(DESCRIBE, EMBEDDING), count=2.0)
    tasks = described_tasks(torch.Generator().manual_seed(0), 0, WAY)
    folder = tmp_path_factory.mktemp("described") / "out"
    assert export_adaptation(learner, folder, tasks=tasks) < 1e-5
    return learner, tasks, folder


def described_tasks(generator, shots, way, known=None):
    tasks = vector_tasks(generator, max(shots, 1), way)
    count = shots * way
    support = Examples(tasks.support.inputs[:, :count], tasks.support.targets[:, :count])
    info = {"descriptions": torch.randn(1, way, DESCRIBE, generator=generator)}
    if known is not None:
        info["described"] = torch.tensor([known])
    return TaskBatch(support, tasks.query, info)


def test_described_classes_need_no_examples(described, generator):
    learner, _, folder = described
    found, adapter = OnnxAdaptation(folder), metarl.load(folder)
    cases = [(0, 3, None), (0, 5, None), (2, 4, None), (1, 3, [True, False, True])]
    for shots, way, known in cases:
        tasks = described_tasks(generator, shots, way, known)
        *_, adapted = learner.adapt_to(tasks, 1, generator)
        query = tasks.query.inputs[0].numpy()
        expected = learner.predict(adapted, tasks.query.inputs)[0]
        given = {n: v[0].numpy() for n, v in tasks.info.items()}
        shown = [t[0].numpy() for t in tasks.support[:2]] if shots else []
        batch = dict(zip(("inputs", "targets"), shown, strict=False))
        assert found.adapt(**batch, **given) is None
        report = adapter.adapt(*shown, **given)
        assert report.examples == shots * way
        for scores in (found.predict(query), adapter.predict(query)):
            np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)


def test_unsuitable_descriptions_are_refused(described):
    found = OnnxAdaptation(described[2])
    rows, inputs = np.zeros((2, DESCRIBE), np.float32), np.zeros((2, 4), np.float32)
    cases = [
        ({}, "Expected descriptions"),
        ({"descriptions": rows[:, :2]}, "Expected descriptions of shape"),
        ({"descriptions": rows, "inputs": inputs, "targets": np.array([0, 2])}, "from 0 to 1"),
        ({"descriptions": rows, "inputs": inputs}, "the indices of the descriptions"),
        ({"descriptions": rows, "described": np.array([True])}, r"described \[2\]"),
        ({"descriptions": rows, "described": np.array([True, False])}, r"neither of \[1\]"),
    ]
    for batch, message in cases:
        with pytest.raises(ShapeError, match=message):
            found.adapt(**batch)
    with pytest.raises(NonFiniteError):
        found.adapt(descriptions=rows * np.nan)
    assert not found.state


def test_a_described_task_is_a_network_alone(described, generator, tmp_path):
    learner, tasks, _ = described
    export_network(learner, tmp_path / "network.pt2", "torch", lambda: tasks, 0, 0)
    network = torch.export.load(tmp_path / "network.pt2").module()
    *_, adapted = learner.adapt_to(tasks, 0, generator)
    expected = learner.predict(adapted, tasks.query.inputs)[0]
    (scores,) = network(tasks.query.inputs[0])
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
