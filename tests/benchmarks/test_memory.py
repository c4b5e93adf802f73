"""The benchmark of learners that remember trains what it says it does."""

import pytest
import torch

from benchmarks.memory import episode_iteration, print_rates, stream_iteration
from benchmarks.timing import Times


@pytest.mark.parametrize(
    ("iteration", "algorithm", "shape"),
    [
        (stream_iteration, "mann", (2, 50)),
        (stream_iteration, "feedforward", (2, 50)),
        (episode_iteration, "mann", (2, 5)),
        (episode_iteration, "metanet", (2, 5)),
    ],
)
def test_an_iteration_trains_on_so_many(iteration, algorithm, shape):
    run = iteration(algorithm, 2)
    assert run.tasks.sample(2, torch.Generator()).query.targets.shape == shape
    before = [p.detach().clone() for p in run.learner.parameters()]
    run()
    assert any(not torch.equal(p, q) for p, q in zip(run.learner.parameters(), before, strict=True))


def test_rates_are_per_second(capsys):
    times = Times(0.0)
    times.rounds = [100.0, 200.0, 400.0]
    print_rates({"mann": times}, 800, "steps")
    assert capsys.readouterr().out == "mann: 4,000 steps per second\n"
