"""The observation map of a policy as a part of Stable-Baselines3's models."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor

from metarl.rl.units import ObservationScale


class OwnUnits(BaseFeaturesExtractor):
    """Brings observations to the units of a policy: clip((o - shift) * factor, +-limit).

    Args:
        observation_space: The space of observations, [O].
        shift: Subtracted from them, [O].
        factor: Factors, [O].
        limit: Greatest absolute results, [O].
    """

    shift: Tensor
    factor: Tensor
    limit: Tensor

    def __init__(
        self,
        observation_space: spaces.Box,
        shift: Sequence[float],
        factor: Sequence[float],
        limit: Sequence[float],
    ) -> None:
        super().__init__(observation_space, len(shift))
        for name, values in (("shift", shift), ("factor", factor), ("limit", limit)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, observations: Tensor) -> Tensor:
        """Maps observations [B, O] float32."""
        scaled = (observations - self.shift) * self.factor
        return scaled.clamp(-self.limit, self.limit)


def arguments_of(scale: ObservationScale) -> dict[str, list[float]]:
    """Returns the arguments of `OwnUnits` for a policy's map."""
    return {name: getattr(scale, name).tolist() for name in ("shift", "factor", "limit")}
