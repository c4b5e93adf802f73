"""Linear value functions, fitted for each task to that task's rollouts."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

CLIP = 10.0
"""Observations are clipped to +- this."""
RIDGE = 1e-5
"""Smallest ridge of the least squares."""
ROUNDING = 1e-12
"""Ridge of a feature, relative to the number of features times its sum of squares."""
LARGEST = 512
"""Observations with more entries are replaced by random projections."""
PROJECTIONS = 128
"""The number of random projections."""


class LinearBaseline(NamedTuple):
    """The linear feature baseline of rllab and MAML (Duan et al. 2016, section 5).

    V(o, t) = w . [o, o^2, t/100, (t/100)^2, (t/100)^3, 1], with the observation o clipped to +-10.
    The fit and the predictions are computed in float64, because the features of drifting
    observations are nearly linearly dependent.

    Observations of more than 512 entries, such as images, are replaced by 128 random projections
    z = P o, with P ~ N(0, 1 / O) and the same P in every fit: the normal equations of O^2 entries
    would exhaust the memory, and a task has too few steps to fit that many weights.

    Attributes:
        weights: The weights w of each task, shape [T, 2 O + 4], float64; O is
            128 for large observations.
    """

    weights: Tensor

    @classmethod
    def fit(cls, observations: Tensor, returns: Tensor, mask: Tensor) -> LinearBaseline:
        """Fits the returns of each task by least squares with a ridge of 1e-5.

        A feature with a large sum of squares gets a larger ridge, in proportion to that sum, so
        that rounding cannot make the normal equations indefinite and the Cholesky factorisation
        never fails.

        Args:
            observations: Shape [T, N, H, O], float.
            returns: Shape [T, N, H], float.
            mask: 1 for steps that count, 0 for the rest; shape [T, N, H], any type.

        Returns:
            The fitted baseline of all tasks.
        """
        # w = (Phi Phi^T + diag(ridge))^-1 Phi G, with Phi [2 O + 4, N * H] and the returns G
        valid = mask > 0
        features = _features(torch.where(valid.unsqueeze(3), observations, 0), 0)
        features.mul_(valid.flatten(1).unsqueeze(1))
        targets = torch.where(valid, returns, 0).flatten(1).double().unsqueeze(1)
        gram = features @ features.mT
        diagonal = gram.diagonal(dim1=1, dim2=2)
        ridge = (ROUNDING * gram.shape[1] * diagonal).clamp(min=RIDGE)
        factor, _ = torch.linalg.cholesky_ex(gram + torch.diag_embed(ridge))
        moments = (targets @ features.mT).mT
        return cls(torch.cholesky_solve(moments, factor).squeeze(2))

    def values(self, observations: Tensor, first_step: int = 0) -> Tensor:
        """Predicts the returns.

        Args:
            observations: Shape [T, N, H, O], float.
            first_step: The time step t of the first of the H observations.

        Returns:
            The values, shape [T, N, H], in the dtype of the observations.
        """
        predictions = self.weights.unsqueeze(1) @ _features(observations, first_step)
        return predictions.view(observations.shape[:3]).to(observations.dtype)


def _features(observations: Tensor, first_step: int) -> Tensor:
    """Returns the features [T, 2 O + 4, N * H], float64.

    The steps are the last dimension, because matrix products are fastest in this layout.
    """
    tasks, episodes, steps, size = observations.shape
    if size > LARGEST:
        observations = observations @ _projection(size, observations.device).to(observations)
    clipped = observations.flatten(1, 2).mT.double().clamp(-CLIP, CLIP)
    options = {"dtype": clipped.dtype, "device": clipped.device}
    time = torch.arange(first_step, first_step + steps, **options) / 100
    powers = torch.stack((time, time**2, time**3, torch.ones_like(time))).repeat(1, episodes)
    return torch.cat((clipped, clipped.square(), powers.expand(tasks, -1, -1)), 1)


@functools.cache
def _projection(size: int, device: torch.device) -> Tensor:
    """Returns the constant matrix of random projections, [O, 128] float32."""
    generator = torch.Generator().manual_seed(0)  # a constant of the definition, as CLIP is
    return (torch.randn(size, PROJECTIONS, generator=generator) / size**0.5).to(device)
