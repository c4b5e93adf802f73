"""Settings of each metric learner: frozen dataclasses that build it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from metarl.learners.comparisons import Attention, Distance, NearestNeighbour, Prototypes
from metarl.learners.context import ContextAttention
from metarl.learners.distortions import distort
from metarl.learners.embeddings import ConvEmbedding, ImageShape, Pixels
from metarl.learners.metric_learner import MetricLearner
from metarl.learners.relation import Relation, RelationEmbedding
from metarl.learners.siamese import SiameseEmbedding, WeightedDifference


class MetricSettings(ABC):
    """Interface: settings that build a metric learner for images."""

    @abstractmethod
    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """Builds the learner.

        Args:
            images: What it compares.
            filters: Filters of each convolution, if it has any.
            generator: The initial weights start from its draws.
        """


@dataclass(frozen=True)
class PrototypicalSettings(MetricSettings):
    """Prototypical networks (Snell et al. 2017)."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding = ConvEmbedding(images, generator, filters)
        return MetricLearner(embedding, Prototypes())


@dataclass(frozen=True)
class MatchingSettings(MetricSettings):
    """Matching networks (Vinyals et al. 2016)."""

    distance: Distance = "cosine"
    """cosine, times a learned scale, or euclidean: the squared distance, without a scale."""
    scale: float = 10.0
    """Initial scale of the cosines, above 0; 1 caps the probabilities."""
    context_steps: int = 0
    """Steps of the attention LSTM of full context embeddings, 3 in papers; 0 leaves them out."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding = ConvEmbedding(images, generator, filters)
        similarity = (self.distance, self.scale)
        if self.context_steps == 0:
            return MetricLearner(embedding, Attention(*similarity))
        return MetricLearner(
            embedding,
            ContextAttention(embedding.features, generator, self.context_steps, *similarity),
        )


@dataclass(frozen=True)
class RelationSettings(MetricSettings):
    """Relation networks (Sung et al. 2018)."""

    units: int = 8
    """Width of the relation module's hidden layer."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding = RelationEmbedding(images, generator, filters)
        relation = Relation(filters, embedding.size, generator, self.units)
        return MetricLearner(embedding, relation)


@dataclass(frozen=True)
class SiameseSettings(MetricSettings):
    """Convolutional siamese networks (Koch et al. 2015), small."""

    units: int = 512
    """Width of the layer whose outputs are compared."""
    distortions: bool = True
    """Trains on images that are distorted at random."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        embedding = SiameseEmbedding(images, generator, filters, self.units)
        comparison = WeightedDifference(self.units, generator)
        return MetricLearner(embedding, comparison, distort if self.distortions else None)


@dataclass(frozen=True)
class NearestNeighbourSettings(MetricSettings):
    """Baseline: nearest neighbour by the cosine of the pixels."""

    scale: float = 10.0
    """Initial factor of the cosines in probabilities, above 0; it changes no decision."""

    def build(self, images: ImageShape, filters: int, generator: torch.Generator) -> MetricLearner:
        """See `MetricSettings.build`."""
        del filters, generator
        return MetricLearner(Pixels(images), NearestNeighbour(self.scale))
