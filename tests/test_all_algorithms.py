"""One contract that every algorithm passes."""

from dataclasses import replace
from typing import ClassVar

import pytest
import torch

from metarl.adaptation import GradientLearner
from metarl.adaptation import algorithms as s
from metarl.errors import SettingsError, ShapeError, TaskError
from metarl.evaluation.curves import adaptation_curve
from metarl.learners.memory import algorithms as memory
from metarl.learners.memory.networks import MemoryAugmentedOptions
from metarl.learners.metric import algorithms as m
from metarl.models import MLP, Conv4
from metarl.tasks import Examples, Glyphs, Sine
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors, to_device
from tests.devices import assert_rounding, deterministic_algorithms, on_cuda
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
    "boil": s.BOILAlgorithm(),
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
    "reconstruction": m.ReconstructionAlgorithm(),
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


@pytest.fixture
def deterministic_cuda():
    """Deterministic algorithms on CUDA, for one test."""
    with deterministic_algorithms():
        yield


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


@pytest.fixture
def episodes():
    return tasks_of("glyphs").sample(2, torch.Generator().manual_seed(4))


def losses_and_accuracies(name, tasks):
    learner, _ = build(name, "glyphs")
    inputs = learner.collect(tasks, torch.Generator().manual_seed(5), 0)
    losses = learner(inputs).losses.detach()
    return losses, *learner.evaluate(tasks, 2, torch.Generator().manual_seed(6))


