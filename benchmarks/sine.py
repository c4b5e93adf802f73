"""Speed on sine regression: meta-iterations against per-task Python loops.

    python -m benchmarks.sine                          # MAML, 1 and 5 steps, also compiled
    python -m benchmarks.sine --no-compile             # without compilation
    python -m benchmarks.sine --others                 # Reptile and the LSTM meta-learner

Prints a table per algorithm: milliseconds per meta-iteration (25 tasks, K = 10 + 10, MLP 1-40-40-1,
outer Adam), start-up time and the speed-up over the loops. Takes about two minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import tyro

from benchmarks import loops
from benchmarks.timing import MetaIteration, TurnSettings, print_race, race
from metarl.adaptation import MAML, Adaptation, GradientLearner, LSTMMetaLearner, Reptile
from metarl.adaptation.algorithms.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.models import MLP
from metarl.tasks import Sine
from metarl.training import TrainingSettings

SIZES = (1, 40, 40, 1)
INNER_LR = 0.01
OUTER_LR = 1e-3


@dataclass(frozen=True)
class SineBenchmark(TurnSettings):
    """Settings of the benchmark."""

    compile: bool = True
    """Also measures compiled meta-iterations."""
    others: bool = False
    """Also measures Reptile and the LSTM meta-learner."""
    tasks: int = 25
    """Tasks per meta-iteration."""
    shots: int = 10
    """Support points per task, and query points per task."""
    rounds: int = 30
    seconds: float = 0.1


def main() -> None:
    """Runs the benchmark and prints its results."""
    settings = tyro.cli(SineBenchmark)
    torch.set_num_threads(settings.threads)
    for steps in (1, 5):
        _race_maml(settings, steps)
    if settings.others:
        _race_reptile(settings)
        _race_lstm(settings)


def _race_maml(settings: SineBenchmark, steps: int) -> None:
    candidates: dict[str, Callable[[], object]] = {}
    libraries = {
        "loop": loops.maml,
        "l2l": loops.maml_with_learn2learn,
        "higher": loops.maml_with_higher,
    }
    for name, make in libraries.items():
        net = loops.sequential(_mlp())
        gradient = make(net, INNER_LR, steps)
        if gradient is not None:
            candidates[name] = _loop(settings, gradient, list(net.parameters()))
    candidates["MetaRL"] = _ours(settings, MAML(_mlp(), INNER_LR, steps))
    if settings.compile:
        candidates["MetaRL, compiled"] = _ours(settings, MAML(_mlp(), INNER_LR, steps), True)
    times = race(candidates, settings.rounds, settings.seconds)
    baselines = [name for name in libraries if name in candidates]
    print_race(f"MAML, second order, {steps} step(s)", times, baselines)


def _race_reptile(settings: SineBenchmark, steps: int = 5) -> None:
    net = loops.sequential(_mlp())
    inner = torch.optim.Adam(net.parameters(), INNER_LR, betas=(0.0, 0.999))
    candidates = {
        "loop": _loop(settings, loops.reptile(net, inner, steps), list(net.parameters())),
        "MetaRL": _ours(settings, Reptile(_mlp(), INNER_LR, steps)),
    }
    print_race(
        f"Reptile, {steps} steps", race(candidates, settings.rounds, settings.seconds), ["loop"]
    )


def _race_lstm(settings: SineBenchmark, steps: int = 5) -> None:
    net, rule = loops.sequential(_mlp()), LSTMMetaLearnerRule(_generator())
    params = [*net.parameters(), *rule.parameters()]
    candidates = {
        "loop": _loop(settings, loops.lstm_meta_learner(net, rule, steps), params),
        "MetaRL": _ours(settings, LSTMMetaLearner(_mlp(), _generator(), steps)),
    }
    times = race(candidates, settings.rounds, settings.seconds)
    print_race(f"LSTM meta-learner, {steps} steps", times, ["loop"])


def _loop(
    settings: SineBenchmark, gradient: loops.MetaGradient, params: list[torch.nn.Parameter]
) -> loops.LoopIteration:
    optimizer = torch.optim.Adam(params, OUTER_LR)
    shots = settings.shots
    return loops.LoopIteration(
        gradient, optimizer, lambda: loops.sine_task(shots, shots), settings.tasks
    )


def _ours(settings: SineBenchmark, adaptation: Adaptation, compiled: bool = False) -> MetaIteration:
    training = TrainingSettings(meta_batch_size=settings.tasks, outer_lr=OUTER_LR, compile=compiled)
    learner = GradientLearner(adaptation)
    return MetaIteration(learner, Sine(settings.shots, settings.shots), training)


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _mlp() -> MLP:
    return MLP(SIZES, _generator(), init="truncated")


if __name__ == "__main__":
    main()
