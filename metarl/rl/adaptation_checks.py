"""Checks of adaptations that a policy learner takes."""

from __future__ import annotations

import warnings

import torch
from gymnasium import spaces

from metarl.adaptation.adaptation import Adaptation, check_adaptation
from metarl.errors import SettingsError
from metarl.models import MLP
from metarl.rl.policy import Policy
from metarl.rl.settings import PolicyGradientSettings, changed
from metarl.sim.family import TaskFamily, check_is_family


def checked_policy(adaptation: Adaptation) -> Policy:
    """Returns the policy of an adaptation for control tasks.

    Raises:
        SettingsError: The adaptation is for supervised tasks only: it has batches of examples or
            truncated unrolls, or its network is not a policy.
    """
    check_adaptation(adaptation)
    policy = adaptation.network
    if not isinstance(policy, Policy):
        raise SettingsError(
            f"Expected an algorithm around a Policy, got one around a "
            f"{type(adaptation.network).__name__}; see `metarl.rl.policy_for`."
        )
    for name in ("loss", "outer_loss", "metric"):
        if getattr(adaptation, name) is not None:
            raise SettingsError(
                f"`{name}` belongs to supervised tasks; the losses of a policy are those of "
                "its `settings`, and its metric is the return."
            )
    if adaptation.batch_size is not None:
        raise SettingsError(
            "A policy adapts on all rollouts of a step: set the learner's `batch_size` to None."
        )
    if adaptation.unroll not in (None, adaptation.steps):
        raise SettingsError(
            f"Policies unroll the whole adaptation: expected `unroll` = {adaptation.steps}, "
            f"the steps, got {adaptation.unroll}."
        )
    return policy


def check_fits(policy: Policy, family: TaskFamily, observe_task: bool) -> None:
    """Checks that a policy acts in the worlds of a family.

    Raises:
        SettingsError: It is no family, or its observations or actions have other sizes.
    """
    check_is_family(family)
    space = family.action_space
    choices = int(space.n) if isinstance(space, spaces.Discrete) else None
    size = family.observation_space.shape[0]
    if observe_task:
        size += family.task_vector(family.sample(1, torch.Generator()).values).shape[1]
    expected = size, tuple(space.shape or ()), choices
    network = getattr(policy, "network", None)
    reads = network.sizes[0] if isinstance(network, MLP) else size
    found = reads, policy.action_shape, getattr(policy, "num_actions", choices)
    if found != expected:
        raise SettingsError(
            f"Expected a policy for {family.name}, with {_sizes(*expected)}, got a "
            f"{type(policy).__name__} with {_sizes(*found)}; `policy_for(family, generator)` "
            "builds one that fits."
        )


def warn_of_unused(settings: PolicyGradientSettings) -> None:
    """Warns of a setting of a surrogate that is not the one in use."""
    if settings.surrogate != "dice" and (unused := changed(settings, ["dice_lambda"])):
        warnings.warn(
            f"{unused[0]} has no effect with the surrogate {settings.surrogate}: it belongs to "
            "`dice`.",
            stacklevel=3,
        )


def check_samples(family: TaskFamily, settings: PolicyGradientSettings) -> None:
    """Raises SettingsError if a batch of rollouts is one step, of which the advantage is 0."""
    if settings.trajectories * family.horizon < 2:
        raise SettingsError(
            "A policy learns from differences between steps, and one rollout of one step has "
            f"none: expected more than {settings.trajectories} `trajectories`."
        )


def _sizes(observation: int, action: tuple[int, ...], choices: int | None) -> str:
    kind = f"{choices} choices" if action == () else f"actions of shape {action}"
    return f"observations of {observation} numbers and {kind}"
