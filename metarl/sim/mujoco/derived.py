"""Fields that MuJoCo computes from the positions of a model: poses of bodies, sites and geoms."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from metarl.errors import SettingsError
from metarl.registry import check_choice, did_you_mean
from metarl.sim.family import WorldState

Derived = Mapping[str, tuple[str, tuple[str, ...]]]
"""Entry of a state -> the field of MuJoCo's data, and the names of its K bodies, sites or geoms."""

Elements = dict[str, tuple[str, np.ndarray]]
"""Entry of a state -> the field, and the indices of its elements, [K] int64."""

OWNERS = {
    "xpos": "body", "xquat": "body", "xmat": "body", "xipos": "body",
    "site_xpos": "site", "site_xmat": "site", "geom_xpos": "geom", "geom_xmat": "geom",
}  # fmt: skip
"""Field -> the kind of element that it has a row for."""


def derived_elements(model: Any, derived: Derived) -> Elements:
    """Returns the fields and indices of the derived entries of a family.

    Args:
        model: A compiled `mujoco.MjModel`.
        derived: See `MujocoFamily.derived`.

    Raises:
        SettingsError: There is no such field, or the model has no such body, site or geom.
    """
    elements: Elements = {}
    for entry, (field, names) in derived.items():
        check_choice(f"field of the derived entry {entry!r}", field, tuple(OWNERS))
        if not names:
            raise SettingsError(f"Expected names of a {OWNERS[field]} for {entry!r}, got none.")
        rows = [_row(model, OWNERS[field], name) for name in names]
        elements[entry] = field, np.array(rows, np.int64)
    return elements


def mocap_poses(model: Any, worlds: int, device: torch.device) -> WorldState:
    """Returns the initial poses of the M mocap bodies: positions [W, M, 3], quaternions [W, M, 4].

    The dict is empty for a model without mocap bodies.
    """
    if not model.nmocap:
        return {}
    return {n: v.repeat(worlds, 1, 1) for n, v in _model_poses(model, device).items()}


@lru_cache(maxsize=64)  # copying them at every reset would synchronise with a GPU
def _model_poses(model: Any, device: torch.device) -> WorldState:
    bodies = np.argsort(np.where(model.body_mocapid < 0, model.nbody, model.body_mocapid))
    bodies = bodies[: model.nmocap]
    poses = {"mocap_pos": model.body_pos[bodies], "mocap_quat": model.body_quat[bodies]}
    return {n: torch.tensor(v).to(device) for n, v in poses.items()}


def derived_values(model: Any, elements: Elements, state: WorldState) -> WorldState:
    """Computes derived entries of W worlds one after another, for checks; engines do it in batches.

    Args:
        model: A compiled `mujoco.MjModel`.
        elements: What `derived_elements` returned.
        state: Positions "qpos", and the poses of mocap bodies if the model has any.

    Returns:
        The derived entries, [W, K, *] float64 on the device of the state.
    """
    if not elements:
        return {}
    import mujoco

    mj: Any = mujoco
    data = mj.MjData(model)
    inputs = {n: state[n].detach().cpu().double().numpy() for n in _INPUTS if n in state}
    rows: dict[str, list[np.ndarray]] = {entry: [] for entry in elements}
    for world in range(len(state["qpos"])):
        for name, values in inputs.items():
            getattr(data, name)[:] = values[world]
        mj.mj_kinematics(model, data)
        for entry, (field, index) in elements.items():
            rows[entry].append(getattr(data, field)[index])  # a copy
    device = state["qpos"].device
    return {n: torch.from_numpy(np.stack(v)).to(device) for n, v in rows.items()}


_INPUTS = ("qpos", "mocap_pos", "mocap_quat")


def _row(model: Any, kind: str, name: str) -> int:
    counts = {"body": model.nbody, "site": model.nsite, "geom": model.ngeom}
    names = [getattr(model, kind)(row).name for row in range(counts[kind])]
    if name not in names:
        raise SettingsError(f"The model has no {kind} {name!r}.{did_you_mean(name, names)}")
    return names.index(name)
