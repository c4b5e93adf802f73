"""Warp kernels that flag simulation errors, write initial states and gather the state.

Only `physics` imports this module, since Warp is optional.
"""
# pyright: reportInvalidTypeForm=false

import importlib
from typing import Any

# `Any`: type checkers cannot read kernels, and Warp may not be installed when they run.
wp: Any = importlib.import_module("warp")
mjw: Any = importlib.import_module("mujoco_warp")

MAX_VALUE = 1e10  # mjMAXVAL: the bound on |qpos|, |qvel| and |qacc|
BAD_VALUES = {1 << 24: "BADQPOS", 1 << 25: "BADQVEL", 1 << 26: "BADQACC"}  # MuJoCo's names
_POSITION, _VELOCITY, _ACCELERATION = BAD_VALUES

Overflow = mjw.OverflowType
# A solver that reaches its iteration limit is not an overflow; C MuJoCo does not warn of it either.
MEMORY_OVERFLOWS = int(Overflow.ALL & ~(Overflow.ITERATIONS | Overflow.LS_ITERATIONS))


@wp.kernel(enable_backward=False)
def judge(
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    qacc: wp.array2d(dtype=float),
    overflow: wp.array(dtype=int),
    warned: wp.array(dtype=int),
    seen: wp.array(dtype=int),
) -> None:
    """Flags the errors of each world, as bits.

    `warned` holds the errors of the episode, `seen` those since the last reset of all worlds.
    """
    world = wp.tid()
    bits = overflow[world] & wp.static(MEMORY_OVERFLOWS)
    for i in range(qpos.shape[1]):
        if not (wp.abs(qpos[world, i]) <= wp.static(MAX_VALUE)):  # true for NaN too
            bits = bits | wp.static(_POSITION)
    for i in range(qvel.shape[1]):
        if not (wp.abs(qvel[world, i]) <= wp.static(MAX_VALUE)):
            bits = bits | wp.static(_VELOCITY)
        if not (wp.abs(qacc[world, i]) <= wp.static(MAX_VALUE)):
            bits = bits | wp.static(_ACCELERATION)
    warned[world] = warned[world] | bits
    seen[world] = seen[world] | bits


@wp.kernel(enable_backward=False)
def begin(
    mask: wp.array(dtype=bool),
    fresh: wp.array2d(dtype=float),
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    ctrl: wp.array2d(dtype=float),
    warned: wp.array(dtype=int),
) -> None:
    """Writes the initial states of the worlds in `mask`."""
    world, i = wp.tid()
    if not mask[world]:
        return
    if i == 0:
        warned[world] = 0
    value = fresh[world, i]
    if i < qpos.shape[1]:
        qpos[world, i] = value
    elif i < qpos.shape[1] + qvel.shape[1]:
        qvel[world, i - qpos.shape[1]] = value
    else:
        ctrl[world, i - qpos.shape[1] - qvel.shape[1]] = value


@wp.kernel(enable_backward=False)
def gather(
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    ctrl: wp.array2d(dtype=float),
    warned: wp.array(dtype=int),
    state: wp.array2d(dtype=float),
) -> None:
    """Concatenates positions, velocities and controls; NaN in worlds with errors."""
    world, i = wp.tid()
    value = 0.0
    size = qpos.shape[1] + qvel.shape[1]
    if i < qpos.shape[1]:
        value = qpos[world, i]
    elif i < size:
        value = qvel[world, i - qpos.shape[1]]
    else:
        value = ctrl[world, i - size]
    if i < size and warned[world] != 0:
        value = wp.nan
    state[world, i] = value
