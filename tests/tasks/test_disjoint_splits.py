import math

import torch

from metarl.tasks.base import SPLITS
from metarl.tasks.disjoint_splits import CELLS_PER_SPLIT, split_uniform


def test_splits_are_disjoint_and_each_reaches_over_the_whole_range():
    cell = (torch.arange(CELLS_PER_SPLIT) + 0.5) / CELLS_PER_SPLIT
    # The ends of the cells are what rounding might move into the next.
    cell, inside = torch.meshgrid(cell, torch.tensor([0.0, 0.5, 1 - 2**-24]), indexing="ij")
    for low, high in ((0.0, 1.0), (-0.5, 0.5), (0.0, math.pi)):
        seen = []
        for part in SPLITS:
            values = split_uniform(cell, inside, part, low, high)
            share = (values.double() - low) / (high - low)
            assert 0 <= share.min() < 1e-3 and 1 - 1e-3 < share.max() <= 1
            cells = (share * 3 * CELLS_PER_SPLIT).floor().long()
            assert (cells == cells[:, :1]).all()
            seen.append(set(cells[:, 0].tolist()))
        assert len(set.union(*seen)) == sum(map(len, seen)) == 3 * CELLS_PER_SPLIT
