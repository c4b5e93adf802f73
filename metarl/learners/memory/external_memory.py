"""An external memory with least-recently-used access (Santoro et al. 2016, section 3).

Pure functions of a state: B memories beside each other, one for each sequence. At every step a
controller gives R heads a key each, k_t; first they write, then they read what there is then.

    K(k, M(i)) = k . M(i) / (|k| |M(i)|)                                     equation 2
    w^r_t = softmax_i K(k_t, M_t(i)),  r_t = sum_i w^r_t(i) M_t(i)           equations 3 and 4
    w^u_t = decay w^u_{t-1} + w^r_t + w^w_t, over all heads                  equation 5
    w^lu_t(i) = 1 for the R least used rows, 0 for the others                equation 6
    w^w_t = gate w^r_{t-1} + (1 - gate) w^lu_{t-1}                           equation 7
    M_t(i) = M_{t-1}(i) + w^w_t(i) k_t, the least used row zeroed before     equation 8

Writing where was read a step ago joins what came late, the label, to what it belongs to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-6  # of products of lengths: an empty row has a cosine, of 0


class Memory(NamedTuple):
    """B memories of S rows with R heads each.

    Attributes:
        rows: What they hold, [B, S, W], float.
        read_weights: Where each head read last, [B, R, S]; they add up to 1.
        usage: How much each row was used of late, [B, S], without a gradient: it enters by the
            order of its values alone.
    """

    rows: Tensor
    read_weights: Tensor
    usage: Tensor


def blank(count: int, slots: int, width: int, reads: int, like: Tensor) -> Memory:
    """Returns empty memories of which all heads have read, and all used, row 0.

    Args:
        count: Number of memories, B.
        slots: Rows of each, S.
        width: Numbers in a row, W.
        reads: Heads, R.
        like: Gives type and device.
    """
    first = like.new_zeros(count, slots)
    first[:, 0] = 1
    rows = like.new_zeros(count, slots, width)
    return Memory(rows, first.unsqueeze(1).expand(count, reads, slots), first)


def write(memory: Memory, keys: Tensor, gates: Tensor, decay: float = 0.99) -> Memory:
    """Writes the key of every head to the rows it read last and to the least used ones.

    Args:
        memory: As the step before left it.
        keys: Shape [B, R, W].
        gates: Share of the rows read last in each head's write, [B, R], in (0, 1).
        decay: Of the usage, in [0, 1].

    Returns:
        The memory, its usage decayed and the write weights added to it.
    """
    weights, least = write_weights(memory, gates)
    kept = torch.ones_like(memory.usage).scatter_(1, least[:, :1], 0.0).unsqueeze(2)
    rows = torch.addcmul(torch.bmm(weights.mT, keys), memory.rows, kept)
    usage = torch.add(weights.detach().sum(1), memory.usage, alpha=decay)
    return Memory(rows, memory.read_weights, usage)


def read(memory: Memory, keys: Tensor, strengths: Tensor | None = None) -> tuple[Memory, Tensor]:
    """Reads with the key of every head by cosine.

    Args:
        memory: What `write` returned.
        keys: Shape [B, R, W].
        strengths: Factors of the cosines, [B, R], above 0: the larger, the sharper a head reads
            (Graves et al. 2014, equation 5); None: 1, as Santoro et al. have it.

    Returns:
        The memory, the read weights kept and added to its usage, and what was read, [B, R, W].
    """
    similar = cosines(keys, memory.rows)
    if strengths is not None:
        similar = similar * strengths.unsqueeze(2)
    weights = similar.softmax(2)
    usage = memory.usage + weights.detach().sum(1)
    return Memory(memory.rows, weights, usage), torch.bmm(weights, memory.rows)


def write_weights(memory: Memory, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Returns where `write` writes, [B, R, S], and the least used rows, least first, [B, R]."""
    least = least_used(memory.usage, gates.shape[1])
    gate = gates.unsqueeze(2)
    free = torch.zeros_like(memory.usage).scatter_(1, least, 1.0).unsqueeze(1)
    return gate * memory.read_weights + (1 - gate) * free, least


def least_used(usage: Tensor, count: int) -> Tensor:
    """Returns the indices of the least used rows, least first, [B, count]; of equals the first."""
    return usage.sort(dim=1, stable=True).indices[:, :count]


def cosines(keys: Tensor, rows: Tensor) -> Tensor:
    """Returns the cosines of keys [B, R, W] and rows [B, S, W], [B, R, S]; 0 for empty rows."""
    lengths = torch.linalg.vector_norm(keys, dim=2).unsqueeze(2)
    others = torch.linalg.vector_norm(rows, dim=2).unsqueeze(1)
    return torch.bmm(keys, rows.mT) / (lengths * others + EPS)
