"""What a batched simulator returns, as tensors with a row for each world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from gymnasium import spaces
from torch import Tensor

from metarl.errors import SimulationError, short_repr
from metarl.sim.gymnasium.observations import REAL
from metarl.sim.spaces import is_image


def rows(what: str, value: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Returns a copy of numbers of NumPy, torch or JAX; simulators write into the same arrays.

    Args:
        what: What the numbers are, for the message.
        value: The numbers.
        shape: Their shape, the worlds first; a dimension of 1 at the end is left out.
        dtype: The type of the result.

    Raises:
        SimulationError: The value has another shape, or holds no real numbers; or bytes are
            expected, and it holds other numbers.
    """
    tensor = _tensor(value)
    if tensor is None or tensor.shape not in (shape, (*shape, 1)):
        got = short_repr(value) if tensor is None else f"{list(tensor.shape)}"
        raise SimulationError(
            f"Expected {what} of the simulator as numbers of the shape {list(shape)}, a row for "
            f"each world, got {got}."
        )
    if dtype == torch.uint8 and tensor.is_floating_point():
        raise SimulationError(
            f"Expected {what} of the simulator that are pictures as bytes, got {tensor.dtype}: "
            "numbers of 0..1 would be divided by 255 once more. Return bytes, or declare a Box of "
            "float32 with the bounds that the pictures have."
        )
    is_wider = dtype == torch.uint8 != tensor.dtype
    if is_wider and not torch.equal(tensor, tensor.clamp(0, 255)):
        raise SimulationError(
            f"Expected {what} of the simulator that are pictures as bytes, got {int(tensor.min())} "
            f"to {int(tensor.max())}: as bytes, they would be other numbers."
        )
    return tensor.reshape(shape).to(dtype, copy=True)


def _tensor(value: Any) -> Tensor | None:
    """Returns numbers as a tensor; None for what holds no real numbers."""
    if not isinstance(value, Tensor | np.ndarray) and hasattr(value, "__dlpack__"):
        value = torch.from_dlpack(value)  # of JAX, on its device
    if isinstance(value, Tensor):
        return None if value.is_complex() else value.detach()
    try:
        array = np.asarray(value)
    except ValueError:  # rows of unequal length
        return None
    if array.dtype.kind not in REAL:
        return None
    is_wide = array.dtype.kind == "u" and array.itemsize > 1  # torch hardly computes with these
    kind = np.dtype(np.int64) if is_wide else array.dtype.newbyteorder("=")
    return torch.from_numpy(np.array(array, kind, order="C"))


def flattener(space: spaces.Space[Any], worlds: int) -> Callable[[Any], Tensor]:
    """Returns a function that flattens observations of all worlds to [worlds, O] float32.

    The order of the numbers is that of `gymnasium.spaces.flatten`.

    Args:
        space: The observation space of one world.
        worlds: The number of worlds.
    """
    if isinstance(space, spaces.Dict | spaces.Tuple):
        is_dict = isinstance(space, spaces.Dict)
        named = space.spaces.items() if is_dict else enumerate(space.spaces)
        return _joined({key: flattener(part, worlds) for key, part in named}, is_dict)
    shape = (worlds, *(space.shape or ()))
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        return _one_hot(space, shape)
    kind = torch.uint8 if is_image(space) else torch.float32

    def flat(value: Any) -> Tensor:
        return rows("observations", value, shape, kind).flatten(1).float()

    return flat


def _one_hot(
    space: spaces.Discrete | spaces.MultiDiscrete, shape: tuple[int, ...]
) -> Callable[[Any], Tensor]:
    """Returns a function that encodes choices, each as zeros and a one."""
    counts = np.ravel(space.n if isinstance(space, spaces.Discrete) else space.nvec).tolist()
    first, number = (torch.tensor(np.ravel(n), dtype=torch.float64) for n in (space.start, counts))

    def encode(value: Any) -> Tensor:
        chosen = rows("observations", value, shape, torch.float64).reshape(shape[0], -1)
        index = chosen - first.to(chosen.device)
        known = (index >= 0) & (index < number.to(chosen.device)) & (index == index.round())
        if not known.all():  # an index out of range would end a CUDA process
            raise SimulationError(
                f"Expected observations of the simulator in {space}, got {chosen[~known][0]:g}."
            )
        columns = zip(index.long().unbind(1), counts, strict=True)
        return torch.cat([F.one_hot(column, count) for column, count in columns], 1).float()

    return encode


def _joined(flat: Mapping[Any, Callable[[Any], Tensor]], is_dict: bool) -> Callable[[Any], Tensor]:
    """Returns a function that flattens observations of several parts, in their order."""
    container = "dict" if is_dict else "tuple"

    def fits(value: Any) -> bool:
        if is_dict:
            return isinstance(value, Mapping) and flat.keys() <= value.keys()
        return isinstance(value, tuple | list) and len(value) == len(flat)

    def join(value: Any) -> Tensor:
        if not fits(value):
            raise SimulationError(
                f"Expected observations of the simulator as a {container} of the parts "
                f"{', '.join(map(str, flat))}, got {short_repr(value)}."
            )
        return torch.cat([part(value[key]) for key, part in flat.items()], 1)

    return join
