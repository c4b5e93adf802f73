"""Update rules of the user: what a step must be, and what is refused before training."""

import pytest
import torch
from torch import nn

from metarl.adaptation import MAML, GradientLearner, Reptile, UpdateRule
from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.objectives import QueryLoss
from metarl.errors import SettingsError
from metarl.models import from_module
from metarl.tasks import Sine
from metarl.trees import map_tensors

RATE = 0.01


def descent(grads, params):
    return {n: p - RATE * grads[n] for n, p in params.items()}


class Rule(UpdateRule):
    """Calls a function of gradients, state, parameters and loss."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.calls = 0

    def update(self, grads, state, params, loss):
        self.calls += 1
        return self.function(self, grads, state, params, loss)


class Momentum(UpdateRule):
    """Descent with momentum and a learned rate."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(RATE))

    def init(self, params):
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def update(self, grads, state, params, loss):
        state = {n: 0.9 * state[n] + g for n, g in grads.items()}
        return {n: p - self.rate * state[n] for n, p in params.items()}, state


def in_place(rule, grads, state, params, loss):
    for n, p in params.items():
        p.sub_(RATE * grads[n])
    return params, state


def changes_gradients(rule, grads, state, params, loss):
    for g in grads.values():
        g.mul_(RATE)
    return {n: p - grads[n] for n, p in params.items()}, state


def lacks_one(rule, grads, state, params, loss):
    return {n: p for n, p in descent(grads, params).items() if n != "0.bias"}, state


def mixes(rule, grads, state, params, loss):
    return descent({n: g.mean(0, keepdim=True) for n, g in grads.items()}, params), state


def clips_all(rule, grads, state, params, loss):
    norm = sum(float(g.norm()) for g in grads.values())
    return descent({n: g / norm for n, g in grads.items()}, params), state


def loses_tasks(rule, grads, state, params, loss):
    return {n: p.mean(0) for n, p in descent(grads, params).items()}, state


def draws(rule, grads, state, params, loss):
    return descent({n: torch.randn_like(g) for n, g in grads.items()}, params), state


def decays(rule, grads, state, params, loss):
    return descent({n: g / rule.calls for n, g in grads.items()}, params), state


def of_one_task(rule, grads, state, params, loss):
    return descent(grads, params), state


class MixesLater(UpdateRule):
    """Averages the tasks from the second step on."""

    def init(self, params):
        return {"steps": 0}

    def update(self, grads, state, params, loss):
        step = mixes if state["steps"] else of_one_task
        return step(self, grads, {"steps": state["steps"] + 1}, params, loss)


class Scaled(UpdateRule):
    """RMSprop: divides by the root of the moments, with epsilon inside of it or not."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def init(self, params):
        return {n: torch.zeros_like(p) for n, p in params.items()}

    def update(self, grads, state, params, loss):
        state = {n: 0.9 * v + 0.1 * grads[n].square() for n, v in state.items()}
        if self.inside:
            roots = {n: (v + 1e-8).sqrt() for n, v in state.items()}
        else:
            roots = {n: v.sqrt() + 1e-8 for n, v in state.items()}
        return descent({n: grads[n] / roots[n] for n in grads}, params), state


def detaches(rule, grads, state, params, loss):
    return descent(grads, {n: p.detach() for n, p in params.items()}), state


def halves(rule, grads, state, params, loss):
    return {n: p.half() for n, p in descent(grads, params).items()}, state


def learner_of(rule, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    return GradientLearner(Adaptation(from_module(net), rule, QueryLoss(), steps=2, **options))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (in_place, r"It raises RuntimeError: .*views that cannot be changed in place"),
        (changes_gradients, "changes its arguments in place"),
        (lambda rule, grads, state, params, loss: descent(grads, params), "returned a dict"),
        (lacks_one, "What it returned lacks '0.bias'"),
        (loses_tasks, r"For '0.weight' \[2, 8, 1\] it returned \[8, 1\] of"),
        (halves, r"For '0.weight' \[2, 8, 1\] it returned \[2, 8, 1\] of torch.float16"),
        (mixes, "mixes tasks"),
        (clips_all, "mixes tasks"),
        (draws, "gave other parameters for the same arguments"),
        (decays, "gave other parameters for the same arguments"),
    ],
)
def test_a_step_that_is_none_is_refused(function, message):
    learner, generator = learner_of(Rule(function)), torch.Generator().manual_seed(0)
    tasks = Sine().sample(4, generator)
    for start in (
        lambda: learner.collect(tasks, generator, 0),
        lambda: next(iter(learner.adapt(tasks.support, 1, generator))),
    ):
        with pytest.raises(SettingsError, match=f"(?s)update.*{message}"):
            start()


def test_a_step_that_forgets_its_start_warns():
    learner, generator = learner_of(Rule(detaches)), torch.Generator().manual_seed(0)
    with pytest.warns(RuntimeWarning, match="'0.weight' without a gradient with respect to where"):
        learner.collect(Sine().sample(4, generator), generator, 0)


def test_tasks_that_mix_in_the_second_step_are_refused(generator):
    with pytest.raises(SettingsError, match=r"MixesLater\.update mixes tasks"):
        learner_of(MixesLater()).collect(Sine().sample(4, generator), generator, 0)


def test_a_derivative_that_fails_at_zero_warns(generator, recwarn):
    tasks = Sine().sample(4, generator)
    learner_of(Scaled(inside=True)).collect(tasks, generator, 0)
    learner_of(Scaled(inside=False), first_order=True).collect(tasks, generator, 0)
    assert not recwarn.list
    with pytest.warns(RuntimeWarning, match=r"Scaled\.update.*'0\.weight' is not finite.*eps"):
        learner_of(Scaled(inside=False)).collect(tasks, generator, 0)


def test_a_rule_of_the_user_trains_its_rate():
    rule, generator = Momentum(), torch.Generator().manual_seed(0)
    learner = learner_of(rule)
    losses = learner(learner.collect(Sine().sample(4, generator), generator, 0)).losses
    losses.mean().backward()
    assert rule.rate.grad is not None and rule.rate.grad != 0


def test_rules_that_carry_moments_are_taken(generator):
    learner = GradientLearner(Reptile(nn.Linear(1, 1), 0.01, steps=2))
    learner.collect(Sine().sample(3, generator), generator, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_networks_of_16_bits_are_taken(dtype, generator):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 7), nn.Tanh(), nn.Linear(7, 3), nn.Linear(3, 1)).to(dtype)
    tasks = map_tensors(lambda t: t.to(dtype), Sine().sample(4, generator))
    learner = GradientLearner(MAML(net, 0.1, steps=2))
    assert learner(learner.collect(tasks, generator, 0)).losses.isfinite().all()
