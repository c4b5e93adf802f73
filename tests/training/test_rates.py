"""Rates of optimisers: schedules of MetaRL, and rates that change during training."""

from functools import partial

import pytest
import torch

from metarl.adaptation import MAML
from metarl.models import MLP
from metarl.runs.checkpoints import Checkpoints
from metarl.tasks import Sine
from metarl.training import OuterLoop, TrainingSettings
from metarl.training.rates import Rates, outer_rate

ROOM = {"eval_tasks": 2, "eval_steps": 1, "meta_batch_size": 2, "device": "cpu", "threads": 1}


def sgd(*rates):
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate} for rate in rates], lr=1.0)


def written(rates, optimizer, iteration):
    rates.set(iteration)
    return [group["lr"] for group in optimizer.param_groups]


def test_the_rates_of_a_given_optimiser_end_at_the_final_rate():
    optimizer = sgd(0.1, 0.01)
    settings = TrainingSettings(iterations=10, schedule="linear", final_lr=0.02)
    rates = Rates(optimizer, settings, given=True)
    assert written(rates, optimizer, 0) == pytest.approx([0.1, 0.01])
    assert written(rates, optimizer, 5) == pytest.approx([0.06, 0.006])
    assert written(rates, optimizer, 10) == pytest.approx([0.02, 0.002])


@pytest.mark.parametrize(
    "schedule", [{"schedule": "StepLR", "schedule_options": ("step_size=3",)}, {}]
)
def test_a_final_rate_that_no_schedule_reaches_warns(schedule):
    settings = TrainingSettings(final_lr=0.02, **schedule)
    name = settings.schedule
    with pytest.warns(UserWarning, match=f"`final_lr` 0.02 has no effect: the schedule {name}"):
        Rates(sgd(0.1), settings, given=False)


def test_a_run_without_iterations_has_its_first_rate():
    for schedule in ("linear", "cosine"):
        settings = TrainingSettings(iterations=0, schedule=schedule)
        assert outer_rate(settings, 0) == settings.outer_lr


def test_rates_that_somebody_changes_are_scaled_from_then_on():
    optimizer = sgd(0.1, 0.01)
    rates = Rates(optimizer, TrainingSettings(iterations=10, schedule="linear"), given=True)
    assert written(rates, optimizer, 5) == pytest.approx([0.05, 0.005])
    optimizer.param_groups[0]["lr"] *= 0.5
    assert written(rates, optimizer, 6) == pytest.approx([0.02, 0.004])
    assert rates.at(8) == pytest.approx(0.01)


def test_a_rate_of_zero_stays_and_may_be_raised():
    optimizer = sgd(0.0, 0.1)
    rates = Rates(optimizer, TrainingSettings(), given=True)
    assert written(rates, optimizer, 0) == [0.0, 0.1]
    optimizer.param_groups[0]["lr"] = 0.01
    assert written(rates, optimizer, 1) == [0.01, 0.1]


class Hypergradient(torch.optim.Optimizer):
    """Raises its own rate in each step, as those of Baydin et al. 2018 may."""

    def __init__(self, named, lr):
        super().__init__(named, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["lr"] += 0.001
            for p in group["params"]:
                p.sub_(group["lr"] * p.grad)


def halving(folder, iterations, optimizer, resume=None):
    """Trains, and halves the rate at each validation; returns the loop."""
    net = MLP((1, 8, 1), torch.Generator().manual_seed(0))
    settings = TrainingSettings(iterations=iterations, eval_every=2, **ROOM)
    loop = OuterLoop(
        MAML(net), Sine(), settings, folder, validation=Sine(), optimizer=optimizer, resume=resume
    )

    def halve(curve):
        for group in loop.update.optimizer.param_groups:
            group["lr"] *= 0.5

    loop.on_curve = halve
    loop.run()
    return loop


@pytest.mark.parametrize(
    ("optimizer", "rate"), [(None, 1e-3 / 8), (partial(torch.optim.AdamW, lr=0.01), 0.01 / 8)]
)
def test_a_run_keeps_rates_that_its_validation_lowers(optimizer, rate, tmp_path):
    loop = halving(tmp_path / "run", 6, optimizer)
    assert loop.update.optimizer.param_groups[0]["lr"] == pytest.approx(rate)
    assert loop.update.rate(6) == pytest.approx(rate)


def test_changed_rates_are_resumed_to_the_bit(tmp_path):
    optimizer = partial(Hypergradient, lr=0.01)
    whole = halving(tmp_path / "whole", 8, optimizer)
    halving(tmp_path / "part", 4, optimizer)
    good = Checkpoints(tmp_path / "part/checkpoints").newest_good()
    resumed = halving(tmp_path / "part", 8, optimizer, good)
    for a, b in zip(whole.learner.parameters(), resumed.learner.parameters(), strict=True):
        assert torch.equal(a, b)
    assert whole.update.rate(8) == resumed.update.rate(8) != 0.01


def test_a_resumed_run_takes_the_rate_of_another_optimiser(tmp_path):
    halving(tmp_path / "run", 4, partial(torch.optim.AdamW, lr=0.01))
    good = Checkpoints(tmp_path / "run/checkpoints").newest_good()
    resumed = halving(tmp_path / "run", 5, partial(torch.optim.AdamW, lr=0.5), good)
    assert resumed.update.rate(4) == 0.25  # halved once, after the last iteration
