"""Errors of meta-gradients: compares each inner loss with the exact meta-gradient.

    python -m benchmarks.meta_gradient
    python -m benchmarks.meta_gradient --lr 0.3 --samples 10 1000

Uses random tabular problems (3 states, 2 actions, 4 steps) with softmax policies. Prints the
relative errors of the inner loss's Hessian and of the meta-gradient after 1 and 3 inner steps:
first with all 1296 trajectories, weighted by their probability, which shows only the bias, then
with sampled trajectories, which adds the noise. The outer return is always exact. Takes half a
minute.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import tyro
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from torch import Tensor

from metarl.adaptation.inner_loop import SupportLoss
from metarl.rl.exact import Estimate, TabularProblem, hessian, meta_gradient, relative_error
from metarl.rl.settings import PolicyGradientSettings
from metarl.trees import map_tensors

STEPS = (1, 3)


@dataclass(frozen=True)
class MetaGradientBenchmark:
    """Settings of the benchmark."""

    problems: int = 16
    """Number of random problems and policies."""
    samples: tuple[int, ...] = (20, 200)
    """Numbers of sampled trajectories per inner step; each has its own table."""
    repetitions: int = 32
    """Repetitions of the sampling per problem."""
    lr: float = 1.0
    """Inner learning rate."""
    horizon: int = 4
    """Steps per trajectory."""
    discount: float = 1.0
    """Discount factor, in (0, 1]."""
    seed: int = 0
    """Seed of problems, policies and samples."""


@dataclass(frozen=True)
class InnerLoss:
    """An inner loss, which is a row of the table.

    Attributes:
        surrogate: A name in `SURROGATES`.
        estimate: Estimate of an action's advantage.
        dice_lambda: The lambda of Loaded DiCE.
        first_order: Treats the inner gradients as constants.
    """

    surrogate: str
    estimate: Estimate
    dice_lambda: float = 1.0
    first_order: bool = False

    @property
    def name(self) -> str:
        """Label in the table."""
        if self.first_order:
            return "any, first order"
        return self.surrogate + ("" if self.dice_lambda == 1 else f", lambda={self.dice_lambda}")


ROWS = (
    InnerLoss("dice", "advantages"),
    InnerLoss("dice", "returns"),
    InnerLoss("dice", "advantages", dice_lambda=0.5),
    InnerLoss("ratio", "advantages"),
    InnerLoss("ratio", "returns"),
    InnerLoss("logprob", "advantages"),
    InnerLoss("logprob", "returns"),
    InnerLoss("ratio", "advantages", first_order=True),
)


class Doctor:
    """Computes the errors of the derivatives of inner losses on random problems.

    Args:
        settings: Settings of the benchmark.
    """

    def __init__(self, settings: MetaGradientBenchmark) -> None:
        self.settings = settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.problem = TabularProblem.random(
            self.generator, settings.problems, horizon=settings.horizon, discount=settings.discount
        )
        shape = self.problem.rewards.shape
        self.params = {"logits": torch.randn(shape, generator=self.generator, dtype=torch.float64)}

    def errors(self, row: InnerLoss, samples: int | None) -> list[float]:
        """Computes the relative errors of the Hessian and of the meta-gradients after `STEPS`.

        Args:
            row: The inner loss.
            samples: Trajectories per inner step. None: all trajectories.

        Returns:
            The median over problems of the root mean square error over repetitions.
        """
        draws = 1 if samples is None else self.settings.repetitions
        problem, params = map_tensors(
            lambda t: t.repeat_interleave(draws, 0), (self.problem, self.params)
        )
        loss = problem.support_loss(
            row.surrogate, PolicyGradientSettings(dice_lambda=row.dice_lambda),
            estimate=row.estimate, samples=samples, generator=self.generator,
        )  # fmt: skip

        def derivatives(loss: SupportLoss, first_order: bool) -> list[Tensor]:
            curvature = hessian(loss, params)
            gradients = [
                meta_gradient(problem, loss, params, self.settings.lr, k, first_order=first_order)
                for k in STEPS
            ]
            return [torch.zeros_like(curvature) if first_order else curvature, *gradients]

        pairs = zip(
            derivatives(loss, row.first_order), derivatives(problem.exact_loss, False), strict=True
        )
        errors = [relative_error(got, exact).view(-1, draws) for got, exact in pairs]
        return [e.square().mean(1).sqrt().median().item() for e in errors]


def main() -> None:
    """Runs the benchmark and prints its results."""
    settings = tyro.cli(MetaGradientBenchmark)
    torch.set_num_threads(1)
    doctor = Doctor(settings)
    for samples in (None, *settings.samples):
        title = "every trajectory" if samples is None else f"{samples} sampled trajectories"
        table = Table(box=SIMPLE, title=f"Relative errors with {title}")
        table.add_column("inner loss", no_wrap=True)
        table.add_column("estimate", no_wrap=True)
        for column in ("Hessian", *(f"meta-grad, K={k}" for k in STEPS)):
            table.add_column(column, justify="right", no_wrap=True)
        for row in ROWS:
            errors = doctor.errors(row, samples)
            table.add_row(row.name, row.estimate, *(f"{e:.3f}" for e in errors))
        Console().print(table)


if __name__ == "__main__":
    main()
