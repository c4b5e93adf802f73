"""Losses and metrics of the user against plain torch, task by task, in float64."""

import math
from dataclasses import dataclass
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.adaptation import (
    MAML,
    Adaptation,
    GradientLearner,
    LearnedOptimizer,
    Reptile,
    algorithms,
)
from metarl.adaptation.metric import Metric
from metarl.adaptation.objectives import QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import NonFiniteError, SettingsError, ShapeError, UnknownNameError
from metarl.evaluation.curves import adaptation_curve
from metarl.models import MLP
from metarl.models.base import Model, task_params
from metarl.tasks import Examples, TaskBatch

LR, WAY, LENGTH = 0.1, 3, 4


class Heads(MLP):
    """An MLP that returns its hidden layer and two heads, in a dict."""

    def forward(self, params, inputs, statistics=None):
        """Returns "classes" and "pixels" [T, N, 3] each, and "hidden" [T, N, 5]."""
        w, b = params["layers.0.weight"], params["layers.0.bias"]
        hidden = torch.tanh(inputs @ w.mT + b.unsqueeze(1))
        outputs = hidden @ params["layers.1.weight"].mT + params["layers.1.bias"].unsqueeze(1)
        return {"classes": outputs[..., :3], "pixels": outputs[..., 3:], "hidden": hidden}


class Tokens(MLP):
    """An MLP on each element of a sequence, with a mean over the real ones as further inputs."""

    def forward(self, params, inputs, statistics=None, *, mask=None):
        """Returns logits [T, N, L, 3] for inputs [T, N, L, 3]."""
        if mask is None:
            mask = torch.ones(inputs.shape[:3], dtype=torch.bool)
        shares = mask.unsqueeze(-1).to(inputs.dtype)
        mean = (shares * inputs).sum(2, keepdim=True) / shares.sum(2, keepdim=True)
        outputs = super().forward(params, (inputs + mean).flatten(1, 2))
        return outputs.unflatten(1, inputs.shape[1:3])


def plain(params, x):
    """The network of one task."""
    hidden = torch.tanh(F.linear(x, params["layers.0.weight"], params["layers.0.bias"]))
    return F.linear(hidden, params["layers.1.weight"], params["layers.1.bias"]), hidden


@dataclass
class Case:
    """A loss of batched tasks, and the same of one task in plain torch."""

    outputs: int
    loss: object
    one: object  # (params, start, x, y, mask) -> loss
    targets: str
    outer: object = None
    one_outer: object = None
    network: type = MLP
    metric: object = "loss"


def gaussian(outputs, targets):
    mean, log_variance = outputs[..., :1], outputs[..., 1:]
    return F.gaussian_nll_loss(mean, targets, log_variance.exp(), reduction="none")


def one_gaussian(params, start, x, y, mask):
    outputs = plain(params, x)[0]
    return F.gaussian_nll_loss(outputs[:, :1], y, outputs[:, 1:].exp())


def binary(outputs, targets):
    targets = targets.to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs.squeeze(-1), targets, reduction="none")


def ordinal(outputs, targets):
    """Cumulative logits: P(y > k) for k = 0, 1, ... (all thresholds, Rennie & Srebro 2005)."""
    above = targets.unsqueeze(-1) > torch.arange(outputs.shape[-1])
    return F.binary_cross_entropy_with_logits(outputs, above.to(outputs.dtype), reduction="none")


def one_ordinal(params, start, x, y, mask):
    outputs = plain(params, x)[0]
    losses = [
        F.binary_cross_entropy_with_logits(outputs[:, k], (y > k).to(outputs.dtype))
        for k in range(WAY - 1)
    ]
    return sum(losses) / len(losses)


def reconstruction(outputs, targets, inputs):
    return (outputs["pixels"] - inputs).square()


def one_reconstruction(params, start, x, y, mask):
    return F.mse_loss(plain(params, x)[0][:, 3:], x)


