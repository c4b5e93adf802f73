"""The transformer over a trial: its cache against the full pass, causality and positions."""

import pytest
import torch

from metarl.errors import SettingsError
from metarl.rl.trials.attention import Attention

L, B, WIDTH, H = 7, 3, 5, 8


def make(generator, steps=L):
    attention = Attention(WIDTH, H, generator, steps, blocks=2, heads=2)
    with torch.no_grad():
        for p in attention.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return attention, torch.randn(L, B, WIDTH, generator=generator)


def acted(attention, inputs):
    state, rows = attention.begin(B), []
    for row in inputs:
        features, state = attention.step(row, state)
        rows.append(features)
    return torch.stack(rows), state


@pytest.mark.parametrize("steps", [L, L + 4])
def test_acting_with_the_cache_is_the_full_pass(generator, steps):
    attention, inputs = make(generator, steps)
    features, state = acted(attention, inputs)
    torch.testing.assert_close(features, attention.unroll(inputs), rtol=0, atol=1e-5)
    assert features.std() > 0.1
    assert state.steps.tolist() == [L] * B


def test_no_step_depends_on_later_ones(generator):
    attention, inputs = make(generator)
    changed = inputs.clone()
    changed[4] += 1.0
    moved = (attention.unroll(changed) - attention.unroll(inputs)).abs().amax((1, 2))
    assert (moved[:4] < 1e-6).all() and (moved[4:] > 1e-3).all()


def test_a_state_may_be_used_again(generator):
    """Two futures of the same state do not disturb each other."""
    attention, inputs = make(generator)
    _, state = acted(attention, inputs[:3])
    first, after = attention.step(inputs[3], state)
    attention.step(inputs[5], state)
    again, _ = attention.step(inputs[3], state)
    torch.testing.assert_close(first, again)
    torch.testing.assert_close(attention.step(inputs[4], after)[0], attention.unroll(inputs)[4])


def test_worlds_may_be_at_different_steps(generator):
    """A world that idles keeps its state, so its next step has an earlier position."""
    attention, inputs = make(generator)
    _, state = acted(attention, inputs[:3])
    _, later = attention.step(inputs[3], state)
    mixed = type(state)(*(torch.cat((a[:1], b[1:])) for a, b in zip(state, later, strict=True)))
    features, _ = attention.step(torch.cat((inputs[3, :1], inputs[4, 1:])), mixed)
    full = attention.unroll(inputs)
    torch.testing.assert_close(features[0], full[3, 0], rtol=0, atol=1e-5)
    torch.testing.assert_close(features[1:], full[4, 1:], rtol=0, atol=1e-5)


def test_positions_beyond_the_trained_length_are_refused(generator):
    attention, inputs = make(generator, steps=L - 1)
    with pytest.raises(SettingsError, match=r"at most 6 steps.*got 7.*knows no later positions"):
        attention.unroll(inputs)
    _, state = acted(attention, inputs[:-1])
    with pytest.raises(SettingsError, match=r"at most 6 steps.*got 7"):
        attention.step(inputs[-1], state)


def test_weights_come_from_the_generator_alone():
    before = torch.get_rng_state()
    first, second = (make(torch.Generator().manual_seed(4))[0].state_dict() for _ in range(2))
    assert all(torch.equal(p, second[n]) for n, p in first.items())
    assert torch.equal(before, torch.get_rng_state())


def test_what_it_cannot_be_built_for_is_refused(generator):
    with pytest.raises(SettingsError, match="heads divide, got 3 steps, 2 blocks, 3 heads"):
        Attention(WIDTH, 4, generator, 3, heads=3)
    with pytest.raises(SettingsError, match="at least 1 step"):
        Attention(WIDTH, 4, generator, 0)
