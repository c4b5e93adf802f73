"""Weights of policies from checkpoints that earlier versions of MetaRL made."""

from __future__ import annotations

from typing import Any


def adapt_old_weights(learner: Any, weights: dict[str, Any], *_: Any) -> None:
    """Renames the weights of MetaRL 0.1, and drops the units of a policy that had none.

    It is a pre-hook of `load_state_dict`.

    Args:
        learner: The learner of a policy that loads them.
        weights: The weights by name, changed in place.
    """
    for name in [n for n in weights if n.startswith("adaptation.")]:
        new = name.removeprefix("adaptation.").replace("model.", "policy.", 1)
        weights[new] = weights.pop(name)
    units = learner.policy.units
    if units is not None and not any(n.startswith("policy.units.") for n in weights):
        learner.policy.units = None  # it was trained in the environment's units
    elif units is not None and "policy.units.observations.entries" not in weights:
        units.observations = None
