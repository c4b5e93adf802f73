"""The gradient learner: batches, frozen parameters, steps, settings."""

import math

import pytest
import torch

from metarl import adaptation
from metarl.adaptation import Adaptation, GradientLearner, Scratch
from metarl.adaptation.gradient_learner import ACTIVATION
from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError, ShapeError
from metarl.models.base import task_params
from metarl.tasks import Examples, Sine, TaskBatch
from metarl.training import OuterLoop
from metarl.training.meta_step import MetaStep
from metarl.training.settings import TrainingSettings
from metarl.trees import map_tensors
from tests.gradient_learners import MAML, MAMLPlusPlus, Reptile


def test_batches_are_drawn_without_replacement_and_reshuffled(mlp, generator):
    learner = GradientLearner(
        Adaptation(mlp, GradientDescent(0.1), QueryLoss(), steps=5, batch_size=4)
    )
    x = torch.zeros(3, 10, 1)
    inputs = learner.collect(TaskBatch(Examples(x, x), Examples(x, x)), generator, 0)
    assert inputs.batches.shape == (3, 5, 4)
    for task in inputs.batches.flatten(1).tolist():
        assert sorted(task[:10]) == sorted(task[10:]) == list(range(10))
        assert task[:10] != task[10:]


def test_a_step_sees_its_batch_only(mlp, regression, generator):
    learner = GradientLearner(
        Adaptation(mlp, GradientDescent(0.1), QueryLoss(), steps=1, batch_size=2)
    )
    inputs = learner.collect(regression, generator, 0)
    rows = inputs.batches[:, 0]
    few = [
        torch.stack([t[i] for t, i in zip(v, rows, strict=True)]) for v in regression.support[:2]
    ]
    whole = MAML(mlp, 0.1)
    expected = whole(whole.collect(TaskBatch(Examples(*few), regression.query), generator, 0))
    torch.testing.assert_close(learner(inputs).losses, expected.losses)


@pytest.mark.parametrize("frozen", [("*.norm.*",), ("blocks.*",)])
def test_frozen_parameters_stay_in_the_inner_loop_and_learn_in_the_outer(conv, images, frozen):
    learner = MAML(conv, 0.5, 2, frozen=frozen)
    *_, adapted = learner.adapt(images.support, 2, torch.Generator())
    for n, p in conv.named_parameters():
        moved = not torch.equal(adapted.params[n], p.expand_as(adapted.params[n]))
        assert moved == (n not in learner.adaptation.frozen_names), n
    learner(learner.collect(images, torch.Generator(), 0)).losses.sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in conv.parameters())


def test_tasks_go_their_own_ways_after_the_first_step(mlp, regression):
    loss = lambda params, step: mlp(params, regression.support.inputs).square().mean((1, 2))  # noqa: E731
    start, first, _ = inner_loop(loss, GradientDescent(0.1), task_params(mlp, 4), 2)
    n = "layers.0.weight"
    assert all(torch.equal(start.params[n][0], start.params[n][t]) for t in range(4))
    assert not any(torch.equal(first.params[n][0], first.params[n][t]) for t in range(1, 4))
    assert start.loss is None and first.loss.shape == (4,)


def test_zero_steps_judge_the_initialisation(mlp, regression, generator):
    learner = GradientLearner(Adaptation(mlp, GradientDescent(0.1), QueryLoss(), steps=0))
    losses = learner(learner.collect(regression, generator, 0)).losses
    outputs = mlp(task_params(mlp, 4), regression.query.inputs)
    torch.testing.assert_close(losses, (outputs - regression.query.targets).square().mean((1, 2)))


def test_single_queries_do_not_see_each_other(conv, images):
    learner = MAML(conv, 0.1)
    *_, adapted = learner.adapt(images.support, 1, torch.Generator())
    together = learner.predict(adapted, images.query.inputs, transductive=False)
    alone = learner.predict(adapted, images.query.inputs[:, 2:3], transductive=False)
    torch.testing.assert_close(together[:, 2:3], alone)
    assert torch.equal(together, learner.predict(adapted, images.query.inputs))
    shared = learner.predict(adapted, images.query.inputs, transductive=True)
    assert not torch.allclose(together, shared)


def test_targets_of_another_shape_are_refused(mlp, regression, generator):
    support, query = regression.support, regression.query
    tasks = TaskBatch(Examples(support.inputs, support.targets.squeeze(2)), query)
    learner = MAML(mlp, 0.1)
    with pytest.raises(ShapeError, match="one shape"):
        learner(learner.collect(tasks, generator, 0))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": -1},
        {"steps": 4, "batch_size": 0},
        {"steps": 4, "unroll": 3, "first_order": True},
        {"steps": 4, "unroll": 2},
        {"steps": 4, "fresh_start": True},
        {"steps": 4, "statistics_momentum": 0.0},
        {"steps": 4, "statistics_momentum": 1.5},
        {"steps": 4, "statistics_momentum": math.nan},
    ],
)
def test_bad_settings_are_refused(mlp, changes):
    with pytest.raises(SettingsError, match=r"Expected|constants"):
        Adaptation(mlp, GradientDescent(0.1), QueryLoss(), **changes)


@pytest.mark.parametrize(
    ("option", "message"),
    [("lr", "Unknown option of MAML 'lr'. Known: .*inner_lr"), ("inner_step", "Did you mean")],
)
def test_an_unknown_option_names_those_there_are(mlp, option, message):
    with pytest.raises(SettingsError, match=message):
        adaptation.MAML(mlp, **{option: 1})


def test_a_frozen_pattern_that_matches_nothing_is_refused(conv):
    with pytest.raises(SettingsError, match=r"'haed\.\*' matches no.*mean 'head\.\w+'"):
        MAML(conv, frozen=("*.norm.*", "haed.*"))


