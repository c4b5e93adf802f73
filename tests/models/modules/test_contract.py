"""Every module gives what plain torch gives task by task: loss, meta-gradient, adapted weights."""

import copy

import pytest
import torch
import torch.nn.functional as F

from metarl.adaptation import MAML, GradientLearner
from metarl.models import from_module
from metarl.models.base import task_params
from metarl.tasks import Examples, TaskBatch
from tests.models.modules import plain
from tests.models.modules.nets import CASES, Outputs, ReadTokens, Tokens, draw, initialised
from tests.models.modules.odd_nets import ODD

ALL = {**CASES, **ODD}
TASKS, SUPPORT, QUERY, RATE = 3, 4, 5, 0.3


@pytest.fixture(params=ALL)
def case(request):
    generator = torch.Generator().manual_seed(0)
    case = ALL[request.param]()
    return case._replace(net=initialised(case.net, generator).double())


def tasks_of(inputs, generator):
    support, query = (
        Examples(x, torch.randint(3, x.shape[:2], generator=generator)) for x in inputs
    )
    return TaskBatch(support, query)


def draw_tasks(case):
    generator = torch.Generator().manual_seed(1)
    inputs = [draw(case, TASKS, n, generator) for n in (SUPPORT, QUERY)]
    return tasks_of(inputs, generator)


def check_against_plain_torch(net, tasks, steps, model=None):
    learner = GradientLearner(MAML(model or net, inner_lr=RATE, steps=steps))
    generator = torch.Generator().manual_seed(2)
    losses = learner(learner.collect(tasks, generator, 0)).losses
    trained = {n: p for n, p in learner.model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad(losses.mean(), list(trained.values()), allow_unused=True)
    # of a copy: functional_call does not restore a layer that is used twice (torch 2.13)
    expected, expected_grads, expected_weights = plain.maml(
        copy.deepcopy(net), F.cross_entropy, tasks, RATE, steps
    )
    torch.testing.assert_close(losses.detach(), expected, rtol=1e-8, atol=1e-9)
    for (name, p), grad in zip(trained.items(), grads, strict=True):
        other = expected_grads[name]
        zero = torch.zeros_like(p)
        torch.testing.assert_close(
            zero if grad is None else grad, zero if other is None else other,
            rtol=1e-6, atol=1e-8, msg=lambda m, name=name: f"{name}: {m}",
        )  # fmt: skip
    *_, adapted = learner.adapt(tasks.support, steps, generator)
    for t, weights in enumerate(expected_weights):
        for name, p in weights.items():
            torch.testing.assert_close(adapted.params[name][t], p, rtol=1e-7, atol=1e-8)
    return learner


@pytest.mark.parametrize("steps", [1, 3])
def test_loss_meta_gradient_and_adapted_weights(case, steps):
    before = {n: p.clone() for n, p in case.net.state_dict().items()}
    learner = check_against_plain_torch(case.net, draw_tasks(case), steps)
    after = case.net.state_dict()
    assert list(before) == list(after) == list(learner.model.state_dict())
    assert all(torch.equal(before[n], after[n]) for n in before)  # the module itself is untouched


@pytest.mark.parametrize("name", ["conv1d", "conv2d", "conv3d", "resnet"])
def test_convolutions_by_vmap(name):
    generator = torch.Generator().manual_seed(0)
    case = CASES[name]()
    net = initialised(case.net, generator).double()
    model = from_module(net, way="vmap")
    check_against_plain_torch(net, draw_tasks(case._replace(net=net)), 2, model)
    assert "by vmap" in model.explain()


def test_it_runs_in_the_way_that_its_layers_allow(case):
    model = from_module(case.net)
    model.prepare(draw_tasks(case).support.inputs)
    (choice,) = model._choices.values()
    assert choice.kind == case.kind, model.explain()


@pytest.mark.parametrize("network", [Tokens, ReadTokens])
def test_texts(network, steps=3):
    generator = torch.Generator().manual_seed(0)
    net = initialised(network(), generator).double()
    inputs = [torch.randint(7, (TASKS, n, 6), generator=generator) for n in (SUPPORT, QUERY)]
    check_against_plain_torch(net, tasks_of(inputs, generator), steps)


def test_outputs_keep_their_structure():
    generator = torch.Generator().manual_seed(0)
    net = Outputs().double()
    model = from_module(net)
    x = torch.randn(2, 4, 3, generator=generator, dtype=torch.double)
    outputs = model(task_params(model, 2), x)
    for t in range(2):
        expected = net(x[t])
        torch.testing.assert_close(outputs["logits"][t], expected["logits"])
        torch.testing.assert_close(outputs["hidden"][0][t], expected["hidden"][0])
        torch.testing.assert_close(outputs["hidden"][1][t], expected["hidden"][1])
