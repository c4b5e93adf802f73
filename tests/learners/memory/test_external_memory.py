"""The external memory against its equations in NumPy."""

import numpy as np
import pytest
import torch

from metarl.learners.memory import external_memory as m

COUNT, SLOTS, WIDTH, READS, DECAY = 3, 12, 4, 2, 0.95


def drawn(generator, steps):
    """Keys and gates of some steps."""
    keys = torch.randn(steps, COUNT, READS, WIDTH, generator=generator, dtype=torch.float64)
    gates = torch.rand(steps, COUNT, READS, generator=generator, dtype=torch.float64)
    return keys, gates


def blank(dtype=torch.float64, slots=SLOTS):
    return m.blank(COUNT, slots, WIDTH, READS, torch.empty(0, dtype=dtype))


def numpy_step(rows, read, usage, key, gate):
    """One memory, one step, as the paper's equations have it."""
    order = np.argsort(usage, kind="stable")
    least = np.isin(np.arange(SLOTS), order[:READS]).astype(float)
    write = gate[:, None] * read + (1 - gate)[:, None] * least
    rows = np.where(np.arange(SLOTS)[:, None] == order[0], 0.0, rows) + write.T @ key
    lengths = np.linalg.norm(key, axis=1)[:, None] * np.linalg.norm(rows, axis=1)
    similar = key @ rows.T / (lengths + m.EPS)
    read = np.exp(similar) / np.exp(similar).sum(1, keepdims=True)
    usage = DECAY * usage + read.sum(0) + write.sum(0)
    return rows, read, usage, write, least


def test_fifty_steps_are_the_papers_equations(generator):
    keys, gates = drawn(generator, 50)
    memory = blank()
    plain = [
        (np.zeros((SLOTS, WIDTH)), np.eye(SLOTS)[[0] * READS], np.eye(SLOTS)[0])
        for _ in range(COUNT)
    ]
    for key, gate in zip(keys, gates, strict=True):
        weights, least = m.write_weights(memory, gate)
        memory, vectors = m.read(m.write(memory, key, gate, DECAY), key)
        for b in range(COUNT):
            *state, write, free = numpy_step(*plain[b], key[b].numpy(), gate[b].numpy())
            plain[b] = tuple(state)
            np.testing.assert_allclose(weights[b], write, atol=1e-12)
            assert set(least[b].tolist()) == set(np.flatnonzero(free))
            for ours, theirs in zip(memory, state, strict=True):
                np.testing.assert_allclose(ours[b], theirs, atol=1e-10)
            np.testing.assert_allclose(vectors[b], state[1] @ state[0], atol=1e-10)


def test_a_known_sequence():
    """One head, gates shut, then open: written to free rows in turn, then where it read last."""
    memory = m.blank(1, 3, 2, 1, torch.empty(0))
    shut, open_ = torch.zeros(1, 1), torch.ones(1, 1)
    a, b, label = (torch.tensor([[v]]) for v in ([2.0, 0.0], [0.0, 3.0], [0.0, 1.0]))
    memory = m.write(memory, a, shut)
    torch.testing.assert_close(memory.rows[0], torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]))
    memory, vectors = m.read(memory, a)
    share = torch.tensor([0.0, 1.0, 0.0]).softmax(0)
    torch.testing.assert_close(memory.read_weights[0, 0], share)
    torch.testing.assert_close(vectors[0, 0], share @ memory.rows[0])
    torch.testing.assert_close(memory.usage[0], torch.tensor([0.99, 1.0, 0.0]) + share)
    # Row 2 is used least by now: it is zeroed, though the key goes where was read last.
    again = m.write(memory, label, open_)
    expected = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]) + share[:, None] * label[0]
    torch.testing.assert_close(again.rows[0], expected)
    memory = m.write(memory, b, shut)
    torch.testing.assert_close(memory.rows[0], torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 3.0]]))


def test_the_most_used_row_is_never_overwritten_while_one_is_free(generator):
    keys, _ = drawn(generator, 60)
    memory = blank()
    for key in keys:
        most = memory.usage.argmax(1)
        before = memory.rows[torch.arange(COUNT), most]
        after = m.write(memory, key, torch.zeros(COUNT, READS, dtype=torch.float64))
        assert torch.equal(after.rows[torch.arange(COUNT), most], before)
        memory, _ = m.read(after, key)
    assert (memory.rows.norm(dim=2) > 0).all(), "all rows have been written to by now"


def test_of_equally_used_rows_the_first_are_taken():
    usage = torch.tensor([[1.0, 0.0, 0.0, 0.5, 0.0]])
    assert m.least_used(usage, 2).tolist() == [[1, 2]]


def test_strengths_sharpen_the_reads(generator):
    keys, gates = drawn(generator, 5)
    memory = blank()
    for key, gate in zip(keys, gates, strict=True):
        memory, _ = m.read(m.write(memory, key, gate), key)
    written = m.write(memory, keys[0], gates[0])
    ones = torch.ones(COUNT, READS, dtype=torch.float64)
    plain, one, ten = (m.read(written, keys[0], s)[0] for s in (None, ones, 10 * ones))
    assert torch.equal(plain.read_weights, one.read_weights)
    assert (ten.read_weights.amax(2) > plain.read_weights.amax(2)).all()


def test_a_write_leaves_the_memory_before_as_it_was(generator):
    keys, gates = drawn(generator, 1)
    memory = blank()
    kept = [t.clone() for t in memory]
    m.read(m.write(memory, keys[0], gates[0]), keys[0])
    assert all(torch.equal(a, b) for a, b in zip(memory, kept, strict=True))


def test_gradients_are_those_of_finite_differences(generator):
    keys, gates = (t.requires_grad_() for t in drawn(generator, 4))

    def reads(keys, gates):
        memory, vectors = blank(slots=5), []
        for key, gate in zip(keys, gates, strict=True):
            memory, read = m.read(m.write(memory, key, gate), key)
            vectors.append(read)
        return torch.stack(vectors)

    assert torch.autograd.gradcheck(reads, (keys, gates), eps=1e-6, atol=1e-5)


def test_an_empty_memory_reads_nothing_and_has_a_gradient():
    memory = blank(torch.float32)
    keys = torch.ones(COUNT, READS, WIDTH, requires_grad=True)
    memory, vectors = m.read(memory, keys)
    assert torch.equal(vectors, torch.zeros_like(vectors))
    torch.testing.assert_close(memory.read_weights, torch.full((COUNT, READS, SLOTS), 1 / SLOTS))
    memory.read_weights.square().sum().backward()
    assert keys.grad is not None and torch.isfinite(keys.grad).all()
    assert not memory.usage.requires_grad


@pytest.mark.parametrize("zero", ["keys", "rows"])
def test_cosines_of_nothing_are_zero(zero, generator):
    keys, rows = torch.randn(2, 1, 3, WIDTH, generator=generator)
    torch.testing.assert_close(
        m.cosines_to_rows(keys, rows),
        torch.cosine_similarity(keys[:, :, None], rows[:, None], dim=3),
    )
    (keys if zero == "keys" else rows).zero_()
    assert torch.equal(m.cosines_to_rows(keys, rows), torch.zeros(1, 3, 3))
