"""Speed of prototypical networks: training iterations against easyfsl's, episode by episode.

    python -m benchmarks.prototypical                                     # one 60-way 5+5 episode
    python -m benchmarks.prototypical --tasks 32 --way 5 --shots 1        # 32 small episodes
    python -m benchmarks.prototypical --tasks 32 --way 5 --shots 1 --threads 2    # on two cores

Prints milliseconds per iteration (Conv4-64 with max-pool, including Adam and the sampling of
glyphs) and the speed-up over the baselines. "loop" is easyfsl's computation in plain torch.
easyfsl's own code is measured too if it is installed: `pip install easyfsl`, which needs
torchvision. With `--threads`, the baselines use that many torch threads and MetaRL that many
workers.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from benchmarks.timing import MetaIteration, TurnSettings, print_race, race
from metarl.learners import ConvEmbedding, ImageShape, MetricLearner, Prototypes
from metarl.tasks import Examples, Glyphs
from metarl.tasks.episodes import FewShot
from metarl.training import TrainingSettings

Scores = Callable[[Examples, Tensor], Tensor]
"""Maps the support examples and the query images of one episode to scores [queries, way]."""


@dataclass(frozen=True)
class PrototypicalBenchmark(TurnSettings):
    """Settings of the benchmark."""

    tasks: int = 1
    """Episodes per iteration."""
    way: int = 60
    """Classes per episode."""
    shots: int = 5
    """Support images per class."""
    queries: int = 5
    """Query images per class."""
    filters: int = 64
    """Filters of each convolution."""
    threads: int = 1
    """CPU threads: torch threads of the baselines, single-threaded workers of MetaRL."""


class EpisodeLoop:
    """A training iteration that processes one episode after the other.

    Args:
        tasks: Distribution of the episodes.
        count: Episodes per iteration.
        backbone: The embedding to train.
        scores: Computes the scores of queries with the backbone.
    """

    def __init__(self, tasks: FewShot, count: int, backbone: nn.Module, scores: Scores) -> None:
        self.tasks = tasks
        self.count = count
        self.scores = scores
        self.optimizer = torch.optim.Adam(backbone.parameters(), 1e-3)
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self) -> None:
        """Runs the training iteration."""
        batch = self.tasks.sample(self.count, self.generator)
        self.optimizer.zero_grad()
        for t in range(self.count):
            support = Examples(batch.support.inputs[t], batch.support.targets[t])
            scores = self.scores(support, batch.query.inputs[t])
            (F.cross_entropy(scores, batch.query.targets[t]) / self.count).backward()
        self.optimizer.step()


def conv4(filters: int) -> nn.Sequential:
    """Returns the Conv4 embedding, built from torch's layers."""
    layers: list[nn.Module] = []
    for channels in (1, filters, filters, filters):
        convolution = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
        layers += [convolution, nn.BatchNorm2d(filters), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


def plain_scores(backbone: nn.Module, way: int) -> Scores:
    """Returns easyfsl's computation, which embeds the support and the queries separately."""

    def scores(support: Examples, queries: Tensor) -> Tensor:
        known = backbone(support.inputs)
        # c_k: mean embedding of class k; the score of class k is -||f(x) - c_k||_2.
        prototypes = torch.stack([known[support.targets == k].mean(0) for k in range(way)])
        return -torch.cdist(backbone(queries), prototypes)

    return scores


def easyfsl_scores(backbone: nn.Module) -> Scores | None:
    """Returns easyfsl's own code, or None if it cannot be imported."""
    try:
        methods = importlib.import_module("easyfsl.methods")
    except ImportError:
        return None
    classifier = methods.PrototypicalNetworks(backbone)

    def scores(support: Examples, queries: Tensor) -> Tensor:
        classifier.process_support_set(support.inputs, support.targets)
        return classifier(queries)

    return scores


def main(settings: PrototypicalBenchmark) -> None:
    """Runs the benchmark and prints its results."""
    s = settings
    tasks = Glyphs(s.way, s.shots, s.queries, rotations="classes")
    embedding = ConvEmbedding(ImageShape(), torch.Generator().manual_seed(0), s.filters)
    workers = min(s.threads, s.tasks)
    training = TrainingSettings(meta_batch_size=s.tasks, workers=workers)
    ours = MetaIteration(MetricLearner(embedding, Prototypes()), tasks, training)
    backbone, other = conv4(s.filters), conv4(s.filters)
    candidates: dict[str, Callable[[], None]] = {
        "loop": EpisodeLoop(tasks, s.tasks, backbone, plain_scores(backbone, s.way))
    }
    theirs = easyfsl_scores(other)
    if theirs is not None:
        candidates["easyfsl"] = EpisodeLoop(tasks, s.tasks, other, theirs)
    baselines = list(candidates)
    candidates = {name: _on_threads(run, s.threads) for name, run in candidates.items()}
    candidates["MetaRL"] = _on_threads(ours, s.threads // workers)
    title = f"{s.tasks} episode(s), {s.way}-way, {s.shots}+{s.queries} images per class"
    print_race(title, race(candidates, s.rounds, s.seconds), baselines)


def _on_threads(run: Callable[[], None], threads: int) -> Callable[[], None]:
    def on_threads() -> None:
        torch.set_num_threads(threads)
        run()

    return on_threads


if __name__ == "__main__":
    main(tyro.cli(PrototypicalBenchmark, description=__doc__))
