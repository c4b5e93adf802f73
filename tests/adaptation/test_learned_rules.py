"""The LSTM meta-learner and the learned optimiser against their equations."""

import math
from functools import partial

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, LearnedOptimizer, LSTMMetaLearner, MetaSGD
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.algorithms.learned_optimizer import LearnedOptimizerRule
from metarl.adaptation.algorithms.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.adaptation.coordinates import LSTMCell, log_sign, pack, uniform, unpack
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.adaptation.inner_loop import inner_loop
from metarl.adaptation.objectives import EveryStepLoss, QueryLoss
from metarl.adaptation.update_rules import GradientDescent
from metarl.errors import SettingsError
from metarl.models.base import task_params
from metarl.tasks.losses import task_loss
from metarl.trees import map_tensors


def support_loss(model, tasks):
    return lambda params, step: task_loss(
        model(params, tasks.support.inputs), tasks.support.targets
    )


def last(path):
    *_, end = path
    return end


def test_log_sign_by_hand():
    x = torch.tensor([math.e, -1.0, 0.0, 1e-6])
    expected = [[0.1, 1.0], [0.0, -1.0], [-1.0, 0.0], [-1.0, 1e-6 * math.exp(10)]]
    torch.testing.assert_close(log_sign(x), torch.tensor(expected))
    assert log_sign(torch.zeros(2, 3)).shape == (2, 3, 2)


def test_log_sign_is_continuous_at_the_threshold():
    edge = math.exp(-10)
    below, above = log_sign(torch.tensor([edge * (1 - 1e-9), edge * (1 + 1e-9)]))
    torch.testing.assert_close(below, above, atol=1e-8, rtol=0)


def test_packing_goes_back_and_forth(mlp):
    params = {n: p * torch.rand(3, *[1] * (p.dim() - 1)) for n, p in task_params(mlp, 3).items()}
    row = pack(params)
    assert row.shape == (3, sum(p.numel() for p in mlp.parameters()))
    for n, p in unpack(row, params).items():
        assert torch.equal(p, params[n])


