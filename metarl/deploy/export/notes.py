"""What the metadata of an exported adaptation says of the learner besides its tensors."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.adaptation.adaptation import Adaptation
from metarl.adaptation.gradient_learner import GradientLearner
from metarl.rl.joint_policy import ActionPart
from metarl.rl.policies import GaussianPolicy, Policy
from metarl.rl.policy_learner import PolicyLearner
from metarl.rl.trials.proximal_learner import ProximalLearner
from metarl.rl.units import LARGEST_BOUND, Units
from metarl.runs.run_folder import to_json
from metarl.sim.family import TaskFamily
from metarl.sim.spaces import action_leaves, first_choices, source_of


def supervised_notes(learner: GradientLearner) -> dict[str, Any]:
    """Returns what the metadata says of a supervised learner, as JSON values."""
    named = to_json(learner.loss)
    return {
        "adaptation": {**_adaptation(learner.adaptation), "loss": named["function"]},
        "normalises_batches": bool(getattr(learner.model, "normalises_batches", True)),
    }


def control_notes(learner: PolicyLearner) -> dict[str, Any]:
    """Returns what the metadata says of a policy that adapts by gradients."""
    return {
        "adaptation": _adaptation(learner.adaptation),
        "noise": _noise(learner.policy),
        "rollouts": dataclasses.asdict(learner.settings),
        **_environment(learner, learner.policy),
    }


def recurrent_notes(learner: ProximalLearner) -> dict[str, Any]:
    """Returns what the metadata says of a recurrent policy."""
    attention = learner.policy.attention
    return {
        "noise": _noise(learner.policy.head),
        "trial": {
            "episodes": learner.settings.episodes,
            "horizon": learner.family.horizon,
            "longest": None if attention is None else attention.steps,
        },
        **_environment(learner, learner.policy.head),
    }


def _noise(policy: Policy) -> list[str]:
    """Returns what each entry of the noise is drawn from: "normal" or "uniform"."""
    parts: Sequence[ActionPart] | None = getattr(policy, "parts", None)
    if parts is None:
        kind = "normal" if isinstance(policy, GaussianPolicy) else "uniform"
        return [kind] * math.prod(policy.action_shape)
    names = {"gaussian": "normal"}
    return [names.get(part.kind, "uniform") for part in parts for _ in range(part.width)]


def _adaptation(adaptation: Adaptation) -> dict[str, Any]:
    return {
        "rule": type(adaptation.rule).__name__,
        "steps": adaptation.steps,
        "batch_size": adaptation.batch_size,
        "max_grad_norm": adaptation.max_inner_grad_norm,
        "frozen": sorted(adaptation.frozen_names),
        "fresh_start": adaptation.fresh_start,
    }


def _environment(learner: PolicyLearner | ProximalLearner, policy: Policy) -> dict[str, Any]:
    """Returns spaces, units, horizon and rate; the graphs apply the units themselves.

    Args:
        learner: The learner.
        policy: What computes the distribution of its actions.
    """
    family, units = learner.family, learner.policy.units
    return {
        "environment": {
            "name": family.name,
            "horizon": family.horizon,
            "step_seconds": family.step_seconds,
            "observes_task": learner.worlds.observe_task,
        },
        "observation": {
            "size": family.observation_space.shape[0],
            "low": _numbers(family.observation_space.low),
            "high": _numbers(family.observation_space.high),
            "normaliser": _normaliser(units),
        },
        "action": {**_action(family, units), "parts": _parts(policy, family)},
    }


def _parts(policy: Policy, family: TaskFamily) -> list[dict[str, Any]] | None:
    """Returns the parts of an action of several kinds, in the order of its entries."""
    parts: Sequence[ActionPart] | None = getattr(policy, "parts", None)
    if parts is None:
        return None
    leaves = action_leaves(family.action_space)
    firsts = iter([first for leaf in leaves for first in first_choices(leaf.space)])
    return [
        part._asdict() | ({"first": next(firsts)} if part.kind == "categorical" else {})
        for part in parts
    ]


def _normaliser(units: Units | None) -> dict[str, Any] | None:
    """Returns what the graphs do to observations: clip((o - shift) * factor, +-limit)."""
    if units is None or units.observations is None:
        return None
    scale = units.observations
    return {n: _numbers(getattr(scale, n).numpy()) for n in ("shift", "factor", "limit")}


def _action(family: TaskFamily, units: Units | None) -> dict[str, Any]:
    space = family.action_space
    if isinstance(space, spaces.Discrete):
        first = int(getattr(source_of(space), "start", 0))
        return {"kind": "discrete", "choices": int(space.n), "first": first}
    assert isinstance(space, spaces.Box)
    maps = None if units is None else units.actions
    return {
        "kind": "continuous" if not hasattr(space, "source") else "flat",
        "size": space.shape[0],
        "low": _numbers(space.low),
        "high": _numbers(space.high),
        "scale": None if maps is None else _numbers(maps.scale.numpy()),
        "shift": None if maps is None else _numbers(maps.shift.numpy()),
    }


def _numbers(values: np.ndarray) -> list[float | None]:
    """Returns numbers for JSON; None for bounds that are infinite or placeholders."""
    return [float(v) if abs(v) <= LARGEST_BOUND else None for v in values.astype(float).ravel()]
