"""Settings of policy gradients: how many rollouts, and what loss is made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from metarl.errors import SettingsError
from metarl.registry import check_choice

SurrogateName = Literal["ratio", "dice", "logprob"]


@dataclass(frozen=True)
class PolicyGradientSettings:
    """How a policy's experience becomes a loss, in the inner and in the outer loop."""

    trajectories: int = 20
    """Rollouts per task before every adaptation step and after the last one."""
    discount: float = 0.99
    """Discount of the rewards (gamma), in (0, 1]."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation, in [0, 1]."""
    normalize_advantages: bool = True
    """Scales the advantages of each task to mean 0 and deviation 1 in every batch."""
    bootstrap: bool = False
    """Values the state in which the horizon cuts an episode off; False: the horizon is the end."""
    surrogate: SurrogateName = "ratio"
    """Inner loss: ratio (ProMP's), dice (exact, noisy) or logprob (older papers'; biased)."""
    dice_lambda: float = 1.0
    """Lambda of Loaded DiCE, in [0, 1]: 1 is exact, less trades bias for variance."""
    clip: float | None = None
    """Clips the outer ratio to 1 +- this (PPO). None: no clipping."""
    inner_kl: float = 0.0
    """Weight of ProMP's penalty on how far the policies before the last step may move."""
    exploration: bool = False
    """Adds E-MAML's credit to the first rollouts; unbiased only with the surrogate logprob and
    advantages that are not normalised."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        if self.trajectories < 1:
            raise SettingsError(f"Expected at least 1 trajectory, got {self.trajectories}.")
        if not 0 < self.discount <= 1:
            raise SettingsError(f"Expected a discount in (0, 1], got {self.discount}.")
        for name in ("gae_lambda", "dice_lambda"):
            if not 0 <= getattr(self, name) <= 1:
                raise SettingsError(f"Expected `{name}` in [0, 1], got {getattr(self, name)}.")
        if self.clip is not None and not 0 < self.clip < 1:
            raise SettingsError(f"Expected `clip` in (0, 1), got {self.clip}.")
        if not self.inner_kl >= 0:
            raise SettingsError(f"Expected `inner_kl` of at least 0, got {self.inner_kl}.")
        check_choice("surrogate", self.surrogate, get_args(SurrogateName))


@dataclass(frozen=True)
class RL2Settings:
    """RL^2 (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763)."""

    episodes: int = 1
    """Episodes of a training trial, at least 1; an evaluation of K steps plays K + 1."""
    units: int = 64
    """Width of the recurrent state."""
    embedding: int = 0
    """Width of a layer of rectified units before it; 0 leaves that out, as the paper does."""
    value_weight: float = 0.5
    """Weight of the value function's error in the loss, above 0."""
    entropy_weight: float = 0.0
    """Weight of the policy's entropy in the loss, at least 0."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting is out of its range.
        """
        if min(self.episodes, self.units) < 1 or self.embedding < 0:
            raise SettingsError(
                "Expected at least 1 episode, 1 unit and an embedding of at least 0, got "
                f"episodes={self.episodes}, units={self.units} and embedding={self.embedding}."
            )
        if not self.value_weight > 0 or not self.entropy_weight >= 0:
            raise SettingsError(
                "Expected a `value_weight` above 0 and an `entropy_weight` of at least 0, got "
                f"{self.value_weight} and {self.entropy_weight}."
            )