def test_lstm_cell_equals_torch(generator):
    cell = LSTMCell(3, 5, uniform(generator, -1, 1))
    reference = torch.nn.LSTMCell(3, 5)
    with torch.no_grad():
        reference.weight_ih.copy_(cell.weight_ih)
        reference.weight_hh.copy_(cell.weight_hh)
        reference.bias_ih.copy_(cell.bias)
        reference.bias_hh.zero_()
    x, h, c = (torch.randn(7, n, generator=generator) for n in (3, 5, 5))
    for ours, theirs in zip(cell(x, h, c), reference(x, (h, c)), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("steps", [1, 4])
def test_lstm_meta_learner_with_fixed_gates_is_gradient_descent(mlp, regression, generator, steps):
    rule = LSTMMetaLearnerRule(generator)
    with torch.no_grad():
        for p in rule.parameters():
            p.zero_()
        # Input gate 0.05, forget gate 1 (to the last bit: sigmoid(40) rounds to it).
        rule.gate_bias.copy_(torch.tensor([math.log(0.05 / 0.95), 40.0]))
    start = task_params(mlp, 4)
    loss = support_loss(mlp, regression)
    ours = last(inner_loop(loss, rule, start, steps)).params
    descent = last(inner_loop(loss, GradientDescent(0.05), start, steps)).params
    for n in ours:
        torch.testing.assert_close(ours[n], descent[n], rtol=1e-9, atol=1e-12)


def test_lstm_meta_learner_starts_as_slow_gradient_descent(generator):
    rule = LSTMMetaLearnerRule(generator)
    params = {"w": torch.ones(1, 6)}
    grads = {"w": torch.full((1, 6), 2.0)}
    moved, _ = rule.update(grads, rule.init(params), params, torch.ones(1))
    input_gate, forget_gate = rule.gate_bias.sigmoid().tolist()
    assert 0.0065 < input_gate < 0.0185 and 0.981 < forget_gate < 0.9935
    torch.testing.assert_close(
        moved["w"], torch.full((1, 6), forget_gate - 2 * input_gate), atol=2e-3, rtol=0
    )


def test_lstm_meta_learner_takes_gradients_as_constants(mlp, regression, generator):
    """Its meta-gradient is that of the recursion with the recorded gradients put in."""
    rule = LSTMMetaLearnerRule(generator)
    with torch.no_grad():
        for p in rule.parameters():  # far from its tame start
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    records = []
    update = rule.update

    def recording(grads, state, params, loss):
        records.append((grads, loss.detach()))
        return update(grads, state, params, loss)

    rule.update = recording
    start = {n: p.detach().clone().requires_grad_() for n, p in task_params(mlp, 4).items()}
    end = last(inner_loop(support_loss(mlp, regression), rule, start, 3)).params
    weights = {n: torch.randn(p.shape, generator=generator) for n, p in end.items()}
    leaves = [*rule.parameters(), *start.values()]
    sum((end[n] * weights[n]).sum() for n in end).backward()

    def replay():
        params, state = start, rule.init(start)
        for grads, loss in records:
            params, state = update(grads, state, params, loss)
        return sum((params[n] * weights[n]).sum() for n in params).item()

    for leaf in leaves:
        direction = torch.randn(leaf.shape, generator=generator)
        values = []
        for epsilon in (1e-6, -1e-6):
            with torch.no_grad():
                leaf.add_(epsilon * direction)
                values.append(replay())
                leaf.sub_(epsilon * direction)
        numeric = (values[0] - values[1]) / 2e-6
        assert (leaf.grad * direction).sum().item() == pytest.approx(numeric, rel=1e-5, abs=1e-8)
        assert leaf.grad.abs().max() > 0


def test_lstm_meta_learner_gates_see_the_previous_logits(generator):
    rule = LSTMMetaLearnerRule(generator)
    with torch.no_grad():
        rule.gate_weight.zero_()
        rule.gate_weight[:, -1] = 1.0  # logit_t = logit_{t-1} + bias
    params, grads = {"w": torch.ones(1, 2)}, {"w": torch.ones(1, 2)}
    state = rule.init(params)
    for step in (1, 2, 3):
        _, state = rule.update(grads, state, params, torch.ones(1))
        torch.testing.assert_close(state["logits"][0, 0], step * rule.gate_bias)


@pytest.mark.parametrize("rule", [LSTMMetaLearnerRule, LearnedOptimizerRule])
def test_layers_without_units_are_refused(rule, generator):
    with pytest.raises(SettingsError, match="at least 1 unit"):
        rule(generator, units=0)


def test_learned_optimizer_step_by_its_equation(generator):
    rule = LearnedOptimizerRule(generator)
    assert rule.output_bias.item() == 0.0
    rule.output_bias.data.fill_(0.7)
    params = {
        "a": torch.randn(2, 3, generator=generator),
        "b": torch.randn(2, 1, generator=generator),
    }
    grads = {n: torch.randn(p.shape, generator=generator) for n, p in params.items()}
    state = rule.init(params)
    moved, _ = rule.update(grads, state, params, torch.zeros(2))
    for t in range(2):
        for n in params:
            for i in range(params[n].shape[1]):  # one coordinate at a time
                zero = torch.zeros(1, 20)
                x = log_sign(grads[n][t, i].view(1))
                h, _ = rule.lower(x, zero, zero)
                h, _ = rule.upper(h, zero, zero)
                expected = params[n][t, i] + 0.01 * ((h @ rule.output).item() + 0.7)
                torch.testing.assert_close(moved[n][t, i], expected)


def learned_optimizer(mlp, generator, unroll):
    rule = LearnedOptimizerRule(generator)
    return GradientLearner(Adaptation(mlp, rule, EveryStepLoss(), steps=4, unroll=unroll))


def test_truncated_unrolls_follow_the_same_path(mlp, regression, generator):
    whole = learned_optimizer(mlp, torch.Generator().manual_seed(3), 4)
    cut = learned_optimizer(mlp, torch.Generator().manual_seed(3), 2)
    full = whole(whole.collect(regression, generator, 0))
    parts = []
    other_tasks = regression  # what is sampled in the middle of an unroll is not looked at
    for iteration in range(2):
        result = cut(cut.collect(other_tasks, generator, iteration))
        cut.after_update(result.carry)
        parts.append(result)
        other_tasks = None if iteration else regression
    assert cut.extra_state() == {}, "four steps are done: the next unroll is a new one"
    mean = (parts[0].losses + parts[1].losses) / 2
    torch.testing.assert_close(full.losses.detach(), mean.detach())
    assert not any(t.requires_grad for t in parts[0].carry["params"].values())


def test_unfinished_unrolls_are_carried_and_restored(mlp, regression, generator):
    learner = learned_optimizer(mlp, generator, 2)
    learner.after_update(learner(learner.collect(regression, generator, 0)).carry)
    carried = learner.extra_state()
    assert carried["done"] == 2
    again = learned_optimizer(mlp, generator, 2)
    again.load_state_dict(learner.state_dict())
    again.load_extra_state(carried)
    inputs = [each.collect(regression, generator, 1) for each in (learner, again)]
    torch.testing.assert_close(
        *[each(i).losses for each, i in zip((learner, again), inputs, strict=True)]
    )
    moved = inputs[0].start["layers.0.weight"] - mlp.get_parameter("layers.0.weight")
    assert moved.abs().max() > 0, "the second unroll starts where the first one ended"


def test_fresh_starts_leave_theta_alone(mlp, regression, generator):
    rule = LearnedOptimizerRule(generator)
    learner = GradientLearner(Adaptation(mlp, rule, EveryStepLoss(), steps=2, fresh_start=True))
    inputs = learner.collect(regression, generator, 0)
    weight = inputs.start["layers.0.weight"]
    assert (weight[0] != weight[1]).all(), "each task has its own random start"
    learner(inputs).losses.sum().backward()
    assert all(p.grad is None for p in mlp.parameters())
    assert all(p.grad.abs().max() > 0 for p in rule.parameters())


def test_episode_statistics_make_predictions_independent(conv, images, generator):
    rule = LSTMMetaLearnerRule(generator)
    learner = GradientLearner(Adaptation(conv, rule, QueryLoss(), steps=2, statistics_momentum=0.9))
    with torch.no_grad():
        adapted = last(learner.adapt(images.support, 2, generator))
        together = learner.predict(adapted, images.query.inputs, transductive=False)
        alone = learner.predict(adapted, images.query.inputs[:, 3:4], transductive=False)
        shared = learner.predict(adapted, images.query.inputs, transductive=True)
    torch.testing.assert_close(together[:, 3:4], alone)
    assert not torch.allclose(together, shared)


@pytest.mark.parametrize(
    "algorithm", [LSTMMetaLearner, partial(LearnedOptimizer, unroll=2), MetaSGD]
)
def test_learned_rules_have_the_type_of_the_network(algorithm, mlp, regression, generator):
    tasks = map_tensors(torch.Tensor.float, regression)
    learner = GradientLearner(algorithm(mlp.float(), generator))  # the default is float64 here
    assert {p.dtype for p in learner.parameters()} == {torch.float32}
    assert learner(learner.collect(tasks, generator, 0)).losses.isfinite().all()


class TwoTypes(nn.Module):
    """A body in float64 and a head in float32."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(1, 4).double(), nn.Linear(4, 1).float()

    def forward(self, inputs):
        return self.head(self.body(inputs).tanh().float()).double()


@pytest.mark.parametrize("frozen", [(), ("body.*",)])
@pytest.mark.parametrize(
    "build",
    [
        lambda net, **options: MAML(net, max_inner_grad_norm=0.1, **options),
        lambda net, **options: LSTMMetaLearner(net, torch.Generator(), **options),
        lambda net, **options: LearnedOptimizer(net, torch.Generator(), unroll=2, **options),
    ],
)
def test_parameters_of_two_types_keep_them(build, frozen, regression, generator):
    learner = GradientLearner(build(TwoTypes(), frozen=frozen))
    assert learner(learner.collect(regression, generator, 0)).losses.isfinite().all()
    *_, adapted = learner.adapt(regression.support, 2, generator)
    for name, p in learner.model.named_parameters():
        assert adapted.params[name].dtype == p.dtype
