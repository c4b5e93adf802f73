"""The memory-based algorithms: frozen dataclasses of options that build the learners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from metarl.learners.images.embeddings import ConvEmbedding, Thumbnail
from metarl.learners.memory.episode_reader import EpisodeReader
from metarl.learners.memory.meta_network import MetaNetwork
from metarl.learners.memory.networks import MemoryAugmentedOptions, SequenceOptions
from metarl.learners.problem import ImageProblem
from metarl.ranges import POSITIVE, WIDTH, check_fields
from metarl.registry import check_choice

Features = Literal["convolutions", "pixels"]


@dataclass(frozen=True)
class MANNAlgorithm:
    """Memory-augmented neural network on episodes (Santoro et al. 2016)."""

    network: SequenceOptions = field(default_factory=MemoryAugmentedOptions)
    """The network that reads the support set."""
    features: Features = "pixels"
    """The input per image: 20x20 pixels as in the paper, or features of four convolutions, with
    which training had made no progress after 900 iterations."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self)

    def build(self, problem: ImageProblem, /) -> EpisodeReader:
        """Builds the learner; see `ImageAlgorithm.build`."""
        way, generator = problem.outputs(), problem.generator
        check_choice("features", self.features, get_args(Features))
        if self.features == "pixels":
            embedding = Thumbnail(problem.images)
        else:
            embedding = ConvEmbedding(problem.images, generator, problem.filters)
        network = self.network.make(embedding.features + way, way, generator)
        return EpisodeReader(embedding, network, way)


@dataclass(frozen=True)
class MetaNetAlgorithm:
    """Meta Networks (Munkhdalai & Yu 2017)."""

    in_older_runs: ClassVar[Mapping[str, Any]] = {"strength": 1.0}
    """Values of settings that runs of older versions have not saved."""

    features: int = 64
    """Size of a representation, at least the number of classes of a task."""
    units: int = 20
    """Width of the layers that map gradients to fast weights."""
    strength: float = 10.0
    """Factor of the cosines of the attention, above 0; 1 as in the paper: learning then starts much
    later, because each of many support examples gets little of the attention."""

    def __post_init__(self) -> None:
        """Checks the options."""
        check_fields(self, features=WIDTH, units=WIDTH, strength=POSITIVE)

    def build(self, problem: ImageProblem, /) -> MetaNetwork:
        """Builds the learner; see `ImageAlgorithm.build`."""
        return MetaNetwork(
            problem.images, problem.way, problem.generator, problem.filters,
            self.features, self.units, strength=self.strength, train_way=problem.train_way,
        )  # fmt: skip
