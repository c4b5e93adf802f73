"""Streams of characters: the settings and what they build."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro

from metarl.lab.experiment import Components
from metarl.lab.stream_reports import show_streams, stream_report
from metarl.learners.images.embeddings import ImageShape, Thumbnail
from metarl.learners.memory.networks import MemoryAugmentedOptions, SequenceOptions
from metarl.learners.memory.stream_reader import StreamReader, check_steps
from metarl.ranges import COUNT, WIDTH, check_fields
from metarl.tasks.characters import CharacterSettings
from metarl.tasks.distortions import distort
from metarl.tasks.episodes import FewShot
from metarl.tasks.streams import Labels, Streams
from metarl.training.settings import TrainingSettings


@dataclass(frozen=True)
class StreamSettings:
    """Streams of characters. Options and defaults are those of the chosen `--algorithm`."""

    algorithm: str = "mann"
    """mann, lstm, feedforward; each with -strings for 15 classes and labels of five letters."""
    network: SequenceOptions = field(default_factory=MemoryAugmentedOptions)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    tasks: tyro.conf.OmitArgPrefixes[CharacterSettings] = field(
        default_factory=lambda: CharacterSettings(way=5, shots=9, queries=1)
    )
    """Each class occurs `shots` + `queries` times in a stream."""
    labels: Labels = "one-hot"
    """one-hot: as many labels as classes; strings: five letters of a to e."""
    thumbnail: int = 20
    """Height and width that images are shrunk to, in pixels."""
    distortions: bool = True
    """Trains on randomly distorted images."""
    test_tasks: int = 1000
    """Test streams of the final table."""
    runs: Path = Path("runs")
    """Folder of the run folders."""
    resume: str | None = None
    """Resumes a run: its path, that of a checkpoint, or `latest` for the newest of the algorithm;
    `auto`: `latest`, or a new run if there is none. With --trust, code that the run names as
    module:Name is imported."""

    def __post_init__(self) -> None:
        """Checks the settings.

        Raises:
            SettingsError: A setting has another type or is out of its range.
        """
        check_fields(self, thumbnail=WIDTH, test_tasks=COUNT)

    def streams(self, episodes: FewShot) -> Streams:
        """Returns the streams of a distribution over episodes."""
        return Streams(episodes, self.labels)

    def build_learner(self, streams: Streams, generator: torch.Generator) -> StreamReader:
        """Builds the learner of such streams.

        Raises:
            SettingsError: A size of the network or of the images is out of range.
            TaskError: The streams are longer than the network's memory.
        """
        embedding, code = Thumbnail(ImageShape(), self.thumbnail), streams.code
        network = self.network.make(embedding.features + code.width, code.width, generator)
        network.check_length(streams.length)  # before any training
        return StreamReader(embedding, network, code, distort if self.distortions else None)


def build_streams(settings: StreamSettings) -> Components:
    """Builds the streams, the learner and the reports."""
    generator = torch.Generator().manual_seed(settings.training.seed)
    episodes = settings.tasks.train()
    tasks = settings.streams(episodes)
    test = settings.streams(settings.tasks.test(episodes))
    validation = settings.tasks.validation(episodes)
    if validation is not None and settings.training.eval_every:
        check_steps(settings.training.eval_steps, settings.tasks.shots + settings.tasks.queries)
    return Components(
        learner=settings.build_learner(tasks, generator),
        tasks=tasks,
        validation=None if validation is None else settings.streams(validation),
        report=lambda loop: stream_report(
            loop, test, settings.algorithm, settings.test_tasks, settings.tasks.label
        ),
        show=lambda loop, tasks, steps: show_streams(loop, test, tasks, steps),
    )
