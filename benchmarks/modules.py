"""Speed and memory of ordinary modules: MetaRL's ways against its own Conv4 and per-task loops.

    python -m benchmarks.modules                       # all networks
    python -m benchmarks.modules --networks conv4 --rounds 10

MAML of second order, one step, 32 tasks, 5 + 5 examples, on one core each. "own" is
`metarl.models.Conv4`, "module" the same network as an `nn.Sequential`, "vmap" the module run by
`vmap` only; "loop" is written as in learn2learn's documentation. Ratios are medians over rounds.
The guard and the choice of the way are in the first call. `higher` needs the extra `benchmark`.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import tyro
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks import loops
from benchmarks.omniglot import sequential
from benchmarks.timing import MetaIteration, TurnSettings, peak_memory, print_race, race
from metarl.adaptation import MAML, GradientLearner
from metarl.models import Conv4, from_module
from metarl.models.resnet12 import ResidualBlock
from metarl.tasks import Examples, TaskBatch
from metarl.tasks.base import Split
from metarl.training import TrainingSettings

Network = Literal["conv4", "resnet", "vit", "lstm"]
Form = Literal["own", "module", "vmap", "loop", "higher"]
WAY = 5
SHAPES: dict[str, tuple[int, ...]] = {
    "conv4": (1, 28, 28), "resnet": (1, 28, 28), "vit": (1, 28, 28), "lstm": (20, 4),
}  # fmt: skip


@dataclass(frozen=True)
class ModulesBenchmark(TurnSettings):
    """Settings of the benchmark."""

    networks: tuple[Network, ...] = ("conv4", "resnet", "vit", "lstm")
    """The networks."""
    only: tuple[Form, ...] = ()
    """The forms to measure; none: all."""
    tasks: int = 32
    """Tasks per meta-iteration."""
    filters: int = 64
    """Filters of Conv4; the ResNet block has half as many."""
    memory: bool = True
    """Also measures peak memory, in a separate process for each form."""
    processor_time: bool = False
    """Counts the time that the process computes, not that on the clock: for a busy machine."""
    rounds: int = 5
    seconds: float = 0.0


class PatchTransformer(nn.Module):
    """A vision transformer with one block: patches of 7 pixels, 32 features, 4 heads."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, 32, 7, stride=7)
        self.position = nn.Parameter(torch.zeros(16, 32))
        self.block = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.head = nn.Linear(32, WAY)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images [N, 1, 28, 28] to logits [N, 5]."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.position
        return self.head(self.block(tokens).mean(1))


class LastState(nn.Module):
    """An LSTM of 32 units, and a linear layer on its last output."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 32, batch_first=True)
        self.head = nn.Linear(32, WAY)

    def forward(self, sequences: Tensor) -> Tensor:
        """Maps sequences [N, 20, 4] to logits [N, 5]."""
        return self.head(self.lstm(sequences)[0][:, -1])


def network(name: Network, filters: int) -> nn.Module:
    """Builds an ordinary module with fixed initial weights."""
    torch.manual_seed(0)
    if name == "conv4":
        return sequential(own(filters))
    if name == "resnet":
        half = filters // 2
        return nn.Sequential(
            ResidualBlock(1, half), ResidualBlock(half, half), nn.AdaptiveAvgPool2d(1),
            nn.Flatten(), nn.Linear(half, WAY),
        )  # fmt: skip
    return PatchTransformer() if name == "vit" else LastState()


def own(filters: int) -> Conv4:
    """Builds MetaRL's Conv4."""
    return Conv4(WAY, torch.Generator().manual_seed(0), filters=filters)


class RandomExamples:
    """A task distribution of random inputs, on which the time does not depend.

    Args:
        shape: Shape of an input.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def sample(self, num_tasks: int, generator: torch.Generator) -> TaskBatch:
        """Draws an example per class for support and query."""
        labels = torch.arange(WAY).repeat(num_tasks, 1)
        sets = (torch.rand(num_tasks, WAY, *self.shape, generator=generator) for _ in range(2))
        support, query = (Examples(inputs, labels) for inputs in sets)
        return TaskBatch(support, query)

    def split(self, name: Split) -> RandomExamples:
        """Returns itself: all splits are the same."""
        del name
        return self


def build(settings: ModulesBenchmark, name: Network, form: Form) -> Callable[[], None]:
    """Builds a meta-iteration; a module-level function, so that a spawned process can call it."""
    tasks = RandomExamples(SHAPES[name])
    if form in ("loop", "higher"):
        return _loop(settings, name, form, tasks)
    net = own(settings.filters) if form == "own" else network(name, settings.filters)
    if form == "vmap":
        net = from_module(net, way="vmap")
    learner = GradientLearner(MAML(net, 0.1))
    return MetaIteration(learner, tasks, TrainingSettings(meta_batch_size=settings.tasks))


def _loop(
    settings: ModulesBenchmark, name: Network, form: Form, tasks: RandomExamples
) -> Callable[[], None]:
    net = network(name, settings.filters)
    gradient = loops.maml(net, 0.1, 1) if form == "loop" else loops.maml_with_higher(net, 0.1, 1)
    assert gradient is not None
    generator = torch.Generator().manual_seed(0)
    draw = functools.partial(_draw, tasks, generator)
    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    iteration = loops.LoopIteration(gradient, optimizer, draw, settings.tasks)

    def run() -> None:
        with sdpa_kernel(SDPBackend.MATH):  # the other kernels have no second derivative
            iteration()

    return run


def _draw(tasks: RandomExamples, generator: torch.Generator) -> loops.Task:
    (support, query) = (tasks.sample(1, generator).support, tasks.sample(1, generator).query)
    return loops.Task(support.inputs[0], support.targets[0], query.inputs[0], query.targets[0])


def forms(name: Network) -> list[Form]:
    """Returns the forms to measure: Conv4 has one more, `higher` is optional."""
    first: list[Form] = ["own"] if name == "conv4" else []
    last: list[Form] = ["higher"] if loops.maml_with_higher(nn.Linear(1, 1), 0.1, 1) else []
    return [*first, "module", "vmap", "loop", *last]


def main() -> None:
    """Runs the benchmark and prints a table for each network."""
    settings = tyro.cli(ModulesBenchmark, description=__doc__)
    torch.set_num_threads(settings.threads)
    for name in settings.networks:
        chosen: list[Form] = [
            form for form in forms(name) if form in (settings.only or forms(name))
        ]
        memory = {
            form: f"{peak_memory(build, settings, name, form):.0f}"
            for form in chosen if settings.memory
        }  # fmt: skip
        candidates = {form: build(settings, name, form) for form in chosen}
        clock = time.process_time if settings.processor_time else time.perf_counter
        times = race(candidates, settings.rounds, settings.seconds, clock)
        baselines = [form for form in ("own", "loop") if form in times]
        print_race(f"{name}, {settings.tasks} tasks, second order", times, baselines, memory)


if __name__ == "__main__":
    main()
