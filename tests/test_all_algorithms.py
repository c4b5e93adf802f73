"""One contract that every algorithm passes."""

from dataclasses import replace

import pytest
import torch

from metarl.adaptation import GradientLearner
from metarl.adaptation import algorithms as s
from metarl.errors import SettingsError
from metarl.evaluation.curves import adaptation_curve
from metarl.learners.memory import algorithms as memory
from metarl.learners.memory.networks import MemoryAugmentedOptions
from metarl.learners.metric import algorithms as m
from metarl.models import MLP, Conv4
from metarl.tasks import Glyphs, Sine
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors
from tests.image_problems import image_problem

BODY = ("*.0.*",)  # the first layer of both networks
FREEZABLE = {
    "metasgd": s.MetaSGDAlgorithm(),
    "mamlplusplus": s.MAMLPlusPlusAlgorithm(0.01, steps=2),
    "reptile": s.ReptileAlgorithm(0.01, steps=3, batch_size=4),
    "lstm": s.LSTMMetaLearnerAlgorithm(steps=2),
    "learned-optimizer": s.LearnedOptimizerAlgorithm(steps=2, unroll=2, batch_size=4),
}
ALGORITHMS = {
    "maml": s.MAMLAlgorithm(),
    "maml-3-steps": s.MAMLAlgorithm(steps=3),
    "fomaml": s.MAMLAlgorithm(first_order=True),
    "metasgd": s.MetaSGDAlgorithm(),
    "mamlplusplus": s.MAMLPlusPlusAlgorithm(0.01, steps=2, multi_step_iterations=5),
    "reptile": s.ReptileAlgorithm(0.01, steps=3, batch_size=4),
    "lstm": s.LSTMMetaLearnerAlgorithm(steps=2),
    "lstm-batches": s.LSTMMetaLearnerAlgorithm(steps=2, batch_size=3),
    "learned-optimizer": s.LearnedOptimizerAlgorithm(steps=4, unroll=2, batch_size=4),
    "learned-optimizer-fresh": s.LearnedOptimizerAlgorithm(steps=4, unroll=2, fresh_start=True),
    "pretrained": s.PretrainedAlgorithm(),
    "anil": s.ANILAlgorithm(),
    "anil-3-steps": s.ANILAlgorithm(steps=3, first_order=True),
    **{f"{name}-frozen": replace(options, frozen=BODY) for name, options in FREEZABLE.items()},
}
SGD = {"reptile", "reptile-frozen"}
METRIC = {
    "prototypical": m.PrototypicalAlgorithm(),
    "matching": m.MatchingAlgorithm(),
    "matching-euclidean": m.MatchingAlgorithm("euclidean"),
    "matching-context": m.MatchingAlgorithm(context_steps=2),
    "relation": m.RelationAlgorithm(),
    "siamese": m.SiameseAlgorithm(units=8),
    "nearest-neighbour": m.NearestNeighbourAlgorithm(),
}
SMALL_MEMORY = MemoryAugmentedOptions(units=8, slots=8, width=6, reads=2)
MEMORY = {
    "mann": memory.MANNAlgorithm(SMALL_MEMORY),
    "mann-convolutions": memory.MANNAlgorithm(SMALL_MEMORY, "convolutions"),
    "metanet": memory.MetaNetAlgorithm(features=6),
}
COMPARING = [*METRIC, *MEMORY]
CASES = [(name, problem) for name in ALGORITHMS for problem in ("sine", "glyphs")]
CASES += [(name, "glyphs") for name in COMPARING]


@pytest.fixture(params=[*ALGORITHMS, *COMPARING])
def name(request):
    return request.param


