"""Warp kernels: what went wrong in worlds, their first states, and all of a state side by side.

Only `physics` imports this module, once the extra is there.
"""
# pyright: reportInvalidTypeForm=false

import importlib
from typing import Any

# Type checkers cannot read kernels, and Warp need not be there when they run.
wp: Any = importlib.import_module("warp")
mjw: Any = importlib.import_module("mujoco_warp")

MOST = 1e10  # |positions|, |velocities| and |accelerations| above are bad: mjMAXVAL
BAD = {1 << 24: "BADQPOS", 1 << 25: "BADQVEL", 1 << 26: "BADQACC"}  # MuJoCo's own words
_POSITION, _VELOCITY, _ACCELERATION = BAD

Overflow = mjw.OverflowType
# A solver that stops at its limit of iterations is not out of room, and C MuJoCo says nothing.
KEPT = int(Overflow.ALL & ~(Overflow.ITERATIONS | Overflow.LS_ITERATIONS))


@wp.kernel(enable_backward=False)
def judge(
    qpos: wp.array2d(dtype=float),
    qvel: wp.array2d(dtype=float),
    qacc: wp.array2d(dtype=float),
    overflow: wp.array(dtype=int),
    warned: wp.array(dtype=int),
    seen: wp.array(dtype=int),
) -> None:
    """Notes what is wrong in each world, in its episode and since the last reset of all."""
    world = wp.tid()
    bits = overflow[world] & wp.static(KEPT)
    for i in range(qpos.shape[1]):
        if not (wp.abs(qpos[world, i]) <= wp.static(MOST)):  # nan is not less than anything
            bits = bits | wp.static(_POSITION)
    for i in range(qvel.shape[1]):
        if not (wp.abs(qvel[world, i]) <= wp.static(MOST)):
            bits = bits | wp.static(_VELOCITY)
        if not (wp.abs(qacc[world, i]) <= wp.static(MOST)):
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
    """Writes the first states of the worlds that start."""
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
    """Puts positions, velocities and controls side by side; nan where something is wrong."""
    world, i = wp.tid()
    value = 0.0
    moves = qpos.shape[1] + qvel.shape[1]
    if i < qpos.shape[1]:
        value = qpos[world, i]
    elif i < moves:
        value = qvel[world, i - qpos.shape[1]]
    else:
        value = ctrl[world, i - moves]
    if i < moves and warned[world] != 0:
        value = wp.nan
    state[world, i] = value
