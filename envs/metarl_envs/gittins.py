"""The Gittins index of Bernoulli arms over a finite horizon (Gittins 1979; Lattimore 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metarl.errors import SettingsError
from metarl.rl.trials.strategies import StrategyAlgorithm
from metarl.sim import TaskFamily
from metarl_envs.bandit_strategies import ArmStrategy, arms_of

LEVELS = 500
"""Charges per pull that are tried: the index is a multiple of 1 / LEVELS."""
AT_ONCE = 25
"""Charges that are tried at once."""


def finite_indices(horizon: int) -> list[Tensor]:
    """Computes the index of an arm for every pull of an episode.

    The prior of the arm is U(0, 1). With m pulls left, the index is the largest charge per pull at
    which one more pull of the arm, and as many after it as pay, are worth it (Lattimore 2016,
    arXiv:1511.06014, section 2).

    Args:
        horizon: Pulls of an episode H, at least 1.

    Returns:
        For each pull t, 0 to H - 1, the indices [t + 1, t + 1] float32 of an arm that was pulled n
        times (first dimension) and rewarded s times (second), for s <= n <= t.
    """
    counts = [torch.zeros(t + 1, t + 1, dtype=torch.int16) for t in range(horizon)]
    n = torch.arange(horizon).view(-1, 1)
    s = torch.arange(horizon).view(1, -1)
    mean = torch.where(s <= n, (s + 1.0) / (n + 2.0), 0.0)  # of Beta(1 + s, 1 + n - s)
    charges = ((torch.arange(LEVELS) + 0.5) / LEVELS).view(-1, 1, 1)
    for charge in charges.split(AT_ONCE):
        later = torch.zeros(len(charge), horizon + 1, horizon + 1)
        for left in range(1, horizon + 1):
            t = horizon - left
            p, won, lost = mean[: t + 1, : t + 1], later[:, 1:, 1:], later[:, 1:, :-1]
            # V_m(n, s) = max(0, p - c + p V_{m-1}(n+1, s+1) + (1-p) V_{m-1}(n+1, s))
            gain = p - charge + p * won + (1 - p) * lost
            counts[t] += (gain > 0).sum(0)
            later = gain.clamp(min=0)
    return [count.float() / LEVELS for count in counts]


class Gittins(ArmStrategy):
    """Pulls the arm with the highest Gittins index for the pulls that are left.

    Args:
        arms: Number of arms k.
        horizon: Pulls of a trial.
    """

    def __init__(self, arms: int, horizon: int) -> None:
        super().__init__(arms)
        self.indices = finite_indices(horizon)

    def scores(self, pulls: Tensor, paid: Tensor, noise: Tensor) -> Tensor:
        """Looks the indices up.

        Raises:
            SettingsError: The trial is longer than an episode.
        """
        t = int(pulls[0].sum())  # the same in all worlds: bandits do not end early
        if t >= len(self.indices):
            raise SettingsError(
                f"Gittins' indices are computed for a trial of one episode of {len(self.indices)} "
                "pulls, got more. Evaluate it with `--test-steps 0`."
            )
        table = self.indices[t].to(pulls.device)
        return table[pulls.long(), paid.long()]


@dataclass(frozen=True)
class GittinsAlgorithm(StrategyAlgorithm):
    """Gittins' index for a finite horizon with a uniform prior; up to a minute for 500 pulls."""

    def agent(self, family: TaskFamily) -> Gittins:
        return Gittins(arms_of(family), family.horizon)
