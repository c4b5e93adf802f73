"""Streams of characters: the settings, and the defaults of each network."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import tyro

from metarl.learners.images.embeddings import ImageShape, Thumbnail
from metarl.learners.memory.networks import (
    FeedforwardSettings,
    MemoryAugmentedSettings,
    RecurrentSettings,
    SequenceSettings,
)
from metarl.learners.memory.stream_reader import StreamReader
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.distortions import distort
from metarl.tasks.episodes import FewShot
from metarl.tasks.streams import Labels, Streams
from metarl.training.settings import TrainingSettings

FIFTY_STEPS = CharacterSettings(way=5, shots=9, queries=1)


@dataclass(frozen=True)
class StreamSettings:
    """Streams of characters; `--algorithm` chooses the defaults of all the rest."""

    algorithm: str = "mann"
    """mann, lstm, feedforward; each with -strings for 15 classes and labels of five letters."""
    network: SequenceSettings = field(default_factory=MemoryAugmentedSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tasks: tyro.conf.OmitArgPrefixes[CharacterSettings] = FIFTY_STEPS
    """Each class comes `shots` + `queries` times in a stream."""
    labels: Labels = "one-hot"
    """one-hot: as many labels as classes; strings: five letters of a to e."""
    thumbnail: int = 20
    """Height and width that images are shrunk to, in pixels."""
    distortions: bool = True
    """Trains on images that are distorted at random."""
    test_tasks: int = 1000
    """Test streams of the final table."""
    runs: Path = Path("runs")
    """Where the run folders lie."""
    resume: str | None = None
    """`latest`, or the path of a run or a checkpoint, to go on with."""

    def streams(self, episodes: FewShot) -> Streams:
        """Returns the streams of a distribution over episodes."""
        return Streams(episodes, self.labels)

    def build(self, streams: Streams, generator: torch.Generator) -> StreamReader:
        """Builds the learner of such streams.

        Raises:
            SettingsError: A number of the network or the images does not fit.
            TaskError: The streams are longer than the network's memory.
        """
        embedding, code = Thumbnail(ImageShape(), self.thumbnail), streams.code
        network = self.network.build(embedding.features + code.width, code.width, generator)
        network.check_length(streams.length)  # before time is spent
        return StreamReader(embedding, network, code, distort if self.distortions else None)


BASE = TrainingSettings(
    iterations=5000,
    meta_batch_size=16,
    outer_lr=3e-3,
    schedule="cosine",
    max_grad_norm=10.0,
    threads=1,
    eval_every=500,
    eval_steps=9,
)
STRINGS = replace(FIFTY_STEPS, way=15)
NETWORKS = {
    "mann": MemoryAugmentedSettings(),
    "lstm": RecurrentSettings(),
    "feedforward": FeedforwardSettings(),
}
# 150 steps, which want a row each.
WIDE = {**NETWORKS, "mann": MemoryAugmentedSettings(slots=160)}
CONFIGS = {
    **{name: StreamSettings(name, network, BASE) for name, network in NETWORKS.items()},
    **{
        f"{name}-strings": StreamSettings(f"{name}-strings", network, BASE, STRINGS, "strings")
        for name, network in WIDE.items()
    },
}