def test_the_normalisation_stays_out_of_the_inner_loop_where_there_is_one(mlp, conv):
    assert MAMLPlusPlus(mlp).adaptation.frozen_names == frozenset()
    norms = {n for n, _ in conv.named_parameters() if ".norm." in n}
    assert MAMLPlusPlus(conv).adaptation.frozen_names == norms and len(norms) == 8
    assert set(MAMLPlusPlus(conv).rule.rates) == {
        n.replace(".", "/") for n, _ in conv.named_parameters() if n not in norms
    }
    assert MAMLPlusPlus(conv, frozen=()).adaptation.frozen_names == frozenset()


def test_data_of_another_type_is_refused(mlp, regression, generator):
    narrow = map_tensors(torch.Tensor.float, regression)
    learner = MAML(mlp)
    with pytest.raises(ShapeError, match=r"type torch\.float64, got torch\.float32"):
        learner(learner.collect(narrow, generator, 0))


def test_few_tasks_of_images_go_through_at_once(
    conv, mlp, images, regression, generator, monkeypatch
):
    learner = MAML(conv, 0.1, 1)
    inputs = learner.collect(images, generator, 0)
    size = conv.filters * images.query.inputs.shape[-1] ** 2
    size //= 1 if conv.pooling == "max" else 4
    examples = max(images.support.inputs.shape[1], images.query.inputs.shape[1])
    assert learner.preferred_chunk_size(inputs) == ACTIVATION // (size * examples) > 4
    monkeypatch.setattr(conv, "activation_size", lambda inputs: ACTIVATION)
    assert learner.preferred_chunk_size(inputs) == 4
    many = map_tensors(lambda t: t.repeat_interleave(100, 1), images)
    assert learner.preferred_chunk_size(learner.collect(many, generator, 0)) == 2
    other = MAML(mlp, 0.1, 1)
    assert other.preferred_chunk_size(other.collect(regression, generator, 0)) is None


@pytest.mark.parametrize("algorithm", [MAML, MAMLPlusPlus, Reptile])
def test_losses_without_gradients_are_those_with_them(algorithm, mlp, regression, generator):
    learner = algorithm(mlp, 0.1, 3)
    inputs = learner.collect(regression, generator, 0)
    expected = learner(inputs).losses.detach()
    with torch.no_grad():
        torch.testing.assert_close(learner(inputs).losses, expected)


def test_where_gradients_are_switched_off(mlp, regression, generator):
    learner = MAML(mlp, 0.1)
    step = MetaStep(Reptile(mlp, 0.1), TrainingSettings())
    with torch.no_grad(), pytest.raises(SettingsError, match="Train outside of that"):
        step(step.gradient.learner.collect(regression, generator, 0), 0)
    with torch.no_grad():
        *_, expected = learner.adapt(regression.support, 1, generator)
    with torch.inference_mode(), pytest.raises(SettingsError, match=r"`torch\.inference_mode"):
        next(learner.adapt(regression.support, 1, generator))
    with torch.inference_mode(), pytest.raises(SettingsError, match=r"`torch\.inference_mode"):
        learner.collect(regression, generator, 0)
    with torch.inference_mode():  # features of a fixed network
        made = map_tensors(torch.clone, regression)
    assert made.support.inputs.is_inference()
    *_, adapted = learner.adapt(made.support, 1, generator)
    torch.testing.assert_close(adapted.params, expected.params)
    losses = [learner(learner.collect(t, generator, 0)).losses for t in (made, regression)]
    torch.testing.assert_close(*losses)


def test_only_adaptations_make_learners(mlp, tmp_path):
    learner = MAML(mlp, 0.1)
    for wrong, found in ((mlp, "MLP"), (learner, "GradientLearner"), (type(mlp), "a class")):
        with pytest.raises(SettingsError, match=f"such as MAML.net.; got {found}"):
            GradientLearner(wrong)
    with pytest.raises(SettingsError, match=r"such as MAML.net.; got MLP"):
        OuterLoop(mlp, Sine(), TrainingSettings(), tmp_path / "run")
    with pytest.raises(SettingsError, match="a GradientLearner, which is a learner already"):
        MAML(learner, 0.1)


def test_what_adapt_returns_is_not_what_it_yields(mlp, regression, generator):
    learner = MAML(mlp, 0.1)
    steps = learner.adapt(regression.support, 1, generator)
    with pytest.raises(SettingsError, match=r"Adapted, got a generator. Take .*\*_, adapted ="):
        learner.predict(steps, regression.query.inputs)
    with pytest.raises(SettingsError, match="Adapted, got a list"):
        learner.adapted_state(list(steps), 0)


def test_adaptation_steps_are_counts(mlp, regression, generator):
    for steps, message in ((-1, "at least 0, got -1"), (0.5, "an integer `steps`")):
        with pytest.raises(SettingsError, match=message):
            next(MAML(mlp, 0.1).adapt(regression.support, steps, generator))


def test_a_prediction_needs_a_query(mlp, conv, regression, images, generator):
    for net, tasks in ((mlp, regression), (conv, images)):
        learner = MAML(net, 0.1)
        *_, adapted = learner.adapt(tasks.support, 1, generator)
        with pytest.raises(ShapeError, match="at least one query per task"):
            learner.predict(adapted, tasks.query.inputs[:, :0])


def test_a_fresh_start_has_the_type_of_the_network(mlp, generator):
    x = torch.randn(3, 4, 1, generator=generator, dtype=torch.float32)
    *_, adapted = GradientLearner(Scratch(mlp.float())).adapt(Examples(x, x), 1, generator)
    assert {p.dtype for p in adapted.params.values()} == {torch.float32}
