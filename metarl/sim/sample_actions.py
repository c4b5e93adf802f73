"""Random actions, for checks."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.sim.family import ActionSpace
from metarl.tasks.check_sampling import seeded


def sample_actions(space: ActionSpace, count: tuple[int, ...], seed: int) -> Tensor:
    """Samples actions, [*count, *shape of one action]; some are outside of a box space."""
    if isinstance(space, spaces.Discrete):
        return torch.randint(int(space.n), count, generator=seeded(seed))
    scale = torch.from_numpy(np.nan_to_num(space.high, posinf=1.0).astype(np.float32))
    return 2 * scale * torch.randn(*count, *space.shape, generator=seeded(seed))
