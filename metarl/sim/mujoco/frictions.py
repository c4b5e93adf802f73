"""Factors on friction that change nothing, as another geom in contact decides."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np

from metarl.errors import SettingsError
from metarl.sim.mujoco.changes import Friction
from metarl.sim.mujoco.physics import mj

COMPONENTS = {1: 0, 3: 1, 4: 2, 6: 3}
"""Dimensions of a contact -> how many of the numbers of a geom's friction it has."""

FILTER_OFF = int(mj.mjtDisableBit.mjDSBL_FILTERPARENT)
"""Flag of models in which a body touches its parent."""


def check_frictions(name: str, model: Any, parameters: Mapping[str, Any]) -> None:
    """Checks that factors on the friction of geoms change that of a contact.

    Of two geoms in contact, the friction of the one with the higher priority counts, or the larger
    number of both. Models with flexible bodies are not checked.

    Args:
        name: The name of the family.
        model: The compiled model.
        parameters: The parameters of the family.

    Raises:
        SettingsError: A factor never changes the friction of a contact.
    """
    factors = {n: p for n, p in parameters.items() if isinstance(p, Friction)}
    if not factors or model.nflex:
        return
    low, high = _frictions(model, factors.values())
    for parameter, factor in factors.items():
        own = factor.parts(model)
        others = {o for s in own for o in range(model.ngeom) if _may_touch(model, s, o)}
        pairs = product(own, sorted(others))
        if any(_counts(model, s, o, low, high) for s, o in pairs if _may_touch(model, s, o)):
            continue
        touched = ", ".join(model.geom(o).name or f"number {o}" for o in sorted(others))
        raise SettingsError(
            f"The parameter {parameter!r} of {name}, a factor on the friction of "
            f"{factor.names!r}, changes nothing: "
            + (
                f"of two geoms in contact, MuJoCo takes that of the higher priority, or the larger "
                f"friction, and these touch {touched}, whose friction counts for any factor of "
                f"{factor.values} (contacts of condim 1 have none). Scale the friction of both, as "
                f'Friction("{factor.names} {touched}", ...), or lower that of the others in the '
                "model."
                if others
                else "these geoms touch no other, or only in a <pair>, which has its own friction."
            )
        )


def _frictions(model: Any, factors: Any) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest friction of each geom in any task, [geoms, 3]."""
    low, high = model.geom_friction.copy(), model.geom_friction.copy()
    for factor in factors:
        splits = [factor.values.of(part) for part in ("train", "test")]
        parts = factor.parts(model)
        low[parts] *= min(getattr(values, "low", 0.0) for values in splits)
        high[parts] *= max(getattr(values, "high", np.inf) for values in splits)
    return low, high


def _may_touch(model: Any, first: int, second: int) -> bool:
    """Whether MuJoCo looks for contacts of two geoms, by their masks, bodies and pairs."""
    masks = model.geom_contype, model.geom_conaffinity
    if not any(a[first] & b[second] for a, b in (masks, masks[::-1])):
        return False
    pairs = np.stack((model.pair_geom1, model.pair_geom2), 1)
    if (np.sort(pairs, 1) == sorted((first, second))).all(1).any():
        return False
    bodies = sorted(int(model.geom_bodyid[g]) for g in (first, second))
    if (bodies[0] << 16) + bodies[1] in model.exclude_signature:
        return False
    welds = [int(model.body_weldid[body]) for body in bodies]
    if welds[0] == welds[1] or 0 in welds or model.opt.disableflags & FILTER_OFF:
        return welds[0] != welds[1]
    parents = [int(model.body_weldid[model.body_parentid[body]]) for body in welds]
    return welds[0] != parents[1] and welds[1] != parents[0]


def _counts(model: Any, own: int, other: int, low: np.ndarray, high: np.ndarray) -> bool:
    """Whether a factor on one geom may change the friction of its contact with another."""
    ranks = [int(model.geom_priority[g]) for g in (own, other)]
    sizes = [int(model.geom_condim[g]) for g in (own, other)]
    if ranks[0] < ranks[1]:
        return False
    size = max(sizes) if ranks[0] == ranks[1] else sizes[0]
    used = slice(0, COMPONENTS[size])
    least = low[other, used] if ranks[0] == ranks[1] else 0.0
    return bool((high[own, used] > least).any())
