"""Code of others that draws from the global generators: seeded for a while, then as before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, NumPy and torch (on the CPU) in the block.

    Afterwards they are as they were, also after an error. Generators of GPUs are not touched.

    Args:
        seed: The seed, at least 0.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
