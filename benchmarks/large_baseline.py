"""What the linear baseline of large observations explains, against a value network.

    python -m benchmarks.large_baseline                    # a minute on one core

A spot in a picture of 24 x 24 bytes moves at random; the reward is minus its distance to a place
that each task hides. A baseline is fitted to 20 rollouts of 30 steps of each of 8 tasks and judged
on 20 others of the same policy. Prints the share of the variance of returns that it explains,
averaged over tasks, and the seconds of one fit of all tasks. The value network (a hidden layer of
64) starts from new weights for each task and takes steps of Adam on the same rollouts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import gymnasium
import numpy as np
import torch
import tyro
from gymnasium import spaces
from torch import Tensor

from metarl.adaptation import MAML
from metarl.models import MLP
from metarl.models.base import task_params
from metarl.rl import PolicyGradientSettings, PolicyLearner, policy_for
from metarl.rl import baseline as linear
from metarl.rl.returns import discounted_returns
from metarl.rl.rollouts import Rollouts
from metarl.sim import GymTasks, Uniform

SIZE = 24


@dataclass(frozen=True)
class LargeBaselineBenchmark:
    """Settings of the benchmark."""

    tasks: int = 8
    """Tasks."""
    trajectories: int = 20
    """Rollouts of each task that the baseline is fitted to, and as many to judge it."""
    seed: int = 0
    """Seed of everything."""


class Spot(gymnasium.Env):
    """A spot of 3 x 3 bytes is moved towards a hidden place."""

    observation_space = spaces.Box(0, 255, (SIZE, SIZE), np.uint8)
    action_space = spaces.Discrete(5)
    x, y = 0.5, 0.5

    def _seen(self) -> np.ndarray:
        picture = np.full((SIZE, SIZE), 30, np.uint8)
        row, column = self.place
        picture[row - 1 : row + 2, column - 1 : column + 2] = 255
        return picture

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple:
        """Starts at a random place."""
        super().reset(seed=seed)
        self.place = self.np_random.integers(1, SIZE - 1, 2)
        return self._seen(), {}

    def step(self, action: int) -> tuple:
        """Moves by a pixel."""
        moves = ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1))
        self.place = np.clip(self.place + moves[action], 1, SIZE - 2)
        wanted = np.array([self.x, self.y]) * SIZE
        return self._seen(), -float(np.abs(self.place - wanted).mean()) / SIZE, False, False, {}


def explained(values: Tensor, returns: Tensor) -> float:
    """Returns the share of the variance of returns that values explain, averaged over tasks."""
    error = (returns - values).flatten(1).var(1) / returns.flatten(1).var(1)
    return float(1 - error.mean())


def network_values(
    fitted: Rollouts, judged: Rollouts, returns: Tensor, steps: int, seed: int
) -> Tensor:
    """Fits a value network per task by Adam and returns its values of other rollouts."""
    generator = torch.Generator().manual_seed(seed)
    model = MLP((SIZE * SIZE, 64, 1), generator, "relu")
    params = {
        n: p.detach().clone().requires_grad_() for n, p in task_params(model, len(returns)).items()
    }
    mean, deviation = returns.mean((1, 2), keepdim=True), returns.std((1, 2), keepdim=True)
    targets = ((returns - mean) / deviation).flatten(1)
    adam = torch.optim.Adam(params.values(), 1e-3)
    inputs = fitted.observations.flatten(1, 2)
    for _ in range(steps):
        adam.zero_grad()
        (model(params, inputs).squeeze(2) - targets).square().mean(1).sum().backward()
        adam.step()
    with torch.no_grad():
        values = model(params, judged.observations.flatten(1, 2)).squeeze(2)
    return values.view(returns.shape) * deviation + mean


def main(settings: LargeBaselineBenchmark) -> None:
    """Prints a row for each baseline."""
    family = GymTasks(Spot, {"x": Uniform(0, 1), "y": Uniform(0, 1)}, horizon=30)
    generator = torch.Generator().manual_seed(settings.seed)
    learner = PolicyLearner(
        MAML(policy_for(family, generator), 0.1), family,
        PolicyGradientSettings(trajectories=settings.trajectories),
    )  # fmt: skip
    tasks = family.sample(settings.tasks, generator)
    fitted, judged = (next(iter(learner.rollouts(tasks, 0, generator))) for _ in range(2))
    returns, others = (discounted_returns(r.rewards, r.mask, 0.99) for r in (fitted, judged))
    print("baseline                     explained, same rollouts   others   seconds")
    for count in (32, 128, 512):
        linear.PROJECTIONS = count
        linear._projection.cache_clear()
        start = time.perf_counter()
        fit = linear.LinearBaseline.fit(fitted.observations, returns, fitted.mask)
        seconds = time.perf_counter() - start
        shares = [
            explained(fit.values(r.observations), g)
            for r, g in ((fitted, returns), (judged, others))
        ]
        print(
            f"{count:4d} random projections      {shares[0]:20.3f} {shares[1]:11.3f} {seconds:9.2f}"
        )
    for steps in (20, 100, 400):
        start = time.perf_counter()
        values = network_values(fitted, judged, returns, steps, settings.seed)
        seconds = time.perf_counter() - start
        share = explained(values, others)
        print(f"value network, {steps:3d} steps    {'':20s} {share:11.3f} {seconds:9.2f}")


if __name__ == "__main__":
    main(tyro.cli(LargeBaselineBenchmark))
