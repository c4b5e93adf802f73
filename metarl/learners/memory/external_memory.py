"""An external memory with least-recently-used access (Santoro et al. 2016, section 3).

Pure functions of the state of B memories, one per sequence. At every step, a controller outputs a
key k_t and a gate for each of R heads. The heads first write their keys, then read the updated
memory.

    K(k, M(i)) = k . M(i) / (|k| |M(i)|)                                     equation 2
    w^r_t(i) = softmax_i K(k_t, M_t(i))                                      equation 3
    r_t = sum_i w^r_t(i) M_t(i)                                              equation 4
    w^u_t = gamma w^u_{t-1} + w^r_t + w^w_t, summed over the heads           equation 5
    w^lu_t(i) = 1 for the R least used rows, 0 for the others                equation 6
    w^w_t = sigma(alpha) w^r_{t-1} + (1 - sigma(alpha)) w^lu_{t-1}           equation 7
    M_t(i) = M_{t-1}(i) + w^w_t(i) k_t, the least used row zeroed before     equation 8

Here `gates` are sigma(alpha) and `decay` is gamma. Writing to the rows of the previous read binds
a label, which arrives one step late, to its example.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

EPS = 1e-6  # added to products of norms, so that the cosine with an empty row is 0


class Memory(NamedTuple):
    """B memories of S rows with R heads each.

    Attributes:
        rows: Contents M_t, [B, S, W], float.
        read_weights: Weights w^r_t of the last read of each head, [B, R, S]; they sum to 1.
        usage: Recent usage w^u_t of each row, [B, S]. It has no gradient, because only the order
            of its values matters.
    """

    rows: Tensor
    read_weights: Tensor
    usage: Tensor


def blank(count: int, slots: int, width: int, reads: int, like: Tensor) -> Memory:
    """Returns empty memories. All read weights and usage are on row 0.

    Args:
        count: Number of memories, B.
        slots: Number of rows of each memory, S.
        width: Numbers per row, W.
        reads: Number of heads, R.
        like: A tensor with the dtype and device of the result.
    """
    first = (torch.arange(slots, device=like.device) == 0).to(like.dtype).repeat(count, 1)
    rows = like.new_zeros(count, slots, width)
    return Memory(rows, first.unsqueeze(1).expand(count, reads, slots), first)


def write(memory: Memory, keys: Tensor, gates: Tensor, decay: float = 0.99) -> Memory:
    """Writes the key of every head to the rows of its last read and to the least used rows.

    Args:
        memory: The memory after the previous step.
        keys: Keys k_t, [B, R, W].
        gates: Share sigma(alpha) of the last read rows in each head's write, [B, R], in (0, 1).
        decay: Decay gamma of the usage, in [0, 1].

    Returns:
        The new memory, with decayed usage plus the write weights.
    """
    weights, least = write_weights(memory, gates)
    # M_t(i) = M_{t-1}(i) + w^w_t(i) k_t, the least used row zeroed before  (eq. 8)
    keep = torch.ones_like(memory.usage).scatter_(1, least[:, :1], 0.0).unsqueeze(2)
    rows = torch.addcmul(torch.bmm(weights.mT, keys), memory.rows, keep)
    # gamma w^u_{t-1} + w^w_t of w^u_t; `read` adds w^r_t  (eq. 5)
    usage = torch.add(weights.detach().sum(1), memory.usage, alpha=decay)
    return Memory(rows, memory.read_weights, usage)


def read(memory: Memory, keys: Tensor, strengths: Tensor | None = None) -> tuple[Memory, Tensor]:
    """Reads the memory with the key of every head, by cosine similarity.

    Args:
        memory: The memory that `write` returned.
        keys: Keys k_t, [B, R, W].
        strengths: Key strengths beta, which multiply the cosines, [B, R], above 0; larger ones
            sharpen the read (Graves et al. 2014, equation 5). None: 1, as in Santoro et al.

    Returns:
        The memory with the new read weights, which are also added to its usage, and the vectors
        read, r_t, [B, R, W].
    """
    # w^r_t(i) = softmax_i(beta K(k_t, M_t(i)))  (eq. 2 and 3; beta: Graves et al. 2014, eq. 5)
    similarities = cosines_to_rows(keys, memory.rows)
    if strengths is not None:
        similarities = similarities * strengths.unsqueeze(2)
    weights = similarities.softmax(2)
    # the term w^r_t of w^u_t  (eq. 5)
    usage = memory.usage + weights.detach().sum(1)
    # r_t = sum_i w^r_t(i) M_t(i)  (eq. 4)
    return Memory(memory.rows, weights, usage), torch.bmm(weights, memory.rows)


def write_weights(memory: Memory, gates: Tensor) -> tuple[Tensor, Tensor]:
    """Computes the write weights (equations 6 and 7).

    Args:
        memory: The memory after the previous step.
        gates: Share sigma(alpha) of the last read rows in each head's write, [B, R], in (0, 1).

    Returns:
        The write weights w^w_t, [B, R, S], and the indices of the R least used rows in increasing
        order of usage, [B, R], int64.
    """
    least = least_used(memory.usage, gates.shape[1])
    gate = gates.unsqueeze(2)
    # w^lu_{t-1}(i) = 1 for the R least used rows, 0 for the others  (eq. 6)
    least_used_weights = torch.zeros_like(memory.usage).scatter_(1, least, 1.0).unsqueeze(1)
    # w^w_t = sigma(alpha) w^r_{t-1} + (1 - sigma(alpha)) w^lu_{t-1}  (eq. 7)
    return gate * memory.read_weights + (1 - gate) * least_used_weights, least


def least_used(usage: Tensor, count: int) -> Tensor:
    """Returns the indices of the least used rows, [B, count], in increasing order of usage.

    Among rows of equal usage, the lower index comes first.

    Args:
        usage: Shape [B, S].
        count: Number of rows.
    """
    return usage.sort(dim=1, stable=True).indices[:, :count]


def cosines_to_rows(keys: Tensor, rows: Tensor) -> Tensor:
    """Returns the cosines, [B, R, S], of keys [B, R, W] and rows [B, S, W]; 0 for empty rows.

    Divides the product by the norms; `metric.comparisons.cosines` normalises first, which rounds in
    another way.
    """
    key_norms = torch.linalg.vector_norm(keys, dim=2).unsqueeze(2)
    row_norms = torch.linalg.vector_norm(rows, dim=2).unsqueeze(1)
    # K(k, M(i)) = k . M(i) / (|k| |M(i)|)  (eq. 2)
    return torch.bmm(keys, rows.mT) / (key_norms * row_norms + EPS)
