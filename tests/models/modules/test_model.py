"""What users do with modules: statistics, frozen parts, adapted weights, copies."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metarl.adaptation import ANIL, BOIL, MAML, GradientLearner, MAMLPlusPlus, Scratch, all_but
from metarl.errors import SettingsError, ShapeError
from metarl.models import Statistics, from_module, task_params
from metarl.tasks import Examples, TaskBatch

TASKS = 3


@pytest.fixture(autouse=True)
def same_weights():
    """Initial weights do not depend on the tests that ran before."""
    torch.manual_seed(0)


class BodyAndHead(nn.Module):
    """A body with batch normalisation, and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.body(x))


def draw_tasks(generator, support=5, query=4, size=3, classes=2, dtype=torch.float32):
    sets = []
    for count in (support, query):
        x = torch.randn(TASKS, count, size, generator=generator).to(dtype)
        sets.append(Examples(x, torch.randint(classes, (TASKS, count), generator=generator)))
    return TaskBatch(*sets)


# Batch normalisation


def test_statistics_of_an_episode(generator):
    net = BodyAndHead()
    model = from_module(net)
    x, y = (torch.randn(TASKS, n, 3, generator=generator) for n in (6, 2))
    params = task_params(model, TASKS)
    record = Statistics(momentum=1.0)
    model(params, x, record)
    hidden = net.body[0](x)
    mean, variance = record.values["body.1"]
    torch.testing.assert_close(mean, hidden.mean(1))
    torch.testing.assert_close(variance, hidden.var(1, correction=0))
    outputs = model(params, y, Statistics(recording=False, values=record.values))
    for t in range(TASKS):
        norm = F.batch_norm(net.body[0](y[t]), mean[t], variance[t])
        torch.testing.assert_close(outputs[t], net.head(torch.tanh(norm)))
    assert model.normalises_batches
    net.eval()
    model.prepare(x)
    assert not model.normalises_batches


@pytest.mark.parametrize("pool", [True, False])
def test_statistics_of_convolutions(pool, generator):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU())
    net.append(nn.MaxPool2d(2) if pool else nn.Identity()).append(nn.Flatten())
    net.append(nn.Linear(12 if pool else 48, 2))
    with torch.no_grad():
        net.get_parameter("1.weight").copy_(torch.tensor([1.0, -0.5, 0.3]))
    model = from_module(net)
    x, y = (torch.randn(TASKS, n, 1, 6, 6, generator=generator) for n in (5, 2))
    params = task_params(model, TASKS)
    record = Statistics(momentum=1.0)
    model(params, x, record)
    outputs = model(params, y, Statistics(recording=False, values=record.values))
    for t in range(TASKS):
        hidden = net[0](x[t])
        mean, variance = record.values["1"][0][t], record.values["1"][1][t]
        torch.testing.assert_close(mean, hidden.mean((0, 2, 3)))
        torch.testing.assert_close(variance, hidden.var((0, 2, 3), correction=0))
        norm = F.batch_norm(net[0](y[t]), mean, variance, *net[1].parameters())
        torch.testing.assert_close(outputs[t], net[3:](torch.relu(norm)), rtol=1e-4, atol=1e-5)


# Adapted weights


def test_adapted_weights_load_into_the_module(generator):
    net = BodyAndHead()
    learner = GradientLearner(MAML(net, inner_lr=0.1, steps=2))
    tasks = draw_tasks(generator)
    *_, adapted = learner.adapt(tasks.support, 2, generator)
    transductive = learner.predict(adapted, tasks.query.inputs, transductive=True)
    stacked = learner.adapted_state(adapted)
    for t in range(TASKS):
        plain = copy.deepcopy(net)
        state = learner.adapted_state(adapted, task=t)
        plain.load_state_dict(state)
        torch.testing.assert_close(plain.train()(tasks.query.inputs[t]), transductive[t])
        assert all(torch.equal(stacked[n][t], state[n]) for n in state)
        plain.load_state_dict(state)
        hidden = plain.body[0](tasks.support.inputs[t])
        torch.testing.assert_close(state["body.1.running_mean"], hidden.mean(0))
        torch.testing.assert_close(state["body.1.running_var"], hidden.var(0, correction=0))
        before, now = plain.eval()(tasks.query.inputs[t]), transductive[t]
        assert (before.argmax(1) == now.argmax(1)).float().mean() >= 0.5
    with pytest.raises(SettingsError, match="a task from 0 to 2, got 3"):
        learner.adapted_state(adapted, task=3)


