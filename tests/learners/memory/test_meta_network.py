"""Meta Networks against explicit loops: layer augmentation, gradients, attention."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from metarl.adaptation.coordinates import log_sign, pack, unpack
from metarl.errors import SettingsError
from metarl.lab.command_line import settings_from
from metarl.learners import ImageShape
from metarl.learners.memory.algorithms import MetaNetAlgorithm
from metarl.learners.memory.fast_weights import AugmentedNetwork, GradientMap, GradientReader
from metarl.learners.memory.meta_network import MARGIN, MetaNetwork, contrastive
from metarl.models.base import task_params
from metarl.tasks.losses import cross_entropy

FILTERS, WAY = 3, 3


@pytest.fixture
def network(generator):
    return AugmentedNetwork(ImageShape(), WAY, generator, FILTERS)


@pytest.fixture
def images(generator):
    return torch.rand(2, 4, 1, 28, 28, generator=generator)


@pytest.fixture
def learner(generator):
    return MetaNetwork(ImageShape(), WAY, generator, FILTERS, features=5, units=4)


def plain(network, image, fast=None):
    """The network layer by layer for one image [C, H, W], with its fast weights."""
    hidden = image.unsqueeze(0)
    for layer in network.convolutions:
        hidden = F.relu(F.conv2d(hidden, layer.weight, layer.bias, padding=1))
        hidden = F.max_pool2d(hidden, 2, ceil_mode=True)
    sets = [network.slow()] + ([fast] if fast else [])
    filters = [w["convolution.weight"].view(FILTERS, FILTERS, 3, 3) for w in sets]
    hidden = sum(
        F.relu(F.conv2d(hidden, f, w["convolution.bias"], padding=1))
        for f, w in zip(filters, sets, strict=True)
    )
    hidden = F.max_pool2d(hidden, 2, ceil_mode=True).flatten(1)
    hidden = sum(F.relu(F.linear(hidden, w["hidden.weight"], w["hidden.bias"])) for w in sets)
    outputs = [F.linear(hidden, w["output.weight"], w["output.bias"])[0] for w in sets]
    return torch.stack(outputs).sum(0)


def test_without_fast_weights_it_is_the_plain_network(network, images):
    outputs = network(network.patches(images))
    expected = torch.stack([torch.stack([plain(network, x) for x in row]) for row in images])
    torch.testing.assert_close(outputs, expected)
    zero = {n: torch.zeros_like(p) for n, p in task_params(network.augmented, 2).items()}
    torch.testing.assert_close(network(network.patches(images), zero), outputs)


def test_fast_weights_stand_beside_the_slow_ones(network, images, generator):
    like = task_params(network.augmented, 2)
    fast = {n: torch.randn(p.shape, generator=generator) for n, p in like.items()}
    outputs = network(network.patches(images), fast)
    for t in range(2):
        own = {n: p[t] for n, p in fast.items()}
        for x, output in zip(images[t], outputs[t], strict=True):
            torch.testing.assert_close(output, plain(network, x, own), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [14, 33, 105])
def test_images_of_any_size_leave_a_feature(size, generator):
    network = AugmentedNetwork(ImageShape(2, size), WAY, generator, FILTERS)
    assert network(network.patches(torch.zeros(1, 2, 2, size, size))).shape == (1, 2, WAY)


def test_gradients_are_those_of_each_loss_alone(network, images):
    labels = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])
    patches = network.patches(images)
    rows = network.gradients(patches, lambda outputs: cross_entropy(outputs, labels))
    assert not rows.requires_grad and rows.shape[0] == 2
    for t in range(2):
        loss = F.cross_entropy(torch.stack([plain(network, x) for x in images[t]]), labels[t])
        grads = torch.autograd.grad(loss, list(network.augmented.parameters()))
        expected = torch.cat([g.flatten() for g in grads])
        torch.testing.assert_close(rows[t], expected, rtol=1e-4, atol=1e-6)


def test_what_makes_fast_weights_is_shared_by_all_coordinates(generator):
    gradients = torch.randn(2, 3, 7, generator=generator) * 1e-2
    order = torch.randperm(7, generator=generator)
    mapped, read = GradientMap(generator, 4), GradientReader(generator, 4)
    torch.testing.assert_close(mapped(gradients[..., order]), mapped(gradients)[..., order])
    torch.testing.assert_close(read(gradients[..., order]), read(gradients)[:, order])
    assert mapped(gradients).shape == (2, 3, 7) and read(gradients).shape == (2, 7)
    assert not torch.allclose(read(gradients), read(gradients.flip(1))), "it is a sequence"
    hidden = log_sign(gradients[0, 0], 7.0)
    for i, layer in enumerate(mapped.layers):
        hidden = F.linear(hidden if i == 0 else F.relu(hidden), layer.weight, layer.bias)
    torch.testing.assert_close(mapped(gradients)[0, 0], hidden[:, 0])


@pytest.mark.parametrize(("shots", "strength"), [(1, 1.0), (2, 1.0), (2, 7.0)])
def test_an_episode_example_by_example(shots, strength, glyphs, generator):
    """Algorithm 1 in plain loops, for one task of several."""
    learner = MetaNetwork(ImageShape(), WAY, generator, FILTERS, 5, 4, strength=strength)
    tasks = replace(glyphs, shots=shots).sample(2, generator)
    chosen = learner._draw_examples(tasks.support, WAY, generator)
    assert chosen.shape == (2, WAY * shots, min(shots, 2))
    outputs = learner._query_logits(learner.fast_weights(tasks.support, chosen), tasks.query.inputs)
    u, b, images, labels = learner.representation, learner.base, *(t[1] for t in tasks.support[:2])

    def rows(loss, network):
        grads = torch.autograd.grad(loss, list(network.augmented.parameters()))
        return torch.cat([g.flatten() for g in grads])

    gradients = []
    for picked in chosen[1]:
        found = torch.stack([plain(u, images[i]) for i in picked])
        if shots == 1:
            loss = F.cross_entropy(found, labels[picked])
        else:
            distance = (found[0] - found[1]).norm()
            same = labels[picked[0]] == labels[picked[1]]
            loss = distance**2 if same else F.relu(MARGIN - distance) ** 2
        gradients.append(rows(loss, u))
    embedding = learner.gradient_reader(torch.stack(gradients).unsqueeze(0))
    star = _params(u, embedding[0])
    keys = torch.stack([plain(u, x, star) for x in images])
    values = [
        learner.gradient_map(rows(F.cross_entropy(plain(b, x).unsqueeze(0), y.view(1)), b))
        for x, y in zip(images, labels, strict=True)
    ]
    for x, output in zip(tasks.query.inputs[1], outputs[1], strict=True):
        cosines = F.cosine_similarity(keys, plain(u, x, star).unsqueeze(0))
        attention = (strength * cosines).softmax(0)
        mixed = sum(a * v for a, v in zip(attention, values, strict=True))
        torch.testing.assert_close(output, plain(b, x, _params(b, mixed)), rtol=1e-3, atol=1e-4)


def _params(network, row):
    like = task_params(network.augmented, 1)
    assert pack(like).shape[1] == len(row)
    return {n: p[0] for n, p in unpack(row.unsqueeze(0), like).items()}


def test_one_example_per_class_is_read_in_a_random_order(learner, glyphs, generator):
    chosen = learner._draw_examples(
        replace(glyphs, shots=1).sample(50, generator).support, WAY, generator
    )
    assert (chosen.squeeze(2).sort(1).values == torch.arange(3)).all()
    assert len(chosen.squeeze(2).unique(dim=0)) == 6


def test_pairs_are_of_two_examples(learner, glyphs, generator):
    chosen = learner._draw_examples(glyphs.sample(50, generator).support, WAY, generator)
    assert (chosen[..., 0] != chosen[..., 1]).all()
    assert (chosen[..., 0].sort(1).values == torch.arange(6)).all()
    assert chosen[..., 1].unique().tolist() == list(range(6))


def test_the_contrastive_loss():
    outputs = torch.tensor([[[0.0, 0.0], [0.3, 0.4]]]).repeat(3, 1, 1)
    outputs[2] *= 4  # two apart: further than the margin
    labels = torch.tensor([[1, 1], [1, 0], [0, 1]])
    torch.testing.assert_close(contrastive(outputs, labels), torch.tensor([0.25, 0.25, 0.0]))


def test_one_training_gradient_is_that_of_finite_differences(glyphs, generator):
    """Inner gradients are constants, so they are held where the parameters are."""
    learner = MetaNetwork(ImageShape(), WAY, generator, 2, features=4, units=3).double()
    with torch.no_grad():  # paper is 0: without biases it would lie on the kinks of the ReLUs
        for p in learner.parameters():
            if p.dim() == 1:
                p.uniform_(-0.1, 0.1, generator=generator)
    tasks = replace(glyphs, shots=1).sample(2, generator)
    support, query = (e._replace(inputs=e.inputs.double()) for e in (tasks.support, tasks.query))
    inputs = learner.collect(replace(tasks, support=support, query=query), generator, 0)
    held = {}
    for name, network in (("b", learner.base), ("u", learner.representation)):
        compute = network.gradients

        def once(patches, loss, name=name, compute=compute):
            return held.setdefault(name, compute(patches, loss))

        network.gradients = once
    names, params = zip(*learner.named_parameters(), strict=True)

    def loss(*values):
        state = dict(zip(names, values, strict=True))
        return torch.func.functional_call(learner, state, (inputs,)).losses

    assert torch.autograd.gradcheck(loss, params, eps=1e-6, atol=1e-5, fast_mode=True)


def test_sizes_that_cannot_work_are_refused(generator):
    with pytest.raises(SettingsError, match="at least 1 output, got 0"):
        AugmentedNetwork(ImageShape(), 0, generator)
    with pytest.raises(SettingsError, match="at least 1 unit"):
        GradientMap(generator, 0)


def test_older_runs_keep_the_attention_of_the_paper():
    saved = {"features": 64, "units": 20}
    assert settings_from(MetaNetAlgorithm(), saved) == MetaNetAlgorithm(strength=1.0)
