"""The maps between the numbers that a policy computes with and those of its environment."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from metarl.devices import seeded_generator
from metarl.rl.moments import Moments, merged, moments_of
from metarl.sim.spaces import PLACEHOLDER, action_leaves, is_image, observation_leaves, only_images

CALIBRATION = 0xCA11B  # added to the seed of what starts running statistics
CLIP = 10.0
"""Normalised observations are clipped to +- this."""
LARGEST_BOUND = PLACEHOLDER
GIVES_SCALE = (0.5, 2.0)
"""Bounds whose absolute maximum lies in here give the scale: such observations are unchanged."""
WIDTH = 0.5
"""Bounds that are closer than this share of their absolute maximum give none, as 0.95 and 1.05."""
BYTE = 1 / 255
"""Factor on the bytes of images."""
CONSTANT = 1e-6
"""A deviation below this share of the mean is rounding: such an observation is only shifted."""


class RunningScale(nn.Module):
    """Running mean and standard deviation of K quantities, in float64.

    `update` merges the moments of a batch (Welford 1962; Chan et al. 1979). Between updates the
    scale is frozen: the same values give the same results.

    Args:
        size: The number of quantities, K.

    Attributes:
        count: The number of values so far, [] float64.
        mean: Their means, [K] float64.
        squares: Their sums of squared deviations from the mean, [K] float64.
    """

    count: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(size, dtype=torch.float64))

    @property
    def started(self) -> bool:
        """Whether there have been any values."""
        return bool(self.count > 0)

    def update(self, moments: Moments) -> None:
        """Merges the moments of further values; their leading dimensions are merged too."""
        new = merged(moments) if moments.count.dim() else moments
        both = zip((self.count, self.mean, self.squares), new, strict=True)
        total = merged(Moments(*(torch.stack(pair) for pair in both)))
        self.count.copy_(total.count)
        self.mean.copy_(total.mean)
        self.squares.copy_(total.squares)

    def deviation(self) -> Tensor:
        """Returns the standard deviations, [K] float64; 1 where the values hardly differ."""
        deviation = (self.squares / self.count.clamp(min=1)).sqrt()
        return torch.where(deviation > CONSTANT * self.mean.abs(), deviation, 1.0)


class ObservationScale(nn.Module):
    """Maps the observations of an environment to the units of a policy.

    Each entry o becomes (o - shift) * factor. Entries with running statistics are standardised by
    their mean and deviation and clipped to +-10; bytes of images are divided by 255; the rest is
    unchanged. `update` changes the statistics, and nothing else does.

    Args:
        space: The flat observation space, [O] float32.
        normalize: Whether entries whose bounds do not give their scale are standardised.

    Attributes:
        entries: Indices of the standardised entries, [K] int64.
        statistics: Their running statistics.
        divides_bytes: Whether all entries are bytes of images.
    """

    entries: Tensor
    shift: Tensor
    factor: Tensor
    limit: Tensor
    least: Tensor

    def __init__(self, space: spaces.Box, normalize: bool) -> None:
        super().__init__()
        size = space.shape[0]
        factor = torch.ones(size)
        learned = torch.zeros(size, dtype=torch.bool)
        for leaf in observation_leaves(space):
            where = slice(leaf.start, leaf.stop)
            if is_image(leaf.space):
                factor[where] = BYTE
            elif normalize and isinstance(leaf.space, spaces.Box):
                learned[where] = torch.from_numpy(~_bounds_give_scale(space, where))
        self.divides_bytes = only_images(space)
        entries = learned.nonzero()[:, 0]
        self.register_buffer("entries", entries)
        self.register_buffer("shift", torch.zeros(size))
        self.register_buffer("factor", factor)
        largest = torch.finfo(torch.float32).max
        limit = torch.where(learned, CLIP, largest)
        self.register_buffer("limit", limit)
        self.register_buffer("least", -limit, persistent=False)  # an operation less per step
        self.statistics = RunningScale(len(entries))

    def _load_from_state_dict(self, values: dict[str, Any], prefix: str, *args: Any) -> None:
        """Takes over which entries are standardised: earlier versions chose others."""
        entries = values.get(f"{prefix}entries")
        if entries is not None and entries.shape != self.entries.shape:
            self.entries = entries.to(self.entries.device)
            self.statistics = RunningScale(len(entries)).to(self.entries.device)
        super()._load_from_state_dict(values, prefix, *args)
        self.least = -self.limit

    @property
    def unchanged(self) -> Tensor:
        """Which entries are those of the environment, [O] bool."""
        same = self.factor == 1
        return same.index_fill(0, self.entries, False)

    @property
    def learns(self) -> bool:
        """Whether any entry has running statistics."""
        return len(self.entries) > 0

    @property
    def trivial(self) -> bool:
        """Whether the map changes nothing."""
        return bool(self.unchanged.all())

    def forward(self, observations: Tensor) -> Tensor:
        """Maps observations [*, O] float32 to the policy's units; elementwise."""
        scaled = (observations - self.shift) * self.factor
        return scaled.clamp(self.least, self.limit)

    def moments(self, observations: Tensor, mask: Tensor) -> Moments:
        """Returns the moments [T] of observations [T, N, H, O] in the environment's units."""
        return moments_of(observations[..., self.entries], mask)

    def update(self, moments: Moments) -> None:
        """Merges moments into the statistics; the next `forward` uses the new ones."""
        self.statistics.update(moments)
        self.shift[self.entries] = self.statistics.mean.float()
        self.factor[self.entries] = (1 / self.statistics.deviation()).float()