def test_predictions_of_the_loaded_module_are_those_with_recorded_statistics(generator):
    net = BodyAndHead()
    adaptation = MAML(net, inner_lr=0.1)
    learner = GradientLearner(adaptation)
    tasks = draw_tasks(generator)
    *_, adapted = learner.adapt(tasks.support, 1, generator)
    record = Statistics(momentum=1.0)
    learner.model(adapted.params, adapted.support, record)
    expected = learner.model(
        adapted.params, tasks.query.inputs, Statistics(recording=False, values=record.values)
    )
    net.load_state_dict(learner.adapted_state(adapted, task=1))
    torch.testing.assert_close(net.eval()(tasks.query.inputs[1]), expected[1])


# A part that adapts


def adapting(adaptation):
    names = [n for n, _ in adaptation.network.named_parameters()]
    return [n for n in names if n not in adaptation.frozen_names]


def test_a_part_adapts_by_names_or_by_modules():
    net = BodyAndHead()
    head = ["head.weight", "head.bias"]
    assert adapting(MAML(net, frozen=["body.*"])) == head
    assert adapting(MAML(net, frozen=[net.body])) == head
    assert adapting(MAML(net, frozen=all_but(net, [net.head]))) == head
    assert adapting(ANIL(net)) == adapting(ANIL(net, adapts=[net.head])) == head
    assert adapting(BOIL(net)) == [n for n in dict(net.named_parameters()) if n not in head]
    assert adapting(MAMLPlusPlus(net)) == ["body.0.weight", "body.0.bias", *head]
    with pytest.raises(SettingsError, match="Take it from the network itself"):
        MAML(net, frozen=[nn.Linear(3, 4)])


def test_shared_parameters_match_by_each_of_their_names():
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Linear(4, 2))
    net[2].weight = net[0].weight
    by_name, by_module = MAML(net, frozen=["2.*"]), MAML(net, frozen=[net[2]])
    assert by_name.frozen_names == by_module.frozen_names == {"0.weight", "2.bias"}
    assert adapting(ANIL(net, adapts=["2.weight"])) == ["0.weight"]
    assert adapting(MAML(net, frozen=[net[0].bias])) == [
        "0.weight", "2.bias", "3.weight", "3.bias"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "head",
    [
        nn.Linear(8, 3),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)),
        nn.utils.parametrizations.orthogonal(nn.Linear(8, 3)),
        nn.LSTM(8, 3),
    ],
)
def test_anil_finds_heads_of_every_kind(head):
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), head)
    names = [f"2.{n}" for n, _ in head.named_parameters()]
    assert adapting(ANIL(net)) == names
    assert adapting(BOIL(net)) == ["0.weight", "0.bias"]
    shown = GradientLearner(ANIL(net)).notes()[-1]
    assert shown.startswith(f"The inner loop adapts only {', '.join(names[:4])}")


def test_anil_needs_a_weight():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.scale * x

    with pytest.raises(SettingsError, match="adapts="):
        ANIL(Scale())


def test_names_are_those_of_the_module():
    net = BodyAndHead()
    model = MAML(net).network
    assert list(model.state_dict()) == list(net.state_dict())
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    model.double()
    assert net.head.weight.dtype == torch.double


# Fresh parameters


def test_fresh_parameters_are_those_of_the_layers(generator):
    model = from_module(nn.Sequential(nn.Linear(100, 50), nn.LayerNorm(50)))
    state = torch.get_rng_state()
    drawn = model.initial(generator, TASKS)
    assert torch.equal(torch.get_rng_state(), state)
    weight = drawn["0.weight"]
    assert weight.shape == (TASKS, 50, 100) and not torch.equal(weight[0], weight[1])
    assert weight.abs().max() <= 0.1 and weight.std() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert torch.equal(drawn["1.weight"], torch.ones(TASKS, 50))
    again = model.initial(torch.Generator().manual_seed(0), TASKS)
    assert all(torch.equal(again[n], p) for n, p in drawn.items())


def test_fresh_parameters_by_a_function(generator):
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(2))

        def forward(self, x):
            return x * self.scale

    with pytest.raises(SettingsError, match=r"no layer with `reset_parameters` has scale"):
        from_module(Scale()).initial(generator)
    model = from_module(Scale(), init=lambda g: {"scale": torch.randn(2, generator=g)})
    learner = GradientLearner(Scratch(model))
    tasks = draw_tasks(generator, size=2)
    first, *_ = learner.adapt(tasks.support, 1, generator)
    assert first.params["scale"].shape == (TASKS, 2)
    wrong = from_module(Scale(), init=lambda g: {"other": torch.ones(2)})
    with pytest.raises(SettingsError, match="a tensor for each of scale"):
        wrong.initial(generator)


# Masks