def supervised(outputs, targets):
    losses = F.cross_entropy(outputs["classes"].flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


def one_supervised(params, start, x, y, mask):
    return F.cross_entropy(plain(params, x)[0][:, :3], y)


def auxiliary(outputs, targets):
    return supervised(outputs, targets) + 0.1 * outputs["hidden"].abs().mean(2)


def one_auxiliary(params, start, x, y, mask):
    return one_supervised(params, start, x, y, mask) + 0.1 * plain(params, x)[1].abs().mean()


def proximal(outputs, targets, *, params, start):
    """IMAML's inner loss (Rajeswaran et al. 2019, equation 3) with lambda = 2."""
    distance = sum((p - start[n]).square().flatten(1).sum(1) for n, p in params.items())
    return (outputs - targets).square().mean((1, 2)) + distance


def one_proximal(params, start, x, y, mask):
    distance = sum((p - start[n]).square().sum() for n, p in params.items())
    return F.mse_loss(plain(params, x)[0], y) + distance


def tokens(outputs, targets):
    losses = F.cross_entropy(outputs.flatten(0, 2), targets.flatten(), reduction="none")
    return losses.view(targets.shape)


def one_tokens(params, start, x, y, mask):
    shares = mask.unsqueeze(-1).to(x.dtype)
    x = x + (shares * x).sum(1, keepdim=True) / shares.sum(1, keepdim=True)
    return F.cross_entropy(plain(params, x)[0][mask], y[mask])


def by_name(one_loss):
    return lambda params, start, x, y, mask: one_loss(plain(params, x)[0], y)


CASES = {
    "mean and variance": Case(2, gaussian, one_gaussian, "value"),
    "one logit": Case(
        1, binary,
        lambda p, s, x, y, m: F.binary_cross_entropy_with_logits(plain(p, x)[0][:, 0], y.double()),
        "bit", metric="binary_accuracy",
    ),
    "several labels": Case(
        3, nn.BCEWithLogitsLoss(reduction="none"), by_name(F.binary_cross_entropy_with_logits),
        "bits", metric="binary_accuracy",
    ),
    "a class per element": Case(3, tokens, one_tokens, "tokens", network=Tokens, metric=None),
    "a class per element by default": Case(
        3, None, one_tokens, "tokens", network=Tokens, metric="f1"
    ),
    "ordinal": Case(2, ordinal, one_ordinal, "label"),
    "a vector": Case(3, None, by_name(F.mse_loss), "vector", metric=None),
    "absolute error": Case(
        3, lambda o, t: (o - t).abs(), by_name(F.l1_loss), "vector", metric="mae"
    ),
    "self-supervised inside": Case(
        6, reconstruction, one_reconstruction, "label", supervised, one_supervised, Heads
    ),
    "a term of the hidden layer": Case(6, auxiliary, one_auxiliary, "label", network=Heads),
    "distance to the start": Case(3, proximal, one_proximal, "vector", metric="r2"),
}  # fmt: skip


def tasks_of(kind, generator, count=3):
    """Draws three tasks of 5 support and 4 query examples."""
    sets = []
    for n in (5, 4):
        shape = (count, n, LENGTH) if kind == "tokens" else (count, n)
        x = torch.randn(*shape, 3, generator=generator)
        targets = {
            "value": lambda x=x: x.sum(-1, keepdim=True).sin(),
            "vector": lambda x=x: x.sin(),
            "bit": lambda s=shape: torch.randint(2, s, generator=generator),
            "bits": lambda s=shape: torch.randint(2, (*s, 3), generator=generator).double(),
            "label": lambda s=shape: torch.randint(WAY, s, generator=generator),
            "tokens": lambda s=shape: torch.randint(WAY, s, generator=generator),
        }[kind]()
        mask = None
        if kind == "tokens":
            lengths = torch.randint(1, LENGTH + 1, (*shape[:2], 1), generator=generator)
            mask = torch.arange(LENGTH) < lengths
            x, targets = x * mask.unsqueeze(-1), targets * mask
        sets.append(Examples(x, targets, None, mask))
    return TaskBatch(*sets)


def by_hand(network, case, tasks, steps):
    """Returns the outer loss of each task, and the gradient of their sum."""
    theta = {n: p.detach().clone().requires_grad_() for n, p in network.named_parameters()}
    outer = case.one_outer or case.one
    losses = []
    for t in range(tasks.num_tasks):
        support, query = (
            [None if v is None else v[t] for v in (e.inputs, e.targets, e.mask)]
            for e in (tasks.support, tasks.query)
        )
        phi = theta
        for _ in range(steps):
            loss = case.one(phi, theta, *support)
            grads = torch.autograd.grad(
                loss, list(phi.values()), create_graph=True, allow_unused=True
            )
            phi = {
                n: p if g is None else p - LR * g
                for (n, p), g in zip(phi.items(), grads, strict=True)
            }
        losses.append(outer(phi, theta, *query))
    losses = torch.stack(losses)
    return losses, torch.autograd.grad(losses.sum(), list(theta.values()))


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", CASES)
def test_a_loss_gives_what_plain_torch_gives(name, steps, generator):
    case = CASES[name]
    network = case.network((3, 5, case.outputs), generator, activation="tanh")
    tasks = tasks_of(case.targets, generator)
    learner = GradientLearner(
        MAML(
            network, LR, steps, loss=case.loss, outer_loss=case.outer, metric=case.metric
        )
    )  # fmt: skip
    result = learner(learner.collect(tasks, generator, 0))
    losses, grads = by_hand(network, case, tasks, steps)
    torch.testing.assert_close(result.losses, losses)
    ours = torch.autograd.grad(result.losses.sum(), list(network.parameters()))
    for a, b in zip(ours, grads, strict=True):
        torch.testing.assert_close(a, b)
    values = list(learner.evaluate(tasks, 2, generator))
    assert all(v.shape == (3,) and v.isfinite().all() for v in values)


@pytest.mark.parametrize("algorithm", algorithms.GRADIENT_ALGORITHMS.names())
def test_every_algorithm_takes_losses_and_a_metric(algorithm, generator):
    options = algorithms.GRADIENT_ALGORITHMS.get(algorithm)(loss=gaussian, metric="loss")
    learner = GradientLearner(options.clipped_adaptation(MLP((3, 5, 2), generator), generator))
    tasks = tasks_of("value", generator)
    inputs = learner.collect(tasks, generator, 0)
    result = learner(inputs)
    assert result.losses.shape == (3,) and result.losses.isfinite().all()
    *_, adapted = learner.adapt(tasks.support, 2, torch.Generator().manual_seed(1))
    outputs = learner.predict(adapted, tasks.query.inputs)
    expected = gaussian(outputs, tasks.query.targets).mean((1, 2))
    *_, value = learner.evaluate(tasks, 2, torch.Generator().manual_seed(1))
    torch.testing.assert_close(value, expected)
    assert learner.metric(tasks) == "loss"


def test_the_metric_names_curves_and_tags(generator):
    def closeness(outputs, targets, info, support):
        assert support.targets.shape[1:] == (5, 1) and len(info["number"]) == len(outputs)
        return (-(outputs[..., :1] - targets).square()).exp()

    learner = GradientLearner(MAML(MLP((3, 5, 2), generator), LR, loss=gaussian), metric=closeness)
    tasks = tasks_of("value", generator)
    tasks = TaskBatch(tasks.support, tasks.query, {"number": torch.arange(3)})
    result = learner(learner.collect(tasks, generator, 0))
    assert list(result.metrics)[-1] == "train/closeness/step_1"
    fixed = type("Fixed", (), {"sample": lambda self, n, g: tasks})()
    curve = adaptation_curve(learner, fixed, num_tasks=3, steps=1, generator=generator)
    assert curve.metric == "closeness"
    *_, adapted = learner.adapt(tasks.support, 1, generator)
    outputs = learner.predict(adapted, tasks.query.inputs)
    expected = (-(outputs[..., :1] - tasks.query.targets).square()).exp().mean((1, 2))
    torch.testing.assert_close(curve.values[1].double(), expected, rtol=1e-6, atol=1e-6)
    assert (
        GradientLearner(MAML(learner.model), metric=lambda o, t: o).measure.name(None) == "metric"
    )


def test_a_loss_with_parameters_is_trained(generator):
    class Weighted(nn.Module):
        """A squared error with a learned weight of each number."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([1.0, 2.0, 0.5]))

        def forward(self, outputs, targets):
            return (outputs - targets).square() * self.weight.exp()

    loss = Weighted()
    learner = GradientLearner(
        MAML(MLP((3, 5, 3), generator), LR, loss=loss, outer_loss=nn.MSELoss(reduction="none"))
    )
    assert "loss.weight" in dict(learner.named_parameters())
    result = learner(learner.collect(tasks_of("vector", generator), generator, 0))
    (grad,) = torch.autograd.grad(result.losses.sum(), loss.weight)
    assert grad.abs().min() > 0


def learner_of(loss, generator, outputs=3, **options):
    return GradientLearner(
        Adaptation(MLP((3, 5, outputs), generator), GradientDescent(LR), QueryLoss()),
        loss=loss, **options,
    )  # fmt: skip


def mixed_by_targets(outputs, targets):
    return ((outputs - targets) / targets.std()).square()


def mixed_by_outputs(outputs, targets):
    return (outputs - targets).square().mean((1, 2)) + 0.1 * outputs.detach().mean()


def blind(outputs, targets):
    return (outputs - targets).detach().square() + 0 * targets


BAD = {
    "one number": (F.mse_loss, ShapeError, r"per task, \[2\], or.*returned \[\].*reduction"),
    "another shape": (lambda o, t: (o - t).mean((0, 1)), ShapeError, r"It returned \[3\]"),
    "no tensor": (lambda o, t: 3.0, ShapeError, "floating-point tensor, got float"),
    "integers": (lambda o, t: o.argmax(2), ShapeError, r"got torch\.int64"),
    "another error": (lambda o, t: o @ t, ShapeError, r"raises RuntimeError for outputs \["),
    "targets of all tasks": (mixed_by_targets, SettingsError, "`loss` mixes tasks"),
    "outputs of all tasks": (mixed_by_outputs, SettingsError, "`loss` mixes tasks"),
    "random numbers": (
        lambda o, t: (o - t).square() + torch.rand(()), SettingsError, "draws random numbers"
    ),
    "no gradient": (blind, SettingsError, "has no gradient"),
    "NaN": (lambda o, t: (o - 100).log(), NonFiniteError, "is nan for task 0 before training"),
    "another argument": (lambda o, t, scale: o, SettingsError, "an argument `scale`"),
    "no targets": (lambda o: o, SettingsError, "take outputs and targets"),
    "inputs second": (lambda o, inputs: o, SettingsError, "take outputs and targets"),
    "a class": (nn.MSELoss, SettingsError, r"the class MSELoss\. Give MSELoss\(\.\.\.\)"),
    "no function": (3, SettingsError, "to be a function of outputs and targets, got int"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_losses_that_are_not_usable_are_refused_before_training(name, generator):
    loss, error, message = BAD[name]
    with pytest.raises(error, match=message):
        learner = learner_of(loss, generator)
        learner.collect(tasks_of("vector", generator), generator, 0)
    with pytest.raises(error, match=message):
        learner = learner_of(loss, generator)
        next(iter(learner.adapt(tasks_of("vector", generator).support, 1, generator)))


MISSING = {
    "nothing is left out": (lambda o, t: (o - t).square(), "is nan.*The targets hold NaN"),
    "masked too late": (
        lambda o, t: torch.where(t.isnan(), 0.0, (o - t).square()), "the targets hold NaN, and its"
    ),
    "a root of 0": (lambda o, t: (o - o.detach()).abs().sqrt(), "is finite, and its gradient is"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISSING)
def test_missing_targets_and_gradients_that_are_not_finite(name, generator):
    loss, message = MISSING[name]
    tasks = tasks_of("vector", generator)
    if name != "a root of 0":
        tasks.support.targets[:, 1, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=message):
        next(iter(learner_of(loss, generator).adapt(tasks.support, 1, generator)))


def test_missing_targets_that_are_replaced_before_they_are_used(generator):
    def masked(outputs, targets):
        known = targets.isfinite()
        return (outputs - torch.where(known, targets, 0)).square() * known

    tasks = tasks_of("vector", generator)
    tasks.support.targets[:, 1] = float("nan")
    *_, adapted = learner_of(masked, generator).adapt(tasks.support, 1, generator)
    assert all(p.isfinite().all() for p in adapted.params.values())


def test_tasks_that_happen_to_be_one_are_checked_too(generator):
    learner = learner_of(mixed_by_outputs, generator)
    with pytest.raises(SettingsError, match="mixes tasks"):
        learner.collect(tasks_of("vector", generator, count=1), generator, 0)


@pytest.mark.parametrize(
    ("outputs", "loss", "kind"), [(2, gaussian, "value"), (1, binary, "bit"), (2, ordinal, "bits")]
)
def test_a_default_metric_that_does_not_suit_is_refused_before_training(
    outputs, loss, kind, generator
):
    loss = loss if kind != "bits" else lambda o, t: o.square()
    tasks = tasks_of(kind, generator)
    message = r"Give the argument `metric=`.*accuracy, binary_accuracy"
    with pytest.raises(ShapeError, match=message):
        learner_of(loss, generator, outputs).collect(tasks, generator, 0)
    with pytest.raises(ShapeError, match=message):
        list(learner_of(loss, generator, outputs).evaluate(tasks, 1, generator))
    learner_of(loss, generator, outputs, metric="loss").collect(tasks, generator, 0)


def test_a_default_loss_that_does_not_suit_names_the_argument(generator):
    with pytest.raises(ShapeError, match=r"one shape.*Or give a loss .*`loss=`"):
        learner_of(None, generator, 2).collect(tasks_of("vector", generator), generator, 0)
    heads = GradientLearner(MAML(Heads((3, 5, 6), generator)))
    for kind in ("label", "vector"):
        with pytest.raises(ShapeError, match=r"returns \{'classes': \[.*`loss=`"):
            heads.collect(tasks_of(kind, generator), generator, 0)


def test_weights_and_masks_that_a_loss_cannot_have_respected_are_refused(generator):
    tasks = tasks_of("vector", generator)
    weights = torch.ones(3, 5)
    tasks = TaskBatch(tasks.support._replace(weights=weights), tasks.query)
    per_task = lambda o, t: (o - t).square().mean((1, 2))  # noqa: E731
    with pytest.raises(ShapeError, match=r"have `weights`, and `loss` cannot have respected"):
        learner_of(per_task, generator).collect(tasks, generator, 0)
    declared = lambda o, t, weights: (o - t).square().mean((1, 2))  # noqa: E731
    learner_of(declared, generator).collect(tasks, generator, 0)
    network = Tokens((3, 5, 3), generator)
    for loss, message in (
        (lambda o, t: tokens(o, t).mean(2), "have `mask`"),
        (lambda o, t: tokens(o, t).mean((1, 2)), "have `mask`"),
        (lambda o, t, inputs: (o - inputs).square().mean((2, 3)), "have `mask`"),
    ):
        with pytest.raises(ShapeError, match=message):
            GradientLearner(MAML(network, loss=loss)).collect(
                tasks_of("tokens", generator), generator, 0
            )


def test_a_network_that_takes_no_mask_is_refused(generator):
    tasks = tasks_of("tokens", generator)
    with pytest.raises(ShapeError, match=r"MLP does not take one.*keyword `mask`"):
        learner_of(tokens, generator).collect(tasks, generator, 0)


def test_arguments_that_exclude_each_other_are_refused(generator):
    network = MLP((3, 5, 3), generator)
    with pytest.raises(SettingsError, match="one `loss`, got one from the learner's"):
        GradientLearner(MAML(network, loss=F.l1_loss), loss=F.mse_loss)
    with pytest.raises(SettingsError, match="ReptileDistance has no loss of queries"):
        GradientLearner(Reptile(network, outer_loss=F.mse_loss))
    GradientLearner(Reptile(network, outer_loss=F.mse_loss, frozen=("layers.0.*",)))
    with pytest.raises(SettingsError, match="declares `start` needs the whole adaptation"):
        GradientLearner(LearnedOptimizer(network, generator, loss=proximal))
    with pytest.raises(UnknownNameError, match=r"metric 'accurracy'.*mean 'accuracy'"):
        GradientLearner(MAML(network, metric="accurracy"))


def test_partials_and_modules_have_names(generator):
    network = MLP((3, 5, 3), generator)
    for metric, name in (
        (partial(F.l1_loss, reduction="none"), "l1_loss"),
        (nn.L1Loss(reduction="none"), "L1Loss"),
    ):
        assert GradientLearner(MAML(network, metric=metric)).measure.name(None) == name


def test_a_metric_is_not_a_number_where_outputs_are_not(generator):
    learner = learner_of(gaussian, generator, 2, metric="loss")
    tasks = tasks_of("value", generator)
    tasks.query.inputs[1, 2] = math.nan
    *_, values = learner.evaluate(tasks, 0, generator)
    assert values.isnan().tolist() == [False, True, False]


def test_outputs_of_a_dict_are_predicted_one_query_at_a_time(generator):
    class Normalised(Heads):
        """Heads whose hidden layer is centred over the batch."""

        normalises_batches = True

        def forward(self, params, inputs, statistics=None):
            """Centres the hidden layer."""
            outputs = super().forward(params, inputs)
            hidden = outputs["hidden"] - outputs["hidden"].mean(1, keepdim=True)
            return {"classes": hidden[..., :3], "hidden": hidden}

    network = Normalised((3, 5, 6), generator)
    assert isinstance(network, Model)
    learner = GradientLearner(MAML(network, loss=supervised, metric="loss"))
    tasks = tasks_of("label", generator)
    *_, adapted = learner.adapt(tasks.support, 0, generator)
    outputs = learner.predict(adapted, tasks.query.inputs)
    theta = task_params(network, 3)
    for j in range(4):
        both = torch.cat((tasks.support.inputs, tasks.query.inputs[:, j : j + 1]), 1)
        expected = network(theta, both)
        for key in ("classes", "hidden"):
            torch.testing.assert_close(outputs[key][:, j], expected[key][:, -1])


@pytest.mark.parametrize(
    "metric",
    [
        lambda outputs, labels: outputs.argmax(-1) == labels,
        lambda outputs, labels: (outputs.argmax(-1) == labels).int(),
        lambda outputs, labels: (outputs.argmax(-1) == labels).numpy(),
        lambda outputs, labels: (outputs.argmax(-1) == labels).numpy().mean(1),
    ],
)
def test_metrics_may_count(metric, generator):
    labels = torch.randint(WAY, (3, WAY), generator=generator)  # as many examples as classes
    examples = Examples(torch.randn(3, WAY, 4, generator=generator), labels)
    tasks, network = TaskBatch(examples, examples), MLP((4, 5, WAY), generator)
    values = []
    for given in (metric, "accuracy"):
        learner = GradientLearner(MAML(network, LR, metric=given))
        result = learner(learner.collect(tasks, generator, 0))
        values.append([*learner.evaluate(tasks, 1, generator), list(result.metrics.values())[-1]])
    torch.testing.assert_close(*values, check_dtype=False)
    with pytest.raises(ShapeError, match="`loss` to return a floating-point tensor, got torch"):
        losses = GradientLearner(MAML(network, LR, loss=lambda o, t: o.argmax(-1) == t))
        losses.collect(tasks, generator, 0)


def test_an_evaluation_does_not_read_outputs_for_padding():
    weights = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    query = Examples(torch.zeros(2, 2, 1), torch.zeros(2, 2, 1), weights)
    tasks = TaskBatch(query, query)
    outputs = torch.ones(2, 2, 1)
    outputs[:, 1] = torch.nan
    for metric in ("mae", lambda outputs, targets: (outputs - targets).abs()):
        values = Metric(metric).evaluate(outputs, query, tasks)
        assert torch.equal(values.isnan(), torch.tensor([False, True])) and values[0] == 1
    latent = torch.zeros(2, 3)  # of a task, not of its examples
    Metric(lambda outputs, targets: targets).evaluate((outputs, latent), query, tasks)
