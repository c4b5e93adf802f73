"""Speed and memory on images of Omniglot's size: meta-iterations against per-task Python loops.

    python -m benchmarks.omniglot                      # MAML 5-way 1-shot, 5 + 5 images, one step
    python -m benchmarks.omniglot --queries 15 --steps 5 --first-order
    python -m benchmarks.omniglot --compile            # also compiled
    python -m benchmarks.omniglot --others             # also Reptile and the LSTM meta-learner

Prints a table per algorithm: milliseconds per meta-iteration (Conv4-64 with max-pool, batch
statistics, 32 tasks), memory above start and the speed-up over the loop. For MAML, also prints the
achieved FLOP/s as a share of those of a large matrix product. Takes minutes. The images are random,
because the time does not depend on them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from rich.console import Console
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loops
from benchmarks.timing import (
    MetaIteration,
    TurnSettings,
    best_gflops,
    peak_memory,
    print_race,
    race,
)
from metarl.adaptation import MAML, GradientLearner, LSTMMetaLearner, Reptile
from metarl.adaptation.algorithms.lstm_meta_learner import LSTMMetaLearnerRule
from metarl.adaptation.learner import Learner
from metarl.models.conv4 import Conv4
from metarl.tasks import Examples, TaskBatch
from metarl.tasks.base import Split
from metarl.training import TrainingSettings

Form = Literal["loop", "MetaRL", "MetaRL, compiled"]
Algorithm = Literal["maml", "reptile", "lstm"]


@dataclass(frozen=True)
class OmniglotBenchmark(TurnSettings):
    """Settings of the benchmark."""

    tasks: int = 32
    """Tasks per meta-iteration."""
    way: int = 5
    """Classes per task."""
    shots: int = 1
    """Support images per class."""
    queries: int = 1
    """Query images per class."""
    steps: int = 1
    """Adaptation steps."""
    first_order: bool = False
    """Uses first-order MAML."""
    chunk: int | None = 4
    """Tasks per chunk, computed at once."""
    workers: int = 2
    """Chunks computed in parallel, each on one thread."""
    compile: bool = False
    """Also measures compiled MAML."""
    others: bool = False
    """Also measures Reptile and the LSTM meta-learner."""
    rounds: int = 6
    seconds: float = 0.0
    threads: int = 2


class RandomImages:
    """A task distribution with Omniglot's shapes and random images.

    Args:
        settings: Settings with way, shots and queries.
    """

    def __init__(self, settings: OmniglotBenchmark) -> None:
        self.settings = settings

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        s = self.settings
        support = self._examples(num_tasks, s.shots, generator)
        return TaskBatch(support, self._examples(num_tasks, s.queries, generator))

    def split(self, name: Split) -> RandomImages:
        """Returns itself: all splits are the same."""
        del name
        return self

    def _examples(self, num_tasks: int, per_class: int, generator: torch.Generator) -> Examples:
        labels = torch.arange(self.settings.way).repeat(num_tasks, per_class)
        return Examples(torch.rand(*labels.shape, 1, 28, 28, generator=generator), labels)


def main() -> None:
    """Runs the benchmark and prints its results."""
    settings = tyro.cli(OmniglotBenchmark)
    torch.set_num_threads(settings.threads)
    _race(settings, "maml")
    if settings.others:
        _race(settings, "reptile")
        _race(settings, "lstm")


def build(settings: OmniglotBenchmark, algorithm: Algorithm, form: Form) -> Callable[[], None]:
    """Builds a meta-iteration; a module-level function, so that a spawned process can call it."""
    if form == "loop":
        return _loop(settings, algorithm)
    training = TrainingSettings(
        meta_batch_size=settings.tasks,
        task_chunk_size=settings.chunk,
        workers=settings.workers,
        compile=form == "MetaRL, compiled",
    )
    return MetaIteration(_learner(settings, algorithm), RandomImages(settings), training)


def _race(settings: OmniglotBenchmark, algorithm: Algorithm) -> None:
    forms: list[Form] = ["loop", "MetaRL"]
    if settings.compile and algorithm == "maml":
        forms.append("MetaRL, compiled")
    memory = {f: f"{peak_memory(build, settings, algorithm, f):.0f}" for f in forms}
    candidates = {f: build(settings, algorithm, f) for f in forms}
    times = race(candidates, settings.rounds, settings.seconds)
    order = "first" if settings.first_order else "second"
    images = f"{settings.way * settings.shots} + {settings.way * settings.queries} images"
    title = f"{algorithm}, {images}, {settings.steps} step(s), {order} order"
    print_race(title, times, ["loop"], memory)
    if algorithm == "maml":
        _print_share(candidates["loop"], min(times[f].median for f in forms))


def _print_share(loop: Callable[[], None], milliseconds: float) -> None:
    # The FLOPs of the plain loop are those that the algorithm needs, however it is computed.
    with FlopCounterMode(display=False) as counter:
        loop()
    reached, best = counter.get_total_flops() / milliseconds / 1e6, best_gflops()
    Console().print(
        f"{reached:.0f} GFLOP/s of the {best:.0f} that a large float32 matrix product reaches: "
        f"{reached / best:.0%}"
    )


def _learner(settings: OmniglotBenchmark, algorithm: Algorithm) -> Learner:
    model = Conv4(settings.way, _generator())
    if algorithm == "maml":
        adaptation = MAML(model, 0.4, settings.steps, first_order=settings.first_order)
    elif algorithm == "reptile":
        adaptation = Reptile(model, 1e-3, settings.steps)
    else:
        adaptation = LSTMMetaLearner(model, _generator(), settings.steps)
    return GradientLearner(adaptation)


def _loop(settings: OmniglotBenchmark, algorithm: Algorithm) -> loops.LoopIteration:
    net, rule = sequential(Conv4(settings.way, _generator())), LSTMMetaLearnerRule(_generator())
    params = list(net.parameters())
    if algorithm == "maml":
        gradient = loops.maml(net, 0.4, settings.steps, not settings.first_order)
    elif algorithm == "reptile":
        inner = torch.optim.Adam(params, 1e-3, betas=(0.0, 0.999))
        gradient = loops.reptile(net, inner, settings.steps)
    else:
        gradient = loops.lstm_meta_learner(net, rule, settings.steps)
        params += list(rule.parameters())
    draw = functools.partial(_draw, RandomImages(settings), _generator())
    return loops.LoopIteration(gradient, torch.optim.Adam(params, 1e-3), draw, settings.tasks)


def _draw(tasks: RandomImages, generator: torch.Generator) -> loops.Task:
    task = tasks.sample(1, generator)
    tensors: list[Tensor] = [t[0] for t in (*task.support[:2], *task.query[:2])]
    return loops.Task(*tensors)


def sequential(model: Conv4) -> nn.Sequential:
    """Returns an `nn.Sequential` with the layers and weights of a `Conv4` with max-pool."""
    layers: list[nn.Module] = []
    channels = model.in_channels
    for _ in range(4):
        layers += [
            nn.Conv2d(channels, model.filters, 3, padding=1, bias=False),
            nn.BatchNorm2d(model.filters, track_running_stats=False),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
        channels = model.filters
    features = model.filters * (model.image_size // 16) ** 2
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, model.outputs))
    with torch.no_grad():
        for p, source in zip(net.parameters(), model.parameters(), strict=True):
            p.copy_(source)
    return net


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


if __name__ == "__main__":
    main()
