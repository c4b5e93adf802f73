"""How fast this machine is, compared with the one on which durations were measured."""

from __future__ import annotations

import time

import torch

REFERENCE_SECONDS = 0.17
"""CPU seconds of `seconds_of_reference` where the minutes of the experiments were measured."""


def seconds_of_reference(repeats: int = 3) -> float:
    """Returns the CPU seconds of a fixed computation: the smallest of several measurements.

    It is of two kinds that experiments consist of: many small batched operations with gradients,
    and matrix products, on one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return min(_once() for _ in range(repeats))
    finally:
        torch.set_num_threads(threads)


def machine_factor() -> float:
    """Returns how many times as long a computation takes here as on the reference machine."""
    return seconds_of_reference() / REFERENCE_SECONDS


def _once() -> float:
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(25, 40, 40, generator=generator).requires_grad_()
    inputs = torch.randn(25, 10, 40, generator=generator)
    large = torch.randn(256, 256, generator=generator)
    started = time.process_time()
    for _ in range(160):
        hidden = inputs
        for _ in range(3):
            hidden = torch.relu(hidden @ weights)
        torch.autograd.grad(hidden.square().mean(), weights)
        large = torch.tanh(large @ large / 256)
    return time.process_time() - started
