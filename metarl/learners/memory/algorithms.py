"""Settings of the learners of episodes that remember: frozen dataclasses that build them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch

from metarl.adaptation.learner import SupervisedLearner
from metarl.learners.images.embeddings import ConvEmbedding, ImageShape, Thumbnail
from metarl.learners.memory.episode_reader import EpisodeReader
from metarl.learners.memory.meta_network import MetaNetwork
from metarl.learners.memory.networks import MemoryAugmentedSettings, SequenceSettings
from metarl.registry import check_choice

Features = Literal["convolutions", "pixels"]


class MemorySettings(ABC):
    """Interface: settings that build a learner with an output per class for images."""

    @abstractmethod
    def build(
        self, images: ImageShape, way: int, filters: int, generator: torch.Generator
    ) -> SupervisedLearner:
        """Builds the learner.

        Args:
            images: What it takes.
            way: Classes of a task.
            filters: Filters of each convolution, if it has any.
            generator: The initial weights start from its draws.
        """


@dataclass(frozen=True)
class MANNSettings(MemorySettings):
    """Memory-augmented neural network on episodes (Santoro et al. 2016)."""

    network: SequenceSettings = field(default_factory=MemoryAugmentedSettings)
    """What reads the support."""
    features: Features = "pixels"
    """What it sees of an image: 20x20 pixels as in the paper, or features of four convolutions,
    with which training had not left its start after 900 iterations."""

    def build(
        self, images: ImageShape, way: int, filters: int, generator: torch.Generator
    ) -> EpisodeReader:
        """See `MemorySettings.build`."""
        check_choice("features", self.features, get_args(Features))
        if self.features == "pixels":
            embedding = Thumbnail(images)
        else:
            embedding = ConvEmbedding(images, generator, filters)
        network = self.network.build(embedding.features + way, way, generator)
        return EpisodeReader(embedding, network, way)


@dataclass(frozen=True)
class MetaNetSettings(MemorySettings):
    """Meta Networks (Munkhdalai & Yu 2017)."""

    features: int = 64
    """Numbers of a representation, at least the classes of a task."""
    units: int = 20
    """Width of the layers that make fast weights of gradients."""

    def build(
        self, images: ImageShape, way: int, filters: int, generator: torch.Generator
    ) -> MetaNetwork:
        """See `MemorySettings.build`."""
        return MetaNetwork(images, way, generator, filters, self.features, self.units)
