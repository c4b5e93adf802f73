"""Checks the arguments of vector environments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any, Literal, cast, get_args

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from torch import Tensor

from metarl.errors import SettingsError, ShapeError, SimulationError, short_repr
from metarl.ranges import Range, check_int
from metarl.registry import check_choice
from metarl.sim.family import ControlTasks, TaskFamily, Tasks
from metarl.sim.spaces import FlatBox, source_of

Autoreset = Literal["same_step", "next_step", "disabled"]

SEEDS = Range(0, 2**64 - 1)
"""Those that gymnasium and torch take."""

AUTORESET_MODES = {
    "same_step": AutoresetMode.SAME_STEP,
    "next_step": AutoresetMode.NEXT_STEP,
    "disabled": AutoresetMode.DISABLED,
}


def reset_seed(seed: Any) -> int | None:
    """Returns the seed of a reset as an integer of Python; None stays.

    Raises:
        SettingsError: It is no integer of at least 0.
    """
    return None if seed is None else check_int("seed", seed, SEEDS)


def read_mask(
    options: dict[str, Any], num_envs: int, device: torch.device, started: bool
) -> Tensor | None:
    """Returns the mask of a reset, [W] bool, or None for all worlds.

    Args:
        options: The options of Gymnasium's `reset`.
        num_envs: The number of worlds, W.
        device: The device of the returned mask.
        started: Whether all worlds have been reset at least once.

    Raises:
        SettingsError: An option is unknown, or the first reset has a mask.
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


def check_default_type(what: str) -> None:
    """Raises SettingsError unless torch's default type is float32."""
    if torch.get_default_dtype() != torch.float32:
        raise SettingsError(
            f"{what} compute in float32, but torch's default type is "
            f"{torch.get_default_dtype()}; call `torch.set_default_dtype(torch.float32)` first."
        )


def check_arguments(
    family: TaskFamily, num_envs: int, autoreset: Autoreset | AutoresetMode
) -> Autoreset:
    """Checks the arguments of the constructor, and returns the name of the autoreset.

    Raises:
        SettingsError: An argument has an invalid value, or torch's default type is not float32.
    """
    check_default_type("Worlds")
    check_int("num_envs", num_envs)
    if not isinstance(family.horizon, Integral) or family.horizon < 1:
        raise SettingsError(
            f"Expected a horizon of whole steps, at least 1, got {family.horizon} of {family.name}."
        )
    name = autoreset.name.lower() if isinstance(autoreset, AutoresetMode) else autoreset
    check_choice("autoreset", name, get_args(Autoreset))
    return cast(Autoreset, name)


def check_tasks(tasks: Tasks, present: Tasks, family: TaskFamily) -> None:
    """Checks that new tasks have the names and shapes of the present ones, [W, *] per name.

    Raises:
        ShapeError: They are no dict; a value is missing, unknown, no tensor of real numbers, or has
            another shape; or one of whole numbers, such as the place of a choice, is a fraction.
    """
    if not isinstance(tasks, Mapping):
        advice = "; pass its `values`" * isinstance(tasks, ControlTasks)
        raise ShapeError(
            f"Expected tasks as a dict, tensors by the names {list(present)}, got a "
            f"{type(tasks).__name__}{advice}."
        )
    if tasks.keys() != present.keys():
        raise ShapeError(
            f"Expected task values named {list(present)}, got {list(tasks)}: "
            f"pass what {family.name} samples."
        )
    for name, value in tasks.items():
        check_numbers(name, value, present[name])
        expected = present[name].shape
        if value.shape != expected:
            raise ShapeError(
                f"Expected the task value {name!r} of shape {tuple(expected)}, one for each of "
                f"{expected[0]} worlds, got {tuple(value.shape)}; `repeat_interleave` gives a task "
                "several worlds."
            )


def check_numbers(name: str, value: Any, like: Tensor) -> None:
    """Checks that a task value is a tensor of numbers that the type of `like` holds.

    Raises:
        ShapeError: It is something else.
    """
    if not isinstance(value, Tensor):
        raise ShapeError(
            f"Expected a tensor as the task value {name!r}, got a {type(value).__name__}; "
            "torch.as_tensor makes one."
        )
    cuts = value.is_floating_point() and not like.is_floating_point()
    if value.is_complex() or (cuts and (value % 1 != 0).any()):
        kind = "whole" if cuts else "real"
        raise ShapeError(
            f"Expected {kind} numbers as the task value {name!r}, got "
            f"{value.flatten()[:6].tolist()}."
        )


def read_actions(actions: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns actions as a tensor without a graph.

    Args:
        actions: A tensor, or what `torch.as_tensor` takes.
        dtype: float32, or int64 of indices.
        device: The device of the result.

    Raises:
        ShapeError: They are no numbers, or an index is a fraction.
    """
    try:
        given = torch.as_tensor(actions, device=device).detach()
    except (TypeError, ValueError, RuntimeError) as error:
        if isinstance(actions, Tensor):  # an error of the device
            raise
        raise ShapeError(
            f"Expected actions of numbers, one row for each world, got {short_repr(actions, 60)}."
        ) from error
    if given.is_floating_point() and dtype == torch.int64 and (given % 1 != 0).any():
        raise ShapeError(
            f"Expected indices of actions, whole numbers, got {given.flatten()[:6].tolist()}; "
            "`argmax` or `sample` of a distribution chooses one."
        )
    return given.to(dtype)


def action_error(actions: Tensor, expected: Sequence[int], started: bool) -> Exception:
    """Returns the error for actions of another shape, or before the first reset."""
    if not started:
        return SimulationError("No episode has started; call `reset` before `step`.")
    return ShapeError(f"Expected actions of shape {tuple(expected)}, got {tuple(actions.shape)}.")


def copy_error(env: Any) -> SimulationError:
    """Returns the error for copying or pickling an environment that holds memory of an engine."""
    return SimulationError(
        f"A {type(env).__name__} cannot be copied or pickled: it holds memory of its engine. Build "
        "another one with `make_vec`, and pass it what `state_dict` returns with `load_state_dict`."
    )


def with_task(space: spaces.Box, size: int) -> spaces.Box:
    """Returns the observation space with `size` unbounded task numbers appended."""
    if not size:
        return space
    bound = np.full(size, np.inf, np.float32)
    low, high = np.concatenate([space.low, -bound]), np.concatenate([space.high, bound])
    task = spaces.Box(-bound, bound, dtype=np.float32)
    return FlatBox(low, high, spaces.Tuple((source_of(space), task)))