class Masked(nn.Module):
    """The mean over the real elements of a sequence."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3)

    def forward(self, x, mask=None):
        hidden = torch.tanh(self.linear(x))
        weights = torch.ones_like(hidden[..., :1]) if mask is None else mask.unsqueeze(-1).float()
        return (hidden * weights).sum(1) / weights.sum(1)


def test_masks_are_passed_on(generator):
    net = Masked()
    model = from_module(net)
    x = torch.randn(TASKS, 4, 5, 2, generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (TASKS, 4, 1), generator=generator)
    params = task_params(model, TASKS)
    torch.testing.assert_close(model(params, x, mask=mask)[1], net(x[1], mask[1]))
    torch.testing.assert_close(model(params, x)[1], net(x[1]))
    linear = from_module(nn.Linear(2, 3))
    with pytest.raises(SettingsError, match="forward has a parameter `mask`"):
        linear(task_params(linear, TASKS), x, mask=mask)


def test_a_mask_may_have_no_default(generator):
    class Needed(Masked):
        def forward(self, x, mask):
            return super().forward(x, mask)

    net = Needed()
    model = from_module(net)
    x = torch.randn(TASKS, 4, 5, 2, generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (TASKS, 4, 1), generator=generator)
    outputs = model(task_params(model, TASKS), x, mask=mask)
    torch.testing.assert_close(outputs[1], net(x[1], mask[1]))
    with pytest.raises(SettingsError, match="missing 1 required positional argument: 'mask'"):
        model(task_params(model, TASKS), x)


# Copies


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_have_their_own_parameters(copied, generator):
    model = from_module(BodyAndHead())
    x = torch.randn(TASKS, 4, 3, generator=generator)
    outputs = model(task_params(model, TASKS), x)
    other = copied(model)
    assert torch.equal(other(task_params(other, TASKS), x), outputs)
    with torch.no_grad():
        other.net.head.weight.zero_()
        assert not other.state_dict()["head.weight"].any()
    assert torch.equal(model(task_params(model, TASKS), x), outputs)


def test_modes_are_those_of_the_module():
    net = BodyAndHead()
    model = from_module(net)
    model.eval()
    assert not net.training and not net.body.training
    net.train()
    assert net.body.training


# Padded examples


def padded_tasks(generator):
    """The second of two tasks has three of five examples; tasks have other numbers of classes."""
    x, y = (torch.randn(2, n, 3, generator=generator) for n in (5, 4))
    weights = torch.ones(2, 5)
    weights[1, 3:] = 0
    labels = torch.tensor([[0, 1, 2, 3, 0], [0, 1, 0, 0, 0]])
    return TaskBatch(Examples(x, labels, weights), Examples(y, labels[:, :4]))


def test_padded_tasks_and_fewer_classes_give_what_each_task_gives_alone(generator):
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 4)).double()
    tasks = padded_tasks(generator)
    tasks = TaskBatch(*(e._replace(inputs=e.inputs.double()) for e in (tasks.support, tasks.query)))
    tasks = TaskBatch(tasks.support._replace(weights=tasks.support.weights.double()), tasks.query)
    learner = GradientLearner(MAML(net, inner_lr=0.3, steps=2))
    losses = learner(learner.collect(tasks, generator, 0)).losses
    alone = TaskBatch(
        Examples(tasks.support.inputs[1:, :3], tasks.support.targets[1:, :3]),
        Examples(tasks.query.inputs[1:], tasks.query.targets[1:]),
    )
    expected = learner(learner.collect(alone, generator, 0)).losses
    torch.testing.assert_close(losses[1:], expected, rtol=1e-9, atol=1e-9)
    *_, adapted = learner.adapt(tasks.support, 2, generator)
    *_, other = learner.adapt(alone.support, 2, generator)
    states = learner.adapted_state(adapted, task=1), learner.adapted_state(other, task=0)
    for name, p in states[0].items():
        torch.testing.assert_close(p, states[1][name], rtol=1e-9, atol=1e-9)


def test_batch_normalisation_of_a_module_refuses_weights(generator):
    net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Linear(6, 4))
    learner = GradientLearner(MAML(net, inner_lr=0.3))
    tasks = padded_tasks(generator)
    with pytest.raises(ShapeError, match="would count examples of weight 0"):
        learner(learner.collect(tasks, generator, 0))
    net[1].eval()  # running statistics count nothing
    learner(learner.collect(tasks, generator, 0))


class MaskedNorm(Masked):
    """A masked mean with batch normalisation."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x, mask=None):
        return self.norm(super().forward(x, mask))