class ActionScale(nn.Module):
    """Maps the actions of a policy, -1..1, to the bounds of an environment: a * scale + shift.

    An entry with an infinite bound, and discrete entries, keep their units.

    Args:
        space: The flat action space, [A] float32.

    Attributes:
        scale: Half the width of the bounds; 1 for entries that keep their units or have a single
            value. [A] float32.
        shift: Their middle, or 0. [A] float32.
        bounded: Which entries are mapped, [A] bool.
    """

    scale: Tensor
    shift: Tensor
    bounded: Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        scale, shift = np.ones(space.shape[0]), np.zeros(space.shape[0])
        bounded = np.zeros(space.shape[0], bool)
        for leaf in action_leaves(space):
            if isinstance(leaf.space, spaces.Box):
                where = slice(leaf.start, leaf.stop)
                low, high = space.low[where].astype(float), space.high[where].astype(float)
                known = ~_unbounded(low, high)
                bounded[where] = known
                low, high = np.where(known, low, -1.0), np.where(known, high, 1.0)
                half = (high - low) / 2
                # An entry with one value is only shifted, so that the map has an inverse.
                scale[where], shift[where] = np.where(half > 0, half, 1.0), (high + low) / 2
        self.register_buffer("scale", torch.from_numpy(scale).float())
        self.register_buffer("shift", torch.from_numpy(shift).float())
        self.register_buffer("bounded", torch.from_numpy(bounded))

    @property
    def trivial(self) -> bool:
        """Whether the map changes nothing."""
        return bool(((self.scale == 1) & (self.shift == 0)).all())

    def forward(self, actions: Tensor) -> Tensor:
        """Maps actions [*, A] float32 of the policy to the environment's."""
        return torch.addcmul(self.shift, actions, self.scale)