def relabelled(tasks, change):
    support, query = (Examples(e.inputs, change(e.targets)) for e in (tasks.support, tasks.query))
    return replace(tasks, support=support, query=query)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integer_type(name, dtype, episodes):
    expected = losses_and_accuracies(name, episodes)
    found = losses_and_accuracies(name, relabelled(episodes, lambda labels: labels.to(dtype)))
    for a, b in zip(expected, found, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("label", [-100, -1, 3, 2**40])
@pytest.mark.parametrize("where", ["support", "query"])
def test_a_label_out_of_range_is_refused(name, where, label, episodes):
    learner, generator = build(name, "glyphs")
    wrong = relabelled(episodes, torch.clone)
    getattr(wrong, where).targets[1, 0] = label
    with pytest.raises(TaskError, match="Expected"):
        learner.collect(wrong, generator, 0)
    with pytest.raises(TaskError, match="Expected"):
        list(learner.evaluate(wrong, 1, generator))


def test_sliced_and_transposed_batches_are_read_rightly(name, episodes):
    def views(examples):
        inputs = examples.inputs.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        return Examples(inputs.repeat(1, 1, 1, 1, 2)[..., :28], examples.targets.mT.contiguous().mT)

    sliced = replace(episodes, support=views(episodes.support), query=views(episodes.query))
    assert not sliced.support.targets.is_contiguous()
    assert not sliced.query.inputs.is_contiguous()
    for a, b in zip(*(losses_and_accuracies(name, t) for t in (episodes, sliced)), strict=True):
        torch.testing.assert_close(a, b)


def test_batches_of_another_type_or_with_gradients_are_refused(name, episodes):
    learner, generator = build(name, "glyphs")
    changes = {
        "of the parameters' type torch.float32": torch.Tensor.double,
        "without gradients": lambda t: t.clone().requires_grad_(),
    }
    *_, adapted = learner.adapt(episodes.support, 1, generator)
    for message, change in changes.items():
        support, query = (
            examples._replace(inputs=change(examples.inputs))
            for examples in (episodes.support, episodes.query)
        )
        with pytest.raises(ShapeError, match=message):
            learner.collect(replace(episodes, support=support), generator, 0)
        with pytest.raises(ShapeError, match=message):
            learner.collect(replace(episodes, query=query), generator, 0)
        with pytest.raises(ShapeError, match=message):
            next(learner.adapt(support, 1, generator))
        with pytest.raises(ShapeError, match=message):
            learner.predict(adapted, query.inputs)


def test_a_query_alone_has_the_label_that_it_has_in_a_batch(name, episodes):
    """By default: the prediction of a deployed classifier."""
    learner = train(name, "glyphs")[0]
    *_, adapted = learner.adapt(episodes.support, 2, torch.Generator().manual_seed(3))
    inputs = episodes.query.inputs
    together = learner.predict(adapted, inputs)
    alone = [learner.predict(adapted, inputs[:, j : j + 1]) for j in range(inputs.shape[1])]
    torch.testing.assert_close(torch.cat(alone, 1), together, rtol=1e-4, atol=1e-5)
    (default,) = learner.evaluate(episodes, 2, torch.Generator().manual_seed(3), last_only=True)
    accuracies = (together.argmax(2) == episodes.query.targets).float().mean(1)
    assert torch.equal(default, accuracies)


def test_a_diverged_learner_has_no_accuracy(name):
    learner, _ = build(name, "glyphs")
    with torch.no_grad():
        for p in learner.parameters():
            p.fill_(float("nan"))
    if name == "learned-optimizer-fresh":
        pytest.skip("it starts from random parameters")
    with pytest.warns(RuntimeWarning, match="accuracy of task 0, 1, 2 is NaN"):
        curve = adaptation_curve(
            learner, tasks_of("glyphs"),
            num_tasks=3, steps=1, generator=torch.Generator().manual_seed(1),
        )  # fmt: skip
    assert curve.values.isnan().all()


def first_layer(network):
    return {n: p for n, p in network.named_parameters() if ".0." in n}


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("early", [True, False])
def test_parameters_that_require_no_gradient_are_left_by_both_loops(name, early):
    generator = torch.Generator().manual_seed(0)
    model = MLP((1, 10, 10, 1), generator)
    if early:
        model.layers[0].requires_grad_(False)
    learner = GradientLearner(ALGORITHMS[name].adaptation(model, generator))
    if not early and not learner.adaptation.fresh_start:  # it sets `requires_grad` itself
        model.layers[0].requires_grad_(False)
    frozen = first_layer(model)
    before = {n: p.clone() for n, p in learner.state_dict().items()}
    step, tasks = meta_step(name, learner), tasks_of("sine")
    for i in range(3):
        inputs = learner.collect(tasks.sample(5, generator), generator, i)
        result = step(inputs, i)
        assert result.finite
        learner.after_update(result.carry)
    after = learner.state_dict()
    assert all(torch.equal(after[f"model.{n}"], before[f"model.{n}"]) for n in frozen)
    trained = [n for n, p in learner.named_parameters() if p.requires_grad and "0/" not in n]
    assert trained and all(not torch.equal(after[n], before[n]) for n in trained)
    *_, adapted = learner.adapt(tasks.sample(2, generator).support, 2, generator)
    if early or not learner.adaptation.fresh_start:
        for n, p in frozen.items():
            assert torch.equal(adapted.params[n], p.expand_as(adapted.params[n])), n
    rest = [p for n, p in adapted.params.items() if n not in frozen]
    assert any(not torch.equal(p[0], p[1]) for p in rest), "the rest adapts"


class WithSpare(MLP):
    """A network with parameters that its forward pass does not use: three numbers, one, none."""

    SPARE: ClassVar = {"spare": (3,), "scale": (), "empty": (0,)}

    def __init__(self, generator):
        super().__init__((1, 10, 10, 1), generator)
        for name, shape in self.SPARE.items():
            self.register_parameter(name, torch.nn.Parameter(torch.ones(shape)))

    def initial(self, generator, num_tasks=None):
        tasks = () if num_tasks is None else (num_tasks,)
        spare = {name: torch.ones((*tasks, *shape)) for name, shape in self.SPARE.items()}
        return {**super().initial(generator, num_tasks), **spare}


@pytest.mark.parametrize("name", [n for n in ALGORITHMS if "frozen" not in n])
def test_parameters_that_a_forward_pass_does_not_use_are_no_error(name):
    generator = torch.Generator().manual_seed(0)
    model = WithSpare(generator)
    learner = GradientLearner(ALGORITHMS[name].adaptation(model, generator))
    step, tasks = meta_step(name, learner), tasks_of("sine").sample(5, generator)
    assert step(learner.collect(tasks, generator, 0), 0).finite
    values = torch.stack(list(learner.evaluate(tasks, 2, generator)))
    assert torch.isfinite(values).all()
    plain = MLP((1, 10, 10, 1), torch.Generator().manual_seed(0))
    if name in ("maml", "maml-3-steps", "fomaml"):
        other = GradientLearner(ALGORITHMS[name].adaptation(plain, generator))
        other_step = meta_step(name, other)
        other_step(other.collect(tasks, generator, 0), 0)
        for n, p in plain.named_parameters():
            assert torch.equal(p, model.get_parameter(n)), n


@pytest.mark.parametrize("name", ["maml", "fomaml", "reptile", "lstm", "metasgd"])
def test_a_network_of_which_nothing_adapts_is_refused(name):
    learner, generator = build(name, "sine")
    tasks = tasks_of("sine").sample(2, generator)
    learner.requires_grad_(False)
    with pytest.raises(SettingsError, match=r"parameters that adapt.*requires_grad_\(\)"):
        list(learner.adapt(tasks.support, 1, generator))


def test_parameters_that_change_their_mind_after_the_outer_update_was_built(name):
    learner, generator = build(name, "glyphs")
    if not any(p.requires_grad for p in learner.parameters()):
        pytest.skip("nothing is trained")
    step = meta_step(name, learner)
    inputs = learner.collect(tasks_of("glyphs").sample(2, generator), generator, 0)
    next(p for p in learner.parameters() if p.requires_grad).requires_grad_(False)
    with pytest.raises(SettingsError, match=r"requires_grad.*has changed"):
        step(inputs, 0)


# On a GPU


def updated_on(name, problem, device):
    """One outer update, on a device, with inputs that the CPU has drawn."""
    learner, generator = build(name, problem)
    inputs = learner.collect(tasks_of(problem).sample(5, generator), generator, 0)
    result = meta_step(name, learner.to(device))(to_device(inputs, torch.device(device)), 0)
    return learner, [result]


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "problem"), CASES)
def test_an_iteration_on_cuda_is_the_cpus_up_to_rounding(name, problem):
    assert_rounding(*(updated_on(name, problem, d) for d in ("cpu", on_cuda())))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:.*does not have a deterministic implementation")
@pytest.mark.parametrize(("name", "problem"), CASES)
def test_the_same_seed_on_cuda_gives_the_same_weights(name, problem, deterministic_cuda):
    runs = []
    for _ in range(2):
        learner, _ = build(name, problem)
        step = meta_step(name, learner.to(on_cuda()))
        generator = torch.Generator(on_cuda()).manual_seed(1)
        for i in range(3):
            inputs = learner.collect(tasks_of(problem).sample(5, generator), generator, i)
            learner.after_update(step(inputs, i).carry)
        runs.append(learner.state_dict())
    for n in runs[0]:
        assert torch.equal(runs[0][n], runs[1][n]), n
