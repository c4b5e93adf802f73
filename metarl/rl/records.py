"""Records of the steps of an episode in memory that a CUDA graph writes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from metarl.flat_functions import flatten
from metarl.sim.family import WorldState
from metarl.trees import map_tensors


def empty_rows(values: Any, count: int) -> Any:
    """Returns memory for `count` nested values, with a first dimension of the steps."""
    return map_tensors(lambda tensor: tensor.new_empty(count, *tensor.shape), values)


def record(records: Any, values: Any, step: Tensor) -> None:
    """Writes nested values into the row `step`, [1] int64, of records."""
    map_tensors(lambda r, v: r.index_copy_(0, step, v.unsqueeze(0)), records, values)


def write(memory: Any, values: Any) -> None:
    """Copies the tensors of a nested value into memory; a tensor is not copied onto itself."""
    targets, sources = list[Tensor](), list[Tensor]()
    flatten(memory, targets, [])
    flatten(values, sources, [])
    pairs = [(t, s) for t, s in zip(targets, sources, strict=True) if t is not s]
    if pairs:
        targets, sources = (list(column) for column in zip(*pairs, strict=True))
        torch._foreach_copy_(targets, sources)


def rows_of(records: WorldState, count: int) -> list[WorldState]:
    """Returns the states of all steps as copies: the next episode overwrites the records."""
    copies = map_tensors(Tensor.clone, records)
    return [map_tensors(lambda t, i=i: t[i], copies) for i in range(count)]
