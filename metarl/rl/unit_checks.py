"""Warnings about units in which a policy can hardly learn, in the first meta-iterations."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from metarl.rl.units import CONSTANT, LARGEST_BOUND, ObservationScale, Units
from metarl.sim.family import ActionSpace
from metarl.sim.spaces import far_beyond

ITERATIONS = 3
"""Meta-iterations that are checked."""
CLIPPED = 0.99
"""Share of actions outside of their bounds from which on there is a warning."""
LARGE_OBSERVATION = 1e4
LARGE_REWARD = 1e6
WHOLE_NUMBERS = 2**24
"""From here on float32 does not have all whole numbers."""
ROUNDING = 1e-9
"""Relative deviation of equal numbers, in float64."""


class UnitMonitor:
    """Says what training logs of a policy's units, and warns once of each unsuitable kind.

    Args:
        space: The action space of the environment.
        observed: Its flat observation space, [O] float32; observations may have more entries.
    """

    def __init__(self, space: ActionSpace, observed: spaces.Box) -> None:
        self._space, self._observed = space, observed
        self._found: set[str] = set()

    def metrics(
        self,
        units: Units | None,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        mask: Tensor,
        iteration: int,
    ) -> dict[str, Tensor]:
        """Returns `Units.metrics`, and checks a batch of the first three meta-iterations.

        Args:
            units: The units of the policy; None: those of the environment.
            observations: Observations in the policy's units, [T, N, H, O].
            actions: Actions in the policy's units, [T, N, H, A] float, or indices.
            rewards: Shape [T, N, H].
            mask: 1 for the steps of episodes, [T, N, H].
            iteration: Meta-iterations done so far.
        """
        if iteration < ITERATIONS:
            own = actions if units is None else units.act(actions)
            self._check_observations(units, observations, mask > 0)
            if units is not None and units.observations is not None:
                self._check_digits(units.observations)
            self._check(own, rewards, mask)
        return {} if units is None else units.metrics(observations, actions, mask)

    def _check_observations(self, units: Units | None, observations: Tensor, alive: Tensor) -> None:
        shown = torch.where(alive.unsqueeze(-1), observations, 0).abs().flatten(0, -2).amax(0)
        space, sizes = self._observed, shown.cpu().numpy()
        sizes = sizes[: space.shape[0]]
        beyond = far_beyond(space, sizes)
        if units is not None and units.observations is not None:
            beyond &= units.observations.unchanged.cpu().numpy()[: len(beyond)]
        if beyond.any():
            entry = int(np.where(beyond, sizes, 0).argmax())
            self._warn(
                "observations",
                f"Observations leave their bounds: entry {entry} is up to {sizes[entry]:.3g} in "
                f"size and declared as {space.low[entry]:.3g} to {space.high[entry]:.3g}. Entries "
                "whose bounds give their scale are not standardised, so that such numbers reach "
                "the policy, which learns from numbers around 1. Declare the bounds that they "
                "have, or infinite ones.",
            )
        size = float(shown.max())
        if size > LARGE_OBSERVATION:
            self._warn(
                "observations",
                f"Observations of up to {size:.3g} reach the policy; it learns from numbers around "
                "1. Standardise them (`normalize_observations` of `policy_for`, "
                "--policy.normalize-observations), or scale them in the environment.",
            )

    def _check_digits(self, scale: ObservationScale) -> None:
        """Warns of observations that differ by less than float32 shows, such as times of a clock.

        Their statistics show it where they hardly differ; those that are equal may be constants,
        unless float32 does not have all whole numbers there.
        """
        found = scale.statistics
        size, deviation = found.mean.abs(), (found.squares / found.count.clamp(min=1)).sqrt()
        differs = (deviation > ROUNDING * size) & (size >= LARGE_OBSERVATION)
        coarse = (deviation <= CONSTANT * size) & (differs | (size >= WHOLE_NUMBERS))
        if coarse.any():
            index = int(torch.where(coarse, size, 0).argmax())
            number = float(found.mean[index])
            self._warn(
                "digits",
                f"Observations hardly differ from a large number: entry "
                f"{int(scale.entries[index])} from {number:.7g}, where the numbers of float32 are "
                f"{np.spacing(np.float32(abs(number))):.2g} apart. What it says beyond that is "
                "lost, or too little for the policy. Subtract the number in the environment, "
                "before it is rounded (gymnasium.wrappers.TransformObservation), or leave the "
                "entry out.",
            )

    def _check(self, actions: Tensor, rewards: Tensor, mask: Tensor) -> None:
        alive = mask > 0
        share = _clipped_share(self._space, actions, alive)
        if share > CLIPPED:
            self._warn(
                "actions",
                f"{100 * share:.1f} % of the actions were outside of {self._space} and clipped to "
                "its bounds: the policy acts in other units than the environment and can hardly "
                "learn. Let it act in -1..1, mapped to these bounds (`scale_actions` of "
                "`policy_for`, --policy.scale-actions), or choose `init_std` in the range of the "
                "actions. If both are so, observations of another scale drive them there.",
            )
        reward = float(torch.where(alive, rewards, 0).abs().sum() / alive.sum())
        if reward > LARGE_REWARD:
            self._warn(
                "rewards",
                f"Rewards have an average size of {reward:.3g}: sums of them lose digits in "
                "float32, and step sizes tuned for rewards around 1 do not suit them unless "
                "`normalize_advantages` is on. Divide them in the environment, such as with "
                "gymnasium.wrappers.TransformReward.",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._found:
            self._found.add(kind)
            warnings.warn(message, stacklevel=2)


def _clipped_share(space: ActionSpace, actions: Tensor, alive: Tensor) -> float:
    """Returns the share of entries with finite bounds that are outside of them."""
    if not isinstance(space, spaces.Box):
        return 0.0
    low, high = (torch.from_numpy(b).to(actions.device) for b in (space.low, space.high))
    known = (low.abs() < LARGEST_BOUND) & (high.abs() < LARGEST_BOUND)
    if not known.any():
        return 0.0
    outside = ((actions < low) | (actions > high))[alive][:, known]
    return float(outside.float().mean())