def build(name, problem, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if name in METRIC:
        return METRIC[name].build(image_problem(generator)), generator
    if name in MEMORY:
        return MEMORY[name].build(image_problem(generator)), generator
    if problem == "sine":
        model = MLP((1, 10, 10, 1), generator)
    else:
        model = Conv4(3, generator, filters=4, pooling="stride")
    return GradientLearner(ALGORITHMS[name].adaptation(model, generator)), generator


def tasks_of(problem):
    if problem == "sine":
        return Sine(8, 8)
    return Glyphs(3, 2, 2, alphabets=4, characters=4, drawings=6)


def meta_step(name, learner, **changes):
    kind = {"optimizer": "sgd", "outer_lr": 0.5} if name in SGD else {}
    return MetaStep(learner, TrainingSettings(**{**kind, **changes}))


def train(name, problem=None, iterations=3, **changes):
    problem = problem or ("glyphs" if name in COMPARING else "sine")
    learner, generator = build(name, problem)
    step = meta_step(name, learner, **changes)
    tasks = tasks_of(problem)
    results = []
    for i in range(iterations):
        inputs = learner.collect(tasks.sample(5, generator), generator, i)
        results.append(step(inputs, i))
        learner.after_update(results[-1].carry)
    return learner, results


@pytest.mark.parametrize("name", ALGORITHMS)
def test_its_inner_gradients_can_be_clipped(name):
    options = replace(ALGORITHMS[name], max_inner_grad_norm=0.5)
    generator = torch.Generator().manual_seed(0)
    made = options.clipped_adaptation(MLP((1, 10, 1), generator), generator)
    assert made.max_inner_grad_norm == 0.5
    tasks = tasks_of("sine").sample(5, generator)
    learner = GradientLearner(made)
    assert learner(learner.collect(tasks, generator, 0)).losses.isfinite().all()
    with pytest.raises(SettingsError, match="finite `max_inner_grad_norm` above 0"):
        replace(ALGORITHMS[name], max_inner_grad_norm=-1.0)


@pytest.mark.parametrize(("name", "problem"), CASES)
def test_it_trains_what_it_has(name, problem):
    before = {n: p.clone() for n, p in build(name, problem)[0].state_dict().items()}
    learner, results = train(name, problem)
    assert all(r.finite and r.losses.shape == (5,) for r in results)
    assert not any(r.losses.requires_grad for r in results)
    for n, p in learner.named_parameters():
        changed = not torch.equal(p, before[n])
        assert changed == p.requires_grad, n


def test_the_same_seed_gives_the_same_weights(name):
    first, second = (train(name)[0].state_dict() for _ in range(2))
    for n in first:
        assert torch.equal(first[n], second[n]), n


def test_chunks_of_tasks_change_nothing_but_rounding(name):
    whole, chunked = (train(name, task_chunk_size=size)[0] for size in (None, 2))
    for n, p in whole.state_dict().items():
        torch.testing.assert_close(chunked.state_dict()[n], p, rtol=2e-4, atol=2e-5, msg=n)


def test_workers_change_nothing(name):
    one, two = (train(name, task_chunk_size=2, workers=count)[0] for count in (1, 2))
    for n, p in one.state_dict().items():
        assert torch.equal(two.state_dict()[n], p), n


@pytest.mark.parametrize(("name", "problem"), CASES)
def test_its_curve_goes_beyond_the_trained_steps(name, problem):
    learner, _ = train(name, problem)
    before = {n: p.clone() for n, p in learner.state_dict().items()}
    for transductive in (True, False):
        curve = adaptation_curve(
            learner,
            tasks_of(problem),
            num_tasks=3,
            steps=7,
            generator=torch.Generator().manual_seed(1),
            transductive=transductive,
        )
        assert curve.values.shape == (8, 3)
        assert torch.isfinite(curve.values).all()
        assert curve.metric == ("mse" if problem == "sine" else "accuracy")
    for n, p in learner.state_dict().items():
        assert torch.equal(p, before[n]), f"evaluation changed {n}"


def test_predictions_of_a_task_see_that_task_only(name):
    learner, generator = train(name, "glyphs")[0], torch.Generator().manual_seed(2)
    tasks = tasks_of("glyphs").sample(3, generator)
    other = replace(tasks, support=map_tensors(torch.clone, tasks.support))
    other.support.inputs[1:] = 0.5  # the other tasks change
    outputs = []
    for batch in (tasks, other):
        *_, adapted = learner.adapt(batch.support, 2, torch.Generator().manual_seed(3))
        outputs.append(learner.predict(adapted, tasks.query.inputs))
    torch.testing.assert_close(outputs[0][0], outputs[1][0])
    assert not torch.allclose(outputs[0][1], outputs[1][1]), "the support set has no influence"


def test_the_order_of_queries_has_no_influence(name):
    learner = train(name, "glyphs")[0]
    tasks = tasks_of("glyphs").sample(2, torch.Generator().manual_seed(2))
    adapted = list(learner.adapt(tasks.support, 2, torch.Generator().manual_seed(3)))
    outputs = [learner.predict(a, tasks.query.inputs) for a in adapted]
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    swapped = [learner.predict(a, tasks.query.inputs[:, order]) for a in adapted]
    for a, b in zip(outputs, swapped, strict=True):
        torch.testing.assert_close(a[:, order], b)


def test_what_it_carries_can_be_saved(name, tmp_path):
    learner, _ = train(name)
    torch.save(learner.extra_state(), tmp_path / "carried.pt")
    loaded = torch.load(tmp_path / "carried.pt", weights_only=True)
    assert loaded.keys() == learner.extra_state().keys()
    unfinished = name in ("learned-optimizer", "learned-optimizer-fresh")
    assert bool(loaded) == unfinished, "an unroll is under way"