class Units(nn.Module):
    """The maps that a policy keeps with it: they are in its checkpoints and its exports.

    Attributes:
        observations: The map of observations; None: unchanged.
        actions: The map of actions; None: unchanged.
        rewards: Running statistics of the rewards, for policies that observe them; None: unchanged.
    """

    observations: ObservationScale | None
    actions: ActionScale | None
    rewards: RunningScale | None

    def __init__(
        self,
        observations: ObservationScale | None = None,
        actions: ActionScale | None = None,
        rewards: RunningScale | None = None,
    ) -> None:
        super().__init__()
        self.observations = observations
        self.actions = actions
        self.rewards = rewards

    @property
    def divides_bytes(self) -> bool:
        """Whether observations are images and nothing else, which the units divide by 255."""
        return self.observations is not None and self.observations.divides_bytes

    @property
    def learns(self) -> bool:
        """Whether there are running statistics."""
        observations = self.observations
        return self.rewards is not None or (observations is not None and observations.learns)

    @property
    def started(self) -> bool:
        """Whether the running statistics have any values; True if there are none."""
        if self.observations is not None and self.observations.learns:
            return self.observations.statistics.started
        return self.rewards is None or self.rewards.started

    def observe(self, observations: Tensor) -> Tensor:
        """Maps observations [*, O] of the environment to the policy's units."""
        return observations if self.observations is None else self.observations(observations)

    def act(self, actions: Tensor) -> Tensor:
        """Maps actions [*, A] of the policy to the environment's units."""
        return actions if self.actions is None else self.actions(actions)

    def reward(self, rewards: Tensor) -> Tensor:
        """Divides rewards [*] by their root mean square and clips them to +-10."""
        if self.rewards is None:
            return rewards
        return (rewards / self._reward_size()).clamp(-CLIP, CLIP)

    def _reward_size(self) -> Tensor:
        """Returns the root mean square of the rewards, [1] float32; 1 if all are 0."""
        assert self.rewards is not None
        # E[r^2] = m^2 + S / n; a shift would change what a policy may infer from a reward of 0
        count = self.rewards.count.clamp(min=1)
        power = self.rewards.mean.square() + self.rewards.squares / count
        return torch.where(power > 0, power, 1.0).sqrt().float()

    def moments(self, observations: Tensor, rewards: Tensor, mask: Tensor) -> dict[str, Moments]:
        """Returns what `update` merges: moments [T] of all values in the environment's units.

        Args:
            observations: Shape [T, N, H, O].
            rewards: Shape [T, N, H].
            mask: 1 for the steps of episodes, [T, N, H].
        """
        found: dict[str, Moments] = {}
        if self.observations is not None and self.observations.learns:
            found["observations"] = self.observations.moments(observations, mask)
        if self.rewards is not None:
            found["rewards"] = moments_of(rewards.unsqueeze(-1), mask)
        return found

    def metrics(self, observations: Tensor, actions: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Returns what training logs: tag -> value of each task, [T].

        They are the mean and deviation of the running statistics, averaged over the entries, and
        the shares of observations at the clip and of actions outside of their bounds.

        Args:
            observations: In the policy's units, [T, N, H, O].
            actions: In the policy's units, [T, N, H, A].
            mask: 1 for the steps of episodes, [T, N, H].
        """
        weights = mask / mask.sum((1, 2), keepdim=True)
        found: dict[str, Tensor] = {}
        if self.observations is not None and self.observations.learns:
            scale = self.observations
            mean, deviation = scale.statistics.mean, scale.statistics.deviation()
            found["units/observation_mean"] = mean.mean().float().expand(len(mask))
            found["units/observation_deviation"] = deviation.mean().float().expand(len(mask))
            clipped = (observations[..., scale.entries].abs() >= CLIP).float().mean(-1)
            found["units/observations_clipped"] = (clipped * weights).sum((1, 2))
        if self.actions is not None:
            outside = (actions.abs() > 1)[..., self.actions.bounded].float().mean(-1)
            found["units/actions_clipped"] = (outside * weights).sum((1, 2))
        if self.rewards is not None:
            found["units/reward_size"] = self._reward_size().expand(len(mask))
        return found

    def raw_observations(self, observations: Tensor) -> Tensor:
        """Maps observations [*, O] in the policy's units, if not clipped, to the environment's."""
        scale = self.observations
        return observations if scale is None else observations / scale.factor + scale.shift

    def update(self, moments: dict[str, Moments]) -> None:
        """Merges moments into the running statistics."""
        if self.observations is not None and "observations" in moments:
            self.observations.update(moments["observations"])
        if self.rewards is not None and "rewards" in moments:
            self.rewards.update(moments["rewards"])


def bytes_to_units(observations: Tensor) -> Tensor:
    """Returns bytes of images divided by 255, float32, as `ObservationScale` does; others as is."""
    return observations.float() * BYTE if observations.dtype == torch.uint8 else observations


def units_for(
    observation_space: spaces.Box,
    action_space: spaces.Space[Any],
    *,
    scale_actions: bool,
    normalize_observations: bool,
    scale_rewards: bool = False,
) -> Units | None:
    """Returns the maps of a policy, or None if they would change nothing.

    Args:
        observation_space: The flat observation space, [O] float32.
        action_space: The action space: a Box [A] float32, or Discrete.
        scale_actions: Whether the policy acts in -1..1 and a map brings that to finite bounds.
        normalize_observations: Whether observations whose bounds do not give their scale are
            standardised by running statistics.
        scale_rewards: Whether observed rewards are scaled by running statistics.
    """
    actions = None
    if scale_actions and isinstance(action_space, spaces.Box):
        actions = ActionScale(action_space)
        actions = None if actions.trivial else actions
    scale = ObservationScale(observation_space, normalize_observations)
    observations = None if scale.trivial else scale
    rewards = RunningScale(1) if scale_rewards else None
    if actions is observations is rewards is None:
        return None
    return Units(observations, actions, rewards)


def starting_generator(generator: torch.Generator) -> torch.Generator:
    """Returns another generator, for the rollouts that start running statistics.

    A learner whose statistics have started draws the same from the first one.
    """
    return seeded_generator(generator.device, generator.initial_seed() ^ CALIBRATION)


def warn_of_unbounded(space: spaces.Space[Any]) -> None:
    """Warns if continuous actions have no finite bounds, as they keep their units."""
    if not isinstance(space, spaces.Box):
        return
    free = np.flatnonzero(_unbounded(space.low, space.high)).tolist()
    if free:
        which = ", ".join(map(str, free[:6])) + (", ..." if len(free) > 6 else "")
        warnings.warn(
            f"The actions have no finite bounds in the entries {which}: the policy acts in the "
            "environment's units there, and `init_std` is in them. Declare bounds in the "
            "environment's action space, or pass scale_actions=False if these units are meant.",
            stacklevel=3,
        )


def _unbounded(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return ~((np.abs(low) <= LARGEST_BOUND) & (np.abs(high) <= LARGEST_BOUND))


def _bounds_give_scale(space: spaces.Box, where: slice) -> np.ndarray:
    """Returns which entries have bounds of about one unit, [*] bool."""
    low, high = space.low[where].astype(float), space.high[where].astype(float)
    most = np.maximum(np.abs(low), np.abs(high))
    known = (most >= GIVES_SCALE[0]) & (most <= GIVES_SCALE[1])
    return known & (high - low >= WIDTH * most)
