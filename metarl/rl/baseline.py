"""The linear feature baseline, fitted per task to the very rollouts that it judges."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CLIP = 10.0
RIDGE = 1e-5
ROUNDING = 1e-12


class LinearBaseline(NamedTuple):
    """Values that are linear in [o, o^2, t/100, (t/100)^2, (t/100)^3, 1], o clipped to +-10.

    The baseline of rllab (Duan et al. 2016, section 5) and of MAML's control tasks. In float64:
    the squares of observations that drift leave the features nearly dependent.

    Attributes:
        weights: Shape [T, 2 O + 4], float64.
    """

    weights: Tensor

    @classmethod
    def fit(cls, observations: Tensor, returns: Tensor, mask: Tensor) -> LinearBaseline:
        """Fits the returns of each task by least squares with a ridge of 1e-5.

        Where rounding could make the normal equations indefinite, a feature's ridge is larger, in
        proportion to its sum of squares: no solve fails and none has to be tried again.

        Args:
            observations: Shape [T, N, H, O], float.
            returns: Shape [T, N, H], float.
            mask: 1 for steps that count, 0 for the rest; [T, N, H], any type.
        """
        valid = (mask > 0).flatten(1)
        features = torch.where(valid.unsqueeze(2), _features(observations, 0).flatten(1, 2), 0)
        targets = torch.where(valid, returns.flatten(1).double(), 0)
        gram = features.mT @ features
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = (ROUNDING * gram.shape[1] * diagonal).clamp(min=RIDGE)
        factor, _ = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge))
        moments = features.mT @ targets.unsqueeze(2)
        return cls(torch.cholesky_solve(moments, factor).squeeze(2))

    def values(self, observations: Tensor, first_step: int = 0) -> Tensor:
        """Predicts the returns.

        Args:
            observations: Shape [T, N, H, O], float.
            first_step: Number of steps that an episode has behind it at the first of the H.

        Returns:
            Shape [T, N, H], of the observations' type.
        """
        predicted = _features(observations, first_step) @ self.weights[:, None, :, None]
        return predicted.squeeze(3).to(observations.dtype)


def _features(observations: Tensor, first_step: int) -> Tensor:
    """Returns the features [T, N, H, 2 O + 4], float64."""
    clipped = observations.double().clamp(-CLIP, CLIP)
    steps = observations.shape[2]
    time = torch.arange(first_step, first_step + steps).to(clipped) / 100
    powers = torch.stack((time, time**2, time**3, torch.ones_like(time)), 1)
    return torch.cat((clipped, clipped.square(), powers.expand(*clipped.shape[:3], 4)), 3)
