"""Checks of adaptations that a policy learner takes."""

from __future__ import annotations

from metarl.adaptation.adaptation import Adaptation
from metarl.errors import SettingsError
from metarl.rl.policy import Policy


def checked_policy(adaptation: Adaptation) -> Policy:
    """Returns the policy of an adaptation for control tasks.

    Raises:
        SettingsError: The adaptation is for supervised tasks only: it has batches of examples or
            truncated unrolls, or its network is not a policy.
    """
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