def test_adapted_statistics_leave_padding_out(generator):
    net = MaskedNorm()
    learner = GradientLearner(MAML(net, inner_lr=0.1))
    x = torch.randn(TASKS, 4, 5, 2, generator=generator)
    mask = torch.arange(5) < torch.randint(1, 6, (TASKS, 4, 1), generator=generator)
    labels = torch.arange(4).remainder(3).repeat(TASKS, 1)
    *_, adapted = learner.adapt(Examples(x, labels, mask=mask), 1, generator)
    state = learner.adapted_state(adapted, task=1)
    plain = copy.deepcopy(net)
    plain.load_state_dict(state)
    hidden = Masked.forward(plain, x[1], mask[1])
    torch.testing.assert_close(state["norm.running_mean"], hidden.mean(0))
    torch.testing.assert_close(state["norm.running_var"], hidden.var(0, correction=0))


# Indices, changes in place and random numbers


class Words(nn.Module):
    """The mean of the embeddings of words; 0 is padding."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(5, 2, padding_idx=0)

    def forward(self, x):
        return self.words(x).mean(1)


@pytest.mark.parametrize("way", ["task-batched", "vmap", "task by task"])
@pytest.mark.parametrize("index", [5, 7, -1, -6])
def test_an_index_never_reads_the_table_of_another_task(way, index):
    model = from_module(Words(), way=way)
    words = torch.randint(1, 5, (TASKS, 4, 3))
    model.prepare(words)
    for task in range(TASKS):
        wrong = words.clone()
        wrong[task, 0, 0] = index
        with pytest.raises(IndexError):
            model(task_params(model, TASKS), wrong)


@pytest.mark.parametrize("way", ["task-batched", "vmap", "task by task"])
def test_padding_that_the_first_examples_lack_has_no_gradient(way):
    model = from_module(Words(), way=way)
    words = torch.randint(1, 5, (TASKS, 4, 3))
    model.prepare(words)
    weight = task_params(model, TASKS)["words.weight"].detach().requires_grad_()
    words[:, :, 0] = 0
    (grad,) = torch.autograd.grad(model({"words.weight": weight}, words).sum(), weight)
    assert not grad[:, 0].any() and grad.any(2).any(1).all()


def test_biases_of_zero_at_the_kink_of_a_relu(generator):
    class Strokes(nn.Module):
        """Reads pictures column by column; the background and the biases are 0."""

        def __init__(self):
            super().__init__()
            self.first, self.reader = nn.Linear(4, 4), nn.GRU(4, 3, batch_first=True)
            nn.init.zeros_(self.first.bias)

        def forward(self, x):
            return self.reader(self.first(x).relu())[0][:, -1]

    model = from_module(Strokes())
    strokes = torch.zeros(TASKS, 4, 5, 4)
    strokes[:, :, 2] = torch.rand(4, generator=generator)
    model.prepare(strokes)
    assert "GRU" in model.explain()


CHANGES = {
    "clamp_max_": lambda h: h.clamp_max_(100.0),
    "clamp_ of a view": lambda h: h.view(-1).clamp_(max=100.0),
    "masked_fill_": lambda h: h.masked_fill_(h > 100, 0.0),
    "threshold_": lambda h: F.threshold_(h, -100.0, -100.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_in_place_that_the_first_examples_do_not_show(name, generator):
    class Clipped(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(1, 4), nn.Linear(4, 1)

        def forward(self, x):
            hidden = self.first(x)
            CHANGES[name](hidden)
            return self.last(hidden)

    net = Clipped()
    model = from_module(net, check_derivatives=False)
    x = torch.randn(TASKS, 4, 1, generator=generator)
    model.prepare(x)
    found = model(task_params(model, TASKS), 1e4 * x)
    torch.testing.assert_close(found, net(1e4 * x.flatten(0, 1)).view_as(found))


def test_a_convolution_that_is_called_by_keyword(generator):
    class Keyword(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)

        def forward(self, x):
            return self.norm(self.conv(input=x)).mean((2, 3))

    net = Keyword()
    model = from_module(net)
    x = torch.randn(TASKS, 4, 1, 5, 5, generator=generator)
    found = model(task_params(model, TASKS), x)
    torch.testing.assert_close(found[0], net(x[0]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("layer", [nn.AlphaDropout(0.5), nn.RReLU(), nn.FeatureAlphaDropout(0.5)])
def test_layers_that_draw_in_training_alone_run_in_evaluation(layer, generator):
    net = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 2))
    x = torch.randn(TASKS, 4, 3, generator=generator)
    model = from_module(net.eval())
    torch.testing.assert_close(model(task_params(model, TASKS), x)[0], net(x[0]))
    with pytest.raises(SettingsError, match="without random numbers"):
        from_module(copy.deepcopy(net).train()).prepare(x)
