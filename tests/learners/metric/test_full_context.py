"""Full context embeddings against the paper's recurrence, written out for one task."""

import pytest
import torch

from metarl.errors import SettingsError
from metarl.learners import Attention, ContextAttention, Reference

TASKS, COUNT, QUERIES, WIDTH = 2, 6, 4, 5


@pytest.fixture
def comparison(generator):
    return ContextAttention(WIDTH, generator, steps=3)


@pytest.fixture
def support(generator):
    members = torch.eye(3).repeat(TASKS, 2, 1)
    return Reference(torch.randn(TASKS, COUNT, WIDTH, generator=generator), members)


@pytest.fixture
def queries(generator):
    return torch.randn(TASKS, QUERIES, WIDTH, generator=generator)


@pytest.fixture
def order(generator):
    return torch.rand(TASKS, COUNT, generator=generator).argsort(1)


def lstm(weights, bias, x, h, c):
    """One step, with torch's order of the gates: input, forget, cell, output."""
    i, f, g, o = (weights @ torch.cat((x, h)) + bias).chunk(4)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


def weights_of(module, suffix):
    parts = [getattr(module, f"{kind}{suffix}") for kind in ("weight_ih", "weight_hh")]
    bias = getattr(module, f"bias_ih{suffix}") + getattr(module, f"bias_hh{suffix}")
    return torch.cat(parts, dim=1), bias


def test_the_support_is_read_both_ways(comparison, support, order):
    context = comparison.condense(support, order).features
    for t in range(TASKS):
        expected = support.features[t].clone()
        for suffix, path in (("_l0", order[t]), ("_l0_reverse", order[t].flip(0))):
            h = c = torch.zeros(WIDTH)
            for i in path:
                h, c = lstm(*weights_of(comparison.reader, suffix), support.features[t, i], h, c)
                expected[i] += h
        torch.testing.assert_close(context[t], expected, rtol=1e-4, atol=1e-5)


def test_a_query_attends_over_the_support(comparison, support, queries):
    context = comparison.in_context(queries, support)
    weights, bias = weights_of(comparison.attender, "")
    for t in range(TASKS):
        for j, x in enumerate(queries[t]):
            h = r = c = torch.zeros(WIDTH)
            for _ in range(3):
                h, c = lstm(weights, bias, torch.cat((x, r)), h, c)
                h = h + x
                r = (support.features[t] @ h).softmax(0) @ support.features[t]
            torch.testing.assert_close(context[t, j], h, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_silenced_it_is_plain_matching(distance, support, queries, order, generator):
    comparison = ContextAttention(WIDTH, generator, distance=distance)
    plain = Attention(distance)(support, queries, None)

    def scores():
        return comparison(comparison.condense(support, order), queries, None)

    assert not torch.allclose(scores(), plain, atol=1e-2)
    with torch.no_grad():
        for lstm_ in (comparison.reader, comparison.attender):
            for p in lstm_.parameters():
                p.zero_()
    assert torch.equal(scores(), plain)


def test_initial_weights_come_from_the_generator_alone(comparison):
    before = torch.get_rng_state()
    again = ContextAttention(WIDTH, torch.Generator().manual_seed(0), steps=3)
    assert torch.equal(torch.get_rng_state(), before)
    for p, q in zip(comparison.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


def test_no_steps_are_refused(generator):
    with pytest.raises(SettingsError, match="1 feature and 1 step, got 5 and 0"):
        ContextAttention(5, generator, steps=0)
