"""What vector environments are asked for: settings, options of a reset, spaces."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from metarl.errors import SettingsError, ShapeError
from metarl.registry import check_choice
from metarl.sim.family import TaskFamily

Autoreset = Literal["same_step", "disabled"]

AUTORESET_MODES = {
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def read_mask(
    options: dict[str, Any], num_envs: int, device: torch.device, started: bool
) -> Tensor | None:
    """Returns the mask of a reset, [W] bool, or None for all worlds.

    Args:
        options: Those of gymnasium's `reset`.
        num_envs: The number of worlds, W.
        device: Where the mask is wanted.
        started: Whether all worlds have started once.

    Raises:
        SettingsError: An option is unknown, or not all worlds have started.
        ShapeError: The mask is not [W] bool.
    """
    for name in options:
        check_choice("option of reset", name, ["reset_mask"])
    if options.get("reset_mask") is None:
        return None
    mask = torch.as_tensor(options["reset_mask"], device=device)
    if mask.shape != (num_envs,) or mask.dtype != torch.bool:
        raise ShapeError(
            f"Expected a reset mask of [{num_envs}] bool, got {list(mask.shape)} {mask.dtype}."
        )
    if not started:
        raise SettingsError("The first reset must be of all worlds; leave out reset_mask.")
    return mask


def check_arguments(family: TaskFamily, num_envs: int, autoreset: str) -> None:
    """Raises SettingsError for what no vector environment can be built of."""
    if num_envs < 1:
        raise SettingsError(f"Expected at least 1 world, got {num_envs}.")
    if family.horizon < 1:
        raise SettingsError(
            f"Expected a horizon of at least 1 step, got {family.horizon} of {family.name}."
        )
    check_choice("autoreset", autoreset, get_args(Autoreset))


def with_task(space: spaces.Box, size: int) -> spaces.Box:
    """Returns the space of observations with `size` numbers of the task behind them."""
    free = np.full(size, np.inf, np.float32)
    low, high = np.concatenate([space.low, -free]), np.concatenate([space.high, free])
    return spaces.Box(low, high, dtype=np.float32)
