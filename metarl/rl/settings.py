"""Settings of policy gradients: the rollouts, and the loss computed from them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any, Literal

from metarl.models.described import described
from metarl.models.mlp import Activation
from metarl.ranges import COUNT, FRACTION, NOT_NEGATIVE, WIDTH, Range, check_fields

SurrogateName = Literal["ratio", "dice", "logprob"]


@described
@dataclass(frozen=True)
class PolicySettings:
    """Options of a policy's network, apart from its hidden layers, and of its units."""

    activation: Activation = "relu"
    """Activation function after each hidden layer."""
    layer_norm: bool = False
    """Normalises each hidden layer before its activation."""
    cnn: tuple[int, ...] = (16, 32, 32)
    """Channels of the convolutions of images in the observations; each halves the image."""
    network: str | None = None
    """Path of a file that `metarl.models.save_module` wrote (.safetensors), in place of the layers:
    a network from observations [N, O] to means or logits."""
    scale_actions: bool | None = None
    """The policy acts in [-1, 1], mapped to the bounds of the actions. None: yes, except for
    families with published numbers, which keep their units."""
    normalize_observations: bool | None = None
    """Running mean and deviation standardise observations whose bounds do not give their scale.
    None: as for the actions."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(self, cnn=WIDTH)


@described
@dataclass(frozen=True)
class PolicyGradientSettings:
    """How rollouts become a loss, in the inner and in the outer loop."""

    trajectories: int = 20
    """Rollouts per task before every adaptation step and after the last one; of rl2 and varibad:
    trials per task."""
    discount: float = 0.99
    """Discount of the rewards (gamma), in (0, 1]."""
    gae_lambda: float = 1.0
    """Lambda of generalised advantage estimation, in [0, 1]."""
    normalize_advantages: bool = True
    """Scales the advantages of each task to mean 0 and deviation 1 in every batch; of rl2 and
    varibad: those of all tasks together."""
    bootstrap: bool = False
    """Adds the value of the last state to the return of a truncated episode. False: 0."""
    surrogate: SurrogateName = "ratio"
    """Inner loss: ratio (ProMP's), dice (exact, noisy) or logprob (older papers'; biased)."""
    dice_lambda: float = 1.0
    """Lambda of Loaded DiCE, in [0, 1]: 1 is exact, less trades bias for variance."""
    clip: float | None = None
    """Clips the outer ratio to 1 +- this, in (0, 1) (PPO). None: no clipping."""
    inner_kl: float = 0.0
    """Weight of ProMP's penalty on the KL divergence of the policies before the last adaptation
    step, mean over the steps; at least 0."""
    exploration: bool = False
    """Adds E-MAML's credit to the first rollouts; unbiased only with the surrogate logprob and
    advantages that are not normalised."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(
            self,
            trajectories=COUNT, discount=Range(0, 1, includes_low=False), gae_lambda=FRACTION,
            dice_lambda=FRACTION, clip=Range(0, 1, False, False), inner_kl=NOT_NEGATIVE,
        )  # fmt: skip


def changed(settings: PolicySettings | PolicyGradientSettings, names: Collection[str]) -> list[str]:
    """Returns those of the named settings that differ from their defaults, as "name=value".

    Args:
        settings: The settings.
        names: Names of fields.
    """
    usual: Any = type(settings)()
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name in names}
    return [f"{n}={value!r}" for n, value in values.items() if value != getattr(usual, n)]
