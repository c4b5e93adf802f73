"""Random numbers computed from seeds, so that each task and each replay has the same ones.

Dropout inside an inner loop needs masks that a replay of the loop, a chunk of the tasks and a
compiled graph see again. A seed per task, drawn once from a generator, and a mixing function of
the seed and the index of an element give them without a state.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEP = -7046029254386353131  # 2^64 / golden ratio, as a signed number (Steele et al. 2014)
FIRST, SECOND = -4658895280553007687, -7723592293110705685  # the multipliers of splitmix64
BITS = 24  # those of a float32's mantissa: the same numbers in every floating-point type


def pass_seeds(seeds: Tensor, number: int) -> Tensor:
    """Returns the seeds of pass `number` of a network, int64, shaped like `seeds`."""
    return _mixed(seeds + STEP * (number + 1) % 2**63)


def uniform(seeds: Tensor, call: int, count: int) -> Tensor:
    """Returns uniform numbers in [0, 1), float32.

    Args:
        seeds: int64, [] or [T].
        call: Which of the calls in a pass the numbers are for, at least 0.
        count: How many.

    Returns:
        Shape [count] or [T, count].
    """
    key = _mixed(seeds + (call + 1) * 0x5851F42D4C957F2D % 2**63)
    index = torch.arange(count, device=seeds.device)
    bits = _mixed(key.unsqueeze(-1) + index * STEP)
    return (_shifted(bits, 64 - BITS)).to(torch.float32) * 2.0**-BITS


def dropout(
    values: Tensor, seeds: Tensor, call: int, p: float, channels_only: bool, lead: int
) -> Tensor:
    """Sets random elements to 0 and divides the others by 1 - p (Srivastava et al. 2014).

    Args:
        values: Shape [*lead, N, C, *].
        seeds: int64, [] for values of one task, [T] for those of T.
        call: See `uniform`.
        p: Probability of 0, in [0, 1].
        channels_only: Draws one number per channel, not per element.
        lead: Number of leading task dimensions: 0 or 1.
    """
    if p == 0:
        return values
    if p == 1:
        return values * 0
    shape = values.shape[lead:]
    drawn = (*shape[:2], *[1] * (len(shape) - 2)) if channels_only else tuple(shape)
    count = 1
    for size in drawn:
        count *= size
    numbers = uniform(seeds, call, count).unflatten(-1, drawn)
    return values * ((numbers >= p).to(values.dtype) / (1 - p))


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014, figure 14); int64 arithmetic wraps."""
    x = (x ^ _shifted(x, 30)) * FIRST
    x = (x ^ _shifted(x, 27)) * SECOND
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, places: int) -> Tensor:
    """The logical shift to the right of signed 64-bit numbers."""
    return (x >> places) & (2 ** (64 - places) - 1)
